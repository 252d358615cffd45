"""`sttctl dictate` with real parts: a daemon, an agent, an X server with a window, and a recording for a microphone."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
from sttd_client.dictation.backends import CLIPBOARDS, lacks_of
from sttd_client.dictation.hand import PasteHand
from sttd_client.dictation.seat import look
from sttd_client.dictation.wayland_hand import WaylandHand
from sttd_client.dictation.x11_hand import X11Hand

from benchmarks.recordings import as_bytes, read_audio
from tests.desktop import compositor, gtk_fields, microphone, need, terminal, wait_for, window, x_server
from tests.logind import start_bus, until
from tests.portal import a_portal
from tests.running import PATIENCE_S, RunningDaemon

ROOT = Path(__file__).parents[2]
STTCTL = Path(sys.executable).with_name("sttctl")
# Of several scripts, with what dead keys make on many layouts, and what those layouts have on AltGr.
EVERYTHING = "Hello, wörld é ñ ß ç “quoted” — € 你好 ~ `x` ^ 'a' \"o\" ¿qué? ł ő Привет\n(two) [lines] @ # \\ | ~"


@pytest.fixture(scope="module")
def display():
    with x_server() as name:
        yield {**os.environ, "DISPLAY": name, "XAUTHORITY": "/dev/null", "WAYLAND_DISPLAY": ""}


# ---------------------------------------------------------------- typing


def test_any_text_is_typed_to_the_letter_on_any_layout(display, tmp_path):
    need("setxkbmap")

    async def act():
        async with aclosing(X11Hand(environ=display)) as hand:
            await hand.write(EVERYTHING)

    with window(tmp_path / "typed", display) as entry:
        for at, layout in enumerate(("us -variant intl", "de", "us,ru", "us"), 1):
            subprocess.run(["setxkbmap", *layout.split()], env=display, check=True, timeout=PATIENCE_S)
            trio.run(act)
            entry.shows(EVERYTHING * at)


def test_any_text_is_typed_into_a_field_of_gtk_and_into_a_terminal(display, tmp_path):
    """With a layout that has dead keys: they are not used."""
    need("setxkbmap")

    async def act(text):
        async with aclosing(X11Hand(environ=display)) as hand:
            await hand.write(text)

    subprocess.run(["setxkbmap", "us", "-variant", "intl"], env=display, check=True, timeout=PATIENCE_S)
    with gtk_fields(display) as fields:
        fields.focus("plain")
        line = EVERYTHING.replace("\n", " ")
        trio.run(act, line)
        wait_for(lambda: fields.text == line, lambda: f"typed: {fields.text!r}")
    with terminal(tmp_path / "typed", display) as entry:
        trio.run(act, EVERYTHING + "\n")
        entry.shows(EVERYTHING + "\n")


def test_any_text_is_typed_into_a_wayland_compositor():
    async def act(environ):
        async with aclosing(WaylandHand(environ=environ)) as hand:
            while not lines():  # a seat without any keyboard: the terminal listens to one only after it saw this one
                await hand.write("\n")
                await trio.sleep(0.3)
            await hand.write(EVERYTHING + "!!")
            await hand.erase(2)
            await hand.write("\n")
            await until(lambda: EVERYTHING in lines())

    def lines():
        return typed.read_text()

    # Below /tmp and for all to enter, for sway is another user's where the tests are root's.
    with tempfile.TemporaryDirectory(prefix="sway") as folder:
        typed = Path(folder, "typed")
        with compositor(typed) as environ:
            assert lacks_of(look(environ))["wayland"] == ""
            trio.run(act, environ)
            assert lines().lstrip("\n") == EVERYTHING + "\n"


def test_letters_are_taken_back_one_by_one(display, tmp_path):
    async def act():
        async with aclosing(X11Hand(environ=display)) as hand:
            await hand.write("Straße")
            await hand.erase(2)
            await hand.write("ight")

    with window(tmp_path / "typed", display) as entry:
        trio.run(act)
        entry.shows("Straight")


def test_caps_lock_and_held_modifiers_change_nothing(display, tmp_path):
    need("xdotool")

    def keys(*words):
        subprocess.run(["xdotool", *words], env=display, check=True, timeout=PATIENCE_S)

    async def act():
        async with aclosing(X11Hand(environ=display)) as hand:
            await hand.write("Hello é")

    with window(tmp_path / "typed", display) as entry:
        keys("key", "Caps_Lock")
        keys("keydown", "Control_L")
        trio.run(act)
        keys("keyup", "Control_L")
        keys("key", "Caps_Lock")
        entry.shows("Hello é")


def test_pasting_puts_the_old_clipboard_back(display, tmp_path):
    need("xclip")
    xclip = next(clipboard for clipboard in CLIPBOARDS if clipboard.name == "xclip")

    async def act():
        async with aclosing(X11Hand(environ=display)) as presser:
            await PasteHand(clipboard=xclip, presser=presser, seat=look(display)).write("pasted — 你好")

    def content():
        read = subprocess.run(xclip.read, env=display, capture_output=True, check=False, timeout=PATIENCE_S)
        return read.stdout

    subprocess.run(xclip.fill, input=b"mine", env=display, check=True, timeout=PATIENCE_S, stdout=subprocess.DEVNULL)
    with window(tmp_path / "typed", display) as entry:
        trio.run(act)
        entry.shows("pasted — 你好")
    assert content() == b"mine"


# ---------------------------------------------------------------- the whole of it


class Desk:
    """A user at a desktop: `dictate` is sttctl, whose agent and daemon are this user's."""

    def __init__(self, environ, daemon):
        self.environ, self.daemon = environ, daemon
        self.socket = daemon.directory.parent / "sttd-dictate.sock"

    def dictate(self, *arguments, status=0):
        done = self._run(arguments)
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    def try_to(self, *arguments):
        return self._run(arguments).stderr

    def _run(self, arguments):
        command = [str(STTCTL), "dictate", *arguments]
        return subprocess.run(
            command, env=self.environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )

    def state(self):
        return json.loads(self.dictate("status", "--json"))

    def is_idle(self):
        wait_for(lambda: self.state()["state"] == "idle", "the dictation does not end")


@pytest.fixture
def desk(display, tmp_path):
    """The daemon hears a word in every 300 ms of speech; the microphone has some seconds of it, then a quiet room."""
    spoken = as_bytes(read_audio(ROOT / "tests" / "data" / "number.flac"))
    daemon = RunningDaemon.start(tmp_path / "sttd", "--tcp", "off", "--model", "fake")
    environ = {
        **{name: value for name, value in display.items() if not name.startswith(("STTD_", "DBUS_"))},
        **microphone(tmp_path, spoken),
        "XDG_RUNTIME_DIR": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }
    desk = Desk(environ, daemon)
    yield desk
    desk.dictate("quit")
    wait_for(lambda: not desk.socket.exists(), "the agent does not leave")
    assert daemon.stop() == 0, daemon.log()


def test_what_is_said_is_typed_until_a_pause(desk, tmp_path):
    with window(tmp_path / "typed", desk.environ) as entry:
        desk.dictate("--once", "--language", "en")
        words = entry.text.split()
        assert len(words) >= 5
        assert words == [f"w{number}" for number in range(1, len(words) + 1)]
    mode = desk.socket.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_a_held_key_is_one_utterance_that_the_release_ends(desk, tmp_path):
    with window(tmp_path / "typed", desk.environ) as entry:
        desk.dictate("--hold", "start")
        desk.dictate("--hold", "start")  # keyboards repeat
        assert desk.state()["state"] == "listening"
        wait_for(lambda: "w3" in entry.text, "no stable text is typed while the key is held")
        desk.dictate("--hold", "stop")
        desk.dictate("--hold", "stop")
        desk.is_idle()
        words = entry.text.split()
        assert words == [f"w{number}" for number in range(1, len(words) + 1)]


def test_toggle_starts_and_stops_and_what_is_cancelled_is_not_typed(desk, tmp_path):
    with window(tmp_path / "typed", desk.environ) as entry:
        desk.dictate("--toggle")
        assert (desk.state()["state"], desk.state()["types"]) == ("listening", "x11")
        desk.dictate("--toggle")
        desk.is_idle()
        desk.dictate("--hold", "start")
        desk.dictate("cancel")
        desk.is_idle()
        typed = entry.text
        desk.dictate("--once")
        wait_for(lambda: len(entry.text) > len(typed), "after a cancel nothing is typed any more")


def test_who_waits_is_told_the_end_and_a_signal_means_stop(desk, tmp_path):
    with window(tmp_path / "typed", desk.environ) as entry:
        process = subprocess.Popen([str(STTCTL), "dictate", "--json"], env=desk.environ, stdout=subprocess.PIPE)
        wait_for(lambda: "w2" in entry.text, "nothing is typed")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
        assert json.loads(out)["state"] == "idle"
        assert len(entry.text.split()) >= 2


def test_what_is_wrong_is_said_at_the_press(desk):
    assert "there is no Wayland compositor" in desk.dictate("--toggle", "--type", "wtype", status=1)
    config = Path(desk.environ["XDG_CONFIG_HOME"], "sttd")
    config.mkdir(parents=True)
    (config / "dictation.toml").write_text('[en.phrases]\n"smile" = 7\n')
    assert "'smile'" in desk.dictate("start", status=2)
    (config / "dictation.toml").write_text('[any.phrases]\n"w2" = "two,"\n[dictation]\nsound = true\n')
    assert "nonsense" in desk.dictate("--once", "--model", "nonsense", status=5)


def test_a_display_that_did_not_answer_before_is_looked_for_again(desk):
    number = 100_000 + os.getpid()
    desk.environ["DISPLAY"] = f":{number}"
    assert "there is no X server" in desk.dictate("start", "--type", "x11", status=1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(f"\0/tmp/.X11-unix/X{number}")
        server.listen()
        desk.dictate("start", "--type", "x11")
        assert desk.state()["types"] == "x11"
        desk.dictate("cancel")


def test_nothing_is_dictated_into_a_password_field(desk, tmp_path):
    """A real program, whose fields are told apart by the real accessibility bus."""
    if not Path("/usr/share/dbus-1/services/org.a11y.Bus.service").exists():
        pytest.skip("at-spi2-core is not installed")
    refusal = "the cursor is in a password field"
    desk.environ |= {"DBUS_SESSION_BUS_ADDRESS": f"unix:path={tmp_path}/bus"}
    bus = start_bus(desk.environ["DBUS_SESSION_BUS_ADDRESS"], desk.environ)
    try:
        with gtk_fields(desk.environ) as fields:
            fields.focus("password")
            assert refusal in desk.dictate("--toggle", status=4)  # an agent that was just started looks first
            fields.focus("plain")
            wait_for(lambda: refusal not in desk.try_to("--toggle"), "the password field is not left")
            assert desk.state()["state"] == "listening"
            fields.focus("password")
            desk.is_idle()
            assert desk.state()["note"] == refusal
    finally:
        bus.terminate()
        bus.communicate(timeout=PATIENCE_S)


async def test_keys_of_the_desktop_dictate(desk, tmp_path):
    """As a desktop with the GlobalShortcuts portal gives them; the portal pretends."""

    async def dictate(*arguments, **options):
        return await trio.to_thread.run_sync(partial(desk.dictate, *arguments, **options))

    async def state_is(state):
        async with aclosing(looks()) as all_looks:
            async for look in all_looks:
                if look["state"] == state:
                    return

    async def looks():
        while True:
            yield await trio.to_thread.run_sync(desk.state)

    address = f"unix:path={tmp_path}/bus"
    desk.environ |= {"DBUS_SESSION_BUS_ADDRESS": address}
    bus = start_bus(address, desk.environ)
    try:
        with trio.fail_after(PATIENCE_S):
            assert "the desktop gives no keys" in await dictate("bind", status=1)
            async with a_portal(address) as portal:
                assert "toggle   Super+D" in await dictate("bind")
                await portal.key("toggle", down=True)
                await state_is("listening")
                await portal.key("toggle", down=True)
                await state_is("idle")
                await portal.key("hold", down=True)
                await state_is("listening")
                await portal.key("hold", down=False)
                await state_is("idle")
    finally:
        bus.terminate()
        bus.communicate(timeout=PATIENCE_S)


def test_without_a_daemon_a_dictation_ends_with_the_words_and_the_status_of_any_command(desk):
    desk.environ["STTD_SOCKET"] = str(desk.socket.with_name("nowhere"))
    assert "sttd serve" in desk.dictate("--once", status=3)
    assert desk.state()["state"] == "idle"


def test_phrases_of_the_user_are_typed_in_place_of_what_is_said(desk, tmp_path):
    config = Path(desk.environ["XDG_CONFIG_HOME"], "sttd")
    config.mkdir(parents=True)
    (config / "dictation.toml").write_text('[any.phrases]\n"w2" = "deux"\n"w4" = "!"\n"w5" = { command = "stop" }\n')
    with window(tmp_path / "typed", desk.environ) as entry:
        desk.dictate()
        entry.shows("w1 deux w3!")


def test_nonsense_on_the_socket_is_answered_and_harms_nobody(desk):
    desk.dictate("start")
    nonsense = (
        b"\xff\n",
        b"fly\n",
        b"{}\n",
        b'{"do": "start", "wish": 7}\n',
        b'{"do": "start", "wish": {"wings": 2}}\n',
    )
    for line in nonsense:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
            agent.settimeout(PATIENCE_S)
            agent.connect(str(desk.socket))
            agent.sendall(line)
            assert json.loads(agent.recv(4096))["error"]["status"] in (1, 2)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
        agent.settimeout(PATIENCE_S)
        agent.connect(str(desk.socket))
        with suppress(ConnectionError):
            agent.sendall(b"x" * 100_000)
            assert agent.recv(1) == b""
    assert desk.state()["state"] == "listening"
