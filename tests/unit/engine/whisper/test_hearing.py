"""What is heard: the embedded model on the clips, and models with random weights in any language."""

from __future__ import annotations

import math
from unittest.mock import Mock

import attrs
import numpy as np
import pytest

from sttd.core.languages import Prior
from sttd.core.types import Effort
from sttd.engine.contract import Waiters
from sttd.engine.store.models import embedded_model
from sttd.engine.whisper.features import FULL_WINDOW, encode, log_mel
from sttd.engine.whisper.search import Search
from sttd.engine.whisper.segments import certainties
from sttd.errors import DecodeError
from tests.unit.engine.whisper.loaded import hear, item, load

pytestmark = pytest.mark.model

# Features that differ in the last bit, or a batch of another shape, are rounded to int8 otherwise; by how much depends
# on the processor. Two kinds of kernels differed by up to 0.0005 on these clips; a text with timestamps, by 0.2 to 0.3.
ROUNDING = 0.01


@pytest.mark.parametrize("effort", list(Effort))
def test_every_effort_hears_the_recordings(demo, clips, effort):
    items = [item(samples, effort) for samples, *_ in clips.values()]
    assert len({demo.batch_key(one) for one in items}) == 1
    heard = demo.decode(items)
    assert [outcome.text for outcome in heard] == [text for _, text, *_ in clips.values()]
    assert {outcome.language for outcome in heard} == {"en"}
    assert all(outcome.avg_logprob > -0.6 and outcome.no_speech_prob < 0.1 for outcome in heard)


def test_a_batch_hears_what_single_items_hear(demo, clips):
    together = demo.decode([item(samples) for samples, *_ in clips.values()])
    alone = [hear(demo, samples) for samples, *_ in clips.values()]
    assert [outcome.text for outcome in together] == [outcome.text for outcome in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.avg_logprob == pytest.approx(other.avg_logprob, abs=ROUNDING)


def test_the_same_as_faster_whisper_hears(clips):
    """Our own path through encode and generate against `WhisperModel.transcribe`, score for score."""
    from faster_whisper import WhisperModel

    reference = WhisperModel(str(embedded_model()), device="cpu", compute_type="int8", local_files_only=True)
    ours = load()
    for samples, *_ in clips.values():
        segments, info = reference.transcribe(
            samples, language="en", beam_size=5, without_timestamps=True, condition_on_previous_text=False
        )
        [segment] = list(segments)
        heard = hear(ours, samples, language="en")
        assert heard.text == segment.text.strip()
        assert heard.avg_logprob == pytest.approx(segment.avg_logprob, abs=ROUNDING)
        assert heard.no_speech_prob == pytest.approx(segment.no_speech_prob, abs=ROUNDING)
        assert heard.compression_ratio == pytest.approx(segment.compression_ratio, abs=0.1)
        assert heard.language == info.language
    ours.close()


def test_features_are_those_of_faster_whisper(clips):
    from faster_whisper.audio import pad_or_trim
    from faster_whisper.feature_extractor import FeatureExtractor

    extractor = FeatureExtractor()
    for samples, *_ in clips.values():
        theirs = extractor(samples)
        content = theirs.shape[-1] - 1
        expected = pad_or_trim(theirs[:, :content])
        # Not to the last bit: the matrix product is cut into blocks, and a library may sum in another order.
        np.testing.assert_allclose(log_mel(extractor, samples, window=FULL_WINDOW), expected, atol=1e-4)


def test_words_lie_where_they_were_said(demo, clips):
    items = [item(samples, words=True) for samples, *_ in clips.values()]
    for heard, (_, text, start_s, end_s) in zip(demo.decode(items), clips.values(), strict=True):
        words = heard.words
        assert "".join(word.word for word in words).split() == text.split()
        assert all(word.start_s <= word.end_s for word in words)
        assert [word.start_s for word in words] == sorted(word.start_s for word in words)
        assert abs(words[0].start_s - start_s) < 0.15
        assert abs(words[-1].end_s - end_s) < 0.3
        assert all(0 < word.probability <= 1 for word in words)
        [segment] = heard.segments
        assert (segment.start_s, segment.end_s) == (words[0].start_s, words[-1].end_s)


def test_a_file_window_is_cut_into_timed_segments(demo, clips):
    """Two sentences with a pause between them: two segments, each with its own times and words."""
    first, second = clips["light"], clips["question"]
    samples = np.concatenate([first[0], second[0]])
    offset_s = len(first[0]) / 16_000
    for words in (False, True):
        heard = hear(demo, samples, Effort.TIMED, words=words)
        assert [segment.text for segment in heard.segments] == [first[1], second[1]]
        assert abs(heard.segments[0].end_s - first[3]) < 0.3
        assert abs(heard.segments[1].start_s - offset_s - second[2]) < 0.3
        assert abs(heard.segments[1].end_s - offset_s - second[3]) < 0.3
    spoken = ["".join(word.word for word in segment.words).strip() for segment in heard.segments]
    assert spoken == [first[1], second[1]]


def test_a_prefix_is_kept_and_continued(demo, clips):
    samples, text, *_ = clips["light"]
    assert hear(demo, samples, prefix="Turn on").text == text
    forced = hear(demo, clips["date"][0], Effort.QUICK, prefix="Turn on the")
    assert forced.text.startswith("Turn on the")


def test_interims_say_how_sure_they_are_of_each_word(demo, clips):
    items = [item(samples, Effort.QUICK) for samples, *_ in clips.values()]
    together = demo.decode(items)
    for one, heard in zip(items, together, strict=True):
        assert "".join(piece.word for piece in heard.certainties).strip() == heard.text
        assert all(0 <= piece.least <= 1 for piece in heard.certainties)
        assert max(piece.least for piece in heard.certainties) > 0.8
        [alone] = demo.decode([one])
        for piece, other in zip(heard.certainties, alone.certainties, strict=True):
            assert (piece.word, piece.least) == (other.word, pytest.approx(other.least, abs=0.1))


def test_finals_say_it_where_they_are_aligned_anyway(demo, clips):
    samples, text, *_ = clips["light"]
    assert hear(demo, samples).certainties is None
    aligned, quick = hear(demo, samples, words=True), hear(demo, samples, Effort.QUICK)
    assert "".join(piece.word for piece in aligned.certainties).strip() == text
    for piece, other in zip(aligned.certainties, quick.certainties, strict=True):
        assert (piece.word, piece.least) == (other.word, pytest.approx(other.least, abs=0.2))


def test_an_interim_says_how_sure_it_is_that_its_sentence_is_over(demo, clips):
    samples, text, _, end_s = clips["light"]
    over, under_way = (hear(demo, samples[:end], Effort.QUICK) for end in (len(samples), int(16_000 * end_s * 0.6)))
    assert text.endswith(".")
    assert over.ending > 0.7
    assert under_way.ending is None or under_way.ending < over.ending


def test_what_a_search_does_not_say_is_not_known(clips):
    wider = load(interim_beam_size=2)
    assert hear(wider, clips["light"][0], Effort.QUICK).certainties is None
    wider.close()


def test_of_a_word_the_least_sure_token_counts_and_punctuation_does_not(demo):
    codec = demo._codec
    tokenizer = codec.tokenizer_for("en", "transcribe")
    tokens = codec.prefix(item(np.zeros(0), prefix="well, thermometers").options)
    marks = [index for index, token in enumerate(tokens) if codec.is_punctuation(token)]
    assert marks
    probabilities = [0.1 if index in marks else 0.9 - index / 100 for index in range(len(tokens))]
    found = certainties(tokens, probabilities, codec=codec, tokenizer=tokenizer)
    spoken = {piece.word.strip(): piece.least for piece in found if piece.word.strip()}
    assert spoken["thermometers"] == probabilities[-1]
    assert spoken["well"] >= 0.8


@pytest.mark.parametrize(("margin", "kept"), [(100.0, True), (0.0, False)])
def test_a_final_keeps_a_text_if_that_costs_no_more_than_the_margin(demo, clips, margin, kept):
    samples, text, *_ = clips["light"]
    free = hear(demo, samples)
    heard = hear(demo, samples, keep="Turn off the", keep_margin=margin)
    assert heard.text.startswith("Turn off the") == kept
    assert heard.text == text or kept
    assert heard.avg_logprob < free.avg_logprob or not kept
    assert math.isfinite(heard.avg_logprob)


def test_what_is_kept_already_is_not_decoded_again(demo, clips, monkeypatch):
    samples, text, *_ = clips["light"]
    monkeypatch.setattr(Search, "forced", forced := Mock())
    assert hear(demo, samples, keep="turn ON", keep_margin=100.0).text == text
    assert not forced.called


def test_in_a_batch_only_what_contradicts_is_forced(demo, clips):
    keeps = {"light": "Turn off the", "date": "", "number": ""}
    outcomes = demo.decode([item(clips[name][0], keep=keep, keep_margin=100.0) for name, keep in keeps.items()])
    assert outcomes[0].text.startswith("Turn off the")
    assert [outcome.text for outcome in outcomes[1:]] == [clips[name][1] for name in ("date", "number")]


@pytest.mark.parametrize("timed", [False, True])
def test_a_final_does_not_end_early_for_the_text_that_it_keeps(demo, clips, monkeypatch, timed):
    """Both ways of decoding; long audio has timestamps among its tokens."""
    whole = Search.forced

    def stops_early(self, *args, texts, **others):
        attempts = whole(self, *args, texts=texts, **others)
        return [
            attrs.evolve(attempt, tokens=tuple(self.codec.encode(text)))
            for attempt, text in zip(attempts, texts, strict=True)
        ]

    samples, *_ = clips["light"]
    monkeypatch.setattr("sttd.engine.whisper.decoder.LONG_S", 0.1 if timed else 100.0)
    free = hear(demo, samples).text
    monkeypatch.setattr(Search, "forced", stops_early)
    heard = hear(demo, samples, keep="Turn off the", keep_margin=100.0)
    assert heard.text == free.replace("Turn on the", "Turn off the")
    assert len(heard.text) > len("Turn off the") + 5
    assert hear(demo, samples, keep="Turn off the", keep_margin=0.0).text == free


def test_what_cannot_be_put_together_stays_as_it_was_heard(demo, clips, monkeypatch):
    monkeypatch.setattr("sttd.engine.whisper.decoder.completed", lambda *_, **__: None)
    samples, text, *_ = clips["light"]
    assert hear(demo, samples, keep="Turn off the", keep_margin=100.0).text == text


def test_where_forcing_fails_the_free_text_stands(demo, clips, monkeypatch):
    def fail(self, *_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Search, "forced", fail)
    samples, text, *_ = clips["light"]
    assert hear(demo, samples, keep="Turn off the", keep_margin=100.0).text == text


def test_nothing_is_forced_for_somebody_who_left(demo, clips, monkeypatch):
    monkeypatch.setattr(Search, "forced", forced := Mock())
    samples, text, *_ = clips["light"]
    waiters = Mock(spec=Waiters, gone=lambda index: True)
    [heard] = demo.decode([item(samples, keep="Turn off the", keep_margin=100.0)], waiters=waiters)
    assert (heard.text, forced.called) == (text, False)


@pytest.mark.parametrize("options", [{}, {"prefix": "Turn on"}])
def test_the_first_word_is_one_and_has_its_time_and_probability(demo, clips, options):
    samples, text, start_s, _ = clips["light"]
    words = hear(demo, samples, words=True, **options).words
    assert [word.word.strip() for word in words] == text.split()
    assert abs(words[0].start_s - start_s) < 0.15
    assert words[0].end_s > words[0].start_s
    assert words[0].probability > 0.5


def test_what_a_client_writes_is_text_and_no_special_tokens(demo):
    codec = demo._codec
    sneaky = "one <|startoftranscript|> two <|endoftext|> <|notimestamps|>"
    options = item(np.zeros(0), prompt=sneaky, hotwords=(sneaky,), prefix=sneaky).options
    (_, *context), prefix = codec.context(options.prompt, options.hotwords), codec.prefix(options)
    assert context
    assert all(token < codec.eot for token in [*context, *prefix])
    assert codec.decode(prefix).split() == ["one", "two"]


@pytest.mark.parametrize("options", [{}, {"language": "en"}])
def test_a_model_of_one_language_detects_nothing(demo, clips, options):
    samples, text, *_ = clips["light"]
    heard = hear(demo, samples, **options)
    assert (heard.text, heard.language, heard.language_probability) == (text, "en", 1.0)


@pytest.mark.parametrize("length", [0, 1, 400, 16_000 * 31])
@pytest.mark.parametrize("effort", [Effort.FULL, Effort.QUICK, Effort.TIMED])
def test_silence_of_any_length_is_decoded_without_an_error(demo, length, effort):
    heard = hear(demo, np.zeros(length, np.float32), effort, words=True)
    assert heard.no_speech_prob > 0.9
    assert math.isfinite(heard.avg_logprob)


def test_the_language_is_detected_where_none_is_given(multilingual, clips):
    samples = clips["light"][0]
    detected, given = multilingual.decode([item(samples), item(samples, language="fr")])
    assert detected.language in multilingual._decoder._codec.languages
    assert 0 < detected.language_probability < 1
    assert (given.language, given.language_probability) == ("fr", 1.0)


def test_languages_may_differ_within_a_batch_and_words_are_aligned_in_each(multilingual, clips):
    samples = clips["question"][0]
    items = [item(samples, language=language, words=True) for language in ("de", "en", "ja", "de")]
    outcomes = multilingual.decode(items)
    assert [outcome.language for outcome in outcomes] == ["de", "en", "ja", "de"]
    assert outcomes[0].text == outcomes[3].text
    assert outcomes[0].words
    assert outcomes[0].words == outcomes[3].words


def test_an_unknown_language_fails_that_item_alone(multilingual, clips):
    samples = clips["question"][0]
    good, bad = multilingual.decode([item(samples, language="en"), item(samples, language="tlh")])
    assert not isinstance(good, DecodeError)
    assert (bad.code, "tlh" in bad.message) == ("bad_option", True)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"language": "fr"}, "'fr'"),
        ({"languages": Prior.among(("fr", "it"))}, "fr, it"),
        ({"task": "translate"}, "translate"),
        ({"task": "translate", "language": "en"}, "translate"),
    ],
)
def test_an_english_only_model_says_what_it_cannot_and_hears_the_others(demo, english_only, clips, asked, why):
    """A session asks at its start; this is for models of which nothing was known then."""
    samples = clips["question"][0]
    for model in demo, english_only:
        heard, refused = model.decode([item(samples, words=True), item(samples, words=True, **asked)])
        assert (heard.language, heard.language_probability) == ("en", 1.0)
        assert (refused.code, why in refused.message, "`base`" in refused.message) == ("bad_option", True, True)


def test_output_is_bounded_by_the_length_of_the_audio(multilingual):
    """Random weights babble for ever: the bounds of the table must end them."""
    second = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.1
    tokens = []
    decoder = multilingual._decoder
    for one in (item(second, Effort.QUICK, language="en"), item(second, language="en")):
        key = decoder.batch_key(one)
        encoded = encode(decoder._whisper, np.stack([log_mel(decoder._extractor, second, window=key.window)]))
        prompt = decoder._codec.prompt(one.options, language="en", timestamps=False)
        [attempt] = decoder._search._generate(encoded, [one], prompts=[prompt], effort=key.effort, temperature=0.0)
        tokens.append(len(attempt.tokens))
    assert 0 < tokens[0] <= 8 + 16
    assert 0 < tokens[1] <= 24 + 32


def test_timestamps_of_a_babbling_model_stay_within_the_audio(multilingual):
    samples = np.random.default_rng(1).standard_normal(16_000 * 5).astype(np.float32) * 0.1
    heard = hear(multilingual, samples, Effort.TIMED, language="en", words=True)
    assert heard.segments
    assert all(0 <= segment.start_s <= segment.end_s <= 5.0 for segment in heard.segments)
