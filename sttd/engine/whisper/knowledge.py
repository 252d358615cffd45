"""Which languages a model knows, by the files of its folder: so that nobody has to load it to be told that it is wrong.

1. A vocabulary without the empty word is one for English alone: so CTranslate2 decides (`is_multilingual`).
2. Else it knows the languages that its tokenizer has a token for, as `tokens.languages_of` finds them in a loaded one.
   (The tokenizers of English models have those tokens, too.)

Files that cannot be read, or are something else, say nothing: loading will say what is wrong with them.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Final

from sttd.options import LANGUAGES

VOCABULARIES: Final = ("vocabulary.json", "vocabulary.txt")  # as CTranslate2 looks for them
_MAX_BYTES: Final = 64 * 1024**2  # of one file; chosen: Whisper's have 4 MB at most
_KEPT: Final = 256  # chosen: folders that are remembered
_TOKEN: Final = re.compile(rb'"<\|([a-z]{2,3})\|>"')

_Stamp = tuple[int, int]  # time and size


def languages_on_disk(folder: Path) -> frozenset[str] | None:
    """The languages that the model in a folder knows; None if its files do not say. Reads them once."""
    vocabulary = next((path for name in VOCABULARIES if (path := folder / name).is_file()), None)
    if vocabulary is None:
        return None
    tokenizer = folder / "tokenizer.json"
    try:
        return _languages(vocabulary, _stamp(vocabulary), tokenizer, _stamp(tokenizer))
    except (OSError, ValueError, RecursionError):
        return None


def _stamp(path: Path) -> _Stamp:
    found = path.stat()
    if found.st_size > _MAX_BYTES:
        raise ValueError(f"{path} is too large")
    return found.st_mtime_ns, found.st_size


@functools.lru_cache(maxsize=_KEPT)  # 20 ms for base, measured on the developers' machine
def _languages(
    vocabulary: Path, vocabulary_stamp: _Stamp, tokenizer: Path, tokenizer_stamp: _Stamp
) -> frozenset[str] | None:
    if not _has_empty_word(vocabulary):
        return frozenset({"en"})
    named = {match.decode() for match in _TOKEN.findall(tokenizer.read_bytes())}
    return frozenset(named.intersection(LANGUAGES)) or None


def _has_empty_word(vocabulary: Path) -> bool:
    text = vocabulary.read_text(encoding="utf-8")
    words = json.loads(text) if vocabulary.suffix == ".json" else text.removesuffix("\n").split("\n")
    return "" in words
