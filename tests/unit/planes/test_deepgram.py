"""Deepgram's live API with sessions that do what the test says: what is asked of them, and every way to end."""

import contextlib
import json
import re
from contextlib import asynccontextmanager

import pytest
import trio
import trio_websocket

from sttd.core.types import Failure, Final, Interim, SpeechStart, Stopped, Timing
from sttd.errors import InternalError, ModelError, OverloadedError, SessionError
from sttd.options import Endpointing
from sttd.planes.http import HttpLimits
from sttd.planes.line import LineLimits
from tests.unit.planes.fakes import FakeService, open_plane

RAW = "encoding=linear16&sample_rate=16000"
STOPPED = Stopped(audio_s=1.0, utterances=1, dropped_s=0.0)
SECOND = bytes(32_000)
HANDSHAKE = (
    "GET /v1/listen?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
)


def final(utterance=1, text="one two", *, end_s=0.8, reason="endpoint"):
    return Final(
        utterance=utterance,
        text=text,
        start_s=0.2,
        end_s=end_s,
        language="en",
        confidence=0.9,
        reason=reason,
        model="fake",
        words=(),
        timing=Timing(endpoint_ms=400.0, queue_ms=1.0, decode_ms=50.0, speculative=True),
    )


class Client:
    """A client that says what it likes and reads messages."""

    def __init__(self, socket):
        self.socket = socket

    async def say(self, kind, **fields):
        await self.socket.send_message(json.dumps({"type": kind, **fields}))

    async def feed(self, data):
        """Send audio, and know that the session has it."""
        await self.socket.send_message(data)
        await self.say("Configure")
        assert (await self.hear())["type"] == "ConfigureSuccess"

    async def hear(self):
        with trio.fail_after(60):
            return json.loads(await self.socket.get_message())

    async def hear_all(self):
        """Everything until the close, and its code and reason."""
        messages = []
        try:
            while True:
                messages.append(await self.hear())
        except trio_websocket.ConnectionClosed as closed:
            return messages, closed.reason.code, closed.reason.reason


def limited(**line):
    return HttpLimits(linger_s=0.5, line=LineLimits(**{"close_s": 1.0, **line}))


@asynccontextmanager
async def one_client(query=RAW, *, service=None, **line):
    """A plane and a client of it that is connected."""
    async with (
        open_plane(service=service, limits=limited(**line)) as plane,
        await plane.connect() as stream,
        trio.open_nursery() as nursery,
    ):
        with trio.fail_after(60):
            socket = await trio_websocket.wrap_client_stream(nursery, stream, "localhost", f"/v1/listen?{query}")
        yield plane, Client(socket)
        with trio.move_on_after(1):
            await socket.aclose()
        nursery.cancel_scope.cancel()


async def refused(query, *, service=None):
    """Status, head and body of the answer to a handshake."""
    async with open_plane(service=service, limits=limited()) as plane:
        answer = await plane.ask(HANDSHAKE.format(query=query).encode())
        head, _, body = answer.decode().partition("\r\n\r\n")
        return int(head.split()[1]), head, json.loads(body), plane.service


# ---------------------------------------------------------------- the ordinary life


async def test_a_stream_from_its_first_audio_to_its_end():
    async with one_client(RAW + "&interim_results=true&vad_events=true") as (plane, client):
        (session,) = plane.service.sessions
        session.stop = lambda: session.end(final(reason="stop"), STOPPED, close_code=1000)
        await client.socket.send_message(SECOND)
        session.say(SpeechStart(utterance=1, at_s=0.2))
        session.say(Interim(utterance=1, seq=1, text="one", stable_chars=3, start_s=0.2, end_s=0.6))
        assert await client.hear() == {"type": "SpeechStarted", "channel": [0], "timestamp": 0.2}
        interim = await client.hear()
        assert (interim["is_final"], interim["duration"]) == (False, 0.6)
        await client.say("KeepAlive")
        await client.say("CloseStream")
        await client.socket.send_message(SECOND)
        (result, metadata), code, _ = await client.hear_all()
    assert session.named("feed") == [SECOND]
    assert (result["is_final"], result["speech_final"], result["duration"]) == (True, True, 1.0)
    assert (metadata["type"], metadata["duration"], metadata["channels"]) == ("Metadata", 1.0, 1)
    assert metadata["request_id"] == result["metadata"]["request_id"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", metadata["created"])
    assert code == 1000
    assert session.left.is_set()


async def test_the_answer_to_the_handshake_names_the_request():
    async with one_client() as (plane, client):
        headers = dict(client.socket.handshake_headers)
        await client.say("CloseStream")
        (metadata,), _, _ = await client.hear_all()
    assert headers[b"dg-request-id"].decode() == metadata["request_id"]
    assert plane.service.sessions[0].options.label == "deepgram"


async def test_what_the_address_asks_for_is_what_the_session_gets():
    query = (
        "encoding=mulaw&channels=2&model=nova-3&language=de-DE&interim_results=true&endpointing=600"
        "&keyterm=sttd&keywords=Trio:2"
    )
    async with one_client(query) as (plane, _):
        (session,) = plane.service.sessions
        options = session.options
    assert (options.encoding, options.sample_rate, options.channels) == ("mulaw", 8000, 2)
    assert (options.kind, options.lang, options.interim, options.words, options.lock_stable) == (
        "live", "de", True, True, False,
    )  # fmt: skip
    assert options.hotwords == ("sttd", "Trio")
    assert options.model == "fake"
    assert (options.endpointing.silence_ms_min, options.endpointing.silence_ms_max) == (600, 600)
    assert options.overflow == "wait"


@pytest.mark.parametrize(
    ("asked", "endpointing"),
    [
        ("", Endpointing()),
        ("&endpointing=true", Endpointing()),
        ("&endpointing=10", Endpointing(silence_ms_min=400, silence_ms_max=400)),
        ("&endpointing=50000", Endpointing(silence_ms_min=10_000, silence_ms_max=10_000)),
        ("&endpointing=false", None),
    ],
)
async def test_an_utterance_ends_by_the_silence_that_was_asked_for_but_not_within_words(asked, endpointing):
    async with one_client(RAW + asked) as (plane, _):
        assert plane.service.sessions[0].options.endpointing == endpointing


async def test_finalize_and_configure_keep_their_place_in_the_stream():
    async with one_client() as (plane, client):
        (session,) = plane.service.sessions
        await client.socket.send_message(b"aa")
        await client.say("Finalize")
        await client.socket.send_message(b"bb")
        await client.say("Configure", keyterms=[" sttd ", "x" * 101], features={"numerals": True})
        success = await client.hear()
        await client.say("Configure", features={"numerals": False})
        assert "keyterms" not in await client.hear()
        session.say(final(text="", reason="finalize"))
        assert (await client.hear())["from_finalize"]
        await client.say("CloseStream")
        await client.hear_all()
    assert [name for name, _ in session.calls] == ["feed", "finalize", "feed", "configure", "stop"]
    assert session.named("configure")[0].given() == {"hotwords": ("sttd",)}
    assert (success["type"], success["keyterms"]) == ("ConfigureSuccess", ["sttd"])


async def test_channels_that_are_told_apart_have_a_session_each():
    async with one_client(RAW + "&channels=2&multichannel=true") as (plane, client):
        left, right = plane.service.sessions
        assert [(each.options.channels, each.options.channel_select) for each in (left, right)] == [(1, None)] * 2
        await client.socket.send_message(b"LLRRLLR")
        await client.socket.send_message(b"R")
        await client.say("Finalize", channel=1)
        right.say(final(text="", reason="finalize"))
        assert (await client.hear())["channel_index"] == [1, 2]
        await client.say("CloseStream")
        messages, code, _ = await client.hear_all()
    assert (b"".join(left.named("feed")), b"".join(right.named("feed"))) == (b"LLLL", b"RRRR")
    assert ("finalize", None) in right.calls
    assert ("finalize", None) not in left.calls
    assert [message["type"] for message in messages][-1] == "Metadata"
    assert (messages[-1]["channels"], code) == (2, 1000)


async def test_each_session_picks_its_channel_of_a_container():
    async with one_client("channels=2&multichannel=true") as (plane, client):
        await client.socket.send_message(b"fLaC")
        await client.say("CloseStream")
        await client.hear_all()
        sessions = plane.service.sessions
    assert [(each.options.encoding, each.options.channel_select) for each in sessions] == [
        ("container", 0),
        ("container", 1),
    ]
    assert [each.named("feed") for each in sessions] == [[b"fLaC"], [b"fLaC"]]


async def test_the_end_of_an_utterance_comes_with_the_silence_that_the_session_has_heard():
    async with one_client(RAW + "&interim_results=true&utterance_end_ms=1000") as (plane, client):
        (session,) = plane.service.sessions
        await client.feed(SECOND * 3)
        session.say(SpeechStart(utterance=1, at_s=0.2), final())
        assert (await client.hear())["speech_final"]
        session.heard_s = 1.79
        await client.feed(b"\0\0")
        session.heard_s = 1.8
        await client.feed(b"\0\0")
        assert await client.hear() == {"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": 0.8}


async def test_what_was_said_before_the_silence_comes_before_its_end():
    async with one_client(RAW + "&interim_results=true&utterance_end_ms=1000&vad_events=true") as (plane, client):
        (session,) = plane.service.sessions
        await client.feed(SECOND * 3)
        session.say(SpeechStart(utterance=1, at_s=0.2), final())
        session.heard_s = 3.0
        session.say(SpeechStart(utterance=2, at_s=1.2), final(2, "three", end_s=1.9))
        kinds = [(await client.hear())["type"] for _ in range(4)]
        assert kinds == ["SpeechStarted", "Results", "SpeechStarted", "Results"]
        await client.say("KeepAlive")
        assert (await client.hear())["last_word_end"] == 1.9


async def test_an_error_that_the_session_lives_with_is_told():
    async with one_client() as (plane, client):
        plane.service.sessions[0].say(Failure(code="decode_failed", message="no", retryable=True, fatal=False))
        told = await client.hear()
        assert told == {"type": "Error", "variant": "decode_failed", "description": "no"}
        await client.say("CloseStream")
        _, code, _ = await client.hear_all()
    assert code == 1000


# ---------------------------------------------------------------- refused before the upgrade


class OnlyOne(FakeService):
    """Has room for one session."""

    def open_session(self, options, **more):
        if self.sessions:
            self.refusals.append(OverloadedError("one is enough"))
        return super().open_session(options, **more)


@pytest.mark.parametrize(
    ("refusal", "status", "name"),
    [
        (OverloadedError("come again", data={"retry_after_s": 3.2}), 503, "SERVICE_UNAVAILABLE"),
        (SessionError("stopping", code="shutting_down"), 503, "SERVICE_UNAVAILABLE"),
        (ModelError("get it", code="model_not_local"), 503, "SERVICE_UNAVAILABLE"),
    ],
)
async def test_who_cannot_be_served_is_told_before_the_upgrade(refusal, status, name):
    found, head, body, service = await refused(RAW, service=FakeService(refusals=[refusal]))
    assert (found, body["err_code"], body["err_msg"]) == (status, name, refusal.message)
    assert f"dg-error: {refusal.message}" in head
    assert f"dg-request-id: {body['request_id']}" in head
    assert ("Retry-After: 4" in head) == ("retry_after_s" in refusal.data)
    assert not service.sessions


@pytest.mark.parametrize(
    "query", ["encoding=opus", RAW + "&model=gpt5", RAW + "&language=klingon", RAW + "&redact=pci"]
)
async def test_a_wrong_value_is_refused_before_the_upgrade(query):
    status, head, body, service = await refused(query)
    assert (status, body["err_code"]) == (400, "Bad Request")
    assert "dg-error: " in head
    assert not service.sessions


async def test_no_channel_is_served_where_one_cannot_be():
    service = OnlyOne()
    status, *_ = await refused(RAW + "&channels=2&multichannel=true", service=service)
    assert status == 503
    assert service.sessions[0].left.is_set()


# ---------------------------------------------------------------- what is refused, and goes on


@pytest.mark.parametrize("message", ["nonsense", '{"type": "Speak"}', '{"type": "Finalize", "channel": 1}'])
async def test_what_is_no_message_comes_back_and_the_stream_goes_on(message):
    async with one_client() as (plane, client):
        await client.socket.send_message(message)
        told = await client.hear()
        assert (told["type"], told["variant"], told["message"]) == ("Error", "SchemaError", message)
        await client.say("CloseStream")
        _, code, _ = await client.hear_all()
    assert code == 1000
    assert plane.service.sessions[0].calls == [("stop", None)]


# ---------------------------------------------------------------- how it ends


async def test_silence_of_the_client_ends_the_stream_with_what_is_pending():
    async with one_client(keepalive_s=0.3) as (plane, client):
        (session,) = plane.service.sessions
        session.stop = lambda: session.end(final(reason="stop"), STOPPED, close_code=1000)
        await client.socket.send_message(SECOND)
        (result,), code, reason = await client.hear_all()
    assert (result["is_final"], code) == (True, 1011)
    assert reason.startswith("NET-0001")


async def test_pings_are_no_messages():
    async with one_client(keepalive_s=0.5) as (_, client):
        with contextlib.suppress(trio_websocket.ConnectionClosed), trio.fail_after(60):
            while True:
                await client.socket.ping()
                await trio.sleep(0.05)
        assert client.socket.closed.code == 1011


async def test_who_has_closed_the_stream_may_wait_for_it():
    async with one_client(keepalive_s=0.3) as (plane, client):
        (session,) = plane.service.sessions
        session.stop = lambda: None
        await client.say("CloseStream")
        with trio.move_on_after(2):
            await client.hear()
        session.end(STOPPED, close_code=1000)
        messages, code, _ = await client.hear_all()
    assert ([message["type"] for message in messages][-1], code) == ("Metadata", 1000)


async def test_audio_that_is_none_ends_the_stream_with_what_is_pending():
    async with one_client("") as (plane, client):
        (session,) = plane.service.sessions
        failure = Failure(code="bad_audio", message="it cannot be decoded", retryable=False, fatal=True)
        session.end(SpeechStart(utterance=1, at_s=0.2), failure, final(reason="stop"), close_code=1003)
        (result,), code, reason = await client.hear_all()
    assert (result["is_final"], code, reason) == (True, 1008, "DATA-0000: it cannot be decoded")


async def test_an_error_of_a_session_ends_all_channels():
    async with one_client(RAW + "&channels=2&multichannel=true") as (plane, client):
        failure = Failure(code="out_of_memory", message="none left", retryable=True, fatal=True)
        plane.service.sessions[0].end(failure, close_code=1013)
        messages, code, reason = await client.hear_all()
    assert ("stop", None) in plane.service.sessions[1].calls
    assert (messages[0]["type"], messages[0]["variant"], code) == ("Error", "out_of_memory", 1013)
    assert reason == "out_of_memory"
    assert all(message["type"] != "Metadata" for message in messages)


async def test_a_session_that_is_drained_closes_the_stream_with_its_code():
    async with one_client(RAW + "&channels=2&multichannel=true") as (plane, client):
        plane.service.sessions[1].end(final(reason="drain"), STOPPED, close_code=1001)
        messages, code, _ = await client.hear_all()
    assert ("stop", None) in plane.service.sessions[0].calls
    assert [message["type"] for message in messages if message["type"] == "Metadata"] == ["Metadata"]
    assert code == 1001


async def test_too_large_a_message_ends_the_stream_with_what_is_pending():
    async with one_client() as (plane, client):
        (session,) = plane.service.sessions
        session.stop = lambda: session.end(final(reason="stop"), STOPPED, close_code=1000)
        await client.socket.send_message(bytes(1 << 20))
        await client.socket.send_message(bytes((1 << 20) + 1))
        (error, result), code, _ = await client.hear_all()
    assert (error["variant"], result["is_final"], code) == ("too_large", True, 1009)
    assert [len(data) for data in session.named("feed")] == [1 << 20]


async def test_a_client_that_does_not_read_is_left():
    async with open_plane(limits=limited(stall_s=0.3, close_s=0.3)) as plane, await plane.connect() as stream:
        await stream.send_all(HANDSHAKE.format(query=RAW).encode())
        with trio.fail_after(60):
            await plane.service.opened.wait()
            (session,) = plane.service.sessions
            session.say(*(final(number, "word " * 50_000) for number in range(1, 40)))
            await session.left.wait()
    assert session.calls == []


async def test_a_client_that_is_gone_leaves_its_session():
    async with one_client() as (plane, client):
        (session,) = plane.service.sessions
        await client.socket.aclose()
        with trio.fail_after(60):
            await session.left.wait()
    assert ("stop", None) not in session.calls


async def test_a_bug_is_told_as_one():
    async with one_client() as (plane, client):
        (session,) = plane.service.sessions

        def broken(data):
            raise RuntimeError("not for the client")

        session.feed = broken
        await client.socket.send_message(SECOND)
        (error,), code, reason = await client.hear_all()
    assert (error["variant"], code, reason) == (InternalError.default_code, 1011, "internal")
    assert "client" not in error["description"]
