"""How a dictation is to be: from the arguments of `sttctl dictate`, over what `[dictation]` in the user's file says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from sttd import fields
from sttd.errors import ConfigError
from sttd.fields import flag, name, string, strings
from sttd.options import LANGUAGES, MAX_LANGUAGES
from sttd_client.dictation.names import NAMES
from sttd_client.options import StartOptions


@attrs.frozen(kw_only=True)
class Wish:
    """The options of one dictation. The agent takes them on its socket, the file has them under `[dictation]`."""

    once: bool = flag("stop after the first pause", default=False)
    hold: bool = flag("a key is held: no pause ends what is said, and the release does so at once", default=False)
    revise: bool = flag("write unsure text at once, and take back what changed", default=False)
    sound: bool = flag("a sound when it begins to listen", default=False)
    notify: bool = flag("a notification while it listens", default=True)
    type: str | None = string("what types", choices=NAMES, omitted="the best that works")
    paste_keys: str = string(
        "the keys that paste", choices=("ctrl+v", "ctrl+shift+v", "shift+insert"), default="ctrl+v"
    )
    language: str | None = string("language of the speech", choices=("auto", *LANGUAGES), omitted="auto")
    languages: tuple[str, ...] | None = strings(
        "the languages that may be spoken", max_items=MAX_LANGUAGES, choices=LANGUAGES, omitted="any"
    )
    model: str | None = name("the preset to use", omitted="the daemon's")
    device: str | None = name("the microphone", omitted="the system's")

    @property
    def session(self) -> StartOptions:
        """The options of the session, but for those that change from one utterance to the next."""
        return {
            "lang": self.language,
            "languages": self.languages,
            "model": self.model,
            "lock_stable": not self.revise,
            "label": "sttctl dictate",
        }


def wish_of(given: Mapping[str, Any], file: Mapping[str, Any]) -> Wish:
    """What is wished for; `file` is the user's file.

    Raises:
        ConfigError: the file's part is wrong.
        FieldError: what was given is wrong.
    """
    settings = file.get("dictation", {})
    if not isinstance(settings, dict):
        raise ConfigError("dictation.toml: `dictation` is no section")
    try:
        fields.parse(Wish, settings)
    except fields.FieldError as error:
        raise ConfigError(f"dictation.toml: [dictation] {error.message}") from None
    return fields.parse(Wish, {**settings, **given})
