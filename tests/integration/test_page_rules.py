"""What the page decides without touching anything, in the browser that runs it: words, exports, resuming."""

import itertools
import json
import random

import attrs
import pytest

from sttd.wire import cues
from tests.browser import NEEDS_BROWSER, browser, url_of
from tests.running import RunningDaemon

pytestmark = NEEDS_BROWSER


@pytest.fixture(scope="module")
def page(tmp_path_factory, microphone):
    """One page for all: nothing here leaves anything."""
    daemon = RunningDaemon.start(tmp_path_factory.mktemp("run"), "--model", "fake", "--tcp", "127.0.0.1:0")
    with browser(tmp_path_factory.mktemp("profile"), microphone) as page:
        page.open(url_of(daemon))
        yield page
    assert daemon.stop() == 0, daemon.log()


def of(page, name, *arguments):
    """What a function of the page's modules answers: `of(page, "words.tokens", "a b")`."""
    return page.eval(f"of.{name}({', '.join(json.dumps(argument) for argument in arguments)})")


def word(text, start_s=0.0, end_s=0.0, probability=0.9):
    return {"word": text, "start_s": start_s, "end_s": end_s, "probability": probability}


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("text", "words", "pieces"),
    [
        ("a woman, he said.", ["a", "woman", "he", "said."], ["a", " woman,", " he", " said."]),
        (" w1 w2", [" w1", " w2"], [" w1", " w2"]),
        ("これは本です。", ["これ", "は", "本", "です"], ["これ", "は", "本", "です。"]),
        ("other text", ["this", "text"], ["other text"]),
        ("For you Ask what", ["for", "you,", "ask", "what"], ["For", " you", " Ask", " what"]),
        ("that is a mat", ["it", "a", "mat"], ["that is a", " mat"]),
        ("kept and more", ["kept"], ["kept", " and more"]),
        ("no words", [], ["no words"]),
    ],
)
def test_the_pieces_of_a_text_are_its_words_and_together_the_text(page, text, words, pieces):
    found = of(page, "words.pieces", text, [word(one) for one in words])
    assert [piece["text"] for piece in found] == pieces
    assert "".join(pieces) == text


def test_a_word_is_the_more_dimmed_the_less_probable_and_one_that_a_person_wrote_is_not(page):
    assert [of(page, "words.doubt", each) for each in (1, 0.6, 0.5, 0.35, 0.1, None)] == [0, 0, 1, 1, 2, 0]


def test_an_edited_line_keeps_the_times_of_words_that_stayed_and_shares_out_the_rest(page):
    line = {
        "start_s": 1.0,
        "end_s": 3.0,
        "words": [word("Ask", 1.0, 1.2, 0.3), word("knot", 1.2, 2.0), word("what.", 2.0, 3.0)],
    }
    changed = of(page, "words.realign", line, "Ask not, please: what?")
    assert [one["word"] for one in changed] == ["Ask", "not,", "please:", "what?"]
    assert [one["start_s"] for one in changed] == pytest.approx([1.0, 1.2, 1.2 + 0.8 * 4 / 11, 2.0])
    assert [one["end_s"] for one in changed] == pytest.approx([1.2, 1.2 + 0.8 * 4 / 11, 2.0, 3.0])
    assert [one["probability"] for one in changed] == [0.3, None, None, None]  # of what it was the recogniser's
    assert of(page, "words.realign", line, "") == []


def test_lines_are_in_the_order_of_their_time_whenever_they_come(page):
    starts = [0.0, 2.0, 2.0, 5.0]
    lines = [{"start_s": at} for at in starts]
    assert [of(page, "transcript.placeOf", lines, at) for at in (-1, 0, 2, 3, 9)] == [0, 1, 3, 3, 4]


# ---------------------------------------------------------------- what is saved


@attrs.frozen
class Word:
    word: str
    start_s: float
    end_s: float


@attrs.frozen
class Line:
    text: str
    start_s: float
    end_s: float
    words: list[Word] | None


def some_lines(seed, *, timed):
    """Lines of words of many lengths and scripts, with sentence ends and pauses."""
    chance, at_s, lines = random.Random(seed), 0.0, []
    for _ in range(6):
        words, wide = [], chance.random() < 0.2
        for _ in range(chance.randint(1, 40)):
            text = chance.choice(
                "日本語の文字" if wide else ["a", "fellow", "R&D", "<b>", "incomprehensibilities", "naïve"]
            )
            text += chance.choice(["", "", "", ",", "." if not wide else "。"])
            start_s = at_s + chance.choice([0.0, 0.0, 0.05, 0.6])
            at_s = start_s + chance.uniform(0.05, 0.7)
            words.append(Word(text, round(start_s, 3), round(at_s, 3)))
        text = ("" if wide else " ").join(one.word for one in words)
        lines.append(Line(text, words[0].start_s, words[-1].end_s, words if timed else None))
    return lines


@pytest.mark.parametrize("seed", range(4))
def test_subtitles_are_those_that_the_daemon_writes(page, seed):
    """To the letter with times of words; without them up to a rounding of times."""
    lines = some_lines(seed, timed=True)
    shown = [attrs.asdict(line) for line in lines]
    expected = [cue for line in lines for cue in cues.cues_of(line)]
    assert of(page, "export.subrip", shown) == cues.subrip(expected)
    assert of(page, "export.webvtt", shown) == cues.webvtt(expected)
    bare = [attrs.evolve(line, words=None) for line in lines]
    found = page.eval(f"{json.dumps([attrs.asdict(line) for line in bare])}.flatMap(of.export.cuesOf)")
    expected = [cue for line in bare for cue in cues.cues_of(line)]
    assert [cue["lines"] for cue in found] == [list(cue.lines) for cue in expected]
    assert [cue["end_s"] for cue in found] == pytest.approx([cue.end_s for cue in expected])


def test_a_text_that_is_written_otherwise_than_its_words_is_cut_between_words_too(page):
    text = "And so my fellow Americans, ask not what your country can do for you, ask what you can do"
    words = [
        {"word": " w" + word, "start_s": 0.25 * at, "end_s": 0.25 * at + 0.2} for at, word in enumerate(text.split())
    ]
    words[-1]["word"] = " do"
    found = of(page, "export.cuesOf", {"text": text, "start_s": 0.0, "end_s": 5.0, "words": words})
    shown = [line for cue in found for line in cue["lines"]]
    assert " ".join(shown) == text
    assert max(map(len, shown)) <= 42
    assert all(before["end_s"] <= after["start_s"] for before, after in itertools.pairwise(found))


def test_text_is_a_line_each_and_a_file_has_a_name_that_systems_take(page):
    assert of(page, "export.text", [{"text": "One."}, {"text": "Two."}]) == "One.\nTwo.\n"
    assert of(page, "export.fileName", 'a/b:c*"talk".mp3', "srt") == "a b c talk .mp3.srt"
    assert of(page, "export.fileName", "///", "txt") == "transcript.txt"


# ---------------------------------------------------------------- plain words


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({}, ""),
        ({"behind_s": 2.9}, ""),
        ({"behind_s": 4.2}, "Text is 4 s behind: the machine is busy."),
        ({"behind_s": 4.2, "unsent_s": 4.0}, "Text is 4 s behind: the connection is slow."),
        ({"warned": {"lag_s": 6, "ago_s": 2}}, "Text is 6 s behind: the machine is busy."),
        ({"warned": {"lag_s": 6, "ago_s": 60}}, ""),
        (
            {"behind_s": 9, "slow_model": True},
            "Text is 9 s behind: this model is too slow for this machine. A smaller one keeps up.",
        ),
    ],
)
def test_lag_is_said_in_plain_words_with_its_cause(page, state, words):
    assert of(page, "wording.lagWords", state) == words


@pytest.mark.parametrize(
    ("state", "words", "share"),
    [
        ({"state": "waiting", "size_bytes": 10}, "Waiting for its turn", None),
        ({"state": "sending", "size_bytes": 2_000_000, "sent_bytes": 500_000}, "25 % of 2 MB sent", 0.25),
        ({"state": "reading", "size_bytes": 10, "sent_bytes": 10}, "Sent; the first words are on their way", None),
        (
            {"state": "reading", "size_bytes": 10, "sent_bytes": 10, "done_s": 12, "total_s": 100},
            "0:12 of 1:40 done",
            0.12,
        ),
        ({"state": "sending", "size_bytes": 10, "sent_bytes": 5, "done_s": 12}, "0:12 done, 50 % sent", 0.5),
        ({"state": "done", "size_bytes": 10, "done_s": 3700}, "Done: 62 min", None),
        ({"state": "failed", "size_bytes": 10, "error": "Why."}, "Why.", None),
    ],
)
def test_a_file_says_how_far_it_is_by_bytes_first_and_by_time_then(page, state, words, share):
    assert of(page, "wording.fileWords", state) == words
    assert of(page, "wording.fileShare", state) == share


# ---------------------------------------------------------------- what is remembered


def test_the_recording_keeps_the_last_half_hour_and_knows_what_it_has_forgotten(page):
    """An hour in pieces of eleven seconds, so that they lie across the blocks; each is filled with its number."""
    script = """(() => {
      const recording = new of.recording.Recording(), rate = of.recording.RATE_HZ, piece = 11 * rate;
      for (let number = 0; number < 328; number++) recording.append(new Int16Array(piece).fill(number));
      const at = (sample) => recording.slice(sample, sample + 1)[0];
      return { head: recording.head, kept_s: (recording.head - recording.tail) / rate, last: at(recording.head - 1),
               first: at(recording.tail), should: Math.floor(recording.tail / piece),
               gone: recording.holds(60), there: recording.holds(3500), beyond: recording.slice(0, 5).length,
               seam: [...recording.slice(piece * 300 - 1, piece * 300 + 1)] };
    })()"""
    found = page.eval(script)
    assert found["head"] == 328 * 11 * 16_000
    assert 29 * 60 <= found["kept_s"] <= 30 * 60
    assert (found["last"], found["first"]) == (327, found["should"])
    assert (found["gone"], found["there"], found["beyond"]) == (False, True, 0)
    assert found["seam"] == [299, 300]


def test_what_is_too_much_to_keep_is_kept_without_its_words_and_then_not_at_all(page):
    script = """((count) => {
      const words = Array.from({ length: 1000 }, (_, at) => ({ word: `w${at}`, start_s: at, end_s: at }));
      const line = { text: "x".repeat(1000), start_s: 0, end_s: 1, words };
      const lines = Array.from({ length: count }, (_, at) => ({ ...line, key: `${at}` }));
      const kept = of.keeping.keep([new of.transcript.Transcript({ id: "live", name: "Live", kind: "live", lines })]);
      const found = of.keeping.kept();
      sessionStorage.clear();
      return [kept, found.length && found[0].lines.length, found.length && found[0].lines[0].words.length];
    })"""
    assert page.eval(f"{script}(2)") == [True, 2, 1000]
    assert page.eval(f"{script}(100)") == [True, 100, 0]
    assert page.eval(f"{script}(3000)") == [False, 0, 0]


# ---------------------------------------------------------------- a connection that is lost

RATE = 16_000


def resuming(page, *steps):
    """The machine after these steps, which are JavaScript on `m`; their values, and what it became."""
    return page.eval(
        "(() => { const m = new of.resuming.Resuming({ op: 'start', overflow: 'drop' }, 8000, () => 0);"
        " const started = { type: 'started', resume_token: 'A' };"
        f" return [{', '.join(f'({step})' for step in steps)}]; }})()"
    )


def test_a_session_that_was_cut_goes_on_at_the_sample_that_the_daemon_names_and_hears_no_event_twice(page):
    answers = resuming(
        page,
        "m.greeting()",
        "m.hear(started, 0)",
        f"m.wrote({3 * RATE})",
        "m.hear({ type: 'ack', position_s: 1 }, 0) + ' ' + m.acked",
        "m.hear({ type: 'interim', event_seq: 1 }, 0)",
        "m.lost(1000), m.phase",
        "m.greeting()",
        "m.hear({ type: 'hello' }, 0)",
        "m.hear({ type: 'resumed', resume_token: 'B', position_s: 2, ops: 0 }, 5000) + ' ' + m.cursor + ' ' + m.awayMs",
        "m.hear({ type: 'interim', event_seq: 1 }, 0)",
        "m.hear({ type: 'final', event_seq: 2, end_s: 1.5 }, 0) + ' ' + m.settled",
        "m.lost(9000), m.greeting()",
    )
    assert answers[0] == {"op": "start", "overflow": "drop", "resumable": True}
    assert answers[1] == "go"
    assert answers[3] == f"skip {8000 + RATE}"
    assert answers[4] == "show"
    assert answers[5] == "away"
    assert answers[6] == {"op": "resume", "token": "A", "last_seq": 1}
    assert answers[8] == f"went {8000 + 2 * RATE} 4000"
    assert answers[9] == "skip"
    assert answers[10] == f"show {8000 + 1.5 * RATE:.0f}"
    assert answers[11] == {"op": "resume", "token": "B", "last_seq": 2}


def test_a_daemon_that_forgot_the_session_hears_the_sound_again_from_the_end_of_the_last_final(page):
    answers = resuming(
        page,
        "m.hear(started, 0)",
        f"m.wrote({9 * RATE})",
        "m.hear({ type: 'final', event_seq: 1, end_s: 4 }, 0)",
        "m.lost(0)",
        "m.hear({ type: 'error', code: 'not_found', fatal: true, retryable: false }, 10)",
        "m.greeting()",
        "m.hear(started, 20) + ' ' + (m.cursor - 8000) + ' ' + m.clock(1)",
    )
    assert answers[4] == "leave"
    assert answers[5] == {"op": "start", "overflow": "wait", "resumable": True}
    assert answers[6] == f"anew {4 * RATE} 5.5"


def test_tries_come_later_and_later_and_end(page):
    answers = resuming(
        page,
        "m.hear(started, 0)",
        "m.lost(0), m.dueAt",
        "(() => { const due = []; while (m.phase === 'away' && due.length < 99) due.push(m.dueAt), m.failed(m.dueAt);"
        " return due; })()",
        "[m.phase, m.error.code]",
    )
    due = answers[2]
    pauses = [later - sooner for sooner, later in itertools.pairwise(due)]
    assert answers[1] == 0
    assert pauses == sorted(pauses)
    assert 60_000 < due[-1] <= 120_000
    assert answers[3] == ["over", "lost"]


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (200, {"status": "ok", "reason": "ok", "admission": 0.4}, "The daemon does not answer."),
        (200, {"status": "ok", "reason": "ok", "admission": 1.0}, "No place is free. Try again later."),
        (503, {"reason": "somebody has drained it", "admission": 1.0}, "Nobody new is taken: somebody has drained it."),
        (503, {"error": {"message": "come again later"}}, "Nobody new is taken: come again later."),
        (502, "no JSON", "The daemon does not answer."),
    ],
)
def test_a_handshake_that_a_proxy_refuses_is_explained(page, status, body, says):
    told = page.eval(
        f"""(async () => {{
            const kept = [WebSocket, fetch];
            WebSocket = class {{ constructor() {{ setTimeout(() => this.onerror()); }} }};
            fetch = async () => new Response({json.dumps(json.dumps(body))}, {{ status: {status} }});
            try {{ await of.connecting.connect({{}}); }}
            catch (failure) {{ return failure.message; }}
            finally {{ [WebSocket, fetch] = kept; }}
        }})()"""
    )
    assert told == says


def test_stop_is_said_again_where_the_daemon_did_not_count_it_and_what_is_fatal_is_not_tried_again(page):
    answers = resuming(
        page,
        "m.hear(started, 0)",
        "m.stopping = m.stopSaid = true",
        "m.lost(0)",
        "m.hear({ type: 'resumed', resume_token: 'B', position_s: 0, ops: 0 }, 1), m.stopSaid",
        "m.lost(2), m.hear({ type: 'resumed', resume_token: 'C', position_s: 0, ops: 1 }, 3), m.stopSaid",
        "m.hear({ type: 'error', code: 'idle_timeout', message: 'x', retryable: true, fatal: true, event_seq: 1 }, 4)",
        "m.lost(5), m.phase",
    )
    assert answers[3:] == [False, True, "end", "over"]
