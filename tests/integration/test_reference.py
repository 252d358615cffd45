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

from tests.running import RunningDaemon, read_pcm

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


def load_script(name):
    loader = importlib.machinery.SourceFileLoader(name.replace("-", "_"), str(ROOT / "scripts" / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def programs(page, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", (REFERENCE / page).read_text(), re.DOTALL)


@pytest.mark.parametrize("page", ["control.md", "audio.md", "errors.md"])
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
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, timeout=60, **options)
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
