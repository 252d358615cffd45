"""What both planes share: the version of the protocol."""

from __future__ import annotations

PROTOCOL = 1  # within one version there are only additions
