"""What a peer sent, checked against the declarations of `sttd/fields.py`; what does not hold is a `bad_option`.

`parse` makes a message from the mapping that came over the wire, `dump` is its way back, `describe` says what it
accepts. The error names the field in its message and in `data["field"]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from sttd import fields
from sttd.errors import ProtocolError
from sttd.fields import describe, dump

T = TypeVar("T")


def parse(cls: type[T], values: Mapping[str, Any], *, ignore_unknown: bool = False) -> T:
    """A message of `cls` from the mapping `values`.

    Args:
        ignore_unknown: skip fields that `cls` does not have. Clients do, so that the protocol can grow; the daemon
            does not.

    Raises:
        ProtocolError: `bad_option`, naming the first field that is wrong.
    """
    try:
        return fields.parse(cls, values, ignore_unknown=ignore_unknown)
    except fields.FieldError as error:
        raise ProtocolError(error.message, code="bad_option", data={"field": error.field}) from None


__all__ = ["describe", "dump", "parse"]
