"""The hands of a session: the real dispatcher on the real clock, a pool and models that wait for the test."""

import attrs
import numpy as np
import pytest
import trio
import trio.testing

from sttd.core.actions import Say
from sttd.core.hearing import Hearing, Tune
from sttd.core.types import Effort, Final, Interim, SpeechStart
from sttd.errors import OverloadedError
from sttd.options import Endpointing, SessionOptions, Tuning
from sttd.session.performer import Performer
from tests.unit.core.listened import activity
from tests.unit.session.rooms import open_room


@attrs.define
class Hands:
    """A performer with what it was told to say, and a client who speaks to its hearing."""

    performer: Performer
    said: list

    def speak(self, seconds):
        frames = round(seconds * 50)
        heard = activity(frames, speech=True)
        hearing, now = self.performer.hearing, self.performer.clock()
        waits = self.performer.interim_waits
        block = np.full((frames, 320), 0.1, np.float32)
        self.performer.perform(hearing.hear(block, heard, now=now, interim_waits=waits))

    def finalize(self):
        self.performer.perform(self.performer.hearing.finalize(now=self.performer.clock()))

    def of(self, kind):
        return [event for event in self.said if isinstance(event, kind)]


def hands(room, *, nursery=None, decoding=None, **changes):
    changes = {"model": "fake", "interim_model": "fake", "endpointing": None, **changes}
    said = []
    performer = Performer(
        hearing=Hearing(SessionOptions(**changes), Tuning(interim_min_ms=100), "s000001"),
        session="s000001",
        uid=1000,
        models=room.models,
        decoding=decoding or room.dispatcher,
        clock=trio.current_time,
        emit=said.append,
        tune=lambda aggressiveness: None,
    )
    performer.nursery = nursery or room.nursery
    return Hands(performer, said)


async def test_from_the_first_sound_to_the_final_and_everything_is_given_back():
    async with open_room() as room:
        speaker = hands(room)
        speaker.speak(1.0)
        await room.until(lambda: speaker.of(Interim))
        assert room.models.held
        speaker.finalize()
        await room.until(lambda: speaker.of(Final))
        assert [final.text for final in speaker.of(Final)] == ["w1 w2 w3"]
        await room.until(lambda: not room.models.held)


async def test_the_last_words_of_a_client_that_stops_sending_are_shown():
    async with open_room() as room:
        speaker = hands(room)
        speaker.speak(1.0)
        await room.until(lambda: speaker.of(Interim))
        speaker.speak(0.06)  # too little for an interim of its own
        assert room.model.calls
        await room.until(lambda: speaker.of(Interim)[-1].end_s == 1.06)
        speaker.finalize()
        await room.until(lambda: speaker.of(Final))


async def test_nobody_looks_any_more_once_the_utterance_has_ended():
    async with open_room() as room:
        async with trio.open_nursery() as nursery:
            speaker = hands(room, nursery=nursery)
            for _ in range(2):
                speaker.speak(1.0)
                await room.until(lambda: speaker.of(Interim))
                speaker.finalize()
        assert len(speaker.of(Final)) == 2


async def test_nobody_looks_for_interims_that_are_not_wanted():
    async with open_room() as room, trio.open_nursery() as nursery:
        file = hands(room, nursery=nursery, kind="file", interim=False)
        file.speak(1.0)
        await room.until(lambda: room.models.held)
        await trio.testing.wait_all_tasks_blocked()
        assert not nursery.child_tasks
        file.finalize()


async def test_an_interim_that_waits_for_a_worker_is_seen_to_wait_and_replaced():
    async with open_room() as room:
        blocker, speaker = hands(room), hands(room)
        speaker.performer.session = "s000002"
        room.model.gate.clear()
        blocker.speak(1.0)
        await room.until(lambda: room.model.calls)
        assert not blocker.performer.interim_waits
        speaker.speak(1.0)
        await room.until(lambda: speaker.performer.interim_waits)
        await trio.sleep(0.01)
        speaker.speak(1.0)
        assert room.dispatcher.statistics().queued["interim"] == 1
        await room.until(lambda: room.dispatcher.statistics().coalesced == 1)
        room.model.gate.set()
        await room.until(lambda: speaker.of(Interim))
        assert speaker.of(Interim)[0].end_s == 2.0
        for each in (blocker, speaker):
            each.finalize()
        await room.until(lambda: blocker.of(Final) and speaker.of(Final))


async def test_a_lease_that_is_still_loading_when_the_turn_is_done_is_waited_for_no_more():
    async with open_room() as room:
        room.models.loading = {"quick"}
        async with trio.open_nursery() as nursery:
            speaker = hands(room, nursery=nursery, interim_model="quick")
            speaker.speak(1.0)
            await room.until(lambda: room.models.held)
            speaker.finalize()
        # The nursery has ended, though `quick` never came.
        assert [final.text for final in speaker.of(Final)] == ["w1 w2 w3"]
        assert set(room.models.asked) == {"fake", "quick"}


async def test_a_file_s_lease_that_is_not_in_use_is_given_back_and_asked_for_again():
    async with open_room() as room:
        blocker, file = hands(room), hands(room, kind="file", interim=False)
        file.performer.session = "s000002"
        room.model.gate.clear()
        blocker.speak(1.0)
        await room.until(lambda: room.model.calls)
        file.speak(1.0)
        file.finalize()
        await room.until(lambda: room.dispatcher.statistics().queued["file"] == 1)
        asked = len(room.models.asked)
        room.models.recalls[-1]()
        assert room.dispatcher.statistics().queued["file"] == 0
        await room.until(lambda: len(room.models.asked) == asked + 1)
        room.model.gate.set()
        await room.until(lambda: file.of(Final))
        assert file.of(Final)[0].text == "w1 w2 w3"
        blocker.finalize()
        await room.until(lambda: blocker.of(Final) and not room.models.held)


async def test_a_lease_under_which_a_call_runs_comes_back_with_its_end():
    async with open_room() as room:
        file = hands(room, kind="file", interim=False)
        room.model.gate.clear()
        file.speak(1.0)
        file.finalize()
        await room.until(lambda: room.model.calls)
        room.models.recalls[-1]()
        room.model.gate.set()
        await room.until(lambda: file.of(Final))
        assert room.models.asked == ["fake"]
        assert file.of(Final)[0].text == "w1 w2 w3"


async def test_a_lease_comes_back_when_a_call_leaves_its_job_unfinished():
    """Speech waits for a pass of a window, and not for all of them."""
    async with open_room() as room:
        file = hands(room, kind="file", interim=False)
        room.model.unfinished.append(True)
        room.model.gate.clear()
        file.speak(1.0)
        file.finalize()
        await room.until(lambda: room.model.calls)
        room.models.recalls[-1]()
        await trio.testing.wait_all_tasks_blocked()
        assert room.models.asked == ["fake"]
        room.model.gate.set()
        await room.until(lambda: len(room.models.asked) == 2)
        await room.until(lambda: file.of(Final))
        assert [final.text for final in file.of(Final)] == ["w1 w2 w3"]
        await room.until(lambda: not room.models.held)


async def test_a_lease_that_is_recalled_before_it_comes_is_given_back_and_asked_for_again():
    async with open_room() as room:
        room.models.loading = {"fake"}
        file = hands(room, kind="file", interim=False)
        file.speak(1.0)
        await room.until(lambda: room.models.asked)
        room.models.recalls[-1]()
        room.models.loaded("fake")
        await room.until(lambda: len(room.models.asked) == 2)
        file.finalize()
        await room.until(lambda: file.of(Final))
        assert file.of(Final)[0].text == "w1 w2 w3"
        await room.until(lambda: not room.models.held)


async def test_the_lease_of_speech_cannot_be_recalled():
    async with open_room() as room:
        speaker = hands(room)
        speaker.speak(1.0)
        await room.until(lambda: speaker.of(Interim))
        assert room.models.recalls == [None]
        speaker.finalize()
        await room.until(lambda: speaker.of(Final))


async def test_a_lease_that_comes_in_the_moment_when_it_is_given_up_goes_back():
    class Late:
        """Gives the lease although nobody waits any more, as a pool may that was just about to."""

        def __init__(self, room):
            self.room, self.asked = room, trio.Event()
            self.go = trio.Event()

        async def lease(self, preset, *, on_recall=None):
            self.asked.set()
            with trio.CancelScope(shield=True):
                await self.go.wait()
                return await self.room.models.lease(preset)

    async with open_room() as room:
        speaker = hands(room, interim=False)
        speaker.performer.models = late = Late(room)
        speaker.speak(1.0)
        await late.asked.wait()
        speaker.performer.perform(speaker.performer.hearing.end_at_once("drain"))
        late.go.set()
        await trio.testing.wait_all_tasks_blocked()
        assert room.models.asked == ["fake"]
        assert room.models.held == 0
        assert len(speaker.of(Final)) == 1


@attrs.define(eq=False)
class Busy:
    """A dispatcher that refuses so often."""

    real: object
    refusals: int
    load: float = 0.0

    def submit(self, job):
        if self.refusals:
            self.refusals -= 1
            raise OverloadedError("busy", data={"retry_after_s": 0.01})
        return self.real.submit(job)


async def test_a_window_of_a_file_is_submitted_again_when_there_is_room():
    async with open_room() as room:
        speaker = hands(room, kind="file", interim=False, decoding=Busy(room.dispatcher, refusals=2))
        speaker.speak(1.0)
        speaker.finalize()
        await room.until(lambda: speaker.of(Final))
        assert speaker.of(Final)[0].text == "w1 w2 w3"
        assert room.model.calls == [[Effort.TIMED]]


async def test_a_guess_that_is_refused_in_the_moment_when_it_is_to_be_the_final_is_followed_by_a_real_one():
    async with open_room() as room:
        endpointing = Endpointing(silence_ms_min=300, silence_ms_max=300)
        speaker = hands(room, interim=False, endpointing=endpointing, decoding=Busy(room.dispatcher, refusals=1))
        speaker.speak(1.0)
        await room.until(lambda: room.models.held)
        hearing = speaker.performer.hearing
        quiet = np.zeros((100, 320), np.float32)  # the pause and the end are in one message
        actions = hearing.hear(quiet, activity(100, speech=False), now=speaker.performer.clock())
        assert [type(action).__name__ for action in actions] == ["Submit", "Say", "Promote", "Tune"]
        speaker.performer.perform(actions)
        await room.until(lambda: speaker.of(Final))
        assert speaker.of(Final)[0].text == "w1 w2 w3"


@pytest.mark.parametrize("stage", ["lease", "speech", "decode", "later"])
async def test_cancelled_at_any_stage_what_it_holds_can_be_given_back(stage):
    async with open_room() as room:
        if stage == "lease":
            room.models.loading = {"fake"}
        decoding = Busy(room.dispatcher, refusals=1) if stage == "later" else None
        async with trio.open_nursery() as nursery:
            speaker = hands(room, nursery=nursery, decoding=decoding, kind="file", interim=False)
            speaker.speak(1.0)
            if stage == "lease":
                await room.until(lambda: room.models.asked)
            else:
                await room.until(lambda: room.models.held)
            if stage in ("decode", "later"):
                room.model.gate.clear()
                speaker.finalize()
                await room.until(lambda: room.model.calls or stage == "later")
            nursery.cancel_scope.cancel()
        speaker.performer.give_everything_back()
        assert speaker.of(Final) == []
        room.model.gate.set()
        await room.until(lambda: not room.models.held)


async def test_what_follows_from_an_action_comes_behind_those_that_were_there_before():
    async with open_room() as room:
        speaker = hands(room, interim=False)
        order = []

        def emit(event):
            order.append(event)
            if event == "first":
                speaker.performer.perform([Say("third")])

        speaker.performer.emit = emit
        speaker.performer.perform([Say("first"), Say("second")])
        assert order == ["first", "second", "third"]


async def test_a_bug_in_the_middle_leaves_nothing_unsaid():
    async with open_room() as room:
        speaker = hands(room, interim=False)
        speaker.performer.tune = None
        with pytest.raises(TypeError):
            speaker.performer.perform([Tune(1), Say(SpeechStart(utterance=1, at_s=0.0))])
        speaker.performer.tell_what_was_said()
        assert speaker.of(SpeechStart)
