"""What `sttctl transcribe` and `sttctl listen` ask alike of a session."""

from __future__ import annotations

import argparse

from sttd_client.options import StartOptions


def speech_options(arguments: argparse.Namespace) -> StartOptions:
    """The options of `start` that stand for the arguments of both; what was not given stays out."""
    return {
        "lang": arguments.language,
        "languages": None if arguments.languages is None else listed(arguments.languages),
        "model": arguments.model,
        "prompt": arguments.prompt,
        "task": "translate" if arguments.translate else None,
    }


def listed(text: str) -> list[str]:
    """`es, en` as a list; with nothing in it, it is the daemon that refuses it."""
    return [code.strip() for code in text.split(",") if code.strip()]
