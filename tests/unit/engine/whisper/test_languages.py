"""Which language an item is decoded in: a detector that says what the test wants, and models with random weights."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import attrs
import numpy as np
import pytest

from sttd.core.languages import Prior
from sttd.core.types import DecodeItem, DecodeOptions, Effort
from sttd.engine.contract import Preset
from sttd.engine.presets import Machine
from sttd.engine.whisper import languages as whisper_languages
from sttd.engine.whisper.backend import WhisperBackend
from sttd.engine.whisper.languages import LanguageChooser
from sttd.engine.whisper.passes import Known
from sttd.engine.whisper.search import Language
from sttd.engine.whisper.tokens import TextCodec
from sttd.errors import DecodeError
from tests.unit.engine.whisper.random_whisper import SMALL, SMALL_EN, build

SILENCE = {"en": 0.6, "es": 0.03, "pt": 0.01}
SAMPLES = np.zeros(16_000, np.float32)


def guesses(probabilities):
    """As CTranslate2 returns them."""
    return [(f"<|{code}|>", probability) for code, probability in probabilities.items()]


@attrs.define
class Detector:
    """What a chooser needs of a model: says `SILENCE` of silence, and of each item of a batch what it is told to."""

    sounds: list
    calls: int = 0
    n_mels: int = 80

    def detect_language(self, output):
        self.calls += 1
        if output == "silence":
            return [guesses(SILENCE)]
        return [guesses(sound) for sound in self.sounds]


@pytest.fixture
def chooser(monkeypatch):
    monkeypatch.setattr(whisper_languages, "encode", lambda whisper, features: SimpleNamespace(output="silence"))

    def chooser(*sounds, languages=("en", "es", "pt")):
        codec = SimpleNamespace(languages=tuple(languages))
        for name in ("language", "check", "_knows"):
            setattr(codec, name, functools.partial(getattr(TextCodec, name), codec))
        return LanguageChooser(Detector(list(sounds)), codec)

    return chooser


def item(known=None, **options):
    return DecodeItem(samples=SAMPLES, options=DecodeOptions(**options), known=known)


def choose(chooser, *items):
    return chooser.languages(SimpleNamespace(output="sound"), items)


def test_a_given_language_needs_no_detector(chooser):
    chooser = chooser()
    assert choose(chooser, item(language="es"), item(language="pt")) == [
        Language(code="es", probability=1.0),
        Language(code="pt", probability=1.0),
    ]
    assert chooser._whisper.calls == 0


def test_a_given_language_is_kept_whatever_is_heard(chooser):
    """The session wants to know what the sound was, for later utterances."""
    (found,) = choose(chooser({"en": 0.9, "es": 0.05, "pt": 0.05}), item(language="es", languages=Prior()))
    assert (found.code, found.probability) == ("es", 1.0)
    assert [code for code, _ in found.heard] == ["en", "pt", "es"]


def test_the_sound_decides_where_nothing_is_known(chooser):
    (found,) = choose(chooser({"en": 0.01, "es": 0.98, "pt": 0.01}), item())
    assert found.code == "es"
    assert 0.5 < found.probability < 1.0
    assert found.heard[0][0] == "es"


def test_what_the_model_leans_to_is_taken_out(chooser):
    """It says English of silence too; ten times as much Spanish as of silence is the more telling."""
    even = Prior(likely=(("en", 0.5), ("es", 0.5)), other=0.0, allowed=("en", "es"))
    (found,) = choose(chooser({"en": 0.4, "es": 0.3}), item(languages=even))
    assert found.code == "es"


def test_what_is_known_of_the_session_decides_where_the_sound_says_little(chooser):
    spanish = Prior(likely=(("es", 0.95), ("pt", 0.02)), other=0.0005)
    sound = {"en": 0.05, "es": 0.3, "pt": 0.65}
    found = choose(chooser(sound, sound), item(languages=spanish), item())
    assert [language.code for language in found] == ["es", "pt"]


def test_only_what_is_allowed_is_chosen(chooser):
    sound = {"en": 0.9, "es": 0.02, "pt": 0.08}
    (found,) = choose(chooser(sound), item(languages=Prior.among(("es", "pt"))))
    assert found.code == "pt"
    assert [code for code, _ in found.heard] == ["pt", "es"]
    assert sum(share for _, share in found.heard) == pytest.approx(1.0)


def test_what_the_model_does_not_know_is_not_chosen(chooser):
    (found,) = choose(chooser({"en": 0.9, "es": 0.05, "pt": 0.05}), item(languages=Prior.among(("yue", "pt"))))
    assert found.code == "pt"


def test_a_model_that_knows_none_of_those_allowed_says_so(chooser):
    with pytest.raises(DecodeError) as caught:
        choose(chooser({"en": 0.9, "es": 0.05, "pt": 0.05}), item(languages=Prior.among(("yue", "haw"))))
    assert caught.value.code == "bad_option"
    assert "yue, haw" in caught.value.message


def test_what_an_earlier_pass_has_found_out_stays(chooser):
    chooser = chooser()
    known = Language(code="pt", probability=0.7, heard=(("pt", 0.9),))
    assert choose(chooser, item(known=Known(language=known))) == [known]
    assert chooser._whisper.calls == 0


def test_a_model_of_one_language_detects_nothing(chooser):
    chooser = chooser(languages=("en",))
    assert choose(chooser, item(languages=Prior()), item(language="en")) == [Language(code="en", probability=1.0)] * 2
    assert chooser._whisper.calls == 0


def test_silence_is_listened_to_once(chooser):
    chooser = chooser({"en": 0.5, "es": 0.5})
    choose(chooser, item())
    choose(chooser, item())
    assert chooser._whisper.calls == 3


# ------------------------------------------------------------ in a model


def load(path):
    preset = Preset(name="random", backend="whisper", model=str(path), options={"temperatures": [0.0], "beam_size": 1})
    return WhisperBackend(machine=lambda: Machine(cores=2)).load(preset, cpu_threads=0, num_workers=1)


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory):
    """99 languages, random weights: no two sounds differ much."""
    model = load(build(tmp_path_factory.mktemp("multilingual"), SMALL))
    yield model
    model.close()


@pytest.mark.model
@pytest.mark.parametrize("effort", list(Effort))
def test_every_effort_heeds_what_is_known(multilingual, effort):
    noise = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.1
    japanese = Prior(likely=(("ja", 1 - 1e-6),), other=1e-8, weight=1.0)
    options = [
        DecodeOptions(languages=japanese),
        DecodeOptions(language="de", languages=japanese),
        DecodeOptions(language="de"),
        DecodeOptions(languages=Prior.among(("fr", "it"))),
    ]
    heard = multilingual.decode(
        [DecodeItem(samples=noise, options=attrs.evolve(each, effort=effort)) for each in options]
    )
    assert [each.language for each in heard[:3]] == ["ja", "de", "de"]
    assert heard[3].language in ("fr", "it")
    assert [bool(each.languages) for each in heard] == [True, True, False, True]
    assert {code for code, _ in heard[3].languages} == {"fr", "it"}
    assert heard[0].language_probability > 0.9


@pytest.mark.model
def test_a_model_that_knows_none_of_them_fails_that_item_alone(multilingual):
    good = DecodeItem(samples=SAMPLES, options=DecodeOptions(language="en"))
    bad = attrs.evolve(good, options=DecodeOptions(languages=Prior.among(("tlh",))))
    heard, refused = multilingual.decode([good, bad])
    assert heard.language == "en"
    assert (refused.code, "tlh" in refused.message) == ("bad_option", True)


@pytest.mark.model
def test_an_english_only_model_says_nothing_about_languages(tmp_path):
    model = load(build(tmp_path, SMALL_EN))
    (heard,) = model.decode([DecodeItem(samples=SAMPLES, options=DecodeOptions(languages=Prior()))])
    assert (heard.language, heard.languages) == ("en", ())
    model.close()
