"""What `models`, `status` and `doctor` say of a server."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class RemoteState:
    """What this machine knows of the server of a remote preset; the field names are the protocol's."""

    preset: str
    url: str
    reachable: bool | None  # None: nobody has asked it yet
    since_s: float  # for how long it has been so
    reason: str | None  # why it counts as away; without what was said, and without secrets
    fallback: str | None  # the preset of this machine for that case
    fallback_loaded: bool
