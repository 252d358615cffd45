"""An unloaded model gives its memory back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.recordings import as_bytes
from tests.running import transcribe

STTCTL = Path(sys.executable).with_name("sttctl")
# Chosen. Of some 450 MB that loading and decoding took, 3 to 17 MB stayed.
KEPT_SHARE = 1 / 4

pytestmark = [pytest.mark.real, pytest.mark.slow]


def sttctl(daemon, *arguments):
    done = subprocess.run(
        [STTCTL, "--socket", daemon.control, *arguments, "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return json.loads(done.stdout)


def test_unload_returns_the_memory(model_on_disk, serve, recordings):
    model_on_disk("base")
    daemon = serve("--tcp", "off", "--model", "base", "--set", "engine.spare_ttl_s=0")
    pcm = as_bytes(recordings["ls-2412-153948-0000"].samples)

    def once():
        """Resident memory with the model, after it has decoded, and without it again."""
        assert not sttctl(daemon, "load", "base")["cache_hit"]
        transcribe(daemon, pcm, lang="en")
        loaded = daemon.call("status")["models"]["process_rss_bytes"]
        unloaded = sttctl(daemon, "unload", "base")
        assert unloaded["unloaded"] == 1
        return loaded, unloaded["process_rss_bytes"]

    _, before = once()  # the first time brings what the daemon itself needs to hear, which stays
    loaded, after = once()
    assert loaded - before > 100_000_000  # the weights alone are 116 MB in int8
    assert after - before < KEPT_SHARE * (loaded - before)
