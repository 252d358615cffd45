"""deploy/haproxy/rolling-restart, with machines that answer as a test says."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "haproxy" / "rolling-restart"
PATIENCE_S = 60


@pytest.fixture
def restart(tmp_path):
    """`restart(answers)`: run it for the machines `a` and `b`. Returns what was said to them and how it ended.

    `answers` are lines of shell, by the first words of what is run.
    """
    log, on = tmp_path / "log", tmp_path / "on"

    def start(answers, **environ):
        told = {"sttctl status": """echo '"admission": 0.0'""", **answers}
        cases = "".join(f"'{words}'*) {answer} ;;\n" for words, answer in told.items())
        on.write_text(f'#!/bin/sh\nmachine=$1; shift\necho $machine $1 $2 >> {log}\ncase "$*" in\n{cases}esac\n')
        on.chmod(0o755)
        environ = {**os.environ, "ON": str(on), "SETTLE_S": "0", **environ}
        return subprocess.Popen([SCRIPT, "a", "b"], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run(answers, **environ):
        process = start(answers, **environ)
        _, said = process.communicate(timeout=PATIENCE_S)
        return log.read_text().splitlines(), process.returncode, said.decode()

    run.start, run.log = start, log
    return run


def test_one_machine_comes_after_the_other(restart):
    commands, status, said = restart({})
    steps = ("sttctl drain", "systemctl restart", "sttctl status")
    assert commands == [f"{machine} {step}" for machine in "ab" for step in steps]
    assert (status, said) == (0, "")


@pytest.mark.parametrize(
    ("answers", "status"),
    [({"sttctl drain": "exit 6"}, 6), ({"sttctl drain": "exit 3"}, 3), ({"systemctl restart": "exit 5"}, 5)],
)
def test_a_machine_that_is_not_restarted_is_opened_again_and_the_others_are_left_alone(restart, answers, status):
    commands, ended, said = restart(answers)
    assert (commands[-1], ended) == ("a sttctl undrain", status)
    assert not [command for command in commands if command.startswith("b")]
    assert "a: was not restarted; it takes new sessions again" in said


def test_who_cannot_open_it_again_is_told_to(restart):
    _, status, said = restart({"sttctl drain": "exit 255", "sttctl undrain": "exit 255"})
    assert status == 255
    assert "say `sttctl undrain` there" in said


def test_a_machine_that_does_not_come_back_ends_it_before_the_next_one_goes(restart):
    commands, status, said = restart({"sttctl status": """echo '"admission": 1.0'"""}, READY_S="0")
    assert (commands[-1], status) == ("a sttctl status", 1)
    assert "a: was restarted, and takes no sessions after 0 s" in said


def test_an_interruption_opens_the_machine_again(restart):
    process = restart.start({"sttctl drain": "echo waits; sleep 1"})
    assert process.stdout.readline() == b"a: takes no new sessions\n"
    assert process.stdout.readline() == b"waits\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert restart.log.read_text().splitlines() == ["a sttctl drain", "a sttctl undrain"]
    assert b"it takes new sessions again" in said
