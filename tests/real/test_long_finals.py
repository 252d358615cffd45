"""An utterance of several sentences has all of them in its final.

Each pair of recordings is said as one utterance of 14 to 16 s, by a client that says itself where it ends. Without
timestamps `tiny.en` wrote the first recording of each and nothing of the second, with all confidence; with them it left
a segment open where the second begins.
"""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.recordings import as_bytes, room_noise
from benchmarks.words import errors
from tests.running import check_promises, read_to_end, say, start

PAUSE_S = 0.35
LOST_SHARE = 0.1  # of the words; chosen: the second recordings are a fifth to a third of them, and none was lost here

pytestmark = pytest.mark.real


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("ls-2412-153948-0000", "ls-7902-96591-0000"),
        ("lj-001-0001", "lj-001-0006"),
        ("lt-5895-34622", "ls-i-tell-you"),
    ],
)
def test_the_last_sentence_of_a_long_utterance_is_there(daemon, recordings, first, second):
    clips = recordings[first], recordings[second]
    samples = np.concatenate([clips[0].samples, room_noise(PAUSE_S), clips[1].samples])
    with daemon.connect() as client:
        start(client, lang="en", endpointing=False, interim=False, words=True)
        client.send(as_bytes(samples))
        say(client, "finalize")
        say(client, "stop")
        events = read_to_end(client)
    check_promises(events)
    [final] = [event for event in events if event["type"] == "final"]
    found = errors(f"{clips[0].text} {clips[1].text}", final["text"])
    assert found.lost <= LOST_SHARE * found.said, final["text"]
    assert final["words"][-1]["end_s"] > clips[0].duration_s + PAUSE_S
