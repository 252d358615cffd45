"""What a declaration of a command consists of, and how one is derived from a verb of the control plane."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import attrs

Kind = Literal["flag", "str", "int", "float"]
Completes = Literal["", "file", "preset", "absent", "loaded", "session"]  # preset: on disk; absent: not


@attrs.frozen(kw_only=True)
class Argument:
    """One argument of a command. Names that begin with a dash make an option, one without makes a positional."""

    names: tuple[str, ...]
    summary: str
    dest: str = ""  # where the value lies in the namespace, if not under its longest name
    kind: Kind = "str"
    count: Literal["", "?", "*", "+"] = ""
    choices: tuple[str, ...] = ()
    metavar: str = ""
    completes: Completes = ""
    hidden: bool = False  # for tests and other programs; left out of help and man page

    @property
    def is_option(self) -> bool:
        """Whether it is given by name."""
        return self.names[0].startswith("-")

    @property
    def takes_value(self) -> bool:
        """Whether something follows the option's name."""
        return self.is_option and self.kind != "flag"

    @property
    def placeholder(self) -> str:
        """What help shows in place of the value."""
        return self.metavar or max(self.names, key=len).lstrip("-").upper().replace("-", "_")

    @property
    def help(self) -> str:
        """The summary, and the choices where they are few enough to read."""
        few = 0 < len(self.choices) <= 10
        return f"{self.summary}: {', '.join(self.choices)}" if few else self.summary


@attrs.frozen(kw_only=True)
class Command:
    """One sub-command.

    `run` names the function as module:function; it is imported when it is needed, and `arguments` are made then:
    `sttctl status` waits neither for what `transcribe` imports nor for what `load` has to look up.
    """

    name: str
    summary: str
    run: str
    arguments: Callable[[], tuple[Argument, ...]] = tuple
    details: str = ""  # a paragraph for the man page and `sttctl COMMAND --help`


_COMPLETES: Mapping[tuple[str, str], Completes] = {
    ("load", "preset"): "preset",
    ("unload", "preset"): "loaded",
    ("pull", "model"): "absent",
    ("close_session", "session"): "session",
}


def from_option(option: str, *names: str, metavar: str, example: str = "") -> Argument:
    """The argument that stands for an option of a session."""
    from sttd.options import SessionOptions
    from sttd.wire.schema import describe

    row = describe(SessionOptions)[option]
    default = row.get("omitted", row.get("default"))
    phrase = row["summary"].partition(";")[0]  # the rest is for readers of the protocol
    summary = phrase + example + ("" if default == "none" else f" (default: {default})")
    choices = tuple(row.get("choices", ())) if row["type"] == "str" else ()
    return Argument(names=names, summary=summary, choices=choices, metavar=metavar)


def from_verb(verb: str, *, positional: str) -> tuple[Argument, ...]:
    """The arguments that a verb's parameters make.

    A unit at the end of a name becomes the placeholder; what is on unless said otherwise becomes `--no-NAME`.
    """
    from sttd.wire.schema import describe
    from sttd.wire.verbs import VERBS

    arguments = []
    for name, row in describe(VERBS[verb].params).items():
        default = row.get("omitted", row.get("default"))
        summary = row["summary"] + ("" if default in (None, True) else f" (default: {default})")
        completes = _COMPLETES.get((verb, name), "")
        if name == positional:
            count: Literal["", "?"] = "" if row["required"] else "?"
            arguments.append(
                Argument(names=(name.upper(),), dest=name, summary=summary, count=count, completes=completes)
            )
        elif row["type"] == "bool":
            without_it = row["summary"].rpartition("; false ")[2]  # the declarations say both sides in this way
            arguments.append(Argument(names=(f"--no-{name}",), dest=f"no_{name}", kind="flag", summary=without_it))
        else:
            flag = "--" + name.removesuffix("_s").replace("_", "-")
            metavar = "SECONDS" if name.endswith("_s") else "N" if row["type"] == "int" else ""
            arguments.append(
                Argument(
                    names=(flag,), dest=name, kind=row["type"], metavar=metavar, summary=summary, completes=completes
                )
            )
    return tuple(arguments)
