"""MP4 files, honest and not."""

import io
import struct

import numpy as np

MANY = 100_000_000


def box(name, *parts):
    inside = b"".join(parts)
    return struct.pack(">I", 8 + len(inside)) + name + inside


def table(name, *numbers):
    return box(name, bytes(4), struct.pack(f">{len(numbers)}I", *numbers))


def mp4(*tables, codec=b"mp4a", edits=b"", behind=b""):
    """A track with these tables, of which nothing but what they count matters."""
    sound = bytes(6) + b"\0\1" + bytes(8) + struct.pack(">HHHHI", 2, 16, 0, 0, 16_000 << 16)
    description = box(b"stsd", bytes(4), struct.pack(">I", 1), box(codec, sound))
    media = box(b"mdia", table(b"mdhd", 0, 0, 16_000, 1000, 0), box(b"hdlr", bytes(8), b"soun", bytes(14)),
                box(b"minf", box(b"stbl", description, *tables)))  # fmt: skip
    head = table(b"tkhd", 0, 0, 1, 0, 1000, *[0] * 15)
    return (
        box(b"ftyp", b"isom", bytes(4))
        + box(b"moov", box(b"trak", head, edits, media), behind)
        + box(b"mdat", bytes(2000))
    )


def tables(count, *, ticks=1024, size=1):
    """Of so many samples, in one chunk."""
    return (
        table(b"stts", 1, count, ticks),
        table(b"stsc", 1, 1, count, 1),
        table(b"stsz", size, count),
        table(b"stco", 1, 40),
    )


def bomb():
    """2.5 kB that say they have 100 million samples."""
    return mp4(*tables(MANY))


def recorded(format_, samples, *, codec=None, **options):
    """Such a file of these samples, as FFmpeg writes it."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=format_, options=options) as container:
        stream = container.add_stream(codec or ("pcm_s16le" if format_ == "mov" else "aac"), rate=16_000)
        for at in range(0, len(samples), 16_000):
            pcm = (samples[None, at : at + 16_000] * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16_000, at
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()
