"""What the doctor says of machines that are not well."""

import json

import pytest
from sttd_client.ctl.doctor import (
    choice_findings,
    dictation_findings,
    gpu_findings,
    microphone_findings,
    model_findings,
    sandbox_findings,
    server_findings,
    system_sound_findings,
    wyoming_findings,
)
from sttd_client.ctl.machine import CudaLibraries, Gpu, Process, look_at_gpu, look_at_process
from sttd_client.dictation.seat import Seat
from sttd_client.sound import SoundServer

from sttd import __version__

NO_GPU, GPU = Gpu(present=False), Gpu(present=True, name="H200", driver="580")
COMPLETE, WITHOUT_CUBLAS = CudaLibraries(missing=()), CudaLibraries(missing=("cuBLAS 12",))


def verdicts(findings):
    return [(finding.verdict, finding.text) for finding in findings]


def bad(findings):
    return [finding for finding in findings if finding.verdict == "bad"]


def test_a_healthy_daemon_has_nothing_bad(sttctl, fake_control, status_report, presets):
    healthy = {**status_report, "server": {**status_report["server"], "version": __version__}}
    with fake_control({"status": healthy, "models": {"presets": presets}}):
        status, out, _ = sttctl("doctor")
        report = json.loads(sttctl("doctor", "--json")[1])
    assert status == 0
    assert out.endswith("nothing is wrong\n")
    assert report["healthy"]


def test_no_daemon_is_said_with_what_to_do(sttctl):
    status, out, _ = sttctl("doctor")
    assert status == 3
    assert "no sttd daemon answers" in out
    assert "sttd serve" in out
    assert "thing to mend" in out


def test_a_daemon_that_fails_is_a_finding(sttctl, fake_control):
    with fake_control({"status": {"code": "internal", "message": "a bug", "retryable": False, "data": {}}}):
        status, out, _ = sttctl("doctor")
    assert status == 1
    assert "a bug" in out


def test_an_old_daemon_a_late_loop_and_an_error_are_found(status_report):
    ill = {
        "server": {**status_report["server"], "version": "0.0.1"},
        "health": {"event_loop_lag_ms_p99": 300.0, "last_error": "out of luck"},
    }
    findings = list(server_findings(ill))
    assert [finding.verdict for finding in findings] == ["good", "note", "bad", "note"]
    assert "300 ms late" in findings[2].text
    assert "out of luck" in findings[3].text


def test_where_home_assistant_connects_is_said_or_how_to_find_out_why_it_cannot(status_report):
    listeners = ["control: /run/c.sock", "wyoming: 127.0.0.1:10300", "wyoming: /run/w.sock"]
    (found,) = wyoming_findings({"server": {**status_report["server"], "listeners": listeners}})
    assert (found.verdict, found.text) == ("good", "Home Assistant connects to 127.0.0.1:10300 and /run/w.sock")
    (missing,) = wyoming_findings({"server": {**status_report["server"], "listeners": listeners[:1]}})
    assert missing.verdict == "note"
    assert "server.wyoming" in missing.advice


def test_an_absent_default_model_is_named_with_the_command_that_gets_it(status_report, presets):
    absent = [{**presets[0], "local": False}, presets[1]]
    (finding,) = bad(model_findings({"models": {}}, absent))
    assert finding.advice == "download it: `sttctl pull base`"
    assert not bad(model_findings({"models": {"load_failures": 0}}, presets))
    assert "2 loads failed" in bad(model_findings({"models": {"load_failures": 2}}, presets))[0].text


def test_a_model_that_is_too_slow_is_bad_and_a_better_one_is_named(presets):
    slow = {**presets[0], "realtime": False, "interim_s": 3.0}
    first, second = choice_findings({"presets": [slow, presets[1]], "recommended": "tiny"})
    assert (first.verdict, second.verdict) == ("bad", "note")
    assert "3.00 s" in first.text
    assert "sttctl pull tiny" in first.advice
    assert "sttctl pull tiny" in second.advice
    assert all(finding.verdict == "good" for finding in choice_findings({"presets": presets, "recommended": "base"}))
    unmeasured = {**presets[0], "realtime": None}
    assert len(list(choice_findings({"presets": [unmeasured], "recommended": "base"}))) == 1
    assert list(choice_findings({"presets": [unmeasured]})) == []


def test_a_server_that_is_away_is_as_bad_as_there_is_nobody_in_its_place(presets):
    def found(**state):
        remote = {"preset": "cluster", "url": "https://gpu/v1", "since_s": 42.0, "reason": "no connection", **state}
        rows = [{"preset": "cluster", "local": True, "default_for": ["final"], "remote": remote}, *presets[1:]]
        return next(iter(model_findings({}, rows)))

    there = found(reachable=True, fallback="here")
    assert (there.verdict, there.advice) == ("good", "")
    away = found(reachable=False, fallback="here")
    assert (away.verdict, away.advice) == ("note", "look after the server")
    assert "https://gpu/v1 is away, for 42 s: no connection; its fallback is here" in away.text
    assert found(reachable=None, fallback=None).verdict == "note"
    alone = found(reachable=False, fallback=None)
    assert alone.verdict == "bad"
    assert "`presets.cluster.fallback`" in alone.advice
    rows = [{"preset": "far", "local": False}]
    remote = {"preset": "cluster", "url": "https://gpu/v1", "reachable": True, "fallback": "far"}
    absent = next(iter(model_findings({}, [{"preset": "cluster", "default_for": ["final"], "remote": remote}, *rows])))
    assert (absent.verdict, "sttctl pull far" in absent.advice) == ("bad", True)


@pytest.mark.parametrize(
    ("device", "gpu", "libraries", "expected"),
    [
        ("cpu", NO_GPU, COMPLETE, ["note"]),
        ("cuda:0", NO_GPU, COMPLETE, ["bad"]),
        ("cuda:0", GPU, COMPLETE, ["good"]),
        ("cuda:1", GPU, WITHOUT_CUBLAS, ["good", "bad"]),
        ("cpu", GPU, WITHOUT_CUBLAS, ["good", "note", "note"]),
    ],
)
def test_the_gpu_is_judged_by_whether_it_is_wanted(presets, device, gpu, libraries, expected):
    found = list(gpu_findings([{**presets[0], "device": device}], gpu, libraries))
    assert [finding.verdict for finding in found] == expected
    if libraries.missing and "bad" in expected:
        assert "cuBLAS 12" in found[1].text
        assert "nvidia-cublas-cu12" in found[1].advice


def test_the_sandbox_is_judged_by_what_it_breaks():
    fine = Process(readable=True, no_new_privileges=True, seccomp=True, rss_bytes=1 << 20)
    assert verdicts(sandbox_findings(fine)) == [("good", "NoNewPrivs and seccomp; 1 MiB resident")]
    walled = Process(readable=True, private_users=True, gpu_hidden=True)
    assert [finding.advice.split()[0] for finding in bad(sandbox_findings(walled))] == ["remove", "install"]
    assert [finding.verdict for finding in sandbox_findings(Process(readable=False))] == ["note"]


# ---------------------------------------------------------------- what the machine shows


def test_a_process_is_read_from_proc(tmp_path):
    proc = tmp_path / "proc" / "42"
    (proc / "root" / "dev").mkdir(parents=True)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidiactl").touch()
    (proc / "status").write_text("Name:\tsttd\nVmRSS:\t  1024 kB\nNoNewPrivs:\t1\nSeccomp:\t2\n")
    (proc / "uid_map").write_text("         0       1000          1\n")
    assert look_at_process(42, tmp_path) == Process(
        readable=True, no_new_privileges=True, seccomp=True, private_users=True, gpu_hidden=True, rss_bytes=1 << 20
    )
    (proc / "uid_map").write_text("         0          0 4294967295\n")
    (proc / "root" / "dev" / "nvidiactl").touch()
    process = look_at_process(42, tmp_path)
    assert not process.private_users
    assert not process.gpu_hidden
    assert look_at_process(43, tmp_path) == Process(readable=False)


def test_a_gpu_is_read_from_its_driver(tmp_path):
    assert look_at_gpu(tmp_path) == Gpu(present=False)
    card = tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0"
    card.mkdir(parents=True)
    (card / "information").write_text("Model: \t\t NVIDIA H200\nIRQ:   \t\t 64\n")
    version = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: 12\n"
    (tmp_path / "proc/driver/nvidia/version").write_text(version)
    found = look_at_gpu(tmp_path)
    assert (found.present, found.name, found.driver) == (True, "NVIDIA H200", "580.65.06")


@pytest.mark.parametrize(
    ("session_bus", "focus_is_told", "notes"),
    [
        (True, True, []),
        (True, False, ["no accessibility bus: a password field is not recognised"]),
        (False, False, ["no bus of the session: neither a notification nor a locked screen is noticed"]),
    ],
)
def test_what_dictation_lacks_in_a_session_that_can_type(tmp_path, session_bus, focus_is_told, notes):
    environ = {"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path), "PATH": ""}
    if session_bus:
        environ["DBUS_SESSION_BUS_ADDRESS"] = "unix:path=/somewhere"
    found = list(dictation_findings(Seat(environ=environ, wayland=None, x11=True), focus_is_told=focus_is_told))
    assert [finding.text for finding in found if finding.verdict == "note"] == notes
    assert found[0].verdict == "good"


NO_SOUND = SoundServer(name="none")


@pytest.fixture
def parec(tmp_path, monkeypatch):
    """A machine on which parec is installed, and no other recorder."""
    program = tmp_path / "parec"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_a_machine_with_sound_says_what_records_what(parec):
    server = SoundServer(name="PulseAudio", sinks=("speakers",), default_sink="speakers", default_source="webcam")
    (microphone,), (system,) = microphone_findings(server), system_sound_findings(server)
    assert (microphone.verdict, system.verdict) == ("good", "good")
    assert microphone.text.startswith("parec records webcam")
    assert system.text.startswith("parec records what speakers plays")


def test_a_machine_without_a_microphone_is_told_that_it_would_hear_itself(parec):
    server = SoundServer(name="PulseAudio", sinks=("hdmi",), default_sink="hdmi", default_source="hdmi.monitor")
    (finding,) = microphone_findings(server)
    assert finding.verdict == "note"
    assert "there is none" in finding.text


def test_a_machine_without_a_sound_server_is_told_so(parec):
    (microphone,), (system,) = microphone_findings(NO_SOUND), system_sound_findings(NO_SOUND)
    assert "no sound server answers" in microphone.text
    assert "start PipeWire or PulseAudio" in microphone.advice
    assert "`sttctl listen --system` does not work" in system.text


def test_a_machine_without_a_recorder_is_told_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    (microphone,), (system,) = microphone_findings(NO_SOUND), system_sound_findings(NO_SOUND)
    assert microphone.advice.startswith("install pipewire-bin")
    assert system.advice.startswith("install pipewire-bin")
