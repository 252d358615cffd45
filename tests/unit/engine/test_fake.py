"""The shipped fake: what users of it may rely on."""

import time

import attrs
import numpy as np
import pytest

from sttd.core.languages import Prior
from sttd.core.types import SAMPLE_RATE, DecodeItem, DecodeOptions, Effort
from sttd.engine.contract import Preset
from sttd.engine.fake import FakeBackend
from sttd.errors import ConfigError


def load(**options):
    preset = Preset(name="fake", backend="fake", options=options)
    return FakeBackend().load(preset, cpu_threads=0, num_workers=2)


def item(seconds, **options):
    samples = np.zeros(int(seconds * SAMPLE_RATE), np.float32)
    return DecodeItem(samples=samples, options=DecodeOptions(**options))


def test_a_word_for_every_300_ms():
    (heard,) = load().decode([item(1.0)])
    assert heard.text == "w1 w2 w3"
    assert [(word.word, word.start_s, word.end_s) for word in heard.words] == [
        ("w1", 0.0, pytest.approx(0.3)),
        ("w2", pytest.approx(0.3), pytest.approx(0.6)),
        ("w3", pytest.approx(0.6), pytest.approx(0.9)),
    ]
    assert heard.language == "en"


def test_too_short_for_a_word_is_no_text():
    (heard,) = load().decode([item(0.29)])
    assert (heard.text, heard.segments) == ("", ())


def test_word_ms_and_language_are_options():
    (heard,) = load(word_ms=100).decode([item(0.5, language="de")])
    assert heard.text == "w1 w2 w3 w4 w5"
    assert heard.language == "de"


def test_it_hears_english_where_that_is_allowed():
    for allowed, language in ((), "en"), (("de", "en"), "en"), (("de", "fr"), "de"):
        (heard,) = load().decode([item(0.5, languages=Prior.among(allowed))])
        assert (heard.language, heard.languages) == (language, ((language, 1.0),))
    (heard,) = load().decode([item(0.5, language="fr", languages=Prior())])
    assert (heard.language, heard.languages) == ("fr", (("en", 1.0),))
    (heard,) = load().decode([item(0.5, language="fr")])
    assert (heard.language, heard.languages) == ("fr", ())


def test_a_prefix_starts_the_text():
    (heard,) = load().decode([item(1.2, prefix="so it")])
    assert heard.text == "so it w3 w4"


def test_a_call_takes_decode_ms_whatever_its_batch():
    model = load(decode_ms=30)
    begin = time.perf_counter()
    assert len(model.decode([item(1), item(2)])) == 2
    assert time.perf_counter() - begin >= 0.03


def test_what_is_decoded_with_the_same_effort_shares_a_call():
    model = load()
    keys = {model.batch_key(item(seconds, effort=effort)) for seconds in (1, 2) for effort in Effort}
    assert len(keys) == 3
    assert model.max_batch(keys.pop()) > 1


def test_a_preset_decides_the_workers_and_needs_no_files():
    preset = Preset(name="fake", backend="fake")
    backend = FakeBackend()
    model = backend.load(preset, cpu_threads=3, num_workers=4)
    assert model.workers == 4
    assert backend.locate(preset) is not None
    assert backend.describe(preset).realtime
    assert backend.suggest(preset) == preset.model
    assert not model.park()
    model.unpark()
    model.close()
    assert attrs.asdict(model)["vram_bytes"] == 0


@pytest.mark.parametrize("options", [{"words_ms": 1}, {"decode_ms": "soon"}, {"decode_ms": -1}, {"word_ms": 0}])
def test_a_wrong_option_is_an_error_of_the_configuration(options):
    with pytest.raises(ConfigError, match="fake"):
        load(**options)


def test_a_fake_resolves_to_the_cpu():
    resolved = FakeBackend().resolve(Preset(name="fake", backend="fake", num_workers=2))
    assert (resolved.device, resolved.num_workers) == ("cpu", 2)
