"""Where models come from and lie: the table of them, the hub, the package index, the disk, what was measured."""

from sttd.engine.store.models import ModelStore

__all__ = ["ModelStore"]
