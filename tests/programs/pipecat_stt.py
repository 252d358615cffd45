"""pipecat's own services for speech, given sttd's address: python pipecat_stt.py openai|deepgram PORT FILE.

FILE is 16 kHz PCM. Prints a line of JSON for each text that pipecat hands to an application. Run by
tests/integration/test_programs.py, in an environment that has pipecat.
"""

import asyncio
import json
import sys
from pathlib import Path

from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    TranscriptionFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineParams, PipelineTask
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.deepgram.stt import DeepgramSTTService
from pipecat.services.openai.stt import OpenAIRealtimeSTTService

RATE = 16_000
CHUNK = 640  # bytes, 20 ms
KINDS = {InterimTranscriptionFrame: "interim", TranscriptionFrame: "final", ErrorFrame: "error"}


class Printer(FrameProcessor):
    """Prints what an application would show."""

    def __init__(self):
        super().__init__()
        self.finals = asyncio.Event()

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if kind := KINDS.get(type(frame)):
            print(json.dumps({kind: getattr(frame, "text", None) or str(frame)}), flush=True)
            if kind != "interim":
                self.finals.set()
        await self.push_frame(frame, direction)


def service(name, port):
    """As an application makes it; the address is all that is not pipecat's default."""
    if name == "deepgram":
        return DeepgramSTTService(api_key="unused", base_url=f"ws://127.0.0.1:{port}", sample_rate=RATE)
    return OpenAIRealtimeSTTService(
        api_key="unused", base_url=f"ws://127.0.0.1:{port}/v1/realtime", turn_detection={"type": "server_vad"}
    )


async def main(name, port, pcm):
    printer = Printer()
    task = PipelineTask(Pipeline([service(name, port), printer]), params=PipelineParams(audio_in_sample_rate=RATE))

    async def speak():
        await asyncio.sleep(1)  # pipecat connects meanwhile; it keeps nothing that comes before
        for at in range(0, len(pcm), CHUNK):
            frame = InputAudioRawFrame(audio=pcm[at : at + CHUNK], sample_rate=RATE, num_channels=1)
            await task.queue_frame(frame)
            await asyncio.sleep(0.02)
        await asyncio.wait_for(printer.finals.wait(), 60)
        await task.queue_frame(EndFrame())

    await asyncio.gather(PipelineRunner(handle_sigint=False).run(task), speak())


NAME, PORT, FILE = sys.argv[1:]
asyncio.run(main(NAME, PORT, Path(FILE).read_bytes() + bytes(2 * RATE)))  # a second of silence behind it
