"""The search for the tokens: a batch through the decoder, and again where the first answer is not believed.

| effort                | beams | tokens at most    | temperatures        |
|-----------------------|-------|-------------------|---------------------|
| full, timed           | 5     | 24 a second + 32  | 0, then 0.4 and 0.8 |
| full, in short window | 5     | 16 a second + 16  | 0                   |
| quick                 | 1     | 8 a second + 16   | 0                   |

The bounds exist because a decode cannot be stopped: a loop would hold the worker for 224 tokens. English needs
about 4 tokens a second, Chinese up to 10; a final that hits its bound is a loop, an interim merely comes short. A short
window has the full one behind it (`doubt.py`), so its loops may end sooner. Of a quick, greedy search every token's
probability is known, at no measurable cost (135 ms with and without, tiny.en).

A rejected item is decoded again by itself, at the next temperature and without its prompt (prompts cause most
loops); the ladder has three steps where OpenAI's has six, for the same reason as the bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import attrs
import numpy as np

from sttd.core.languages import Heard
from sttd.core.types import DecodeItem, Effort, seconds
from sttd.engine.contract import NOBODY, Waiters
from sttd.engine.whisper.features import Encoded
from sttd.engine.whisper.options import Settings
from sttd.engine.whisper.tokens import MAX_TOKENS, TextCodec, compression_ratio

BEST_OF: Final = 5  # samples drawn at a temperature above 0
MAX_INITIAL_TIMESTAMP: Final = 50  # 1 s, as faster-whisper limits it
_LEAST_PROBABILITY: Final = 1e-6  # chosen: one token that cannot be does not outweigh all others
_LARGEST: Final = 80.0  # of an exponent, so that no float overflows; the probability is nothing long before


@attrs.frozen(kw_only=True)
class Attempt:
    """One decode of one item at one temperature."""

    tokens: tuple[int, ...]
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    temperature: float
    cut: bool = False  # it came to the bound of its tokens
    probabilities: tuple[float, ...] | None = None  # of each token; None where the search does not say


@attrs.frozen(kw_only=True)
class Language:
    """The language an item is decoded in, how sure that is (1 when it was given), and what its sound says of it."""

    code: str
    probability: float
    heard: Heard = ()


@attrs.frozen(kw_only=True, eq=False)
class Search:
    """Runs the decoder of one model. No state of its own."""

    codec: TextCodec
    settings: Settings

    def attempts(
        self,
        encoded: Encoded,
        batch: Sequence[DecodeItem],
        *,
        effort: Effort,
        timestamps: bool,
        once: bool,
        languages: Sequence[Language],
        tried: Sequence[list[Attempt]],
        waiters: Waiters = NOBODY,
    ) -> Iterator[dict[int, Attempt]]:
        """Yields, temperature by temperature, the attempts that were accepted; at last the best of the rejected.

        A rejected item for which nobody waits any more, such as a speculation after which the speaker went on, is not
        tried again. Files are left when the waiters are in a hurry, after a try at least.

        Args:
            encoded: the batch after the encoder.
            batch: its items.
            effort: of all of them.
            timestamps: whether Whisper is to write them.
            once: a first attempt is all that is wanted, whether it is believed or not.
            languages: of each item.
            tried: the rejected attempts at each item so far, equally many; those made here are appended.
            waiters: who waits for the items.
        """
        temperatures = self.settings.temperatures[:1] if once else self.settings.temperatures
        pending = list(range(len(batch)))
        first = len(tried[0])
        for step, temperature in enumerate(temperatures[first:], first):
            if step > first and effort is Effort.TIMED and waiters.hurry():
                return
            prompts = [
                self.codec.prompt(
                    batch[index].options,
                    language=languages[index].code,
                    timestamps=timestamps,
                    with_context=step == 0,
                )
                for index in pending
            ]
            items = [batch[index] for index in pending]
            some = encoded.take(pending)
            found = self._generate(some, items, prompts=prompts, effort=effort, temperature=temperature, once=once)
            for index, attempt in zip(pending, found, strict=True):
                tried[index].append(attempt)
            last = step == len(temperatures) - 1
            settled = {
                index: tried[index]
                for index in pending
                if last or not self._rejected(tried[index][-1]) or waiters.gone(index)
            }
            pending = [index for index in pending if index not in settled]
            if settled:
                yield {index: self._best(attempts) for index, attempts in settled.items()}
            if not pending:
                return

    def forced(
        self,
        encoded: Encoded,
        batch: Sequence[DecodeItem],
        *,
        texts: Sequence[str],
        timestamps: bool,
        languages: Sequence[Language],
    ) -> list[Attempt]:
        """One more attempt at each item, which begins with its text."""
        items = [
            attrs.evolve(one, options=attrs.evolve(one.options, prefix=text))
            for one, text in zip(batch, texts, strict=True)
        ]
        prompts = [
            self.codec.prompt(item.options, language=language.code, timestamps=timestamps)
            for item, language in zip(items, languages, strict=True)
        ]
        return self._generate(encoded, items, prompts=prompts, effort=Effort.FULL, temperature=0.0)

    def repetitive(self, attempt: Attempt) -> bool:
        """Whether the text compresses too well to be believed."""
        return attempt.compression_ratio > self.settings.compression_ratio_threshold

    def _generate(
        self,
        encoded: Encoded,
        items: Sequence[DecodeItem],
        *,
        prompts: Sequence[list[int]],
        effort: Effort,
        temperature: float,
        once: bool = False,
    ) -> list[Attempt]:
        interim = effort is Effort.QUICK
        bounds = [self._bound(item, interim=interim, once=once) for item in items]
        # CTranslate2 generates at most min(max_length / 2, max_length - prompt) tokens; a forced prefix counts.
        longest = max(bounds)
        max_length = min(MAX_TOKENS, max(2 * longest, longest + max(map(len, prompts))))
        if temperature > 0:
            search = {
                "beam_size": 1,
                "num_hypotheses": BEST_OF,
                "sampling_topk": 0,
                "sampling_temperature": temperature,
            }
        else:
            search = {"beam_size": self.settings.interim_beam_size if interim else self.settings.beam_size}
            # Only of a greedy search: with more beams CTranslate2 returns logits that hold nothing.
            search["return_logits_vocab"] = interim and search["beam_size"] == 1
        results = encoded.whisper.generate(
            encoded.output,
            prompts,
            max_length=max_length,
            return_scores=True,
            return_no_speech_prob=True,
            suppress_blank=True,
            suppress_tokens=self.codec.suppressed,
            max_initial_timestamp_index=MAX_INITIAL_TIMESTAMP,
            **search,
        )
        return [
            self._attempt(result, bound=bound, temperature=temperature)
            for result, bound in zip(results, bounds, strict=True)
        ]

    def _bound(self, item: DecodeItem, *, interim: bool, once: bool) -> int:
        """Most tokens that an item may take."""
        a_second, more = (8, 16) if interim else (16, 16) if once else (24, 32)
        text = math.ceil(a_second * seconds(len(item.samples))) + more
        return min(MAX_TOKENS // 2, text + len(self.codec.prefix(item.options)))

    def _attempt(self, result: Any, *, bound: int, temperature: float) -> Attempt:
        tokens = result.sequences_ids[0]
        # The score is a mean over the tokens without the end token; faster-whisper's measure counts that too.
        # Without any token the score of a greedy search is not a number.
        total = result.scores[0] * len(tokens) if tokens else 0.0
        kept = tuple(tokens[:bound])  # the call's bound is that of its longest item
        logits = result.logits[0] if result.logits and len(result.logits[0]) >= len(tokens) else None
        return Attempt(
            tokens=kept,
            avg_logprob=total / (len(tokens) + 1),
            no_speech_prob=result.no_speech_prob,
            compression_ratio=compression_ratio(self.codec.decode(kept).strip()),
            temperature=temperature,
            cut=len(tokens) >= bound,
            # A few numbers are taken from the logits of each step, which are dropped with the results.
            probabilities=tuple(map(_probability, logits, kept)) if logits is not None else None,
        )

    def _rejected(self, attempt: Attempt) -> bool:
        """OpenAI's rule: too repetitive or too improbable, unless it is silence."""
        improbable = attempt.avg_logprob < self.settings.log_prob_threshold
        if improbable and attempt.no_speech_prob > self.settings.no_speech_threshold:
            return False
        return improbable or self.repetitive(attempt)

    def _best(self, attempts: Sequence[Attempt]) -> Attempt:
        if not self._rejected(attempts[-1]):
            return attempts[-1]
        candidates = [attempt for attempt in attempts if not self.repetitive(attempt)] or attempts
        return max(candidates, key=lambda attempt: attempt.avg_logprob)


def mean_logprob(probabilities: Sequence[float]) -> float:
    """Of the tokens of a text."""
    return float(np.mean(np.log(np.maximum(probabilities, _LEAST_PROBABILITY))))


def _probability(logits: Any, token: int) -> float:
    """The probability of a token by the logits of its step, one for each token of the vocabulary (softmax)."""
    import ctranslate2

    if logits.device != "cpu":
        logits = logits.to_device(ctranslate2.Device.cpu)
    if logits.dtype != ctranslate2.DataType.float32:
        logits = logits.to(ctranslate2.DataType.float32)
    values = np.asarray(logits).reshape(-1)
    return float(1 / np.exp(np.minimum(values - values[token], _LARGEST)).sum())
