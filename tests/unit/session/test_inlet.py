"""The way into a session: order, waiting, dropping, and an end."""

import pytest
import trio
import trio.testing

from sttd.options import SessionChanges, SessionOptions
from sttd.session.inlet import CONTAINER_PIECE_BYTES, HELD_S, PIECES, Dropped, Finalize, Inlet


async def everything(inlet):
    """What is in it, with what was overtaken in its place."""
    inlet.end()
    return [item async for item in inlet]


async def fill(inlet, count, *, size=2):
    for number in range(count):
        await inlet.feed(bytes([number % 256]) * size)


async def test_items_come_out_in_order():
    inlet, changes = Inlet(SessionOptions()), SessionChanges(lang="de")
    await inlet.feed(b"ab")
    await inlet.put(Finalize())
    await inlet.put(changes)
    await inlet.feed(b"cd")
    assert await everything(inlet) == [b"ab", Finalize(), changes, b"cd"]


@pytest.mark.parametrize(("channels", "encoding", "width"), [(1, "pcm_s16le", 2), (3, "pcm_f32le", 12), (2, "alaw", 2)])
async def test_pieces_are_whole_samples_and_together_bounded(channels, encoding, width):
    inlet = Inlet(SessionOptions(channels=channels, encoding=encoding))
    assert inlet.bytes_per_sample == width
    data = bytes(range(256)) * 500
    await inlet.feed(data)
    pieces = await everything(inlet)
    assert b"".join(pieces) == data
    assert all(len(piece) % width == 0 for piece in pieces[:-1])
    assert max(map(len, pieces)) * PIECES <= HELD_S * 16_000 * width


async def test_what_waits_holds_its_sender_back_and_loses_nothing(autojump_clock):
    inlet = Inlet(SessionOptions(overflow="wait"))
    await fill(inlet, PIECES)
    with trio.move_on_after(1) as patience:
        await inlet.put(Finalize())
    assert patience.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inlet.feed, b"last")
        await trio.testing.wait_all_tasks_blocked()
        assert await inlet.receive.receive() == b"\0\0"
    assert (await everything(inlet))[-1] == b"last"


async def test_what_drops_leaves_a_mark_where_the_oldest_audio_was():
    inlet = Inlet(SessionOptions(overflow="drop"))
    await fill(inlet, PIECES + 3)
    items = await everything(inlet)
    assert items[0] == Dropped(6)
    assert items[1:] == [bytes([number]) * 2 for number in range(3, PIECES + 3)]


async def test_what_the_client_asked_for_outlives_the_audio_round_it():
    inlet = Inlet(SessionOptions(overflow="drop"))
    await inlet.feed(b"aa")
    await inlet.put(Finalize())
    await inlet.feed(b"bb")
    await fill(inlet, PIECES)
    assert (await everything(inlet))[:4] == [Dropped(2), Finalize(), Dropped(2), b"\0\0"]


async def test_a_client_that_only_asks_waits_even_if_it_drops(autojump_clock):
    inlet = Inlet(SessionOptions(overflow="drop"))
    with trio.move_on_after(1) as patience:
        for _ in range(1000):
            await inlet.put(Finalize())
    assert patience.cancelled_caught
    assert len(await everything(inlet)) <= 3 * PIECES


async def test_a_container_is_never_dropped(autojump_clock):
    inlet = Inlet(SessionOptions(overflow="drop", encoding="container"))
    assert inlet.bytes_per_sample == 1
    await inlet.feed(bytes(CONTAINER_PIECE_BYTES + 1))
    with trio.move_on_after(1) as patience:
        await fill(inlet, PIECES)
    assert patience.cancelled_caught
    assert [len(item) for item in await everything(inlet)][:2] == [CONTAINER_PIECE_BYTES, 1]


async def test_after_the_end_nothing_is_taken_and_nobody_waits():
    inlet = Inlet(SessionOptions())
    await inlet.feed(b"ab")
    inlet.end()
    inlet.end()
    await inlet.feed(b"cd")
    assert await everything(inlet) == [b"ab"]
    inlet.receive.close()
    await inlet.put(Finalize())


async def test_what_is_on_its_way_to_the_session_is_not_overtaken():
    inlet, taken = Inlet(SessionOptions(overflow="drop")), []

    async def take():
        async for item in inlet:
            taken.append(item)
            if len(taken) < 5:
                await trio.sleep(0.01)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            for number in range(3000):
                await inlet.feed(number.to_bytes(2, "big"))
            inlet.end()
    numbers = [int.from_bytes(item, "big") for item in taken if isinstance(item, bytes)]
    assert numbers == sorted(numbers)
    at = 0
    for item in taken:  # each gap stands where its audio was
        if isinstance(item, Dropped):
            at += item.count // 2
        else:
            assert int.from_bytes(item, "big") == at
            at += 1
    assert at == 3000
