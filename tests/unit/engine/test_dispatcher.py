"""The dispatcher with real threads, on the real clock, under a watchdog."""

import threading
from contextlib import asynccontextmanager

import attrs
import numpy as np
import pytest
import trio
import trio.testing

from sttd.core.scheduling import PolicyOptions
from sttd.core.types import SAMPLE_RATE, DecodeItem, DecodeOptions, Effort, Hypothesis, JobClass, Segment, Word
from sttd.engine.contract import NOBODY, ModelKey, Unfinished
from sttd.engine.dispatcher import Dispatcher
from sttd.engine.fake import FakeModel, FakeOptions
from sttd.engine.tickets import Job, JobDropped
from sttd.errors import DecodeError, ModelError, OverloadedError

EFFORT = {JobClass.INTERIM: Effort.QUICK, JobClass.FILE: Effort.TIMED}
FAKE = ModelKey(preset="fake", cpu_threads=1, num_workers=1)


@attrs.define(eq=False)
class FakeLease:
    """A lease that counts: how many live, and how many there ever were."""

    model: object
    key: ModelKey = FAKE
    preset: str = "fake"
    children: list = attrs.field(factory=list)
    released: bool = False

    def duplicate(self):
        if self.released:
            raise RuntimeError("the lease was released")
        self.children.append(FakeLease(self.model, self.key))
        return self.children[-1]

    def release(self):
        self.released = True


@attrs.frozen(kw_only=True)
class GatedModel(FakeModel):
    """Decodes only while its gate is open, and remembers its calls."""

    gate: threading.Event
    entered: threading.Semaphore
    calls: list
    failure: list  # of exceptions, each raised once by the next calls

    def decode(self, batch, *, waiters=NOBODY):
        self.calls.append(list(batch))
        self.entered.release()
        assert self.gate.wait(5)
        if self.failure:
            raise self.failure.pop(0)
        return super().decode(batch)

    async def wait_entered(self):
        await trio.to_thread.run_sync(self.entered.acquire)


def gated(*, workers=1, failures=()):
    return GatedModel(
        options=FakeOptions(),
        workers=workers,
        gate=threading.Event(),
        entered=threading.Semaphore(0),
        calls=[],
        failure=list(failures),
    )


@asynccontextmanager
async def running(**options):
    """A dispatcher that runs; ended, and its time bounded, with the block. Expects calls to be quick."""
    dispatcher = Dispatcher(options=PolicyOptions(first_call_s=0.01, speculation_wait_s=5, **options))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(dispatcher.run)
            yield dispatcher
            nursery.cancel_scope.cancel()


def job(lease, *, job_class=JobClass.FINAL, session="s", uid=1000, audio_s=0.6, deadline_s=1.0):
    samples = np.zeros(int(audio_s * SAMPLE_RATE), np.float32)
    return Job(
        item=DecodeItem(samples=samples, options=DecodeOptions(effort=EFFORT.get(job_class, Effort.FULL))),
        job_class=job_class,
        session=session,
        uid=uid,
        deadline=trio.current_time() + deadline_s,
        lease=lease,
    )


async def dropped(ticket):
    with pytest.raises(JobDropped) as caught:
        await ticket.wait()
    return caught.value.reason


async def test_a_job_comes_back_as_an_outcome():
    lease = FakeLease(FakeModel(options=FakeOptions(decode_ms=20)))
    async with running() as dispatcher:
        ticket = dispatcher.submit(job(lease))
        assert not ticket.done
        outcome = await ticket.wait()
        assert ticket.done
        assert outcome.hypothesis.text == "w1 w2"
        assert outcome.batch_size == 1
        assert outcome.queue_s >= 0
        assert outcome.decode_s >= 0.02
        assert (await ticket.wait()) is outcome
    assert [child.released for child in lease.children] == [True]
    assert not lease.released


async def test_what_waited_for_a_worker_goes_in_one_call():
    model = gated()
    lease = FakeLease(model)
    async with running() as dispatcher:
        first = dispatcher.submit(job(lease))
        await model.wait_entered()
        later = [dispatcher.submit(job(lease, session=str(n))) for n in range(2)]
        riding = dispatcher.submit(job(lease, session="x", job_class=JobClass.SPECULATIVE))
        interim = dispatcher.submit(job(lease, session="y", job_class=JobClass.INTERIM))
        assert dispatcher.statistics().queued == {"final": 2, "speculative": 1, "interim": 1, "file": 0}
        model.gate.set()
        assert (await first.wait()).batch_size == 1
        assert (await later[0].wait()).batch_size == 3
        assert (await later[1].wait()).batch_size == (await riding.wait()).batch_size == 3
        assert (await interim.wait()).batch_size == 1
        statistics = dispatcher.statistics()
    assert [len(call) for call in model.calls] == [1, 3, 1]
    assert statistics.batches == 3
    assert statistics.batch_size_mean == pytest.approx(5 / 3)
    assert statistics.queue_wait_ms["final"].p95 > 0
    assert statistics.queue_wait_ms["file"].p50 is None
    assert statistics.realtime_factor > 0
    assert 0 < statistics.load <= 1


async def test_statistics_of_an_idle_dispatcher():
    statistics = Dispatcher(clock=lambda: 0.0).statistics()
    assert (statistics.in_flight, statistics.workers, statistics.batches) == (0, 0, 0)
    assert statistics.batch_size_mean is statistics.realtime_factor is statistics.oldest_call_s is None
    assert statistics.load == 0


async def test_a_running_call_shows_its_age_and_delays_finals():
    model = gated()
    lease = FakeLease(model)
    async with running() as dispatcher:
        ticket = dispatcher.submit(job(lease))
        await model.wait_entered()
        statistics = dispatcher.statistics()
        assert (statistics.in_flight, statistics.workers) == (1, 1)
        assert statistics.oldest_call_s >= 0
        assert dispatcher.queue_wait_s(lease.key.preset) > 0
        assert dispatcher.queue_wait_s("another") == 0
        model.gate.set()
        await ticket.wait()


async def test_a_newer_interim_replaces_the_one_that_waits():
    model = gated()
    lease = FakeLease(model)
    async with running() as dispatcher:
        in_flight = dispatcher.submit(job(lease, job_class=JobClass.INTERIM))
        await model.wait_entered()
        older = dispatcher.submit(job(lease, job_class=JobClass.INTERIM))
        newer = dispatcher.submit(job(lease, job_class=JobClass.INTERIM, audio_s=0.9))
        assert older.done
        assert in_flight.started
        assert not newer.started
        assert await dropped(older) == "coalesced"
        model.gate.set()
        await in_flight.wait()
        assert (await newer.wait()).hypothesis.text == "w1 w2 w3"
        assert dispatcher.statistics().coalesced == 1


async def test_models_do_not_wait_for_each_other():
    slow, quick = gated(), FakeModel(options=FakeOptions())
    async with running() as dispatcher:
        stuck = dispatcher.submit(job(FakeLease(slow)))
        await slow.wait_entered()
        other = FakeLease(quick, ModelKey(preset="other", cpu_threads=1, num_workers=1))
        await dispatcher.submit(job(other)).wait()
        assert not stuck.done
        slow.gate.set()
        await stuck.wait()


async def test_as_many_calls_at_once_as_the_model_has_workers():
    model = gated(workers=2)
    lease = FakeLease(model)
    async with running(final_hold_s=0, final_stretch=0) as dispatcher:
        tickets = [dispatcher.submit(job(lease)) for _ in range(3)]
        await model.wait_entered()
        await model.wait_entered()
        await trio.testing.wait_all_tasks_blocked()
        assert len(model.calls) == dispatcher.statistics().in_flight == 2
        model.gate.set()
        for ticket in tickets:
            await ticket.wait()


async def test_a_decode_that_raises_fails_its_items_and_nothing_else(caplog):
    model = gated(failures=[ValueError("bad shape")])
    lease = FakeLease(model)
    model.gate.set()
    async with running() as dispatcher:
        with pytest.raises(DecodeError, match="engine failed") as caught:
            await dispatcher.submit(job(lease)).wait()
        assert caught.value.code == "decode_failed"
        assert (await dispatcher.submit(job(lease, session="next")).wait()).hypothesis.text == "w1 w2"
        assert dispatcher.statistics().failed == 1
    assert all(child.released for child in lease.children)
    assert len(caplog.records) == 1


async def test_a_model_that_answers_short_fails_its_items():
    @attrs.frozen(kw_only=True)
    class Short(FakeModel):
        def decode(self, batch, *, waiters=NOBODY):
            return []

    async with running() as dispatcher:
        with pytest.raises(DecodeError):
            await dispatcher.submit(job(FakeLease(Short(options=FakeOptions())))).wait()


NAN = float("nan")
HEARD = Hypothesis(text="said")
WORD = Word(word="said", start_s=0.0, end_s=0.1, probability=0.9)


@pytest.mark.parametrize(
    "nonsense",
    [
        None,
        "said",
        attrs.evolve(HEARD, avg_logprob=NAN),
        attrs.evolve(HEARD, text="\ud800"),
        attrs.evolve(HEARD, text=None),
        attrs.evolve(HEARD, segments=(Segment(text="said", start_s=NAN, end_s=0.0),)),
        attrs.evolve(
            HEARD, segments=(Segment(text="", start_s=0.0, end_s=0.0, words=(attrs.evolve(WORD, probability=NAN),)),)
        ),
    ],
)
async def test_what_is_no_hypothesis_fails_its_item_and_no_other(nonsense, caplog):
    class Odd(FakeModel):
        def decode(self, batch, *, waiters=NOBODY):
            heard = super().decode(batch)
            return [
                nonsense if len(item.samples) > SAMPLE_RATE else each for item, each in zip(batch, heard, strict=True)
            ]

    lease = FakeLease(Odd(options=FakeOptions()))
    async with running() as dispatcher:
        await dispatcher.quiesce()
        good, bad = (dispatcher.submit(job(lease, session=str(s), audio_s=s)) for s in (0.6, 1.5))
        dispatcher.resume()
        assert (await good.wait()).hypothesis.text == "w1 w2"
        with pytest.raises(DecodeError) as caught:
            await bad.wait()
        assert caught.value.code == "decode_failed"


async def test_one_bad_item_fails_alone():
    @attrs.frozen(kw_only=True)
    class Picky(GatedModel):
        def decode(self, batch, *, waiters=NOBODY):
            return [
                DecodeError("no") if len(item.samples) > SAMPLE_RATE else heard
                for item, heard in zip(batch, super().decode(batch), strict=True)
            ]

    model = Picky(**attrs.asdict(gated(), recurse=False))
    lease = FakeLease(model)
    async with running() as dispatcher:
        tickets = [dispatcher.submit(job(lease))]
        await model.wait_entered()
        tickets += [dispatcher.submit(job(lease, audio_s=audio_s)) for audio_s in (0.6, 1.5)]
        model.gate.set()
        assert (await tickets[1].wait()).batch_size == 2
        with pytest.raises(DecodeError, match="no"):
            await tickets[2].wait()


async def test_who_is_done_early_does_not_wait_for_the_rest_of_the_batch():
    @attrs.frozen(kw_only=True)
    class Uneven(GatedModel):
        """Hears the first of a batch at once, and has to try the rest again."""

        again: threading.Event
        waiters: list

        def decode(self, batch, *, waiters=NOBODY):
            heard = super().decode(batch)
            if len(batch) > 1:
                self.waiters.append(waiters)
                waiters.tell(0, heard[0])
                assert self.again.wait(5)
            return heard

    model = Uneven(**attrs.asdict(gated(), recurse=False), again=threading.Event(), waiters=[])
    lease = FakeLease(model)
    async with running() as dispatcher:
        first = dispatcher.submit(job(lease))
        await model.wait_entered()
        quick, slow = (dispatcher.submit(job(lease, session=name)) for name in ("a", "b"))
        model.gate.set()
        await first.wait()
        outcome = await quick.wait()
        assert not slow.done
        assert outcome.batch_size == 2
        [waiters] = model.waiters
        assert (waiters.gone(0), waiters.gone(1)) == (True, False)
        model.again.set()
        assert (await slow.wait()).decode_s >= outcome.decode_s
        statistics = dispatcher.statistics()
        assert (statistics.batches, statistics.in_flight, statistics.failed) == (2, 0, 0)
    assert all(child.released for child in lease.children)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA failed with error out of memory"),
        MemoryError(),
        ModelError("it does not fit", code="out_of_memory"),
    ],
)
async def test_out_of_memory_is_tried_again_in_halves(error):
    model = gated(failures=[])
    lease = FakeLease(model)
    async with running(final_hold_s=60) as dispatcher:
        first = dispatcher.submit(job(lease))
        await model.wait_entered()
        tickets = [dispatcher.submit(job(lease)) for _ in range(5)]
        model.gate.set()
        await first.wait()
        model.failure.append(error)
        outcomes = [await ticket.wait() for ticket in tickets]
        assert [outcome.batch_size for outcome in outcomes] == [5] * 5
        assert [len(call) for call in model.calls] == [1, 5, 3, 2]
        model.gate.clear()
        model.calls.clear()
        tickets = [dispatcher.submit(job(lease)) for _ in range(5)]
        model.gate.set()
        for ticket in tickets:
            await ticket.wait()
        assert max(len(call) for call in model.calls) == 2


async def test_out_of_memory_with_one_item_is_tried_once_more():
    model = gated(failures=[MemoryError(), MemoryError()])
    model.gate.set()
    async with running() as dispatcher:
        with pytest.raises(DecodeError) as caught:
            await dispatcher.submit(job(FakeLease(model))).wait()
        assert caught.value.code == "out_of_memory"
        assert len(model.calls) == 2


async def test_a_lease_that_was_given_back_too_early_fails_its_own_job():
    gone, lease = FakeLease(FakeModel(options=FakeOptions())), FakeLease(FakeModel(options=FakeOptions()))
    async with running() as dispatcher:
        ticket = dispatcher.submit(job(gone))
        gone.release()
        with pytest.raises(DecodeError):
            await ticket.wait()
        assert (await dispatcher.submit(job(lease)).wait()).hypothesis.text == "w1 w2"


async def test_a_cancelled_waiter_takes_its_job_out_of_the_queue():
    model = gated()
    lease = FakeLease(model)
    async with running() as dispatcher:
        first = dispatcher.submit(job(lease))
        await model.wait_entered()
        with trio.move_on_after(0.01) as scope:
            await dispatcher.submit(job(lease)).wait()
        assert scope.cancelled_caught
        assert dispatcher.statistics().queued["final"] == 0
        model.gate.set()
        await first.wait()
    assert len(model.calls) == 1


async def test_cancelling_a_running_job_discards_its_outcome():
    model = gated()
    lease = FakeLease(model)
    async with running() as dispatcher:
        ticket = dispatcher.submit(job(lease))
        await model.wait_entered()
        ticket.cancel()
        assert await dropped(ticket) == "cancelled"
        ticket.cancel()
        assert dispatcher.statistics().in_flight == 1
        model.gate.set()
        await dispatcher.submit(job(lease, session="next")).wait()
    assert all(child.released for child in lease.children)


async def test_a_confirmed_speculation_waits_as_a_final():
    model = gated()
    lease = FakeLease(model)
    async with running(final_hold_s=0, final_stretch=0) as dispatcher:
        first = dispatcher.submit(job(lease))
        await model.wait_entered()
        other = dispatcher.submit(job(lease, session="other", deadline_s=5))
        ticket = dispatcher.submit(job(lease, job_class=JobClass.SPECULATIVE))
        ticket.promote(deadline=trio.current_time())
        assert dispatcher.statistics().queued["speculative"] == 0
        model.gate.set()
        await ticket.wait()
        assert not other.done
        await other.wait()
        await first.wait()
        ticket.promote(deadline=0)


async def test_a_session_that_is_gone_leaves_nothing_waiting():
    model = gated()
    lease = FakeLease(model)
    async with running() as dispatcher:
        first = dispatcher.submit(job(lease, session="stays"))
        await model.wait_entered()
        tickets = [dispatcher.submit(job(lease, session="gone", job_class=job_class)) for job_class in JobClass]
        dispatcher.forget("gone")
        assert [await dropped(ticket) for ticket in tickets] == ["session_gone"] * 4
        model.gate.set()
        await first.wait()
    assert len(model.calls) == 1


async def test_too_much_is_refused_with_a_time_to_come_again():
    lease = FakeLease(gated())
    async with running(waiting_files=1) as dispatcher:
        dispatcher.submit(job(lease, job_class=JobClass.FILE))
        with pytest.raises(OverloadedError) as caught:
            dispatcher.submit(job(lease, job_class=JobClass.FILE))
        assert caught.value.data["retry_after_s"] > 0
        assert dispatcher.statistics().rejected == 1
        lease.model.gate.set()


async def test_draining_takes_finals_alone_and_waits_for_all_that_is_queued():
    model = gated()
    lease = FakeLease(model)
    async with running() as dispatcher:
        tickets = [dispatcher.submit(job(lease))]
        await model.wait_entered()
        tickets.append(dispatcher.submit(job(lease, job_class=JobClass.FILE)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dispatcher.drain)
            await trio.testing.wait_all_tasks_blocked()
            for job_class in (JobClass.SPECULATIVE, JobClass.INTERIM, JobClass.FILE):
                with pytest.raises(OverloadedError, match="stopping"):
                    dispatcher.submit(job(lease, job_class=job_class))
            tickets.append(dispatcher.submit(job(lease)))
            assert nursery.child_tasks
            model.gate.set()
        assert all(ticket.done for ticket in tickets)


async def test_nothing_begins_between_quiesce_and_resume():
    model = gated()
    lease = FakeLease(model)
    async with running() as dispatcher:
        runs = dispatcher.submit(job(lease))
        await model.wait_entered()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dispatcher.quiesce)
            await trio.testing.wait_all_tasks_blocked()
            assert nursery.child_tasks
            model.gate.set()
        assert runs.done
        waits = dispatcher.submit(job(lease))
        await trio.testing.wait_all_tasks_blocked()
        assert len(model.calls) == 1
        dispatcher.resume()
        assert (await waits.wait()).queue_s > 0


async def test_options_change_while_it_runs():
    lease = FakeLease(gated())
    async with running() as dispatcher:
        dispatcher.submit(job(lease, job_class=JobClass.FILE))
        dispatcher.configure(PolicyOptions(waiting_files=0))
        with pytest.raises(OverloadedError):
            dispatcher.submit(job(lease, job_class=JobClass.FILE))
        lease.model.gate.set()


async def test_the_end_waits_for_running_calls_and_drops_the_rest():
    model = gated()
    lease = FakeLease(model)
    with trio.fail_after(60):
        dispatcher = Dispatcher()
        async with trio.open_nursery() as nursery:
            await nursery.start(dispatcher.run)
            runs = dispatcher.submit(job(lease))
            await model.wait_entered()
            waits = dispatcher.submit(job(lease))
            nursery.cancel_scope.cancel()
            model.gate.set()
        assert (await runs.wait()).hypothesis.text == "w1 w2"
        assert await dropped(waits) == "shutting_down"
        assert await dropped(dispatcher.submit(job(lease))) == "shutting_down"
    assert [child.released for child in lease.children] == [True]
    assert len(model.calls) == 1


async def test_a_call_cancelled_before_its_thread_began_settles_its_ticket():
    lease = FakeLease(FakeModel(options=FakeOptions()))
    with trio.fail_after(60):
        dispatcher = Dispatcher()
        ticket = dispatcher.submit(job(lease))
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.cancel()
            nursery.start_soon(dispatcher.run)
        assert await dropped(ticket) == "shutting_down"
        await dispatcher.drain()
    assert all(child.released for child in lease.children)


async def test_a_job_that_is_given_up_as_its_call_begins_takes_no_other_with_it(monkeypatch):
    model = gated()
    first, second, blocker = FakeLease(model), FakeLease(model), FakeLease(model)
    async with running() as dispatcher:
        dispatcher.submit(job(blocker, session="c"))
        await model.wait_entered()
        going, staying = dispatcher.submit(job(first, session="a")), dispatcher.submit(job(second, session="b"))
        original = Dispatcher._next_call

        def next_call(self):
            call = original(self)
            if call is not None and going in call.tickets:
                going.cancel()  # an abort in the tick in which its call begins
                first.release()
            return call

        monkeypatch.setattr(Dispatcher, "_next_call", next_call)
        model.gate.set()
        assert (await staying.wait()).hypothesis.text == "w1 w2"
        with pytest.raises(JobDropped):
            await going.wait()


async def test_memory_that_suffices_for_one_at_a_time_serves_them_all():
    class Small(FakeModel):
        def decode(self, batch, *, waiters=NOBODY):
            if len(batch) > 1:
                return [DecodeError("too little", code="out_of_memory") for _ in batch]
            return super().decode(batch)

    lease = FakeLease(Small(options=FakeOptions()))
    async with running() as dispatcher:
        await dispatcher.quiesce()
        tickets = [dispatcher.submit(job(lease, session=str(number))) for number in range(5)]
        dispatcher.resume()
        assert [(await ticket.wait()).hypothesis.text for ticket in tickets] == ["w1 w2"] * 5
        tickets = [dispatcher.submit(job(lease, session=str(number))) for number in range(3)]
        assert max([(await ticket.wait()).batch_size for ticket in tickets]) == 1
        assert dispatcher.statistics().failed == 0


async def test_a_call_that_hangs_is_written_off_and_others_go_on():
    hanging, lost = gated(), []
    lease, other = FakeLease(hanging), FakeLease(FakeModel(options=FakeOptions()))
    async with running() as dispatcher:
        dispatcher.call_timeout_s, dispatcher.on_hang = 0.05, lost.append
        ticket = dispatcher.submit(job(lease))
        await hanging.wait_entered()
        with pytest.raises(DecodeError, match="did not answer"):
            await ticket.wait()
        statistics = dispatcher.statistics()
        assert (statistics.in_flight, statistics.hung, statistics.oldest_call_s) == (0, 1, None)
        assert lost == lease.children
        dispatcher.call_timeout_s = 10.0
        assert (await dispatcher.submit(job(other)).wait()).hypothesis.text == "w1 w2"
        await dispatcher.drain()  # does not wait for it
        hanging.gate.set()
        while dispatcher.statistics().hung:  # noqa: ASYNC110
            await trio.sleep(0.005)
    assert all(child.released for child in lease.children)


# ---------------------------------------------------------------- what a call leaves


@attrs.frozen(kw_only=True)
class TwoPasses(GatedModel):
    """Decodes files in two passes, the second in a call of its own if it is told to hurry."""

    def decode(self, batch, *, waiters=NOBODY):
        heard = super().decode(batch)
        if batch[0].options.effort is not Effort.TIMED or batch[0].known or not waiters.hurry():
            return heard
        return [Unfinished(attrs.evolve(item, known=f"pass 1 of {len(item.samples)}")) for item in batch]


def two_passes():
    return TwoPasses(
        options=FakeOptions(), gate=threading.Event(), entered=threading.Semaphore(0), calls=[], failure=[]
    )


@asynccontextmanager
async def between_passes():
    """A dispatcher whose only worker is in the first pass of a file, behind a gate."""
    model = two_passes()
    lease = FakeLease(model)
    async with running() as dispatcher:
        file = dispatcher.submit(job(lease, job_class=JobClass.FILE, session="f"))
        await model.wait_entered()
        yield dispatcher, model, lease, file


async def test_a_final_goes_between_the_passes_of_a_file():
    async with between_passes() as (dispatcher, model, lease, file):
        final = dispatcher.submit(job(lease))
        later = dispatcher.submit(job(lease, job_class=JobClass.FILE, session="f", deadline_s=2.0))
        await trio.sleep(0.11)  # what the first pass takes, by the real clock that decode times are on
        model.gate.set()
        assert (await final.wait()).hypothesis.text == "w1 w2"
        outcome = await file.wait()
        assert outcome.hypothesis.text == "w1 w2"
        assert outcome.decode_s > 0.1  # of both passes; the first one's gate was shut
        await later.wait()
        calls = [(call[0].options.effort, call[0].known) for call in model.calls]
        assert calls[:3] == [(Effort.TIMED, None), (Effort.FULL, None), (Effort.TIMED, "pass 1 of 9600")]
        assert dispatcher.statistics().failed == 0
    assert all(child.released for child in lease.children)


async def test_a_file_that_nobody_waits_for_has_no_second_pass():
    async with between_passes() as (dispatcher, model, lease, file):
        final = dispatcher.submit(job(lease))
        file.cancel()
        model.gate.set()
        await final.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert [call[0].options.effort for call in model.calls] == [Effort.TIMED, Effort.FULL]
        assert dispatcher.statistics().queued["file"] == 0


@pytest.mark.parametrize("way", ["quiesce", "drain"])
async def test_a_file_between_two_passes_outlives_a_pause_and_a_drain(way):
    async with between_passes() as (dispatcher, model, lease, file), trio.open_nursery() as nursery:
        if way == "drain":
            dispatcher.submit(job(lease))
            nursery.start_soon(dispatcher.drain)
        else:
            nursery.start_soon(dispatcher.quiesce)
        await trio.testing.wait_all_tasks_blocked(0.01)
        model.gate.set()
        if way == "quiesce":
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert not file.done
            assert len(model.calls) == 1  # left after its pass, for the machine is about to sleep
            dispatcher.resume()
        assert (await file.wait()).hypothesis.text == "w1 w2"
        assert [call[0].known for call in model.calls if call[0].options.effort is Effort.TIMED] == [
            None,
            "pass 1 of 9600",
        ]


async def test_a_file_whose_lease_is_gone_between_two_passes_fails_alone():
    model = two_passes()

    @attrs.define(eq=False)
    class StrictLease(FakeLease):
        """Says nothing of its model once it was given back, as those of the pool."""

        def __getattribute__(self, name):
            if name == "model" and object.__getattribute__(self, "released"):
                raise AssertionError("the lease was released")
            return object.__getattribute__(self, name)

    lease, broken = FakeLease(model), StrictLease(model)
    async with running() as dispatcher:
        file = dispatcher.submit(job(broken, job_class=JobClass.FILE, session="f"))
        await model.wait_entered()
        final = dispatcher.submit(job(lease))
        broken.release()
        model.gate.set()
        assert (await final.wait()).hypothesis.text == "w1 w2"
        with pytest.raises(DecodeError):
            await file.wait()


async def test_a_model_that_cannot_say_how_much_memory_there_is_decodes_one_at_a_time():
    @attrs.frozen(kw_only=True)
    class Mute(GatedModel):
        def max_batch(self, key):
            raise OSError(24, "Too many open files")

    model = Mute(options=FakeOptions(), gate=threading.Event(), entered=threading.Semaphore(0), calls=[], failure=[])
    lease = FakeLease(model)
    async with running() as dispatcher:
        model.gate.set()
        tickets = [dispatcher.submit(job(lease, session=str(number))) for number in range(3)]
        assert [(await ticket.wait()).batch_size for ticket in tickets] == [1, 1, 1]
