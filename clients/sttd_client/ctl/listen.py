"""`sttctl listen`: live captions of the microphone, of what the machine plays, or of both, and their transcript."""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

import attrs
from rich.console import Console

from sttd.errors import EXIT_OK, ProtocolError, SttdError
from sttd_client.captions import ShowEvent, captions
from sttd_client.capture import LiveAudio, microphone, recording, system_sound
from sttd_client.channel_clock import Epoch
from sttd_client.ctl.channel import Channel
from sttd_client.ctl.commands import FORMATS
from sttd_client.ctl.outcome import exit_status_of, words_of
from sttd_client.ctl.speech import listed, place, speech_options
from sttd_client.events import Event, Failure, Final, Gap, Reconnected, Resumed, as_message
from sttd_client.growing_transcript import GrowingTranscript
from sttd_client.options import StartOptions
from sttd_client.session import open_session
from sttd_client.sound import look, monitor_of
from sttd_client.transcript_file import TranscriptFile
from sttd_client.transcripts import Entry, Hole, hole_of

_NAMES = "you,system"
_NAME_CHARS = 20  # chosen: half of a subtitle's line
_TURN_S = 0.25  # chosen: silence that a recorder owes is noticed so late at most
_RECONNECT_S = (
    30.0  # for a daemon that is restarted: what is said meanwhile waits in a recorder's pipe, which holds 32 s
)
_GONE_S = 1.0  # chosen: a daemon that is back sooner is not worth a word
_LOST_S = 0.5  # chosen: less than that is no word
_PATIENCE_S = 5.0  # chosen: a recorder that gave nothing for so long is worth a word


def listen(arguments: argparse.Namespace) -> int:
    """Show what is said until Ctrl-C, the end of all sound, or (`--once`) the first utterance."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until there is something to be ended in good order
    _refuse_nonsense(arguments)
    where, epoch = place(arguments), Epoch()
    with ExitStack() as stack:
        sources = [(name, what, stack.enter_context(source)) for name, what, source in _sources(arguments)]
        channels = []
        for name, what, audio in sources:
            session = stack.enter_context(
                open_session(**where, reconnect_s=_RECONNECT_S, **_options(arguments, audio, name))
            )
            channels.append(Channel.of(name, what, audio, session, epoch))
        transcript = _transcript(arguments)
        if transcript is not None:
            stack.callback(transcript.close)
        ended = stack.enter_context(_ended())
        if arguments.both and not arguments.device and (same := _same_source()):
            _say(f"there is no microphone: {same} is what the machine plays, and will be heard twice")
        if sys.stderr.isatty() and not arguments.json:
            heard = (f"the {what} ({audio.name})" if audio.is_recorder else audio.name for _, what, audio in sources)
            _say(f"listening to {' and '.join(heard)}; Ctrl-C ends")
        display = stack.enter_context(_display(as_json=arguments.json))
        output = _Output(display, transcript)
        _converse(channels, output, ended=ended, once=arguments.once)
        for channel in channels:
            channel.stop(time.monotonic())
        for channel in channels:  # what was being said
            for event in channel.last_words():
                output.take(channel, event)
            output.tell(channel)
    if display.broken is not None:
        raise display.broken
    return _status(channels)


def _status(channels: Sequence[Channel]) -> int:
    problems = [channel.problem for channel in channels if channel.problem is not None]
    if len(channels) == 1 and problems:
        raise problems[0]
    return exit_status_of(problems[0]) if problems else EXIT_OK  # each was said when it came


def _converse(channels: Sequence[Channel], output: _Output, *, ended: int, once: bool) -> None:
    """Carry sound there and events back until all channels are over, or the user ends it."""
    began = time.monotonic()
    silent = [channel for channel in channels if channel.audio.is_recorder]  # nothing was heard, and nothing said of it
    while live := [channel for channel in channels if not channel.is_over]:
        descriptors = [descriptor for channel in live for descriptor in channel.descriptors()]
        ready, _, _ = select.select([ended, *descriptors], [], [], _TURN_S)
        if ended in ready:
            return
        now = time.monotonic()
        for channel in live:
            channel.hear(now, is_ready=channel.audio.descriptor in ready)
            if channel.clock.has_begun:
                output.begin()
            for event in channel.events():
                output.take(channel, event)
                if once and isinstance(event, Final) and event.text:
                    return
            output.tell(channel)
        if output.is_broken:
            return
        if silent and now - began >= _PATIENCE_S:
            for channel in silent:
                if not channel.clock.has_begun and not channel.is_over:
                    _say(f"{channel.audio.name} gives no sound yet; is the {channel.what} connected?")
            silent = []


# ---------------------------------------------------------------- what is asked for


def _refuse_nonsense(arguments: argparse.Namespace) -> None:
    hears_system, hears_microphone = arguments.system or arguments.both, arguments.both or not arguments.system
    if arguments.sink and not hears_system:
        raise _refused("--sink goes with --system or --both")
    if arguments.device and not hears_microphone:
        raise _refused("--device names the microphone, which --system does not hear; --sink names the output")
    if arguments.file and hears_system:
        raise _refused("--file is in place of the microphone alone")
    if arguments.names is not None and not arguments.both:
        raise _refused("--names goes with --both")
    names = _names(arguments)
    if len(set(names)) != 2 or not all(name.isprintable() and len(name) <= _NAME_CHARS for name in names):
        raise _refused(f"--names are two, such as {_NAMES}, of {_NAME_CHARS} characters at most")
    if not arguments.output:
        if arguments.format or arguments.force:
            raise _refused("--format and --force go with --output")
        return
    path, kind = Path(arguments.output), _kind(arguments)
    if kind not in FORMATS:
        raise _refused(f"{path} does not say which format it is to have: end it in {_endings()}, or give --format")
    if path.is_dir() or (path.exists() and not path.is_file()):
        raise _refused(f"{path} is no file")
    if path.exists() and not arguments.force:
        raise _refused(f"{path} is there already; --force overwrites it")
    if path.exists() and not os.access(path, os.W_OK):
        raise _refused(f"{path} may not be written to")
    if not path.parent.is_dir():
        raise _refused(f"there is no directory {path.parent} to write to")


def _refused(message: str) -> ProtocolError:
    return ProtocolError(message, code="bad_option")


def _endings() -> str:
    return ", ".join(f".{kind}" for kind in FORMATS)


def _kind(arguments: argparse.Namespace) -> str:
    return str(arguments.format or Path(arguments.output).suffix.removeprefix(".").lower())


def _names(arguments: argparse.Namespace) -> list[str]:
    return listed(_NAMES if arguments.names is None else arguments.names)


def _sources(arguments: argparse.Namespace) -> Iterator[tuple[str, str, AbstractContextManager[LiveAudio]]]:
    """The channels that are asked for: their names, what they hear, and its sound."""
    mine, machine = _names(arguments) if arguments.both else ("", "")
    if arguments.file:
        yield mine, "microphone", recording(arguments.file)
    elif arguments.both or not arguments.system:
        yield mine, "microphone", microphone(arguments.device)
    if arguments.both or arguments.system:
        yield machine, "output", system_sound(arguments.sink)


def _same_source() -> str:
    """The default source where it is what the default output plays, as on a machine without a microphone; else ""."""
    server = look()
    output = server.default_sink
    return server.default_source if output and server.default_source in (output, monitor_of(output)) else ""


def _options(arguments: argparse.Namespace, audio: LiveAudio, name: str) -> StartOptions:
    return {
        **speech_options(arguments),
        "words": True if arguments.words else None,
        "label": f"sttctl listen ({name})" if name else "sttctl listen",
        **audio.options,
    }


def _transcript(arguments: argparse.Namespace) -> TranscriptFile | None:
    if not arguments.output:
        return None
    growing = GrowingTranscript(_kind(arguments), channels=arguments.both)
    return TranscriptFile(Path(arguments.output), growing, overwrite=arguments.force, tell=_say)


# ---------------------------------------------------------------- what becomes of events


@attrs.define(eq=False)
class _Display:
    """Shows events until nobody can see them any more: the terminal was closed, or who read has seen enough."""

    _show: ShowEvent
    broken: OSError | None = None

    def show(self, event: Event, channel: str) -> None:
        if self.broken is None:
            try:
                self._show(event, channel)
            except OSError as error:
                self.broken = error


@attrs.define(eq=False)
class _Output:
    """Where events go: to whoever looks on, and into the transcript."""

    _display: _Display
    _transcript: TranscriptFile | None
    _begun: bool = False
    _waiting: dict[str, float] = attrs.field(factory=dict)  # the channels that have no daemon, and since when
    _is_told: bool = False  # that they have none

    @property
    def is_broken(self) -> bool:
        return self._display.broken is not None

    def begin(self) -> None:
        """There is sound: from now on there is a file."""
        if not self._begun:
            self._begun = True
            if self._transcript is not None:
                self._transcript.begin()

    def take(self, channel: Channel, event: Event) -> None:
        if isinstance(event, Resumed):  # it has cost nothing, so it does not belong to what was said
            _say(f"the connection was lost for {event.away_s:.1f} s; nothing is missing")
        else:
            self._display.show(event, channel.name)
        if isinstance(event, Failure):
            channel.failures.note(event)
        elif isinstance(event, Final):
            channel.settled_s = event.end_s
            failure = channel.failures.behind(event)
            if failure is not None or event.text:
                self._write(channel, event if failure is None else hole_of(event, failure))
        elif isinstance(event, Reconnected):
            self._miss(channel, event.lost_bytes)
        elif isinstance(event, Gap):
            self._write(channel, Hole(start_s=event.from_s, end_s=event.to_s, code=event.reason, message=event.reason))

    def tell(self, channel: Channel) -> None:
        """Say once that a channel has no daemon for now, and once why it is not heard any more."""
        if channel.is_over or channel.session.listens:
            self._waiting.pop(channel.name, None)
            self._is_told = self._is_told and bool(self._waiting)
        else:
            since = self._waiting.setdefault(channel.name, time.monotonic())
            if not self._is_told and time.monotonic() - since >= _GONE_S:
                self._is_told = True
                _say(f"the daemon is gone; captions go on when there is another within {_RECONNECT_S:.0f} s")
        problem = channel.problem
        if problem is None or channel.is_told:
            return
        channel.is_told = True
        if channel.name:
            _say(f"{channel.name}: {words_of(problem)}")
        if channel.is_cut and self._begun:
            code = problem.code if isinstance(problem, SttdError) else "connection_lost"
            self._write(channel, Hole(start_s=channel.settled_s, end_s=None, code=code, message=words_of(problem)))

    def _miss(self, channel: Channel, lost_bytes: int) -> None:
        """What a session has taken with it, from its last final to where the next begins."""
        if lost_bytes >= _LOST_S * channel.clock.bytes_per_s:
            end_s, code = channel.clock.on_epoch(0.0), "connection_lost"
            self._write(
                channel, Hole(start_s=channel.settled_s, end_s=end_s, code=code, message="the session was lost")
            )

    def _write(self, channel: Channel, what: Final | Hole) -> None:
        if self._transcript is not None:
            self.begin()
            self._transcript.add(Entry(what=what, channel=channel.name))


@contextmanager
def _display(*, as_json: bool) -> Iterator[_Display]:
    if as_json:
        yield _Display(_print_json)
        return
    screen = captions(_Terminal(highlight=False))
    show = screen.__enter__()
    try:
        yield _Display(show)
    finally:
        with suppress(OSError):  # the terminal may be gone
            screen.__exit__(None, None, None)


class _Terminal(Console):
    """A console that leaves it to the caller what becomes of the program when nobody reads any more."""

    def on_broken_pipe(self) -> None:
        raise


def _print_json(event: Event, channel: str = "") -> None:
    message = {**({"channel": channel} if channel else {}), **as_message(event)}
    print(json.dumps(message, ensure_ascii=False), flush=True)


def _say(text: str) -> None:
    with suppress(OSError):  # the terminal may be gone
        print(f"sttctl: {text}", file=sys.stderr)


@contextmanager
def _ended() -> Iterator[int]:
    """A descriptor that is readable once the listening is to end: by Ctrl-C, by SIGTERM, by a terminal that is closed.

    An exception in its place would come in the middle of anything: half a message may be out, or the last text be on
    its way already. A second Ctrl-C does not wait for that text. (Of a closed terminal several signals may come, from
    the kernel and from the shell; and `nohup` has them ignored.)
    """
    readable, writable = os.pipe()

    def end(number: int, _frame: object) -> None:
        os.write(writable, b"!")
        signal.signal(number, signal.SIG_IGN if number == signal.SIGHUP else signal.default_int_handler)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield readable
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(readable)
        os.close(writable)
