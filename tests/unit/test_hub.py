"""Fan-out: who sees what, and what happens to a subscriber that does not read."""

import pytest
import trio

from sttd.hub import QUEUE, Hub


async def read(subscription, count):
    return [await subscription.receive() for _ in range(count)]


async def test_events_are_numbered_per_subscriber_and_filtered_by_topic():
    hub = Hub()
    models = hub.subscribe(frozenset({"models"}), uid=None)
    both = hub.subscribe(frozenset({"models", "sessions"}), uid=None)
    hub.publish("sessions", {"event": "opened"})
    hub.publish("models", {"event": "loaded"})
    assert await read(models, 1) == [{"seq": 1, "topic": "models", "event": "loaded"}]
    assert [event["seq"] for event in await read(both, 2)] == [1, 2]


async def test_a_user_sees_only_what_is_his_or_nobodys():
    hub = Hub()
    mine = hub.subscribe(frozenset({"transcripts", "models"}), uid=1000)
    everything = hub.subscribe(frozenset({"transcripts", "models"}), uid=None)
    hub.publish("transcripts", {"text": "theirs"}, uid=1001)
    hub.publish("transcripts", {"text": "mine"}, uid=1000)
    hub.publish("models", {"event": "loaded"})
    assert [event.get("text") for event in await read(mine, 2)] == ["mine", None]
    assert [event.get("text") for event in await read(everything, 3)] == ["theirs", "mine", None]


async def test_an_overflowing_subscriber_is_told_how_much_it_missed():
    hub = Hub()
    slow = hub.subscribe(frozenset({"health"}), uid=None)
    for number in range(QUEUE + 5):
        hub.publish("health", {"number": number})
    first, second = await read(slow, 2)
    assert (first["topic"], first["dropped"]) == ("lagged", 5)
    assert (second["number"], second["seq"]) == (5, 6)


async def test_close_ends_a_waiting_reader_and_stops_the_queue():
    hub = Hub()
    subscription = hub.subscribe(frozenset({"health"}), uid=None)
    assert hub.wanted("health")
    async with trio.open_nursery() as nursery:

        async def reader():
            with pytest.raises(trio.EndOfChannel):
                await subscription.receive()

        nursery.start_soon(reader)
        await trio.testing.wait_all_tasks_blocked()
        subscription.close()
        subscription.close()
    assert not hub.wanted("health")


async def test_what_was_queued_before_the_close_can_still_be_read():
    hub = Hub()
    subscription = hub.subscribe(frozenset({"health"}), uid=None)
    hub.publish("health", {"number": 1})
    subscription.close()
    hub.publish("health", {"number": 2})
    assert (await subscription.receive())["number"] == 1
    with pytest.raises(trio.EndOfChannel):
        await subscription.receive()
