"""Items that share a call: who may, how many, and what one of them cannot do to the others."""

from __future__ import annotations

import concurrent.futures

import numpy as np
import pytest

from sttd.core.types import Effort
from sttd.engine.memory import is_out_of_memory
from sttd.errors import DecodeError
from tests.unit.engine.whisper.loaded import DEMO, backend, hear, item, load

pytestmark = pytest.mark.model


def test_prompts_of_equal_length_share_a_key_and_others_do_not(demo, clips):
    samples = clips["light"][0]
    plain = demo.batch_key(item(samples))
    assert plain == demo.batch_key(item(clips["date"][0], language="en"))
    assert plain != demo.batch_key(item(samples, Effort.QUICK))
    assert plain != demo.batch_key(item(samples, Effort.TIMED))
    assert plain != demo.batch_key(item(samples, words=True))
    kitchen, light = (demo.batch_key(item(samples, prompt=prompt)) for prompt in ("the kitchen", "the light"))
    assert kitchen == light != plain
    assert demo.batch_key(item(samples, hotwords=("kitchen",))).context > 0
    lists = [demo.batch_key(item(samples, prompt=" ".join(["kitchen"] * count))) for count in (12, 13, 14, 15, 16)]
    assert lists[0] == lists[3] != lists[4], "longer prompts share a few lengths"
    many = [demo.batch_key(item(samples, hotwords=("kitchen",) * count)).context for count in (6, 7)]
    assert many[0] != many[1], "hotwords are not cut"


@pytest.mark.parametrize("words", [1, 40, 70, 500])
def test_prompts_of_any_length_can_be_decoded_together(demo, clips, words):
    prompts = [" ".join(["kitchen"] * words), " ".join(["light"] * words)]
    items = [item(clips["light"][0], prompt=prompt, language="en") for prompt in prompts]
    keys = {demo.batch_key(one) for one in items}
    assert len(keys) == 1
    assert keys.pop().context <= 129
    assert all(not isinstance(outcome, DecodeError) for outcome in demo.decode(items))


def test_hotwords_come_before_the_end_of_the_prompt(demo):
    codec = demo._decoder._codec
    context = codec.context("one " * 200 + "two", ("kitchen",))
    text = codec._tokenizer.decode(list(context[1:]))
    assert len(context) == 129
    assert text.strip().startswith("kitchen")
    assert text.endswith("two")


def test_one_bad_item_fails_alone(demo, clips):
    good = item(clips["light"][0], language="en")
    bad = item(np.array([[1.0, 2.0]], np.float32), language="en")
    outcomes = demo.decode([good, good, bad, good])
    assert [isinstance(outcome, DecodeError) for outcome in outcomes] == [False, False, True, False]
    assert outcomes[2].code == "decode_failed"
    assert [outcome.text for outcome in outcomes if not isinstance(outcome, DecodeError)] == [
        "Turn on the kitchen light."
    ] * 3


def test_want_of_memory_is_told_apart_and_left_to_whoever_knows_the_queue(clips, monkeypatch):
    model = load()
    sizes = []

    def short_of_memory(self, batch, **rest):
        sizes.append(len(batch))
        raise RuntimeError("CUDA failed with error out of memory")

    monkeypatch.setattr(type(model._decoder), "decode", short_of_memory)
    outcomes = model.decode([item(clips["light"][0])] * 4)
    assert sizes == [4]
    assert [outcome.code for outcome in outcomes] == ["out_of_memory"] * 4
    model.close()


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (RuntimeError("CUDA failed with error out of memory"), True),
        (RuntimeError("std::bad_alloc"), True),
        (MemoryError(), True),
        (RuntimeError("No such layer"), False),
    ],
)
def test_out_of_memory_is_known_by_its_text(error, answer):
    assert is_out_of_memory(error) is answer


def test_several_threads_decode_at_once(clips):
    model = backend().load(DEMO, cpu_threads=1, num_workers=2)
    assert model.workers == 2
    names = list(clips) * 3
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        heard = list(threads.map(lambda name: hear(model, clips[name][0]).text, names))
    assert heard == [clips[name][1] for name in names]
    model.close()


def test_batches_are_bounded_by_memory(demo, clips, monkeypatch):
    key = demo.batch_key(item(clips["light"][0]))
    assert 1 <= demo.max_batch(key) <= 8
    monkeypatch.setattr("sttd.engine.memory.available_bytes", lambda: 0)
    assert demo.max_batch(key) == 1
