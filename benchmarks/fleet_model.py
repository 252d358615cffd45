"""Speakers, edges and replicas on a clock of its own: a discrete-event simulation. No IO, no real time, one seed.

    speaker ──utterance──▶ edge: endpoint, SchedulingPolicy, Cadence ──request──▶ replica: queue, batch ──▶ edge

Rules:

1. **Speakers** speak utterances drawn from those of the recordings, with exponential gaps between, so that they speak
   `talk` of the time; or, `in_turn`, all of them in their order, each from another place on. Whether a final is late or
   not, they go on.
2. **Edges** decide as the daemon does, by its own machines: `SchedulingPolicy` says what leaves next among finals,
   guesses (speculative finals) and interims, `Cadence` when an interim is due. A guess begins in each pause where one
   did in the recording, and is void once the speaker goes on; the last is the final where it has all of the speech.
   Files and admission are not simulated: the question is what becomes of the speakers who were let in.
3. **Requests** are one item each (`backend = "remote"`), at most `in_flight` of an edge. One takes half a round trip,
   and its bytes over the link of the edge, which carries one after the other; then it waits in the queue of the replica
   with the fewest requests, of `choices` that are drawn (Ray Serve draws two).
4. **Replicas** run one call at a time. One begins when `max_batch` wait, or `window_s` after the first of them came; it
   takes items of one kind (interims or not), in the order in which they came, or with `priority` by class first. How
   long it takes is the `times` of the scenario.
5. **A replica that is killed** answers nothing more: who waited for it has a reset half a round trip later, and asks
   again after `AGAIN_S`, doubled each time; interims do not. Nobody is sent there until it is back.
6. Without replicas an edge decodes itself, with `workers` and batches by the policy.
7. **Exactly one final** for every utterance: after the end of the run nobody begins to speak, and the clock goes on
   until all are done.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import attrs

from benchmarks.fleet_times import Spoken, Times
from benchmarks.load import percentile
from sttd.core.cadence import Cadence
from sttd.core.scheduling import Batch, Entry, PolicyOptions, SchedulingPolicy
from sttd.core.types import Effort, JobClass
from sttd.errors import OverloadedError

LOOK_S: Final = 0.1  # a message of the client, with which the daemon looks whether an interim is due
WITHIN_S: Final = {JobClass.FINAL: 0.3, JobClass.SPECULATIVE: 0.3, JobClass.INTERIM: 0.5}  # as in `core/turn.py`
AGAIN_S: Final = 0.1  # as in `engine/remote/model.py`, without its part of chance
MOST_AGAIN_S: Final = 2.0
BYTES_PER_S: Final = 32_000  # 16 kHz, 16 bits
LOCAL_BATCH: Final = 16


@attrs.frozen(kw_only=True)
class Scenario:
    """What is simulated. Seconds and bytes.

    Args:
        utterances: to draw from.
        times: of a call.
        speakers: at the same time; each edge has as many, within one.
        talk: the share of time in which one speaks.
        gap_s: the mean gap between two utterances, in place of that by `talk`.
        in_turn: rule 1.
        live: the share of speakers whose interims are decoded where their finals are.
        edges, in_flight: edges, and requests of one at the same time.
        replicas: 0, the edges decode.
        workers: of an edge that decodes.
        window_s, max_batch, priority, choices: rules 3 and 4.
        rtt_s, link_bytes_per_s, request_bytes: rule 3.
        killed: replicas that are killed, when, and for how long.
        duration_s: until when utterances begin; those of the first `warmup_s` do not count.
        promise_s: a final that comes later than this after the end of speech is late.
        give_up: end early once so many finals are late: what was asked is answered.
        seed: of all chance.
    """

    utterances: Sequence[Spoken] = attrs.field(repr=False)
    times: Times = attrs.field(repr=False)
    speakers: int
    talk: float = 0.4
    gap_s: float | None = None
    in_turn: bool = False
    live: float = 1.0
    edges: int = 1
    in_flight: int = 8
    replicas: int = 1
    workers: int = 1
    window_s: float = 0.0
    max_batch: int = 8
    priority: bool = True
    choices: int = 2
    rtt_s: float = 0.001
    link_bytes_per_s: float = 125e6  # 1 Gbit/s
    request_bytes: float = 1218
    killed: tuple[int, float, float] | None = None
    duration_s: float = 120.0
    warmup_s: float = 20.0
    promise_s: float = 1.5
    give_up: float = math.inf
    seed: int = 0

    @property
    def mean_gap_s(self) -> float:
        """Between the end of speech and the next utterance."""
        return self.gap_s if self.gap_s is not None else (1 / self.talk - 1) * self._mean_s

    @property
    def every_s(self) -> float:
        """From an utterance of a speaker to the next one."""
        return self._mean_s + self.mean_gap_s

    @property
    def _mean_s(self) -> float:
        return sum(each.speech_s for each in self.utterances) / len(self.utterances)


@attrs.define(kw_only=True)
class Outcome:
    """What came of it; counts and times are of utterances whose speech ended after the warm-up."""

    finals_s: list[float] = attrs.field(factory=list, repr=False)  # after the end of speech
    waits_s: list[float] = attrs.field(factory=list, repr=False)  # of finals and guesses, for their call to begin
    begun: int = 0  # utterances, all
    finished: int = 0
    interims: int = 0
    speech_s: float = 0.0
    late: int = 0
    calls: int = 0
    items: int = 0
    guesses: int = 0
    busy_s: float = 0.0  # of replicas, or of workers, within the run
    capacity_s: float = 0.0
    longest_queue: int = 0
    again: int = 0  # requests that a killed replica did not answer
    sent_bytes: float = 0.0  # of edges, all
    under_way_s: float = 0.0  # of requests, together
    ended_s: float = 0.0  # when the last was done

    @property
    def utilisation(self) -> float:
        """The share of time in which replicas, or workers, decode; of all items, also those that nobody waits for."""
        return self.busy_s / self.capacity_s if self.capacity_s else 0.0

    def final_s(self, share: float) -> float:
        """The latency that so many finals are not above."""
        return percentile(self.finals_s, share) or 0.0


@attrs.define(eq=False)
class _Turn:
    """An utterance that is spoken."""

    began: float
    spoken: Spoken
    cadence: Cadence
    closed: bool = False
    guess: _Job | None = None  # the newest
    interim: _Job | None = None
    final: _Job | None = None
    done: bool = False

    @property
    def ended(self) -> float:
        return self.began + self.spoken.speech_s


@attrs.define(eq=False)
class _Job:
    turn: _Turn
    entry: Entry
    audio_s: float
    submitted: float
    started: float | None = None
    done: bool = False
    gone: bool = False  # it has left the queue of the edge undecoded
    unwanted: bool = False


@attrs.define(eq=False)
class _Request:
    edge: _Edge
    jobs: list[_Job]
    batch: Batch
    came: float = 0.0
    tries: int = 0

    @property
    def effort(self) -> Effort:
        return Effort.QUICK if self.batch.head.job_class is JobClass.INTERIM else Effort.FULL


@attrs.define(eq=False)
class _Edge:
    """One daemon."""

    policy: SchedulingPolicy
    waiting: dict[int, _Job] = attrs.field(factory=dict)
    link_free: float = 0.0


@attrs.define(eq=False)
class _Replica:
    number: int
    queue: list[_Request] = attrs.field(factory=list)
    running: list[_Request] = attrs.field(factory=list)
    alive: bool = True
    life: int = 0  # rises when it is killed: what was to end before does not

    @property
    def load(self) -> int:
        return len(self.queue) + len(self.running)


def simulate(scenario: Scenario) -> Outcome:
    """Run it. The same scenario has the same outcome."""
    return _Fleet(scenario).run()


class _Fleet:
    def __init__(self, scenario: Scenario) -> None:
        self.asked = scenario
        self.now = 0.0
        self.outcome = Outcome()
        self._chance = random.Random(scenario.seed)
        self._numbers = itertools.count()
        self._places: dict[int, int] = {}  # of speakers, in turn
        self._heap: list[tuple[float, int, Callable[[], Any]]] = []
        workers = scenario.in_flight if scenario.replicas else scenario.workers
        options = PolicyOptions(max_calls=max(32, workers))
        self._workers = workers
        self._edges = [_Edge(SchedulingPolicy(options)) for _ in range(scenario.edges)]
        self._replicas = [_Replica(number) for number in range(scenario.replicas)]
        self.outcome.capacity_s = scenario.duration_s * (scenario.replicas or scenario.edges * workers)

    def run(self) -> Outcome:
        asked = self.asked
        for number in range(asked.speakers):
            live = number < round(asked.live * asked.speakers)
            edge = self._edges[number % len(self._edges)]
            self._in(self._gap(), partial(self._speak, number, edge, live))
        if asked.killed is not None:
            count, at_s, for_s = asked.killed
            for replica in self._replicas[:count]:
                self._in(at_s, partial(self._kill, replica))
                self._in(at_s + for_s, partial(self._revive, replica))
        while self._heap and self.outcome.late <= asked.give_up:
            self.now, _, act = heapq.heappop(self._heap)
            act()
        self.outcome.ended_s = self.now
        return self.outcome

    def _in(self, seconds: float, act: Callable[[], Any]) -> None:
        heapq.heappush(self._heap, (self.now + seconds, next(self._numbers), act))

    # ---------------------------------------------------------------- speakers

    def _gap(self) -> float:
        return self._chance.expovariate(1 / self.asked.mean_gap_s)

    def _next_utterance(self, number: int) -> Spoken:
        utterances = self.asked.utterances
        if not self.asked.in_turn:
            return self._chance.choice(utterances)
        self._places[number] = place = (self._places.get(number, 7 * number) + 1) % len(utterances)
        return utterances[place]

    def _speak(self, number: int, edge: _Edge, live: bool) -> None:
        if self.now >= self.asked.duration_s:
            return
        spoken = self._next_utterance(number)
        turn = _Turn(self.now, spoken, Cadence())
        self.outcome.begun += 1
        for at_s, until_s in spoken.guesses:
            self._in(at_s, partial(self._guess, number, edge, turn, at_s))
            if until_s is not None:
                self._in(until_s, partial(self._go_on, edge, turn))
        self._in(spoken.speech_s + spoken.wait_s, partial(self._close, number, edge, turn))
        if live:
            self._in(LOOK_S, partial(self._look, number, edge, turn))
        # The next utterance begins behind the endpoint of this one, as in the recordings.
        gap_s = max(self._gap() if spoken.gap_s is None else spoken.gap_s, spoken.wait_s)
        self._in(spoken.speech_s + gap_s, partial(self._speak, number, edge, live))

    def _look(self, number: int, edge: _Edge, turn: _Turn) -> None:
        """A message of the client has come."""
        if turn.closed:
            return
        audio_s = turn.spoken.audio_s(self.now - turn.began)
        waits = turn.interim is not None and turn.interim.started is None
        if turn.cadence.due(audio_s=audio_s, now=self.now, waiting=waits, load=edge.policy.load(now=self.now)):
            turn.cadence.submitted(audio_s=audio_s, now=self.now)
            turn.interim = self._submit(number, edge, turn, JobClass.INTERIM, audio_s) or turn.interim
        self._in(LOOK_S, partial(self._look, number, edge, turn))

    def _guess(self, number: int, edge: _Edge, turn: _Turn, at_s: float) -> None:
        turn.guess = self._submit(number, edge, turn, JobClass.SPECULATIVE, turn.spoken.audio_s(at_s))
        self.outcome.guesses += turn.guess is not None

    def _go_on(self, edge: _Edge, turn: _Turn) -> None:
        """It was a pause only."""
        if turn.guess is not None:
            self._withdraw(edge, turn.guess)
            turn.guess = None

    def _close(self, number: int, edge: _Edge, turn: _Turn) -> None:
        """The endpoint."""
        turn.closed = True
        if turn.interim is not None:
            self._withdraw(edge, turn.interim)
        guess = turn.guess
        if guess is not None and turn.spoken.covered and not guess.gone:
            turn.final = guess
            if guess.done:
                self._finish(turn)
            else:
                edge.policy.promote(guess.entry.id, deadline=self.now + WITHIN_S[JobClass.FINAL], now=self.now)
                self._advance(edge)
            return
        turn.final = self._submit(number, edge, turn, JobClass.FINAL, turn.spoken.audio_s(turn.spoken.speech_s))

    def _finish(self, turn: _Turn) -> None:
        assert not turn.done, "one final each"
        turn.done = True
        self.outcome.finished += 1
        if turn.ended < self.asked.warmup_s:
            return
        late_s = self.now - turn.ended
        self.outcome.finals_s.append(late_s)
        self.outcome.late += late_s > self.asked.promise_s
        self.outcome.speech_s += turn.spoken.speech_s

    # ---------------------------------------------------------------- edges

    def _submit(self, number: int, edge: _Edge, turn: _Turn, kind: JobClass, audio_s: float) -> _Job | None:
        """None: the policy refuses it."""
        entry = Entry(
            id=next(self._numbers), job_class=kind, session=str(number), uid=number, deadline=self.now + WITHIN_S[kind],
            model="model", workers=self._workers, key=kind is JobClass.INTERIM,
        )  # fmt: skip
        try:
            replaced = edge.policy.submit(entry, now=self.now)
        except OverloadedError:
            return None
        for other in replaced:
            edge.waiting.pop(other).gone = True
        job = edge.waiting[entry.id] = _Job(turn, entry, audio_s, self.now)
        self._advance(edge)
        return job

    def _withdraw(self, edge: _Edge, job: _Job) -> None:
        """Nobody waits for it any more: it leaves a queue, and a call that has begun goes on."""
        if edge.policy.cancel(job.entry.id):
            edge.waiting.pop(job.entry.id).gone = True
        job.unwanted = True

    def _advance(self, edge: _Edge) -> None:
        """Begin the calls that may."""
        room = 1 if self._replicas else LOCAL_BATCH
        while (urgent := edge.policy.most_urgent(now=self.now)) is not None:
            batch = edge.policy.begin(urgent, room=room, now=self.now)
            jobs = [edge.waiting.pop(entry.id) for entry in batch.entries]
            for job in jobs:
                job.started = self.now
            request = _Request(edge, jobs, batch)
            if self._replicas:
                self._send(request)
            else:
                self._begin([request], partial(self._answer, request))

    def _send(self, request: _Request) -> None:
        """Over the link of the edge, to a replica that is there when it arrives."""
        size = self.asked.request_bytes + BYTES_PER_S * sum(job.audio_s for job in request.jobs)
        self.outcome.sent_bytes += size
        edge = request.edge
        edge.link_free = max(edge.link_free, self.now) + size / self.asked.link_bytes_per_s
        self._in(edge.link_free - self.now + self.asked.rtt_s / 2, partial(self._arrive, request))

    def _answer(self, request: _Request) -> None:
        edge, seconds = request.edge, self.now - request.batch.started
        self.outcome.under_way_s += seconds
        edge.policy.complete(request.batch, now=self.now, seconds=seconds)
        for job in request.jobs:
            job.done = True
            if job.entry.job_class is JobClass.INTERIM:
                job.turn.interim = None
                job.turn.cadence.completed(seconds=seconds, now=self.now)
                self.outcome.interims += job.turn.ended >= self.asked.warmup_s and not job.unwanted
            elif job.turn.final is job:
                self._finish(job.turn)
        self._advance(edge)

    # ---------------------------------------------------------------- replicas

    def _arrive(self, request: _Request) -> None:
        alive = [replica for replica in self._replicas if replica.alive]
        if not alive:
            self._refuse(request)
            return
        drawn = self._chance.sample(alive, min(self.asked.choices, len(alive)))
        replica = min(drawn, key=lambda each: each.load)
        request.came = self.now
        replica.queue.append(request)
        self.outcome.longest_queue = max(self.outcome.longest_queue, len(replica.queue))
        self._consider(replica)
        if self.asked.window_s and request in replica.queue:
            self._in(self.asked.window_s, partial(self._consider, replica))

    def _consider(self, replica: _Replica) -> None:
        """Begin a call, if one may (rule 4)."""
        if replica.running or not replica.queue or not replica.alive:
            return
        for request in [each for each in replica.queue if all(job.unwanted for job in each.jobs)]:
            replica.queue.remove(request)  # its connection was cut
            self._in(self.asked.rtt_s / 2, partial(self._answer, request))
        if not replica.queue:
            return
        if self.asked.priority:
            replica.queue.sort(key=lambda each: (each.effort is Effort.QUICK, each.came))
        first = replica.queue[0]
        alike = [request for request in replica.queue if request.effort is first.effort][: self.asked.max_batch]
        oldest = min(request.came for request in replica.queue)
        if len(alike) < self.asked.max_batch and self.now < oldest + self.asked.window_s - 1e-9:
            return
        replica.queue = [request for request in replica.queue if request not in alike]
        replica.running = alike
        self._begin(alike, partial(self._end, replica, replica.life))

    def _begin(self, requests: list[_Request], then: Callable[[], Any]) -> None:
        """A call."""
        jobs = [job for request in requests for job in request.jobs]
        took_s = self.asked.times(requests[0].effort, [job.audio_s for job in jobs])
        self.outcome.calls += 1
        self.outcome.items += len(jobs)
        self.outcome.busy_s += max(0.0, min(took_s, self.asked.duration_s - self.now))
        if self.now >= self.asked.warmup_s:
            self.outcome.waits_s += [
                self.now - job.submitted for job in jobs if job.entry.job_class is not JobClass.INTERIM
            ]
        self._in(took_s, then)

    def _end(self, replica: _Replica, life: int) -> None:
        if replica.life != life:
            return
        for request in replica.running:
            self._in(self.asked.rtt_s / 2, partial(self._answer, request))
        replica.running = []
        self._consider(replica)

    def _kill(self, replica: _Replica) -> None:
        replica.alive, replica.life = False, replica.life + 1
        lost = replica.queue + replica.running
        replica.queue, replica.running = [], []
        for request in lost:
            self._refuse(request)

    def _revive(self, replica: _Replica) -> None:
        replica.alive = True

    def _refuse(self, request: _Request) -> None:
        """Nobody answers this one (rule 5)."""
        self.outcome.again += 1
        if request.effort is Effort.QUICK:
            self._in(self.asked.rtt_s / 2, partial(self._answer, request))
            return
        wait_s = min(MOST_AGAIN_S, AGAIN_S * 2.0**request.tries)
        request.tries += 1
        self._in(self.asked.rtt_s / 2 + wait_s, partial(self._send, request))
