"""Between text and tokens: prompts that can share a batch, languages, and the texts that come out.

All items of one CTranslate2 call must have `<|startoftranscript|>` at the same place, so the part before it
(hotwords and earlier text) has one of a few lengths: up to 8 tokens any, up to 32 a multiple of `SHORT_STEP`, above
that a step of `PROMPT_STEPS`. Text is only ever cut, never invented to fill up. A cut keeps the hotwords, then the end
of the prompt, because what was said last matters most; a short list of hotwords is not cut at all, for its last word
would be torn, and keeps a length of its own.

What a client writes is text: tokens that are none (`<|startoftranscript|>`, timestamps) are left out of it.
"""

from __future__ import annotations

import functools
import unicodedata
import zlib
from collections.abc import Sequence
from typing import Any, Final

from sttd.core.types import DecodeOptions
from sttd.errors import DecodeError
from sttd.options import Task

SHORT_STEP: Final = 4
PROMPT_STEPS: Final = (32, 48, 64, 96, 128)
MAX_TOKENS: Final = 448  # decoder positions of every Whisper model
MAX_PREFIX: Final = MAX_TOKENS // 2 - 1


class TextCodec:
    """Tokens of one loaded model. Stateless but for caches, so calls from several threads are safe."""

    def __init__(self, tokenizer: Any, *, multilingual: bool, languages: Sequence[str]) -> None:
        """`tokenizer` is a `tokenizers.Tokenizer`; `languages` are those that the model has a token for."""
        self._tokenizer = tokenizer
        self.languages = tuple(languages)
        # Module functions with what they need, not methods: a cache of bound methods would keep itself alive.
        self.tokenizer_for = functools.lru_cache(maxsize=256)(
            functools.partial(_tokenizer_for, tokenizer, multilingual)
        )
        any_language = self.tokenizer_for(self.languages[0], "transcribe")
        self.eot: int = any_language.eot
        self.timestamp_begin: int = any_language.timestamp_begin
        self.no_timestamps: int = any_language.no_timestamps
        self.context = functools.lru_cache(maxsize=256)(functools.partial(_context, tokenizer, any_language))
        self.suppressed = _suppressed(any_language)
        self._marks = functools.lru_cache(maxsize=4096)(functools.partial(_is_punctuation, tokenizer))
        # The embedded model begins every text with a token of no text, the first that it has: so must a forced one.
        self._opening = [0] if tokenizer.token_to_id("") == 0 else []

    def language(self, wanted: str | None) -> str | None:
        """The language to decode in; None means that it must be detected.

        Raises:
            DecodeError: `bad_option`; the model does not know the language.
        """
        if wanted is not None and wanted not in self.languages:
            raise DecodeError(f"the model does not know the language {wanted!r}. {self._knows()}", code="bad_option")
        return self.languages[0] if len(self.languages) == 1 else wanted

    def check(self, options: DecodeOptions) -> None:
        """What is asked of the model, but for the language. A session asks for it at its start (`session/fitting.py`).

        Raises:
            DecodeError: `bad_option`; it cannot translate, or knows none of the languages that are possible.
        """
        if options.task == "translate" and len(self.languages) == 1:
            raise DecodeError(f"the model does not translate. {self._knows()}", code="bad_option")
        allowed = options.languages.allowed if options.languages is not None else ()
        if allowed and options.language is None and not set(allowed).intersection(self.languages):
            raise DecodeError(f"the model knows none of {', '.join(allowed)}. {self._knows()}", code="bad_option")

    def _knows(self) -> str:
        if len(self.languages) > 1:
            return f"It knows {len(self.languages)} others"
        return f"It knows {self.languages[0]!r} only; a model of many languages does, such as `base`"

    def prompt(
        self, options: DecodeOptions, *, language: str, timestamps: bool, with_context: bool = True
    ) -> list[int]:
        """All tokens that go before the text, the forced prefix included."""
        tokens: list[int] = []
        if with_context:
            tokens += self.context(options.prompt, options.hotwords)
        tokens += self.tokenizer_for(language, options.task).sot_sequence
        if not timestamps:
            tokens.append(self.no_timestamps)
        prefix = self.prefix(options)
        if prefix and timestamps:
            tokens.append(self.timestamp_begin)
        return tokens + prefix

    def prefix(self, options: DecodeOptions) -> list[int]:
        """Tokens of the text that the result must start with."""
        text = options.prefix.strip()
        return self.encode(text)[:MAX_PREFIX] if text else []

    def encode(self, text: str) -> list[int]:
        """The tokens of a text that stands at the beginning."""
        return [*self._opening, *_encode(self._tokenizer, " " + text, eot=self.eot)]

    def is_punctuation(self, token: int) -> bool:
        """Whether a token is punctuation and nothing else. A part of a character is none."""
        return bool(self._marks(token))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of the tokens, specials left out."""
        return str(self._tokenizer.decode([token for token in tokens if token < self.eot]))


def languages_of(tokenizer: Any, *, multilingual: bool) -> list[str]:
    """The languages that a model has tokens for."""
    if not multilingual:
        return ["en"]
    from faster_whisper.tokenizer import _LANGUAGE_CODES

    return [code for code in _LANGUAGE_CODES if tokenizer.token_to_id(f"<|{code}|>") is not None]


def _context(tokenizer: Any, specials: Any, prompt: str, hotwords: tuple[str, ...]) -> tuple[int, ...]:
    """`<|startofprev|>` and the earlier text, or nothing."""
    words = _encode(tokenizer, " " + ", ".join(hotwords), eot=specials.eot) if hotwords else []
    text = _encode(tokenizer, " " + prompt.strip(), eot=specials.eot) if prompt.strip() else []
    length = len(words) + len(text)
    if length > PROMPT_STEPS[0]:
        length = max(step for step in PROMPT_STEPS if step <= length)
    elif length > 2 * SHORT_STEP:
        length -= min(length % SHORT_STEP, len(text))
    if length == 0:
        return ()
    words = words[:length]
    kept = length - len(words)
    return (specials.sot_prev, *words, *text[len(text) - kept :])


def _encode(tokenizer: Any, text: str, *, eot: int) -> list[int]:
    """The tokens of a text. The tokenizer takes what looks like a special token for one: they begin with `eot`."""
    return [token for token in tokenizer.encode(text, add_special_tokens=False).ids if token < eot]


def _tokenizer_for(tokenizer: Any, multilingual: bool, language: str, task: Task) -> Any:
    from faster_whisper.tokenizer import Tokenizer

    return Tokenizer(tokenizer, multilingual, task=task, language=language)


def _is_punctuation(tokenizer: Any, token: int) -> bool:
    text = str(tokenizer.decode([token])).strip()
    return bool(text) and all(unicodedata.category(char).startswith("P") for char in text)


def compression_ratio(text: str) -> float:
    """Bytes of the text over bytes of its zlib form: above 2.4 it repeats itself (OpenAI's threshold)."""
    encoded = text.encode()
    return len(encoded) / len(zlib.compress(encoded))


def _suppressed(tokenizer: Any) -> list[int]:
    """faster-whisper's default: brackets, notes and other signs of what nobody spoke, and the specials."""
    specials = (
        tokenizer.transcribe,
        tokenizer.translate,
        tokenizer.sot,
        tokenizer.sot_prev,
        tokenizer.sot_lm,
        tokenizer.no_speech,
    )
    return sorted({*tokenizer.non_speech_tokens, *(token for token in specials if token is not None)})
