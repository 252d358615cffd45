"""The system service under a real systemd: start, status, reload, restart, activation, watchdog, drain, failure."""

import signal
import threading
import time

import pytest

from tests.systemd.conftest import CONFIG
from tests.systemd.measure import sample
from tests.systemd.talk import Refused, Session, call

pytestmark = pytest.mark.root


def connect_forever(path, stop, failures):
    """Ask for a ping again and again until `stop`, noting every failure."""
    while not stop.is_set():
        try:
            call(path, "ping")
        except (OSError, ConnectionError, Refused) as error:
            failures.append(error)


# --------------------------------------------------------------------------------- start and status


def test_start_returns_when_the_daemon_answers(lab):
    lab.systemctl("start", "sttd")
    began = time.monotonic()
    status = call(lab.control, "status")
    assert time.monotonic() - began < 5
    assert status["server"]["state"] == "ready"
    assert status["server"]["pid"] == lab.main_pid()
    assert lab.show("sttd", "ActiveState") == "active"
    assert lab.show("sttd", "NRestarts") == "0"


def test_the_daemon_is_the_user_sttd_and_its_sockets_belong_to_the_group(lab):
    lab.systemctl("start", "sttd")
    status = (lab.root / f"proc/{lab.main_pid()}/status").read_text()
    assert f"Uid:\t{lab.uid('sttd')}\t" in status
    assert "NoNewPrivs:\t1" in status
    for path in (lab.control, lab.audio):
        assert path.stat().st_mode & 0o777 == 0o660
        assert path.stat().st_gid == lab.uid("sttd")


def test_ports_are_closed(lab):
    lab.systemctl("start", "sttd")
    names = [name.partition(":")[0] for name in call(lab.control, "status")["server"]["listeners"]]
    assert sorted(names) == ["audio", "control"]
    ports = lab.run("ss", "-ltn").stdout
    assert ":7788" not in ports
    assert ":10300" not in ports


def test_a_wyoming_port_that_systemd_holds_is_served_and_warned_of(lab):
    lab.systemctl("start", "sttd.socket", "sttd-audio.socket", "sttd-wyoming.socket", "sttd")
    assert "wyoming: systemd" in call(lab.control, "status")["server"]["listeners"]
    ask = (
        "import socket; s = socket.create_connection(('127.0.0.1', 10300)); "
        "s.sendall(b'{\"type\": \"describe\"}\\n'); print(s.makefile('rb').readline())"
    )
    assert '"info"' in lab.python(ask, user="nobody").stdout
    assert "open to every user" in str([entry["MESSAGE"] for entry in lab.journal()])


def test_the_status_line_tells_of_sessions_and_models(lab):
    lab.systemctl("start", "sttd")
    assert "0 session" in lab.status_text()
    with Session.open(lab.audio) as session:
        session.speak()
        session.send(op="finalize")
        session.until("final")
        lab.wait_until(
            lambda: "1 session" in lab.status_text() and "fake" in lab.status_text(), what="1 session in the status"
        )
    assert "fake" in lab.systemctl("status", "sttd").stdout
    lab.wait_until(lambda: "0 session" in lab.status_text(), what="no session in the status")


# --------------------------------------------------------------------------------- reload


def test_a_good_file_is_in_force_when_reload_returns(lab):
    lab.systemctl("start", "sttd")
    pid = lab.main_pid()
    lab.configure(CONFIG.replace("drain_s = 5.0", "drain_s = 7.0"))
    lab.systemctl("reload", "sttd")
    assert call(lab.control, "config")["values"]["server.drain_s"]["value"] == 7.0
    assert (lab.main_pid(), lab.show("sttd", "ActiveState")) == (pid, "active")


def test_a_bad_file_fails_the_reload_loudly_and_changes_nothing(lab):
    lab.systemctl("start", "sttd")
    pid = lab.main_pid()
    lab.configure(CONFIG.replace("drain_s = 5.0", "drain_z = 7.0"))
    done = lab.systemctl("reload", "sttd", check=False)
    assert done.returncode != 0
    assert "reload" in done.stderr.lower() or "job" in done.stderr.lower()
    assert any("did you mean `server.drain_s`" in str(entry["MESSAGE"]) for entry in lab.journal())
    assert call(lab.control, "config")["values"]["server.drain_s"]["value"] == 5.0
    assert (lab.main_pid(), lab.show("sttd", "ActiveState")) == (pid, "active")
    lab.configure(None)
    lab.systemctl("reload", "sttd")


def test_sighup_reloads_too_and_survives_a_bad_file(lab):
    lab.systemctl("start", "sttd")
    pid = lab.main_pid()
    lab.configure("not toml")
    lab.systemctl("kill", "--signal=HUP", "--kill-whom=main", "sttd")
    lab.wait_until(lambda: any("not valid TOML" in str(e["MESSAGE"]) for e in lab.journal()), what="the refusal")
    lab.configure(CONFIG.replace("drain_s = 5.0", "drain_s = 6.0"))
    lab.systemctl("kill", "--signal=HUP", "--kill-whom=main", "sttd")
    values = lambda: call(lab.control, "config")["values"]  # noqa: E731
    lab.wait_until(lambda: values()["server.drain_s"]["value"] == 6.0, what="the reload")
    assert (lab.main_pid(), lab.show("sttd", "ActiveState")) == (pid, "active")


def test_a_distribution_may_choose_notify_reload(lab):
    release = int(lab.systemctl("--version").stdout.split()[1])
    if release < 253:
        pytest.skip(f"systemd {release} has no Type=notify-reload")
    lab.drop_in("[Service]\nType=notify-reload\nExecReload=\n")
    lab.systemctl("start", "sttd")
    lab.configure(CONFIG.replace("drain_s = 5.0", "drain_s = 7.0"))
    lab.systemctl("reload", "sttd")
    assert call(lab.control, "config")["values"]["server.drain_s"]["value"] == 7.0


# --------------------------------------------------------------------------------- restart, activation


def test_a_restart_finishes_open_utterances_and_refuses_nobody(lab):
    lab.systemctl("start", "sttd")
    stop, failures = threading.Event(), []
    clients = [threading.Thread(target=connect_forever, args=(lab.control, stop, failures)) for _ in range(4)]
    with Session.open(lab.audio) as session:
        session.speak(0.9)
        session.until("speech_start")
        for client in clients:
            client.start()
        lab.systemctl("restart", "sttd")
        assert session.until_closed() == 1001
    time.sleep(0.2)
    stop.set()
    for client in clients:
        client.join()
    assert [(final["text"], final["reason"]) for final in session.finals()] == [("w1 w2 w3", "drain")]
    assert session.messages[-1]["type"] == "stopped"
    # A connection that the old daemon had accepted may be cut by its end; nobody is refused.
    assert not [failure for failure in failures if isinstance(failure, ConnectionRefusedError | FileNotFoundError)]
    assert call(lab.control, "status")["server"]["pid"] == lab.main_pid()


def test_the_first_connection_starts_the_daemon(lab):
    assert lab.show("sttd", "ActiveState") == "inactive"
    with Session.open(lab.audio) as session:
        session.speak(0.6)
        session.send(op="stop")
        assert session.until_closed() == 1000
    assert session.finals()[0]["text"] == "w1 w2"
    assert lab.show("sttd", "ActiveState") == "active"
    assert call(lab.control, "ping") == {}


def test_an_idle_daemon_leaves_and_comes_back_with_the_next_connection(lab):
    lab.configure(CONFIG.replace("[server]", "[server]\nidle_exit_s = 0.5"))
    with Session.open(lab.audio) as session:  # starts it
        first = lab.main_pid()
        time.sleep(1.5)
        session.speak(0.3)
        session.send(op="stop")
        session.until_closed()
        assert lab.main_pid() == first, "a session is not idleness"
    lab.wait_until(lambda: lab.show("sttd", "ActiveState") == "inactive", what="the idle daemon leaves")
    assert lab.show("sttd", "Result") == "success"
    assert call(lab.control, "status")["server"]["pid"] != first


def test_without_the_socket_units_it_makes_its_own_and_removes_them(lab):
    lab.systemctl("stop", "sttd.socket", "sttd-audio.socket")
    units = lab.root / "etc/systemd/system"
    for name in ("sttd.socket", "sttd-audio.socket"):
        (units / name).rename(units / f"{name}.away")
    lab.systemctl("daemon-reload")
    try:
        lab.systemctl("start", "sttd")
        assert call(lab.control, "status")["server"]["listeners"] == [
            "control: /run/sttd/control.sock",
            "audio: /run/sttd/audio.sock",
        ]
        assert lab.control.stat().st_mode & 0o777 == 0o660
        # A daemon that was killed leaves its sockets behind: stale ones are recognised.
        lab.systemctl("kill", "--signal=KILL", "sttd")
        lab.wait_until(lambda: lab.show("sttd", "NRestarts") == "1", what="the restart")
        lab.wait_until(lambda: lab.show("sttd", "ActiveState") == "active", what="active again")
        assert call(lab.control, "ping") == {}
        lab.systemctl("stop", "sttd")
        assert not lab.control.exists()
    finally:
        for name in ("sttd.socket", "sttd-audio.socket"):
            (units / f"{name}.away").rename(units / name)
        lab.systemctl("daemon-reload")


def test_two_daemons_never_share_a_directory(lab):
    lab.systemctl("start", "sttd")
    second = lab.run("sttd", "serve", "--runtime-dir", "/run/sttd", "--tcp", "off", check=False)
    assert second.returncode == 6
    assert "another sttd" in second.stderr
    assert f"pid {lab.main_pid()}" in second.stderr
    assert call(lab.control, "status")["server"]["pid"] == lab.main_pid()


# --------------------------------------------------------------------------------- watchdog, failure


def test_a_frozen_daemon_is_killed_and_comes_back(lab):
    lab.drop_in("[Service]\nWatchdogSec=3\n")
    lab.systemctl("start", "sttd")
    first = lab.main_pid()
    time.sleep(3.5)
    assert lab.main_pid() == first, "fed as long as it lives"
    lab.systemctl("kill", "--signal=STOP", "--kill-whom=main", "sttd")
    lab.wait_until(lambda: lab.show("sttd", "NRestarts") == "1", what="the watchdog's restart")
    lab.wait_until(lambda: lab.main_pid() not in (0, first), what="a new process")
    assert call(lab.control, "ping") == {}
    assert "watchdog" in lab.log().lower()


@pytest.mark.slow
def test_a_hung_decode_is_written_off_and_the_daemon_goes_on(lab):
    lab.configure(CONFIG.replace("decode_ms = 1500", "decode_ms = 600000") + "[scheduler]\ndecode_timeout_s = 5\n")
    lab.drop_in("[Service]\nWatchdogSec=2\n")
    lab.systemctl("start", "sttd")
    first = lab.main_pid()
    with Session.open(lab.audio, model="slow") as session:
        session.speak()
        session.send(op="finalize")
        session.send(op="stop")
        assert session.until_closed() == 1000
    told = [message["code"] for message in session.messages if message["type"] == "error"]
    assert told == ["decode_failed"]
    assert [message["type"] for message in session.messages[-2:]] == ["final", "stopped"]
    assert (lab.main_pid(), lab.show("sttd", "NRestarts")) == (first, "0")
    assert call(lab.control, "status")["health"]["engine_restarts"] == 1
    assert any("a decode hangs" in str(entry["MESSAGE"]) for entry in lab.journal())


def test_an_engine_that_the_kernel_kills_costs_the_service_nothing(lab):
    """In the sandbox a model gets its process, and the kernel would take that one before the daemon."""
    lab.configure(CONFIG + '[engine]\nisolation = "process"\nspare_ttl_s = 0\n')
    lab.systemctl("start", "sttd")
    first = lab.main_pid()
    with Session.open(lab.audio) as session:
        for restarts in range(2):
            session.speak()
            session.send(op="finalize")
            assert session.until("final")["text"] == "w1 w2 w3"
            assert call(lab.control, "status")["health"]["engine_restarts"] == restarts
            engines = [pid for path in (lab.root / f"proc/{first}/task").glob("*/children") for pid in _numbers(path)]
            assert len(engines) == 1
            assert int((lab.root / f"proc/{engines[0]}/oom_score_adj").read_text()) >= 500
            lab.run("kill", "-KILL", engines[0])
        session.send(op="stop")
        assert session.until_closed() == 1000
    assert (lab.main_pid(), lab.show("sttd", "NRestarts"), lab.show("sttd", "OOMPolicy")) == (first, "0", "continue")


def _numbers(path):
    try:
        return path.read_text().split()
    except OSError:  # a thread that has ended
        return []


def test_a_crash_is_restarted_and_an_invalid_configuration_is_not(lab):
    lab.systemctl("start", "sttd")
    lab.systemctl("kill", "--signal=SEGV", "--kill-whom=main", "sttd")
    lab.wait_until(lambda: lab.show("sttd", "NRestarts") == "1", what="the restart")
    lab.wait_until(lambda: lab.show("sttd", "ActiveState") == "active", what="active again")
    lab.systemctl("stop", "sttd.socket", "sttd-audio.socket", "sttd")
    lab.configure("[models]\nmodel = 'no-such-preset'\n")
    done = lab.systemctl("start", "sttd", check=False)
    assert done.returncode != 0
    lab.wait_until(lambda: lab.show("sttd", "ActiveState") == "failed", what="failed, not restarting")
    assert lab.show("sttd", "ExecMainStatus") == "2"
    assert "unknown preset 'no-such-preset'" in str([entry["MESSAGE"] for entry in lab.journal()])


def test_a_daemon_that_cannot_start_is_left_down_after_ten_times(lab):
    lab.drop_in("[Service]\nExecStartPre=/bin/false\nRestartSec=10ms\n")
    lab.systemctl("start", "sttd", check=False)
    lab.wait_until(lambda: lab.show("sttd", "ActiveState") == "failed", what="given up")
    lab.wait_until(lambda: lab.show("sttd", "NRestarts") == "10", what="ten restarts")
    assert "Start request repeated too quickly" in lab.log()


# --------------------------------------------------------------------------------- stop


def test_stop_gives_every_open_utterance_its_final(lab):
    lab.systemctl("start", "sttd")
    with Session.open(lab.audio) as first, Session.open(lab.audio, model="slow") as second:
        first.speak(0.9)
        second.speak(0.6)
        first.until("speech_start")
        second.until("speech_start")
        lab.systemctl("stop", "--no-block", "sttd")
        assert (first.until_closed(), second.until_closed()) == (1001, 1001)
    for session, text in ((first, "w1 w2 w3"), (second, "w1 w2")):
        assert [(final["text"], final["reason"]) for final in session.finals()] == [(text, "drain")]
        assert session.messages[-1]["type"] == "stopped"
    lab.wait_until(lambda: lab.show("sttd", "ActiveState") == "inactive", what="stopped")
    assert (lab.show("sttd", "Result"), lab.show("sttd", "ExecMainStatus")) == ("success", "0")


@pytest.mark.model
def test_a_stop_in_the_middle_of_a_real_decode_is_no_crash(lab):
    lab.configure(CONFIG.replace('model = "fake"', 'model = "demo"').replace("drain_s = 5.0", "drain_s = 120.0"))
    lab.drop_in("[Service]\nTimeoutStopSec=150\n")
    lab.systemctl("start", "sttd")
    with Session.open(lab.audio, endpointing=None) as session:
        session.websocket.send(sample())
        session.until("speech_start")
        lab.systemctl("stop", "--no-block", "sttd")
        assert session.until_closed() == 1001
    assert "hello world" in " ".join(final["text"] for final in session.finals()).lower()
    lab.wait_until(lambda: lab.show("sttd", "ActiveState") == "inactive", what="stopped")
    assert (lab.show("sttd", "Result"), lab.show("sttd", "ExecMainStatus")) == ("success", "0")
    assert "dumped core" not in lab.log()


def test_a_client_that_does_not_go_does_not_hold_up_the_stop(lab):
    lab.configure(CONFIG.replace("decode_ms = 1500", "decode_ms = 600000").replace("drain_s = 5.0", "drain_s = 1.0"))
    lab.systemctl("start", "sttd")
    with Session.open(lab.audio, model="slow") as session:
        session.speak()
        session.send(op="finalize")
        session.until("speech_end")
        began = time.monotonic()
        lab.systemctl("stop", "sttd")
        assert time.monotonic() - began < 60  # a decode takes ten minutes
    assert lab.show("sttd", "Result") == "success"


def test_a_second_signal_is_immediate(lab):
    lab.configure(CONFIG.replace("decode_ms = 1500", "decode_ms = 600000").replace("drain_s = 5.0", "drain_s = 20.0"))
    lab.systemctl("start", "sttd")
    with Session.open(lab.audio, model="slow") as session:
        session.speak()
        session.send(op="finalize")
        session.until("speech_end")
        lab.systemctl("stop", "--no-block", "sttd")
        lab.wait_until(lambda: "STOP" in lab.status_text().upper(), what="stopping in the status")
        began = time.monotonic()
        lab.systemctl("kill", f"--signal={signal.SIGTERM.name}", "--kill-whom=main", "sttd")
        lab.wait_until(lambda: lab.show("sttd", "MainPID") == "0", what="gone")
        assert time.monotonic() - began < 15


# --------------------------------------------------------------------------------- the journal


def test_the_journal_is_searchable_and_has_no_transcript(lab):
    lab.systemctl("start", "sttd")
    with Session.open(lab.audio, label="for the journal", prompt="a secret prompt") as session:
        name = session.started["session"]
        session.speak(0.9)
        session.send(op="stop")
        session.until_closed()
    lab.wait_until(lambda: lab.journal("sttd", f"STTD_SESSION={name}"), what="entries of the session")
    entry = lab.journal("sttd", f"STTD_SESSION={name}")[0]
    assert entry["STTD_UID"] == "0"
    assert entry["_SYSTEMD_UNIT"] == "sttd.service"
    assert entry["PRIORITY"] == "6"
    everything = str(lab.journal())
    assert "w1 w2" not in everything
    assert "secret" not in everything
