"""Models after a suspend: what was in the memory of a GPU may be gone, while the process believes that it is there.

Every model in the memory of a device decodes a second of silence. One that cannot is loaded again *under its leases*: a
session that was in the middle of an utterance when the machine went to sleep goes on with it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping

import numpy as np
import trio

from sttd.core.types import SAMPLE_RATE, DecodeItem, DecodeOptions, Effort
from sttd.engine.contract import Backend, Model
from sttd.engine.leases import PoolLease
from sttd.engine.loading import free
from sttd.engine.pool import ModelPool
from sttd.errors import DecodeError, ModelError, SttdError
from sttd.host import logs

log = logs.get(__name__)


async def revive(pool: ModelPool, *, backends: Mapping[str, Backend]) -> int:
    """Try every loaded model of a GPU, and load again those that fail. To be called while no decode runs.

    A model that does not come back is unloaded: the next utterance tries afresh and says what is wrong.

    Returns: how many were loaded again.

    Cancellation: waits for the thread that is trying or loading a model.
    """
    limiter = trio.CapacityLimiter(1)
    revived = 0
    for key in pool.stock.in_device_memory():
        try:
            lease = await pool.lease(key.preset, cpu_threads=key.cpu_threads, num_workers=key.num_workers)
        except SttdError as error:  # it was parked meanwhile and does not come back, or a reload took its preset away
            log.error("the model does not come back", preset=key.preset, reason=error.message)
            continue
        try:
            if not await trio.to_thread.run_sync(_answers, lease.model, limiter=limiter):
                log.warning("the model did not survive", preset=key.preset, device=lease.model.device)
                await _replace(lease, backends=backends, limiter=limiter)
                revived += 1
        except ModelError as error:
            log.error("the model does not come back", preset=key.preset, reason=error.message)
            with contextlib.suppress(ModelError):  # unknown since a reload, which unloads it as well
                await pool.unload(key.preset, wait=False)
        finally:
            lease.release()
    return revived


async def _replace(lease: PoolLease, *, backends: Mapping[str, Backend], limiter: trio.CapacityLimiter) -> None:
    loaded = lease.loaded
    load = functools.partial(
        backends[loaded.preset.backend].load,
        loaded.preset,
        cpu_threads=lease.key.cpu_threads,
        num_workers=lease.key.num_workers,
    )
    lost, loaded.model = loaded.model, await trio.to_thread.run_sync(load, limiter=limiter)
    await trio.to_thread.run_sync(free, lost, limiter=limiter)


def _answers(model: Model) -> bool:
    """Whether the model still decodes. Runs in a thread."""
    silence = DecodeItem(
        samples=np.zeros(SAMPLE_RATE, dtype=np.float32),
        options=DecodeOptions(language="en", effort=Effort.QUICK),
    )
    try:
        (outcome,) = model.decode([silence])
    except Exception:  # the driver's errors have no common class
        return False
    return not isinstance(outcome, DecodeError)
