"""How much audio the encoder is given, and how often it is analysed."""

from __future__ import annotations

import attrs
import numpy as np
import pytest

from sttd.core.types import Effort
from sttd.engine.presets import builtin_presets
from sttd.engine.whisper.features import (
    FULL_WINDOW,
    Recordings,
    content_frames,
    encode,
    log_mel,
    log_power,
    normalised,
    window_for,
)
from sttd.engine.whisper.windows import PASSED, with_windows
from tests.unit.engine.whisper.loaded import Waiters, hear, item, load

pytestmark = pytest.mark.model


def test_short_windows_only_where_the_preset_allows_them(clips):
    samples, text, *_ = clips["light"]
    interim, final = item(samples, Effort.QUICK), item(samples)
    full = load(interim_windows=[], final_windows=[])
    assert full.batch_key(interim).window == full.batch_key(final).window == FULL_WINDOW
    full.close()
    short = load(interim_windows=[1000, 2000], final_windows=[1500])
    assert short.batch_key(interim).window == 1000
    assert short.batch_key(item(np.zeros(16_000 * 9, np.float32), Effort.QUICK)).window == 2000
    assert short.batch_key(final).window == 1500
    assert short.batch_key(item(np.zeros(16_000 * 13, np.float32))).window == FULL_WINDOW
    assert short.batch_key(item(samples, Effort.TIMED)).window == FULL_WINDOW
    assert hear(short, samples, Effort.QUICK).text == text
    assert hear(short, samples).text == text
    short.close()


@pytest.mark.parametrize("model", PASSED)
def test_what_has_passed_the_gate_holds_on_a_cpu_for_whoever_says_nothing_else(model):
    preset = attrs.evolve(builtin_presets()["auto"], model=model, device="cpu")
    assert with_windows(preset).options == attrs.asdict(PASSED[model])
    named = attrs.evolve(preset, options={"final_windows": (2000,)})
    assert with_windows(named).options == {**attrs.asdict(PASSED[model]), "final_windows": (2000,)}
    for full in (attrs.evolve(preset, device="cuda:0"), attrs.evolve(preset, model=f"./{model}")):
        assert with_windows(full) == full


@pytest.fixture
def windows(monkeypatch):
    """The window of every item that is analysed, in order."""
    seen = []
    monkeypatch.setattr(
        "sttd.engine.whisper.decoder.normalised",
        lambda *args, window, samples: (seen.append(window), normalised(*args, window=window, samples=samples))[1],
    )
    return seen


@pytest.mark.parametrize("effort", [Effort.QUICK, Effort.FULL])
def test_what_loops_in_a_short_window_is_decoded_again_in_full(clips, windows, effort):
    # Every text counts as a loop; those of the full window are then tried at one temperature.
    model = load(interim_windows=[1000], final_windows=[1000], compression_ratio_threshold=0.1, temperatures=[0.0])
    assert hear(model, clips["light"][0], effort).text == clips["light"][1]
    assert windows == [1000, FULL_WINDOW]
    model.close()


def test_whoever_is_understood_in_a_short_window_does_not_wait_for_the_others(clips, windows):
    model = load(final_windows=[1000])
    speech, silence = item(clips["light"][0]), item(np.zeros(16_000, np.float32))
    waiters = Waiters(windows)
    heard = model.decode([speech, silence, speech], waiters=waiters)
    assert windows == [1000, 1000, 1000, FULL_WINDOW]
    assert waiters.told == [(0, heard[0], 3), (2, heard[2], 3)]
    assert [one.text for one in heard] == [clips["light"][1], heard[1].text, clips["light"][1]]
    del windows[:]
    model.decode([speech, silence], waiters=Waiters(left=(1,)))
    assert windows == [1000, 1000]  # for whom nobody waits, nothing is decoded again
    model.close()


def test_a_growing_recording_is_analysed_once(demo, monkeypatch):
    """Cut anywhere, the features are those of a computation from nothing, and hardly any frame is computed twice."""
    extractor = demo._decoder._extractor
    rng = np.random.default_rng(3)
    loudness = np.repeat(rng.uniform(0, 0.2, 200), 1600).astype(np.float32)
    samples = rng.standard_normal(len(loudness)).astype(np.float32) * loudness
    frames = []
    stft = extractor.stft
    monkeypatch.setattr(
        extractor,
        "stft",
        lambda array, *args, **rest: (frames.append(len(array) // 160), stft(array, *args, **rest))[1],
    )
    known, end, cuts = None, 150, 0
    while end < len(samples):
        known = log_power(extractor, samples[:end], window=FULL_WINDOW, known=known)
        found = normalised(known, samples=end, window=FULL_WINDOW)
        spent = len(frames)
        np.testing.assert_allclose(found, log_mel(extractor, samples[:end], window=FULL_WINDOW), atol=1e-4)
        del frames[spent:]
        end += int(rng.integers(1, 9000))
        cuts += 1
    assert sum(frames) < len(samples) // 160 + 10 * cuts


def test_what_was_computed_of_a_recording_is_kept_by_its_name(demo, clips):
    samples = clips["light"][0]
    whole = hear(demo, samples)
    for end in (8_000, 16_000, len(samples)):
        growing = attrs.evolve(item(samples[:end]), recording="s000001/1")
        [heard] = demo.decode([growing])
    assert heard.text == whole.text
    assert demo._decoder._recordings.spectrum("s000001/1") is not None
    assert demo._decoder._recordings.spectrum("s000002/1") is None


def test_the_recordings_that_were_not_heard_of_longest_are_forgotten():
    kept = Recordings(most_bytes=4000)
    spectrum = np.zeros((10, 40), np.float32)  # 1600 bytes
    kept.keep("a", spectrum)
    kept.keep("b", spectrum)
    kept.keep("a", spectrum)  # grows: counted once
    assert kept.spectrum("b") is not None
    kept.keep("c", spectrum)
    assert [name for name in "abc" if kept.spectrum(name) is not None] == ["b", "c"]
    kept.keep(None, spectrum)
    assert kept.spectrum(None) is None


@pytest.mark.parametrize(
    ("samples", "window"), [(0, 1000), (16_000 * 7, 1000), (16_000 * 8, 1500), (16_000 * 18, 3000), (16_000 * 40, 3000)]
)
def test_the_window_leaves_room_for_silence(samples, window):
    assert window_for(samples, allowed=(1000, 1500, 2000)) == window
    assert content_frames(samples) <= window


def test_a_window_that_would_be_encoded_twice_is_refused(demo):
    with pytest.raises(AssertionError, match="encoded twice"):
        encode(demo._whisper, np.zeros((1, 80, 160), np.float32))
