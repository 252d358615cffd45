"""`sttd demo`: starts a real daemon on private sockets, streams speech to it as it is spoken, shows live text.

A client like any other: what it does with the daemon, every program can do. Run as `python -m sttd_client.demo`.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from pathlib import Path

import attrs
import trio
from rich.console import Console
from rich.markup import escape

import sttd_client
from sttd.errors import EXIT_FAILED, EXIT_OK, SttdError
from sttd_client.captions import ShowEvent, captions
from sttd_client.capture import microphone
from sttd_client.daemon_process import STOP_S, DaemonDiedError, run_daemon
from sttd_client.demo_figures import Run, report
from sttd_client.demo_model import NotFetchedError, fetch
from sttd_client.demo_speech import Speech, audio_file, people, spoken, synthetic
from sttd_client.events import Warn
from sttd_client.sound import RATE, NoMicrophoneError, recorder
from sttd_client.trio_control import Control
from sttd_client.trio_streams import owned_nursery

MODEL = "tiny.en"
EMBEDDED = "demo"  # needs no download, and understands synthetic voices alone

EXIT_INTERRUPTED = 130  # as a shell says it of a program that SIGINT ended

_STOP_FETCHING_S = 1.0  # chosen: what was downloaded is kept however it ends, and who said Ctrl-C is waiting
_CHUNK_S = 0.04
_SILENCE_S = 1.0  # after the last word, so that the endpointer decides the last final like all others
_READ_BYTES = 4096  # of a microphone, an eighth of a second: what a pipe holds after a hiccup goes out in one piece

_EPILOG = """\
The model is downloaded once, by the daemon, into your cache; an interrupted download goes on where it stopped. Where it
cannot be had, the demo goes on with a model that comes with sttd, and its synthetic sample.

examples:
  sttd demo                         people, in 33 s of recordings
  sttd demo --mic                   you, until Ctrl-C
  sttd demo --file talk.mp3 --fast  a file, as fast as it goes
  sttd demo --model base --mic      another model, which knows more languages
  sttd demo --model demo            no download: the model that comes with sttd

exit status: 0 done, 1 failed, 2 usage, 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 0 where it went well."""
    arguments = _parse(argv)
    console = Console(highlight=False)
    try:
        with _given(arguments) as speech:
            return trio.run(_demo, arguments, speech, console)
    except KeyboardInterrupt:
        console.print("interrupted; the daemon was stopped")
        return EXIT_INTERRUPTED
    except (SttdError, OSError, DaemonDiedError, NotFetchedError) as error:
        print(f"sttd demo: {error}", file=sys.stderr)
        return EXIT_FAILED


def parser() -> argparse.ArgumentParser:
    """The options. `sttd demo` declares them once more, for its own help; a test compares."""
    parser = argparse.ArgumentParser(
        prog="sttd demo",
        description="Show live text from a real daemon that is started for it, on private sockets, and stopped again.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--mic", action="store_true", help="listen to the microphone until Ctrl-C")
    source.add_argument("--file", metavar="FILE", help="hear this file: any audio or video")
    source.add_argument("--say", metavar="TEXT", help="let espeak-ng say this")
    parser.add_argument(
        "--model", metavar="NAME", help=f"the preset that listens (default: {MODEL}; with --say: {EMBEDDED})"
    )
    parser.add_argument("--fast", action="store_true", help="send as fast as the daemon takes it")
    return parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    arguments = parser().parse_args(argv)
    if arguments.mic and arguments.fast:
        parser().error("argument --fast: not allowed with argument --mic")
    return arguments


def _given(arguments: argparse.Namespace) -> AbstractContextManager[Speech | None]:
    """What the user wants to be heard, looked at before anything is started; None for a microphone or a sample."""
    if arguments.mic and recorder() is None:
        with microphone():
            pass  # raises what to install
    if arguments.file is not None:
        return audio_file(Path(arguments.file))
    return nullcontext(spoken(arguments.say) if arguments.say is not None else None)


async def _demo(arguments: argparse.Namespace, given: Speech | None, console: Console) -> int:
    began_at = trio.current_time()
    with tempfile.TemporaryDirectory(prefix="sttd-demo-") as directory:
        console.print("starting [bold]sttd serve[/] on private sockets ...")
        async with _stopped_by_sigterm(), run_daemon(Path(directory), model=EMBEDDED) as daemon:
            console.print(f"ready after {daemon.start_s:.1f} s")
            async with sttd_client.open_control(daemon.control_socket) as control:
                daemon.stop_s = _STOP_FETCHING_S
                model = await _fetched(control, arguments, console)
                daemon.stop_s = STOP_S
                with console.status(f"loading {model} ..."):  # the first time it is also timed, for some seconds
                    load_s = (await control.call("load", preset=model))["load_seconds"]
                console.print(f"{model} loaded in {load_s:.2f} s")
                run = await _run(arguments, given, model, daemon.control_socket, console)
                status = await control.call("status")
            await daemon.stop()
        total_s = trio.current_time() - began_at
        console.print()
        figures = report(
            run, model=model, load_s=load_s, status=status, total_s=total_s, exit_status=daemon.exit_status
        )
        console.print(figures, soft_wrap=True, markup=False)
        if not (given or arguments.mic):
            console.print("\nnow you: sttd demo --mic, or a file: sttd demo --file talk.mp3", style="dim")
    well = daemon.exit_status == 0 and (run.finals or not run.truth)
    return EXIT_OK if well else EXIT_FAILED


async def _fetched(control: Control, arguments: argparse.Namespace, console: Console) -> str:
    """The preset that listens, its model on disk: what is asked for, else what comes with sttd where that is heard too.

    Raises:
        NotFetchedError: it cannot be downloaded, and the user named it, or speech that the embedded model is not for.
    """
    wanted: str = arguments.model or (MODEL if arguments.say is None else EMBEDDED)
    try:
        await fetch(control, wanted, console)
    except NotFetchedError as reason:
        if arguments.model or arguments.mic or arguments.file is not None:
            raise NotFetchedError(f"{wanted} could not be fetched: {reason}") from reason
        console.print(
            f"[yellow]no model for people could be fetched[/] ({escape(reason.in_short)}); "
            "going on with the embedded model and its synthetic voice",
            soft_wrap=True,
        )
        return EMBEDDED
    return wanted


async def _run(arguments: argparse.Namespace, given: Speech | None, model: str, socket: Path, console: Console) -> Run:
    """Stream the microphone, what was given, or the sample that is good for the model."""
    if arguments.mic:
        return await _stream(None, socket, model=model, fast=False, console=console)
    sample = synthetic if model == EMBEDDED else people
    with nullcontext(given) if given else sample() as speech:
        length = "" if speech.seconds is None else f" ({speech.seconds:.0f} s)"
        pace = "as fast as it goes" if arguments.fast else "at the pace of speech"
        console.print(f"streaming {escape(speech.title)}{length}, {pace}", soft_wrap=True)
        for recording in speech.recordings:
            console.print(f"  {recording}", style="dim")
        console.print()
        return await _stream(speech, socket, model=model, fast=arguments.fast, console=console)


async def _stream(speech: Speech | None, socket: Path, *, model: str, fast: bool, console: Console) -> Run:
    """Send the speech, or what a microphone hears, and show what comes back; returns what the figures need."""
    run = Run(truth=speech.utterances if speech else (), live=not fast)
    rate, language = (speech.sample_rate, speech.language) if speech else (RATE, None)
    with captions(console, times=True) as show:
        async with (
            sttd_client.open_session(
                socket_path=socket, sample_rate=rate, lang=language, model=model, label="sttd demo"
            ) as session,
            owned_nursery() as nursery,
        ):
            nursery.start_soon(_show_events, session, run, show)
            if speech:
                await _send(session, speech, run)
            else:
                await _send_microphone(session, run, console)
    run.ended_at = trio.current_time()
    return run


async def _send(session: sttd_client.Session, speech: Speech, run: Run) -> None:
    silence = bytes(2 * round(_SILENCE_S * speech.sample_rate))
    chunks = attrs.evolve(speech, pieces=itertools.chain(speech.pieces, (silence,))).chunks(_CHUNK_S)
    run.started_at = trio.current_time()
    for number, chunk in enumerate(chunks, start=1):
        if run.live:  # a chunk is there when its last sample was spoken
            await trio.sleep_until(run.started_at + number * _CHUNK_S)
        await session.send(chunk)
        run.audio_s += len(chunk) / 2 / speech.sample_rate
    await session.stop()


async def _send_microphone(session: sttd_client.Session, run: Run, console: Console) -> None:
    """Send what is heard until SIGINT, which ends the recording and not the demo; the next one does."""
    with microphone() as audio, trio.open_signal_receiver(signal.SIGINT) as interrupts:
        console.print(f"listening to {audio.name}; Ctrl-C ends\n")
        stream = trio.lowlevel.FdStream(os.dup(audio.descriptor))
        async with stream, owned_nursery() as nursery:
            nursery.start_soon(_close_on, interrupts, stream)
            with suppress(trio.ClosedResourceError):
                while data := await stream.receive_some(_READ_BYTES):
                    run.note_captured(len(data) / 2 / RATE, at=trio.current_time())
                    await session.send(bytes(data))
            nursery.cancel_scope.cancel()
    if not run.audio_s:
        raise NoMicrophoneError(f"{audio.name} gave no sound; is there a microphone?")
    await session.stop()


async def _close_on(signals: AsyncIterator[int], stream: trio.abc.AsyncResource) -> None:
    """Close what is being read: unlike a cancellation, that cannot hit a message that is half sent."""
    async for _ in signals:
        await stream.aclose()


async def _show_events(session: sttd_client.Session, run: Run, show: ShowEvent) -> None:
    async for event in session:
        run.note(event, at=trio.current_time())
        if run.live or not isinstance(event, Warn):  # who sends faster than anybody speaks knows that text comes late
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


if __name__ == "__main__":
    sys.exit(main())
