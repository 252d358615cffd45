import asyncio
import sys
from pathlib import Path

from sttd_client import Final
from sttd_client.aio import Session, open_session


async def send(session: Session, path: Path) -> None:
    with path.open("rb") as file:
        while data := await asyncio.to_thread(file.read, 65536):
            await session.send(data)
    await session.stop()


async def transcribe(path: Path) -> str:
    async with open_session(kind="file", encoding="container") as session, asyncio.TaskGroup() as tasks:
        tasks.create_task(send(session, path))
        return " ".join([event.text async for event in session if isinstance(event, Final)])


async def main(paths: list[Path]) -> None:
    for path, text in zip(paths, await asyncio.gather(*map(transcribe, paths)), strict=True):
        print(f"{path}: {text}")


asyncio.run(main([Path(name) for name in sys.argv[1:]]))
