"""sttd: its daemon, over its Unix socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from benchmarks import load
from benchmarks.options import Model
from benchmarks.peer.script import CHUNK_MS, Heard, Server, Spoken, paced, told_parts, unbroken

VERSION = "this one"
NOTE = "as it comes"


@contextmanager
def serve(model: Model, speakers: int) -> Iterator[Server]:
    """A daemon with its own settings."""
    keep: dict[str, Any] = {}
    with load.daemon(*model.serve, keep=keep) as directory:
        load.call(directory, "load", preset=model.preset, keep_alive_s=-1)
        yield Server(
            pids=(keep["pid"],), talks={"told": partial(_told, directory), "heard": partial(_heard, directory)}
        )


async def _told(directory: Path, script: list[Spoken], heard: list[Heard]) -> None:
    heard += [Heard() for _ in script]
    began = trio.current_time()
    options = {"lang": "en", "endpointing": False, "interim": False}
    async with load.connect(directory, **options) as session, trio.open_nursery() as nursery:

        async def listen() -> None:
            async for event in session.events():
                if event["type"] == "final":
                    heard[event["utterance"] - 1].note(trio.current_time() - began, event["text"], event["text"])

        nursery.start_soon(listen)
        for number, (quiet_s, pcm, speech_s) in enumerate(told_parts(script)):
            await trio.sleep(quiet_s)
            heard[number].starts_s.append(trio.current_time() - began + speech_s)
            await paced(pcm, lambda data: session.stream.send_all(load.frame(data)))
            await session.say(op="finalize")
            heard[number].ends_s.append(trio.current_time() - began)
        await session.say(op="stop")


async def _heard(directory: Path, script: list[Spoken], logs: list[Heard]) -> None:
    heard, talk = Heard(), load.Talk()
    logs.append(heard)
    frames = load.chunked(unbroken(script, heard), chunk_ms=CHUNK_MS)
    try:
        await load.talk(directory, frames, chunk_ms=CHUNK_MS, options={"lang": "en"}, into=talk)
    finally:
        _note(talk, heard)


def _note(talk: load.Talk, heard: Heard) -> None:
    finals: dict[int, str] = {}
    shown: dict[int, str] = {}
    for each in talk.heard:
        if each.event["type"] in ("interim", "final"):
            shown[each.event["utterance"]] = each.event["text"]
        if each.event["type"] == "final":
            finals[each.event["utterance"]] = each.event["text"]
        heard.note(each.at_s, _in_order(finals), _in_order(shown))


def _in_order(texts: dict[int, str]) -> str:
    return " ".join(texts[number] for number in sorted(texts))
