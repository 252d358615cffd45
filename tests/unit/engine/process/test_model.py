"""A model in a process of its own: the same text, and what becomes of it when the process crashes, hangs or is killed.

The processes are real, and so are the signals.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from unittest.mock import Mock

import attrs
import numpy as np
import pytest

from sttd.core.types import SAMPLE_RATE, DecodeItem, DecodeOptions, Effort
from sttd.engine.contract import Preset, Unfinished
from sttd.engine.process.backend import IsolatedBackend
from sttd.engine.process.crew import Crew
from sttd.engine.process.model import STARTS, ProcessModel
from sttd.errors import DecodeError, ModelError
from sttd.host import privacy
from tests.running import PATIENCE_S, eventually
from tests.unit.engine.process.doubles import DoubleBackend


def item(seconds=1.0, prompt="", **fields):
    samples = np.zeros(int(seconds * SAMPLE_RATE), np.float32)
    return DecodeItem(samples=samples, options=DecodeOptions(prompt=prompt), **fields)


@attrs.define
class Waiting:
    """Those who wait for a call."""

    patience: float = PATIENCE_S
    told: list = attrs.field(factory=list)
    setbacks: int = 0

    def tell(self, index, hypothesis):
        self.told.append((index, hypothesis.text))

    def gone(self, index):
        return index == 1

    def hurry(self):
        return True

    def patience_s(self):
        return self.patience

    def set_back(self, waits_for=None):
        self.setbacks += 1


@pytest.fixture
def crew():
    return Crew()


@pytest.fixture
def load(crew):
    """A factory of models in processes; each is closed."""
    models = []

    def loaded(model="", *, workers=1):
        backend = IsolatedBackend(inner=DoubleBackend(), crew=crew, isolation="process")
        preset = Preset(name="double", backend="fake", model=model)
        models.append(backend.load(preset, cpu_threads=1, num_workers=workers))
        return models[-1]

    yield loaded
    for model in models:
        model.close()


def texts(results):
    return [result.code if isinstance(result, DecodeError) else result.text for result in results]


def is_there(pid):
    """Whether a process is there, and no zombie."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"
    return False


def test_it_hears_the_same_elsewhere_and_answers_for_itself(load):
    model = load(workers=2)
    here = DoubleBackend().load(Preset(name="x", backend="fake"), cpu_threads=1, num_workers=2)
    batch = [item(1.0), item(2.0)]
    assert model.decode(batch) == here.decode(batch)
    (answer,) = model.decode([item(prompt="pid")])
    assert int(answer.text) == model.pid() != os.getpid()
    assert (model.device, model.workers, model.parkable, model.park()) == ("cpu", 2, False, False)
    assert model.batch_key(batch[0]) is Effort.FULL
    assert model.max_batch(Effort.FULL) == here.max_batch(Effort.FULL)


@pytest.mark.parametrize("kept", [True, False])
def test_the_process_has_a_core_where_the_daemon_has_one(load, monkeypatch, kept):
    monkeypatch.setattr(privacy, "keeps_memory", lambda: kept)
    limits = (0, 0) if kept else resource.getrlimit(resource.RLIMIT_CORE)
    assert texts(load().decode([item(prompt="core")])) == [f"{kept} {limits}"]


def test_the_process_asks_and_tells_those_who_wait(load):
    waiting = Waiting()
    results = load().decode([item(prompt="ask"), item()], waiters=waiting)
    assert waiting.told == [(0, "([False, True], True)")]
    assert texts(results) == ["w1 w2 w3", "w1 w2 w3"]


def test_what_is_left_of_an_item_comes_back_with_what_was_found_out(load):
    model = load()
    (left,) = model.decode([item(prompt="leave")])
    assert isinstance(left, Unfinished)
    (left,) = model.decode([left.item])
    assert texts(model.decode([left.item])) == [f"2 1 {SAMPLE_RATE - 2 * 4800}"]


def test_odd_results_and_errors_cost_their_items_alone(load, crew):
    model = load()
    assert texts(model.decode([item(prompt="odd"), item(), item()])) == ["decode_failed", "decode_failed", "w1 w2 w3"]
    assert texts(model.decode([item(prompt="fail")])) == ["out_of_memory"]
    assert crew.restarts == 0


def test_audio_that_kills_the_process_twice_fails_and_what_was_beside_it_has_its_words(load, crew):
    model, waiting = load(), Waiting()
    first = model.pid()
    results = model.decode([item(prompt="tell-and-crash"), item(), item(prompt="crash"), item(2.0)], waiters=waiting)
    assert texts(results) == ["told", "w1 w2 w3", "decode_failed", "w1 w2 w3 w4 w5 w6"]
    assert waiting.told == [(0, "told")]
    assert (crew.restarts, waiting.setbacks > 0) == (3, True)
    assert "SIGSEGV" in crew.trouble
    assert texts(model.decode([item()])) == ["w1 w2 w3"], "and the model serves on"
    assert model.pid() != first


def test_a_process_that_lost_its_device_is_ended_and_nobody_hears_of_it(load, crew, tmp_path):
    path = tmp_path / "fault"
    path.touch()
    model = load()
    assert texts(model.decode([item(prompt=f"lose {path}"), item()])) == ["w1 w2 w3"] * 2
    assert crew.restarts == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_process_that_is_killed_under_two_calls_costs_neither_a_word(load, crew, number):
    model = load(workers=2)
    with ThreadPoolExecutor(2) as threads:
        slow = [threads.submit(model.decode, [item(prompt="sleep 0.5")]) for _ in range(2)]
        eventually(lambda: len(model._worker._calls) == 2)
        os.kill(model.pid(), number)
        assert [texts(each.result(PATIENCE_S)) for each in slow] == [["w1 w2 w3"]] * 2
    assert crew.restarts == 1


def test_a_decode_that_hangs_is_told_in_time_and_who_was_beside_it_has_his_words(load, crew):
    model = load(workers=2)
    with ThreadPoolExecutor(2) as threads:
        beside = threads.submit(model.decode, [item(prompt="sleep 1")], waiters=Waiting())
        eventually(lambda: len(model._worker._calls) == 1)
        started = time.monotonic()
        hung = threads.submit(model.decode, [item(prompt="hang")], waiters=Waiting(patience=6.0))
        assert texts(hung.result(PATIENCE_S)) == ["decode_failed"]
        assert time.monotonic() - started < 60, "of 6, on a machine with other work to do"
        assert texts(beside.result(PATIENCE_S)) == ["w1 w2 w3"]
    assert "did not answer" in crew.trouble
    assert texts(model.decode([item()])) == ["w1 w2 w3"]


def test_a_process_that_dies_idle_costs_nothing_but_its_start(load, crew):
    model = load()
    for mend in (model.mend, lambda: None):  # before the next use, and at it
        os.kill(model.pid(), signal.SIGKILL)
        eventually(model.wants_mending)
        mend()
        assert texts(model.decode([item()])) == ["w1 w2 w3"]
    assert crew.restarts == 2


def test_unload_ends_the_process(load, crew):
    model = load()
    pid = model.pid()
    assert crew.pids() == (pid,)
    model.close()
    assert not is_there(pid)
    assert (model.pid(), crew.pids()) == (None, ())


def test_a_model_that_is_given_up_ends_with_the_decode_in_it(load):
    model = load()
    pid = model.pid()
    with ThreadPoolExecutor(1) as threads:
        hung = threads.submit(model.decode, [item(prompt="hang")])
        eventually(lambda: model._worker._calls)
        model.abandon()
        assert texts(hung.result(PATIENCE_S)) == ["decode_failed"]
    eventually(lambda: not is_there(pid))


def test_the_end_of_the_daemon_ends_a_process_that_hangs_with_the_interpreter_s_lock():
    program = """
import sys, threading, time
from tests.unit.engine.process.test_model import *
backend = IsolatedBackend(inner=DoubleBackend(), crew=Crew(), isolation="process")
model = backend.load(Preset(name="double", backend="fake", model=""), cpu_threads=1, num_workers=1)
threading.Thread(target=model.decode, args=([item(prompt="hang")],)).start()
while not model._worker._calls: time.sleep(0.01)
time.sleep(0.3)
print(model.pid(), flush=True)
time.sleep(3600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as daemon:
        pid = int(daemon.stdout.readline())
        assert is_there(pid)
        daemon.kill()
    eventually(lambda: not is_there(pid))


# ---------------------------------------------------------------- parking


def test_parked_weights_come_back_in_the_process_or_from_disk_where_it_died(load, crew):
    model = load("device")
    first = model.pid()
    assert (model.parkable, model.device, model.vram_bytes, model.ram_bytes) == (True, "cuda:0", 1000, 0)
    assert model.park()
    assert (model.vram_bytes, model.ram_bytes) == (0, 1000)
    model.unpark()
    assert (model.vram_bytes, model.ram_bytes, model.pid()) == (1000, 0, first)
    assert model.park()
    os.kill(first, signal.SIGKILL)
    eventually(lambda: not is_there(first))
    assert not model.wants_mending(), "nobody needs it now"
    model.unpark()
    assert (model.vram_bytes, model.ram_bytes) == (1000, 0)
    assert texts(model.decode([item()])) == ["w1 w2 w3"]
    assert crew.restarts == 1
    os.kill(model.pid(), signal.SIGKILL)
    eventually(lambda: model.pid() is None)
    assert not model.park(), "it is freed instead"


def test_why_parked_weights_do_not_come_back_comes_through(load):
    model = load("device that is full")
    assert model.park()
    with pytest.raises(ModelError, match="no room") as caught:
        model.unpark()
    assert caught.value.code == "out_of_memory"


# ---------------------------------------------------------------- loading


def test_a_load_that_kills_its_process_is_a_failed_load(load, crew):
    with pytest.raises(ModelError, match=r"its process died \(status 3\)") as caught:
        load("crash")
    assert (caught.value.code, crew.pids()) == ("model_load_failed", ())


def test_why_a_model_does_not_load_comes_through(load):
    with pytest.raises(ModelError, match="too large") as caught:
        load("refuse")
    assert (caught.value.code, caught.value.data) == ("out_of_memory", {"compute_type": "float32"})
    with pytest.raises(ModelError, match="ZeroDivisionError"):
        load("raise")


def test_a_model_that_does_not_come_back_fails_its_calls_and_is_tried_later(load, tmp_path, monkeypatch):
    monkeypatch.setattr("sttd.engine.process.model.FIRST_WAIT_S", 0.05)
    path = tmp_path / "model"
    path.touch()
    model = load(f"once {path}")
    os.kill(model.pid(), signal.SIGKILL)
    eventually(lambda: not model._worker.alive)
    assert texts(model.decode([item()])) == ["decode_failed"]
    assert model.pid() is None
    path.touch()
    assert texts(model.decode([item()])) == ["w1 w2 w3"]


def test_starts_that_are_no_use_come_ever_later(crew, monkeypatch):
    """Without processes: the time between two starts doubles, and those who cannot wait so long are told at once."""
    monkeypatch.setattr("sttd.engine.process.model.FIRST_WAIT_S", 0.1)

    class Dead:
        alive, culprit, reason, pid, buried = False, None, "SIGKILL", 1, 0

        def bury(self):
            self.buried += 1
            return self.buried == 1

    def start(until):
        starts.append(time.monotonic())
        raise ModelError("there is no memory", code="out_of_memory")

    starts = []
    model = ProcessModel(preset="x", worker=Dead(), info=None, start=start, planner=None, crew=crew)
    assert texts(model.decode([item()], waiters=Waiting())) == ["decode_failed"]
    assert len(starts) == STARTS
    for wait_s, (before, after) in zip((0.1, 0.2, 0.4), pairwise(starts), strict=True):
        assert after - before >= wait_s
    assert not model.wants_mending()
    assert texts(model.decode([item()], waiters=Waiting(patience=0.01))) == ["decode_failed"]
    assert len(starts) == STARTS, "they could not wait"
    assert crew.restarts == 1, "one process died"


def test_who_waits_for_a_start_does_not_keep_a_model_that_is_freed(crew, caplog):
    worker, start = Mock(alive=False, culprit=None, reason="SIGKILL"), Mock()
    model = ProcessModel(preset="x", worker=worker, info=None, start=start, planner=None, crew=crew)
    model._next_start = time.monotonic() + 10 * PATIENCE_S
    with ThreadPoolExecutor(3) as threads:
        decode, mend = threads.submit(model.decode, [item()]), threads.submit(model.mend)
        eventually(model._mending.locked)
        threads.submit(model.close).result(PATIENCE_S)
        assert texts(decode.result(PATIENCE_S)) == ["decode_failed"]
        mend.result(PATIENCE_S)
    assert worker.close.called
    assert not start.called
    assert "does not come back" not in caplog.text, "nobody wants it back"


def test_more_audio_than_a_call_may_have_is_refused_before_anything_is_sent(load):
    model = load()
    with pytest.raises(ValueError, match="more audio"):
        model.decode([item(30.0) for _ in range(40)])
    assert texts(model.decode([item(30.0), item(30.0), item(30.0)]))[0].startswith("w1 w2")
    assert texts(model.decode([item()])) == ["w1 w2 w3"]


def test_several_threads_decode_at_once(load):
    model = load(workers=2)
    barrier = threading.Barrier(4)

    def hear(number):
        barrier.wait(PATIENCE_S)
        return texts(model.decode([item(0.3 * number + 0.1)]))

    with ThreadPoolExecutor(4) as threads:
        heard = list(threads.map(hear, range(1, 5)))
    assert [len(text.split()) for (text,) in heard] == [1, 2, 3, 4]
