"""What CTranslate2's errors mean. It says so by text only."""

from __future__ import annotations

from typing import Final

from sttd.engine import memory
from sttd.engine.contract import EngineLostError, Preset
from sttd.errors import DecodeError, ModelError, SttdError
from sttd.host import logs

log = logs.get(__name__)

# Errors of a kernel that ran: the CUDA context of the process has them for ever, so every later call fails, too.
_LOST: Final = ("cuda failed with error", "cublas_status_execution_failed", "cublas_status_internal_error")


def is_lost(error: BaseException) -> bool:
    """Whether the process can decode nothing on its GPU any more. Want of memory is not that."""
    text = str(error).lower()
    return not memory.is_out_of_memory(error) and any(mark in text for mark in _LOST)


def load_error(error: BaseException, preset: Preset) -> ModelError:
    """Why a model does not load."""
    if memory.is_out_of_memory(error):
        return out_of_memory(preset)
    return ModelError(f"preset {preset.name!r} does not load: {first_line(error)}")


def out_of_memory(preset: Preset, **figures: int) -> ModelError:
    """It does not fit; `figures` are sizes in bytes."""
    sizes = ", ".join(f"{name.removesuffix('_bytes')} {value / 1e6:.0f} MB" for name, value in figures.items())
    return ModelError(
        f"preset {preset.name!r} ({preset.compute_type} on {preset.device}) does not fit into memory"
        f"{f' ({sizes})' if sizes else ''}. Unload another model, or choose a smaller one",
        code="out_of_memory",
        data={"preset": preset.name, "compute_type": preset.compute_type, **figures},
    )


def decode_error(error: Exception) -> DecodeError:
    """Why an item, or a call, has no text."""
    if isinstance(error, DecodeError):
        return error
    if memory.is_out_of_memory(error):
        return DecodeError("not enough memory to decode this utterance", code="out_of_memory")
    if isinstance(error, SttdError):
        return DecodeError(error.message, code=error.code)
    log.error("a decode failed", exc_info=error)
    if is_lost(error):
        return EngineLostError(f"the GPU failed: {first_line(error)}")
    return DecodeError(f"the engine failed: {first_line(error)}")


def first_line(error: BaseException) -> str:
    """What an error says, in a line."""
    return (str(error).strip() or type(error).__name__).partition("\n")[0]
