"""Deciphered streams, against OpenSSL's other half in the same process."""

import ssl
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from sttd.errors import ConfigError
from sttd.host.tls import Cipher, server_context

CERTIFICATES = Path(__file__).parents[2] / "data" / "tls"
PEM, KEY = CERTIFICATES / "one.pem", CERTIFICATES / "one.key"


@asynccontextmanager
async def served(serve, **options):
    """A stream to a plane that is `serve`; `gone` is set when the whole connection is."""
    cipher = Cipher(server_context(PEM, KEY), **options)
    gone = trio.Event()
    listener, *_ = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def take():
        await cipher.serve(await listener.accept(), serve)
        gone.set()

    with trio.fail_after(60):
        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(take)
            stream = await trio.open_tcp_stream(*listener.socket.getsockname())
            async with stream:
                yield stream, gone
            nursery.cancel_scope.cancel()


def secured(stream):
    return trio.SSLStream(stream, ssl.create_default_context(cafile=str(PEM)), server_hostname="localhost")


async def echo(stream):
    async with stream:
        async for data in stream:
            await stream.send_all(data)


async def read_all(stream):
    return b"".join([bytes(data) async for data in stream])


@pytest.mark.parametrize("size", [1, 20_000, 3_000_000])
async def test_what_is_sent_comes_back_whole(size):
    data = bytes(range(256)) * (size // 256 + 1)
    async with served(echo) as (stream, _), trio.open_nursery() as nursery:
        client = secured(stream)
        await client.do_handshake()
        nursery.start_soon(client.send_all, data)
        received = bytearray()
        while len(received) < len(data):
            received += await client.receive_some()
    assert received == data


async def test_what_the_plane_wrote_last_arrives_before_the_end_though_the_client_still_sends():
    async def answer_and_leave(stream):
        async with stream:
            await stream.receive_some(1)
            await stream.send_all(b"x" * 200_000)

    async with served(answer_and_leave) as (stream, gone), trio.open_nursery() as nursery:
        client = secured(stream)
        await client.do_handshake()

        async def go_on():
            try:
                while True:
                    await client.send_all(bytes(1000))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

        nursery.start_soon(go_on)
        assert await read_all(client) == b"x" * 200_000  # a ragged end would raise
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)
            await gone.wait()


async def test_a_peer_that_says_nothing_is_given_up():
    async def never(stream):
        raise AssertionError

    async with served(never, handshake_s=0.01) as (stream, gone):
        await gone.wait()
        assert await read_all(stream) == b""


async def test_a_peer_that_reads_nothing_is_given_up_once_the_plane_is_done():
    async def write_and_leave(stream):
        async with stream:
            with trio.move_on_after(0.5):
                await stream.send_all(bytes(50_000_000))  # more than the kernels take

    async with served(write_and_leave, delivery_s=0.01) as (stream, gone):
        await secured(stream).do_handshake()
        await gone.wait()


async def test_a_peer_that_is_cut_off_is_an_end_of_input_for_the_plane():
    ended = trio.Event()

    async def wait_for_the_end(stream):
        async with stream:
            assert await read_all(stream) == b"half a sent"
            ended.set()

    async with served(wait_for_the_end) as (stream, gone):
        client = secured(stream)
        await client.send_all(b"half a sent")
        await stream.send_eof()  # without the alert
        await ended.wait()
        await gone.wait()


async def test_what_a_peer_had_said_is_heard_though_nothing_can_be_told_to_it_any_more():
    """More than the plane's own socket takes at once: the rest is with the peer's when that is closed."""
    said, gone = bytes(250_000), trio.Event()

    async def tell_first(stream):
        async with stream:
            await gone.wait()
            await stream.send_all(b"x")
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert len(await read_all(stream)) == len(said)

    theirs, ours = (trio.SocketStream(end) for end in trio.socket.socketpair())
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Cipher(server_context(PEM, KEY)).serve, ours, tell_first)
            await secured(theirs).send_all(said)
            await theirs.aclose()
            gone.set()


async def test_cancellation_cuts_the_connection():
    with trio.CancelScope() as scope:

        async def cancelled(stream):
            scope.cancel()
            await trio.sleep_forever()

        async with served(cancelled) as (stream, _):
            await secured(stream).do_handshake()
            await trio.sleep_forever()
    assert scope.cancelled_caught


def test_files_that_do_not_hold_are_errors_of_the_configuration(tmp_path):
    rubbish = tmp_path / "rubbish"
    rubbish.write_bytes(b"-----BEGIN CERTIFICATE-----")
    absent = tmp_path / "absent"
    for pem, key, named in (
        (absent, KEY, "tls_cert"),
        (PEM, absent, "tls_key"),
        (rubbish, KEY, "tls_cert"),
        (PEM, rubbish, "tls_key"),
        (PEM, CERTIFICATES / "two.key", "tls_key"),
        (tmp_path, KEY, "tls_cert"),
        (Path("a\0b"), KEY, "tls_cert"),
    ):
        with pytest.raises(ConfigError, match=named):
            server_context(pem, key)


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(tmp_path):
    locked = tmp_path / "locked.key"
    locked.write_text(LOCKED)
    with pytest.raises(ConfigError, match="tls_key"):
        server_context(PEM, locked)


LOCKED = """\
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAjGcDyWpQsoPAICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEF5WWCMpWDXQoJs1tVwaApIEgZDG
0qhJJCoaSACVDC0stOvfql0TnceFwWmsFN6o4jHb8FaErs7ph4qw8wW083zmy0U4
6pKEBFS4jTL4dr0D7NvQL9r9YpACDNsT6NR5Ewyc9PkvaEQvLSw7WYEAwCycGS2u
lZNM1hl8tntOwQt1c4FqNrUqHR/riYly1vfUst4NDqVFZ8YMa5CtWzrBypdNEXg=
-----END ENCRYPTED PRIVATE KEY-----
"""  # one.key, by `openssl pkcs8 -topk8`
