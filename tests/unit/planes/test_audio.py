"""The audio plane with a session that does what the test says: every op, every way to end, nobody left waiting."""

import contextlib
import json
import os
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio_websocket
import wsproto
import wsproto.connection
import wsproto.events as frames
from trio.testing import wait_all_tasks_blocked

from sttd.core.types import Failure, Final, Interim, Progress, SpeechStart, Stopped, Timing, Warn
from sttd.errors import ModelError, OverloadedError, ProtocolError, SessionError
from sttd.options import Endpointing
from sttd.session import inbox
from sttd.wire.access import AccessRules
from tests.unit.planes.fakes import FakeService, open_plane

SPEECH = Final(
    utterance=1,
    text="one two",
    start_s=0.10049,
    end_s=1.5,
    language="en",
    confidence=0.91239,
    reason="stop",
    model="fake",
    words=None,
    timing=Timing(endpoint_ms=400.0, queue_ms=1.23456, decode_ms=50.0, speculative=True),
)


class Client:
    """A WebSocket client that speaks JSON."""

    def __init__(self, socket):
        self.socket = socket

    async def say(self, **message):
        await self.socket.send_message(json.dumps(message))

    async def hear(self):
        return json.loads(await self.socket.get_message())

    async def hear_all(self):
        """Everything until the close, and the close code."""
        messages = []
        try:
            while True:
                messages.append(await self.hear())
        except trio_websocket.ConnectionClosed as closed:
            return messages, closed.reason.code

    async def begin(self, **options):
        assert (await self.hear())["type"] == "hello"
        await self.say(op="start", **options)
        started = await self.hear()
        assert started["type"] == "started"
        return started


@asynccontextmanager
async def open_client(plane, path="/ws", **options):
    async with await plane.connect() as stream, trio.open_nursery() as nursery:
        socket = await trio_websocket.wrap_client_stream(nursery, stream, "localhost", path, **options)
        yield Client(socket)
        with trio.move_on_after(1):
            await socket.aclose()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def one_client(*, service=None, access=None, **limits):
    rules = {"access": access} if access else {}
    async with open_plane(service=service, **rules, **limits) as plane, open_client(plane) as client:
        yield plane, client


# ---------------------------------------------------------------- the ordinary life


async def test_the_shortest_client():
    async with one_client() as (plane, client):
        hello = await client.hear()
        assert (hello["type"], hello["protocol"], hello["presets"]) == ("hello", 1, ["auto", "fake"])
        assert "pcm_s16le" in hello["encodings"]
        await client.say(op="start", sample_rate=16000, lang="en")
        await client.say(op="audio", payload="AAECAw==")
        await client.socket.send_message(b"\x04\x05")
        await plane.service.opened.wait()
        plane.service.sessions[0].say(SPEECH)
        await client.say(op="stop")
        messages, code = await client.hear_all()
    (session,) = plane.service.sessions
    assert session.calls == [("feed", b"\x00\x01\x02\x03"), ("feed", b"\x04\x05"), ("stop", None)]
    assert [m["type"] for m in messages] == ["started", "final", "stopped"]
    assert code == 1000
    assert session.left.is_set()


async def test_started_reports_the_effective_options_under_the_names_of_start():
    async with one_client() as (_, client):
        started = await client.begin(kind="file", endpointing={"silence_ms_min": 900}, model="base", hotwords=["sttd"])
    assert started["session"] == "s000001"
    assert (started["kind"], started["interim"], started["lang"]) == ("file", False, "auto")
    assert (started["model"], started["interim_model"]) == ("base", "base")
    assert started["endpointing"]["silence_ms_min"] == started["endpointing"]["silence_ms_max"] == 900
    assert started["hotwords"] == ["sttd"]
    assert "max_utterance_s" not in started


async def test_events_carry_milliseconds_and_leave_out_what_there_is_not():
    events = [
        SpeechStart(utterance=1, at_s=0.1),
        Interim(utterance=1, seq=1, text="öne", stable_chars=0, start_s=0.1, end_s=0.5004),
        SPEECH,
        Progress(done_s=1.0, total_s=None),
        Warn(code="lagging", message="late", lag_s=2.0),
        Warn(code="other", message="x"),
        Stopped(audio_s=2.0, utterances=1, dropped_s=0.0),
    ]
    async with one_client() as (plane, client):
        await client.begin()
        plane.service.sessions[0].end(*events, close_code=1000)
        messages, code = await client.hear_all()
    start, interim, final, progress, late, other, stopped = messages
    assert start == {"type": "speech_start", "utterance": 1, "at_s": 0.1}
    assert (interim["text"], interim["end_s"]) == ("öne", 0.5)
    assert (final["start_s"], final["confidence"]) == (0.1, 0.912)
    assert final["timing"] == {"endpoint_ms": 400.0, "queue_ms": 1.235, "decode_ms": 50.0, "speculative": True}
    assert "words" not in final
    assert progress == {"type": "progress", "done_s": 1.0, "total_s": None}
    assert (late["lag_s"], "lag_s" in other) == (2.0, False)
    assert stopped["type"] == "stopped"
    assert code == 1000


async def test_finalize_and_configure_keep_their_place_in_the_stream():
    async with one_client() as (plane, client):
        await client.begin(endpointing={"silence_ms_max": 2000})
        await client.socket.send_message(b"a")
        await client.say(op="finalize")
        await client.socket.send_message(b"b")
        await client.say(op="configure", lang="auto", prompt="x", endpointing={"silence_ms_min": 500}, interim=None)
        await client.say(op="configure", endpointing=False)
        await client.socket.send_message(b"c")
        await client.say(op="stop")
        await client.hear_all()
    (session,) = plane.service.sessions
    assert [name for name, _ in session.calls] == [
        "feed", "finalize", "feed", "configure", "configure", "feed", "stop",
    ]  # fmt: skip
    first, second = session.named("configure")
    assert first.given() == {
        "lang": None, "prompt": "x", "endpointing": Endpointing(silence_ms_min=500, silence_ms_max=2000),
    }  # fmt: skip
    assert second.given() == {"endpointing": None}


async def test_changes_that_the_model_cannot_do_are_refused_whole():
    async with one_client() as (plane, client):
        await client.begin(endpointing={"silence_ms_max": 2000})
        refusal = ProtocolError("the preset knows English only", code="bad_option", data={"field": "lang"})
        plane.service.refusals.append(refusal)
        await client.say(op="configure", lang="de", endpointing={"silence_ms_min": 1500})
        await client.say(op="configure", endpointing={"silence_ms_max": 1000})
        await client.say(op="stop")
        events, _ = await client.hear_all()
    (error,) = [event for event in events if event["type"] == "error"]
    assert (error["code"], error["fatal"], error["data"]) == ("bad_option", False, {"field": "lang"})
    (changes,) = plane.service.sessions[0].named("configure")
    assert changes.given() == {"endpointing": Endpointing(silence_ms_min=400, silence_ms_max=1000)}


async def test_over_a_unix_socket_the_peer_is_known(tmp_path):
    async with open_plane(path=tmp_path / "audio.sock") as plane, open_client(plane) as client:
        await client.begin()
        await client.say(op="stop")
        messages, code = await client.hear_all()
    assert (messages[-1]["type"], code) == ("stopped", 1000)
    (peer,) = plane.service.peers
    assert (peer.uid, peer.pid) == (os.getuid(), os.getpid())


async def test_over_tcp_the_peer_is_the_daemons_own_user():
    async with one_client() as (plane, client):
        await client.begin()
        (peer,) = plane.service.peers
        assert (peer.uid, peer.pid) == (os.geteuid(), None)


async def test_a_token_in_the_subprotocol_is_accepted_by_name():
    offer = {"subprotocols": ["other", "sttd.token.s3cret"]}
    async with open_plane(access=AccessRules(token="s3cret")) as plane, open_client(plane, **offer) as client:
        assert client.socket.subprotocol == "sttd.token.s3cret"
        await client.begin()


async def test_frames_sent_together_with_the_handshake_are_not_lost():
    async with open_plane() as plane, await plane.connect() as stream:
        client = Raw(stream)
        request = client.wsproto.send(frames.Request(host="localhost", target="/ws"))
        ahead = wsproto.connection.Connection(wsproto.ConnectionType.CLIENT)
        await stream.send_all(request + ahead.send(frames.TextMessage(data='{"op":"start"}')))
        with trio.fail_after(60):
            while len(client.messages) < 2:
                await client.receive()
        assert [json.loads(message)["type"] for message in client.messages] == ["hello", "started"]


# ---------------------------------------------------------------- what is refused, and goes on


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("nonsense", "bad_request"),
        ("[1]", "bad_request"),
        ('{"op": "dance"}', "unknown_op"),
        ('{"op": "audio", "payload": "AAAA", "extra": 1}', "bad_option"),
        ('{"op": "audio", "payload": "!!"}', "bad_option"),
        ('{"op": "configure", "endpointing": {"silence_ms_min": "a"}}', "bad_option"),
        ('{"op": "start"}', "already_started"),
    ],
)
async def test_a_bad_message_is_refused_by_name_and_changes_nothing(message, code):
    async with one_client() as (plane, client):
        await client.begin()
        await client.socket.send_message(message)
        error = await client.hear()
        assert (error["type"], error["code"], error["fatal"]) == ("error", code, False)
        await client.say(op="stop")
        messages, close = await client.hear_all()
    assert (messages[-1]["type"], close) == ("stopped", 1000)
    assert plane.service.sessions[0].calls == [("stop", None)]


@pytest.mark.parametrize("op", ["audio", "finalize", "configure", "stop"])
async def test_before_start_there_is_nothing_to_do(op):
    async with one_client() as (_, client):
        await client.hear()
        await client.say(op=op, **({"payload": "AAAA"} if op == "audio" else {}))
        error = await client.hear()
        assert (error["code"], error["fatal"]) == ("not_started", False)
        await client.socket.send_message(b"\x00\x00")
        assert (await client.hear())["code"] == "not_started"
        await client.say(op="start")
        assert (await client.hear())["type"] == "started"


async def test_a_refused_start_may_be_repeated():
    service = FakeService(refusals=[ProtocolError("`lang` is not for this model", code="bad_option")])
    async with one_client(service=service) as (_, client):
        await client.hear()
        await client.say(op="start", sample_rate=1)
        assert (await client.hear())["code"] == "bad_option"
        await client.say(op="start")
        assert (await client.hear())["message"] == "`lang` is not for this model"
        await client.say(op="start")
        assert (await client.hear())["type"] == "started"


async def test_a_client_that_does_not_look_whether_it_started_is_not_left_waiting_for_the_close():
    service = FakeService(refusals=[ProtocolError("no", code="bad_option")])
    async with one_client(service=service) as (_, client):
        await client.hear()
        await client.say(op="start")
        await client.say(op="stop")
        messages, code = await client.hear_all()
    assert [(m["code"], m["fatal"]) for m in messages] == [("bad_option", False), ("not_started", True)]
    assert code == 1003


@pytest.mark.parametrize(
    ("refusal", "close"),
    [
        (OverloadedError("come again", data={"retry_after_s": 3.0}), 1013),
        (ModelError("no such preset", code="model_not_found"), 1008),
        (SessionError("stopping", code="shutting_down"), 1001),
    ],
)
async def test_no_session_is_a_fatal_error_that_says_why(refusal, close):
    async with one_client(service=FakeService(refusals=[refusal])) as (_, client):
        await client.hear()
        await client.say(op="start")
        (error,), code = await client.hear_all()
    assert (error["code"], error["fatal"], error["retryable"]) == (refusal.code, True, refusal.retryable)
    assert error.get("data", {}) == refusal.data
    assert code == close


# ---------------------------------------------------------------- fatal errors


async def test_too_large_a_message_is_fatal_and_the_owed_finals_still_come():
    async with one_client() as (plane, client):
        await client.begin()
        session = plane.service.sessions[0]
        session.stop = lambda: session.end(SPEECH, Stopped(audio_s=1, utterances=1, dropped_s=0), close_code=1000)
        await client.socket.send_message(bytes(1 << 20))  # the largest that is allowed
        await client.socket.send_message(bytes((1 << 20) + 1))
        await client.socket.send_message(b"ignored")
        messages, code = await client.hear_all()
    assert [m["type"] for m in messages] == ["error", "final"]
    assert (messages[0]["code"], messages[0]["fatal"]) == ("too_large", True)
    assert code == 1009
    assert [len(data) for data in session.named("feed")] == [1 << 20]


async def test_the_size_of_text_is_counted_in_bytes():
    async with one_client() as (_, client):
        await client.begin()
        await client.say(op="configure", prompt="ö" * 100)
        await client.socket.send_message(json.dumps({"op": "x", "y": "ö" * (600 << 10)}, ensure_ascii=False))
        messages, code = await client.hear_all()
    assert (messages[0]["code"], code) == ("too_large", 1009)


async def test_far_too_large_a_message_is_refused_before_it_is_there():
    async with one_client() as (plane, client):
        await client.begin()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_and_be_cut, client.socket, bytes(20 << 20))
            messages, code = await client.hear_all()
        with trio.fail_after(60):
            await plane.service.sessions[0].left.wait()
    assert ([message["code"] for message in messages], code) == (["too_large"], 1009)


async def send_and_be_cut(socket, message):
    try:
        await socket.send_message(message)
    except trio_websocket.ConnectionClosed:
        await trio.lowlevel.checkpoint()


async def test_a_session_that_fails_by_itself_closes_with_its_own_code():
    async with one_client() as (plane, client):
        await client.begin()
        failure = Failure(code="bad_audio", message="no", retryable=False, fatal=True)
        plane.service.sessions[0].end(failure, SPEECH, close_code=1003)
        messages, code = await client.hear_all()
    assert [m["type"] for m in messages] == ["error", "final"]
    assert code == 1003


async def test_a_bug_in_a_session_is_internal_and_hurts_nobody_else(caplog):
    async with open_plane() as plane, open_client(plane) as victim, open_client(plane) as other:
        await victim.begin()
        await other.begin()

        def broken(data):
            raise RuntimeError("a bug")

        plane.service.sessions[0].feed = broken
        await victim.socket.send_message(b"x")
        (error,), code = await victim.hear_all()
        assert (error["code"], error["fatal"], code) == ("internal", True, 1011)
        await other.say(op="stop")
        messages, code = await other.hear_all()
        assert (messages[-1]["type"], code) == ("stopped", 1000)
    assert [record.fields["kind"] for record in caplog.records] == ["RuntimeError"]


# ---------------------------------------------------------------- time


async def test_no_start_in_time(autojump_clock):
    async with one_client(start_s=30) as (_, client):
        await client.hear()
        began = trio.current_time()
        for _ in range(5):
            await trio.sleep(5)
            await client.say(op="finalize")  # other messages do not make it longer
        messages, code = await client.hear_all()
        assert trio.current_time() - began == pytest.approx(30, abs=1)
    assert (messages[-1]["code"], messages[-1]["fatal"], code) == ("idle_timeout", True, 1008)


async def test_a_session_without_messages_ends_with_its_finals(autojump_clock):
    async with one_client(idle_s=60) as (plane, client):
        await client.begin()
        for _ in range(3):
            await trio.sleep(50)
            await client.socket.send_message(b"x")
        began = trio.current_time()
        messages, code = await client.hear_all()
        assert trio.current_time() - began == pytest.approx(60, abs=1)
    assert [m["type"] for m in messages] == ["error"]  # and no stopped
    assert (messages[0]["code"], code) == ("idle_timeout", 1008)
    assert plane.service.sessions[0].calls[-1] == ("stop", None)


async def test_who_has_said_stop_may_wait_in_silence_for_as_long_as_it_takes(autojump_clock):
    async with one_client(idle_s=5) as (plane, client):
        await client.begin()
        session = plane.service.sessions[0]
        session.stop = lambda: session.calls.append(("stop", None))
        await client.say(op="stop")
        await trio.sleep(1000)
        session.end(SPEECH, Stopped(audio_s=2.0, utterances=1, dropped_s=0.0), close_code=1000)
        messages, code = await client.hear_all()
    assert ([message["type"] for message in messages], code) == (["final", "stopped"], 1000)


async def test_a_daemon_that_stood_still_first_looks_at_what_came_meanwhile(mock_clock, tmp_path):
    async with open_plane(path=tmp_path / "audio.sock", idle_s=5) as plane, open_raw(plane) as client:
        session = plane.service.sessions[0]
        await client.send(frames.BytesMessage(data=b"before"))
        await wait_all_tasks_blocked()
        # The whole process stops for 8 s, and the client speaks: nothing runs between these two lines.
        os.write(client.stream.socket.fileno(), client.wsproto.send(frames.BytesMessage(data=b"meanwhile")))
        mock_clock.jump(8)
        for _ in range(4):  # a grace begun now is over then
            await wait_all_tasks_blocked()
            assert [name for name, _ in session.calls] == ["feed", "feed"]
            mock_clock.jump(1)
        assert session.named("feed") == [b"before", b"meanwhile"]
        for _ in range(3):  # who really says nothing is sent away
            await wait_all_tasks_blocked()
            mock_clock.jump(5)
        while client.code is None:
            await client.receive()
    assert json.loads(client.messages[-1])["code"] == "idle_timeout"
    assert client.code == 1008


async def test_after_a_fatal_error_a_session_that_does_not_end_is_left(autojump_clock):
    async with one_client(idle_s=10, farewell_s=30) as (plane, client):
        await client.begin()
        plane.service.sessions[0].stop = lambda: None
        began = trio.current_time()
        _, code = await client.hear_all()
        assert trio.current_time() - began == pytest.approx(40, abs=1)
        assert code == 1008
        await plane.service.sessions[0].left.wait()


# ---------------------------------------------------------------- drain


async def test_on_a_drain_a_client_without_session_is_sent_away_at_once():
    async with one_client() as (plane, client):
        await client.hear()
        plane.drain.stop_accepting()
        with trio.fail_after(60):
            (error,), code = await client.hear_all()
    assert (error["code"], code) == ("shutting_down", 1001)


async def test_on_a_drain_a_session_ends_by_itself():
    async with one_client() as (plane, client):
        await client.begin()
        plane.drain.stop_accepting()
        await wait_all_tasks_blocked(0.01)
        plane.service.sessions[0].end(SPEECH, Stopped(audio_s=1, utterances=1, dropped_s=0), close_code=1001)
        messages, code = await client.hear_all()
    assert [m["type"] for m in messages] == ["final", "stopped"]
    assert code == 1001


async def test_a_connection_that_outlives_the_drain_is_cut():
    async with one_client() as (plane, client):
        await client.begin()
        plane.drain.stop_accepting()
        plane.drain.close_at(trio.current_time() + 0.2)
        with trio.fail_after(60):
            _, code = await client.hear_all()
    assert code == 1006
    assert plane.service.sessions[0].left.is_set()


# ---------------------------------------------------------------- disconnects


async def test_a_dropped_connection_leaves_the_session_without_stop():
    async with one_client() as (plane, client):
        await client.begin()
        session = plane.service.sessions[0]
        await trio.aclose_forcefully(client.socket._stream)
        with trio.fail_after(60):
            await session.left.wait()
    assert session.calls == []


async def test_what_had_arrived_before_the_client_left_is_not_lost():
    async with one_client() as (plane, client):
        await client.begin()
        session = plane.service.sessions[0]
        session.stuck = True
        session.stop = lambda: session.calls.append(("stop", None))
        for _ in range(20):
            await client.socket.send_message(b"x")
        await client.say(op="stop")
        await client.socket.aclose()
        with trio.fail_after(60):
            await session.left.wait()
    assert session.calls == [("feed", b"x")] * 20 + [("stop", None)]


# ---------------------------------------------------------------- backpressure


class Raw:
    """A client that is in charge of its socket: it can stop reading, and nothing answers pings for it."""

    def __init__(self, stream):
        self.stream = stream
        self.wsproto = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self.pongs = []
        self.partial = ""
        self.messages = []
        self.code = None

    async def send(self, event):
        await self.stream.send_all(self.wsproto.send(event))

    async def receive(self):
        data = await self.stream.receive_some()
        self.wsproto.receive_data(data or None)
        for event in self.wsproto.events():
            if isinstance(event, frames.Pong):
                self.pongs.append(bytes(event.payload))
            elif isinstance(event, frames.TextMessage):
                self.partial += event.data
                if event.message_finished:
                    self.messages.append(self.partial)
                    self.partial = ""
            elif isinstance(event, frames.CloseConnection):
                self.code = event.code
        return bool(data)

    async def open(self):
        await self.send(frames.Request(host="localhost", target="/ws"))
        await self.send_text(op="start")
        while not any('"started"' in message for message in self.messages):
            await self.receive()

    async def send_text(self, **message):
        if self.wsproto.state is wsproto.ConnectionState.CONNECTING:
            await self.receive()
        await self.send(frames.TextMessage(data=json.dumps(message)))


@asynccontextmanager
async def open_raw(plane):
    async with await plane.connect() as stream:
        client = Raw(stream)
        await client.open()
        yield client


async def test_a_session_that_is_behind_holds_its_client_back_and_loses_nothing(monkeypatch):
    monkeypatch.setattr(inbox, "PAUSE_S", 0.05)
    async with open_plane() as plane, open_client(plane) as client:
        await client.begin()
        session = plane.service.sessions[0]
        session.stuck = True
        sent = [index.to_bytes(4, "little") * 1000 for index in range(600)]

        async def send():
            for data in sent:
                await client.socket.send_message(data)
            await client.say(op="stop")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.sleep(0.3)
            session.unstick()
            messages, code = await client.hear_all()
    assert session.named("feed") == sent
    assert (messages[-1]["type"], code) == ("stopped", 1000)


async def test_pings_behind_a_backlog_are_answered_while_the_session_takes_nothing(monkeypatch):
    monkeypatch.setattr(inbox, "PAUSE_S", 0.1)
    async with open_plane() as plane, open_raw(plane) as client:
        plane.service.sessions[0].stuck = True

        async def send():
            for _ in range(200):  # 62 s of speech
                await client.send(frames.BytesMessage(data=bytes(10_000)))
            await client.send(frames.Ping(payload=b"still there?"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            with trio.fail_after(60):
                while not client.pongs:
                    await client.receive()
        assert client.pongs == [b"still there?"]


async def test_a_session_that_is_stuck_for_good_is_given_up(monkeypatch):
    monkeypatch.setattr(inbox, "PAUSE_S", 0.01)
    monkeypatch.setattr(inbox, "STUCK_S", 0.1)
    async with one_client(farewell_s=0.2) as (plane, client):
        await client.begin()
        plane.service.sessions[0].stuck = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_and_be_cut_often, client.socket)
            with trio.fail_after(60):
                messages, code = await client.hear_all()
            nursery.cancel_scope.cancel()
    assert (messages[0]["code"], messages[0]["fatal"], code) == ("overloaded", True, 1013)


async def send_and_be_cut_often(socket):
    while not socket.closed:
        await send_and_be_cut(socket, bytes(10_000))


# ---------------------------------------------------------------- frames that cost more than they say


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize(
    ("flood", "code", "close"),
    [
        (b"\x8a\x80\0\0\0\0" * 200, "too_many_requests", 1008),  # pongs that nobody asked for
        (b"\x02\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 1100, "bad_request", 1003),  # empty fragments
        (b"\x82\xff" + (1 << 62).to_bytes(8, "big") + b"\0\0\0\0", "too_large", 1009),
        (b"\x02\xff" + (1 << 20).to_bytes(8, "big") + bytes(4 + (1 << 20)) + b"\x00\x82\0\0\0\0ab", "too_large", 1009),
    ],
)
async def test_frames_that_cost_too_much_end_their_connection_by_name(flood, code, close, started):
    async with open_plane() as plane, await plane.connect() as stream:
        client = Raw(stream)
        if started:
            await client.open()
        else:
            await client.send(frames.Request(host="localhost", target="/ws"))
        with trio.fail_after(60):
            await stream.send_all(flood)
            while client.code is None and await client.receive():
                pass
    error = json.loads(client.messages[-1])
    assert (error["type"], error["code"], error["fatal"], client.code) == ("error", code, True, close)
    if started:
        assert plane.service.sessions[0].calls[-1] == ("stop", None)


# ---------------------------------------------------------------- frames against the RFC

AGAINST_THE_RFC = {
    "bad UTF-8": (b"\x81\x82\0\0\0\0\xff\xfe", 1007),
    "bad UTF-8 in pieces": (b"\x01\x81\0\0\0\0\xe2" + b"\x80\x80\0\0\0\0", 1007),
    "reserved opcode": (b"\x83\x80\0\0\0\0", 1002),
    "no mask": (b"\x81\x02{}", 1002),
    "reserved bits": (b"\xc1\x82\0\0\0\0{}", 1002),
    "a fragment of nothing": (b"\x80\x81\0\0\0\0x", 1002),
    "a close that is none": (b"\x88\x81\0\0\0\0x", 1002),
}


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("case", AGAINST_THE_RFC)
async def test_what_the_rfc_forbids_is_closed_with_its_code_after_the_finals(case, started, mock_clock):
    data, code = AGAINST_THE_RFC[case]
    mock_clock.autojump_threshold = 0.0
    async with open_plane(close_s=1000) as plane, await plane.connect() as stream:
        client = Raw(stream)
        if started:
            await client.open()
            session = plane.service.sessions[0]
            session.stop = lambda: session.end(
                SPEECH, Stopped(audio_s=2.0, utterances=1, dropped_s=0.0), close_code=1000
            )
            await client.send(frames.BytesMessage(data=b"abcd"))
        else:
            await client.send(frames.Request(host="localhost", target="/ws"))
        await stream.send_all(data)
        while client.code is None and await client.receive():
            pass
        assert await stream.receive_some() == b""
        assert trio.current_time() < 10, "no answer to the close is waited for"
    error, *rest = [json.loads(message) for message in client.messages[2 if started else 1 :]]
    assert (error["code"], error["fatal"], client.code) == ("bad_request", True, code)
    assert [message["type"] for message in rest] == (["final"] if started else [])
    if started:
        assert session.named("feed") == [b"abcd"], "what came before it was heard"


async def test_a_start_that_came_before_is_still_obeyed():
    async with open_plane() as plane, await plane.connect() as stream:
        client = Raw(stream)
        await client.send(frames.Request(host="localhost", target="/ws"))
        await client.receive()
        ahead = client.wsproto.send(frames.TextMessage(data='{"op":"start"}'))
        await stream.send_all(ahead + client.wsproto.send(frames.BytesMessage(data=b"abcd")) + b"\x81\x02{}")
        with trio.fail_after(60):
            while client.code is None and await client.receive():
                pass
    assert [json.loads(message)["type"] for message in client.messages] == ["hello", "started", "error"]
    assert [name for name, _ in plane.service.sessions[0].calls] == ["feed", "stop"]


async def test_what_an_unfinished_message_took_is_told_when_its_connection_ends():
    freed, told = [], trio.Event()

    def on_freed(count_bytes):
        freed.append(count_bytes)
        told.set()

    half = b"\x82\xff" + (1 << 20).to_bytes(8, "big") + bytes(4 + (1 << 19))
    async with open_plane(on_freed=on_freed) as plane:
        async with await plane.connect() as stream:
            client = Raw(stream)
            await client.send(frames.Request(host="localhost", target="/ws"))
            await client.receive()
            await stream.send_all(half)
            await stream.send_eof()
            while await stream.receive_some():
                pass
        await told.wait()
    assert freed == [len(half)]


# ---------------------------------------------------------------- slow consumers


def flood(session):
    """More than the kernel's buffers take."""
    for seq in range(900):
        session.say(Interim(utterance=1, seq=seq, text="x" * 20_000, stable_chars=0, start_s=0, end_s=1))


async def test_a_client_that_does_not_read_is_told_so_once_it_reads_again(autojump_clock):
    async with open_plane(stall_s=1.5) as plane, open_raw(plane) as client:
        session = plane.service.sessions[0]
        flood(session)
        await trio.sleep(2.0)  # longer than stall_s, and shorter than twice that
        with trio.fail_after(60):
            while client.code is None and await client.receive():
                pass
        await session.left.wait()
    seqs = [json.loads(m)["seq"] for m in client.messages if '"type":"interim"' in m]
    assert seqs == list(range(len(seqs)))  # whole messages, in order
    assert json.loads(client.messages[-1])["code"] == "slow_consumer"
    assert client.code == 1008


async def test_a_client_that_never_reads_is_dropped():
    async with open_plane(stall_s=0.2, close_s=0.2) as plane, open_raw(plane) as client:
        flood(plane.service.sessions[0])
        with trio.fail_after(60):
            await plane.service.sessions[0].left.wait()
        assert client.code is None


async def test_a_client_that_still_writes_is_no_slow_consumer(autojump_clock):
    async with open_plane(stall_s=0.5) as plane, open_raw(plane) as client:
        session = plane.service.sessions[0]
        flood(session)
        with trio.move_on_after(1.5):
            while True:
                await client.send(frames.BytesMessage(data=b"x"))
                await trio.sleep(0.1)
        assert not session.left.is_set()
        session.end(close_code=1000)
        with trio.fail_after(60):
            while client.code is None and await client.receive():
                pass
    assert client.code == 1000
    assert sum('"type":"interim"' in message for message in client.messages) == 900


async def test_a_client_that_drops_and_does_not_read_is_slow_although_its_audio_is_taken():
    async with open_plane(stall_s=0.3, close_s=0.2) as plane, open_raw(plane) as client:
        plane.service.sessions[0].options = attrs.evolve(plane.service.sessions[0].options, overflow="drop")
        session = plane.service.sessions[0]
        flood(session)
        with trio.fail_after(60):
            while not session.left.is_set():
                with contextlib.suppress(trio.BrokenResourceError):
                    await client.send(frames.BytesMessage(bytes(640)))
                await trio.sleep(0.02)


async def test_what_configure_leaves_out_is_as_configured_where_nothing_was_in_effect():
    class Configured(FakeService):
        def defaults(self, *, kind="live"):
            return attrs.evolve(super().defaults(kind=kind), endpointing=Endpointing(silence_ms_min=333))

    async with open_plane(service=Configured()) as plane, open_client(plane) as client:
        await client.begin(endpointing=False)
        await client.say(op="configure", endpointing={"silence_ms_max": 900})
        await client.say(op="stop")
        await client.hear_all()
        (changes,) = plane.service.sessions[0].named("configure")
        assert changes.given() == {"endpointing": Endpointing(silence_ms_min=333, silence_ms_max=900)}
