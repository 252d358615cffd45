"""The options of a session: what may change, and that the values that stand for defaults hold."""

import pytest

from sttd import fields
from sttd.options import ENCODINGS, FILE_ENDPOINTING, SAMPLE_BYTES, Endpointing, SessionChanges, SessionOptions, Tuning
from sttd.wire.messages import Configure, Start, Started


def test_every_default_is_within_its_own_bounds():
    for declared in (Endpointing, SessionOptions, Tuning):
        values = fields.dump(declared())
        values.pop("endpointing", None)  # the wire's maps are not the values of the core
        assert fields.dump(fields.parse(declared, values)) | {"endpointing": None} == {**values, "endpointing": None}
    assert fields.parse(Endpointing, fields.dump(FILE_ENDPOINTING)) == FILE_ENDPOINTING


def test_every_option_says_when_a_change_of_it_holds():
    for declared in (Endpointing, SessionOptions, Tuning):
        for name, rule in fields.rules_of(declared).items():
            assert rule.changes in ("utterance", "session"), name


def test_the_messages_carry_every_option():
    options = fields.rules_of(SessionOptions)
    assert list(fields.rules_of(Start)) == list(options)
    assert list(fields.rules_of(Started)) == ["session", "resume_token", *options]
    assert set(fields.rules_of(Configure)) == {n for n, rule in options.items() if rule.changes == "utterance"}


def test_every_encoding_but_a_container_has_a_width():
    assert set(ENCODINGS) == {*SAMPLE_BYTES, "container"}


def test_changes_are_of_what_may_change():
    changes = SessionChanges(lang="de", endpointing=None)
    assert changes.given() == {"lang": "de", "endpointing": None}
    assert changes == SessionChanges(endpointing=None, lang="de")
    assert changes != SessionChanges(lang="de")
    assert len({changes, SessionChanges(endpointing=None, lang="de")}) == 1
    assert repr(SessionChanges(lang="de")) == "SessionChanges(lang='de')"


@pytest.mark.parametrize("name", ["sample_rate", "max_utterance_s", "language"])
def test_and_of_nothing_else(name):
    with pytest.raises(TypeError, match=name):
        SessionChanges(**{name: 1})
