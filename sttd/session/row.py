"""A session as it is listed."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class SessionRow:
    """A session as `sessions` lists it and events tell of it; the field names are the protocol's."""

    session: str
    uid: int
    label: str
    api: str
    kind: str
    state: str
    model: str
    lang: str | None
    audio_s: float
    utterances: int
    lag_s: float
