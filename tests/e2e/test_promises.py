"""The promises of the audio plane, on real speech, through the real daemon, the real model and another client."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.running import RunningDaemon, check_promises, read_pcm, read_to_end, say, speak, start, transcribe

ASSETS = Path(__file__).parents[2] / "sttd" / "assets"
pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    daemon = RunningDaemon.start(tmp_path_factory.mktemp("demo"), "--tcp", "off", "--model", "demo")
    yield daemon
    assert daemon.stop() == 0


def words(text: str) -> list[str]:
    return "".join(char for char in text.lower() if char.isalnum() or char in " '").split()


def finals(events: list[dict]) -> list[dict]:
    return [event for event in events if event["type"] == "final"]


def test_the_bundled_sample_is_heard_as_it_was_spoken(demo):
    events = transcribe(demo, read_pcm(ASSETS / "sample.flac"), lang="en", words=True)
    check_promises(events)
    spoken = json.loads((ASSETS / "sample.json").read_text())["utterances"]
    heard = words(" ".join(final["text"] for final in finals(events)))
    wanted = words(" ".join(utterance["text"] for utterance in spoken))
    # The sample is chosen so that the model hears all of it; two words of slack are for another CPU's rounding.
    assert len(heard) == pytest.approx(len(wanted), abs=2)
    assert sum(a != b for a, b in zip(heard, wanted, strict=False)) <= 2
    for final in finals(events):
        starts = [word["start_s"] for word in final["words"]]
        assert starts == sorted(starts)
        assert all(final["start_s"] - 0.5 <= start <= final["end_s"] for start in starts)


def have_grown(interims):
    return len(interims) >= 3 and interims[-1]["stable_chars"] > 0


def test_interims_grow_into_the_final(demo):
    pcm = read_pcm(ASSETS / "sample.flac")
    with demo.connect() as socket_:
        start(socket_, lang="en", label="growing")
        events = speak(demo, socket_, pcm[: 16_000 * 2 * 4], until=have_grown)  # the first utterance
        say(socket_, "stop")
        events += read_to_end(socket_)
    check_promises(events)
    interims = [event for event in events if event["type"] == "interim"]
    assert len(interims) >= 3
    assert max(interim["stable_chars"] for interim in interims) > 0
    assert words(finals(events)[0]["text"])[:2] == ["hello", "world"]


def test_promises_hold_on_every_recording(demo, testdata, request):
    """On those of more than 15 s where slow tests run: they are eight of sixty, and nearly half of the audio."""
    rows = [json.loads(line) for line in (testdata / "speech" / "manifest.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["duration_s"] <= 15 or request.config.getoption("--run-slow")]
    silent = []
    for row in rows:
        events = transcribe(demo, read_pcm(testdata / "speech" / row["file"]), interim=row["duration_s"] < 8)
        check_promises(events)
        assert events[-1]["audio_s"] == pytest.approx(row["duration_s"], abs=0.05), row["file"]
        if row["kind"] == "speech" and not finals(events):
            silent.append(row["file"])
        if row["kind"] == "non-speech":
            assert not finals(events), row["file"]
    assert silent == []


def test_a_file_keeps_its_words_and_tells_its_progress(demo):
    data = (ASSETS / "sample.flac").read_bytes()
    events = transcribe(demo, data, kind="file", encoding="container", lang="en", chunk_bytes=32_768)
    check_promises(events)
    kinds = {event["type"] for event in events}
    assert "progress" in kinds
    assert "interim" not in kinds
    last = [event for event in events if event["type"] == "progress"][-1]
    assert last["done_s"] == pytest.approx(last["total_s"])
    text = words(" ".join(final["text"] for final in finals(events)))
    assert {"kitchen", "tuesday", "timer"} <= set(text)


def test_a_final_that_was_begun_early_says_the_same(demo, tmp_path):
    pcm = read_pcm(ASSETS / "sample.flac")
    early = finals(transcribe(demo, pcm, lang="en", interim=False))
    patient = RunningDaemon.start(
        tmp_path / "run", "--tcp", "off", "--model", "demo", "--set", "endpointing.speculate_ms=0"
    )
    late = finals(transcribe(patient, pcm, lang="en", interim=False))
    assert patient.stop() == 0
    assert [final["text"] for final in early] == [final["text"] for final in late]
    assert not any(final["timing"]["speculative"] for final in late)
