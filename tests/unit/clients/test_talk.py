"""The client's half of a session, against wsproto's server side: whatever the daemon says, however it is cut."""

import itertools
from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
from hypothesis import given
from sttd_client.addresses import ConnectionLostError
from sttd_client.connection import AudioConnection
from sttd_client.events import Final, SpeechStart, Started
from sttd_client.resuming import Phase
from sttd_client.talk import Talk
from wsproto import events as ws

from sttd.errors import OverloadedError, ProtocolError
from sttd.wire.messages import Finalize, Start, Stop, parse_client
from tests.unit.clients.test_connection import HELLO, STOPPED, Server

STARTED = {"type": "started", "session": "s1", "sample_rate": 16000, "resume_token": "t1"}
SPEECH_START = {"type": "speech_start", "utterance": 1, "at_s": 0.1, "event_seq": 1}


class Meeting:
    """A talk, and the daemon's end of its connection."""

    def __init__(self, **start):
        self.talk = Talk(Start(**start), reconnect_s=0.0, chance=lambda: 0.5)
        self.opening = self.talk.opening(AudioConnection())
        self.server = Server(SimpleNamespace(open=self.opening.begin))
        self.said = []
        self.upgrade = self.server.accept()

    def open(self, *answers, cuts=()):
        """Say the first thing, and once that was taken the rest, in pieces that end where `cuts` says."""
        hello, rest = self.upgrade + b"".join(answers[:1]), b"".join(answers[1:])
        self.note(self.opening.receive(hello, 0.0))
        for begin, end in itertools.pairwise([0, *(cut for cut in cuts if cut < len(rest)), len(rest)]):
            self.note(self.opening.receive(rest[begin:end], 0.0) if begin < end else b"")
        if self.opening.done:
            self.talk.opened(self.opening, 0.0)
            self.note(self.talk.reply())

    def note(self, data):
        """What the client sent."""
        for event in self.server.heard(data):
            self.said.append(parse_client(event.data) if isinstance(event, ws.TextMessage) else event)

    def write(self):
        while (message := self.talk.message()) is not None:
            self.note(message)


def test_a_lost_connection_is_followed_by_one_that_names_its_place():
    one = Meeting()
    assert one.server.request.target == "/ws"
    one.upgrade = one.upgrade.replace(b"\r\n\r\n", b"\r\nSet-Cookie: sttd=b; path=/\r\n\r\n")
    one.open(one.server.text(HELLO), one.server.text(STARTED))
    one.talk.receive(b"", 1.0)
    again = Server(SimpleNamespace(open=one.talk.opening(AudioConnection()).begin)).request
    assert (again.target, dict(again.extra_headers)[b"cookie"]) == ("/ws?resume", b"sttd=b")


def test_one_thing_is_said_after_the_other():
    one = Meeting(lang="en")
    one.open(one.server.text(HELLO))
    assert one.said == [Start(lang="en", resumable=True)]
    assert not one.opening.done
    one.note(one.opening.receive(one.server.text(STARTED), 0.0))
    assert one.opening.done


@given(st.data())
def test_an_opening_is_the_same_however_its_bytes_are_cut(data):
    one = Meeting()
    parts = [
        one.server.text(HELLO),
        one.server.ws.send(ws.Ping()),
        one.server.text(STARTED),
        one.server.text(SPEECH_START),
    ]
    cuts = sorted(data.draw(st.lists(st.integers(0, 400), max_size=5)))
    one.open(*parts, cuts=cuts)
    assert one.opening.done
    assert one.talk.started == Started(session="s1", sample_rate=16000, resume_token="t1")
    assert [type(event) for event in one.talk.resuming.inbox.take_all()] == [SpeechStart]
    assert sorted(type(said).__name__ for said in one.said) == ["Pong", "Start"]


@pytest.mark.parametrize(
    ("parts", "error", "words"),
    [
        ([STARTED], ConnectionLostError, "where `hello` was due"),
        ([HELLO, HELLO], ConnectionLostError, "where the answer to a start was due"),
        ([HELLO, {"type": "error", "code": "overloaded", "message": "no", "fatal": True}], OverloadedError, "no"),
        ([HELLO, {"type": "error", "code": "bad_option", "message": "`x`", "fatal": False}], ProtocolError, "`x`"),
    ],
)
def test_what_the_daemon_has_against_it_is_raised(parts, error, words):
    one = Meeting()
    with pytest.raises(error, match=words):
        one.open(*(one.server.text(part) for part in parts))


@pytest.mark.parametrize("parts", [[], [HELLO]])
def test_a_connection_that_ends_before_the_answer_is_lost(parts):
    one = Meeting()
    one.open(*(one.server.text(part) for part in parts))
    with pytest.raises(ConnectionLostError):
        one.opening.receive(b"", 0.0)


def test_what_was_said_is_written_in_order_and_events_come_out():
    one = Meeting()
    one.open(one.server.text(HELLO), one.server.text(STARTED))
    one.talk.resuming.audio(b"\1\0")
    one.talk.resuming.say(Finalize())
    assert not one.talk.is_written()
    one.write()
    one.talk.resuming.say(Stop())
    one.write()
    assert one.talk.is_written()
    assert [type(said).__name__ for said in one.said] == ["Start", "BytesMessage", "Finalize", "Stop"]
    final = {"type": "final", "utterance": 1, "text": "x", "start_s": 0, "end_s": 1, "reason": "finalize"}
    one.talk.receive(one.server.text(final) + one.server.text(STOPPED), 1.0)
    assert isinstance(one.talk.resuming.inbox.get(), Final)
    one.talk.receive(one.server.close(1000), 1.0)
    one.note(one.talk.reply())
    assert isinstance(one.said[-1], ws.CloseConnection)
    assert one.talk.goes_on() is False
    assert one.talk.farewell() == b""
    with pytest.raises(ConnectionLostError, match="ended"):
        one.talk.check()


def test_who_breaks_the_protocol_is_not_asked_again():
    one = Meeting()
    one.open(one.server.text(HELLO), one.server.text(STARTED))
    one.talk.receive(one.server.text({"type": "final"}), 1.0)
    assert one.talk.resuming.phase is Phase.OVER
    with pytest.raises(ProtocolError, match="utterance"):
        one.talk.goes_on()


def test_who_leaves_says_so_once():
    one = Meeting()
    one.open(one.server.text(HELLO), one.server.text(STARTED))
    one.note(one.talk.farewell())
    assert isinstance(one.said[-1], ws.CloseConnection)
    assert one.talk.farewell() == b""
    assert one.talk.message() is None
