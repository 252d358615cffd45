"""What asyncio lacks and the client makes up for: streams, tasks that are owned, addresses that do not answer."""

import asyncio  # noqa: TID251 - the library is for asyncio, too
import contextlib
import functools
import socket
import ssl

import pytest
from sttd_client import asyncio_streams
from sttd_client.addresses import TcpAddress
from sttd_client.asyncio_streams import AsyncioLoop, AsyncioStream

LOOP = AsyncioLoop()


def on_asyncio(test):
    @functools.wraps(test)
    def run(**fixtures):
        async def bounded():
            async with asyncio.timeout(60):
                await test(**fixtures)

        asyncio.run(bounded())

    return run


@contextlib.asynccontextmanager
async def pair():
    """A stream, and the blocking socket at its other end."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    stream = AsyncioStream(ours)
    with theirs:
        yield stream, theirs
        await stream.close()
    assert ours.fileno() == -1


@on_asyncio
async def test_a_stream_that_is_closed_wakes_whoever_reads_it():
    async with pair() as (stream, _):
        reading = asyncio.create_task(stream.receive())
        await asyncio.sleep(0)
        await stream.close()
        assert await reading == b""
        assert await stream.receive() == b""
        assert await stream.send(b"x") is False


@on_asyncio
async def test_what_came_before_a_failed_send_can_be_read():
    async with pair() as (stream, theirs):
        theirs.sendall(b"why")
        theirs.close()
        assert await stream.send(b"x") is False
        assert await stream.receive() == b"why"
        assert await stream.receive() == b""


@on_asyncio
async def test_a_send_that_is_cancelled_closes():
    async with pair() as (stream, theirs):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await stream.send(bytes(10_000_000))
        assert await stream.send(b"more") is False
        theirs.settimeout(60)
        while theirs.recv(1 << 20):
            pass


@on_asyncio
async def test_others_have_their_turn_though_nothing_has_to_be_waited_for():
    turns = []

    async def other():
        while True:
            turns.append(None)
            await asyncio.sleep(0)

    async with pair() as (stream, theirs), asyncio.TaskGroup() as group:
        beside = group.create_task(other())
        for _ in range(10):
            theirs.sendall(b"x")
            assert await stream.send(b"y")
            assert await stream.receive() == b"x"
        beside.cancel()
    assert len(turns) >= 20


@on_asyncio
async def test_the_one_error_of_a_block_leaves_as_it_is_with_its_cause():
    cause = OSError("why")

    async def body():
        async with LOOP.tasks() as start_soon:
            start_soon(asyncio.Event().wait)
            raise KeyError("mine") from cause

    with pytest.raises(KeyError) as caught:
        await body()
    assert caught.value.__cause__ is cause


@on_asyncio
async def test_a_task_that_fails_ends_the_block_and_its_error_leaves_as_it_is():
    async def fail():
        raise KeyError("theirs")

    async def body():
        async with LOOP.tasks() as start_soon:
            start_soon(fail)
            await asyncio.Event().wait()

    with pytest.raises(KeyError, match="theirs"):
        await body()


@on_asyncio
async def test_errors_of_several_tasks_stay_together():
    async def fail():
        try:
            await asyncio.Event().wait()
        finally:
            raise KeyError("theirs")

    async def body():
        async with LOOP.tasks() as start_soon:
            start_soon(fail)
            await asyncio.sleep(0)
            raise ValueError("mine")

    with pytest.raises(ExceptionGroup) as caught:
        await body()
    assert {type(error) for error in caught.value.exceptions} == {KeyError, ValueError}


@on_asyncio
async def test_who_is_cancelled_leaves_a_block_cancelled_and_its_tasks_with_it():
    left = []

    async def stay():
        try:
            await asyncio.Event().wait()
        finally:
            left.append("task")

    async def body():
        async with LOOP.tasks() as start_soon:
            start_soon(stay)
            await asyncio.sleep(0)
            asyncio.current_task().cancel()
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await asyncio.wait([task])
    assert task.cancelled()
    assert left == ["task"]


def resolving(monkeypatch, *hosts):
    """Whatever host is asked for has these addresses."""

    async def getaddrinfo(loop, host, port, **_):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in hosts]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@on_asyncio
async def test_an_address_that_does_not_answer_costs_a_moment(monkeypatch, listener):
    connected, made = asyncio_streams._connected, []

    async def swallowed(family, address, options=()):
        if address[0] == "swallowed":
            try:
                await asyncio.Event().wait()
            finally:
                made.append("given up")
        return await connected(family, address, options)

    resolving(monkeypatch, "swallowed", "127.0.0.1", "127.0.0.1")
    monkeypatch.setattr(asyncio_streams, "_connected", swallowed)
    stream = await LOOP.open_tcp(TcpAddress(host="daemon.test", port=listener.getsockname()[1]), None)
    assert made == ["given up"]
    await stream.close()


@on_asyncio
async def test_of_two_that_answer_at_once_one_is_closed(monkeypatch, listener):
    connected, streams, both = asyncio_streams._connected, [], asyncio.Event()

    async def together(family, address, options=()):
        streams.append(await connected(family, address, options))
        if len(streams) == 2:
            both.set()
        await both.wait()
        return streams[-1] if len(streams) < 2 else streams.pop()

    resolving(monkeypatch, "127.0.0.1", "127.0.0.1")
    monkeypatch.setattr(asyncio_streams, "_connected", together)
    stream = await LOOP.open_tcp(TcpAddress(host="daemon.test", port=listener.getsockname()[1]), None)
    await stream.close()
    first, second = listener.accept()[0], listener.accept()[0]
    for peer in (first, second):
        with peer:
            assert peer.recv(1) == b""


@on_asyncio
async def test_where_no_address_answers_the_last_ones_error_is_raised(monkeypatch, listener):
    port = listener.getsockname()[1]
    listener.close()
    resolving(monkeypatch, "127.0.0.1", "127.0.0.1")
    with pytest.raises(ConnectionRefusedError):
        await LOOP.open_tcp(TcpAddress(host="daemon.test", port=port), None)


@on_asyncio
async def test_a_peer_that_goes_while_tls_is_agreed_on_is_told(listener):
    def leave():
        connection, _ = listener.accept()
        with connection:
            connection.recv(100)

    leaving = asyncio.create_task(asyncio.to_thread(leave))
    address = TcpAddress(port=listener.getsockname()[1], tls=True)
    with pytest.raises(OSError):
        await LOOP.open_tcp(address, ssl.create_default_context())
    await leaving
