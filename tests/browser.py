"""A real Chromium with a recording as its microphone, driven through its debugging protocol, for tests of the page."""

import contextlib
import itertools
import json
import re
import shutil
import subprocess
import time
import wave
from urllib.request import urlopen

import attrs
import pytest
from websockets.sync.client import connect

from tests.conftest import ROOT
from tests.running import PATIENCE_S, read_pcm

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NEEDS_BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; on Debian: apt install chromium"),
]
MODULES = [
    name.stem for name in (ROOT / "sttd/assets/page").glob("*.js") if name.stem not in ("page", "tap", "theme")
]  # those that can be asked from outside
LISTENS = "document.getElementById('state').textContent.startsWith('Listening')"
IDLE = "document.getElementById('toggle').textContent === 'Listen' && !document.getElementById('toggle').disabled"


class NavigatedError(Exception):
    """The page went away under a question."""


@attrs.define
class Page:
    """One page of the browser, driven through its debugging protocol."""

    socket: object
    _ids: itertools.count = attrs.field(factory=itertools.count)

    def call(self, method, **params):
        number = next(self._ids)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while (answer := json.loads(self.socket.recv(timeout=PATIENCE_S))).get("id") != number:
            pass
        if answer.get("error", {}).get("message") == "Inspected target navigated or closed":
            raise NavigatedError
        assert "error" not in answer, answer
        return answer["result"]

    def eval(self, script):
        """The value of an expression, awaited where it is a promise."""
        result = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")
        if url.startswith("http"):
            # What the modules of the page export, as they have it at any time: `of.listening.running`.
            self.eval(
                f"Promise.all({MODULES}.map(async (name) => [name, await import(`/page/${{name}}.js`)]))"
                ".then((all) => { globalThis.of = Object.fromEntries(all); })"
            )

    def _look(self, script):
        """What an expression is; None while another page takes the place of this one."""
        try:
            return self.eval(script)
        except NavigatedError:
            return None

    def wait_for(self, script, *, timeout_s=PATIENCE_S):
        """Poll an expression until it is true; returns its value."""
        deadline = time.monotonic() + timeout_s
        while not (value := self._look(script)):
            assert time.monotonic() < deadline, f"never: {script}; state: {self.eval('document.body.innerText')}"
            time.sleep(0.05)
        return value

    def state(self):
        return self.eval("document.getElementById('state').textContent")

    def click(self, selector):
        self.eval(f"document.querySelector({selector!r}).click()")

    def set_value(self, name, value):
        """As somebody does who chooses or types."""
        self.eval(
            f"{{ const field = document.getElementById({name!r}); field.value = {json.dumps(value)};"
            " for (const sign of ['input', 'change']) field.dispatchEvent(new Event(sign, { bubbles: true })); }"
        )

    def press(self, key, *, shift=False):
        """A key, as the keyboard gives it."""
        text = key if len(key) == 1 else {"Enter": "\r"}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            code = {"Tab": 9, "Enter": 13, "Escape": 27}.get(key, ord(key.upper()[0]) if len(key) == 1 else 0)
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                windowsVirtualKeyCode=code,
                text=text if kind == "keyDown" else "",
                modifiers=8 * shift,
            )

    def add_files(self, *paths):
        """Choose files, as in the dialog of the system."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def scheme(self, name):
        """Prefer `light` or `dark`, as the system may."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def size(self, width, height=800, *, mobile=False):
        """In CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)


def write_microphone(path, source=ROOT / "sttd" / "assets" / "sample.flac"):
    """A recording in the form that Chromium takes for a microphone."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(read_pcm(source, rate=48_000))
    return path


@contextlib.contextmanager
def browser(profile, microphone):
    """A page in a fresh browser that grants the microphone, which says its recording once."""
    process = subprocess.Popen(
        [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",  # the tests may run as root
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
            "--autoplay-policy=no-user-gesture-required",
            "--use-fake-ui-for-media-stream",
            "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-audio-capture={microphone}%noloop",
            "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = next(found[1] for line in process.stderr if (found := re.search(r"ws://([^/]+)/", line)))
        with urlopen(f"http://{address}/json/list", timeout=PATIENCE_S) as answer:
            target = next(row for row in json.load(answer) if row["type"] == "page")
        with connect(
            target["webSocketDebuggerUrl"], max_size=None, open_timeout=PATIENCE_S, ping_interval=None
        ) as socket:
            yield Page(socket)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def url_of(daemon, host="127.0.0.1"):
    listeners = daemon.call("status")["server"]["listeners"]
    return f"http://{host}:{next(name.rpartition(':')[2] for name in listeners if name.startswith('audio-tcp'))}/"
