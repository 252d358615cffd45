"""Which language each item of a batch is decoded in: given, known from an earlier call, or chosen by its sound.

A choice takes the detector's word, without its leaning, and what the session knew before (`core/languages.py`). The
detector is one step of the decoder for the whole batch: with base on two cores 65 ms beside a final of 1250.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import numpy as np

from sttd.core.languages import Heard, Prior, evidence
from sttd.core.types import DecodeItem
from sttd.engine.whisper.features import Encoded, encode
from sttd.engine.whisper.passes import Known
from sttd.engine.whisper.search import Language
from sttd.engine.whisper.tokens import TextCodec

# Of silence, to see what the model leans to. A full window gives the same but takes as long as speech does: with base
# the logarithms of the two correlate by 0.999, and with those of noise by 0.97 to 0.99.
_SILENCE_FRAMES: Final = 400


@attrs.define(eq=False)
class LanguageChooser:
    """Chooses for one model. What it makes of silence is computed when it is first needed, by whichever thread."""

    _whisper: Any  # ctranslate2.models.Whisper
    _codec: TextCodec
    _silence: Mapping[str, float] | None = attrs.field(default=None, init=False)

    def languages(self, encoded: Encoded, batch: Sequence[DecodeItem]) -> list[Language]:
        """The language of each item. Raises DecodeError, `bad_option`: the model cannot do what an item asks for."""
        for item in batch:
            self._codec.check(item.options)
        given = [self._codec.language(item.options.language) for item in batch]
        if not any(self._listens(item, code) for item, code in zip(batch, given, strict=True)):
            return [self._known(item, code) for item, code in zip(batch, given, strict=True)]
        detected = self._whisper.detect_language(encoded.output)
        return [
            self._heard(item, code, _probabilities(guesses)) if self._listens(item, code) else self._known(item, code)
            for item, code, guesses in zip(batch, given, detected, strict=True)
        ]

    def _listens(self, item: DecodeItem, code: str | None) -> bool:
        """Whether the sound is to say something about the language."""
        if len(self._codec.languages) == 1 or Known.of(item).language is not None:
            return False
        return code is None or item.options.languages is not None

    def _known(self, item: DecodeItem, code: str | None) -> Language:
        known = Known.of(item).language
        if known is not None:
            return known
        assert code is not None
        return Language(code=code, probability=1.0)

    def _heard(self, item: DecodeItem, code: str | None, probabilities: Mapping[str, float]) -> Language:
        prior = item.options.languages or Prior()
        allowed = [language for language in prior.allowed if language in self._codec.languages]
        heard = evidence(probabilities, silence=self._of_silence(), allowed=allowed)
        if code is not None:
            return Language(code=code, probability=1.0, heard=heard)
        ranked: Heard = tuple(each for each in prior.posterior(heard) if each[0] in self._codec.languages)
        best, probability = ranked[0]
        return Language(code=best, probability=probability, heard=heard)

    def _of_silence(self) -> Mapping[str, float]:
        if self._silence is None:
            features = np.zeros((1, self._whisper.n_mels, _SILENCE_FRAMES), np.float32)
            (guesses,) = self._whisper.detect_language(encode(self._whisper, features).output)
            self._silence = _probabilities(guesses)
        return self._silence


def _probabilities(guesses: Sequence[tuple[str, float]]) -> dict[str, float]:
    """What CTranslate2 returns, `<|en|>` with its probability, by code."""
    return {token[2:-2]: probability for token, probability in guesses}
