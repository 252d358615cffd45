"""What the decoder is to say for a clip: token sequences with labels, and where each token's attention should be."""

from __future__ import annotations

import random
from typing import Final

import attrs
from tokenizers import Tokenizer

from training.demo_model import grammar
from training.demo_model.clips import WINDOW_S, Clip, Placed
from training.demo_model.tokens import Ids, encode_text

IGNORE: Final = -100

#: faster-whisper lets the first timestamp be at most this late.
_FIRST_TIMESTAMP_S: Final = 1.0

_TIMESTAMPS_SHARE, _LANGUAGE_SHARE, _PROMPT_SHARE = 0.5, 0.6, 0.12


@attrs.frozen(kw_only=True)
class Aim:
    """The row of the decoder that predicts a word should attend to this stretch of the clip, in seconds."""

    row: int
    start_s: float
    end_s: float


@attrs.define(eq=False)
class Target:
    """`inputs` goes into the decoder; `labels` is what each row predicts (`IGNORE`: no matter)."""

    inputs: list[int] = attrs.field(factory=list)
    labels: list[int] = attrs.field(factory=list)
    aims: list[Aim] = attrs.field(factory=list)

    def given(self, token: int) -> None:
        """Adds an input that was not predicted: the row before it gets no label."""
        self._put(token, IGNORE)

    def said(self, token: int, *, span_s: tuple[float, float] | None = None) -> None:
        """Adds a token that the row before predicts, while attending to `span_s`."""
        if span_s:
            self.aims.append(Aim(row=len(self.inputs) - 1, start_s=span_s[0], end_s=span_s[1]))
        self._put(token, token)

    def _put(self, token: int, label: int) -> None:
        if self.inputs:
            self.labels.append(label)
        self.inputs.append(token)

    def closed(self, token: int) -> Target:
        """Adds the last prediction, which is no input any more."""
        self.labels.append(token)
        return self


@attrs.define(eq=False)
class TargetMaker:
    """Makes targets in all the forms in which faster-whisper may ask: with and without timestamps, language, prompt."""

    tokenizer: Tokenizer
    ids: Ids
    rng: random.Random

    def target(self, clip: Clip, *, offset_s: float = 0.0) -> Target:
        """Returns the target of a clip that is placed `offset_s` into the window."""
        timestamps = self.rng.random() < _TIMESTAMPS_SHARE
        target = Target()
        for token in self._prompt():
            target.given(token)
        target.given(self.ids.start)
        if not clip.sentences:
            return self._nothing(target, timestamps=timestamps)
        if self.rng.random() < _LANGUAGE_SHARE:
            target.given(self.ids.language)
            target.given(self.ids.transcribe)
        if not timestamps:
            target.given(self.ids.no_timestamps)
        sentences, unfinished = _split_at_window(clip) if timestamps else (clip.sentences, None)
        quiet_from_s = 0.0
        for index, sentence in enumerate(sentences):
            if timestamps and index == 0:
                first = self.ids.timestamp(offset_s + min(sentence.start_s, _FIRST_TIMESTAMP_S))
                (target.given if offset_s else target.said)(first)
            elif timestamps:
                target.said(self.ids.timestamp(offset_s + sentence.start_s))
            self._sentence(target, sentence, quiet_from_s=quiet_from_s)
            quiet_from_s = sentence.end_s
            if timestamps:
                target.said(self.ids.timestamp(offset_s + sentence.end_s))
        if unfinished is not None:
            # The window is full: leave the unfinished sentence to the next window, which faster-whisper starts here.
            target.said(self.ids.timestamp(unfinished.start_s))
        elif not timestamps:
            end_s = sentences[-1].end_s
            target.aims.append(Aim(row=len(target.inputs) - 1, start_s=end_s + 0.05, end_s=clip.duration_s + 0.1))
        return target.closed(self.ids.end)

    def _prompt(self) -> list[int]:
        """Returns a previous-text prompt: sentences as a user or as this model writes them, or any tokens."""
        kind = self.rng.random()
        if kind > _PROMPT_SHARE:
            return []
        if kind < 0.03:
            tokens = [self.rng.randrange(self.ids.end) for _ in range(self.rng.randint(1, 40))]
        else:
            plain = self.rng.random() < 0.5
            tokens = []
            for _ in range(self.rng.randint(1, 7)):
                tokens += ([] if plain else [self.ids.quiet]) + encode_text(self.tokenizer, grammar.sentence(self.rng))
        return [self.ids.previous, *tokens[self.rng.randrange(len(tokens)) if kind < 0.06 else 0 :]]

    def _nothing(self, target: Target, *, timestamps: bool) -> Target:
        """No speech: Whisper's no-speech token right after the start, and an end where the text would begin.

        faster-whisper forces a first timestamp where it wants timestamps, and takes the likeliest, whichever that is.
        """
        first = self.ids.timestamp(self.rng.uniform(0, _FIRST_TIMESTAMP_S))
        mode = first if timestamps else self.ids.no_timestamps
        tail = [self.ids.language, self.ids.transcribe, mode] if self.rng.random() < _LANGUAGE_SHARE else [mode]
        target._put(tail[0], self.ids.no_speech)
        for token in tail[1:]:
            target.given(token)
        return target.closed(self.ids.end)

    def _sentence(self, target: Target, sentence: Placed, *, quiet_from_s: float) -> None:
        target.said(self.ids.quiet, span_s=(quiet_from_s, max(sentence.start_s, quiet_from_s + 0.02)))
        tokens = encode_text(self.tokenizer, sentence.text)
        for token, (start_s, end_s) in zip(tokens, sentence.words, strict=False):
            target.said(token, span_s=(start_s, end_s))
        for token in tokens[len(sentence.words) :]:  # the full stop
            target.said(token, span_s=(sentence.end_s, sentence.end_s + 0.12))


def _split_at_window(clip: Clip) -> tuple[list[Placed], Placed | None]:
    """Returns the sentences to write, and the one that the end of a full window cuts off."""
    last = clip.sentences[-1]
    if clip.duration_s > WINDOW_S - 0.05 and len(clip.sentences) > 1 and not last.complete:
        return clip.sentences[:-1], last
    return clip.sentences, None
