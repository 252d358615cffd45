"""The blocking session, against scripted daemons on real sockets."""

import select
import socket
import time

import pytest
from sttd_client.addresses import ConnectionLostError
from sttd_client.events import Reconnected, Resumed, Stopped
from sttd_client.session import open_session

from tests.unit.clients.scripts import dictation


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
