"""JSON as the audio plane takes it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.errors import ProtocolError
from sttd.wire.jsontext import MAX_MESSAGE_BYTES, read_object, write_object


@pytest.mark.parametrize(
    "message",
    [
        "",
        "{",
        "nonsense",
        "[]",
        '"text"',
        "1",
        "null",
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1, "a": 2}',
        '{"a": {"b": 1, "b": 2}}',
        '{"a": %s}' % ("9" * 5000),
        "[" * 500_000,
        '{"a":' * 100_000,
        b'{"a": "\xff"}',
        '{"a": 1}'.encode("utf-16"),
    ],
)
def test_what_is_no_object_is_a_bad_request(message):
    with pytest.raises(ProtocolError) as caught:
        read_object(message)
    assert caught.value.code == "bad_request"
    assert len(caught.value.message) < 200


def test_a_message_has_a_size():
    padding = " " * (MAX_MESSAGE_BYTES - 2)
    assert read_object("{}" + padding) == {}
    with pytest.raises(ProtocolError) as caught:
        read_object("{} " + padding)
    assert caught.value.code == "too_large"


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()))
def test_what_is_written_can_be_read(fields):
    fields = {name: value for name, value in fields.items() if not (isinstance(value, float) and math.isinf(value))}
    assert read_object(write_object(fields)) == fields
    assert read_object(write_object(fields).encode()) == fields


def test_no_number_that_is_none_is_written():
    with pytest.raises(ValueError, match="JSON"):
        write_object({"a": math.nan})
