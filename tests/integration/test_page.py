"""Working with the page: files, words that are heard, lines that are edited, what is kept, keyboard, phone."""

import base64
import json
import re
import time

import pytest

from tests.browser import IDLE, LISTENS, NEEDS_BROWSER, url_of
from tests.conftest import ROOT
from tests.running import PATIENCE_S

pytestmark = NEEDS_BROWSER

SAMPLE = ROOT / "sttd" / "assets" / "sample.flac"
WORDS = "[...document.querySelectorAll('.word')].map((word) => word.textContent)"
TITLE = "document.getElementById('title').textContent"
FILE = "document.getElementById('work-words').textContent"


@pytest.fixture
def daemon(serve):
    return serve("--model", "fake", "--tcp", "127.0.0.1:0")


def states(page):
    """What the list says of each transcript, by its name."""
    return page.eval(
        "Object.fromEntries([...document.querySelectorAll('#transcripts button')]"
        ".map((button) => [button.children[0].textContent, button.children[1].textContent]))"
    )


def heard(page, *, finals=1):
    """Listen until there are so many lines, then stop."""
    page.click("#toggle")
    page.wait_for(LISTENS)
    page.eval("globalThis.recording = of.listening.running.recording; 0")
    page.wait_for(f"document.querySelectorAll('.final').length >= {finals}")
    page.click("#toggle")
    page.wait_for(IDLE)


def select(page, name):
    page.eval(
        "[...document.querySelectorAll('#transcripts button')]"
        f".find((button) => button.children[0].textContent === {name!r}).click()"
    )


# ---------------------------------------------------------------- files


def test_files_wait_in_a_queue_show_how_far_they_are_and_become_transcripts_of_their_own(page, daemon, tmp_path):
    bad = tmp_path / "notes.txt"
    bad.write_text("no sound at all, however long one listens\n" * 50)
    page.open(url_of(daemon))
    page.eval(
        "globalThis.said = new Set(); new MutationObserver(() => said.add(document.getElementById('work-words')"
        ".textContent)).observe(document.getElementById('work-words'), { childList: true }); 0"
    )
    page.add_files(SAMPLE, bad)
    assert page.eval(TITLE) == "sample.flac"
    page.wait_for(f"{FILE}.startsWith('Done: 2')")
    said = " | ".join(page.eval("[...said]"))
    assert re.search(r"\d+ % of \d+ kB sent", said)
    assert re.search(r"0:\d\d of 0:2\d done", said)
    assert page.eval(WORDS)[:3] == ["w1", "w2", "w3"]
    page.eval(
        "globalThis.played = []; const play = HTMLMediaElement.prototype.play;"
        " HTMLMediaElement.prototype.play = function () {"
        "   played.push([this.src.split(':')[0], this.currentTime]); return play.call(this); };"
        " document.querySelectorAll('.word')[5].click()"
    )
    page.wait_for("document.querySelector('.playing') !== null")
    asked_s = float(page.eval("document.querySelectorAll('.word')[5].dataset.from"))
    assert asked_s > 1.5
    assert page.eval("played") == [["blob", pytest.approx(asked_s)]]
    select(page, "notes.txt")
    page.wait_for(f"{FILE}.startsWith('This is no sound that can be read.')")
    assert page.eval("document.getElementById('again').checkVisibility()")
    select(page, "Live")
    assert page.eval(WORDS) == []
    assert states(page)["Live"] == "Nothing yet"


def test_a_file_that_is_dropped_can_be_cancelled_and_begun_again(page, serve):
    page.open(url_of(serve("--model", "fake", "--tcp", "127.0.0.1:0", "--set", "presets.fake.decode_ms=1000")))
    sound = base64.b64encode(SAMPLE.read_bytes()).decode()
    page.eval(
        "(() => { const carried = new DataTransfer();"
        f" carried.items.add(new File([Uint8Array.from(atob('{sound}'), (c) => c.charCodeAt(0))], 'talk.flac'));"
        " const drag = (kind) => document.body.dispatchEvent("
        "   new DragEvent(kind, { dataTransfer: carried, bubbles: true, cancelable: true }));"
        " drag('dragover'); globalThis.invited = document.getElementById('drop').checkVisibility(); drag('drop'); })()"
    )
    assert page.eval("invited")
    assert not page.eval("document.getElementById('drop').checkVisibility()")
    assert page.eval(TITLE) == "talk.flac"
    page.click("#cancel")
    assert page.eval(FILE) == "Cancelled"
    page.click("#again")
    page.wait_for(f"{FILE}.startsWith('Done')")
    assert page.eval(WORDS)[:2] == ["w1", "w2"]
    page.click("#remove")
    page.click("#sure button[value=ok]")
    page.wait_for("document.querySelectorAll('#transcripts button').length === 1")
    assert page.eval(TITLE) == "Live"


# ---------------------------------------------------------------- hearing, editing, saving


def test_a_word_is_heard_from_its_own_time_by_click_and_by_key_and_its_sound_stays_in_the_browser(page, daemon):
    page.open(url_of(daemon))
    heard(page)
    page.eval(
        "globalThis.played = []; const start = AudioBufferSourceNode.prototype.start;"
        " AudioBufferSourceNode.prototype.start = function (when, offset, ...rest) {"
        "   played.push([offset, this.buffer.length, this.buffer.getChannelData(0)[Math.round(offset * 16000)]]);"
        "   return start.call(this, when, offset, ...rest); };"
        " globalThis.sent = 0; WebSocket.prototype.send = () => { sent += 1; }; 0"
    )
    page.eval("document.querySelectorAll('.word')[3].click()")
    page.wait_for("played.length === 1 && document.querySelector('.playing') !== null")
    page.eval("document.querySelectorAll('.word')[3].focus()")
    page.press("ArrowRight")
    assert page.eval("document.activeElement.textContent") == "w5"
    page.press("Enter")
    page.wait_for("played.length === 2")
    page.press("Escape")
    page.wait_for("document.querySelector('.playing') === null")
    kept = "of.keeping.kept()[0].lines[0]"
    page.wait_for("of.keeping.kept().length === 1")
    for number, (offset, length, sample) in zip((3, 4), page.eval("played"), strict=True):
        start_s, end_s = page.eval(f"[{kept}.words[{number}].start_s, {kept}.end_s]")
        assert offset == pytest.approx(0.3)  # the breath before it, which is in the buffer but not played
        assert length == pytest.approx((end_s - start_s + 0.6) * 16_000, abs=2)
        from_there = page.eval(f"recording.slice(Math.round({start_s} * 16000), Infinity)[0]")
        assert sample == pytest.approx(from_there / 32768, abs=1e-6)
    assert page.eval("sent") == 0


def test_a_line_is_edited_by_keyboard_and_what_is_saved_has_the_edit(page, daemon):
    page.open(url_of(daemon))
    heard(page)
    words = page.eval(WORDS)
    page.press("e")
    page.wait_for("document.activeElement.tagName === 'TEXTAREA'")
    page.eval("document.activeElement.value = 'Hello ' + document.activeElement.value; 0")
    page.press("Enter")
    assert page.eval(WORDS) == ["Hello", *words]
    page.press("e")
    page.eval("document.activeElement.value = 'never'; 0")
    page.press("Escape")
    assert page.eval(WORDS) == ["Hello", *words]
    page.eval(
        "globalThis.saved = {}; globalThis.blobs = {};"
        " const make = URL.createObjectURL;"
        " URL.createObjectURL = (blob) => { const url = make(blob); blobs[url] = blob; return url; };"
        " HTMLAnchorElement.prototype.click = function () {"
        "   saved[this.download.split('.').pop()] = blobs[this.href]; };"
        " for (const button of document.querySelectorAll('[data-format]')) button.click(); 0"
    )
    saved = {ending: page.eval(f"saved.{ending}.text()") for ending in page.eval("Object.keys(saved)")}
    line = " ".join(["Hello", *words])
    assert saved["txt"] == line + "\n"
    assert re.match(r"1\n00:00:0\d,\d{3} --> 00:00:0\d,\d{3}\nHello w1 ", saved["srt"])
    assert re.match(r"WEBVTT\n\n00:00:0\d\.\d{3} --> 00:00:0\d\.\d{3}\nHello w1 ", saved["vtt"])
    row = json.loads(saved["json"])["lines"][0]
    assert (row["text"], row["edited"], row["words"][0]["probability"]) == (line, True, None)
    page.click(".edit")
    page.eval("document.activeElement.value = ''; 0")
    page.press("Enter")
    assert page.eval(WORDS) == []
    page.click("#undo")
    assert page.eval(WORDS) == ["Hello", *words]
    page.press("u")
    assert page.eval(WORDS) == words
    assert page.eval("document.getElementById('undo').hidden")


# ---------------------------------------------------------------- what is kept


def test_a_reload_keeps_settings_and_text_and_asks_first_while_it_listens(page, daemon):
    asks = "!dispatchEvent(new Event('beforeunload', { cancelable: true }))"
    url = url_of(daemon)
    page.open(url)
    page.wait_for("of.models.known !== null")
    page.set_value("model", "fake")
    page.set_value("lang", "en")
    page.set_value("theme", "dark")
    page.click("#dim")
    page.click("#toggle")
    page.wait_for("document.querySelectorAll('.final').length === 1")
    assert page.eval(asks)
    page.click("#toggle")
    page.wait_for(IDLE)
    assert not page.eval(asks)
    words = page.eval(WORDS)
    page.open(url)
    page.wait_for("document.getElementById('model').value === 'fake'")
    assert page.eval("document.getElementById('lang').value") == "en"
    assert page.eval("document.documentElement.dataset.theme") == "dark"
    assert not page.eval("document.getElementById('dim').checked")
    assert page.eval(WORDS) == words
    page.eval("document.querySelector('.word').click()")
    page.wait_for("document.getElementById('state').textContent.startsWith('The sound of this line is gone')")
    page.click("#toggle")  # what is said now stands below what was said before the reload
    page.wait_for("document.querySelectorAll('.final').length === 2")
    page.click("#toggle")
    page.wait_for(IDLE)
    assert page.eval(WORDS)[: len(words)] == words
    assert len(page.eval(WORDS)) > len(words)


def test_a_page_that_is_left_while_it_listens_asks_and_leaves_no_session_behind(page, daemon):
    page.call("Page.enable")
    page.open(url_of(daemon))
    page.click("#toggle")
    page.wait_for(LISTENS)
    page.eval("setTimeout(() => { location.href = 'about:blank'; }); 0")
    until(lambda: accepted(page))
    page.wait_for("location.href === 'about:blank'")
    until(lambda: not daemon.call("sessions")["sessions"])
    assert daemon.call("status")["sessions"]["total"] == 1


def until(holds):
    """Another process cannot be waited for otherwise."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def accepted(page):
    """Whether there was a question to say yes to."""
    try:
        page.call("Page.handleJavaScriptDialog", accept=True)
    except AssertionError:
        return False
    return True


def test_the_sound_of_a_tab_is_listened_to_and_one_that_is_shared_without_sound_is_said(page, daemon):
    page.open(url_of(daemon))
    page.eval(
        "navigator.mediaDevices.getDisplayMedia = async () => globalThis.shared; globalThis.shared = new MediaStream();"
        " document.querySelector('[name=source][value=tab]').click()"
    )
    assert "Tick “Also share audio”" in page.eval("document.getElementById('source-note').textContent")
    page.click("#toggle")
    page.wait_for(IDLE)
    assert page.state().startswith("No sound was shared.")
    page.eval(
        "navigator.mediaDevices.getUserMedia({ audio: true })"
        ".then((stream) => { globalThis.shared = stream; return 0; })"
    )
    page.click("#toggle")
    page.wait_for("document.querySelector('.stable')?.textContent.startsWith('w1')")
    page.eval("shared.getTracks()[0].stop()")
    page.wait_for(IDLE)
    assert page.state().startswith("The sharing has ended.")


def test_at_whatever_rate_the_browser_gives_the_sound_it_arrives_at_16_khz_without_what_that_cannot_hold(page, daemon):
    """One second of a tone each, through the page's worklet: its level before the first and after the last moment."""
    page.open(url_of(daemon))
    script = """(async (rate, tone) => {
      const audio = new OfflineAudioContext(1, rate, rate), got = [];
      await audio.audioWorklet.addModule("/page/tap.js");
      const tap = new AudioWorkletNode(audio, "tap", { numberOfOutputs: 1 });
      tap.port.onmessage = ({ data }) => got.push(...new Int16Array(data.audio));
      const source = new OscillatorNode(audio, { frequency: tone });
      source.connect(tap).connect(audio.destination);
      source.start();
      await audio.startRendering();
      while (got.length < 15400) await new Promise((done) => setTimeout(done, 10));  // it comes from another thread
      const some = got.slice(1600, -1600);
      return [got.length, Math.sqrt(some.reduce((sum, value) => sum + value * value, 0) / some.length) / 32768];
    })"""
    for rate in (16_000, 44_100, 48_000):
        length, level = page.eval(f"{script}({rate}, 1000)")
        assert length <= 16_000
        assert level == pytest.approx(0.707, abs=0.01)
        if rate > 16_000:
            assert page.eval(f"{script}({rate}, 12000)")[1] < 0.003


def test_a_browser_that_gives_a_microphone_at_its_own_rate_alone_is_listened_to(page, daemon):
    page.open(url_of(daemon))
    page.eval(
        "{ const make = AudioContext.prototype.createMediaStreamSource;"
        " AudioContext.prototype.createMediaStreamSource = function (stream) {"
        "   if (this.sampleRate === 16000) throw new DOMException('another rate', 'NotSupportedError');"
        "   return make.call(this, stream); }; }"
    )
    page.click("#toggle")
    page.wait_for("document.querySelector('.final')?.textContent.startsWith('w1 w2')")
    assert page.eval("of.listening.running.source.audio.sampleRate") != 16_000
    page.click("#toggle")
    page.wait_for(IDLE)


# ---------------------------------------------------------------- keyboard and phone


def test_everything_is_reached_by_keyboard_and_shows_where_one_is(page, daemon):
    page.size(1280)
    page.open(url_of(daemon))
    heard(page)
    page.eval("document.activeElement.blur(); 0")
    reached, visible = [], []
    for _ in range(40):
        page.press("Tab")
        name, outline = page.eval(
            "(() => { const a = document.activeElement; return [a.id || a.className || a.name || a.tagName,"
            " getComputedStyle(a).outlineStyle]; })()"
        )
        reached.append(name)
        visible.append(outline)
        if name == "toggle":  # the last; the next are the browser's own
            break
    assert {"skip", "choose", "source", "model", "lang", "dim", "theme", "keys", "shortcuts", "copy", "remove"} <= set(
        reached
    )
    assert {"SUMMARY", "hear", "edit", "toggle"} <= set(reached)
    assert sum("word" in name.split() for name in reached) == 1  # a long text is one stop
    assert set(visible) == {"solid"}
    page.press("?", shift=True)
    assert page.eval("document.getElementById('help').open")
    page.press("Escape")
    page.wait_for("!document.getElementById('help').open")
    page.press("l")
    page.wait_for("document.getElementById('toggle').textContent === 'Stop'")
    page.click("#keys")
    page.press("l")
    assert page.eval("document.getElementById('toggle').textContent") == "Stop"


def test_on_a_phone_nothing_is_wider_than_the_screen(page, daemon):
    page.size(360, 740, mobile=True)
    page.open(url_of(daemon))
    wide = "document.documentElement.scrollWidth"
    assert page.eval(wide) == 360
    page.click("#menu")
    assert page.eval("document.getElementById('model').checkVisibility()")
    assert page.eval(wide) == 360
    page.click("#menu")
    assert not page.eval("document.getElementById('model').checkVisibility()")
    heard(page)
    assert page.eval(wide) == 360
    for button, dialog in (("more", "get"), ("shortcuts", "help"), ("remove", "sure")):
        page.click(f"#{button}")
        assert page.eval(f"document.getElementById('{dialog}').getBoundingClientRect().width") <= 360
        page.eval(f"document.getElementById('{dialog}').close()")
