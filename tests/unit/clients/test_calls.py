"""The calls of a control connection: whatever order things come in, and however their bytes are cut."""

import hypothesis.strategies as st
import pytest
from hypothesis import given
from sttd_client.addresses import ConnectionLostError
from sttd_client.calls import EVENTS, Calls, request_of

from sttd.errors import NotFoundError, ProtocolError
from sttd.wire.rpc import Request, RpcDecoder, encode_notification, encode_response


@given(st.data())
def test_every_call_gets_its_own_answer_and_progress_and_events_stay_in_order(data):
    calls, seen = Calls(), {}
    calls.subscribed(+1)
    msgids = [calls.begin(on_progress=seen.setdefault(n, []).append) for n in range(data.draw(st.integers(1, 5)))]
    parts = [
        part
        for msgid in data.draw(st.permutations(msgids))
        for part in (
            encode_notification("event", params={"of": msgid}),
            encode_notification("progress", params={"msgid": msgid}),
            encode_response(msgid, result={"of": msgid}),
        )
    ]
    stream, at = b"".join(parts), 0
    order = [message.msgid for message in RpcDecoder().receive_data(stream) if hasattr(message, "result")]
    while at < len(stream):
        size = data.draw(st.integers(1, 100))
        calls.receive(stream[at : at + size])
        at += size
    for number, msgid in enumerate(msgids):
        assert calls.is_over(msgid)
        assert calls.result(msgid) == {"of": msgid}
        calls.end(msgid)
        assert seen[number] == [{"msgid": msgid}]
    assert [calls.next_event() for _ in msgids] == [{"of": msgid} for msgid in order]
    assert calls.next_event() is None


def test_none_is_omitted():
    (request,) = RpcDecoder().receive_data(request_of(7, "load", {"preset": "base", "cpu_threads": None}))
    assert request == Request(msgid=7, method="load", params=[{"preset": "base"}])
    (request,) = RpcDecoder().receive_data(request_of(8, "ping", {}))
    assert request.params == []


def test_events_that_nobody_subscribed_to_are_dropped_and_hold_up_no_answer():
    calls = Calls()
    events = b"".join(encode_notification("event", params={"seq": seq}) for seq in range(2 * EVENTS))
    calls.receive(events)
    assert not calls.full
    assert not calls.has_event()
    calls.subscribed(+1)
    calls.receive(events)
    assert calls.full
    calls.subscribed(-1)  # who leaves takes none of them
    assert not calls.full
    assert not calls.has_event()


def test_an_answer_that_nobody_waits_for_is_skipped():
    calls = Calls()
    calls.end(calls.begin(on_progress=None))
    calls.receive(encode_response(1, result={}) + encode_notification("progress", params={"msgid": 1}))
    assert calls.lost is None


def test_an_error_is_raised_in_its_class():
    calls = Calls()
    msgid = calls.begin(on_progress=None)
    calls.receive(encode_response(msgid, error={"code": "not_found", "message": "gone"}))
    with pytest.raises(NotFoundError, match="gone"):
        calls.result(msgid)


@pytest.mark.parametrize(("data", "error"), [(b"", ConnectionLostError), (b"\xc1", ProtocolError)])
def test_a_stream_that_ended_ends_every_call_and_those_to_come(data, error):
    calls = Calls()
    msgid = calls.begin(on_progress=None)
    calls.subscribed(+1)
    calls.receive(encode_notification("event", params={"seq": 1}))
    calls.receive(data)
    assert calls.is_over(msgid)
    with pytest.raises(error):
        calls.result(msgid)
    with pytest.raises(error):
        calls.begin(on_progress=None)
    assert calls.has_event()
    assert calls.next_event() == {"seq": 1}
    assert calls.has_event()
    assert calls.next_event() is None


def test_a_callback_that_fails_is_the_end():
    def fail(fields):
        raise KeyError("mine")

    calls = Calls()
    msgid = calls.begin(on_progress=fail)
    calls.receive(encode_notification("progress", params={"msgid": msgid}))
    with pytest.raises(KeyError, match="mine"):
        calls.result(msgid)


def test_it_is_full_when_as_many_events_wait_as_a_daemon_keeps():
    calls = Calls()
    calls.subscribed(+1)
    calls.receive(b"".join(encode_notification("event", params={"seq": seq}) for seq in range(EVENTS)))
    assert calls.full
    calls.next_event()
    assert not calls.full
