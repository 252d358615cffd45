"""What a client asks for, as far as its session's models can do it.

1. **Language.** A language that one of the models does not know is refused at the start, not by an error or an empty
   text for each utterance; so are `languages` of which a model knows none. A session one of whose models knows English
   alone is in English, and is told so. What a model knows is known by its name (`engine/store/catalogue.py`); of one
   without a known name nothing is refused.
2. **Window.** No utterance may be longer than what its model takes in one call.
"""

from __future__ import annotations

import attrs

from sttd.engine.shelf import Shelf
from sttd.errors import ProtocolError
from sttd.options import SessionChanges, SessionOptions


def fit_options(options: SessionOptions, shelf: Shelf, *, window_s: float) -> SessionOptions:
    """The options of a new session.

    Args:
        options: what was asked for.
        shelf: which models there are.
        window_s: the most that the model takes in one call.

    Raises:
        ProtocolError: `bad_option`; a language is asked for that one of the models does not know.
        ModelError: `model_not_found`.
    """
    return _within_window(_in_english(options, shelf), window_s)


def _in_english(options: SessionOptions, shelf: Shelf) -> SessionOptions:
    used = dict.fromkeys((options.model, options.interim_model) if options.interim else (options.model,))
    for name in used:
        if shelf.english_only(name):
            continue  # has words of its own, below
        if options.lang is not None and shelf.lacks(name, options.lang):
            raise _refusal("lang", f"`lang` is {options.lang!r}, a language that the preset {name!r} does not know")
        if options.languages and all(shelf.lacks(name, language) for language in options.languages):
            raise _refusal("languages", f"the preset {name!r} knows none of `languages`")
    english = next((name for name in used if shelf.english_only(name)), None)
    if english is None:
        return options
    if options.lang not in (None, "en"):
        raise _refusal("lang", f"`lang` is {options.lang!r}, but the preset {english!r} knows English only")
    if options.languages and "en" not in options.languages:
        raise _refusal("languages", f"`languages` is without 'en', but the preset {english!r} knows English only")
    return attrs.evolve(options, lang="en")


def fit_changes(changes: SessionChanges, shelf: Shelf, *, options: SessionOptions) -> SessionChanges:
    """The same for changes of a session with these options. Raises ProtocolError, `bad_option`."""
    after = attrs.evolve(options, **changes.given())
    fitted = _in_english(after, shelf)
    return changes if fitted.lang == after.lang else SessionChanges(**{**changes.given(), "lang": fitted.lang})


def _refusal(field: str, message: str) -> ProtocolError:
    return ProtocolError(f"{message}; `models` lists other presets", code="bad_option", data={"field": field})


def _within_window(options: SessionOptions, window_s: float) -> SessionOptions:
    longest_s = min(options.max_utterance_s, window_s)
    endpointing = options.endpointing
    if endpointing is not None:
        longest_s = min(longest_s, endpointing.max_utterance_s)
        endpointing = attrs.evolve(endpointing, max_utterance_s=longest_s)
    return attrs.evolve(options, endpointing=endpointing, max_utterance_s=longest_s)
