"""What a client asks for, as far as its session's models can do it.

1. **Language.** A language that one of the models does not know is refused at the start, not by an error or a text in
   another language for each utterance; so are `languages` of which a model knows none. A session one of whose models
   knows English alone is in English, and is told so.
2. **Translation** is refused where one of the models cannot do it: it would write down what is spoken, as it is spoken.
3. What a model can do is known by its name (`engine/store/catalogue.py`) and, where it is on disk, by its files
   (`engine/whisper/knowledge.py`). Of one of which neither says anything nothing is refused; the engine will say so.
4. A refusal names a model that can.
5. **Window.** No utterance may be longer than what its model takes in one call.
"""

from __future__ import annotations

from collections.abc import Collection

import attrs

from sttd.engine.shelf import Shelf
from sttd.errors import ProtocolError
from sttd.options import SessionChanges, SessionOptions


def fit_options(
    options: SessionOptions, shelf: Shelf, *, window_s: float, selectable: Collection[str]
) -> SessionOptions:
    """The options of a new session.

    Args:
        options: what was asked for.
        shelf: which models there are.
        window_s: the most that the model takes in one call.
        selectable: the presets that the client may name instead.

    Raises:
        ProtocolError: `bad_option`; something is asked for that one of the models cannot do.
        ModelError: `model_not_found`.
    """
    return _within_window(_as_models_can(options, shelf, selectable=selectable), window_s)


def fit_changes(
    changes: SessionChanges, shelf: Shelf, *, options: SessionOptions, selectable: Collection[str]
) -> SessionChanges:
    """The same for changes of a session with these options. Raises ProtocolError, `bad_option`."""
    after = attrs.evolve(options, **changes.given())
    fitted = _as_models_can(after, shelf, selectable=selectable)
    return changes if fitted.lang == after.lang else SessionChanges(**{**changes.given(), "lang": fitted.lang})


def _as_models_can(options: SessionOptions, shelf: Shelf, *, selectable: Collection[str]) -> SessionOptions:
    used = dict.fromkeys((options.model, options.interim_model) if options.interim else (options.model,))
    for name in used:
        if wrong := _cannot(name, options, shelf):
            able = shelf.instead(name, lambda other: _cannot(other, options, shelf) is None, among=selectable)
            remedy = able or "`models` lists other presets"
            raise ProtocolError(f"{wrong.message}; {remedy}", code="bad_option", data={"field": wrong.field})
    return attrs.evolve(options, lang="en") if any(shelf.english_only(name) for name in used) else options


@attrs.frozen
class _Wrong:
    """What a model cannot do: the option that asks for it, and a sentence without its full stop."""

    field: str
    message: str


def _cannot(name: str, options: SessionOptions, shelf: Shelf) -> _Wrong | None:
    """Rules 1 and 2 for one preset."""
    english = f"the preset {name!r} knows English only" if shelf.english_only(name) else ""
    if options.lang is not None and shelf.lacks(name, options.lang):
        why = english or f"the preset {name!r} does not know that language"
        return _Wrong("lang", f"`lang` is {options.lang!r}, but {why}")
    if options.languages and all(shelf.lacks(name, language) for language in options.languages):
        why = english or f"the preset {name!r} knows none of them"
        return _Wrong("languages", f"`languages` are {', '.join(options.languages)}, but {why}")
    if options.task == "translate" and not shelf.translates(name):
        why = english or f"the preset {name!r} writes down what is spoken, whatever is asked of it"
        return _Wrong("task", f"`task` is 'translate', but {why}")
    return None


def _within_window(options: SessionOptions, window_s: float) -> SessionOptions:
    longest_s = min(options.max_utterance_s, window_s)
    endpointing = options.endpointing
    if endpointing is not None:
        longest_s = min(longest_s, endpointing.max_utterance_s)
        endpointing = attrs.evolve(endpointing, max_utterance_s=longest_s)
    return attrs.evolve(options, endpointing=endpointing, max_utterance_s=longest_s)
