"""The plane of OpenAI's Realtime API with sessions that do what the test says: every way to end."""

import base64
import json
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio_websocket
from trio.testing import wait_all_tasks_blocked

from sttd.core.results import NOT_DECODED
from sttd.core.types import Failure, Final, Interim, SpeechEnd, SpeechStart, Stopped, Timing
from sttd.errors import ModelError, OverloadedError, ProtocolError, SessionError
from sttd.options import Endpointing, SessionChanges
from sttd.planes.http import HttpLimits
from sttd.planes.line import LineLimits
from tests.answers import MODELS, PRESET
from tests.unit.planes.fakes import FakeService, open_plane

NAMES = "conversation.item.input_audio_transcription."
STOPPED = Stopped(audio_s=1.0, utterances=1, dropped_s=0.0)
SECOND = bytes(48_000)


@attrs.define(eq=False)
class Service(FakeService):
    """With a model that is not there."""

    def check_model(self, name):
        if name == "absent":
            raise ModelError("get it with: sttctl pull absent", code="model_not_local")

    def presets(self):
        return ["auto", "fake", "absent"]

    def models(self):
        return attrs.evolve(MODELS, presets=(*MODELS.presets, attrs.evolve(PRESET, preset="absent", local=False)))


class Client:
    """Speaks Realtime."""

    def __init__(self, socket):
        self.socket = socket

    async def say(self, kind, **fields):
        await self.socket.send_message(json.dumps({"type": kind, **fields}))

    async def append(self, data=SECOND):
        await self.say("input_audio_buffer.append", audio=base64.b64encode(data).decode())

    async def commit(self):
        await self.say("input_audio_buffer.commit")

    async def update(self, **session):
        await self.say("session.update", session=session)
        return await self.hear("session.updated", "error")

    async def hear(self, *kinds):
        while True:
            event = json.loads(await self.socket.get_message())
            if event["type"] in kinds:
                return event

    async def hear_all(self):
        """Everything until the close, and the close code."""
        events = []
        try:
            while True:
                events.append(json.loads(await self.socket.get_message()))
        except trio_websocket.ConnectionClosed as closed:
            return events, closed.reason.code


@asynccontextmanager
async def connected(plane):
    async with await plane.connect() as stream, trio.open_nursery() as nursery:
        socket = await trio_websocket.wrap_client_stream(nursery, stream, "localhost", "/v1/realtime")
        client = Client(socket)
        assert await client.hear("session.created")
        yield client
        with trio.move_on_after(1):
            await socket.aclose()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def one_client(*, service=None, **limits):
    line = LineLimits(**{"close_s": 1.0, **limits})
    limits = HttpLimits(linger_s=0.5, line=line)
    async with open_plane(service=service or Service(), limits=limits) as plane, connected(plane) as client:
        yield plane, client


async def opened(plane, count=1):
    """The newest session, once there are so many."""
    with trio.fail_after(60):
        while len(plane.service.sessions) < count:
            plane.service.opened = trio.Event()
            await plane.service.opened.wait()
    return plane.service.sessions[-1]


def spoken(utterance=1, text="one", reason="finalize", *, timing=None):
    """What a session says of an utterance."""
    final = Final(
        utterance=utterance,
        text=text,
        start_s=0.0,
        end_s=1.0,
        language="en",
        confidence=0.9,
        reason=reason,
        model="fake",
        words=None,
        timing=timing or Timing(endpoint_ms=0.0, queue_ms=1.0, decode_ms=50.0, speculative=False),
    )
    return (
        SpeechStart(utterance=utterance, at_s=0.0),
        SpeechEnd(utterance=utterance, at_s=1.0, silence_ms=0, reason=reason),
        final,
    )


def kinds(events):
    return [event["type"].removeprefix(NAMES).removeprefix("input_audio_buffer.") for event in events]


# ---------------------------------------------------------------- the ordinary life


async def test_a_session_opens_with_the_first_audio_and_hears_everything_in_order():
    async with one_client() as (plane, client):
        await client.update(turn_detection=None, audio={"input": {"transcription": {"language": "de"}}})
        assert plane.service.sessions == []
        await client.append(b"\0\1" * 4000)
        await client.commit()
        await client.append(b"\2\3" * 4000)
        session = await opened(plane)
        await client.hear("conversation.item.done")
        session.say(*spoken())
        assert (await client.hear(f"{NAMES}completed"))["transcript"] == "one"
    assert session.calls == [("feed", b"\0\1" * 4000), ("finalize", None), ("feed", b"\2\3" * 4000)]
    options = session.options
    assert (options.lang, options.sample_rate, options.encoding) == ("de", 24_000, "pcm_s16le")
    assert (options.endpointing, options.lock_stable, options.interim, options.words) == (None, True, True, False)
    assert options.label == "realtime"
    assert session.left.is_set()


async def test_what_an_utterance_may_change_is_changed_and_nothing_else_is_said_to_the_session():
    async with one_client() as (plane, client):
        await client.append()
        session = await opened(plane)
        await client.update(turn_detection={"type": "server_vad", "silence_duration_ms": 700})
        await client.update(audio={"input": {"noise_reduction": {"type": "near_field"}}})
        await client.update(audio={"input": {"transcription": {"prompt": "names"}}})
    first, second = session.named("configure")
    assert first == SessionChanges(endpointing=Endpointing(silence_ms_min=700, silence_ms_max=700))
    assert second == SessionChanges(prompt="names")


async def test_what_a_session_cannot_change_is_for_the_next_one_whose_events_wait():
    async with one_client() as (plane, client):
        await client.update(turn_detection=None)
        await client.append()
        old = await opened(plane)
        old.stop = lambda: old.calls.append(("stop", None))
        await client.update(include=["item.input_audio_transcription.logprobs"])
        await client.append()
        await client.commit()
        await client.append()
        new = await opened(plane, 2)
        await client.commit()
        new.say(*spoken(text="new"))
        await wait_all_tasks_blocked(0.02)
        old.end(*spoken(text="old"), STOPPED, close_code=1000)
        finals = [(await client.hear(f"{NAMES}completed"))["transcript"] for _ in range(2)]
        await client.update()  # the connection goes on
    assert finals == ["old", "new"]
    assert [name for name, _ in old.calls] == ["feed", "feed", "finalize", "stop"]
    assert [name for name, _ in new.calls] == ["feed", "finalize"]
    assert (old.options.words, new.options.words) == (False, True)
    assert [place is not None for place in plane.service.places] == [False, True]  # a drain does not cut it in two
    assert plane.service.registry.promised.total() == 0


async def test_an_update_that_no_model_here_can_do_is_refused_whole():
    async with one_client() as (plane, client):
        model = {"audio": {"input": {"transcription": {"model": "absent"}}}}
        error = (await client.update(**model))["error"]
        assert (error["type"], error["code"]) == ("server_error", "model_not_local")
        assert "sttctl pull absent" in error["message"]
        plane.service.refusals.append(ProtocolError("no", code="bad_option"))
        error = (await client.update(turn_detection=None))["error"]
        assert (error["code"], error["param"]) == ("invalid_value", "session.audio.input.transcription.language")
        shown = (await client.update())["session"]["audio"]["input"]
    assert shown["transcription"]["model"] == "whisper-1"
    assert shown["turn_detection"] is not None


# ---------------------------------------------------------------- who is let in


@pytest.mark.parametrize(
    ("path", "refusal", "status", "code"),
    [
        ("/v1/realtime", OverloadedError("later", data={"retry_after_s": 1.5}), 503, "overloaded"),
        ("/v1/realtime", ModelError("pull it", code="model_not_local"), 503, "model_not_local"),
        ("/v1/realtime?model=nonsense", None, 404, "model_not_found"),
    ],
)
async def test_a_handshake_that_nothing_could_follow_is_refused(path, refusal, status, code):
    service = Service(unwanted=[refusal] if refusal else [])
    async with open_plane(service=service) as plane:
        upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        answer = await plane.get(path, headers=f"{upgrade}Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n")
    assert (answer[0], json.loads(answer[2])["error"]["code"]) == (status, code)
    assert ("retry-after: 2" in answer[1]) == (code == "overloaded")


async def test_while_the_daemon_stops_nobody_is_upgraded():
    async with open_plane(service=Service(unwanted=[SessionError("stopping", code="shutting_down")])) as plane:
        upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        status, _, body = await plane.get(
            "/v1/realtime", headers=f"{upgrade}Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        )
    assert (status, json.loads(body)["error"]["code"]) == (503, "shutting_down")


@pytest.mark.parametrize(
    ("refusal", "close"),
    [
        (OverloadedError("later"), 1013),
        (ModelError("gone", code="model_not_found"), 1013),
        (SessionError("stopping", code="shutting_down"), 1001),
    ],
)
async def test_a_session_that_is_refused_after_the_upgrade_ends_the_connection(refusal, close):
    async with one_client() as (plane, client):
        plane.service.refusals.append(refusal)
        await client.append()
        (error,), code = await client.hear_all()
    assert (error["error"]["type"], error["error"]["code"], code) == ("server_error", refusal.code, close)


# ---------------------------------------------------------------- the end


async def test_a_session_that_ends_by_itself_ends_the_connection_with_its_code():
    async with one_client() as (plane, client):
        await client.append()
        session = await opened(plane)
        session.end(*spoken(reason="drain"), STOPPED, close_code=1001)
        events, code = await client.hear_all()
    assert kinds(events) == [
        "speech_started",
        "speech_stopped",
        "committed",
        "conversation.item.added",
        "conversation.item.done",
        "delta",
        "completed",
    ]
    assert code == 1001


async def test_a_session_that_fails_leaves_no_commit_without_an_outcome():
    async with one_client() as (plane, client):
        await client.append()
        await client.commit()
        await client.hear("conversation.item.done")
        session = await opened(plane)
        session.end(Failure(code="internal", message="a bug", retryable=False, fatal=True), close_code=1011)
        events, code = await client.hear_all()
    assert (kinds(events), code) == (["error", "failed"], 1011)
    assert events[-1]["error"]["code"] == "internal"


async def test_what_cannot_be_decoded_fails_and_the_connection_goes_on():
    async with one_client() as (plane, client):
        await client.append()
        session = await opened(plane)
        failure = Failure(code="decode_failed", message="no", retryable=True, fatal=False)
        session.say(failure, *spoken(reason="endpoint", text="", timing=NOT_DECODED))
        assert (await client.hear(f"{NAMES}failed"))["error"]["code"] == "decode_failed"
        session.say(*spoken(2, reason="endpoint"))
        assert (await client.hear(f"{NAMES}completed"))["transcript"] == "one"


async def test_on_a_drain_a_client_without_session_is_sent_away_at_once():
    async with one_client() as (plane, client):
        plane.drain.stop_accepting()
        with trio.fail_after(60):
            assert await client.hear_all() == ([], 1001)


async def test_on_a_drain_a_client_between_two_sessions_is_sent_away_after_the_first():
    async with one_client() as (plane, client):
        await client.append()
        session = await opened(plane)
        session.stop = lambda: None
        await client.update(include=["item.input_audio_transcription.logprobs"])
        plane.drain.stop_accepting()
        await wait_all_tasks_blocked(0.02)
        session.end(*spoken(reason="stop"), STOPPED, close_code=1000)
        events, code = await client.hear_all()
    assert (kinds(events)[-1], code) == ("completed", 1001)


async def test_a_dropped_connection_leaves_the_session_without_stop():
    async with one_client() as (plane, client):
        await client.append()
        session = await opened(plane)
        await trio.aclose_forcefully(client.socket._stream)
        with trio.fail_after(60):
            await session.left.wait()
    assert [name for name, _ in session.calls] == ["feed"]


async def test_who_says_nothing_for_long_is_sent_away_with_what_is_owed(autojump_clock):
    async with one_client(idle_s=60) as (plane, client):
        await client.append()
        session = await opened(plane)
        session.stop = lambda: session.end(*spoken(reason="stop"), STOPPED, close_code=1000)
        began = trio.current_time()
        events, code = await client.hear_all()
        assert trio.current_time() - began == pytest.approx(60, abs=2)
    assert (events[0]["error"]["code"], kinds(events)[-1], code) == ("idle_timeout", "completed", 1008)


async def test_after_a_fatal_error_a_session_that_does_not_end_is_left(autojump_clock):
    async with one_client(idle_s=10, farewell_s=30) as (plane, client):
        await client.append()
        session = await opened(plane)
        session.stop = lambda: None
        began = trio.current_time()
        _, code = await client.hear_all()
        assert trio.current_time() - began == pytest.approx(40, abs=2)
        assert code == 1008
        await session.left.wait()


async def test_a_bug_is_internal_and_hurts_nobody_else(caplog):
    service = Service()
    async with open_plane(service=service) as plane, connected(plane) as victim, connected(plane) as other:
        await victim.append()
        session = await opened(plane)

        def broken():
            raise RuntimeError("a bug")

        session.finalize = broken
        await victim.commit()
        events, code = await victim.hear_all()
        assert (events[-1]["error"]["code"], code) == ("internal", 1011)
        await other.update()
    assert [record.fields["kind"] for record in caplog.records] == ["RuntimeError"]


async def test_frames_against_the_rfc_are_closed_with_their_code_after_what_is_owed():
    async with one_client() as (plane, client):
        await client.append()
        session = await opened(plane)
        session.stop = lambda: session.end(*spoken(reason="stop"), STOPPED, close_code=1000)
        await client.socket._stream.send_all(b"\x81\x82\0\0\0\0\xff\xfe")
        events, code = await client.hear_all()
    assert (kinds(events)[0], kinds(events)[-1], code) == ("error", "completed", 1007)


async def test_large_messages_of_all_clients_together_are_bounded_and_given_back():
    limits = HttpLimits(large_bytes=1 << 20, linger_s=0.5, line=LineLimits(close_s=1.0))
    async with open_plane(service=Service(), limits=limits) as plane:
        for _ in range(3):
            async with connected(plane) as client:
                for _ in range(3):
                    await client.append(bytes(1 << 20))
                await client.update()
        async with connected(plane) as client:
            await client.append(bytes(2 << 20))
            events, code = await client.hear_all()
    assert (events[-1]["error"]["code"], code) == ("overloaded", 1013)


async def test_a_client_that_does_not_read_is_left_and_told_so_once_it_reads_again():
    async with one_client(stall_s=1.0) as (plane, client):
        await client.update(turn_detection=None, include=["sttd.interim"])
        await client.append()
        session = await opened(plane)
        session.say(SpeechStart(utterance=1, at_s=0.0))
        for seq in range(900):  # more than the buffers of the kernel and of the client's library take
            session.say(Interim(utterance=1, seq=seq, text="x" * 20_000, stable_chars=0, start_s=0, end_s=1))
        with trio.fail_after(60):
            await session.left.wait()
        events, code = await client.hear_all()
    assert (events[-1]["error"]["code"], code) == ("slow_consumer", 1008)
