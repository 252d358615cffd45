"""The stream under the WebSocket library: its messages go past the library, a cancelled send tears nothing, a close
overtakes nothing."""

from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from sttd.planes.reader import Reader
from sttd.planes.streams import Rests, UpgradedStream, linger

PING, OTHER_PING = b"\x89\x80\0\0\0\0", b"\x89\x81\0\0\0\0x"
UNMASKED, CLOSE = b"\x81\x00", b"\x88\x02\x03\xea"
MESSAGE = b"\x82\x85\0\0\0\0audio"
MASKED_CLOSE = b"\x88\x82\0\0\0\0\x03\xe8"


@asynccontextmanager
async def pair():
    ours, theirs = trio.socket.socketpair()
    async with trio.SocketStream(ours) as left, trio.SocketStream(theirs) as right:
        yield left, right


@asynccontextmanager
async def read_stream():
    """A stream whose library's end is read: what comes out there, the stream, the peer."""
    received = []

    async def read(stream):
        while data := await stream.receive_some():
            received.append(data)
        received.append(b"")

    async with pair() as (ours, theirs), trio.open_nursery() as nursery:
        stream = UpgradedStream(ours, head=b"")
        stream.release()
        nursery.start_soon(read, stream)
        yield received, stream, theirs
        nursery.cancel_scope.cancel()


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
    async with read_stream() as (received, stream, theirs):
        await theirs.send_all(PING + UNMASKED + PING)
        assert (await stream.violation()).close_code == 1002
        await theirs.send_all(PING)
        await stream.send_all(b"\x81\x00")
        await wait_all_tasks_blocked()
        assert received == [PING]
        await stream.send_all(CLOSE)
        await wait_all_tasks_blocked()
        assert received == [PING, b""]


async def test_messages_are_taken_here_and_the_library_gets_the_rest():
    async with read_stream() as (received, stream, theirs):
        await theirs.send_all(MESSAGE + PING + MESSAGE)
        await wait_all_tasks_blocked()
        assert stream.has_message
        assert [await stream.next_message() for _ in range(2)] == [b"audio"] * 2
        await wait_all_tasks_blocked()
        assert received == [PING]
        await theirs.send_all(MESSAGE + b"\x88\x80\0\0\0\0" + MESSAGE)
        assert [await stream.next_message() for _ in range(3)] == [b"audio", None, None]
        assert received[1:2] == [b"\x88\x80\0\0\0\0"]


async def test_who_attends_receives_and_the_library_still_gets_the_rest():
    async with read_stream() as (received, stream, theirs):
        with trio.fail_after(60):
            await wait_all_tasks_blocked()  # the library's task receives, and hands over
            with stream.attended():
                for number in range(3):
                    cut = len(MESSAGE) - number
                    await theirs.send_all(PING + MESSAGE[:cut])
                    await wait_all_tasks_blocked()
                    await theirs.send_all(MESSAGE[cut:])
                    assert await stream.next_message() == b"audio"
                    await wait_all_tasks_blocked()
                    assert len(received) == number + 1
                await theirs.send_all(PING + MESSAGE)
                await wait_all_tasks_blocked()
                assert received == [PING] * 3  # nobody waits for a message
            await wait_all_tasks_blocked()
            assert await stream.next_message() == b"audio"
            await wait_all_tasks_blocked()
            assert received == [PING] * 4


@pytest.mark.parametrize("end", ["peer", "reset", "close", "violation", "reset behind a violation"])
async def test_who_attends_learns_of_every_end(end):
    async with read_stream() as (received, stream, theirs), trio.open_nursery() as nursery:
        told = []

        async def take():
            with stream.attended():
                while (message := await stream.next_message()) is not None:
                    told.append(message)
            told.append(None)

        nursery.start_soon(take)
        await theirs.send_all(MESSAGE)
        await wait_all_tasks_blocked()
        if end == "reset":  # which is what closing with unread data makes
            await stream.send_all(b"unread")
        if end in ("peer", "reset"):
            await theirs.aclose()
        elif end == "close":
            await theirs.send_all(b"\x88\x80\0\0\0\0")
        else:
            await theirs.send_all(MESSAGE + UNMASKED)
            assert (await stream.violation()).close_code == 1002
            if end == "violation":
                await stream.send_all(CLOSE)
            else:
                await stream.send_all(b"unread")
                await theirs.aclose()
        await wait_all_tasks_blocked()
        assert told == [b"audio"] * (2 if "violation" in end else 1) + [None]
        assert received[-1] == b""


async def test_nothing_more_is_received_until_the_messages_were_taken():
    async with read_stream() as (received, stream, theirs):
        await theirs.send_all(MESSAGE)
        await wait_all_tasks_blocked()
        await theirs.send_all(MESSAGE + PING)
        await wait_all_tasks_blocked()
        assert stream.received_bytes == len(MESSAGE)
        assert received == []
        assert [await stream.next_message() for _ in range(2)] == [b"audio"] * 2
        await wait_all_tasks_blocked()
        assert received == [PING]


async def test_who_waits_for_a_message_learns_that_the_peer_is_gone_or_we_have_closed():
    for end in (lambda stream, theirs: theirs.aclose(), lambda stream, theirs: stream.send_all(CLOSE)):
        async with read_stream() as (_, stream, theirs), trio.open_nursery() as nursery:
            told = []

            async def take(stream=stream, told=told):
                told.append(await stream.next_message())

            nursery.start_soon(take)
            await wait_all_tasks_blocked()
            await end(stream, theirs)
            await wait_all_tasks_blocked()
            assert told == [None]


async def test_after_our_close_messages_are_thrown_away_until_the_peer_has_closed():
    async with read_stream() as (received, stream, theirs):
        await theirs.send_all(MESSAGE * 100)
        await wait_all_tasks_blocked()
        await stream.send_all(CLOSE)
        await theirs.send_all(MESSAGE * 100 + PING)
        with trio.fail_after(60):
            while received != [PING]:
                await wait_all_tasks_blocked(0.05)
        assert not stream.has_message


def test_nobody_waits_while_few_messages_come_and_many_wait_for_each_other():
    rests, one = Rests(), {"size_bytes": 640, "messages": 1, "period_s": 0.02, "calm": False}
    calm = one | {"calm": True}
    assert {rests.before_next(**one, now=count / 100) for count in range(1000)} == {None}
    assert rests.before_next(**calm, now=10.0).every_s == 0.08
    assert rests.before_next(**calm | {"period_s": 0.1}, now=10.0) is None  # nothing would come meanwhile
    many = [rests.before_next(**one, now=10 + count / 1000) for count in range(1000)]
    assert many[-1].every_s == 0.04
    assert rests.before_next(**calm | {"period_s": 0.1}, now=11.0).every_s == 0.24
    assert rests.before_next(**calm | {"size_bytes": 16 * 1024}, now=11.0) is None
    assert rests.before_next(**one, now=20.0) is None


def test_a_recording_is_none_of_the_many():
    rests = Rests()
    for count in range(1000):
        rests.before_next(16 * 1024, messages=26, period_s=0.0, calm=False, now=count / 1000)
    assert rests.before_next(640, messages=1, period_s=0.02, calm=False, now=1.0) is None


async def test_messages_that_come_one_by_one_are_read_together_at_a_tick(autojump_clock, monkeypatch):
    monkeypatch.setattr("sttd.planes.streams.RESTS", rests := Rests())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rests.run)
        async with read_stream() as (_, stream, theirs):
            stream.calm = True
            for count, waited_s in ((1, 0.0), (1, 0.0), (3, 0.08)):  # the first say how often they come
                for _ in range(count):
                    await theirs.send_all(MESSAGE)
                began = trio.current_time()
                assert [await stream.next_message() for _ in range(count)] == [b"audio"] * count
                assert trio.current_time() - began == pytest.approx(waited_s)
        nursery.cancel_scope.cancel()


async def test_who_sends_more_at_once_than_a_microphone_is_not_kept_waiting_for_the_last_of_it(autojump_clock):
    async with read_stream() as (_, stream, theirs):
        stream.calm = True
        began = trio.current_time()
        for count in (1500, 1):  # of the first read a few are looked at in a turn
            await theirs.send_all(MESSAGE * count)
            assert [await stream.next_message() for _ in range(count)] == [b"audio"] * count
        assert trio.current_time() == began


async def test_small_messages_of_audio_that_have_come_are_one_where_that_is_asked_for():
    words, long = b"\x81\x85\0\0\0\0words", b"\x82\xfe" + (4090).to_bytes(2, "big") + bytes(4 + 4090)
    async with read_stream() as (_, stream, theirs):
        await theirs.send_all(MESSAGE * 3 + words + MESSAGE + long + MESSAGE * 2)
        await wait_all_tasks_blocked(0.01)
        heard = [await stream.next_message(joined=True) for _ in range(4)]
        assert heard == [b"audio" * 3, "words", b"audio" + bytes(4090), b"audio" * 2]
        await theirs.send_all(MESSAGE * 2)
        assert [await stream.next_message() for _ in range(2)] == [b"audio"] * 2


async def test_who_is_held_back_by_the_pace_of_its_user_is_not_silent(autojump_clock):
    async def pace(count):
        await trio.sleep(100)
        return True

    async with pair() as (ours, theirs), trio.open_nursery() as nursery:
        stream = UpgradedStream(ours, head=b"", pace=pace)
        stream.release()
        reader = Reader(None, stream)
        await theirs.send_all(MESSAGE[:3])  # the rest never comes
        with reader.attention():
            nursery.start_soon(reader.next_message)
            await reader.silence(10)
        assert 110 <= trio.current_time() < 140
        nursery.cancel_scope.cancel()


async def test_release_and_close_wake_a_receiver():
    for wake, expected in ((UpgradedStream.release, PING), (UpgradedStream.aclose, None)):
        async with pair() as (ours, theirs), trio.open_nursery() as nursery:
            stream, results = UpgradedStream(ours, head=b""), []

            async def receive(stream=stream, results=results):
                try:
                    results.append(await stream.receive_some())
                except trio.ClosedResourceError:
                    results.append(None)

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            await theirs.send_all(PING)
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


async def test_what_a_peer_had_said_is_read_though_nothing_can_be_told_to_it_any_more():
    async with read_stream() as (received, stream, theirs):
        await theirs.send_all(MESSAGE + MESSAGE + MASKED_CLOSE)
        await theirs.aclose()
        await stream.send_all(b"x")
        assert [await stream.next_message() for _ in range(3)] == [b"audio", b"audio", None]
        await wait_all_tasks_blocked()
        assert received == [MASKED_CLOSE, b""]


async def test_a_closed_stream_says_so():
    async with pair() as (ours, _theirs):
        stream = UpgradedStream(ours, head=b"x")
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
