"""flite as a library in this process: 5 to 30 ms a sentence, with the times of words and phones.

The C interface is that of flite 2.2 (`flite.h`, `cst_item.h`, `cst_wave.h`).
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

import attrs
import numpy as np

from training.demo_model.speech import Mark, Speech, build


class _Wave(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    )


class _Voice(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("features", ctypes.c_void_p))


#: Functions of libflite: name, result, arguments. Items and utterances are opaque pointers.
_POINTER, _TEXT = ctypes.c_void_p, ctypes.c_char_p
_FUNCTIONS: Final = (
    ("flite_init", ctypes.c_int, ()),
    ("flite_synth_text", _POINTER, (_TEXT, _POINTER)),
    ("utt_wave", ctypes.POINTER(_Wave), (_POINTER,)),
    ("delete_utterance", None, (_POINTER,)),
    ("utt_relation", _POINTER, (_POINTER, _TEXT)),
    ("relation_head", _POINTER, (_POINTER,)),
    ("item_next", _POINTER, (_POINTER,)),
    ("item_parent", _POINTER, (_POINTER,)),
    ("item_as", _POINTER, (_POINTER, _TEXT)),
    ("item_feat_float", ctypes.c_float, (_POINTER, _TEXT)),
    ("item_feat_string", _TEXT, (_POINTER, _TEXT)),
    ("feat_set_float", None, (_POINTER, _TEXT, ctypes.c_float)),
)


@attrs.define(eq=False)
class Flite:
    """The library and the voices loaded so far; `say` may be called from one thread at a time."""

    _library: Any = attrs.field(factory=lambda: ctypes.CDLL("libflite.so.1", mode=ctypes.RTLD_GLOBAL))
    _voices: dict[str, Any] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        for dependency in ("usenglish", "cmulex"):
            ctypes.CDLL(f"libflite_{dependency}.so.1", mode=ctypes.RTLD_GLOBAL)
        for name, result, arguments in _FUNCTIONS:
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
        self._library.flite_init()

    def _voice(self, name: str) -> Any:
        if name not in self._voices:
            register = getattr(ctypes.CDLL(f"libflite_cmu_us_{name}.so.1"), f"register_cmu_us_{name}")
            register.restype, register.argtypes = ctypes.POINTER(_Voice), (_POINTER,)
            self._voices[name] = register(None)
        return self._voices[name]

    def say(self, text: str, *, voice: str, duration: float = 1.0, stretch: float = 1.0) -> Speech | None:
        """Speaks `text` with the voice `kal`, `kal16`, `awb`, `slt` or `rms`; `duration` above 1 is slower.

        `stretch` is the resampling factor of `speech.build`.
        """
        handle = self._voice(voice)
        self._library.feat_set_float(handle.contents.features, b"duration_stretch", duration)
        utterance = self._library.flite_synth_text(text.encode(), handle)
        try:
            wave = self._library.utt_wave(utterance).contents
            samples = np.ctypeslib.as_array(wave.samples, (wave.num_samples,)).copy()
            words, phones = self._marks(utterance, stretch=stretch)
            rate = wave.sample_rate * stretch
        finally:
            self._library.delete_utterance(utterance)
        if len({mark.what for mark in words}) != len(text.split()):
            return None  # a token that is read as nothing, or one that flite splits: rare, and not worth guessing
        return build(samples, rate=rate, text=text, speaker=f"flite:{voice}", words=words, phones=phones)

    def _marks(self, utterance: int, *, stretch: float) -> tuple[list[Mark], list[Mark]]:
        library = self._library
        words: list[Mark] = []
        phones: list[Mark] = []
        tokens: list[int] = []
        start_s = 0.0
        segment = library.relation_head(library.utt_relation(utterance, b"Segment"))
        while segment:
            phones.append(Mark(what=library.item_feat_string(segment, b"name").decode(), start_s=start_s))
            structure = library.item_as(segment, b"SylStructure")
            if structure:
                word = library.item_parent(library.item_parent(structure))
                token = library.item_parent(library.item_as(word, b"Token"))
                if token not in tokens:
                    tokens.append(token)
                    words.append(Mark(what=len(tokens) - 1, start_s=start_s))
            start_s = library.item_feat_float(segment, b"end") / stretch
            segment = library.item_next(segment)
        return words, phones
