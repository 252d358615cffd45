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
from sttd.options import LANGUAGES, SPACELESS_LANGUAGES

CONFIGURED: Final = "whisper-1"  # the name for the configured pair that every client of OpenAI's knows
_DEFAULTS: Final = frozenset({"", "default", CONFIGURED})
_DEFAULT_PREFIXES: Final = ("gpt-",)
_USUAL: Final = ("whisper-", "openai/whisper-")
_DETECT: Final = frozenset({"", "auto", "multi"})

# The English names by which Whisper's own tools know the languages.
_NAMES: Final[Mapping[str, str]] = {
    "af": "afrikaans",
    "am": "amharic",
    "ar": "arabic",
    "as": "assamese",
    "az": "azerbaijani",
    "ba": "bashkir",
    "be": "belarusian",
    "bg": "bulgarian",
    "bn": "bengali",
    "bo": "tibetan",
    "br": "breton",
    "bs": "bosnian",
    "ca": "catalan",
    "cs": "czech",
    "cy": "welsh",
    "da": "danish",
    "de": "german",
    "el": "greek",
    "en": "english",
    "es": "spanish",
    "et": "estonian",
    "eu": "basque",
    "fa": "persian",
    "fi": "finnish",
    "fo": "faroese",
    "fr": "french",
    "gl": "galician",
    "gu": "gujarati",
    "ha": "hausa",
    "haw": "hawaiian",
    "he": "hebrew",
    "hi": "hindi",
    "hr": "croatian",
    "ht": "haitian creole",
    "hu": "hungarian",
    "hy": "armenian",
    "id": "indonesian",
    "is": "icelandic",
    "it": "italian",
    "ja": "japanese",
    "jw": "javanese",
    "ka": "georgian",
    "kk": "kazakh",
    "km": "khmer",
    "kn": "kannada",
    "ko": "korean",
    "la": "latin",
    "lb": "luxembourgish",
    "ln": "lingala",
    "lo": "lao",
    "lt": "lithuanian",
    "lv": "latvian",
    "mg": "malagasy",
    "mi": "maori",
    "mk": "macedonian",
    "ml": "malayalam",
    "mn": "mongolian",
    "mr": "marathi",
    "ms": "malay",
    "mt": "maltese",
    "my": "myanmar",
    "ne": "nepali",
    "nl": "dutch",
    "nn": "nynorsk",
    "no": "norwegian",
    "oc": "occitan",
    "pa": "punjabi",
    "pl": "polish",
    "ps": "pashto",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "sa": "sanskrit",
    "sd": "sindhi",
    "si": "sinhala",
    "sk": "slovak",
    "sl": "slovenian",
    "sn": "shona",
    "so": "somali",
    "sq": "albanian",
    "sr": "serbian",
    "su": "sundanese",
    "sv": "swedish",
    "sw": "swahili",
    "ta": "tamil",
    "te": "telugu",
    "tg": "tajik",
    "th": "thai",
    "tk": "turkmen",
    "tl": "tagalog",
    "tr": "turkish",
    "tt": "tatar",
    "uk": "ukrainian",
    "ur": "urdu",
    "uz": "uzbek",
    "vi": "vietnamese",
    "yi": "yiddish",
    "yo": "yoruba",
    "yue": "cantonese",
    "zh": "chinese",
}
_ALIASES: Final[Mapping[str, str]] = {
    "burmese": "my",
    "castilian": "es",
    "flemish": "nl",
    "haitian": "ht",
    "letzeburgesch": "lb",
    "mandarin": "zh",
    "moldavian": "ro",
    "moldovan": "ro",
    "panjabi": "pa",
    "pushto": "ps",
    "sinhalese": "si",
    "valencian": "ca",
    "jv": "jw",  # ISO's own code; `jw` is Whisper's
    "nb": "no",
    "fil": "tl",
    "iw": "he",
    "in": "id",
}
_CODES: Final[Mapping[str, str]] = {
    **{code: code for code in LANGUAGES},
    **{name: code for code, name in _NAMES.items()},
    **_ALIASES,
}


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
    name = (asked or "").strip().casefold()
    if name in _DETECT:
        return None
    code = _CODES.get(name) or _CODES.get(name.replace("_", "-").partition("-")[0])
    if code is None:
        raise ProtocolError(f"there is no language {clip(asked or '')!r}", code="bad_option")
    return code


def language_name(code: str) -> str:
    """The English name of a language, in lower case; an unknown code as it is."""
    return _NAMES.get(code, code)


def join(texts: Iterable[str], *, language: str | None) -> str:
    """The texts of several finals as one; those without text add nothing."""
    return separator(language).join(text for text in texts if text)


def separator(language: str | None) -> str:
    """What stands between two finals of a language."""
    return "" if language in SPACELESS_LANGUAGES else " "
