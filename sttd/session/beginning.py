"""The beginning of a recording that is here whole: how long it is nobody knows before it is decoded.

What a container says of its own length is not believed (`unpacking.py`). So its first seconds are decoded; where the
recording ends within them they are all of it, and need not be decoded again.
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from functools import partial
from typing import Any

import attrs
import numpy as np
import trio

from sttd.core.types import SAMPLE_RATE, Samples, seconds
from sttd.errors import SttdError
from sttd.session.container import FRAME_BLOCKS, container_stage


@attrs.frozen(kw_only=True, eq=False)
class Beginning:
    """What was decoded: `pcm_f32le` at 16 kHz, mono. `whole`: there is no more."""

    pcm: bytes = attrs.field(repr=False)
    duration_s: float
    whole: bool


async def decode_beginning(pieces: AsyncIterable[bytes], *, most_s: float, uid: int) -> Beginning:
    """Decode a container until it ends, or has more than `most_s` seconds of audio.

    One that breaks off in its last packets ends there. Cancelling it ends the thread at its next read or send.

    Raises:
        ProtocolError: `bad_audio`.
        OverloadedError: too many containers are read at the moment.
    """
    blocks: list[Samples] = []
    most, count = round(most_s * SAMPLE_RATE), 0
    failure: SttdError | None = None
    async with trio.open_nursery() as nursery:
        send, receive = trio.open_memory_channel[Any](FRAME_BLOCKS)
        stage = partial(container_stage, channel_select=None, live=False, uid=uid)
        nursery.start_soon(stage, pieces, send)
        async for item in receive:
            if isinstance(item, SttdError) and not item.data.get("breaks_off"):
                failure = item
            elif isinstance(item, np.ndarray):
                blocks.append(item)
                count += item.size
            if count > most:
                nursery.cancel_scope.cancel()
                break
    if failure is not None:
        raise failure
    pcm = np.concatenate(blocks).tobytes() if blocks else b""
    return Beginning(pcm=pcm, duration_s=seconds(count), whole=count <= most)
