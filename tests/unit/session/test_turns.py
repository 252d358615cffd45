"""Turns go round among users, whoever has more sessions."""

import trio
import trio.testing

from sttd.session.turns import Turns


async def test_the_one_session_of_a_user_is_heard_every_other_time():
    turns, heard = Turns(), []

    async def session(uid, times):
        for _ in range(times):
            async with turns.of(uid):
                heard.append(uid)
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        await turns.everybody.acquire()
        for _ in range(20):
            nursery.start_soon(session, 1, 5)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(session, 2, 5)
        await trio.testing.wait_all_tasks_blocked()
        turns.everybody.release()
    assert len(heard) == 105
    assert [at for at, uid in enumerate(heard) if uid == 2][-1] <= 11
    assert turns._users == {}


async def test_who_is_cancelled_while_he_waits_leaves_nothing_behind():
    turns = Turns()
    await turns.everybody.acquire()
    async with trio.open_nursery() as nursery:

        async def wait():
            async with turns.of(1):
                raise AssertionError

        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    turns.everybody.release()
    assert turns._users == {}
    with trio.fail_after(60):
        async with turns.of(1):
            pass
