"""`sttd demo`: starts a real daemon on private sockets, streams a recording to it as it was spoken, shows live text.

A client like any other: what it does with the daemon, every program can do. Run as `python -m sttd_client.demo`.
"""

from __future__ import annotations

import argparse
import importlib.resources
import json
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio
from rich.console import Console

import sttd_client
from sttd.errors import EXIT_FAILED, EXIT_OK, SttdError
from sttd_client.captions import ShowEvent, captions
from sttd_client.daemon_process import DaemonDiedError, run_daemon
from sttd_client.demo_figures import Run, Utterance, report
from sttd_client.trio_streams import owned_nursery

MODEL = "demo"
_CHUNK_S = 0.04
_SILENCE_S = 1.0  # after the last word, so that the endpointer decides the last final like all others


@attrs.frozen(kw_only=True)
class Speech:
    """What is streamed: 16-bit mono PCM, and what is truly said in it."""

    pcm: bytes
    sample_rate: int
    utterances: tuple[Utterance, ...]

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.pcm) / 2 / self.sample_rate


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 0 where it went well."""
    parser = argparse.ArgumentParser(prog="sttd demo", description="Live text from a real daemon, on private sockets.")
    parser.add_argument("--say", metavar="TEXT", help="let espeak-ng say this, instead of the bundled sample")
    parser.add_argument("--fast", action="store_true", help="send as fast as the daemon takes it")
    arguments = parser.parse_args(argv)
    console = Console(highlight=False)
    try:
        speech = spoken(arguments.say) if arguments.say else bundled_sample()
        trio.run(_demo, speech, arguments.fast, console)
    except KeyboardInterrupt:
        console.print("interrupted; the daemon was stopped")
        return 130
    except (SttdError, OSError, DaemonDiedError) as error:
        print(f"sttd demo: {error}", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_OK


async def _demo(speech: Speech, fast: bool, console: Console) -> None:
    with tempfile.TemporaryDirectory(prefix="sttd-demo-") as directory:
        console.print("starting [bold]sttd serve[/] on private sockets ...")
        async with _stopped_by_sigterm(), run_daemon(Path(directory), model=MODEL) as daemon:
            async with sttd_client.open_control(daemon.control_socket) as control:
                loaded = await control.call("load", preset=MODEL)
            console.print(
                f"ready after {daemon.start_s:.1f} s; model {MODEL} loaded in {loaded['load_seconds']:.2f} s\n"
                f"streaming {speech.seconds:.1f} s of speech {'as fast as it goes' if fast else 'as it was spoken'}\n"
            )
            run = await _stream(speech, daemon.control_socket, fast=fast, console=console)
            async with sttd_client.open_control(daemon.control_socket) as control:
                status = await control.call("status")
            await daemon.stop()
        console.print()
        console.print(report(run, status=status, speech_s=speech.seconds, exit_status=daemon.exit_status))


async def _stream(speech: Speech, socket: Path, *, fast: bool, console: Console) -> Run:
    """Send the speech and show what comes back; returns what is needed for the figures."""
    with captions(console, times=True) as show:
        async with sttd_client.open_session(
            socket_path=socket, sample_rate=speech.sample_rate, lang="en", label="sttd demo"
        ) as session:
            run = Run(truth=speech.utterances, started_at=trio.current_time(), live=not fast)
            async with owned_nursery() as nursery:
                nursery.start_soon(_show_events, session, run, show)
                await _send(session, speech, run)
    run.ended_at = trio.current_time()
    return run


async def _send(session: sttd_client.Session, speech: Speech, run: Run) -> None:
    pcm = speech.pcm + bytes(2 * round(_SILENCE_S * speech.sample_rate))
    chunk_bytes = 2 * round(_CHUNK_S * speech.sample_rate)
    for number, at in enumerate(range(0, len(pcm), chunk_bytes), start=1):
        if run.live:  # a chunk is there when its last sample was spoken
            await trio.sleep_until(run.started_at + number * _CHUNK_S)
        await session.send(pcm[at : at + chunk_bytes])
    await session.stop()


async def _show_events(session: sttd_client.Session, run: Run, show: ShowEvent) -> None:
    async for event in session:
        run.note(event, at=trio.current_time())
        show(event)


@asynccontextmanager
async def _stopped_by_sigterm() -> AsyncIterator[None]:
    """Ends the body when SIGTERM comes, so that no daemon is left behind."""

    async def wait(*, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                raise KeyboardInterrupt

    async with owned_nursery() as nursery:
        await nursery.start(wait)
        yield
        nursery.cancel_scope.cancel()


# ---------------------------------------------------------------- what is said


def bundled_sample() -> Speech:
    """The recording that comes with sttd, and what is said in it."""
    assets = importlib.resources.files("sttd") / "assets"
    truth = json.loads((assets / "sample.json").read_text())
    with importlib.resources.as_file(assets / "sample.flac") as path:
        pcm = _decoded(path, sample_rate=16_000)
    return Speech(pcm=pcm, sample_rate=16_000, utterances=tuple(Utterance(**row) for row in truth["utterances"]))


def spoken(text: str) -> Speech:
    """The words of the user, from a speech synthesiser."""
    from sttd_client.say import SpeakError, synthesise

    try:
        said = synthesise(text)
    except SpeakError as error:
        raise OSError(str(error)) from error
    samples = memoryview(said.pcm).cast("h")
    loud = [index for index, sample in enumerate(samples) if abs(sample) > 300]  # 1 % of full scale: above silence
    start_s, end_s = loud[0] / said.sample_rate, (loud[-1] + 1) / said.sample_rate
    utterance = Utterance(start_s=start_s, end_s=end_s, text=text)
    return Speech(pcm=said.pcm, sample_rate=said.sample_rate, utterances=(utterance,))


def _decoded(path: Path, *, sample_rate: int) -> bytes:
    import av  # FFmpeg's libraries take a moment to load, and nothing else here needs them

    resampler = av.AudioResampler(format="s16", layout="mono", rate=sample_rate)
    with av.open(str(path)) as container:
        frames = [frame for packet in container.decode(audio=0) for frame in resampler.resample(packet)]
        frames += resampler.resample(None)
    return b"".join(frame.to_ndarray().tobytes() for frame in frames)


if __name__ == "__main__":
    sys.exit(main())
