"""Lets calls into a process: many together, or one alone. Those who must be alone go first, since they are few."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import attrs


@attrs.define(eq=False)
class Turnstile:
    """For threads."""

    _changed: threading.Condition = attrs.field(factory=threading.Condition, init=False)
    _inside: int = attrs.field(default=0, init=False)
    _alone: bool = attrs.field(default=False, init=False)  # who is inside is to be alone
    _waiting_alone: int = attrs.field(default=0, init=False)

    @contextmanager
    def turn(self, *, alone: bool, until: float = math.inf) -> Iterator[None]:
        """Be inside for as long as the block runs. Raises TimeoutError where that was not possible by then."""
        with self._changed:
            self._waiting_alone += alone
            try:
                while self._inside if alone else (self._alone or self._waiting_alone):
                    left_s = None if until == math.inf else until - time.monotonic()
                    if left_s is not None and left_s <= 0:
                        raise TimeoutError
                    self._changed.wait(left_s)
                self._inside += 1
                self._alone = alone
            finally:
                self._waiting_alone -= alone
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._alone = False
                self._changed.notify_all()
