"""Utterances: their audio, their order, their bounds, whatever comes in.

The audio of these tests is a ramp: each sample's value is its position on the session's clock, so an utterance's
audio proves its own place. Scripts have the letters of `test_endpointer`.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.core.endpointer import Activity, TurnHint
from sttd.core.types import FRAME_SAMPLES, SAMPLE_RATE
from sttd.core.utterance import POST_ROLL_MS, Closed, Opened, Paused, Resumed, UtteranceAssembler
from sttd.options import Endpointing

FRAMES = {"S": (True, 0.9), ".": (False, 0.05), "n": (True, 0.05), "q": (False, 0.9), "~": (False, 0.4)}
OPTIONS = Endpointing()
PATIENT = Endpointing(silence_ms_min=1500, silence_ms_max=1500)
WORD = "." * 50 + "S" * 40 + "." * 45  # 1 s of silence, 0.8 s of speech, 0.9 s of silence


def assembler(endpointing: Endpointing | None = OPTIONS, *, max_utterance_s: float = 28.0, **options):
    return UtteranceAssembler(endpointing, max_utterance_s=max_utterance_s, **options)


def ramp(start: int, frames: int) -> np.ndarray:
    return np.arange(start, start + frames * FRAME_SAMPLES, dtype=np.float32).reshape(frames, FRAME_SAMPLES)


def push(machine: UtteranceAssembler, text: str, *, silero: bool = True) -> list:
    """Push a script, with the ramp as its audio, in one block."""
    activity = Activity(
        webrtc=np.array([FRAMES[letter][0] for letter in text], np.bool_),
        probability=np.array([FRAMES[letter][1] if silero else math.nan for letter in text], np.float32),
    )
    return machine.push(ramp(machine.position, len(text)), activity)


def kinds(events: list) -> list[type]:
    return [type(event) for event in events]


def assert_audio(samples: np.ndarray, *, start: int) -> None:
    np.testing.assert_array_equal(samples, np.arange(start, start + len(samples), dtype=np.float32))
    assert not samples.flags.writeable


# ---------------------------------------------------------------- one rule at a time


def test_an_utterance_has_its_pre_roll_and_its_post_roll():
    opened, paused, closed = push(assembler(), WORD)
    assert (opened.utterance, closed.utterance, closed.reason, closed.silence_ms) == (1, 1, "endpoint", 550)
    assert opened.at_sample == 50 * FRAME_SAMPLES - 640  # 40 ms: Silero's delay
    assert opened.start_sample == closed.start_sample == opened.at_sample - 400 * 16
    assert closed.end_sample == 90 * FRAME_SAMPLES - 80 * 16
    assert len(closed.samples) == closed.end_sample + POST_ROLL_MS * 16 - closed.start_sample
    assert closed.decided_sample == closed.end_sample + 560 * 16  # 550 ms, at the end of a frame
    np.testing.assert_array_equal(paused.samples, closed.samples)
    assert_audio(closed.samples, start=closed.start_sample)


def test_the_evidence_is_sileros():
    closed = push(assembler(), WORD)[-1]
    assert closed.speech_s == pytest.approx(0.8)
    assert 0.8 < closed.mean_probability < 0.9


def test_without_silero_the_evidence_is_webrtcs():
    closed = push(assembler(), WORD, silero=False)[-1]
    assert closed.speech_s == pytest.approx(0.8)
    assert 0.9 < closed.mean_probability <= 1.0


def test_the_pre_roll_ends_at_the_utterance_before():
    machine = assembler(Endpointing(silence_ms_min=200, silence_ms_max=200))
    events = push(machine, "." * 50 + "S" * 40 + "." * 10 + "S" * 40)
    first_closed, second_opened = events[2:4]
    assert second_opened.start_sample == first_closed.start_sample + len(first_closed.samples)
    assert second_opened.at_sample >= second_opened.start_sample


def test_a_snapshot_is_the_open_utterance_so_far():
    machine = assembler()
    push(machine, "." * 50)
    assert machine.snapshot() is None
    (opened,) = push(machine, "S" * 40)
    snapshot = machine.snapshot()
    assert (snapshot.utterance, snapshot.start_sample) == (1, opened.start_sample)
    assert snapshot.end_sample == machine.position == 90 * FRAME_SAMPLES
    assert_audio(snapshot.samples, start=opened.start_sample)
    assert snapshot.start_sample + len(snapshot.samples) == machine.position
    assert machine.open_utterance == 1


def test_a_snapshot_stays_when_the_utterance_grows():
    machine = assembler()
    (opened,) = push(machine, "." * 50 + "S" * 40)
    samples = machine.snapshot().samples
    push(machine, "S" * 600)
    assert_audio(samples, start=opened.start_sample)


def test_finalize_ends_the_utterance_with_all_its_audio():
    machine = assembler()
    push(machine, "." * 50 + "S" * 40)
    (closed,) = machine.finalize("stop")
    assert (closed.reason, closed.silence_ms, closed.decided_sample) == ("stop", 0, machine.position)
    assert closed.start_sample + len(closed.samples) == machine.position
    assert machine.open_utterance is None
    assert machine.finalize() == []


def test_finalize_in_a_pause_gives_the_audio_of_the_pause():
    machine = assembler()
    paused = push(machine, "." * 50 + "S" * 40 + "." * 15)[-1]
    (closed,) = machine.finalize()
    np.testing.assert_array_equal(closed.samples, paused.samples)
    assert closed.end_sample == paused.end_sample


def test_finalize_keeps_a_word_that_had_only_begun():
    machine = assembler()
    assert push(machine, "." * 50 + "nnSSS") == []
    opened, closed = machine.finalize("stop")
    assert opened.at_sample == 50 * FRAME_SAMPLES
    assert (closed.utterance, closed.start_sample) == (opened.utterance, opened.start_sample)
    assert opened.at_sample <= closed.end_sample <= machine.position


def test_finalize_in_silence_gives_nothing_and_a_number_for_the_answer():
    machine = assembler()
    push(machine, WORD)
    assert machine.finalize() == []
    assert machine.next_number() == 2
    assert push(machine, WORD)[0].utterance == 3


def test_hints_reach_the_endpointer():
    machine = assembler()
    push(machine, "." * 50 + "S" * 40)
    machine.hint(TurnHint.ENDED)
    assert push(machine, "." * 45)[-1].silence_ms == 400


def test_options_change_with_the_next_utterance():
    machine = assembler()
    push(machine, "." * 50 + "S" * 40)
    machine.configure(Endpointing(silence_ms_min=1000, silence_ms_max=1000))
    assert push(machine, "." * 60)[-1].silence_ms == 550
    machine.configure(Endpointing(silence_ms_min=300, silence_ms_max=300))
    assert push(machine, WORD)[-1].silence_ms == 300


def test_a_skip_ends_the_open_utterance_and_moves_the_clock():
    machine = assembler()
    push(machine, "." * 50 + "S" * 40)
    (closed,) = machine.skip(12_345)
    assert closed.reason == "endpoint"
    assert_audio(closed.samples, start=closed.start_sample)
    assert machine.position == 90 * FRAME_SAMPLES + 12_345
    opened, _, closed = push(machine, "S" * 40 + "." * 45)
    assert opened.start_sample == 90 * FRAME_SAMPLES + 12_345
    assert_audio(closed.samples, start=opened.start_sample)


# ---------------------------------------------------------------- the limit


def limited(max_utterance_s: float) -> UtteranceAssembler:
    return assembler(Endpointing(max_utterance_s=max_utterance_s))


def test_the_cut_lies_in_the_longest_pause_of_the_last_third():
    machine = limited(6.0)  # from 0.6 s to 6.6 s, the last third from 4.6 s
    pauses = "S" * 60 + "." * 20 + "S" * 120 + "." * 8 + "S" * 20 + "." * 15 + "S" * 60
    opened, *_, closed, carried = [e for e in push(machine, "." * 50 + pauses) if isinstance(e, Opened | Closed)]
    pause_start, pause_end = 278 * FRAME_SAMPLES, 293 * FRAME_SAMPLES
    assert (closed.reason, closed.silence_ms) == ("max_length", 0)
    assert closed.end_sample == pause_start - 80 * 16
    assert closed.start_sample + len(closed.samples) == closed.end_sample + POST_ROLL_MS * 16
    assert carried.at_sample == pause_end - 40 * 16
    assert carried.start_sample == closed.start_sample + len(closed.samples)
    assert carried.utterance == closed.utterance + 1 == opened.utterance + 1


def test_of_equal_pauses_the_cut_lies_in_the_latest():
    machine = limited(6.0)
    events = push(machine, "." * 50 + "S" * 190 + "." * 8 + "S" * 30 + "." * 8 + "S" * 60)
    (closed,) = [event for event in events if isinstance(event, Closed)]
    assert closed.end_sample == 278 * FRAME_SAMPLES - 80 * 16


def test_without_a_pause_the_cut_lies_where_it_is_quietest():
    machine = limited(6.0)
    frames = np.ones((350, FRAME_SAMPLES), np.float32)
    frames[260:265] = 0.1
    voiced = np.arange(350) >= 50
    events = machine.push(frames, Activity(webrtc=voiced, probability=np.where(voiced, 0.9, 0.1).astype(np.float32)))
    closed, carried = events[1:3]
    assert (closed.end_sample, carried.at_sample) == (262 * FRAME_SAMPLES, 262 * FRAME_SAMPLES)
    assert closed.start_sample + len(closed.samples) == 262 * FRAME_SAMPLES
    assert carried.start_sample == 262 * FRAME_SAMPLES


def test_at_the_limit_a_paused_utterance_ends_where_it_paused():
    machine = limited(6.0)
    events = push(machine, "." * 50 + "S" * 265 + "." * 50)
    assert kinds(events) == [Opened, Paused, Closed]
    np.testing.assert_array_equal(events[1].samples, events[2].samples)
    assert events[2].reason == "max_length"
    assert machine.open_utterance is None


def test_a_silence_that_has_only_begun_opens_nothing_after_the_cut():
    machine = limited(6.0)
    events = push(machine, "." * 50 + "S" * 270 + "n" * 8 + "." * 50)  # WebRTC may still hear a consonant: no pause yet
    assert kinds(events) == [Opened, Closed]
    assert (events[1].reason, machine.open_utterance) == ("max_length", None)


def test_what_is_carried_over_pauses_and_ends_like_any_other():
    machine = limited(6.0)
    events = push(machine, "." * 50 + "S" * 190 + "." * 8 + "S" * 90 + "." * 50)
    assert kinds(events) == [Opened, Paused, Resumed, Closed, Opened, Paused, Closed]
    assert [event.reason for event in events if isinstance(event, Closed)] == ["max_length", "endpoint"]


# ---------------------------------------------------------------- the client finalizes


def test_without_endpointing_the_first_frame_opens():
    machine = assembler(None)
    (opened,) = push(machine, ".")
    assert (opened.at_sample, opened.start_sample) == (0, 0)
    push(machine, "." * 100)
    (closed,) = machine.finalize()
    assert (closed.end_sample, len(closed.samples), closed.speech_s) == (machine.position, machine.position, 0.0)
    (again,) = push(machine, ".")
    assert again.start_sample == closed.decided_sample


def test_without_endpointing_the_limit_cuts_and_leaves_nothing_out():
    machine = assembler(None, max_utterance_s=6.0)
    events = push(machine, "S" * 220 + "." * 9 + "S" * 150 + "." * 60 + "S" * 120 + "." * 60) + machine.finalize()
    closed = [event for event in events if isinstance(event, Closed)]
    assert [event.reason for event in closed] == ["max_length", "max_length", "finalize"]
    np.testing.assert_array_equal(
        np.concatenate([event.samples for event in closed[:2]]), np.arange(closed[2].start_sample, dtype=np.float32)
    )


@pytest.mark.parametrize(
    ("before_db", "noise_db", "behind_db", "left_out"),
    [
        (-90, -90, -90, True),  # nothing but the room behind the pause
        (-40, -40, -40, True),
        (-400, -55, -55, True),  # a capture that begins with digital silence
        (-90, -90, -55, False),  # soft speech that neither detector hears
        (-60, -60, -45, False),
        (-90, -90, -75, True),  # nobody hears that
    ],
)
@pytest.mark.parametrize(("endpointing", "reason"), [(None, "finalize"), (PATIENT, "stop"), (PATIENT, "drain")])
def test_a_client_that_ends_an_utterance_in_a_pause_leaves_out_nothing_but_quiet(
    endpointing, reason, before_db, noise_db, behind_db, left_out
):
    machine, random = assembler(endpointing), np.random.default_rng(0)
    levels = [before_db] * 50 + [-20] * 40 + [noise_db] * 20 + [behind_db] * 25
    audio = random.standard_normal((len(levels), FRAME_SAMPLES)) * 10 ** (np.array(levels)[:, None] / 20)
    activity = Activity(
        webrtc=np.array([level == -20 for level in levels]),
        probability=np.array([0.9 if level == -20 else 0.05 for level in levels], np.float32),
    )
    events = machine.push(audio.astype(np.float32), activity) + machine.finalize(reason)
    closed = events[-1]
    assert closed.reason == reason
    if left_out:
        assert kinds(events) == [Opened, Paused, Closed]
        np.testing.assert_array_equal(closed.samples, events[-2].samples)
    else:
        assert kinds(events) == [Opened, Paused, Resumed, Closed]
        assert closed.end_sample == closed.start_sample + len(closed.samples) == machine.position


def test_endpointing_can_be_switched_off_and_on():
    machine = assembler()
    machine.configure(None)
    assert kinds(push(machine, "." * 10)) == [Opened]
    machine.configure(OPTIONS)
    assert push(machine, "." * 100) == []
    assert kinds(machine.finalize()) == [Closed]
    assert kinds(push(machine, WORD)) == [Opened, Paused, Closed]


# ---------------------------------------------------------------- whatever comes in

runs = st.tuples(st.sampled_from("SSS..nq~"), st.integers(1, 40)).map(lambda run: run[0] * run[1])
scripts = st.lists(runs, min_size=1, max_size=12).map("".join)
endpointings = st.one_of(
    st.none(),
    st.builds(
        lambda low, span, limit, aggressiveness: Endpointing(
            silence_ms_min=low, silence_ms_max=low + span, max_utterance_s=limit, aggressiveness=aggressiveness
        ),
        st.integers(100, 800),
        st.integers(0, 800),
        st.floats(1.0, 28.0),
        st.integers(0, 3),
    ),
)
actions = st.one_of(
    scripts,
    st.just("finalize"),
    st.integers(1, 50_000),
    st.sampled_from(TurnHint),
    endpointings,
)


def run(machine: UtteranceAssembler, steps: list) -> list:
    events: list = []
    for step in steps:
        if step == "finalize":
            events += machine.finalize()
        elif isinstance(step, str):
            events += push(machine, step)
        elif isinstance(step, int):
            events += machine.skip(step)
        elif isinstance(step, TurnHint):
            machine.hint(step)
        else:
            machine.configure(step)
    return events + machine.finalize("stop")


@given(
    endpointing=endpointings,
    limit=st.floats(1.0, 28.0),
    pre_roll_ms=st.integers(0, 500),
    speculate_ms=st.integers(0, 400),
    steps=st.lists(actions, min_size=1, max_size=12),
)
def test_promises_of_every_utterance(endpointing, limit, pre_roll_ms, speculate_ms, steps):
    machine = assembler(endpointing, max_utterance_s=limit, pre_roll_ms=pre_roll_ms, speculate_ms=speculate_ms)
    longest = max([limit, *(step.max_utterance_s for step in [endpointing, *steps] if isinstance(step, Endpointing))])
    opened: Opened | None = None
    paused: Paused | None = None
    number = audio_end = last_at = last_end = 0
    for event in run(machine, steps):
        match event:
            case Opened():
                assert opened is None
                number += 1
                assert event.utterance == number
                assert audio_end <= event.start_sample <= event.at_sample
                assert event.at_sample >= last_end
                assert event.at_sample >= last_at
                opened, paused, last_at = event, None, event.at_sample
            case Paused():
                assert paused is None
                assert_audio(event.samples, start=opened.start_sample)
                paused = event
            case Resumed():
                assert paused is not None
                paused = None
            case Closed():
                assert event.utterance == opened.utterance == number
                assert event.start_sample == opened.start_sample
                assert_audio(event.samples, start=event.start_sample)
                audio_end = event.start_sample + len(event.samples)
                assert opened.at_sample <= event.end_sample <= audio_end <= event.decided_sample
                assert 0 < len(event.samples) <= longest * SAMPLE_RATE
                assert 0 <= event.speech_s <= len(event.samples) / SAMPLE_RATE + 1e-9
                assert 0 <= event.mean_probability <= 1
                assert event.silence_ms == 0 or event.reason == "endpoint"
                if paused is not None:
                    assert event.end_sample == paused.end_sample
                    np.testing.assert_array_equal(event.samples, paused.samples)
                opened, last_end = None, event.end_sample
    assert opened is None
    skipped = sum(step for step in steps if isinstance(step, int))
    pushed = sum(len(step) for step in steps if isinstance(step, str) and step != "finalize")
    assert machine.position == skipped + pushed * FRAME_SAMPLES


def key(event: Opened | Paused | Resumed | Closed) -> tuple:
    samples = getattr(event, "samples", np.empty(0))
    fields = [getattr(event, name) for name in event.__slots__ if name not in ("samples", "__weakref__")]
    return (type(event).__name__, *fields, len(samples), samples.tobytes())


@given(endpointing=endpointings, script=scripts, data=st.data())
def test_utterances_do_not_depend_on_how_frames_are_grouped(endpointing, script, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(script)), max_size=20)))
    pieces = [script[a:b] for a, b in zip([0, *cuts], [*cuts, len(script)], strict=True)]
    whole, cut = run(assembler(endpointing), [script]), run(assembler(endpointing), pieces)
    assert [key(event) for event in whole] == [key(event) for event in cut]
