"""The front of the audio sockets, over real sockets: what is answered, what is refused, and that nobody waits."""

import contextlib
import itertools
import json
import os
import re
from collections import defaultdict
from contextlib import AsyncExitStack
from types import SimpleNamespace

import attrs
import pytest
import trio

from sttd.admission import Peer
from sttd.config.tree import Config, LimitsConfig
from sttd.errors import OverloadedError, SessionError
from sttd.planes import http
from sttd.planes.http import HttpLimits
from sttd.planes.page import page_files
from sttd.wire.access import AccessRules
from tests.answers import STATUS, sent
from tests.unit.planes.fakes import FakeService, open_plane

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


async def test_readiness_is_a_status_code_and_a_reason():
    async with open_plane() as plane:
        status, head, body = await plane.get("/ready")
        assert (status, json.loads(body)) == (200, {"status": "ok", "reason": "ok", "admission": 0.0})
        assert "Connection: close" in head
        plane.service.ready = (False, "the model `base` is not on disk")
        status, _, body = await plane.get("/ready")
        assert status == 503
        assert json.loads(body)["reason"] == "the model `base` is not on disk"


async def test_a_full_daemon_is_ready_and_says_that_it_is_full():
    async with open_plane(service=FakeService(taken=1.0)) as plane:
        status, _, body = await plane.get("/ready")
    assert status == 200
    assert b'"admission": 1' in body  # as deploy/haproxy/haproxy.cfg looks for it


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (OverloadedError("all are taken", data={"retry_after_s": 4.2}), "overloaded"),
        (SessionError("the daemon is stopping", code="shutting_down"), "shutting_down"),
    ],
)
async def test_who_says_that_he_will_start_is_refused_before_the_upgrade(refusal, code):
    service = FakeService(unwanted=[refusal])
    async with open_plane(service=service) as plane:
        answer = await plane.ask(HANDSHAKE.replace(b"/ws", b"/ws?start") + b"\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503")
        assert (b"Retry-After: 5" in head) == (code == "overloaded")
        error = json.loads(body)["error"]
        assert (error["code"], error["retryable"]) == (code, True)
        assert error["data"] == ({"retry_after_s": 4.2} if code == "overloaded" else {})


async def test_a_place_is_kept_for_who_says_that_he_will_start_until_he_leaves():
    service = FakeService()
    async with open_plane(service=service) as plane:
        async with await plane.connect() as stream:
            await stream.send_all(HANDSHAKE.replace(b"/ws", b"/ws?start") + b"\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")
            assert len(service.registry) == 1
        for _ in range(6000):
            if not len(service.registry):
                break
            await trio.sleep(0.01)
        assert len(service.registry) == 0


async def test_who_does_not_say_so_is_upgraded_and_refused_at_his_start():
    service = FakeService(unwanted=[OverloadedError("all are taken")])
    async with open_plane(service=service) as plane:
        for path in (b"/ws", b"/ws?resume", b"/ws?starts=1"):
            async with await plane.connect() as stream:
                await stream.send_all(HANDSHAKE.replace(b"/ws", path) + b"\r\n")
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")
    assert service.unwanted


async def test_status_and_metrics_come_from_the_service():
    async with open_plane() as plane:
        status, _, body = await plane.get("/status")
        assert (status, json.loads(body)) == (200, sent(plane.service.status()))
        status, head, body = await plane.get("/metrics")
        assert status == 200
        assert "text/plain" in head
        assert b'sttd_http_responses_total{status="200"} 1.0' in body
        assert b"sttd_sessions_active 0.0" in body


async def test_models_are_those_of_the_service_for_who_may_know_them():
    async with open_plane(access=AccessRules(token="s3cret")) as plane:
        assert (await plane.get("/models"))[0] == 401
        status, head, body = await plane.get("/models", headers="Authorization: Bearer s3cret\r\n")
        assert (status, json.loads(body)) == (200, sent(plane.service.desk.models()))
        assert "Cache-Control: no-store" in head


async def test_the_page_may_run_itself_and_talk_to_its_daemon_only():
    async with open_plane() as plane:
        status, head, body = await plane.get("/", host="127.0.0.1:7788")
    policy = re.search("Content-Security-Policy: (.*)\r?", head)[1]
    assert status == 200
    assert body == page_files()["/"].body
    assert "default-src 'none'" in policy
    assert "connect-src 'self' ws://127.0.0.1:7788;" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert b"<style" not in body  # nothing inline, which that policy would refuse
    assert b"style=" not in body


async def test_every_file_that_the_page_names_is_there_with_its_type_and_nothing_comes_from_elsewhere():
    types = {"js": "text/javascript", "css": "text/css"}
    named = set()
    for file in page_files().values():
        named |= {name.decode() for name in re.findall(rb"""["'](?:/page|\.)/([a-z]+\.(?:js|css))["']""", file.body)}
        assert not re.search(rb"https?://", file.body)
    assert {f"/page/{name}" for name in named} | {"/"} == set(page_files())
    async with open_plane(access=AccessRules(token="s3cret")) as plane:  # a browser shows no token for them
        for name in named:
            status, head, body = await plane.get(f"/page/{name}")
            assert (status, body) == (200, page_files()[f"/page/{name}"].body)
            assert f"Content-Type: {types[name.rpartition('.')[2]]}; charset=utf-8" in head
        assert (await plane.get("/page/nothing.js"))[0] == 404
        assert (await plane.get("/page/..%2fREADME.md"))[0] == 404
        assert (await plane.get("/page"))[0] == 401


async def test_a_browser_that_has_a_file_is_told_that_it_is_the_same():
    async with open_plane() as plane:
        _, head, _ = await plane.get("/page/page.js")
        tag = re.search("ETag: (.*)\r?", head)[1].strip()
        assert "Cache-Control: no-cache" in head
        status, head, body = await plane.get("/page/page.js", headers=f"If-None-Match: {tag}\r\n")
        assert (status, body) == (304, b"")
        assert tag in head
        assert (await plane.get("/page/page.css", headers=f"If-None-Match: {tag}\r\n"))[0] == 200


async def test_head_gives_the_head():
    async with open_plane() as plane:
        status, head, body = await plane.get("/status", method="HEAD")
        assert (status, body) == (200, b"")
        assert "Content-Length: 0" not in head


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"POST /status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody", 405),
        (b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n", 426),
        (b"GET /status HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
        (b"GET /status HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\r\n", 403),
        (HANDSHAKE + b"Origin: null\r\n\r\n", 403),
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000, 431),
    ],
)
async def test_refusals_are_json_with_a_code(request_, status):
    async with open_plane() as plane:
        answer = await plane.ask(request_)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert json.loads(body)["error"]["message"]


async def test_the_own_origin_is_the_port_that_was_connected_to():
    async with open_plane() as plane:
        own = f"Origin: http://localhost:{plane.address[1]}\r\n"
        assert (await plane.get("/status", headers=own))[0] == 200
        assert (await plane.get("/status", headers="Origin: http://localhost:7788\r\n"))[0] == 403


async def test_a_token_is_asked_for_before_any_upgrade():
    async with open_plane(access=AccessRules(token="s3cret")) as plane:
        assert (await plane.get("/status"))[0] == 401
        assert (await plane.get("/status", headers="Authorization: Bearer s3cret\r\n"))[0] == 200
        assert (await plane.ask(HANDSHAKE + b"\r\n")).startswith(b"HTTP/1.1 401 ")
        assert (await plane.get("/"))[0] == 200


async def test_a_unix_socket_has_no_rules_of_the_web(tmp_path):
    async with open_plane(path=tmp_path / "audio.sock") as plane:
        for host in ("evil.example", "xn--zzzzzzzzz99999", "\xff"):
            status, _, _ = await plane.get("/status", host=host, headers="Origin: http://evil.example\r\n")
            assert status == 200


async def test_a_head_that_does_not_come_is_not_waited_for(autojump_clock):
    async with open_plane(limits=HttpLimits(head_s=5, linger_s=0.5)) as plane, await plane.connect() as stream:
        began = trio.current_time()
        await stream.send_all(b"GET / HTTP/1.1\r\nHo")
        answer = await stream.receive_some()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert trio.current_time() - began == pytest.approx(5)


async def test_a_peer_that_leaves_without_a_word_is_no_failure(caplog):
    async with open_plane() as plane:
        for _ in range(3):
            await (await plane.connect()).aclose()
        assert (await plane.get("/ready"))[0] == 200
    assert caplog.records == []


async def test_full_is_said_to_websockets_while_plain_requests_are_answered():
    async with open_plane(limits=HttpLimits(connections=1, linger_s=0.2)) as plane, await plane.connect() as first:
        await first.send_all(HANDSHAKE + b"\r\n")
        assert (await first.receive_some()).startswith(b"HTTP/1.1 101 ")
        answer = await plane.ask(HANDSHAKE + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b'"overloaded"' in answer
        assert (await plane.get("/ready"))[0] == 200


async def test_a_user_without_a_say_has_a_bounded_number_of_websockets(tmp_path, monkeypatch):
    limits = HttpLimits(connections_per_uid=1, linger_s=0.2)
    peers = iter([1000, 1000, 1001, 0])
    monkeypatch.setattr(http, "unix_peer", lambda stream: Peer(uid=(uid := next(seen[stream])), privileged=not uid))
    seen = defaultdict(lambda: itertools.repeat(next(peers)))
    async with open_plane(path=tmp_path / "audio.sock", limits=limits) as plane, AsyncExitStack() as stack:
        answers = []
        for _ in range(4):
            stream = await stack.enter_async_context(await plane.connect())
            await stream.send_all(HANDSHAKE + b"\r\n")
            answers.append(bytes(await stream.receive_some())[:13])
    assert answers == [b"HTTP/1.1 101 ", b"HTTP/1.1 503 ", b"HTTP/1.1 101 ", b"HTTP/1.1 101 "]


@pytest.mark.parametrize("busy", ["idle", "closing"])
async def test_one_user_s_connections_keep_no_other_out_whatever_they_do(tmp_path, monkeypatch, busy, autojump_clock):
    """Idle ones, and those that were refused and are lingering, count like the rest."""
    limits = HttpLimits(connections=4, connections_per_uid=1, linger_s=60)
    peers = iter([1000] * 6 + [1001])
    monkeypatch.setattr(http, "unix_peer", lambda stream: Peer(uid=seen[stream], privileged=False))
    seen = defaultdict(lambda: next(peers))
    async with open_plane(path=tmp_path / "audio.sock", limits=limits) as plane, AsyncExitStack() as stack:
        dropped = 0
        for _ in range(6):
            stream = await stack.enter_async_context(await plane.connect())
            await trio.testing.wait_all_tasks_blocked()
            with contextlib.suppress(trio.BrokenResourceError):
                if busy == "closing":
                    await stream.send_all(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with trio.move_on_after(0.05):
                try:
                    dropped += await stream.receive_some() == b""
                except trio.BrokenResourceError:
                    dropped += 1
        other = await stack.enter_async_context(await plane.connect())
        await other.send_all(HANDSHAKE + b"\r\n")
        assert (await other.receive_some()).startswith(b"HTTP/1.1 101 ")
    assert dropped == 4  # twice `connections_per_uid` were served


async def test_far_too_many_connections_are_dropped_at_once():
    async with open_plane(limits=HttpLimits(connections=1, linger_s=0.2)) as plane:
        idle = [await plane.connect() for _ in range(2)]
        await trio.testing.wait_all_tasks_blocked(0.01)
        async with await plane.connect() as third:
            assert await third.receive_some() == b""
        for stream in idle:
            await stream.aclose()


async def test_a_drain_does_not_wait_for_connections_that_ask_nothing():
    async with open_plane(limits=HttpLimits(head_s=60, linger_s=60)) as plane, await plane.connect() as stream:
        await trio.testing.wait_all_tasks_blocked(0.01)
        plane.drain.stop_accepting()
        with trio.fail_after(30):
            assert await stream.receive_some() == b""


@attrs.define(eq=False)
class BrokenService(FakeService):
    def status(self):
        raise RuntimeError("a bug")


async def test_a_bug_ends_one_connection_is_counted_and_is_logged_once(caplog):
    service = BrokenService()
    async with open_plane(service=service) as plane:
        for _ in range(3):
            assert await plane.ask(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""
        assert (await plane.get("/ready"))[0] == 200
    (record,) = caplog.records
    assert record.fields["kind"] == "RuntimeError"
    assert b'sttd_connection_failures_total{plane="audio"} 3.0' in service.meters.render(STATUS)


async def test_limits_come_from_the_configuration():
    given = LimitsConfig(
        connections=7, start_timeout_s=8.0, idle_timeout_s=9.0, sessions_per_uid=5, keepalive_s=6.0, adapter_idle_s=99.0
    )
    service = SimpleNamespace(settings=Config(limits=given))
    limits = http.configured_limits(service)
    assert limits.connections_per_uid == 10
    assert (limits.connections, limits.audio.start_s, limits.audio.idle_s) == (7, 8.0, 9.0)
    assert (limits.line.keepalive_s, limits.line.idle_s) == (6.0, 99.0)


async def test_file_descriptors_come_back():
    async with open_plane() as plane:
        await plane.get("/ready")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            await plane.get("/ready")
            await plane.ask(HANDSHAKE + b"Origin: null\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(os.listdir("/proc/self/fd")) <= before
