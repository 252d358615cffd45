"""The sans-IO connection, against wsproto's server side."""

import json
from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
from hypothesis import given
from sttd_client.addresses import ConnectionLostError
from sttd_client.connection import LOST, AudioConnection, _cookies, retry_delay_s
from sttd_client.events import Failure, Final, Hello, Stopped
from wsproto import ConnectionType, WSConnection
from wsproto import events as ws

from sttd.errors import AccessError, OverloadedError, ProtocolError
from sttd.wire.messages import Finalize, Start

HELLO = {"type": "hello", "server": "x", "protocol": 1, "encodings": [], "presets": []}
STOPPED = {"type": "stopped", "audio_s": 1.0, "utterances": 0, "dropped_s": 0.0}


class Server:
    """The other end, in memory."""

    def __init__(self, connection):
        self.ws = WSConnection(ConnectionType.SERVER)
        self.ws.receive_data(connection.open())
        (self.request,) = self.ws.events()

    def accept(self):
        return self.ws.send(ws.AcceptConnection())

    def text(self, message, **options):
        return self.ws.send(ws.TextMessage(data=json.dumps(message), **options))

    def close(self, code):
        return self.ws.send(ws.CloseConnection(code=code))

    def heard(self, data):
        self.ws.receive_data(data)
        return list(self.ws.events())


def upgrade(*cookies, **more):
    """A connection whose upgrade set these, and what the next one asks for."""
    first, second = AudioConnection(), AudioConnection(token="t")
    server = Server(first)
    headers = [(b"X-Other", b"1"), *((b"Set-Cookie", cookie) for cookie in cookies)]
    assert first.receive(server.ws.send(ws.AcceptConnection(extra_headers=headers))) == []
    return Server(SimpleNamespace(open=lambda: second.open(cookies=first.cookies, **more))).request


def opened():
    connection = AudioConnection()
    server = Server(connection)
    assert connection.receive(server.accept()) == []
    return connection, server


def test_the_upgrade_names_host_and_token():
    connection = AudioConnection(host="[::1]:7788", token="t")
    server = Server(connection)
    assert server.request.target == "/ws"
    assert server.request.host == "[::1]:7788"
    assert (b"authorization", b"Bearer t") in server.request.extra_headers


def test_who_resumes_says_so_and_shows_the_cookies_by_which_a_proxy_finds_the_daemon():
    asked = upgrade(b"sttd=b; path=/; HttpOnly; Secure", b"other=x y", resume=True)
    assert asked.target == "/ws?resume"
    headers = dict(asked.extra_headers)
    assert (headers[b"cookie"], headers[b"authorization"]) == (b"sttd=b; other=x y", b"Bearer t")


def test_no_cookie_is_shown_for_another_session_nor_one_that_is_no_place():
    assert b"cookie" not in dict(upgrade(b"sttd=b").extra_headers)
    assert b"cookie" not in dict(upgrade(b"a=" + b"x" * 5000, resume=True).extra_headers)
    assert b"cookie" not in dict(upgrade(resume=True).extra_headers)


def test_of_cookies_the_last_of_a_name_counts_and_what_is_none_is_not_shown():
    asked = upgrade(b"sttd=a", b"gone=; Max-Age=0", b";;", b"", b"word", b"odd=\x01", b"sttd=b=c ; Path=/", resume=True)
    assert dict(asked.extra_headers)[b"cookie"] == b"sttd=b=c"
    assert b"cookie" not in dict(upgrade(b";", b";", b"gone=", resume=True).extra_headers)


@given(st.lists(st.binary(max_size=12)))
def test_whatever_is_set_can_be_shown(cookies):
    """The upgrade would raise where it is no header."""
    shown = _cookies([(b"Set-Cookie", cookie) for cookie in cookies])
    assert b"HTTP/1.1\r\n" in AudioConnection().open(resume=True, cookies=shown)


@given(st.data())
def test_events_come_out_the_same_however_the_bytes_are_cut(data):
    connection = AudioConnection()
    server = Server(connection)
    final = {"type": "final", "utterance": 1, "text": "schön", "start_s": 0, "end_s": 1, "reason": "stop"}
    stream = server.accept() + server.text(HELLO) + server.ws.send(ws.Ping()) + server.text({"type": "news"})
    stream += server.text(final) + server.text(STOPPED) + server.close(1000)
    events = []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        events += connection.receive(stream[:cut])
        stream = stream[cut:]
    assert [type(event) for event in events] == [Hello, Final, Stopped]
    assert connection.closed
    assert connection.close_code == 1000
    assert connection.error() is None
    assert not connection.worth_retrying
    pong, close = server.heard(connection.data_to_send())
    assert isinstance(pong, ws.Pong)
    assert isinstance(close, ws.CloseConnection)
    assert connection.data_to_send() == b""


def test_ops_and_audio_reach_the_server_audio_in_small_messages():
    connection, server = opened()
    start, finalize = server.heard(connection.op(Start(lang="de")) + connection.op(Finalize()))
    assert json.loads(start.data) == {"op": "start", "lang": "de"}
    assert json.loads(finalize.data) == {"op": "finalize"}
    audio = bytes(3 * 65_536 + 3)
    messages = server.heard(connection.audio(audio))
    sizes = [0]
    for message in messages:
        sizes[-1] += len(message.data)
        if message.message_finished:
            sizes.append(0)
    assert sizes == [65_536] * 3 + [3, 0]
    assert b"".join(bytes(message.data) for message in messages) == audio
    assert connection.audio(b"") == b""


def test_a_fragmented_message_is_one_event():
    connection, server = opened()
    text = json.dumps(HELLO)
    half = len(text) // 2
    first = server.ws.send(ws.TextMessage(data=text[:half], message_finished=False))
    second = server.ws.send(ws.TextMessage(data=text[half:], message_finished=True))
    assert connection.receive(first) == []
    assert isinstance(connection.receive(second)[0], Hello)


def test_a_fatal_error_is_what_the_session_ended_with():
    connection, server = opened()
    failure = {"type": "error", "code": "overloaded", "message": "later", "retryable": True, "fatal": True}
    assert isinstance(connection.receive(server.text(failure))[0], Failure)
    assert connection.error() is None  # utterances that were shown still get their finals
    connection.receive(server.close(1013))
    assert isinstance(connection.error(), OverloadedError)
    assert connection.worth_retrying


def test_an_error_that_is_not_fatal_ends_nothing():
    connection, server = opened()
    connection.receive(server.text({"type": "error", "code": "bad_option", "message": "no"}))
    connection.receive(server.text(STOPPED) + server.close(1000))
    assert connection.error() is None


@pytest.mark.parametrize(("code", "retry"), [(1000, False), (1001, True), (1008, False), (1011, True), (1013, True)])
def test_a_close_without_stopped_is_a_loss_that_may_be_worth_a_retry(code, retry):
    connection, server = opened()
    connection.receive(server.close(code))
    assert isinstance(connection.error(), ConnectionLostError)
    assert connection.worth_retrying is retry


def test_the_end_of_the_stream_is_a_loss_and_nothing_is_sent_after_it():
    connection, _ = opened()
    assert connection.receive(b"") == []
    assert connection.close_code == LOST
    assert connection.worth_retrying
    assert connection.op(Finalize()) == b""
    assert connection.audio(b"abcd") == b""
    assert connection.close() == b""
    assert connection.receive(b"more") == []


def test_a_session_that_stopped_is_over_even_if_the_close_is_lost():
    connection, server = opened()
    connection.receive(server.text(STOPPED))
    connection.receive(b"")
    assert connection.error() is None
    assert not connection.worth_retrying


def test_a_daemon_that_shuts_down_ends_the_session_well_and_may_be_back_soon():
    connection, server = opened()
    connection.receive(server.text(STOPPED) + server.close(1001))
    assert connection.error() is None
    assert connection.worth_retrying


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (403, {"code": "forbidden", "message": "not from there", "retryable": False}, AccessError, "not from there"),
        (503, {"error": {"code": "overloaded", "message": "full"}}, OverloadedError, "full"),
        (401, "who?", AccessError, "401"),
        (502, [], ProtocolError, "502"),
    ],
)
def test_a_refusal_is_raised_as_the_error_it_is(status, body, error, words):
    connection = AudioConnection()
    server = Server(connection)
    text = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    headers = [(b"content-length", str(len(text)).encode())]
    answer = server.ws.send(ws.RejectConnection(status_code=status, headers=headers, has_body=True))
    answer += server.ws.send(ws.RejectData(data=text))
    with pytest.raises(error, match=words):
        connection.receive(answer)
    assert connection.closed


def test_something_that_is_no_websocket_server_is_an_error():
    connection = AudioConnection()
    connection.open()
    with pytest.raises(ProtocolError, match="no sttd"):
        connection.receive(b"220 smtp.example ready\r\n\r\n")
    assert connection.closed


@pytest.mark.parametrize("there", [1, 40, -1])
def test_a_connection_that_is_cut_in_the_answer_to_the_upgrade_is_lost(there):
    connection = AudioConnection()
    answer = Server(connection).accept()[:there]
    assert connection.receive(answer) == []
    assert connection.receive(b"") == []
    assert connection.closed
    assert isinstance(connection.error(), ConnectionLostError)


def test_retries_wait_longer_and_longer_up_to_a_bound():
    delays = [retry_delay_s(attempt) for attempt in range(20)]
    assert delays == sorted(delays)
    assert delays[0] < 0.5
    assert delays[-1] == delays[-2] <= 10


def test_a_retry_waits_as_long_as_the_daemon_asked_for():
    connection, server = opened()
    fields = {"code": "overloaded", "message": "come later", "retryable": True, "fatal": True}
    refusal = {"type": "error", **fields, "data": {"retry_after_s": 7.5, "unheard_of": [1]}}
    connection.receive(server.text(refusal) + server.close(1013))
    error = connection.error()
    assert isinstance(error, OverloadedError)
    assert error.data == {"retry_after_s": 7.5}
    assert retry_delay_s(0, error) == 7.5
    assert retry_delay_s(0, OSError()) == retry_delay_s(0)
