"""The page when its connection is lost, its daemon starts anew, or text comes late: it says so and goes on."""

import re

import pytest

from tests.browser import IDLE, LISTENS, NEEDS_BROWSER, url_of
from tests.soak.proxy import Proxy

pytestmark = NEEDS_BROWSER


@pytest.fixture
def daemon(serve):
    return serve("--model", "fake", "--tcp", "127.0.0.1:0")


@pytest.fixture
def line(daemon, tmp_path):
    """What stands between the page and the daemon."""
    proxy = Proxy(None, daemon.audio)
    yield proxy
    proxy.close()


def test_a_connection_that_is_cut_is_made_anew_and_no_word_is_missing(page, daemon, line):
    page.open(f"http://127.0.0.1:{line.port}/")
    page.click("#toggle")
    page.wait_for("document.querySelector('.stable')?.textContent.startsWith('w1')")
    line.away = True
    line.cut()
    page.wait_for("document.getElementById('state').textContent.startsWith('The connection is lost.')")
    line.away = False
    page.wait_for("document.getElementById('state').textContent.startsWith('Connected again after')")
    page.wait_for("document.querySelectorAll('.final').length >= 2")
    page.click("#toggle")
    page.wait_for(IDLE)
    assert page.state().startswith("Stopped after")
    assert daemon.call("status")["sessions"]["total"] == 1
    for text in page.eval("[...document.querySelectorAll('.final')].map((line) => line.textContent)"):
        assert text.split() == [f"w{number}" for number in range(1, len(text.split()) + 1)]


def test_who_gives_a_lost_connection_up_keeps_what_was_shown(page, line):
    page.open(f"http://127.0.0.1:{line.port}/")
    page.click("#toggle")
    page.wait_for("document.querySelector('.stable')?.textContent.startsWith('w1')")
    line.away = True
    line.cut()
    page.wait_for("document.getElementById('state').textContent.startsWith('The connection is lost.')")
    page.click("#toggle")
    page.wait_for("document.getElementById('toggle').textContent === 'Give up'")
    page.click("#toggle")
    page.wait_for(IDLE)
    assert page.state().startswith("Stopped; the last words were not heard.")
    assert page.eval("document.querySelector('.final').textContent.startsWith('w1')")


def test_a_daemon_that_was_started_again_hears_the_sound_once_more(page, serve, daemon, line):
    page.open(f"http://127.0.0.1:{line.port}/")
    page.click("#toggle")
    page.wait_for("document.querySelector('.stable')?.textContent.startsWith('w1')")
    daemon.process.kill()
    daemon.process.wait()
    daemon.expected_status = -9
    page.wait_for("document.getElementById('state').textContent.startsWith('The connection is lost.')")
    again = serve("--model", "fake", "--tcp", "127.0.0.1:0")
    page.wait_for("document.getElementById('state').textContent.startsWith('The daemon was started anew.')")
    page.wait_for("document.querySelectorAll('.final').length >= 1")
    page.click("#toggle")
    page.wait_for(IDLE)
    assert page.eval("document.querySelector('.word').textContent") == "w1"
    assert page.eval("document.querySelectorAll('.open').length") == 0
    assert again.call("status")["sessions"]["total"] == 1


def test_lag_is_said_while_text_does_not_come(page, serve):
    page.open(url_of(serve("--model", "fake", "--tcp", "127.0.0.1:0", "--set", "presets.fake.decode_ms=5000")))
    page.click("#toggle")
    page.wait_for(LISTENS)
    lag = page.wait_for("document.getElementById('lag').textContent")
    assert re.fullmatch(r"Text is \d+ s behind: the machine is busy\.", lag)
    assert page.eval("[...document.querySelectorAll('#said p')].some((p) => p.textContent.startsWith('Text is'))")
