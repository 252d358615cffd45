"""espeak-ng as a library in this process: 2 to 3 ms a sentence, with the start of every word and phone.

The C interface is `speak_lib.h` of espeak-ng 1.51; constants carry its names.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from training.demo_model.speech import Mark, Speech, build

_AUDIO_OUTPUT_SYNCHRONOUS: Final = 2
_INITIALIZE_PHONEME_EVENTS: Final = 1
_CHARS_UTF8: Final = 1
_POS_CHARACTER: Final = 1
_EVENT_LIST_TERMINATED, _EVENT_WORD, _EVENT_PHONEME = 0, 1, 7
_RATE, _PITCH, _RANGE, _WORDGAP = 1, 3, 4, 7


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@attrs.frozen(kw_only=True)
class Voice:
    """How espeak-ng shall sound.

    Args:
        name: An espeak-ng voice, `accent+variant`; or a voice file, given by its path.
        words_per_minute: The speaking rate.
        pitch: 0 to 100, as `espeak-ng -p`.
        pitch_range: 0 to 100.
        word_gap: Further pause between words, in units of 10 ms at the usual rate.
        stretch: Resampling factor; above 1 is faster, higher and with a shorter vocal tract.
    """

    name: str | Path
    words_per_minute: int = 160
    pitch: int = 50
    pitch_range: int = 50
    word_gap: int = 0
    stretch: float = 1.0


@attrs.define(eq=False)
class Espeak:
    """The library, loaded and initialised once; `say` may be called from one thread at a time."""

    _library: Any = attrs.field(factory=lambda: ctypes.CDLL("libespeak-ng.so.1"))
    _rate: int = attrs.field(init=False)
    _chunks: list[NDArray[np.int16]] = attrs.field(factory=list, init=False)
    _events: list[tuple[int, int, int, str]] = attrs.field(factory=list, init=False)
    _callback: Any = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._rate = self._library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, None, _INITIALIZE_PHONEME_EVENTS)
        self._callback = _Callback(self._collect)
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events[index].type != _EVENT_LIST_TERMINATED:
            event = events[index]
            if event.type in (_EVENT_WORD, _EVENT_PHONEME):
                # Phone names fill up to eight bytes and need no terminator; ctypes stops at the first zero byte.
                name = event.id.decode("utf-8", "replace") if event.type == _EVENT_PHONEME else ""
                self._events.append((event.type, event.text_position, event.audio_position, name))
            index += 1
        return 0

    def say(self, text: str, *, voice: Voice) -> Speech | None:
        """Speaks `text`; None when espeak-ng produced no sound.

        Raises:
            ValueError: espeak-ng knows no such voice.
        """
        self._chunks.clear()
        self._events.clear()
        if isinstance(voice.name, Path):
            status = self._library.espeak_ng_SetVoiceByFile(str(voice.name).encode())
        else:
            status = self._library.espeak_SetVoiceByName(voice.name.encode())
        if status != 0:
            raise ValueError(f"espeak-ng has no voice {voice.name}")
        for parameter, value in (
            (_RATE, voice.words_per_minute),
            (_PITCH, voice.pitch),
            (_RANGE, voice.pitch_range),
            (_WORDGAP, voice.word_gap),
        ):
            self._library.espeak_SetParameter(parameter, value, 0)
        data = text.encode()
        self._library.espeak_Synth(data, len(data) + 1, 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None)
        self._library.espeak_Synchronize()
        if not self._chunks:
            return None
        words, phones = self._marks(text, stretch=voice.stretch)
        name = voice.name.stem if isinstance(voice.name, Path) else voice.name
        return build(
            np.concatenate(self._chunks),
            rate=self._rate * voice.stretch,
            text=text,
            speaker=f"espeak-ng:{name}",
            words=words,
            phones=phones,
        )

    def _marks(self, text: str, *, stretch: float) -> tuple[list[Mark], list[Mark]]:
        starts: dict[int, int] = {}
        position = 0
        for index, token in enumerate(text.split()):
            starts[position] = index
            position += len(token) + 1
        words, phones = [], []
        for kind, text_position, milliseconds, name in self._events:
            at_s = milliseconds / 1000 / stretch
            if kind == _EVENT_PHONEME:
                phones.append(Mark(what=name, start_s=at_s))
            elif text_position - 1 in starts:
                words.append(Mark(what=starts[text_position - 1], start_s=at_s))
        return words, phones
