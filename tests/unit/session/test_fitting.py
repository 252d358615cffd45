"""The languages that a session may ask for: those of its models."""

import attrs
import pytest

from sttd.engine.contract import Preset
from sttd.engine.fake import FakeBackend
from sttd.engine.shelf import Shelf
from sttd.errors import ProtocolError
from sttd.options import SessionOptions
from sttd.session.fitting import fit_options

SHELF = Shelf(
    {name: Preset(name=name, backend="fake", model=name) for name in ("base", "large-v3", "tiny.en", "./mine")},
    {"fake": FakeBackend()},
)


def asked(**fields):
    options = SessionOptions(model="large-v3", interim_model="large-v3", endpointing=None, interim=False)
    return attrs.evolve(options, **fields)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"model": "base", "lang": "yue"}, "lang"),
        ({"interim_model": "base", "interim": True, "lang": "yue"}, "lang"),
        ({"model": "base", "languages": ("yue",)}, "languages"),
        ({"model": "tiny.en", "lang": "yue"}, "lang"),
    ],
)
def test_a_language_that_a_model_does_not_know_is_refused_at_the_start(fields, field):
    with pytest.raises(ProtocolError) as caught:
        fit_options(asked(**fields), SHELF, window_s=29.0)
    assert (caught.value.code, caught.value.data) == ("bad_option", {"field": field})


@pytest.mark.parametrize(
    "fields",
    [
        {"lang": "yue"},
        {"model": "./mine", "lang": "yue"},  # nobody knows what it knows
        {"model": "base", "languages": ("yue", "en")},
        {"interim_model": "base", "lang": "yue"},  # no interims are asked for
        {"model": "base", "lang": "zh"},
    ],
)
def test_what_the_models_know_or_may_know_is_left_as_it_is(fields):
    assert fit_options(asked(**fields), SHELF, window_s=29.0) == asked(**fields)
