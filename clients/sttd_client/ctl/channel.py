"""One channel of `sttctl listen`: a source of sound, the session that hears it, its place on the clock of all.

Rules:

1. A channel that ends does not end the others. Why it ended is its `problem`, which the exit status tells.
2. Whatever the daemon said before an error is shown before the error.
3. While there is no connection, sound waits in its pipe, which holds as long as another is tried for.
4. Once the user has ended it, what was recorded by then is still said, and what the daemon makes of it awaited.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import attrs

from sttd.errors import SttdError
from sttd_client.addresses import ConnectionLostError
from sttd_client.capture import PIPE_BYTES, LiveAudio
from sttd_client.channel_clock import ChannelClock, Epoch
from sttd_client.events import Event, Final, Reconnected
from sttd_client.session import Session
from sttd_client.sound import NoSoundError
from sttd_client.transcripts import Failures

_TIMES = ("at_s", "start_s", "end_s", "from_s", "to_s")  # of events
_READ_BYTES = 4096  # an eighth of a second at 16 kHz: what a pipe holds after a hiccup goes out in one piece
LAST_WORDS_S = 60.0  # chosen: for the next event of a daemon that was told to stop; the user can leave sooner


@attrs.define(eq=False, kw_only=True)
class Channel:
    """The rules above. `name` is "" where there is one channel only."""

    name: str
    what: str  # it hears: "microphone" or "output"
    audio: LiveAudio
    session: Session
    clock: ChannelClock
    failures: Failures = attrs.field(factory=Failures)
    problem: Exception | None = attrs.field(default=None, init=False)
    is_over: bool = attrs.field(default=False, init=False)  # nothing more will come
    is_cut: bool = attrs.field(default=False, init=False)  # what was being said then has no text
    settled_s: float = attrs.field(default=0.0, init=False)  # the end of its last final
    is_told: bool = attrs.field(default=False, init=False)  # the user knows of the problem
    _hears: bool = attrs.field(default=True, init=False)
    stops: bool = attrs.field(default=False, init=False)  # the daemon knows that no more is said

    @classmethod
    def of(cls, name: str, what: str, audio: LiveAudio, session: Session, epoch: Epoch) -> Channel:
        """A channel that begins."""
        return cls(name=name, what=what, audio=audio, session=session, clock=_clock_of(audio, epoch))

    def descriptors(self) -> Iterator[int]:
        """What to wait for: sound, and the daemon."""
        if self._hears and self.session.is_connected:
            yield self.audio.descriptor
        yield self.session.fileno()

    def hear(self, now: float, *, is_ready: bool) -> None:
        """Say what there is to be read, or the silence in place of what never came."""
        if not (self._hears and self.session.is_connected):
            return
        if not is_ready:
            self.session.offer(bytes(self.clock.silence(now)))
        elif data := os.read(self.audio.descriptor, _READ_BYTES):
            self.clock.said(len(data), now)
            self.session.offer(data)
        else:
            self._end_of_sound()

    def events(self) -> list[Event]:
        """What the daemon has said, its times on the clock of all channels."""
        events: list[Event] = []
        try:
            events = self.session.poll()
            if self.session.ended:
                self.session.poll()  # raises why
                self._over(None if self.stops else ConnectionLostError("the daemon ended the session"))
        except (SttdError, OSError) as error:
            self._break_off(error)
        return [self._on_epoch(event) for event in events]

    def stop(self, now: float) -> None:
        """Say what was recorded by now, and that it was the last."""
        left = PIPE_BYTES
        while self._reads and left > 0 and select.select([self.audio.descriptor], [], [], 0)[0]:
            data = os.read(self.audio.descriptor, _READ_BYTES)
            if not data:
                break
            self.clock.said(len(data), now)
            self.session.offer(data)
            left -= len(data)
        if self.session.listens:
            self._stop()

    def last_words(self) -> Iterator[Event]:
        """What the daemon still says after `stop`; waits for it."""
        try:
            if not self.stops and not self.is_over:
                yield from map(self._on_epoch, self.session.poll())
                raise ConnectionLostError("the daemon was gone")
            while not self.is_over and (event := self.session.receive(timeout_s=LAST_WORDS_S)) is not None:
                yield self._on_epoch(event)
            self._over(None)
        except (SttdError, OSError) as error:
            self._break_off(error)

    @property
    def _reads(self) -> bool:
        return self._hears and self.session.listens

    def _on_epoch(self, event: Event) -> Event:
        if isinstance(event, Reconnected):
            self.clock.begin_anew(event.again_bytes)
            self.failures = Failures()
        at = self.clock.on_epoch
        changes: dict[str, Any] = {name: at(getattr(event, name)) for name in _TIMES if hasattr(event, name)}
        if isinstance(event, Final) and event.words:
            changes["words"] = tuple(
                attrs.evolve(word, start_s=at(word.start_s), end_s=at(word.end_s)) for word in event.words
            )
        return attrs.evolve(event, **changes) if changes else event

    # ---------------------------------------------------------------- how it ends

    def _end_of_sound(self) -> None:
        if self.audio.is_recorder and self.clock.has_begun:
            self.problem = NoSoundError(f"{self.audio.name} ended: the {self.what} is no longer heard")
        elif not self.clock.has_begun:
            self.problem = NoSoundError(f"{self.audio.name} gave no sound; is the {self.what} connected?")
        self._stop()

    def _stop(self) -> None:
        self._hears = False
        if not self.stops:
            self.stops = True
            with suppress(SttdError, OSError):  # rule 2: `events` comes to it in its turn
                self.session.stop()

    def _break_off(self, error: Exception) -> None:
        self.is_cut = True
        self._over(error)

    def _over(self, error: Exception | None) -> None:
        self._hears, self.is_over = False, True
        self.problem = self.problem or error


def _clock_of(audio: LiveAudio, epoch: Epoch) -> ChannelClock:
    width = 4 if audio.options.get("encoding") == "pcm_s32le" else 2
    bytes_per_s = (audio.options.get("sample_rate") or 0) * (audio.options.get("channels") or 1) * width
    return ChannelClock(epoch=epoch, bytes_per_s=bytes_per_s, is_filled=audio.is_recorder)
