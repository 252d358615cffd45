"""Completion scripts, tried in the shells that are installed; manual pages; both as they lie in the repository."""

import json
import os
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
from sttd_client.ctl.commands import COMMANDS
from sttd_client.ctl.completion import script
from sttd_client.ctl.manpage import escaped, page
from sttd_client.ctl.parser import build_parser

ROOT = Path(__file__).parents[4]


@pytest.fixture
def stub(tmp_path):
    """An environment whose `sttctl` lists presets and one session, as a running daemon would."""
    models = {
        "presets": [
            {"preset": "base", "model": "x", "loaded": True, "local": True, "default_for": ["final"]},
            {"preset": "tiny", "model": "tiny", "loaded": False, "local": True, "default_for": []},
            {"preset": "small", "model": "small", "loaded": False, "local": False, "default_for": []},
        ],
        "auto": "base",
    }
    program = tmp_path / "sttctl"
    program.write_text(
        '#!/bin/sh\ncase "$2" in\n'
        f"models) echo '{json.dumps(models)}' ;;\n"
        """sessions) echo '{"sessions": [{"session": "s000001"}]}' ;;\nesac\n"""
    )
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}


def bash_completions(environment, *words, cwd):
    line = " ".join(f"'{word}'" for word in words)
    call = f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _sttctl"
    program = f'{script("bash")}\n{call}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True, env=environment, cwd=cwd)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sttctl", "trans"], ["transcribe"]),
        (["sttctl", "--j"], ["--json"]),
        (["sttctl", "transcribe", "--format", "s"], ["srt"]),
        (["sttctl", "transcribe", "-f", ""], ["txt", "srt", "vtt", "json", "jsonl", "tsv"]),
        (["sttctl", "transcribe", "--out"], ["--output"]),
        (["sttctl", "transcribe", "sou"], ["sound.wav"]),
        (["sttctl", "transcribe", "-m", "b"], ["base"]),
        (["sttctl", "load", ""], ["base", "tiny"]),  # what is on disk
        (["sttctl", "unload", ""], ["base"]),  # what is loaded
        (["sttctl", "pull", ""], ["small"]),  # what is not on disk
        (["sttctl", "--json", "close", ""], ["s000001"]),
        (["sttctl", "watch", "tran"], ["transcripts"]),
        (["sttctl", "completion", ""], ["bash", "zsh", "fish"]),
        (["sttctl", "listen", "--fi"], []),  # for tests, not for people
    ],
)
def test_bash_completes(stub, tmp_path, words, expected):
    (tmp_path / "sound.wav").touch()
    assert bash_completions(stub, *words, cwd=tmp_path) == expected


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
def test_fish_completes(stub, tmp_path):
    def completions(line):
        program = f"{script('fish')}\ncomplete -C '{line}'"
        done = subprocess.run(["fish", "-N", "-c", program], capture_output=True, text=True, check=True, env=stub)
        return [row.split("\t")[0] for row in done.stdout.splitlines()]

    assert completions("sttctl trans") == ["transcribe"]
    assert completions("sttctl load b") == ["base"]
    assert completions("sttctl pull ") == ["small"]
    assert "srt" in completions("sttctl transcribe --format s")
    assert completions("sttctl watch tran") == ["transcripts"]


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_zsh_reads_the_script(tmp_path):
    path = tmp_path / "_sttctl"
    path.write_text(script("zsh"))
    subprocess.run(["zsh", "-n", str(path)], check=True)


def test_every_command_is_in_the_help_the_page_and_each_script():
    text = build_parser().format_help()
    for name in COMMANDS:
        assert f"\n    {name} " in text
        assert f"\n.SS {name}" in page()
        assert all(name in script(shell) for shell in ("bash", "zsh", "fish"))


def test_troff_gets_nothing_that_it_would_take_for_its_own():
    assert escaped(".hidden -x \\n") == "\\&.hidden \\-x \\en"


def test_the_generated_files_are_up_to_date():
    pages = runpy.run_path(str(ROOT / "scripts" / "make-manpages"))["pages"]()
    for path, text in pages.items():
        assert (ROOT / path).read_text() == text, f"{path}: run scripts/make-manpages"


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
@pytest.mark.parametrize("name", ["sttctl.1", "sttd.8", "sttd.toml.5"])
def test_the_manual_pages_are_troff_without_complaints(name):
    command = ["groff", "-man", "-ww", "-Tutf8", "-Kutf8", str(ROOT / "docs" / "man" / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.startswith(name.split(".")[0].upper())
