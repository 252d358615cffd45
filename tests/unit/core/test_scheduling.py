"""The scheduling rules: each by an example, all together by a state machine and by simulated load."""

import contextlib
import itertools
import random
from collections import Counter, defaultdict

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sttd.core.scheduling import Entry, PolicyOptions, SchedulingPolicy
from sttd.core.types import JobClass
from sttd.errors import OverloadedError

FINAL, SPECULATIVE, INTERIM, FILE = JobClass
ids = itertools.count()
rooms = {}  # by the number of a job: how many of its kind the memory holds


def entry(
    job_class=FINAL, *, session="s", uid=1, deadline=0.0, model="m", workers=1, key=None, max_batch=8, shared=False
):
    """A job; by default each class but the two finals' has its own key."""
    if key is None:
        key = "final" if job_class is SPECULATIVE else job_class.name.lower()
    number = next(ids)
    rooms[number] = max_batch
    return Entry(
        id=number,
        job_class=job_class,
        session=session,
        uid=uid,
        deadline=deadline,
        model=model,
        workers=workers,
        key=key,
    )


def policy(**options):
    return SchedulingPolicy(PolicyOptions(**{"first_call_s": 0.01, **options}))


def submit(queue, *entries, now=0.0):
    for each in entries:
        queue.submit(each, now=now)


def next_batch(queue, *, now):
    """The next call, begun, within the memory that its first job finds."""
    urgent = queue.most_urgent(now=now)
    return None if urgent is None else queue.begin(urgent, room=rooms[urgent.head.id], now=now)


def run_one(queue, *, now=0.0, seconds=0.01):
    """The next batch, begun and ended."""
    batch = next_batch(queue, now=now)
    queue.complete(batch, now=now + seconds, seconds=seconds)
    return list(batch.entries)


def order(queue, *, now=0.0):
    """The ids of all that waits, in the order in which single workers would take them."""
    taken = []
    while (batch := next_batch(queue, now=now)) is not None:
        taken += [each.id for each in batch.entries]
        queue.complete(batch, now=now, seconds=None)
    return taken


# ---------------------------------------------------------------- rules 1 and 2


def test_classes_go_strictly_in_order():
    queue = policy()
    jobs = [entry(job_class, session=str(job_class), key=job_class) for job_class in reversed(JobClass)]
    submit(queue, *jobs)
    assert [queue.queued(job_class) for job_class in JobClass] == [1, 1, 1, 1]
    assert order(queue) == [job.id for job in reversed(jobs)]


def test_the_earliest_deadline_goes_first():
    queue = policy(final_hold_s=0)
    late, early = entry(deadline=2.0), entry(deadline=1.0)
    submit(queue, late, early)
    assert order(queue) == [early.id, late.id]


def test_of_equal_deadlines_the_older_job_goes_first():
    queue = policy(final_hold_s=0)
    jobs = [entry(session=str(number)) for number in range(5)]
    submit(queue, *jobs)
    assert order(queue) == [job.id for job in jobs]


def test_a_deadline_can_neither_lie_in_the_past_nor_far_ahead():
    queue = policy(final_hold_s=0, slack_s=30.0)
    patient, eager = entry(deadline=1e9), entry(deadline=-1e9)
    submit(queue, patient, now=0.0)
    submit(queue, eager, now=40.0)
    assert order(queue, now=40.0) == [patient.id, eager.id]


def test_models_have_their_own_workers():
    queue = policy()
    submit(queue, entry(model="a"), entry(model="a"), entry(INTERIM, model="b", workers=2))
    first, second = next_batch(queue, now=0), next_batch(queue, now=0)
    assert (first.head.model, second.head.model) == ("a", "b")
    assert next_batch(queue, now=0) is None
    assert (queue.in_flight, queue.workers) == (2, 3)


def test_no_more_calls_than_threads():
    queue = policy(max_calls=1)
    submit(queue, entry(model="a"), entry(model="b"))
    assert next_batch(queue, now=0) is not None
    assert next_batch(queue, now=0) is None


def test_a_worker_too_many_is_not_used_after_a_change():
    queue = policy(final_hold_s=0)
    submit(queue, entry(workers=2), entry(workers=2))
    assert next_batch(queue, now=0) is not None
    submit(queue, entry(workers=1))
    assert next_batch(queue, now=0) is None


# ---------------------------------------------------------------- rule 3


def test_a_user_who_had_much_yields_to_one_who_had_little():
    queue = policy(final_hold_s=0)
    submit(queue, entry(uid=1, session="hog"))
    run_one(queue, now=0, seconds=3.0)
    hog = entry(uid=1, session="another of the hog's", deadline=3.5)
    modest = entry(uid=2, session="modest", deadline=5.0)
    submit(queue, hog, modest, now=3.0)
    assert order(queue, now=3.0) == [modest.id, hog.id]


def test_a_session_that_had_much_yields_within_its_user():
    queue = policy(final_hold_s=0)
    submit(queue, entry(session="hog"))
    run_one(queue, now=0, seconds=3.0)
    hog, modest = entry(session="hog", deadline=3.5), entry(session="modest", deadline=4.0)
    submit(queue, hog, modest, now=3.0)
    assert order(queue, now=3.0) == [modest.id, hog.id]


def test_what_was_used_in_one_class_does_not_count_in_another():
    queue = policy(final_hold_s=0)
    submit(queue, entry(INTERIM, session="talker"))
    run_one(queue, now=0, seconds=3.0)
    talker, other = entry(session="talker", uid=1, deadline=3.1), entry(session="other", uid=2, deadline=3.2)
    submit(queue, talker, other, now=3.0)
    assert order(queue, now=3.0) == [talker.id, other.id]


def test_speculations_count_as_finals():
    queue = policy(final_hold_s=0)
    submit(queue, entry(SPECULATIVE, session="a", uid=1))
    run_one(queue, now=0, seconds=3.0)
    one, other = entry(session="a", uid=1, deadline=3.1), entry(session="b", uid=2, deadline=3.2)
    submit(queue, one, other, now=3.0)
    assert order(queue, now=3.0) == [other.id, one.id]


def test_age_wins_over_fairness_in_the_end():
    queue = policy(final_hold_s=0, fairness_s=1.0)
    submit(queue, entry(uid=1, session="hog"))
    run_one(queue, now=0, seconds=30.0)
    hog = entry(uid=1, session="hog", deadline=30.0)
    submit(queue, hog, now=30.0)
    modest = entry(uid=2, session="modest", deadline=32.5)
    submit(queue, modest, now=32.5)
    assert order(queue, now=32.5) == [hog.id, modest.id]


@pytest.mark.parametrize("job_class", [FINAL, INTERIM, FILE])
def test_users_share_a_saturated_worker_however_many_sessions_they_have(job_class):
    queue = policy(final_hold_s=0, interim_hold_s=0, file_hold_s=0, quiet_file_hold_s=0)
    served = Counter()
    now = 0.0
    sessions = {f"many {number}": 1 for number in range(7)} | {"one": 2}
    for session, uid in sessions.items():
        submit(queue, entry(job_class, session=session, uid=uid, deadline=0.3))
    while now < 60:
        batch = next_batch(queue, now=now)
        now += 0.2
        queue.complete(batch, now=now, seconds=0.2)
        served[batch.head.uid] += 1
        submit(queue, entry(job_class, session=batch.head.session, uid=batch.head.uid, deadline=now + 0.3), now=now)
    assert served[2] / served.total() > 0.38, "an eighth without fairness between users, a half at best"


# ---------------------------------------------------------------- rule 4


@pytest.mark.parametrize("job_class", [INTERIM, SPECULATIVE])
def test_a_newer_one_takes_the_place_of_the_one_that_waits(job_class):
    queue = policy(interim_hold_s=0, speculative_hold_s=0)
    older = entry(job_class, session="a", deadline=0.5)
    between = entry(job_class, session="b", deadline=1.0)
    newer = entry(job_class, session="a", deadline=1.5)
    assert queue.submit(older, now=0) == []
    assert queue.submit(between, now=0.5) == []
    assert queue.submit(newer, now=1) == [older.id]
    assert queue.queued(job_class) == 2
    assert order(queue, now=1) == [newer.id, between.id]


def test_one_interim_of_a_session_is_in_flight():
    queue = policy()
    submit(queue, entry(INTERIM, workers=3))
    running = next_batch(queue, now=0)
    submit(queue, entry(INTERIM, workers=3), entry(FILE, workers=3))
    file = next_batch(queue, now=0)
    assert file.head.job_class is FILE
    queue.complete(file, now=1, seconds=1)
    assert next_batch(queue, now=1) is None
    queue.complete(running, now=1, seconds=1)
    assert next_batch(queue, now=1).head.job_class is INTERIM


# ---------------------------------------------------------------- rule 5


def test_compatible_jobs_of_all_sessions_share_a_call():
    queue = policy()
    jobs = [entry(session=str(number), uid=number) for number in range(3)]
    submit(queue, *jobs, entry(key="other"), entry(model="n"))
    assert run_one(queue) == jobs


def test_memory_bounds_a_batch():
    queue = policy()
    submit(queue, *[entry(max_batch=3) for _ in range(5)])
    assert len(run_one(queue)) == 3


def test_memory_is_asked_for_when_the_call_is_made():
    queue = policy()
    submit(queue, *[entry(max_batch=8) for _ in range(5)])
    urgent = queue.most_urgent(now=0.0)
    assert len(queue.begin(urgent, room=2, now=0.0).entries) == 2


def test_files_hurry_while_live_jobs_of_their_model_wait():
    queue = policy(file_share=0.0)
    submit(queue, entry(FILE, session="f"))
    batch = next_batch(queue, now=0.0)
    assert not queue.hurries(batch)
    submit(queue, entry(FILE, session="f"), entry(model="n", key="n"))
    assert not queue.hurries(batch)
    submit(queue, entry(INTERIM, key="i"))
    assert queue.hurries(batch)


def test_files_that_are_owed_time_hurry_for_finals_alone():
    queue = policy(file_share=0.5)
    submit(queue, entry(), entry(INTERIM, key="i"), entry(FILE, session="f", key="f"))
    run_one(queue, seconds=5.0)
    batch = next_batch(queue, now=5.0)
    assert (batch.head.job_class, batch.owed) == (FILE, True)
    assert not queue.hurries(batch)
    submit(queue, entry(SPECULATIVE), now=5.0)
    assert queue.hurries(batch)


def test_a_speculation_is_refused_for_the_sake_of_finals_not_of_files():
    queue = policy(speculation_wait_s=1.0)
    submit(queue, entry(FILE, session="f", key="f"))
    run_one(queue, seconds=10.0)  # a call of files is known to take long
    submit(queue, entry(FILE, session="f", key="f"), now=10.0)
    next_batch(queue, now=10.0)
    assert queue.final_wait_s("m", now=10.0) > 1.0
    submit(queue, entry(SPECULATIVE), now=10.0)
    assert queue.queued(SPECULATIVE) == 1


def test_what_a_call_left_of_a_file_comes_before_other_files_whatever_the_limits():
    queue = policy(waiting_files=2)
    first = entry(FILE, session="f", deadline=1.0)
    submit(queue, first)
    batch = next_batch(queue, now=0.0)
    submit(queue, entry(FILE, session="f", deadline=2.0), entry(FILE, session="g", deadline=3.0))
    queue.complete(batch, now=1.0, seconds=1.0)
    queue.resubmit(attrs.evolve(first, key="next pass"), now=1.0)
    assert queue.queued(FILE) == 3
    assert next_batch(queue, now=1.0).head.id == first.id


def test_speculations_ride_with_finals_after_all_of_them():
    queue = policy()
    speculation = entry(SPECULATIVE, session="b", deadline=0.0)
    final, interim = entry(deadline=5.0), entry(INTERIM, key="final")
    submit(queue, speculation, final, interim)
    assert run_one(queue) == [final, speculation]
    assert run_one(queue) == [interim]


def test_a_final_does_not_ride_with_a_lower_class():
    queue = policy(file_share=1.0)
    submit(queue, entry(INTERIM, session="a", key="k"), entry(FILE, session="b", key="k"))
    assert [job.job_class for job in run_one(queue)] == [INTERIM]


def test_a_call_may_not_hold_the_worker_for_long():
    queue = policy(interim_hold_s=0.3, first_call_s=0.2)
    submit(queue, *[entry(INTERIM, session=str(number)) for number in range(5)])
    assert len(run_one(queue, seconds=0.1)) == 1, "the guess is 0.2 s for one and 0.36 s for two"
    batch = next_batch(queue, now=1)
    assert len(batch.entries) == 3, "now 0.1 s for one is known, and 0.26 s expected for three"
    assert batch.estimate_s == pytest.approx(0.26)


def test_slow_finals_still_share_calls():
    queue = policy(final_hold_s=2.0, final_stretch=3.0, first_call_s=1.9)
    submit(queue, *[entry(session=str(number), key="k") for number in range(5)])
    assert len(run_one(queue, seconds=5.0)) == 3, "two would be expected to take 3.4 s, three 4.9 s, four 6.5 s"


def test_riders_stay_within_their_own_hold():
    queue = policy(first_call_s=0.4)
    finals = [entry(session=f"f{number}") for number in range(2)]
    submit(queue, *finals, entry(SPECULATIVE, session="a"), entry(SPECULATIVE, session="b"))
    assert run_one(queue) == finals


def test_a_failed_call_teaches_nothing():
    queue = policy(interim_hold_s=0.3)
    submit(queue, entry(INTERIM))
    queue.complete(next_batch(queue, now=0), now=60, seconds=None)
    submit(queue, *[entry(INTERIM, session=str(number)) for number in range(4)])
    assert len(next_batch(queue, now=0).entries) == 4


# ---------------------------------------------------------------- rule 6


def saturate(queue, *, until, live, file_s=1.0, live_s=0.2, live_sessions=6):
    """Worker time by class while a file and live sessions always have work."""
    used = Counter()
    now = 0.0
    for number in range(live_sessions):
        submit(queue, entry(live, session=str(number), deadline=0.5))
    for _ in range(4):
        submit(queue, entry(FILE, session="file", deadline=30.0))
    while now < until:
        batch = next_batch(queue, now=now)
        seconds = (file_s if batch.head.job_class is FILE else live_s) * len(batch.entries)
        now += seconds
        queue.complete(batch, now=now, seconds=seconds)
        for job in batch.entries:
            used[job.job_class] += seconds / len(batch.entries)
            submit(queue, entry(job.job_class, session=job.session, deadline=now + 0.5), now=now)
    return used


def test_files_keep_their_share_beside_interims():
    used = saturate(policy(), until=600.0, live=INTERIM)
    assert 0.10 <= used[FILE] / used.total() <= 0.15


@pytest.mark.parametrize("live", [FINAL, SPECULATIVE])
def test_files_get_nothing_beside_finals_and_speculations(live):
    queue = policy(speculation_wait_s=1e9, final_hold_s=0, speculative_hold_s=0)
    assert saturate(queue, until=60.0, live=live)[FILE] == 0


def test_a_share_of_nothing_leaves_files_waiting():
    assert saturate(policy(file_share=0.0), until=60.0, live=INTERIM)[FILE] == 0


def test_calls_of_files_are_longer_when_nobody_speaks():
    queue = policy(first_call_s=0.5)
    submit(queue, entry(INTERIM))
    run_one(queue)
    submit(queue, *[entry(FILE) for _ in range(8)], now=1.0)
    beside_speech = next_batch(queue, now=1.0)
    queue.complete(beside_speech, now=1.0, seconds=None)
    alone = next_batch(queue, now=20.0)
    assert beside_speech.estimate_s <= 1.0 < alone.estimate_s <= 4.0


# ---------------------------------------------------------------- rule 7


def busy(queue, *, estimate_s):
    """A worker that runs a final for that long, as far as the policy knows."""
    submit(queue, entry(session="busy"))
    run_one(queue, seconds=estimate_s)
    submit(queue, entry(session="busy"))
    return next_batch(queue, now=0)


def test_speculations_are_refused_while_finals_wait_long():
    queue = policy(speculation_wait_s=1.0)
    busy(queue, estimate_s=2.0)
    with pytest.raises(OverloadedError, match="speculation") as caught:
        queue.submit(entry(SPECULATIVE), now=0.0)
    assert caught.value.data["retry_after_s"] == pytest.approx(2.0)
    assert queue.queued(SPECULATIVE) == 0
    queue.submit(entry(SPECULATIVE), now=1.5)
    assert queue.queued(SPECULATIVE) == 1


def test_a_session_has_a_bounded_number_of_file_windows_waiting():
    queue = policy(waiting_files=2)
    submit(queue, entry(FILE), entry(FILE), entry(FILE, session="other"))
    with pytest.raises(OverloadedError, match="file windows") as caught:
        queue.submit(entry(FILE), now=0)
    assert caught.value.data["retry_after_s"] > 0


def test_a_user_has_a_bounded_number_of_jobs_waiting_but_for_finals():
    queue = policy(waiting_per_uid=2)
    submit(queue, entry(INTERIM), entry(INTERIM, session="t"), entry(FILE), entry(FILE))
    for job_class in (FILE, SPECULATIVE):
        with pytest.raises(OverloadedError, match="user"):
            queue.submit(entry(job_class), now=0)
    submit(queue, entry(FILE, uid=2), *[entry() for _ in range(100)])
    assert len(queue.submit(entry(INTERIM), now=0)) == 1, "what replaces another is not one more"
    assert queue.queued(FINAL) == 100


def test_files_of_a_user_keep_nobody_from_speaking():
    queue = policy(waiting_per_uid=2)
    submit(queue, entry(FILE), entry(FILE), entry(INTERIM), entry(SPECULATIVE))
    assert [queue.queued(job_class) for job_class in (FILE, INTERIM, SPECULATIVE)] == [2, 1, 1]


def test_a_running_file_is_no_reason_to_send_a_speaker_away():
    queue = policy()
    for _ in range(2):  # so that its cost is known
        submit(queue, entry(FILE))
        queue.complete(next_batch(queue, now=0), now=3, seconds=3)
    submit(queue, entry(FILE))
    next_batch(queue, now=10)
    assert queue.final_wait_s("m", now=10) > 2
    assert queue.final_wait_s("m", now=10, finals_alone=True) == 0
    submit(queue, entry(), entry(session="t"))
    assert queue.final_wait_s("m", now=10, finals_alone=True) == 0, "what finals cost is not known yet"


def test_a_file_does_not_make_live_text_slow():
    queue = policy()
    for second in range(60):
        submit(queue, entry(FILE), now=second)
        queue.complete(next_batch(queue, now=second), now=second + 1, seconds=1)
    assert queue.load(now=60) == 0
    for second in range(60, 120):
        submit(queue, entry(INTERIM), now=second)
        queue.complete(next_batch(queue, now=second), now=second + 1, seconds=1)
    assert queue.load(now=120) > 0.9


# ---------------------------------------------------------------- rule 10


def test_of_several_workers_one_is_kept_for_finals():
    queue = policy()
    submit(queue, *(entry(INTERIM, session=name, workers=3, key=name) for name in "abc"))
    assert [next_batch(queue, now=0).head.job_class for _ in range(2)] == [INTERIM, INTERIM]
    submit(queue, entry(FILE, workers=3))
    assert next_batch(queue, now=0) is None
    submit(queue, entry(SPECULATIVE, session="d", workers=3))
    assert next_batch(queue, now=0).head.job_class is SPECULATIVE


def test_files_may_have_all_workers_when_nobody_speaks():
    queue = policy()
    submit(queue, entry(FILE, workers=2, key=1), entry(FILE, workers=2, key=2))
    assert next_batch(queue, now=0) is not None
    assert next_batch(queue, now=0) is not None


def test_a_single_worker_is_for_all_and_the_reserve_can_be_given_up():
    for options, workers in (({}, 1), ({"final_workers": 0}, 2), ({"final_workers": 8}, 1)):
        queue = policy(**options)
        names = "ab"[:workers]
        submit(queue, *(entry(INTERIM, session=name, workers=workers, key=name) for name in names))
        assert all(next_batch(queue, now=0) is not None for _ in names)


# ---------------------------------------------------------------- rules 8 and 9, promotion


def test_a_confirmed_speculation_goes_on_as_a_final():
    queue = policy(final_hold_s=0)
    speculation, final = entry(SPECULATIVE, session="a"), entry(session="b", deadline=5.0)
    submit(queue, speculation, final)
    queue.promote(speculation.id, deadline=1.0, now=1.0)
    assert (speculation.job_class, speculation.submitted) == (FINAL, 1.0)
    assert queue.queued(SPECULATIVE) == 0
    assert order(queue, now=1.0) == [speculation.id, final.id]
    queue.promote(speculation.id, deadline=9.0, now=2.0)
    assert speculation.deadline == 1.0, "it ran already"


def test_a_cancelled_job_is_not_run():
    queue = policy()
    job = entry()
    submit(queue, job)
    assert queue.cancel(job.id)
    assert not queue.cancel(job.id)
    assert next_batch(queue, now=0) is None


def test_nothing_of_a_session_that_is_gone_is_run():
    queue = policy()
    kept = entry(session="kept")
    jobs = [entry(job_class, session="gone") for job_class in JobClass]
    submit(queue, kept, *jobs)
    assert sorted(queue.forget("gone")) == [job.id for job in jobs]
    assert order(queue) == [kept.id]
    assert queue.forget("gone") == []


def test_out_of_memory_halves_the_batches_for_a_while():
    queue = policy(shrunk_s=300)
    submit(queue, *[entry() for _ in range(8)])
    batch = next_batch(queue, now=0)
    queue.shrink(batch, tried=len(batch.entries), now=0)
    queue.complete(batch, now=0, seconds=None)
    for now, size in ((1, 4), (301, 8)):
        submit(queue, *[entry() for _ in range(8)], now=now)
        batch = next_batch(queue, now=now)
        assert len(batch.entries) == size
        queue.complete(batch, now=now, seconds=None)
        order(queue, now=now)


# ---------------------------------------------------------------- estimates


def test_the_wait_of_a_final_is_what_runs_and_waits_before_it():
    queue = policy(final_hold_s=3.0)
    assert queue.final_wait_s("m", now=0) == queue.load(now=0) == 0
    running = busy(queue, estimate_s=1.0)
    assert queue.final_wait_s("m", now=0) == pytest.approx(1.0)
    submit(queue, *[entry(session=str(number)) for number in range(3)])
    assert queue.final_wait_s("m", now=0) == pytest.approx(1.0 + 2.6)
    submit(queue, entry(key="words"))
    assert queue.final_wait_s("m", now=0) == pytest.approx(1.0 + 2.6 + 1.0)
    queue.complete(running, now=1, seconds=1.0)
    assert 0 < queue.load(now=1) <= 1


def test_an_overdue_call_is_expected_to_take_as_long_again():
    queue = policy()
    busy(queue, estimate_s=1.0)
    assert queue.final_wait_s("m", now=5.0) == pytest.approx(4.0)


def test_a_free_worker_means_no_wait():
    queue = policy()
    submit(queue, entry(workers=2))
    next_batch(queue, now=0)
    assert queue.final_wait_s("m", now=0) == 0


def test_models_without_work_are_forgotten_in_the_end():
    queue = policy()
    for number in range(40):
        submit(queue, entry(model=number))
        run_one(queue)
    assert len(queue._models) <= 32


# ---------------------------------------------------------------- a busy quarter of an hour


COSTS = {FINAL: 0.25, SPECULATIVE: 0.25, INTERIM: 0.1, FILE: 0.8}  # seconds of a call with one item


def conversation(*, with_file, speakers=4, until=900.0, seed=7):
    """How long finals waited on one worker that also does interims, speculations and, if asked, an endless file."""
    rng = random.Random(seed)
    queue = policy(first_call_s=0.3)
    arrivals = []  # (time, class, session), by time
    for number in range(speakers):
        at = rng.uniform(0, 3)
        while at < until:
            length = rng.uniform(1, 4)
            arrivals += [(at + step * 0.7, INTERIM, number) for step in range(1, int(length / 0.7))]
            arrivals += [(at + length + 0.18, SPECULATIVE, number), (at + length + 0.5, FINAL, number)]
            at += length + rng.uniform(1, 4)
    arrivals.sort()
    waits, now = [], 0.0
    while arrivals:
        while arrivals and arrivals[0][0] <= now:
            at, job_class, number = arrivals.pop(0)
            with contextlib.suppress(OverloadedError):
                queue.submit(entry(job_class, session=str(number), uid=number % 2, deadline=at + 0.3), now=at)
        while with_file and queue.queued(FILE) < 4:
            queue.submit(entry(FILE, session="file", uid=9, deadline=now + 30), now=now)
        batch = next_batch(queue, now=now)
        if batch is None:
            now = arrivals[0][0] if arrivals else now
            continue
        waits += [now - job.submitted for job in batch.entries if job.job_class is FINAL]
        seconds = COSTS[batch.head.job_class] * (0.5 + 0.5 * len(batch.entries))
        now += seconds
        queue.complete(batch, now=now, seconds=seconds)
    return sorted(waits)


def test_a_file_costs_live_finals_at_most_one_call():
    alone, beside = conversation(with_file=False), conversation(with_file=True)
    assert len(beside) == len(alone) > 500, "no final is lost"
    p95 = int(0.95 * len(alone))
    assert beside[p95] <= 1.2 * alone[p95] + COSTS[FILE]
    assert beside[-1] <= alone[-1] + COSTS[FILE]


# ---------------------------------------------------------------- all together


class Scheduling(RuleBasedStateMachine):
    """Random work for two models, checked against what the rules promise at every step."""

    @initialize(options=st.sampled_from([{}, {"file_share": 0.5, "waiting_files": 2}, {"waiting_per_uid": 3}]))
    def begin(self, options):
        self.queue = policy(first_call_s=0.1, **options)
        self.now = 0.0
        self.waiting = {}
        self.running = []
        self.seen = Counter()
        self.workers = {"m": 1, "n": 2}

    @rule(
        job_class=st.sampled_from(JobClass),
        session=st.integers(0, 3),
        deadline_s=st.floats(-5, 50),
        model=st.sampled_from("mn"),
        key=st.sampled_from([None, "words"]),
    )
    def submit(self, job_class, session, deadline_s, model, key):
        job = entry(
            job_class,
            session=str(session),
            uid=session // 2,
            deadline=self.now + deadline_s,
            model=model,
            workers=self.workers[model],
            key=key and (key, job_class is INTERIM, job_class is FILE),
            max_batch=3,
        )
        try:
            replaced = self.queue.submit(job, now=self.now)
        except OverloadedError:
            assert job_class is not FINAL
            return
        for job_id in replaced:
            old = self.waiting.pop(job_id)
            assert (old.job_class, old.session) == (job_class, str(session))
            assert job_class in (INTERIM, SPECULATIVE)
        self.waiting[job.id] = job

    @rule(seconds=st.floats(0, 20))
    def time_passes(self, seconds):
        self.now += seconds

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data):
        job_id = data.draw(st.sampled_from(sorted(self.waiting)))
        assert self.queue.cancel(job_id)
        del self.waiting[job_id]

    @precondition(lambda self: any(job.job_class is SPECULATIVE for job in self.waiting.values()))
    @rule(data=st.data())
    def promote(self, data):
        speculations = [job for job in self.waiting.values() if job.job_class is SPECULATIVE]
        job = data.draw(st.sampled_from(speculations))
        self.queue.promote(job.id, deadline=self.now, now=self.now)
        assert job.job_class is FINAL

    @rule(session=st.integers(0, 3))
    def session_leaves(self, session):
        gone = self.queue.forget(str(session))
        assert set(gone) == {job.id for job in self.waiting.values() if job.session == str(session)}
        for job_id in gone:
            del self.waiting[job_id]

    @rule()
    def begin_call(self):
        free = {name for name, count in self.workers.items() if self.calls(name) < count}
        flying = self.interims_in_flight()
        kept = {name for name in free if self.workers[name] > 1 and self.lower_calls(name) >= self.workers[name] - 1}
        quiet = self.queue._quiet(self.now)
        batch = next_batch(self.queue, now=self.now)
        ready = [
            job
            for job in self.waiting.values()
            if job.model in free
            and not (job.job_class is INTERIM and (job.session in flying or job.model in kept))
            and not (job.job_class is FILE and job.model in kept and not quiet)
        ]
        if batch is None:
            assert not ready, "no worker idles while something may run"
            return
        self.check_order(batch, ready)
        self.check_batch(batch)
        for job in batch.entries:
            del self.waiting[job.id]
            self.seen[job.id] += 1
        self.running.append(batch)

    def check_order(self, batch, ready):
        head = batch.head
        assert head in ready
        if head.job_class is FILE:
            assert all(job.job_class >= INTERIM for job in ready)
        else:
            assert head.job_class == min(job.job_class for job in ready)
        options = self.queue.options
        bound_s = 2 * options.fairness_s + options.slack_s
        peers = [job for job in ready if job.model == head.model and job.job_class == head.job_class]
        assert all(job.submitted >= head.submitted - bound_s for job in peers), "the older than the bound go first"

    def check_batch(self, batch):
        head = batch.head
        assert len({(job.model, job.key) for job in batch.entries}) == 1
        assert len({job.id for job in batch.entries}) == len(batch.entries) <= rooms[head.id]
        allowed = {head.job_class, SPECULATIVE} if head.job_class is FINAL else {head.job_class}
        assert {job.job_class for job in batch.entries} <= allowed
        if len(batch.entries) > 1:
            options, last = self.queue.options, batch.entries[-1].job_class
            single_s = self.queue._cost(head).estimate(1)
            stretch_s = options.final_stretch * single_s if last is FINAL else 0.0
            assert batch.estimate_s <= max(options.hold_s(last, quiet=True), stretch_s)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), seconds=st.floats(0, 3), outcome=st.sampled_from(["done", "failed", "memory", "unfinished"]))
    def end_call(self, data, seconds, outcome):
        batch = data.draw(st.sampled_from(self.running))
        self.running.remove(batch)
        self.now += seconds
        if outcome == "memory":
            self.queue.shrink(batch, tried=len(batch.entries), now=self.now)
        self.queue.complete(batch, now=self.now, seconds=seconds if outcome == "done" else None)
        assert not any(self.queue.cancel(job.id) for job in batch.entries)
        if outcome == "unfinished" and batch.head.job_class is FILE:
            for job in batch.entries:
                self.queue.resubmit(job, now=self.now)
                self.waiting[job.id] = job
                del self.seen[job.id]

    def calls(self, model):
        return sum(batch.head.model == model for batch in self.running)

    def lower_calls(self, model):
        return sum(batch.head.model == model and batch.head.group is not FINAL for batch in self.running)

    def interims_in_flight(self):
        return [job.session for batch in self.running for job in batch.entries if job.job_class is INTERIM]

    @invariant()
    def workers_suffice(self):
        if hasattr(self, "queue"):
            assert all(self.calls(name) <= count for name, count in self.workers.items())
            assert self.queue.in_flight == len(self.running)

    @invariant()
    def one_interim_a_session(self):
        if hasattr(self, "queue"):
            flying = self.interims_in_flight()
            assert len(flying) == len(set(flying))
            for job_class in (INTERIM, SPECULATIVE):
                waiting = [job.session for job in self.waiting.values() if job.job_class is job_class]
                assert len(waiting) == len(set(waiting))

    @invariant()
    def nothing_is_lost_or_run_twice(self):
        if hasattr(self, "queue"):
            by_class = defaultdict(int, Counter(job.job_class for job in self.waiting.values()))
            assert all(self.queue.queued(job_class) == by_class[job_class] for job_class in JobClass)
            assert all(count == 1 for count in self.seen.values())
            assert all(self.queue.final_wait_s(model, now=self.now) >= 0 for model in self.queue.models)
            assert 0 <= self.queue.load(now=self.now) <= 1

    def teardown(self):
        if not hasattr(self, "queue"):
            return
        for batch in self.running:
            self.queue.complete(batch, now=self.now, seconds=0.1)
        self.running = []
        while (batch := next_batch(self.queue, now=self.now)) is not None:
            for job in batch.entries:
                del self.waiting[job.id]
            self.queue.complete(batch, now=self.now, seconds=0.1)
        assert not self.waiting, "what was submitted runs in the end"
        assert not self.queue._counts
        assert not self.queue._newest
        assert not self.queue._interim_runs


Scheduling.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestScheduling = Scheduling.TestCase
