"""The process of one target: `python -m tests.fuzz.one ITSELF TARGET`, and arguments of libFuzzer.

ITSELF is a program that starts this one again: libFuzzer does so for every input while it reduces a corpus.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["sttd", "python_multipart", "h11"]):
    from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    _, itself, target, *arguments = sys.argv
    atheris.Setup([itself, *arguments], TARGETS[target])
    atheris.Fuzz()
