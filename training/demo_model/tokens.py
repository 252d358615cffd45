"""The tokenizer: every word of the domain is one token, all else is bytes, and Whisper's special tokens stand behind.

The empty-string token has two uses. CTranslate2 calls a model multilingual when its vocabulary has one. And it stands
in front of every sentence for the quiet there: faster-whisper's alignment starts at the first text token, so without it
the first word would begin where the recording begins. faster-whisper drops words that have no text: nobody sees it.
"""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Final

import attrs
from tokenizers import Tokenizer

from training.demo_model import grammar

LANGUAGES: Final = ("en",)
TIMESTAMPS: Final = 1501
TIMESTAMP_S: Final = 0.02

_END, _START, _NO_SPEECH, _NO_TIMESTAMPS = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)
_SPECIAL: Final = (
    _END, _START, *(f"<|{language}|>" for language in LANGUAGES), "<|translate|>", "<|transcribe|>", "<|startoflm|>",
    "<|startofprev|>", _NO_SPEECH, _NO_TIMESTAMPS, *(f"<|{index * TIMESTAMP_S:.2f}|>" for index in range(TIMESTAMPS)),
)  # fmt: skip

#: The bytes that byte-level BPE writes as themselves; all others are written as code points from 256 up.
_VISIBLE: Final = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_SPACE: Final = "Ġ"


def _alphabet() -> list[str]:
    hidden = [byte for byte in range(256) if byte not in _VISIBLE]
    return sorted([chr(byte) for byte in _VISIBLE] + [chr(256 + index) for index in range(len(hidden))])


def spellings() -> list[str]:
    """Returns every word as it stands inside and at the start of a sentence, words that come in both cases twice."""
    words = grammar.vocabulary()
    return sorted({*words, *(word[0].upper() + word[1:] for word in words)})


@attrs.frozen(kw_only=True)
class Ids:
    """The ids of the special tokens, and of the few text tokens that the training code treats specially."""

    end: int
    start: int
    language: int
    transcribe: int
    previous: int
    no_speech: int
    no_timestamps: int
    timestamp_0: int
    quiet: int  # the empty-string token
    space: int
    total: int

    def timestamp(self, time_s: float) -> int:
        """Returns the timestamp token nearest to `time_s`, within 0 .. 30 s."""
        return self.timestamp_0 + min(max(round(time_s / TIMESTAMP_S), 0), TIMESTAMPS - 1)


def build_tokenizer(path: Path) -> None:
    """Writes the tokenizer file, the same every time."""
    vocabulary = ["", *_alphabet(), *(_SPACE + spelling for spelling in spellings())]
    specials = [
        {
            "id": len(vocabulary) + index,
            "content": content,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for index, content in enumerate(_SPECIAL)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    # GPT-2's pattern, with an apostrophe kept inside its word: "o'clock" and "doctor's" are words here.
    pattern = r" ?[\p{L}']+| ?\p{N}+| ?[^\s\p{L}\p{N}']+|\s+(?!\S)|\s+"
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": specials,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            # A word of the vocabulary is looked up whole; merge rules would need a token for each of its beginnings.
            "ignore_merges": True,
            "vocab": {token: index for index, token in enumerate(vocabulary)},
            "merges": [],
        },
    }
    path.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")))


def load_tokenizer(path: Path) -> tuple[Tokenizer, Ids]:
    """Reads a tokenizer file written by `build_tokenizer`."""
    tokenizer = Tokenizer.from_file(str(path))
    ids = tokenizer.get_vocab()
    return tokenizer, Ids(
        end=ids[_END],
        start=ids[_START],
        language=ids["<|en|>"],
        transcribe=ids["<|transcribe|>"],
        previous=ids["<|startofprev|>"],
        no_speech=ids[_NO_SPEECH],
        no_timestamps=ids[_NO_TIMESTAMPS],
        timestamp_0=ids["<|0.00|>"],
        quiet=ids[""],
        space=ids[_SPACE],
        total=tokenizer.get_vocab_size(),
    )


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Returns the ids of ` text`, without special tokens."""
    encoded: list[int] = tokenizer.encode(" " + text, add_special_tokens=False).ids
    return encoded


def case_pairs(tokenizer: Tokenizer) -> dict[int, int]:
    """Returns the id of each capitalised word mapped to that of its small spelling, where both are words."""
    ids = tokenizer.get_vocab()
    pairs = {}
    for word in grammar.vocabulary():
        if word[0] in string.ascii_lowercase:
            pairs[ids[_SPACE + word[0].upper() + word[1:]]] = ids[_SPACE + word]
    return pairs
