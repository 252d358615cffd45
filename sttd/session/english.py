"""Sessions whose models know English alone: they are told so at their start, not by English text for German speech."""

from __future__ import annotations

import attrs

from sttd.core.options import SessionChanges, SessionOptions
from sttd.engine.shelf import Shelf
from sttd.errors import ProtocolError


def fit_options(options: SessionOptions, shelf: Shelf) -> SessionOptions:
    """The options as the session's models can do them: English, where one of them knows no other language.

    Raises:
        ProtocolError: `bad_option`; another language is asked for.
        ModelError: `model_not_found`.
    """
    used = dict.fromkeys((options.model, options.interim_model) if options.interim else (options.model,))
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
    return ProtocolError(
        f"{message}; `models` lists presets of many languages", code="bad_option", data={"field": field}
    )
