"""The manual page sttctl(1), written from the declarations in `commands`."""

from __future__ import annotations

from collections.abc import Iterator

from sttd_client.ctl.commands import COMMANDS, COMMON
from sttd_client.ctl.declare import Argument, Command

_STATUSES = (
    ("0", "done"),
    ("1", "failed"),
    ("2", "usage: an option or a value that makes no sense"),
    ("3", "no daemon answers"),
    ("4", "denied"),
    ("5", "not found: no such preset, model, session or file of the daemon"),
    ("6", "busy: the daemon has too much to do, stops, or does not answer; try again"),
    ("130", "interrupted by Ctrl-C"),
)

_EXAMPLES = (
    ("sttctl transcribe talk.mp3", "print what is said"),
    (
        "sttctl transcribe -f srt -o subtitles/ *.mkv",
        "make subtitles, a file each, in that directory",
    ),
    ("sttctl listen", "live captions of the microphone"),
    ("sttctl status --watch", "watch the daemon work"),
    ("sttctl load large-v3-turbo --keep-alive -1", "load a model and keep it"),
    ("sttctl raw status | jq .result.latency_ms", "one figure, for a script"),
)


def page() -> str:
    """The page as troff."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield '.\\" Made from the declarations of sttctl; changes here are lost.'
    yield '.TH STTCTL 1 "" "sttd" "User Commands"'
    yield ".SH NAME"
    yield "sttctl \\- control the speech-to-text daemon, and use it"
    yield ".SH SYNOPSIS"
    yield f".B sttctl\n{escaped('[--json] [--socket PATH] COMMAND [ARGUMENT...]')}"
    yield ".SH DESCRIPTION"
    yield escaped(
        "sttctl talks to a running sttd: it shows what the daemon does, manages its models and sessions, transcribes "
        "files and shows live captions. The daemon of this user is asked before the one of the system."
    )
    yield ".SH OPTIONS"
    yield escaped("These go before or after the command.")
    for argument in COMMON:
        yield from _argument(argument)
    yield ".SH COMMANDS"
    for command in COMMANDS.values():
        yield from _command(command)
    yield ".SH EXIT STATUS"
    for status, meaning in _STATUSES:
        yield f".TP\n.B {status}\n{escaped(meaning)}"
    yield ".SH ENVIRONMENT"
    yield f".TP\n.B STTD_SOCKET\n{escaped('the control socket to use, as --socket names it')}"
    yield f".TP\n.B NO_COLOR\n{escaped('where it is set, nothing is coloured')}"
    yield ".SH FILES"
    yield f".TP\n.I {escaped('$XDG_RUNTIME_DIR/sttd/control.sock')}\nthe daemon of this user"
    yield f".TP\n.I {escaped('/run/sttd/control.sock')}\nthe daemon of the system"
    yield ".SH EXAMPLES"
    for example, meaning in _EXAMPLES:
        yield f".TP\n.B {escaped(example)}\n{escaped(meaning)}"
    yield ".SH SEE ALSO"
    yield ".BR sttd (8),\n.BR sttd.toml (5)"


def _command(command: Command) -> Iterator[str]:
    yield f".SS {escaped(synopsis(command))}"
    yield escaped(f"{command.summary} {command.details}".strip())
    for argument in command.arguments():
        if not argument.hidden:
            yield from _argument(argument)


def synopsis(command: Command) -> str:
    """The command with its positionals, as usage lines write them."""
    shapes = {"": "{}", "?": "[{}]", "+": "{}...", "*": "[{}...]"}
    positionals = [shapes[a.count].format(a.placeholder) for a in command.arguments() if not a.is_option]
    has_options = any(a.is_option and not a.hidden for a in command.arguments())
    return " ".join([command.name, *(["[OPTION...]"] if has_options else []), *positionals])


def _argument(argument: Argument) -> Iterator[str]:
    names = ", ".join(f"\\fB{escaped(name)}\\fR" for name in argument.names)
    value = f" \\fI{escaped(argument.placeholder)}\\fR" if argument.takes_value else ""
    yield f".TP\n{names}{value}\n{escaped(argument.help)}"


def escaped(text: str) -> str:
    """Text that troff prints as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text
