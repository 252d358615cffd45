"""The client library, which goes on where its connection is cut: on Trio, and on asyncio."""

from __future__ import annotations

import asyncio  # noqa: TID251 - the twin is for those who run it
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio
from sttd_client import aio, open_session
from sttd_client.events import as_message

from sttd.errors import SttdError
from tests.running import PATIENCE_S, check_promises
from tests.soak.checks import FIXED, check, preset_for, refusal
from tests.soak.world import RATE, Manner, Refused, World, dial

Pause = Callable[[float], Awaitable[None]]
Side = Callable[..., Awaitable[None]]  # of a session: who speaks, with a way to pause, and who hears


async def _on_trio(options: Mapping[str, Any], speak: Side, hear: Side) -> None:
    async with open_session(**options) as session, trio.open_nursery() as nursery:
        nursery.start_soon(speak, session, trio.sleep)
        await hear(session)


async def _on_asyncio(options: Mapping[str, Any], speak: Side, hear: Side) -> None:
    async with aio.open_session(**options) as session, asyncio.TaskGroup() as group:
        speaking = group.create_task(speak(session, asyncio.sleep))
        await hear(session)
        await speaking


def library(world: World, rng: random.Random, clip: str, manner: Manner) -> None:
    """On Trio."""
    _session(world, rng, clip, manner, lambda *sides: trio.run(_on_trio, *sides))


def library_asyncio(world: World, rng: random.Random, clip: str, manner: Manner) -> None:
    """On asyncio."""
    _session(world, rng, clip, manner, lambda *sides: asyncio.run(_on_asyncio(*sides)))


def _session(world: World, rng: random.Random, clip: str, manner: Manner, run: Callable[..., None]) -> None:
    """Whole sessions until a cut; `run` runs the two sides."""
    preset = preset_for(world, rng)
    # Cut by the proxy, not by itself; and it always reads.
    manner = Manner(rng, "good", manner.pace)
    options = {
        "socket_path": world.proxy.listening.with_name("control.sock"),
        "reconnect_s": PATIENCE_S,
        "timeout_s": PATIENCE_S,
        "model": preset,
        "endpointing": FIXED,
        "lang": "en",
        "label": "soak library",
    }

    async def speak(session: Any, pause: Pause) -> None:
        pcm = world.clips[clip]
        for at in range(0, len(pcm), RATE // 5):
            await session.send(pcm[at : at + RATE // 5])
            if manner.pace:
                await pause(0.1 / manner.pace)
        await session.stop()

    async def hear(session: Any) -> None:
        async for event in session:
            match event.type:
                case "reconnected":
                    connections.append([])
                case "resumed":  # nothing is missing
                    world.tally.count("told", "resumed")
                case _:
                    connections[-1].append(as_message(event))

    def try_to() -> list[list[dict[str, Any]]]:
        nonlocal connections
        connections = [[]]
        _unwrapped(lambda: run(options, speak, hear))
        return connections

    connections: list[list[dict[str, Any]]] = [[]]
    try:
        *cut, last = dial(try_to)
    except SttdError as error:
        if error.code == "idle_timeout":  # its handshake came too late, on a machine with other work
            raise Refused(error.message) from error
        raise refusal(error.code, error.message) from error
    for events in cut:
        check_promises(events, whole=False)
        world.tell(events)
    if cut:
        check_promises(last)
        world.tell(last)
        world.tally.count("told", "reconnected", len(cut))
    else:
        check(world, last, key=("live", clip), preset=preset)


def _unwrapped(run: Callable[[], None]) -> None:
    """Run it, and raise of a group of one error that one."""
    try:
        run()
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None
