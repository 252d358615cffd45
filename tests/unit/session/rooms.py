"""A room to hold sessions in: the real dispatcher on the real clock, and models that wait for the test."""

from __future__ import annotations

import threading
from collections import defaultdict
from contextlib import asynccontextmanager

import attrs
import numpy as np
import trio

from sttd.core.types import SAMPLE_RATE
from sttd.engine.contract import NOBODY, ModelKey, Unfinished
from sttd.engine.dispatcher import Dispatcher
from sttd.engine.fake import FakeModel, FakeOptions
from sttd.options import SessionOptions, Tuning
from sttd.session.inbox import Held
from sttd.session.session import Session
from sttd.session.turns import Turns

NOISE = np.random.default_rng(1).integers(-3000, 3000, SAMPLE_RATE).astype("<i2").tobytes()  # a second


@attrs.frozen(kw_only=True)
class Recogniser(FakeModel):
    """A fake that decodes while its gate is open, remembers its calls, and raises what it is told to, in turn.

    `sounds` is what its decodes hear of the language, in turn, the last one again and again; as the real engine does,
    it chooses by that and by what the session knows. `asked` are the options of all its decodes.
    """

    options: FakeOptions = attrs.field(factory=FakeOptions)
    gate: threading.Event = attrs.field(factory=threading.Event)
    calls: list = attrs.field(factory=list)
    failures: list = attrs.field(factory=list)
    unfinished: list = attrs.field(factory=list)  # as many calls leave what they were given
    sounds: list = attrs.field(factory=list)
    asked: list = attrs.field(factory=list)

    def __attrs_post_init__(self):
        self.gate.set()

    def decode(self, batch, *, waiters=NOBODY):
        self.calls.append([item.options.effort for item in batch])
        assert self.gate.wait(60)
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        if self.unfinished and self.unfinished.pop():
            return [Unfinished(item) for item in batch]
        return super().decode(batch)

    def _hear(self, item):
        self.asked.append(item.options)
        hypothesis = FakeModel._hear(self, item)
        if not self.sounds:
            return hypothesis
        sound = self.sounds.pop(0) if len(self.sounds) > 1 else self.sounds[0]
        language, prior = item.options.language, item.options.languages
        if language is None:
            language, probability = prior.posterior(sound)[0]
            return attrs.evolve(hypothesis, language=language, language_probability=probability, languages=sound)
        return attrs.evolve(hypothesis, languages=sound if prior is not None else ())


@attrs.define(eq=False)
class CountedLease:
    """A lease that counts itself."""

    owner: Leases
    preset: str
    model: Recogniser
    held: bool = True

    def __attrs_post_init__(self):
        self.owner.held += 1

    @property
    def key(self):
        return ModelKey(preset=self.preset, cpu_threads=1, num_workers=1)

    def duplicate(self):
        assert self.held
        return CountedLease(self.owner, self.preset, self.model)

    def release(self):
        if self.held:
            self.held = False
            self.owner.held -= 1


@attrs.define(eq=False)
class Leases:
    """What a session sees of the pool: presets in `loading` take until `loaded`, those in `failures` fail."""

    model: Recogniser
    held: int = 0
    asked: list = attrs.field(factory=list)
    recalls: list = attrs.field(factory=list)  # of each that asked, how to call it back
    failures: dict = attrs.field(factory=dict)
    loading: set = attrs.field(factory=set)
    _loaded: dict = attrs.field(factory=lambda: defaultdict(trio.Event))

    def loaded(self, preset):
        self.loading.discard(preset)
        self._loaded[preset].set()

    async def lease(self, preset, *, on_recall=None):
        self.asked.append(preset)
        self.recalls.append(on_recall)
        await trio.lowlevel.checkpoint()
        if preset in self.loading:
            await self._loaded[preset].wait()
        if preset in self.failures:
            raise self.failures[preset]
        return CountedLease(self, preset, self.model)


@attrs.define(eq=False)
class Room:
    """What the tests of this folder share."""

    nursery: trio.Nursery
    dispatcher: Dispatcher
    model: Recogniser
    models: Leases
    finals: list = attrs.field(factory=list)
    turns: Turns = attrs.field(factory=Turns)
    written: list = attrs.field(factory=list)

    def session(self, *, tuning=None, dispatcher=None, **options):
        """A session whose `run` has been started."""
        options = {"model": "fake", "interim_model": "fake", "endpointing": None, **options}
        session = Session(
            id="s000001",
            uid=1000,
            options=SessionOptions(**options),
            tuning=tuning or Tuning(interim_min_ms=100),
            models=self.models,
            decoding=dispatcher or self.dispatcher,
            silero=None,
            held=Held(),
            turns=self.turns,
            clock=trio.current_time,
            on_final=lambda _, final: self.finals.append(final),
            on_written=lambda event, latency_s: self.written.append((event, latency_s)),
        )
        self.nursery.start_soon(session.run)
        return session

    async def until(self, condition):
        """Wait; the room's deadline is the end of patience."""
        while not condition():  # noqa: ASYNC110 (the point is to watch from outside)
            await trio.sleep(0.005)


@asynccontextmanager
async def open_room(**model):
    """A room whose dispatcher runs; in the end every lease must have come back."""
    recogniser = Recogniser(**model)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            dispatcher = Dispatcher()
            await nursery.start(dispatcher.run)
            room = Room(nursery, dispatcher, recogniser, Leases(recogniser))
            try:
                yield room
            finally:
                recogniser.gate.set()
            await room.until(lambda: not room.models.held)
            nursery.cancel_scope.cancel()


async def feed(session, data):
    """As a plane does: wait for room, then put. Cancelled while it waits, nothing was put."""
    await session.wait_for_room()
    session.feed(data)


async def read_all(session):
    """Every event until the session's last one."""
    events = []
    while True:
        try:
            events.append(await session.receive())
        except trio.EndOfChannel:
            return events
