"""`sttctl status`: one look at the daemon, or one every second."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from sttd_client.addresses import ConnectionLostError, NoDaemonError
from sttd_client.control import Control, open_control
from sttd_client.ctl.terminal import duration, milliseconds, print_json, size, styled, table

_COUNTED = 1000  # sessions that are told apart by their wire: a page of the daemon's list
TIMEOUT_S = 10.0  # a healthy daemon answers in about a millisecond; a swapping one may take seconds

Report = Mapping[str, Any]


def status(arguments: argparse.Namespace) -> int:
    """Print the state of the daemon."""
    if arguments.watch:
        return _watch(arguments)
    with open_control(arguments.socket) as control:
        if arguments.json:
            print_json(control.call("status", timeout_s=TIMEOUT_S))
        else:
            print("\n".join(_look(control)))
    return 0


def lines_of(report: Report, apis: Mapping[str, int] = MappingProxyType({}), asleep: int = 0) -> list[str]:
    """The report as a person reads it. A key that the daemon does not send shows as a dash.

    `apis`: how many sessions came by which wire, of those that this user may see; `asleep`: how many of those wait for
    their clients to come back.
    """
    return [*_server(report), "", *_work(report, apis, asleep), "", *_models(report)]


def _look(control: Control) -> list[str]:
    report = control.call("status", timeout_s=TIMEOUT_S)
    rows = control.call("sessions", limit=_COUNTED, timeout_s=TIMEOUT_S).get("sessions", [])
    asleep = sum(row.get("state") == "asleep" for row in rows)
    return lines_of(report, Counter(str(row.get("api", "sttd")) for row in rows), asleep)


def _server(report: Report) -> Iterator[str]:
    server = report.get("server", {})
    state = str(server.get("state", "-"))
    colour = {"ready": "green", "draining": "yellow"}.get(state, "cyan")
    yield (
        f"{styled('sttd ' + str(server.get('version', '-')), 'bold')}  {styled(state, colour)}  "
        f"pid {server.get('pid', '-')}, up {duration(server.get('uptime_s'))}"
    )
    for index, listener in enumerate(server.get("listeners", [])):
        yield f"{'listens on' if index == 0 else '':12}{listener}"
    yield f"{'config':12}{server.get('config_path') or 'built-in defaults'}"


def _work(report: Report, apis: Mapping[str, int], asleep: int) -> Iterator[str]:
    sessions, scheduler = report.get("sessions", {}), report.get("scheduler", {})
    latency, health = report.get("latency_ms", {}), report.get("health", {})
    yield (
        f"{'sessions':12}{sessions.get('active', '-')} active of {sessions.get('limit', '-')}, "
        f"peak {sessions.get('peak', '-')}, {sessions.get('total', '-')} since the start"
    )
    if (taken := report.get("admission")) is not None:
        yield f"{'admission':12}{taken:.0%} taken" + (": the next session is refused" if taken >= 1 else "")
    if apis:
        waiting = f"; {asleep} asleep, until their clients come back" if asleep else ""
        yield f"{'':12}by {', '.join(f'{count} {name}' for name, count in sorted(apis.items()))}{waiting}"
    queued = ", ".join(f"{count} {name}" for name, count in scheduler.get("queued", {}).items())
    yield (
        f"{'queue':12}{queued or '-'}; {scheduler.get('in_flight', '-')} decoding "
        f"on {scheduler.get('workers', '-')} workers"
    )
    factor = scheduler.get("realtime_factor")
    yield (
        f"{'decoding':12}{'-' if not factor else f'{factor:.3g}'} s per second of audio, "
        f"{scheduler.get('batches', '-')} batches of {scheduler.get('batch_size_mean') or 0:.1f}; "
        f"{scheduler.get('coalesced', '-')} interims skipped, "
        f"{scheduler.get('rejected', '-')} sessions and jobs refused"
    )
    for name in ("final", "interim"):
        values = latency.get(name) or {}
        waits = (scheduler.get("queue_wait_ms", {}).get(name)) or {}
        yield (
            f"{name + 's':12}p50 {milliseconds(values.get('p50'))}, p95 {milliseconds(values.get('p95'))} "
            f"after the last speech; waiting p50 {milliseconds(waits.get('p50'))}, p95 {milliseconds(waits.get('p95'))}"
        )
    yield (
        f"{'health':12}loop lag p99 {milliseconds(health.get('event_loop_lag_ms_p99'))}, "
        f"{health.get('audio_dropped_s') or 0:.1f} s of audio dropped, "
        f"{health.get('engine_restarts', 0)} engine restarts"
    )
    quotas: Mapping[str, Report] = report.get("quotas", {})
    if used_up := [name for name, row in quotas.items() if 0 < row.get("per_user", 0) <= row.get("most", 0)]:
        yield f"{'quotas':12}{styled('a user has all that one may have', 'yellow')} of {', '.join(used_up)}"
    if error := health.get("last_error"):
        yield f"{'last error':12}{styled(str(error), 'red')}"


def _models(report: Report) -> Iterator[str]:
    models = report.get("models", {})
    yield (
        f"{'models':12}{models.get('loaded', '-')} of {models.get('max_loaded', '-')} loaded, "
        f"{models.get('hits', '-')} hits, {models.get('misses', '-')} misses, "
        f"{models.get('load_failures', '-')} failures; daemon has {size(models.get('process_rss_bytes'))} resident"
    )
    header = (
        "PRESET",
        "DEVICE",
        "TYPE",
        "THREADS",
        "WORKERS",
        "LEASES",
        "HITS",
        "RAM",
        "VRAM",
        "LOADED",
        "IDLE",
        "EXPIRES",
    )
    yield from table(header, [_entry(entry) for entry in models.get("entries", [])])
    for remote in models.get("remotes", []):
        yield f"{remote.get('preset')}: {server_words(remote)}"


def server_words(remote: Mapping[str, Any]) -> str:
    """What is known of the server of a remote preset, and who decodes while it is away."""
    since = duration(remote.get("since_s"))
    match remote.get("reachable"):
        case None:
            state = "was not asked yet"
        case True:
            state = f"is there, for {since}"
        case _:
            state = f"is away, for {since}: {remote.get('reason')}"
    words = f"{remote.get('url')} {state}"
    if fallback := remote.get("fallback"):
        words += f"; its fallback is {fallback}" + (", in memory" if remote.get("fallback_loaded") else "")
    return words


def _entry(entry: Report) -> tuple[str, ...]:
    expires = "pinned" if entry.get("pinned") else duration(entry.get("expires_in_s"))
    return (
        *(str(entry.get(key, "-")) for key in ("preset", "device", "compute_type", "cpu_threads", "num_workers")),
        *(str(entry.get(key, "-")) for key in ("leases", "hits")),
        *(size(entry.get(key)) for key in ("ram_bytes", "vram_bytes")),
        *(duration(entry.get(key)) for key in ("loaded_for_seconds", "idle_for_seconds")),
        expires,
    )


# ---------------------------------------------------------------- --watch


def _watch(arguments: argparse.Namespace) -> int:
    """Show the status until Ctrl-C. A daemon that goes away is waited for: restarts are what people watch."""
    interval_s = max(0.1, arguments.interval or 1.0)
    with open_control(arguments.socket) as control:
        control.call("ping", timeout_s=TIMEOUT_S)  # one that is not there at all is an error, as without --watch
    try:
        with _whole_screen() as show:
            while True:
                try:
                    with open_control(arguments.socket) as control:
                        while True:
                            if arguments.json:
                                report = control.call("status", timeout_s=TIMEOUT_S)
                                show(json.dumps(report, ensure_ascii=False))
                            else:
                                show("\n".join(_look(control)))
                            time.sleep(interval_s)
                except (NoDaemonError, ConnectionLostError) as error:
                    if not arguments.json:
                        show(str(error))
                    time.sleep(interval_s)
    except KeyboardInterrupt:
        return 0


@contextmanager
def _whole_screen() -> Iterator[Any]:
    """A function that replaces what the screen shows; into a pipe it appends."""
    if not sys.stdout.isatty():
        yield lambda text: print(text, flush=True)
        return

    def show(text: str) -> None:
        lines = "".join(f"{line}\x1b[K\r\n" for line in text.splitlines())
        print(f"\x1b[H{lines}\x1b[J", end="", flush=True)

    print("\x1b[?1049h\x1b[?25l", end="")  # alternate screen, no cursor
    try:
        yield show
    finally:
        print("\x1b[?25h\x1b[?1049l", end="", flush=True)
