"""The blocking session, against scripted daemons on real sockets."""

import select
import socket
import time

import pytest
from sttd_client import TcpAddress
from sttd_client.addresses import ConnectionLostError, NoDaemonError
from sttd_client.events import Failure, Final, Reconnected, Resumed, SpeechStart, Stopped
from sttd_client.session import open_session

from sttd.errors import ModelError, OverloadedError, ProtocolError
from sttd.wire.jsontext import MAX_MESSAGE_BYTES
from tests.unit.clients.scripts import dictation, first_half, gone, older, second_half


def test_audio_goes_out_and_finals_come_back(control_socket, fake_audio):
    with fake_audio(dictation) as daemons, open_session(socket_path=control_socket, lang="en", words=True) as session:
        assert session.started.session == "s1"
        assert session.hello.presets == ("fake",)
        session.send(b"\1\0" * 100)
        session.send(memoryview(b"\2\0" * 100))
        session.configure(prompt="names")
        session.finalize()
        session.stop()
        events = list(session)
        assert session.ended
    assert [type(event) for event in events] == [SpeechStart, Final, Stopped]
    (daemon,) = daemons
    assert daemon.ops[0] == {"op": "start", "lang": "en", "words": True, "resumable": True}
    assert [op["op"] for op in daemon.ops] == ["start", "configure", "finalize", "stop"]
    assert daemon.audio == b"\1\0" * 100 + b"\2\0" * 100


def test_a_wrong_option_is_refused_before_anything_is_sent(control_socket):
    with pytest.raises(ProtocolError, match="sample_rate"), open_session(socket_path=control_socket, sample_rate=1):
        pass


def test_without_a_daemon_it_says_so(control_socket):
    with pytest.raises(NoDaemonError, match="sttd serve"), open_session(socket_path=control_socket):
        pass
    with pytest.raises(NoDaemonError, match=r"127\.0\.0\.1:1"), open_session(tcp=TcpAddress(port=1)):
        pass


def test_a_refused_start_is_raised(control_socket, fake_audio):
    def refuse(daemon):
        daemon.say("hello", server="x", protocol=1, encodings=[], presets=[])
        daemon.hear()
        daemon.say("error", code="model_not_local", message="sttctl pull base", retryable=True, fatal=True)

    with fake_audio(refuse), pytest.raises(ModelError, match="pull base"), open_session(socket_path=control_socket):
        pass


def test_a_daemon_that_says_nothing_is_given_up(control_socket, fake_audio):
    def silent(daemon):
        daemon.hear()

    with fake_audio(silent), pytest.raises(TimeoutError), open_session(socket_path=control_socket, timeout_s=0.2):
        pass


def test_a_fatal_error_is_raised_after_the_events_before_it(control_socket, fake_audio):
    def fail(daemon):
        daemon.greet()
        daemon.final(1, "so far")
        daemon.say("error", code="overloaded", message="too much", retryable=True, fatal=True)

    with fake_audio(fail), open_session(socket_path=control_socket) as session:
        assert isinstance(session.receive(), Final)
        assert isinstance(session.receive(), Failure)
        with pytest.raises(OverloadedError, match="too much"):
            session.receive()
        with pytest.raises(OverloadedError):
            session.send(b"\0\0")


def test_a_lost_connection_is_raised(control_socket, fake_audio):
    def vanish(daemon):
        daemon.greet()
        daemon.connection.socket.shutdown(socket.SHUT_RDWR)

    with fake_audio(vanish), open_session(socket_path=control_socket) as session:
        with pytest.raises(ConnectionLostError):
            session.receive()
        with pytest.raises(ConnectionLostError):
            session.poll()


def test_waiting_can_be_bounded_and_polling_does_not_wait(control_socket, fake_audio):
    with fake_audio(dictation), open_session(socket_path=control_socket) as session:
        with pytest.raises(TimeoutError):
            session.receive(timeout_s=0.05)
        assert session.poll() == []
        session.stop()
        assert select.select([session], [], [], 60)[0]
        assert session.poll()


def test_a_daemon_that_only_talks_does_not_stall_a_client_that_only_sends(control_socket, fake_audio):
    """Each side fills the other's socket buffer; somebody has to read."""
    texts = 3000

    def talk(daemon):
        daemon.greet()
        for number in range(1, texts + 1):
            daemon.final(number, "x" * 1000)
        daemon.hear_until_stop()
        daemon.stopped()

    with fake_audio(talk), open_session(socket_path=control_socket) as session:
        session.send(bytes(3 * MAX_MESSAGE_BYTES))
        session.stop()
        assert sum(isinstance(event, Final) for event in session) == texts


def test_it_reconnects_when_asked_and_says_so(control_socket, fake_audio):
    def restart(daemon):
        daemon.greet()
        daemon.hear()
        daemon.connection.close(1001)

    with fake_audio(restart, dictation) as daemons:
        with open_session(socket_path=control_socket, reconnect_s=60, lang="en") as session:
            session.send(b"\0\0")
            event = session.receive(timeout_s=60)
            assert event == Reconnected(session="s1", lost_bytes=2)  # no final covered them
            session.send(b"\1\1")
            session.stop()
            assert isinstance(list(session)[-1], Stopped)
        assert [daemon.ops[0]["lang"] for daemon in daemons] == ["en", "en"]
        assert daemons[1].audio == b"\1\1"


def test_audio_can_be_held_back_until_there_is_a_session_that_listens(control_socket, fake_audio):
    def restart(daemon):
        daemon.greet()
        daemon.hear()
        daemon.stopped()
        daemon.connection.close(1001)

    with (
        fake_audio(restart, dictation) as daemons,
        open_session(socket_path=control_socket, reconnect_s=60) as session,
    ):
        assert session.listens
        session.offer(b"\0\0")
        while session.listens:
            stopped = session.poll()
        assert isinstance(stopped[-1], Stopped)  # it is there before anybody waits for another session
        session.offer(b"\7\7")  # returns at once, and nobody hears it
        assert isinstance(session.receive(timeout_s=60), Reconnected)
        assert session.listens
        session.offer(b"\1\1")
        session.stop()
        assert isinstance(list(session)[-1], Stopped)
        assert not session.listens
        session.offer(b"\7\7")  # after the end, too
    assert daemons[1].audio == b"\1\1"


def test_reconnecting_ends_when_its_time_is_over(control_socket, fake_audio):
    def vanish(daemon):
        daemon.greet()
        daemon.connection.close(1011)

    with fake_audio(vanish) as daemons:
        manager = open_session(socket_path=control_socket, reconnect_s=0.4)
        session = manager.__enter__()
        control_socket.with_name("audio.sock").unlink()
        began = time.monotonic()
        with pytest.raises(NoDaemonError):
            session.receive()
        assert time.monotonic() - began < 30
        manager.__exit__(None, None, None)
    assert len(daemons) == 1


def test_what_retrying_cannot_help_is_not_retried(control_socket, fake_audio):
    def slow_consumer(daemon):
        daemon.greet()
        daemon.connection.close(1008)

    with fake_audio(slow_consumer) as daemons, open_session(socket_path=control_socket, reconnect_s=60) as session:
        with pytest.raises(ConnectionLostError, match="1008"):
            session.receive()
        assert len(daemons) == 1


def cut_off(daemon):
    daemon.greet()
    daemon.hear()
    daemon.final(1, "one")  # up to 1.0 s
    daemon.hear()
    daemon.connection.socket.shutdown(socket.SHUT_RDWR)


def test_a_finalize_over_a_lost_connection_gets_its_final_and_what_is_lost_is_counted(control_socket, fake_audio):
    def revived(daemon):
        daemon.greet()
        assert daemon.hear() == {"op": "finalize"}
        daemon.say("final", utterance=1, text="", start_s=0.0, end_s=0.0, reason="finalize")
        daemon.hear_until_stop()
        daemon.stopped()

    second = 32_000
    with fake_audio(cut_off, revived), open_session(socket_path=control_socket, reconnect_s=60) as session:
        session.send(bytes(second))
        assert session.receive(timeout_s=60).text == "one"
        session.send(bytes(2 * second))
        session.finalize()
        lost = session.receive(timeout_s=60)
        assert isinstance(lost, Reconnected)
        assert lost.lost_bytes == pytest.approx(2 * second, abs=second / 1000 + 1)
        answer = session.receive(timeout_s=60)
        assert (answer.reason, answer.text) == ("finalize", "")
        session.stop()
        assert isinstance(list(session)[-1], Stopped)


def test_a_change_of_options_that_found_no_connection_is_made_on_the_next(control_socket, fake_audio):
    def vanish(daemon):
        daemon.greet()
        daemon.connection.socket.shutdown(socket.SHUT_RDWR)

    with fake_audio(vanish, dictation) as daemons:
        with open_session(socket_path=control_socket, reconnect_s=60) as session:
            assert select.select([session], [], [], 60)[0]
            session.configure(prompt="names")
            session.stop()
            assert isinstance(list(session)[-1], Stopped)
        assert [op["op"] for op in daemons[-1].ops] == ["start", "configure", "stop"]


def test_a_lost_connection_is_resumed_and_nothing_is_missing_or_doubled(control_socket, fake_audio):
    pcm = bytes(range(32))
    with fake_audio(first_half, second_half) as daemons, open_session(socket_path=control_socket) as session:
        session.send(pcm)
        assert isinstance(session.receive(timeout_s=60), SpeechStart)
        told = session.receive(timeout_s=60)
        assert isinstance(told, Resumed)
        assert (told.position_s, told.again_bytes) == (0.0005, 16)
        session.stop()
        assert [type(event) for event in session] == [Final, Stopped]
        assert daemons[1].audio == pcm[16:]


def test_while_there_is_no_connection_audio_is_taken_and_polling_naps(control_socket, fake_audio):
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

    with fake_audio(vanish, revived) as daemons, open_session(socket_path=control_socket) as session:
        while not hidden.exists():
            time.sleep(0.01)
        for _ in range(3):
            assert select.select([session], [], [], 60)[0]  # as `sttctl listen` waits
            assert session.poll() == []
        session.send(bytes(640))
        session.stop()
        hidden.rename(path)
        assert [type(event) for event in session] == [Resumed, Stopped]
        assert len(daemons[1].audio) == 640


def test_a_session_that_the_daemon_has_no_longer_ends_with_what_was_lost(control_socket, fake_audio):
    with fake_audio(first_half, gone), open_session(socket_path=control_socket) as session:
        session.send(bytes(32))
        assert isinstance(session.receive(timeout_s=60), SpeechStart)
        with pytest.raises(ConnectionLostError, match="1006"):
            session.receive(timeout_s=60)
        with pytest.raises(ConnectionLostError):
            session.send(bytes(32))


def test_a_session_that_the_daemon_has_no_longer_is_begun_anew_where_asked_for(control_socket, fake_audio):
    with fake_audio(first_half, gone, dictation) as daemons:
        with open_session(socket_path=control_socket, reconnect_s=60) as session:
            session.send(bytes(32))
            assert isinstance(session.receive(timeout_s=60), SpeechStart)
            assert session.receive(timeout_s=60) == Reconnected(session="s1", lost_bytes=32)
            session.stop()
            assert isinstance(list(session)[-1], Stopped)
        assert [daemon.ops[0]["op"] for daemon in daemons] == ["start", "resume", "start"]


def test_an_older_daemon_is_asked_again_without_the_option(control_socket, fake_audio):
    with fake_audio(older) as daemons:
        with open_session(socket_path=control_socket, lang="en") as session:
            session.stop()
            assert isinstance(list(session)[-1], Stopped)
        assert daemons[0].ops[:2] == [{"op": "start", "lang": "en", "resumable": True}, {"op": "start", "lang": "en"}]


def test_a_session_that_was_left_has_ended(control_socket, fake_audio):
    with fake_audio(dictation):
        with open_session(socket_path=control_socket) as session:
            pass
        assert list(session) == []
        assert session.ended
        with pytest.raises(ConnectionLostError, match="ended"):
            session.finalize()


def test_what_is_not_to_be_resumed_is_not(control_socket, fake_audio):
    with fake_audio(first_half) as daemons, open_session(socket_path=control_socket, resumable=False) as session:
        session.send(bytes(32))
        with pytest.raises(ConnectionLostError, match="1006"):
            list(session)
        assert daemons[0].ops[0]["resumable"] is False
