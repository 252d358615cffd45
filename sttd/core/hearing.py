"""What a session hears, and what follows from it: frames become utterances, utterances become turns. No IO, no clock.

    frames, what the detectors say ──▶ UtteranceAssembler ──▶ a Turn per utterance ──▶ actions

Rules:

 1. Every utterance has a turn (`core/turn.py`), and so has its number exactly one final. A finalize with nothing to end
    takes a number too, and is answered by an empty final.
 2. Finals leave in the order of their numbers: one that is ready waits for those before it.
 3. Options that change in an utterance apply to the next one, the aggressiveness of the detector included (`Tune`).
 4. After every input that may have made an interim due, the open turn is asked whether it wants one; not as the speech
    fades, unless the audio stops there. A pause comes within 100 ms then, or speech goes on, and a call that has begun
    holds the model: of ten finals of base on two slow cores three waited 0.34 to 0.45 s behind an interim that had
    begun just before the pause.

The inputs return actions, in the order in which they are to be performed. The clock, the load of the models and the
fate of jobs come in as arguments.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from sttd.core import actions as do
from sttd.core.actions import JobId, Role, Say
from sttd.core.context import SessionContext
from sttd.core.endpointer import Activity
from sttd.core.faint import FaintSpeech
from sttd.core.languages import SessionLanguages
from sttd.core.results import empty_final
from sttd.core.turn import Turn
from sttd.core.types import Final, FinalReason, Gap, Outcome, Samples, Warn, seconds
from sttd.core.utterance import Closed, Opened, Paused, Resumed, UtteranceAssembler, UtteranceEvent
from sttd.errors import OverloadedError, SttdError
from sttd.options import TUNING, Endpointing, SessionChanges, SessionOptions, Tuning

_TOO_QUIET = "somebody speaks, too quietly to be heard; turn the microphone or the recording up"
# What counts as a pause where none is used for speculation: the speaker's own pauses are learned from it.
_PAUSE_MS = TUNING.speculate_ms


@attrs.frozen
class Tune:
    """The voice detector is to be this aggressive from here on."""

    aggressiveness: int


Action = do.Action | Tune


@attrs.define(eq=False)
class Hearing:
    """The rules above for one session.

    Args:
        options: of the next utterance.
        tuning: of the session.
        session: its name, unique in this daemon.
    """

    options: SessionOptions
    tuning: Tuning
    session: str
    utterances: int = attrs.field(default=0, init=False)
    dropped_s: float = attrs.field(default=0.0, init=False)
    client_left: bool = attrs.field(default=False, init=False)  # nobody reads any more; finals are still decoded
    languages: SessionLanguages = attrs.field(init=False)
    context: SessionContext = attrs.field(factory=SessionContext, init=False)
    _assembler: UtteranceAssembler = attrs.field(init=False)
    _faint: FaintSpeech = attrs.field(factory=FaintSpeech, init=False)
    _owed: dict[int, Turn | Final] = attrs.field(factory=dict, init=False)  # by number, which is their order

    def __attrs_post_init__(self) -> None:
        self.languages = self._languages_of_options()
        self._assembler = UtteranceAssembler(
            self.options.endpointing,
            max_utterance_s=self.options.max_utterance_s,
            pre_roll_ms=self.tuning.pre_roll_ms,
            speculate_ms=self.tuning.speculate_ms or _PAUSE_MS,
        )

    def _languages_of_options(self) -> SessionLanguages:
        return SessionLanguages(given=self.options.lang, allowed=self.options.languages)

    # ---------------------------------------------------------------- questions

    @property
    def position(self) -> int:
        """Where the audio clock is, in samples."""
        return self._assembler.position

    @property
    def speaking(self) -> bool:
        """Whether an utterance is open."""
        return self._assembler.open_utterance is not None

    @property
    def showing(self) -> bool:
        """Whether an utterance is open that may have interims."""
        turn = self._open_turn
        return turn is not None and turn.wants_interims

    @property
    def owing(self) -> int:
        """How many finals are still to come of what was heard so far."""
        return len(self._owed)

    @property
    def live_job(self) -> JobId | None:
        """The interim of the open utterance that is under way."""
        turn = self._open_turn
        return turn.live_job if turn is not None else None

    def lag_s(self, now: float) -> float:
        """How far the session is behind: the age of the oldest utterance that has ended without its final."""
        ends = [owed.ended_at for owed in self._owed.values() if isinstance(owed, Turn) and owed.ended_at is not None]
        return max(0.0, now - min(ends)) if ends else 0.0

    # ---------------------------------------------------------------- what comes in

    def hear(
        self, frames: Samples, activity: Activity, *, now: float, load: float = 0.0, interim_waits: bool = False
    ) -> list[Action]:
        """Frames of shape (n, 320), and what the detectors say about them.

        Args:
            frames: float32 at 16 kHz.
            activity: of as many frames.
            now: the time, in seconds on the clock of all inputs.
            load: how busy live speech keeps the models, 0 to 1.
            interim_waits: `live_job` is still in the queue.
        """
        actions = self._act(self._assembler.push(frames, activity), now=now)
        if not self._owed:
            self.context.passed(self.position)
        if self.options.endpointing is not None and self._faint.push(activity):
            actions.append(Say(Warn(code="too_quiet", message=_TOO_QUIET)))
        return [*actions, *self._show_if_due(now=now, load=load, waits=interim_waits)]

    def look(self, *, now: float, load: float = 0.0, interim_waits: bool = False) -> list[Action]:
        """Nothing has come for a while: an interim that was not due yet may be now. Arguments as of `hear`."""
        return self._show_if_due(now=now, load=load, waits=interim_waits, stopped=True)

    def finalize(self, *, now: float) -> list[Action]:
        """The client ends the utterance."""
        events = self._assembler.finalize(reason="finalize")
        if events:
            return self._act(events, now=now)
        number = self._assembler.next_number()
        self.utterances += 1
        language = self.languages.certain
        self._owed[number] = empty_final(number, self.options, at_sample=self.position, language=language)
        return self._let_out()

    def change(self, changes: SessionChanges) -> list[Action]:
        """Other options, from the next utterance on."""
        given = changes.given()
        actions: list[Action] = []
        if (endpointing := given.get("endpointing")) is not None:
            # No client may ask for more than what the model takes in one call.
            longest_s = min(endpointing.max_utterance_s, self.tuning.max_window_s)
            given["endpointing"] = attrs.evolve(endpointing, max_utterance_s=longest_s)
        if "endpointing" in given:
            self._assembler.configure(given["endpointing"])
            if not self.speaking:
                actions = _tune(given["endpointing"])
        self.options = attrs.evolve(self.options, **given)
        if "lang" in given or "languages" in given:
            self.languages = self._languages_of_options()  # utterances that have begun keep theirs
            self.context = SessionContext()
        return actions

    def skip(self, samples: int, *, now: float) -> list[Action]:
        """So much audio was dropped: the clock goes on, an open utterance ends at the hole."""
        from_s = seconds(self.position)
        actions = self._act(self._assembler.skip(samples), now=now)
        self.dropped_s += seconds(samples)
        return [*actions, Say(Gap(from_s=from_s, to_s=seconds(self.position), reason="overflow"))]

    def end(self, reason: FinalReason, *, now: float) -> list[Action]:
        """Close the open utterance."""
        return self._act(self._assembler.finalize(reason=reason), now=now)

    def hush(self) -> list[Action]:
        """The client is gone."""
        self.client_left = True
        return [action for owed in self._owed.values() if isinstance(owed, Turn) for action in owed.hush()]

    def end_at_once(self, reason: FinalReason) -> list[Action]:
        """Nothing more may be decoded: every final that is owed is what it can be now."""
        turns = [owed for owed in self._owed.values() if isinstance(owed, Turn)]
        actions = [action for turn in turns for action in turn.at_once(reason, position=self.position)]
        return [*actions, *self._let_out()]

    # ---------------------------------------------------------------- what becomes of what was to be done

    def leased(self, utterance: int, role: Role, *, preset: str, now: float, load: float = 0.0) -> list[Action]:
        """As in `Turn`."""
        turn = self._turn(utterance)
        if turn is None:
            return []
        actions = self._follow(turn.leased(role, preset=preset, now=now))
        return [*actions, *self._show_if_due(now=now, load=load)]

    def lease_failed(self, utterance: int, role: Role, error: SttdError, *, now: float) -> list[Action]:
        """As in `Turn`."""
        turn = self._turn(utterance)
        return self._follow(turn.lease_failed(role, error, now=now)) if turn is not None else []

    def recalled(self, utterance: int, role: Role, *, now: float) -> list[Action]:
        """As in `Turn`."""
        turn = self._turn(utterance)
        return self._follow(turn.recalled(role, now=now)) if turn is not None else []

    def decoded(self, job: JobId, outcome: Outcome, *, now: float, load: float = 0.0) -> list[Action]:
        """As in `Turn`."""
        turn = self._turn(job[0])
        if turn is None:
            return []
        actions = self._follow(turn.decoded(job, outcome, now=now))
        return [*actions, *self._show_if_due(now=now, load=load)]

    def failed(self, job: JobId, error: SttdError | None, *, now: float) -> list[Action]:
        """As in `Turn`."""
        turn = self._turn(job[0])
        return self._follow(turn.failed(job, error, now=now)) if turn is not None else []

    def refused(self, job: JobId, error: OverloadedError, *, now: float) -> list[Action]:
        """As in `Turn`."""
        turn = self._turn(job[0])
        return self._follow(turn.refused(job, error, now=now)) if turn is not None else []

    # ---------------------------------------------------------------- rules

    def _turn(self, number: int) -> Turn | None:
        """The turn whose final is owed and not ready yet."""
        owed = self._owed.get(number)
        return owed if isinstance(owed, Turn) and owed.final is None else None

    @property
    def _open_turn(self) -> Turn | None:
        return self._turn(self._assembler.open_utterance or 0)

    def _act(self, events: Iterable[UtteranceEvent], *, now: float) -> list[Action]:
        actions: list[Action] = []
        for event in events:
            actions += self._follow(self._obey(event, now=now))
        return actions

    def _obey(self, event: UtteranceEvent, *, now: float) -> list[Action]:
        if isinstance(event, Opened):
            turn = Turn(
                opened=event,
                options=self.options,
                tuning=self.tuning,
                session=self.session,
                languages=self.languages,
                context=self.context,
                client_left=self.client_left,
            )
            self._owed[event.utterance] = turn
            self.utterances += 1
            return [*turn.begin()]
        found = self._turn(event.utterance)
        if found is None:
            return []
        match event:
            case Paused():
                return [*found.paused(event, now=now)]
            case Resumed():
                return [*found.resumed()]
            case Closed():
                # The aggressiveness may have changed in the utterance (rule 3).
                return [*found.close(event, now=now), *_tune(self.options.endpointing)]

    def _show_if_due(self, *, now: float, load: float, waits: bool = False, stopped: bool = False) -> list[Action]:
        turn, speculates = self._open_turn, self.tuning.speculate_ms > 0
        if turn is None or (self._assembler.fades and speculates and not stopped):
            return []
        if not turn.wants_interim(self.position, now=now, load=load, waits=waits):
            return []
        snapshot = self._assembler.snapshot()
        return [*turn.show(snapshot, now=now)] if snapshot is not None else []

    def _follow(self, actions: Iterable[Action]) -> list[Action]:
        """Take hints to where they are for, and let finals out that have become ready."""
        others: list[Action] = []
        for action in actions:
            if isinstance(action, do.Hint):
                self._assembler.hint(action.hint)
            else:
                others.append(action)
        return [*others, *self._let_out()]

    def _let_out(self) -> list[Action]:
        """The finals whose turn it is (rule 2)."""
        out: list[Action] = []
        for number, owed in list(self._owed.items()):
            final = owed.final if isinstance(owed, Turn) else owed
            if final is None:
                break
            del self._owed[number]
            out.append(Say(final))
        return out


def _tune(endpointing: Endpointing | None) -> list[Action]:
    return [Tune(endpointing.aggressiveness)] if endpointing is not None else []
