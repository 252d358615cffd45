"""What holds of a session of every kind, against scripted daemons on real sockets."""

import socket
import threading

import pytest
from sttd_client import (
    ConnectionLostError,
    Failure,
    Final,
    NoDaemonError,
    Reconnected,
    Resumed,
    SpeechStart,
    Stopped,
    TcpAddress,
    async_session,
)
from sttd_client.inbox import CAPACITY

from sttd.errors import AccessError, ModelError, OverloadedError, ProtocolError
from sttd.wire.jsontext import MAX_MESSAGE_BYTES
from tests.unit.clients.kinds import LIMIT_S, each_kind, each_loop, vanished
from tests.unit.clients.scripts import dictation, first_half, gone, older, second_half


@each_kind
async def test_audio_goes_out_and_finals_come_back(kind, control_socket, fake_audio):
    with fake_audio(dictation) as daemons:
        async with kind.open_session(socket_path=control_socket, lang="en", words=True) as session:
            assert session.started.session == "s1"
            assert session.hello.presets == ("fake",)
            await session.send(b"\1\0" * 100)
            await session.send(memoryview(b"\2\0" * 100))
            await session.configure(prompt="names")
            await session.finalize()
            await session.stop()
            events = [event async for event in session]
            with pytest.raises(ConnectionLostError, match="ended"):
                await session.send(b"\0\0")
    assert [type(event) for event in events] == [SpeechStart, Final, Stopped]
    (daemon,) = daemons
    assert daemon.ops[0] == {"op": "start", "lang": "en", "words": True, "resumable": True}
    assert [op["op"] for op in daemon.ops] == ["start", "configure", "finalize", "stop"]
    assert daemon.audio == b"\1\0" * 100 + b"\2\0" * 100
    daemon.connection.recv_events_thread.join()
    assert daemon.connection.protocol.close_rcvd.code == 1000, "the daemon's close was not answered"


@each_kind
async def test_errors_before_the_start_are_raised_as_they_are(kind, control_socket, fake_audio):
    def refuse(daemon):
        daemon.say("hello", server="x", protocol=1, encodings=[], presets=[])
        daemon.hear()
        daemon.say("error", code="model_not_local", message="sttctl pull base", retryable=True, fatal=True)

    with pytest.raises(ProtocolError, match="sample_rate"):
        async with kind.open_session(socket_path=control_socket, sample_rate=1):
            pass
    with pytest.raises(NoDaemonError, match="sttd serve"):
        async with kind.open_session(socket_path=control_socket):
            pass
    with pytest.raises(NoDaemonError, match=r"127\.0\.0\.1:1"):
        async with kind.open_session(tcp=TcpAddress(port=1)):
            pass
    with fake_audio(refuse), pytest.raises(ModelError, match="pull base"):
        async with kind.open_session(socket_path=control_socket):
            pass


@each_kind
async def test_a_socket_that_is_not_for_this_user_is_named(kind, control_socket, monkeypatch):
    def denied(*_):
        raise PermissionError

    monkeypatch.setattr("sttd_client.session.connect_unix", denied)
    monkeypatch.setattr("trio.open_unix_socket", denied)
    monkeypatch.setattr("sttd_client.asyncio_streams._connected", denied)
    with pytest.raises(AccessError, match="permission denied"):
        async with kind.open_session(socket_path=control_socket):
            pass


@each_kind
async def test_a_daemon_that_says_nothing_is_given_up(kind, control_socket, fake_audio):
    with fake_audio(lambda daemon: daemon.hear()), pytest.raises(TimeoutError, match="does not answer"):
        async with kind.open_session(socket_path=control_socket, timeout_s=0.2):
            pass


@each_kind
async def test_what_answers_and_is_no_daemon_is_named(kind, control_socket):
    path = control_socket.with_name("audio.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer():
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"220 mail.example ESMTP\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ProtocolError, match="no sttd"):
            async with kind.open_session(socket_path=control_socket):
                pass
        thread.join()


@each_kind
async def test_an_error_of_the_body_leaves_as_it_is(kind, control_socket, fake_audio):
    cause = OSError("why")
    with fake_audio(dictation), pytest.raises(KeyError, match="mine") as caught:
        async with kind.open_session(socket_path=control_socket):
            raise KeyError("mine") from cause
    assert caught.value.__cause__ is cause


@each_kind
async def test_a_fatal_error_is_raised_after_the_events_before_it(kind, control_socket, fake_audio):
    def fail(daemon):
        daemon.greet()
        daemon.final(1, "so far")
        daemon.say("error", code="overloaded", message="too much", retryable=True, fatal=True)

    with fake_audio(fail):
        async with kind.open_session(socket_path=control_socket) as session:
            assert isinstance(await session.receive(), Final)
            assert isinstance(await session.receive(), Failure)
            with pytest.raises(OverloadedError, match="too much"):
                await session.receive()
            with pytest.raises(OverloadedError):
                await session.send(b"\0\0")


@each_kind
async def test_the_last_words_of_a_daemon_are_heard_though_it_reads_no_more(kind, control_socket, fake_audio):
    def end(daemon):
        daemon.greet()
        daemon.hear()
        daemon.say("error", code="overloaded", message="too much", retryable=True, fatal=True)
        daemon.cut()

    async def flood(session):
        while True:
            await session.send(bytes(64_000))

    with fake_audio(end):
        async with kind.open_session(socket_path=control_socket) as session:
            with pytest.raises(OverloadedError, match="too much"):
                await flood(session)
            assert isinstance(await session.receive(), Failure)


@each_kind
async def test_a_daemon_that_only_talks_does_not_stall_a_client_that_only_sends(kind, control_socket, fake_audio):
    """Each side fills the other's socket buffer; somebody has to read."""
    texts = 3000

    def talk(daemon):
        daemon.greet()
        for number in range(1, texts + 1):
            daemon.final(number, "x" * 1000)
        daemon.hear_until_stop()
        daemon.stopped()

    with fake_audio(talk):
        async with kind.open_session(socket_path=control_socket) as session:
            await session.send(bytes(3 * MAX_MESSAGE_BYTES))
            await session.stop()
            assert len([event async for event in session if isinstance(event, Final)]) == texts


@each_loop
async def test_one_task_may_send_while_another_listens(kind, control_socket, fake_audio):
    finals = []

    def echo(daemon):
        daemon.greet()
        for number in range(1, 51):
            daemon.hear()
            daemon.final(number, "x")
        daemon.hear_until_stop()
        daemon.stopped()

    async def listen(session):
        finals.extend([event async for event in session if isinstance(event, Final)])

    with fake_audio(echo):
        async with kind.open_session(socket_path=control_socket) as session, kind.task(listen, session):
            for _ in range(50):
                await session.send(bytes(640))
            await session.stop()
    assert len(finals) == 50


@each_loop
async def test_a_program_that_does_not_read_stops_the_daemon_and_nothing_is_lost(kind, control_socket, fake_audio):
    texts, told = 4 * CAPACITY, []

    def talk(daemon):
        daemon.greet()
        for number in range(1, texts + 1):
            daemon.final(number, "x" * 100)
            told.append(number)
        daemon.hear_until_stop()
        daemon.stopped()

    async def until_the_daemon_waits():
        before = -1
        while before < len(told) or len(told) < CAPACITY:
            before = len(told)
            await kind.sleep(0.3)

    with fake_audio(talk):
        async with kind.open_session(socket_path=control_socket) as session:
            await until_the_daemon_waits()
            assert CAPACITY <= len(told) < texts
            await session.stop()
            assert [e.utterance async for e in session if isinstance(e, Final)] == list(range(1, texts + 1))


@each_loop
async def test_waiting_for_an_event_can_be_cancelled_without_loss(kind, control_socket, fake_audio):
    with fake_audio(dictation):
        async with kind.open_session(socket_path=control_socket) as session:
            for _ in range(20):
                assert await kind.gave_up(session.receive, after_s=0.01)
            await session.stop()
            assert [type(event) async for event in session] == [SpeechStart, Final, Stopped]


@each_kind
async def test_it_reconnects_when_asked_and_says_so(kind, control_socket, fake_audio):
    def restart(daemon):
        daemon.greet()
        daemon.hear()
        daemon.connection.close(1001)

    with fake_audio(restart, dictation) as daemons:
        async with kind.open_session(socket_path=control_socket, reconnect_s=60, lang="en") as session:
            await session.send(b"\0\0")
            told = Reconnected(session="s1", lost_bytes=0, again_bytes=2)  # no final covered them
            assert await session.receive() == told
            await session.send(b"\1\1")
            await session.stop()
            assert isinstance([event async for event in session][-1], Stopped)
        assert [daemon.ops[0]["lang"] for daemon in daemons] == ["en", "en"]
        assert daemons[1].audio == b"\0\0\1\1"


@each_loop
async def test_audio_sent_while_there_is_no_connection_is_said_to_the_next_session(kind, control_socket, fake_audio):
    path = control_socket.with_name("audio.sock")
    hidden = path.with_name("hidden.sock")

    def restart(daemon):
        daemon.greet()
        path.rename(hidden)
        daemon.connection.close(1001)

    with fake_audio(restart, dictation):
        async with kind.open_session(socket_path=control_socket, reconnect_s=60) as session:
            await vanished(kind, path)
            await session.send(bytes(640))
            hidden.rename(path)
            assert await session.receive() == Reconnected(session="s1", lost_bytes=0, again_bytes=640)


@each_kind
async def test_reconnecting_ends_when_its_time_is_over(kind, control_socket, fake_audio):
    def vanish(daemon):
        daemon.greet()
        control_socket.with_name("audio.sock").unlink()
        daemon.connection.close(1011)

    with fake_audio(vanish) as daemons:
        async with kind.open_session(socket_path=control_socket, reconnect_s=0.3) as session:
            with pytest.raises(NoDaemonError):
                await session.receive()
    assert len(daemons) == 1


@each_kind
async def test_what_retrying_cannot_help_is_not_retried(kind, control_socket, fake_audio):
    def slow_consumer(daemon):
        daemon.greet()
        daemon.connection.close(1008)

    with fake_audio(slow_consumer) as daemons:
        async with kind.open_session(socket_path=control_socket, reconnect_s=60) as session:
            with pytest.raises(ConnectionLostError, match="1008"):
                await session.receive()
    assert len(daemons) == 1


@each_loop
async def test_leaving_cancelled_closes_the_connection(kind, control_socket, fake_audio):
    async def talk(cancel):
        async with kind.open_session(socket_path=control_socket) as session:
            cancel()
            await session.receive()

    with fake_audio(dictation) as daemons:
        assert await kind.was_cancelled(talk)
        await kind.in_thread(daemons[0].connection.recv_events_thread.join)
        assert daemons[0].connection.close_code == 1000


@each_loop
async def test_connecting_can_be_cancelled(kind, control_socket, fake_audio):
    async def talk():
        async with kind.open_session(socket_path=control_socket, timeout_s=LIMIT_S):
            pytest.fail("nobody has answered")

    with fake_audio(lambda daemon: daemon.hear()) as daemons:
        assert await kind.gave_up(talk, after_s=0.2)
        if daemons:
            await kind.in_thread(daemons[0].connection.recv_events_thread.join)


@each_loop
async def test_a_daemon_that_reads_nothing_does_not_hold_who_leaves(kind, control_socket, fake_audio, monkeypatch):
    def deaf(daemon):
        daemon.greet()
        leaving.wait(LIMIT_S)

    leaving = threading.Event()
    monkeypatch.setattr(async_session, "_FAREWELL_S", 0.1)
    with fake_audio(deaf):
        async with kind.open_session(socket_path=control_socket) as session:
            assert await kind.gave_up(session.send, bytes(8 * MAX_MESSAGE_BYTES), after_s=0.2)
        leaving.set()


@each_kind
async def test_a_finalize_over_a_lost_connection_is_said_again_at_its_place(kind, control_socket, fake_audio):
    second = 32_000

    def cut_off(daemon):
        daemon.greet()
        daemon.hear()
        daemon.final(1, "one")  # up to 1.0 s
        while len(daemon.audio) < 3 * second:
            daemon.hear()
        daemon.hear()
        daemon.connection.socket.shutdown(socket.SHUT_RDWR)

    def revived(daemon):
        daemon.greet()
        while isinstance(op := daemon.hear(), bytes):
            pass
        assert op == {"op": "finalize"}
        assert len(daemon.audio) == pytest.approx(2 * second, abs=second / 1000 + 2)
        daemon.say("final", utterance=1, text="two", start_s=0.0, end_s=2.0, reason="finalize")
        daemon.hear_until_stop()
        daemon.stopped()

    with fake_audio(cut_off, revived):
        async with kind.open_session(socket_path=control_socket, reconnect_s=60) as session:
            await session.send(bytes(second))
            assert (await session.receive()).text == "one"
            await session.send(bytes(2 * second))
            await session.finalize()
            again = await session.receive()
            assert isinstance(again, Reconnected)
            assert again.lost_bytes == 0
            answer = await session.receive()
            assert (answer.reason, answer.text) == ("finalize", "two")
            await session.stop()
            assert [type(event) async for event in session] == [Stopped]


@each_loop
async def test_a_stop_while_the_connection_is_made_anew_ends_the_session(kind, control_socket, fake_audio):
    path = control_socket.with_name("audio.sock")
    hidden = path.with_name("hidden.sock")

    def vanish(daemon):
        daemon.greet()
        path.rename(hidden)
        daemon.connection.socket.shutdown(socket.SHUT_RDWR)

    with fake_audio(vanish, dictation):
        async with kind.open_session(socket_path=control_socket, reconnect_s=60) as session:
            await vanished(kind, path)
            await kind.sleep(0.3)  # so that it waits between two attempts
            await session.stop()
            hidden.rename(path)
            assert isinstance([event async for event in session][-1], Stopped)


@each_kind
async def test_a_lost_connection_is_resumed_and_nothing_is_missing_or_doubled(kind, control_socket, fake_audio):
    pcm = bytes(range(32))
    with fake_audio(first_half, second_half) as daemons:
        async with kind.open_session(socket_path=control_socket) as session:
            await session.send(pcm)
            assert isinstance(await session.receive(), SpeechStart)
            told = await session.receive()
            assert isinstance(told, Resumed)
            assert (told.position_s, told.again_bytes) == (0.0005, 16)
            await session.stop()
            assert [type(event) async for event in session] == [Final, Stopped]
        assert daemons[1].audio == pcm[16:]


@each_kind
async def test_while_there_is_no_connection_audio_is_taken(kind, control_socket, fake_audio):
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
        async with kind.open_session(socket_path=control_socket) as session:
            await vanished(kind, path)
            await session.send(bytes(640))
            await session.stop()
            hidden.rename(path)
            assert [type(event) async for event in session] == [Resumed, Stopped]
            assert len(daemons[1].audio) == 640


@each_loop
async def test_a_send_that_is_cancelled_costs_no_connection(kind, control_socket, fake_audio):
    def deaf(daemon):
        daemon.greet(resume_token="t1")
        reading.wait(LIMIT_S)
        daemon.hear_until_stop()
        daemon.say("stopped", audio_s=1.0, utterances=1, dropped_s=0.0, event_seq=1)

    reading = threading.Event()
    with fake_audio(deaf) as daemons:
        async with kind.open_session(socket_path=control_socket) as session:
            sent = bytes(3 * MAX_MESSAGE_BYTES)
            assert await kind.gave_up(session.send, sent, after_s=0.2)
            reading.set()
            await session.stop()
            assert [type(event) async for event in session] == [Stopped]
            assert daemons[0].audio == sent


@each_kind
async def test_a_session_that_the_daemon_has_no_longer_ends_with_what_was_lost(kind, control_socket, fake_audio):
    with fake_audio(first_half, gone):
        async with kind.open_session(socket_path=control_socket) as session:
            await session.send(bytes(32))
            assert isinstance(await session.receive(), SpeechStart)
            with pytest.raises(ConnectionLostError, match="1006"):
                await session.receive()
            with pytest.raises(ConnectionLostError):
                await session.send(bytes(32))


@each_kind
async def test_a_session_that_the_daemon_has_no_longer_is_begun_anew_where_asked_for(kind, control_socket, fake_audio):
    with fake_audio(first_half, gone, dictation) as daemons:
        async with kind.open_session(socket_path=control_socket, reconnect_s=60) as session:
            await session.send(bytes(32))
            assert isinstance(await session.receive(), SpeechStart)
            assert await session.receive() == Reconnected(session="s1", lost_bytes=0, again_bytes=32)
            await session.stop()
            assert isinstance([event async for event in session][-1], Stopped)
        assert [daemon.ops[0]["op"] for daemon in daemons] == ["start", "resume", "start"]


@each_kind
async def test_what_is_not_to_be_resumed_is_not(kind, control_socket, fake_audio):
    with fake_audio(first_half) as daemons:
        async with kind.open_session(socket_path=control_socket, resumable=False) as session:
            await session.send(bytes(32))
            with pytest.raises(ConnectionLostError, match="1006"):
                [event async for event in session]
    assert daemons[0].ops[0]["resumable"] is False


@each_kind
async def test_an_older_daemon_is_asked_again_without_the_option(kind, control_socket, fake_audio):
    with fake_audio(older) as daemons:
        async with kind.open_session(socket_path=control_socket, lang="en") as session:
            await session.stop()
            assert isinstance([event async for event in session][-1], Stopped)
        assert daemons[0].ops[:2] == [{"op": "start", "lang": "en", "resumable": True}, {"op": "start", "lang": "en"}]


@each_kind
async def test_a_session_that_was_left_has_ended(kind, control_socket, fake_audio):
    with fake_audio(dictation):
        async with kind.open_session(socket_path=control_socket) as session:
            pass
        assert [event async for event in session] == []
        with pytest.raises(ConnectionLostError, match="ended"):
            await session.finalize()


@each_loop
async def test_who_listens_to_a_session_that_is_left_hears_its_end(kind, control_socket, fake_audio):
    heard, sessions = [], []

    async def listen():
        while not sessions:
            await kind.sleep(0.01)
        heard.extend([event async for event in sessions[0]])
        heard.append("the end")

    with fake_audio(first_half):
        async with kind.task(listen), kind.open_session(socket_path=control_socket) as session:
            sessions.append(session)
            await kind.sleep(0.1)
    assert heard == ["the end"]
