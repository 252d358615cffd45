"""A `Hearing` with a client, a pool and a scheduler that do what the test says, and a record of all that it wanted."""

from __future__ import annotations

from collections import deque

import attrs
import numpy as np

from sttd.core.actions import Cancel, Lease, Promote, Release, Say, Submit
from sttd.core.endpointer import Activity
from sttd.core.hearing import Hearing, Tune
from sttd.core.types import FRAME_SAMPLES, Final, Gap
from sttd.errors import OverloadedError
from sttd.options import Tuning
from tests.unit.core.spoken import options, outcome

NO_ROOM = OverloadedError("no slot", data={"retry_after_s": 1.0})
FRAMES_S = 50  # frames in a second


def activity(frames, *, speech):
    """What both detectors say of so many frames, all of them speech or none."""
    return Activity(
        webrtc=np.full(frames, speech, np.bool_), probability=np.full(frames, 0.95 if speech else 0.02, np.float32)
    )


def is_of(utterance, role, number, wanted):
    return utterance == number and wanted in (None, role)


@attrs.define
class Listened:
    """Drives one session's machine. `leases` and `jobs` are those that wait for an answer.

    The next `refusals` submissions are answered at once: there is no room.
    """

    hearing: Hearing
    now: float = 0.0
    said: list = attrs.field(factory=list)
    tuned: list = attrs.field(factory=list)
    leases: list = attrs.field(factory=list)
    held: set = attrs.field(factory=set)  # utterance and role
    jobs: dict = attrs.field(factory=dict)
    cancelled: set = attrs.field(factory=set)
    log: list = attrs.field(factory=list)
    refusals: int = 0
    refused: set = attrs.field(factory=set)
    waiting: deque = attrs.field(factory=deque)
    performing: bool = False

    @classmethod
    def to(cls, *, tuning=None, **changes):
        return cls(Hearing(options(**changes), tuning or Tuning(interim_min_ms=100), "s000001"))

    def do(self, actions):
        """Perform; what follows from an action comes behind those that were there before, as in `Performer`."""
        self.waiting.extend(actions)
        while self.waiting and not self.performing:
            self.performing = True
            action = self.waiting.popleft()
            self.perform(action)
            if isinstance(action, Submit) and self.refusals and not action.after_s:
                self.refusals -= 1
                self.refused.add(action.job)
                self.refuse(NO_ROOM, action.job)
            self.performing = False
        return actions

    def perform(self, action):
        self.log.append(action)
        match action:
            case Say():
                self.said.append(action.event)
            case Lease():
                self.leases.append(action)
            case Submit():
                assert action.job not in self.jobs, "a number is given once"
                assert (action.job[0], action.role) in self.held, "nothing is decoded without a lease"
                self.jobs[action.job] = action
            case Promote():
                assert action.job in self.jobs or action.job in self.refused
            case Cancel():
                if self.jobs.pop(action.job, None) is not None:
                    self.cancelled.add(action.job)
            case Release(utterance=number, role=role):
                self.leases = [each for each in self.leases if not is_of(each.utterance, each.role, number, role)]
                self.held = {key for key in self.held if not is_of(*key, number, role)}
            case Tune():
                self.tuned.append(action.aggressiveness)
            case _:
                raise AssertionError(action)

    # ---------------------------------------------------------------- the client

    def hear(self, seconds, *, speech=True, **more):
        """So much audio, of noise that the detectors take for speech or not."""
        frames = round(seconds * FRAMES_S)
        level = 0.1 if speech else 0.0
        block = np.full((frames, FRAME_SAMPLES), level, np.float32)
        self.now += seconds
        return self.do(self.hearing.hear(block, activity(frames, speech=speech), now=self.now, **more))

    def finalize(self):
        return self.do(self.hearing.finalize(now=self.now))

    def change(self, changes):
        return self.do(self.hearing.change(changes))

    # ---------------------------------------------------------------- the pool and the scheduler

    def lease(self, index=0, *, preset="fake", load=0.0):
        """Grant a lease that is waited for."""
        wanted = self.leases.pop(index)
        self.held.add((wanted.utterance, wanted.role))
        return self.do(self.hearing.leased(wanted.utterance, wanted.role, preset=preset, now=self.now, load=load))

    def refuse_lease(self, error, index=0):
        wanted = self.leases.pop(index)
        return self.do(self.hearing.lease_failed(wanted.utterance, wanted.role, error, now=self.now))

    def recall(self, utterance, role="final"):
        """Speech needs the slot of a file's lease."""
        return self.do(self.hearing.recalled(utterance, role, now=self.now))

    def newest(self):
        return next(reversed(self.jobs))

    def decode(self, job=None, text=None, **more):
        """A job is done: by default the newest, with the words that were said."""
        job = job or self.newest()
        wanted = self.jobs.pop(job)
        seconds = len(wanted.item.samples) / 16_000
        return self.do(self.hearing.decoded(job, outcome(text, seconds=seconds, **more), now=self.now))

    def fail(self, error, job=None):
        job = job or self.newest()
        del self.jobs[job]
        return self.do(self.hearing.failed(job, error, now=self.now))

    def refuse(self, error, job=None):
        job = job or self.newest()
        del self.jobs[job]
        return self.do(self.hearing.refused(job, error, now=self.now))

    # ---------------------------------------------------------------- what came of it

    @property
    def kinds(self):
        return [type(event).__name__ for event in self.said]

    @property
    def finals(self):
        return [event for event in self.said if isinstance(event, Final)]

    @property
    def gaps(self):
        return [event for event in self.said if isinstance(event, Gap)]
