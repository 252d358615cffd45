"""The page with a pretrained model: what a person says is shown, heard again from its word, and saved."""

from __future__ import annotations

import json
import re

import pytest

from benchmarks.words import words
from sttd.wire.cues import clock
from tests.browser import IDLE, NEEDS_BROWSER, browser, url_of, write_microphone

pytestmark = [pytest.mark.real, pytest.mark.slow, *NEEDS_BROWSER]

LINES = "of.keeping.kept()[0].lines"
MARGIN_S = 0.3  # of playing.js


@pytest.fixture
def page(testdata, tmp_path):
    microphone = write_microphone(tmp_path / "jfk.wav", testdata / "speech" / "jfk.flac")
    with browser(tmp_path / "profile", microphone) as page:
        yield page


def test_what_a_person_says_is_shown_heard_again_from_its_word_and_saved_as_subtitles(page, serve, model_on_disk):
    model_on_disk("tiny.en")
    daemon = serve("--model", "tiny.en", "--tcp", "127.0.0.1:0", "--set", "scheduler.decode_timeout_s=3000")
    daemon.call("load", preset="tiny.en", keep_alive_s=-1)
    page.open(url_of(daemon))
    page.click("#toggle")
    page.wait_for("of.listening.running?.resuming.phase === 'open'")
    page.eval("globalThis.recording = of.listening.running.recording; 0")
    page.wait_for("[...document.querySelectorAll('.final')].map((line) => line.textContent).join().includes('country')")
    page.click("#toggle")
    page.wait_for(IDLE)
    page.wait_for(f"of.keeping.kept().length && {LINES}.length === document.querySelectorAll('.final').length")
    lines = page.eval(LINES)
    text = " ".join(line["text"] for line in lines)
    assert {"what", "country"} <= set(words(text))

    page.eval(
        "globalThis.played = []; const start = AudioBufferSourceNode.prototype.start;"
        " AudioBufferSourceNode.prototype.start = function (when, offset) {"
        "   played.push([offset, this.buffer.getChannelData(0)[Math.round(offset * 16000)]]);"
        "   return start.call(this, when, offset); };"
        " [...document.querySelectorAll('.word')].find((word) => /^country/.test(word.textContent)).click()"
    )
    page.wait_for("played.length === 1")
    [[offset_s, sample]] = page.eval("played")
    spoken = next(word for line in lines for word in line["words"] if word["word"].startswith("country"))
    assert offset_s == pytest.approx(MARGIN_S)
    asked = page.eval(f"recording.slice(Math.round({spoken['start_s']} * 16000), Infinity)[0]")
    assert sample == pytest.approx(asked / 32768, abs=1e-6)
    # Whether that is where it is said: the first "country" of this recording begins some 6 s behind its first sound.
    loud_s = page.eval("[...recording.slice(0, Infinity)].findIndex((sample) => Math.abs(sample) > 1000) / 16000")
    assert spoken["start_s"] - loud_s == pytest.approx(6.0, abs=1.0)

    saved = page.eval(f"of.export.subrip({json.dumps(lines)})")
    shown = [line for cue in saved.strip().split("\n\n") for line in cue.splitlines()[2:]]
    assert words(" ".join(shown)) == words(text)
    assert max(map(len, shown)) <= 42, saved
    times = re.findall(r"(\S+) --> (\S+)", saved)
    assert [time for pair in times for time in pair] == sorted(time for pair in times for time in pair)
    assert times[0][0] == clock(lines[0]["words"][0]["start_s"], ",")
