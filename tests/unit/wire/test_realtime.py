"""OpenAI's Realtime API, transcription: items out of utterances, every rule, without a socket or a session."""

import json

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.errors import DecodeError, OverloadedError, SessionError
from sttd.wire.realtime import Finalize, RealtimeTalk, Renew, Say
from sttd.wire.realtime_messages import Clear, Commit, Update
from sttd.wire.realtime_settings import RefusedError, Settings

SECOND = 48_000  # bytes of 24 kHz
NAMES = "conversation.item.input_audio_transcription."
STOPPING = SessionError("the daemon is stopping", code="shutting_down")


@attrs.frozen
class Word:
    word: str
    probability: float
    start_s: float = 0.0
    end_s: float = 1.0


@attrs.frozen
class Spoken:
    """The final of an utterance."""

    text: str
    language: str
    words: list | None
    confidence: float = 0.9


class Desk:
    """A machine, and what came out of it."""

    def __init__(self, *, turns=True, dialect="ga", **session):
        settings = Settings().updated(session)
        if not turns:
            settings = settings.updated({"turn_detection": None})
        self.talk = RealtimeTalk(token="abc", dialect=dialect, settings=settings, expires_at=86_400)
        self.said = []
        self.asked = []

    def do(self, acts):
        said = [json.loads(act.text) for act in acts if isinstance(act, Say)]
        self.asked += [type(act) for act in acts if not isinstance(act, Say)]
        self.said += said
        return [short(event) for event in said]

    def append(self, seconds=1.0):
        self.talk.appended(int(seconds * SECOND))

    def commit(self):
        return self.do(self.talk.commit(Commit(event_id="e1")))

    def clear(self):
        return self.do(self.talk.clear(Clear(event_id=None)))

    def update(self, *, renew=False, dialect="ga", **session):
        update = Update(event_id="u1", dialect=dialect, session=session)
        return self.do(self.talk.adopt(self.talk.propose(update), update, renew=renew))

    def start(self, utterance, at_s=0.0):
        return self.do(self.talk.speech_started(utterance, at_s=at_s))

    def interim(self, utterance, text, stable=None):
        chars = len(text) if stable is None else stable
        return self.do(self.talk.interim(utterance, text=text, stable_chars=chars))

    def end(self, utterance, reason="endpoint", at_s=1.0, silence_ms=0):
        return self.do(self.talk.speech_ended(utterance, at_s=at_s, silence_ms=silence_ms, reason=reason))

    def final(self, utterance, text, *, language="en", decoded=True, words=None):
        words = words and [Word(word=word, probability=probability) for word, probability in words]
        final = Spoken(text=text, language=language, words=words)
        return self.do(self.talk.final(utterance, final, decoded=decoded))

    def ended(self, error=STOPPING):
        return self.do(self.talk.session_ended(error))

    def named(self, name):
        return [event for event in self.said if event["type"] == name]


def short(event):
    """An event as a test reads it: its name, and what it is about."""
    name = event["type"].removeprefix("input_audio_buffer.").removeprefix(NAMES).removeprefix("conversation.")
    number = str(event.get("item_id") or event.get("item", {}).get("id") or "")[-1:]
    about = event.get("delta", event.get("transcript"))
    return f"{name} {number}".strip() + ("" if about is None else f" {about!r}")


COMMITTED = ["committed 1", "item.added 1", "item.done 1"]


# ---------------------------------------------------------------- with turn detection


def test_an_utterance_is_an_item_from_its_first_sound_to_its_transcript():
    desk = Desk()
    desk.append(2.0)
    assert desk.start(1, at_s=0.25) == ["speech_started 1"]
    assert desk.interim(1, "one two three", stable=3) == ["delta 1 'one'"]
    assert desk.interim(1, "one two three", stable=3) == []
    assert desk.interim(1, "one two three four", stable=7) == ["delta 1 ' two'"]
    assert desk.end(1, at_s=1.25, silence_ms=500) == ["speech_stopped 1", *COMMITTED]
    assert desk.final(1, "one two, three.") == ["delta 1 ', three.'", "completed 1 'one two, three.'"]
    (started,), (stopped,) = (desk.named(f"input_audio_buffer.speech_{name}") for name in ("started", "stopped"))
    assert (started["audio_start_ms"], stopped["audio_end_ms"]) == (250, 1250)
    (completed,) = desk.named(f"{NAMES}completed")
    assert completed["usage"] == {"type": "duration", "seconds": 1.0}
    assert (completed["languages"], completed["content_index"]) == ([{"code": "en"}], 0)
    assert "logprobs" not in completed
    assert len({event["event_id"] for event in desk.said}) == len(desk.said)


def test_the_next_item_names_the_one_before_and_may_begin_before_its_transcript_is_there():
    desk = Desk()
    desk.append(4.0)
    desk.start(1)
    desk.end(1)
    assert desk.start(2, at_s=2.0) == ["speech_started 2"]
    assert desk.interim(2, "later") == ["delta 2 'later'"]
    desk.final(1, "first")
    desk.end(2, at_s=3.0)
    first, second = desk.named("input_audio_buffer.committed")
    assert (first["previous_item_id"], second["previous_item_id"]) == (None, first["item_id"])
    added = desk.named("conversation.item.added")[1]
    assert (added["previous_item_id"], added["item"]["id"]) == (first["item_id"], second["item_id"])
    assert added["item"]["content"] == [{"type": "input_audio", "transcript": None}]
    assert desk.final(2, "later on") == ["delta 2 ' on'", "completed 2 'later on'"]


def test_a_commit_ends_what_is_spoken_and_its_end_is_told_once():
    desk = Desk()
    desk.append()
    desk.start(1)
    assert desk.commit() == ["speech_stopped 1", *COMMITTED]
    assert desk.asked == [Finalize]
    assert desk.end(1, "finalize") == []
    assert desk.final(1, "now") == ["delta 1 'now'", "completed 1 'now'"]


def test_a_commit_that_an_endpoint_overtakes_has_one_item_all_the_same():
    desk = Desk()
    desk.append(3.0)
    desk.start(1)
    desk.commit()  # the session has heard less than what was sent: the utterance ends by itself, another one begins
    assert desk.end(1, "endpoint", silence_ms=500) == []
    assert desk.start(2) == []
    assert desk.final(1, "one") == ["delta 1 'one'"]
    assert desk.end(2, "finalize") == []
    assert desk.final(2, "two") == ["delta 1 ' two'", "completed 1 'one two'"]
    assert desk.start(3) == ["speech_started 2"]


def test_where_nobody_spoke_a_commit_makes_an_empty_item():
    desk = Desk()
    desk.append()
    assert desk.commit() == COMMITTED
    assert desk.final(1, "", decoded=False) == ["completed 1 ''"]
    (completed,) = desk.named(f"{NAMES}completed")
    assert (completed["languages"], completed["usage"]["seconds"]) == ([], 1.0)


def test_an_empty_answer_is_known_by_its_number_before_its_final_is_there():
    desk = Desk()
    desk.append(3.0)
    desk.start(1)
    desk.end(1)
    desk.append()
    desk.commit()
    assert desk.start(3) == ["speech_started 3"]  # 2 answered the commit, and waits for the final of 1
    assert desk.final(1, "one") == ["delta 1 'one'", "completed 1 'one'"]
    assert desk.final(2, "", decoded=False) == ["completed 2 ''"]


def test_without_a_client_that_commits_every_cut_is_an_item():
    desk = Desk()
    desk.append(30.0)
    desk.start(1)
    assert desk.end(1, "max_length") == ["speech_stopped 1", *COMMITTED]
    assert desk.start(2) == ["speech_started 2"]


# ---------------------------------------------------------------- where the client commits


def test_without_turn_detection_nothing_is_told_of_speech_and_the_first_delta_shows_the_item():
    desk = Desk(turns=False)
    desk.append()
    assert desk.start(1) == []
    assert desk.interim(1, "push to", stable=4) == ["delta 1 'push'"]
    assert desk.commit() == COMMITTED
    assert desk.end(1, "finalize") == []
    assert desk.final(1, "push to talk") == ["delta 1 ' to talk'", "completed 1 'push to talk'"]


def test_what_is_cut_for_its_length_stays_one_item():
    desk = Desk(turns=False)
    desk.append(40.0)
    desk.start(1)
    assert desk.end(1, "max_length") == []
    desk.start(2)
    assert desk.interim(2, "two") == []  # the text before it is not there yet
    assert desk.final(1, "one.") == ["delta 1 'one.'"]
    assert desk.interim(2, "two three", stable=3) == ["delta 1 ' two'"]
    desk.commit()
    desk.end(2, "finalize")
    assert desk.final(2, "two three") == ["delta 1 ' three'", "completed 1 'one. two three'"]


def test_parts_in_a_language_without_spaces_are_joined_without_one():
    desk = Desk(turns=False)
    desk.append(40.0)
    desk.start(1)
    desk.end(1, "max_length")
    desk.start(2)
    desk.final(1, "你好", language="zh")
    assert desk.interim(2, "世界") == ["delta 1 '世界'"]
    desk.commit()
    desk.end(2, "finalize")
    assert desk.final(2, "世界。", language="zh")[-1] == "completed 1 '你好世界。'"


def test_commits_in_a_row_keep_their_order_whatever_the_session_has_heard_so_far():
    desk = Desk(turns=False)
    desk.append()
    desk.commit()
    desk.append()
    desk.commit()
    for number in (1, 2):
        desk.start(number)
        desk.end(number, "finalize")
    desk.final(1, "one")
    desk.final(2, "two")
    assert [event["transcript"] for event in desk.named(f"{NAMES}completed")] == ["one", "two"]


def test_less_than_a_tenth_of_a_second_is_not_committed():
    desk = Desk(turns=False)
    desk.append(0.099)
    assert desk.commit() == ["error"]
    (error,) = desk.named("error")
    assert error["error"]["code"] == "input_audio_buffer_commit_empty"
    assert (error["error"]["type"], error["error"]["event_id"]) == ("invalid_request_error", "e1")
    desk.append(0.001)
    assert desk.commit() == COMMITTED
    assert desk.commit() == ["error"]


def test_what_the_daemon_has_committed_is_not_committed_again():
    desk = Desk()
    desk.append(1.55)
    desk.start(1)
    desk.end(1, at_s=1.0, silence_ms=500)
    assert desk.commit() == ["error"]


# ---------------------------------------------------------------- clear


@pytest.mark.parametrize("turns", [True, False])
def test_what_is_cleared_shows_nothing_more_and_is_never_committed(turns):
    desk = Desk(turns=turns)
    desk.append()
    desk.start(1)
    desk.interim(1, "secret", stable=3)
    assert desk.clear() == ["cleared"]
    assert desk.interim(1, "secret") == []
    assert desk.end(1, "finalize") == []
    assert desk.final(1, "secret") == []
    desk.append()
    desk.start(2)
    desk.commit()
    desk.end(2, "finalize")
    assert desk.final(2, "open")[-1] == "completed 2 'open'"
    (committed,) = desk.named("input_audio_buffer.committed")
    assert committed["previous_item_id"] is None


def test_with_nothing_to_clear_the_session_is_asked_for_nothing():
    desk = Desk()
    assert desk.clear() == ["cleared"]
    assert desk.asked == []
    desk.append(0.05)
    desk.clear()
    desk.append(0.08)
    assert desk.commit() == ["error"]


# ---------------------------------------------------------------- outcomes


def test_what_could_not_be_decoded_has_failed_and_the_others_have_not():
    desk = Desk()
    desk.append(9.0)
    for number in (1, 2):
        desk.start(number)
        desk.end(number)
    desk.talk.troubled(DecodeError("the engine failed"))
    assert desk.final(1, "one")[-1] == "completed 1 'one'"
    assert desk.final(2, "", decoded=False) == ["failed 2"]
    (failed,) = desk.named(f"{NAMES}failed")
    assert failed["error"] == {
        "type": "server_error",
        "code": "decode_failed",
        "message": "the engine failed",
        "param": None,
    }
    desk.append()
    desk.commit()
    assert desk.final(3, "", decoded=False) == ["completed 3 ''"]  # an answer to a commit needs no decode


def test_what_a_drain_takes_from_the_stable_text_is_a_transcript():
    desk = Desk()
    desk.append()
    desk.start(1)
    desk.interim(1, "so far", stable=6)
    assert desk.end(1, "drain") == ["speech_stopped 1", *COMMITTED]
    assert desk.final(1, "so far", decoded=False) == ["completed 1 'so far'"]


def test_a_drain_commits_what_the_client_has_not():
    desk = Desk(turns=False)
    desk.append()
    desk.start(1)
    assert desk.end(1, "drain") == COMMITTED
    assert desk.final(1, "last words") == ["delta 1 'last words'", "completed 1 'last words'"]
    assert desk.ended() == []


def test_a_commit_that_the_session_never_answers_has_failed():
    desk = Desk(turns=False)
    desk.append()
    desk.start(1)
    desk.commit()
    desk.append()
    desk.commit()
    desk.end(1, "drain")
    assert desk.final(1, "one")[-1] == "completed 1 'one'"
    assert desk.ended() == ["failed 2"]


def test_a_final_that_contradicts_what_was_sent_changes_nothing_of_it():
    desk = Desk()
    desk.append()
    desk.start(1)
    desk.interim(1, "one two", stable=7)
    desk.end(1)
    assert desk.final(1, "two") == ["completed 1 'one two'"]


def test_logprobs_are_those_of_the_words_and_together_they_are_the_text():
    desk = Desk(include=["item.input_audio_transcription.logprobs"])
    desk.append()
    desk.start(1)
    desk.end(1)
    desk.final(1, "Hello, wörld", words=[(" Hello,", 1.0), (" wörld", 0.5)])
    (completed,) = desk.named(f"{NAMES}completed")
    assert [token["token"] for token in completed["logprobs"]] == ["Hello,", " wörld"]
    assert [token["logprob"] for token in completed["logprobs"]] == [0.0, -0.693147]
    assert bytes(completed["logprobs"][1]["bytes"]).decode() == " wörld"


def test_logprobs_of_an_item_in_parts_are_its_text_too():
    desk = Desk(turns=False)
    desk.append(40.0)
    desk.start(1)
    desk.end(1, "max_length")
    desk.start(2)
    desk.final(1, "one two", words=[("un", 0.5), (" two", 0.5)])
    desk.commit()
    desk.end(2, "finalize")
    desk.final(2, "three", words=[("three", 0.5)])
    (completed,) = desk.named(f"{NAMES}completed")
    assert [token["token"] for token in completed["logprobs"]] == ["one two", " three"]


def test_interims_are_sent_to_those_who_asked():
    desk = Desk(turns=False, include=["sttd.interim", "other"])
    desk.append(40.0)
    desk.start(1)
    desk.end(1, "max_length")
    desk.start(2)
    desk.final(1, "one")
    assert desk.interim(2, "two thr", stable=3) == ["delta 1 ' two'", "sttd.interim 1"]
    (interim,) = desk.named("sttd.interim")
    assert (interim["text"], interim["stable_chars"]) == ("one two thr", 7)


# ---------------------------------------------------------------- settings and sessions


@pytest.mark.parametrize(
    ("dialect", "created", "placed"),
    [
        ("ga", "session.created", ["conversation.item.added", "conversation.item.done"]),
        ("beta", "transcription_session.created", ["conversation.item.created"]),
    ],
)
def test_the_dialect_names_some_events(dialect, created, placed):
    desk = Desk(dialect=dialect)
    desk.do(desk.talk.greet())
    desk.append()
    desk.commit()
    assert [event["type"] for event in desk.said] == [created, "input_audio_buffer.committed", *placed]
    session = desk.said[0]["session"]
    assert (session["id"], session["expires_at"]) == ("sess_abc", 86_400)
    assert session["object"] == "realtime.transcription_session"
    assert ("type" in session, "audio" in session, "turn_detection" in session) == (
        (True, True, False) if dialect == "ga" else (False, False, True)
    )


def test_the_answer_to_an_update_has_its_form_whatever_the_dialect():
    desk = Desk()
    desk.update(input_audio_format="g711_ulaw", dialect="beta")
    desk.update(audio={"input": {"transcription": {"language": "en"}}})
    flat, nested = desk.said
    assert (flat["type"], nested["type"]) == ("transcription_session.updated", "session.updated")
    assert flat["session"]["input_audio_format"] == "g711_ulaw"
    assert nested["session"]["audio"]["input"]["format"] == {"type": "audio/pcmu"}


def test_another_format_is_refused_once_there_was_audio():
    desk = Desk()
    desk.append(0.01)
    desk.update(audio={"input": {"format": {"type": "audio/pcm", "rate": 24000}}})
    with pytest.raises(RefusedError) as refused:
        desk.update(audio={"input": {"format": {"type": "audio/pcm", "rate": 16000}}})
    assert (refused.value.code, refused.value.param) == ("invalid_value", "session.audio.input.format")


def test_turn_detection_that_comes_on_commits_what_the_client_would_have_had_to():
    desk = Desk(turns=False)
    desk.append()
    desk.start(1)
    assert desk.update(turn_detection={"type": "server_vad"}) == [*COMMITTED, "session.updated"]
    assert desk.asked == [Finalize]
    desk.end(1, "finalize")
    assert desk.final(1, "before")[-1] == "completed 1 'before'"
    assert desk.start(2) == ["speech_started 2"]


def test_another_session_takes_over_behind_the_next_commit():
    desk = Desk(turns=False)
    desk.append()
    desk.start(1)
    desk.update(renew=True)
    assert desk.asked == []
    desk.commit()
    assert desk.asked == [Finalize, Renew]
    desk.append(0.5)
    desk.commit()  # to the new one, of which nothing is heard before the old one is done
    desk.end(1, "finalize")
    desk.final(1, "old")
    assert desk.ended() == []
    desk.start(1)
    desk.end(1, "finalize")
    assert desk.final(1, "new")[-1] == "completed 2 'new'"


def test_with_turn_detection_another_session_takes_over_between_utterances():
    desk = Desk()
    desk.append(2.0)
    desk.update(renew=True)
    assert desk.asked == [Renew]
    assert desk.ended() == []
    desk.append(2.0)
    assert desk.start(1, at_s=0.5) == ["speech_started 1"]
    desk.update(renew=True)
    assert desk.asked == [Renew]
    desk.end(1)
    assert desk.asked == [Renew, Renew]
    (started,) = desk.named("input_audio_buffer.speech_started")
    assert started["audio_start_ms"] == 2500  # of all that was appended


def test_a_commit_between_two_sessions_is_of_an_item_where_nobody_spoke():
    desk = Desk()
    desk.append(2.0)
    desk.update(renew=True)
    assert desk.commit() == [*COMMITTED, "completed 1 ''"]
    desk.append(1.0)
    desk.update(renew=True)
    desk.clear()
    assert desk.asked == [Renew, Renew]  # nobody is there to end anything
    for _ in range(2):
        assert desk.ended() == []
    desk.append(1.0)
    assert desk.start(1) == ["speech_started 3"]


def test_outcomes_of_a_new_session_wait_for_those_of_the_old_one():
    desk = Desk()
    desk.append(2.0)
    desk.start(1)
    desk.end(1)
    desk.update(renew=True)
    desk.append()
    desk.commit()
    assert desk.ended() == ["failed 1"]
    assert desk.final(1, "", decoded=False) == ["completed 2 ''"]


def test_errors_of_sttd_are_server_errors():
    desk = Desk()
    desk.do(desk.talk.fail(OverloadedError("later"), event_id="u1"))
    (event,) = desk.said
    assert event["error"] == {
        "type": "server_error",
        "code": "overloaded",
        "message": "later",
        "param": None,
        "event_id": "u1",
    }


# ---------------------------------------------------------------- whatever comes


@attrs.define
class Hearer:
    """A session as the core has it: what it is given takes effect in order, finals leave in order."""

    turns: bool
    opened: bool = False
    inbox: list = attrs.field(factory=list)
    number: int = 0
    open: int | None = None
    stable: dict = attrs.field(factory=dict)
    owed: list = attrs.field(factory=list)  # (number, was it decoded)


@given(turns=st.booleans(), data=st.data())
def test_whatever_comes_every_item_has_one_outcome_in_order_and_its_deltas_are_its_transcript(turns, data):
    desk, session = Desk(turns=turns), Hearer(turns)
    steps = ["append", "commit", "clear", "hear", "hear", "interim", "final", "renew", "fail"]
    for step in data.draw(st.lists(st.sampled_from(steps), max_size=60)):
        _play(desk, session, step, data)
    _drain(desk, session)
    check(desk.said)


def _play(desk, session, step, data):
    match step:
        case "append":
            desk.append(data.draw(st.sampled_from([0.05, 1.0])))
            session.inbox.append("audio")
            session.opened = True
        case "commit":
            desk.commit()
        case "clear":
            desk.clear()
        case "hear" if session.opened:
            _hear(desk, session, data.draw(st.sampled_from(["goes on", "endpoint", "max_length"])))
        case "interim" if session.open is not None:
            _grow(desk, session, data.draw(st.sampled_from(["a", "bc", " d"])))
        case "final" if session.owed:
            _let_out(desk, session)
        case "renew":
            desk.update(renew=True)
        case "fail":
            desk.talk.troubled(DecodeError("no"))
    if Finalize in desk.asked:
        desk.asked.remove(Finalize)
        assert session.opened, "no session is there to end anything"
        session.inbox.append("finalize")
    if Renew in desk.asked:
        desk.asked.remove(Renew)
        _drain(desk, session)
        session.__init__(session.turns)


def _hear(desk, session, how):
    item = session.inbox.pop(0) if session.inbox else "audio"
    if item == "finalize":
        if session.open is None:
            session.number += 1
            session.owed.append((session.number, False))
        else:
            _close(desk, session, "finalize")
    elif session.open is None:
        if session.turns and how == "endpoint":
            return  # silence
        session.number += 1
        session.open, session.stable[session.number] = session.number, ""
        desk.start(session.number)
    elif how == "max_length" or (how == "endpoint" and session.turns):
        _close(desk, session, how)


def _grow(desk, session, more):
    text = session.stable[session.open] = (session.stable[session.open] + more).strip()
    desk.interim(session.open, text + " x", stable=len(text))


def _close(desk, session, reason):
    desk.end(session.open, reason, silence_ms=500 if reason == "endpoint" else 0)
    session.owed.append((session.open, True))
    session.open = None


def _let_out(desk, session):
    number, decoded = session.owed.pop(0)
    stable = session.stable.get(number, "")
    desk.final(number, stable + " end" if decoded and number % 3 else stable, decoded=decoded and bool(number % 5))


def _drain(desk, session):
    while session.inbox:
        _hear(desk, session, "endpoint" if session.turns else "goes on")
    if session.open is not None:
        _close(desk, session, "drain")
    while session.owed:
        _let_out(desk, session)
    desk.ended()


def check(events):
    """The promises of one connection, from the side of its client."""
    committed, outcomes, sent, placed = [], [], {}, []
    for event in events:
        name, item = event["type"], event.get("item_id")
        if name == "input_audio_buffer.committed":
            assert event["previous_item_id"] == (committed[-1] if committed else None)
            committed.append(item)
        elif name == "conversation.item.done":
            placed.append(event["item"]["id"])
        elif name == f"{NAMES}delta":
            assert event["delta"], "an empty delta"
            assert item not in outcomes, "a delta after the outcome"
            sent[item] = sent.get(item, "") + event["delta"]
        elif name in (f"{NAMES}completed", f"{NAMES}failed"):
            assert item in placed, "an outcome before its item"
            assert item not in outcomes
            outcomes.append(item)
            if name == f"{NAMES}completed":
                assert sent.get(item, "") == event["transcript"]
    assert outcomes == committed == placed
    assert len({event["event_id"] for event in events}) == len(events)
