"""The table of what is said and what becomes of it: the built-in one, and the user's on top (`phrases.toml` says how).

Matching ignores case and punctuation, so a phrase is kept as the keys of its words. The user's file is read whenever a
dictation starts; it is bounded, and a wrong one is an error that names the place.
"""

from __future__ import annotations

import functools
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast, get_args

import attrs

from sttd.errors import ConfigError
from sttd.options import LANGUAGES

ANY = "any"  # the section for all languages
SETTINGS = "dictation"  # the section that `wish` reads
MAX_FILE_BYTES = 256 * 1024  # chosen: some thousand phrases
MAX_WORDS = 8  # of a phrase; so many words at most are held back
MAX_TYPED_CHARS = 1000  # of what one phrase types

Join = Literal["left", "right", "both", "none"]
Command = Literal["scratch", "stop", "literal"]
Key = tuple[str, ...]

_LEFT = frozenset(",.;:!?…)]}%»”\u2019")
_RIGHT = frozenset("([{«“„¿¡")
_BOTH = frozenset("-/_@'\n")
_PARTS = ("words_after", "lower", "phrases")


@attrs.frozen(kw_only=True)
class Entry:
    """What becomes of a phrase: text, or a command."""

    text: str = ""
    join: Join = "none"
    command: Command | None = None

    @property
    def is_word(self) -> bool:
        """Whether it stands for words, and keeps the punctuation around it."""
        return self.command is None and self.join == "none" and any(map(str.isalnum, self.text))


@attrs.frozen(kw_only=True)
class Table:
    """The phrases of one language."""

    phrases: Mapping[Key, Entry] = attrs.field(factory=dict)
    words_after: frozenset[str] = frozenset()
    lower: frozenset[str] = frozenset()
    _beginnings: frozenset[Key] = attrs.field(init=False)
    longest: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        beginnings = {key[:count] for key in self.phrases for count in range(len(key))}
        object.__setattr__(self, "_beginnings", frozenset(beginnings))
        object.__setattr__(self, "longest", max(map(len, self.phrases), default=0))

    def may_become(self, keys: Key, *, open_word: bool) -> bool:
        """Whether a phrase goes on from these words; with `open_word` the last one may still grow."""
        if not open_word:
            return keys in self._beginnings
        before, last = keys[:-1], keys[-1]
        return before in self._beginnings and any(
            len(key) >= len(keys) and key[: len(before)] == before and key[len(before)].startswith(last)
            for key in self.phrases
        )


@attrs.frozen(kw_only=True)
class _Section:
    """A section of one file. A phrase whose entry is None is taken away."""

    phrases: Mapping[Key, Entry | None]
    words_after: frozenset[str]
    lower: frozenset[str]


def key_of(word: str) -> str:
    """What a word is compared by: no case, no punctuation but the apostrophe inside it."""
    folded = unicodedata.normalize("NFC", word).casefold().replace("\u2019", "'")
    return "".join(char for char in folded if char.isalnum() or char == "'").strip("'")


def default_file(environ: Mapping[str, str]) -> Path:
    """Where the user's table is."""
    home = environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "/"), ".config")
    return Path(home, "sttd", "dictation.toml")


def read_user(path: Path) -> dict[str, Any]:
    """What the user's file holds; empty where there is none.

    Raises:
        ConfigError: it is no TOML, too large, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: more than {MAX_FILE_BYTES} bytes")
        return tomllib.loads(data.decode())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:  # a TOML error, or bytes that are no UTF-8
        raise ConfigError(f"{path}: {error}") from error


def tables(user: Mapping[str, Any]) -> dict[str, Table]:
    """The tables of all languages that either has, with the user's on top.

    Raises:
        ConfigError: the user's has a wrong section, name or value.
    """
    built_in = _built_in()
    user = {name: section for name, section in user.items() if name != SETTINGS}
    for language in user:
        if language not in (ANY, *LANGUAGES):
            raise ConfigError(f"dictation.toml: [{language}] is no language (ISO 639-1), nor `{ANY}`")
        _section(user, language)
    common = _section(user, ANY)
    return {
        language: _merged([_section(built_in, language), common, _section(user, language)])
        for language in {*built_in, *user, ANY}
    }


@functools.cache
def _built_in() -> dict[str, Any]:
    return tomllib.loads((resources.files(__package__) / "phrases.toml").read_text("utf-8"))


def _section(layer: Mapping[str, Any], language: str) -> _Section:
    section = layer.get(language, {})
    if not isinstance(section, dict):
        raise ConfigError(f"dictation.toml: `{language}` is no section")
    if wrong := [name for name in section if name not in _PARTS]:
        raise ConfigError(f"dictation.toml: [{language}] takes {', '.join(_PARTS)}, not {', '.join(wrong)}")
    phrases = section.get("phrases", {})
    if not isinstance(phrases, dict):
        raise ConfigError(f"dictation.toml: [{language}.phrases] is no table")
    return _Section(
        phrases={_phrase(said, language): _entry(value, f"{language}: {said!r}") for said, value in phrases.items()},
        words_after=_words(section, "words_after", language),
        lower=_words(section, "lower", language),
    )


def _words(section: Mapping[str, Any], name: str, language: str) -> frozenset[str]:
    value = section.get(name, "")
    if not isinstance(value, str):
        raise ConfigError(f"dictation.toml: `{language}.{name}` is a text of words with spaces between them")
    return frozenset(map(key_of, value.split()))


def _phrase(said: str, language: str) -> Key:
    keys = tuple(key for word in said.split() if (key := key_of(word)))
    if not 0 < len(keys) <= MAX_WORDS:
        raise ConfigError(f"dictation.toml: [{language}.phrases] {said!r} has no words, or more than {MAX_WORDS}")
    return keys


def _entry(value: object, place: str) -> Entry | None:
    """The entry that a value of the table stands for; None takes the phrase away."""
    if value == "":
        return None
    if isinstance(value, str):
        return Entry(text=_typed(value, place), join=join_of(value))
    if isinstance(value, dict) and value.keys() <= {"command"} and value.get("command") in get_args(Command):
        return Entry(command=cast("Command", value["command"]))
    if isinstance(value, dict) and value.keys() == {"type", "join"} and value["join"] in get_args(Join):
        return Entry(text=_typed(value["type"], place), join=cast("Join", value["join"]))
    raise ConfigError(
        f'dictation.toml: {place} is neither a text, nor {{ type = "…", join = "left" }}, '
        f'nor {{ command = "…" }} ({", ".join(get_args(Command))})'
    )


def _typed(text: object, place: str) -> str:
    if not isinstance(text, str) or not 0 < len(text) <= MAX_TYPED_CHARS:
        raise ConfigError(f"dictation.toml: {place} types no text, or more than {MAX_TYPED_CHARS} characters")
    if any(unicodedata.category(char) == "Cc" and char != "\n" for char in text):
        raise ConfigError(f"dictation.toml: {place} types a control character")
    return unicodedata.normalize("NFC", text)


def join_of(text: str) -> Join:
    """To which side a text belongs, as its characters say."""
    chars = set(text)
    if text[-1] == "\n" or chars <= _BOTH:
        return "both"
    return "left" if chars <= _LEFT else "right" if chars <= _RIGHT else "none"


def _merged(sections: Sequence[_Section]) -> Table:
    """The table of these sections, later ones on top."""
    phrases: dict[Key, Entry | None] = {}
    for section in sections:
        phrases |= section.phrases
    return Table(
        phrases={key: entry for key, entry in phrases.items() if entry is not None},
        words_after=frozenset().union(*(section.words_after for section in sections)),
        lower=frozenset().union(*(section.lower for section in sections)),
    )


def likely_language(environ: Mapping[str, str]) -> str | None:
    """The language of the user's locale: whose phrases to know before anything was heard."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if (value := environ.get(name, "")) and value not in ("C", "POSIX"):
            return value[:2].lower() if value[2:3] in ("", "_", ".") else None
    return None
