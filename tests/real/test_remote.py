"""A real model at another daemon: live text and finals come from there, word for word what it says itself."""

from __future__ import annotations

import pytest

from benchmarks.recordings import as_bytes
from benchmarks.words import words
from tests.running import RunningDaemon, check_promises, free_port, read_to_end, say, speak, start, transcribe

pytestmark = [pytest.mark.real, pytest.mark.slow]


def finals(events):
    return [event for event in events if event["type"] == "final"]


def test_live_text_and_finals_of_a_server_are_those_that_it_would_give_itself(
    model_on_disk, serve, recordings, tmp_path
):
    model_on_disk("tiny.en")
    port = free_port()
    server = serve("--tcp", f"127.0.0.1:{port}", "--model", "tiny.en")
    config = tmp_path / "sttd.toml"
    config.write_text(f"""
[models]
model = "cluster"
[presets.cluster]
backend = "remote"
url = "http://127.0.0.1:{port}/v1"
model = "tiny.en"
timeout_s = 120
""")
    daemon = RunningDaemon.start(tmp_path / "here", "--tcp", "off", "--config", str(config))
    pcm = as_bytes(recordings["ls-2412-153948-0000"].samples)
    usual = " ".join(final["text"] for final in finals(transcribe(server, pcm, lang="en", interim=False)))
    with daemon.connect() as socket_:
        start(socket_, words=True)
        events = speak(daemon, socket_, pcm, until=lambda interims: any(each["stable_chars"] for each in interims))
        say(socket_, "stop")
        events += read_to_end(socket_)
    check_promises(events)
    heard = finals(events)
    assert words(" ".join(final["text"] for final in heard)) == words(usual)
    times = [time for final in heard for word in final["words"] for time in (word["start_s"], word["end_s"])]
    assert times == sorted(times)
    assert len(times) >= 2 * len(words(usual)) - 4
    assert {final["language"] for final in heard} == {"en"}
    (state,) = daemon.call("status")["models"]["remotes"]
    assert state["reachable"], state
    assert daemon.stop() == 0
