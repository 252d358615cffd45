"""What the command line of `python -m benchmarks` says: all flags, in one place, for all benchmarks.

    python -m benchmarks                          all of them
    python -m benchmarks latency                  one
    python -m benchmarks latency --model base     with another model
    python -m benchmarks --model base             all, with that model

`--model` is the name of a preset whose model is on disk (`sttd pull NAME` gets it) or the directory of one. Without
it, benchmarks decode with `tiny.en` where that is on disk, else with the embedded `demo`, which knows a few
synthesised sentences only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import attrs

from sttd.engine.presets import builtin_presets
from sttd.engine.store.models import ModelStore, is_complete, is_path

USUAL_MODEL = "tiny.en"
PEERS = ("sttd", "wyoming", "whisperlive", "realtimestt", "whisperlivekit")
# Flags that only some benchmarks look at: elsewhere they would be ignored without a word.
USED_BY: Mapping[str, tuple[str, ...]] = {
    "speakers": ("peers",),
    "only": ("peers",),
    "cycles": ("memory",),
    "device": ("gpu",),
    "source": ("first_final",),
    "against": ("density",),
    "measure": ("fleet",),
    "document": ("fleet", "fleet_check"),
}


class UsageError(Exception):
    """What the command line asks for cannot be; the message is one line for its author."""


@attrs.frozen(kw_only=True)
class Model:
    """A model on disk."""

    name: str
    path: Path
    preset: str  # the name that a daemon started with `serve` knows it by
    serve: tuple[str, ...]  # arguments of `sttd serve`

    @property
    def is_demo(self) -> bool:
        """The embedded model knows only voices like those of the bundled sample."""
        return self.name == "demo"


@attrs.frozen(kw_only=True)
class Options:
    """What all benchmarks are given; each looks at what concerns it."""

    named: str | None = None  # the model, when the command line names one
    speakers: tuple[int, ...] = (1, 2, 4)
    only: tuple[str, ...] = PEERS
    cycles: int = 50
    device: str = "cuda"
    source: str = "index"
    against: Path | None = None
    measure: bool = False
    document: bool = False

    @property
    def model(self) -> Model:
        """What to decode with.

        Raises:
            UsageError: it is not on disk.
        """
        if self.named is not None:
            return on_disk(self.named)
        try:
            return on_disk(USUAL_MODEL)
        except UsageError as error:
            print(f"  {error}; until then with the embedded demo model", file=sys.stderr)
            return on_disk("demo")


def on_disk(name: str) -> Model:
    """A model by the name of its preset, or by its directory.

    Raises:
        UsageError: there is none of that name, or it is not on disk.
    """
    if is_path(name):
        path = Path(name).expanduser().resolve()
        if not is_complete(path):
            raise UsageError(f"{name} holds no CTranslate2 Whisper model (model.bin, config.json, tokenizer.json)")
        return Model(
            name=path.name,
            path=path,
            preset="bench",
            serve=("--model", "bench", "--set", f"presets.bench.model={path}"),
        )
    known = {preset.name: preset for preset in builtin_presets().values() if preset.backend == "whisper"}
    known.pop("auto", None)
    if name not in known:
        raise UsageError(f"no model {name}; there are {', '.join(known)}, or give a directory as ./DIR")
    located = ModelStore().locate(known[name].model)
    if located is None:
        raise UsageError(f"the model {name} is not on disk; get it with: sttd pull {name}")
    return Model(name=name, path=located, preset=name, serve=("--model", name))


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (--help shows what there is)")


def parse(arguments: Sequence[str], known: Mapping[str, str]) -> tuple[list[str], Options]:
    """The benchmarks to run, none for all, and what they are given.

    Args:
        arguments: of the command line.
        known: all benchmarks, with a line about each.

    Raises:
        UsageError: unknown names or flags, or a model that is not there.
    """
    width = max(map(len, known))
    parser = _Parser(
        prog="python -m benchmarks",
        description=(__doc__ or "").partition("\n\n")[2],
        epilog="benchmarks:\n" + "\n".join(f"  {name:{width}}  {line}" for name, line in known.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("names", nargs="*", metavar="BENCHMARK", help="those to run; none for all, listed below")
    parser.add_argument("--model", metavar="NAME", help="tiny.en, base, demo, … or ./DIRECTORY")
    parser.add_argument("--speakers", type=_counts, metavar="N,N", help="peers: how many speak at once (1,2,4)")
    parser.add_argument("--only", type=_peers, metavar="NAME,NAME", help=f"peers: of {', '.join(PEERS)}")
    parser.add_argument("--cycles", type=_count, metavar="N", help="memory: cycles of load, decode and unload (50)")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="gpu: cpu only tries it out")
    parser.add_argument(
        "--measure", action="store_const", const=True, help="fleet: measure what it is made of, anew, with --model"
    )
    parser.add_argument(
        "--document", action="store_const", const=True, help="fleet, fleet_check: put the tables into docs/explanation"
    )
    parser.add_argument("--source", metavar="NAME", help="first_final: where `sttd pull` gets the model (index)")
    parser.add_argument(
        "--against", metavar="DIRECTORY", type=_checkout, help="density: another checkout, to be measured in turn"
    )
    given = vars(parser.parse_intermixed_args(arguments))
    names: list[str] = given.pop("names")
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    flags = {flag: value for flag, value in given.items() if value is not None}
    for flag, users in USED_BY.items():
        if flag in flags and names and not set(users) & set(names):
            raise UsageError(f"--{flag} is for {', '.join(users)}")
    if (model := flags.pop("model", None)) is not None:
        if names != ["first_final"]:  # which downloads it
            on_disk(model)
        flags["named"] = model
    return names, Options(**flags)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no count")
    return int(text)


def _checkout(text: str) -> Path:
    path = Path(text).expanduser().resolve()
    if not (path / "sttd" / "__main__.py").is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is no checkout of sttd")
    return path


def _counts(text: str) -> tuple[int, ...]:
    return tuple(map(_count, text.split(",")))


def _peers(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in PEERS]:
        raise argparse.ArgumentTypeError(f"no server {', '.join(unknown)}; there are {', '.join(PEERS)}")
    return names
