"""The languages that a session asks for, and those that its models have.

Rules:

1. A language that one of the models does not know is refused at the start, not by an error or an empty text for each
   utterance. So are `languages` of which a model knows none.
2. A session one of whose models knows English alone is in English, and is told so.

What a model knows is known by its name (`engine/store/catalogue.py`); of one without a known name nothing is refused.
"""

from __future__ import annotations

import attrs

from sttd.core.options import SessionChanges, SessionOptions
from sttd.engine.shelf import Shelf
from sttd.errors import ProtocolError


def fit_options(options: SessionOptions, shelf: Shelf) -> SessionOptions:
    """The options as the session's models can do them: English, where one of them knows no other language.

    Raises:
        ProtocolError: `bad_option`; a language is asked for that one of them does not know.
        ModelError: `model_not_found`.
    """
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
    fitted = fit_options(after, shelf)
    return changes if fitted.lang == after.lang else attrs.evolve(changes, lang=fitted.lang)


def _refusal(field: str, message: str) -> ProtocolError:
    return ProtocolError(f"{message}; `models` lists other presets", code="bad_option", data={"field": field})
