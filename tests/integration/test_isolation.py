"""Models in processes of their own, in a running daemon: what speakers notice when one crashes, hangs or is killed.

Nothing, but that a final may be late: unless a test says otherwise each utterance has its final with all of its words.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.census import HEARD, NOISE, TOLD
from tests.running import PATIENCE_S, eventually, read_to_end, read_until, say, start

SPEAKERS = 10
KILLS = 5


def engines(daemon):
    """The processes that the daemon has started."""
    found = []
    for children in Path(f"/proc/{daemon.process.pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has ended
            found += map(int, children.read_text().split())
    return found


def utter(client, seconds=1):
    """One utterance; the events up to its final."""
    for _ in range(seconds):
        client.send(NOISE)
    say(client, "finalize")
    return read_until(client, "final")


def health(daemon):
    return daemon.call("status")["health"]


@pytest.fixture
def isolated(serve, tmp_path):
    """A daemon whose `fake` runs in a process, with these lines for it."""

    def started(lines="", *arguments):
        config = tmp_path / "sttd.toml"
        config.write_text(f"[models]\nmodel = 'fake'\n[engine]\nisolation = 'process'\n[presets.fake]\n{lines}\n")
        return serve("--tcp", "off", "--config", str(config), *arguments)

    return started


def test_an_engine_that_crashes_again_and_again_costs_ten_speakers_no_word(isolated):
    daemon = isolated("decode_ms = 50\nnum_workers = 2", "--set", "engine.spare_ttl_s=0")
    done, heard = threading.Event(), []

    def speak():
        with daemon.connect() as client:
            start(client, **TOLD)
            while not done.is_set():
                events = utter(client)
                assert [event for event in events if event["type"] == "error"] == []
                heard.append(events[-1]["text"])
            say(client, "stop")
            read_to_end(client)
            assert client.close_code == 1000

    with ThreadPoolExecutor(SPEAKERS) as threads:
        speakers = [threads.submit(speak) for _ in range(SPEAKERS)]
        try:
            for kill in range(KILLS):
                before = len(heard)
                eventually(lambda before=before: len(heard) >= before + SPEAKERS)
                (pid,) = engines(daemon)
                os.kill(pid, signal.SIGSEGV if kill % 2 else signal.SIGKILL)
                eventually(lambda kill=kill: health(daemon)["engine_restarts"] > kill)
        finally:
            done.set()
        for speaker in speakers:
            speaker.result(PATIENCE_S)
    assert set(heard) == {HEARD}
    assert health(daemon)["engine_restarts"] == KILLS
    assert "died" in health(daemon)["last_error"]
    assert "reason=SIGSEGV" in daemon.log()


def test_audio_that_crashes_the_engine_costs_its_utterance_and_nobody_else_s(isolated):
    daemon = isolated("fault = 'crash'\nfault_s = 3")
    with daemon.connect() as client, daemon.connect() as other:
        start(client, **TOLD)
        start(other, **TOLD)
        assert utter(other)[-1]["text"] == HEARD
        events = utter(client, seconds=4)
        assert [event["code"] for event in events if event["type"] == "error"] == ["decode_failed"]
        assert events[-1]["text"] == ""
        for speaker in (client, other):
            assert utter(speaker)[-1]["text"] == HEARD
    assert 2 <= health(daemon)["engine_restarts"] <= 3


def test_a_decode_that_hangs_is_told_in_time_and_the_daemon_stops_in_good_order(isolated):
    daemon = isolated("fault = 'hang'\nfault_s = 3", "--set", "scheduler.decode_timeout_s=6")
    with daemon.connect() as client:
        start(client, **TOLD)
        assert utter(client)[-1]["text"] == HEARD
        events = utter(client, seconds=4)
        assert [event["code"] for event in events if event["type"] == "error"] == ["decode_failed"]
        assert utter(client)[-1]["text"] == HEARD
        status = daemon.call("status")
        assert status["scheduler"]["in_flight"] == 0
        assert status["health"]["engine_restarts"] >= 2
        assert "did not answer" in status["health"]["last_error"]


@pytest.mark.slow
def test_an_engine_that_stands_still_once_costs_no_word(isolated):
    """As a driver may hang: its process is ended in time for a second try."""
    daemon = isolated("", "--set", "scheduler.decode_timeout_s=40", "--set", "engine.spare_ttl_s=0")
    with daemon.connect() as client:
        start(client, **TOLD)
        assert utter(client)[-1]["text"] == HEARD
        (engine,) = engines(daemon)
        os.kill(engine, signal.SIGSTOP)
        events = utter(client)
        assert [event for event in events if event["type"] == "error"] == []
        assert events[-1]["text"] == HEARD
        assert health(daemon)["engine_restarts"] == 1


def test_unload_ends_the_process_and_its_memory_was_counted(isolated):
    daemon = isolated("", "--set", "engine.spare_ttl_s=0")
    alone = daemon.call("status")["models"]["process_rss_bytes"]
    daemon.call("load", preset="fake")
    (pid,) = engines(daemon)
    assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) >= 500
    loaded = daemon.call("status")["models"]["process_rss_bytes"]
    assert loaded > alone + 20e6, "an interpreter with numpy takes more"
    assert daemon.call("unload")["process_rss_bytes"] < loaded - 20e6
    assert engines(daemon) == []


def test_a_spare_is_kept_and_is_the_next_that_loads(isolated):
    daemon = isolated()
    daemon.call("load", preset="fake")
    eventually(lambda: len(engines(daemon)) == 2)
    spare = max(engines(daemon))
    daemon.call("unload")
    daemon.call("load", preset="fake")
    assert spare in engines(daemon)
    os.kill(spare, signal.SIGKILL)  # with nobody speaking
    eventually(lambda: health(daemon)["engine_restarts"] == 1)
    with daemon.connect() as client:
        start(client, **TOLD)
        assert utter(client)[-1]["text"] == HEARD


def test_an_engine_that_dies_while_no_descriptor_is_left_comes_back_once_there_are(isolated):
    daemon = isolated("", "--set", "engine.spare_ttl_s=0")
    with daemon.connect() as client:
        start(client, **TOLD)
        assert utter(client)[-1]["text"] == HEARD
        pid = daemon.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        (engine,) = engines(daemon)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (10, before[1]))
        os.kill(engine, signal.SIGKILL)
        client.send(NOISE)
        say(client, "finalize")
        eventually(lambda: "engine died" in daemon.log())
        time.sleep(0.2)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        events = read_until(client, "final")
        assert events[-1]["text"] == HEARD
        assert [event for event in events if event["type"] == "error"] == []


def test_a_killed_daemon_leaves_no_process(isolated):
    daemon = isolated("decode_ms = 3600000")
    daemon.expected_status = -signal.SIGKILL
    with daemon.connect() as client:
        start(client, **TOLD)
        client.send(NOISE)
        say(client, "finalize")
        eventually(lambda: daemon.call("status")["scheduler"]["in_flight"])
        left = engines(daemon)
        assert left
        daemon.process.kill()
        eventually(lambda: not any(map(_is_there, left)))


def _is_there(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
