"""What a daemon says commands no terminal."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sttd_client.calls import fields_of, result_of
from sttd_client.connection import AudioConnection
from sttd_client.inert import inert, inert_json
from wsproto import ConnectionType, WSConnection
from wsproto import events as ws

from sttd.errors import SttdError
from sttd.wire.rpc import Notification, Response

EVIL = "\x1b]0;title\x07\x1b[2Jgone\x9b31m\r\x08\x7f"
TAME = "\ufffd]0;title\ufffd\ufffd[2Jgone\ufffd31m\ufffd\ufffd\ufffd"


def commands(value):
    return [char for char in json.dumps(value, ensure_ascii=False) if char < " " or "\x7f" <= char <= "\x9f"]


def test_text_stays_as_it_is_and_commands_go():
    assert inert("Grüße, 世界,\n\t안녕") == "Grüße, 世界,\n\t안녕"
    assert inert({EVIL: [EVIL, {"a": (EVIL,)}], "n": 1, "none": None}) == {
        TAME: [TAME, {"a": [TAME]}],
        "n": 1,
        "none": None,
    }


@given(
    st.recursive(
        st.text() | st.none() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_nothing_that_json_can_spell_is_left(value):
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert json.loads(inert_json(text)) == inert(json.loads(text))
        assert not commands(json.loads(inert_json(text).replace("\\n", "").replace("\\t", "")))


def test_every_spelling_of_a_command_is_known():
    for code in (*range(0x20), *range(0x7F, 0xA0)):
        assert not commands(json.loads(inert_json(f'"\\u{code:04X}"').replace("\\n", "").replace("\\t", "")))


def test_what_is_no_json_is_left_to_whoever_reads_it():
    assert inert_json("\x9b{") == "\x9b{"


def test_answers_events_and_errors_of_the_control_plane_are_inert():
    assert result_of(Response(msgid=1, error=None, result={"label": EVIL})) == {"label": TAME}
    assert fields_of(Notification(method="event", params=[{"text": EVIL}])) == {"text": TAME}
    with pytest.raises(SttdError) as caught:
        result_of(Response(msgid=1, error={"code": "internal", "message": EVIL}, result=None))
    assert EVIL not in caught.value.message


def test_events_and_refusals_of_the_audio_plane_are_inert():
    server, client = WSConnection(ConnectionType.SERVER), AudioConnection()
    server.receive_data(client.open())
    client.receive(server.send(ws.AcceptConnection()))
    for spell in (True, False):
        said = json.dumps({"type": "warning", "code": "lagging", "message": EVIL}, ensure_ascii=spell)
        (event,) = client.receive(server.send(ws.TextMessage(data=said)))
        assert event.message == TAME
    refused = AudioConnection()
    refused.open()
    body = json.dumps({"error": {"code": "forbidden", "message": EVIL}}).encode()
    head = b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n" % len(body)
    with pytest.raises(SttdError) as caught:
        refused.receive(head + body)
    assert caught.value.message == TAME
