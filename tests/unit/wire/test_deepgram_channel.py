"""What is told of a channel: every rule by itself, and all of them over whatever a session may say."""

import json

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.core.types import Final, Interim, Timing, Word
from sttd.wire.deepgram_channel import Channel

BYTES_PER_S = 32_000
TIMING = Timing(endpoint_ms=0.0, queue_ms=0.0, decode_ms=0.0, speculative=False)


def channel(**given):
    more = {"request_id": "r", "model": "base", "interim_model": "tiny", "version": "1", "bytes_per_s": BYTES_PER_S}
    return Channel(**{**more, **given})


def final(utterance, text, start_s, end_s, *, reason="endpoint", words=None, language="en", confidence=0.8):
    if words is None:
        texts = text.split()
        step = (end_s - start_s) / max(len(texts), 1)
        words = [(word, start_s + n * step, start_s + (n + 1) * step) for n, word in enumerate(texts)]
    return Final(
        utterance=utterance,
        text=text,
        start_s=start_s,
        end_s=end_s,
        language=language,
        confidence=confidence,
        reason=reason,
        model="base",
        words=tuple(Word(word=word, start_s=begin, end_s=end, probability=0.9) for word, begin, end in words),
        timing=TIMING,
    )


def interim(utterance, text, end_s, *, stable=0):
    return Interim(utterance=utterance, seq=1, text=text, stable_chars=stable, start_s=0.0, end_s=end_s)


def read(messages):
    return [json.loads(message) for message in messages]


def one(messages):
    [message] = read(messages)
    return message


def text_of(result):
    return result["channel"]["alternatives"][0]["transcript"]


def reach(result):
    return result["start"], round(result["start"] + result["duration"], 3)


def fed(told, seconds):
    told.fed(round(seconds * BYTES_PER_S))
    return told


def test_a_result_has_all_that_a_client_looks_for():
    told = fed(channel(index=1, count=2, tell_language=True), 3)
    assert told.speech_started(1, 0.5) == []
    result = one(told.final(final(1, "Hello, World!", 0.5, 1.5)))
    assert result.pop("metadata") == {
        "request_id": "r",
        "model_uuid": json.loads(told._results(end_ms=0, is_final=False))["metadata"]["model_uuid"],
        "model_info": {"name": "base", "version": "1", "arch": "whisper"},
    }
    assert result == {
        "type": "Results", "channel_index": [1, 2], "start": 0.0, "duration": 1.5, "is_final": True,
        "speech_final": True, "from_finalize": False,
        "channel": {"alternatives": [{
            "transcript": "Hello, World!", "confidence": 0.8, "languages": ["en"],
            "words": [
                {"word": "hello", "start": 0.5, "end": 1.0, "confidence": 0.9, "punctuated_word": "Hello,"},
                {"word": "world", "start": 1.0, "end": 1.5, "confidence": 0.9, "punctuated_word": "World!"},
            ],
        }]},
    }  # fmt: skip


def test_ranges_follow_one_another_and_the_last_ends_with_the_audio():
    told = fed(channel(), 10)
    told.speech_started(1, 1.0)
    assert reach(one(told.final(final(1, "one", 1.0, 2.0)))) == (0.0, 2.0)
    told.speech_started(2, 4.0)
    assert reach(one(told.final(final(2, "two", 4.0, 5.0)))) == (2.0, 5.0)
    last = one(told.stopped(10.0))
    assert (reach(last), text_of(last), last["is_final"], last["speech_final"]) == ((5.0, 10.0), "", True, False)


def test_the_end_of_the_stream_is_the_end_of_the_last_range():
    told = fed(channel(), 3.01)  # a session hears whole frames
    told.speech_started(1, 1.0)
    last = one(told.final(final(1, "one", 1.0, 2.0, reason="stop")))
    assert (reach(last), last["speech_final"]) == ((0.0, 3.01), True)
    assert told.stopped(3.02) == []
    assert told.end_ms == 3010


def test_a_session_that_did_not_take_all_ends_where_it_was():
    told = fed(channel(), 9)
    told.speech_started(1, 1.0)
    assert reach(one(told.final(final(1, "one", 1.0, 2.0, reason="drain")))) == (0.0, 2.0)
    assert reach(one(told.stopped(3.0))) == (2.0, 3.0)


def test_a_silent_stream_brings_nothing_before_its_end():
    told = fed(channel(utterance_end_ms=1000), 15)
    assert not told.awaits_quiet
    assert reach(one(told.stopped(15.0))) == (0.0, 15.0)
    assert channel().stopped(0.0) == []


def test_words_that_stick_out_are_moved_to_the_border_and_rise():
    told = fed(channel(), 4)
    told.speech_started(1, 0.0)
    told.final(final(1, "a", 0.0, 2.0))
    words = [("b", 1.7, 2.3), (" ", 2.3, 2.3), ("c", 2.2, 2.5), ("d", 2.6, 2.4), ("e", 3.0, 9.9)]
    told.speech_started(2, 2.1)
    result = one(told.final(final(2, "b c d e", 2.1, 3.0, words=words)))
    found = [(w["word"], w["start"], w["end"]) for w in result["channel"]["alternatives"][0]["words"]]
    assert found == [("b", 2.0, 2.3), ("c", 2.3, 2.5), ("d", 2.6, 2.6), ("e", 3.0, 4.0)]
    assert reach(result) == (2.0, 4.0)


def test_text_without_words_is_spread_over_its_speech():
    told = fed(channel(), 4)
    told.speech_started(1, 1.0)
    result = one(told.final(final(1, "one two", 1.0, 2.0, words=[])))
    assert [(w["word"], w["start"], w["end"]) for w in result["channel"]["alternatives"][0]["words"]] == [
        ("one", 1.0, 1.5),
        ("two", 1.5, 2.0),
    ]


@pytest.mark.parametrize(
    ("written", "bare"),
    [("Hello,", "hello"), ("«Straße»", "straße"), ("don't", "don't"), ("…", "…"), ("U.S.", "u.s"), ("$5.", "$5")],
)
def test_a_bare_word_has_no_capitals_and_no_punctuation_round_it(written, bare):
    told = fed(channel(), 2)
    told.speech_started(1, 0.0)
    [word] = one(told.final(final(1, written, 0.0, 1.0)))["channel"]["alternatives"][0]["words"]
    assert (word["word"], word["punctuated_word"]) == (bare, written)


def test_sound_that_was_no_speech_is_an_empty_final_without_confidence():
    told = fed(channel(tell_language=True), 2)
    told.speech_started(1, 0.0)
    result = one(told.final(final(1, "", 0.0, 1.0)))
    assert result["channel"]["alternatives"] == [{"transcript": "", "confidence": 0.0, "words": []}]
    assert result["speech_final"]


def test_an_interim_is_what_was_heard_behind_the_last_range():
    told = fed(channel(), 2)
    told.speech_started(1, 0.5)
    result = one(told.interim(interim(1, "one two", 1.5, stable=3)))
    assert (reach(result), result["is_final"], result["speech_final"]) == ((0.0, 1.5), False, False)
    alternative = result["channel"]["alternatives"][0]
    assert (alternative["transcript"], alternative["words"]) == ("one two", [])
    assert alternative["confidence"] == round(3 / 7, 4)
    assert result["metadata"]["model_info"]["name"] == "tiny"
    assert told.interim(interim(1, "", 1.6)) == []
    assert reach(one(told.final(final(1, "one two", 0.5, 1.8)))) == (0.0, 1.8)


def test_an_interim_waits_for_the_finals_before_it():
    told = fed(channel(), 9)
    told.speech_started(1, 0.5)
    told.speech_started(2, 3.0)
    assert told.interim(interim(2, "thr", 3.4)) == []
    assert told.interim(interim(2, "three", 3.8)) == []
    first, second = read(told.final(final(1, "one", 0.5, 2.0)))
    assert (first["is_final"], reach(first)) == (True, (0.0, 2.0))
    assert (second["is_final"], reach(second), text_of(second)) == (False, (2.0, 3.8), "three")


def test_a_finalize_is_answered_once_up_to_where_it_came():
    told = fed(channel(), 2)
    told.speech_started(1, 0.5)
    told.finalize()
    fed(told, 1)
    result = one(told.final(final(1, "one", 0.5, 1.4, reason="finalize")))
    assert (reach(result), result["from_finalize"], result["speech_final"]) == ((0.0, 2.0), True, True)
    told.finalize()
    empty = one(told.final(final(2, "", 3.0, 3.0, reason="finalize")))
    assert (reach(empty), empty["from_finalize"], empty["speech_final"]) == ((2.0, 3.0), True, False)


def test_a_finalize_that_the_end_overtakes_is_answered_there():
    told = fed(channel(), 2)
    told.speech_started(1, 0.5)
    told.finalize()
    fed(told, 1)
    told.finalize()
    one(told.final(final(1, "one", 0.5, 1.0, reason="drain")))
    answers = read(told.stopped(2.5))
    assert [result["from_finalize"] for result in answers] == [True, True]
    assert [reach(result) for result in answers] == [(1.0, 2.0), (2.0, 2.5)]


def test_after_an_error_no_more_audio_is_claimed():
    told = fed(channel(), 5)
    told.finalize()
    result = one(told.stopped(None))
    assert (reach(result), result["from_finalize"]) == ((0.0, 0.0), True)


def test_in_a_container_a_finalize_reaches_as_far_as_its_final():
    told = channel(bytes_per_s=None)
    told.fed(4000)
    told.speech_started(1, 0.5)
    told.finalize()
    assert reach(one(told.final(final(1, "one", 0.5, 1.4, reason="finalize")))) == (0.0, 1.4)
    told.finalize()
    assert reach(one(told.final(final(2, "", 3.0, 3.0, reason="finalize")))) == (1.4, 3.0)
    assert reach(one(told.stopped(4.0))) == (3.0, 4.0)


def test_a_cut_ends_no_utterance():
    told = fed(channel(), 60)
    told.speech_started(1, 0.0)
    told.speech_started(2, 28.0)
    first = one(told.final(final(1, "one", 0.0, 28.0, reason="max_length")))
    second = one(told.final(final(2, "two", 28.0, 30.0)))
    assert [result["speech_final"] for result in (first, second)] == [False, True]
    assert (reach(first), reach(second)) == ((0.0, 28.0), (28.0, 30.0))


def test_where_nobody_goes_on_behind_a_cut_silence_ends_the_utterance():
    told = fed(channel(utterance_end_ms=1000, silence_ms=600), 60)
    told.speech_started(1, 0.0)
    told.final(final(1, "one", 0.0, 28.0, reason="max_length"))
    assert told.awaits_quiet
    assert told.quiet(28.5) == []
    ended = one(told.quiet(28.7))
    assert (reach(ended), ended["speech_final"], text_of(ended)) == ((28.0, 28.6), True, "")
    assert one(told.quiet(29.1)) == {"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": 28.0}
    assert not told.awaits_quiet


def test_the_end_of_the_stream_ends_an_utterance_that_was_cut():
    told = fed(channel(), 28)
    told.speech_started(1, 0.0)
    told.final(final(1, "one", 0.0, 28.0, reason="max_length"))
    last = one(told.stopped(28.0))
    assert (reach(last), last["speech_final"]) == ((28.0, 28.0), True)


def test_a_finalize_behind_a_cut_ends_the_utterance():
    told = fed(channel(), 30)
    told.speech_started(1, 0.0)
    told.final(final(1, "one", 0.0, 28.0, reason="max_length"))
    told.finalize()
    assert one(told.final(final(2, "", 30.0, 30.0, reason="finalize")))["speech_final"]


def test_speech_starts_are_told_where_they_are_wanted():
    assert one(channel(index=1, count=2, vad_events=True).speech_started(1, 0.3)) == {
        "type": "SpeechStarted",
        "channel": [1],
        "timestamp": 0.3,
    }


def test_the_end_of_an_utterance_comes_once_and_with_the_silence_behind_it():
    told = fed(channel(utterance_end_ms=1000), 9)
    told.speech_started(1, 0.0)
    assert not told.awaits_quiet
    told.final(final(1, "one", 0.0, 2.0))
    assert told.quiet(2.9) == []
    assert one(told.quiet(3.0))["last_word_end"] == 2.0
    assert told.quiet(9.0) == []
    assert [message["type"] for message in read(told.stopped(9.0))] == ["Results"]


def test_who_speaks_on_has_not_ended_and_who_begins_later_has():
    told = fed(channel(utterance_end_ms=1000, vad_events=True), 20)
    told.speech_started(1, 0.0)
    told.final(final(1, "one", 0.0, 2.0))
    assert [message["type"] for message in read(told.speech_started(2, 2.9))] == ["SpeechStarted"]
    assert not told.awaits_quiet
    told.final(final(2, "two", 2.9, 4.0))
    assert [message["type"] for message in read(told.speech_started(3, 5.0))] == ["UtteranceEnd", "SpeechStarted"]


def test_the_end_follows_a_final_that_is_late():
    told = fed(channel(utterance_end_ms=1000), 20)
    told.speech_started(1, 0.0)
    told.speech_started(2, 3.5)
    assert [message["type"] for message in read(told.final(final(1, "one", 0.0, 2.0)))] == ["Results", "UtteranceEnd"]


def test_a_sound_that_is_no_speech_does_not_keep_an_utterance_from_its_end():
    told = fed(channel(utterance_end_ms=1000), 20)
    told.speech_started(1, 0.0)
    told.final(final(1, "one", 0.0, 2.0))
    told.speech_started(2, 2.5)
    told.final(final(2, "", 2.5, 2.8))
    assert one(told.quiet(3.2))["last_word_end"] == 2.0


def test_without_a_voice_detector_text_says_that_somebody_speaks():
    told = fed(channel(utterance_end_ms=1000, vad_events=True, silence_ms=None), 20)
    assert told.speech_started(1, 0.0) == []
    assert [message["type"] for message in read(told.interim(interim(1, "one", 1.0)))] == ["SpeechStarted", "Results"]
    told.finalize()
    assert [m["type"] for m in read(told.final(final(1, "one", 0.0, 2.0, reason="finalize")))] == ["Results"]
    assert told.speech_started(2, 2.0) == []
    assert [message["type"] for message in read(told.quiet(3.0))] == ["UtteranceEnd"]
    last = one(told.final(final(2, "", 2.0, 20.0, reason="stop")))
    assert (last["speech_final"], text_of(last)) == (True, "")


# ---------------------------------------------------------------- all rules, whatever is said


@attrs.define
class Stream:
    """A session as the rules of the daemon have it: finals come in order, some time after the utterances."""

    told: Channel
    at: float = 0.0  # s, what was fed
    number: int = 0
    open_since: float | None = None
    spoke_until: float = 0.0
    owed: list = attrs.field(factory=list)
    heard: list = attrs.field(factory=list)  # messages
    finalizes: list = attrs.field(factory=list)

    def say(self, messages):
        self.heard += read(messages)

    def feed(self, seconds):
        fed(self.told, seconds)
        self.at = round(self.at + seconds, 3)

    def open(self, at):
        self.number += 1
        self.open_since = at
        self.say(self.told.speech_started(self.number, at))

    def close(self, reason, *, text):
        start, self.open_since = self.open_since, None
        until = self.spoke_until  # words may begin in the pre-roll, and end with the audio
        words = [(word, start - 0.3 + 0.2 * n, min(start + 0.1 * n, until)) for n, word in enumerate(text.split())]
        self.owed.append(final(self.number, text, start, self.spoke_until, reason=reason, words=words))

    def step(self, action, size, text):
        match action:
            case "speech":
                start = self.at
                self.feed(size)
                if self.open_since is None:
                    self.open(start)
                self.spoke_until = self.at
            case "silence":
                self.feed(size)
                if self.open_since is not None and self.at - self.spoke_until >= 0.4:
                    self.close("endpoint", text=text)
            case "cut" if self.open_since is not None:
                self.close("max_length", text=text)
                if size > 1:
                    self.open(self.spoke_until)
            case "finalize":
                self.told.finalize()
                self.finalizes.append(self.at)
                if self.open_since is not None:
                    self.close("finalize", text=text)
                else:
                    self.number += 1
                    self.owed.append(final(self.number, "", self.at, self.at, reason="finalize"))
            case "interim" if self.open_since is not None:
                self.say(self.told.interim(interim(self.number, text, self.at)))
            case "decoded" if self.owed:
                self.say(self.told.final(self.owed.pop(0)))
            case "quiet" if self.told.awaits_quiet:
                self.say(self.told.quiet(self.at))

    def stop(self, *, lost):
        """The last ones are answered by the end alone where the session was ended at once."""
        if self.open_since is not None:
            self.close("stop", text="last words")
        for owed in self.owed:
            if not (lost and owed.reason == "finalize"):
                self.say(self.told.final(owed))
        self.say(self.told.stopped(self.at))


steps = st.lists(
    st.tuples(
        st.sampled_from(["speech", "silence", "finalize", "interim", "decoded", "decoded", "quiet", "cut"]),
        st.integers(20, 3000).map(lambda ms: ms / 1000),
        st.sampled_from(["", "one", "one two, three"]),
    ),
    max_size=40,
)


@given(steps=steps, lost=st.booleans(), bytes_per_s=st.sampled_from([BYTES_PER_S, None]))
def test_whatever_a_session_says_the_promises_hold(steps, lost, bytes_per_s):
    stream = Stream(channel(bytes_per_s=bytes_per_s, utterance_end_ms=1000, vad_events=True))
    for step in steps:
        stream.step(*step)
    stream.stop(lost=lost)
    results = [message for message in stream.heard if message["type"] == "Results"]
    finals = [result for result in results if result["is_final"]]

    end = 0.0
    for result in results:
        assert result["start"] == pytest.approx(end, abs=1e-6), "ranges are contiguous, interims lie behind the last"
        assert result["duration"] >= 0
        if result["is_final"]:
            end = result["start"] + result["duration"]
        [alternative] = result["channel"]["alternatives"]
        if result["is_final"]:
            assert bool(alternative["transcript"]) == bool(alternative["words"])
        at = result["start"]
        for word in alternative["words"]:
            assert at - 1e-6 <= word["start"] <= word["end"] <= end + 1e-6
            at = word["end"]
    if finals:
        assert end == pytest.approx(stream.at, abs=0.0011)

    answers = [result for result in finals if result["from_finalize"]]
    assert len(answers) == len(stream.finalizes)
    if bytes_per_s is not None:
        for answer, asked in zip(answers, stream.finalizes, strict=True):
            assert reach(answer)[1] >= int(asked * 1000) / 1000 - 0.002

    pieces, ends = False, 0
    for message in stream.heard:
        if message["type"] == "Results" and message["is_final"]:
            pieces = (pieces or bool(text_of(message))) and not message["speech_final"]
            ends += bool(message["speech_final"])
        elif message["type"] == "UtteranceEnd":
            ends -= 1
            assert ends >= 0, "an end for each speech_final at the most, behind it"
            assert message["last_word_end"] <= stream.at + 1e-6
    assert not pieces, "all text belongs to an utterance that has ended"
