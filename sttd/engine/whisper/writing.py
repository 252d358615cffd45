"""From the attempts of a search to hypotheses: their text in segments, and how sure the decoder was of its words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from sttd.core.types import DecodeItem, Hypothesis, Segment, Word, seconds
from sttd.engine.whisper.features import MAX_SAMPLES, Encoded, content_frames
from sttd.engine.whisper.search import Attempt, Language
from sttd.engine.whisper.segments import (
    Aligned,
    Piece,
    align,
    certainties,
    ending,
    split_at_timestamps,
    start_at_sound,
)
from sttd.engine.whisper.tokens import TextCodec, compression_ratio
from sttd.options import Task


@attrs.frozen(kw_only=True, eq=False)
class Writer:
    """Writes down what one model has heard. No state of its own."""

    codec: TextCodec

    def hypotheses(
        self,
        encoded: Encoded,
        batch: Sequence[DecodeItem],
        *,
        attempts: Mapping[int, Attempt],
        languages: Sequence[Language],
        words: bool,
    ) -> dict[int, Hypothesis]:
        """What the attempts at some of the items say."""
        texts = {
            index: [token for token in attempt.tokens if token < self.codec.eot] for index, attempt in attempts.items()
        }
        aligned = self.aligned(encoded, batch, languages=languages, texts=texts) if words else {}
        found: dict[int, Hypothesis] = {}
        for index, attempt in attempts.items():
            item, language, beside = batch[index], languages[index], aligned.get(index)
            heard = self._hypothesis(item, language, attempt, beside.words if beside is not None else ())
            # By the alignment, where there is one: within 0.05 of what a search says (measured).
            sure = beside.probabilities if beside is not None else attempt.probabilities
            found[index] = self._with_certainties(heard, texts[index], sure, task=item.options.task)
        return found

    def _with_certainties(
        self, heard: Hypothesis, text: Sequence[int], probabilities: Sequence[float] | None, *, task: Task
    ) -> Hypothesis:
        """The same with how sure the decoder was of each word, and of the end; nothing where that is not known."""
        if probabilities is None or len(probabilities) != len(text):
            return heard
        tokenizer = self.codec.tokenizer_for(heard.language, task)
        return attrs.evolve(
            heard,
            certainties=certainties(text, probabilities, codec=self.codec, tokenizer=tokenizer),
            ending=ending(text, probabilities, codec=self.codec),
        )

    def aligned(
        self,
        encoded: Encoded,
        batch: Sequence[DecodeItem],
        *,
        languages: Sequence[Language],
        texts: Mapping[int, Sequence[int]],
    ) -> dict[int, Aligned]:
        """The items that have text beside their audio; one call for each language and task among them."""
        aligned: dict[int, Aligned] = {}
        kinds = {index: (languages[index].code, batch[index].options.task) for index, text in texts.items() if text}
        for kind in dict.fromkeys(kinds.values()):
            members = [index for index, other in kinds.items() if other == kind]
            found = align(
                encoded.take(members),
                [texts[index] for index in members],
                codec=self.codec,
                tokenizer=self.codec.tokenizer_for(*kind),
                frames=[content_frames(len(batch[index].samples)) for index in members],
            )
            for index, one in zip(members, found, strict=True):
                words = start_at_sound(one.words, batch[index].samples[:MAX_SAMPLES])
                aligned[index] = attrs.evolve(one, words=tuple(words))
        return aligned

    def _hypothesis(
        self,
        item: DecodeItem,
        language: Language,
        attempt: Attempt,
        words: Sequence[tuple[Word, int]],
    ) -> Hypothesis:
        duration_s = seconds(min(len(item.samples), MAX_SAMPLES))
        split = split_at_timestamps(attempt.tokens, timestamp_begin=self.codec.timestamp_begin, duration_s=duration_s)
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
            text=self.codec.decode(attempt.tokens).strip(),
            segments=tuple(segments),
            language=language.code,
            language_probability=language.probability,
            languages=language.heard,
            avg_logprob=attempt.avg_logprob,
            no_speech_prob=attempt.no_speech_prob,
            compression_ratio=attempt.compression_ratio,
            temperature=attempt.temperature,
        )

    def _segment(self, piece: Piece, attempt: Attempt, words: Sequence[Word]) -> Segment:
        text = self.codec.decode(piece.tokens).strip()
        return Segment(
            text=text,
            start_s=words[0].start_s if words else piece.start_s,
            end_s=words[-1].end_s if words else piece.end_s,
            avg_logprob=attempt.avg_logprob,
            no_speech_prob=attempt.no_speech_prob,
            compression_ratio=compression_ratio(text),
            words=tuple(words),
        )
