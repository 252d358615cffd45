"""What FFmpeg may do with a stranger's file."""

from __future__ import annotations

from functools import cache

_FORMATS = "wav,w64,flac,mp3,ogg,matroska,webm,aac,aiff,amr,caf,au"
_ISO = "mov,mp4,m4a,3gp,3g2,mj2"  # to FFmpeg they are one


@cache
def open_options(*, iso: bool) -> dict[str, str]:
    """What FFmpeg may do with a stranger's file: read these formats, open nothing else, decode sound. It would decode a
    frame of a video beside the sound to see what it is: 32 kB of H.264 took 158 MB and 11 s (measured).

    `iso`: MP4 as well, for a file whose index is looked at (`iso_index.py`).
    """
    import av

    sound = [name for name in av.codecs_available if _decodes_sound(name)]
    formats = f"{_FORMATS},{_ISO}" if iso else _FORMATS
    return {"format_whitelist": formats, "protocol_whitelist": "none", "codec_whitelist": ",".join(sorted(sound))}


def _decodes_sound(name: str) -> bool:
    import av

    try:
        return bool(av.Codec(name, "r").type == "audio")
    except ValueError:  # it encodes only; av.codec.codec.UnknownCodecError is one
        return False
