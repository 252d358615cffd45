"""A real model in a process of its own: killed while it decodes, and unloaded."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from benchmarks.recordings import as_bytes
from benchmarks.words import words
from tests.running import PATIENCE_S, transcribe

pytestmark = [pytest.mark.real, pytest.mark.slow]

OWN_GROWTH_BYTES = 5_000_000  # of the daemon itself, whatever its model took


def engines(daemon):
    found = []
    for children in Path(f"/proc/{daemon.process.pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has ended
            found += map(int, children.read_text().split())
    return found


def resident(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_model_that_is_killed_while_it_decodes_hears_every_word(model_on_disk, serve, recordings):
    model_on_disk("tiny.en")
    daemon = serve("--tcp", "off", "--model", "tiny.en", "--set", "engine.spare_ttl_s=0")
    pcm = as_bytes(recordings["ls-2412-153948-0000"].samples)

    def text():
        finals = [event for event in transcribe(daemon, pcm, lang="en", interim=False) if event["type"] == "final"]
        return " ".join(final["text"] for final in finals)

    usual = text()
    assert len(words(usual)) > 10
    killed = threading.Event()

    def kill():
        deadline = time.monotonic() + PATIENCE_S
        while not killed.is_set() and time.monotonic() < deadline:
            if daemon.call("status")["scheduler"]["in_flight"]:
                os.kill(engines(daemon)[0], signal.SIGSEGV)
                killed.set()

    killer = threading.Thread(target=kill)
    killer.start()
    assert text() == usual
    killer.join(PATIENCE_S)
    assert killed.is_set()
    assert daemon.call("status")["health"]["engine_restarts"] == 1


def test_unload_leaves_the_daemon_as_it_was(model_on_disk, serve, recordings):
    model_on_disk("tiny.en")
    daemon = serve("--tcp", "off", "--model", "tiny.en", "--set", "engine.spare_ttl_s=0")
    pcm = as_bytes(recordings["ls-2412-153948-0000"].samples)
    transcribe(daemon, pcm, lang="en")  # Silero, buffers
    daemon.call("unload")
    before = resident(daemon.process.pid)
    for _ in range(2):
        transcribe(daemon, pcm, lang="en")
        assert resident(engines(daemon)[0]) > 100_000_000
        assert daemon.call("unload")["process_rss_bytes"] < before + OWN_GROWTH_BYTES
        assert engines(daemon) == []
