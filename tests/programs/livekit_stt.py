"""LiveKit's own plugins for speech, given sttd's address: python livekit_stt.py openai|deepgram PORT FILE.

FILE is 16 kHz PCM. Prints a line of JSON for each text that LiveKit hands to an agent. Run by
tests/integration/test_programs.py, in an environment that has the plugins.
"""

import asyncio
import json
import sys
from pathlib import Path

import aiohttp
from livekit import rtc
from livekit.agents import stt
from livekit.plugins import deepgram, openai

RATE = 16_000
CHUNK = 640  # bytes, 20 ms
KINDS = {stt.SpeechEventType.INTERIM_TRANSCRIPT: "interim", stt.SpeechEventType.FINAL_TRANSCRIPT: "final"}


def plugin(name, port, http):
    """As an agent makes it; the address is all that is not LiveKit's default."""
    if name == "deepgram":
        return deepgram.STT(api_key="unused", base_url=f"http://127.0.0.1:{port}/v1/listen", http_session=http)
    made = openai.STT(
        model="gpt-4o-mini-transcribe",
        use_realtime=True,
        base_url=f"http://127.0.0.1:{port}/v1",
        api_key="unused",
        language="en",
    )
    made._session = http  # an agent's worker gives it one
    return made


async def main(name, port, pcm):
    async with aiohttp.ClientSession() as http:
        stream = plugin(name, port, http).stream()

        async def speak():
            for at in range(0, len(pcm), CHUNK):
                data = pcm[at : at + CHUNK]
                stream.push_frame(rtc.AudioFrame(data, RATE, 1, len(data) // 2))
                await asyncio.sleep(0.02)

        async def show():
            async for event in stream:
                if kind := KINDS.get(event.type):
                    print(json.dumps({kind: event.alternatives[0].text}), flush=True)
                    if kind == "final":
                        return

        speaking = asyncio.create_task(speak())
        await asyncio.wait_for(show(), 60)
        await speaking
        await stream.aclose()


NAME, PORT, FILE = sys.argv[1:]
asyncio.run(main(NAME, PORT, Path(FILE).read_bytes() + bytes(2 * RATE)))  # a second of silence behind it
