"""Items with what was said before in front of them, decoded by the embedded model."""

from __future__ import annotations

from unittest.mock import Mock

import attrs
import numpy as np
import pytest

from sttd.core import leads
from sttd.core.types import SAMPLE_RATE, Lead
from sttd.engine.contract import Waiters
from sttd.engine.whisper.search import Search
from tests.unit.engine.whisper.loaded import item

pytestmark = pytest.mark.model


def behind(first, second, **options):
    """The second clip with the first in front of it."""
    samples, text, *_ = first
    one = item(np.concatenate([samples, second[0]]), **options)
    return attrs.evolve(one, lead=Lead(samples=len(samples), text=text))


def decode(model, *items, **more):
    return model.decode(items, **more)


def test_what_is_heard_is_of_the_item_alone(demo, clips, monkeypatch):
    """The demo model ends at the first sentence, unless it is told to go on: what it says of both is made up here."""
    light, question = clips["light"], clips["question"]
    both = f"{light[1]} {question[1]}"
    monkeypatch.setattr(Search, "attempts", heard_as(Search.attempts, demo, both))
    [heard] = decode(demo, behind(light, question, words=True))
    assert heard.text == question[1]
    assert "".join(word.word for word in heard.words).split() == question[1].split()
    end_s = len(question[0]) / SAMPLE_RATE
    assert all(0 <= word.start_s <= word.end_s <= end_s for word in heard.words)
    assert abs(heard.words[-1].end_s - question[3]) < 0.5
    assert [segment.text for segment in heard.segments] == [question[1]]


def heard_as(attempts, model, text):
    """Every item that is as long as two is heard as that."""
    codec = model._decoder._codec
    tokens = tuple(codec.prefix(item(np.zeros(0), prefix=text).options))

    def made_up(self, encoded, batch, **more):
        for found in attempts(self, encoded, batch, **more):
            yield {
                index: attrs.evolve(one, tokens=tokens) if batch[index].lead is not None else one
                for index, one in found.items()
            }

    return made_up


def test_where_the_text_breaks_off_the_item_is_decoded_alone(demo, clips, monkeypatch):
    light, question, date = clips["light"], clips["question"], clips["date"]
    monkeypatch.setattr(Search, "attempts", heard_as(Search.attempts, demo, light[1]))
    first, second = decode(demo, behind(light, question), item(date[0]))
    assert (first.text, second.text) == (question[1], date[1])


def test_for_somebody_who_left_it_is_not_decoded_again(demo, clips, monkeypatch):
    light, question = clips["light"], clips["question"]
    monkeypatch.setattr(Search, "attempts", heard_as(Search.attempts, demo, light[1]))
    monkeypatch.setattr(leads, "own", own := Mock(return_value=None))
    calls = Mock(wraps=demo._decoder._whisper)
    monkeypatch.setattr(demo._decoder, "_whisper", calls)
    decode(demo, behind(light, question), waiters=Mock(spec=Waiters, gone=lambda index: True))
    assert own.called
    assert calls.encode.call_count == 1


def test_what_is_to_be_kept_is_kept_behind_what_was_heard_of_the_lead(demo, clips, monkeypatch):
    light, question = clips["light"], clips["question"]
    monkeypatch.setattr(Search, "attempts", heard_as(Search.attempts, demo, f"{light[1]} {question[1]}"))
    asked = []
    forced = Search.forced

    def noting(self, *given, texts, **more):
        asked.extend(texts)
        return forced(self, *given, texts=texts, **more)

    monkeypatch.setattr(Search, "forced", noting)
    first_word = question[1].split()[0]
    [same] = decode(demo, behind(light, question, keep=first_word, keep_margin=100.0))
    assert (same.text, asked) == (question[1], [])
    [kept] = decode(demo, behind(light, question, keep="Turn it", keep_margin=100.0))
    assert asked == [f"{light[1]} Turn it"]
    assert kept.text.startswith("Turn it")
