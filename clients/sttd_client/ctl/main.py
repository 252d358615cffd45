"""The entry point of sttctl: parse, import the command, run it, turn errors into words and an exit status.

A key that starts a dictation must not wait for the imports of all this, so that comes first.
"""

from __future__ import annotations

import sys

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_OF_SOME_COMMANDS = ("jeepney", "rich", "trio")  # what the client alone is installed without


def main(argv: list[str] | None = None) -> int:
    """Run sttctl and return its exit status."""
    from sttd_client.dictation.call import press

    pressed = press(sys.argv[1:] if argv is None else argv)
    return _run(argv) if pressed is None else pressed


def _run(argv: list[str] | None) -> int:
    import importlib
    import os

    from sttd.errors import EXIT_FAILED, SttdError
    from sttd_client.ctl.commands import COMMANDS
    from sttd_client.ctl.outcome import exit_status_of, words_of
    from sttd_client.ctl.parser import parse_arguments

    _take_any_text()
    arguments = parse_arguments(sys.argv[1:] if argv is None else argv)
    module, function = COMMANDS[arguments.command].run.split(":")
    try:
        run = getattr(importlib.import_module(f"sttd_client.ctl.{module}"), function)
        status = run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough, as `head` does; what is still buffered has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except (SttdError, OSError) as error:
        print(f"sttctl: {words_of(error)}", file=sys.stderr)
        return exit_status_of(error)
    except ModuleNotFoundError as error:
        if error.name not in _OF_SOME_COMMANDS:
            raise
        print(f"sttctl: this needs {error.name}: pip install 'sttd-client[sttctl]'", file=sys.stderr)
        return EXIT_FAILED
    return int(status or 0)


def _take_any_text() -> None:
    """Print every character, whatever the terminal's encoding: as an escape where it has none.

    UTF-8 has one for all but the bytes of names that are no text; those go out as they are.
    """
    import codecs
    import io

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            unicode = codecs.lookup(stream.encoding).name == "utf-8"
            stream.reconfigure(errors="surrogateescape" if unicode else "backslashreplace")
