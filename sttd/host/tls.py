"""TLS in front of a plane: connections are deciphered before the plane sees them.

A plane is written for sockets: it sends in pieces that survive a cancellation, ends one direction and goes on with the
other, asks how much the kernel holds. A TLS stream can do none of that. So each connection gets a pair of sockets of
this process: the plane has one end, as if its client were a local program, and a task carries bytes between the
other end and the TLS stream. That costs a copy, and the planes know nothing of it.

Rules:

1. The handshake has a bound of time. One that fails costs its connection alone, and its peer learns no reason.
2. Each direction ends by itself: who has said all that he wants still gets answers.
3. What the plane wrote goes out before the connection is closed, with the alert that says that it is whole. A client
   has `DELIVERY_S` to take what is left once the plane has closed its end: who reads nothing keeps no place for ever.
4. Certificates are read at start and on `reload`; files that do not hold change nothing. Connections that are open
   keep what they began with.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import attrs
import trio

from sttd.errors import ConfigError

HANDSHAKE_S: Final = 10.0  # chosen: a slow line needs two or three turns to the other side of the world
DELIVERY_S: Final = 60.0  # chosen: for the 1 MB that a plane may have written ahead, by a line of 150 kbit/s
_CARRY_BYTES: Final = 16 * 1024  # at a time: a TLS record holds no more
_FAREWELL_S: Final = 2.0  # to read our last bytes


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """What connections of a server with this chain and key begin with. Raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        # A key with a passphrase would be asked for at the terminal, where there is one.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except FileNotFoundError as error:
        missing = certificate if not certificate.exists() else key
        raise ConfigError(
            f"`server.tls_{'cert' if missing == certificate else 'key'}`: {missing}: {error.strerror}"
        ) from None
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise ConfigError(f"`server.tls_cert` {certificate} with `server.tls_key` {key}: {why}") from None
    return context


@attrs.define(eq=False)
class Cipher:
    """The TLS of one plane. `context` may be replaced at any time (rule 4)."""

    context: ssl.SSLContext
    handshake_s: float = HANDSHAKE_S
    delivery_s: float = DELIVERY_S

    async def serve(self, stream: trio.SocketStream, serve: Callable[[trio.SocketStream], Awaitable[object]]) -> None:
        """Serve what is deciphered, and close the connection.

        `serve` raises nothing but Cancelled, and closes its stream before it returns. Cancellation cuts the connection.
        """
        secure = trio.SSLStream(_Lingering(stream), self.context, server_side=True)
        try:
            with trio.move_on_after(self.handshake_s) as patience:
                await secure.do_handshake()
            if patience.cancelled_caught:
                return
            plain, ours = _pair()
            try:
                async with trio.open_nursery() as nursery:
                    carrying = trio.CancelScope()
                    nursery.start_soon(self._serve_plain, serve, plain, carrying)
                    with carrying:
                        await _carry(secure, ours)
            finally:
                for end in (plain, ours):
                    end.socket.close()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # no TLS, none that both sides know, or the peer is gone
        finally:
            await trio.aclose_forcefully(stream)

    async def _serve_plain(
        self,
        serve: Callable[[trio.SocketStream], Awaitable[object]],
        plain: trio.SocketStream,
        carrying: trio.CancelScope,
    ) -> None:
        await serve(plain)
        carrying.deadline = trio.current_time() + self.delivery_s


async def _carry(secure: trio.SSLStream[_Lingering], ours: trio.SocketStream) -> None:
    """Carry bytes both ways until the plane has closed its end; then close the connection."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_carry_in, secure, ours)
        try:
            while data := await ours.receive_some(_CARRY_BYTES):
                await secure.send_all(data)
        except trio.BrokenResourceError:
            pass  # one of them is gone
        nursery.cancel_scope.cancel()
    with trio.move_on_after(_FAREWELL_S):
        await secure.aclose()
    await trio.aclose_forcefully(ours)


async def _carry_in(secure: trio.SSLStream[_Lingering], ours: trio.SocketStream) -> None:
    try:
        while data := await secure.receive_some(_CARRY_BYTES):
            await ours.send_all(data)
    except trio.BrokenResourceError:
        pass  # a stream that ends without the alert has ended: both protocols above say themselves what is whole
    try:
        await ours.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        await trio.lowlevel.checkpoint()


def _pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    one, other = socket.socketpair()
    return tuple(trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in (one, other))  # type: ignore[return-value]


@attrs.frozen(eq=False)
class _Lingering(trio.abc.Stream):
    """A socket that is closed when its peer has read the last bytes: a close with unread data would reset them.

    What is sent to a peer that is gone is lost, and no error: TLS would not hear what it had said before.
    """

    stream: trio.SocketStream

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self.stream.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self.stream.send_all(data)
        except trio.BrokenResourceError:
            await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        try:
            await self.stream.send_eof()
            while await self.stream.receive_some(_CARRY_BYTES):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(self.stream)
