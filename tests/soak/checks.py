"""What sessions on the native wire share: the preset they name, what a refusal is, what must hold of their events."""

from __future__ import annotations

import random
from typing import Any

from tests.running import check_promises
from tests.soak.world import Refused, World

# Equal bounds: where an utterance ends must not depend on the text that there is by then, which comes when it comes.
FIXED = {"silence_ms_min": 600, "silence_ms_max": 600}


def preset_for(world: World, rng: random.Random) -> str:
    """Mostly a fake, of which every word is known; one in ten has a model."""
    return world.real if world.real is not None and rng.random() < 0.1 else rng.choice(world.fakes)


def refusal(code: str, message: str) -> Exception:
    return Refused(message) if code == "overloaded" else AssertionError(f"{code}: {message}")


def check(world: World, events: list[dict[str, Any]], *, key: tuple[str, str], preset: str) -> None:
    """The promises of a session that was heard to its end, and its text where that is known."""
    check_promises(events)
    world.tell(events)
    if preset in world.fakes:
        finals = [event for event in events if event["type"] == "final"]
        world.expect((*key, "times"), [(final["start_s"], final["end_s"]) for final in finals])
        world.expect_about(key, [final["text"] for final in finals])
