"""The Trio control client, against scripted daemons on real sockets. Real clock: the daemons live in threads."""

import pytest
import trio
from sttd_client import ConnectionLostError, NoDaemonError, open_control

from sttd.errors import AccessError
from sttd.wire.rpc import encode_response


@pytest.fixture(autouse=True)
async def watchdog():
    with trio.fail_after(60):
        yield


async def test_many_tasks_may_call_at_the_same_time(control_socket, fake_control):
    held = []

    def backwards(request, send):
        held.append(request)
        if len(held) == 10:
            for request in reversed(held):
                send(encode_response(request.msgid, result=request.params[0]))

    with fake_control(backwards):
        async with open_control(control_socket) as control, trio.open_nursery() as nursery:
            answers = {}

            async def call(number):
                answers[number] = (await control.call("load", preset=str(number)))["preset"]

            for number in range(10):
                nursery.start_soon(call, number)
    assert answers == {number: str(number) for number in range(10)}


async def test_the_trio_client_tells_progress_and_events(control_socket, fake_control, pulling):
    seen = []
    with fake_control(pulling):
        async with open_control(control_socket) as control:
            assert await control.call("pull", model="m", on_progress=seen.append) == {"path": "/m"}
            async with control.subscribe(topics=["models"]) as events:
                assert (await events.receive())["topic"] == "models"
    assert [fields["file"] for fields in seen] == ["model.bin"]


async def test_a_lost_daemon_fails_every_call_of_the_trio_client(control_socket, fake_control):
    def leave(request, send):
        raise OSError

    with fake_control(leave):
        async with open_control(control_socket) as control:
            with pytest.raises(ConnectionLostError):
                await control.call("status")
            with pytest.raises(ConnectionLostError):
                await control.call("status")
    with pytest.raises(NoDaemonError):
        async with open_control(control_socket.with_name("absent")):
            pass


async def test_a_cancelled_call_leaves_the_connection_usable(control_socket, fake_control):
    def slow_first(request, send):
        if request.msgid > 1:
            send(encode_response(1, result={}))
            send(encode_response(request.msgid, result={"n": request.msgid}))

    with fake_control(slow_first):
        async with open_control(control_socket) as control:
            with trio.move_on_after(0.05) as scope:
                await control.call("status")
            assert scope.cancelled_caught
            assert await control.call("status") == {"n": 2}


async def test_errors_of_the_trio_client_leave_as_they_are(control_socket, fake_control):
    with fake_control({"config": {"code": "forbidden", "message": "no"}}), pytest.raises(AccessError):
        async with open_control(control_socket) as control:
            await control.call("config")
