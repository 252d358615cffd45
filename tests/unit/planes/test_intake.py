"""How fast a connection is read: free, then slice by slice, then hardly; and nothing is lost or reordered."""

import pytest
import trio

from sttd.planes import intake
from sttd.planes.intake import Held, Intake


async def read_for(seconds, queue, *, size=3200):
    """Read as much as the intake allows in that time; how many bytes that was."""
    total = 0
    with trio.move_on_after(seconds):
        while True:
            await queue.wait_for_room()
            queue.put(bytes(size))
            total += size
    return total


async def test_messages_come_out_in_order_and_then_it_ends():
    queue = Intake()
    queue.put(b"a")
    queue.put("b")
    queue.close()
    assert [await queue.take(), await queue.take()] == [b"a", "b"]
    with pytest.raises(trio.EndOfChannel):
        await queue.take()
    assert queue.held_bytes == queue.held.total_bytes == 0


async def test_a_waiting_taker_gets_what_arrives_and_learns_of_the_end(autojump_clock):
    queue, taken = Intake(), []

    async def take_all():
        try:
            while True:
                taken.append(await queue.take())
        except trio.EndOfChannel:
            taken.append("end")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_all)
        await trio.sleep(1)
        queue.put(b"x")
        await trio.sleep(1)
        queue.close()
    assert taken == [b"x", "end"]


async def test_reading_is_free_up_to_the_bounds(autojump_clock):
    by_count, by_time = Intake(), Intake(bytes_per_second=32_000)
    began = trio.current_time()
    assert await read_for(0.5, by_count, size=10) == 64 * 10
    assert await read_for(0.5, by_time, size=96_000) == 30 * 32_000
    assert trio.current_time() - began == 1.0
    assert by_count.full
    assert by_time.full


async def test_an_untaken_backlog_still_grows_by_a_slice_a_second(autojump_clock):
    queue = Intake(bytes_per_second=1000.0)
    await read_for(0.5, queue)
    grown = await read_for(10, queue)
    assert grown == pytest.approx(10 * intake.SLICE_BYTES, rel=0.1)


async def test_a_session_that_takes_single_messages_does_not_put_the_slice_off(autojump_clock):
    queue = Intake(bytes_per_second=1000.0)
    await read_for(0.5, queue)

    async def take_slowly():
        while True:
            await trio.sleep(0.1)
            await queue.take()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_slowly)
        grown = await read_for(10, queue)
        nursery.cancel_scope.cancel()
    assert grown >= 9 * intake.SLICE_BYTES


async def test_the_more_is_held_the_less_is_read(autojump_clock, monkeypatch):
    monkeypatch.setattr(intake, "HELD_BYTES", 2_000_000)
    queue = Intake()
    await read_for(60, queue)
    assert 1_900_000 < queue.held_bytes < 2_100_000
    assert await read_for(10, queue) <= 11 * 3200  # a message a second
    assert not queue.overrun
    await read_for(10, queue, size=100_000)
    assert queue.overrun


async def test_what_all_hold_together_is_bounded_too(autojump_clock, monkeypatch):
    monkeypatch.setattr(intake, "ALL_HELD_BYTES", 2_000_000)
    held = Held()
    one, other = Intake(held), Intake(held)
    await read_for(60, one)
    first_slices = await read_for(5, other)
    assert first_slices <= 64 * 3200 + 6 * 3200
    one.discard()
    assert held.total_bytes == other.held_bytes
    assert await read_for(5, other) > 4 * 200_000


async def test_after_discard_reading_goes_on_and_nothing_is_kept():
    queue = Intake()
    queue.put(b"x" * 10_000_000)
    queue.discard()
    for _ in range(200):
        await queue.wait_for_room()
        queue.put(b"y")
    assert (len(queue), queue.held_bytes, queue.held.total_bytes) == (0, 0, 0)
