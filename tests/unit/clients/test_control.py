"""The blocking control client, against scripted daemons on real sockets."""

import pytest
from sttd_client.addresses import ConnectionLostError, NoDaemonError
from sttd_client.control import open_control

from sttd.errors import AccessError, ModelError, ProtocolError
from sttd.wire.rpc import encode_response


def test_a_call_returns_the_result_and_sends_named_parameters(control_socket, fake_control):
    with fake_control({"load": {"cache_hit": True}, "ping": {}}) as requests, open_control(control_socket) as control:
        assert control.call("load", preset="base", cpu_threads=None) == {"cache_hit": True}
        assert control.call("ping") == {}
        assert [request.params for request in requests] == [[{"preset": "base"}], []]


def test_errors_come_as_their_classes(control_socket, fake_control):
    errors = {
        "load": {"code": "model_not_local", "message": "pull it", "retryable": True, "data": {"x": 1}},
        "config": {"code": "forbidden", "message": "no", "retryable": False, "data": {}},
    }
    with fake_control(errors), open_control(control_socket) as control:
        with pytest.raises(ModelError, match="pull it") as caught:
            control.call("load", preset="x")
        assert caught.value.data == {"x": 1}
        with pytest.raises(AccessError):
            control.call("config")


def test_progress_is_told_to_the_call_that_it_belongs_to(control_socket, fake_control, pulling):
    seen = []
    with fake_control(pulling), open_control(control_socket) as control:
        assert control.call("pull", model="m", on_progress=seen.append) == {"path": "/m"}
    assert [fields["file"] for fields in seen] == ["model.bin"]


def test_events_that_came_during_a_call_are_not_lost(control_socket, fake_control, pulling):
    with fake_control(pulling), open_control(control_socket) as control:
        control.call("ping")
        events = control.events(topics=["models"])
        assert [next(events)["seq"], next(events)["seq"]] == [1, 1]


def test_answers_may_come_in_any_order(control_socket, fake_control):
    held = []

    def backwards(request, send):
        held.append(request.msgid)
        if len(held) == 2:
            for msgid in reversed(held):
                send(encode_response(msgid, result={"of": msgid}))

    with fake_control(backwards), open_control(control_socket) as control:
        first, second = control.request("status"), control.request("models")
        assert [control.receive().msgid, control.receive().msgid] == [second, first]


def test_a_call_can_be_bounded_and_the_late_answer_is_skipped(control_socket, fake_control):
    late = []

    def dawdle(request, send):
        late.append(request.msgid)
        if len(late) == 2:
            for msgid in late:
                send(encode_response(msgid, result={"of": msgid}))

    with fake_control(dawdle), open_control(control_socket) as control:
        with pytest.raises(TimeoutError):
            control.call("status", timeout_s=0.05)
        assert control.call("status", timeout_s=60) == {"of": 2}


def test_a_daemon_that_leaves_is_said_to_have_left(control_socket, fake_control):
    def leave(request, send):
        raise OSError

    with fake_control(leave), open_control(control_socket) as control, pytest.raises(ConnectionLostError):
        control.call("status")
    with pytest.raises(NoDaemonError), open_control(control_socket.with_name("absent")):
        pass


def test_nonsense_from_the_daemon_is_an_error(control_socket, fake_control):
    nonsense = fake_control(lambda request, send: send(b"\xc1"))
    with nonsense, open_control(control_socket) as control, pytest.raises(ProtocolError):
        control.call("status")
