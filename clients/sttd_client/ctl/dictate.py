"""`sttctl dictate`: asks the agent, starts one where there is none, and waits where there is something to wait for."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from typing import Any

from sttd.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from sttd_client.ctl.speech import listed
from sttd_client.ctl.terminal import print_json
from sttd_client.dictation.call import Call, request, socket_path

_LEAVES_S = 5.0  # chosen: for an agent that was asked to quit, on a busy machine
_AGAIN_S = 0.05


def dictate(arguments: argparse.Namespace) -> int:
    """Do what is asked for; without a word for a key binding, dictate until Ctrl-C or (`--once`) a pause."""
    if arguments.toggle and (arguments.action or arguments.once):
        print("sttctl dictate: --toggle goes with neither a word nor --once", file=sys.stderr)
        return EXIT_USAGE
    do = "toggle" if arguments.toggle else arguments.action or "start"
    waits = not arguments.toggle and not arguments.action
    try:
        call = Call()
    except OSError:
        if do not in ("start", "toggle", "bind"):  # nobody listens, so there is nothing to stop
            _print({"state": "idle", "note": "no agent runs"}, arguments, shown=do == "status")
            return EXIT_OK
        call = _call_new_agent(arguments.socket)
    with call:
        call.ask(request(do, wait=waits, **_wish(arguments)))
        answer = call.answer() or {}
        if isinstance(error := answer.get("error"), dict):
            print(f"sttctl: {error['message']}", file=sys.stderr)
            return int(error["status"])
        if waits:
            return _wait(call, arguments)
        _print(answer, arguments, shown=do in ("status", "bind"))
    if do == "quit":
        _see_it_leave()
    return EXIT_OK


def _see_it_leave() -> None:
    """Wait until the agent listens no more, so that the next call does not reach one that leaves."""
    until_s = time.monotonic() + _LEAVES_S
    while os.path.exists(socket_path()) and time.monotonic() < until_s:
        time.sleep(_AGAIN_S)


def _wish(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was said of the dictation; what was not said stays as the user's file has it."""
    return {
        **{name: getattr(arguments, name) or None for name in ("once", "hold", "revise", "sound")},
        "notify": False if arguments.no_notify else None,
        "type": arguments.type,
        "language": arguments.language,
        "languages": None if arguments.languages is None else listed(arguments.languages),
        "model": arguments.model,
        "device": arguments.device,
    }


def _call_new_agent(control_socket: str | None) -> Call:
    """Start an agent and call it; one that is just leaving keeps others out until it has gone. Raises OSError."""
    if not os.path.isdir(runtime := os.path.dirname(socket_path())):
        raise OSError(
            f"there is no {runtime}, where the agent would listen: log in, or let XDG_RUNTIME_DIR name another"
        )
    until_s = time.monotonic() + _LEAVES_S
    while True:
        _start_agent(control_socket)
        try:
            return Call()
        except OSError:
            if time.monotonic() > until_s:
                raise OSError("the agent of the dictation neither listens nor leaves") from None
        time.sleep(_AGAIN_S)


def _start_agent(control_socket: str | None) -> None:
    """Start an agent and wait until it listens, or has found that another one does. It outlives this program.

    Raises OSError where it does not start.
    """
    command = [sys.executable, "-m", "sttd_client.dictation", *([control_socket] if control_socket else [])]
    agent = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
    assert agent.stdout is not None
    with agent.stdout:
        ready = agent.stdout.readline()
    if not ready and agent.wait():
        raise OSError(f"the agent of the dictation does not start; this says why: {shlex.join(command)}")
    agent.returncode = 0  # nobody waits for it; without this, Python warns of a child that still runs


def _wait(call: Call, arguments: argparse.Namespace) -> int:
    """Until the dictation is over. Ctrl-C ends it; what was being said is still typed. A second one drops that."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    words = iter((b"stop\n", b"cancel\n"))
    if sys.stderr.isatty() and not arguments.json:
        print("dictating into the focused window; Ctrl-C ends", file=sys.stderr)
    while True:
        try:
            shown = call.answer(patient=True)
            if shown is None or (shown["state"] == "idle"):
                break
        except KeyboardInterrupt:
            call.ask(next(words, b"cancel\n"))
    shown = shown or {"state": "idle", "note": "the agent ended", "status": EXIT_FAILED}
    _print({name: shown[name] for name in ("state", "note")}, arguments, shown=False)
    return int(str(shown["status"]))


def _print(answer: dict[str, Any], arguments: argparse.Namespace, *, shown: bool) -> None:
    """The state: for programs always, for people where they asked or where there is a reason to tell."""
    if arguments.json:
        print_json(answer)
    elif answer.get("note"):
        print(f"{answer['state']}: {answer['note']}", file=sys.stdout if shown else sys.stderr)
    elif shown:
        types = f", types with {answer['types']}" if answer.get("types") else ""
        print(f"{answer['state']}{types}")
    if shown and not arguments.json:
        for name, keys in (answer.get("shortcuts") or {}).items():
            print(f"  {name:8} {keys or 'no key; choose one in the settings of the desktop'}")
