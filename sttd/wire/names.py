"""What other systems call models and languages, in sttd's words; and how the finals of one text are joined.

Rules for the name of a model, the first that fits:

1. A preset that sessions may name: exactly, then whatever the case.
2. The repository of one, such as `Systran/faster-whisper-base`; or its usual names, `whisper-NAME` and
   `openai/whisper-NAME`.
3. None, "", `default`, `whisper-1`, and what begins with `gpt-`: the configured pair of models. An API may have more
   such beginnings of its own.
4. Any other is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from sttd.errors import ModelError, ProtocolError
from sttd.fields import clip
from sttd.language_names import language_code
from sttd.options import SPACELESS_LANGUAGES

CONFIGURED: Final = "whisper-1"  # the name for the configured pair that every client of OpenAI's knows
_DEFAULTS: Final = frozenset({"", "default", CONFIGURED})
_DEFAULT_PREFIXES: Final = ("gpt-",)
_USUAL: Final = ("whisper-", "openai/whisper-")
_DETECT: Final = frozenset({"", "auto", "multi"})


def find_preset(asked: str | None, presets: Mapping[str, str | None], *, prefixes: Sequence[str] = ()) -> str | None:
    """The preset that a client means; None: the configured pair.

    Args:
        asked: what it said.
        presets: those that sessions may name, with the repository of each that has one.
        prefixes: beginnings of names that mean the configured pair on this API.

    Raises:
        ModelError: `model_not_found`.
    """
    name = asked or ""
    if name in presets:
        return name
    folded = name.casefold()
    for preset, repository in presets.items():
        known = (preset, repository or preset, *(usual + preset for usual in _USUAL))
        if any(folded == other.casefold() for other in known):
            return preset
    if folded in _DEFAULTS or folded.startswith((*_DEFAULT_PREFIXES, *prefixes)):
        return None
    raise ModelError(
        f"there is no model {clip(name)!r}; there is: {', '.join((*presets, CONFIGURED))}", code="model_not_found"
    )


def find_language(asked: str | None) -> str | None:
    """The code of a language, by ISO 639-1, BCP 47 or its English name; None: it is to be detected.

    Raises:
        ProtocolError: `bad_option`: nobody knows it.
    """
    if (asked or "").strip().casefold() in _DETECT:
        return None
    code = language_code(asked or "")
    if code is None:
        raise ProtocolError(f"there is no language {clip(asked or '')!r}", code="bad_option")
    return code


def join(texts: Iterable[str], *, language: str | None) -> str:
    """The texts of several finals as one; those without text add nothing."""
    return separator(language).join(text for text in texts if text)


def separator(language: str | None) -> str:
    """What stands between two finals of a language."""
    return "" if language in SPACELESS_LANGUAGES else " "
