"""The reference pages: the generated parts are the code's, and the programs on them run."""

import importlib.machinery
import importlib.util
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sttd.wire import messages
from sttd.wire.schema import describe
from tests.running import PATIENCE_S, RunningDaemon, read_pcm, read_to_end, say, speak, start, transcribe

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


def load_script(name):
    loader = importlib.machinery.SourceFileLoader(name.replace("-", "_"), str(ROOT / "scripts" / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def programs(page, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", (REFERENCE / page).read_text(), re.DOTALL)


@pytest.mark.parametrize("page", ["control.md", "audio.md", "errors.md", "configuration.md"])
def test_the_generated_parts_are_the_code_s(page):
    text = (REFERENCE / page).read_text()
    assert "<!-- generated: " in text
    assert load_script("make-reference").render(text) == text, "run scripts/make-reference"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    daemon = RunningDaemon.start(
        tmp_path_factory.mktemp("reference") / "sttd", "--tcp", f"127.0.0.1:{port}", "--model", "fake"
    )
    yield daemon, port
    assert daemon.stop() == 0


def run(program, daemon, **options):
    env = {**os.environ, "XDG_RUNTIME_DIR": str(daemon.directory.parent)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, timeout=PATIENCE_S, **options)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_the_control_client_runs(served):
    daemon, _ = served
    (program,) = programs("control.md")
    assert "'state': 'ready'" in run(program + "\nprint(result)", daemon)


def test_the_shortest_audio_client_runs(served):
    daemon, port = served
    (program,) = programs("audio.md")
    speech = read_pcm(ROOT / "tests" / "data" / "date.flac")
    text = run(program.replace("7788", str(port)), daemon, input=speech + bytes(64_000))
    assert text.startswith("w1 w2")


def test_the_daemon_says_what_the_reference_says(served):
    daemon, _ = served
    speech = read_pcm(ROOT / "tests" / "data" / "date.flac")
    events = [{"type": "started", **started(daemon)}]
    with daemon.connect() as client:
        start(client, words=True, interim=True)
        events += speak(daemon, client, speech + bytes(64_000), until=bool)  # who sends all at once may get none
        say(client, "stop")
        events += read_to_end(client)
    events += transcribe(daemon, speech, kind="file", words=True)
    assert {"interim", "final", "progress", "stopped"} <= {event["type"] for event in events}
    for event in events:
        declared = describe(messages.EVENTS[event["type"]])
        assert set(event) - {"type"} <= set(declared)
        for name, field in declared.items():
            assert name in event or not field["required"], name


def started(daemon):
    with daemon.connect() as client:
        options = start(client)
        assert set(options) - {"type"} == set(describe(messages.Started)) - {"resume_token"}
        return {name: value for name, value in options.items() if name != "type"}


def test_results_have_the_keys_of_the_reference(served):
    daemon, _ = served
    methods = daemon.call("describe")["methods"]
    params = {"load": {"preset": "fake"}}
    for method in ("hello", "ping", "status", "models", "load", "unload", "sessions", "config", "reload", "describe"):
        assert set(daemon.call(method, **params.get(method, {}))) == set(methods[method]["result"]), method
