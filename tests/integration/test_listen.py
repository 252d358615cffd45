"""`sttctl listen` with two channels and a transcript, however it ends; recordings stand for what recorders give."""

import fcntl
import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import termios
import textwrap
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from tests.cutting import cutting
from tests.desktop import wait_for
from tests.running import PATIENCE_S, RunningDaemon, read_pcm

DATA = Path(__file__).parents[1] / "data"
STTCTL = Path(sys.executable).with_name("sttctl")
LONG, SHORT = "number.flac", "question.flac"  # `fake` hears a word in every 300 ms of them

# Both recorders: each plays its file and then a quiet room, twice as fast as it is spoken, until it is told to end; or,
# where there is a file of that name, is unplugged, or gives nothing more.
RECORDER = """
    import os, signal, sys, time
    if "--help" in sys.argv:
        print("--properties --raw")
        sys.exit(0)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    folder = os.environ["TEST_SOUND"]
    name = "system" if any("capture.sink" in word for word in sys.argv) else "microphone"
    with open(os.path.join(folder, name + ".pcm"), "rb") as file:
        data = file.read()
    due, at = time.monotonic(), 0
    while at < len(data) or not os.path.exists(os.path.join(folder, name + ".unplugged")):
        if at < len(data) or not os.path.exists(os.path.join(folder, name + ".stuck")):
            os.write(1, data[at : at + 1280].ljust(1280, bytes(1)))
        at += 1280
        due += 0.02
        time.sleep(max(0.0, due - time.monotonic()))
    sys.exit(1)
"""
PACTL = """#!/bin/sh
case $1 in
info) printf 'Server Name: PulseAudio (on PipeWire 1.0)\\nDefault Sink: speakers\\nDefault Source: mic\\n' ;;
list) printf '0\\tspeakers\\tx\\ty\\tz\\n' ;;
esac
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    running = RunningDaemon.start(tmp_path_factory.mktemp("daemon"), "--tcp", "off", "--model", "fake")
    yield running
    assert running.stop() == 0, running.log()


@pytest.fixture
def sound(tmp_path):
    """A machine that plays the long text, while somebody says the short one in its middle; its environment."""
    folder = tmp_path / "sound"
    programs = folder / "bin"
    programs.mkdir(parents=True)
    for name, text in (("pw-record", f"#!{sys.executable} -S\n{textwrap.dedent(RECORDER)}"), ("pactl", PACTL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (folder / "system.pcm").write_bytes(read_pcm(DATA / LONG))
    (folder / "microphone.pcm").write_bytes(bytes(16_000) + read_pcm(DATA / SHORT))
    return {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "TEST_SOUND": str(folder)}


def unplug(sound, name):
    Path(sound["TEST_SOUND"], f"{name}.unplugged").touch()


def speak_on(sound):
    """Both say the same again and again, with a pause of a second."""
    for path in Path(sound["TEST_SOUND"]).glob("*.pcm"):
        path.write_bytes((path.read_bytes() + bytes(32_000)) * 50)


def words_in(text):
    """The words of `fake` in a text, the longest run of them."""
    return re.findall(r"w\d+", text)


class Listening:
    """`sttctl listen` under way, and the transcript that it writes."""

    def __init__(self, process, path):
        self.process, self.path = process, path

    @property
    def text(self):
        return self.path.read_text() if self.path.exists() else ""

    def wrote(self, *needles):
        """Wait until the transcript has all of this."""
        wait_for(
            lambda: all(needle in self.text for needle in needles) or self.process.poll() is not None,
            lambda: f"the transcript: {self.text!r}",
        )
        assert all(needle in self.text for needle in needles), f"{self.text!r}, status {self.process.poll()}"

    def ends(self, signal_number=None):
        """Tell it to end, or wait until it does; status, standard output, standard error."""
        if signal_number is not None:
            self.process.send_signal(signal_number)
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out, err


def heed_hangups():
    """Also where the tests run under `nohup`, which has children ignore them."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@contextmanager
def listening(control, sound, path, *arguments, output=("--output",), **options):
    command = [str(STTCTL), "--socket", str(control), "listen", *arguments, *output, str(path)]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "preexec_fn": heed_hangups}
    with subprocess.Popen(command, env=sound, **(piped | options)) as process:
        watchdog = threading.Timer(PATIENCE_S, process.kill)  # who reads of it then finds the end
        watchdog.start()
        try:
            yield Listening(process, path)
        finally:
            watchdog.cancel()
            process.kill()


def cues_of(text):
    """The cues of a SubRip file: (start, text). Fails where it is none."""
    cues = []
    for number, block in enumerate(text.split("\n\n"), 1):
        match = re.fullmatch(
            r"(\d+)\n(\d\d:\d\d:\d\d,\d{3}) --> (\d\d:\d\d:\d\d,\d{3})\n(.+)", block.strip(), re.DOTALL
        )
        assert match, f"no cue: {block!r}"
        assert int(match[1]) == number
        assert match[2] < match[3]
        cues.append((match[2], match[4]))
    return cues


# ---------------------------------------------------------------- two channels


def test_two_channels_are_one_transcript_in_order_of_time(daemon, sound, tmp_path):
    with listening(daemon.control, sound, tmp_path / "talk.srt", "--both", "--json") as listen:
        listen.wrote("you: w1", "system: w1")
        status, out, err = listen.ends(signal.SIGINT)
    assert (status, err) == (0, "")
    cues = cues_of(listen.text)
    assert [start for start, _ in cues] == sorted(start for start, _ in cues)
    events = [json.loads(line) for line in out.splitlines()]
    assert {event["channel"] for event in events} == {"you", "system"}
    finals = sorted((event for event in events if event["type"] == "final"), key=lambda final: final["start_s"])
    assert [text.partition(":")[0] for _, text in cues] == [final["channel"] for final in finals]
    assert {text.partition(":")[0] for _, text in cues} == {"you", "system"}


def test_channels_are_named_as_the_user_wants_them(daemon, sound, tmp_path):
    names = ("--both", "--names", "Ada,Bob")
    with listening(daemon.control, sound, tmp_path / "talk", *names, "-f", "vtt", output=["-o"]) as listen:
        listen.wrote("<v Ada>w1", "<v Bob>w1")
        status, out, _ = listen.ends(signal.SIGTERM)
    assert status == 0
    assert "Ada: w1" in out
    assert "  ... Bob: w1" in out


def test_what_the_machine_plays_can_be_heard_alone(daemon, sound, tmp_path):
    with listening(daemon.control, sound, tmp_path / "talk.txt", "--system") as listen:
        listen.wrote("w1")
        assert listen.ends(signal.SIGINT)[0] == 0
    (line,) = listen.text.splitlines()
    assert words_in(line) == [f"w{number}" for number in range(1, len(words_in(line)) + 1)]
    assert len(words_in(line)) > 4  # the long one


def test_a_channel_that_is_unplugged_is_said_and_the_other_goes_on(daemon, sound, tmp_path):
    unplug(sound, "microphone")
    with listening(daemon.control, sound, tmp_path / "talk.jsonl", "--both") as listen:
        listen.wrote('"channel": "you"', '"channel": "system"')
        status, _, err = listen.ends(signal.SIGINT)
    assert status == 1
    assert err == "sttctl: you: pw-record ended: the microphone is no longer heard\n"
    rows = [json.loads(line) for line in listen.text.splitlines()]
    assert [row["channel"] for row in rows] == ["system", "you"]


def test_when_both_are_unplugged_it_ends_with_the_last_words(daemon, sound, tmp_path):
    unplug(sound, "microphone")
    unplug(sound, "system")
    with listening(daemon.control, sound, tmp_path / "talk.json", "--both") as listen:
        status, _, err = listen.ends()
    assert status == 1
    assert err.count("is no longer heard") == 2
    value = json.loads(listen.text)
    assert {row["channel"] for row in value["utterances"]} == {"you", "system"}
    assert value["utterances"][0]["text"].startswith("w1 w2")


def test_a_recorder_that_ends_by_itself_is_an_error_of_one_channel_too(daemon, sound, tmp_path):
    unplug(sound, "system")
    with listening(daemon.control, sound, tmp_path / "talk.txt", "--system") as listen:
        status, out, err = listen.ends()
    assert status == 1
    assert err == "sttctl: pw-record ended: the output is no longer heard\n"
    assert listen.text.splitlines()[0] in out
    assert "w1 w2" in listen.text


def test_an_utterance_ends_where_a_recorder_gives_nothing_more(daemon, sound, tmp_path):
    """As one does whose device sleeps while nothing plays."""
    Path(sound["TEST_SOUND"], "system.stuck").touch()
    Path(sound["TEST_SOUND"], "system.pcm").write_bytes(read_pcm(DATA / LONG)[:64_000])  # in the middle of a word
    with listening(daemon.control, sound, tmp_path / "talk.txt", "--system") as listen:
        listen.wrote("w1")
        assert listen.ends(signal.SIGINT)[0] == 0


# ---------------------------------------------------------------- interrupted


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_last_words_are_written_when_it_is_told_to_end_in_the_middle_of_them(daemon, sound, tmp_path, number):
    with listening(daemon.control, sound, tmp_path / "talk.txt", "--system", "--json") as listen:
        next(line for line in listen.process.stdout if json.loads(line)["type"] == "interim")
        assert listen.ends(number)[0] == 0
    assert listen.text.startswith("w1")


def test_last_words_are_written_when_the_terminal_is_closed(daemon, sound, tmp_path):
    master, slave = pty.openpty()

    def in_its_terminal():
        heed_hangups()
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    terminal = {"stdin": slave, "stdout": slave, "stderr": slave, "preexec_fn": in_its_terminal}
    with listening(daemon.control, sound, tmp_path / "talk.txt", "--system", **terminal) as listen:
        os.close(slave)
        shown = b""
        while b"w1" not in shown:
            shown += os.read(master, 4096)
        os.close(master)
        listen.process.wait(PATIENCE_S)
    assert listen.text.startswith("w1")


def test_last_words_are_written_when_nobody_reads_the_captions_any_more(daemon, sound, tmp_path):
    with listening(daemon.control, sound, tmp_path / "talk.txt", "--system") as listen:
        listen.process.stdout.readline()
        listen.process.stdout.close()
        assert listen.process.wait(PATIENCE_S) == 1
    assert listen.text.startswith("w1")


def test_who_is_killed_leaves_all_that_was_final(daemon, sound, tmp_path):
    with (
        listening(daemon.control, sound, tmp_path / "talk.srt", "--both") as one,
        listening(daemon.control, sound, tmp_path / "talk.json", "--both") as other,
    ):
        for listen in (one, other):
            listen.wrote("you", "system")
            listen.process.kill()
            listen.process.wait(PATIENCE_S)
    assert len(cues_of(one.text)) >= 2
    assert len(json.loads(other.text)["utterances"]) >= 2
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"talk.srt", "talk.json"}
    for row in daemon.call("sessions")["sessions"]:  # which wait for their clients, and the daemon for them
        daemon.call("close_session", session=row["session"], drain=False)


def test_a_daemon_that_is_restarted_has_the_last_words_and_the_next(serve, sound, tmp_path):
    speak_on(sound)
    daemon = serve("--tcp", "off", "--model", "fake")
    with listening(daemon.control, sound, tmp_path / "talk.srt", "--both", "--json") as listen:
        until(listen, lambda event: event["type"] == "interim")
        daemon.terminate()
        stopped = until(listen, lambda event: event["type"] == "stopped")
        assert {event["reason"] for event in stopped if event["type"] == "final"} <= {"drain", "endpoint"}
        words = len(cues_of(listen.text))
        assert words >= 1  # nobody waits for the next daemon to have them
        assert daemon.stop() == 0
        serve("--tcp", "off", "--model", "fake")
        again = until(listen, lambda event: event["type"] == "final")
        assert any(event["type"] == "reconnected" for event in again)
        status, _, err = listen.ends(signal.SIGINT)
    assert status == 0
    assert err in ("", "sttctl: the daemon is gone; captions go on when there is another within 30 s\n")
    cues = cues_of(listen.text)
    assert len(cues) > words
    assert [start for start, _ in cues] == sorted(start for start, _ in cues)


def until(listen, condition, *, channels=("you", "system")):
    """The events up to where it has held for each channel."""
    events, left = [], set(channels)
    while left:
        events.append(json.loads(listen.process.stdout.readline()))
        if condition(events[-1]):
            left -= {events[-1].get("channel")}
    return events


def test_who_waits_for_a_daemon_can_leave_and_has_the_last_words(serve, sound, tmp_path):
    daemon = serve("--tcp", "off", "--model", "fake")
    with listening(daemon.control, sound, tmp_path / "talk.txt", "--system", "--json") as listen:
        until(listen, lambda event: event["type"] == "interim", channels=[None])
        assert daemon.stop() == 0
        assert "the daemon is gone" in listen.process.stderr.readline()
        status, out, err = listen.ends(signal.SIGINT)
    assert status == 1
    assert err == "sttctl: the daemon was gone\n"
    assert listen.text.startswith("w1")
    assert '"type": "stopped"' in out


def test_what_a_killed_daemon_had_heard_is_said_to_the_next(daemon, serve, sound, tmp_path):
    """Against the same sound with a daemon that lives."""
    killed = serve("--tcp", "off", "--model", "fake")
    killed.expected_status = -signal.SIGKILL
    with listening(killed.control, sound, tmp_path / "killed.tsv", "--both", "--json") as listen:
        until(listen, lambda event: event["type"] == "interim")
        killed.process.kill()
        killed.process.wait(PATIENCE_S)
        serve("--tcp", "off", "--model", "fake")  # as systemd does; it knows nothing of the session
        again = until(listen, lambda event: event["type"] == "reconnected")
        assert [event["lost_bytes"] for event in again if event["type"] == "reconnected"] == [0, 0]
        listen.wrote("\tyou\t", "\tsystem\t")
        assert listen.ends(signal.SIGINT)[0] == 0
    with listening(daemon.control, sound, tmp_path / "whole.tsv", "--both") as whole:
        whole.wrote("\tyou\t", "\tsystem\t")
        assert whole.ends(signal.SIGINT)[0] == 0
    assert words_of(listen.text) == words_of(whole.text)


def test_a_lost_connection_costs_neither_channel_a_word(daemon, sound, tmp_path):
    """What is cut is made anew, while the recorders go on; against the same sound without any cut."""

    async def act():
        async with cutting(daemon.audio, tmp_path) as proxy:
            with listening(proxy.control, sound, tmp_path / "cut.tsv", "--both", "--json") as cut:
                lines = iter(cut.process.stdout)
                await trio.to_thread.run_sync(
                    lambda: next(line for line in lines if json.loads(line)["type"] == "interim")
                )
                proxy.cut_all()
                await trio.to_thread.run_sync(cut.wrote, "\tyou\t", "\tsystem\t")
                return cut.text, await trio.to_thread.run_sync(cut.ends, signal.SIGINT)

    with listening(daemon.control, sound, tmp_path / "whole.tsv", "--both") as listen:
        text, (status, _, err) = trio.run(act)
        listen.wrote("\tyou\t", "\tsystem\t")
        assert listen.ends(signal.SIGINT)[0] == 0
    assert status == 0
    assert "nothing is missing" in err
    assert words_of(text) == words_of(listen.text)


def words_of(text):
    """What each channel said."""
    rows = [line.split("\t") for line in text.splitlines()[1:]]
    return {channel: [row[3] for row in rows if row[2] == channel] for channel in ("you", "system")}


# ---------------------------------------------------------------- the file


def test_on_a_full_disk_captions_go_on_and_the_exit_status_tells(daemon, sound, tmp_path):
    def with_a_full_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8, 8))

    with listening(daemon.control, sound, tmp_path / "talk.srt", "--both", preexec_fn=with_a_full_disk) as listen:
        shown = ""
        while not ("\nyou: w1" in shown and "\nsystem: w1" in shown):
            shown += listen.process.stdout.readline()
        status, _, err = listen.ends(signal.SIGINT)
    assert status == 1
    assert err.count("captions go on") == 1
    assert listen.text == ""


def test_a_run_that_hears_nothing_leaves_no_file(daemon, sound, tmp_path):
    unplug(sound, "system")
    Path(sound["TEST_SOUND"], "system.pcm").write_bytes(b"")
    with listening(daemon.control, sound, tmp_path / "talk.srt", "--system") as listen:
        status, _, err = listen.ends()
    assert status == 1
    assert err == "sttctl: pw-record gave no sound; is the output connected?\n"
    assert not listen.path.exists()


def test_a_machine_without_a_microphone_says_that_it_will_be_heard_twice(daemon, sound, tmp_path):
    pactl = Path(sound["TEST_SOUND"], "bin", "pactl")
    pactl.write_text(PACTL.replace("Default Source: mic", "Default Source: speakers.monitor"))
    for name in ("microphone", "system"):
        unplug(sound, name)
        Path(sound["TEST_SOUND"], f"{name}.pcm").write_bytes(b"")
    with listening(daemon.control, sound, tmp_path / "talk.srt", "--both") as listen:
        status, _, err = listen.ends()
    assert status == 1
    first, *others = err.splitlines()
    assert (
        first == "sttctl: there is no microphone: speakers.monitor is what the machine plays, and will be heard twice"
    )
    assert sorted(others, reverse=True) == [
        "sttctl: you: pw-record gave no sound; is the microphone connected?",
        "sttctl: system: pw-record gave no sound; is the output connected?",
    ]
