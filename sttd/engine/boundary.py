"""The failure boundary of the engine: whatever a model raises or returns becomes a result for each item.

Runs where the model runs: in a thread of the daemon, or in a process of its own. Knows no Trio.
"""

from __future__ import annotations

from collections.abc import Sequence

from sttd.core.types import DecodeItem, Hypothesis
from sttd.engine import memory
from sttd.engine.contract import Model, Result, Unfinished, Waiters, is_sound
from sttd.errors import DecodeError
from sttd.host import logs

log = logs.get(__name__)


def is_short_of_memory(result: Result) -> bool:
    """Whether an item did not fit."""
    return isinstance(result, DecodeError) and result.code == "out_of_memory"


def decode_items(model: Model, items: Sequence[DecodeItem], waiters: Waiters) -> list[Result]:
    """One result an item, whatever the model raises or returns."""
    try:
        results = model.decode(items, waiters=waiters)
        if len(results) != len(items):
            raise RuntimeError(f"{len(results)} results for {len(items)} items")
    except Exception as error:
        return [*failures(items, error)]
    return [_checked(result) for result in results]


def _checked(result: object) -> Result:
    """What is no result, or has numbers that are none, is a failure of that item: nothing behind here looks again."""
    if isinstance(result, DecodeError | Unfinished):
        return result
    if isinstance(result, Hypothesis) and is_sound(result):
        return result
    log.error("the engine returned something that is no hypothesis", kind=type(result).__name__)
    return DecodeError("the engine returned nothing that could be used for this audio")


def failures(items: Sequence[DecodeItem], error: Exception) -> list[DecodeError]:
    """The same failure for each item; logged once, without a word of what was said."""
    code = "out_of_memory" if memory.is_out_of_memory(error) else "decode_failed"
    log.error("a decode failed", items=len(items), code=code, exc_info=error)
    return [DecodeError("the engine failed on this audio", code=code) for _ in items]
