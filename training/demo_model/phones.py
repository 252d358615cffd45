# ruff: noqa: SIM905 (word lists read better as text)
"""One set of phone classes for all synthesisers: the frame labels of the encoder's auxiliary loss.

The classes are those of the CMU pronouncing dictionary. Accents differ in vowels, so the mapping is coarse on purpose:
it only has to tell the encoder where sounds begin and roughly what they are. Names not listed are ignored by the loss.
"""

from __future__ import annotations

from typing import Final

SILENCE: Final = 0
IGNORED: Final = -1

_CLASSES: Final = (
    "sil aa ae ah ao aw ax ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th uh uw v w y z zh"
).split()

_ESPEAK: Final = {
    "aa": "ae", "a": "ae", "A:": "aa", "A@": "aa", "0": "aa", "O2": "aa", "O:": "ao", "O@": "ao", "o@": "ao",
    "O": "ao", "V": "ah", "VR": "er", "@": "ax", "@2": "ax", "@-": "ax", "@5": "ax", "a#": "ax", "@L": "l",
    "3": "er", "3:": "er", "IR": "er", "E": "eh", "e@": "eh", "I": "ih", "I2": "ih", "I#": "ih", "i": "iy",
    "i:": "iy", "i@": "iy", "i@3": "iy", "eI": "ey", "aI": "ay", "aI@": "ay", "aI2": "ay", "aI3": "ay", "OI": "oy",
    "aU": "aw", "oU": "ow", "U": "uh", "U@": "uh", "u:": "uw", "u": "uw", "tS": "ch", "dZ": "jh", "T": "th",
    "D": "dh", "S": "sh", "Z": "zh", "N": "ng", "j": "y", ";": "y", "h": "hh", "r-": "r", "t#": "t", "t2": "t",
    "t[": "t", "w#": "w", "n-": "n",
}  # fmt: skip

#: What flite's and festival's radio phone set calls differently from the classes above.
_RADIO: Final = {
    "pau": "sil",
    "h#": "sil",
    "brth": "sil",
    "el": "l",
    "en": "n",
    "em": "m",
    "axr": "er",
    "hv": "hh",
    "dx": "t",
}

_INDEX: Final = {name: index for index, name in enumerate(_CLASSES)}

COUNT: Final = len(_CLASSES)


def phone_class(label: str, *, synthesiser: str) -> int:
    """Returns the class of a synthesiser's phone name, or `IGNORED`."""
    names = _ESPEAK if synthesiser == "espeak-ng" else _RADIO
    return _INDEX.get(names.get(label, label), IGNORED)
