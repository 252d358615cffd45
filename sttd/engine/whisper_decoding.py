"""How a batch of utterances is decoded: keys, bounds, the temperature ladder, segments and words.

| class               | beams | window           | timestamps | tokens at most    | temperatures        |
|---------------------|-------|------------------|------------|-------------------|---------------------|
| final, speculative  | 5     | 3000 frames      | no         | 24 a second + 32  | 0, then 0.4 and 0.8 |
| interim             | 1     | `interim_windows`| no         | 8 a second + 16   | 0                   |
| file                | 5     | 3000 frames      | yes        | 24 a second + 32  | 0, then 0.4 and 0.8 |

The bounds exist because a decode cannot be stopped: a loop would hold the worker for 224 tokens. English needs
about 4 tokens a second, Chinese up to 10; a final that hits its bound is a loop, an interim merely comes short.
A rejected item is decoded again by itself, at the next temperature and without its prompt (prompts cause most
loops); the ladder has three steps where OpenAI's has six, for the same reason as the bounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import attrs
import numpy as np

from sttd.core.types import DecodeItem, Hypothesis, JobClass, Segment, Word, seconds
from sttd.engine.whisper_audio import (
    FULL_WINDOW,
    MAX_SAMPLES,
    Encoded,
    content_frames,
    encode,
    log_mel,
    window_for,
)
from sttd.engine.whisper_options import Settings
from sttd.engine.whisper_segments import Piece, align, split_at_timestamps, start_at_sound
from sttd.engine.whisper_text import MAX_TOKENS, TextCodec, compression_ratio

BEST_OF: Final = 5  # samples drawn at a temperature above 0
MAX_INITIAL_TIMESTAMP: Final = 50  # 1 s, as faster-whisper limits it
MIN_REST_S: Final = 1.0  # a window's rest shorter than this holds no words
MAX_RESUMES: Final = 2  # how often one file window may go on behind a segment that was left open


@attrs.frozen(kw_only=True)
class BatchKey:
    """What items must have in common to share a call."""

    group: JobClass  # FINAL stands for speculative ones too
    window: int
    context: int  # tokens before <|startoftranscript|>
    words: bool


@attrs.frozen(kw_only=True)
class Attempt:
    """One decode of one item at one temperature."""

    tokens: tuple[int, ...]
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    temperature: float


@attrs.frozen(kw_only=True)
class Language:
    """The language an item is decoded in, and how sure that is (1 when it was given)."""

    code: str
    probability: float


@attrs.define(eq=False)
class Decoder:
    """Decodes batches on one loaded model. No state of its own, so several threads may call it."""

    _whisper: Any  # ctranslate2.models.Whisper
    _extractor: Any  # faster_whisper's FeatureExtractor
    _codec: TextCodec
    _settings: Settings

    def batch_key(self, item: DecodeItem) -> BatchKey:
        """Some microseconds; prompts are tokenised once and remembered."""
        interim = item.job_class is JobClass.INTERIM
        allowed = self._settings.interim_windows if interim else ()
        return BatchKey(
            group=JobClass.FINAL if item.job_class is JobClass.SPECULATIVE else item.job_class,
            window=window_for(len(item.samples), allowed=allowed),
            context=len(self._codec.context(item.options.prompt, item.options.hotwords)),
            words=item.options.words,
        )

    def decode(self, batch: Sequence[DecodeItem], *, resumes: int = MAX_RESUMES) -> list[Hypothesis]:
        """Decode items of one key. Raises whatever CTranslate2 raises, for all of them."""
        key = self.batch_key(batch[0])
        wanted = [self._codec.language(item.options.language) for item in batch]
        features = [log_mel(self._extractor, item.samples, window=key.window) for item in batch]
        encoded = encode(self._whisper, np.stack(features))
        languages = self._languages(encoded, wanted)
        attempts = self._attempts(encoded, batch, key=key, languages=languages)
        hypotheses = self._hypotheses(encoded, batch, key=key, languages=languages, attempts=attempts)
        if key.group is JobClass.INTERIM and key.window < FULL_WINDOW:
            return [self._unlooped(item, found) for item, found in zip(batch, hypotheses, strict=True)]
        if key.group is JobClass.FILE:
            return self._resumed(batch, hypotheses, attempts=attempts, resumes=resumes)
        return hypotheses

    # ------------------------------------------------------------ tokens

    def _languages(self, encoded: Encoded, wanted: Sequence[str | None]) -> list[Language]:
        """Detect where none is given: one decoder step for the whole batch."""
        if all(code is not None for code in wanted):
            return [Language(code=code or "", probability=1.0) for code in wanted]
        detected = self._whisper.detect_language(encoded.output)
        return [
            Language(code=code, probability=1.0)
            if code is not None
            else Language(code=guesses[0][0][2:-2], probability=guesses[0][1])
            for code, guesses in zip(wanted, detected, strict=True)
        ]

    def _attempts(
        self, encoded: Encoded, batch: Sequence[DecodeItem], *, key: BatchKey, languages: Sequence[Language]
    ) -> list[Attempt]:
        """The accepted attempt of each item, or the best of the rejected ones."""
        temperatures = self._settings.temperatures[:1] if key.group is JobClass.INTERIM else self._settings.temperatures
        tried: list[list[Attempt]] = [[] for _ in batch]
        pending = list(range(len(batch)))
        for step, temperature in enumerate(temperatures):
            prompts = [
                self._codec.prompt(
                    batch[index].options,
                    language=languages[index].code,
                    timestamps=key.group is JobClass.FILE,
                    with_context=step == 0,
                )
                for index in pending
            ]
            items = [batch[index] for index in pending]
            found = self._generate(encoded.take(pending), items, prompts=prompts, key=key, temperature=temperature)
            for index, attempt in zip(pending, found, strict=True):
                tried[index].append(attempt)
            pending = [index for index in pending if self._rejected(tried[index][-1])]
            if not pending:
                break
        return [self._best(attempts) for attempts in tried]

    def _generate(
        self,
        encoded: Encoded,
        items: Sequence[DecodeItem],
        *,
        prompts: Sequence[list[int]],
        key: BatchKey,
        temperature: float,
    ) -> list[Attempt]:
        interim = key.group is JobClass.INTERIM
        bounds = [self._bound(item, interim=interim) for item in items]
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
            search = {"beam_size": self._settings.interim_beam_size if interim else self._settings.beam_size}
        results = self._whisper.generate(
            encoded.output,
            prompts,
            max_length=max_length,
            return_scores=True,
            return_no_speech_prob=True,
            suppress_blank=True,
            suppress_tokens=self._codec.suppressed,
            max_initial_timestamp_index=MAX_INITIAL_TIMESTAMP,
            **search,
        )
        return [
            self._attempt(result, bound=bound, temperature=temperature)
            for result, bound in zip(results, bounds, strict=True)
        ]

    def _bound(self, item: DecodeItem, *, interim: bool) -> int:
        """Most tokens that an item may take."""
        duration_s = seconds(len(item.samples))
        text = math.ceil(8 * duration_s) + 16 if interim else math.ceil(24 * duration_s) + 32
        return min(MAX_TOKENS // 2, text + len(self._codec.prefix(item.options)))

    def _attempt(self, result: Any, *, bound: int, temperature: float) -> Attempt:
        tokens = result.sequences_ids[0]
        # The score is a mean over the tokens without the end token; faster-whisper's measure counts that too.
        # Without any token the score of a greedy search is not a number.
        total = result.scores[0] * len(tokens) if tokens else 0.0
        kept = tuple(tokens[:bound])  # the call's bound is that of its longest item
        return Attempt(
            tokens=kept,
            avg_logprob=total / (len(tokens) + 1),
            no_speech_prob=result.no_speech_prob,
            compression_ratio=compression_ratio(self._codec.decode(kept).strip()),
            temperature=temperature,
        )

    def _rejected(self, attempt: Attempt) -> bool:
        """OpenAI's rule: too repetitive or too improbable, unless it is silence."""
        improbable = attempt.avg_logprob < self._settings.log_prob_threshold
        if improbable and attempt.no_speech_prob > self._settings.no_speech_threshold:
            return False
        return improbable or self._repetitive(attempt)

    def _repetitive(self, attempt: Attempt) -> bool:
        return attempt.compression_ratio > self._settings.compression_ratio_threshold

    def _best(self, attempts: Sequence[Attempt]) -> Attempt:
        if not self._rejected(attempts[-1]):
            return attempts[-1]
        candidates = [attempt for attempt in attempts if not self._repetitive(attempt)] or attempts
        return max(candidates, key=lambda attempt: attempt.avg_logprob)

    # ------------------------------------------------------------ text

    def _hypotheses(
        self,
        encoded: Encoded,
        batch: Sequence[DecodeItem],
        *,
        key: BatchKey,
        languages: Sequence[Language],
        attempts: Sequence[Attempt],
    ) -> list[Hypothesis]:
        texts = [[token for token in attempt.tokens if token < self._codec.eot] for attempt in attempts]
        words = self._words(encoded, batch, languages=languages, texts=texts) if key.words else [[] for _ in batch]
        return [self._hypothesis(*row) for row in zip(batch, languages, attempts, words, strict=True)]

    def _words(
        self,
        encoded: Encoded,
        batch: Sequence[DecodeItem],
        *,
        languages: Sequence[Language],
        texts: Sequence[Sequence[int]],
    ) -> list[list[tuple[Word, int]]]:
        """Aligned words of each item; one call for each language and task in the batch."""
        words: list[list[tuple[Word, int]]] = [[] for _ in batch]
        kinds = [(language.code, item.options.task) for item, language in zip(batch, languages, strict=True)]
        for kind in dict.fromkeys(kinds):
            members = [index for index, other in enumerate(kinds) if other == kind and texts[index]]
            if not members:
                continue
            aligned = align(
                encoded.take(members),
                [texts[index] for index in members],
                codec=self._codec,
                tokenizer=self._codec.tokenizer_for(*kind),
                frames=[content_frames(len(batch[index].samples)) for index in members],
            )
            for index, found in zip(members, aligned, strict=True):
                words[index] = start_at_sound(found, batch[index].samples[:MAX_SAMPLES])
        return words

    def _hypothesis(
        self, item: DecodeItem, language: Language, attempt: Attempt, words: Sequence[tuple[Word, int]]
    ) -> Hypothesis:
        duration_s = seconds(min(len(item.samples), MAX_SAMPLES))
        split = split_at_timestamps(attempt.tokens, timestamp_begin=self._codec.timestamp_begin, duration_s=duration_s)
        segments: list[Segment] = []
        rest = list(words)
        for piece in split.pieces:
            mine: list[Word] = []
            left = len(piece.tokens)
            while rest and left > 0:
                word, tokens = rest.pop(0)
                mine.append(word)
                left -= tokens
            segments.append(self._segment(piece, attempt, mine))
        return Hypothesis(
            text=self._codec.decode(attempt.tokens).strip(),
            segments=tuple(segments),
            language=language.code,
            language_probability=language.probability,
            avg_logprob=attempt.avg_logprob,
            no_speech_prob=attempt.no_speech_prob,
            compression_ratio=attempt.compression_ratio,
            temperature=attempt.temperature,
        )

    def _segment(self, piece: Piece, attempt: Attempt, words: Sequence[Word]) -> Segment:
        text = self._codec.decode(piece.tokens).strip()
        return Segment(
            text=text,
            start_s=words[0].start_s if words else piece.start_s,
            end_s=words[-1].end_s if words else piece.end_s,
            avg_logprob=attempt.avg_logprob,
            no_speech_prob=attempt.no_speech_prob,
            compression_ratio=compression_ratio(text),
            words=tuple(words),
        )

    # ------------------------------------------------------------ second passes

    def _unlooped(self, item: DecodeItem, found: Hypothesis) -> Hypothesis:
        """Short windows make some models repeat themselves; the full window is the cure."""
        if found.compression_ratio <= self._settings.compression_ratio_threshold:
            return found
        full = attrs.evolve(self, settings=attrs.evolve(self._settings, interim_windows=()))
        return full.decode([item])[0]

    def _resumed(
        self,
        batch: Sequence[DecodeItem],
        hypotheses: list[Hypothesis],
        *,
        attempts: Sequence[Attempt],
        resumes: int,
    ) -> list[Hypothesis]:
        """Go on where Whisper opened a segment and stopped, as faster-whisper does by seeking there."""
        rests: dict[int, float] = {}
        for index, (item, attempt) in enumerate(zip(batch, attempts, strict=True)):
            duration_s = seconds(min(len(item.samples), MAX_SAMPLES))
            begin = self._codec.timestamp_begin
            resume_s = split_at_timestamps(attempt.tokens, timestamp_begin=begin, duration_s=duration_s).resume_s
            if resumes and resume_s and duration_s - resume_s >= MIN_REST_S:
                rests[index] = resume_s
        if not rests:
            return hypotheses
        items = [
            attrs.evolve(batch[index], samples=batch[index].samples[round(at_s * 16_000) : MAX_SAMPLES])
            for index, at_s in rests.items()
        ]
        for (index, at_s), rest in zip(rests.items(), self.decode(items, resumes=resumes - 1), strict=True):
            hypotheses[index] = _joined(hypotheses[index], rest, at_s=at_s)
        return hypotheses


def _joined(first: Hypothesis, rest: Hypothesis, *, at_s: float) -> Hypothesis:
    """Two hypotheses of one window as one; of the measures the worse holds."""
    segments = [
        attrs.evolve(
            segment,
            start_s=segment.start_s + at_s,
            end_s=segment.end_s + at_s,
            words=tuple(
                attrs.evolve(word, start_s=word.start_s + at_s, end_s=word.end_s + at_s) for word in segment.words
            ),
        )
        for segment in rest.segments
    ]
    return attrs.evolve(
        first,
        text=f"{first.text} {rest.text}".strip(),
        segments=(*first.segments, *segments),
        avg_logprob=min(first.avg_logprob, rest.avg_logprob),
        compression_ratio=max(first.compression_ratio, rest.compression_ratio),
        temperature=max(first.temperature, rest.temperature),
    )
