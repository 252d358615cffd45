"""What a client of another system asks for, as options of a session. Shared by the planes of those systems.

Such clients name models, languages and words in their own ways, leave out what sttd wants to know, and must not fail
on what upstream takes: too long a prompt is cut, too many hotwords are left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import attrs

from sttd.answers import PresetRow
from sttd.options import MAX_HOTWORD_CHARS, MAX_HOTWORDS, MAX_PROMPT_CHARS, Api, SessionOptions
from sttd.service import Service
from sttd.wire.http import Request
from sttd.wire.names import find_language, find_preset


@attrs.frozen(kw_only=True)
class Asked:
    """What all those systems have in common, in the words of the client. None: not said."""

    model: str | None = None
    language: str | None = None
    languages: Sequence[str] = ()  # among which it is to be detected, where `language` does not say it
    prompt: str | None = None
    hotwords: Sequence[str] = ()


def session_options(
    asked: Asked,
    *,
    service: Service,
    api: Api,
    agent: str,
    kind: Literal["live", "file"] = "live",
    prefixes: Sequence[str] = (),
    **more: Any,
) -> SessionOptions:
    """Options for `service.open_session`.

    Args:
        agent: the product that the client calls itself, for the label.
        prefixes: see `wire.names.find_preset`.
        more: options of the session that are as they are to be.

    Raises:
        ModelError: `model_not_found`.
        ProtocolError: `bad_option`: an unknown language.
    """
    options = attrs.evolve(
        service.defaults(kind=kind),
        **language_options(asked),
        prompt=cut_prompt(asked.prompt),
        hotwords=fit_hotwords(asked.hotwords),
        label=f"{api} {agent}".strip(),
        **more,
    )
    preset = find_preset(asked.model, nameable(service), prefixes=prefixes)
    return options if preset is None else attrs.evolve(options, model=preset, interim_model=preset)


def language_options(asked: Asked) -> dict[str, Any]:
    """`lang` and `languages` of a session. Raises ProtocolError."""
    lang = find_language(asked.language)
    codes = dict.fromkeys(code for name in asked.languages if (code := find_language(name)))
    return {"lang": lang, "languages": () if lang else tuple(codes)}


def cut_prompt(prompt: str | None) -> str:
    """The end of a prompt, which is what speech goes on from."""
    return (prompt or "")[-MAX_PROMPT_CHARS:]


def fit_hotwords(words: Sequence[str]) -> tuple[str, ...]:
    """As many as a session takes, without those that are too long to be words."""
    fitting = (word for given in words if 0 < len(word := given.strip()) <= MAX_HOTWORD_CHARS)
    return tuple(dict.fromkeys(fitting))[:MAX_HOTWORDS]


def selectable(service: Service) -> list[PresetRow]:
    """The presets that sessions may name, on disk or not, the default first."""
    names = service.presets()
    rows = [row for row in service.desk.models().presets if row.preset in names]
    return sorted(rows, key=lambda row: "final" not in row.default_for)


def nameable(service: Service) -> dict[str, str | None]:
    """Their names, each with the repository of its model. Quick, since it is asked for every session."""
    repositories = service.desk.repositories()
    return {name: repositories.get(name) for name in service.presets()}


def agent_of(request: Request) -> str:
    """The first product of the User-Agent, such as `OpenAI/Python`, as a label may show it; or ""."""
    values = request.values(b"user-agent")
    words = values[0].decode("latin-1").split() if values else []
    return re.sub(r"[^A-Za-z0-9._+/-]", "", words[0])[:40] if words else ""
