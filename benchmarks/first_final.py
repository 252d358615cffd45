"""From nothing to the first text: `sttd pull` into an empty cache, a daemon, and a real clip, until its final is there.

Everything a first user waits for, in the order of the columns: the download, the start of the daemon, and the first
final, which loads the model. `again_s` is the second final, with the model loaded. The clip is sent as fast as the
daemon takes it, so that nobody's speech is in the times.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio

from benchmarks import load, report
from benchmarks.options import USUAL_MODEL, Options
from benchmarks.recordings import as_bytes
from benchmarks.recordings import load as load_recordings
from benchmarks.words import errors

CLIP = "rh-lamp"
PULL_S = 900  # chosen: `base` at 1 Mbit/s would take longer, and nobody waits so long for a benchmark


def main(options: Options) -> None:
    """One row. Raises RuntimeError where the model cannot be pulled."""
    name = options.named or USUAL_MODEL
    with tempfile.TemporaryDirectory(prefix="sttd-bench-") as cache:
        environ = {"XDG_CACHE_HOME": cache, "HF_HOME": f"{cache}/huggingface"}
        began = time.perf_counter()
        _pull(name, options.source, environ)
        pulled = time.perf_counter()
        with load.daemon("--model", name, environ=environ) as directory:
            ready = time.perf_counter()
            first_s, again_s, found = trio.run(_speak, directory)
        bytes_ = sum(path.stat().st_size for path in Path(cache).rglob("*") if path.is_file() and not path.is_symlink())
    row = {
        "source": options.source,
        "cache_mb": round(bytes_ / 1e6, 1),
        "pull_s": round(pulled - began, 1),
        "serve_s": round(ready - pulled, 2),
        "first_final_s": round(first_s, 2),
        "in_all_s": round(ready - began + first_s, 1),
        "again_s": round(again_s, 2),
        "word_errors_pct": found,
    }
    report.write("first_final", [row], {"clip": CLIP}, model=name)


def _pull(name: str, source: str, environ: dict[str, str]) -> None:
    config = Path(environ["XDG_CACHE_HOME"]) / "empty.toml"
    config.touch()
    command = [sys.executable, "-m", "sttd", "pull", name, "--config", str(config), "--source", source]
    done = subprocess.run(
        command, env=load.clean_environ(environ), capture_output=True, text=True, timeout=PULL_S, check=False
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1])


async def _speak(directory: Path) -> tuple[float, float, float]:
    """Seconds to the first final and to the second one, each from connecting on, and the word errors of the first."""
    clip = load_recordings(names=(CLIP,))[CLIP]
    frames = load.chunked(as_bytes(clip.samples), chunk_ms=500)
    took_s, texts = [], []
    for _ in range(2):
        began = trio.current_time()
        async with load.connect(directory, lang="en", endpointing=False, interim=False) as session:
            for data in frames:
                await session.stream.send_all(data)
            await session.say(op="finalize")
            async for event in session.events():
                if event["type"] == "final":
                    took_s.append(trio.current_time() - began)
                    texts.append(event["text"])
                    break
                if event["type"] == "error":
                    raise RuntimeError(event["message"])
    return took_s[0], took_s[1], errors(clip.text, texts[0]).rate_pct
