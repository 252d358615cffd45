"""Audio in a container (WAV, FLAC, MP3, Ogg, Opus, WebM, M4A): PyAV pulls bytes in a thread, frames come out.

PyAV reads a file and blocks, while our bytes arrive over a socket and must not block the loop. So one worker
thread per such session reads through `_Source`, whose `read` waits for the session's channel by way of
`trio.from_thread`. Cancelling the session cancels that wait, and with it the thread.

What else the client says waits until the bytes before it were decoded: it travels through the thread, which sends
it on when it asks for more. (A demuxer may still hold some of them back: Ogg up to a page, about a second, and WAV
the first 64 KiB, in which FFmpeg looks for other formats wrapped in it.)

Only the formats below are looked for, and FFmpeg may open nothing by itself: a playlist or a session description is a
container too to it, and would have the daemon read other files, or listen on ports.

Most formats are read strictly forwards. MP4 and QuickTime often keep their index at the end, CAF its table of packets,
so a stream that begins like one is spooled (in memory, beyond 8 MiB in an unnamed file) and may be sought in. How much
that may be, `room` says. To seek means to wait for the end: a live MP4 that has its index in front, as recorders in
browsers write it, is read forwards, too; one that has not is told that its text comes late. What the index of an MP4
says is looked at before FFmpeg sees it (`iso_index.py`).

An Ogg file is read link by link (`links.py`).

Of several audio tracks the one is heard that a player would choose.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Any, Protocol

import attrs
import numpy as np
import numpy.typing as npt
import trio

from sttd.core.types import FRAME_SAMPLES, Warn
from sttd.errors import OverloadedError, ProtocolError, SttdError
from sttd.host.spool import RETRY_S, Room, directory
from sttd.session.formats import open_options
from sttd.session.iso_index import IsoIndex, index_place, is_iso, may_be_iso
from sttd.session.links import MAX_LINKS, OggLinks
from sttd.session.unpacking import Unpacker, mixed

Frames = npt.NDArray[np.float32]

MAX_CONTAINER_BYTES = 2 << 30
_SPOOL_BYTES = 8 << 20
# Before the sound: lists of Matroska and CAF take up to 29 times their bytes (measured). Chosen: above covers, fonts.
MAX_HEAD_BYTES = 32 << 20
room = Room(total_bytes=2 * MAX_CONTAINER_BYTES, uid_bytes=MAX_CONTAINER_BYTES)  # of all that are spooled
FRAME_BLOCKS = 4  # in the channel behind the stage
_BLOCK_FRAMES = 25  # 0.5 s: what one hop from the thread to the loop carries at most

# PyAV's thread of a session mostly waits for bytes, so the bound is on open containers, not on CPU. It is never waited
# for: a session that could not say why it stands still would be worse than one that is refused.
_threads = trio.CapacityLimiter(256)

_LIVE_HEAD_BYTES = 1 << 16  # in which a live MP4 has begun its index or its audio


class Receiver(Protocol):
    """Where a container's bytes come from."""

    async def receive(self) -> Any:
        """The next item. Raises trio.EndOfChannel after the last."""


@attrs.frozen(kw_only=True)
class ContainerInfo:
    """What the container says of itself."""

    duration_s: float | None


@attrs.define(eq=False, slots=False)  # RawIOBase has slots of its own
class _Source(io.RawIOBase):
    """A file, as PyAV sees it, over a channel of bytes. Lives in the thread.

    FFmpeg takes an error of its file for a hiccup and may ask again for ever. So a read never raises: it says that
    the file has ended, and `interrupted` says why to whoever opened it.
    """

    receive: Receiver
    seekable_: bool
    head: bytes
    forward: Callable[[Any], Awaitable[None]]  # for what is no bytes
    uid: int
    index: IsoIndex | None  # of an MP4
    interrupted: BaseException | None = attrs.field(default=None, init=False)
    received: int = attrs.field(default=0, init=False)  # bytes, the head included
    opened: bool = attrs.field(default=False, init=False)  # FFmpeg has read what is before the sound
    _read: int = attrs.field(default=0, init=False)  # bytes, until then
    _at: int = attrs.field(default=0, init=False)
    _size: int = attrs.field(default=0, init=False)
    _ended: bool = attrs.field(default=False, init=False)
    _pending: bytearray = attrs.field(factory=bytearray, init=False, repr=False)
    _spool: Any = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.received = len(self.head)
        self._look_at(self.head)
        if self.seekable_:
            self._spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES, dir=directory())  # noqa: SIM115 (closed in close)
            self._store(self.head)
        else:
            self._pending += self.head

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self.seekable_

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        if not self.opened and self._read > MAX_HEAD_BYTES and self.interrupted is None:
            message = f"the audio cannot be decoded: the file has more than {MAX_HEAD_BYTES >> 20} MiB before its sound"
            self._ended, self.interrupted = True, ProtocolError(message, code="bad_audio")
        if self.interrupted is not None:
            return b""
        piece = self._read_spooled(size) if self.seekable_ else self._read_on(size)
        self._read += len(piece)
        return piece

    def _read_on(self, size: int) -> bytes:
        while not self._may_read(self._at + len(self._pending)) and not self._ended:
            self._pending += self._more()
        piece = bytes(self._pending[: min(size, self._may_read(self._at + len(self._pending)))])
        del self._pending[: len(piece)]
        self._at += len(piece)
        return piece

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if not self.seekable_:
            raise io.UnsupportedOperation("seek")
        if whence == io.SEEK_END:
            while not self._ended:
                self._store(self._more())
            offset += self._size
        elif whence == io.SEEK_CUR:
            offset += self._at
        self._at = offset
        return offset

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None
            room.give_back(self._size, uid=self.uid)
        super().close()

    def _read_spooled(self, size: int) -> bytes:
        while self._may_read(self._size) < size and not self._ended:
            self._store(self._more())
        self._spool.seek(self._at)
        piece: bytes = self._spool.read(max(0, min(size, self._may_read(self._size))))
        self._at += len(piece)
        return piece

    def _may_read(self, received: int) -> int:
        """How many bytes FFmpeg may have from where it is, of so many that came."""
        return (received if self.index is None else min(received, self.index.ready)) - self._at

    def _look_at(self, data: bytes) -> bool:
        """Whether the file, whose next bytes these are, may go on; none: it has ended."""
        try:
            if self.index is not None:
                self.index.feed(data) if data else self.index.end()
        except ProtocolError as exc:
            self._ended, self.interrupted = True, exc
            return False
        return True

    def _store(self, data: bytes) -> None:
        try:
            room.take(len(data), uid=self.uid)
        except OverloadedError as exc:
            self._ended, self.interrupted = True, exc
            return
        self._size += len(data)
        try:
            self._spool.seek(self._size - len(data))
            self._spool.write(data)
        except OSError as exc:  # the disk of the temporary directory is full
            self._ended = True
            message = f"the file cannot be kept while it is read ({exc.strerror}); come again later"
            self.interrupted = OverloadedError(message, data={"retry_after_s": RETRY_S})

    def _more(self) -> bytes:
        """The next bytes; none at the end."""
        data = b""
        try:
            while not self._ended and not data:
                item = trio.from_thread.run(self.receive.receive)
                if isinstance(item, bytes):
                    data = item
                else:
                    trio.from_thread.run(self.forward, item)
        except trio.EndOfChannel:
            pass
        except (trio.Cancelled, trio.BrokenResourceError) as exc:
            self.interrupted = exc  # raised again by `_pull`
        if self._size + len(data) > MAX_CONTAINER_BYTES:
            data = b""
            message = f"the file is larger than {MAX_CONTAINER_BYTES >> 30} GiB"
            self.interrupted = ProtocolError(message, code="too_large")
        self._ended = not data
        self.received += len(data)
        if self.interrupted is None and not self._look_at(data):
            return b""
        return data


async def container_stage(
    receive: AsyncIterable[Any],
    send: trio.MemorySendChannel[Any],
    *,
    channel_select: int | None,
    live: bool,
    on_info: Callable[[ContainerInfo], None] | None = None,
    uid: int = -1,
) -> None:
    """Bytes from `receive` go through PyAV and on to `send` as frames; anything else goes along in its place.

    An error of the container is sent as the last item. Closes `send`.
    """
    to_thread, in_thread = trio.open_memory_channel[Any](0)
    async with send, trio.open_nursery() as nursery:
        nursery.start_soon(_sort, receive, to_thread, send.clone())
        try:
            await decode_container(in_thread, send, channel_select=channel_select, live=live, on_info=on_info, uid=uid)
        except SttdError as exc:
            await send.send(exc)
        in_thread.close()


async def _sort(
    receive: AsyncIterable[Any],
    to_thread: trio.MemorySendChannel[Any],
    send: trio.MemorySendChannel[Any],
) -> None:
    async with to_thread, send:
        async for item in receive:
            try:
                await to_thread.send(item)
            except trio.BrokenResourceError:  # the container ended before its bytes
                if not isinstance(item, bytes):
                    await _send_on(send, item)


async def _send_on(send: trio.MemorySendChannel[Any], item: Any) -> None:
    with contextlib.suppress(trio.BrokenResourceError):  # the session stopped listening
        await send.send(item)


async def decode_container(
    receive: Receiver,
    send: trio.MemorySendChannel[Any],
    *,
    channel_select: int | None,
    live: bool,
    on_info: Callable[[ContainerInfo], None] | None = None,
    uid: int = -1,
) -> None:
    """Read a container from `receive` until its end, send frames of shape (n, 320) float32 at 16 kHz mono.

    Raises ProtocolError with `bad_audio` or `too_large`, OverloadedError. Cancelling it ends the thread at its next
    read or send.
    """
    head = await _head(receive, send, live=live)
    if not head and not live:
        raise ProtocolError("the file is empty", code="bad_audio")
    if head and not _threads.available_tokens:
        raise OverloadedError(
            f"{_threads.total_tokens:.0f} containers are read at the moment, and no more can be; come again later",
            data={"retry_after_s": RETRY_S},
        )
    if head:
        await trio.to_thread.run_sync(_pull, receive, send, head, channel_select, live, on_info, uid, limiter=_threads)


async def _head(receive: Receiver, send: trio.MemorySendChannel[Any], *, live: bool) -> bytes:
    """Enough bytes to tell what must be sought in from the rest."""
    head = b""
    while len(head) < 12 or (live and is_iso(head) and not index_place(head) and len(head) < _LIVE_HEAD_BYTES):
        try:
            item = await receive.receive()
        except trio.EndOfChannel:
            break
        if isinstance(item, bytes):
            head += item
        else:
            await _send_on(send, item)
    return head


def _pull(
    receive: Receiver,
    send: trio.MemorySendChannel[Any],
    head: bytes,
    channel_select: int | None,
    live: bool,
    on_info: Callable[[ContainerInfo], None] | None,
    uid: int,
) -> None:
    """The thread: open, demux, decode, resample, hand over."""
    import av

    seekable = head.startswith(b"caff") or (is_iso(head) and not (live and index_place(head) == "front"))
    index = IsoIndex(waits=seekable) if may_be_iso(head) else None
    source = _Source(receive=receive, seekable_=seekable, head=head, forward=send.send, uid=uid, index=index)
    # A live stream must not wait for five seconds of itself before its first sample is decoded.
    quick = {"formatprobesize": "65536", "probesize": "65536", "analyzeduration": "0"} if live else {}
    # Tags that are not UTF-8 are nobody's concern here. PyAV 19 takes them as they are and has no such option.
    tolerant: Any = {"metadata_errors": "ignore"} if int(av.__version__.partition(".")[0]) < 19 else {}

    def warn(warning: Warn) -> None:
        trio.from_thread.run(send.send, warning)

    def read(file: io.RawIOBase, *, before: int) -> int:
        """Decode all of a container. Returns how many samples there are with those before."""
        with av.open(file, mode="r", options={**open_options(iso=index is not None), **quick}, **tolerant) as container:
            source.opened = True
            if not container.streams.audio:
                raise ProtocolError("the file has no audio stream", code="bad_audio")
            stream = container.streams.best("audio") or container.streams.audio[0]
            if (tracks := len(container.streams.audio)) > 1:
                number = container.streams.audio.index(stream) + 1
                warn(Warn(code="other_tracks", message=f"of {tracks} audio tracks number {number} is heard"))
            if on_info is not None and not before:
                duration = container.duration / av.time_base if container.duration else None
                trio.from_thread.run_sync(on_info, ContainerInfo(duration_s=duration))
            unpacker = Unpacker(
                container=container,
                stream=stream,
                received_bytes=lambda: source.received,
                warn=warn,
                before=before,
            )
            _decode(unpacker, send, channel_select, least=1 if live else _BLOCK_FRAMES)
            return unpacker.made

    try:
        if live and seekable:
            warn(Warn(code="late_text", message="the file has its index at the end: text comes once all of it is here"))
        if head.startswith(b"OggS"):
            links = OggLinks(source)
            made = read(links, before=0)
            while links.next_link():
                if links.count > MAX_LINKS:
                    raise ProtocolError(f"the file has more than {MAX_LINKS} links", code="bad_audio")
                made = read(links, before=made)
        else:
            read(source, before=0)
    except trio.BrokenResourceError:
        return  # the session has stopped listening
    except Exception as exc:  # PyAV raises ValueError and more where FFmpeg's own errors would do
        if source.interrupted is not None:
            raise source.interrupted from None
        if isinstance(exc, SttdError):
            raise
        if isinstance(exc, MemoryError):
            message = "there is no memory to decode the file in; come again later"
            raise OverloadedError(message, data={"retry_after_s": RETRY_S}) from exc
        reason = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
        raise ProtocolError(f"the audio cannot be decoded: {reason}", code="bad_audio") from exc
    finally:
        source.close()
    if source.interrupted is not None and not isinstance(source.interrupted, trio.BrokenResourceError):
        raise source.interrupted


def _decode(unpacker: Unpacker, send: trio.MemorySendChannel[Any], channel_select: int | None, *, least: int) -> None:
    """Decode to the end; frames are handed over once there are `least` of them."""
    rest = np.zeros(0, np.float32)
    try:
        for planes in unpacker.planes():
            rest = np.concatenate((rest, mixed(planes, channel_select)))
            if len(rest) >= least * FRAME_SAMPLES:
                rest = _hand_over(rest, send)
    except ProtocolError:
        _hand_over(np.pad(rest, (0, -len(rest) % FRAME_SAMPLES)), send)  # what came before is audio all the same
        raise
    _hand_over(np.pad(rest, (0, -len(rest) % FRAME_SAMPLES)), send)


def _hand_over(samples: npt.NDArray[np.float32], send: trio.MemorySendChannel[Any]) -> Frames:
    """Send all whole frames, in blocks. Returns the rest."""
    step = _BLOCK_FRAMES * FRAME_SAMPLES
    while len(samples) >= FRAME_SAMPLES:
        count = min(len(samples), step) // FRAME_SAMPLES * FRAME_SAMPLES
        block = np.clip(samples[:count], -1.0, 1.0).reshape(-1, FRAME_SAMPLES)
        block.flags.writeable = False
        trio.from_thread.run(send.send, block)
        samples = samples[count:]
    return samples
