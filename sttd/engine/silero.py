"""The Silero VAD network (version 6) in NumPy, for many sessions in one run.

faster-whisper ships it as an ONNX file whose state has a batch axis of 1, so that onnxruntime has to be called for one
session at a time. It is small enough to be written down:

    step (64 + 512 samples) ─▶ STFT, 4 windows of 256 ─▶ magnitude ─▶ 4 convolutions over time, to 1 column of 128
         ─▶ LSTM cell with the session's state ─▶ ReLU, weighted sum, sigmoid ─▶ probability of speech

The answers are those of onnxruntime to 1e-5. Measured on a busy core, the best of many, in µs a step: onnxruntime 117;
this 93 for one session, 29 for 8, 21 for 16, 17 for 100. Half of onnxruntime's arithmetic is an STFT as a matrix
product, and taps of the convolutions that lie outside the step.

The products are BLAS, which must not use threads of its own for them (`host/blas.py`): with two it takes 4 times as
long. Another thread for the whole of it does not pay either: between two of some thirty calls it waits for the loop to
let go of the interpreter.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from importlib import util
from pathlib import Path

import attrs
import numpy as np

from sttd.core.types import Samples
from sttd.engine.onnxfile import float_tensors

STEP_SAMPLES = 512  # 32 ms, what Silero v6 was trained on
CONTEXT_SAMPLES = 64  # of the step before, in front of each step
# Steps in one product. With more an intermediate value has 128 KB, and the heap may give such pages back each time.
MAX_BLOCK = 24

_SIZE = CONTEXT_SAMPLES + STEP_SAMPLES
_WINDOW, _HOP = 256, 128
_WINDOWS = 4  # of a step, with 64 samples mirrored behind it
_PADDED = _SIZE + 64
_BINS = _WINDOW // 2 + 1
_UNITS = 128  # of the LSTM
_GATES = 3 * _UNITS  # input, output, forget; the cell's own come behind them
_SHAPES = {
    "encoder.feature_extractor.forward_basis_buffer": (2 * _BINS, 1, _WINDOW),
    "encoder.conv_layers.0.weight": (128, _BINS, 3),
    "encoder.conv_layers.0.bias": (128,),
    "encoder.conv_layers.1.weight": (64, 128, 3),
    "encoder.conv_layers.1.bias": (64,),
    "encoder.conv_layers.2.weight": (64, 64, 3),
    "encoder.conv_layers.2.bias": (64,),
    "encoder.conv_layers.3.weight": (128, 64, 3),
    "encoder.conv_layers.3.bias": (128,),
    "decoder.conv1d.weight": (1, _UNITS, 1),
    "decoder.conv1d.bias": (1,),
    "onnx::LSTM_209": (1, 4 * _UNITS, 128),
    "onnx::LSTM_210": (1, 4 * _UNITS, _UNITS),
    "onnx::LSTM_211": (1, 8 * _UNITS),
}


@attrs.define(eq=False)
class SileroState:
    """What the network remembers of one session."""

    h: Samples = attrs.field(factory=lambda: np.zeros(_UNITS, np.float32))
    c: Samples = attrs.field(factory=lambda: np.zeros(_UNITS, np.float32))


@attrs.frozen
class Steps:
    """Steps of one session in order, of shape (n, 64 + 512), n > 0, and what goes before them."""

    samples: Samples
    state: SileroState


@attrs.define(eq=False)
class SileroModel:
    """The network, shared by all sessions and threads: a run has no state of its own.

    `load` goes before `run`; it reads 1.2 MB, in some milliseconds.
    """

    _network: _Network | None = attrs.field(default=None, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    @property
    def loaded(self) -> bool:
        """Whether `run` may be called."""
        return self._network is not None

    def load(self) -> None:
        """Load the network unless that is done. Blocks.

        Raises:
            FileNotFoundError: faster-whisper is not installed or ships no such file.
            ValueError: the file is not the network that is written down here.
        """
        with self._lock:
            if self._network is None:
                self._network = _Network.read(_model_path())

    def run(self, batch: Sequence[Steps]) -> list[list[float]]:
        """Probabilities of the steps of each session, whose state is then that after its last step."""
        assert self._network is not None, "it is loaded first"
        return self._network.run(batch)


def _model_path() -> Path:
    package = util.find_spec("faster_whisper")  # finds without importing: the import takes a second
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError("faster-whisper is not installed; it brings the Silero network")
    path = Path(package.submodule_search_locations[0]) / "assets" / "silero_vad_v6.onnx"
    if not path.is_file():
        raise FileNotFoundError(f"faster-whisper brings no {path.name}")
    return path


@attrs.frozen(eq=False)
class _Layer:
    """A product with weights of shape (in, out), and what is added to it."""

    weights: Samples
    bias: Samples

    def __call__(self, rows: Samples) -> Samples:
        product: Samples = rows @ self.weights
        product += self.bias
        return product

    def relu(self, rows: Samples) -> Samples:
        product = self(rows)
        return np.maximum(product, 0, out=product)


def _convolution(weights: Samples, bias: Samples, *, taps: slice) -> _Layer:
    """Of a convolution (out, in, taps), as a product with rows of (taps, in)."""
    used = weights[:, :, taps].transpose(2, 1, 0)
    return _Layer(np.ascontiguousarray(used.reshape(-1, len(weights))), bias)


@attrs.frozen(eq=False, kw_only=True)
class _Network:
    window: Samples
    convolutions: tuple[_Layer, _Layer, _Layer, _Layer]
    cell: _Layer  # what the input adds to the gates
    recurrent: Samples  # what the state adds
    last: _Layer

    @classmethod
    def read(cls, path: Path) -> _Network:
        """Raises ValueError as `SileroModel.load`."""
        tensors = float_tensors(path)
        for name, shape in _SHAPES.items():
            if name not in tensors or tensors[name].shape != shape:
                raise ValueError(f"{path.name} is another network than Silero v6: {name} is not as expected")
        basis, first, bias, *rest = (tensors[name] for name in _SHAPES)
        window = basis[0, 0].copy()
        angle = 2 * np.pi / _WINDOW * np.outer(np.arange(_BINS), np.arange(_WINDOW))
        if not np.allclose(basis[:, 0], window * np.concatenate([np.cos(angle), -np.sin(angle)]), atol=1e-6):
            raise ValueError(f"{path.name} is another network than Silero v6: it begins with no Fourier transform")
        last, last_bias, from_input, from_state, biases = rest[6:]
        # A sigmoid is half a tanh of half its argument, and a half: so one tanh does for all gates.
        halves = np.repeat(np.array([0.5, 1.0], np.float32), [_GATES, _UNITS])
        bias_sum = (biases[0, : 4 * _UNITS] + biases[0, 4 * _UNITS :]) * halves
        return cls(
            window=window,
            convolutions=(
                _convolution(first, bias, taps=slice(0, 3)),
                _convolution(rest[0], rest[1], taps=slice(0, 3)),
                _convolution(rest[2], rest[3], taps=slice(1, 3)),  # of two columns
                _convolution(rest[4], rest[5], taps=slice(1, 2)),  # of one column
            ),
            cell=_Layer(np.ascontiguousarray(from_input[0].T * halves), bias_sum),
            recurrent=np.ascontiguousarray(from_state[0].T * halves),
            last=_Layer(np.ascontiguousarray(last[0]) * np.float32(0.5), last_bias * np.float32(0.5)),
        )

    def run(self, batch: Sequence[Steps]) -> list[list[float]]:
        """As `SileroModel.run`."""
        order = sorted(range(len(batch)), key=lambda index: -len(batch[index].samples))
        longest_first = [batch[index] for index in order]
        counts = [len(steps.samples) for steps in longest_first]
        inputs = self.cell(self._encode([steps.samples for steps in longest_first]))
        starts = np.cumsum([0, *counts[:-1]])
        h = np.array([steps.state.h for steps in longest_first])
        c = np.array([steps.state.c for steps in longest_first])
        answers: list[list[float]] = [[] for _ in batch]
        active = len(batch)
        for step in range(counts[0]):
            while counts[active - 1] <= step:
                active -= 1
            probability = self._advance(inputs[starts[:active] + step], h[:active], c[:active])
            for index, value in zip(order, probability, strict=False):
                answers[index].append(value)
        for row, steps in enumerate(longest_first):
            steps.state.h, steps.state.c = h[row].copy(), c[row].copy()
        return answers

    def _encode(self, pieces: Sequence[Samples]) -> Samples:
        """The column of each step, in order."""
        steps = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        if len(steps) <= MAX_BLOCK:
            return self._columns(steps)
        blocks = [self._columns(steps[first : first + MAX_BLOCK]) for first in range(0, len(steps), MAX_BLOCK)]
        return np.concatenate(blocks)

    def _columns(self, steps: Samples) -> Samples:
        n, item = len(steps), steps.itemsize
        padded = np.empty((n, _PADDED), np.float32)
        padded[:, :_SIZE] = steps
        padded[:, _SIZE:] = steps[:, -2 : _SIZE - _PADDED - 2 : -1]  # mirrored at the last sample
        windows = _view(padded, (n, _WINDOWS, _WINDOW), (_PADDED * item, _HOP * item, item)) * self.window
        rows = np.zeros((n, _WINDOWS + 2, _BINS), np.float32)  # a column of zeros at either end
        np.abs(np.fft.rfft(windows), out=rows[:, 1:-1], casting="same_kind")
        first, second, third, fourth = self.convolutions
        stride = _BINS * item
        rows = first.relu(_view(rows, (n, 4, 3 * _BINS), (6 * stride, stride, item)).reshape(4 * n, -1))
        columns = np.zeros((n, 5, 128), np.float32)  # a column of zeros in front
        columns[:, 1:] = rows.reshape(n, 4, 128)
        stride = 128 * item
        rows = second.relu(_view(columns, (n, 2, 3 * 128), (5 * stride, 2 * stride, item)).reshape(2 * n, -1))
        return fourth.relu(third.relu(rows.reshape(n, -1)))

    def _advance(self, gates: Samples, h: Samples, c: Samples) -> list[float]:
        """One step of several sessions, whose states `h` and `c` are replaced; probabilities of speech.

        `gates` are what the inputs add to them, and are overwritten.
        """
        gates += h @ self.recurrent
        np.tanh(gates, out=gates)
        sigmoids = gates[:, :_GATES]
        sigmoids *= np.float32(0.5)
        sigmoids += np.float32(0.5)
        c *= gates[:, 2 * _UNITS : _GATES]
        c += gates[:, :_UNITS] * gates[:, _GATES:]
        np.multiply(gates[:, _UNITS : 2 * _UNITS], np.tanh(c), out=h)
        probability: list[float] = (0.5 + 0.5 * np.tanh(self.last(np.maximum(h, 0)))).ravel().tolist()
        return probability


def _view(array: Samples, shape: tuple[int, ...], strides: tuple[int, ...]) -> Samples:
    """The values of an array in another shape, some of them more than once. (`as_strided` takes 5 µs longer.)"""
    return np.ndarray(shape, np.float32, array, strides=strides)
