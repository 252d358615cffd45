"""What a call does in its thread: the failure boundary between the models and the dispatcher."""

from __future__ import annotations

import logging

from sttd.core.types import DecodeItem
from sttd.engine.backend import Model, Result, Waiters
from sttd.errors import DecodeError, SttdError

logger = logging.getLogger(__name__)


def decode_items(model: Model, items: list[DecodeItem], waiters: Waiters) -> list[Result]:
    """In the thread: one result an item. The failure boundary of the engine: whatever a model raises ends here."""
    try:
        results = model.decode(items, waiters=waiters)
        if len(results) != len(items):
            raise RuntimeError(f"{len(results)} results for {len(items)} items")
    except Exception as error:
        return [*failures(items, error)]
    return results


def failures(items: list[DecodeItem], error: Exception) -> list[DecodeError]:
    """The same failure for each item; logged once, without a word of what was said."""
    code = "out_of_memory" if _is_out_of_memory(error) else "decode_failed"
    logger.error("decoding %d item(s) failed: %s", len(items), code, exc_info=error)
    return [DecodeError("the engine failed on this audio", code=code) for _ in items]


def _is_out_of_memory(error: Exception) -> bool:
    """CTranslate2 tells it by the text of a RuntimeError alone."""
    if isinstance(error, SttdError):
        return error.code == "out_of_memory"
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()
