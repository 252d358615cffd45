"""What the demo model is taught to write: the grammar's sentences and the tokenizer's pieces."""

import itertools
import json
import random
from pathlib import Path

import pytest

from training.demo_model import grammar
from training.demo_model.corpus import EVALUATION_SENTENCES, evaluation_texts
from training.demo_model.lexicon import HOMOPHONES
from training.demo_model.tokens import build_tokenizer, case_pairs, encode_text, load_tokenizer

MODEL = Path(__file__).parents[3] / "sttd" / "assets" / "demo-model"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "tokenizer.json"
    build_tokenizer(path)
    return path


def sentences(count, **options):
    rng = random.Random(5)
    return [grammar.sentence(rng, **options) for _ in range(count)]


def plain(text):
    """The words of a sentence as the vocabulary spells them, but for the first one's capital."""
    return text.rstrip(".?").split()


def test_sentences_use_the_vocabulary_and_nothing_else():
    known = set(grammar.vocabulary())
    assert len(known) >= 1000
    for text in sentences(2000):
        first, *others = plain(text)
        assert {first, first[0].lower() + first[1:]} & known, text
        assert known.issuperset(others), text


def test_the_same_seed_makes_the_same_sentences():
    assert sentences(50) == sentences(50)
    assert len(set(sentences(200))) > 150


def test_a_random_list_holds_nothing_that_only_a_sentence_could_decide():
    for text in sentences(2000, random_share=1.0):
        assert not HOMOPHONES.intersection(word.lower() for word in plain(text)), text


def test_no_two_words_of_a_list_sound_like_a_third():
    listed = set(grammar.listening_words())
    joined = {first + second for first, second in itertools.product(listed, repeat=2)}
    # Parts that are shorter are no words of their own to a listener: `soon` is not `so` and `on`.
    assert {word for word in joined & listed if len(word) > 5} <= {"sometimes"}


def test_the_evaluation_has_texts_of_its_own():
    texts = evaluation_texts()
    assert [len(each) for each in texts] == [EVALUATION_SENTENCES] * 3
    assert len(set(itertools.chain(*texts))) == 3 * EVALUATION_SENTENCES
    assert not grammar.fixed_phrases().intersection(itertools.chain(*texts))


def test_every_word_is_one_token_and_comes_back(built):
    tokenizer, _ = load_tokenizer(built)
    for text in sentences(1000):
        ids = encode_text(tokenizer, text)
        assert len(ids) == len(text.split()) + 1, text  # and the full stop
        assert tokenizer.decode(ids) == " " + text


@pytest.mark.parametrize("text", ["Kubernetes and Zürich.", "日本語", "e-mail: a@b.c", "o'clock's", "\n\t"])
def test_any_other_text_can_be_written_too(built, text):
    tokenizer, ids = load_tokenizer(built)
    pieces = encode_text(tokenizer, text)
    assert tokenizer.decode(pieces) == " " + text
    assert max(pieces) < ids.end


def test_capitals_lead_to_their_small_spelling(built):
    tokenizer, _ = load_tokenizer(built)
    for capital, small in case_pairs(tokenizer).items():
        assert tokenizer.id_to_token(capital)[1:].lower() == tokenizer.id_to_token(small)[1:].lower()


def test_special_tokens_lie_where_whisper_has_them(built):
    _, ids = load_tokenizer(built)
    assert ids.end < ids.start < ids.language < ids.transcribe < ids.previous < ids.no_speech < ids.no_timestamps
    assert ids.timestamp_0 == ids.no_timestamps + 1
    assert ids.timestamp(30.0) == ids.total - 1
    assert ids.timestamp(-1.0) == ids.timestamp_0


def test_the_shipped_model_has_the_words_of_this_grammar(built):
    assert json.loads((MODEL / "tokenizer.json").read_text()) == json.loads(built.read_text())
    tokenizer, ids = load_tokenizer(built)
    vocabulary = json.loads((MODEL / "vocabulary.json").read_text())
    assert vocabulary == [tokenizer.id_to_token(index) for index in range(ids.total)]
