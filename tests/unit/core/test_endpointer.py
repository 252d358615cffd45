"""The endpointer's rules, one by one, on scripts of frames.

A script has one letter per frame: `S` speech that both detectors hear, `.` silence, `n` noise that only WebRTC hears,
`q` speech that only Silero hears, `~` a murmur (Silero between its two thresholds, WebRTC silent).
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.core.endpointer import (
    Activity,
    Endpointer,
    PauseEstimate,
    SpeechEnded,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    TurnHint,
)
from sttd.core.types import FRAME_MS, FRAME_SAMPLES
from sttd.options import Endpointing

FRAMES = {"S": (True, 0.9), ".": (False, 0.05), "n": (True, 0.05), "q": (False, 0.9), "~": (False, 0.4)}
OPTIONS = Endpointing(silence_ms_min=400, silence_ms_max=700)
FIXED = Endpointing(silence_ms_min=500, silence_ms_max=500)


def script(text: str, endpointer: Endpointer, *, silero: bool = True) -> list[tuple[int, object]]:
    """Run a script; the events with the index of the frame that brought each."""
    events = []
    for index, letter in enumerate(text):
        voiced, probability = FRAMES[letter]
        event = endpointer.push(voiced=voiced, probability=probability if silero else math.nan)
        if event is not None:
            events.append((index, event))
    return events


def kinds(events: list[tuple[int, object]]) -> list[type]:
    return [type(event) for _, event in events]


def ms(samples: int) -> float:
    return samples / 16


def test_an_utterance_starts_pauses_and_ends_where_the_speech_does():
    events = script("." * 50 + "S" * 50 + "." * 50, Endpointer(FIXED))
    assert kinds(events) == [SpeechStarted, SpeechPaused, SpeechEnded]
    (started_at, started), (paused_at, paused), (ended_at, ended) = events
    assert started_at == 57  # eight frames of WebRTC
    assert ms(started.onset_sample) == 50 * FRAME_MS - 40  # Silero's delay, WebRTC near enough
    assert ms(ended.end_sample) == 100 * FRAME_MS - 80
    assert ended == SpeechEnded(end_sample=paused.end_sample, silence_ms=500)
    assert (paused_at + 1) * FRAME_MS - ms(ended.end_sample) == 180
    assert (ended_at + 1) * FRAME_MS - ms(ended.end_sample) == 500


def test_noise_starts_nothing():
    assert script("n" * 500, Endpointer(OPTIONS)) == []


def test_speech_that_webrtc_does_not_hear_starts_once_silero_is_sure():
    assert script("." * 50 + "q" * 15 + "." * 100, Endpointer(OPTIONS)) == []
    assert script("." * 50 + ("q" * 7 + "." * 5) * 20, Endpointer(OPTIONS)) == []
    ((index, started),) = script("." * 50 + "q" * 100, Endpointer(OPTIONS))
    assert index == 50 + 15
    assert ms(started.onset_sample) == 50 * FRAME_MS - 40
    events = script("." * 50 + "q" * 50 + "." * 50, Endpointer(FIXED))
    assert kinds(events) == [SpeechStarted, SpeechPaused, SpeechEnded]
    assert ms(events[-1][1].end_sample) == 100 * FRAME_MS - 80


def test_a_short_murmur_starts_nothing():
    assert script("." * 50 + "nnnnnnnnnnnSSSnnnnnnnn", Endpointer(OPTIONS)) == []


def test_the_onset_is_webrtcs_where_it_is_near():
    ((_, started),) = script("." * 50 + "n" * 5 + "S" * 20, Endpointer(OPTIONS))
    assert ms(started.onset_sample) == 50 * FRAME_MS


def test_the_onset_is_sileros_in_the_midst_of_noise():
    ((_, started),) = script("n" * 50 + "S" * 20, Endpointer(OPTIONS))
    assert ms(started.onset_sample) == 50 * FRAME_MS - 40


def test_the_onset_is_found_over_short_gaps_and_not_over_long_ones():
    ((_, started),) = script("." * 50 + "SSS...SSSS...SSSS", Endpointer(OPTIONS))
    assert ms(started.onset_sample) == 50 * FRAME_MS - 40
    ((_, started),) = script("." * 50 + "SSS....SSSSSSSSS", Endpointer(OPTIONS))
    assert ms(started.onset_sample) == 57 * FRAME_MS - 40


def test_a_start_right_at_the_beginning():
    ((index, started),) = script("S" * 20, Endpointer(OPTIONS))
    assert (index, ms(started.onset_sample)) == (7, -40)  # the assembler owns the bounds


def test_webrtc_may_extend_the_end_by_a_consonant():
    *_, (_, ended) = script("." * 9 + "S" * 50 + "n" * 10 + "." * 50, Endpointer(FIXED))
    assert ms(ended.end_sample) == 69 * FRAME_MS - 120


def test_webrtc_that_never_ends_is_not_believed():
    events = script("." * 9 + "S" * 50 + "n" * 50, Endpointer(FIXED))
    assert kinds(events) == [SpeechStarted, SpeechPaused, SpeechEnded]
    assert ms(events[-1][1].end_sample) == 59 * FRAME_MS - 80


def test_the_hangover_depends_on_the_aggressiveness():
    ends = []
    for aggressiveness in range(4):
        options = Endpointing(silence_ms_min=500, silence_ms_max=500, aggressiveness=aggressiveness)
        *_, (_, ended) = script("." * 9 + "S" * 50 + "n" * 9 + "." * 50, Endpointer(options))
        ends.append(ms(ended.end_sample))
    assert ends == [68 * FRAME_MS - hangover for hangover in (160, 160, 120, 120)]


@pytest.mark.parametrize("silero", [True, False])
def test_speech_fades_from_the_first_silent_frame_until_the_pause(silero):
    endpointer = Endpointer(FIXED, speculate_ms=180)
    fading = []
    for letter in "." * 50 + "S" * 50 + "." * 2 + "S" * 5 + "." * 20:
        voiced, probability = FRAMES[letter]
        event = endpointer.push(voiced=voiced, probability=probability if silero else math.nan)
        fading.append(endpointer.fades)
        if isinstance(event, SpeechPaused):
            paused_at = len(fading) - 1
    assert not any(fading[:100])
    assert fading[100:102] == [True, True]
    assert not any(fading[102:107])
    assert all(fading[107:paused_at])
    assert not any(fading[paused_at:])


@pytest.mark.parametrize(
    ("endpointer", "text"),
    [
        (Endpointer(FIXED, speculate_ms=2000), "." * 50 + "S" * 50 + "." * 20),  # the pause is far away
        (Endpointer(None), "." * 50),  # nothing was heard at all, and the client says what is an utterance
        (Endpointer(FIXED), "." * 50 + "S" * 50 + "n" * 20),
    ],
)
def test_speech_fades_for_a_tenth_of_a_second_at_most(endpointer, text):
    fading = []
    for letter in text:
        voiced, probability = FRAMES[letter]
        endpointer.push(voiced=voiced, probability=probability)
        fading.append(endpointer.fades)
    assert sum(fading) <= 5


def test_a_pause_ends_when_speech_resumes():
    events = script("." * 9 + "S" * 50 + "." * 12 + "S" * 20 + "." * 40, Endpointer(FIXED))
    assert kinds(events) == [SpeechStarted, SpeechPaused, SpeechResumed, SpeechPaused, SpeechEnded]
    assert ms(events[-1][1].end_sample) == 91 * FRAME_MS - 80


def test_a_late_murmur_is_speech_too():
    events = script("." * 9 + "S" * 50 + "." * 12 + "~" + "." * 40, Endpointer(FIXED))
    assert kinds(events)[1:] == [SpeechPaused, SpeechResumed, SpeechPaused, SpeechEnded]


def test_noise_in_a_pause_moves_neither_the_end_nor_the_decision():
    quiet = script("." * 9 + "S" * 50 + "." * 40, Endpointer(FIXED))
    clicks = script("." * 9 + "S" * 50 + "." * 8 + "nn" + "." * 40, Endpointer(FIXED))
    assert clicks == quiet


def test_silero_gets_time_when_webrtc_wakes_at_the_last_moment():
    before = "." * 9 + "S" * 50 + "." * 20  # 480 of 500 ms
    assert kinds(script(before + "nnSSSS", Endpointer(FIXED)))[-1] is SpeechResumed
    ended_at, ended = script(before + "n" * 20, Endpointer(FIXED))[-1]
    assert isinstance(ended, SpeechEnded)
    assert ended_at - len(before) == 5


def test_without_a_pause_in_between_when_the_silence_time_is_short():
    options = Endpointing(silence_ms_min=100, silence_ms_max=100)
    assert kinds(script("." * 9 + "S" * 50 + "." * 40, Endpointer(options))) == [SpeechStarted, SpeechEnded]


@pytest.mark.parametrize(
    ("hint", "silence_ms"), [(TurnHint.ENDED, 400), (TurnHint.NEUTRAL, 550), (TurnHint.CONTINUES, 700)]
)
def test_hints_move_the_silence_time(hint, silence_ms):
    endpointer = Endpointer(OPTIONS)
    script("." * 9 + "S" * 50, endpointer)
    endpointer.hint(hint)
    assert endpointer.silence_ms == silence_ms
    *_, (ended_at, ended) = script("." * 60, endpointer)
    assert ended.silence_ms == silence_ms
    assert (59 + ended_at + 1) * FRAME_MS - ms(ended.end_sample) == pytest.approx(silence_ms, abs=FRAME_MS)


def test_a_hint_is_forgotten_when_speech_resumes_and_at_the_next_start():
    endpointer = Endpointer(OPTIONS)
    script("." * 9 + "S" * 50, endpointer)
    endpointer.hint(TurnHint.CONTINUES)
    script("." * 12 + "S", endpointer)
    assert endpointer.silence_ms != OPTIONS.silence_ms_max
    endpointer.hint(TurnHint.ENDED)
    script("." * 60, endpointer)
    script("S" * 20, endpointer)
    assert endpointer.silence_ms != OPTIONS.silence_ms_min


def test_a_speaker_with_short_pauses_is_answered_sooner_than_one_with_long_pauses():
    waits = []
    for frames in (12, 24):
        endpointer = Endpointer(OPTIONS)
        script("." * 9 + ("S" * 40 + "." * frames) * 8 + "S" * 40, endpointer)
        waits.append(endpointer.silence_ms)
    assert waits[0] == OPTIONS.silence_ms_min
    assert waits[0] < waits[1]


def test_a_start_soon_after_an_endpoint_counts_as_a_pause():
    endpointer = Endpointer(OPTIONS)
    script("." * 9 + "S" * 40 + "." * 33 + "S" * 20, endpointer)
    assert endpointer.pauses.mean_ms is not None
    assert endpointer.silence_ms == OPTIONS.silence_ms_max


@pytest.mark.parametrize(("hint", "silence"), [(TurnHint.ENDED, 33), (TurnHint.NEUTRAL, 80)])
def test_a_start_after_a_sure_or_a_long_end_does_not(hint, silence):
    endpointer = Endpointer(OPTIONS)
    script("." * 9 + "S" * 40, endpointer)
    endpointer.hint(hint)
    script("." * silence + "S" * 20, endpointer)
    assert endpointer.pauses.mean_ms is None


def test_webrtc_alone():
    events = script("." * 50 + "S" * 50 + "." * 50, Endpointer(FIXED), silero=False)
    assert kinds(events) == [SpeechStarted, SpeechPaused, SpeechEnded]
    assert ms(events[-1][1].end_sample) == 100 * FRAME_MS - 120


def test_webrtc_alone_is_not_believed_at_once():
    assert script("n" * 20 + "." * 20, Endpointer(FIXED), silero=False) == []
    index, started = script("n" * 50, Endpointer(FIXED), silero=False)[0]
    assert index == 25
    assert ms(started.onset_sample) == -40


def test_the_client_finalizes():
    endpointer = Endpointer(None)
    events = script("." * 30 + "S" * 50 + "." * 9 + "n" * 9 + "." * 100 + "n", endpointer)
    assert kinds(events) == [SpeechStarted, SpeechPaused, SpeechResumed, SpeechPaused, SpeechResumed]
    assert events[0] == (0, SpeechStarted(onset_sample=0))
    assert endpointer.silence_ms == 0
    assert endpointer.paused_end is None


def test_the_client_finalizes_a_silence():
    endpointer = Endpointer(None)
    assert kinds(script("." * 100, endpointer)) == [SpeechStarted]
    assert endpointer.end_sample == 100 * FRAME_SAMPLES


def test_a_word_too_short_for_a_start_is_pending():
    endpointer = Endpointer(OPTIONS)
    script("." * 50 + "nnSSS", endpointer)
    assert endpointer.pending_onset() == 50 * FRAME_SAMPLES
    script("." * 40, endpointer)
    assert endpointer.pending_onset() is None


def test_nothing_is_pending_in_noise():
    endpointer = Endpointer(OPTIONS)
    script("n" * 50, endpointer)
    assert endpointer.pending_onset() is None


def test_what_was_heard_before_a_close_starts_nothing_after_it():
    endpointer = Endpointer(OPTIONS)
    script("." * 9 + "S" * 50, endpointer)
    endpointer.close()
    assert script("S" * 3 + "n" * 6 + "." * 50, endpointer) == []


def test_the_rest_after_a_cut_pauses_again():
    endpointer = Endpointer(FIXED)
    script("." * 9 + "S" * 50 + "." * 8, endpointer)
    assert endpointer.end_sample == endpointer.paused_end == 59 * FRAME_SAMPLES - 80 * 16
    endpointer.anchor(30 * FRAME_SAMPLES)
    assert kinds(script("." * 40, endpointer)) == [SpeechPaused, SpeechEnded]


def test_a_skip_moves_the_clock():
    endpointer = Endpointer(FIXED)
    script("." * 50, endpointer)
    endpointer.skip(16_000)
    ((_, started),) = script("." * 10 + "S" * 10, endpointer)
    assert ms(started.onset_sample) == 1000 + 60 * FRAME_MS - 40


@given(pauses=st.lists(st.floats(0, 1000), max_size=30), low=st.integers(100, 1000), span=st.integers(0, 2000))
def test_the_silence_time_stays_within_its_limits(pauses, low, span):
    options = Endpointing(silence_ms_min=low, silence_ms_max=low + span)
    estimate = PauseEstimate()
    for pause in pauses:
        estimate.learn(pause)
        assert min(pauses) <= estimate.mean_ms <= max(pauses)
    assert low <= estimate.silence_ms(options) <= low + span


def test_activity_goes_frame_by_frame():
    activity = Activity(webrtc=np.array([True, False]), probability=np.array([0.5, 0.25], np.float32))
    assert list(activity) == [(True, 0.5), (False, 0.25)]


@given(
    before=st.lists(st.tuples(st.booleans(), st.floats(0, 1)), max_size=60),
    quiet=st.integers(1, 80),
    after=st.lists(st.tuples(st.booleans(), st.floats(0, 1)), max_size=60),
)
def test_quiet_frames_may_be_taken_in_one_go(before, quiet, after):
    one, other = Endpointer(Endpointing()), Endpointer(Endpointing())
    for machine in (one, other):
        for voiced, probability in before:
            machine.push(voiced=voiced, probability=probability)
    if one._speaking:
        return
    events = [one.push(voiced=False, probability=0.0) for _ in range(quiet)]
    other.pass_quiet(quiet)
    assert not any(events)
    heard = [[machine.push(voiced=v, probability=p) for v, p in after] for machine in (one, other)]
    assert heard[0] == heard[1]
    assert one.pending_onset() == other.pending_onset()
