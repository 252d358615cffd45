"""What people really run, given sttd's address: the speech services of pipecat and LiveKit, as their makers wrote them.

They are half a gigabyte and want an environment of their own: `make programs` makes one, and then these tests run.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from benchmarks.recordings import read_audio
from tests.running import PATIENCE_S, RunningDaemon, free_port

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / "build" / "programs" / "bin" / "python"

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="`make programs` gets pipecat and LiveKit's plugins")


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    chosen = free_port()
    daemon = RunningDaemon.start(
        tmp_path_factory.mktemp("programs") / "run", "--model", "demo", "--tcp", f"127.0.0.1:{chosen}"
    )
    yield chosen
    daemon.stop()


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    samples = read_audio(ROOT / "tests" / "data" / "light.flac")
    file = tmp_path_factory.mktemp("spoken") / "light.pcm"
    file.write_bytes((samples * 32767).astype("<i2").tobytes())
    assert np.abs(samples).max() > 0.1
    return file


@pytest.mark.parametrize("wire", ["openai", "deepgram"])
@pytest.mark.parametrize("program", ["pipecat_stt", "livekit_stt"])
def test_a_program_gets_its_text_with_an_address_alone(port, spoken, program, wire):
    script = ROOT / "tests" / "programs" / f"{program}.py"
    ran = subprocess.run(
        [PYTHON, script, wire, str(port), spoken],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "PYTHONPATH": ""},
        check=False,
    )
    lines = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    assert [line["final"] for line in lines if "final" in line] == ["Turn on the kitchen light."], ran.stderr[-2000:]
    assert not [line for line in lines if "error" in line]
