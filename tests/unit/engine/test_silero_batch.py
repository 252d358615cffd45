"""Many sessions ask Silero: who is due in one turn is asked in one run, within bounds, and nobody waits for ever."""

import numpy as np
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from sttd.core.types import FRAME_SAMPLES
from sttd.engine.silero_batch import MAX_STEPS, SharedSilero
from sttd.engine.vad import VoiceDetector
from sttd.errors import InternalError


class Network(SharedSilero):
    """Remembers how many steps of how many sessions it was asked, and answers with the last sample."""

    def __init__(self):
        super().__init__()
        self.runs, self.error = [], None

    def run(self, batch):
        self.runs.append([len(asked.samples) for asked in batch])
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return [asked.samples[:, -1].tolist() for asked in batch]


def detector(network):
    return VoiceDetector(aggressiveness=2, silero=network)


def level(value, *, frames=2):
    return np.full((frames, FRAME_SAMPLES), value, np.float32)


async def ask(network, count, *, frames=2, failures=None):
    """So many sessions ask at once; what each hears."""
    heard = {}

    async def one(number):
        try:
            activity = await network.hear(detector(network), level(number / 1000, frames=frames))
        except Exception as error:
            failures.append(error)
        else:
            heard[number] = activity.probability.tolist()

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(one, number)
    return heard


async def test_who_is_due_in_one_turn_is_asked_in_one_run_and_gets_its_own_answer():
    network = Network()
    heard = await ask(network, 20)
    assert network.runs == [[1] * 20]
    assert heard == {number: [0.0, pytest.approx(number / 1000)] for number in range(20)}


async def test_where_no_step_is_complete_nobody_is_asked():
    network = Network()
    assert await ask(network, 3, frames=1) == {number: [0.0] for number in range(3)}
    assert network.runs == []


async def test_a_run_is_bounded_and_all_are_served():
    network = Network()
    heard = await ask(network, 3 * MAX_STEPS + 5)
    assert [sum(run) for run in network.runs] == [MAX_STEPS] * 3 + [5]
    assert len(heard) == 3 * MAX_STEPS + 5
    assert await ask(network, 2, frames=2 * MAX_STEPS)
    assert len(network.runs[-1]) == 1  # who is too much for a run has one alone


async def test_who_is_cancelled_leaves_the_others_their_turn():
    network = Network()
    heard, scopes = [], [trio.CancelScope() for _ in range(3 * MAX_STEPS)]

    async def one(number, scope):
        with scope:
            await network.hear(detector(network), level(number / 1000))
            heard.append(number)

    async with trio.open_nursery() as nursery:
        for number, scope in enumerate(scopes):
            nursery.start_soon(one, number, scope)
        for scope in scopes[::2]:
            scope.cancel()
    assert {*range(1, len(scopes), 2)} <= {*heard}
    assert not network._waiting
    assert len(await ask(network, 5)) == 5


async def test_a_failure_is_said_to_all_of_its_run_and_to_nobody_else():
    network, failures = Network(), []
    network.error = RuntimeError("broken")
    heard = await ask(network, MAX_STEPS + 3, failures=failures)
    assert len(failures) == MAX_STEPS
    assert [type(error) for error in failures].count(RuntimeError) == 1  # whose run it was
    assert {type(error) for error in failures} == {RuntimeError, InternalError}
    assert len(heard) == 3
    await wait_all_tasks_blocked()
    assert len(await ask(network, 2)) == 2
