"""Which items may share a call of a loaded model, and how many: answered from a few numbers, without the model.

The daemon asks on its event loop, and the model may be in another process. There are no tokens there: so items of
different prompts do not share a call there, though their prompts may be of one length.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Final

import attrs

from sttd.core.types import DecodeItem, Effort
from sttd.engine import memory
from sttd.engine.whisper.decoder import BatchKey, key_of
from sttd.engine.whisper.options import Settings

MAX_BATCH_CPU: Final = 8  # base on two cores is 1.5 times as fast at 4, 1.3 at 8, and the call gets long
MAX_BATCH_GPU: Final = 32
HEAD_WIDTH: Final = 64  # of every published Whisper; a narrower one only makes the estimate careful
# The logits of an interim, until it is decoded: 0.2 MB a token in float32, and people say 4 tokens a second.
LOGITS_BYTES: Final = 25 * 1024**2


@attrs.frozen(kw_only=True)
class Sharing:
    """What the answers depend on: where the model runs, the width of its encoder, the short windows that it may use."""

    device: str
    workers: int
    width: int
    interim_windows: tuple[int, ...] = ()
    final_windows: tuple[int, ...] = ()

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Sharing:
        """From plain values, as `attrs.asdict` makes them. Raises TypeError, ValueError where they are none."""
        names = {field.name for field in attrs.fields(cls)}
        if set(facts) != names:
            raise ValueError(f"not the facts of a model: {sorted(facts)}")
        return cls(
            device=str(facts["device"]),
            workers=int(facts["workers"]),
            width=int(facts["width"]),
            interim_windows=tuple(int(window) for window in facts["interim_windows"]),
            final_windows=tuple(int(window) for window in facts["final_windows"]),
        )

    def batch_key(self, item: DecodeItem) -> BatchKey:
        """As in `Model`; some microseconds."""
        settings = Settings(interim_windows=self.interim_windows, final_windows=self.final_windows)
        return key_of(item, settings, context=(item.options.prompt, item.options.hotwords))

    def max_batch(self, key: Hashable) -> int:
        """How many items the free memory holds, at least one.

        The encoder keeps the attention scores of one layer, heads x positions², for each item: 72 MB for base on a
        CPU, 90 MB for large on a GPU at a full window; half of the free memory may go into them, in as many calls as
        there are workers. Interims keep their logits for as long as the call runs.
        """
        assert isinstance(key, BatchKey)
        positions = key.window // 2
        on_cpu = self.device == "cpu"
        item_bytes = max(1, self.width // HEAD_WIDTH) * positions**2 * (4 if on_cpu else 2) * 2
        if key.effort is Effort.QUICK:
            item_bytes += LOGITS_BYTES
        if on_cpu:
            free = memory.available_bytes()
        else:
            known = memory.gpu_memory(int(self.device.partition(":")[2]))
            free = known.free_bytes if known else 8 * item_bytes
        return max(1, min(MAX_BATCH_CPU if on_cpu else MAX_BATCH_GPU, free // 2 // self.workers // item_bytes))
