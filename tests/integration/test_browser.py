"""The live-caption page in a real Chromium, with a recording as its microphone and a real daemon behind it."""

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
from tests.running import read_pcm

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; on Debian: apt install chromium"),
]


@attrs.define
class Page:
    """One page of the browser, driven through its debugging protocol."""

    socket: object
    _ids: itertools.count = attrs.field(factory=itertools.count)

    def call(self, method, **params):
        number = next(self._ids)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while (answer := json.loads(self.socket.recv(timeout=20))).get("id") != number:
            pass
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

    def wait_for(self, script, *, timeout_s=20.0):
        """Poll an expression until it is true; returns its value."""
        deadline = time.monotonic() + timeout_s
        while not (value := self.eval(script)):
            assert time.monotonic() < deadline, f"never: {script}; state: {self.eval('document.body.innerText')}"
            time.sleep(0.05)
        return value

    def state(self):
        return self.eval("document.getElementById('state').textContent")

    def click(self, selector):
        self.eval(f"document.querySelector({selector!r}).click()")


@pytest.fixture(scope="module")
def microphone(tmp_path_factory):
    """The bundled sample, said once."""
    path = tmp_path_factory.mktemp("microphone") / "sample.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(read_pcm(ROOT / "sttd" / "assets" / "sample.flac", rate=48_000))
    return path


@pytest.fixture
def page(tmp_path, microphone):
    """A page in a fresh browser that grants the microphone."""
    process = subprocess.Popen(
        [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",  # the tests may run as root
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--remote-debugging-port=0",
            f"--user-data-dir={tmp_path / 'profile'}",
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
        with urlopen(f"http://{address}/json/list", timeout=10) as answer:
            target = next(row for row in json.load(answer) if row["type"] == "page")
        with connect(target["webSocketDebuggerUrl"], max_size=None) as socket:
            yield Page(socket)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.fixture
def daemon(serve):
    return serve("--model", "fake", "--tcp", "127.0.0.1:0")


def url_of(daemon, host="127.0.0.1"):
    listeners = daemon.call("status")["server"]["listeners"]
    return f"http://{host}:{next(name.rpartition(':')[2] for name in listeners if name.startswith('audio-tcp'))}/"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_speech_becomes_captions_with_a_stable_part_and_a_tail(page, daemon, host):
    page.open(url_of(daemon, host))
    page.click("#toggle")
    page.wait_for("document.getElementById('state').textContent.startsWith('Listening')")
    page.wait_for("document.querySelector('.stable')?.textContent.startsWith('w1 w2')")
    assert page.eval("document.querySelector('.tail') !== null")
    first = page.wait_for("document.querySelector('.final')?.textContent")
    assert re.fullmatch(r"w1( w\d+)+", first)
    assert re.search(r"\d+ ms after the last word", page.eval("document.querySelector('.meta').textContent"))
    page.click("#toggle")
    page.wait_for("document.getElementById('state').textContent.startsWith('Stopped after')")
    assert page.eval("document.querySelectorAll('.tail').length") == 0  # every utterance got its final
    page.wait_for("document.getElementById('toggle').textContent === 'Listen'")
    assert daemon.call("status")["sessions"]["total"] == 1


def test_the_page_can_listen_again_and_choose_a_model(page, daemon):
    page.open(url_of(daemon))
    for _ in range(2):
        page.click("#toggle")
        page.wait_for("document.getElementById('state').textContent.startsWith('Listening')")
        page.eval("document.getElementById('model').value = 'fake'")
        page.click("#toggle")
        page.wait_for("document.getElementById('toggle').textContent === 'Listen'")
        assert page.state().startswith("Stopped")
    assert daemon.call("status")["sessions"]["total"] == 2


def test_a_token_is_asked_for_and_remembered_for_the_tab(page, serve):
    daemon = serve("--model", "fake", "--tcp", "127.0.0.1:0", env={"STTD_SERVER__TOKEN": "s3cret-token"})
    page.open(url_of(daemon))
    page.click("#toggle")
    page.wait_for("document.getElementById('ask').open")
    page.eval("document.getElementById('token').value = 's3cret-token'")
    page.click("#ask button.primary")
    page.wait_for("document.getElementById('state').textContent.startsWith('Listening')")
    assert "s3cret" not in page.eval("location.href")
    page.click("#toggle")
    page.wait_for("document.getElementById('toggle').textContent === 'Listen'")


def test_an_error_is_shown_in_words(page, daemon):
    page.open(url_of(daemon))
    page.eval("document.getElementById('lang').value = 'zz'")
    page.click("#toggle")
    page.wait_for("document.getElementById('state').dataset.kind === 'error'")
    assert "lang" in page.state()
    page.wait_for("document.getElementById('toggle').textContent === 'Listen'")


def test_a_foreign_page_gets_nothing(page, daemon):
    """The other page is on the same machine: another port is another origin."""
    own = url_of(daemon)
    page.open("data:text/html,<p>foreign</p>")
    websocket = own.replace("http", "ws") + "ws"
    outcome = page.eval(
        f"new Promise((done) => {{ const s = new WebSocket({websocket!r});"
        " s.onopen = () => done('open'); s.onerror = () => done('refused'); })"
    )
    assert outcome == "refused"
    assert page.eval(f"fetch({own + 'status'!r}).then(() => 'read', () => 'refused')") == "refused"
    assert daemon.call("status")["sessions"]["total"] == 0


def test_the_policy_of_the_page_holds_and_blocks_nothing_of_its_own(page, daemon):
    page.call("Log.enable")
    page.open(url_of(daemon))
    assert page.eval("getComputedStyle(document.querySelector('footer')).position") == "sticky"  # its style is applied
    foreign = page.eval("fetch('https://example.invalid/').then(() => 'sent', (error) => error.message)")
    assert foreign != "sent"
    injected = (
        "const s = document.createElement('script'); s.textContent = 'window.injected = 1'; document.body.append(s)"
    )
    page.eval(injected + "; 0")
    assert page.eval("window.injected") is None
