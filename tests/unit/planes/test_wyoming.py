"""The Wyoming plane with a session that does what the test says: every way to end, nobody left waiting."""

import json
import os
import socket
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_network

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from sttd.core.results import NOT_DECODED
from sttd.core.types import Failure, Final, Interim, SpeechStart, Stopped, Timing
from sttd.errors import OverloadedError, SessionError
from sttd.options import SessionOptions
from sttd.planes.drain import Drain
from sttd.planes.wyoming import serve_wyoming
from sttd.planes.wyoming_connection import WyomingLimits
from tests.unit.planes.fakes import FakeService

PATIENCE_S = 60.0  # a limit for machines that are busy; nothing here takes that long
AUDIO = {"rate": 16000, "width": 2, "channels": 1}
STOPPED = Stopped(audio_s=1.0, utterances=1, dropped_s=0.0)


def interim(text, stable, *, utterance=1):
    return Interim(utterance=utterance, seq=1, text=text, stable_chars=len(stable), start_s=0.0, end_s=1.0)


def final(text, *, utterance=1, decoded=True, reason="finalize"):
    timing = Timing(endpoint_ms=0.0, queue_ms=1.0, decode_ms=5.0, speculative=False) if decoded else NOT_DECODED
    return Final(
        utterance=utterance, text=text, start_s=0.0, end_s=1.0, language="en", confidence=0.5, reason=reason,
        model="fake", words=None, timing=timing,
    )  # fmt: skip


class Client:
    """A Wyoming client of a few lines."""

    def __init__(self, stream):
        self.stream = stream
        self.rest = b""

    async def say(self, kind, payload=b"", **data):
        head = {"type": kind, "data": data, "payload_length": len(payload)}
        await self.stream.send_all(json.dumps(head).encode() + b"\n" + payload)

    async def begin(self, **audio):
        await self.say("audio-start", **{**AUDIO, **audio})

    async def chunk(self, samples, **audio):
        await self.say("audio-chunk", samples, **{**AUDIO, **audio})

    async def hear(self):
        """The next event as (type, data); None at the end."""
        while (end := self.rest.find(b"\n") + 1) == 0:
            if not await self._read():
                return None
        head = json.loads(self.rest[:end])
        whole = end + head.get("data_length", 0)
        while len(self.rest) < whole:
            assert await self._read()
        data, self.rest = self.rest[end:whole], self.rest[whole:]
        return head["type"], json.loads(data or b"{}")

    async def _read(self):
        with trio.fail_after(PATIENCE_S):
            data = await self.stream.receive_some(65536)
        self.rest += data
        return bool(data)

    async def hear_all(self):
        """Everything until the end."""
        events = []
        while (event := await self.hear()) is not None:
            events.append(event)
        return events


@attrs.define(eq=False)
class Plane:
    service: FakeService
    drain: Drain
    address: tuple | str
    nursery: trio.Nursery

    @asynccontextmanager
    async def client(self):
        if isinstance(self.address, str):
            stream = await trio.open_unix_socket(self.address)
        else:
            stream = await trio.open_tcp_stream(*self.address)
        async with stream:
            yield Client(stream)

    async def session(self, number=1):
        """The session that was opened as the so-many-th."""
        await until(lambda: len(self.service.sessions) >= number)
        return self.service.sessions[number - 1]


@asynccontextmanager
async def open_plane(*, path=None, service=None, allowed=(), streaming=True, **limits):
    service, drain = service or FakeService(), Drain()
    if path is None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        address = listeners[0].socket.getsockname()
    else:
        listener = trio.socket.socket(trio.socket.AF_UNIX)
        await listener.bind(str(path))
        listener.listen()
        listeners, address = [trio.SocketListener(listener)], str(path)
    serve = partial(
        serve_wyoming,
        listeners,
        service,
        allowed=[ip_network(network) for network in allowed],
        streaming=streaming,
        drain=drain,
        limits=WyomingLimits(**{"linger_s": 0.5, **limits}),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(_start, serve)
        yield Plane(service, drain, address, nursery)
        nursery.cancel_scope.cancel()


async def _start(serve, *, task_status):
    await serve(task_status=task_status)


@asynccontextmanager
async def one_client(**options):
    async with open_plane(**options) as plane, plane.client() as client:
        yield plane, client


async def until(holds):
    with trio.fail_after(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 (what the plane does inside sets no event)
            await trio.sleep(0.01)


# ------------------------------------------------------------------ utterances


async def test_a_session_is_what_the_client_asks_for():
    async with one_client() as (plane, client):
        await client.say(
            "transcribe", name="FAKE", language="German", transcript_names=["Anna"], transcript_terms=["Lux"],
            context={"x": 1}, vad_sensitivity="relaxed",
        )  # fmt: skip
        await client.begin(rate=48000, width=3, channels=2)
        session = await plane.session()
        assert session.options == attrs.evolve(
            SessionOptions(model="fake", interim_model="fake"),
            label="wyoming", lang="de", hotwords=("Anna", "Lux"), encoding="pcm_s32le", sample_rate=48000, channels=2,
            endpointing=None, interim=True, lock_stable=True,
        )  # fmt: skip
        assert plane.service.apis == ["wyoming"]
        (peer,) = plane.service.peers
        assert (peer.uid, peer.privileged) == (os.geteuid(), True)
        await client.chunk(b"abcdef", rate=48000, width=3, channels=2)
        await client.chunk(b"", rate=48000, width=3, channels=2)
        await client.say("audio-stop")
        await until(lambda: session.ended)
        assert session.calls == [("feed", b"\0abc\0def"), ("finalize", None), ("stop", None)]
        assert [kind for kind, _ in [await client.hear() for _ in range(3)]] == [
            "transcript-start",
            "transcript",
            "transcript-stop",
        ]


async def test_what_is_asked_for_holds_from_the_next_utterance_on():
    async with one_client() as (plane, client):
        await client.begin()
        await client.say("transcribe", language="xx", transcript_names=["Anna"])
        await client.say("audio-stop")
        await client.chunk(b"")
        second = await plane.session(2)
        first = plane.service.sessions[0]
        assert (first.options.lang, first.options.hotwords) == (None, ())
        assert (second.options.lang, second.options.hotwords) == (None, ("Anna",))  # no such language: it is detected
        assert first.left.is_set()


async def test_stable_text_is_told_while_the_person_speaks_and_the_transcript_after_the_stop():
    async with one_client() as (plane, client):
        await client.begin()
        session = await plane.session()
        session.say(SpeechStart(utterance=1, at_s=0.0), interim("turn ov", ""), interim("turn on the", "turn on"))
        assert await client.hear() == ("transcript-start", {})
        assert await client.hear() == ("transcript-chunk", {"text": "turn on"})
        session.say(final("turn on the light."))
        assert await client.hear() == ("transcript-chunk", {"text": " the light."})
        session.say(interim("Now.", "Now", utterance=2), final("Now.", utterance=2))
        await client.say("audio-stop")
        assert await client.hear() == ("transcript-chunk", {"text": " Now"})
        assert await client.hear() == ("transcript-chunk", {"text": "."})
        assert await client.hear() == ("transcript", {"text": "turn on the light. Now.", "language": "en"})
        assert await client.hear() == ("transcript-stop", {})
        await client.say("audio-start", **AUDIO)
        await plane.session(2)


async def test_without_streaming_there_is_the_transcript_alone():
    async with one_client(streaming=False) as (plane, client):
        await client.say("describe")
        kind, info = await client.hear()
        assert kind == "info"
        assert info["asr"][0]["supports_transcript_streaming"] is False
        await client.begin()
        session = await plane.session()
        assert session.options.interim is False
        session.say(final("one"), final("two", utterance=2))
        await client.say("audio-stop")
        await client.say("ping", text="p")
        heard = [await client.hear(), await client.hear()]
        assert sorted(heard) == [("pong", {"text": "p"}), ("transcript", {"text": "one two", "language": "en"})]


async def test_a_start_in_an_utterance_ends_that_one_unseen():
    async with one_client() as (plane, client):
        await client.begin()
        first = await plane.session()
        first.say(interim("never", "never"))
        assert (await client.hear())[0] == "transcript-start"
        assert (await client.hear())[0] == "transcript-chunk"
        await client.begin()
        second = await plane.session(2)
        assert first.named("abort")
        assert first.left.is_set()
        second.say(final("well"))
        await client.say("audio-stop")
        assert [await client.hear() for _ in range(3)] == [
            ("transcript-start", {"language": "en"}),
            ("transcript-chunk", {"text": "well"}),
            ("transcript", {"text": "well", "language": "en"}),
        ]


async def test_the_next_utterance_waits_for_the_transcript_of_the_last_one():
    async with one_client() as (plane, client):
        await client.begin()
        first = await plane.session()
        first.stop = lambda: None
        await client.say("audio-stop")
        await client.chunk(b"next")
        await client.say("audio-stop")
        await wait_all_tasks_blocked(0.05)
        assert len(plane.service.sessions) == 1
        first.say(final("one"))
        first.end(STOPPED, close_code=1000)
        second = await plane.session(2)
        await until(lambda: second.ended)
        texts = [data["text"] for kind, data in [await client.hear() for _ in range(7)] if kind == "transcript"]
        assert texts == ["one", ""]


async def test_an_utterance_without_a_start_and_without_audio_is_answered_too():
    async with one_client() as (plane, client):
        await client.say("transcribe", language="en")
        await client.say("audio-stop")
        assert await client.hear() == ("transcript-start", {"language": "en"})
        assert await client.hear() == ("transcript", {"text": "", "language": "en"})
        assert plane.service.sessions == []


async def test_questions_are_answered_while_the_transcript_is_awaited():
    async with one_client() as (plane, client):
        await client.begin()
        session = await plane.session()
        session.stop = lambda: None
        await client.say("audio-stop")
        await client.say("ping", text="still there?")
        assert await client.hear() == ("pong", {"text": "still there?"})
        await client.say("describe")
        kind, info = await client.hear()
        assert kind == "info"
        (program,) = info["asr"]
        assert [(model["name"], model["languages"]) for model in program["models"]] == [("fake", ["de", "en"])]


# ------------------------------------------------------------------ what goes wrong


async def test_text_that_cannot_be_had_is_an_error_and_never_half_a_transcript():
    trouble = Failure(code="out_of_memory", message="too little memory", retryable=True, fatal=False)
    async with one_client() as (plane, client):
        await client.begin()
        session = await plane.session()
        session.stop = lambda: None
        await client.say("audio-stop")
        session.say(final("turn on"), trouble, final("the", utterance=2, decoded=False))
        heard = await client.hear_all()
        assert heard[-1] == ("error", {"text": "too little memory", "code": "out_of_memory"})
        assert [kind for kind, _ in heard] == ["transcript-start", "transcript-chunk", "error"]
        await until(session.left.is_set)


async def test_trouble_that_was_mended_is_not_told():
    trouble = Failure(code="overloaded", message="later", retryable=True, fatal=False)
    async with one_client() as (plane, client):
        await client.begin()
        session = await plane.session()
        session.say(trouble, final("late"))
        await client.say("audio-stop")
        assert [await client.hear() for _ in range(3)][-1] == ("transcript", {"text": "late", "language": "en"})


@pytest.mark.parametrize(
    ("events", "code"),
    [
        ([Failure(code="overloaded", message="m", retryable=True, fatal=True)], "overloaded"),
        ([final("", decoded=False, reason="drain")], "shutting_down"),
        ([final("", decoded=False)], "decode_failed"),
        ([], "internal"),
    ],
)
async def test_a_session_that_ends_badly_ends_the_connection(events, code):
    async with one_client() as (plane, client):
        await client.begin()
        (await plane.session()).end(*events, close_code=1011)
        ((kind, data),) = await client.hear_all()
        assert (kind, data["code"]) == ("error", code)


async def test_a_session_that_somebody_else_ends_gets_its_transcript_and_the_connection_ends():
    async with one_client() as (plane, client):
        await client.begin()
        (await plane.session()).end(final("last words"), STOPPED, close_code=1001)
        assert [kind for kind, _ in await client.hear_all()] == [
            "transcript-start",
            "transcript-chunk",
            "transcript",
            "transcript-stop",
        ]


@pytest.mark.parametrize("error", [OverloadedError("come again"), SessionError("bye", code="shutting_down")])
async def test_an_utterance_that_is_not_admitted_is_told_so_and_nobody_feeds_it(error):
    async with one_client(service=FakeService(refusals=[error])) as (_, client):
        await client.begin()
        await client.chunk(b"abcd")
        await client.say("audio-stop")
        assert await client.hear_all() == [("error", {"text": error.message, "code": error.code})]


async def test_an_unknown_model_is_refused_when_it_is_named():
    async with one_client() as (plane, client):
        await client.say("transcribe", name="none-such")
        ((kind, data),) = await client.hear_all()
        assert (kind, data["code"]) == ("error", "model_not_found")
        assert plane.service.sessions == []


async def test_a_client_that_goes_on_writing_reads_why_it_was_refused():
    """Closing a socket with unread data makes a reset, which overtakes what was written."""
    async with one_client(linger_s=PATIENCE_S) as (plane, client):
        await client.begin()
        session = await plane.session()
        await client.chunk(b"", rate=8000)
        for _ in range(50):
            await client.chunk(bytes(65536))
        await client.stream.send_eof()
        ((kind, data),) = await client.hear_all()
        assert (kind, data["code"]) == ("error", "bad_audio")
        assert session.named("abort")


async def test_what_is_no_event_ends_the_connection_and_its_utterance():
    async with one_client() as (plane, client):
        await client.begin()
        session = await plane.session()
        session.say(interim("one", "one"))
        assert (await client.hear())[0] == "transcript-start"
        await client.stream.send_all(b"what?\n")
        heard = await client.hear_all()
        assert [kind for kind, _ in heard] == ["transcript-chunk", "error"]
        assert heard[-1][1]["code"] == "bad_request"
        await until(session.left.is_set)
        assert not session.named("abort")  # it has text: it is decoded, for those who listen to transcripts


async def test_a_bug_is_told_and_counted_and_the_next_client_is_served():
    service = FakeService()
    async with open_plane(service=service) as plane:
        async with plane.client() as client:
            await client.begin()
            session = await plane.session()

            def broken(data):
                raise RuntimeError("a bug")

            session.feed = broken
            await client.chunk(b"abcd")
            ((kind, data),) = await client.hear_all()
            assert (kind, data["code"]) == ("error", "internal")
        assert b'sttd_connection_failures_total{plane="wyoming"} 1.0' in service.metrics()
        async with plane.client() as client:
            await client.say("ping", text="next")
            assert await client.hear() == ("pong", {"text": "next"})


# ------------------------------------------------------------------ clients that go


async def test_an_utterance_of_which_nobody_has_text_is_not_decoded_when_its_client_goes():
    async with open_plane() as plane:
        async with plane.client() as client:
            await client.begin()
            session = await plane.session()
            session.stop = lambda: None
            await client.say("audio-stop")
            await until(lambda: session.named("finalize"))
        await until(session.left.is_set)
        assert session.named("abort")


async def test_a_client_that_goes_is_seen_though_it_has_begun_its_next_utterance():
    async with open_plane() as plane:
        async with plane.client() as client:
            await client.begin()
            session = await plane.session()
            session.stop = lambda: None
            await client.say("audio-stop")
            await client.begin()
            await client.chunk(bytes(10_000))
            await until(lambda: session.named("finalize"))
        await until(session.left.is_set)
        assert session.named("abort")
        assert len(plane.service.sessions) == 1


async def test_an_utterance_of_which_somebody_has_text_is_a_dropped_connection():
    async with open_plane() as plane:
        async with plane.client() as client:
            await client.begin()
            session = await plane.session()
            session.say(interim("turn off", "turn off"))
            await client.hear()
        await until(session.left.is_set)
        assert not session.named("abort")


async def test_a_client_that_does_not_read_is_left_and_no_other_notices():
    async with open_plane(stall_s=0.5) as plane, plane.client() as deaf:
        deaf.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await deaf.begin()
        session = await plane.session()
        for number in range(1, 200):
            session.say(final("x" * 60_000, utterance=number))
        async with plane.client() as other:
            await other.say("ping", text="me")
            assert await other.hear() == ("pong", {"text": "me"})
            await until(session.left.is_set)
            await other.say("ping", text="me")
            assert await other.hear() == ("pong", {"text": "me"})


# ------------------------------------------------------------------ idle, drained


async def test_a_connection_on_which_nothing_is_said_is_closed(autojump_clock):
    async with one_client(idle_s=50) as (_, client):
        began = trio.current_time()
        for _ in range(3):
            await trio.sleep(40)
            await client.say("ping", text="")
            await client.hear()
        assert await client.hear_all() == []
        assert 170 <= trio.current_time() - began <= 175


async def test_an_utterance_that_is_not_gone_on_with_ends_with_an_error(autojump_clock):
    async with one_client(idle_s=50) as (plane, client):
        await client.begin()
        ((kind, data),) = await client.hear_all()
        assert (kind, data["code"]) == ("error", "idle_timeout")
        assert plane.service.sessions[0].named("abort")


async def test_a_client_that_waits_for_its_transcript_is_not_idle(autojump_clock):
    async with one_client(idle_s=20) as (plane, client):
        await client.begin()
        session = await plane.session()
        session.stop = lambda: None
        await client.say("audio-stop")
        await until(lambda: session.named("finalize"))
        await trio.sleep(500)
        assert not session.left.is_set()
        session.end(final("late"), STOPPED, close_code=1000)
        assert len([await client.hear() for _ in range(4)]) == 4
        told_at = trio.current_time()
        assert await client.hear() is None
        assert trio.current_time() - told_at >= 20


async def test_a_drain_closes_who_owes_nothing_and_waits_for_who_is_owed():
    async with open_plane() as plane, plane.client() as idle, plane.client() as speaker:
        await speaker.begin()
        session = await plane.session()
        await idle.say("ping")
        await idle.hear()
        plane.drain.stop_accepting()
        assert await idle.hear() is None
        assert not session.left.is_set()
        session.end(final("the end"), STOPPED, close_code=1001)
        heard = await speaker.hear_all()
        assert heard[-2] == ("transcript", {"text": "the end", "language": "en"})


# ------------------------------------------------------------------ who may come


async def test_a_peer_that_is_not_on_the_list_is_closed_unread():
    async with open_plane(allowed=["127.0.0.2/32", "192.0.2.0/24"]) as plane:
        async with plane.client() as stranger:
            assert await stranger.hear() is None
        async with await trio.open_tcp_stream(*plane.address, local_address="127.0.0.2") as stream:
            friend = Client(stream)
            await friend.say("ping", text="hello")
            assert await friend.hear() == ("pong", {"text": "hello"})


async def test_a_connection_too_many_is_told_so():
    async with open_plane(connections=1) as plane, plane.client() as first:
        await first.say("ping")
        await first.hear()
        async with plane.client() as second:
            ((kind, data),) = await second.hear_all()
            assert (kind, data["code"]) == ("error", "overloaded")
        await first.say("ping", text="1")
        assert await first.hear() == ("pong", {"text": "1"})


async def test_over_a_unix_socket_the_peer_is_who_it_is(tmp_path):
    async with one_client(path=tmp_path / "w.sock") as (plane, client):
        await client.begin()
        await plane.session()
        (peer,) = plane.service.peers
        assert (peer.uid, peer.pid) == (os.geteuid(), os.getpid())
