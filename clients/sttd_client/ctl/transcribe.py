"""`sttctl transcribe`: files in, transcripts out."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import attrs

from sttd.errors import EXIT_OK, ProtocolError, SttdError
from sttd_client.addresses import NoDaemonError
from sttd_client.ctl.commands import FORMATS
from sttd_client.ctl.outcome import exit_status_of, words_of
from sttd_client.ctl.progress import ProgressLine, time_left
from sttd_client.ctl.speech import speech_options
from sttd_client.ctl.terminal import duration
from sttd_client.events import Event, Final, Progress, Stopped
from sttd_client.options import StartOptions
from sttd_client.session import Session, open_session
from sttd_client.transcripts import formatted

_CHUNK_BYTES = 1 << 16  # the daemon reads as fast as it decodes; small enough that progress is seen


def transcribe(arguments: argparse.Namespace) -> int:
    """Transcribe every file; one that fails does not keep the others from being done."""
    kind = _format(arguments)
    several = len(arguments.files) > 1
    _refuse_nonsense(arguments, kind=kind, several=several)
    status = EXIT_OK
    documents: list[str] = []
    for file in arguments.files:
        if several and kind == "txt" and not arguments.output:
            print(f"==> {file} <==")
        try:
            transcript = _transcribe_file(file, arguments, kind=kind)
        except NoDaemonError:
            raise
        except (SttdError, OSError) as error:
            words = words_of(error)
            print(f"sttctl: {words if words.startswith(file) else f'{file}: {words}'}", file=sys.stderr)
            status = status or exit_status_of(error)
            continue
        if arguments.output:
            _write_whole(_target(file, arguments, kind=kind), transcript)
        elif kind == "json":
            documents.append(transcript)
        elif kind != "txt":  # text was printed as it came
            print(transcript, end="")
    if documents:
        print(_json_documents(documents, several=several), end="")
    return status


def _format(arguments: argparse.Namespace) -> str:
    if arguments.json:
        return "json"
    ending = Path(arguments.output or "").suffix.removeprefix(".").lower()
    return str(arguments.format or (ending if ending in FORMATS else "txt"))


def _refuse_nonsense(arguments: argparse.Namespace, *, kind: str, several: bool) -> None:
    output = Path(arguments.output) if arguments.output else None
    if output is not None and not several and not output.is_dir():
        folder = output if arguments.output.endswith("/") else output.parent
        if not folder.is_dir():  # said now, not after an hour of work
            raise ProtocolError(f"there is no directory {folder} to write to", code="bad_option")
    if several and output is not None and not output.is_dir():
        raise ProtocolError(f"there are several files, and {output} is no directory to put them in", code="bad_option")
    if several and output is None and kind in ("srt", "vtt", "tsv"):
        raise ProtocolError(f"several files as {kind} need a directory: -o DIRECTORY", code="bad_option")
    if arguments.files.count("-") > 1:
        raise ProtocolError("standard input can be read once only", code="bad_option")


def _json_documents(transcripts: Sequence[str], *, several: bool) -> str:
    """One file is an object, several are an array."""
    if not several:
        return transcripts[0]
    return json.dumps([json.loads(transcript) for transcript in transcripts], ensure_ascii=False, indent=2) + "\n"


# ---------------------------------------------------------------- one file


def _transcribe_file(file: str, arguments: argparse.Namespace, *, kind: str) -> str:
    """The transcript of one file. Leaving early, by Ctrl-C too, ends the session: the daemon stops its work on it."""
    options: StartOptions = {
        "kind": "file",
        "encoding": "container",
        **speech_options(arguments),
        "words": True if arguments.words or kind in ("srt", "vtt") else None,
        "label": Path(file).name[:200],
    }
    with _opened(file) as source, open_session(socket_path=arguments.socket, **options) as session:
        run = _Run(
            name=Path(file).name,
            total_bytes=_length(source),
            line=ProgressLine(hidden=arguments.quiet),
            prints=kind == "txt" and not arguments.output,
        )
        try:
            for event in _events(session, source, run):
                run.take(event)
        finally:
            run.line.clear()
    return formatted(run.finals, kind=kind, file=file, audio_s=run.audio_s)


@attrs.define(eq=False, kw_only=True)
class _Run:
    """What is known so far about one file."""

    name: str
    total_bytes: int | None
    line: ProgressLine
    prints: bool  # text as it comes: an hour of speech need not be waited for
    sent_bytes: int = 0
    audio_s: float = 0.0
    finals: list[Final] = attrs.field(factory=list)

    def take(self, event: Event) -> None:
        """Note an event, and show how far the work is."""
        if isinstance(event, Final):
            self.finals.append(event)
            if self.prints and event.text:
                self.line.clear()
                print(event.text, flush=True)
        elif isinstance(event, Stopped):
            self.audio_s = event.audio_s
        elif isinstance(event, Progress):
            self.audio_s = event.done_s
            # Until the daemon knows how long the recording is, what it has taken of the file says about the same.
            known = event.done_s / event.total_s if event.total_s else None
            guessed = self.sent_bytes / self.total_bytes if self.total_bytes else None
            fraction = known if known is not None else guessed
            speed = f"{event.done_s / max(self.line.elapsed_s, 0.1):.1f}x"
            left = time_left(self.line.elapsed_s, fraction)
            self.line.show(self.name[-32:], fraction=fraction, detail=f"{duration(event.done_s)}, {speed}{left}")


def _events(session: Session, source: BinaryIO, run: _Run) -> Iterator[Event]:
    """Send the file and yield what comes back meanwhile and afterwards."""
    while data := source.read(_CHUNK_BYTES):
        session.send(data)
        run.sent_bytes += len(data)
        yield from session.poll()
    session.stop()
    yield from session


def _opened(file: str) -> BinaryIO:
    if file == "-":
        return open(sys.stdin.fileno(), "rb", closefd=False)
    return open(file, "rb")


def _length(source: BinaryIO) -> int | None:
    length = os.fstat(source.fileno()).st_size
    return length or None  # a pipe says 0


# ---------------------------------------------------------------- output


def _target(file: str, arguments: argparse.Namespace, *, kind: str) -> Path:
    """Where a transcript goes: talk.mp3 becomes talk.srt, as players look for it, unless there is a talk.wav too."""
    path = Path(arguments.output)
    if not path.is_dir():
        return path
    stems = [Path(other).stem for other in arguments.files]
    name = Path(file).stem if stems.count(Path(file).stem) == 1 else Path(file).name
    return path / f"{'stdin' if file == '-' else name}.{kind}"


def _write_whole(path: Path, text: str) -> None:
    """Write a file that is there complete or not at all."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(draft, 0o666 & ~umask)  # mkstemp makes it private, which a transcript need not be
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise
