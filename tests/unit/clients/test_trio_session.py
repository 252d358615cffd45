"""The Trio session, against scripted daemons on real sockets. Real clock: the daemons live in threads."""

import socket
import threading

import pytest
import trio
import trio.testing
from sttd_client import (
    ConnectionLostError,
    Final,
    NoDaemonError,
    Reconnected,
    Resumed,
    SpeechStart,
    Stopped,
    TcpAddress,
    open_session,
)

from sttd.errors import ModelError, OverloadedError, ProtocolError
from sttd.wire.jsontext import MAX_MESSAGE_BYTES
from tests.unit.clients.scripts import dictation, first_half, gone, older, second_half


@pytest.fixture(autouse=True)
async def watchdog():
    with trio.fail_after(60):
        yield


async def test_audio_goes_out_and_finals_come_back(control_socket, fake_audio):
    with fake_audio(dictation) as daemons:
        async with open_session(socket_path=control_socket, lang="en") as session:
            assert session.started.session == "s1"
            await session.send(b"\1\0" * 100)
            await session.configure(prompt="names")
            await session.finalize()
            await session.stop()
            events = [event async for event in session]
            with pytest.raises(ConnectionLostError, match="ended"):
                await session.send(b"\0\0")
    assert [type(event) for event in events] == [SpeechStart, Final, Stopped]
    assert [op["op"] for op in daemons[0].ops] == ["start", "configure", "finalize", "stop"]
    assert daemons[0].audio == b"\1\0" * 100


async def test_errors_before_the_start_are_raised_as_they_are(control_socket, fake_audio):
    def refuse(daemon):
        daemon.say("hello", server="x", protocol=1, encodings=[], presets=[])
        daemon.hear()
        daemon.say("error", code="model_not_local", message="sttctl pull base", retryable=True, fatal=True)

    with pytest.raises(ProtocolError, match="sample_rate"):
        async with open_session(socket_path=control_socket, sample_rate=1):
            pass
    with pytest.raises(NoDaemonError):
        async with open_session(socket_path=control_socket):
            pass
    with pytest.raises(NoDaemonError):
        async with open_session(tcp=TcpAddress(port=1)):
            pass
    with fake_audio(refuse), pytest.raises(ModelError, match="pull base"):
        async with open_session(socket_path=control_socket):
            pass


async def test_a_daemon_that_says_nothing_is_given_up(control_socket, fake_audio):
    with fake_audio(lambda daemon: daemon.hear()), pytest.raises(TimeoutError):
        async with open_session(socket_path=control_socket, timeout_s=0.2):
            pass


async def test_an_error_of_the_body_leaves_as_it_is(control_socket, fake_audio):
    with fake_audio(dictation), pytest.raises(KeyError, match="mine"):
        async with open_session(socket_path=control_socket):
            raise KeyError("mine")


async def test_a_fatal_error_is_raised_after_the_events_before_it(control_socket, fake_audio):
    def fail(daemon):
        daemon.greet()
        daemon.final(1, "so far")
        daemon.say("error", code="overloaded", message="too much", retryable=True, fatal=True)

    with fake_audio(fail):
        async with open_session(socket_path=control_socket) as session:
            assert isinstance(await session.receive(), Final)
            await session.receive()
            with pytest.raises(OverloadedError, match="too much"):
                await session.receive()


async def test_one_task_may_send_while_another_listens(control_socket, fake_audio):
    texts = 3000

    def talk(daemon):
        daemon.greet()
        for number in range(1, texts + 1):
            daemon.final(number, "x" * 1000)
        daemon.hear_until_stop()
        daemon.stopped()

    with fake_audio(talk):
        async with open_session(socket_path=control_socket) as session, trio.open_nursery() as nursery:

            async def send():
                await session.send(bytes(3 * MAX_MESSAGE_BYTES))
                await session.stop()

            nursery.start_soon(send)
            finals = [event async for event in session if isinstance(event, Final)]
    assert len(finals) == texts


async def test_waiting_for_an_event_can_be_cancelled_without_loss(control_socket, fake_audio):
    with fake_audio(dictation):
        async with open_session(socket_path=control_socket) as session:
            with trio.move_on_after(0.05) as scope:
                await session.receive()
            assert scope.cancelled_caught
            await session.stop()
            assert isinstance(await session.receive(), SpeechStart)


async def test_it_reconnects_when_asked_and_says_so(control_socket, fake_audio):
    def restart(daemon):
        daemon.greet()
        daemon.hear()
        daemon.connection.close(1001)

    with fake_audio(restart, dictation) as daemons:
        async with open_session(socket_path=control_socket, reconnect_s=60, lang="en") as session:
            await session.send(b"\0\0")
            assert isinstance(await session.receive(), Reconnected)
            await session.send(b"\1\1")
            await session.stop()
            assert isinstance([event async for event in session][-1], Stopped)
        assert [daemon.ops[0]["lang"] for daemon in daemons] == ["en", "en"]
        assert daemons[1].audio == b"\1\1"


async def vanished(path):
    while path.exists():  # noqa: ASYNC110 - the daemon is in a thread
        await trio.sleep(0.01)


async def test_audio_sent_while_there_is_no_connection_is_counted(control_socket, fake_audio):
    path = control_socket.with_name("audio.sock")
    hidden = path.with_name("hidden.sock")

    def restart(daemon):
        daemon.greet()
        path.rename(hidden)
        daemon.connection.close(1001)

    with fake_audio(restart, dictation):
        async with open_session(socket_path=control_socket, reconnect_s=60) as session:
            await vanished(path)
            await session.send(bytes(640))
            hidden.rename(path)
            assert await session.receive() == Reconnected(session="s1", lost_bytes=640)


async def test_reconnecting_ends_when_its_time_is_over(control_socket, fake_audio):
    def vanish(daemon):
        daemon.greet()
        control_socket.with_name("audio.sock").unlink()
        daemon.connection.close(1011)

    with fake_audio(vanish):
        async with open_session(socket_path=control_socket, reconnect_s=0.3) as session:
            with pytest.raises(NoDaemonError):
                await session.receive()


async def test_leaving_cancelled_closes_the_connection(control_socket, fake_audio):
    with fake_audio(dictation) as daemons:
        with trio.CancelScope() as scope:
            async with open_session(socket_path=control_socket) as session:
                scope.deadline = trio.current_time() + 0.05
                await session.receive()
        assert scope.cancelled_caught
        await trio.to_thread.run_sync(daemons[0].connection.recv_events_thread.join)
        assert daemons[0].connection.close_code == 1000


async def test_a_finalize_over_a_lost_connection_gets_its_final_and_what_is_lost_is_counted(control_socket, fake_audio):
    def cut_off(daemon):
        daemon.greet()
        daemon.hear()
        daemon.hear()
        daemon.connection.socket.shutdown(socket.SHUT_RDWR)

    def revived(daemon):
        daemon.greet()
        assert daemon.hear() == {"op": "finalize"}
        daemon.say("final", utterance=1, text="", start_s=0.0, end_s=0.0, reason="finalize")
        daemon.hear_until_stop()
        daemon.stopped()

    with fake_audio(cut_off, revived):
        async with open_session(socket_path=control_socket, reconnect_s=60) as session:
            await session.send(bytes(64_000))
            await session.finalize()
            assert await session.receive() == Reconnected(session="s1", lost_bytes=64_000)
            answer = await session.receive()
            assert (answer.reason, answer.text) == ("finalize", "")
            await session.stop()
            assert [type(event) async for event in session] == [Stopped]


async def test_a_stop_while_the_connection_is_made_anew_ends_the_session(control_socket, fake_audio):
    path = control_socket.with_name("audio.sock")
    hidden = path.with_name("hidden.sock")

    def vanish(daemon):
        daemon.greet()
        path.rename(hidden)
        daemon.connection.socket.shutdown(socket.SHUT_RDWR)

    with fake_audio(vanish, dictation):
        async with open_session(socket_path=control_socket, reconnect_s=60) as session:
            await vanished(path)
            await trio.sleep(0.3)  # so that it waits between two attempts
            await session.stop()
            hidden.rename(path)
            assert isinstance([event async for event in session][-1], Stopped)


async def test_a_lost_connection_is_resumed_and_nothing_is_missing_or_doubled(control_socket, fake_audio):
    pcm = bytes(range(32))
    with fake_audio(first_half, second_half) as daemons:
        async with open_session(socket_path=control_socket) as session:
            await session.send(pcm)
            assert isinstance(await session.receive(), SpeechStart)
            told = await session.receive()
            assert isinstance(told, Resumed)
            assert (told.position_s, told.again_bytes) == (0.0005, 16)
            await session.stop()
            assert [type(event) async for event in session] == [Final, Stopped]
        assert daemons[1].audio == pcm[16:]


async def test_while_there_is_no_connection_audio_is_taken(control_socket, fake_audio):
    path = control_socket.with_name("audio.sock")
    hidden = path.with_name("hidden.sock")

    def vanish(daemon):
        daemon.greet(resume_token="t1")
        path.rename(hidden)
        daemon.cut()

    def revived(daemon):
        daemon.greet_again(token="t1", last_seq=0, position_s=0.0)
        daemon.hear_until_stop()
        daemon.say("stopped", audio_s=1.0, utterances=1, dropped_s=0.0, event_seq=1)

    with fake_audio(vanish, revived) as daemons:
        async with open_session(socket_path=control_socket) as session:
            await vanished(path)
            await session.send(bytes(640))
            await session.stop()
            hidden.rename(path)
            assert [type(event) async for event in session] == [Resumed, Stopped]
            assert len(daemons[1].audio) == 640


async def test_a_send_that_is_cancelled_costs_no_connection(control_socket, fake_audio):
    def deaf(daemon):
        daemon.greet(resume_token="t1")
        reading.wait(60)
        daemon.hear_until_stop()
        daemon.say("stopped", audio_s=1.0, utterances=1, dropped_s=0.0, event_seq=1)

    reading = threading.Event()
    with fake_audio(deaf) as daemons:
        async with open_session(socket_path=control_socket) as session:
            sent = bytes(3 * MAX_MESSAGE_BYTES)
            with trio.move_on_after(0.2) as scope:
                await session.send(sent)
            assert scope.cancelled_caught
            reading.set()
            await session.stop()
            assert [type(event) async for event in session] == [Stopped]
            assert daemons[0].audio == sent


async def test_a_session_that_the_daemon_has_no_longer_ends_with_what_was_lost(control_socket, fake_audio):
    with fake_audio(first_half, gone):
        async with open_session(socket_path=control_socket) as session:
            await session.send(bytes(32))
            assert isinstance(await session.receive(), SpeechStart)
            with pytest.raises(ConnectionLostError, match="1006"):
                await session.receive()


async def test_a_session_that_the_daemon_has_no_longer_is_begun_anew_where_asked_for(control_socket, fake_audio):
    with fake_audio(first_half, gone, dictation):
        async with open_session(socket_path=control_socket, reconnect_s=60) as session:
            await session.send(bytes(32))
            assert isinstance(await session.receive(), SpeechStart)
            assert await session.receive() == Reconnected(session="s1", lost_bytes=32)
            await session.stop()
            assert isinstance([event async for event in session][-1], Stopped)


async def test_an_older_daemon_is_asked_again_without_the_option(control_socket, fake_audio):
    with fake_audio(older) as daemons:
        async with open_session(socket_path=control_socket, lang="en") as session:
            await session.stop()
            assert isinstance([event async for event in session][-1], Stopped)
        assert daemons[0].ops[:2] == [{"op": "start", "lang": "en", "resumable": True}, {"op": "start", "lang": "en"}]


async def test_who_listens_to_a_session_that_is_left_hears_its_end(control_socket, fake_audio):
    heard = []

    async def listen(session):
        heard.extend([event async for event in session])
        heard.append("the end")

    with fake_audio(first_half):
        async with trio.open_nursery() as nursery, open_session(socket_path=control_socket) as session:
            nursery.start_soon(listen, session)
            await trio.testing.wait_all_tasks_blocked()
    assert heard == ["the end"]
