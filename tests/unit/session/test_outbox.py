"""The outbox: order, coalescing, room, and an end."""

import pytest
import trio

from sttd.core.types import Final, Interim, Progress, SpeechStart, Timing
from sttd.session.outbox import CAPACITY, Outbox


def interim(utterance, seq):
    return Interim(utterance=utterance, seq=seq, text="", stable_chars=0, start_s=0, end_s=0)


def final(utterance):
    timing = Timing(endpoint_ms=0, queue_ms=0, decode_ms=0, speculative=False)
    return Final(
        utterance=utterance,
        text="",
        start_s=0,
        end_s=0,
        language="en",
        confidence=0,
        reason="stop",
        model="fake",
        words=None,
        timing=timing,
    )


def start(utterance):
    return SpeechStart(utterance=utterance, at_s=0)


async def drain(outbox):
    outbox.close()
    events = [await outbox.receive() for _ in range(len(outbox))]
    with pytest.raises(trio.EndOfChannel):
        await outbox.receive()
    return events


async def test_order_is_kept_and_a_newer_interim_replaces_the_unread_one():
    outbox = Outbox()
    for event in (start(1), interim(1, 1), interim(1, 2), start(2), interim(2, 1), interim(1, 3)):
        outbox.put(event)
    assert await drain(outbox) == [start(1), interim(1, 2), start(2), interim(2, 1), interim(1, 3)]


async def test_a_final_takes_the_place_of_interims_that_nobody_read():
    outbox = Outbox()
    for event in (start(1), interim(1, 1), start(2), interim(2, 1), final(1)):
        outbox.put(event)
    assert await drain(outbox) == [start(1), start(2), interim(2, 1), final(1)]


async def test_only_the_newest_unread_progress_is_kept():
    outbox = Outbox()
    outbox.put(Progress(done_s=1, total_s=None))
    outbox.put(Progress(done_s=2, total_s=None))
    assert await drain(outbox) == [Progress(done_s=2, total_s=None)]


async def test_who_produces_waits_for_who_reads():
    outbox = Outbox()
    for number in range(CAPACITY):
        outbox.put(start(number))
    assert outbox.full
    with trio.move_on_after(0.01) as scope:
        await outbox.wait_for_room()
    assert scope.cancelled_caught
    await outbox.receive()
    with trio.fail_after(60):
        await outbox.wait_for_room()


async def test_an_abandoned_outbox_holds_up_nobody():
    outbox = Outbox()
    for number in range(CAPACITY):
        outbox.put(start(number))
    outbox.abandon()
    with trio.fail_after(60):
        await outbox.wait_for_room()
    outbox.put(start(1))
    assert await drain(outbox) == []


async def test_a_cancelled_reader_loses_nothing():
    outbox = Outbox()
    with trio.move_on_after(0.01):
        await outbox.receive()
    outbox.put(start(1))
    with trio.CancelScope() as scope:
        scope.cancel()
        await outbox.receive()
    assert await drain(outbox) == [start(1)]
