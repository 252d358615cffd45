"""The page as axe-core sees it (MPL-2.0; as axe-core-python carries it): in light and dark, in all that it can show."""

from pathlib import Path

import pytest

from tests.browser import IDLE, NEEDS_BROWSER, url_of
from tests.conftest import ROOT

axe_core_python = pytest.importorskip("axe_core_python")
pytestmark = NEEDS_BROWSER

AXE = Path(axe_core_python.__file__).with_name("axe.min.js")
RUN = """axe.run(document, { resultTypes: ['violations'] }).then(({ violations, passes }) => ({
  wrong: violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html, any }) =>
    `${html.slice(0, 200)} ${any.map(({ message }) => message)}`).join('; ')}`),
  held: passes.map(({ id }) => id),
}))"""


@pytest.fixture
def look(page):
    """`look("listening")`: axe finds nothing, in light and in dark."""

    def looked(what):
        if page.eval("typeof axe") == "undefined":
            page.eval(AXE.read_text() + "; 0")
        for scheme in ("light", "dark"):
            page.scheme(scheme)
            found = page.eval(RUN)
            assert found["wrong"] == [], f"{what}, {scheme}"
            assert {"color-contrast", "button-name"} <= set(found["held"])

    return looked


@pytest.mark.parametrize("width", [1280, 360])
def test_axe_finds_nothing(page, serve, look, width, tmp_path):
    bad = tmp_path / "notes.txt"
    bad.write_text("no sound")
    page.size(width, mobile=width < 500)
    cache = str(tmp_path / "cache")  # without models, so that the page says how to get one
    page.open(url_of(serve("--model", "fake", "--tcp", "127.0.0.1:0", env={"XDG_CACHE_HOME": cache, "HF_HOME": cache})))
    page.wait_for("!document.getElementById('notice').hidden")
    look("idle")
    page.click("#toggle")
    page.wait_for("document.querySelector('.tail') !== null")
    look("listening")
    page.wait_for("document.querySelector('.final') !== null")
    page.click("#toggle")
    page.wait_for(IDLE)
    page.eval(  # the fake is as sure of every word
        "document.querySelectorAll('.word').forEach((word, at) => { word.className = `word doubt${at % 3}`; });"
        " document.querySelectorAll('.word')[1].classList.add('playing'); 0"
    )
    look("with a transcript, doubtful words and one that is heard")
    page.press("e")
    look("editing")
    page.press("Escape")
    page.eval("document.getElementById('save').open = true; 0")
    look("with what can be saved")
    for button, dialog in (("more", "get"), ("shortcuts", "help"), ("remove", "sure")):
        page.eval(f"document.getElementById({button!r}).click(); 0")
        look(dialog)
        page.eval(f"document.getElementById({dialog!r}).close(); 0")
    page.eval("document.getElementById('ask').showModal(); 0")
    look("asked for the token")
    page.eval("document.getElementById('ask').close(); 0")
    page.add_files(ROOT / "sttd" / "assets" / "sample.flac", bad)
    look("with files that are on their way")
    page.wait_for("[...document.querySelectorAll('#transcripts small')].at(-1).textContent.startsWith('This is no')")
    page.eval("[...document.querySelectorAll('#transcripts button')].at(-1).click(); 0")
    if width < 500:
        page.click("#menu")
    look("with a file that failed")
    page.eval(
        "document.getElementById('state').dataset.kind = 'error'; document.getElementById('lag').textContent = 'x'; 0"
    )
    look("with an error and lag")
