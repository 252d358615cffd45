"""How a plane stops: first no new connections, then the running ones get until a deadline.

Two nested scopes, and two nurseries in the same order (the shape of hypercorn's graceful stop): the outer one owns the
connections, the inner one accepts. Cancelling the inner one closes the listeners and disturbs nobody; the deadline
of the outer one is the end of the daemon's patience.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from sttd.host.sockets import Listener


@attrs.define(eq=False)
class Drain:
    """The stop of one plane. A scope is entered once, so every `serve_…` gets a `Drain` of its own.

    `started` says that it has begun. While there are sessions that may be resumed, their clients are let in for some
    time more; `closed` says that nobody is any more, for connections that would otherwise wait for a client that has no
    reason to speak.
    """

    accepting: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    connections: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    started: trio.Event = attrs.field(factory=trio.Event)
    closed: trio.Event = attrs.field(factory=trio.Event)

    def begin(self) -> None:
        """Connections are accepted for those alone who come back. Idempotent."""
        self.started.set()

    def stop_accepting(self) -> None:
        """Close the listeners; running connections go on. Idempotent."""
        self.begin()
        self.accepting.cancel()
        self.closed.set()

    def close_at(self, deadline: float) -> None:
        """Cancel the connections that still run at `deadline` (Trio time). An earlier deadline stays."""
        self.connections.deadline = min(self.connections.deadline, deadline)


async def serve_connections(
    listeners: Sequence[Listener],
    handle: Callable[[trio.SocketStream], Awaitable[object]],
    *,
    drain: Drain,
    task_status: trio.TaskStatus[list[Listener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Accept on all listeners and run `handle` in a task for each connection, until drained.

    Closes the listeners when it stops accepting. Returns when accepting has stopped and the last connection has
    ended or was cut at the deadline. `handle` must not raise: an exception from it ends the plane (`supervise` sees
    to that). Cancellation ends accepting and all connections at once.
    """
    with drain.connections:
        async with trio.open_nursery() as connections:
            with drain.accepting:
                await trio.serve_listeners(
                    handle, list(listeners), handler_nursery=connections, task_status=task_status
                )
