"""Loading within the memory there is, freeing, and what goes wrong with it.

When a model does not fit (its backend refuses by an estimate, or runs out of memory on the way), in this order:

1. an idle model is closed, and the same is tried again, as long as there is one;
2. the next smaller compute type (`presets.COMPUTE_LADDER`);
3. the smaller presets, if the configuration allows them, each from its own compute type down.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence

import attrs
import trio

from sttd.core.pooling import PoolLimits
from sttd.engine import memory
from sttd.engine.contract import Backend, Model, ModelKey, Preset
from sttd.engine.presets import COMPUTE_LADDER
from sttd.errors import ModelError, OverloadedError, SttdError
from sttd.host import logs

log = logs.get(__name__)


async def load_what_fits(
    key: ModelKey,
    asked: Preset,
    *,
    backends: Mapping[str, Backend],
    smaller: Sequence[Preset],
    make_room: Callable[[], Awaitable[bool]],
    limiter: trio.CapacityLimiter,
) -> tuple[Preset, Model]:
    """Load a preset, or what the ladder has for it.

    Args:
        key: threads and workers.
        asked: the preset wanted.
        backends: name → backend.
        smaller: what may stand in for it, largest first.
        make_room: frees another model; False when there is none to free.
        limiter: for the thread.

    Raises:
        ModelError: the last rung did not fit, or something else than memory is wrong.
    """
    rungs = [asked, *smaller]
    while True:
        preset = rungs[0]
        load = functools.partial(
            backends[preset.backend].load, preset, cpu_threads=key.cpu_threads, num_workers=key.num_workers
        )
        try:
            return preset, await trio.to_thread.run_sync(load, limiter=limiter)
        except ModelError as error:
            if error.code != "out_of_memory":
                raise
            if await make_room():
                continue
            narrower = COMPUTE_LADDER.get(error.data.get("compute_type", ""))
            rungs[:1] = [] if narrower is None else [attrs.evolve(preset, compute_type=narrower)]
            if not rungs:
                raise
            log.warning(
                "a model does not fit, a smaller one is tried",
                reason=error.message,
                preset=rungs[0].name,
                compute_type=rungs[0].compute_type,
            )


def free(model: Model) -> None:
    """Close a model and give its memory back to the kernel. Runs in a thread."""
    try:
        model.close()
    except Exception:  # a model that does not close must not keep its slot for ever
        log.exception("a model did not close cleanly")
    memory.trim()


def load_failure(key: ModelKey, error: Exception) -> SttdError:
    """What waiters are told about a failed load; a surprise goes to the log with its traceback."""
    if isinstance(error, SttdError):
        return error
    log.error("a model does not load", preset=key.preset, exc_info=error)
    return ModelError(f"preset {key.preset!r} does not load: {str(error) or type(error).__name__}")


def fresh(error: Exception) -> SttdError:
    """A copy for each waiter: one object raised in many tasks would collect all their tracebacks."""
    assert isinstance(error, SttdError)
    return type(error)(error.message, code=error.code, data=error.data, retryable=error.retryable)


def no_slot(limits: PoolLimits) -> OverloadedError:
    """What those are told who waited for a slot in vain."""
    return OverloadedError(
        f"all {limits.max_loaded_models} model slots are in use; try again, or raise models.max_loaded_models",
        data={"retry_after_s": limits.load_wait_s},
    )
