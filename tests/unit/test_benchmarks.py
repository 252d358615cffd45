"""The arithmetic of the benchmarks: what they count must be right before what they say can be."""

from __future__ import annotations

import itertools

import attrs
import numpy as np
import pytest
import trio

from benchmarks import __main__ as program
from benchmarks import (
    cut_sentences,
    first_final,
    live_text,
    load,
    monologue,
    offline,
    options,
    peers,
    report,
    sessions,
    stability,
)
from benchmarks.peer.script import Heard, Spoken, cut, told_parts, unbroken
from benchmarks.recordings import Recording, english
from benchmarks.words import Errors, align, errors, vanished, word_errors, words
from sttd.core.hearing import Hearing
from sttd.core.types import SAMPLE_RATE, Interim, SpeechEnd, SpeechStart
from sttd.engine.contract import Preset
from sttd.engine.fake import FakeBackend
from sttd.engine.vad import VoiceDetector
from sttd.options import Tuning


@pytest.mark.parametrize("size", [0, 5, 125, 126, 65_535, 65_536])
def test_a_frame_can_be_measured_from_its_head(size):
    data = load.frame(bytes(size))
    unmasked = bytes([data[0], data[1] & 127]) + data[2:]
    length, start = load._frame_size(unmasked)
    assert (length, len(data)) == (size, start + 4 + size)  # four bytes of mask


def test_percentiles():
    assert load.percentile([], 0.5) is None
    assert load.percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert load.percentile([float(number) for number in range(100)], 0.95) == 95.0


def test_latency_counts_from_the_last_utterance_in_a_final():
    truth = [{"start_s": 1.0, "end_s": 2.0, "text": "a"}, {"start_s": 2.3, "end_s": 3.0, "text": "b"}]
    talk = load.Talk()
    talk.heard.append(load.Heard(1.4, {"type": "interim", "utterance": 1}))
    talk.heard.append(load.Heard(3.5, {"type": "final", "utterance": 1, "start_s": 0.9, "end_s": 3.0}))
    latencies, cuts, first = load.final_latencies_s(talk, truth)
    assert latencies == [0.5]
    assert cuts == 0
    assert first == [pytest.approx(0.4)]


def test_alignment_tells_replaced_from_lost():
    assert align(["a", "b", "c"], ["a", "x", "c"]) == [0, 1, 2]
    assert align(["a", "b", "c"], ["a", "c"]) == [0, None, 1]
    assert align(["a"], []) == [None]


def test_word_errors():
    found = errors("Turn on the light.", "turn of the big")
    assert found == Errors(said=4, lost=0, replaced=2, added=0)
    assert found.rate_pct == 50.0
    assert found + errors("a b", "") == Errors(said=6, lost=2, replaced=2, added=0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("It's Mr. Hale's, um, cold-hearted shop.", "it\u2019s mister hale's cold hearted shop"),
        ("in eighteen thirteen", "In 1813."),
        ("Two hundred and five thousand and six", "205,006"),
        ("one, two, three", "1 2 3"),
        ("1 2 3", "123"),
        ("twenty twenty-one", "2021"),
        ("two thousand twenty one", "2021"),
        ("five million", "5 million"),
        ("two point five percent", "2.5%"),
        ("three to two", "3:2"),
        ("nine thirty", "9:30"),
        ("on the first", "On the 1st"),
        ("OK, alright", "okay all right"),
    ],
)
def test_two_ways_to_write_the_same_are_no_error(one, other):
    assert words(one) == words(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("it is", "it's"),
        ("sixty", "sixteen"),
        ("five and six", "eleven"),
        ("twenty and one", "twenty one"),
        ("there", "their"),
    ],
)
def test_what_sounds_different_stays_different(one, other):
    assert words(one) != words(other)


def test_rules_of_english_are_for_english():
    assert words("Um carro", language="pt") == ["um", "carro"]
    assert words("Für zwölf!", language="de") == ["für", "zwölf"]
    assert words("广州市", language="zh") == ["广", "州", "市"]


def test_word_errors_as_a_pair():
    assert word_errors("Turn on the living room lamp", "turn of living room lamb") == (3, 6)
    assert word_errors("", "a b") == (2, 0)


def test_the_english_set_is_what_was_recorded():
    clips = english()
    assert len(clips) > 30
    assert {clip.language for clip in clips} == {"en"}
    assert not any(clip.is_derived or clip.segments or "noisy" in clip.tags for clip in clips)
    assert max(clip.duration_s for clip in clips) <= 30


def test_flicker_of_one_utterance():
    counts = stability.of_utterance([("Turn", 0), ("Turn on a", 4), ("Turn on the", 7)], "Turn on the light.")
    assert counts.updates == 3
    assert counts.interim_retractions == counts.final_retractions == 0
    assert counts.erased == counts.unstable == 1, "the `a`"
    assert counts.final_words == 4


def test_an_erased_word_takes_those_behind_it_along():
    counts = stability.of_utterance([("a b c", 0)], "x b c")
    assert (counts.erased, counts.unstable) == (3, 1)


def test_an_utterance_without_interims_has_nothing_to_take_back():
    assert stability.of_utterance([], "Turn on") == stability.Counts(utterances=1, final_words=2)


def test_retractions():
    counts = stability.of_utterance([("Turn on", 4), ("Burn on", 4)], "Turn off")
    assert counts.interim_retractions == 1
    assert counts.final_retractions == 1, "the stable text is now `Burn`"
    assert counts.with_stable == 1


# ------------------------------------------------------------------------------------------------ sessions


def clip(name, *, quiet_s, speech_s, text="hello"):
    """A tone between two stretches of faint noise."""
    rng = np.random.default_rng(1)
    samples = rng.normal(0, 1e-4, round((2 * quiet_s + speech_s) * 16_000)).astype(np.float32)
    tone = 0.1 * np.sin(np.arange(round(speech_s * 16_000)) / 5)
    begin = round(quiet_s * 16_000)
    samples[begin : begin + len(tone)] += tone.astype(np.float32)
    return Recording(
        name=name, samples=samples, text=text, language="en", tags=(), is_speech=True, is_derived=False, segments=()
    )


def test_energy_finds_where_speech_begins_and_ends():
    start_s, end_s = sessions.speech_bounds_s(clip("a", quiet_s=0.5, speech_s=1.0))
    assert start_s == pytest.approx(0.5, abs=0.03)
    assert end_s == pytest.approx(1.5, abs=0.03)


def test_a_clip_in_loud_noise_has_no_bounds():
    samples = np.random.default_rng(1).normal(0, 0.1, 32_000).astype(np.float32)
    noise = clip("noise", quiet_s=0.5, speech_s=1.0)
    noise.samples[:] = samples[: len(noise.samples)]
    with pytest.raises(ValueError, match="noise: speech and background"):
        sessions.speech_bounds_s(noise)


def test_a_composed_session_has_its_speech_where_its_truth_says():
    clips = [clip("a", quiet_s=0.5, speech_s=1.0, text="one"), clip("b", quiet_s=0.3, speech_s=0.5, text="two")]
    session = sessions.compose(clips, name="test")
    audio = np.frombuffer(session.pcm, "<i2").astype(np.float32) / 32768
    loud = [round(first * 0.01, 2) for first, _ in sessions.runs(sessions.audible(audio))]
    assert [each["start_s"] for each in session.truth] == pytest.approx(loud, abs=0.03)
    assert session.text == "one two"
    assert session.speech_s == pytest.approx(1.5, abs=0.1)
    assert session.truth[1]["start_s"] - session.truth[0]["end_s"] == pytest.approx(sessions.GAPS_S[0], abs=0.03)
    assert session.audio_s - session.truth[1]["end_s"] > sessions.TAIL_S
    assert np.abs(audio[-16_000:]).max() > 0, "digital silence"
    assert sessions.compose(clips, name="test").pcm == session.pcm, "the same each time"


def test_the_utterances_of_a_session_can_be_cut_out():
    clips = [clip("a", quiet_s=0.5, speech_s=1.0), clip("b", quiet_s=0.5, speech_s=0.5)]
    session = sessions.compose(clips, name="test")
    lengths_s = [len(data) / 32_000 for data in session.utterances(before_s=0.3)]
    assert lengths_s == pytest.approx([1.3, 0.8], abs=0.05)


def test_a_repeated_session_repeats_its_truth():
    session = sessions.compose([clip("a", quiet_s=0.5, speech_s=1.0)], name="test")
    twice = sessions.repeated(session, at_least_s=1.5 * session.audio_s)
    assert twice.pcm == 2 * session.pcm
    assert twice.truth[1]["end_s"] == pytest.approx(session.audio_s + session.truth[0]["end_s"])


def test_the_script_is_real_speech_whose_bounds_are_known():
    session = sessions.script()
    assert len(session.truth) == len(sessions.SCRIPT)
    assert 40 < session.speech_s < 50
    pairs = zip(session.truth, session.truth[1:], strict=False)
    assert all(after["start_s"] - before["end_s"] > 0.7 for before, after in pairs)


def test_what_was_not_recorded_as_one_sentence_keeps_its_own_quiet():
    clips = [clip("a", quiet_s=0.5, speech_s=1.0), clip("b", quiet_s=0.5, speech_s=0.5)]
    session = sessions.untrimmed(clips, name="test")
    assert session.truth[0] == {"start_s": 0, "end_s": 2.0, "text": "hello"}
    assert session.truth[1]["start_s"] == 2.0 + sessions.GAPS_S[0]


# ------------------------------------------------------------------------------------------------ the command line


def parsed(*arguments):
    return options.parse(arguments, program.benchmarks())


def test_benchmarks_and_flags_in_any_order():
    names, given = parsed("latency", "--model", "demo", "ingest")
    assert names == ["latency", "ingest"]
    assert given.model.name == "demo"
    assert parsed("--model", "demo")[0] == [], "all of them"
    assert parsed("peers", "--speakers", "1,3", "--only", "sttd,wyoming")[1] == options.Options(
        speakers=(1, 3), only=("sttd", "wyoming")
    )


@pytest.mark.parametrize(
    ("arguments", "words_"),
    [
        (["nothing"], "no benchmark nothing; there are adapters, "),
        (["latency", "--modle", "x"], "unrecognized arguments: --modle x"),
        (["latency", "--model", "huge"], "no model huge; there are demo, "),
        (["latency", "--model", "auto"], "no model auto"),
        (["latency", "--model", "./nowhere"], "./nowhere holds no CTranslate2 Whisper model"),
        (["latency", "--cycles", "3"], "--cycles is for memory"),
        (["peers", "--speakers", "0"], "'0' is no count"),
        (["peers", "--only", "sttd,vosk"], "no server vosk; there are sttd, "),
    ],
)
def test_a_command_line_that_makes_no_sense_is_one_line(arguments, words_, capsys):
    assert program.run(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(words_) or words_ in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_model_that_is_not_on_disk_names_the_command_that_gets_it(monkeypatch, tmp_path, capsys):
    for name in ("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path))
    assert program.run(["latency", "--model", "base"]) == 2
    assert capsys.readouterr().err == "the model base is not on disk; get it with: sttd pull base\n"
    assert parsed("first_final", "--model", "base")[1].named == "base", "it downloads the model itself"
    assert options.Options().model.name == "demo", "what is always there"


def test_help_shows_every_benchmark(capsys):
    with pytest.raises(SystemExit) as ended:
        program.run(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "--model NAME" in shown
    assert all(f"  {name} " in shown for name in program.benchmarks())


def test_a_report_of_each_model(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(report, "OUTPUT", tmp_path / "build")
    monkeypatch.setattr(report, "ROOT", tmp_path)
    for model in ("base", "demo"):
        report.write("latency", [{"ms": 1.5}], model=model)
    found = sorted(path.name for path in (tmp_path / "build").iterdir())
    assert found == ["latency-base.json", "latency-demo.json"]
    assert '"model": "base"' in (tmp_path / "build" / "latency-base.json").read_text()
    assert "latency, base" in capsys.readouterr().out


def test_the_reason_of_a_group_is_that_of_its_first():
    group = ExceptionGroup("outer", [ExceptionGroup("inner", [ValueError("first\nlast")]), OSError("other")])
    assert report.reason(group) == "ValueError: last"


# ------------------------------------------------------------------------------------------------ word errors


async def test_texts_of_clips_that_are_spoken_at_once_stay_with_their_clips(autojump_clock, tmp_path):
    clips = [clip(str(number), quiet_s=0.1, speech_s=0.1 * (5 - number)) for number in range(5)]
    most = now = 0

    async def talk(directory, pcm):
        nonlocal most, now
        now += 1
        most = max(most, now)
        await trio.sleep(len(pcm))  # the first takes longest
        now -= 1
        return str(len(pcm))

    texts = await offline._all(tmp_path, clips, talk)
    assert texts == [str(2 * len(each.samples)) for each in clips]
    assert most == offline.SPEAKERS


def test_a_model_that_cannot_be_pulled_is_one_line(tmp_path):
    with pytest.raises(RuntimeError) as caught:
        first_final._pull("no-such-model", "index", {"XDG_CACHE_HOME": str(tmp_path), "HF_HOME": str(tmp_path)})
    assert "no-such-model" in str(caught.value)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------ peers


def spoken(text, *, start_s=0.5, end_s=1.0):
    return Spoken(bytes(2 * 16_000 * 2), start_s, end_s, text)


def test_a_word_is_final_when_the_final_text_reaches_it():
    heard = Heard(starts_s=[0.0, 1.5], ends_s=[1.0, 2.0])
    heard.note(1.2, "", "hello word")
    heard.note(1.5, "hello world", "hello world")
    heard.note(2.5, "hello world", "hello world good buy")
    heard.note(2.75, "hello world", "hello world good bye")
    found = peers.score([spoken("Hello world."), spoken("Good bye.")], heard)
    assert found.final_s == [0.5], "the second utterance never became final"
    assert found.errors == Errors(said=4, lost=2)
    assert found.final_words == 2


def test_the_first_word_counts_when_it_is_right_and_in_its_place():
    heard = Heard(starts_s=[1.0, 4.0], ends_s=[2.0, 5.0])
    heard.note(1.5, "", "yellow")
    heard.note(1.75, "", "hello")
    heard.note(3.0, "hello good", "hello good")  # said before the second utterance began: not its word
    heard.note(4.5, "hello good", "hello good good bye")
    heard.note(5.5, "hello good good bye", "hello good good bye")
    found = peers.score([spoken("Hello good."), spoken("Good bye.")], heard)
    assert found.first_s == [0.75, 0.5]


def test_words_that_are_taken_back():
    assert vanished(["a", "b", "c"], ["a", "x", "c"]) == 1
    assert vanished(["b", "c"], ["a", "b", "c"]) == 0, "moved is not gone"
    heard = Heard(starts_s=[0.0], ends_s=[1.0])
    heard.note(0.5, "", "turn of the big")
    heard.note(0.7, "", "Turn off the big")
    heard.note(1.5, "Turn off the light.", "Turn off the light.")
    assert peers.score([spoken("turn off the light")], heard).taken_back == 2, "of, big"


def test_who_hears_nothing_loses_every_word():
    found = peers.score([spoken("Hello world.")], Heard())
    assert (found.errors.lost, found.final_s, found.first_s) == (2, [], [])


async def test_a_client_that_fails_or_hangs_costs_its_words_not_the_run(autojump_clock):
    async def talk(script, logs):
        if script[0].text == "good":
            raise ConnectionError("gone")
        logs.append(Heard(starts_s=[0.5, 2.5], ends_s=[1.0, 3.0]))
        logs[0].note(1.5, "bye", "bye")
        await trio.sleep_forever()

    found = await peers._all_speakers(talk, [spoken("good"), spoken("bye")], 2)
    assert sorted(found.notes) == ["ConnectionError: gone", f"not done {peers.PATIENCE_S} s after the end"]
    assert (found.errors.said, found.errors.lost) == (4, 3), "what was heard before counts"
    assert found.final_s == [0.5]


def test_a_server_that_does_not_start_is_a_row_that_says_so():
    def serve(model, speakers):
        raise RuntimeError("no such wheel")

    (row,) = peers._rows("some", serve, options.on_disk("demo"), (1,))
    assert row["note"] == "RuntimeError: no such wheel"
    assert row["word_errors_pct"] is None


def test_a_session_is_cut_into_what_is_said():
    session = sessions.compose([clip("a", quiet_s=0.5, speech_s=1.0), clip("b", quiet_s=0.5, speech_s=0.5)], name="x")
    parts = cut(session)
    assert b"".join(part.pcm for part in parts) == session.pcm
    heard = Heard()
    assert unbroken(parts, heard).startswith(session.pcm)
    assert heard.starts_s == pytest.approx([each["start_s"] for each in session.truth], abs=0.001)
    assert heard.ends_s == pytest.approx([each["end_s"] for each in session.truth], abs=0.001)
    quiet_s, pcm, speech_s = next(told_parts(parts))
    assert quiet_s + speech_s == pytest.approx(session.truth[0]["start_s"], abs=0.001)
    assert len(pcm) / 32_000 == pytest.approx(session.truth[0]["end_s"] - quiet_s, abs=0.001)


def test_live_text_is_counted_by_words_and_on_its_own_clock():
    def interim(text, stable, seq):
        return Interim(utterance=1, seq=seq, text=text, stable_chars=stable, start_s=0.5, end_s=float(seq))

    said = live_text.Utterance(
        interims=[(1.0, interim("A cat", 0, 1)), (2.0, interim("a dog sat", 1, 2)), (3.0, interim("a dog sat", 5, 3))],
        final="A dog sat down.",
        ends=[("a", 0.6), ("dog", 1.0), ("sat", 1.5), ("down", 2.5)],
        onset_s=0.5,
    )
    figures = live_text.Figures()
    figures.add(said)
    row = figures.row()
    assert (row["utterances"], row["updates"], row["contradicted_pct"], row["retracted"]) == (1, 3, 0.0, 0)
    assert (row["ne"], row["stable_pct"], row["first_s"]) == (0.25, 50, 0.5)  # "cat" of four words is taken back
    assert (row["commit_mean_s"], row["shown_s"]) == (1.7, pytest.approx((0.4 + 1.0 + 0.5) / 3, abs=0.01))


def test_a_final_that_says_other_words_contradicts_the_stable_ones_however_they_are_written():
    figures = live_text.Figures()
    shown = Interim(utterance=1, seq=1, text="Mr. Smith goes", stable_chars=9, start_s=0.0, end_s=1.0)
    two = Interim(utterance=1, seq=1, text="2", stable_chars=1, start_s=0.0, end_s=1.0)
    kept, contradicted = ((shown, "mister Smith goes."), (two, "2, 3")), ((shown, "Mr. Smyth goes."), (two, "23"))
    for said, final in (*kept, *contradicted, (shown, "Mr. Smithson goes.")):
        figures.add(live_text.Utterance(interims=[(1.0, said)], final=final, ends=[], onset_s=0.0))
    assert (figures.with_stable, figures.contradicted) == (5, 3)


def test_a_replay_hears_each_thing_once_and_moves_its_own_clock():
    model = FakeBackend().load(Preset(name="fake", backend="fake"), cpu_threads=0, num_workers=1)
    recogniser = live_text.Recogniser(model=model)
    said = []
    for _ in range(2):
        hearing = Hearing(attrs.evolve(live_text.OPTIONS, endpointing=None), Tuning(), "a clip")
        replay = live_text.Replay(hearing=hearing, recogniser=recogniser, decode_s=0.2)
        replay.play(np.zeros(SAMPLE_RATE * 3, np.float32), VoiceDetector(aggressiveness=2, silero=None))
        said.append((replay.utterances(), len(recogniser.known)))
    assert said[0] == said[1]
    [utterance] = said[0][0]
    assert utterance.final == " ".join(f"w{number}" for number in range(1, 11))
    whens = [when for when, _ in utterance.interims]
    assert len(whens) > 3
    assert all(later - earlier >= 0.35 for earlier, later in itertools.pairwise(whens))


def test_a_cut_sentence_has_its_pause_where_it_is_quiet_and_its_text_beside_it():
    tone = np.sin(np.arange(4 * SAMPLE_RATE) / 10).astype(np.float32)
    tone[2 * SAMPLE_RATE : 2 * SAMPLE_RATE + 800] = 0.0
    session = cut_sentences.compose([(tone, "one two"), (tone, "three")], pause_s=1.0)
    assert [text for *_, text in session.sentences] == ["one two", "three"]
    assert [round(end_s - begin_s, 2) for begin_s, end_s, _ in session.sentences] == [5.0, 5.0]
    assert session.sentences[1][0] - session.sentences[0][1] == cut_sentences.GAP_S
    pause = session.samples[round(2.55 * SAMPLE_RATE) : round(3.5 * SAMPLE_RATE)]
    assert np.abs(pause).max() < 0.01


def test_a_timed_replay_counts_every_decode_once_and_by_what_it_was_for():
    model = FakeBackend().load(
        Preset(name="fake", backend="fake", options={"decode_ms": 1}), cpu_threads=0, num_workers=1
    )
    hearing = Hearing(attrs.evolve(live_text.OPTIONS, endpointing=None), Tuning(), "a clip")
    replay = cut_sentences.Timed(hearing=hearing, recogniser=live_text.Recogniser(model=model), decode_s=0.2)
    replay.play(np.zeros(SAMPLE_RATE * 3, np.float32), VoiceDetector(aggressiveness=2, silero=None))
    assert replay.cpu_s[True] > 0
    assert replay.cpu_s[False] > 0
    figures = cut_sentences.figures_of(replay)
    assert (figures.utterances, figures.words) == (1, 10)


def test_errors_at_cuts_are_those_beside_one():
    said = "one thing and another thing that somebody said about it all at length"
    assert monologue.errors_at_cuts(said, [said]) == 0
    assert (
        monologue.errors_at_cuts(said, ["one thing and another thing that", "somebody said about it all at length"])
        == 0
    )
    assert monologue.errors_at_cuts(said, ["one thing and another", "that somebody said about it all at length"]) == 1
    assert (
        monologue.errors_at_cuts(said, ["one thing and another thing", "thing that somebody said about it all at"]) == 1
    )


def test_live_text_is_as_old_as_what_it_was_heard_in():
    shown = Interim(utterance=1, seq=1, text="a", stable_chars=0, start_s=0.0, end_s=0.5)
    said = [
        (1.0, SpeechStart(utterance=1, at_s=0.5)),
        (1.2, shown),
        (1.4, SpeechEnd(utterance=1, at_s=1.3, silence_ms=0)),
        (9.0, SpeechStart(utterance=2, at_s=9.0)),
    ]
    assert monologue.ages(said) == pytest.approx([0.5, 0.6, 0.7, 0.8])
