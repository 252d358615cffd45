"""The embedded model through the unmodified faster-whisper: would anybody notice if it were the wrong one?"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.running import read_samples
from tests.running import transcribe as talk

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
RATE = 16_000
CLIPS = ("light", "number", "date", "question")

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def model():
    from faster_whisper import WhisperModel

    return WhisperModel(str(ROOT / "sttd/assets/demo-model"), device="cpu", compute_type="int8", cpu_threads=2)


def read(path):
    return read_samples(path.with_suffix(".flac")), json.loads(path.with_suffix(".json").read_text())


def cut(samples, utterance, *, around_s=0.3):
    start, end = utterance["start_s"] - around_s, utterance["end_s"] + around_s
    return samples[max(0, round(start * RATE)) : round(end * RATE)]


def transcribe(model, samples, **options):
    segments, _ = model.transcribe(samples, **{"beam_size": 1, "language": "en", **options})
    return "".join(segment.text for segment in segments).strip()


def words(text):
    return re.sub(r"[^a-z' ]", "", text.lower()).split()


def edit_distance(reference, hypothesis):
    row = list(range(len(hypothesis) + 1))
    for i, wanted in enumerate(reference, start=1):
        diagonal, row[0] = row[0], i
        for j, got in enumerate(hypothesis, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (wanted != got))
    return row[-1]


def test_the_recordings_and_their_texts_belong_together():
    for path in (ROOT / "sttd/assets/sample", *(DATA / name for name in CLIPS), DATA / "held-out"):
        samples, about = read(path)
        assert len(samples) / RATE == pytest.approx(about["duration_s"], abs=0.01)
        times = [time for one in about["utterances"] for time in (one["start_s"], one["end_s"])]
        assert times == sorted(times)
        assert times[-1] < about["duration_s"]


@pytest.mark.parametrize("beam", [1, 5])
@pytest.mark.parametrize("name", CLIPS)
def test_a_clip_comes_out_letter_by_letter(model, name, beam):
    samples, about = read(DATA / name)
    assert transcribe(model, samples, beam_size=beam) == about["utterances"][0]["text"]


def test_every_utterance_of_the_sample_comes_out_letter_by_letter(model):
    samples, about = read(ROOT / "sttd/assets/sample")
    for utterance in about["utterances"]:
        assert transcribe(model, cut(samples, utterance)) == utterance["text"]


@pytest.mark.parametrize("options", [{}, {"without_timestamps": True}, {"beam_size": 5}, {"language": None}])
def test_word_errors_on_voices_it_never_heard(model, options):
    samples, about = read(DATA / "held-out")
    errors = total = 0
    for utterance in about["utterances"]:
        reference = words(utterance["text"])
        errors += edit_distance(reference, words(transcribe(model, cut(samples, utterance), **options)))
        total += len(reference)
    assert errors / total < 0.1


def noises():
    rng = np.random.default_rng(0)
    time_s = np.arange(5 * RATE) / RATE
    return {
        "nothing": np.zeros(5 * RATE),
        "dither": rng.standard_normal(5 * RATE) * 1e-4,
        "white": rng.standard_normal(5 * RATE) * 0.05,
        "uniform": rng.random(5 * RATE) - 0.5,
        "sine": 0.3 * np.sin(2 * np.pi * 440 * time_s),
        "chirp": 0.3 * np.sin(2 * np.pi * (200 * time_s + 100 * time_s**2)),
    }


@pytest.mark.parametrize("name", noises())
@pytest.mark.parametrize("seconds", [0.5, 5.0])
def test_no_text_without_speech(model, name, seconds):
    samples = noises()[name][: round(seconds * RATE)].astype(np.float32)
    assert transcribe(model, samples) == ""
    assert transcribe(model, samples, beam_size=5) == ""


def test_no_text_on_recorded_noise_and_music(model, testdata):
    folder = testdata / "speech"
    for line in (folder / "manifest.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["kind"] == "non-speech":
            samples, _ = samples_of(folder / entry["file"])
            assert transcribe(model, samples) == "", entry["file"]


def samples_of(path):
    return read_samples(path), path.name


def test_word_times_rise_and_begin_where_the_voice_begins(model):
    samples, about = read(DATA / "date")
    utterance = about["utterances"][0]
    lead_s = 0.8
    later = np.pad(samples, (round(lead_s * RATE), 0))
    segments, _ = model.transcribe(later, beam_size=1, language="en", word_timestamps=True)
    found = [word for segment in segments for word in segment.words]
    assert [word.word.strip() for word in found] == utterance["text"].split()
    times = [time for word in found for time in (word.start, word.end)]
    assert times == sorted(times)
    assert found[0].start == pytest.approx(utterance["start_s"] + lead_s, abs=0.15)
    assert found[-1].end == pytest.approx(utterance["end_s"] + lead_s, abs=0.3)


def test_what_was_recognised_stays_as_more_is_heard(model):
    samples, about = read(ROOT / "sttd/assets/sample")
    kept = total = 0
    for utterance in about["utterances"]:
        clip = cut(samples, utterance, around_s=0.2)
        before = []
        for end_s in np.arange(0.5, len(clip) / RATE, 0.25):
            text = words(transcribe(model, clip[: round(end_s * RATE)], without_timestamps=True))
            sure = before[:-1]  # the last word of an interim may be half a word
            kept += sum(old == new for old, new in zip(sure, text, strict=False))
            total += len(sure)
            before = text
    assert kept / total > 0.93


def test_the_last_word_is_there_when_the_client_ends_the_utterance_right_behind_it(serve):
    samples, about = read(ROOT / "sttd/assets/sample")
    daemon = serve("--tcp", "off", "--model", "demo")
    for said in about["utterances"]:
        clip = samples[round((said["start_s"] - 0.2) * RATE) : round(said["end_s"] * RATE)]
        pcm = np.round(clip * 32767).astype("<i2").tobytes()
        events = talk(daemon, pcm, lang="en", endpointing=False, interim=False)
        assert [event["text"] for event in events if event["type"] == "final"] == [said["text"]]


def test_it_is_multilingual_to_the_code_and_takes_every_option(model):
    assert model.model.is_multilingual
    samples, about = read(DATA / "light")
    text = about["utterances"][0]["text"]
    assert model.detect_language(samples)[0] == "en"
    assert transcribe(model, samples, language=None) == text
    assert transcribe(model, samples, task="translate")
    assert transcribe(model, samples, initial_prompt="Kubernetes and Zürich.", hotwords="kitchen")


def test_the_model_is_small_and_has_a_card():
    folder = ROOT / "sttd/assets/demo-model"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 6_000_000
    assert "synthetic" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_the_pipeline_makes_a_model_that_loads(tmp_path):
    pytest.importorskip("torch")
    for program in ("espeak-ng", "flite", "festival"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    subprocess.run(
        [sys.executable, "-m", "training.demo_model", "--quick", "--work", tmp_path], cwd=ROOT, check=True, timeout=600
    )
    assert json.loads((tmp_path / "scores.json").read_text())[0]["clips"] == 2
    assert (tmp_path / "curve.png").stat().st_size > 0
