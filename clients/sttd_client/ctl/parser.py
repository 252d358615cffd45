"""The argument parser, made from the declarations in `commands`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from sttd import __version__
from sttd_client.ctl.commands import COMMANDS, COMMON
from sttd_client.ctl.declare import Argument, Command

EPILOG = """exit status: 0 done, 1 failed, 2 usage, 3 no daemon, 4 denied, 5 not found, 6 busy"""


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser of sttctl, with all commands or with `only` the one that is run, which is ready sooner."""
    parser = argparse.ArgumentParser(
        prog="sttctl", description="Control the speech-to-text daemon, and use it.", epilog=EPILOG, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"sttctl {__version__}")
    _add(parser, COMMON)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS.values():
        if only in (None, command.name):
            sub = commands.add_parser(
                command.name, help=command.summary, description=_description(command), allow_abbrev=False
            )
            _add(sub, command.arguments())
            _add(sub, COMMON)
    return parser


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """The arguments of this run; ends the program with status 2 where they make no sense."""
    arguments = build_parser(only=_command_in(argv)).parse_args(argv)
    for common in COMMON:  # given before the command, after it, or not at all
        name = _dest(common)
        setattr(arguments, name, getattr(arguments, name, False if common.kind == "flag" else None))
    return arguments


def _command_in(argv: list[str]) -> str | None:
    """The command that is run, as far as it can be told without parsing; None has all of them parsed."""
    words = iter(argv)
    for word in words:
        if word == "--socket":
            next(words, None)
        elif not word.startswith("-"):
            return word if word in COMMANDS else None
        elif word in ("-h", "--help"):
            return None
    return None


def _description(command: Command) -> str:
    return f"{command.summary} {command.details}".strip()


def _dest(argument: Argument) -> str:
    return argument.dest or max(argument.names, key=len).lstrip("-").replace("-", "_").lower()


def _add(parser: argparse.ArgumentParser, arguments: tuple[Argument, ...]) -> None:
    for argument in arguments:
        summary = argparse.SUPPRESS if argument.hidden else argument.help.replace("%", "%%")
        options: dict[str, Any] = {"help": summary}
        if argument in COMMON:  # a sub-parser's default would overwrite what was given before the command
            options["default"] = argparse.SUPPRESS
        if argument.kind == "flag":
            options["action"] = "store_true"
        else:
            options |= {"type": _TYPES[argument.kind], "metavar": argument.placeholder}
            if argument.choices and argument.count == "*":
                options["type"] = _one_of(argument.choices)  # argparse's own check refuses to be given none
            elif argument.choices:
                options["choices"] = argument.choices
            if argument.count:
                options["nargs"] = argument.count
        if argument.is_option:
            parser.add_argument(*argument.names, dest=_dest(argument), **options)
        else:
            parser.add_argument(_dest(argument), **options)


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def checked(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(choices)}")
        return text

    return checked


_TYPES = {"str": str, "int": int, "float": float}
