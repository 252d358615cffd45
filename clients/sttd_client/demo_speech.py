"""What the demo streams: bundled recordings, a file of the user's, or words that a synthesiser speaks.

All are 16-bit mono PCM in pieces of any length, so that a long file is decoded while it is sent.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs

from sttd_client.demo_figures import Utterance

_RATE = 16_000  # what the models hear; anything above is thrown away


@attrs.frozen(kw_only=True)
class Speech:
    """Speech to be streamed once: `pieces` is used up by it."""

    title: str  # what it is, in a line
    pieces: Iterable[bytes]
    sample_rate: int = _RATE
    seconds: float | None = None  # None: the file does not say
    utterances: tuple[Utterance, ...] = ()  # what is truly said, where somebody knows
    recordings: tuple[str, ...] = ()  # who is heard
    language: str | None = None

    def chunks(self, chunk_s: float) -> Iterator[bytes]:
        """The samples in chunks of `chunk_s` each; the last one may be shorter."""
        size = 2 * round(chunk_s * self.sample_rate)
        waiting = bytearray()
        for piece in self.pieces:
            waiting += piece
            while len(waiting) >= size:
                yield bytes(waiting[:size])
                del waiting[:size]
        if waiting:
            yield bytes(waiting)


@contextmanager
def people() -> Iterator[Speech]:
    """The bundled recordings of people."""
    with _bundled("speech", title="people, from recordings in the public domain") as speech:
        yield speech


@contextmanager
def synthetic() -> Iterator[Speech]:
    """The bundled sample of synthetic voices, which is what the embedded model understands."""
    with _bundled("sample", title="synthetic voices") as speech:
        yield speech


@contextmanager
def _bundled(name: str, *, title: str) -> Iterator[Speech]:
    assets = importlib.resources.files("sttd") / "assets"
    rows = json.loads((assets / f"{name}.json").read_text(encoding="utf-8"))["utterances"]
    with importlib.resources.as_file(assets / f"{name}.flac") as path, audio_file(path) as speech:
        yield attrs.evolve(
            speech,
            title=title,
            utterances=tuple(Utterance(**{key: row[key] for key in ("start_s", "end_s", "text")}) for row in rows),
            recordings=tuple(dict.fromkeys(row["recording"] for row in rows if "recording" in row)),
            language="en",
        )


@contextmanager
def audio_file(path: Path) -> Iterator[Speech]:
    """A file that FFmpeg can decode, audio or video.

    Raises:
        OSError: it cannot be opened, or holds no audio. The pieces raise it where decoding fails later.
    """
    import av  # FFmpeg's libraries take a moment to load, and nothing else here needs them

    with ExitStack() as stack:
        try:
            container = stack.enter_context(av.open(str(path)))
        except av.error.FFmpegError as error:
            raise OSError(f"{path} cannot be read: {error.strerror}") from error
        if not container.streams.audio:
            raise OSError(f"{path} holds no audio")

        def pieces() -> Iterator[bytes]:
            resampler = av.AudioResampler(format="s16", layout="mono", rate=_RATE)
            try:
                for decoded in container.decode(audio=0):
                    yield from (frame.to_ndarray().tobytes() for frame in resampler.resample(decoded))
                yield from (frame.to_ndarray().tobytes() for frame in resampler.resample(None))
            except av.error.FFmpegError as error:
                raise OSError(f"{path} cannot be decoded: {error.strerror}") from error

        seconds = None if container.duration is None else container.duration / av.time_base
        yield Speech(title=path.name, pieces=pieces(), seconds=seconds)


def spoken(text: str) -> Speech:
    """The words of the user, from a speech synthesiser. Raises OSError where it is missing or does not speak."""
    from sttd_client.say import SpeakError, synthesise

    try:
        said = synthesise(text)
    except SpeakError as error:
        raise OSError(str(error)) from error
    samples = memoryview(said.pcm).cast("h")
    loud = [index for index, sample in enumerate(samples) if abs(sample) > 300]  # 1 % of full scale: above silence
    start_s, end_s = loud[0] / said.sample_rate, (loud[-1] + 1) / said.sample_rate
    return Speech(
        title="your words, spoken by espeak-ng",
        pieces=(said.pcm,),
        sample_rate=said.sample_rate,
        seconds=len(samples) / said.sample_rate,
        utterances=(Utterance(start_s=start_s, end_s=end_s, text=text),),
        language="en",
    )
