"""The plane of OpenAI's REST API over real sockets, with a service that does what a test says."""

import json
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from sttd.core.types import Failure, Progress, Stopped
from sttd.errors import DecodeError, OverloadedError, ProtocolError, SessionError
from sttd.planes.http import HttpLimits
from sttd.planes.openai import UploadLimits
from sttd.session.beginning import Beginning
from tests.unit.planes.fakes import open_plane
from tests.unit.planes.test_outcome import final

STOPPED = Stopped(audio_s=0.5, utterances=1, dropped_s=0.0)
TYPE = "Content-Type: multipart/form-data; boundary=b"


def form(file=b"sound", **fields):
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()
    ]
    head = '--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    return "".join([*parts, head]).encode() + file + b"\r\n--b--\r\n"


def request(body, *lines, version="1.1", length=None):
    head = (
        f"POST /v1/audio/transcriptions HTTP/{version}",
        "Host: localhost",
        TYPE,
        f"Content-Length: {len(body) if length is None else length}",
        *lines,
    )
    return "\r\n".join([*head, "", ""]).encode() + body


@asynccontextmanager
async def open_api(**limits):
    limits = HttpLimits(linger_s=0.5, upload=UploadLimits(**limits))
    async with open_plane(limits=limits) as plane:
        yield plane


async def read_all(stream):
    answer = b"".join([data async for data in stream])
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode().lower(), body


async def asked(plane, data):
    """A request that is on its way, and its session once there is one."""
    plane.service.opened = trio.Event()
    stream = await plane.connect()
    await stream.send_all(data)
    with trio.fail_after(30):
        await plane.service.opened.wait()
        session = plane.service.sessions[-1]
        await session.told_to_stop.wait()
    return stream, session


async def until(condition):
    with trio.fail_after(30):
        while not condition():  # noqa: ASYNC110  (nothing tells)
            await trio.sleep(0.01)


def events_of(body):
    return [json.loads(line[6:]) for line in body.decode().split("\n") if line.startswith("data: ")]


def plain(body):
    """A body in chunks, put together."""
    data = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        data += body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]
    return data


async def test_a_short_recording_is_one_utterance_that_the_client_finalizes():
    async with open_api() as plane:
        plane.service.staying = True
        stream, session = await asked(plane, request(form(model="fake", prompt="p" * 9000)))
        async with stream:
            session.end(final("so"), STOPPED, close_code=1000)
            status, head, body = await read_all(stream)
        made = json.loads(body)
        assert (status, made["text"], made["usage"]["seconds"]) == (200, "so", 1)
        assert "x-request-id: s000001" in head
        options = session.options
        assert (options.kind, options.endpointing, options.interim, options.encoding) == (
            "live",
            None,
            False,
            "pcm_f32le",
        )
        assert (options.interim_model, options.label) == (options.model, "openai")
        assert len(options.prompt) == 4000
        assert [call[0] for call in session.calls] == ["feed", "finalize", "stop", "abort"]
        assert b"".join(session.named("feed")) == plane.service.beginning.pcm
        assert plane.service.upload == b"sound"


async def test_a_long_one_is_a_file_in_its_container():
    async with open_api() as plane:
        plane.service.beginning = Beginning(pcm=bytes(400), duration_s=30.02, whole=False)
        stream, session = await asked(plane, request(form(b"f" * 200_000)))
        async with stream:
            status, _, _ = await read_all(stream)
        assert status == 200
        assert (session.options.kind, session.options.encoding) == ("file", "container")
        assert b"".join(session.named("feed")) == b"f" * 200_000


async def test_of_many_short_ones_at_a_time_the_others_are_files():
    async with open_api() as plane:  # whose fake service allows one
        stops = []
        for kind in ("live", "file"):
            plane.service.staying = True
            stream, session = await asked(plane, request(form()))
            stops.append((stream, session))
            assert (session.options.kind, session.options.encoding) == (kind, "pcm_f32le")
        for stream, session in stops:
            session.end(STOPPED, close_code=1000)
            async with stream:
                assert (await read_all(stream))[0] == 200


async def test_a_stream_says_each_final_and_shows_that_it_lives():
    async with open_api(comment_s=0.02) as plane:
        plane.service.staying = True
        stream, session = await asked(plane, request(form(stream="true")))
        async with stream:
            answer = b""
            while answer.count(b": wait") < 2:
                answer += await stream.receive_some()
            session.say(final("One."), Progress(done_s=1.0, total_s=None), final(""), final("Two."))
            session.end(STOPPED, close_code=1000)
            while data := await stream.receive_some():
                answer += data
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"text/event-stream" in head
        assert b"Transfer-Encoding: chunked" in head
        body = plain(body)
        assert b": done_s=1.0\n\n" in body
        assert [event.get("delta", event.get("text")) for event in events_of(body)] == ["One.", " Two.", "One. Two."]


async def test_a_client_of_http_1_0_gets_its_stream_without_chunks():
    async with open_api() as plane:
        stream, _ = await asked(plane, request(form(stream="1"), version="1.0"))
        async with stream:
            _, head, body = await read_all(stream)
        assert "transfer-encoding" not in head
        assert events_of(body)[-1]["type"] == "transcript.text.done"


@pytest.mark.parametrize("stream", ["true", "false"])
async def test_what_could_not_be_decoded_fails_the_request_at_once(stream):
    async with open_api() as plane:
        plane.service.staying = True
        connection, session = await asked(plane, request(form(stream=stream)))
        async with connection:
            session.say(final("One."), Failure.of(DecodeError("no"), fatal=False), final("", decoded=False))
            status, _, body = await read_all(connection)
        error = (events_of(plain(body))[-1] if stream == "true" else json.loads(body))["error"]
        assert status == (200 if stream == "true" else 500)
        assert error == {"message": "no", "type": "server_error", "param": None, "code": "decode_failed"}
        assert session.named("abort")


@pytest.mark.parametrize(
    ("refusals", "status", "code"),
    [
        ([ProtocolError("it is none", code="bad_audio")], 400, "invalid_audio"),
        ([OverloadedError("too many", data={"retry_after_s": 2.0})], 429, "overloaded"),
        ([ValueError("a bug")], 500, "internal"),
        ([MemoryError()], 429, "overloaded"),
    ],
)
async def test_what_goes_wrong_before_there_is_a_session_is_said(refusals, status, code):
    async with open_api() as plane:
        plane.service.refusals = refusals
        async with await plane.connect() as stream:
            await stream.send_all(request(form()))
            got, head, body = await read_all(stream)
        assert (got, json.loads(body)["error"]["code"]) == (status, code)
        assert ("retry-after: " in head) == (status == 429)
        assert ("x-should-retry: false" in head) == (status == 500)
        assert plane.service.uploads.room.taken_bytes == 0


async def test_who_hangs_up_has_its_session_dropped():
    async with open_api() as plane:
        plane.service.staying = True
        stream, session = await asked(plane, request(form()))
        await stream.aclose()
        with trio.fail_after(30):
            await session.left.wait()
        assert session.named("abort")
        stream = await plane.connect()
        await stream.send_all(request(form()[:-5], length=500))
        await stream.aclose()
        await until(lambda: not plane.service.uploads.active)
        assert plane.service.uploads.room.taken_bytes == 0


async def test_what_the_client_sends_behind_its_request_is_nobodys():
    async with open_api() as plane:
        plane.service.staying = True
        stream, session = await asked(plane, request(form()))
        async with stream:
            await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
            session.end(STOPPED, close_code=1000)
            assert (await read_all(stream))[0] == 200


async def test_an_upload_that_is_still_coming_is_refused_when_the_daemon_stops():
    async with open_api() as plane, await plane.connect() as stream:
        await stream.send_all(request(form()[:-5], length=500))
        await until(lambda: plane.service.uploads.active)
        plane.drain.stop_accepting()
        status, _, body = await read_all(stream)
        assert (status, json.loads(body)["error"]["code"]) == (503, "shutting_down")


async def test_an_upload_that_has_begun_counts_until_it_is_there_and_is_decoded_in_spite_of_a_drain():
    async with open_api() as plane, await plane.connect() as stream:
        body = form()
        await stream.send_all(request(body[:-5], length=len(body)))
        await until(lambda: plane.service.registry.promised.total() == 1)
        assert len(plane.service.registry) == 0  # it takes no room from those who speak
        await stream.send_all(body[-5:])
        assert (await read_all(stream))[0] == 200
        assert [place is not None for place in plane.service.places] == [True]
        assert plane.service.registry.promised.total() == 0


async def test_an_upload_is_refused_before_it_comes_while_the_daemon_is_drained():
    async with open_api() as plane, await plane.connect() as stream:
        plane.service.unwanted.append(SessionError("drained", code="shutting_down"))
        await stream.send_all(request(b"", length=500))
        status, _, body = await read_all(stream)
    assert (status, json.loads(body)["error"]["code"]) == (503, "shutting_down")


async def test_a_client_that_waits_for_the_go_ahead_gets_it_or_a_refusal():
    async with open_api(body_bytes=1000) as plane:
        body = form()
        async with await plane.connect() as stream:
            await stream.send_all(request(b"", "Expect: 100-continue", length=len(body)))
            assert await stream.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
            await stream.send_all(body)
            assert (await read_all(stream))[0] == 200
        async with await plane.connect() as stream:
            await stream.send_all(request(b"", "Expect: 100-continue", length=1001))
            assert (await read_all(stream))[0] == 413


async def test_a_body_without_an_end_is_not_read_for_ever():
    async with open_api(body_bytes=100_000) as plane, await plane.connect() as stream:
        head = request(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
        await stream.send_all(head + b"f4240\r\n" + form()[:-9] + bytes(150_000))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, bytes(100_000))
            status, _, body = await read_all(stream)
        assert (status, json.loads(body)["error"]["code"]) == (413, "too_large")


async def test_recordings_need_a_moment_of_sound():
    async with open_api() as plane, await plane.connect() as stream:
        plane.service.beginning = attrs.evolve(plane.service.beginning, duration_s=0.08)
        await stream.send_all(request(form()))
        status, _, body = await read_all(stream)
        assert (status, json.loads(body)["error"]["code"]) == (400, "audio_too_short")
