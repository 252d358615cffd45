"""Beside two neighbours: WhisperLive and wyoming-faster-whisper, the same model, machine and clips, in one run.

Each server gets an environment of its own under `build/peers`, made here from the package index; each is spoken to
in its own protocol, by the small clients below (one `Heard` log for all). The clips are the utterances of the bundled
sample, spoken at real-time pace by 1, 4 and 8 clients, each beginning with another utterance. There are two ways to
know that an utterance is over, and a server is measured in those that it has:

- `told`: the client says so (sttd: `finalize`; Wyoming: `audio-stop`). Latency counts from there.
- `heard`: the server hears it. Audio goes on without a break; latency counts from the true end of speech.

A `final` is text that will not change: sttd's `final`, Wyoming's `transcript`, WhisperLive's completed segments.
Its latency is that of the last word of the utterance. `shown` is when the text on the screen reached its last form,
final or not. A word is lost if no word of the final text, right or wrong, stands in its place after alignment;
`lost_shown_pct` counts the text that was shown as well. `server_cpu_s` is CPU time for each second of speech.

WhisperLive runs with one shared model, its own suggestion for many clients, one row with its batching and one
without; it counts a segment as complete when it has repeated itself or another follows. The demo model knows
sentences of a few seconds, and WhisperLive decodes everything since the last completed segment in one piece: that is
harder for the demo model than for a published one. Set STTD_BENCH_MODEL to the directory of one to see that.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import trio
import trio_websocket

from benchmarks import load, report
from benchmarks.words import align, words

PEERS = report.ROOT / "build" / "peers"
CLIENTS = (1, 4, 8)
CHUNK_MS = 100
TAIL_S = 3.0  # of quiet after the last word, for those that wait for it
READY_S = 60
HANGS_S = 180
MODEL = Path(os.environ.get("STTD_BENCH_MODEL") or load.ASSETS / "demo-model")
THREADS = len(os.sched_getaffinity(0))

# WhisperLive imports torch to ask for a GPU and for a backend that is not used; without it this says there is none.
TORCH = "class cuda:\n    is_available = staticmethod(lambda: False)\n"
WHISPER_LIVE = """
import sys
from whisper_live.server import TranscriptionServer
TranscriptionServer().run(
    "127.0.0.1", port=int(sys.argv[1]), backend="faster_whisper", faster_whisper_custom_model_path=sys.argv[2],
    single_model=True, max_clients=16, batch_enabled=sys.argv[3] == "batched", batch_max_queue_wait_s=60.0,
    batch_max_admissions_per_s=100.0, batch_beam_size=5)
"""


@attrs.frozen
class Spoken:
    """One utterance of a client's script: its audio from one pause to the next, and where the speech is in it."""

    pcm: bytes
    start_s: float
    end_s: float
    text: str


@attrs.define
class Heard:
    """What one client has got: (seconds since it began, final text, shown text), whenever either changed."""

    log: list[tuple[float, str, str]] = attrs.field(factory=list)
    ends_s: list[float] = attrs.field(factory=list)  # when each utterance of the script was over, on the same clock

    def note(self, at_s: float, final: str, shown: str) -> None:
        if not self.log or self.log[-1][1:] != (final, shown):
            self.log.append((at_s, final, shown))


Talk = Callable[[list[Spoken]], Awaitable[list[Heard]]]  # of each utterance, or one of all


@attrs.frozen
class Scores:
    """What the logs of some clients say; latencies in seconds."""

    final_s: list[float] = attrs.field(factory=list)
    shown_s: list[float] = attrs.field(factory=list)
    said: int = 0
    lost: int = 0
    lost_shown: int = 0
    wrong: int = 0

    def __add__(self, other: Scores) -> Scores:
        pairs = zip(attrs.astuple(self), attrs.astuple(other), strict=True)
        return Scores(*(mine + theirs for mine, theirs in pairs))


def main() -> None:
    """All servers and numbers of clients, one after the other."""
    rows: list[dict[str, object]] = []
    with _sttd() as (directory, pid):
        rows += _measure("sttd", "told", pid, lambda script: _sttd_told(directory, script))
        rows += _measure("sttd", "heard", pid, lambda script: _sttd_heard(directory, script))
    with _wyoming() as (port, pid):
        rows += _measure("wyoming-faster-whisper", "told", pid, lambda script: _wyoming_told(port, script))
    for mode in ("serial", "batched"):
        with _whisper_live(mode) as (port, pid):
            rows += _measure(f"WhisperLive, {mode}", "heard", pid, lambda script: _whisper_live_heard(port, script))
    report.write(
        "peers",
        rows,
        {
            "model": f"{MODEL.name}, int8, {THREADS} threads, beam 5, the same directory for all",
            "versions": "whisper-live 0.10.0 (faster-whisper 1.2.0), wyoming-faster-whisper 3.8.1",
        },
    )


def _measure(server: str, mode: str, pid: int, talk: Talk) -> list[dict[str, object]]:
    rows = []
    script = _script()
    trio.run(talk, script[:1])  # the first call warms every server up
    for clients in CLIENTS:
        cpu = load.cpu_s(pid)
        scores = trio.run(_all_clients, talk, script, clients)
        speech_s = clients * sum(each.end_s - each.start_s for each in script)
        rows.append(
            {
                "server": server,
                "mode": mode,
                "clients": clients,
                "final_p50_ms": _ms(scores.final_s, 0.5),
                "final_p95_ms": _ms(scores.final_s, 0.95),
                "shown_p50_ms": _ms(scores.shown_s, 0.5),
                "shown_p95_ms": _ms(scores.shown_s, 0.95),
                "lost_pct": round(100 * scores.lost / scores.said, 1),
                "lost_shown_pct": round(100 * scores.lost_shown / scores.said, 1),
                "wrong_pct": round(100 * scores.wrong / scores.said, 1),
                "server_cpu_s": round((load.cpu_s(pid) - cpu) / speech_s, 2),
                "load_1m": round(os.getloadavg()[0], 1),
            }
        )
        print(f"  {server}, {mode}, {clients} client(s) done", file=sys.stderr)
    return rows


async def _all_clients(talk: Talk, script: list[Spoken], clients: int) -> Scores:
    total: list[Scores] = []

    async def one(number: int) -> None:
        await trio.sleep(number * 0.37)  # nobody begins together
        mine = script[number % len(script) :] + script[: number % len(script)]
        with trio.move_on_after(HANGS_S):
            logs = await talk(mine)
            parts = [mine] if len(logs) == 1 else [[each] for each in mine]
            total.extend(score(part, log) for part, log in zip(parts, logs, strict=True))
            return
        total.append(score(mine, Heard()))  # every word is lost

    async with trio.open_nursery() as nursery:
        for number in range(clients):
            nursery.start_soon(one, number)
    return sum(total, Scores())


def _ms(values: list[float], share: float) -> int | None:
    value = load.percentile(values, share)
    return None if value is None else round(1000 * value)


def score(script: list[Spoken], heard: Heard) -> Scores:
    """Latencies and lost words of one client. An utterance without any final word has no latency: its words are lost.

    Final text only grows, so a word is final when the text first has as many words as up to it in the end. Shown text
    changes: a word is settled when the text up to it has changed for the last time.
    """
    said = [words(each.text) for each in script]
    flat = [word for utterance in said for word in utterance]
    final = words(heard.log[-1][1]) if heard.log else []
    shown = words(heard.log[-1][2]) if heard.log else []
    places, shown_places = align(flat, final), align(flat, shown)
    final_s, shown_s = [], []
    at = 0
    for index, utterance in enumerate(said):
        mine = slice(at, at + len(utterance))
        at += len(utterance)
        if index >= len(heard.ends_s):
            break
        if found := [place for place in places[mine] if place is not None]:
            until = found[-1] + 1
            final_s.append(_first(heard, lambda log, until=until: len(words(log[1])) >= until) - heard.ends_s[index])
        if found := [place for place in shown_places[mine] if place is not None]:
            shown_s.append(_settled(heard, shown[: found[-1] + 1]) - heard.ends_s[index])
    wrong = sum(place is not None and final[place] != word for word, place in zip(flat, places, strict=True))
    return Scores(final_s, shown_s, len(flat), places.count(None), shown_places.count(None), wrong)


def _first(heard: Heard, holds: Callable[[tuple[float, str, str]], bool]) -> float:
    return next(log[0] for log in heard.log if holds(log))


def _settled(heard: Heard, beginning: list[str]) -> float:
    """When the shown text began so for good."""
    at_s = heard.log[-1][0]
    for log in reversed(heard.log):
        if words(log[2])[: len(beginning)] != beginning:
            break
        at_s = log[0]
    return at_s


# ------------------------------------------------------------------------------------------------ what is spoken


def _script() -> list[Spoken]:
    """The sample, cut in the middle of its pauses."""
    pcm, truth = load.sample()
    ends = [said["end_s"] for said in truth]
    starts = [said["start_s"] for said in truth]
    cuts = [0.0, *((end + start) / 2 for end, start in zip(ends, starts[1:], strict=False)), len(pcm) / 2 / load.RATE]
    return [
        Spoken(pcm[_byte(begin) : _byte(end)], said["start_s"] - begin, said["end_s"] - begin, said["text"])
        for said, begin, end in zip(truth, cuts, cuts[1:], strict=False)
    ]


def _byte(at_s: float) -> int:
    return 2 * round(at_s * load.RATE)


def _stream(script: list[Spoken], heard: Heard) -> bytes:
    """All utterances without a break and the quiet after them; notes where each ends."""
    at = 0
    for each in script:
        heard.ends_s.append(at / 2 / load.RATE + each.end_s)
        at += len(each.pcm)
    noise = np.random.default_rng(0).normal(0, 3.3, round(TAIL_S * load.RATE))  # that of the sample's pauses
    return b"".join(each.pcm for each in script) + noise.astype("<i2").tobytes()


async def _paced(pcm: bytes, send: Callable[[bytes], Awaitable[None]]) -> None:
    """Chunks at real-time pace, each when its last sample has been spoken."""
    size = load.RATE * 2 * CHUNK_MS // 1000
    began = trio.current_time()
    for number, at in enumerate(range(0, len(pcm), size), 1):
        await trio.sleep_until(began + number * CHUNK_MS / 1000)
        await send(pcm[at : at + size])


def _told_parts(script: list[Spoken]) -> Iterator[tuple[float, bytes]]:
    """(seconds of quiet before, audio that is sent) of each utterance: a key is held from before its first word on."""
    rest_s = 0.0
    for each in script:
        begin_s = max(0.0, each.start_s - 0.2)
        yield rest_s + begin_s, each.pcm[_byte(begin_s) : _byte(each.end_s)]
        rest_s = len(each.pcm) / 2 / load.RATE - each.end_s


# ------------------------------------------------------------------------------------------------ sttd


@contextmanager
def _sttd() -> Iterator[tuple[Path, int]]:
    keep: dict[str, Any] = {}
    preset = ["--set", f"presets.demo.model={MODEL}"] if "STTD_BENCH_MODEL" in os.environ else []
    with load.daemon("--model", "demo", *preset, keep=keep) as directory:
        load.call(directory, "load", preset="demo", keep_alive_s=-1)
        yield directory, keep["pid"]


async def _sttd_told(directory: Path, script: list[Spoken]) -> list[Heard]:
    heard = [Heard() for _ in script]
    began = trio.current_time()
    options = {"lang": "en", "endpointing": False, "interim": False}
    async with load.connect(directory, **options) as session, trio.open_nursery() as nursery:

        async def listen() -> None:
            async for event in session.events():
                if event["type"] == "final":
                    heard[event["utterance"] - 1].note(trio.current_time() - began, event["text"], event["text"])

        nursery.start_soon(listen)
        for number, (quiet_s, pcm) in enumerate(_told_parts(script)):
            await trio.sleep(quiet_s)
            await _paced(pcm, lambda data: session.stream.send_all(load.frame(data)))
            await session.say(op="finalize")
            heard[number].ends_s.append(trio.current_time() - began)
        await session.say(op="stop")
    return heard


async def _sttd_heard(directory: Path, script: list[Spoken]) -> list[Heard]:
    heard = Heard()
    pcm = _stream(script, heard)
    talk = await load.talk(directory, load.chunked(pcm, chunk_ms=CHUNK_MS), chunk_ms=CHUNK_MS, options={"lang": "en"})
    finals: list[str] = []
    for each in talk.heard:
        if each.event["type"] == "final":
            finals.append(each.event["text"])
            heard.note(each.at_s, " ".join(finals), " ".join(finals))
        elif each.event["type"] == "interim":
            heard.note(each.at_s, " ".join(finals), " ".join([*finals, each.event["text"]]))
    return [heard]


# ------------------------------------------------------------------------------------------------ Wyoming


@contextmanager
def _wyoming() -> Iterator[tuple[int, int]]:
    python = _environment("wyoming-faster-whisper", ["wyoming-faster-whisper==3.8.1"])
    port = _free_port()
    arguments = ["--uri", f"tcp://127.0.0.1:{port}", "--model", str(MODEL), "--data-dir", str(PEERS / "data")]
    arguments += ["--stt-library", "faster-whisper", "--language", "en", "--compute-type", "int8", "--beam-size", "5"]
    arguments += ["--cpu-threads", str(THREADS), "--local-files-only"]
    with _server([python, "-m", "wyoming_faster_whisper", *arguments], port) as pid:
        yield port, pid


async def _wyoming_told(port: int, script: list[Spoken]) -> list[Heard]:
    """A connection for each utterance, as Home Assistant has it."""
    heard = [Heard() for _ in script]
    began = trio.current_time()

    async def one(number: int, pcm: bytes, task_status: trio.TaskStatus[None]) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        audio = {"rate": load.RATE, "width": 2, "channels": 1}
        async with stream:
            await stream.send_all(_wyoming_event("transcribe", {"language": "en"}))
            await stream.send_all(_wyoming_event("audio-start", audio))
            await _paced(pcm, lambda data: stream.send_all(_wyoming_event("audio-chunk", audio, data)))
            await stream.send_all(_wyoming_event("audio-stop", {}))
            heard[number].ends_s.append(trio.current_time() - began)
            task_status.started()
            text = await _wyoming_transcript(stream)
            heard[number].note(trio.current_time() - began, text, text)

    async with trio.open_nursery() as nursery:
        for number, (quiet_s, pcm) in enumerate(_told_parts(script)):
            await trio.sleep(quiet_s)
            await nursery.start(one, number, pcm)
    return heard


def _wyoming_event(kind: str, data: dict[str, object], payload: bytes = b"") -> bytes:
    body = json.dumps(data).encode()
    head = {"type": kind, "version": "1.10.2", "data_length": len(body), "payload_length": len(payload)}
    return json.dumps(head).encode() + b"\n" + body + payload


async def _wyoming_transcript(stream: trio.SocketStream) -> str:
    """The text of the one `transcript` that answers."""
    buffer = bytearray()

    async def take(size: int) -> bytes:
        while len(buffer) < size:
            buffer.extend(await _more(stream))
        taken = bytes(buffer[:size])
        del buffer[:size]
        return taken

    while True:
        while b"\n" not in buffer:
            buffer.extend(await _more(stream))
        head = json.loads(await take(buffer.index(b"\n") + 1))
        data = {**head.get("data", {}), **json.loads(await take(head.get("data_length") or 0) or "{}")}
        await take(head.get("payload_length") or 0)
        if head["type"] == "transcript":
            return str(data["text"])


async def _more(stream: trio.SocketStream) -> bytes:
    data = bytes(await stream.receive_some())
    if not data:
        raise ConnectionError("the server closed the connection")
    return data


# ------------------------------------------------------------------------------------------------ WhisperLive


@contextmanager
def _whisper_live(mode: str) -> Iterator[tuple[int, int]]:
    needs = [
        "faster-whisper==1.2.0",
        "requests",
        "websockets",
        "fastapi",
        "uvicorn",
        "python-multipart",
        "scipy",
        "av",
        "numpy",
    ]
    python = _environment("whisper-live", needs, alone="whisper-live==0.10.0")
    stubs = PEERS / "stubs"
    stubs.mkdir(exist_ok=True)
    (stubs / "torch.py").write_text(TORCH)
    port = _free_port()
    command = [python, "-c", WHISPER_LIVE, str(port), str(MODEL), mode]
    with _server(command, port, PYTHONPATH=str(stubs)) as pid:
        yield port, pid


async def _whisper_live_heard(port: int, script: list[Spoken]) -> list[Heard]:
    heard = Heard()
    pcm = _stream(script, heard)
    options = {
        "uid": "benchmark",
        "language": "en",
        "task": "transcribe",
        "model": str(MODEL),
        "use_vad": True,
        "send_last_n_segments": 100,
        "no_speech_thresh": 0.45,
        "same_output_threshold": 10,
    }
    async with trio_websocket.open_websocket_url(f"ws://127.0.0.1:{port}/") as socket_:
        await socket_.send_message(json.dumps(options))
        while json.loads(await socket_.get_message()).get("message") != "SERVER_READY":
            pass
        began = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                while True:
                    try:
                        message = json.loads(await socket_.get_message())
                    except trio_websocket.ConnectionClosed:
                        return
                    segments = message.get("segments", [])
                    if segments:
                        done = " ".join(each["text"] for each in segments if each["completed"])
                        heard.note(trio.current_time() - began, done, " ".join(each["text"] for each in segments))

            async def send(data: bytes) -> None:
                await socket_.send_message((np.frombuffer(data, "<i2").astype(np.float32) / 32768).tobytes())

            nursery.start_soon(listen)
            await _paced(pcm, send)
            await socket_.send_message(b"END_OF_AUDIO")
    return [heard]


# ------------------------------------------------------------------------------------------------ servers


def _environment(name: str, packages: list[str], *, alone: str = "") -> str:
    """The Python of an environment with these packages, made if it is not there; `alone` without what it needs."""
    folder = PEERS / name
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.exists():
        print(f"  installing {name} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        if alone:
            subprocess.run([*pip, "--no-deps", alone], check=True)
        subprocess.run([*pip, *packages], check=True)
        done.touch()
    return str(python)


@contextmanager
def _server(command: list[str], port: int, **environ: str) -> Iterator[int]:
    """A server process once it accepts connections."""
    with (PEERS / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environ})
    try:
        for _ in range(READY_S * 10):
            if process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                time.sleep(0.1)
            else:
                yield process.pid
                return
        raise RuntimeError((PEERS / "log").read_text()[-2000:])
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
