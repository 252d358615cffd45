"""People who speak on while the server of their preset is killed, and who decoded what they said."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import attrs

from tests.running import PATIENCE_S, RunningDaemon, check_promises, read_pcm, read_to_end, read_until, say, start

SPEECH = read_pcm(Path(__file__).parent / "data" / "light.flac")[: 2 * 32_000]
LOCAL_WORD_MS = 400  # of `fake` as the fallback; at the server a word is less than half as long


@attrs.define
class Speaker:
    """A session that speaks, finalizes and waits for its final, again and again."""

    daemon: RunningDaemon
    done: threading.Event = attrs.field(factory=threading.Event)
    events: list[dict] = attrs.field(factory=list)
    finals: list[tuple[float, str, float]] = attrs.field(factory=list)  # when, who decoded, seconds that it took
    thread: threading.Thread = attrs.field(init=False)

    def __attrs_post_init__(self):
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        with self.daemon.connect() as socket_:
            start(socket_, endpointing={"silence_ms_min": 3000, "silence_ms_max": 4000})
            while not self.done.is_set():
                socket_.send(SPEECH)
                asked = time.monotonic()
                say(socket_, "finalize")
                self.events += read_until(socket_, "final")
                now, final = time.monotonic(), self.events[-1]
                self.finals.append((now, who(final), now - asked))
            say(socket_, "stop")
            self.events += read_to_end(socket_)

    def since(self, when, whom):
        return [took for at, by, took in list(self.finals) if at >= when and by == whom]

    def finish(self):
        self.done.set()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()
        check_promises(self.events)
        return sum(event["type"] == "final" for event in self.events)


def who(final):
    """Who decoded it, by how many words were heard."""
    words, duration_s = len(final["text"].split()), final["end_s"] - final["start_s"]
    return "nobody" if not words else "server" if words > 2 * 1000 * duration_s / LOCAL_WORD_MS else "fallback"


def remote(daemon):
    (state,) = daemon.call("status")["models"]["remotes"]
    return state
