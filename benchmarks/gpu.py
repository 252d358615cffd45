"""What a GPU does with Whisper, measured before anything is tuned for one: without --model, in turbo's shape.

1. `gpu_encode`: milliseconds of an encoder call by window and batch, and the GPU memory that batches have taken so far;
2. `gpu_decode`: milliseconds of one decoder step, greedy and with 5 beams, by batch;
3. `gpu_workers`: finals per second of one worker and of two, each of which has its own CUDA stream;
4. `gpu_life`: seconds to park (weights to main memory), unpark, unload and load;
5. `gpu_sessions`: real-time sessions of one daemon, with interims, until finals come late. Random weights never end a
   sentence, so each decode runs to its bound: a published model (--model) carries several times as many.

`--device cpu` runs it without a GPU, in a tiny shape: shows that it works, says nothing.
"""

from __future__ import annotations

import concurrent.futures
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
import trio

from benchmarks import density, load, report
from benchmarks.options import Options
from benchmarks.sessions import script
from sttd.engine import memory
from sttd.engine.whisper.features import WINDOW_BUCKETS
from tests.unit.engine.whisper import random_whisper

WINDOWS: Final = [frames for frames in WINDOW_BUCKETS if frames != 2000]
LATE_MS: Final = 1500.0  # a final that comes later than this after the end of speech: too many sessions


@attrs.frozen(kw_only=True)
class Setting:
    """What is measured where."""

    name: str
    device: str
    compute_type: str
    model: Path
    batches: tuple[int, ...]
    sessions: tuple[int, ...]
    repeats: int


def main(options: Options) -> None:
    """All five tables. Raises RuntimeError where there is no GPU and none was waived."""
    setting = _setting(options)
    whisper = _load(setting, workers=1)
    about = {"device": setting.device, "compute_type": str(whisper.compute_type)}
    report.write("gpu_encode", _encode_rows(whisper, setting), about, model=setting.name)
    report.write("gpu_decode", _decode_rows(whisper, setting), about, model=setting.name)
    report.write("gpu_life", _life_rows(whisper, setting), about, model=setting.name)
    del whisper
    report.write("gpu_workers", _worker_rows(setting), about, model=setting.name)
    about["until"] = f"final p95 above {LATE_MS:.0f} ms"
    report.write("gpu_sessions", list(_session_rows(setting)), about, model=setting.name)


def _setting(options: Options) -> Setting:
    import ctranslate2

    on_gpu = options.device == "cuda"
    if on_gpu and not ctranslate2.get_cuda_device_count():
        raise RuntimeError("there is no NVIDIA GPU that CTranslate2 can use (--device cpu only tries it out)")
    if options.named is not None:
        name, model = options.model.name, options.model.path
    elif on_gpu:
        name, model = "turbo-random", _random_model("turbo", random_whisper.TURBO, "float16")
    else:
        name, model = "small-random", _random_model("small", random_whisper.SMALL, "int8")
    if not on_gpu:
        return Setting(
            name=name,
            device="cpu",
            compute_type="int8",
            model=model,
            batches=(1, 4),
            sessions=(2, 4),
            repeats=2,
        )
    return Setting(
        name=name,
        device="cuda",
        compute_type="float16",
        model=model,
        batches=(1, 4, 8, 16, 32),
        sessions=(8, 16, 32, 64, 128, 256),
        repeats=5,
    )


def _random_model(name: str, shape: random_whisper.Shape, quantization: str) -> Path:
    path = report.OUTPUT / f"{name}-random"
    if not (path / "tokenizer.json").is_file():
        random_whisper.build(path, shape, quantization=quantization)
    return path


def _load(setting: Setting, *, workers: int) -> Any:
    import ctranslate2

    return ctranslate2.models.Whisper(
        str(setting.model), device=setting.device, compute_type=setting.compute_type, inter_threads=workers
    )


def _windows(whisper: Any, *, frames: int, batch: int) -> Any:
    import ctranslate2

    features = np.random.default_rng(0).standard_normal((batch, whisper.n_mels, frames)).astype(np.float32)
    return ctranslate2.StorageView.from_array(features)


def _took_s(call: Callable[[], object], *, repeats: int) -> float:
    """The median of some calls, after one that does not count. The results are read back, so the GPU is done."""
    call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def _gpu_mb() -> float | None:
    used = memory.process_vram_bytes()
    return None if used is None else round(used / 1e6)


def _encode_rows(whisper: Any, setting: Setting) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for batch in setting.batches:
        for frames in WINDOWS:
            features = _windows(whisper, frames=frames, batch=batch)
            seconds = _took_s(lambda f=features: whisper.encode(f, to_cpu=True), repeats=setting.repeats)
            rows.append(
                {
                    "batch": batch,
                    "window_frames": frames,
                    "call_ms": round(1000 * seconds, 2),
                    "item_ms": round(1000 * seconds / batch, 2),
                    "gpu_memory_mb": _gpu_mb(),
                }
            )
    return rows


def _generate(whisper: Any, encoded: Any, *, batch: int, beams: int, tokens: int) -> object:
    """Exactly so many tokens for each item: nothing may end early."""
    text_tokens = random_whisper.TEXT_TOKENS
    prompt = [text_tokens + 1, text_tokens + 2, _transcribe(whisper)]
    return whisper.generate(
        encoded, [prompt] * batch, beam_size=beams, max_length=2 * tokens, suppress_tokens=[text_tokens]
    )


def _transcribe(whisper: Any) -> int:
    """The id of <|transcribe|> in the vocabularies of `random_whisper` and of published multilingual models."""
    languages = 100 if whisper.n_mels == 128 else 99
    return random_whisper.TEXT_TOKENS + 2 + languages + 1


def _decode_rows(whisper: Any, setting: Setting) -> list[dict[str, object]]:
    """A step is what 64 tokens take beyond 32, a thirty-second of it: prompt and start-up cancel out."""
    rows: list[dict[str, object]] = []
    for batch in setting.batches:
        encoded = whisper.encode(_windows(whisper, frames=3000, batch=batch))
        for beams in (1, 5):
            few, many = (
                _took_s(
                    partial(_generate, whisper, encoded, batch=batch, beams=beams, tokens=tokens),
                    repeats=setting.repeats,
                )
                for tokens in (32, 64)
            )
            step_ms = 1000 * (many - few) / 32
            rows.append(
                {"batch": batch, "beams": beams, "step_ms": round(step_ms, 3), "item_ms": round(step_ms / batch, 3)}
            )
    return rows


def _life_rows(whisper: Any, setting: Setting) -> list[dict[str, object]]:
    row: dict[str, object] = {"loaded_mb": _gpu_mb()}
    steps: list[tuple[str, Callable[[], object]]] = [
        ("unload", whisper.unload_model),
        ("load", whisper.load_model),
    ]
    if setting.device == "cuda":
        steps += [("park", lambda: whisper.unload_model(to_cpu=True)), ("unpark", whisper.load_model)]
    for name, step in steps:
        began = time.perf_counter()
        step()
        row[f"{name}_s"] = round(time.perf_counter() - began, 3)
        row[f"{name}_mb"] = _gpu_mb()
    return [row]


def _worker_rows(setting: Setting) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for workers in (1, 2):
        whisper = _load(setting, workers=workers)
        for batch in (1, 8) if setting.device == "cuda" else (1,):
            features = _windows(whisper, frames=3000, batch=batch)

            def final(features: Any = features, batch: int = batch, whisper: Any = whisper) -> None:
                _generate(whisper, whisper.encode(features), batch=batch, beams=5, tokens=32)

            final()
            calls = 4 * setting.repeats
            with concurrent.futures.ThreadPoolExecutor(workers) as threads:
                began = time.perf_counter()
                for done in [threads.submit(final) for _ in range(calls)]:
                    done.result()
                seconds = time.perf_counter() - began
            rows.append({"workers": workers, "batch": batch, "finals_per_s": round(calls * batch / seconds, 1)})
        del whisper
    return rows


def _session_rows(setting: Setting) -> Iterator[dict[str, Any]]:
    preset = {"model": setting.model, "device": setting.device, "compute_type": setting.compute_type}
    settings = [f"presets.bench.{name}={value}" for name, value in preset.items()]
    settings += ["presets.bench.temperatures=[0.0]", "limits.sessions=1000", "limits.sessions_per_uid=1000"]
    arguments = [part for each in settings for part in ("--set", each)]
    speech = script()
    for sessions in setting.sessions:
        step = density.Load(sessions=sessions, message_ms=100)
        keep: dict[str, int] = {}
        with load.daemon("--model", "bench", *arguments, keep=keep) as directory:
            load.call(directory, "load", preset="bench", keep_alive_s=-1)
            row = trio.run(density.measure, directory, keep["pid"], step, speech.pcm)
        print(f"  {sessions} sessions done", file=sys.stderr, flush=True)
        yield row
        late = row["final_p95_ms"]
        if late is None or late > LATE_MS or row["refused"]:
            return
