"""`sttctl completion`: scripts for bash, zsh and fish, written from the declarations in `commands`.

Names of presets and sessions are asked from the running daemon while completing, through `sttctl --json`; no daemon
means no suggestions, at once and in silence.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping

from sttd_client.ctl.commands import COMMANDS, COMMON
from sttd_client.ctl.declare import Argument, Command

_HEADER = "# Made by `sttctl completion {shell}`; changes here are lost."

# Written without a JSON tool: the names in rows of a list that say the right thing after it, one a line.
_ROW = """sttctl --json {command} 2>/dev/null | grep -o '"{name}": *"[^"]*"{rest}' | cut -d '"' -f 4"""
_ASK: Mapping[str, str] = {
    "preset": _ROW.format(command="models", name="preset", rest='[^{}]*"local": *true'),
    "absent": _ROW.format(command="models", name="preset", rest='[^{}]*"local": *false'),
    "loaded": _ROW.format(command="models", name="preset", rest='[^{}]*"loaded": *true'),
    "session": _ROW.format(command="sessions", name="session", rest=""),
}


def completion(arguments: argparse.Namespace) -> None:
    """Print the script of a shell."""
    print(script(arguments.shell), end="")


def script(shell: str) -> str:
    """The completion script of bash, zsh or fish."""
    lines = {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]()
    return "\n".join(lines) + "\n"


def _shown(arguments: tuple[Argument, ...]) -> list[Argument]:
    return [argument for argument in arguments if not argument.hidden]


def _options(command: Command) -> list[Argument]:
    return [argument for argument in (*_shown(command.arguments()), *COMMON) if argument.is_option]


def _positional(command: Command) -> Argument | None:
    """The positional that is completed: a command has at most one that can be."""
    return next((argument for argument in _shown(command.arguments()) if not argument.is_option), None)


# ---------------------------------------------------------------- bash


def _bash() -> Iterator[str]:
    yield _HEADER.format(shell="bash")
    yield "_sttctl() {"
    yield '    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command="" word'
    yield "    COMPREPLY=()"
    yield '    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do'
    yield "        case $word in"
    yield f"            {'|'.join(COMMANDS)}) command=$word; break ;;"
    yield "        esac"
    yield "    done"
    yield '    case "$command $prev" in'
    for argument in COMMON:
        if argument.takes_value:
            yield from _bash_case(f'*" {argument.names[0]}"', argument)
    for command in COMMANDS.values():
        for argument in _shown(command.arguments()):
            if argument.takes_value:
                yield from _bash_case("|".join(f'"{command.name} {name}"' for name in argument.names), argument)
    yield "    esac"
    yield "    case $command in"
    common = " ".join(name for argument in COMMON for name in argument.names)
    yield f'        "") COMPREPLY=($(compgen -W "{" ".join(COMMANDS)} {common} --help --version" -- "$cur")) ;;'
    for command in COMMANDS.values():
        options = " ".join(name for argument in _options(command) for name in argument.names)
        positional = _positional(command)
        yield f"        {command.name})"
        yield "            if [[ $cur == -* ]]; then"
        yield f'                COMPREPLY=($(compgen -W "{options} --help" -- "$cur"))'
        if positional:
            yield "            else"
            yield f"                {_bash_reply(positional)}"
        yield "            fi ;;"
    yield "    esac"
    yield "}"
    yield "complete -o filenames -F _sttctl sttctl"


def _bash_case(pattern: str, argument: Argument) -> Iterator[str]:
    yield f"        {pattern}) {_bash_reply(argument)}; return ;;"


def _bash_reply(argument: Argument) -> str:
    if argument.choices:
        return f'COMPREPLY=($(compgen -W "{" ".join(argument.choices)}" -- "$cur"))'
    if argument.completes == "file":
        return 'COMPREPLY=($(compgen -f -- "$cur"))'
    if argument.completes in _ASK:
        return f'COMPREPLY=($(compgen -W "$({_ASK[argument.completes]})" -- "$cur"))'
    return "COMPREPLY=()"


# ---------------------------------------------------------------- zsh


def _zsh() -> Iterator[str]:
    yield "#compdef sttctl"
    yield _HEADER.format(shell="zsh")
    for kind, ask in _ASK.items():
        yield f'_sttctl_{kind}() {{ compadd -- ${{(f)"$({ask})"}} }}'
    yield "_sttctl() {"
    yield "    local context state state_descr line"
    yield "    typeset -A opt_args"
    yield "    local -a commands=("
    for command in COMMANDS.values():
        yield f"        {_zsh_quoted(f'{command.name}:{command.summary}')}"
    yield "    )"
    yield "    _arguments -C \\"
    for argument in COMMON:
        yield f"        {_zsh_argument(argument)} \\"
    yield "        '--version[show the version]' '1:command:->command' '*::argument:->arguments'"
    yield "    case $state in"
    yield "        command) _describe -t commands command commands ;;"
    yield "        arguments)"
    yield "            case $words[1] in"
    for command in COMMANDS.values():
        specs = " ".join(_zsh_argument(argument) for argument in (*_shown(command.arguments()), *COMMON))
        yield f"                {command.name}) _arguments {specs} ;;"
    yield "            esac ;;"
    yield "    esac"
    yield "}"
    yield '_sttctl "$@"'


def _zsh_argument(argument: Argument) -> str:
    action = "_files" if argument.completes == "file" else ""
    if argument.completes in _ASK:
        action = f"_sttctl_{argument.completes}"
    if argument.choices:
        action = f"({' '.join(argument.choices)})"
    value = f":{argument.placeholder.lower()}:{action}"
    summary = argument.summary.replace("[", "(").replace("]", ")").replace(":", r"\:")
    if not argument.is_option:
        return _zsh_quoted(("*" if argument.count in ("*", "+") else "") + value)
    names = " ".join(argument.names)
    excluded = f"({names})" if len(argument.names) > 1 else ""
    specs = (
        _zsh_quoted(f"{excluded}{name}[{summary}]" + (value if argument.takes_value else "")) for name in argument.names
    )
    return " ".join(specs)


def _zsh_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# ---------------------------------------------------------------- fish


def _fish() -> Iterator[str]:
    yield _HEADER.format(shell="fish")
    for kind, ask in _ASK.items():
        yield f"function __sttctl_{kind}; {ask}; end"
    yield "complete -c sttctl -f"
    for argument in COMMON:
        yield _fish_line("", argument)
    yield "complete -c sttctl -n __fish_use_subcommand -l version -d 'show the version'"
    for command in COMMANDS.values():
        yield f"complete -c sttctl -n __fish_use_subcommand -a {command.name} -d {_fish_quoted(command.summary)}"
        here = f"-n '__fish_seen_subcommand_from {command.name}'"
        for argument in _shown(command.arguments()):
            if argument.is_option or argument == _positional(command):
                yield _fish_line(here, argument)


def _fish_line(condition: str, argument: Argument) -> str:
    parts = ["complete", "-c", "sttctl", *([condition] if condition else [])]
    if argument.is_option:
        parts += [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in argument.names]
        parts += ["-r" if argument.completes == "file" else "-x"] if argument.takes_value else []
    if argument.choices:
        parts.append(f"-a {_fish_quoted(' '.join(argument.choices))}")
    elif argument.completes == "file":
        parts.append("-F")
    elif argument.completes in _ASK:
        parts.append(f"-a '(__sttctl_{argument.completes})'")
    return " ".join([*parts, f"-d {_fish_quoted(argument.summary)}"])


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
