"""The strict fields: what they take, what they refuse, and that a refusal names the field."""

# ruff: noqa: RUF009  (the functions of `fields` make attrs fields, which is what ruff cannot see)

import math
import re
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd import fields as schema
from sttd.fields import FieldError


@attrs.frozen(kw_only=True)
class Inner:
    count: int | None = schema.integer("how many", minimum=0, maximum=9)


@attrs.frozen(kw_only=True)
class Message:
    name: str = schema.string("a name", required=True, max_chars=10, one_line=True)
    colour: str | None = schema.string("a colour", choices=("red", "blue"))
    many: str | None = schema.string("one of many", choices=tuple("abcdefghijklmnopqrst"))
    count: int | None = schema.integer("how many", minimum=1, maximum=8)
    low: int | None = schema.integer("bounded below", minimum=0)
    high: int | None = schema.integer("bounded above", maximum=5)
    ratio: float | None = schema.number("a ratio", minimum=0, maximum=1, special=-1)
    free: float | None = schema.number("any number")
    sure: bool = schema.flag("sure?", default=True)
    tags: tuple[str, ...] | None = schema.strings("tags", max_items=2, max_chars=3)
    data: bytes | None = schema.base64("bytes")
    inner: Inner | None = schema.nested(Inner, "a map")
    maybe: Any = schema.nested(Inner, "a map or false", or_false=True)
    loose: Inner | None = schema.nested(Inner, "a map that may grow", ignore_unknown=True)
    list: tuple[Inner, ...] | None = schema.rows(Inner, "rows")
    heats: tuple[float, ...] = schema.numbers("numbers", minimum=0, maximum=1, min_items=1, max_items=3, default=(0.5,))
    sizes: tuple[int, ...] | None = schema.integers("some of these", choices=(10, 20))
    loose_list: tuple[Inner, ...] | None = schema.rows(Inner, "rows that may grow", ignore_unknown=True)


def parse(**fields):
    return schema.parse(Message, {"name": "x", **fields})


def refused(**fields):
    with pytest.raises(FieldError) as caught:
        parse(**fields)
    assert f"`{caught.value.field}`" in caught.value.message
    return caught.value.field


def test_every_kind_of_field_is_taken():
    message = parse(
        colour="red",
        count=8,
        ratio=1,
        free=-2.5,
        sure=False,
        tags=["a", "b"],
        data="AAE=",
        inner={"count": 1},
        maybe=False,
        list=[{"count": 2}, {}],
        heats=[0, 0.5],
        sizes=[20],
    )
    assert message == Message(
        name="x",
        colour="red",
        count=8,
        ratio=1.0,
        free=-2.5,
        sure=False,
        tags=("a", "b"),
        data=b"\0\1",
        inner=Inner(count=1),
        maybe=False,
        list=(Inner(count=2), Inner()),
        heats=(0.0, 0.5),
        sizes=(20,),
    )
    assert type(message.ratio) is float
    assert parse(maybe={"count": 1}).maybe == Inner(count=1)
    assert parse(ratio=-1).ratio == -1.0
    assert parse(tags=("a",)).tags == ("a",)


def test_null_means_omitted():
    assert parse(count=None, sure=None, colour=None) == Message(name="x")
    with pytest.raises(FieldError, match="`name` is required"):
        schema.parse(Message, {"name": None})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("unheard_of", 1),
        ("name", 5),
        ("name", "x" * 11),
        ("name", "\x1b[0m"),
        ("name", "a\nb"),
        ("name", "\x85"),
        ("name", "\ud800"),
        ("colour", "green"),
        ("many", "z"),
        ("count", True),
        ("count", 1.0),
        ("count", "1"),
        ("count", 0),
        ("count", 9),
        ("count", 10**400),
        ("low", -1),
        ("high", 6),
        ("ratio", False),
        ("ratio", "0.5"),
        ("ratio", -0.5),
        ("ratio", 1.5),
        ("ratio", math.nan),
        ("free", math.inf),
        ("free", 10**400),
        ("sure", 1),
        ("tags", "ab"),
        ("tags", ["a", "b", "c"]),
        ("data", b"\0"),
        ("data", "AAE"),
        ("data", "A A="),
        ("data", "é"),
        ("inner", False),
        ("inner", [1]),
        ("maybe", True),
        ("maybe", 0),
        ("list", {}),
        ("list", [1]),
        ("heats", 0.5),
        ("heats", []),
        ("heats", [0, 0, 0, 0]),
        ("sizes", 10),
        ("sizes", [10, 10, 10]),
    ],
)
def test_what_is_wrong_is_named(field, value):
    assert refused(**{field: value}) == field


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"inner": {"count": 10}}, "inner.count"),
        ({"inner": {"other": 1}}, "inner.other"),
        ({"list": [{}, {"count": "x"}]}, "list[1].count"),
        ({"tags": ["a", "long"]}, "tags[1]"),
        ({"tags": ["a", 1]}, "tags[1]"),
        ({"heats": [0, math.nan]}, "heats[1]"),
        ({"heats": [0, 2]}, "heats[1]"),
        ({"heats": [True]}, "heats[0]"),
        ({"sizes": [10, 11]}, "sizes[1]"),
        ({"sizes": [10.0]}, "sizes[0]"),
    ],
)
def test_a_field_within_a_field_is_named_with_its_path(fields, named):
    assert refused(**fields) == named


def test_what_may_grow_skips_what_it_does_not_know():
    assert parse(loose={"count": 1, "new": 2}).loose == Inner(count=1)
    assert parse(loose_list=[{"new": 2}]).loose_list == (Inner(),)
    assert schema.parse(Inner, {"new": 1}, ignore_unknown=True) == Inner()


@pytest.mark.parametrize(
    ("unknown", "hint"),
    [("coulor", "did you mean `colour`?"), ("besides", "did you mean `beside`?"), ("zzz", "known: name, colour")],
)
def test_what_is_not_known_may_be_something_else(unknown, hint):
    with pytest.raises(FieldError, match=f"there is no `{unknown}` here; {re.escape(hint)}"):
        schema.parse(Message, {unknown: 1}, beside=["beside"])


def test_the_right_name_in_the_wrong_section_is_found():
    assert schema.suggestion("server.silero", ["vad.silero", "log.level"]) == "; did you mean `vad.silero`?"


def test_a_number_that_python_does_not_even_write_is_refused():
    assert refused(count=1 << 20_000) == "count"


def test_a_field_that_is_not_declared_is_nobodys_to_set():
    @attrs.frozen(kw_only=True)
    class Part:
        count: int = schema.integer("how many", default=1)
        own: int = 5

    assert schema.describe(Part).keys() == schema.dump(Part()).keys() == {"count"}
    with pytest.raises(FieldError):
        schema.parse(Part, {"own": 1})


def test_a_name_that_is_no_text_can_be_shown():
    field = refused(**{"\ud800" + "x" * 100: 1})
    assert field.encode()
    assert len(field) < 80


def test_a_letter_beyond_ascii_is_no_control_character():
    assert parse(name="é\u2028ß").name == "é\u2028ß"


def test_dump_is_the_way_back():
    fields = {
        "name": "x",
        "sure": False,
        "tags": ["a"],
        "data": "AAE=",
        "inner": {"count": 1},
        "maybe": False,
        "list": [{"count": 2}],
        "heats": [0.0],
        "sizes": [10],
    }
    assert schema.dump(schema.parse(Message, fields)) == fields
    assert schema.dump(Message(name="x", maybe=Inner(count=3))) == {
        "name": "x", "sure": True, "maybe": {"count": 3}, "heats": [0.5],
    }  # fmt: skip


def test_describe_says_what_is_accepted():
    described = schema.describe(Message)
    assert described["name"] == {"type": "str", "required": True, "max_chars": 10, "summary": "a name"}
    assert described["ratio"] == {
        "type": "float", "required": False, "minimum": 0, "maximum": 1, "special": -1, "summary": "a ratio",
    }  # fmt: skip
    assert described["sure"]["default"] is True
    assert described["colour"]["choices"] == ["red", "blue"]
    assert described["maybe"]["fields"]["count"]["maximum"] == 9


def test_describe_says_what_leaving_out_means():
    @attrs.frozen(kw_only=True)
    class Other:
        rate: int | None = schema.integer("a rate", omitted="16000")

    assert schema.describe(Other)["rate"]["omitted"] == "16000"


@attrs.frozen(kw_only=True)
class Options:
    rate: int = schema.integer("a rate", minimum=8, maximum=16, default=9, changes="session")
    ratio: float = schema.number("a ratio", maximum=1, default=0.5, changes="utterance", omitted="twice that for files")
    sure: bool = schema.flag("sure?", default=True, changes="utterance")
    label: str = schema.name("a label", default="", omitted="empty")
    inner: Inner | None = schema.nested(Inner, "a map", default=Inner())
    own: int = 5


def test_what_somebody_may_name_has_the_bounds_of_what_it_stands_for():
    @attrs.frozen(kw_only=True, field_transformer=schema.asked(Options))
    class Asked:
        rate: int | None = None
        ratio: float | None = None
        sure: bool | None = None
        label: str | None = None
        inner: Inner | None = None

    assert schema.parse(Asked, {"rate": 8}) == Asked(rate=8)
    with pytest.raises(FieldError, match="from 8 to 16"):
        schema.parse(Asked, {"rate": 17})
    assert {name: row.get("omitted") for name, row in schema.describe(Asked).items()} == {
        "rate": "9", "ratio": "0.5, twice that for files", "sure": "true", "label": "empty", "inner": None,
    }  # fmt: skip


def test_what_may_change_is_a_part_of_it():
    @attrs.frozen(
        kw_only=True, field_transformer=schema.asked(Options, changes="utterance", omitted="unchanged", sure="yes")
    )
    class Changed:
        ratio: float | None = None
        sure: bool | None = None

    assert [row["omitted"] for row in schema.describe(Changed).values()] == ["unchanged", "yes"]
    assert schema.parse(Changed, {}) == Changed()


def test_what_somebody_is_told_has_no_bounds_and_may_have_more():
    @attrs.frozen(kw_only=True)
    class Base:
        rate: int | None = None
        ratio: float | None = None
        sure: bool | None = None
        label: str | None = None
        inner: Inner | None = None

    @attrs.frozen(kw_only=True, field_transformer=schema.told(Options))
    class Told(Base):
        inner: Inner | None = schema.nested(Inner, "a map that may grow", ignore_unknown=True)
        number: int = schema.integer("which one", required=True)

    assert list(schema.rules_of(Told)) == ["number", "rate", "ratio", "sure", "label", "inner"]
    told = schema.parse(Told, {"number": 1, "rate": 99, "inner": {"new": 1}})
    assert (told.rate, told.inner) == (99, Inner())
    with pytest.raises(FieldError):
        schema.parse(Told, {"number": 1, "rate": "99"})


@pytest.mark.parametrize("names", [["rate"], ["rate", "ratio", "sure", "label", "inner", "other"]])
def test_a_list_that_does_not_agree_does_not_import(names):
    with pytest.raises(TypeError, match="must have the fields rate, ratio, sure, label, inner"):
        attrs.make_class(
            "Asked", {name: attrs.field(default=None) for name in names}, field_transformer=schema.asked(Options)
        )


def test_a_field_may_stand_in_another_class():
    @attrs.frozen(kw_only=True)
    class Section:
        rate: int = schema.same(Options, "rate", changes="restart")

    (rule,) = schema.rules_of(Section).values()
    assert (Section().rate, rule.summary, rule.changes) == (9, "a rate", "restart")


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (schema.integer("", minimum=1, maximum=10**15), "a whole number from 1 to 1000000000000000"),
        (schema.number("", minimum=0.1), "a number of at least 0.1"),
        (schema.number(""), "a number"),
        (schema.flag(""), "true or false"),
        (schema.string("", choices=("a", "b")), "one of a, b"),
        (schema.integers("", choices=(1, 2)), "some of 1, 2"),
        (schema.strings(""), "a list of texts"),
        (schema.base64(""), "base64"),
    ],
)
def test_what_a_field_accepts_can_be_said(field, words):
    (rule,) = schema.rules_of(attrs.make_class("One", {"one": field})).values()
    assert schema.in_words(rule) == words


def test_a_summary_can_be_a_sentence():
    assert schema.sentence("how many") == "How many."


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*schema.rules_of(Message), "other"]), values, max_size=4))
def test_whatever_comes_is_a_value_or_an_error_that_can_be_shown(fields):
    error = None
    try:
        message = schema.parse(Message, fields)
    except FieldError as refusal:
        error = refusal
    if error is None:
        assert schema.parse(Message, schema.dump(message)) == message
    else:
        assert str(error).encode()
