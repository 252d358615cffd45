"""The weights in an ONNX file, read without onnxruntime: of its protocol buffers only what holds tensors of floats."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sttd.core.types import Samples

# Numbers of fields in onnx.proto.
_GRAPH = 7  # of a model
_INITIALIZER = 5  # of a graph
_DIMS, _TYPE, _NAME, _RAW = 1, 2, 8, 9  # of a tensor
_FLOAT32 = 1  # a type


def float_tensors(path: Path) -> dict[str, Samples]:
    """The float32 tensors of a model, by name.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no ONNX file, or a torn one.
    """
    try:
        return dict(_tensors(memoryview(path.read_bytes())))
    except (IndexError, KeyError, ValueError) as error:
        raise ValueError(f"{path.name} is no whole ONNX file: {error}") from error


def _tensors(model: memoryview) -> Iterator[tuple[str, Samples]]:
    for graph in _sized(model, _GRAPH):
        for tensor in _sized(graph, _INITIALIZER):
            numbers = [(field, value) for field, value in _fields(tensor) if isinstance(value, int)]
            parts = {field: value for field, value in _fields(tensor) if isinstance(value, memoryview)}
            packed = parts.get(_DIMS, memoryview(b""))
            shape = [value for field, value in numbers if field == _DIMS] + list(_varints(packed))
            if (_TYPE, _FLOAT32) in numbers and _RAW in parts:
                yield bytes(parts[_NAME]).decode(), np.frombuffer(parts[_RAW], "<f4").reshape(shape)


def _sized(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """The messages in this field."""
    return (value for field, value in _fields(message) if field == wanted and isinstance(value, memoryview))


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        match key & 7:
            case 0:  # a number
                number, at = _varint(message, at)
                yield key >> 3, number
            case 2:  # bytes, text, a message
                size, at = _varint(message, at)
                if at + size > len(message):
                    raise ValueError("it ends in the middle of a field")
                yield key >> 3, message[at : at + size]
                at += size
            case 1:  # eight bytes
                at += 8
            case 5:  # four bytes
                at += 4
            case kind:
                raise ValueError(f"there are no fields of kind {kind}")


def _varints(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, lowest first, and where it ends. Raises IndexError where the data ends before."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
