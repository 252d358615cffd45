"""Fields that check and describe themselves: a value's bounds, default, unit and meaning, where the value is declared.

An option of a session, of a preset or of the configuration and a field of a message are attrs fields that come from
the functions below:

    @attrs.frozen(kw_only=True)
    class Load:
        preset: str = name("the preset to load", required=True)
        cpu_threads: int | None = integer("threads of one worker", minimum=0, maximum=64)

`parse` makes such a value from the mapping that somebody wrote (a peer, a TOML file, the environment), `dump` is its
way back, `describe` says what it accepts. The rules hold wherever the mapping comes from:

- An unknown name, a wrong type, a value out of range: `FieldError`, which names the field. Whoever reads the mapping
  says what that is there: `wire/schema.py` a `bad_option`, the configuration a `ConfigError`.
- null means omitted: the field takes its default.
- A bool is not an integer, although Python thinks so. An integer is a float. Neither NaN nor infinity is a number.
- A string must be encodable: a lone surrogate, which JSON can spell, would fail later, when it is sent to somebody.
- A class may have attrs fields that are not declared here; `parse`, `dump` and `describe` do not see them.
- A summary is a phrase, without a capital and a full stop: it stands in tables, in sentences and in help texts.
"""

from __future__ import annotations

import binascii
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NoReturn, TypeAlias, TypedDict, TypeVar, Unpack

import attrs

T = TypeVar("T")

Changes = Literal["live", "utterance", "session", "restart"]

MAX_NAME_CHARS = 200  # of presets, models, labels, sessions

_RULE = "sttd.rule"  # the key of a field's metadata


class FieldError(ValueError):
    """A value that a declaration does not allow; `field` is its path."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


class Common(TypedDict, total=False):
    """What every kind of field may say besides its bounds. An omitted field becomes its `default`."""

    required: bool
    omitted: str  # what leaving it out means, in words, where the default does not say it
    unit: str
    changes: Changes  # when a change holds: at once, from the next utterance or session on, after a restart
    secret: bool  # never shown


@attrs.frozen(kw_only=True)
class Rule:
    """What one field accepts."""

    type: str  # the word for it in `describe` and in the reference
    check: Callable[[str, Any], Any]  # (path of the field, value) -> the value to keep; raises FieldError
    dump: Callable[[Any], Any] | None = None  # the value as it goes over the wire; None: as it is
    summary: str
    bounds: Mapping[str, Any]  # as `describe` shows them: minimum, maximum, choices, max_chars, max_items, fields
    required: bool = False
    omitted: str = ""
    unit: str = ""
    changes: Changes = "live"
    secret: bool = False


# ---------------------------------------------------------------- reading, writing, describing


def parse(
    cls: type[T],
    values: Mapping[str, Any],
    *,
    path: str = "",
    beside: Iterable[str] = (),
    ignore_unknown: bool = False,
) -> T:
    """A value of `cls` from the mapping `values`.

    Args:
        path: prefix of the field names in errors, for a message inside a message.
        beside: further names that the writer may have meant, for the suggestion.
        ignore_unknown: skip fields that `cls` does not have. Clients do, so that the protocol can grow; the daemon
            does not.

    Raises:
        FieldError: naming the first field that is wrong.
    """
    rules = rules_of(cls)
    if not ignore_unknown:
        for name in values:
            if name not in rules:
                hint = suggestion(name, [*rules, *beside], path=path) or f"; known: {', '.join(rules) or 'none'}"
                refuse(f"{path}{name}", f"there is no {_quoted(f'{path}{name}')} here{hint}")
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
    defaults = {field.name: field.default for field in attrs.fields(cls)}
    for name, rule in rules_of(cls).items():
        row: dict[str, Any] = {"type": rule.type, "required": rule.required, **rule.bounds}
        if defaults[name] is not None and defaults[name] is not attrs.NOTHING:
            row["default"] = defaults[name]
        if rule.omitted:
            row["omitted"] = rule.omitted
        described[name] = {**row, "summary": rule.summary}
    return described


def in_words(rule: Rule) -> str:
    """The type and bounds of a field, for a person."""
    if choices := rule.bounds.get("choices"):
        return f"{'some' if rule.type.startswith('[') else 'one'} of {_listed(choices)}"
    kind = _WORDS.get(rule.type, rule.type)
    low, high = rule.bounds.get("minimum"), rule.bounds.get("maximum")
    if low is None:
        return kind
    return f"{kind} of at least {low:.16g}" if high is None else f"{kind} from {low:.16g} to {high:.16g}"


def sentence(summary: str) -> str:
    """A summary as a sentence; in the code it is a phrase, without a capital and a full stop."""
    return f"{summary[:1].upper()}{summary[1:]}."


def rules_of(cls: type[Any]) -> Mapping[str, Rule]:
    """The rule of each field of `cls`, in order of declaration."""
    rules = _RULES.get(cls)
    if rules is None:
        rules = _RULES[cls] = {
            field.name: field.metadata[_RULE] for field in attrs.fields(cls) if _RULE in field.metadata
        }
    return rules


def refuse(field: str, message: str) -> NoReturn:
    """Raise the error that names `field`."""
    raise FieldError(clip(field), message)


def suggestion(word: str, known: Sequence[str], *, path: str = "") -> str:
    """`; did you mean ...?` where something known is close, else nothing. `path` is a prefix of all of them."""
    import difflib  # it takes longer to import than most programs of a client to run

    word = word[:_LONGEST_GUESS]  # what is compared takes time with the product of the lengths
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not close and "." in word:  # the right name in the wrong section
        leaf = word.rpartition(".")[2]
        close = [name for name in known if name.rpartition(".")[2] == leaf][:1]
    return f"; did you mean `{path}{close[0]}`?" if close else ""


def clip(text: str) -> str:
    """`text`, short enough for an error message, and encodable whatever the peer put into it."""
    text = text if len(text) <= 64 else text[:61] + "..."
    return text.encode("utf-8", "backslashreplace").decode()


_LONGEST_GUESS = 100
_WORDS: Mapping[str, str] = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "[str]": "a list of texts",
    "[float]": "a list of numbers",
}
_RULES: dict[type[Any], Mapping[str, Rule]] = {}  # what `attrs.fields` says, once a class


# ---------------------------------------------------------------- the same fields in another class
#
# A class that carries the fields of another one lists their names and types, for mypy and the reader, and takes the
# rest from the declarations:
#
#     @attrs.frozen(kw_only=True, field_transformer=asked(Options))
#     class Start:
#         lang: str | None = None
#
# A list that does not agree with what it stands for does not import.


_Attributes: TypeAlias = "list[attrs.Attribute[Any]]"
Transformer: TypeAlias = Callable[[type[Any], _Attributes], _Attributes]


def asked(declared: type[Any], *, changes: Changes | None = None, omitted: str = "", **omitted_of: str) -> Transformer:
    """What somebody may name of `declared`; None is what was not named.

    Args:
        changes: take only the fields that change so.
        omitted: what leaving out any of them means; by default its default, and what the declaration says of it.
        omitted_of: the same for single fields.
    """
    rules = {name: rule for name, rule in rules_of(declared).items() if changes in (None, rule.changes)}
    defaults = {field.name: field.default for field in attrs.fields(declared)}

    def meaning(name: str) -> str:
        default = _default_text(defaults[name])
        return omitted_of.get(name) or omitted or ", ".join(filter(None, (default, rules[name].omitted)))

    rules = {name: attrs.evolve(rule, required=False, omitted=meaning(name)) for name, rule in rules.items()}
    return _taking(rules)


def told(declared: type[Any]) -> Transformer:
    """What somebody is told of `declared`: the same fields without bounds, for a newer teller may have wider ones."""
    kinds: Mapping[str, Callable[[str], Any]] = {
        "int": integer,
        "float": number,
        "bool": flag,
        "str": string,
        "[str]": strings,
    }
    rules = {
        name: _rule(kinds[rule.type](rule.summary)) if rule.type in kinds else rule
        for name, rule in rules_of(declared).items()
    }
    return _taking(rules, sort=True)


def same(declared: type[Any], name: str, *, changes: Changes = "live") -> Any:
    """One field of `declared` in another class, which says itself when a change of it holds."""
    field = attrs.fields_dict(declared)[name]
    rule = attrs.evolve(field.metadata[_RULE], changes=changes)
    return attrs.field(default=field.default, metadata={_RULE: rule})


def _taking(rules: Mapping[str, Rule], *, sort: bool = False) -> Transformer:
    """Give the fields of a class that have no rule the one of their name; there must be one for each."""

    def transform(cls: type[Any], fields: _Attributes) -> _Attributes:
        bare = {field.name for field in fields if _RULE not in field.metadata}
        own = {field.name for field in fields} - bare
        if bare != rules.keys() - own:
            raise TypeError(f"{cls.__name__} must have the fields {', '.join(rules)}")
        if sort:  # what is the class's own comes first
            places = {name: place for place, name in enumerate(rules)}
            fields = sorted(fields, key=lambda field: places.get(field.name, -1))
        return [field.evolve(metadata={_RULE: rules[field.name]}) if field.name in bare else field for field in fields]

    return transform


def _default_text(default: Any) -> str:
    """A default for the reader; nothing for one that is empty, or an object."""
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:.16g}" if isinstance(default, int | float) else default if isinstance(default, str) else ""


def _rule(field: Any) -> Rule:
    rule: Rule = field.metadata[_RULE]
    return rule


# ---------------------------------------------------------------- the kinds of field
#
# Each returns an attrs field. They are typed Any so that `preset: str = string(...)` is right for mypy, the way
# `attrs.field` itself is. The default of the default is None, which stands for what somebody else fills in.


def integer(
    summary: str,
    *,
    minimum: int | None = None,
    maximum: int | None = None,
    default: int | None = None,
    **common: Unpack[Common],
) -> Any:
    """A whole number."""

    def check(path: str, value: Any) -> int:
        return _integer(path, value, minimum=minimum, maximum=maximum)

    bounds = _bounds(minimum=minimum, maximum=maximum)
    return _field("int", check, summary, default=default, bounds=bounds, **common)


def number(
    summary: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    special: float | None = None,
    default: float | None = None,
    **common: Unpack[Common],
) -> Any:
    """A finite number, whole or not; kept as float. `special` is one value outside the range that is allowed too."""

    def check(path: str, value: Any) -> float:
        return _number(path, value, minimum=minimum, maximum=maximum, special=special)

    bounds = _bounds(minimum=minimum, maximum=maximum, special=special)
    return _field("float", check, summary, default=default, bounds=bounds, **common)


def flag(summary: str, *, default: bool | None = None, **common: Unpack[Common]) -> Any:
    """true or false."""

    def check(path: str, value: Any) -> bool:
        if type(value) is not bool:
            _wrong_type(path, "true or false", value)
        return bool(value)

    return _field("bool", check, summary, default=default, **common)


def string(
    summary: str,
    *,
    max_chars: int | None = None,
    choices: tuple[str, ...] = (),
    one_line: bool = False,
    read: Callable[[str], object] | None = None,
    default: str | None = None,
    **common: Unpack[Common],
) -> Any:
    """A string. `one_line` refuses control characters: such strings are shown in terminals and in logs.

    `read` is what its users read it with; of what it cannot read it says in a ValueError what it should be.
    """

    def check(path: str, value: Any) -> str:
        text = _text(path, value, max_chars=max_chars, choices=choices, one_line=one_line)
        try:
            if read is not None:
                read(text)
        except ValueError as error:
            refuse(path, f"{_quoted(path)} must be {error}")
        return text

    bounds = _bounds(max_chars=max_chars, choices=list(choices) or None)
    return _field("str", check, summary, default=default, bounds=bounds, **common)


def name(summary: str, *, default: str | None = None, **common: Unpack[Common]) -> Any:
    """What something is called: a preset, a session, a label."""
    return string(summary, max_chars=MAX_NAME_CHARS, one_line=True, default=default, **common)


def strings(
    summary: str,
    *,
    max_items: int | None = None,
    max_chars: int | None = None,
    choices: tuple[str, ...] = (),
    default: tuple[str, ...] | None = None,
    **common: Unpack[Common],
) -> Any:
    """A list of one-line strings; kept as tuple."""

    def check(path: str, value: Any) -> tuple[str, ...]:
        return tuple(
            _text(f"{path}[{index}]", item, max_chars=max_chars, choices=choices, one_line=True)
            for index, item in enumerate(_items(path, value, "a list of strings", max_items=max_items))
        )

    bounds = _bounds(max_items=max_items, max_chars=max_chars, choices=list(choices) or None)
    return _field("[str]", check, summary, dump=list, default=default, bounds=bounds, **common)


def numbers(
    summary: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    min_items: int = 0,
    max_items: int | None = None,
    default: tuple[float, ...] | None = None,
    **common: Unpack[Common],
) -> Any:
    """A list of finite numbers; kept as tuple of floats."""

    def check(path: str, value: Any) -> tuple[float, ...]:
        items = _items(path, value, "a list of numbers", min_items=min_items, max_items=max_items)
        return tuple(
            _number(f"{path}[{index}]", item, minimum=minimum, maximum=maximum) for index, item in enumerate(items)
        )

    bounds = _bounds(minimum=minimum, maximum=maximum, min_items=min_items or None, max_items=max_items)
    return _field("[float]", check, summary, dump=list, default=default, bounds=bounds, **common)


def integers(
    summary: str, *, choices: tuple[int, ...], default: tuple[int, ...] | None = None, **common: Unpack[Common]
) -> Any:
    """A list of some of `choices`; kept as tuple."""

    def check(path: str, value: Any) -> tuple[int, ...]:
        items = _items(path, value, "a list of integers", max_items=len(choices))
        for index, item in enumerate(items):
            if _integer(f"{path}[{index}]", item) not in choices:
                refuse(f"{path}[{index}]", f"{_quoted(f'{path}[{index}]')} must be one of {_listed(choices)}")
        return tuple(items)

    return _field("[int]", check, summary, dump=list, default=default, bounds={"choices": list(choices)}, **common)


def base64(summary: str, **common: Unpack[Common]) -> Any:
    """Bytes as the base64 of RFC 4648, padded, without line breaks; kept as bytes."""

    def check(path: str, value: Any) -> bytes:
        if type(value) is not str:
            _wrong_type(path, "a base64 string", value)
        try:
            return binascii.a2b_base64(value, strict_mode=True)
        except ValueError:  # binascii.Error is one, and so is what a character outside ASCII raises
            refuse(path, f"{_quoted(path)} is not base64")

    return _field("base64", check, summary, dump=_to_base64, **common)


def nested(
    cls: type[Any],
    summary: str,
    *,
    or_false: bool = False,
    ignore_unknown: bool = False,
    default: Any = None,
    **common: Unpack[Common],
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
    return _field(kind, check, summary, dump=_dump_nested, default=default, bounds=bounds, **common)


def rows(cls: type[Any], summary: str, *, ignore_unknown: bool = False, **common: Unpack[Common]) -> Any:
    """A list of maps that are messages of their own; kept as tuple. `ignore_unknown` as for `parse`."""

    def check(path: str, value: Any) -> tuple[Any, ...]:
        if not all(isinstance(item, Mapping) for item in _items(path, value, "a list of maps")):
            _wrong_type(path, "a list of maps", value)
        return tuple(
            parse(cls, item, path=f"{path}[{index}].", ignore_unknown=ignore_unknown)
            for index, item in enumerate(value)
        )

    bounds = {"fields": describe(cls)}
    return _field("[map]", check, summary, dump=_dump_rows, bounds=bounds, **common)


# ---------------------------------------------------------------- helpers


def _field(
    kind: str,
    check: Callable[[str, Any], Any],
    summary: str,
    *,
    dump: Callable[[Any], Any] | None = None,
    default: Any = None,
    bounds: Mapping[str, Any] | None = None,
    **common: Unpack[Common],
) -> Any:
    rule = Rule(type=kind, check=check, dump=dump, summary=summary, bounds=bounds or {}, **common)
    return attrs.field(default=attrs.NOTHING if rule.required else default, metadata={_RULE: rule})


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
        known = f"one of {_listed(choices)}" if len(choices) <= 16 else "a known one"
        refuse(path, f"{_quoted(path)} must be {known}, not {_quoted(value)}{suggestion(value, choices)}")
    return str(value)


def _integer(path: str, value: Any, *, minimum: int | None = None, maximum: int | None = None) -> int:
    if type(value) is not int:
        _wrong_type(path, "an integer", value)
    _in_range(path, value, minimum=minimum, maximum=maximum)
    return int(value)


def _number(
    path: str, value: Any, *, minimum: float | None = None, maximum: float | None = None, special: float | None = None
) -> float:
    if type(value) is not float and type(value) is not int:
        _wrong_type(path, "a number", value)
    try:
        result = float(value)
    except OverflowError:  # JSON and TOML can spell an integer that no float holds
        result = math.inf
    if not math.isfinite(result):
        refuse(path, f"{_quoted(path)} must be a finite number")
    if result != special:
        _in_range(path, result, minimum=minimum, maximum=maximum)
    return result


def _in_range(path: str, value: float, *, minimum: float | None, maximum: float | None) -> None:
    if (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
        if minimum is None:
            allowed = f"at most {maximum:.16g}"
        else:
            allowed = f"at least {minimum:.16g}" if maximum is None else f"from {minimum:.16g} to {maximum:.16g}"
        refuse(path, f"{_quoted(path)} must be {allowed}, not {_shown(value)}")


def _shown(value: float) -> str:
    """A number for a message. Python does not even write an integer of more than 4300 digits."""
    return clip(repr(value)) if -1e18 < value < 1e18 else "a number of that size"


def _items(
    path: str, value: Any, expected: str, *, min_items: int = 0, max_items: int | None = None
) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        _wrong_type(path, expected, value)
    if max_items is not None and len(value) > max_items:
        refuse(path, f"{_quoted(path)} may have {max_items} items at most, not {len(value)}")
    if len(value) < min_items:
        refuse(path, f"{_quoted(path)} must have {min_items} item{'s' * (min_items > 1)} at least")
    return value


def _listed(choices: Iterable[object]) -> str:
    return ", ".join(map(str, choices))


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
