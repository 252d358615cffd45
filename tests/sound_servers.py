"""Sound servers for tests: each with two outputs that nobody hears, of which one's monitor stands for a microphone."""

import os
import subprocess
import time
from contextlib import contextmanager
from functools import partial

import pytest

from tests.desktop import need, wait_for
from tests.running import PATIENCE_S

OUTPUT, MICROPHONE = "speakers", "room"  # what is played on `room` is heard by the microphone
_DECIDED_S = 5.0  # chosen: for what was heard to become final, before it is played once more
_NO_SERVER = "unix:/nonexistent"


@contextmanager
def pulseaudio(directory):
    """A PulseAudio of its own; yields its environment. Without D-Bus and configuration."""
    need("pulseaudio", "pactl", "paplay", "parec")
    socket = directory / "native"
    environ = _environ(directory) | {"PULSE_SERVER": f"unix:{socket}", "PULSE_RUNTIME_PATH": str(directory / "pulse")}
    modules = (f"module-native-protocol-unix socket={socket} auth-anonymous=1", *_sinks())
    command = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no", "--disable-shm=yes"]
    with _running([*command, *(f"--load={module}" for module in modules)], environ, directory):
        _wait_for_pactl(environ)
        _choose(environ)
        yield environ


@contextmanager
def pipewire(directory, *, pulse_layer=True):
    """A PipeWire of its own; yields the environment of a desktop with it, or of one that lacks the pulse layer."""
    need("pipewire", "wireplumber", "pipewire-pulse", "dbus-run-session", "pactl", "paplay", "pw-record")
    environ = _environ(directory)
    # A shell of its own, so that they end together. WirePlumber that finds no PipeWire yet ends by itself.
    script = 'pipewire & until [ -S "$XDG_RUNTIME_DIR/pipewire-0" ]; do sleep 0.05; done; '
    script += "wireplumber & exec pipewire-pulse"
    with _running(["dbus-run-session", "--", "sh", "-c", script], environ, directory):
        _wait_for_pactl(environ)
        for module in _sinks():
            wait_for(partial(_pactl, environ, "load-module", *module.split()), "the output cannot be made")
        _choose(environ)
        yield environ if pulse_layer else environ | {"PULSE_SERVER": _NO_SERVER}


def play_until(condition, environ, *sounds):
    """Play files at once, as fast as they were recorded, each on an output; again and again until it holds.

    A recorder that is late hears half of a sentence first, and so does one on a machine with other work to do.
    """
    environ = {name: value for name, value in environ.items() if value != _NO_SERVER}

    def heard():
        players = [
            subprocess.Popen(["paplay", f"--device={output}", str(path)], env=environ) for output, path in sounds
        ]
        assert [player.wait(PATIENCE_S) for player in players] == [0] * len(players)
        decided = time.monotonic() + _DECIDED_S
        while not (holds := condition()) and time.monotonic() < decided:
            time.sleep(0.05)
        return holds

    wait_for(heard, "what was played is not heard")


def _environ(directory):
    directory.mkdir(mode=0o700, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PULSE_", "PIPEWIRE_", "XDG_"))}
    return {**kept, "XDG_RUNTIME_DIR": str(directory), "HOME": str(directory), "DBUS_SESSION_BUS_ADDRESS": "disabled:"}


def _sinks():
    return [f"module-null-sink sink_name={name}" for name in (OUTPUT, MICROPHONE)]


def _choose(environ):
    def are_chosen():
        # Asked again each time: WirePlumber may come later than who asks, and then chooses by itself.
        asked = _pactl(environ, "set-default-sink", OUTPUT)
        asked &= _pactl(environ, "set-default-source", f"{MICROPHONE}.monitor")
        chosen = {f"Default Sink: {OUTPUT}", f"Default Source: {MICROPHONE}.monitor"}
        return asked and chosen <= set(_info(environ).splitlines())

    wait_for(are_chosen, lambda: _info(environ))


def _info(environ):
    return subprocess.run(
        ["pactl", "info"],
        env=environ | {"LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    ).stdout


def _pactl(environ, *words):
    done = subprocess.run(["pactl", *words], env=environ, capture_output=True, check=False, timeout=PATIENCE_S)
    return done.returncode == 0


def _wait_for_pactl(environ):
    wait_for(lambda: _pactl(environ, "info"), "the sound server does not answer")


@contextmanager
def _running(command, environ, directory):
    log = directory / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environ, stdout=output, stderr=output, start_new_session=True)
    try:
        yield
    finally:
        try:
            os.killpg(process.pid, 15)
        except ProcessLookupError:
            pytest.fail(f"the sound server ended by itself: {log.read_text()[-500:]}")
        process.wait(PATIENCE_S)
