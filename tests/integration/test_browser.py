"""The live-caption page in a real Chromium, with a recording as its microphone and a real daemon behind it."""

import json
import re

import pytest

from tests.browser import NEEDS_BROWSER, url_of

pytestmark = NEEDS_BROWSER


@pytest.fixture
def daemon(serve):
    return serve("--model", "fake", "--tcp", "127.0.0.1:0")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_speech_becomes_captions_with_a_stable_part_and_a_tail(page, daemon, host):
    page.open(url_of(daemon, host))
    page.click("#toggle")
    page.wait_for("document.getElementById('state').textContent.startsWith('Listening')")
    page.wait_for("document.querySelector('.stable')?.textContent.startsWith('w1 w2')")
    assert page.eval("document.querySelector('.tail') !== null")
    first = page.wait_for("document.querySelector('.final')?.textContent")
    assert re.fullmatch(r"w1( w\d+)+", first)
    assert re.search(r"\d\.\d s after the last word", page.eval("document.getElementById('took').textContent"))
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
        page.set_value("model", "fake")
        page.click("#toggle")
        page.wait_for("document.getElementById('toggle').textContent === 'Listen'")
        assert page.state().startswith("Stopped")
    assert daemon.call("status")["sessions"]["total"] == 2


def listen(page, daemon):
    page.open(url_of(daemon))
    page.click("#toggle")
    page.wait_for("document.getElementById('state').textContent.startsWith('Listening')")
    page.wait_for(HEARS)


IS_AN_ERROR = "document.getElementById('state').dataset.kind === 'error'"
SOURCE = "of.listening.running.source"
TRACK = f"{SOURCE}.stream.getAudioTracks()[0]"
HEARS = (
    "document.getElementById('state').textContent.startsWith('Listening')"
    f" && performance.now() - {SOURCE}.heardAt < 1000"
)


def test_a_microphone_that_stops_is_said_and_the_last_words_come(page, daemon):
    listen(page, daemon)
    page.wait_for("document.querySelector('.stable')?.textContent.startsWith('w1')")
    page.eval(f"{TRACK}.stop()")
    page.wait_for("document.getElementById('toggle').textContent === 'Listen'")
    assert page.state().startswith("The microphone has stopped.")
    assert page.eval(IS_AN_ERROR)
    assert page.eval("document.getElementById('level').value") == 0
    assert page.eval("document.querySelector('.final').textContent.startsWith('w1')")
    assert page.eval("document.querySelectorAll('.tail').length") == 0
    page.click("#toggle")
    page.wait_for(HEARS)


def test_a_page_that_the_browser_paused_says_so_and_goes_on(page, daemon):
    """What was on its way when it was paused may arrive later, and be heard: so nothing is asked only once."""
    listen(page, daemon)
    page.eval(f"{SOURCE}.audio.suspend().then(() => {{ globalThis.pausedAt = performance.now(); return 0; }})")
    page.wait_for(f"{SOURCE}.audio.state === 'running' && {SOURCE}.heardAt > pausedAt")  # it is woken at once
    page.eval(f"{SOURCE}.audio.resume = () => Promise.reject(new Error('not without a click'))")
    page.eval(f"{SOURCE}.audio.suspend().then(() => 0)")
    page.wait_for(
        f"{IS_AN_ERROR} && document.getElementById('level').value === 0"
        " && document.getElementById('state').textContent.startsWith('The browser gives this page no sound. Click')"
    )
    page.eval("document.getElementById('level').value = 0.5; 0")  # as sound does that was on its way
    page.wait_for("document.getElementById('level').value === 0")
    page.eval("delete of.listening.running.source.audio.resume")
    page.click("main")
    page.wait_for(f"{HEARS} && !({IS_AN_ERROR})")


def test_audio_that_never_begins_is_said(page, daemon):
    page.open(url_of(daemon))
    page.eval(
        "AudioContext = class extends AudioContext {"
        " constructor(options) { super(options); this.suspend(); } resume() { return new Promise(() => {}); } }; 0"
    )
    page.click("#toggle")
    page.wait_for(IS_AN_ERROR)
    assert page.state().startswith("The browser gives this page no sound.")
    page.click("#toggle")
    page.wait_for("document.getElementById('toggle').textContent === 'Listen'")


def test_a_muted_microphone_is_said_until_it_is_not(page, daemon):
    listen(page, daemon)
    page.eval(f"Object.defineProperty({TRACK}, 'muted', {{ value: true, configurable: true }}); 0")
    page.eval(f"{TRACK}.dispatchEvent(new Event('mute'))")
    assert page.state().startswith("The microphone is muted.")
    page.eval(f"delete {TRACK}.muted")
    page.eval(f"{TRACK}.dispatchEvent(new Event('unmute'))")
    assert page.state().startswith("Listening")


def bare(serve, tmp_path, *arguments, **environment):
    """A daemon whose machine has no model but the embedded ones; models can be put into `tmp_path / "cache"`."""
    cache = str(tmp_path / "cache")
    env = {"XDG_CACHE_HOME": cache, "HF_HOME": cache, **environment}
    return serve("--model", "fake", "--tcp", "127.0.0.1:0", *arguments, env=env)


KNOWS = "of.models.known !== null"  # the daemon has said which models there are


def usable(page):
    """The presets that can be chosen, besides the default."""
    return page.eval("[...document.getElementById('model').options].map((o) => o.value).filter(Boolean)")


def missing(page):
    """The presets of which it is said how to get them."""
    return page.eval("[...document.querySelectorAll('#missing li')].map((row) => row.dataset.preset)")


def test_only_models_on_disk_are_chosen_from_and_of_the_rest_it_is_said_how_to_get_them(page, serve, tmp_path):
    page.open(url_of(bare(serve, tmp_path)))
    page.wait_for(KNOWS)
    assert sorted(usable(page)) == ["demo", "fake"]
    assert {"tiny.en", "base", "large-v3-turbo"} <= set(missing(page))
    assert page.eval("document.querySelector('#model option').textContent") == "default: fake"
    page.click("#more")
    assert page.eval("document.getElementById('get').open")
    assert page.eval("document.querySelector('[data-preset=small] code').textContent") == "sttctl pull small"
    page.click("#get button.primary")
    assert not page.eval("document.getElementById('get').open")


def test_without_a_network_the_unit_that_downloads_is_named(page, serve, tmp_path):
    page.open(url_of(bare(serve, tmp_path, HF_HUB_OFFLINE="1")))
    page.wait_for("!document.getElementById('notice').hidden")
    command = page.eval("document.querySelector('#notice code').textContent")
    assert command.startswith("sudo systemctl start sttd-pull@")


def test_a_model_that_is_slow_here_is_marked(page, serve, tmp_path):
    page.open(url_of(bare(serve, tmp_path)))
    page.wait_for(KNOWS)
    page.eval("of.models.known.presets.find((row) => row.preset === 'demo').realtime = false; of.models.offer(); 0")
    assert "slow here" in page.eval("document.querySelector('#model option[value=demo]').textContent")


def test_the_command_is_copied(page, serve, tmp_path):
    url = url_of(bare(serve, tmp_path))
    permissions = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    page.call("Browser.grantPermissions", origin=url.rstrip("/"), permissions=permissions)
    page.open(url)
    page.call("Page.bringToFront")
    page.wait_for("!document.getElementById('notice').hidden")
    shown = page.eval("document.querySelector('#notice code').textContent")
    assert re.fullmatch(r"sttctl pull [a-z0-9.-]+", shown)
    page.click("#notice button")
    page.wait_for("document.querySelector('#notice button').textContent === 'Copied'")
    assert page.eval("navigator.clipboard.readText()") == shown


def test_who_comes_back_with_a_model_finds_it(page, serve, tmp_path):
    page.open(url_of(bare(serve, tmp_path)))
    page.wait_for("!document.getElementById('notice').hidden")
    folder = tmp_path / "cache" / "sttd" / "models" / "tiny.en"
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "vocabulary.txt", "model.bin"):
        (folder / name).write_text("{}")
    # The daemon may answer with what it found a moment ago, so somebody comes back more than once.
    page.wait_for("dispatchEvent(new Event('focus')), document.getElementById('notice').hidden")
    assert "tiny.en" in usable(page)
    assert "tiny.en" not in missing(page)


def test_what_no_session_may_name_is_not_offered_once_that_is_known(page, serve, tmp_path):
    page.open(url_of(bare(serve, tmp_path, "--set", 'models.selectable=["fake", "base"]')))
    page.wait_for(KNOWS)
    page.click("#toggle")
    page.wait_for("document.getElementById('state').textContent.startsWith('Listening')")
    assert usable(page) == ["fake"]
    assert missing(page) == ["base"]


@pytest.mark.parametrize(("shown", "lang", "languages"), [("es, en", None, ["es", "en"]), ("en", "en", None)])
def test_one_language_is_meant_and_several_are_a_choice(page, daemon, shown, lang, languages):
    page.open(url_of(daemon))
    page.eval(
        "window.sent = []; const send = WebSocket.prototype.send;"
        "WebSocket.prototype.send = function (data) { window.sent.push(data); return send.call(this, data); }; 0"
    )
    page.set_value("lang", shown)
    page.click("#toggle")
    page.wait_for("window.sent.length > 0")
    start = json.loads(page.eval("window.sent[0]"))
    assert (start["op"], start.get("lang"), start.get("languages")) == ("start", lang, languages)


def test_a_token_is_asked_for_and_remembered_for_the_tab(page, serve):
    daemon = serve("--model", "fake", "--tcp", "127.0.0.1:0", env={"STTD_SERVER__TOKEN": "s3cret-token"})
    page.open(url_of(daemon))
    page.click("#toggle")
    assert page.eval("document.getElementById('model').options.length") == 1  # it tells strangers nothing
    page.wait_for("document.getElementById('ask').open")
    page.eval("document.getElementById('token').value = 's3cret-token'")
    page.click("#ask button.primary")
    page.wait_for("document.getElementById('state').textContent.startsWith('Listening')")
    assert "s3cret" not in page.eval("location.href")
    page.wait_for("document.getElementById('model').options.length > 2")
    assert "fake" in usable(page)
    page.click("#toggle")
    page.wait_for("document.getElementById('toggle').textContent === 'Listen'")


def test_an_error_is_shown_in_words(page, daemon):
    page.open(url_of(daemon))
    page.set_value("lang", "zz")
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
