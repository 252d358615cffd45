"""Connections lost: what a session is told after any number of them is what it would have been told without.

The client here knows `websockets` and the page of the reference alone.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import attrs
import numpy as np
import pytest

from tests.running import (
    PATIENCE_S,
    ControlLine,
    RunningDaemon,
    check_promises,
    eventually,
    free_port,
    read_pcm,
    read_to_end,
    read_until,
    say,
    start,
    transcribe,
)

ROOT = Path(__file__).parents[2]
SECOND = np.random.default_rng(1).integers(-3000, 3000, 16_000).astype("<i2").tobytes()
OF_CONNECTION = {"hello", "started", "resumed", "ack"}


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    daemon = RunningDaemon.start(tmp_path_factory.mktemp("fake"), "--tcp", "off", "--model", "fake")
    yield daemon
    assert daemon.stop() == 0


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    daemon = RunningDaemon.start(tmp_path_factory.mktemp("demo"), "--tcp", "off", "--model", "demo")
    yield daemon
    assert daemon.stop() == 0


def connected(daemon):
    """A connection that lasts as long as a test wants."""
    return contextlib.ExitStack().enter_context(daemon.connect())


def cut(client):
    """The connection is gone, without a close frame."""
    with contextlib.suppress(OSError):
        client.socket.shutdown(socket.SHUT_RDWR)
    client.close_socket()


@attrs.define(eq=False)
class Speaker:
    """A client that resumes: it keeps all that it says, and sends again what was not taken.

    `script` has pieces of audio and ops, in the order in which they are said.
    """

    daemon: RunningDaemon
    script: list
    sample_bytes: int = 2
    rate: int = 16_000
    events: list = attrs.field(factory=list)  # of the session, each once
    acks: list = attrs.field(factory=list)
    token: str = ""
    client: object = None
    said: int = 0  # items of the script
    resumed: dict | None = None

    @property
    def last_seq(self):
        return self.events[-1]["event_seq"] if self.events else 0

    def begin(self, **options):
        self.client = connected(self.daemon)
        started = start(self.client, resumable=True, **options)
        assert "event_seq" not in started
        self.token = started["resume_token"]
        return started

    def say_on(self, count):
        """The next items of the script."""
        for item in self.script[self.said : self.said + count]:
            self._send(item)
            self.said += 1

    def _send(self, item):
        self.client.send(item if isinstance(item, bytes) else json.dumps(item))

    def hear(self, message):
        event = json.loads(message)
        if event["type"] == "ack":
            self.acks.append(event)
        elif event["type"] not in OF_CONNECTION:
            assert event["event_seq"] == self.last_seq + 1, "an event is missing, or told twice"
            self.events.append(event)
        return event

    def hear_until(self, kind):
        while self.hear(self.client.recv(timeout=PATIENCE_S))["type"] != kind:
            pass

    def hear_what_came(self):
        with contextlib.suppress(TimeoutError):
            while True:
                self.hear(self.client.recv(timeout=0))

    def cut(self, rest=b""):
        """Lose the connection; `rest` is what of the next message is still sent."""
        self.hear_what_came()
        if rest:
            self.client.socket.sendall(rest)
        cut(self.client)

    def resume(self, *, token=None, last_seq=None):
        self.client = connected(self.daemon)
        assert json.loads(self.client.recv(timeout=PATIENCE_S))["type"] == "hello"
        last_seq = self.last_seq if last_seq is None else last_seq
        say(self.client, "resume", token=token or self.token, last_seq=last_seq)
        answer = json.loads(self.client.recv(timeout=PATIENCE_S))
        if answer["type"] == "resumed":
            self.token, self.resumed = answer["resume_token"], answer
            self._send_again(taken=round(answer["position_s"] * self.rate) * self.sample_bytes, ops=answer["ops"])
        return answer

    def _send_again(self, *, taken, ops):
        """What was said and not taken."""
        for item in self.script[: self.said]:
            if not isinstance(item, bytes):
                ops -= 1
                if ops < 0:
                    self._send(item)
                continue
            if taken < len(item):
                self._send(item[taken:])
            taken = max(0, taken - len(item))

    def end(self):
        """Say the rest and `stop`, and hear everything."""
        self.script.append({"op": "stop"})
        self.say_on(len(self.script))
        self.hear_until("stopped")
        with contextlib.suppress(Exception):
            self.client.recv(timeout=PATIENCE_S)
        return self.client.close_code


def texts(events):
    return [(e["utterance"], e["text"], e["start_s"], e["end_s"], e["reason"]) for e in events if e["type"] == "final"]


def frame(payload):
    """A binary message as a client frames it."""
    assert 126 <= len(payload) < 65536
    return b"\x82\xfe" + struct.pack(">H", len(payload)) + bytes(4) + payload


def pieces(pcm, size=6400):
    return [pcm[at : at + size] for at in range(0, len(pcm), size)]


def rows(daemon):
    return daemon.call("sessions")["sessions"]


# ---------------------------------------------------------------- what it is told


def test_a_session_that_is_never_cut_has_numbers_acks_and_the_same_text(fake):
    script = [*pieces(SECOND), {"op": "finalize"}] * 3
    speaker = Speaker(fake, list(script))
    assert speaker.begin(endpointing=False)["resumable"] is True
    assert speaker.end() == 1000
    check_promises(speaker.events)
    assert [event["event_seq"] for event in speaker.events] == list(range(1, len(speaker.events) + 1))
    positions = [ack["position_s"] for ack in speaker.acks]
    assert positions == sorted(positions)
    assert np.max(np.diff([0, *positions])) <= 1.0
    assert positions[-1] > 2.0
    with fake.connect() as client:
        start(client, endpointing=False)
        for item in script:
            client.send(item if isinstance(item, bytes) else json.dumps(item))
        say(client, "stop")
        plain = read_to_end(client)
    assert texts(plain) == texts(speaker.events)
    assert not any("event_seq" in event for event in plain)
    eventually(lambda: not rows(fake))


def test_after_a_cut_between_messages_it_goes_on(fake):
    speaker = Speaker(fake, [SECOND, {"op": "finalize"}, SECOND, {"op": "finalize"}])
    speaker.begin(endpointing=False)
    speaker.say_on(2)
    speaker.hear_until("final")
    speaker.cut()
    eventually(lambda: [row["state"] for row in rows(fake)] == ["asleep"])
    assert speaker.resume()["type"] == "resumed"
    assert (speaker.resumed["position_s"], speaker.resumed["ops"]) == (1.0, 1)
    assert [row["state"] for row in rows(fake)] != ["asleep"]
    assert speaker.end() == 1000
    check_promises(speaker.events)
    assert [text[1] for text in texts(speaker.events)] == ["w1 w2 w3"] * 2


@pytest.mark.parametrize("rest", [frame(bytes(2000))[:1500], frame(bytes(2000))[:3], frame(SECOND[:2001])])
def test_what_was_cut_off_inside_a_message_or_a_sample_is_sent_again(fake, rest):
    speaker = Speaker(fake, [SECOND, SECOND, {"op": "finalize"}])
    speaker.begin(endpointing=False)
    speaker.say_on(1)
    speaker.hear_until("ack")
    speaker.cut(rest)
    speaker.said = 2
    speaker.resume()
    assert speaker.resumed["position_s"] in (1.0, 1.0 + 1000 / 16_000)
    assert speaker.end() == 1000
    assert speaker.events[-1]["audio_s"] == 2.0


def test_a_client_that_saw_nothing_is_told_everything(fake):
    speaker = Speaker(fake, [SECOND, {"op": "finalize"}])
    speaker.begin(endpointing=False)
    speaker.say_on(2)
    speaker.hear_until("final")
    speaker.cut()
    seen, speaker.events = speaker.events, []
    speaker.resume(last_seq=0)
    speaker.end()
    assert speaker.events[: len(seen)] == seen


def test_after_stop_the_rest_is_told_to_who_comes_back(fake):
    speaker = Speaker(fake, [SECOND * 3, {"op": "stop"}])
    speaker.begin(endpointing=False)
    speaker.say_on(2)
    cut(speaker.client)
    eventually(lambda: [row["state"] for row in rows(fake)] == ["asleep"])
    speaker.resume()
    assert (speaker.resumed["position_s"], speaker.resumed["ops"]) == (3.0, 1)
    speaker.hear_until("stopped")
    check_promises(speaker.events)
    assert [text[-1] for text in texts(speaker.events)] == ["stop"]


def random_cuts(speaker, *, seed, cuts, **options):
    """Say the whole script, losing the connection at `cuts` random moments."""
    chance = random.Random(seed)
    speaker.begin(**options)
    for at in sorted(chance.sample(range(1, len(speaker.script)), cuts)):
        speaker.say_on(at - speaker.said)
        if chance.random() < 0.5:
            time.sleep(chance.random() * 0.1)
        following = speaker.script[at] if isinstance(speaker.script[at], bytes) else SECOND[:6400]
        speaker.cut(frame(following)[: chance.randrange(1, len(following))] if chance.random() < 0.5 else b"")
        assert speaker.resume()["type"] == "resumed"
    return speaker.end()


def test_texts_are_the_same_after_cuts_at_random_moments(fake):
    script = [
        item
        for number in range(8)
        for item in (
            *pieces(SECOND, 4000),
            {"op": "configure", "lang": "de" if number % 2 else "en"},
            {"op": "finalize"},
        )
    ]
    whole = Speaker(fake, list(script))
    whole.begin(endpointing=False)
    whole.end()
    for seed in range(4):
        speaker = Speaker(fake, list(script))
        assert random_cuts(speaker, seed=seed, cuts=10, endpointing=False) == 1000
        check_promises(speaker.events)
        assert texts(speaker.events) == texts(whole.events), f"seed {seed}"


def test_real_speech_has_the_same_text_after_cuts_at_random_moments(demo):
    pcm = read_pcm(ROOT / "tests" / "data" / "date.flac") + bytes(48_000)
    pcm = pcm * 2
    expected = texts(transcribe(demo, pcm, lang="en"))
    assert len(expected) >= 2
    speaker = Speaker(demo, pieces(pcm, 5000))
    random_cuts(speaker, seed=0, cuts=8, lang="en")
    check_promises(speaker.events)
    assert texts(speaker.events) == expected


# ---------------------------------------------------------------- tokens


def test_a_token_is_good_once(fake):
    speaker = Speaker(fake, [SECOND, {"op": "finalize"}])
    speaker.begin(endpointing=False)
    first = speaker.token
    speaker.say_on(1)
    speaker.cut()
    speaker.resume()
    speaker.say_on(1)
    speaker.hear_until("final")
    other = Speaker(fake, [], token=first)
    refused = other.resume()
    assert (refused["type"], refused["code"], refused["fatal"]) == ("error", "not_found", True)
    assert read_to_end(other.client) == []
    assert other.client.close_code == 1008
    assert speaker.end() == 1000  # and it was not disturbed
    again = Speaker(fake, [], token=speaker.token)
    assert again.resume()["message"] == refused["message"]  # what is over, and what was never there, is told the same
    assert Speaker(fake, [], token="x" * 43).resume()["message"] == refused["message"]


def test_events_that_never_were_cannot_have_been_seen(fake):
    speaker = Speaker(fake, [SECOND, {"op": "finalize"}])
    speaker.begin(endpointing=False)
    speaker.cut()
    refused = speaker.resume(last_seq=7)
    assert (refused["code"], refused["data"]) == ("bad_option", {"field": "last_seq"})
    say(speaker.client, "resume", token=speaker.token, last_seq=0)  # nothing of it took effect: the token is good
    resumed = json.loads(speaker.client.recv(timeout=PATIENCE_S))
    assert resumed["type"] == "resumed"
    assert speaker.end() == 1000


def test_whoever_resumes_has_the_session_though_the_old_connection_seems_to_live(fake):
    speaker = Speaker(fake, [SECOND, {"op": "finalize"}, SECOND, {"op": "finalize"}])
    speaker.begin(endpointing=False)
    speaker.say_on(2)
    speaker.hear_until("final")
    old = speaker.client
    assert speaker.resume()["type"] == "resumed"
    assert [event for event in read_to_end(old) if event["type"] != "ack"] == []
    assert (old.close_code, old.close_reason) == (1008, "resumed")
    assert speaker.end() == 1000
    check_promises(speaker.events)


def test_a_second_start_or_resume_on_a_connection_is_refused(fake):
    speaker = Speaker(fake, [])
    speaker.begin()
    say(speaker.client, "resume", token=speaker.token, last_seq=0)
    speaker.hear_until("error")
    assert (speaker.events[0]["code"], speaker.events[0]["event_seq"]) == ("already_started", 1)
    assert speaker.end() == 1000


# ---------------------------------------------------------------- how it ends


@pytest.fixture(scope="module")
def hasty(tmp_path_factory):
    daemon = RunningDaemon.start(
        tmp_path_factory.mktemp("hasty"), "--tcp", "off", "--model", "fake",
        "--set", "limits.resume_s=0.5",
    )  # fmt: skip
    yield daemon
    assert daemon.stop() == 0


def test_who_does_not_come_back_in_time_has_lost_it_and_subscribers_get_the_finals(hasty):
    with ControlLine(hasty) as line:
        line.call("subscribe", topics=["transcripts", "sessions"])
        speaker = Speaker(hasty, [SECOND])
        started = speaker.begin(endpointing=False)
        speaker.say_on(1)
        speaker.hear_until("speech_start")
        speaker.cut()
        events = [line.event() for _ in range(3)]
    assert [event["event"] for event in events] == ["opened", "final", "closed"]
    assert (events[1]["session"], events[1]["reason"]) == (started["session"], "disconnect")
    assert events[1]["text"] == "w1 w2 w3"
    assert speaker.resume()["code"] == "not_found"


def test_sleeping_sessions_count_as_sessions_of_their_user(serve):
    daemon = serve("--tcp", "off", "--model", "fake", "--set", "limits.sessions_per_uid=2")
    for speaker in (Speaker(daemon, []), Speaker(daemon, [])):
        speaker.begin()
        cut(speaker.client)
    eventually(lambda: [row["state"] for row in rows(daemon)] == ["asleep"] * 2)
    with daemon.connect() as client:
        read_until(client, "hello")
        say(client, "start")
        assert json.loads(client.recv(timeout=PATIENCE_S))["code"] == "overloaded"
    for row in rows(daemon):
        daemon.call("close_session", session=row["session"], drain=False)


@pytest.mark.parametrize("drain", [True, False])
def test_a_sleeping_session_can_be_closed(fake, drain):
    speaker = Speaker(fake, [SECOND])
    started = speaker.begin(endpointing=False)
    speaker.say_on(1)
    speaker.hear_until("speech_start")
    speaker.cut()
    eventually(lambda: [row["state"] for row in rows(fake)] == ["asleep"])
    with ControlLine(fake) as line:
        line.call("subscribe", topics=["transcripts"])
        line.call("close_session", session=started["session"], drain=drain)
        assert line.event()["reason"] == "drain"
    if drain:
        speaker.resume()
        speaker.hear_until("stopped")
        check_promises(speaker.events)
    else:
        eventually(lambda: not rows(fake))
        assert speaker.resume()["code"] == "not_found"


def test_a_drain_waits_for_who_lost_its_connection_and_a_new_daemon_knows_no_token(tmp_path):
    daemon = RunningDaemon.start(
        tmp_path / "d", "--tcp", "off", "--model", "fake", "--set", "server.drain_s=120", "--set", "limits.resume_s=120"
    )
    speaker = Speaker(daemon, [SECOND])
    speaker.begin(endpointing=False)
    speaker.say_on(1)
    speaker.hear_until("speech_start")
    speaker.cut()
    eventually(lambda: [row["state"] for row in rows(daemon)] == ["asleep"])
    daemon.terminate()
    eventually(lambda: daemon.call("status")["server"]["state"] == "draining")
    with daemon.connect() as stranger:
        read_until(stranger, "hello")
        say(stranger, "start")
        assert json.loads(stranger.recv(timeout=PATIENCE_S))["code"] == "shutting_down"
    assert speaker.resume()["type"] == "resumed"
    speaker.hear_until("stopped")
    check_promises(speaker.events)
    assert [(text[1], text[-1]) for text in texts(speaker.events)] == [("w1 w2 w3", "drain")]
    assert read_to_end(speaker.client) == []
    assert speaker.client.close_code == 1001
    assert daemon.stop() == 0
    daemon = RunningDaemon.start(tmp_path / "d", "--tcp", "off", "--model", "fake")
    speaker.daemon = daemon
    refused = speaker.resume()
    assert (refused["code"], refused["message"][:10]) == ("not_found", "start anew")
    assert daemon.stop() == 0


# ---------------------------------------------------------------- the page for authors of clients


def forward(source, target, most_bytes):
    """Pass bytes on until so many have passed, then cut both ends."""
    with contextlib.suppress(OSError):
        while most_bytes > 0 and (data := source.recv(min(4096, most_bytes))):
            target.sendall(data)
            most_bytes -= len(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def test_the_client_of_the_how_to_loses_its_connection_and_nothing_else(tmp_path):
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/how-to/resume.md").read_text(), re.DOTALL)
    port = free_port()
    daemon = RunningDaemon.start(tmp_path / "d", "--tcp", f"127.0.0.1:{port}", "--model", "fake")
    pcm = read_pcm(ROOT / "tests" / "data" / "date.flac") + bytes(48_000)
    expected = [text[1] for text in texts(transcribe(daemon, pcm, lang="en"))]
    cuts = 0
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            nonlocal cuts
            for most_bytes in (40_000, 60_000, 1 << 40):
                client, _ = server.accept()
                upstream = socket.create_connection(("127.0.0.1", port))
                down = threading.Thread(target=forward, args=(upstream, client, 1 << 40), daemon=True)
                down.start()
                forward(client, upstream, most_bytes)
                down.join()
                cuts += 1
                client.close()
                upstream.close()

        proxy = threading.Thread(target=serve, daemon=True)
        proxy.start()
        program = program.replace("7788", str(server.getsockname()[1]))
        done = subprocess.run([sys.executable, "-c", program], input=pcm, capture_output=True, timeout=PATIENCE_S)
        proxy.join(PATIENCE_S)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().splitlines() == expected
    assert cuts == 3
    assert daemon.call("status")["sessions"]["total"] == 2
    assert daemon.stop() == 0
