"""The links of an Ogg file, each as a file of its own.

One Ogg stream may follow another in the same file, as in internet radio with every song. Rate, channels, even the
codec may differ, and there FFmpeg gives up. So each link is read as if it were alone: it ends before a page that
begins a logical stream (flag "bos", RFC 3533, section 6) behind pages that do not. What is no page is passed on as it
is.
"""

from __future__ import annotations

import io
from typing import Final, Protocol

import attrs

MAX_LINKS: Final = 2000  # chosen: a week of songs; to open one costs about a millisecond
_CHUNK_BYTES: Final = 1 << 16
_HEADER_BYTES: Final = 27  # and a table of segments behind it
_BOS: Final = 0x02


class Bytes(Protocol):
    """What links are cut from."""

    def read(self, size: int, /) -> bytes:
        """Some bytes, as many at the most; none at the end."""


@attrs.define(eq=False, slots=False)  # RawIOBase has slots of its own
class OggLinks(io.RawIOBase):
    """Reads one link after the other. Blocks as its source does."""

    source: Bytes
    count: int = attrs.field(default=1, init=False)
    _buffer: bytes = attrs.field(default=b"", init=False)
    _clear: int = attrs.field(default=0, init=False)  # bytes of the buffer that are known to be of this link
    _page_left: int = attrs.field(default=0, init=False)  # bytes of the page that is being passed on
    _begun: bool = attrs.field(default=False, init=False)  # a page of this link begins no stream
    _at_end: bool = attrs.field(default=False, init=False)  # the buffer begins another link, or there is nothing more
    _exhausted: bool = attrs.field(default=False, init=False)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while not self._clear and not self._at_end:
            data = self.source.read(_CHUNK_BYTES)
            self._buffer += data
            if data:
                self._scan()
            else:
                self._clear, self._at_end, self._exhausted = len(self._buffer), True, True
        count = self._clear if size < 0 else min(size, self._clear)
        piece, self._buffer = self._buffer[:count], self._buffer[count:]
        self._clear -= count
        if not self._clear and not self._at_end:
            self._scan()
        return piece

    def next_link(self) -> bool:
        """Go on with the next link, whatever of this one was not read. False: there is none."""
        while self.read(_CHUNK_BYTES):
            pass
        if self._exhausted:
            return False
        self._begun = self._at_end = False
        self.count += 1
        self._scan()
        return True

    def _scan(self) -> None:
        """Look through the headers of pages as far as they are here."""
        while not self._at_end:
            passed = min(self._page_left, len(self._buffer) - self._clear)
            self._clear, self._page_left = self._clear + passed, self._page_left - passed
            rest = self._buffer[self._clear : self._clear + _HEADER_BYTES + 255]
            if len(rest) < 4:
                return
            if not rest.startswith(b"OggS"):
                found = self._buffer.find(b"OggS", self._clear)
                self._clear = found if found >= 0 else len(self._buffer) - 3
                if found < 0:
                    return
                continue
            if len(rest) < _HEADER_BYTES or len(rest) < _HEADER_BYTES + rest[26]:
                return
            begins = bool(rest[5] & _BOS)
            if begins and self._begun:
                self._at_end = True
            else:
                self._begun = self._begun or not begins
                segments = rest[_HEADER_BYTES : _HEADER_BYTES + rest[26]]
                self._page_left = _HEADER_BYTES + len(segments) + sum(segments)
