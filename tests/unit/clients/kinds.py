"""The kinds of the client library, so that one test speaks for all: on Trio, on asyncio, and blocking.

    @each_kind
    async def test_something(kind, control_socket, fake_audio):
        async with kind.open_session(socket_path=control_socket) as session:
            await session.send(b"")

Real clock: the scripted daemons live in threads.
"""

import asyncio  # noqa: TID251 - the library is for asyncio, too
import functools
import time
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from sttd_client import aio, blocking, open_control, open_session

LIMIT_S = 300.0  # of a test; a machine with other work to do is not a client that hangs


class OnTrio:
    """Trio, by the names that tests use."""

    open_session = staticmethod(open_session)
    open_control = staticmethod(open_control)
    sleep = staticmethod(trio.sleep)
    in_thread = staticmethod(trio.to_thread.run_sync)

    def run(self, test):
        async def bounded():
            with trio.fail_after(LIMIT_S):
                await test()

        trio.run(bounded)

    @asynccontextmanager
    async def task(self, function, *args):
        """A task beside the block, which waits for it at the end."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(function, *args)
            await trio.testing.wait_all_tasks_blocked()
            yield

    async def gave_up(self, function, *args, after_s):
        """Whether it had to be cancelled."""
        with trio.move_on_after(after_s) as scope:
            await function(*args)
        return scope.cancelled_caught

    async def was_cancelled(self, function):
        """Whether a function that is given the means to cancel itself was."""
        with trio.CancelScope() as scope:
            await function(scope.cancel)
        return scope.cancelled_caught


class OnAsyncio:
    """asyncio, by the same names."""

    open_session = staticmethod(aio.open_session)
    open_control = staticmethod(aio.open_control)
    sleep = staticmethod(asyncio.sleep)
    in_thread = staticmethod(asyncio.to_thread)

    def run(self, test):
        async def bounded():
            async with asyncio.timeout(LIMIT_S):
                await test()

        asyncio.run(bounded())

    @asynccontextmanager
    async def task(self, function, *args):
        async with asyncio.TaskGroup() as group:
            group.create_task(function(*args))
            for _ in range(10):  # chosen: as many turns as it may take until it waits
                await asyncio.sleep(0)
            yield

    async def gave_up(self, function, *args, after_s):
        try:
            async with asyncio.timeout(after_s):
                await function(*args)
        except TimeoutError:
            return True
        return False

    async def was_cancelled(self, function):
        task = asyncio.create_task(function(lambda: task.cancel()))
        await asyncio.wait([task])
        return task.cancelled()


class Blocking:
    """No loop: coroutines that never wait, over the blocking session."""

    async def sleep(self, seconds):
        time.sleep(seconds)  # noqa: ASYNC251 - there is no loop

    def run(self, test):
        with pytest.raises(StopIteration):  # else it has waited for a loop
            test().send(None)

    @asynccontextmanager
    async def open_session(self, **options):
        with blocking.open_session(**options) as session:
            yield BlockingSession(session)


class BlockingSession:
    """The blocking session, by the names of the others."""

    def __init__(self, session):
        self._session = session
        self.hello, self.started = session.hello, session.started

    async def send(self, data):
        self._session.send(data)

    async def finalize(self):
        self._session.finalize()

    async def configure(self, **changes):
        self._session.configure(**changes)

    async def stop(self):
        self._session.stop()

    async def receive(self):
        return self._session.receive(timeout_s=LIMIT_S)

    def __aiter__(self):
        return self

    async def __anext__(self):
        if (event := await self.receive()) is None:
            raise StopAsyncIteration
        return event


LOOPS = (OnTrio(), OnAsyncio())
KINDS = (*LOOPS, Blocking())


def each_loop(test):
    """The test on Trio and on asyncio."""
    return _on(LOOPS, test)


def each_kind(test):
    """The test on both loops and without one."""
    return _on(KINDS, test)


def _on(kinds, test):
    @pytest.mark.parametrize("kind", kinds, ids=lambda kind: type(kind).__name__)
    @functools.wraps(test)
    def run(kind, **fixtures):
        kind.run(functools.partial(test, kind, **fixtures))

    return run


async def vanished(kind, path):
    """Wait until a script has hidden it."""
    while path.exists():
        await kind.sleep(0.01)
