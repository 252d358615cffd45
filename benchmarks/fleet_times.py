"""What the simulated fleet is made of: times of decodes, utterances with their pauses, bytes; measured, kept as JSON.

`python -m benchmarks fleet --measure` writes `fleet_times.json` beside this module, with the machine; without the flag
`fleet` reads it, so that the same figures come out of the simulation on any machine.

- **Decodes**: through the project's own engine, on all cores, real speech of several lengths in batches of several
  sizes, as finals and as interims. What counts is CPU time over cores, the least of `REPEATS` takes: on a quiet machine
  that is the time on the clock, and on a busy one other programs add less to it.
- **Utterances**: the English recordings, through the project's own detectors and endpointer: how long each is, how long
  the endpointer waited behind its speech, and in which pauses a speculative final began.
- **Bytes**: what `backend = "remote"` sends, and what a client's speech takes as PCM and as Opus.
"""

from __future__ import annotations

import bisect
import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import attrs
import numpy as np

from benchmarks import report
from benchmarks.options import Model
from benchmarks.recordings import Ingest, as_bytes, english, room_noise
from sttd.core.types import SAMPLE_RATE, DecodeItem, DecodeOptions, Effort, Samples
from sttd.core.utterance import Closed, Opened, Paused, Resumed

FILE: Final = Path(__file__).with_suffix(".json")
FINALS_S: Final = (2.0, 5.0, 10.0, 20.0)
INTERIMS_S: Final = (2.0, 6.0, 12.0)
BATCHES: Final = (1, 4, 8)
REPEATS: Final = 2
LONGEST_CLIP_S: Final = 12.0
TAIL_S: Final = 2.0  # longer than the longest wait for an endpoint
OPUS_KBIT: Final = (16, 24, 32)


# ---------------------------------------------------------------- what the simulation asks


class Times(Protocol):
    """How long a replica, or an engine in an edge, takes for a call."""

    def __call__(self, effort: Effort, audio_s: Sequence[float]) -> float:
        """Seconds for a batch of items so long."""


@attrs.frozen(kw_only=True)
class Measured:
    """Times by effort, seconds of audio and items: straight lines between what was measured, and beyond.

    A batch of several lengths takes the mean of what batches of each alone would take.

    Args:
        calls: seconds of a call by effort, then by seconds of audio, then by items.
        factor: of a machine that is so many times as quick; an assumption, where it is not 1.
    """

    calls: Mapping[str, Mapping[float, Mapping[int, float]]]
    factor: float = 1.0

    def __call__(self, effort: Effort, audio_s: Sequence[float]) -> float:
        """As in `Times`."""
        rows = self.calls[effort.value if effort.value in self.calls else Effort.FULL.value]
        columns = {length: _between(row, len(audio_s)) for length, row in rows.items()}
        return sum(_between(columns, each) for each in audio_s) / len(audio_s) / self.factor


@attrs.frozen(kw_only=True)
class Straight:
    """Times of a device that was not measured: so much for a call, so much more for each item. An assumption."""

    call_s: float
    item_s: float

    def __call__(self, effort: Effort, audio_s: Sequence[float]) -> float:
        """As in `Times`."""
        return self.call_s + self.item_s * len(audio_s)


def _between(points: Mapping[Any, float], at: float) -> float:
    """The value at a place, on the straight line between its neighbours; never less than nothing."""
    places = sorted(points)
    if len(places) == 1:
        return float(points[places[0]])
    right = min(max(bisect.bisect_left(places, at), 1), len(places) - 1)
    low, high = places[right - 1], places[right]
    return max(0.0, float(points[low] + (points[high] - points[low]) * (at - low) / (high - low)))


@attrs.frozen(kw_only=True)
class Spoken:
    """An utterance as the endpointer saw it, in seconds from its first sound.

    Args:
        speech_s: to the end of its speech.
        lead_s: audio before its first sound that is decoded with it.
        wait_s: from the end of speech until it counts as ended.
        guesses: when a speculative final began, in a pause, and when the speaker went on; None: he did not.
        covered: the last of these has all of the speech, so it may be the final.
        gap_s: from the end of speech to the next utterance; None: drawn.
    """

    speech_s: float
    lead_s: float = 0.0
    wait_s: float = 0.0
    guesses: tuple[tuple[float, float | None], ...] = ()
    covered: bool = False
    gap_s: float | None = None

    def audio_s(self, at_s: float) -> float:
        """How much audio is decoded of it so late after its first sound."""
        return self.lead_s + min(at_s, self.speech_s)


@attrs.frozen(kw_only=True)
class Facts:
    """What `fleet_times.json` says."""

    models: Mapping[str, Measured]
    utterances: tuple[Spoken, ...]
    bytes: Mapping[str, float]
    machine: Mapping[str, Any]


def read(path: Path = FILE) -> Facts:
    """What was measured. Raises FileNotFoundError."""
    content = json.loads(path.read_text())
    return Facts(
        models={
            name: Measured(
                calls={
                    effort: {
                        float(length): {
                            int(items): call["cpu_s"] / model["machine"]["cores"] for items, call in row.items()
                        }
                        for length, row in rows.items()
                    }
                    for effort, rows in model["calls"].items()
                }
            )
            for name, model in content["models"].items()
        },
        utterances=tuple(
            Spoken(**{**each, "guesses": tuple(map(tuple, each["guesses"]))}) for each in content["utterances"]
        ),
        bytes=content["bytes"],
        machine={name: model["machine"] for name, model in content["models"].items()},
    )


# ---------------------------------------------------------------- measuring


def measure(model: Model) -> list[dict[str, object]]:
    """Measure a model, and what does not depend on one; write the file, and return the rows of the calls."""
    calls = _decodes(model)
    content = json.loads(FILE.read_text()) if FILE.is_file() else {"models": {}}
    content["models"][model.name] = {"machine": report.machine(), "calls": calls}
    content["utterances"] = [attrs.asdict(each) for each in utterances()]
    content["bytes"] = sizes()
    FILE.write_text(json.dumps(content, indent=1) + "\n")
    return [
        {"effort": effort, "audio_s": length, "items": items, **call}
        for effort, rows in calls.items()
        for length, row in rows.items()
        for items, call in row.items()
    ]


def _decodes(chosen: Model) -> dict[str, dict[float, dict[int, dict[str, float]]]]:
    from sttd.engine.contract import Preset
    from sttd.engine.presets import builtin_presets
    from sttd.engine.whisper.backend import WhisperBackend

    backend = WhisperBackend()
    preset = builtin_presets().get(chosen.preset) or Preset(name=chosen.name, backend="whisper", model=str(chosen.path))
    threads = len(os.sched_getaffinity(0))
    model = backend.load(backend.resolve(preset), cpu_threads=threads, num_workers=1)
    found: dict[str, dict[float, dict[int, dict[str, float]]]] = {}
    try:
        for effort, lengths in ((Effort.FULL, FINALS_S), (Effort.QUICK, INTERIMS_S)):
            for length_s in lengths:
                speech = _spoken_for(length_s)
                for items in BATCHES:
                    options = DecodeOptions(effort=effort, language="en")
                    batch = [DecodeItem(samples=samples, options=options) for samples in speech[:items]]
                    takes = [_take(lambda batch=batch: model.decode(batch)) for _ in range(REPEATS)]
                    best = {key: round(min(take[key] for take in takes), 4) for key in takes[0]}
                    found.setdefault(effort.value, {}).setdefault(length_s, {})[items] = best
    finally:
        model.close()
    return found


def _spoken_for(length_s: float) -> list[Samples]:
    """Whole clips of about that length, filled up with a quiet room or cut; long ones are joined of two.

    Pieces out of the middle of a sentence are doubted and decoded again: they would take longer than utterances do.
    """
    parts = 1 if length_s <= LONGEST_CLIP_S else 2
    clips = sorted(english(), key=lambda clip: abs(clip.duration_s - length_s / parts))[: max(BATCHES)]
    size = round(length_s * SAMPLE_RATE)
    found = []
    for number in range(len(clips)):
        samples = np.concatenate([clips[(number + part) % len(clips)].samples for part in range(parts)])[:size]
        found.append(np.concatenate([samples, room_noise(length_s)[: size - len(samples)]]))
    return found


def _take(call: Any) -> dict[str, float]:
    began, cpu = time.perf_counter(), time.process_time()
    call()
    return {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}


def utterances() -> list[Spoken]:
    """Those of the English recordings, each clip with a quiet room behind it."""
    found, noise = [], room_noise(30.0)
    for clip in english():
        audio = np.pad(clip.samples, (0, round(TAIL_S * SAMPLE_RATE)))
        found += spoken_in(as_bytes(audio + np.resize(noise, len(audio))))
    return [attrs.evolve(each, gap_s=None) for each in found]


def spoken_in(data: bytes, *, message_ms: int = 20) -> list[Spoken]:
    """The utterances of 16 kHz PCM, by the project's own detectors and endpointer, which begins anew behind its end.

    Nothing is known before the message is there that says it, so waits are longer with long messages.
    """
    ingest = Ingest(message_ms=message_ms)
    found: list[Spoken] = []
    bounds: list[tuple[int, int]] = []
    opened: Opened | None = None
    guesses: list[tuple[int, int | None]] = []
    covered = heard = 0  # up to here the last guess has the speech; what was heard
    for message in ingest.messages(data):
        frames = ingest.decoder.push(message)
        heard += frames.size
        for event in ingest.assembler.push(frames, ingest.detector.push(frames)):
            match event:
                case Opened():
                    opened, guesses = event, []
                case Paused():
                    guesses.append((heard, None))
                    covered = event.end_sample
                case Resumed() if guesses:
                    guesses[-1] = (guesses[-1][0], heard)
                case Closed() if opened is not None:
                    whole = covered >= event.end_sample
                    found.append(_spoken(opened, guesses, event, decided=heard, covered=whole))
                    bounds.append((opened.at_sample, event.end_sample))
                    opened = None
                case _:
                    pass
    nexts = [at for at, _ in bounds[1:]] + [heard + at for at, _ in bounds[:1]]
    gaps_s = [(at - end) / SAMPLE_RATE for at, (_, end) in zip(nexts, bounds, strict=True)]
    return [attrs.evolve(each, gap_s=gap_s) for each, gap_s in zip(found, gaps_s, strict=True)]


def _spoken(
    opened: Opened, guesses: list[tuple[int, int | None]], closed: Closed, *, decided: int, covered: bool
) -> Spoken:
    def since(sample: int) -> float:
        return round((sample - opened.at_sample) / SAMPLE_RATE, 3)

    return Spoken(
        speech_s=since(closed.end_sample),
        lead_s=-since(opened.start_sample),
        wait_s=round((decided - closed.end_sample) / SAMPLE_RATE, 3),
        guesses=tuple((since(at), None if until is None else since(until)) for at, until in guesses),
        covered=bool(guesses) and covered and guesses[-1][1] is None,
    )


def sizes() -> dict[str, float]:
    """Bytes of a request beside its audio; of a second of a client's speech, over TCP and TLS, by how it is sent."""
    from sttd.engine.remote.asking import request_for

    item = DecodeItem(samples=np.zeros(SAMPLE_RATE, np.float32), options=DecodeOptions(language="en"))
    request = request_for(
        item,
        model="openai/whisper-large-v3",
        answer="verbose_json",
        send_priority=True,
        deadline_s=10,
        boundary="0" * 32,
    )
    head = 400  # chosen: the request line, host, agent, token and what a proxy adds
    found: dict[str, float] = {"request": len(request.body) - 2 * SAMPLE_RATE + head}
    for message_ms in (20, 100):
        payload = 2 * SAMPLE_RATE * message_ms // 1000
        found[f"pcm_{message_ms}ms"] = on_the_wire(payload + 8) * 1000 / message_ms
    speech = np.concatenate([clip.samples for clip in english()])
    for kbit in OPUS_KBIT:
        found[f"opus_{kbit}kbit"] = on_the_wire(len(opus(speech, kbit)) / len(speech) * SAMPLE_RATE / 10) * 10
    return {name: round(value) for name, value in found.items()}


def on_the_wire(message: float) -> float:
    """Bytes of a message with TLS (22) and, for each 1448 of it, the headers of TCP, IP and Ethernet (66)."""
    return message + 22 + 66 * -(-(message + 22) // 1448)


def opus(samples: Samples, kbit: int) -> bytes:
    """An Ogg file of it, as a browser or `opusenc` sends one."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=48_000, layout="mono", options={"application": "voip"})
        stream.bit_rate = 1000 * kbit
        resampler = av.AudioResampler(format="s16", layout="mono", rate=48_000)
        pcm = np.frombuffer(as_bytes(samples), "<i2").reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for block in [*resampler.resample(frame), *resampler.resample(None)]:
            for packet in stream.encode(block):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return file.getvalue()
