"""The pool policy: each rule by example, then all of them at once over a simulated week."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sttd.core.pooling import (
    PINNED,
    Close,
    Grant,
    Load,
    Park,
    PoolLimits,
    PoolPolicy,
    Recall,
    Refuse,
    State,
    Unpark,
)

LIMITS = PoolLimits(max_loaded_models=2, idle_ttl_s=300.0, parked_ttl_s=600.0, load_wait_s=10.0)


def policy(**changes):
    return PoolPolicy(attrs.evolve(LIMITS, **changes))


def ready(pool, key, *, now=0.0, parkable=False):
    """Load a model for one waiter and release it, so that it is idle."""
    assert pool.request(1000, key, now=now) == [Load(key)]
    assert pool.loaded(key, parkable=parkable, now=now) == [Grant(1000, key)]
    return pool.release(key, now=now)


def view(pool, key, *, now=0.0):
    return next(entry for entry in pool.entries(now=now) if entry.key == key)


# ------------------------------------------------------------ rule 1: requests


def test_a_cold_model_is_loaded_once_for_all_who_wait():
    pool = policy()
    assert pool.request(1, "a", now=0.0) == [Load("a")]
    assert pool.request(2, "a", now=0.1) == []
    assert pool.loaded("a", parkable=False, now=2.0) == [Grant(1, "a"), Grant(2, "a")]
    assert view(pool, "a").leases == 2
    assert (pool.hits, pool.misses) == (0, 2)


def test_a_loaded_model_is_granted_at_once():
    pool = policy()
    ready(pool, "a")
    assert pool.request(1, "a", now=1.0) == [Grant(1, "a")]
    assert view(pool, "a").hits == pool.hits == 1


def test_a_parked_model_is_brought_back_for_a_request():
    pool = policy()
    ready(pool, "a", parkable=True)
    assert pool.tick(300.0) == [Park("a")]
    assert pool.parked("a", done=True, now=301.0) == []
    assert pool.request(1, "a", now=302.0) == [Unpark("a")]
    assert pool.request(2, "a", now=302.0) == []
    assert pool.unparked("a", now=303.0) == [Grant(1, "a"), Grant(2, "a")]


# ------------------------------------------------------------ rule 2 and 3: slots


def test_one_load_at_a_time_in_the_order_of_asking():
    pool = policy()
    assert pool.request(1, "a", now=0.0) == [Load("a")]
    assert pool.request(2, "b", now=0.0) == []
    assert pool.loaded("a", parkable=False, now=1.0) == [Grant(1, "a"), Load("b")]


def test_the_least_recently_used_idle_model_makes_room():
    pool = policy()
    ready(pool, "a", now=0.0)
    ready(pool, "b", now=1.0)
    pool.request(1, "a", now=2.0)
    pool.release("a", now=3.0)
    assert pool.request(2, "c", now=4.0) == [Close("b")]
    assert pool.tick(5.0) == []
    assert pool.closed("b", now=6.0) == [Load("c")]


def test_a_leased_or_pinned_model_is_not_evicted_and_the_wait_is_bounded():
    pool = policy()
    ready(pool, "a")
    pool.keep_alive("a", seconds=-1, now=0.0)
    ready(pool, "b")
    pool.request(1, "b", now=0.0)
    assert pool.request(2, "c", now=1.0) == []
    assert pool.next_wakeup() == 11.0
    assert pool.tick(10.9) == []
    assert pool.tick(11.0) == [Refuse(2, None)]


def test_a_slot_that_comes_free_in_time_is_taken():
    pool = policy(max_loaded_models=1)
    ready(pool, "a")
    pool.request(1, "a", now=0.0)
    assert pool.request(2, "b", now=1.0) == []
    assert pool.release("a", now=9.0) == [Close("a")]
    assert pool.closed("a", now=50.0) == [Load("b")]
    assert pool.loaded("b", parkable=False, now=99.0) == [Grant(2, "b")]


def test_time_in_which_a_load_runs_does_not_count_as_waiting():
    pool = policy(max_loaded_models=1)
    pool.request(1, "a", now=0.0)
    pool.request(2, "b", now=0.0)
    assert pool.tick(100.0) == []
    assert pool.loaded("a", parkable=False, now=100.0) == [Grant(1, "a")]
    assert pool.next_wakeup() == 110.0
    assert pool.tick(110.0) == [Refuse(2, None)]


# ------------------------------------------------------------ rule 5: expiry


def test_an_idle_model_expires_and_a_used_one_does_not():
    pool = policy()
    ready(pool, "a")
    assert view(pool, "a", now=100.0).expires_in_s == 200.0
    pool.request(1, "a", now=100.0)
    assert pool.next_wakeup() is None
    assert view(pool, "a", now=150.0).expires_in_s is None
    assert pool.tick(1000.0) == []
    pool.release("a", now=1000.0)
    assert pool.next_wakeup() == 1300.0
    assert pool.tick(1300.0) == [Close("a")]
    assert pool.closed("a", now=1301.0) == []
    assert pool.entries(now=1301.0) == ()


def test_a_ttl_of_zero_keeps_models_for_good():
    pool = policy(idle_ttl_s=0.0)
    ready(pool, "a")
    assert pool.next_wakeup() is None
    assert pool.tick(1e9) == []


@pytest.mark.parametrize(("seconds", "expires"), [(60.0, 60.0), (-1.0, None)])
def test_keep_alive_overrides_the_ttl(seconds, expires):
    pool = policy()
    ready(pool, "a")
    assert pool.keep_alive("a", seconds=seconds, now=0.0) == []
    assert view(pool, "a").expires_in_s == expires
    assert view(pool, "a").pinned is (seconds == -1)


def test_a_keep_alive_of_zero_frees_at_the_last_release_without_parking():
    pool = policy()
    pool.request(1, "a", now=0.0)
    pool.loaded("a", parkable=True, now=1.0)
    assert pool.keep_alive("a", seconds=0.0, now=1.0) == []
    assert pool.release("a", now=2.0) == [Close("a")]


def test_a_parked_model_is_closed_in_the_second_stage():
    pool = policy()
    ready(pool, "a", parkable=True)
    pool.tick(300.0)
    pool.parked("a", done=True, now=301.0)
    assert view(pool, "a", now=401.0).state is State.PARKED
    assert pool.next_wakeup() == 901.0
    assert pool.tick(901.0) == [Close("a")]


def test_without_a_second_stage_a_gpu_model_is_closed_at_once():
    pool = policy(parked_ttl_s=0.0)
    ready(pool, "a", parkable=True)
    assert pool.tick(300.0) == [Close("a")]


def test_a_model_that_does_not_park_is_closed():
    pool = policy()
    ready(pool, "a", parkable=True)
    pool.tick(300.0)
    assert pool.parked("a", done=False, now=300.0) == [Close("a")]


# ------------------------------------------------------------ rule 6: unload


def test_unload_frees_an_idle_model_even_a_pinned_or_parked_one():
    pool = policy()
    ready(pool, "a")
    pool.keep_alive("a", seconds=-1, now=0.0)
    ready(pool, "b", parkable=True)
    pool.tick(300.0)
    pool.parked("b", done=True, now=300.0)
    assert pool.unload(["a", "b"], now=301.0) == [Close("a"), Close("b")]


def test_unload_waits_for_the_last_lease_and_grants_nobody_meanwhile():
    pool = policy()
    ready(pool, "a")
    pool.request(1, "a", now=0.0)
    pool.duplicate("a")
    assert pool.unload(["a"], now=1.0) == []
    assert view(pool, "a").draining
    assert pool.request(2, "a", now=2.0) == []
    assert pool.release("a", now=3.0) == []
    assert pool.release("a", now=4.0) == [Close("a")]
    assert pool.closed("a", now=5.0) == [Load("a")]
    assert pool.loaded("a", parkable=False, now=6.0) == [Grant(2, "a")]


def test_who_waits_for_a_draining_model_that_stays_leased_is_refused_in_time():
    pool = policy()
    ready(pool, "a")
    pool.request(1, "a", now=0.0)
    pool.unload(["a"], now=1.0)
    pool.request(2, "a", now=2.0)
    assert pool.tick(12.0) == [Refuse(2, None)]


def test_unload_during_a_load_serves_who_waits_for_it_and_then_frees():
    pool = policy()
    pool.request(1, "a", now=0.0)
    assert pool.unload(["a"], now=0.5) == []
    assert pool.loaded("a", parkable=False, now=1.0) == [Grant(1, "a")]
    assert pool.release("a", now=2.0) == [Close("a")]


# ------------------------------------------------------------ rules 7 and 8: what goes wrong


def test_a_failed_load_reaches_every_waiter_once_and_the_next_request_loads_again():
    pool = policy()
    error = RuntimeError("no")
    for waiter in range(20):
        pool.request(waiter, "a", now=0.0)
    assert pool.load_failed("a", error=error, now=1.0) == [Refuse(waiter, error) for waiter in range(20)]
    assert pool.load_failures == 1
    assert pool.entries(now=1.0) == ()
    assert pool.request(21, "a", now=2.0) == [Load("a")]


def test_a_load_that_nobody_waits_for_is_discarded_when_it_returns():
    pool = policy()
    pool.request(1, "a", now=0.0)
    assert pool.cancel(1, now=0.5) == []
    assert pool.loaded("a", parkable=False, now=1.0) == [Close("a")]


def test_a_load_is_not_discarded_when_somebody_else_came_to_wait():
    pool = policy()
    pool.request(1, "a", now=0.0)
    pool.cancel(1, now=0.5)
    pool.request(2, "a", now=0.6)
    assert pool.loaded("a", parkable=False, now=1.0) == [Grant(2, "a")]


def test_a_parked_model_that_does_not_come_back_is_closed_and_who_waits_is_told():
    pool = policy()
    ready(pool, "a", parkable=True)
    pool.tick(300.0)
    pool.parked("a", done=True, now=300.0)
    pool.request(1, "a", now=301.0)
    error = RuntimeError("no")
    assert pool.unpark_failed("a", error=error, now=302.0) == [Refuse(1, error), Close("a")]
    assert pool.load_failures == 1


# ------------------------------------------------------------ rule 9 and memory


def test_a_lowered_limit_frees_idle_models_and_spares_leased_ones():
    pool = policy(max_loaded_models=3)
    ready(pool, "a")
    ready(pool, "b")
    ready(pool, "c")
    pool.request(1, "a", now=0.0)
    assert pool.configure(attrs.evolve(LIMITS, max_loaded_models=1), now=1.0) == [Close("b"), Close("c")]


def test_a_model_over_the_lowered_limit_is_freed_when_it_is_released():
    pool = policy()
    pool.request(1, "a", now=0.0)
    pool.loaded("a", parkable=False, now=0.0)
    pool.request(2, "b", now=0.0)
    pool.loaded("b", parkable=False, now=0.0)
    assert pool.configure(attrs.evolve(LIMITS, max_loaded_models=1), now=1.0) == []
    assert pool.release("a", now=2.0) == [Close("a")]


def test_room_is_made_by_the_least_recently_used_idle_model():
    pool = policy()
    ready(pool, "a", now=0.0)
    ready(pool, "b", now=1.0)
    assert pool.make_room() == [Close("a")]
    assert pool.make_room() == [Close("b")]
    assert pool.make_room() == []


# ------------------------------------------------------------ speech and files


def test_speech_that_finds_no_room_recalls_a_file_s_model_and_gets_its_slot():
    pool = policy(max_loaded_models=1)
    pool.request(1, "a", file=True, now=0.0)
    assert pool.loaded("a", parkable=False, now=0.0) == [Grant(1, "a")]
    assert pool.request(2, "b", now=1.0) == [Recall("a")]
    assert pool.request(3, "a", file=True, now=1.0) == [], "nothing of a file is granted it"
    assert pool.release("a", file=True, now=2.0) == [Close("a")], "although a file waits for it"
    assert pool.closed("a", now=2.0) == [Load("b")]
    assert pool.loaded("b", parkable=False, now=3.0) == [Grant(2, "b")]


def test_speech_waits_without_a_limit_for_a_call_under_a_file_s_lease_to_end():
    pool = policy(max_loaded_models=1)
    pool.request(1, "a", file=True, now=0.0)
    pool.loaded("a", parkable=False, now=0.0)
    pool.request(2, "b", now=1.0)
    assert pool.tick(1.0 + 10 * LIMITS.load_wait_s) == []


def test_a_file_goes_on_when_the_speech_has_gone():
    pool = policy(max_loaded_models=1)
    pool.request(1, "a", file=True, now=0.0)
    pool.loaded("a", parkable=False, now=0.0)
    pool.request(2, "b", now=1.0)
    pool.request(3, "a", file=True, now=1.0)
    assert pool.cancel(2, now=2.0) == [Grant(3, "a")]


def test_speech_for_the_recalled_model_itself_is_granted_and_another_file_s_is_recalled():
    pool = policy(max_loaded_models=2)
    for number, key in enumerate("ab"):
        pool.request(number, key, file=True, now=0.0)
        pool.loaded(key, parkable=False, now=0.0)
    assert pool.request(2, "c", now=1.0) == [Recall("a")]
    assert pool.request(3, "a", now=1.0) == [Grant(3, "a"), Recall("b")]


def test_files_are_recalled_from_a_model_that_drains_while_speech_waits_for_it():
    pool = policy(max_loaded_models=1)
    pool.request(1, "a", file=True, now=0.0)
    pool.loaded("a", parkable=False, now=0.0)
    assert pool.unload(["a"], now=1.0) == []
    assert pool.request(2, "a", now=1.0) == [Recall("a")]
    assert pool.release("a", file=True, now=1.0) == [Close("a")]


def test_a_shielded_model_is_not_recalled():
    pool = policy(max_loaded_models=1)
    pool.request(1, "a", file=True, now=0.0)
    pool.loaded("a", parkable=False, now=0.0)
    pool.keep_alive("a", seconds=PINNED, now=0.0)
    assert pool.request(2, "b", now=1.0) == []


def test_what_speech_used_is_not_closed_for_a_file_before_it_has_rested():
    pool = policy(max_loaded_models=1)
    ready(pool, "a", now=0.0)
    assert pool.request(2, "b", file=True, now=1.0) == []
    due = pool.next_wakeup()
    assert due is not None
    assert due < LIMITS.idle_ttl_s
    assert pool.tick(due - 0.01) == []
    assert pool.tick(due) == [Close("a")]


def test_a_file_waits_for_a_slot_without_a_limit():
    pool = policy(max_loaded_models=1)
    ready(pool, "a", now=0.0)
    pool.request(2, "a", now=0.0)
    pool.request(3, "b", file=True, now=0.0)
    assert pool.tick(100 * LIMITS.load_wait_s) == []
    assert pool.release("a", now=1000.0) == []
    assert pool.tick(1010.0) == [Close("a")]


def test_speech_is_loaded_before_files_that_asked_earlier():
    pool = policy(max_loaded_models=3)
    pool.request(1, "a", now=0.0)
    pool.request(2, "b", file=True, now=0.0)
    pool.request(3, "c", now=0.0)
    assert pool.loaded("a", parkable=False, now=1.0) == [Grant(1, "a"), Load("c")]


def test_a_pin_that_does_not_shield_stays_for_good_and_makes_room():
    pool = policy(max_loaded_models=1)
    ready(pool, "a", now=0.0)
    pool.keep_alive("a", seconds=PINNED, shields=False, now=0.0)
    assert view(pool, "a", now=1e6).pinned
    assert pool.next_wakeup() is None
    assert pool.request(2, "b", now=1e6) == [Close("a")]


def test_all_slots_are_held_when_speech_or_a_shield_has_each():
    pool = policy(max_loaded_models=2)
    ready(pool, "a", now=0.0)
    ready(pool, "b", now=0.0)
    pool.keep_alive("a", seconds=PINNED, now=0.0)
    assert not pool.held
    pool.request(3, "b", file=True, now=0.0)
    assert not pool.held, "files give way"
    pool.request(4, "b", now=0.0)
    assert pool.held
    pool.release("b", now=0.0)
    assert not pool.held


# ------------------------------------------------------------ all rules over a week


class Week(RuleBasedStateMachine):
    """Random use of the pool by a faithful shell, with a virtual clock that leaps up to two hours at a time."""

    KEYS = ("a", "b", "c", "d")

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.pool = PoolPolicy(LIMITS)
        self.limit = LIMITS.max_loaded_models
        self.numbers = 0
        self.waiting = {}  # number → key
        self.files = set()  # the numbers of those that are files
        self.leases = []  # (key, of a file)
        self.recalled = set()  # keys
        self.under_way = {}  # key → operation
        self.over_limit = set()  # serials that were there when the limit was lowered

    def apply(self, actions):
        for action in actions:
            if isinstance(action, Grant):
                assert self.waiting.pop(action.waiter) == action.key
                assert action.key not in self.under_way
                self.leases.append((action.key, action.waiter in self.files))
            elif isinstance(action, Refuse):
                del self.waiting[action.waiter]
                assert action.error is not None or action.waiter not in self.files, "files wait"
            elif isinstance(action, Recall):
                assert (action.key, True) in self.leases
                self.recalled.add(action.key)
            else:
                assert action.key not in self.under_way, "two operations on one entry"
                if not isinstance(action, Load | Unpark):
                    assert action.key not in self.leased, "freed or parked under its user"
                self.under_way[action.key] = action

    @property
    def leased(self):
        return [key for key, _ in self.leases]

    def give_back(self, lease):
        self.leases.remove(lease)
        self.apply(self.pool.release(lease[0], file=lease[1], now=self.now))

    @rule(seconds=st.one_of(st.floats(0, 20), st.floats(0, 7200)))
    def time_passes(self, seconds):
        end = self.now + seconds
        while (wakeup := self.pool.next_wakeup()) is not None and wakeup <= end:
            self.now = max(self.now, wakeup)
            self.apply(self.pool.tick(self.now))
            again = self.pool.next_wakeup()
            assert again is None or again > self.now, "a wake-up that settles nothing would spin"
        self.now = end
        self.apply(self.pool.tick(self.now))

    @rule(key=st.sampled_from(KEYS), file=st.booleans())
    def request(self, key, file):
        self.numbers += 1
        self.waiting[self.numbers] = key
        if file:
            self.files.add(self.numbers)
        self.apply(self.pool.request(self.numbers, key, file=file, now=self.now))

    @precondition(lambda self: self.recalled)
    @rule()
    def files_give_back(self):
        recalled, self.recalled = self.recalled, set()
        for lease in [lease for lease in self.leases if lease[1] and lease[0] in recalled]:
            self.numbers += 1
            self.waiting[self.numbers] = lease[0]
            self.files.add(self.numbers)
            self.give_back(lease)
            self.apply(self.pool.request(self.numbers, lease[0], file=True, now=self.now))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data):
        number = data.draw(st.sampled_from(sorted(self.waiting)))
        del self.waiting[number]
        self.apply(self.pool.cancel(number, now=self.now))

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data):
        self.give_back(data.draw(st.sampled_from(self.leases)))

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def duplicate(self, data):
        key, file = data.draw(st.sampled_from(self.leases))
        self.pool.duplicate(key, file=file)
        self.leases.append((key, file))

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), seconds=st.sampled_from([-1.0, 0.0, 30.0]), shields=st.booleans())
    def keep_alive(self, data, seconds, shields):
        key = data.draw(st.sampled_from(self.leased))
        self.apply(self.pool.keep_alive(key, seconds=seconds, shields=shields, now=self.now))

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def hang(self, data):
        key = data.draw(st.sampled_from(self.leased))
        self.leases = [lease for lease in self.leases if lease[0] != key]
        self.apply(self.pool.lost(key, now=self.now))

    @rule(everything=st.booleans(), key=st.sampled_from(KEYS))
    def unload(self, everything, key):
        keys = [entry.key for entry in self.pool.entries(now=self.now) if everything or entry.key == key]
        self.apply(self.pool.unload(keys, now=self.now))

    @rule(maximum=st.integers(1, 3), ttl=st.sampled_from([0.0, 60.0, 300.0]), parked=st.sampled_from([0.0, 600.0]))
    def configure(self, maximum, ttl, parked):
        limits = attrs.evolve(LIMITS, max_loaded_models=maximum, idle_ttl_s=ttl, parked_ttl_s=parked)
        self.over_limit = {entry.serial for entry in self.pool.entries(now=self.now)}
        self.limit = maximum
        self.apply(self.pool.configure(limits, now=self.now))

    @precondition(lambda self: any(isinstance(action, Load) for action in self.under_way.values()))
    @rule()
    def memory_is_short(self):
        self.apply(self.pool.make_room())

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), well=st.sampled_from([True, True, True, False]), parkable=st.booleans())
    def finish(self, data, well, parkable):
        key = data.draw(st.sampled_from(sorted(self.under_way)))
        action = self.under_way.pop(key)
        error = RuntimeError("no")
        match action:
            case Load() if well:
                self.apply(self.pool.loaded(key, parkable=parkable, now=self.now))
            case Load():
                self.apply(self.pool.load_failed(key, error=error, now=self.now))
                assert key not in self.waiting.values()
            case Park():
                self.apply(self.pool.parked(key, done=well, now=self.now))
            case Unpark() if well:
                self.apply(self.pool.unparked(key, now=self.now))
            case Unpark():
                self.apply(self.pool.unpark_failed(key, error=error, now=self.now))
            case Close():
                self.apply(self.pool.closed(key, now=self.now))

    @invariant()
    def limits_hold(self):
        entries = self.pool.entries(now=self.now)
        inherited = sum(entry.serial in self.over_limit for entry in entries)
        assert len(entries) <= max(self.limit, inherited)
        assert sum(entry.state is State.LOADING for entry in entries) <= 1

    @invariant()
    def leases_agree(self):
        for entry in self.pool.entries(now=self.now):
            assert entry.leases == self.leased.count(entry.key)
            if entry.leases:
                assert entry.state is State.READY
        assert set(self.leased) <= {entry.key for entry in self.pool.entries(now=self.now)}

    @invariant()
    def busy_entries_have_their_operation(self):
        busy = {State.LOADING: Load, State.PARKING: Park, State.UNPARKING: Unpark, State.CLOSING: Close}
        for entry in self.pool.entries(now=self.now):
            assert isinstance(self.under_way.get(entry.key), busy.get(entry.state, type(None)))

    @invariant()
    def nobody_waits_for_ever(self):
        """Speech that waits has an operation ahead of it somewhere, a deadline, or files that were asked to go."""
        if self.waiting.keys() - self.files and not self.under_way:
            going = any(lease[1] for lease in self.leases)
            assert self.pool.next_wakeup() is not None or going

    @invariant()
    def a_file_waits_for_something(self):
        """Where nothing is leased, under way or shielded, a file has its model, or will have at a known time."""
        shut = any(entry.leases or entry.pinned for entry in self.pool.entries(now=self.now))
        if self.waiting and not self.under_way and not shut:
            assert self.pool.next_wakeup() is not None

    def teardown(self):
        """No key is stuck: once everything is released and finished, every key can be had again."""
        while self.leases or self.waiting:  # who gives up may make room for a file, which then has its lease
            while self.leases:
                self.give_back(self.leases[0])
            for number in list(self.waiting):
                if number in self.waiting:
                    del self.waiting[number]
                    self.apply(self.pool.cancel(number, now=self.now))
        self.settle()
        self.apply(self.pool.unload([entry.key for entry in self.pool.entries(now=self.now)], now=self.now))
        self.settle()
        assert self.pool.entries(now=self.now) == ()
        for key in self.KEYS:
            self.numbers += 1
            self.waiting[self.numbers] = key
            self.apply(self.pool.request(self.numbers, key, now=self.now))
            self.settle()
            assert self.leases == [(key, False)]
            self.give_back(self.leases[0])
            self.settle()

    def settle(self):
        while self.under_way:
            key, action = self.under_way.popitem()
            match action:
                case Load():
                    self.apply(self.pool.loaded(key, parkable=False, now=self.now))
                case Park():
                    self.apply(self.pool.parked(key, done=True, now=self.now))
                case Unpark():
                    self.apply(self.pool.unparked(key, now=self.now))
                case Close():
                    self.apply(self.pool.closed(key, now=self.now))


TestWeek = Week.TestCase
TestWeek.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.mark.slow
def test_a_whole_week_of_simulated_time():
    """Thousands of random steps in one run, until the virtual clock has passed seven days."""
    import random

    random_ = random.Random(7)
    week = Week()

    class Draw:
        def draw(self, strategy):
            return random_.choice(list(strategy.elements))

    steps = 0
    while week.now < 7 * 24 * 3600:
        steps += 1
        possible = ["time", "request", "finish", "finish", "release", "cancel", "unload", "configure", "keep", "more"]
        possible += ["give back"]
        match random_.choice(possible):
            case "time":
                week.time_passes(random_.choice([1.0, 5.0, 30.0, 600.0]))
            case "request":
                week.request(random_.choice(week.KEYS), random_.random() < 0.4)
            case "give back" if week.recalled:
                week.files_give_back()
            case "finish" if week.under_way:
                week.finish(Draw(), random_.random() < 0.9, random_.random() < 0.5)
            case "release" if week.leases:
                week.release(Draw())
            case "more" if week.leases and len(week.leases) < 5:
                week.duplicate(Draw())
            case "cancel" if week.waiting:
                week.cancel(Draw())
            case "keep" if week.leases:
                week.keep_alive(Draw(), random_.choice([-1.0, 0.0, 30.0]), random_.random() < 0.5)
            case "unload" if random_.random() < 0.1:
                week.unload(random_.random() < 0.2, random_.choice(week.KEYS))
            case "configure" if random_.random() < 0.02:
                week.configure(random_.randint(1, 3), random_.choice([0.0, 60.0, 300.0]), 600.0)
        week.limits_hold()
        week.leases_agree()
        week.busy_entries_have_their_operation()
        week.nobody_waits_for_ever()
        week.a_file_waits_for_something()
    week.teardown()
    assert steps > 1000
