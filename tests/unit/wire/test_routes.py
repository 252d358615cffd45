"""The paths of other systems' APIs: who may ask, by which key, and in which form they are refused."""

import json

import pytest

from sttd.wire.access import AccessRules
from sttd.wire.http import Request, Response
from sttd.wire.routes import Call, Connect, Offers, decide
from tests.unit.wire.test_http import PORT, handshake, request

PAGE = b"https://notes.example"
RULES = AccessRules(allowed_origins=("https://notes.example",), token="s3cret")
OPEN = AccessRules()


def ask(made, access=OPEN, **more):
    return decide(made, access=access, port=PORT, **more)


@pytest.mark.parametrize("path", ["/v1/realtime", "/v1/listen", "/ws"])
@pytest.mark.parametrize(
    ("headers", "accepted"),
    [
        ({"authorization": b"Bearer s3cret"}, None),
        ({"authorization": b"Token s3cret"}, None),
        ({"xi_api_key": b"s3cret"}, None),
        ({"sec_websocket_protocol": b"realtime, openai-insecure-api-key.s3cret, openai-beta.realtime-v1"}, "realtime"),
        ({"sec_websocket_protocol": b"token, s3cret"}, "token"),
        ({"sec_websocket_protocol": b"sttd.token.s3cret"}, "sttd.token.s3cret"),
    ],
)
def test_a_socket_takes_the_key_in_any_usual_place(path, headers, accepted):
    decision = ask(handshake(path, **headers), RULES)
    assert isinstance(decision, Connect)
    assert decision.upgrade.subprotocol == accepted


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": b"Token wrong"},
        {"xi_api_key": b""},
        {"sec_websocket_protocol": b"token"},
        {"sec_websocket_protocol": b"s3cret, token"},
        {"sec_websocket_protocol": b"openai-insecure-api-key."},
    ],
)
def test_a_missing_or_wrong_key_is_401_in_the_form_of_the_api(headers):
    for path, code in (("/v1/realtime", ("error", "code", "invalid_api_key")), ("/v1/listen", ("err_code",))):
        answer = ask(handshake(path, **headers), RULES)
        assert isinstance(answer, Response)
        assert answer.status == 401
        fields = json.loads(answer.body)
        if len(code) == 1:
            assert fields["err_code"] == "INVALID_AUTH"
            assert "dg-request-id" in dict(answer.headers)
        else:
            assert fields["error"]["code"] == "invalid_api_key"
            assert fields["error"].keys() == {"message", "type", "param", "code"}


def test_without_a_token_any_key_is_taken_and_a_companion_is_accepted():
    decision = ask(handshake("/v1/realtime", sec_websocket_protocol=b"realtime, openai-insecure-api-key.sk-any"))
    assert isinstance(decision, Connect)
    assert decision.upgrade.subprotocol == "realtime"


@pytest.mark.parametrize(
    ("method", "path", "endpoint"),
    [
        ("POST", "/v1/audio/transcriptions", "transcriptions"),
        ("POST", "/v1/audio/translations", "translations"),
        ("GET", "/v1/models", "models"),
        ("HEAD", "/v1/models", "models"),
        ("GET", "/v1/models/Systran/faster-whisper-base", "model"),
    ],
)
def test_calls(method, path, endpoint):
    decision = ask(request(path, method))
    assert isinstance(decision, Call)
    assert decision.endpoint == endpoint


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/audio/transcriptions", 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/v1/chat/completions", 404, "not_found"),
        ("POST", "/v1/realtime/client_secrets", 404, "not_found"),
        ("GET", "/v1/models/", 404, "not_found"),
    ],
)
def test_what_there_is_not_is_said_as_openai_says_it(method, path, status, code):
    answer = ask(request(path, method))
    assert answer.status == status
    assert json.loads(answer.body)["error"]["code"] == code
    assert status != 405 or "Allow" in dict(answer.headers)


def test_a_foreign_page_is_refused_in_the_form_of_the_api():
    openai = ask(request("/v1/models", origin=b"https://evil.example"))
    assert (openai.status, json.loads(openai.body)["error"]["type"]) == (403, "invalid_request_error")
    deepgram = ask(handshake("/v1/listen", origin=b"https://evil.example"))
    assert (deepgram.status, json.loads(deepgram.body)["err_code"]) == (403, "INSUFFICIENT_PERMISSIONS")


def test_there_is_no_api_for_recordings_at_deepgrams_path():
    answer = ask(request("/v1/listen", "POST"))
    assert (answer.status, dict(answer.headers)["Allow"]) == (405, "GET")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/audio/transcriptions", "/v1/realtime"])
def test_what_is_switched_off_is_not_there(path):
    assert ask(handshake(path), offers=Offers(openai=False)).status == 404
    assert isinstance(ask(handshake("/v1/listen"), offers=Offers(openai=False)), Connect)
    assert ask(handshake("/v1/listen"), offers=Offers(deepgram=False)).status == 404


def test_a_page_of_an_allowed_origin_may_ask_before_it_has_a_key_and_read_the_answers():
    asking = request(
        "/v1/audio/transcriptions",
        "OPTIONS",
        origin=PAGE,
        access_control_request_method=b"POST",
        access_control_request_headers=b"authorization, x-stainless-os",
    )
    answer = ask(asking, RULES)
    headers = dict(answer.headers)
    assert answer.status == 204
    assert headers["Access-Control-Allow-Origin"] == PAGE.decode()
    assert headers["Access-Control-Allow-Methods"] == "POST"
    assert headers["Access-Control-Allow-Headers"] == "authorization, x-stainless-os"
    refused = ask(request("/v1/models", origin=PAGE), RULES)
    assert refused.status == 401
    assert dict(refused.headers)["Access-Control-Allow-Origin"] == PAGE.decode()
    granted = ask(request("/v1/models", origin=PAGE, authorization=b"Bearer s3cret"), RULES)
    assert ("Vary", "Origin") in granted.headers


def test_nobody_else_is_told_so():
    own = ask(request("/v1/models", "OPTIONS", origin=b"http://localhost:7788"))
    assert own.status == 405
    assert "Access-Control-Allow-Origin" not in dict(own.headers)
    assert ask(request("/v1/models", "OPTIONS", origin=b"https://evil.example"), RULES).status == 403
    smuggling = request("/v1/models", "OPTIONS", origin=PAGE, access_control_request_headers=b"a\x0b: b")
    assert "Access-Control-Allow-Headers" not in dict(ask(smuggling, RULES).headers)


def test_a_unix_peer_needs_no_key():
    assert isinstance(decide(request("/v1/models"), access=None), Call)
    assert isinstance(decide(Request(method="GET", path="/v1/models", headers=()), access=None), Call)
