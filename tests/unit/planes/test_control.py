"""The control plane on a real Unix socket, before a service that only pretends."""

import logging
import os
from contextlib import AsyncExitStack, asynccontextmanager

import msgpack
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from sttd.admission import Peer as ServicePeer
from sttd.planes import control, methods
from sttd.planes.control import ControlLimits
from sttd.planes.drain import Drain
from sttd.wire.verbs import VERBS
from tests.answers import MODELS, STATUS, sent
from tests.control_plane import FakeService, Peer, Refused, open_plane

PING = msgpack.packb([0, 1, "ping", []])


@pytest.fixture
async def plane(tmp_path):
    async with open_plane(tmp_path) as plane:
        yield plane
        assert await plane.is_alive()


@pytest.fixture
async def peer(plane):
    async with plane.connect() as peer:
        yield peer


def test_every_verb_has_its_method():
    assert set(methods.METHODS) == set(VERBS)


# ---------------------------------------------------------------- methods


async def test_hello_says_who_is_there(peer):
    hello = await peer.call("hello", client="test/1", protocol=1)
    assert hello["server"].startswith("sttd/")
    assert hello["protocol"] == 1
    assert hello["pid"] == os.getpid()
    assert hello["uid"] == os.getuid()
    assert hello["limits"]["in_flight"] == 32
    assert "events" in hello["features"]


async def test_the_simple_methods_answer(peer):
    assert await peer.call("ping") == {}
    assert await peer.call("status") == sent(STATUS)
    assert await peer.call("models") == sent(MODELS)
    page = await peer.call("sessions", limit=1, cursor="s1")
    assert ([row["uid"] for row in page["sessions"]], page["next"]) == ([os.getuid()], "s1")
    assert (await peer.call("unload", wait=False))["unloaded"] == 0
    assert await peer.call("drain") == {"sessions": 3}
    assert await peer.call("undrain") == {}
    assert (await peer.call("config"))["values"]["models.model"]["origin"] == "default"
    assert await peer.call("reload") == {"changed": [], "needs_restart": []}
    assert set((await peer.call("describe"))["methods"]) == set(VERBS)


async def test_answers_come_as_they_are_ready(plane, peer):
    await peer.send([0, 1, "load", [{"preset": "demo"}]], [0, 2, "ping", []])
    assert await peer.receive() == [1, 2, None, {}]
    plane.service.gate.set()
    assert (await peer.receive())[:3] == [1, 1, None]


async def test_an_error_is_a_map_and_the_connection_goes_on(peer):
    await peer.send([0, 9, "load", [{"preset": "missing"}]])
    assert await peer.receive() == [
        1,
        9,
        {
            "code": "model_not_found",
            "message": "there is no preset `missing`",
            "retryable": False,
            "data": {"known": ["demo"]},
        },
        None,
    ]
    assert await peer.call("ping") == {}


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("fly", [], "unknown_method"),
        ("ping", [{"x": 1}], "bad_option"),
        ("load", [{"preset": "demo", "cpu_threads": 65}], "bad_option"),
        ("ping", {}, "bad_request"),
        ("ping", [1, 2], "bad_request"),
        ("close_session", [{"session": "s9"}], "not_found"),
    ],
)
async def test_a_refused_request_leaves_the_connection_alone(peer, method, params, code):
    await peer.send([0, 5, method, params])
    kind, msgid, error, result = await peer.receive()
    assert (kind, msgid, error["code"], result) == (1, 5, code, None)
    assert await peer.call("ping") == {}


@pytest.mark.parametrize("preset", ["bug", "unsendable"])
async def test_a_bug_is_internal_logged_and_hurts_nobody(plane, peer, preset, caplog):
    with pytest.raises(Refused) as caught:
        await peer.call("load", preset=preset)
    assert caught.value.code == "internal"
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert await peer.call("ping") == {}
    assert plane.failures == 0


async def test_what_is_privileged_is_refused_to_others(plane, peer, monkeypatch):
    def stranger(stream):
        return ServicePeer(uid=12345, privileged=False)

    monkeypatch.setattr(control, "unix_peer", stranger)
    async with plane.connect() as other:
        assert (await other.call("hello"))["uid"] == 12345
        for method in ("pull", "reload", "config", "drain", "undrain", "shutdown"):
            with pytest.raises(Refused) as caught:
                await other.call(method)
            assert caught.value.code == "forbidden"
        assert await other.call("status")
    assert plane.service.shut_down == []


async def test_pull_tells_its_progress(peer):
    await peer.send([0, 3, "pull", [{"model": "tiny"}]])
    steps = []
    while (message := await peer.receive())[0] == 2:
        assert message[1] == "progress"
        steps += message[2]
    assert message[:3] == [1, 3, None]
    assert message[3]["path"] == "/models/tiny"
    assert {"msgid": 3, "done_bytes": 100, "total_bytes": 100, "file": "model.bin"} in steps
    assert steps[-1] == {"msgid": 3, "done_bytes": 7, "total_bytes": None, "file": "config.json"}


async def test_a_pull_that_fails_still_tells_its_progress(peer):
    with pytest.raises(Refused, match="no such model"):
        await peer.call("pull", model="missing")
    assert peer.messages[-1][2][0]["done_bytes"] == 100


async def test_shutdown_answers_first(plane, peer):
    assert await peer.call("shutdown", drain_s=0) == {}
    await wait_all_tasks_blocked()
    assert plane.service.shut_down == [0.0]


# ---------------------------------------------------------------- events


async def test_events_follow_a_subscription(plane, peer):
    assert await peer.call("subscribe", topics=["models"]) == {}
    plane.service.hub.publish("models", {"event": "loaded", "preset": "demo"})
    plane.service.hub.publish("sessions", {"event": "opened"})
    plane.service.hub.publish("models", {"event": "unloaded", "preset": "demo"})
    first = {"seq": 1, "topic": "models", "event": "loaded", "preset": "demo"}
    assert await peer.receive() == [2, "event", [first]]
    assert (await peer.receive())[2][0]["seq"] == 2
    assert await peer.call("unsubscribe") == {}
    plane.service.hub.publish("models", {"event": "loaded"})
    assert await peer.call("ping") == {}
    assert peer.messages == []


async def test_without_topics_it_is_all_of_them(plane, peer):
    await peer.call("subscribe")
    plane.service.hub.publish("health", {"event": "lag"})
    assert (await peer.receive())[2][0]["topic"] == "health"


async def test_a_second_subscription_takes_the_place_of_the_first(plane, peer):
    await peer.call("subscribe", topics=["sessions"])
    await peer.call("subscribe", topics=["models"])
    plane.service.hub.publish("sessions", {"event": "opened"})
    plane.service.hub.publish("models", {"event": "loaded"})
    assert (await peer.receive())[2][0]["topic"] == "models"
    assert not plane.service.hub.wanted("sessions")


async def test_a_subscriber_that_looks_away_is_told_what_it_missed(plane, peer):
    await peer.call("subscribe", topics=["models"])
    for number in range(3000):
        plane.service.hub.publish("models", {"event": "loaded", "number": number, "padding": "x" * 1000})
        if number % 100 == 0:
            await wait_all_tasks_blocked()
    await wait_all_tasks_blocked()
    events = []
    while not events or events[-1].get("seq") != 3000:
        events += (await peer.receive())[2]
    (lagged,) = [event for event in events if event["topic"] == "lagged"]
    kept = [event for event in events if event["topic"] == "models"]
    assert lagged["dropped"] == 3000 - len(kept) > 0
    assert kept[-1]["seq"] == 3000
    assert await peer.call("ping") == {}


async def test_a_peer_that_goes_leaves_no_subscription(plane):
    async with plane.connect() as peer:
        await peer.call("subscribe")
        assert plane.service.hub.wanted("models")
    await eventually(lambda: not plane.service.hub.wanted("models"))


# ---------------------------------------------------------------- limits


async def test_one_request_too_many_is_not_executed(plane, peer):
    await peer.send(*([0, msgid, "load", [{"preset": "demo"}]] for msgid in range(33)))
    _, msgid, error, _ = await peer.receive()
    assert (msgid, error["code"], error["retryable"]) == (32, "too_many_requests", True)
    await wait_all_tasks_blocked()
    assert plane.service.loading == 32
    plane.service.gate.set()
    assert {(await peer.receive())[1] for _ in range(32)} == set(range(32))
    assert await peer.call("ping") == {}


async def test_a_thousand_requests_in_turns_of_thirty_two(peer):
    for _ in range(32):
        await peer.send(*([0, msgid, "ping", []] for msgid in range(32)))
        assert [(await peer.receive())[2] for _ in range(32)] == [None] * 32


class LoopTurns(trio.abc.Instrument):
    """Counts the turns of the event loop."""

    count = 0

    def before_io_wait(self, timeout):
        self.count += 1


async def test_however_many_connections_a_user_has_one_of_his_requests_begins_a_turn(plane, monkeypatch):
    turns, begun = LoopTurns(), []

    async def ping(call, params):
        begun.append(turns.count)
        await trio.lowlevel.checkpoint()
        return {}

    monkeypatch.setitem(methods.METHODS, "ping", ping)
    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(plane.connect()) for _ in range(8)]
        trio.lowlevel.add_instrument(turns)
        for peer in peers:
            await peer.send(*([0, msgid, "ping", []] for msgid in range(32)))
        for peer in peers:
            assert [(await peer.receive())[2] for _ in range(32)] == [None] * 32
        trio.lowlevel.remove_instrument(turns)
    assert len(begun) == 8 * 32
    assert len(set(begun)) == len(begun)


@asynccontextmanager
async def one_connection(*, in_flight, monkeypatch):
    """A connection over a pipe. Each write returns when `pace` is given one more, and its bytes are there before."""
    ours, theirs = trio.testing.memory_stream_pair()
    pace, executed = trio.Semaphore(0), []

    async def ping(call, params):
        executed.append(call.msgid)
        await trio.lowlevel.checkpoint()
        return {}

    monkeypatch.setitem(methods.METHODS, "ping", ping)
    hand_over = ours.send_stream.send_all_hook

    async def write():
        await hand_over()
        await pace.acquire()

    ours.send_stream.send_all_hook = write
    connection = control._Connection(
        stream=ours,
        peer=ServicePeer(uid=1, privileged=False),
        service=FakeService(),
        limits=ControlLimits(in_flight=in_flight),
        drain=Drain(),
        user=control._User(),
        refused=False,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run)
        yield Peer(theirs), pace, executed
        nursery.cancel_scope.cancel()


async def test_who_has_read_an_answer_may_ask_again_although_its_write_has_not_returned(monkeypatch):
    async with one_connection(in_flight=2, monkeypatch=monkeypatch) as (peer, pace, executed):
        await peer.send([0, 1, "ping", []], [0, 2, "ping", []])
        errors = [(await peer.receive())[2]]
        await peer.send([0, 3, "ping", []])
        await wait_all_tasks_blocked()
        assert sorted(executed) == [1, 2, 3]
        pace.release()
        errors += [(await peer.receive())[2]]
        await peer.send([0, 4, "ping", []])
        await wait_all_tasks_blocked()
        assert sorted(executed) == [1, 2, 3, 4]
        for _ in range(2):
            pace.release()
            errors += [(await peer.receive())[2]]
        assert errors == [None] * 4


async def test_for_a_peer_that_takes_nothing_one_answer_more_is_held_than_may_be_in_flight(monkeypatch):
    async with one_connection(in_flight=4, monkeypatch=monkeypatch) as (peer, _, executed):
        for msgid in range(1000):
            await peer.send([0, msgid, "ping", []])
        await wait_all_tasks_blocked()
        assert len(executed) in (4, 5)


async def test_a_peer_that_goes_has_its_requests_cancelled(plane):
    async with plane.connect() as peer:
        await peer.send([0, 1, "load", [{"preset": "demo"}]])
        await wait_all_tasks_blocked()
        assert plane.service.loading == 1
    await eventually(lambda: not plane.service.loading)
    assert plane.service.cancelled_loads == 1


async def test_who_only_stops_sending_gets_the_answers(plane, peer):
    await peer.send(*([0, msgid, "ping", []] for msgid in range(20)))
    await peer.stream.send_eof()
    assert len(await peer.receive_all()) == 20


@pytest.mark.parametrize(
    ("data", "answered"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", []),
        (PING + b"\xc1", [(1, None)]),
        (b"\x94\x00\x07\xa4load\xd4\1\0", [(7, "bad_request")]),
        (b"\x94\x00\x07\xa4ping\xdb\0\2\0\0", [(7, "too_large")]),
        (b"\x94\x00\x07\xa4ping" + b"\x91" * 20, [(7, "bad_request")]),
        (msgpack.packb([0, 7, "load", [{"preset": "x" * 70_000}]]), [(7, "too_large")]),
        (msgpack.packb([0, 7, "load", [{"preset": "x" * 3_000_000}]]), [(7, "too_large")]),
        (msgpack.packb([0, "seven", "ping", []]), []),
        (msgpack.packb([1, 7, None, {}]), []),
    ],
)
async def test_malformed_input_is_answered_where_it_can_be_and_closed(plane, data, answered):
    async with plane.connect() as bystander, plane.connect() as peer:
        with trio.fail_after(60):
            await peer.stream.send_all(data)
            answers = [(msgid, error and error["code"]) for _, msgid, error, _ in await peer.receive_all()]
        assert answers == answered
        assert await bystander.call("ping") == {}
    assert plane.failures == 0


async def test_notifications_of_a_client_are_ignored(peer):
    await peer.send([2, "nvim_error_event", [0, "x"]], [2, "ping", []])
    assert await peer.call("ping") == {}
    assert peer.messages == []


async def test_a_message_that_does_not_end_is_not_waited_for(tmp_path):
    async with open_plane(tmp_path, limits=ControlLimits(message_s=0.2)) as plane, plane.connect() as peer:
        for byte in b"\x94\x00\x07\xa4load":  # each byte is in time, the message is not
            await peer.stream.send_all(bytes([byte]))
            await trio.sleep(0.01)
        (answer,) = await peer.receive_all()
        assert (answer[1], answer[2]["code"]) == (7, "bad_request")


async def test_silence_between_messages_is_allowed(tmp_path, autojump_clock):
    async with open_plane(tmp_path, limits=ControlLimits(message_s=0.5)) as plane, plane.connect() as peer:
        assert await peer.call("ping") == {}
        await trio.sleep(0.7)
        await peer.stream.send_all(PING + PING[:2])
        assert (await peer.receive())[1] == 1
        await peer.stream.send_all(PING[2:])
        assert (await peer.receive())[1] == 1
        await trio.sleep(0.7)
        assert await peer.call("ping") == {}


async def test_a_peer_that_does_not_read_is_dropped(tmp_path):
    async with open_plane(tmp_path, limits=ControlLimits(write_s=0.2)) as plane, plane.connect() as peer:
        with trio.fail_after(60), pytest.raises(trio.BrokenResourceError):
            await ask_for_ever(peer)
        assert await plane.is_alive()
        assert plane.failures == 0


async def test_one_user_does_not_take_all_connections(tmp_path):
    async with open_plane(tmp_path, limits=ControlLimits(connections_per_uid=2)) as plane:
        async with plane.connect() as first, plane.connect() as second, plane.connect() as third:
            assert await first.call("ping") == {}
            assert await second.call("ping") == {}
            with pytest.raises(Refused) as caught:
                await third.call("ping")
            assert caught.value.code == "too_many_requests"
            assert await third.receive_all() == []
        await eventually_served(plane)


async def test_idle_connections_beyond_the_users_share_do_not_stay(tmp_path):
    async with open_plane(tmp_path, limits=ControlLimits(connections_per_uid=1, message_s=0.2)) as plane:
        async with plane.connect() as first, plane.connect() as second, plane.connect() as third:
            with trio.fail_after(60):
                assert await third.receive_all() == [], "far too many: at once"
                await second.receive_all()  # after its time for a question
            assert await first.call("ping") == {}
        await eventually_served(plane)


async def test_there_are_only_so_many_connections(tmp_path):
    async with open_plane(tmp_path, limits=ControlLimits(connections=1)) as plane:
        async with plane.connect() as first, plane.connect() as second:
            assert await first.call("ping") == {}
            with pytest.raises((trio.EndOfChannel, trio.BrokenResourceError)):
                await second.call("ping")
        await eventually_served(plane)


async def eventually(condition):
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110  what is waited for is another task's cleanup, which tells nobody
            await trio.sleep(0.01)


async def eventually_served(plane):
    with trio.fail_after(60):
        while True:
            try:
                return await plane.is_alive()
            except (Refused, trio.EndOfChannel, trio.BrokenResourceError):
                await trio.sleep(0.01)


async def ask_for_ever(peer):
    while True:
        await peer.send(*([0, msgid, "describe", []] for msgid in range(32)))


async def test_a_bug_in_the_plane_is_counted_and_hurts_nobody(plane, monkeypatch, caplog):
    async with plane.connect() as bystander:
        assert await bystander.call("ping") == {}
        monkeypatch.setattr(control.rpc.RpcDecoder, "receive_data", lambda *_: 1 / 0)
        async with plane.connect() as peer:
            with pytest.raises((trio.EndOfChannel, trio.BrokenResourceError)):
                await peer.call("ping")
        monkeypatch.undo()
        assert await bystander.call("ping") == {}
    assert plane.failures == 1
    assert "connection failed" in caplog.text
    assert plane.service.meters.connections == 2


# ---------------------------------------------------------------- the end


async def test_a_drain_finishes_what_is_in_flight(tmp_path):
    async with open_plane(tmp_path) as plane, plane.connect() as idle, plane.connect() as busy:
        await busy.send([0, 1, "load", [{"preset": "demo"}]])
        assert await idle.call("subscribe") == {}
        await wait_all_tasks_blocked()
        plane.service.hub.publish("models", {"event": "unloaded"})
        plane.drain.stop_accepting()
        assert [message[1] for message in await idle.receive_all()] == ["event"]
        plane.service.gate.set()
        (answer,) = await busy.receive_all()
        assert answer[:3] == [1, 1, None]


async def test_a_drain_ends_at_its_deadline(tmp_path):
    async with open_plane(tmp_path) as plane, plane.connect() as peer:
        await peer.send([0, 1, "load", [{"preset": "demo"}]])
        await wait_all_tasks_blocked()
        plane.drain.stop_accepting()
        plane.drain.close_at(trio.current_time() + 0.1)
        assert await peer.receive_all() == []
        assert plane.service.cancelled_loads == 1
