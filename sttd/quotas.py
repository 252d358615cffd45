"""What one user may have of the daemon, and what is had: said in `status` and on the metrics page.

Whoever bounds something by user declares it here, once, with where it is counted. What is told is how much all users
have together, and how much the one has who has most: so it can be seen that somebody is held back, and not by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import attrs

from sttd.answers import QuotaRow
from sttd.engine.dispatcher import Dispatcher
from sttd.host.pace import Paces
from sttd.host.spool import Room
from sttd.session.container import room as containers
from sttd.session.inbox import ALL_HELD_BYTES, USER_HELD_BYTES, Held
from sttd.session.registry import Registry


@attrs.frozen(kw_only=True)
class Quota:
    """A bound by user. `limit` is that of all together, None where there is none; 0 in `per_user` is no bound."""

    limit: Callable[[], float | None]
    per_user: Callable[[], float]
    used: Callable[[], Mapping[int, float]]  # by uid


@attrs.define(eq=False)
class Quotas:
    """All of them, in the order in which they were declared."""

    _declared: dict[str, Quota] = attrs.field(factory=dict, init=False)

    def declare(
        self,
        name: str,
        used: Callable[[], Mapping[int, float]],
        *,
        per_user: Callable[[], float],
        limit: Callable[[], float | None] = lambda: None,
    ) -> None:
        """There is such a bound. A second one of the same name takes the place of the first."""
        self._declared[name] = Quota(limit=limit, per_user=per_user, used=used)

    def rows(self) -> dict[str, QuotaRow]:
        """How it is now, by name."""
        return {name: _row(quota) for name, quota in self._declared.items()}


def quotas_of(*, registry: Registry, dispatcher: Dispatcher, held: Held, uploads: Room, paces: Paces) -> Quotas:
    """Those that do not depend on what listens; the planes declare their own."""
    quotas = Quotas()
    quotas.declare("sessions", registry.by_user, limit=lambda: registry.limit, per_user=lambda: registry.limit_per_uid)
    quotas.declare("waiting_jobs", dispatcher.waiting_by_user, per_user=lambda: dispatcher.waiting_per_user)
    quotas.declare("held_bytes", lambda: held.by_user, limit=lambda: ALL_HELD_BYTES, per_user=lambda: USER_HELD_BYTES)
    for name, room in (("upload_bytes", uploads), ("container_bytes", containers)):
        quotas.declare(
            name,
            room.by_user,
            limit=partial(getattr, room, "total_bytes"),
            per_user=partial(getattr, room, "uid_bytes"),
        )
    quotas.declare("bytes_per_s", paces.lately, per_user=lambda: paces.bytes_per_s)
    return quotas


def _row(quota: Quota) -> QuotaRow:
    used = quota.used()
    return QuotaRow(
        limit=quota.limit(),
        per_user=quota.per_user(),
        used=sum(used.values()),
        most=max(used.values(), default=0),
    )
