"""scripts/make-venv where the package index has the locked releases, other ones, other files, or does not answer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "make-venv"
# Stands for the Python of the environment: writes down what pip is asked for, and fails as pip does.
PIP = """\
#!/bin/sh
shift 5
echo "$@" >>"$CALLS"
case "$*" in
    --require-hashes*) printf '%s\\n' "$LOCKED" >&2; [ -z "$LOCKED" ] ;;
    *) [ -z "$OFFLINE" ] ;;
esac
"""
LOCKED = "--require-hashes -r some.lock"
MISSING = "ERROR: No matching distribution found for attrs==99.0"
OTHER = "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE."


@pytest.fixture
def make_venv(tmp_path):
    """Runs it over an environment that is there; gives its status, what it says of errors, what pip was asked for."""
    (tmp_path / "bin").mkdir()
    for name in ("pip", "python"):
        (tmp_path / "bin" / name).write_text(PIP)
        (tmp_path / "bin" / name).chmod(0o755)

    def run(**environ):
        calls = tmp_path / "calls"
        environ = {"STTD_LOCK": "", "LOCKED": "", "OFFLINE": "", "CALLS": str(calls), **environ}
        command = [SCRIPT, sys.executable, tmp_path, ".", "some.lock"]
        done = subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr, calls.read_text().splitlines()

    return run


def test_the_locked_releases_are_installed_and_nothing_else(make_venv):
    assert make_venv() == (0, "", [LOCKED, "--no-deps -e ."])


def test_an_index_without_them_gives_others_and_that_is_said(make_venv):
    status, said, calls = make_venv(LOCKED=MISSING)
    assert (status, calls) == (0, [LOCKED, "-e ."])
    assert MISSING in said
    assert "others are installed" in said


@pytest.mark.parametrize("environ", [{"LOCKED": OTHER}, {"LOCKED": MISSING, "STTD_LOCK": "strict"}])
def test_other_files_are_refused_and_other_releases_by_who_is_strict(make_venv, environ):
    status, said, calls = make_venv(**environ)
    assert (status, calls) == (1, [LOCKED])
    assert environ["LOCKED"] in said
    assert ("STTD_LOCK=off" in said) == (environ["LOCKED"] == OTHER)


def test_who_turns_the_lock_off_gets_what_there_is(make_venv):
    assert make_venv(LOCKED=OTHER, STTD_LOCK="off") == (0, "", ["-e ."])


def test_without_any_index_it_is_said_what_to_do(make_venv):
    status, said, _ = make_venv(LOCKED=MISSING, OFFLINE="1")
    assert status == 1
    assert "PIP_INDEX_URL" in said
