"""The audio plane's golden messages: what is parsed, what is written, what is refused."""

import json
from pathlib import Path

import pytest

from sttd.errors import ProtocolError
from sttd.wire import messages
from sttd.wire.schema import dump

GOLDEN = json.loads(Path(__file__).with_name("audio.json").read_text())


def vectors(section):
    return pytest.mark.parametrize("vector", [pytest.param(v, id=v["name"]) for v in GOLDEN[section]])


@vectors("ops")
def test_ops_are_read_and_written_as_they_stand(vector):
    op = messages.parse_client(json.dumps(vector["message"]))
    assert json.loads(messages.encode_op(op)) == vector["message"]


@vectors("refused")
def test_what_is_refused_has_its_code_and_names_its_field(vector):
    with pytest.raises(ProtocolError) as caught:
        messages.parse_client(vector["text"])
    assert caught.value.code == vector["code"]
    assert caught.value.data.get("field") == vector["field"]


@vectors("events")
def test_events_are_read_and_written_as_they_stand(vector):
    fields = {name: value for name, value in vector["message"].items() if name != "type"}
    event = messages.parse_event(messages.encode_event(vector["message"]["type"], fields))
    assert event is not None
    assert event.type == vector["message"]["type"]
    assert dump(event) == fields


def test_every_op_and_event_has_a_vector():
    assert {vector["message"]["op"] for vector in GOLDEN["ops"]} == set(messages.OPS)
    assert {vector["message"]["type"] for vector in GOLDEN["events"]} == set(messages.EVENTS)
