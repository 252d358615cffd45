"""Who gets a session that outlives its connection: not another user, not a token of yesterday, never two at a time."""

import json
from contextlib import asynccontextmanager

import pytest
import trio
import wsproto.events as frames

from sttd.admission import Peer
from sttd.config.tree import Config, LimitsConfig
from sttd.core.types import SpeechStart, Stopped
from sttd.errors import NotFoundError, OverloadedError, ProtocolError
from sttd.options import SessionOptions
from sttd.planes.lasting import Lasting
from sttd.wire.resuming import KEPT_EVENTS
from tests.unit.planes.fakes import FakeService, open_plane
from tests.unit.planes.test_audio import SPEECH, Raw, flood, open_client

OPTIONS = SessionOptions(resumable=True)
ME, OTHER = Peer(uid=1000, privileged=False), Peer(uid=1001, privileged=False)
RESUME_S = 30.0


async def begin(client, **options):
    return (await client.begin(resumable=True, **options))["resume_token"]


async def resume(client, token, last_seq=0):
    assert (await client.hear())["type"] == "hello"
    await client.say(op="resume", token=token, last_seq=last_seq)
    return await client.hear()


async def drop(client):
    """No close frame."""
    await client.socket._stream.aclose()


async def until(true):
    with trio.fail_after(60):
        while not true():  # noqa: ASYNC110 (a fake tells nobody)
            await trio.sleep(0.01)


# ---------------------------------------------------------------- without sockets


@pytest.fixture
async def lasting(nursery):
    lasting = Lasting(FakeService())
    await nursery.start(lasting.run)
    return lasting


async def test_a_token_is_of_one_user(lasting):
    seat = await lasting.open(OPTIONS, peer=ME, leave=lambda: None)
    seat.vacate()
    for peer in (OTHER, Peer(uid=0, privileged=True)):
        with pytest.raises(NotFoundError):
            await lasting.resume(seat.token, 0, peer=peer, leave=lambda: None)
    resumed = await lasting.resume(seat.token, 0, peer=ME, leave=lambda: None)
    assert resumed.kept is seat.kept
    assert resumed.token != seat.token


async def test_of_those_who_show_one_token_one_gets_the_session(lasting, nursery, autojump_clock):
    first = await lasting.open(OPTIONS, peer=ME, leave=lambda: None)
    first.vacate()
    seats, refused = [], []

    async def come():
        try:
            seat = await lasting.resume(first.token, 0, peer=ME, leave=lambda: seats[0].vacate())
        except NotFoundError:
            refused.append(True)
        else:
            seats.append(seat)
            await seat.doubted.wait()
            await trio.sleep(1)  # it answers the ping, in time
            seat.prove()

    async with trio.open_nursery() as comers:
        for _ in range(3):
            comers.start_soon(come)
    assert (len(seats), len(refused)) == (1, 2)
    assert seats[0].kept.seat is seats[0]


async def test_a_token_whose_answer_was_lost_is_good_again(lasting, autojump_clock):
    first = await lasting.open(OPTIONS, peer=ME, leave=lambda: None)
    first.vacate()
    lost = await lasting.resume(first.token, 0, peer=ME, leave=lambda: lost.vacate())
    again = await lasting.resume(first.token, 0, peer=ME, leave=lambda: None)
    assert trio.current_time() > 1  # the other one had its time to answer a ping
    assert again.kept.seat is again
    with pytest.raises(NotFoundError):  # nobody has ever seen it
        await lasting.resume(lost.token, 0, peer=ME, leave=lambda: None)


async def test_what_is_no_longer_kept_once_the_other_connection_has_left_is_not_told_in_part(lasting):
    def leave():
        for _ in range(KEPT_EVENTS):
            first.machine.number("warning", {})
        first.vacate()

    first = await lasting.open(OPTIONS, peer=ME, leave=leave)
    first.machine.number("warning", {})
    with pytest.raises(NotFoundError, match="before number 2"):
        await lasting.resume(first.token, 0, peer=ME, leave=lambda: None)
    assert (await lasting.resume(first.token, 1, peer=ME, leave=lambda: None)).kept is first.kept


async def test_a_session_that_nobody_takes_is_left(lasting, autojump_clock):
    seat = await lasting.open(OPTIONS, peer=ME, leave=lambda: None)
    (session,) = lasting.service.sessions
    seat.vacate()
    assert session.rest.asleep
    began = trio.current_time()
    await session.left.wait()
    assert trio.current_time() - began == pytest.approx(RESUME_S)
    await lasting.wait_until_empty()
    with pytest.raises(NotFoundError):
        await lasting.resume(seat.token, 0, peer=ME, leave=lambda: None)


async def test_a_new_time_to_wait_holds_from_the_next_drop_on(lasting, autojump_clock):
    seat = await lasting.open(OPTIONS, peer=ME, leave=lambda: None)
    lasting.service.config = Config(limits=LimitsConfig(resume_s=0))
    seat.vacate()
    await lasting.wait_until_empty()
    assert trio.current_time() == pytest.approx(0, abs=0.1)


async def test_who_is_refused_hears_why_and_leaves_nothing_behind(lasting):
    lasting.service.refusals.append(OverloadedError("full"))
    with pytest.raises(OverloadedError):
        await lasting.open(OPTIONS, peer=ME, leave=lambda: None)
    assert len(lasting) == 0
    seat = await lasting.open(OPTIONS, peer=ME, leave=lambda: None)
    with pytest.raises(ProtocolError):
        await lasting.resume(seat.token, 1, peer=ME, leave=lambda: None)
    assert seat.kept.seat is seat


async def test_a_session_that_is_ended_at_once_is_not_kept(lasting):
    seat = await lasting.open(OPTIONS, peer=ME, leave=lambda: None)
    (session,) = lasting.service.sessions
    session.rest.dismissed.set()
    session.abort()
    await trio.testing.wait_all_tasks_blocked()
    assert not session.left.is_set()  # its client is there, and is told
    seat.vacate()
    await session.left.wait()
    await lasting.wait_until_empty()


# ---------------------------------------------------------------- by connections


async def test_events_said_while_nobody_listens_are_told_afterwards():
    async with open_plane() as plane:
        async with open_client(plane) as client:
            token = await begin(client)
            (session,) = plane.service.sessions
            session.say(SpeechStart(utterance=1, at_s=0.0))
            assert (await client.hear())["event_seq"] == 1
            await client.socket.send_message(b"\1\2\3")
            await until(lambda: session.named("feed") == [b"\1\2"])
            await drop(client)
        await until(lambda: session.rest.asleep)
        session.say(SPEECH)
        async with open_client(plane) as client:
            resumed = await resume(client, token, 1)
            assert (resumed["type"], resumed["position_s"], resumed["ops"]) == ("resumed", 1 / 16_000, 0)
            final = await client.hear()
            assert (final["type"], final["event_seq"]) == ("final", 2)
            assert not session.rest.asleep
            await client.socket.send_message(b"\3\4")
            await client.say(op="stop")
            (stopped,), code = await client.hear_all()
        assert (stopped["type"], stopped["event_seq"], code) == ("stopped", 3, 1000)
        await session.left.wait()
    assert session.named("feed") == [b"\1\2", b"\3\4"]
    assert len(plane.service.sessions) == 1


async def test_who_says_that_he_will_start_and_resumes_gives_his_place_back():
    """A proxy says `?start` for clients that do not know the word."""
    async with open_plane() as plane:
        async with open_client(plane) as client:
            token = await begin(client)
            await drop(client)
        await until(lambda: plane.service.sessions[0].rest.asleep)
        async with open_client(plane, "/ws?start") as client:
            assert len(plane.service.registry) == 1
            assert (await resume(client, token))["type"] == "resumed"
            assert len(plane.service.registry) == 0


async def test_while_a_client_has_the_session_the_token_that_it_used_is_good_for_nobody(mock_clock):
    """It has said nothing yet, but it answers a ping: time stands still here, so nobody's patience ends."""
    async with open_plane() as plane, open_client(plane) as first, open_client(plane) as second:
        token = await begin(first)
        assert (await resume(second, token))["type"] == "resumed"
        async with open_client(plane) as thief:
            assert (await resume(thief, token))["code"] == "not_found"
        await second.say(op="stop")
        messages, code = await second.hear_all()
        assert ([m["type"] for m in messages], code) == (["stopped"], 1000)
        assert await first.hear_all() == ([], 1008)


async def test_a_client_that_closes_with_1000_has_left_for_good():
    async with open_plane() as plane:
        async with open_client(plane) as client:
            token = await begin(client)
        with trio.fail_after(60):
            await plane.service.sessions[0].left.wait()
        async with open_client(plane) as client:
            assert (await resume(client, token))["code"] == "not_found"


async def test_a_close_frame_of_another_code_without_stop_is_a_lost_connection():
    async with open_plane() as plane:
        async with open_client(plane) as client:
            token = await begin(client)
            await client.socket.aclose(code=1001)
        (session,) = plane.service.sessions
        await until(lambda: session.rest.asleep)
        async with open_client(plane) as client:
            assert (await resume(client, token))["type"] == "resumed"


async def test_who_does_not_prove_that_the_last_event_came_may_ask_for_it_again(autojump_clock):
    async with open_plane(close_s=0.2) as plane:
        async with await plane.connect() as stream:
            client = Raw(stream)  # answers no ping
            await client.send(frames.Request(host="localhost", target="/ws"))
            await client.send_text(op="start", resumable=True)
            while not any('"started"' in message for message in client.messages):
                await client.receive()
            token = json.loads(client.messages[-1])["resume_token"]
            await client.send_text(op="stop")
            await until(lambda: plane.service.sessions[0].finished.is_set())
            await trio.sleep(0.1)
        (session,) = plane.service.sessions
        await until(lambda: session.rest.asleep)
        async with open_client(plane) as client:
            assert (await resume(client, token))["type"] == "resumed"
            (stopped,), code = await client.hear_all()
            assert (stopped["type"], stopped["event_seq"], code) == ("stopped", 1, 1000)
        await session.left.wait()


async def test_a_fatal_error_stays_one_for_who_comes_back():
    async with open_plane() as plane:
        async with open_client(plane) as client:
            token = await begin(client)
            (session,) = plane.service.sessions
            session.stays = True
            await client.socket.send_message(bytes((1 << 20) + 1))
            assert (await client.hear())["code"] == "too_large"
            await session.told_to_stop.wait()
            await drop(client)
        await until(lambda: session.rest.asleep)
        session.end(SPEECH, Stopped(audio_s=0.0, utterances=1, dropped_s=0.0), close_code=1000)
        async with open_client(plane) as client:
            assert (await resume(client, token))["type"] == "resumed"
            messages, code = await client.hear_all()
        assert [(m["type"], m["event_seq"]) for m in messages] == [("error", 1), ("final", 2)]
        assert code == 1009


async def test_a_client_that_does_not_read_loses_its_connection_and_not_its_session():
    async with open_plane(stall_s=0.2, close_s=0.2) as plane:
        async with await plane.connect() as stream:
            client = Raw(stream)
            await client.send(frames.Request(host="localhost", target="/ws"))
            await client.send_text(op="start", resumable=True)
            while not any('"started"' in message for message in client.messages):
                await client.receive()
            (session,) = plane.service.sessions
            flood(session)
            await until(lambda: session.rest.asleep)
            assert not session.left.is_set()
            with trio.fail_after(60):
                while client.code is None and await client.receive():
                    pass
        assert not any('"slow_consumer"' in message for message in client.messages)  # its session is not over


async def test_a_bug_in_a_connection_leaves_the_session(caplog):
    async with open_plane() as plane:
        async with open_client(plane) as client:
            token = await begin(client)
            (session,) = plane.service.sessions
            session.finalize = lambda: 1 / 0
            await client.say(op="finalize")
            messages, code = await client.hear_all()
        assert (messages, code) == ([], 1011)
        async with open_client(plane) as client:
            assert (await resume(client, token))["type"] == "resumed"
    assert "ZeroDivisionError" in caplog.text


async def test_a_session_whose_client_was_sent_away_before_it_heard_of_it_is_not_kept(autojump_clock):
    class Slow(FakeService):
        @asynccontextmanager
        async def open_session(self, options, **rest):
            await trio.sleep(10)
            async with super().open_session(options, **rest) as session:
                yield session

    async with open_plane(service=Slow()) as plane, await plane.connect() as stream:
        client = Raw(stream)
        await client.send(frames.Request(host="localhost", target="/ws"))
        await client.send_text(op="start", resumable=True)
        await stream.send_all(b"\x81\x02{}")  # not masked
        while await client.receive():
            pass
        await plane.service.opened.wait()
        await plane.service.sessions[0].left.wait()
        assert trio.current_time() < RESUME_S


async def test_in_a_drain_only_who_comes_back_is_served():
    async with open_plane() as plane:
        async with open_client(plane) as client:
            token = await begin(client)
            await drop(client)
        (session,) = plane.service.sessions
        await until(lambda: session.rest.asleep)
        plane.drain.begin()
        session.end(SPEECH, Stopped(audio_s=0.0, utterances=1, dropped_s=0.0), close_code=1001)
        async with open_client(plane) as waiting, open_client(plane) as client:
            assert (await waiting.hear())["type"] == "hello"
            assert (await resume(client, token))["type"] == "resumed"
            messages, code = await client.hear_all()
            assert ([m["type"] for m in messages], code) == (["final", "stopped"], 1001)
            plane.drain.stop_accepting()
            (error,), code = await waiting.hear_all()
            assert (error["code"], code) == ("shutting_down", 1001)


async def test_what_goes_wrong_in_keeping_a_session_stays_with_it(lasting, caplog):
    lasting.service.breaks = True
    seat = await lasting.open(OPTIONS, peer=ME, leave=lambda: None)
    seat.finish()
    await lasting.wait_until_empty()
    await trio.testing.wait_all_tasks_blocked()
    assert "a resumable session failed" in caplog.text
