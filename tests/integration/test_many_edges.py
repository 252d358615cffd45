"""Several daemons behind HAProxy, and behind nginx, with the files of deploy as they are shipped but for ports and
paths."""

from __future__ import annotations

import csv
import http.client
import http.server
import io
import itertools
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path

import attrs
import numpy as np
import pytest
import trio
from sttd_client import Final, Reconnected, Resumed, TcpAddress, open_session
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from sttd.errors import OverloadedError
from tests.running import PATIENCE_S, RunningDaemon, eventually, free_port

pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "haproxy"
NGINX = ROOT / "deploy" / "nginx.conf"
CERTIFICATE = ROOT / "tests" / "data" / "tls" / "one.pem"
TOKEN = "correct-horse-battery"
NAMES = ("a", "b", "c")
ALL_UP = dict.fromkeys(NAMES, "UP")
LIVE = 100  # sessions at a time
RATE = 16_000
WORD_S = 0.3  # of the model `fake`
NOISE = np.random.default_rng(1).integers(-3000, 3000, RATE * 10).astype("<i2").tobytes()
PIECE_S = 0.3


def replaced(text, *pairs):
    """A shipped file with ports and paths of a test."""
    for before, after in pairs:
        assert before in text, f"{before} is not in the shipped file"
        text = text.replace(before, after)
    return text


@attrs.define(eq=False)
class Edges:
    """Three daemons, and HAProxy before them."""

    directory: Path
    sessions: int  # that a daemon may have
    port: int = attrs.field(factory=free_port)
    ports: dict = attrs.field(factory=lambda: {name: free_port() for name in NAMES})
    daemons: dict = attrs.field(factory=dict)
    haproxy: subprocess.Popen | None = None

    @property
    def address(self):
        return TcpAddress(host="localhost", port=self.port, token=TOKEN, tls=True, ca=str(CERTIFICATE))

    def open(self, **options):
        options = {"endpointing": False, "interim": False, **options}
        return open_session(tcp=self.address, timeout_s=PATIENCE_S, **options)

    def connect(self, path, **headers):
        """A WebSocket, as a client of another API or of nobody's opens it."""
        return connect(
            f"wss://localhost:{self.port}{path}",
            ssl=ssl.create_default_context(cafile=CERTIFICATE),
            additional_headers={"Authorization": f"Token {TOKEN}", **headers},
            open_timeout=PATIENCE_S,
            ping_interval=None,
        )

    def start_daemon(self, name):
        place = self.directory / name
        place.mkdir(exist_ok=True)
        (place / "token").write_text(TOKEN)
        (place / "token").chmod(0o600)
        config = replaced(
            (DEPLOY / "sttd.toml").read_text(),
            ("10.0.0.11:7788", f"127.0.0.1:{self.ports[name]}"),
            ("/etc/sttd/token", str(place / "token")),
            ("= 64 ", f"= {self.sessions} "),
        )
        (place / "sttd.toml").write_text(config)
        self.daemons[name] = RunningDaemon.start(place, "--config", str(place / "sttd.toml"), "--model", "fake")

    def start_haproxy(self):
        pem = self.directory / "edge.pem"
        pem.write_text(CERTIFICATE.read_text() + CERTIFICATE.with_suffix(".key").read_text())
        config = replaced(
            (DEPLOY / "haproxy.cfg").read_text(),
            ("    user haproxy\n    group haproxy\n", ""),
            ("/run/haproxy/sttd.sock", str(self.directory / "haproxy.sock")),
            ("/etc/haproxy/sttd.pem", str(pem)),
            ("bind :443 ", f"bind 127.0.0.1:{self.port} "),
            *((f"127.0.0.1:780{number}", f"127.0.0.1:{self.ports[name]}") for number, name in enumerate(NAMES, 1)),
        )
        (self.directory / "haproxy.cfg").write_text(config)
        with (self.directory / "haproxy.log").open("a") as log:
            self.haproxy = subprocess.Popen(
                ["haproxy", "-f", str(self.directory / "haproxy.cfg")],
                stdout=log,
                stderr=log,
                env={**os.environ, "STTD_TOKEN": TOKEN},
            )

    def kill_haproxy(self):
        self.haproxy.kill()
        self.haproxy.wait()

    def rows(self):
        """What HAProxy says of each daemon."""
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(PATIENCE_S)
            admin.connect(str(self.directory / "haproxy.sock"))
            admin.sendall(b"show stat\n")
            said = b"".join(iter(lambda: admin.recv(65536), b"")).decode()
        return {row["svname"]: row for row in csv.DictReader(io.StringIO(said[2:])) if row["svname"] in NAMES}

    def see(self, states):
        """Whether HAProxy sees the daemons so. `UP` that was not checked yet is a guess."""
        try:
            rows = self.rows()
        except OSError:
            return False
        return all(rows[name]["status"] == state and rows[name]["check_status"] for name, state in states.items())

    def active(self):
        """How many sessions each daemon that runs has."""
        return {name: daemon.call("status")["sessions"]["active"] for name, daemon in self.daemons.items()}

    def stop(self):
        for daemon in self.daemons.values():
            daemon.stop()  # first: it hears the last goodbyes through the proxy
        if self.haproxy is not None:
            self.kill_haproxy()


@contextmanager
def running_edges(directory, **options):
    edges = Edges(directory, **options)
    try:
        with ThreadPoolExecutor() as threads:
            list(threads.map(edges.start_daemon, NAMES))
        edges.start_haproxy()
        eventually(lambda: edges.see(ALL_UP), otherwise=(edges.directory / "haproxy.log").read_text)
        yield edges
    finally:
        edges.stop()


@pytest.fixture(scope="module")
def edges(tmp_path_factory):
    with running_edges(tmp_path_factory.mktemp("edges"), sessions=LIVE) as edges:
        yield edges


async def soon(condition):
    """Wait until it holds, while the sessions of the test go on."""
    await trio.to_thread.run_sync(eventually, condition)


# ------------------------------------------------------------------ who gets a session

NOBODY = "no daemon takes a new session now"


async def refusal(edges):
    """How one more session is refused: what is said before the advice to come again."""
    with pytest.raises(OverloadedError) as caught:
        async with edges.open():
            pass
    assert caught.value.retryable
    assert caught.value.data["retry_after_s"] > 0
    return caught.value.message.partition(";")[0]


async def test_sessions_spread_and_a_dead_daemon_is_left_out_until_it_is_back(edges):
    async with AsyncExitStack() as stack:
        for _ in range(9):
            await stack.enter_async_context(edges.open())
        assert edges.active() == {"a": 3, "b": 3, "c": 3}
        dead = edges.daemons.pop("c")
        dead.process.kill()
        dead.process.wait()
        for _ in range(4):  # the first of them before HAProxy knows: it tries another one
            await stack.enter_async_context(edges.open())
        assert edges.active() == {"a": 5, "b": 5}
    await trio.to_thread.run_sync(edges.start_daemon, "c")
    await soon(lambda: edges.see(ALL_UP))
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(edges.open())
        assert edges.active()["c"] == 1


async def test_full_daemons_get_nobody_else_and_when_all_are_full_that_is_said(tmp_path):
    with running_edges(tmp_path, sessions=2) as edges:
        async with AsyncExitStack() as stack:
            for _ in range(5):
                await stack.enter_async_context(edges.open())
            async with edges.open(resumable=False):
                assert edges.active() == dict.fromkeys(NAMES, 2)
                assert await refusal(edges) in ("all 2 sessions are taken", NOBODY)  # whether HAProxy knows or not
                await soon(lambda: edges.see(dict.fromkeys(NAMES, "NOLB")))
                assert await refusal(edges) == NOBODY
            await soon(lambda: "UP" in {row["status"] for row in edges.rows().values()})
            async with edges.open():
                assert edges.active() == dict.fromkeys(NAMES, 2)


async def test_a_drained_daemon_gets_nobody_else_and_keeps_those_that_it_has(edges):
    async with edges.open() as session:
        (name,) = [name for name, count in edges.active().items() if count]
        assert edges.daemons[name].call("drain") == {"sessions": 1}
        async with AsyncExitStack() as stack:
            for _ in range(4):  # the first of them before HAProxy knows
                await stack.enter_async_context(edges.open())
                for path in ("/v1/listen?encoding=linear16&sample_rate=16000", "/v1/realtime?intent=transcription"):
                    stack.enter_context(edges.connect(path))
            assert edges.active()[name] == 1
            assert sum(edges.active().values()) >= 9  # those of Deepgram begin with the connection
            await soon(lambda: edges.see({name: "NOLB"}))
        await session.send(NOISE[: 2 * RATE])
        await session.stop()
        assert [event.text async for event in session if isinstance(event, Final)] == ["w1 w2 w3"]
        edges.daemons[name].call("undrain")
        await soon(lambda: edges.see(ALL_UP))


def status_of(port, path):
    """That of a plain request, which sets no cookie: it would not be of the daemon that has the session of a page."""
    context = ssl.create_default_context(cafile=CERTIFICATE)
    with closing(http.client.HTTPSConnection("localhost", port, timeout=PATIENCE_S, context=context)) as connection:
        connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        assert answer.getheader("Set-Cookie") is None
        return answer.status


def test_what_is_for_who_runs_it_is_not_let_through(edges):
    told = {path: status_of(edges.port, path) for path in ("/status", "/metrics", "/ready", "/models", "/")}
    assert told == {"/status": 403, "/metrics": 403, "/ready": 200, "/models": 200, "/": 200}


async def test_a_restart_that_would_cut_sessions_is_not_made_and_the_daemon_opened_again(edges):
    async with edges.open():
        (name,) = [name for name, count in edges.active().items() if count]
        before = edges.daemons[name].call("status")["server"]
        done = await rolling_restart(edges, name, PATIENCE_S="0")
        assert (done.returncode, b"was not restarted" in done.stderr) == (6, True)
        after = edges.daemons[name].call("status")["server"]
        assert (after["pid"], after["state"]) == (before["pid"], "ready")
        assert edges.active()[name] == 1
    await soon(lambda: edges.see(ALL_UP))


class Refusing(http.server.BaseHTTPRequestHandler):
    """A daemon that has no connection left for anybody."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(503, "full")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


async def test_who_resumes_is_not_led_to_others_where_his_own_daemon_refuses_him_for_now(edges):
    """They would say `not_found`, which is for good."""
    edges.daemons.pop("a").stop()
    stand_in = http.server.ThreadingHTTPServer(("127.0.0.1", edges.ports["a"]), Refusing)
    threading.Thread(target=stand_in.serve_forever).start()
    try:
        await soon(lambda: edges.see({"a": "NOLB"}))
        with pytest.raises(InvalidStatus) as caught:
            await trio.to_thread.run_sync(lambda: edges.connect("/ws?resume", Cookie="sttd=a"))
        assert (caught.value.response.status_code, caught.value.response.reason_phrase) == (503, "full")
    finally:
        stand_in.shutdown()
        stand_in.server_close()
        await trio.to_thread.run_sync(edges.start_daemon, "a")
    await soon(lambda: edges.see(ALL_UP))


# ------------------------------------------------------------------ a hundred live sessions


@attrs.define
class Tally:
    """What a hundred speakers were told, and how long they waited."""

    sessions: int = 0
    said: int = 0  # words
    lost: int = 0
    twice: int = 0
    open_s: list = attrs.field(factory=list)
    final_s: list = attrs.field(factory=list)  # the longest of each session, from `finalize` to the final
    away_s: list = attrs.field(factory=list)  # the longest of each session without a connection

    def count(self, wanted, got):
        """Phrases that were said, and the texts of the finals, in order."""
        self.sessions += 1
        self.said += sum(len(phrase.split()) for phrase in wanted)
        left = list(got)
        for phrase in wanted:
            if phrase in left:
                left.remove(phrase)
            else:
                self.lost += len(phrase.split())
        self.twice += sum(len(phrase.split()) for phrase in left)
        assert got == wanted

    def show(self, title):
        words = f"{self.sessions} sessions, {self.said} words, {self.lost} lost, {self.twice} twice"
        waits = [("to open", self.open_s), ("for a final", self.final_s), ("without a connection", self.away_s)]
        shown = "; ".join(f"{what}: {spread(values)}" for what, values in waits if values)
        print(f"\n{title}: {words}; longest wait of a session {shown}")


def spread(values):
    return "p50 {:.3f} s, p95 {:.3f} s, most {:.3f} s".format(*np.quantile(values, (0.5, 0.95, 1.0)))


def phrases(number):
    """What speaker `number` says, in counts of words: two or three phrases, 1.8 to 4.5 s together."""
    return [2 + (number * 7 + index * 5) % 3 for index in range(2 + number % 2)]


async def speak(session, counts, tally, *, paused=None):
    """Say phrases of so many words at the pace of speech, each finalized; check all that comes."""
    got, said_at, waits, away = [], [], [0.0], [0.0]

    async def listen():
        async for event in session:
            assert not isinstance(event, Reconnected), "the session was lost"
            if isinstance(event, Resumed):
                away.append(event.away_s)
            elif isinstance(event, Final):
                waits.append(trio.current_time() - said_at[len(got)])
                got.append(event.text)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        for index, count in enumerate(counts):
            if index == 1 and paused is not None:
                await paused()
            # Half a word more: the fake model rounds down.
            for at in np.arange(0, (count + 0.5) * WORD_S, PIECE_S):
                length_s = min(PIECE_S, (count + 0.5) * WORD_S - at)
                await session.send(NOISE[: 2 * round(length_s * RATE)])
                await trio.sleep(length_s)
            said_at.append(trio.current_time())
            await session.finalize()
        await session.stop()
    tally.final_s.append(max(waits))
    tally.away_s.append(max(away))
    tally.count([" ".join(f"w{number}" for number in range(1, count + 1)) for count in counts], got)


def script_of(edges):
    """What runs a command of `rolling-restart` on a "machine": sttctl for its socket; a restart is left to the test."""
    script = edges.directory / "on"
    script.write_text(
        f"""#!/bin/sh
place={edges.directory}/$1; shift
case $1 in
sttctl) shift; exec {Path(sys.executable).with_name("sttctl")} --socket "$place/control.sock" "$@" ;;
systemctl) [ "$2 $3" = "restart sttd" ] && touch "$place/restart"; while [ -e "$place/restart" ]; do sleep 0.1; done ;;
esac
"""
    )
    script.chmod(0o755)
    return script


async def rolling_restart(edges, *names, **environ):
    """Run the script, and return how it ended."""
    return await trio.run_process(
        [str(DEPLOY / "rolling-restart"), *names],
        env={**os.environ, "ON": str(script_of(edges)), "SETTLE_S": "1", "PATIENCE_S": str(PATIENCE_S), **environ},
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )


async def restart_when_asked(edges):
    """What systemd does: SIGTERM, and once it has gone another one."""
    for name in itertools.cycle(NAMES):
        if (edges.directory / name / "restart").exists():
            assert await trio.to_thread.run_sync(edges.daemons[name].stop) == 0
            await trio.to_thread.run_sync(edges.start_daemon, name)
            (edges.directory / name / "restart").unlink()
        await trio.sleep(0.02)


async def test_a_rolling_restart_under_a_hundred_live_sessions_loses_none(edges):
    tally, over = Tally(), trio.Event()
    before = {name: daemon.call("status")["server"]["pid"] for name, daemon in edges.daemons.items()}

    async def people(number):
        """One person after the other, until the restarts are over."""
        await trio.sleep(number * 0.01)
        while not over.is_set():
            began = trio.current_time()
            async with edges.open() as session:
                tally.open_s.append(trio.current_time() - began)
                await speak(session, phrases(number), tally)
            number += LIVE

    async with trio.open_nursery() as nursery:
        for number in range(LIVE):
            nursery.start_soon(people, number)
        nursery.start_soon(restart_when_asked, edges)
        await soon(lambda: sum(edges.active().values()) == LIVE)
        began = time.monotonic()
        done = await rolling_restart(edges, *NAMES)
        took_s = time.monotonic() - began
        assert done.returncode == 0, (done.stdout, done.stderr)
        over.set()
        await soon(lambda: not sum(edges.active().values()))
        nursery.cancel_scope.cancel()
    tally.show(f"rolling restart by draining, {took_s:.1f} s")
    after = {name: daemon.call("status")["server"]["pid"] for name, daemon in edges.daemons.items()}
    assert all(before[name] != after[name] for name in NAMES)
    assert (tally.lost, tally.twice) == (0, 0)


async def test_a_proxy_that_dies_under_a_hundred_live_sessions_loses_none_for_each_is_resumed_where_it_is(edges):
    """One daemon is drained meanwhile: it takes those back that it has."""
    tally, waiting, again = Tally(), [], trio.Event()

    async def paused():
        waiting.append(None)
        await again.wait()

    async def person(number):
        async with edges.open() as session:
            await speak(session, phrases(number), tally, paused=paused)

    async with trio.open_nursery() as nursery:
        for number in range(LIVE):
            nursery.start_soon(person, number)
        await soon(lambda: len(waiting) == LIVE)
        edges.daemons["a"].call("drain")
        had = edges.active()
        edges.kill_haproxy()
        again.set()  # they speak on while there is nobody
        await trio.to_thread.run_sync(edges.start_haproxy)
    tally.show("the proxy was killed and started again")
    assert min(had.values()) > 0
    assert min(tally.away_s) > 0, "somebody's connection was not cut"
    assert (tally.sessions, tally.lost, tally.twice) == (LIVE, 0, 0)
    assert edges.daemons["a"].call("status")["server"]["state"] == "draining"
    edges.daemons["a"].call("undrain")


# ------------------------------------------------------------------ nginx


@contextmanager
def running_nginx(edges, port):
    """It, from the shipped file, before the same daemons."""
    place = edges.directory / "nginx"
    place.mkdir(exist_ok=True)
    config = replaced(
        NGINX.read_text(),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/nginx/sttd.pem", str(CERTIFICATE)),
        ("/etc/nginx/sttd.key", str(CERTIFICATE.with_suffix(".key"))),
        *((f"127.0.0.1:780{number}", f"127.0.0.1:{edges.ports[name]}") for number, name in enumerate(NAMES, 1)),
    )
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {place}/{kind};" for kind in kinds)
    (place / "nginx.conf").write_text(
        f"daemon off; pid {place}/pid; error_log {place}/log warn; worker_processes 2;"
        f"events {{}} http {{ access_log off; {temporary}\n{config}\n}}"
    )
    process = subprocess.Popen(["nginx", "-c", str(place / "nginx.conf"), "-p", str(place)])
    try:
        yield
    finally:
        process.terminate()  # at once: a graceful end would be SIGQUIT
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
async def test_behind_nginx_sessions_spread_avoid_who_is_drained_and_are_resumed_where_they_are(edges):
    port = free_port()
    address = attrs.evolve(edges.address, port=port)

    def open_there():
        return open_session(tcp=address, timeout_s=PATIENCE_S, endpointing=False, interim=False)

    async with AsyncExitStack() as stack:
        with running_nginx(edges, port):
            await soon(lambda: listens(port))
            told = [status_of(port, path) for path in ("/status", "/ready", "/ws")]
            assert told[:2] == [403, 200]
            assert told[2] >= 400
            sessions = [await stack.enter_async_context(open_there()) for _ in range(9)]
            assert edges.active() == {"a": 3, "b": 3, "c": 3}
            edges.daemons["a"].call("drain")
            sessions += [await stack.enter_async_context(open_there()) for _ in range(4)]
            assert edges.active() == {"a": 3, "b": 5, "c": 5}
        with running_nginx(edges, port):
            for session in sessions:
                await session.send(NOISE[: 2 * RATE])
                await session.stop()
                events = [event async for event in session]
                assert [event.text for event in events if isinstance(event, Final)] == ["w1 w2 w3"]
                assert any(isinstance(event, Resumed) for event in events)
            await soon(lambda: not sum(edges.active().values()))
    edges.daemons["a"].call("undrain")


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE_S).close()
    except OSError:
        return False
    return True
