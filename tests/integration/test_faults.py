"""What becomes of what was said when something fails: a row each of the table in docs/explanation/faults.md.

Every fault is made to happen on a running daemon while somebody speaks. Unless a row says otherwise nothing is lost:
each utterance has its final with all of its words.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from sttd_client import Final, Reconnected, blocking

from tests.census import HEARD, NOISE, TOLD
from tests.running import PATIENCE_S, ControlLine, eventually, read_to_end, read_until, say, start


def utter(client):
    """One utterance, and its final."""
    client.send(NOISE)
    say(client, "finalize")
    return read_until(client, "final")[-1]


@contextmanager
def speaker(daemon, **options):
    """Somebody who has said something before and says something after; what comes between is the test."""
    with daemon.connect() as client:
        start(client, **TOLD, **options)
        assert utter(client)["text"] == HEARD
        yield client
        assert utter(client)["text"] == HEARD
        say(client, "stop")
        events = read_to_end(client)
        assert events[-1]["type"] == "stopped"
        assert client.close_code == 1000


@pytest.fixture
def config(tmp_path):
    """A configuration that a test may change."""

    class Config:
        path = tmp_path / "sttd.toml"

        def write(self, **presets):
            tables = [f"[presets.{name}]\nbackend = 'fake'\nmodel = 'x'\n{lines}\n" for name, lines in presets.items()]
            self.path.write_text("[models]\nmodel = 'fake'\n" + "\n".join(tables))

    return Config()


# ---------------------------------------------------------------- clients


def test_a_client_that_vanishes_in_an_utterance_has_its_final_with_who_listens(serve):
    daemon = serve("--tcp", "off", "--model", "fake")
    with ControlLine(daemon) as line, speaker(daemon):
        line.call("subscribe", topics=["transcripts"])
        with daemon.connect() as client:
            start(client, **TOLD)
            client.send(NOISE)
            eventually(lambda: any(row["state"] == "speaking" for row in line.call("sessions")["sessions"]))
            client.socket.shutdown(socket.SHUT_RDWR)
        event = line.event()
        assert (event["event"], event["reason"], event["text"]) == ("final", "disconnect", HEARD)
        eventually(lambda: line.call("status")["sessions"]["active"] == 1)


@contextmanager
def standing_still(daemon):
    """What comes meanwhile lies before it when it goes on."""
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        daemon.process.send_signal(signal.SIGCONT)


def leave_at_once(client):
    """Say goodbye and go, as a program that ends: nothing more can be written to it."""
    client.protocol.send_close(1000)
    client.socket.sendall(b"".join(client.protocol.data_to_send()))
    client.socket.shutdown(socket.SHUT_RDWR)


def test_what_was_said_last_is_heard_where_nothing_can_be_told_to_who_said_it(serve):
    daemon = serve("--tcp", "off", "--model", "fake")
    with ControlLine(daemon) as line, speaker(daemon):
        line.call("subscribe", topics=["transcripts"])
        with daemon.connect() as client:
            start(client, **{**TOLD, "words": True, "interim": True})
            with standing_still(daemon):
                for text in ("wrong", "more that has to be answered"):
                    client.send(text)
                client.send(NOISE)
                say(client, "stop")
                leave_at_once(client)
        event = line.event()
        assert (event["event"], event["reason"], event["text"]) == ("final", "stop", HEARD)


def test_who_leaves_a_resumable_session_has_left_it_where_nothing_can_be_told_to_him(serve):
    """Else it is kept for him, and counts as one of his, for as long as it could be resumed."""
    daemon = serve("--tcp", "off", "--model", "fake", "--set", "limits.resume_s=3600")
    with speaker(daemon), daemon.connect() as client:
        start(client, **TOLD, resumable=True)
        with standing_still(daemon):
            for _ in range(3):
                client.send(bytes(32_000))  # a second each, which is acknowledged
            leave_at_once(client)
        eventually(lambda: daemon.call("status")["sessions"]["active"] == 1)


def test_a_daemon_that_was_stopped_for_a_while_goes_on_where_it_was(serve):
    daemon = serve("--tcp", "off", "--model", "fake", "--set", "limits.idle_timeout_s=5")
    with speaker(daemon) as client:
        daemon.process.send_signal(signal.SIGSTOP)
        for _ in range(28):  # 2.8 s of speech in 7 s: longer than a client may be idle, and less than a socket holds
            client.send(NOISE[:3200])
            time.sleep(0.25)
        daemon.process.send_signal(signal.SIGCONT)
        say(client, "finalize")
        assert len(read_until(client, "final")[-1]["text"].split()) == 9  # 300 ms a word


def test_a_bomb_costs_itself_its_session(serve):
    """C1: a FLAC that says 1 Hz."""
    daemon = serve("--tcp", "off", "--model", "fake")
    info = struct.pack(">HH", 4096, 4096) + bytes(6) + ((1 << 44) | (15 << 36) | 4096).to_bytes(8, "big") + bytes(16)
    with speaker(daemon), daemon.connect() as bomb:
        start(bomb, encoding="container", kind="file")
        bomb.send(b"fLaC\x80" + len(info).to_bytes(3, "big") + info + bytes(60))
        say(bomb, "stop")
        events = read_to_end(bomb)
        assert [event["code"] for event in events if event["type"] == "error"] == ["bad_audio"]


# ---------------------------------------------------------------- the engine


def test_a_decode_that_hangs_costs_its_utterance_and_the_preset_serves_again(serve, config):
    config.write(stuck="decode_ms = 3600000")
    daemon = serve("--tcp", "off", "--config", str(config.path), "--set", "scheduler.decode_timeout_s=5")
    daemon.expected_status = -signal.SIGKILL
    with speaker(daemon), daemon.connect() as hung:
        start(hung, **TOLD, model="stuck")
        hung.send(NOISE)
        say(hung, "finalize")
        events = read_until(hung, "final")
        assert [event["code"] for event in events if event["type"] == "error"] == ["decode_failed"]
        assert events[-1]["text"] == ""
        status = daemon.call("status")
        assert status["health"]["last_error"]
        assert all(entry["preset"] != "stuck" for entry in status["models"]["entries"])
        with daemon.connect() as other:
            start(other, **TOLD, model="stuck")  # it is loaded afresh
    daemon.process.kill()  # the thread in it never ends


# ---------------------------------------------------------------- what the process has


def test_without_descriptors_who_is_there_is_served(serve, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        daemon = serve("--tcp", "off", "--model", "fake", env={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        with speaker(daemon) as client:
            pid = daemon.process.pid
            before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), before[1]))
            assert utter(client)["text"] == HEARD
            time.sleep(3)  # a status line is due every 2 s
            assert utter(client)["text"] == HEARD
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            eventually(lambda: daemon.call("ping") == {})


def test_sockets_that_were_removed_come_back_and_nobody_notices(serve):
    daemon = serve("--tcp", "off", "--model", "fake")
    with speaker(daemon) as client:
        for path in (daemon.control, daemon.audio):
            path.unlink()
        assert utter(client)["text"] == HEARD
        eventually(lambda: daemon.control.exists() and daemon.audio.exists())
        with speaker(daemon):
            pass


def test_a_second_daemon_leaves_the_first_alone(serve):
    daemon = serve("--tcp", "off", "--model", "fake")
    with speaker(daemon):
        command = [sys.executable, "-m", "sttd", "serve", "--runtime-dir", str(daemon.directory), "--model", "fake"]
        second = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        assert (second.returncode, str(daemon.process.pid) in second.stderr) == (6, True)


# ---------------------------------------------------------------- the configuration


def test_a_session_keeps_the_preset_that_a_reload_took_away(serve, config):
    config.write(mine="")
    daemon = serve("--tcp", "off", "--config", str(config.path))
    with speaker(daemon, model="mine") as client:
        config.write()
        daemon.call("reload")
        assert utter(client)["text"] == HEARD


def test_a_preset_that_changes_under_somebody_s_long_utterance_loses_nothing_of_anybody(serve, config):
    config.write(mine="word_ms = 300")
    daemon = serve("--tcp", "off", "--config", str(config.path), "--set", "models.load_wait_s=0.2")
    with speaker(daemon, model="mine") as other, daemon.connect() as long:
        start(long, **TOLD, model="mine")
        long.send(NOISE)
        eventually(lambda: any(entry["leases"] for entry in daemon.call("status")["models"]["entries"]))
        config.write(mine="word_ms = 300\nnum_workers = 2")
        daemon.call("reload")
        other.send(NOISE)
        say(other, "finalize")
        time.sleep(1)  # beyond `load_wait_s`: it says that it waits, and goes on waiting
        say(long, "finalize")
        assert read_until(long, "final")[-1]["text"] == HEARD
        assert read_until(other, "final")[-1]["text"] == HEARD


def test_a_bad_file_changes_nothing(serve, config):
    config.write()
    daemon = serve("--tcp", "off", "--config", str(config.path))
    with speaker(daemon):
        for bad in ("[server]\ndrain_s = 1" + "0" * 400, "x = " + "[" * 5000, "\0"):
            config.path.write_text(bad)
            with pytest.raises(RuntimeError, match="config_invalid"):
                daemon.call("reload")
            daemon.process.send_signal(signal.SIGHUP)
        assert daemon.call("ping") == {}


# ---------------------------------------------------------------- models


def test_unload_by_another_in_a_long_utterance_costs_no_utterance(serve):
    daemon = serve("--tcp", "off", "--model", "fake", "--set", "models.load_wait_s=0.2")
    with speaker(daemon) as client, daemon.connect() as long:
        start(long, **TOLD)
        long.send(NOISE)
        eventually(lambda: any(entry["leases"] for entry in daemon.call("status")["models"]["entries"]))
        daemon.call("unload", wait=False)
        client.send(NOISE)
        say(client, "finalize")
        time.sleep(1)
        say(long, "finalize")
        assert read_until(long, "final")[-1]["text"] == HEARD
        assert read_until(client, "final")[-1]["text"] == HEARD


def test_two_files_of_two_presets_do_not_silence_a_third(serve, config):
    config.write(one="decode_ms = 200", two="decode_ms = 200")
    daemon = serve("--tcp", "off", "--config", str(config.path), "--set", "models.max_loaded_models=2")
    with daemon.connect() as first, daemon.connect() as second:
        for client, model in ((first, "one"), (second, "two")):
            start(client, kind="file", model=model, **TOLD)
            for _ in range(20):
                client.send(NOISE)
                say(client, "finalize")
            say(client, "stop")
        eventually(lambda: daemon.call("status")["models"]["loaded"] == 2)
        with speaker(daemon) as client:
            for _ in range(3):
                assert utter(client)["text"] == HEARD
        for client in (first, second):  # and the files have all of theirs
            finals = [event["text"] for event in read_to_end(client) if event["type"] == "final"]
            assert finals == [HEARD] * 20


# ---------------------------------------------------------------- the end of the daemon


def test_a_stop_in_an_utterance_gives_it_its_final(serve):
    daemon = serve("--tcp", "off", "--model", "fake")
    with daemon.connect() as client:
        start(client, **TOLD)
        client.send(NOISE)
        eventually(lambda: any(row["utterances"] for row in daemon.call("sessions")["sessions"]))
        daemon.terminate()
        events = read_to_end(client)
        assert [(event["text"], event["reason"]) for event in events if event["type"] == "final"] == [(HEARD, "drain")]
        assert (events[-1]["type"], client.close_code) == ("stopped", 1001)


def test_after_a_crash_the_next_daemon_serves_on_the_sockets_it_left_and_is_told_again_what_was_open(serve):
    """Lost: nothing. The library begins a session anew with what no final had covered."""
    daemon = serve("--tcp", "off", "--model", "fake")
    daemon.expected_status = -signal.SIGSEGV
    with blocking.open_session(socket_path=daemon.control, reconnect_s=60, **TOLD) as session:
        session.send(NOISE)
        session.finalize()
        assert next(event for event in session if isinstance(event, Final)).text == HEARD
        session.send(NOISE)
        eventually(lambda: daemon.call("sessions")["sessions"][0]["utterances"] == 2)
        daemon.process.send_signal(signal.SIGSEGV)
        daemon.process.wait(PATIENCE_S)
        serve("--tcp", "off", "--model", "fake")
        told = next(event for event in session if isinstance(event, Reconnected))
        assert (told.lost_bytes, told.again_bytes) == (0, len(NOISE))
        session.finalize()
        assert next(event for event in session if isinstance(event, Final)).text == HEARD


def rows_of(daemon):
    return daemon.call("sessions")["sessions"]


def test_what_three_daemons_running_crash_with_is_not_said_to_the_next(serve):
    """It may be what they crash of. Lost: that, and it is counted; the session goes on behind it."""
    daemon = serve("--tcp", "off", "--model", "fake")
    with blocking.open_session(socket_path=daemon.control, reconnect_s=60, **TOLD) as session:
        session.send(NOISE)
        told = []
        for _ in range(3):
            eventually(lambda daemon=daemon: [session.poll()] and any(row["utterances"] for row in rows_of(daemon)))
            daemon.expected_status = -signal.SIGSEGV
            daemon.process.send_signal(signal.SIGSEGV)
            daemon.process.wait(PATIENCE_S)
            daemon = serve("--tcp", "off", "--model", "fake")
            anew = next(event for event in session if isinstance(event, Reconnected))
            told.append((anew.lost_bytes, anew.again_bytes))
        assert told == [(0, len(NOISE)), (0, len(NOISE)), (len(NOISE), 0)]
        session.send(NOISE)
        session.finalize()
        assert next(event for event in session if isinstance(event, Final)).text == HEARD
