"""The stream under the WebSocket library: a cancelled send tears nothing, a close overtakes nothing."""

from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from sttd.planes.streams import UpgradedStream, linger

PING, OTHER_PING = b"\x89\x80\0\0\0\0", b"\x89\x81\0\0\0\0x"
UNMASKED, CLOSE = b"\x81\x00", b"\x88\x02\x03\xea"


@asynccontextmanager
async def pair():
    ours, theirs = trio.socket.socketpair()
    async with trio.SocketStream(ours) as left, trio.SocketStream(theirs) as right:
        yield left, right


async def test_the_head_comes_first_and_the_rest_once_the_handshake_is_over():
    async with pair() as (ours, theirs):
        stream = UpgradedStream(ours, head=b"abcdef", rest=PING)
        await theirs.send_all(OTHER_PING)
        assert [await stream.receive_some(4), await stream.receive_some()] == [b"abcd", b"ef"]
        with trio.move_on_after(0.05) as scope:
            await stream.receive_some()
        assert scope.cancelled_caught
        stream.release()
        assert [await stream.receive_some(), await stream.receive_some()] == [PING, OTHER_PING]


async def test_after_a_violation_our_close_frame_is_the_end_and_nothing_else():
    received = []

    async def read(stream):
        while data := await stream.receive_some():
            received.append(data)
        received.append(b"")

    async with pair() as (ours, theirs), trio.open_nursery() as nursery:
        stream = UpgradedStream(ours, head=b"")
        stream.release()
        nursery.start_soon(read, stream)
        await theirs.send_all(PING + UNMASKED + PING)
        assert (await stream.violation()).close_code == 1002
        await theirs.send_all(PING)
        await stream.send_all(b"\x81\x00")
        await wait_all_tasks_blocked()
        assert received == [PING]
        await stream.send_all(CLOSE)
        await wait_all_tasks_blocked()
        assert received == [PING, b""]


async def test_release_and_close_wake_a_receiver():
    for wake, expected in ((UpgradedStream.release, b"x"), (UpgradedStream.aclose, None)):
        async with pair() as (ours, theirs), trio.open_nursery() as nursery:
            stream, results = UpgradedStream(ours, head=b""), []

            async def receive(stream=stream, results=results):
                try:
                    results.append(await stream.receive_some())
                except trio.ClosedResourceError:
                    results.append(None)

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            await theirs.send_all(b"x")
            if (pending := wake(stream)) is not None:
                await pending
        assert results == [expected]


async def test_a_cancelled_send_is_finished_by_the_next_one():
    first, second = b"1" * 3_000_000, b"2" * 10
    async with pair() as (ours, theirs):
        stream = UpgradedStream(ours, head=b"")
        with trio.move_on_after(0.05) as scope:
            await stream.send_all(first)
        assert scope.cancelled_caught
        received = bytearray()

        async def read():
            while len(received) < len(first) + len(second):
                received.extend(await theirs.receive_some())

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await stream.send_all(second)
    assert received == first + second


async def test_a_lost_peer_and_a_closed_stream_say_so():
    async with pair() as (ours, theirs):
        stream = UpgradedStream(ours, head=b"x")
        await theirs.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()


async def test_linger_waits_for_the_peer_to_close_but_not_for_ever(autojump_clock):
    async with pair() as (ours, theirs):
        await theirs.send_all(b"still talking")
        await ours.send_all(b"last words")
        began = trio.current_time()
        await linger(ours, timeout_s=2)
        assert trio.current_time() - began == 2
        assert await theirs.receive_some() == b"last words"
        assert await theirs.receive_some() == b""
    async with pair() as (ours, theirs):
        await theirs.aclose()
        began = trio.current_time()
        await linger(ours, timeout_s=2)
        assert trio.current_time() == began
