"""The least program that decodes: CTranslate2 with nothing round it but faster-whisper's features and tokenizer.

It runs in a process of its own. What it is compared with sets up its heap before numpy is imported
(`memory.keep_heap`), and in a process that has imported numpy the same call comes too late: the threads of CTranslate2
then get heaps of their own, whose large buffers the kernel zeroes for each encode, half as slow again. So nothing heavy
is imported at the top of this module.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import attrs

from sttd.engine import memory
from sttd.engine.whisper import libraries

if TYPE_CHECKING:
    from sttd.core.types import Samples

RATE = 16_000


@attrs.define
class Run:
    """All utterances decoded once: seconds, CPU seconds of the process that did it, texts, and in how many calls."""

    took_s: float
    cpu_s: float
    texts: list[str]
    calls: int


class BareProcess:
    """The bare loop beside this process; a context manager.

    Args:
        path: the model's directory.
        threads: of CTranslate2.
        keep_heap: set the heap up as the daemon does; False leaves it as glibc has it.
        spin: let threads spin as the daemon does; False leaves them as libgomp has them.
    """

    def __init__(self, path: Path, *, threads: int, keep_heap: bool = True, spin: bool = True) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, path, threads, keep_heap, spin), daemon=True)

    def __enter__(self) -> BareProcess:
        self._process.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        self._process.join()

    def run(self, utterances: list[bytes], *, batch: int, blocks: bool = True) -> Run:
        """Decode 16 kHz PCM, so many utterances a call; `blocks`: with the daemon's features, in blocks."""
        self._connection.send((utterances, batch, blocks))
        while not self._connection.poll(1):
            if not self._process.is_alive():
                raise RuntimeError("the bare loop has died; its error is printed above")
        result: Run = self._connection.recv()
        return result


def _serve(connection: Connection, path: Path, threads: int, keep_heap: bool, spin: bool) -> None:
    if keep_heap:
        memory.keep_heap()
    if spin:
        libraries.spin_briefly(os.environ)
    loop = _Loop(path, threads=threads)
    while True:
        utterances, batch, blocks = connection.recv()
        connection.send(loop.run(utterances, batch=batch, blocks=blocks))


class _Loop:
    """The model in this process."""

    def __init__(self, path: Path, *, threads: int) -> None:
        from faster_whisper import WhisperModel
        from faster_whisper.tokenizer import Tokenizer
        from faster_whisper.transcribe import get_suppressed_tokens

        loaded = WhisperModel(str(path), device="cpu", compute_type="int8", cpu_threads=threads, num_workers=1)
        self._model, self._extractor, self._tokenizer = loaded.model, loaded.feature_extractor, loaded.hf_tokenizer
        multilingual = loaded.model.is_multilingual
        tokenizer = Tokenizer(self._tokenizer, multilingual, task="transcribe", language="en")
        self._suppressed = list(get_suppressed_tokens(tokenizer, [-1]))
        names = ["<|startoftranscript|>"]
        names += ["<|en|>", "<|transcribe|>"] if multilingual else []
        self._prompt = [self._tokenizer.token_to_id(name) for name in [*names, "<|notimestamps|>"]]

    def run(self, utterances: list[bytes], *, batch: int, blocks: bool) -> Run:
        began, cpu = time.perf_counter(), time.process_time()
        texts: list[str] = []
        for start in range(0, len(utterances), batch):
            texts += self._decode(utterances[start : start + batch], blocks=blocks)
        return Run(time.perf_counter() - began, time.process_time() - cpu, texts, -(-len(utterances) // batch))

    def _decode(self, utterances: list[bytes], *, blocks: bool) -> list[str]:
        import ctranslate2
        import numpy as np

        from sttd.engine.whisper.features import log_mel

        features = []
        longest_s = 0.0
        for data in utterances:
            samples = np.frombuffer(data, "<i2").astype(np.float32) / 32768
            longest_s = max(longest_s, len(samples) / RATE)
            features.append(log_mel(self._extractor, samples, window=3000) if blocks else self._plain(samples))
        encoded = self._model.encode(ctranslate2.StorageView.from_array(np.stack(features)))
        results: list[Any] = self._model.generate(
            encoded,
            [self._prompt] * len(utterances),
            beam_size=5,
            max_length=min(448, 2 * (math.ceil(24 * longest_s) + 32)),
            return_scores=True,
            return_no_speech_prob=True,
            suppress_blank=True,
            suppress_tokens=self._suppressed,
        )
        return [self._tokenizer.decode(result.sequences_ids[0]).strip() for result in results]

    def _plain(self, samples: Samples) -> Samples:
        import numpy as np

        window = np.zeros((self._model.n_mels, 3000), np.float32)
        spectrum = self._extractor(samples)[:, : len(samples) // 160]
        window[:, : spectrum.shape[1]] = spectrum
        return window
