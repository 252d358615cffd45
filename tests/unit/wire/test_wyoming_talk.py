"""What the events of a Wyoming client ask for, and what it is told of an utterance."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.errors import ProtocolError
from sttd.wire import wyoming
from sttd.wire.wyoming import AudioChunk, AudioStart, AudioStop, Describe, Format, Other, Ping, Samples, Transcribe
from sttd.wire.wyoming_talk import Begin, End, Feed, Nothing, Talk, Transcript

A = Format(rate=16000, width=2, channels=1)
B = Format(rate=48000, width=3, channels=2)


def actions(*events):
    talk = Talk()
    return [action for event in events if (action := talk.receive(event)) is not None]


def test_an_utterance_begins_with_its_start_or_with_its_first_chunk_and_ends_with_its_stop():
    assert actions(AudioStart(A), AudioChunk(A), Samples(b"ab"), AudioStop()) == [Begin(A), Feed(b"ab"), End()]
    assert actions(AudioChunk(B), Samples(b"abcd"), Samples(b"ef"), AudioStop()) == [
        Begin(B),
        Feed(b"\0abc"),
        Feed(b"\0def"),
        End(),
    ]


def test_a_start_within_an_utterance_begins_another_one_with_samples_of_its_own():
    assert actions(AudioStart(B), AudioChunk(B), Samples(b"a"), AudioStart(A), AudioChunk(A), Samples(b"xy")) == [
        Begin(B),
        Begin(A, again=True),
        Feed(b"xy"),
    ]


def test_another_format_within_an_utterance_is_an_error_and_after_it_is_none():
    assert actions(AudioStart(A), AudioStop(), AudioChunk(B)) == [Begin(A), End(), Begin(B)]
    with pytest.raises(ProtocolError) as caught:
        actions(AudioStart(A), AudioChunk(B))
    assert caught.value.code == "bad_audio"


def test_a_stop_is_owed_a_transcript_where_one_was_asked_for():
    assert actions(AudioStop()) == []
    assert actions(Transcribe(), AudioStop(), AudioStop()) == [Transcribe(), Nothing()]
    assert actions(Transcribe(), AudioStart(A), AudioStop(), AudioStop()) == [Transcribe(), Begin(A), End()]


def test_questions_are_answered_at_any_time():
    assert actions(Describe(), AudioStart(A), Ping("p"), Other(), Describe()) == [
        Describe(),
        Begin(A),
        Ping("p"),
        Describe(),
    ]


def test_with_streaming_the_chunks_are_the_transcript():
    told = Transcript(streaming=True, language="en")
    assert told.stable(1, "") == b""
    assert not told.told
    assert told.stable(1, "turn on") == wyoming.transcript_start("en") + wyoming.transcript_chunk("turn on")
    assert told.told
    assert told.stable(1, "turn on") == b""
    assert told.final(1, "turn on it.", language="en") == wyoming.transcript_chunk(" it.")
    assert told.end() == wyoming.transcript("turn on it.", "en") + wyoming.transcript_stop()


def test_without_text_and_without_streaming_there_is_the_transcript_all_the_same():
    assert Transcript(streaming=True).end() == (
        wyoming.transcript_start(None) + wyoming.transcript("", None) + wyoming.transcript_stop()
    )
    told = Transcript(streaming=False)
    assert told.stable(1, "ja") == told.final(1, "ja wohl", language="de") == b""
    assert not told.told
    assert told.end() == wyoming.transcript("ja wohl", "de")


audio = [AudioStart(A), AudioStart(B), AudioChunk(A), AudioChunk(B), Samples(b"123456"), AudioStop()]
events = st.sampled_from([*audio, Transcribe(), Ping(None)])


@given(st.lists(events, max_size=30))
def test_what_is_fed_and_ended_was_begun_and_no_utterance_ends_twice(events):
    talk, begun = Talk(), False
    for event in events:
        try:
            action = talk.receive(event)
        except ProtocolError:
            return
        match action:
            case Begin(again=again):
                assert again == begun
                begun = True
            case Feed():
                assert begun
            case End():
                assert begun
                begun = False
            case Nothing():
                assert not begun
        assert talk.open == begun
