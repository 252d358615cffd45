"""A session as its plane sees it, with the real dispatcher: what comes out, in which order, however it ends."""

import pytest
import trio

from sttd.core.types import Effort, Failure, Final, Gap, Progress, SpeechStart, Stopped, Warn
from sttd.errors import ModelError
from sttd.options import Endpointing, SessionChanges, Tuning
from sttd.session.outbox import CAPACITY
from sttd.session.session import OWED_FINALS
from tests.unit.session.rooms import NOISE, feed, open_room, read_all


def kinds(events):
    return [type(event).__name__ for event in events]


def finals(events):
    return [event for event in events if isinstance(event, Final)]


async def test_from_the_first_sound_to_stopped():
    async with open_room() as room:
        session = room.session(interim=False)
        await feed(session, NOISE)
        session.stop()
        events = await read_all(session)
        assert kinds(events) == ["SpeechStart", "SpeechEnd", "Final", "Stopped"]
        assert events[2].text == "w1 w2 w3"
        assert events[3] == Stopped(audio_s=1.0, utterances=1, dropped_s=0.0)
        assert session.close_code == 1000
        assert room.finals == [events[2]]
        await session.wait_finished()
        await feed(session, NOISE)  # nobody wants it, and nobody waits
        session.finalize()


async def test_what_the_client_says_takes_effect_between_its_samples():
    async with open_room() as room:
        session = room.session(interim=False, lang="en")
        session.finalize()
        await feed(session, NOISE)
        session.configure(SessionChanges(lang="de", endpointing=None))
        session.finalize()
        await feed(session, NOISE)
        session.stop()
        texts = [(f.utterance, f.text, f.language, f.reason) for f in finals(await read_all(session))]
        assert texts == [
            (1, "", "en", "finalize"),
            (2, "w1 w2 w3", "en", "finalize"),
            (3, "w1 w2 w3", "de", "stop"),
        ]


async def test_a_row_says_what_the_session_does():
    async with open_room() as room:
        session = room.session(interim=False, label="notes")
        assert (session.row().state, session.row().label) == ("idle", "notes")
        await feed(session, NOISE)
        await room.until(lambda: session.row().state == "speaking")
        room.model.gate.clear()
        session.finalize()
        await room.until(lambda: session.row().state == "decoding")
        session.stop()
        row = session.row()
        assert (row.state, row.audio_s, row.utterances, row.kind) == ("draining", 1.0, 1, "live")
        room.model.gate.set()
        await read_all(session)


async def test_a_session_that_is_asleep_goes_on_and_the_wait_is_no_latency():
    async with open_room() as room:
        session = room.session(interim=False, endpointing=None)
        await feed(session, NOISE)
        session.rest.sleep(kept_bytes=0)
        session.finalize()
        await room.until(lambda: room.finals)
        assert session.row().state == "asleep"
        session.rest.wake(now=session.clock())
        session.stop()
        assert session.row().state == "draining"
        assert kinds(await read_all(session)) == ["SpeechStart", "SpeechEnd", "Final", "Stopped"]
        assert room.written == []


async def test_a_client_learns_when_its_text_was_written():
    async with open_room() as room:
        session = room.session(interim=False)
        await feed(session, NOISE)
        session.stop()
        await read_all(session)
        ((event, latency_s),) = room.written
        assert isinstance(event, Final)
        assert 0 < latency_s < 5


# ------------------------------------------------------------------ ends


@pytest.mark.parametrize("stage", ["idle", "loading", "decoding", "ended"])
async def test_an_abort_gives_finals_at_once(stage):
    async with open_room() as room:
        if stage == "loading":
            room.models.loading = {"fake"}
        session = room.session(interim=False)
        room.model.gate.clear()
        if stage != "idle":
            await feed(session, NOISE)
            await room.until(lambda: session.row().utterances == 1)
        if stage == "decoding":
            session.finalize()
            await room.until(lambda: room.model.calls)
        if stage == "ended":
            session.stop()
            await trio.testing.wait_all_tasks_blocked()
        session.abort()
        events = await read_all(session)
        assert session.close_code == 1008
        assert isinstance(events[-1], Stopped)
        assert [(f.text, f.reason) for f in finals(events)] == ([] if stage == "idle" else [("", "drain")])
        assert kinds(events).count("SpeechEnd") == len(finals(events))
        session.abort(close_code=1001)  # too late to change anything
        assert session.close_code == 1008
        room.model.gate.set()


async def test_a_client_that_goes_while_its_model_loads_still_has_its_final():
    async with open_room() as room:
        room.models.loading = {"fake"}
        session = room.session(interim=False)
        await feed(session, NOISE)
        await room.until(lambda: session.row().utterances == 1)
        session.end("disconnect")
        session.stop()  # the first reason counts
        room.models.loaded("fake")
        assert await read_all(session) == []
        assert [(final.text, final.reason) for final in room.finals] == [("w1 w2 w3", "disconnect")]
        assert session.close_code is None


async def leave_behind(room, session):
    """Owe so many finals that listening waits, with a second of audio in the inbox, and leave."""
    for _ in range(OWED_FINALS + 1):
        await feed(session, NOISE[:6400])
        session.finalize()
    await room.until(lambda: room.model.calls)
    await trio.testing.wait_all_tasks_blocked(0.01)
    await feed(session, NOISE)
    session.end("disconnect")


async def test_no_interim_is_decoded_for_a_client_that_has_left():
    """Its audio may still lie in the inbox, seconds of it."""
    async with open_room() as room:
        room.model.gate.clear()
        session = room.session(interim=True)
        await leave_behind(room, session)
        room.model.gate.set()
        await session.wait_finished()
        assert {effort for call in room.model.calls for effort in call} == {Effort.FULL}
        assert len(room.finals) == OWED_FINALS + 2
        assert room.finals[-1].text == "w1 w2 w3"


async def test_a_client_that_leaves_takes_its_waiting_interim_along():
    async with open_room() as room:
        room.model.gate.clear()
        blocker = room.session(interim=False)
        await feed(blocker, NOISE)
        blocker.finalize()
        await room.until(lambda: room.model.calls)
        session = room.session()
        await feed(session, NOISE)
        await room.until(lambda: room.dispatcher.statistics().queued["interim"] == 1)
        session.end("disconnect")
        assert room.dispatcher.statistics().queued["interim"] == 0
        room.model.gate.set()
        await session.wait_finished()
        blocker.stop()
        await blocker.wait_finished()


async def test_a_client_that_has_left_has_no_model_loaded_for_its_interims():
    async with open_room() as room:
        room.model.gate.clear()
        session = room.session(interim_model="quick")
        await leave_behind(room, session)
        before = room.models.asked.count("quick")
        room.model.gate.set()
        await session.wait_finished()
        assert room.models.asked.count("quick") == before
        assert len(room.finals) == OWED_FINALS + 2


async def test_a_drain_closes_with_its_code():
    async with open_room() as room:
        session = room.session(interim=False)
        await feed(session, NOISE)
        session.end("drain", close_code=1001)
        assert [final.reason for final in finals(await read_all(session))] == ["drain"]
        assert session.close_code == 1001


async def test_cancelled_it_ends_at_once_and_gives_everything_back():
    async with open_room() as room:
        room.model.gate.clear()
        async with trio.open_nursery() as nursery:
            room.nursery, outer = nursery, room.nursery
            session = room.session()
            await feed(session, NOISE)
            session.finalize()
            await room.until(lambda: room.model.calls)
            nursery.cancel_scope.cancel()
        room.nursery = outer
        await session.wait_finished()
        assert finals(await read_all(session)) == []
        room.model.gate.set()


async def test_a_bug_ends_the_session_with_its_finals(caplog):
    async with open_room() as room:
        room.models.failures["fake"] = KeyError("what was said")
        session = room.session(interim=False)
        await feed(session, NOISE)
        events = await read_all(session)
        assert "SpeechEnd" in kinds(events)
        assert [final.text for final in finals(events)] == [""]
        (failure,) = [event for event in events if isinstance(event, Failure)]
        assert (failure.code, failure.fatal) == ("internal", True)
        assert "what was said" not in failure.message
        assert not any(isinstance(event, Stopped) for event in events)
        assert session.close_code == 1011
        assert "a session failed" in caplog.text


async def test_a_model_that_does_not_load_ends_no_session():
    async with open_room() as room:
        room.models.failures["fake"] = ModelError("broken")
        session = room.session(interim=False)
        await feed(session, NOISE)
        session.stop()
        events = await read_all(session)
        assert [kind for kind in kinds(events) if kind != "Failure"] == ["SpeechStart", "SpeechEnd", "Final", "Stopped"]
        assert "Failure" in kinds(events)[1:3]
        assert session.close_code == 1000


async def test_bad_audio_is_fatal_and_what_was_shown_has_its_final():
    async with open_room() as room:
        session = room.session(interim=False, encoding="container")
        await feed(session, bytes(100_000))
        events = await read_all(session)
        assert kinds(events) == ["Failure"]
        assert (events[0].code, session.close_code) == ("bad_audio", 1003)
        await feed(session, bytes(100_000))


async def test_a_container_session_ends_while_its_thread_waits():
    async with open_room() as room:
        session = room.session(interim=False, encoding="container")
        await feed(session, b"RIFF\xff\xff\xff\xffWAVEfmt ")
        await trio.sleep(0.05)
        session.abort()
        assert kinds(await read_all(session)) == ["Stopped"]


# ------------------------------------------------------------------ being behind


async def test_listening_pauses_while_too_many_finals_are_owed():
    async with open_room() as room:
        room.model.gate.clear()
        session = room.session(interim=False)
        fed = 0

        async def speak():
            nonlocal fed
            for _ in range(80):
                await feed(session, NOISE)
                session.finalize()
                fed += 1
            session.stop()

        room.nursery.start_soon(speak)
        await room.until(lambda: session.row().utterances == OWED_FINALS + 1)
        await trio.sleep(0.1)
        assert session.row().utterances == OWED_FINALS + 1
        assert fed < 80  # the inbox is full too, and the client waits
        room.model.gate.set()
        events = await read_all(session)
        assert [final.utterance for final in finals(events)] == list(range(1, 81))
        assert events[-1].audio_s == 80


async def test_finalizes_of_nothing_are_owed_too():
    async with open_room() as room:
        room.model.gate.clear()
        session = room.session(interim=False)
        await feed(session, NOISE)
        for _ in range(30):
            session.finalize()
        await trio.testing.wait_all_tasks_blocked()
        assert session.row().utterances == OWED_FINALS + 1  # or one that only asks would fill the memory
        session.abort()
        events = await read_all(session)
        assert [final.utterance for final in finals(events)] == list(range(1, OWED_FINALS + 2))
        assert events[-1].utterances == OWED_FINALS + 1
        room.model.gate.set()


async def test_listening_pauses_while_the_client_does_not_read():
    async with open_room() as room:
        session = room.session(interim=False)
        for _ in range(CAPACITY + 40):
            session.finalize()
        await trio.testing.wait_all_tasks_blocked()
        assert session.row().utterances <= CAPACITY + 5
        session.stop()
        assert len(finals(await read_all(session))) == CAPACITY + 40


async def test_who_sends_faster_than_anyone_speaks_hears_piece_by_piece_in_turn():
    """So that a flood of audio costs each turn of the event loop one piece, however many send it."""
    async with open_room() as room:
        flood, live = (room.session(interim=False, kind=kind) for kind in ("live", "live"))
        await room.turns.acquire()
        for _ in range(10):
            await feed(flood, NOISE)
        await feed(live, NOISE[:16_000])
        await room.until(lambda: live.row().audio_s == 0.5)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert flood.row().audio_s < 3  # what a network may have held back, and what has passed since
        room.turns.release()
        await room.until(lambda: flood.row().audio_s == 10)
        for session in (flood, live):
            session.stop()
            await read_all(session)


async def test_nobody_saves_up_the_time_in_which_he_was_silent():
    async with open_room() as room:
        session = room.session(interim=False)
        session.clock = lambda: trio.current_time() + 1000  # minutes later
        await room.turns.acquire()
        for _ in range(10):
            await feed(session, NOISE)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert 0 < session.row().audio_s < 4
        room.turns.release()
        session.stop()
        assert (await read_all(session))[-1].audio_s == 10


async def test_dropped_audio_leaves_a_gap_on_the_clock():
    async with open_room() as room:
        room.model.gate.clear()
        session = room.session(interim=False, overflow="drop")
        for _ in range(OWED_FINALS + 1):
            await feed(session, NOISE)
            session.finalize()
        for _ in range(200):
            await feed(session, NOISE)
        session.stop()
        room.model.gate.set()
        events = await read_all(session)
        gaps = [event for event in events if isinstance(event, Gap)]
        assert gaps
        lost_s = sum(gap.to_s - gap.from_s for gap in gaps)
        assert events[-1].dropped_s == session.dropped_s == pytest.approx(lost_s)
        assert events[-1].audio_s == OWED_FINALS + 201


async def test_a_session_that_is_behind_is_warned_now_and_then():
    async with open_room() as room:
        room.model.gate.clear()
        session = room.session(interim=False, tuning=Tuning(lag_warning_s=0.05))
        await feed(session, NOISE)
        session.finalize()
        for _ in range(5):
            await trio.sleep(0.03)
            await feed(session, NOISE[:640])
        session.stop()
        room.model.gate.set()
        warnings = [event for event in await read_all(session) if isinstance(event, Warn)]
        assert len(warnings) == 1
        assert warnings[0].lag_s >= 0.05


# ------------------------------------------------------------------ files


async def test_a_file_tells_its_progress_and_its_length():
    async with open_room() as room:
        room.model.gate.clear()
        session = room.session(kind="file", interim=False)
        await feed(session, NOISE * 2)
        first = await session.receive()
        assert isinstance(first, SpeechStart)
        progress = await session.receive()
        assert progress == Progress(done_s=0.0, total_s=None)
        session.stop()
        room.model.gate.set()
        events = await read_all(session)
        assert events[-2:] == [
            Progress(done_s=2.0, total_s=2.0),
            Stopped(audio_s=2.0, utterances=1, dropped_s=0.0),
        ]


async def test_endpointing_of_the_next_utterance():
    async with open_room() as room:
        session = room.session(interim=False)
        session.configure(SessionChanges(endpointing=Endpointing()))
        await feed(session, bytes(32_000))  # silence: with endpointing it opens nothing
        session.stop()
        assert kinds(await read_all(session)) == ["Stopped"]


@pytest.mark.parametrize("first", ["stop", "drain"])
async def test_a_client_that_goes_after_its_stop_leaves_nothing_behind(first):
    async with open_room() as room:
        session = room.session(interim=False)
        for _ in range(CAPACITY // 3 + 20):
            await feed(session, NOISE[:6400])
            session.finalize()
        await room.until(lambda: session.outbox.full)
        session.end(first)
        await trio.sleep(0.05)
        session.end("disconnect")
        await session.wait_finished()
        assert len(room.finals) == CAPACITY // 3 + 20
        assert session.close_code == 1000
