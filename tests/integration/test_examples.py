"""The examples in clients/examples, run as their READMEs say, against a real daemon."""

import os
import re
import shutil
import subprocess
import sys
import time
import wave
from pathlib import Path

import pytest

from tests.running import PATIENCE_S

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "clients" / "examples"
SHORT = ROOT / "tests" / "data" / "light.flac"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    from tests.running import RunningDaemon

    running = RunningDaemon.start(tmp_path_factory.mktemp("daemon"), "--tcp", "off", "--model", "fake")
    yield running
    assert running.stop() == 0, running.log()


@pytest.fixture
def environment(daemon):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "STTD_SOCKET": str(daemon.control), "PATH": path}


@pytest.fixture(scope="module")
def pcm():
    import av

    resampler = av.AudioResampler(format="s16", layout="mono", rate=16000)
    with av.open(str(SHORT)) as container:
        parts = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    return b"".join(part.to_ndarray().tobytes() for part in parts)


@pytest.fixture
def recording(tmp_path, pcm):
    path = tmp_path / "speech.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(pcm + bytes(32000))
    return path


def run(*command, environment, **options):
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        env=environment,
        timeout=PATIENCE_S,
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_file_is_transcribed_in_ten_lines(environment):
    example = EXAMPLES / "transcribe-file" / "transcribe.py"
    lines = [line for line in example.read_text().splitlines() if line]
    assert len(lines) <= 10
    assert re.match(r"w1 w2 w3", run(example, SHORT, environment=environment, text=True))


def test_several_files_are_transcribed_at_once(environment, recording):
    lines = run(EXAMPLES / "transcribe-many" / "transcribe.py", SHORT, recording, environment=environment, text=True)
    first, second = lines.splitlines()
    assert first.startswith(f"{SHORT}: w1 w2 w3")
    assert second.startswith(f"{recording}: w1 w2 w3")


def test_the_program_of_the_tutorial_shows_text_while_it_is_spoken(environment, pcm):
    page = (ROOT / "docs" / "tutorial" / "first-client.md").read_text()
    (program,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "aio" in block)
    shown = run("-c", program, environment=environment, input=pcm + bytes(32000)).decode()
    assert re.search(r"^ +\d+\.\d+ s  w1 w2 w3", shown, re.MULTILINE)


def test_live_captions_grow(environment, pcm):
    out = run(EXAMPLES / "live-captions" / "captions.py", environment=environment, input=pcm + bytes(32000)).decode()
    assert re.search(r"\nw1|\x1b\[Kw1 w2", out)


def test_push_to_talk_gives_the_text_of_what_was_said_while_the_key_was_held(environment, recording):
    command = [sys.executable, str(EXAMPLES / "push-to-talk" / "push_to_talk.py"), str(recording)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr.readline().startswith("press Enter")
        process.stdin.write("\n")
        process.stdin.flush()
        time.sleep(1.6)  # the recording plays as fast as it was spoken
        process.stdin.write("\n")
        process.stdin.flush()
        words = process.stdout.readline().split()
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    assert len(words) >= 3  # 300 ms a word; a busy machine holds the key for longer, and never for less
    assert out.strip() == ""  # nothing was said to it afterwards


@pytest.mark.skipif(not shutil.which("nvim"), reason="Neovim is not installed")
def test_neovim_inserts_what_is_dictated(environment, recording, tmp_path):
    text, shown = tmp_path / "text.txt", tmp_path / "shown"
    text.write_text("Dear reader,\n")
    script = tmp_path / "script.lua"
    script.write_text(
        f"""
        vim.g.sttd_listen_command = {{"sttctl", "listen", "--json", "--file", "{recording}"}}
        vim.cmd("normal! G$")
        vim.cmd("SttdDictate")
        local saw_interim, namespace = false, vim.api.nvim_get_namespaces().sttd
        vim.wait(100000, function()
          for _, mark in ipairs(vim.api.nvim_buf_get_extmarks(0, namespace, 0, -1, {{details = true}})) do
            saw_interim = saw_interim or (mark[4].virt_text and mark[4].virt_text[1][1]:match("w1") ~= nil)
          end
          local marks = vim.api.nvim_buf_get_extmarks(0, namespace, 0, -1, {{}})
          return #marks == 0 and vim.api.nvim_get_current_line():match("w2")
        end, 20)
        local status = vim.api.nvim_exec("SttdStatus", true)
        vim.fn.writefile({{saw_interim and "interim" or "no interim", status}}, "{shown}")
        vim.cmd("wq")
        """
    )
    plugin = EXAMPLES / "neovim"
    command = ["nvim", "--headless", "-u", "NONE", "--cmd", f"set rtp+={plugin}", str(text)]
    command += ["-c", f"source {plugin}/plugin/sttd.vim", "-c", f"luafile {script}", "-c", "qa!"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE_S, check=True)
    assert "Error" not in done.stderr, done.stderr
    assert re.fullmatch(r"Dear reader, w1 w2 w3( w\d)*\n", text.read_text())
    interim, status = shown.read_text().splitlines()
    assert interim == "interim"
    assert re.match(r"sttd [\d.]+, ready: ", status)
