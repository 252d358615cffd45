"""How sentences become training clips, and what the decoder is to say for them."""

import random

import numpy as np
import pytest

from training.demo_model.clips import RATE, Clip, ClipMaker, Placed, Style, _heard
from training.demo_model.corpus import Item
from training.demo_model.noises import Noises
from training.demo_model.phones import IGNORED, SILENCE
from training.demo_model.targets import IGNORE, TargetMaker
from training.demo_model.tokens import build_tokenizer, load_tokenizer

SHORT = Style(longest_s=5.0, fill_s=None, hardness=0.0, cut_share=0.0)
FULL = Style(longest_s=36.0, fill_s=(16.0, 31.0), hardness=1.0, cut_share=0.15)


def item(*, seconds=1.0, text="Turn left."):
    """A tone for each word, from one end to the other."""
    count = round(seconds * RATE)
    samples = (0.2 * np.sin(2 * np.pi * 300 * np.arange(count) / RATE)).astype(np.float32)
    edges = np.linspace(0, count, len(text.split()) + 1).astype(np.int32)
    words = np.stack([edges[:-1], edges[1:]], 1)
    phones = np.column_stack([np.full(len(words), 7), words])
    return Item(samples=samples, text=text, words=words, phones=phones)


def maker(seed=3):
    rng = random.Random(seed)
    return ClipMaker(readers=[[item(), item(seconds=2.0)]], shares=[1.0], rng=rng, noises=Noises(rng=rng))


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    path = tmp_path_factory.mktemp("targets") / "tokenizer.json"
    build_tokenizer(path)
    return TargetMaker(*load_tokenizer(path), rng=random.Random(1))


def placed(*words, text, complete=True):
    return Placed(text=text, words=list(words), complete=complete)


def test_a_faster_sentence_keeps_its_marks():
    fast = item(seconds=2.0).at_speed(1.25)
    assert len(fast.samples) == pytest.approx(1.6 * RATE, abs=2)
    assert fast.words.tolist() == [[0, 12800], [12800, 25600]]
    assert fast.phones.tolist() == [[7, 0, 12800], [7, 12800, 25600]]
    spectrum = np.abs(np.fft.rfft(fast.samples))
    assert spectrum.argmax() * RATE / len(fast.samples) == pytest.approx(375, abs=2)  # the voice is higher too


def test_clips_are_as_long_as_their_style_allows_and_words_lie_in_them():
    made = maker()
    for style in (SHORT, FULL):
        for _ in range(20):
            clip = made.speech(style)
            assert clip.samples.dtype == np.float32
            assert np.abs(clip.samples).max() <= 1
            assert clip.duration_s <= min(style.longest_s, 30.0)
            times = [time for sentence in clip.sentences for word in sentence.words for time in word]
            assert times == sorted(times)
            assert times[-1] <= clip.duration_s + 0.02
            assert set(clip.phones.tolist()) <= {SILENCE, IGNORED, 7}


def test_the_same_seed_makes_the_same_clips():
    one, two = maker(8).speech(FULL), maker(8).speech(FULL)
    np.testing.assert_array_equal(one.samples, two.samples)


def test_a_clip_without_speech_has_no_sentence():
    clip = maker().silent(longest_s=3.0)
    assert clip.sentences == []
    assert set(clip.phones.tolist()) <= {SILENCE}


@pytest.mark.parametrize(
    ("cut_s", "text"),
    [(2.0, "Turn left."), (1.98, "Turn left."), (1.9, "Turn left"), (1.8, "Turn"), (1.0, "Turn"), (0.5, None)],
)
def test_a_word_that_the_end_cuts_counts_once_most_of_it_was_heard(cut_s, text):
    heard = _heard([placed((0.0, 1.0), (1.0, 2.0), text="Turn left.")], cut_s=cut_s)
    assert [sentence.text for sentence in heard] == ([] if text is None else [text])


def clip_of(*sentences, seconds):
    return Clip(samples=np.zeros(round(seconds * RATE), np.float32), sentences=list(sentences), phones=np.zeros(1))


def test_targets_say_the_words_between_the_times_of_their_sentence(targets):
    clip = clip_of(placed((0.4, 0.8), (0.8, 1.2), text="Turn left."), seconds=2.0)
    shapes = set()
    for _ in range(100):
        target = targets.target(clip)
        assert len(target.inputs) == len(target.labels)
        assert target.labels[-1] == targets.ids.end
        said = [label for label in target.labels if label not in (IGNORE, targets.ids.end)]
        times = [token for token in said if token >= targets.ids.timestamp_0]
        text = [token for token in said if token < targets.ids.end and token != targets.ids.quiet]
        assert targets.tokenizer.decode(text) == " Turn left."
        assert times in ([], [targets.ids.timestamp(0.4), targets.ids.timestamp(1.2)])
        shapes.add((bool(times), targets.ids.language in target.inputs, targets.ids.previous in target.inputs))
    assert len(shapes) > 4  # with and without times, language and prompt


def test_a_sentence_that_a_full_window_cuts_is_left_to_the_next_one(targets):
    whole = placed((1.0, 2.0), (2.0, 3.0), text="Turn left.")
    torn = placed((29.0, 29.9), text="Turn", complete=False)
    for _ in range(20):
        target = targets.target(clip_of(whole, torn, seconds=30.0))
        if targets.ids.no_timestamps not in target.inputs:
            assert target.labels[-2:] == [targets.ids.timestamp(29.0), targets.ids.end]


def test_silence_is_the_token_for_it_and_an_end(targets):
    times = set()
    for _ in range(60):
        target = targets.target(clip_of(seconds=2.0))
        assert [label for label in target.labels if label != IGNORE] == [targets.ids.no_speech, targets.ids.end]
        times.update(token for token in target.inputs if token >= targets.ids.timestamp_0)
    assert len(times) > 5, "whichever first timestamp is forced, the end follows"
    assert max(times) <= targets.ids.timestamp(1.0)
