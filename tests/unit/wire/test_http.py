"""Who may ask over HTTP, and what is answered: the rules of wire/http.py, access.py and routes.py one by one."""

import json

import h11
import pytest
import wsproto
import wsproto.events
from hypothesis import given
from hypothesis import strategies as st

from sttd.errors import ProtocolError
from sttd.wire.access import AccessRules
from sttd.wire.http import (
    HEAD_LIMIT_BYTES,
    LAST_CHUNK,
    Denial,
    HeadReader,
    Request,
    Response,
    chunk,
    json_response,
    refusal,
)
from sttd.wire.routes import Connect, Get, decide

PORT = 7788
OPEN = AccessRules()
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="


def request(path="/ready", method="GET", host=b"127.0.0.1:7788", **headers):
    named = tuple((name.replace("_", "-").encode(), value) for name, value in headers.items())
    return Request(method=method, path=path, headers=((b"host", host), *named) if host is not None else named)


def handshake(path="/ws", method="GET", host=b"127.0.0.1:7788", **headers):
    defaults = {
        "upgrade": b"websocket",
        "connection": b"keep-alive, Upgrade",
        "sec_websocket_version": b"13",
        "sec_websocket_key": KEY,
    }
    named = {name: value for name, value in (defaults | headers).items() if value is not None}
    return request(path, method, host, **named)


def status_of(decision):
    return decision.status if isinstance(decision, Response) else type(decision).__name__


# ---------------------------------------------------------------- the head


def test_a_head_in_single_bytes_becomes_a_request_with_what_followed_it():
    reader = HeadReader()
    head = b"GET /status?x=1 HTTP/1.1\r\nHost: localhost\r\nX-Two: a\r\nx-two: b\r\n\r\n"
    for index in range(len(head) - 1):
        assert reader.push(head[index : index + 1]) is None
    result = reader.push(head[-1:] + b"early")
    assert result == Request(
        method="GET",
        path="/status",
        query="x=1",
        headers=((b"host", b"localhost"), (b"x-two", b"a"), (b"x-two", b"b")),
        rest=b"early",
    )
    assert result.words(b"x-two") == [b"a", b"b"]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x00\x01\x02\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # HTTP/1.1 without Host
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * (HEAD_LIMIT_BYTES + 1), 431),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ],
)
def test_what_is_no_head_is_refused(data, status):
    result = HeadReader().push(data)
    assert isinstance(result, Response)
    assert result.status == status
    assert json.loads(result.body)["error"]["code"] == ("too_large" if status == 431 else "bad_request")


@given(data=st.binary(min_size=1, max_size=400))
def test_any_bytes_are_a_request_a_refusal_or_incomplete(data):
    result = HeadReader().push(data)
    assert result is None or isinstance(result, Request | Response)


# ---------------------------------------------------------------- access


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        (b"127.0.0.1", True),
        (b"127.0.0.1:7788", True),
        (b"127.8.8.8:1", True),
        (b"localhost:7788", True),
        (b"LOCALHOST", True),
        (b"[::1]:7788", True),
        (b"box.lan:7788", True),
        (b"BOX.lan", True),
        (b"evil.example", False),
        (b"127.0.0.1.evil.example", False),
        (b"localhost.evil.example", False),
        (b"192.168.1.2", False),
        (b"[::2]", False),
        (b"0.0.0.0", False),
        (b"\xff", False),
        (b"xn--zzzzzzzzz99999", False),
        (b"localhost:notaport", False),
        (b"user@localhost", False),
        (b"", False),
        (None, False),
    ],
)
def test_the_host_must_be_loopback_or_allowed(host, allowed):
    rules = AccessRules(allowed_hosts=("Box.lan",))
    assert status_of(decide(request(host=host), access=rules, port=PORT)) == ("Get" if allowed else 403)
    assert status_of(decide(request(host=host), access=None)) == "Get"  # a Unix socket


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (b"http://127.0.0.1:7788", True),
        (b"http://localhost:7788", True),
        (b"http://[::1]:7788", True),
        (b"HTTP://LocalHost:7788", True),
        (b"https://notes.example", True),
        (b"http://localhost:3000", False),
        (b"http://localhost", False),
        (b"https://localhost:7788", False),
        (b"http://evil.example", False),
        (b"https://notes.example.evil.example", False),
        (b"null", False),
        (b"", False),
    ],
)
@pytest.mark.parametrize("make", [request, handshake])
def test_the_origin_must_be_absent_own_or_allowed(make, origin, allowed):
    rules = AccessRules(allowed_origins=("https://notes.example/",))
    decision = decide(make(origin=origin), access=rules, port=PORT)
    assert status_of(decision) == (("Get" if make is request else "Connect") if allowed else 403)
    assert status_of(decide(make(origin=origin), access=None)) in ("Get", "Connect")


def test_two_origins_are_refused_even_if_both_are_fine():
    doubled = Request(
        method="GET",
        path="/ready",
        headers=((b"host", b"localhost"), *[(b"origin", b"http://localhost:7788")] * 2),
    )
    assert status_of(decide(doubled, access=OPEN, port=PORT)) == 403


def test_on_port_80_the_own_origin_has_no_port():
    assert status_of(decide(request(origin=b"http://localhost"), access=OPEN, port=80)) == "Get"


@pytest.mark.parametrize(
    ("headers", "granted"),
    [
        ({}, False),
        ({"authorization": b"Bearer s3cret"}, True),
        ({"authorization": b"bearer  s3cret"}, True),
        ({"authorization": b"Bearer s3cret2"}, False),
        ({"authorization": b"Basic s3cret"}, False),
        ({"authorization": b"Bearer \xff"}, False),
        ({"authorization": b"Bearer"}, False),
        ({"sec_websocket_protocol": b"sttd.token.s3cret"}, True),
        ({"sec_websocket_protocol": b"other, sttd.token.s3cret"}, True),
        ({"sec_websocket_protocol": b"sttd.token.wrong, sttd.token.s3cret"}, True),
        ({"sec_websocket_protocol": b"sttd.token.wrong"}, False),
        ({"sec_websocket_protocol": b"sttd.token.\xff"}, False),
        ({"sec_websocket_protocol": b"s3cret"}, False),
    ],
)
def test_a_configured_token_must_be_shown(headers, granted):
    rules = AccessRules(token="s3cret")
    decision = decide(handshake(**headers), access=rules, port=PORT)
    if granted:
        assert isinstance(decision, Connect)
    else:
        assert decision.status == 401
        assert ("WWW-Authenticate", 'Bearer realm="sttd"') in decision.headers
    assert isinstance(decide(handshake(**headers), access=None), Connect)


def test_the_token_counts_for_plain_requests_but_not_in_the_url_or_as_their_subprotocol():
    rules = AccessRules(token="s3cret")
    assert status_of(decide(request(authorization=b"Bearer s3cret"), access=rules, port=PORT)) == "Get"
    assert status_of(decide(request(), access=rules, port=PORT)) == 401
    smuggled = request(sec_websocket_protocol=b"sttd.token.s3cret")
    assert status_of(decide(smuggled, access=rules, port=PORT)) == 401
    target = HeadReader().push(b"GET /status?token=s3cret HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert status_of(decide(target, access=rules, port=PORT)) == 401


@pytest.mark.parametrize("path", ["/", "/page/page.js"])
def test_the_page_opens_without_the_token_because_a_browser_cannot_show_it(path):
    assert decide(request(path), access=AccessRules(token="s3cret"), port=PORT) == Get(route="page")


def test_the_token_is_not_in_the_representation_of_the_rules():
    assert "s3cret" not in repr(AccessRules(token="s3cret"))


# ---------------------------------------------------------------- routes


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/", "page"),
        ("/page/page.css", "page"),
        ("/ready", "ready"),
        ("/status", "status"),
        ("/models", "models"),
        ("/metrics", "metrics"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_routes(path, route, method):
    assert decide(request(path, method), access=OPEN, port=PORT) == Get(route=route)


def test_an_unknown_path_and_an_unknown_method():
    missing = decide(request("/nothing"), access=OPEN, port=PORT)
    assert (missing.status, json.loads(missing.body)["error"]["code"]) == (404, "not_found")
    wrong = decide(request("/status", "POST"), access=OPEN, port=PORT)
    assert wrong.status == 405
    assert ("Allow", "GET, HEAD") in wrong.headers


# ---------------------------------------------------------------- the handshake


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"upgrade": None}, 426),
        ({"upgrade": b"h2c"}, 426),
        ({"connection": b"close"}, 426),
        ({"method": "HEAD"}, 426),
        ({"sec_websocket_version": b"8"}, 426),
        ({"sec_websocket_version": None}, 426),
        ({"sec_websocket_key": None}, 400),
        ({"sec_websocket_key": b"short"}, 400),
        ({"sec_websocket_key": b"AAAA"}, 400),
        ({"sec_websocket_key": b"\xff" * 24}, 400),
    ],
)
def test_a_malformed_handshake_is_refused(headers, status):
    decision = decide(handshake(**headers), access=OPEN, port=PORT)
    assert decision.status == status
    assert status != 426 or ("Sec-WebSocket-Version", "13") in decision.headers


def test_the_websocket_library_gets_a_head_that_we_wrote():
    nasty = handshake(
        host=b"\xff",
        sec_websocket_protocol=b"\xff, sttd.token.x",
        sec_websocket_extensions=b"\xff; a=\xfe",
        cookie=b"\xfd",
    )
    decision = decide(nasty, access=None)
    assert isinstance(decision, Connect)
    assert decision.upgrade.subprotocol == "sttd.token.x"
    assert decision.upgrade.head.isascii()
    server = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
    server.receive_data(decision.upgrade.head)
    (event,) = list(server.events())
    assert isinstance(event, wsproto.events.Request)
    assert event.subprotocols == ["sttd.token.x"]
    assert event.extensions == []


def test_no_subprotocol_is_accepted_that_is_not_ours():
    assert decide(handshake(sec_websocket_protocol=b"chat"), access=OPEN, port=PORT).upgrade.subprotocol is None


def test_what_followed_the_head_is_kept():
    early = HeadReader().push(
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n\r\n\x81\x80abcd"
    )
    assert decide(early, access=OPEN, port=PORT).upgrade.rest == b"\x81\x80abcd"


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_answers_are_http_that_another_parser_reads(method):
    answer = refusal(Denial("forbidden", "nö", headers=(("X-Extra", "1"),)))
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(answer.to_bytes(body=method == "GET"))
    client.receive_data(b"")
    response = client.next_event()
    headers = dict(response.headers)
    assert (response.status_code, response.reason) == (403, b"Forbidden")
    assert (headers[b"connection"], headers[b"cache-control"], headers[b"x-extra"]) == (b"close", b"no-store", b"1")
    body = client.next_event()
    if method == "GET":
        error = json.loads(bytes(body.data))["error"]
        assert error == {"code": "forbidden", "message": "nö", "retryable": False, "data": {}}
    else:
        assert isinstance(body, h11.EndOfMessage)


def test_json_answers_keep_their_status():
    answer = json_response({"status": "ok"}, status=503)
    assert (answer.status, json.loads(answer.body)) == (503, {"status": "ok"})


# ---------------------------------------------------------------- the body


def read_body(data, sizes):
    """Everything of a body that comes in pieces of these sizes, and whether it has ended."""
    reader, body, at = HeadReader(), None, 0
    found = b""
    for size in (*sizes, len(data)):
        piece, at = data[at : at + size], at + size
        if not piece:
            break
        if body is None:
            body = reader.body() if reader.push(piece) is not None else None
        else:
            body.push(piece)
        if body is not None:
            found += b"".join(body.pieces())
    return found, body is not None and body.done


@given(
    st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.lists(st.integers(1, 60), max_size=30), st.booleans()
)
def test_a_body_is_the_same_in_whatever_pieces_it_comes(pieces, sizes, chunked):
    body = b"".join(pieces)
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    sent = b"".join(map(chunk, pieces)) + LAST_CHUNK if chunked else body
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\n" + length + b"\r\n\r\n"
    assert read_body(head + sent, sizes) == (body, True)


@given(st.binary(max_size=100), st.lists(st.integers(1, 20), max_size=10))
def test_a_body_that_is_none_is_refused_by_name(noise, sizes):
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    try:
        read_body(head + noise, [len(head), *sizes])
    except ProtocolError as error:
        code = error.code
    else:
        code = "bad_request"
    assert code == "bad_request"
