"""Whisper in a process of its own says what it says here, to the last number."""

from __future__ import annotations

import os
import signal

import attrs
import numpy as np
import pytest

from sttd.core.languages import Prior
from sttd.core.types import Effort
from sttd.engine.contract import Unfinished
from sttd.engine.process.backend import IsolatedBackend
from sttd.engine.process.crew import Crew
from tests.unit.engine.whisper.loaded import DEMO, Waiters, backend, item

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def isolated():
    """A factory of models in processes."""
    models = []

    def load(**options):
        isolated = IsolatedBackend(inner=backend(), crew=Crew(), isolation="process")
        models.append(isolated.load(attrs.evolve(DEMO, options=options), cpu_threads=0, num_workers=1))
        return models[-1]

    yield load
    for model in models:
        model.close()


def test_it_hears_and_groups_the_same(demo, isolated, clips):
    model = isolated()
    batches = [
        [item(clips[name][0], effort, words=words, languages=Prior.among(["en"])) for name in clips]
        for effort, words in ((Effort.QUICK, False), (Effort.FULL, True), (Effort.TIMED, False))
    ]
    for batch in batches:
        assert model.decode(batch) == demo.decode(batch)
    assert (model.device, model.compute_type, model.workers) == (demo.device, demo.compute_type, demo.workers)
    assert model.ram_bytes == demo.ram_bytes > 0
    items = [one for batch in batches for one in batch]
    assert [
        (a, b)
        for a in range(len(items))
        for b in range(a)
        if (model.batch_key(items[a]) == model.batch_key(items[b]))
        != (demo.batch_key(items[a]) == demo.batch_key(items[b]))
    ] == [], "what shares a call here shares one there"
    for one in items:
        assert model.max_batch(model.batch_key(one)) == demo.max_batch(demo.batch_key(one))


def test_different_prompts_share_no_call_from_afar(isolated, clips):
    model = isolated()
    keys = {model.batch_key(item(clips["light"][0], prompt=prompt)) for prompt in ("", "a", "b")}
    assert len(keys) == 3


def test_a_file_that_is_left_between_two_tries_goes_on_in_the_next_process(isolated, clips):
    model = isolated(log_prob_threshold=10.0, no_speech_threshold=2.0)  # rejects everything
    keys, window = [], item(clips["light"][0], Effort.TIMED)
    for _ in range(2):
        keys.append(model.batch_key(window))
        [left] = model.decode([window], waiters=Waiters(rush=True))
        assert isinstance(left, Unfinished)
        window = left.item
        os.kill(model.pid(), signal.SIGKILL)
    assert model.batch_key(window) not in keys
    assert keys[0] != keys[1]
    [heard] = model.decode([window], waiters=Waiters(rush=True))
    assert heard.text == clips["light"][1]


def test_who_needs_no_second_try_is_told_from_there(isolated, clips):
    model = isolated(no_speech_threshold=2.0)
    waiters = Waiters()
    speech, silence = item(clips["light"][0]), item(np.zeros(16_000, np.float32))
    outcomes = model.decode([speech, silence, speech], waiters=waiters)
    assert [(index, told) for index, told, _ in waiters.told] == [(0, outcomes[0]), (2, outcomes[2])]
