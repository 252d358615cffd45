"""A desktop for tests: an X server without a screen, a window that writes down what it is typed, a microphone."""

import ast
import os
import shutil
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager

import pytest

from tests.running import PATIENCE_S

ENTRY = """
    import os, sys, tkinter
    root = tkinter.Tk()
    text = tkinter.Text(root)
    text.pack()
    def save():
        with open(sys.argv[1] + ".new", "w") as file:
            file.write(text.get("1.0", "end-1c"))
        os.rename(sys.argv[1] + ".new", sys.argv[1])
        root.after(50, save)
    def visible(event):
        text.unbind("<Visibility>")
        text.focus_force()
        root.update()
        root.after(100, save)
    text.bind("<Visibility>", visible)
    root.mainloop()
"""

# A window of GTK with two fields: told on standard input which of them gets the focus, it says so when that has it;
# asked for the "text" of the plain one, it says that.
FIELDS = """
    import sys, gi
    gi.require_version("Gtk", "3.0")
    from gi.repository import GLib, Gtk
    window, box = Gtk.Window(), Gtk.Box()
    fields = {"plain": Gtk.Entry(), "password": Gtk.Entry(visibility=False)}
    window.add(box)
    for name, field in fields.items():
        box.add(field)
        field.connect("notify::has-focus", lambda field, _, name=name: field.has_focus() and print(name, flush=True))
    window.show_all()
    def obey(*_):
        word = sys.stdin.readline().strip()
        if word == "text":
            print(repr(fields["plain"].get_text()), flush=True)
        else:
            fields[word].grab_focus()
            window.get_window().focus(0)  # there is no window manager
        return True
    GLib.io_add_watch(sys.stdin, GLib.IO_IN, obey)
    Gtk.main()
"""

# Plays a recording, then a quiet room, as fast as it is spoken, until it is told to end.
RECORDER = """
    import os, signal, sys, time
    if "--help" in sys.argv:
        sys.exit(0)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    with open(os.environ["TEST_MICROPHONE"], "rb") as file:
        data = file.read()
    due = time.monotonic()
    at = 0
    while True:
        os.write(1, data[at : at + 1280].ljust(1280, bytes(1)))
        at += 1280
        due += 0.04
        time.sleep(max(0.0, due - time.monotonic()))
"""


def need(*programs):
    """Skip where a program is missing."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def wait_for(condition, what, *, seconds=PATIENCE_S):
    """Until it holds: what happens is in other processes."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.05)


@contextmanager
def x_server():
    """An X server of its own; yields its DISPLAY."""
    need("Xvfb")
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "640x480x24", "-noreset", "-nolisten", "tcp"]
    process = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    try:
        with os.fdopen(read) as file:
            number = file.readline().strip()
        assert number, "Xvfb does not start"
        yield f":{number}"
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


class Window:
    """A window with the keyboard's focus, and what was typed into it."""

    def __init__(self, path, process):
        self.path, self.process = path, process

    @property
    def text(self):
        return self.path.read_text() if self.path.exists() else ""

    def shows(self, text):
        """Wait for this text; what comes late comes, but wrong text is not waited for for long."""
        wait_for(lambda: len(self.text) >= len(text), lambda: f"typed: {self.text!r}, expected: {text!r}")
        wait_for(lambda: self.text == text, lambda: f"typed: {self.text!r}, expected: {text!r}", seconds=20)


@contextmanager
def window(path, environ):
    """A text field that has the focus."""
    pytest.importorskip("tkinter", reason="no tkinter")
    path.unlink(missing_ok=True)
    script = path.with_suffix(".py")
    script.write_text(textwrap.dedent(ENTRY))
    command = [sys.executable, str(script), str(path)]
    process = subprocess.Popen(command, env={**environ, "LC_ALL": "C.UTF-8"})
    try:
        wait_for(path.exists, "no window opens")
        yield Window(path, process)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


class Fields:
    """A window of GTK with a "plain" and a "password" field."""

    def __init__(self, process):
        self._process = process

    def focus(self, name):
        """Put the cursor into a field."""
        self._tell(name)
        while self._hear() != name:
            pass

    @property
    def text(self):
        """What is in the plain field."""
        self._tell("text")
        while not (line := self._hear()).startswith(("'", '"')):
            pass
        return ast.literal_eval(line)

    def _tell(self, word):
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()

    def _hear(self):
        line = self._process.stdout.readline()
        assert line, "the window has gone"
        return line.rstrip("\n")


@contextmanager
def gtk_fields(environ):
    """`Fields`, where Debian's Python has GTK."""
    python = "/usr/bin/python3"
    gtk = [python, "-c", "import gi; gi.require_version('Gtk', '3.0'); from gi.repository import Gtk"]
    try:
        found = subprocess.run(gtk, env=environ, capture_output=True, check=False, timeout=PATIENCE_S)
    except OSError:
        pytest.skip(f"there is no {python}")
    if found.returncode:
        pytest.skip("python3-gi and gir1.2-gtk-3.0 are not installed")
    command = [python, "-c", textwrap.dedent(FIELDS)]
    environ = {**environ, "LC_ALL": "C.UTF-8"}
    process = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Fields(process)
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)


@contextmanager
def terminal(path, environ):
    """An xterm that writes the lines it is typed to `path`."""
    need("xterm", "xdotool")
    path.unlink(missing_ok=True)
    command = ["xterm", "-u8", "-e", "sh", "-c", f"cat > {path}"]
    process = subprocess.Popen(command, env={**environ, "LC_ALL": "C.UTF-8"})
    try:
        wait_for(path.exists, "no terminal opens")
        found = ["xdotool", "search", "--sync", "--onlyvisible", "--class", "xterm", "windowfocus", "--sync"]
        subprocess.run(found, env=environ, check=True, timeout=PATIENCE_S, capture_output=True)
        yield Window(path, process)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@contextmanager
def compositor(path):
    """Sway without a screen, and a terminal in it that writes the lines it is typed to `path`; yields its environment.

    Sway does not run as root, so root runs it as nobody.
    """
    need("sway", "foot", "setpriv")
    home = path.parent
    config = home / "sway.conf"
    config.write_text(f"xwayland disable\nexec foot --config=/dev/null sh -c 'cat > {path}'\n")
    environ = {name: text for name, text in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    environ |= {"XDG_RUNTIME_DIR": str(home), "WLR_BACKENDS": "headless", "WLR_LIBINPUT_NO_DEVICES": "1"}
    environ |= {"WLR_RENDERER": "pixman", "LC_ALL": "C.UTF-8", "HOME": str(home)}
    command = ["sway", "-c", str(config)]
    if os.geteuid() == 0:
        shutil.chown(home, 65534)
        command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *command]
    log = home / "sway.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environ, stdout=output, stderr=output)
    try:
        wait_for(lambda: path.exists() or process.poll() is not None, "no terminal opens")
        if process.poll() is not None:
            pytest.skip(f"sway does not run here: {log.read_text()[-200:]}")
        (display,) = home.glob("wayland-?")
        yield {**environ, "WAYLAND_DISPLAY": display.name}
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def microphone(directory, pcm):
    """Environment in which every recorder plays `pcm`, and the folder of its programs first in PATH."""
    programs = directory / "bin"
    programs.mkdir()
    recording = directory / "microphone.pcm"
    recording.write_bytes(pcm)
    for name in ("pw-record", "parec", "arecord"):
        program = programs / name
        program.write_text(f"#!{sys.executable} -S\n{textwrap.dedent(RECORDER)}")
        program.chmod(0o755)
    return {"PATH": f"{programs}:{os.environ['PATH']}", "TEST_MICROPHONE": str(recording)}
