"""When the heap is trimmed: after a burst, seldom, and never for little."""

from contextlib import asynccontextmanager

import trio

from sttd.host.heap import BURST_BYTES, EVERY_S, SETTLE_S, HeapCare


@asynccontextmanager
async def running(monkeypatch):
    """A running one, and the times at which it trimmed."""
    trims, began = [], trio.current_time()
    care = HeapCare(trim=lambda: trims.append(round(trio.current_time() - began, 6)))

    async def in_a_thread(function):
        await trio.lowlevel.checkpoint()
        function()

    monkeypatch.setattr("sttd.host.heap.trio.to_thread.run_sync", in_a_thread)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(care.run)
        yield care, trims
        nursery.cancel_scope.cancel()


async def test_a_burst_is_trimmed_once_it_has_settled(autojump_clock, monkeypatch):
    async with running(monkeypatch) as (care, trims):
        for _ in range(32):
            care.freed(BURST_BYTES // 32)
        await trio.sleep(10 * EVERY_S)
    assert trims == [SETTLE_S]


async def test_little_is_left_alone_until_it_is_much(autojump_clock, monkeypatch):
    async with running(monkeypatch) as (care, trims):
        care.freed(BURST_BYTES - 1)
        await trio.sleep(100)
        assert trims == []
        care.freed(1)
        await trio.sleep(100)
    assert trims == [100 + SETTLE_S]


async def test_bursts_in_a_row_are_trimmed_now_and_then(autojump_clock, monkeypatch):
    async with running(monkeypatch) as (care, trims):
        for _ in range(100):
            care.freed(BURST_BYTES)
            await trio.sleep(1)
        await trio.sleep(1000)
    assert trims == [SETTLE_S, 2 * SETTLE_S + EVERY_S, 3 * SETTLE_S + 2 * EVERY_S]
