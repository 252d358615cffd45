"""What a session may ask for: the languages of its models, and translation where they can."""

from pathlib import Path

import attrs
import pytest

from sttd.engine.contract import Place, Preset
from sttd.engine.fake import FakeBackend
from sttd.engine.shelf import Shelf
from sttd.errors import ProtocolError
from sttd.options import SessionOptions
from sttd.session.fitting import fit_options

SHELF = Shelf(
    {
        name: Preset(name=name, backend="fake", model=name)
        for name in ("tiny.en", "base", "large-v3", "large-v3-turbo", "./mine")
    },
    {"fake": FakeBackend()},
)
NAMES = tuple(SHELF.presets)


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
        ({"model": "tiny.en", "task": "translate"}, "task"),
        ({"model": "large-v3-turbo", "task": "translate", "lang": "de"}, "task"),
        ({"interim_model": "tiny.en", "interim": True, "task": "translate"}, "task"),
    ],
)
def test_what_a_model_cannot_do_is_refused_at_the_start(fields, field):
    with pytest.raises(ProtocolError) as caught:
        fit_options(asked(**fields), SHELF, window_s=29.0, selectable=NAMES)
    assert (caught.value.code, caught.value.data) == ("bad_option", {"field": field})


@pytest.mark.parametrize(
    "fields",
    [
        {"lang": "yue"},
        {"model": "./mine", "lang": "yue"},  # nobody knows what it knows
        {"model": "base", "languages": ("yue", "en")},
        {"interim_model": "base", "lang": "yue"},  # no interims are asked for
        {"model": "base", "lang": "zh"},
        {"model": "base", "lang": "de", "task": "translate"},
        {"model": "./mine", "task": "translate"},
    ],
)
def test_what_the_models_know_or_may_know_is_left_as_it_is(fields):
    assert fit_options(asked(**fields), SHELF, window_s=29.0, selectable=NAMES) == asked(**fields)


@attrs.frozen
class OnDisk(FakeBackend):
    """A recogniser that has some models, whose files say what they know."""

    sizes: dict = attrs.field(factory=dict)
    known: dict = attrs.field(factory=dict)
    slow: tuple = ()

    def describe(self, preset):
        size = self.sizes.get(preset.name)
        path = None if size is None else Path(preset.name)
        model = "base" if preset.model == "auto" else preset.model
        return Place(model=model, path=path, size_bytes=size, realtime=preset.name not in self.slow)

    def languages(self, preset):
        return self.known.get(preset.name)


def shelf(*, named=tuple(SHELF.presets), **on_disk):
    presets = {name: Preset(name=name, backend="fake", model=name) for name in named}
    return Shelf(presets, {"fake": OnDisk(**on_disk)})


def refusal(shelf, *, selectable=None, **fields):
    with pytest.raises(ProtocolError) as caught:
        fit_options(asked(**fields), shelf, window_s=29.0, selectable=selectable or tuple(shelf.presets))
    return caught.value.message


def test_what_the_files_say_holds_where_the_name_says_nothing():
    english = {"./mine": frozenset({"en"})}
    ours = shelf(sizes={"./mine": 1}, known=english)
    assert "'./mine' knows English only" in refusal(ours, model="./mine", lang="de")
    assert "'./mine' knows English only" in refusal(ours, model="./mine", task="translate")
    fitted = fit_options(asked(model="./mine"), ours, window_s=29.0, selectable=())
    assert fitted.lang == "en"
    ours = shelf(sizes={"./mine": 1}, known={"./mine": frozenset({"de", "en"})})
    assert "does not know" in refusal(ours, model="./mine", lang="fr")


@pytest.mark.parametrize(
    ("on_disk", "selectable", "fields", "remedy"),
    [
        ({}, None, {"model": "tiny.en", "lang": "de"}, "get one with `sttctl pull base`"),
        ({"tiny.en": 1, "base": 2, "large-v3": 3}, None, {"model": "tiny.en", "lang": "de"}, "use the preset 'base'"),
        ({"large-v3": 3}, None, {"model": "tiny.en", "lang": "de"}, "use the preset 'large-v3'"),
        ({"base": 2}, None, {"model": "large-v3-turbo", "task": "translate"}, "use the preset 'base'"),
        ({"base": 2}, None, {"model": "base", "lang": "yue"}, "get one with `sttctl pull large-v3`"),
        ({"tiny.en": 1, "base": 2}, ("tiny.en",), {"model": "tiny.en", "lang": "de"}, "`models` lists other presets"),
    ],
)
def test_a_refusal_names_a_model_that_can(on_disk, selectable, fields, remedy):
    ours = shelf(named=("auto", *NAMES), sizes=on_disk | {"auto": on_disk.get("base")}, slow=("large-v3",))
    assert refusal(ours, selectable=selectable, **fields).endswith(f"; {remedy}")
