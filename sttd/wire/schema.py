"""Fields that check what a peer sent, declared where the value is declared.

A message is an attrs class whose fields come from the functions below:

    @attrs.frozen(kw_only=True)
    class Load:
        preset: str = string("the preset to load", required=True)
        cpu_threads: int | None = integer("threads of one worker", minimum=0, maximum=64)

`parse` makes such a value from the mapping that came over the wire, `dump` is its way back, `describe` says what it
accepts. The rules hold for every message of both planes:

- An unknown name, a wrong type, a value out of range: `ProtocolError` with code `bad_option`, which names the field in
  its message and in `data["field"]`.
- null means omitted: the field takes its default.
- A bool is not an integer, although Python thinks so. An integer is a float. Neither NaN nor infinity is a number.
- A string must be encodable: a lone surrogate, which JSON can spell, would fail later, when it is sent to somebody.
"""

from __future__ import annotations

import binascii
import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

import attrs

from sttd.errors import ProtocolError

T = TypeVar("T")

_RULE = "sttd.wire.rule"  # the key of a field's metadata


@attrs.frozen(kw_only=True)
class Rule:
    """What one field accepts."""

    type: str  # the word for it in `describe` and in the reference
    check: Callable[[str, Any], Any]  # (path of the field, value) -> the value to keep; raises ProtocolError
    dump: Callable[[Any], Any] | None = None  # the value as it goes over the wire; None: as it is
    summary: str
    required: bool
    omitted: str  # what leaving it out means, where the default does not say it
    bounds: Mapping[str, Any]  # as `describe` shows them: minimum, maximum, choices, max_chars, max_items, fields


# ---------------------------------------------------------------- reading, writing, describing


def parse(cls: type[T], values: Mapping[str, Any], *, path: str = "", ignore_unknown: bool = False) -> T:
    """A value of `cls` from the mapping `values`.

    Args:
        path: prefix of the field names in errors, for a message inside a message.
        ignore_unknown: skip fields that `cls` does not have. Clients do, so that the protocol can grow; the daemon
            does not.

    Raises:
        ProtocolError: `bad_option`, naming the first field that is wrong.
    """
    rules = rules_of(cls)
    if not ignore_unknown:
        for name in values:
            if name not in rules:
                known = ", ".join(rules) or "none"
                refuse(f"{path}{name}", f"there is no {_quoted(f'{path}{name}')} here; known: {known}")
    accepted = {}
    for name, rule in rules.items():
        value = values.get(name)
        if value is not None:
            accepted[name] = rule.check(f"{path}{name}", value)
        elif rule.required:
            refuse(f"{path}{name}", f"{_quoted(f'{path}{name}')} is required")
    return cls(**accepted)


def dump(message: Any) -> dict[str, Any]:
    """The mapping that `parse` makes `message` from; omitted fields stay out of it."""
    values = {}
    for name, rule in rules_of(type(message)).items():
        value = getattr(message, name)
        if value is not None:
            values[name] = rule.dump(value) if rule.dump else value
    return values


def describe(cls: type[Any]) -> dict[str, dict[str, Any]]:
    """What `parse(cls, ...)` accepts, as plain data: field name to type, bounds, default and summary."""
    described = {}
    for field in attrs.fields(cls):
        rule: Rule = field.metadata[_RULE]
        row: dict[str, Any] = {"type": rule.type, "required": rule.required, **rule.bounds}
        if field.default is not None and field.default is not attrs.NOTHING:
            row["default"] = field.default
        if rule.omitted:
            row["omitted"] = rule.omitted
        described[field.name] = {**row, "summary": rule.summary}
    return described


def rules_of(cls: type[Any]) -> Mapping[str, Rule]:
    """The rule of each field of `cls`, in order of declaration."""
    rules = _RULES.get(cls)
    if rules is None:
        rules = _RULES[cls] = {field.name: field.metadata[_RULE] for field in attrs.fields(cls)}
    return rules


def refuse(field: str, message: str) -> NoReturn:
    """Raise the `bad_option` that names `field`."""
    raise ProtocolError(message, code="bad_option", data={"field": clip(field)})


def clip(text: str) -> str:
    """`text`, short enough for an error message, and encodable whatever the peer put into it."""
    text = text if len(text) <= 64 else text[:61] + "..."
    return text.encode("utf-8", "backslashreplace").decode()


_RULES: dict[type[Any], Mapping[str, Rule]] = {}  # what `attrs.fields` says, once a class


# ---------------------------------------------------------------- the kinds of field
#
# Each returns an attrs field. They are typed Any so that `preset: str = string(...)` is right for mypy, the way
# `attrs.field` itself is. `default` is what an omitted field becomes; `omitted` says it in words where None stands
# for something that the daemon fills in.


def integer(
    summary: str,
    *,
    minimum: int | None = None,
    maximum: int | None = None,
    required: bool = False,
    default: int | None = None,
    omitted: str = "",
) -> Any:
    """A whole number."""

    def check(path: str, value: Any) -> int:
        if type(value) is not int:
            _wrong_type(path, "an integer", value)
        _in_range(path, value, minimum=minimum, maximum=maximum)
        return int(value)

    bounds = _bounds(minimum=minimum, maximum=maximum)
    return _field("int", check, summary, required=required, default=default, omitted=omitted, bounds=bounds)


def number(
    summary: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    special: float | None = None,
    required: bool = False,
    default: float | None = None,
    omitted: str = "",
) -> Any:
    """A finite number, whole or not; kept as float. `special` is one value outside the range that is allowed too."""

    def check(path: str, value: Any) -> float:
        if type(value) is not float and type(value) is not int:
            _wrong_type(path, "a number", value)
        try:
            result = float(value)
        except OverflowError:  # JSON can spell an integer that no float holds
            result = math.inf
        if not math.isfinite(result):
            refuse(path, f"{_quoted(path)} must be a finite number")
        if result != special:
            _in_range(path, result, minimum=minimum, maximum=maximum)
        return result

    bounds = _bounds(minimum=minimum, maximum=maximum, special=special)
    return _field("float", check, summary, required=required, default=default, omitted=omitted, bounds=bounds)


def flag(summary: str, *, required: bool = False, default: bool | None = None, omitted: str = "") -> Any:
    """true or false."""

    def check(path: str, value: Any) -> bool:
        if type(value) is not bool:
            _wrong_type(path, "true or false", value)
        return bool(value)

    return _field("bool", check, summary, required=required, default=default, omitted=omitted)


def string(
    summary: str,
    *,
    max_chars: int | None = None,
    choices: tuple[str, ...] = (),
    one_line: bool = False,
    required: bool = False,
    default: str | None = None,
    omitted: str = "",
) -> Any:
    """A string. `one_line` refuses control characters: such strings are shown in terminals and in logs."""

    def check(path: str, value: Any) -> str:
        return _text(path, value, max_chars=max_chars, choices=choices, one_line=one_line)

    bounds = _bounds(max_chars=max_chars, choices=list(choices) or None)
    return _field("str", check, summary, required=required, default=default, omitted=omitted, bounds=bounds)


def strings(
    summary: str,
    *,
    max_items: int | None = None,
    max_chars: int | None = None,
    choices: tuple[str, ...] = (),
    required: bool = False,
    omitted: str = "",
) -> Any:
    """A list of one-line strings; kept as tuple."""

    def check(path: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list | tuple):
            _wrong_type(path, "a list of strings", value)
        if max_items is not None and len(value) > max_items:
            refuse(path, f"{_quoted(path)} may have {max_items} items at most, not {len(value)}")
        return tuple(
            _text(f"{path}[{index}]", item, max_chars=max_chars, choices=choices, one_line=True)
            for index, item in enumerate(value)
        )

    bounds = _bounds(max_items=max_items, max_chars=max_chars, choices=list(choices) or None)
    return _field("[str]", check, summary, dump=list, required=required, omitted=omitted, bounds=bounds)


def base64(summary: str, *, required: bool = False) -> Any:
    """Bytes as the base64 of RFC 4648, padded, without line breaks; kept as bytes."""

    def check(path: str, value: Any) -> bytes:
        if type(value) is not str:
            _wrong_type(path, "a base64 string", value)
        try:
            return binascii.a2b_base64(value, strict_mode=True)
        except ValueError:  # binascii.Error is one, and so is what a character outside ASCII raises
            refuse(path, f"{_quoted(path)} is not base64")

    return _field("base64", check, summary, dump=_to_base64, required=required)


def nested(
    cls: type[Any],
    summary: str,
    *,
    required: bool = False,
    or_false: bool = False,
    ignore_unknown: bool = False,
    omitted: str = "",
) -> Any:
    """A map that is a message of its own; `or_false` allows `false` in its place. `ignore_unknown` as for `parse`."""

    def check(path: str, value: Any) -> Any:
        if or_false and value is False:
            return False
        if not isinstance(value, Mapping):
            _wrong_type(path, "a map or false" if or_false else "a map", value)
        return parse(cls, value, path=f"{path}.", ignore_unknown=ignore_unknown)

    bounds = {"fields": describe(cls)}
    kind = "map or false" if or_false else "map"
    return _field(kind, check, summary, dump=_dump_nested, required=required, omitted=omitted, bounds=bounds)


def rows(cls: type[Any], summary: str, *, ignore_unknown: bool = False, omitted: str = "") -> Any:
    """A list of maps that are messages of their own; kept as tuple. `ignore_unknown` as for `parse`."""

    def check(path: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or not all(isinstance(item, Mapping) for item in value):
            _wrong_type(path, "a list of maps", value)
        return tuple(
            parse(cls, item, path=f"{path}[{index}].", ignore_unknown=ignore_unknown)
            for index, item in enumerate(value)
        )

    bounds = {"fields": describe(cls)}
    return _field("[map]", check, summary, dump=_dump_rows, omitted=omitted, bounds=bounds)


# ---------------------------------------------------------------- helpers


def _field(
    kind: str,
    check: Callable[[str, Any], Any],
    summary: str,
    *,
    dump: Callable[[Any], Any] | None = None,
    required: bool = False,
    default: Any = None,
    omitted: str = "",
    bounds: Mapping[str, Any] | None = None,
) -> Any:
    rule = Rule(
        type=kind,
        check=check,
        dump=dump,
        summary=summary,
        required=required,
        omitted=omitted,
        bounds=bounds or {},
    )
    return attrs.field(default=attrs.NOTHING if required else default, metadata={_RULE: rule})


def _bounds(**bounds: Any) -> dict[str, Any]:
    return {name: bound for name, bound in bounds.items() if bound is not None}


def _text(path: str, value: Any, *, max_chars: int | None, choices: tuple[str, ...], one_line: bool) -> str:
    if type(value) is not str:
        _wrong_type(path, "a string", value)
    if max_chars is not None and len(value) > max_chars:
        refuse(path, f"{_quoted(path)} may have {max_chars} characters at most, not {len(value)}")
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        refuse(path, f"{_quoted(path)} holds a lone surrogate, which is not text")
    if one_line and not value.isprintable() and any(char < " " or "\x7f" <= char <= "\x9f" for char in value):
        refuse(path, f"{_quoted(path)} holds a control character")
    if choices and value not in choices:
        known = f"one of {', '.join(choices)}" if len(choices) <= 16 else "a known one"
        refuse(path, f"{_quoted(path)} must be {known}, not {_quoted(value)}")
    return str(value)


def _in_range(path: str, value: float, *, minimum: float | None, maximum: float | None) -> None:
    if (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
        low = "" if minimum is None else f"at least {minimum:g}" if maximum is None else f"between {minimum:g}"
        high = "" if maximum is None else f"at most {maximum:g}" if minimum is None else f" and {maximum:g}"
        refuse(path, f"{_quoted(path)} must be {low}{high}, not {clip(repr(value))}")


def _wrong_type(path: str, expected: str, value: Any) -> NoReturn:
    refuse(path, f"{_quoted(path)} must be {expected}, not {_TYPE_NAMES.get(type(value), 'that')}")


_TYPE_NAMES: Mapping[type[Any], str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number with a fraction",
    str: "a string",
    bytes: "bytes",
    list: "a list",
    tuple: "a list",
    dict: "a map",
}


def _quoted(text: str) -> str:
    return f"`{clip(text)}`"


def _to_base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def _dump_nested(value: Any) -> Any:
    return False if value is False else dump(value)


def _dump_rows(value: tuple[Any, ...]) -> list[dict[str, Any]]:
    return [dump(item) for item in value]
