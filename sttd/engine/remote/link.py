"""What this machine knows of one server: whether it counts as there, and how it is asked."""

from __future__ import annotations

import os
import random
import secrets
import ssl
import threading
import time
from collections.abc import Callable
from typing import Final

import attrs

from sttd.core.types import DecodeItem, Hypothesis
from sttd.engine.contract import Preset
from sttd.engine.remote.asking import (
    PROBE,
    Kind,
    Trouble,
    check_probe,
    read_answer,
    request_for,
    wrong_language,
)
from sttd.engine.remote.breaker import Breaker, Pass
from sttd.engine.remote.client import Client, Gone
from sttd.engine.remote.options import RemoteOptions
from sttd.errors import ConfigError
from sttd.host import logs

log = logs.get(__name__)

_PROBE_S: Final = 2.0  # chosen: a final that finds the server still away is late by so much at most
_DECISIVE: Final = (Kind.TIMEOUT, Kind.REFUSED)


def tls_context(options: RemoteOptions) -> ssl.SSLContext | None:
    """What verifies the server; None for http. Raises ConfigError where `ca_file` cannot be used."""
    if not options.url.startswith("https:"):
        return None
    try:
        return ssl.create_default_context(cafile=os.path.expanduser(options.ca_file) or None)
    except OSError as error:
        raise ConfigError(f"`ca_file`: {options.ca_file}: {error.strerror or 'no certificates'}") from None


@attrs.define(eq=False, kw_only=True)
class Link:
    """A server, as all models of one preset see it, one after the other. For threads.

    Args:
        preset: whose it is.
        options: the preset's own.
        chance: from 0 to 1, for the breaker.
    """

    preset: Preset
    options: RemoteOptions
    chance: Callable[[], float] = random.random
    asked: bool = attrs.field(default=False, init=False)
    _breaker: Breaker = attrs.field(factory=lambda: Breaker(time.monotonic()), init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    @property
    def reachable(self) -> bool | None:
        """Whether it counts as there; None: nobody has asked it yet."""
        return None if not self.asked else self._breaker.reason is None

    @property
    def reason(self) -> str | None:
        """Why it counts as away; None: it does not."""
        return self._breaker.reason

    @property
    def since_s(self) -> float:
        """For how many seconds it has been so."""
        return time.monotonic() - self._breaker.since

    def leave(self) -> Pass | None:
        """Leave to ask it; None: it counts as away. Whoever has leave must `ask`."""
        with self._lock:
            return self._breaker.ask(time.monotonic())

    @property
    def hopeless(self) -> bool:
        """Whether it is away, and somebody waited for it as long as he could."""
        return self._breaker.hopeless

    def waited_in_vain(self) -> None:
        """Somebody waited for it as long as he could."""
        with self._lock:
            self._breaker.waited_in_vain()

    def unanswered(self, leave: Pass, trouble: Trouble) -> None:
        """Whoever had leave was told that it is busy for as long as he could wait."""
        self._failed(leave, trouble)

    def wait_s(self) -> float:
        """How long nobody gets leave."""
        with self._lock:
            return self._breaker.wait_s(time.monotonic())

    def ask(
        self, client: Client, item: DecodeItem, leave: Pass, *, until: float, gone: Callable[[], bool]
    ) -> Hypothesis:
        """Have it decode an item, until then on the monotonic clock. Raises Trouble, Gone."""
        reported = False
        try:
            if leave.probe:
                soon = min(until, time.monotonic() + _PROBE_S)
                check_probe(client.exchange(PROBE, until=soon, gone=gone))
            hypothesis = self._decode(client, item, until=until, gone=gone)
            if language := wrong_language(hypothesis, item.options):
                hypothesis = self._decode(client, item, until=until, gone=gone, language=language)
            self._answered()
            reported = True
            return hypothesis
        except Trouble as trouble:
            reported = True
            if trouble.kind is Kind.ITEM:
                self._answered()
            elif trouble.kind is Kind.BUSY:
                self._busy(leave, trouble)
            else:
                self._failed(leave, trouble)
            raise
        finally:
            if not reported:  # nobody waits any more, or a bug
                with self._lock:
                    self._breaker.given_up(leave)

    def _decode(
        self,
        client: Client,
        item: DecodeItem,
        *,
        until: float,
        gone: Callable[[], bool],
        language: str | None = None,
    ) -> Hypothesis:
        request = request_for(
            item,
            model=self.preset.model,
            answer=self.options.answer,
            send_priority=self.options.send_priority,
            deadline_s=until - time.monotonic(),
            boundary=secrets.token_hex(16),
            language=language,
        )
        return read_answer(client.exchange(request, until=until, gone=gone), item, language=language)

    def _answered(self) -> None:
        with self._lock:
            back, self.asked = self._breaker.answered(time.monotonic()), True
        if back:
            log.info("the server is back", preset=self.preset.name)

    def _busy(self, leave: Pass, trouble: Trouble) -> None:
        with self._lock:
            self.asked = True
            self._breaker.busy(
                leave,
                now=time.monotonic(),
                reason=trouble.reason,
                chance=self.chance(),
                least_s=trouble.retry_after_s,
            )

    def _failed(self, leave: Pass, trouble: Trouble) -> None:
        with self._lock:
            self.asked = True
            opened = self._breaker.failed(
                leave,
                now=time.monotonic(),
                reason=trouble.reason,
                decisive=trouble.kind in _DECISIVE,
                chance=self.chance(),
                least_s=trouble.retry_after_s,
            )
        if opened:
            log.warning("the server counts as away", preset=self.preset.name, reason=trouble.reason)


__all__ = ["Gone", "Link", "tls_context"]
