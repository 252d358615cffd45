"""What a peer sends that no declaration allows is a `bad_option`."""

import attrs
import pytest

from sttd.errors import ProtocolError
from sttd.fields import integer
from sttd.wire import schema


@attrs.frozen(kw_only=True)
class Message:
    count: int | None = integer("how many", maximum=8)


def test_a_message_is_made_of_what_holds():
    assert schema.parse(Message, {"count": 8}) == Message(count=8)
    assert schema.parse(Message, {"new": 1}, ignore_unknown=True) == Message()


@pytest.mark.parametrize("field", ["count", "other", "\ud800"])
def test_what_does_not_hold_is_a_bad_option_that_names_the_field(field):
    with pytest.raises(ProtocolError) as caught:
        schema.parse(Message, {field: 9})
    assert caught.value.code == "bad_option"
    assert f"`{caught.value.data['field']}`" in caught.value.message
    assert str(caught.value).encode()
