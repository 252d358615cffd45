"""Live captions on Trio: PCM on standard input, text that grows on standard output."""

import os

import trio
from sttd_client import Final, Interim, Session, open_session, stable_and_tail

CHUNK_BYTES = 1280  # 40 ms of 16 kHz, 16-bit, mono


async def send_audio(session: Session) -> None:
    async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
        while data := await stdin.receive_some(CHUNK_BYTES):
            await session.send(data)
    await session.stop()


async def main() -> None:
    # A lost connection is made anew by itself. `reconnect_s`: captions survive a restart of the daemon, too, which is
    # told again what it had no time to answer.
    async with open_session(sample_rate=16000, reconnect_s=30) as session, trio.open_nursery() as nursery:
        nursery.start_soon(send_audio, session)
        async for event in session:
            if isinstance(event, Interim):
                stable, tail = stable_and_tail(event)
                print(f"\r\x1b[K\x1b[1m{stable}\x1b[0;2m{tail}\x1b[0m", end="", flush=True)
            elif isinstance(event, Final):
                print(f"\r\x1b[K{event.text}", flush=True)


trio.run(main)
