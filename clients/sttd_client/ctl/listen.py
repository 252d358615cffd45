"""`sttctl listen`: live captions of the microphone."""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console

from sttd.errors import EXIT_OK
from sttd_client.captions import captions
from sttd_client.capture import LiveAudio, NoMicrophoneError, microphone, recording
from sttd_client.ctl.speech import place, speech_options
from sttd_client.events import Event, Final, Resumed, as_message
from sttd_client.options import StartOptions
from sttd_client.session import Session, open_session

_READ_BYTES = 4096  # an eighth of a second at 16 kHz: what a pipe holds after a hiccup goes out in one piece


def listen(arguments: argparse.Namespace) -> int:
    """Show what is said until Ctrl-C, the end of the recording, or (`--once`) the first utterance."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until there is something to be ended in good order
    source = recording(arguments.file) if arguments.file else microphone(arguments.device)
    with source as audio, open_session(**place(arguments), **_options(arguments, audio)) as session, _ended() as ended:
        if sys.stderr.isatty() and not arguments.json:
            print(f"listening to {audio.name}; Ctrl-C ends", file=sys.stderr)
        with _output(as_json=arguments.json) as output:
            show = partial(_show, output)
            heard = _converse(audio, session, show, ended=ended, once=arguments.once)
            session.stop()
            for event in session:  # what was being said
                show(event)
    if not heard:
        raise NoMicrophoneError(f"{audio.name} gave no sound; is there a microphone?")
    return EXIT_OK


def _options(arguments: argparse.Namespace, audio: LiveAudio) -> StartOptions:
    return {
        **speech_options(arguments),
        "label": "sttctl listen",
        **audio.options,
    }


def _converse(audio: LiveAudio, session: Session, show: Callable[[Event], None], *, ended: int, once: bool) -> bool:
    """Carry audio there and events back until the audio ends or the user ends it; False where none came before that."""
    heard = False
    while True:
        ready, _, _ = select.select([audio.descriptor, session.fileno(), ended], [], [])
        if ended in ready:
            return True
        if audio.descriptor in ready:
            data = os.read(audio.descriptor, _READ_BYTES)
            if not data:
                return heard
            heard = True
            session.send(data)
        for event in session.poll():
            show(event)
            if once and isinstance(event, Final) and event.text:
                return heard


def _show(output: Callable[[Event], None], event: Event) -> None:
    """A connection that was lost has cost nothing: it does not belong to what was said."""
    if isinstance(event, Resumed):
        print(f"sttctl: the connection was lost for {event.away_s:.1f} s; nothing is missing", file=sys.stderr)
    else:
        output(event)


@contextmanager
def _output(*, as_json: bool) -> Iterator[Callable[[Event], None]]:
    if as_json:
        yield lambda event: print(json.dumps(as_message(event), ensure_ascii=False), flush=True)
    else:
        with captions(Console(highlight=False)) as show:
            yield show


@contextmanager
def _ended() -> Iterator[int]:
    """A descriptor that is readable once the user has ended the listening, by Ctrl-C or, as editors do, by SIGTERM.

    An exception in its place would come in the middle of anything: half a message may be out, or the last text be on
    its way already. A second Ctrl-C does not wait for that text.
    """
    readable, writable = os.pipe()

    def end(number: int, _frame: object) -> None:
        os.write(writable, b"!")
        signal.signal(number, signal.default_int_handler)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield readable
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(readable)
        os.close(writable)
