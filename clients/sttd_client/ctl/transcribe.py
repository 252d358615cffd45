"""`sttctl transcribe`: files in, transcripts out.

Rules:

1. What was transcribed is kept: an error in the middle of a file leaves the transcript as far as it came, marked where
   something is missing. A file of which nothing could be transcribed leaves none.
2. Whatever is missing is said on standard error, and the exit status is that of the error. So is a file that could not
   be read or written; neither keeps the other files from being done.
3. Waiting is no error: a daemon that says `overloaded` and then transcribes the file after all has done its work.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import attrs

from sttd.errors import EXIT_FAILED, EXIT_OK, ProtocolError, SttdError
from sttd_client.addresses import NoDaemonError
from sttd_client.connection import failure_error
from sttd_client.ctl.commands import FORMATS
from sttd_client.ctl.outcome import exit_status_of, words_of
from sttd_client.ctl.progress import ProgressLine, time_left
from sttd_client.ctl.speech import place, speech_options
from sttd_client.ctl.terminal import duration
from sttd_client.events import Event, Failure, Final, Progress, Stopped, Warn
from sttd_client.options import StartOptions
from sttd_client.session import Session, open_session
from sttd_client.transcripts import Failures, Hole, formatted, hole_of
from sttd_client.whole_files import replacing

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
            run = _transcribe_file(file, arguments, kind=kind)
            transcript = formatted(run.finals, run.holes, kind=kind, file=_shown(file), audio_s=run.audio_s)
            if arguments.output:
                with replacing(_target(file, arguments, kind=kind)) as target:
                    target.write(transcript.encode())
        except NoDaemonError:
            raise
        except BrokenPipeError:  # standard output has nobody who reads it
            raise
        except (SttdError, OSError) as error:
            failed = _tell(file, error)
            status = status or failed
            continue
        if kind == "json" and not arguments.output:
            documents.append(transcript)
        elif kind != "txt" and not arguments.output:  # text was printed as it came
            print(transcript, end="")
        if run.error is not None:
            failed = _tell(file, run.error)
            status = status or failed
    if documents:
        print(_json_documents(documents, several=several), end="")
    return status


def _tell(file: str, error: Exception) -> int:
    """Say what is wrong with a file; returns the exit status of that."""
    words = words_of(error)
    print(f"sttctl: {words if words.startswith(file) else f'{file}: {words}'}", file=sys.stderr)
    return exit_status_of(error) or EXIT_FAILED


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
    if several and output is None and kind in ("srt", "vtt", "tsv", "jsonl"):
        raise ProtocolError(f"several files as {kind} need a directory: -o DIRECTORY", code="bad_option")
    if arguments.files.count("-") > 1:
        raise ProtocolError("standard input can be read once only", code="bad_option")


def _json_documents(transcripts: Sequence[str], *, several: bool) -> str:
    """One file is an object, several are an array."""
    if not several:
        return transcripts[0]
    return json.dumps([json.loads(transcript) for transcript in transcripts], ensure_ascii=False, indent=2) + "\n"


# ---------------------------------------------------------------- one file


def _transcribe_file(file: str, arguments: argparse.Namespace, *, kind: str) -> _Run:
    """What became of one file. Leaving early, by Ctrl-C too, ends the session: the daemon stops its work on it."""
    options: StartOptions = {
        "kind": "file",
        "encoding": "container",
        **speech_options(arguments),
        "words": True if arguments.words or kind in ("srt", "vtt") else None,
        "label": _label(file),
    }
    with _opened(file) as source, open_session(**place(arguments), **options) as session:
        run = _Run(
            name=_shown(Path(file).name),
            total_bytes=_length(source),
            line=ProgressLine(hidden=arguments.quiet),
            prints=kind == "txt" and not arguments.output,
        )
        try:
            for event in _events(session, source, run):
                run.take(event)
        except (SttdError, OSError) as error:
            if isinstance(error, BrokenPipeError) or not run.heard_anything:
                raise
            run.break_off(error)
        finally:
            run.line.clear()
    if run.holes and not run.heard_anything:
        assert run.error is not None, "a hole has a reason"
        raise run.error
    return run


def _shown(file: str) -> str:
    """A name as text: file systems take bytes that are none."""
    return os.fsencode(file).decode(errors="replace")


def _label(file: str) -> str:
    """The name as `sessions` shows it: one line, and short."""
    name = _shown(Path(file).name)
    return "".join(char if char.isprintable() else "\ufffd" for char in name)[:200]


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
    holes: list[Hole] = attrs.field(factory=list)
    error: Exception | None = None  # why something is missing
    failures: Failures = attrs.field(factory=Failures)

    @property
    def heard_anything(self) -> bool:
        """Whether there is text to keep."""
        return any(final.text for final in self.finals)

    def break_off(self, error: Exception) -> None:
        """The session ended before the file did; what came of it stays."""
        self.error = error
        code = error.code if isinstance(error, SttdError) else "connection_lost"
        start_s = max(final.end_s for final in self.finals)
        self._miss(Hole(start_s=start_s, end_s=None, code=code, message=words_of(error)))

    def take(self, event: Event) -> None:
        """Note an event, and show how far the work is."""
        if isinstance(event, Final):
            if self.prints and event.text and not self.heard_anything:
                for hole in self.holes:  # they were held back: without text there is no transcript
                    self._print(hole.text)
            self.finals.append(event)
            if (failure := self.failures.behind(event)) is not None:
                self.error = self.error or failure_error(failure)
                self._miss(hole_of(event, failure))
            elif self.prints and event.text:
                self._print(event.text)
        elif isinstance(event, Failure):
            self.failures.note(event)  # a fatal one is raised at the end of the events
        elif isinstance(event, Warn):
            if event.code != "lagging":  # nobody waits for what a file says
                self.line.clear()
                print(f"sttctl: {self.name}: {event.message}", file=sys.stderr)
        elif isinstance(event, Stopped):
            self.audio_s = event.audio_s
            if (last := self.failures.last) is not None and last.code != "overloaded":  # rule 3
                self.error = self.error or failure_error(last)
        elif isinstance(event, Progress):
            self.audio_s = event.done_s
            # Until the daemon knows how long the recording is, what it has taken of the file says about the same.
            known = event.done_s / event.total_s if event.total_s else None
            guessed = self.sent_bytes / self.total_bytes if self.total_bytes else None
            fraction = known if known is not None else guessed
            speed = f"{event.done_s / max(self.line.elapsed_s, 0.1):.1f}x"
            left = time_left(self.line.elapsed_s, fraction)
            self.line.show(self.name[-32:], fraction=fraction, detail=f"{duration(event.done_s)}, {speed}{left}")

    def _miss(self, hole: Hole) -> None:
        self.holes.append(hole)
        if self.prints and self.heard_anything:
            self._print(hole.text)

    def _print(self, text: str) -> None:
        self.line.clear()
        print(text, flush=True)


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
