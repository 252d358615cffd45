"""What sttd promises holds by whichever wire a client came: one suite over all of them.

The clients are the shortest that the wires allow (benchmarks/wires.py); each adapter's own file has the real client
packages. The model is `fake`: n seconds are heard as n / 0.3 words, `w1 w2 …`, so that a lost word is seen.
"""

import contextlib
import re
import threading
import time
import urllib.request

import attrs
import pytest
from websockets.exceptions import InvalidStatus

from benchmarks.wires import WIRES, Places, RefusedError, upload
from tests.running import RunningDaemon, free_port

SPOKEN_S = 3.0
PCM = b"\x10\x00\xf0\xff" * int(SPOKEN_S * 8000)
WORDS = [f"w{number}" for number in range(1, 11)]
PATIENCE_S = 60.0  # a limit for machines that are busy; nothing here takes that long


@attrs.frozen
class Running:
    daemon: RunningDaemon
    places: Places

    def sessions(self):
        return self.daemon.call("sessions")["sessions"]

    def wait(self, holds):
        """Until it holds; an event of another process cannot be waited for otherwise."""
        deadline = time.monotonic() + PATIENCE_S
        while not (result := holds()):
            assert time.monotonic() < deadline, self.sessions()
            time.sleep(0.02)
        return result


@contextlib.contextmanager
def running(directory, *arguments, key="", headers=None, decode_ms=0):
    places = Places(port=free_port(), wyoming=free_port(), key=key, headers=headers or {})
    daemon = RunningDaemon.start(
        directory,
        "--model",
        "fake",
        "--tcp",
        f"127.0.0.1:{places.port}",
        "--set",
        f'server.wyoming=["127.0.0.1:{places.wyoming}"]',
        "--set",
        f"presets.fake.decode_ms={decode_ms}",
        *arguments,
    )
    try:
        yield Running(daemon, places)
    finally:
        daemon.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with running(tmp_path_factory.mktemp("adapters") / "run") as found:
        yield found


@pytest.mark.parametrize("name", WIRES)
def test_the_last_word_is_there_and_every_utterance_has_its_own_text(shared, name):
    with WIRES[name](shared.places) as wire:
        for _ in range(2):
            wire.send(PCM)
            assert wire.end().split() == WORDS


@pytest.mark.parametrize("name", [name for name in WIRES if name != "openai"])  # there so little audio is an error
def test_silence_is_answered_too(shared, name):
    with WIRES[name](shared.places) as wire:
        wire.send(b"\x10\x00" * 1600)  # too short for a word, and as much as may be committed
        assert wire.end() == ""
        wire.send(PCM)
        assert wire.end().split() == WORDS


@pytest.mark.parametrize("name", ["realtime", "wyoming"])
def test_what_was_shown_is_the_text_to_the_character(tmp_path, name):
    with running(tmp_path / "run", "--set", "interim.interim_min_ms=100") as found, WIRES[name](found.places) as wire:
        for _ in range(10):  # so that there is something to be shown before the end
            wire.send(PCM[: len(PCM) // 10])
            time.sleep(0.15)
        text = wire.end()
        assert text.split() == WORDS
        assert wire.deltas == text


@pytest.mark.parametrize("name", WIRES)
def test_sessions_and_metrics_say_by_which_wire_a_session_came(shared, name):
    def metric(metric):
        url = f"http://127.0.0.1:{shared.places.port}/metrics"
        page = urllib.request.urlopen(url, timeout=PATIENCE_S).read().decode()
        return float(re.search(rf'{metric}{{api="{name}"}} (\S+)', page)[1])

    if name == "openai":
        with WIRES[name](shared.places) as wire:
            wire.send(PCM)
            wire.end()
    else:
        with WIRES[name](shared.places) as wire:
            wire.send(PCM)
            (row,) = shared.wait(lambda: [row for row in shared.sessions() if row["api"] == name])
            assert name == "sttd" or row["label"].split()[0] == name
            assert metric("sttd_sessions_by_api") >= 1
            wire.end()
    assert metric("sttd_sessions_opened_total") >= 1


@pytest.mark.parametrize("name", WIRES)
def test_a_client_that_vanishes_leaves_nothing_behind(tmp_path, name):
    with running(tmp_path / "run", decode_ms=200) as found:
        with WIRES["sttd"](found.places) as neighbour:
            neighbour.send(PCM)
            wire = WIRES[name](found.places).__enter__()
            wire.send(PCM)
            if name == "openai":
                wire.ask()
            found.wait(lambda: len(found.sessions()) == 2)
            wire.drop()
            found.wait(lambda: len(found.sessions()) == 1)
            assert neighbour.end().split() == WORDS
        found.wait(lambda: not found.sessions())
        assert found.daemon.call("status")["health"]["last_error"] is None


@pytest.mark.parametrize("name", WIRES)
def test_overload_is_said_before_any_work(tmp_path, name):
    with running(tmp_path / "run", "--set", "limits.sessions=1") as found, WIRES["sttd"](found.places) as first:
        first.send(PCM)
        with pytest.raises((RefusedError, InvalidStatus), match=r"overloaded|503"):
            upload(name, found.places, PCM)
        assert first.end().split() == WORDS


@pytest.mark.parametrize("name", [name for name in WIRES if name != "openai"])
def test_what_was_said_when_the_daemon_is_stopped_gets_its_text(tmp_path, name):
    with running(tmp_path / "run", decode_ms=200) as found, WIRES[name](found.places) as wire:
        wire.send(PCM)
        found.wait(lambda: any(row["audio_s"] >= SPOKEN_S for row in found.sessions()))
        found.daemon.terminate()
        assert wire.end().split() == WORDS


def test_an_upload_that_is_not_done_when_the_daemon_stops_is_refused_and_never_half(tmp_path):
    with running(tmp_path / "run", "--set", "server.drain_s=0.2", decode_ms=3000) as found:
        with WIRES["openai"](found.places) as wire:
            wire.send(PCM)
            said = []

            def ask():
                try:
                    said.append(wire.end())
                except RefusedError as error:
                    said.append(error)

            asking = threading.Thread(target=ask)
            asking.start()
            found.wait(found.sessions)
            found.daemon.terminate()
            asking.join(PATIENCE_S)
        (answer,) = said
        assert isinstance(answer, RefusedError)
        assert str(answer) == "shutting_down"


@pytest.mark.parametrize("name", [name for name in WIRES if name != "wyoming"])
def test_a_token_must_be_shown_and_a_foreign_page_is_refused(tmp_path, name):
    with running(tmp_path / "run", "--set", "server.token=s3cret") as found:
        shown = attrs.evolve(found.places, key="s3cret")
        assert upload(name, shown, PCM).split() == WORDS
        for places in (found.places, attrs.evolve(found.places, key="other")):
            with pytest.raises((RefusedError, InvalidStatus), match=r"401|invalid_api_key"):
                upload(name, places, PCM)
        with pytest.raises((RefusedError, InvalidStatus), match=r"403|forbidden"):
            upload(name, attrs.evolve(shown, headers={"Origin": "https://evil.example"}), PCM)
