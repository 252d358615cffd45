"""Second tries: other temperatures, segments left open, and who is not waited for."""

from __future__ import annotations

import attrs
import numpy as np
import pytest

from sttd.core.types import Effort, Hypothesis, Segment
from sttd.engine.whisper.passes import Known
from sttd.engine.whisper.search import Search
from sttd.engine.whisper.segments import speaks_on
from tests.unit.engine.whisper.loaded import Waiters, hear, item, load

pytestmark = pytest.mark.model


def test_a_rejected_final_climbs_the_temperatures_and_keeps_the_best(clips, monkeypatch):
    model = load(log_prob_threshold=10.0, no_speech_threshold=2.0, temperatures=[0.0, 0.5, 1.0])
    temperatures = []
    generate = Search._generate

    def spy(self, encoded, items, **rest):
        temperatures.append((rest["temperature"], len(items)))
        return generate(self, encoded, items, **rest)

    monkeypatch.setattr(Search, "_generate", spy)
    outcomes = model.decode([item(clips[name][0]) for name in ("light", "date")])
    assert temperatures == [(0.0, 2), (0.5, 2), (1.0, 2)]
    assert [outcome.text for outcome in outcomes] == [clips["light"][1], clips["date"][1]]
    model.close()


def test_only_rejected_items_are_tried_again(clips, monkeypatch):
    model = load(no_speech_threshold=2.0)
    counts = []
    generate = Search._generate
    monkeypatch.setattr(
        Search,
        "_generate",
        lambda self, encoded, items, **rest: (counts.append(len(items)), generate(self, encoded, items, **rest))[1],
    )
    speech, silence = item(clips["light"][0]), item(np.zeros(16_000, np.float32))
    waiters = Waiters(counts)
    outcomes = model.decode([speech, silence, speech], waiters=waiters)
    assert counts[:2] == [3, 1]
    # Who needs no second try does not wait for one.
    assert waiters.told == [(0, outcomes[0], 1), (2, outcomes[2], 1)]
    assert outcomes[0].text == outcomes[2].text == clips["light"][1]
    assert (outcomes[0].temperature, outcomes[1].temperature > 0) == (0.0, True)
    model.close()


def test_a_file_is_left_between_two_tries_when_somebody_waits(clips, monkeypatch):
    model = load(log_prob_threshold=10.0, no_speech_threshold=2.0)  # rejects everything
    temperatures, scores = [], []
    generate = Search._generate

    def spy(self, encoded, items, **rest):
        [attempt] = generate(self, encoded, items, **rest)
        temperatures.append(rest["temperature"])
        scores.append(attempt.avg_logprob)
        return [attempt]

    monkeypatch.setattr(Search, "_generate", spy)
    window = item(clips["light"][0], Effort.TIMED)
    keys = [model.batch_key(window)]
    [left] = model.decode([window], waiters=Waiters(rush=True))
    keys.append(model.batch_key(left.item))
    [left] = model.decode([left.item], waiters=Waiters(rush=True))
    keys.append(model.batch_key(left.item))
    [heard] = model.decode([left.item], waiters=Waiters(rush=True))
    assert temperatures == [0.0, 0.4, 0.8]
    assert len(set(keys)) == 3  # what is tried at different temperatures shares no call
    assert heard.text == clips["light"][1]
    assert heard.avg_logprob == max(scores)  # the best of them: what is drawn at random may well beat the search
    [left] = model.decode([window], waiters=Waiters(rush=True))
    [heard] = model.decode([left.item], waiters=Waiters())
    assert temperatures[3:] == [0.0, 0.4, 0.8]
    model.close()


@pytest.fixture
def stops_early(demo, monkeypatch):
    """The model leaves a window behind its first segment, as real ones do; returns what it writes behind it."""
    generate = Search._generate
    begin = demo._decoder._codec.timestamp_begin
    left = {"behind": 2}  # timestamps: the end of a segment, and the start of the next

    def stop_early(self, encoded, items, **rest):
        attempts = generate(self, encoded, items, **rest)
        return [attrs.evolve(attempt, tokens=until_pair(attempt.tokens)) for attempt in attempts]

    def until_pair(tokens):
        pairs = [at for at in range(1, len(tokens) - 2) if tokens[at] >= begin and tokens[at + 1] >= begin]
        return tokens[: pairs[0] + left["behind"]] if pairs else tokens

    monkeypatch.setattr(Search, "_generate", stop_early)
    return left


@pytest.mark.usefixtures("stops_early")
@pytest.mark.parametrize("words", [False, True])
def test_a_segment_that_was_left_open_is_gone_on_with(demo, clips, words):
    """In the same call, or in one of its own when somebody waits: with the same outcome."""
    first, second = clips["light"], clips["question"]
    window = item(np.concatenate([first[0], second[0]]), Effort.TIMED, words=words)
    [whole] = demo.decode([window])
    assert [segment.text for segment in whole.segments] == [first[1], second[1]]
    offset_s = len(first[0]) / 16_000
    assert abs(whole.segments[1].start_s - offset_s - second[2]) < 0.3
    if words:
        assert abs(whole.segments[1].words[0].start_s - offset_s - second[2]) < 0.3
    [left] = demo.decode([window], waiters=Waiters(rush=True))
    assert len(left.item.samples) < len(window.samples)
    [again] = demo.decode([left.item], waiters=Waiters(rush=True))
    assert (again.text, again.segments) == (whole.text, whole.segments)
    [gone] = demo.decode([window], waiters=Waiters(left=(0,)))
    assert gone.text == first[1]


@pytest.mark.usefixtures("stops_early")
def test_windows_of_every_kind_share_a_call(demo, clips):
    """One whole, one left open, one left open for nobody: each has its own text, in its place."""
    pairs = [("date", "number"), ("light", "question"), ("question", "date")]
    windows = [item(np.concatenate([clips[one][0], clips[two][0]]), Effort.TIMED) for one, two in pairs]
    windows.insert(0, item(clips["light"][0], Effort.TIMED))
    expected = [clips["light"][1], *[f"{clips[one][1]} {clips[two][1]}" for one, two in pairs]]
    assert [heard.text for heard in demo.decode(windows, waiters=Waiters())] == expected
    expected[2] = clips["light"][1]
    assert [heard.text for heard in demo.decode(windows, waiters=Waiters(left=(2,)))] == expected
    results = demo.decode(windows, waiters=Waiters(rush=True, left=(2,)))
    assert [hasattr(result, "item") for result in results] == [False, True, False, True]
    rests = demo.decode([results[1].item, results[3].item], waiters=Waiters(rush=True))
    assert [rest.text for rest in rests] == [expected[1], expected[3]]


@pytest.fixture
def every_final_is_long(monkeypatch):
    monkeypatch.setattr("sttd.engine.whisper.decoder.LONG_S", 3.0)


@pytest.mark.usefixtures("stops_early", "every_final_is_long")
@pytest.mark.parametrize("final_windows", [[], [1500]])
def test_a_long_final_that_was_left_open_is_gone_on_with_at_once(clips, final_windows):
    """With what it is to keep, and beside one that needs nothing; whoever speaks meanwhile waits, as for any final."""
    model = load(final_windows=final_windows)
    light, question, date = (clips[name] for name in ("light", "question", "date"))
    both = np.concatenate([light[0], question[0]])
    wanted = f"{light[1]} {question[1]}"
    waiters = Waiters(rush=True)
    heard = model.decode([item(date[0]), item(both, words=False)], waiters=waiters)
    assert [one.text for one in heard] == [date[1], wanted]
    assert [segment.text for segment in heard[1].segments] == [light[1], question[1]]
    [kept] = model.decode([item(both, words=True, keep="Turn on the kitchen light", keep_margin=1.0)])
    assert kept.text == wanted
    assert "".join(word.word for word in kept.words).split() == wanted.split()
    assert "".join(certain.word for certain in kept.certainties).split() == wanted.split()
    [left] = model.decode([item(both)], waiters=Waiters(left=(0,)))
    assert left.text == light[1]
    model.close()


@pytest.mark.usefixtures("every_final_is_long")
def test_a_long_final_whose_text_ends_before_the_speech_does_is_gone_on_with(demo, clips, stops_early):
    stops_early["behind"] = 1  # no next segment was opened
    light, question = clips["light"], clips["question"]
    both = np.concatenate([light[0], question[0]])
    [spoken] = demo.decode([item(both)])
    assert spoken.text == f"{light[1]} {question[1]}"
    [window] = demo.decode([item(both, Effort.TIMED)])  # of a file, as faster-whisper does it
    assert window.text == light[1]


def test_speech_goes_on_where_something_is_as_loud_as_the_vowels_before():
    second = np.ones(16_000, np.float32)
    spoken = np.concatenate([second, 0.01 * second, 0.3 * second[:4_000]])
    assert speaks_on(spoken, after_s=1.0)
    assert not speaks_on(spoken, after_s=2.1)  # the rest of it is too short for a syllable
    assert not speaks_on(spoken[:32_000], after_s=1.0)
    assert not speaks_on(spoken, after_s=3.0)
    assert not speaks_on(np.zeros(0, np.float32), after_s=0.0)


def test_what_a_rest_invents_is_left_out():
    def heard(text, **changes):
        return Hypothesis(
            text=text, segments=(Segment(text=text, start_s=0.0, end_s=2.0),), avg_logprob=-0.2, **changes
        )

    known = Known(head=heard("Turn on the light.", ending=0.9), at_s=3.0)
    whole = known.whole(heard("What time is it?", ending=0.4))
    assert (whole.text, whole.ending) == ("Turn on the light. What time is it?", 0.4)
    assert [segment.start_s for segment in whole.segments] == [0.0, 3.0]
    assert known.whole(heard("Thank you.", no_speech_prob=0.9)) == known.head
    assert known.whole(heard("")) == known.head


@pytest.mark.parametrize(
    ("language", "head", "rest", "whole"),
    [
        ("en", "Turn on the light.", "And the fan.", "Turn on the light. And the fan."),
        ("zh", "请打开厨房的灯。", "然后打开风扇。", "请打开厨房的灯。然后打开风扇。"),
    ],
)
def test_a_rest_is_joined_as_the_language_writes(language, head, rest, whole):
    def heard(text):
        segment = Segment(text=text, start_s=0.0, end_s=4.0, avg_logprob=-0.1)
        return Hypothesis(text=text, segments=(segment,), language=language, language_probability=1.0, avg_logprob=-0.1)

    assert Known(head=heard(head), at_s=3.0).whole(heard(rest)).text == whole


@pytest.mark.usefixtures("stops_early", "every_final_is_long")
def test_nobody_is_told_a_long_final_before_it_is_whole(demo, clips, monkeypatch):
    light, question, date = (clips[name] for name in ("light", "question", "date"))
    rejected = lambda self, attempt: attempt.temperature == 0 and date[1] in self.codec.decode(attempt.tokens)  # noqa: E731
    monkeypatch.setattr(Search, "_rejected", rejected)  # who waits for a second try of that one?
    left_open = np.concatenate([light[0], question[0]])
    alone, again = (np.pad(each, (0, 16_000 * 4 - len(each))) for each in (question[0], date[0]))
    waiters = Waiters()
    heard = demo.decode([item(left_open), item(alone), item(again)], waiters=waiters)
    assert [one.text for one in heard] == [f"{light[1]} {question[1]}", question[1], date[1]]
    assert [(index, told.text) for index, told, _ in waiters.told] == [(1, question[1])]


def test_nobody_is_tried_for_who_is_gone(clips, monkeypatch):
    model = load(log_prob_threshold=10.0, no_speech_threshold=2.0)  # rejects everything
    counts = []
    generate = Search._generate
    monkeypatch.setattr(
        Search,
        "_generate",
        lambda self, encoded, items, **rest: (counts.append(len(items)), generate(self, encoded, items, **rest))[1],
    )
    outcomes = model.decode([item(clips[name][0]) for name in ("light", "date")], waiters=Waiters(counts, left=(1,)))
    assert counts == [2, 1, 1]
    assert (outcomes[1].text, outcomes[1].temperature) == (clips["date"][1], 0.0)
    model.close()


def test_a_window_that_was_left_open_is_gone_on_with(demo, clips, monkeypatch):
    """Whisper may close a sentence, open the next and stop; faster-whisper then seeks there, and so do we."""
    samples = np.concatenate([clips["light"][0], clips["question"][0]])
    generate, begin = Search._generate, demo._decoder._codec.timestamp_begin
    lengths = []

    def stop_early(self, encoded, items, **rest):
        attempts = generate(self, encoded, items, **rest)
        lengths.append(len(items[0].samples))
        if len(lengths) > 1:
            return attempts
        tokens = attempts[0].tokens
        pair = next(at for at in range(1, len(tokens)) if tokens[at] >= begin and tokens[at - 1] >= begin)
        return [attrs.evolve(attempts[0], tokens=tokens[: pair + 1])]

    monkeypatch.setattr(Search, "_generate", stop_early)
    heard = hear(demo, samples, Effort.TIMED, words=True)
    assert lengths[0] > lengths[1]
    assert heard.text == f"{clips['light'][1]} {clips['question'][1]}"
    offset_s = len(clips["light"][0]) / 16_000
    assert abs(heard.segments[-1].end_s - offset_s - clips["question"][3]) < 0.3
    assert [word.start_s for word in heard.words] == sorted(word.start_s for word in heard.words)
