"""`sttctl doctor`: what is wrong, in plain words, and what to do about it.

Each examination looks at one thing and returns findings. It must work on a broken machine: what cannot be found out is
left out or said, never guessed.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import attrs

from sttd import __version__
from sttd.errors import EXIT_DENIED, EXIT_FAILED, EXIT_NO_DAEMON, EXIT_OK, AccessError, ConfigError, SttdError
from sttd_client.addresses import ConnectionLostError, NoDaemonError
from sttd_client.control import Control, open_control
from sttd_client.ctl import machine
from sttd_client.ctl.outcome import words_of
from sttd_client.ctl.status import TIMEOUT_S, server_words
from sttd_client.ctl.terminal import duration, print_json, size, styled
from sttd_client.dictation.backends import BACKENDS, lacks_of
from sttd_client.dictation.phrases import default_file, read_user, tables
from sttd_client.dictation.seat import Seat, look, tells_focus
from sttd_client.sound import NoSoundError, SoundServer, monitor_of, recorder, system_recorder
from sttd_client.sound import look as look_at_sound

Verdict = Literal["good", "note", "bad"]
_LAG_MS = 50.0  # a loop that is later than two frames delays every interim


@attrs.frozen(kw_only=True)
class Finding:
    """One thing that was looked at."""

    verdict: Verdict
    about: str
    text: str
    advice: str = ""


def doctor(arguments: argparse.Namespace) -> int:
    """Examine daemon, models, GPU, sandbox, sound and dictation; exit status 0 where nothing is bad."""
    findings: list[Finding] = []
    status = EXIT_OK
    try:
        with open_control(arguments.socket) as control:
            findings += _daemon_findings(control)
    except NoDaemonError as error:
        findings.append(_from_error("daemon", error))
        status = EXIT_NO_DAEMON
    except AccessError as error:
        findings.append(_from_error("daemon", error))
        status = EXIT_DENIED
    except (SttdError, ConnectionLostError, TimeoutError) as error:
        findings.append(_from_error("daemon", error))
    server = look_at_sound()
    findings += microphone_findings(server)
    findings += system_sound_findings(server)
    findings += dictation_findings(look(os.environ), focus_is_told=tells_focus())
    if status == EXIT_OK and any(finding.verdict == "bad" for finding in findings):
        status = EXIT_FAILED
    if arguments.json:
        print_json({"healthy": status == EXIT_OK, "findings": [attrs.asdict(finding) for finding in findings]})
    else:
        print("\n".join(_lines(findings)))
    return status


def _daemon_findings(control: Control) -> Iterator[Finding]:
    report = control.call("status", timeout_s=TIMEOUT_S)
    models = control.call("models", timeout_s=TIMEOUT_S)
    presets = models.get("presets", [])
    pid = report.get("server", {}).get("pid")
    yield from server_findings(report)
    yield from wyoming_findings(report)
    yield from model_findings(report, presets)
    yield from choice_findings(models)
    yield from gpu_findings(presets, machine.look_at_gpu(), machine.look_at_libraries())
    if isinstance(pid, int):
        yield from sandbox_findings(machine.look_at_process(pid))


# ---------------------------------------------------------------- examinations


def server_findings(report: Mapping[str, Any]) -> Iterator[Finding]:
    """The daemon itself."""
    server, health = report.get("server", {}), report.get("health", {})
    version, state = server.get("version"), server.get("state")
    up = duration(server.get("uptime_s"))
    verdict: Verdict = "good" if state == "ready" else "note"
    yield Finding(verdict=verdict, about="daemon", text=f"sttd {version} is {state}, pid {server.get('pid')}, up {up}")
    if version != __version__:
        yield Finding(
            verdict="note",
            about="daemon",
            text=f"the daemon is {version}, this sttctl is {__version__}",
            advice="restart the daemon after an upgrade: `systemctl --user restart sttd`",
        )
    lag_ms = health.get("event_loop_lag_ms_p99")
    if lag_ms is not None and lag_ms > _LAG_MS:
        yield Finding(
            verdict="bad",
            about="daemon",
            text=f"its loop is {lag_ms:.0f} ms late: captions come late for everybody",
            advice="give the daemon more CPU time, or models fewer threads (`cpu_threads`)",
        )
    if health.get("last_error"):
        yield Finding(
            verdict="note",
            about="daemon",
            text=f"last error: {health['last_error']}",
            advice="the journal has more: `journalctl --user -u sttd`",
        )


def wyoming_findings(report: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether Home Assistant finds the daemon."""
    names = (str(name).partition(": ") for name in report.get("server", {}).get("listeners", []))
    places = [place for name, _, place in names if name == "wyoming"]
    if places:
        yield Finding(verdict="good", about="wyoming", text=f"Home Assistant connects to {' and '.join(places)}")
    else:
        yield Finding(
            verdict="note",
            about="wyoming",
            text="nothing listens for Home Assistant",
            advice="see `server.wyoming` in `sttctl config`; a port that another program has is named in the journal",
        )


def model_findings(report: Mapping[str, Any], presets: list[dict[str, Any]]) -> Iterator[Finding]:
    """The models: are the default ones on disk, do they load."""
    for preset in presets:
        name, roles = preset.get("preset"), preset.get("default_for") or []
        if not roles:
            continue
        role = " and ".join(f"{role}s" for role in roles)
        if remote := preset.get("remote"):
            yield _server_finding(f"{name} ({role})", remote, presets)
        elif preset.get("local"):
            state = "loaded" if preset.get("loaded") else "on disk, loaded when it is needed"
            yield Finding(verdict="good", about="model", text=f"{name} ({role}) is {state}")
        else:
            yield Finding(
                verdict="bad",
                about="model",
                text=f"{name} ({role}) is not on disk: sessions that need it are refused",
                advice=f"download it: `sttctl pull {name}`",
            )
    failures = report.get("models", {}).get("load_failures")
    if failures:
        yield Finding(
            verdict="bad",
            about="model",
            text=f"{failures} loads failed since the daemon started",
            advice="the journal says why: `journalctl --user -u sttd`; too little memory is the usual reason",
        )


def _server_finding(what: str, remote: Mapping[str, Any], presets: list[dict[str, Any]]) -> Finding:
    """A preset that a server decodes."""
    option, fallback = f"`presets.{remote.get('preset')}.fallback`", remote.get("fallback")
    verdict: Verdict = "good"
    advice = []
    if remote.get("reachable") is False:
        verdict = "note"
        advice.append("look after the server")
    if not fallback:
        verdict = "bad" if advice else "note"
        advice.append(f"name a preset of this machine as {option}: until then finals wait while the server is away")
    elif any(preset.get("preset") == fallback and not preset.get("local") for preset in presets):
        verdict = "bad"
        advice.append(f"download its fallback, which is not on disk: `sttctl pull {fallback}`")
    text = f"{what}: {server_words(remote)}"
    return Finding(verdict=verdict, about="model", text=text, advice="; ".join(advice))


def choice_findings(models: Mapping[str, Any]) -> Iterator[Finding]:
    """Which model this machine should have, and whether the ones in use keep up."""
    presets, best = models.get("presets", []), models.get("recommended")
    for preset in presets:
        if preset.get("default_for") and preset.get("realtime") is not None:
            name = (
                preset["preset"]
                if preset["preset"] == preset.get("model")
                else f"{preset['preset']} is {preset['model']}"
            )
            keeps_up = bool(preset["realtime"])
            yield Finding(
                verdict="good" if keeps_up else "bad",
                about="speed",
                text=f"{name}: an interim takes {preset.get('interim_s') or 0:.2f} s, "
                + ("so it runs live here" if keeps_up else "too long to run live here"),
                advice=""
                if keeps_up
                else f"choose a smaller one: `sttctl pull {best}`, and the preset `auto` or `{best}`",
            )
    if best is None:
        return
    there = any(preset.get("local") and preset.get("model") == best for preset in presets)
    yield Finding(
        verdict="good" if there else "note",
        about="speed",
        text=f"{best} is the best model that this machine should run live" + (", and it is on disk" if there else ""),
        advice="" if there else f"get it: `sttctl pull {best}`; the preset `auto` then takes it",
    )


def gpu_findings(
    presets: list[dict[str, Any]], gpu: machine.Gpu, libraries: machine.CudaLibraries
) -> Iterator[Finding]:
    """The GPU: is there one, is it used, can it be used."""
    on_gpu = any(str(preset.get("device", "")).startswith("cuda") for preset in presets if preset.get("default_for"))
    if not gpu.present:
        verdict: Verdict = "bad" if on_gpu else "note"
        yield Finding(
            verdict=verdict,
            about="gpu",
            text="no NVIDIA GPU: models run on the CPU",
            advice='set `device = "auto"` or "cpu" for the preset'
            if on_gpu
            else "small models keep up with speech there",
        )
        return
    yield Finding(verdict="good", about="gpu", text=f"{gpu.name}, driver {gpu.driver}")
    if libraries.missing:
        yield Finding(
            verdict="bad" if on_gpu else "note",
            about="gpu",
            text=f"not found where sttctl looked: {', '.join(libraries.missing)}",
            advice="install CUDA 12, or beside sttd `pip install nvidia-cublas-cu12`; then restart the daemon",
        )
    if not on_gpu:
        yield Finding(
            verdict="note",
            about="gpu",
            text="the default presets do not use it",
            advice='set `device = "auto"` for the preset, and see the journal for why CUDA was not taken',
        )


def sandbox_findings(process: machine.Process) -> Iterator[Finding]:
    """What the service manager took from the daemon."""
    if not process.readable:
        yield Finding(
            verdict="note",
            about="sandbox",
            text="the daemon's process cannot be looked at from here",
            advice="run `sudo sttctl doctor`",
        )
        return
    walls = [name for name, up in (("NoNewPrivs", process.no_new_privileges), ("seccomp", process.seccomp)) if up]
    yield Finding(
        verdict="good", about="sandbox", text=f"{' and '.join(walls) or 'none'}; {size(process.rss_bytes)} resident"
    )
    if process.private_users:
        yield Finding(
            verdict="bad",
            about="sandbox",
            text="PrivateUsers hides who connects: every peer is `nobody`, permissions by user cannot work",
            advice="remove `PrivateUsers=yes` from the unit",
        )
    if process.gpu_hidden:
        yield Finding(
            verdict="bad",
            about="sandbox",
            text="the GPU's device files are hidden from the daemon",
            advice="install the GPU drop-in of the unit, which allows /dev/nvidia*",
        )


def microphone_findings(server: SoundServer) -> Iterator[Finding]:
    """Whether `sttctl listen` has something to record with, and a microphone."""
    command, source = recorder(server=server), server.default_source
    if command is None:
        yield Finding(
            verdict="note",
            about="microphone",
            text="nothing to record with: `sttctl listen` does not work",
            advice="install pipewire-bin, pulseaudio-utils or alsa-utils",
        )
    elif server.name == "none" and command[0] != "arecord":
        yield Finding(
            verdict="note",
            about="microphone",
            text=f"{command[0]} is there, and no sound server answers: `sttctl listen` does not work",
            advice="start PipeWire or PulseAudio for this user, or install alsa-utils to do without",
        )
    elif server.default_source in (*server.sinks, *(monitor_of(sink) for sink in server.sinks)):
        yield Finding(
            verdict="note",
            about="microphone",
            text=f"there is none: what is recorded by default is {source}, which is what the machine plays",
            advice="connect one, or make it the default with `pactl set-default-source NAME`",
        )
    else:
        yield Finding(
            verdict="good",
            about="microphone",
            text=f"{command[0]} records {source or 'the default source'} for `sttctl listen`",
        )


def system_sound_findings(server: SoundServer) -> Iterator[Finding]:
    """Whether `sttctl listen --system` can hear what the machine plays."""
    try:
        command = system_recorder(server=server)
    except NoSoundError as error:
        text, _, advice = str(error).partition("; ")
        yield Finding(
            verdict="note", about="system", text=f"{text}: `sttctl listen --system` does not work", advice=advice
        )
        return
    yield Finding(
        verdict="good",
        about="system",
        text=f"{command[0]} records what {server.default_sink or 'the default output'} plays: `listen --system`",
    )


def dictation_findings(seat: Seat, *, focus_is_told: bool) -> Iterator[Finding]:
    """What can type in this session, and what the other ways lack; `focus_is_told`: a password field is recognised."""
    lacks = lacks_of(seat)
    working = [name for name, lack in lacks.items() if not lack]
    missing = "; ".join(f"{name}: {lack}" for name, lack in lacks.items() if lack)
    if working:
        others = f", or {', '.join(working[1:])}" if working[1:] else ""
        yield Finding(
            verdict="good",
            about="dictation",
            text=f"{working[0]}{others} types what is dictated in {seat.desktop}",
            advice=f"not here: {missing}",
        )
    else:
        ways = [backend.advice for backend in BACKENDS.values() if backend.advice]
        yield Finding(
            verdict="note",
            about="dictation",
            text=f"nothing can type in {seat.desktop}: `sttctl dictate` does not work. {missing}",
            advice="; ".join(ways) if seat.wayland is not None else "it needs a desktop: Wayland or X11",
        )
    if working and not seat.session_bus:
        yield Finding(
            verdict="note",
            about="dictation",
            text="no bus of the session: neither a notification nor a locked screen is noticed",
            advice="start the desktop with dbus-run-session, or by your display manager",
        )
    elif working and not focus_is_told:
        yield Finding(
            verdict="note",
            about="dictation",
            text="no accessibility bus: a password field is not recognised",
            advice="install at-spi2-core, and log in again",
        )
    try:
        tables(read_user(default_file(seat.environ)))
    except ConfigError as error:
        yield Finding(
            verdict="bad", about="dictation", text=error.message, advice="mend it: nothing is dictated before"
        )


# ---------------------------------------------------------------- output


def _from_error(about: str, error: Exception) -> Finding:
    text, _, advice = words_of(error).partition("\n")
    return Finding(verdict="bad", about=about, text=text, advice=advice)


_MARKS: Mapping[Verdict, tuple[str, str]] = {"good": ("ok", "green"), "note": ("--", "yellow"), "bad": ("!!", "red")}


def _lines(findings: list[Finding]) -> Iterator[str]:
    for finding in findings:
        mark, colour = _MARKS[finding.verdict]
        yield f"{styled(mark, colour)}  {finding.about:11} {finding.text}"
        if finding.advice:
            yield f"{'':16}{styled(finding.advice, 'bold' if finding.verdict == 'bad' else 'dim')}"
    bad = sum(finding.verdict == "bad" for finding in findings)
    yield ""
    yield "nothing is wrong" if not bad else f"{bad} thing{'s' if bad > 1 else ''} to mend"
