"""The control client on Trio and on asyncio, against scripted daemons on real sockets."""

import threading

import pytest
from sttd_client import ConnectionLostError, NoDaemonError
from sttd_client.calls import EVENTS

from sttd.errors import AccessError, ProtocolError
from sttd.wire.rpc import encode_notification, encode_response
from tests.unit.clients.kinds import LIMIT_S, each_loop


@each_loop
async def test_many_tasks_may_call_at_the_same_time(kind, control_socket, fake_control):
    held, answers = [], {}

    def backwards(request, send):
        held.append(request)
        if len(held) == 3:
            for request in reversed(held):
                send(encode_response(request.msgid, result=request.params[0]))

    async def call(control, number):
        answers[number] = (await control.call("load", preset=str(number)))["preset"]

    with fake_control(backwards):
        async with (
            kind.open_control(control_socket) as control,
            kind.task(call, control, 0),
            kind.task(call, control, 1),
        ):
            await call(control, 2)
    assert answers == {number: str(number) for number in range(3)}


@each_loop
async def test_progress_and_events_are_told(kind, control_socket, fake_control, pulling):
    seen = []
    with fake_control(pulling):
        async with kind.open_control(control_socket) as control:
            assert await control.call("pull", model="m", on_progress=seen.append) == {"path": "/m"}
            async with control.subscribe(topics=["models"]) as events:
                assert (await events.receive())["topic"] == "models"
    assert [fields["file"] for fields in seen] == ["model.bin"]


@each_loop
async def test_a_lost_daemon_fails_every_call_and_ends_the_events(kind, control_socket, fake_control):
    def leave(request, send):
        if request.method != "subscribe":
            raise OSError
        send(encode_notification("event", params={"seq": 1}) + encode_response(request.msgid, result={}))

    with fake_control(leave):
        async with kind.open_control(control_socket) as control, control.subscribe() as events:
            for _ in range(2):
                with pytest.raises(ConnectionLostError):
                    await control.call("status")
            assert [event async for event in events] == [{"seq": 1}]
    with pytest.raises(NoDaemonError):
        async with kind.open_control(control_socket.with_name("absent")):
            pass


@each_loop
async def test_a_cancelled_call_leaves_the_connection_usable(kind, control_socket, fake_control):
    def slow_first(request, send):
        if request.msgid > 1:
            send(encode_response(1, result={}))
            send(encode_response(request.msgid, result={"n": request.msgid}))

    with fake_control(slow_first):
        async with kind.open_control(control_socket) as control:
            assert await kind.gave_up(control.call, "status", after_s=0.05)
            assert await control.call("status") == {"n": 2}


@each_loop
async def test_a_call_that_is_cancelled_before_it_is_sent_ends_nothing(kind, control_socket, fake_control):
    with fake_control({"status": {"n": 2}}):
        async with kind.open_control(control_socket) as control:
            assert await kind.gave_up(control.call, "status", after_s=0)
            assert await control.call("status") == {"n": 2}


@each_loop
async def test_a_subscription_that_was_full_leaves_the_connection_usable(kind, control_socket, fake_control):
    def flood(request, send):
        send(encode_response(request.msgid, result={}))
        if request.method == "subscribe":
            for seq in range(2 * EVENTS):
                send(encode_notification("event", params={"seq": seq}))

    with fake_control(flood):
        async with kind.open_control(control_socket) as control:
            async with control.subscribe():
                await kind.sleep(0.2)
            assert await control.call("status") == {}


@each_loop
async def test_errors_leave_as_they_are(kind, control_socket, fake_control):
    with fake_control({"config": {"code": "forbidden", "message": "no"}}), pytest.raises(AccessError):
        async with kind.open_control(control_socket) as control:
            await control.call("config")


@each_loop
async def test_nonsense_from_the_daemon_is_an_error(kind, control_socket, fake_control):
    with fake_control(lambda request, send: send(b"\xc1")):
        async with kind.open_control(control_socket) as control:
            with pytest.raises(ProtocolError):
                await control.call("status")


@each_loop
async def test_who_takes_no_events_stops_the_daemon_and_gets_them_all(kind, control_socket, fake_control):
    many, payload, told = 20 * EVENTS, "x" * 1000, threading.Event()

    def flood(request, send):
        send(encode_response(request.msgid, result={}))
        if request.method == "subscribe":
            for seq in range(many):
                send(encode_notification("event", params={"seq": seq, "payload": payload}))
            told.set()

    with fake_control(flood):
        async with kind.open_control(control_socket) as control, control.subscribe() as events:
            await kind.sleep(0.2)
            assert not told.is_set()
            assert [(await events.receive())["seq"] for _ in range(many)] == list(range(many))
            assert await kind.in_thread(told.wait, LIMIT_S)


@each_loop
async def test_a_subscription_can_be_left_though_the_daemon_answers_no_more(
    kind, control_socket, fake_control, monkeypatch
):
    def mute(request, send):
        if request.method == "subscribe":
            send(encode_response(request.msgid, result={}))

    monkeypatch.setattr("sttd_client.async_control._UNSUBSCRIBE_S", 0.05)
    with fake_control(mute) as requests:
        async with kind.open_control(control_socket) as control, control.subscribe():
            pass
    assert [request.method for request in requests] == ["subscribe", "unsubscribe"]
