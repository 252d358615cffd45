"""The two scopes of a stop: accepting ends at once, connections at the deadline."""

import pytest
import trio
import trio.testing

from sttd.planes.drain import Drain, serve_connections


async def start_plane(nursery, handle, drain):
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    started = await nursery.start(
        lambda task_status: serve_connections(listeners, handle, drain=drain, task_status=task_status)
    )
    return started[0].socket.getsockname()[:2]


async def hold_open(stream):
    await stream.receive_some(1)
    await trio.sleep_forever()


async def connect(address):
    stream = await trio.open_tcp_stream(*address)
    await stream.send_all(b"x")
    return stream


async def test_a_running_connection_outlives_accepting_and_may_see_that_the_drain_began():
    drain, finished = Drain(), trio.Event()

    async def handle(stream):
        await drain.started.wait()
        await stream.send_all(b"last words")
        finished.set()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            address = await start_plane(nursery, handle, drain)
            stream = await connect(address)
            await trio.testing.wait_all_tasks_blocked(0.01)
            drain.stop_accepting()
            assert await stream.receive_some(100) == b"last words"
            await finished.wait()
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream(*address)
        await stream.aclose()


async def test_a_connection_that_does_not_end_is_cut_at_the_deadline(autojump_clock):
    drain = Drain()
    async with trio.open_nursery() as nursery:
        address = await start_plane(nursery, hold_open, drain)
        stream = await connect(address)
        await trio.testing.wait_all_tasks_blocked(0.01)
        drain.stop_accepting()
        before = trio.current_time()
        drain.close_at(before + 3)
        drain.close_at(before + 60)  # a later deadline does not prolong it
    assert trio.current_time() - before == 3
    await stream.aclose()
