"""What a client sent: in order, read at the right speed, dropped with a mark, bounded, and nothing lost."""

import pytest
import trio
import trio.testing

from sttd.errors import OverloadedError
from sttd.options import SessionChanges, SessionOptions
from sttd.session import inbox as module
from sttd.session.inbox import AUDIO_S, CONTAINER_PIECE_BYTES, MAX_OVERTAKEN, PIECES, Dropped, Finalize, Held, Inbox

WAIT, DROP = SessionOptions(overflow="wait"), SessionOptions(overflow="drop")


async def everything(inbox):
    inbox.end()
    return [item async for item in inbox]


def fill(inbox, count, *, size=2):
    for number in range(count):
        inbox.put(bytes([number % 256]) * size)


def pairs(item):
    return zip(item[::2], item[1::2], strict=True)


async def read_for(seconds, inbox, *, size=3200):
    """Read as much as the inbox allows in that time; how many bytes that was."""
    total = 0
    with trio.move_on_after(seconds):
        while True:
            await inbox.wait_for_room()
            inbox.put(bytes(size))
            total += size
            await trio.lowlevel.checkpoint()
    return total


async def test_items_come_out_in_order():
    inbox, changes = Inbox(WAIT), SessionChanges(lang="de")
    for item in (b"ab", Finalize(), changes, b"cd"):
        inbox.put(item)
    assert len(inbox) == 4
    assert await everything(inbox) == [b"ab", Finalize(), changes, b"cd"]
    assert inbox.held_bytes == inbox.held.total_bytes == 0


async def test_a_waiting_session_gets_what_arrives_and_learns_of_the_end(autojump_clock):
    inbox, taken = Inbox(WAIT), []

    async def take_all():
        taken.extend([item async for item in inbox])
        taken.append("end")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_all)
        await trio.sleep(1)
        inbox.put(b"xx")
        await trio.sleep(1)
        inbox.end()
    assert taken == [b"xx", "end"]


@pytest.mark.parametrize(("channels", "encoding", "width"), [(1, "pcm_s16le", 2), (3, "pcm_f32le", 12), (2, "alaw", 2)])
async def test_pieces_are_whole_samples_and_bounded_however_large_the_message_was(channels, encoding, width):
    inbox = Inbox(SessionOptions(channels=channels, encoding=encoding))
    assert inbox.bytes_per_sample == width
    data = bytes(range(256)) * 500
    inbox.put(data)
    pieces = await everything(inbox)
    assert b"".join(pieces) == data
    assert all(len(piece) % width == 0 for piece in pieces[:-1])
    assert max(map(len, pieces)) * PIECES <= AUDIO_S * 16_000 * width


async def test_reading_is_free_up_to_the_bounds(autojump_clock):
    by_count, by_time = Inbox(WAIT), Inbox(WAIT)
    assert await read_for(0.5, by_count, size=10) == PIECES * 10
    assert await read_for(0.5, by_time, size=96_000) == AUDIO_S * 32_000
    assert by_count.full
    assert by_time.full
    assert not by_time.may_read


async def test_what_waits_holds_its_sender_back_and_loses_nothing(autojump_clock):
    inbox = Inbox(WAIT)
    fill(inbox, PIECES)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inbox.wait_for_room)
        await trio.testing.wait_all_tasks_blocked()
        first = await inbox.receive()
    assert first == b"".join(bytes([number]) * 2 for number in range(PIECES))
    inbox.put(b"last")
    assert await everything(inbox) == [b"last"]


async def test_small_pieces_that_lie_together_are_taken_as_one_within_bounds():
    inbox = Inbox(WAIT)
    for item in (b"ab", b"cd", Finalize(), b"ef", *[bytes(6400)] * 8, b"gh"):
        inbox.put(item)
    most = AUDIO_S / PIECES * 32_000
    items = await everything(inbox)
    assert items[:2] == [b"abcd", Finalize()]
    assert b"".join(items[2:]) == b"ef" + bytes(8 * 6400) + b"gh"
    assert all(most / 2 < len(item) <= most for item in items[2:-1])
    assert inbox.held_bytes == inbox.held.total_bytes == 0


async def test_an_untaken_backlog_still_grows_by_a_slice_a_second(autojump_clock):
    inbox = Inbox(WAIT)
    await read_for(0.5, inbox)
    assert await read_for(10, inbox) == pytest.approx(10 * module.SLICE_BYTES, rel=0.15)


async def test_a_session_that_takes_single_messages_does_not_put_the_slice_off(autojump_clock):
    inbox = Inbox(WAIT)
    await read_for(0.5, inbox)

    async def take_slowly():
        while True:
            await trio.sleep(0.1)
            await inbox.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_slowly)
        grown = await read_for(10, inbox)
        nursery.cancel_scope.cancel()
    assert grown >= 8 * module.SLICE_BYTES


@pytest.mark.parametrize("size", [3200, 1 << 20])
async def test_what_is_held_is_bounded_however_large_the_messages_are(autojump_clock, monkeypatch, size):
    monkeypatch.setattr(module, "HELD_BYTES", 2_000_000)
    inbox = Inbox(WAIT)
    await read_for(100, inbox, size=size)
    assert inbox.held_bytes < 2_000_000 + size
    assert await read_for(10, inbox, size=size) == 0


async def test_what_all_hold_together_is_bounded_too_and_who_keeps_up_is_free(autojump_clock, monkeypatch):
    monkeypatch.setattr(module, "ALL_HELD_BYTES", 2_000_000)
    held = Held()
    one, other = Inbox(WAIT, held), Inbox(WAIT, held)
    await read_for(60, one)
    assert await read_for(5, other) <= (PIECES + 1) * 3200
    one.close()
    assert held.total_bytes == other.held_bytes
    assert await read_for(5, other) > 4 * 200_000


async def test_the_sessions_of_one_user_leave_room_for_those_of_another(autojump_clock, monkeypatch):
    monkeypatch.setattr(module, "USER_HELD_BYTES", 1_000_000)
    monkeypatch.setattr(module, "ALL_HELD_BYTES", 4_000_000)
    held, own = Held(), []
    for _ in range(8):
        own.append(Inbox(WAIT, held, uid=1))
        await read_for(60, own[-1])
    least = len(own) * (PIECES + 1) * 3200  # what a session that keeps up needs
    assert held.by_user[1] <= 1_000_000 + least
    other = Inbox(WAIT, held, uid=2)
    assert await read_for(20, other) > 800_000
    for inbox in (*own, other):
        inbox.close()
    assert (held.total_bytes, held.by_user) == (0, {})


async def test_only_a_session_that_takes_nothing_is_given_up(autojump_clock, monkeypatch):
    """However long a client uploads: as long as the session takes something, it is held back and no more."""
    monkeypatch.setattr(module, "HELD_BYTES", 1_000_000)
    inbox = Inbox(WAIT)

    async def upload():
        while True:
            await inbox.wait_for_room()
            inbox.put(bytes(1 << 20))
            await trio.lowlevel.checkpoint()

    async def take_slowly():
        with trio.move_on_after(1000):
            while True:
                await trio.sleep(20)
                await inbox.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_slowly)
        with pytest.raises(OverloadedError, match="no audio for 120 s"):
            await upload()
    assert trio.current_time() >= 1000 + module.STUCK_S - 20
    assert inbox.held_bytes <= 1_000_000 + (1 << 20)


async def test_what_drops_leaves_a_mark_where_the_oldest_audio_was():
    inbox = Inbox(DROP)
    fill(inbox, PIECES + 3)
    items = await everything(inbox)
    lost = items[0].count // 2
    assert items[0] == Dropped(2 * lost)
    assert items[1:] == [b"".join(bytes([number]) * 2 for number in range(lost, PIECES + 3))]


async def test_what_the_client_asked_for_outlives_the_audio_round_it():
    inbox = Inbox(DROP)
    for item in (b"aa", Finalize(), b"bb"):
        inbox.put(item)
    fill(inbox, PIECES)
    assert (await everything(inbox))[:3] == [Dropped(2), Finalize(), Dropped(4)]


async def test_a_client_that_only_asks_waits_even_if_it_drops(autojump_clock):
    inbox = Inbox(DROP)
    for _ in range(PIECES + MAX_OVERTAKEN - 1):
        assert inbox.may_read
        inbox.put(Finalize())
    assert not inbox.may_read
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inbox.wait_for_room)
        await inbox.receive()
    assert len(await everything(inbox)) == PIECES + MAX_OVERTAKEN - 2


async def test_a_container_is_never_dropped():
    inbox = Inbox(SessionOptions(overflow="drop", encoding="container"))
    assert inbox.bytes_per_sample == 1
    inbox.put(bytes(CONTAINER_PIECE_BYTES + 1))
    fill(inbox, PIECES)
    assert not inbox.may_read
    assert [len(item) for item in await everything(inbox)][:2] == [CONTAINER_PIECE_BYTES, 1]


async def test_when_the_client_is_gone_what_nobody_waits_for_goes():
    inbox = Inbox(WAIT)
    for _ in range(5):
        inbox.put(bytes(10 * 32_000))
    inbox.put(Finalize())
    inbox.end()
    inbox.shorten()
    items = await everything(inbox)
    assert sum(len(item) for item in items if isinstance(item, bytes)) == AUDIO_S * 32_000


async def test_after_the_end_nothing_is_taken_and_nobody_waits():
    inbox = Inbox(WAIT)
    inbox.put(b"ab")
    inbox.end()
    inbox.put(b"cd")
    assert await everything(inbox) == [b"ab"]
    fill(full := Inbox(WAIT), PIECES)
    full.close()
    await full.wait_for_room()
    assert (len(full), full.held_bytes) == (0, 0)
    with pytest.raises(trio.EndOfChannel):
        await full.receive()


async def test_gaps_stand_where_their_audio_was():
    inbox, taken = Inbox(DROP), []

    async def take():
        async for item in inbox:
            taken.append(item)
            if len(taken) < 5:
                await trio.sleep(0.01)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            for number in range(3000):
                inbox.put(number.to_bytes(2, "big"))
                await trio.lowlevel.checkpoint()
            inbox.end()
    at = 0
    for item in taken:
        if isinstance(item, Dropped):
            at += item.count // 2
        else:
            for first, second in pairs(item):
                assert first << 8 | second == at
                at += 1
    assert at == 3000
