"""Section 2 of the protocol, sentence by sentence: the control plane of a real daemon, over msgpack and a socket."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from contextlib import ExitStack, contextmanager

import msgpack
import numpy as np
import pytest

from tests.running import (
    PATIENCE_S,
    ControlLine,
    RunningDaemon,
    eventually,
    iter_messages,
    read_to_end,
    read_until,
    say,
    start,
    transcribe,
)

# Noise does where the client finalizes: no voice detector gates it.
SECOND = np.random.default_rng(1).integers(-3000, 3000, 16_000).astype("<i2").tobytes()

METHODS = {
    "hello", "ping", "status", "models", "load", "unload", "pull", "sessions", "close_session", "config", "reload",
    "subscribe", "unsubscribe", "drain", "undrain", "shutdown", "describe",
}  # fmt: skip
CODES = {
    "bad_request", "unknown_method", "unknown_op", "bad_option", "bad_audio", "not_started", "already_started",
    "too_large", "too_many_requests", "unauthorized", "forbidden", "not_found", "model_not_found", "model_not_local",
    "model_load_failed", "out_of_memory", "decode_failed", "overloaded", "slow_consumer", "idle_timeout",
    "shutting_down", "config_invalid", "internal",
}  # fmt: skip


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    running = RunningDaemon.start(tmp_path_factory.mktemp("control"), "--tcp", "off", "--model", "fake")
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """Decodes take 0.4 s; two slots for four fake presets; a load waits 0.5 s for one."""
    directory = tmp_path_factory.mktemp("slow")
    presets = "".join(f'[presets.{name}]\nbackend = "fake"\n' for name in ("one", "two", "three"))
    (directory / "sttd.toml").write_text(
        '[models]\nmodel = "fake"\nload_wait_s = 0.5\n[presets.fake.options]\ndecode_ms = 400\n' + presets
    )
    running = RunningDaemon.start(directory, "--tcp", "off", "--config", str(directory / "sttd.toml"))
    yield running
    assert running.stop() == 0


@pytest.fixture
def line(daemon):
    with ControlLine(daemon) as connection:
        yield connection


@pytest.fixture
def unloaded(slow):
    """The slow daemon with no model loaded, before and after."""
    slow.call("unload")
    yield slow
    slow.call("unload")


@contextmanager
def speaking(daemon, **options):
    """A session with an open utterance; stopped and read to its end after."""
    with daemon.connect() as client:
        start(client, **{"endpointing": False, "interim": False, **options})
        client.send(SECOND)
        read_until(client, "speech_start")
        yield client
        say(client, "stop")
        assert read_to_end(client)[-1]["type"] == "stopped"


def entries(daemon):
    return {entry["preset"]: entry for entry in daemon.call("status")["models"]["entries"]}


# ------------------------------------------------------------------ the frames


def test_requests_are_pipelined_and_answered_in_any_order(slow):
    with speaking(slow), ControlLine(slow) as line:
        line.ask("unload")
        pings = [line.ask("ping") for _ in range(3)]
        assert sorted(line.read()[1] for _ in pings) == pings  # while the first request still waits


def test_any_cut_of_the_stream_is_the_same_stream(daemon):
    data = b"".join(msgpack.packb([0, number, "ping", [{}]]) for number in range(3))
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(PATIENCE_S)
        raw.connect(str(daemon.control))
        for byte in data:
            raw.send(bytes([byte]))
        unpacker = msgpack.Unpacker()
        answers = []
        while len(answers) < 3:
            unpacker.feed(raw.recv(4096))
            answers += unpacker
    assert sorted(answers, key=str) == [[1, number, None, {}] for number in range(3)]


@pytest.mark.parametrize("params", [[1], [{}, {}], ["preset"], [[]], [None]])
def test_params_of_another_shape_are_a_bad_request_and_the_connection_stays(line, params):
    assert line.code("load", *params) == "bad_request"
    assert line.call("ping") == {}


def test_params_that_are_a_map_alone_are_a_bad_request(line):
    line.socket.sendall(msgpack.packb([0, 1000, "load", {"preset": "fake"}]))
    assert line.answer(1000)[0]["code"] == "bad_request"
    assert line.call("ping") == {}


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("ping", {"loud": True}),
        ("load", {}),
        ("load", {"preset": None}),
        ("load", {"preset": 5}),
        ("load", {"preset": "fake", "cpu_threads": -1}),
        ("load", {"preset": "fake", "cpu_threads": 65}),
        ("load", {"preset": "fake", "cpu_threads": 1.5}),
        ("load", {"preset": "fake", "cpu_threads": True}),
        ("load", {"preset": "fake", "num_workers": 0}),
        ("load", {"preset": "fake", "num_workers": 9}),
        ("load", {"preset": "fake", "keep_alive_s": -2}),
        ("load", {"preset": "fake", "keep_alive_s": "1"}),
        ("load", {"preset": "fake", "keep_alive_s": float("nan")}),
        ("unload", {"wait": 1}),
        ("sessions", {"limit": 0}),
        ("sessions", {"cursor": "yesterday"}),
        ("close_session", {}),
        ("subscribe", {"topics": ["weather"]}),
        ("subscribe", {"topics": "sessions"}),
        ("shutdown", {"drain_s": -1}),
        ("hello", {"protocol": 2}),
    ],
)
def test_wrong_type_unknown_name_and_out_of_range_are_a_bad_option(line, method, params):
    assert line.code(method, params) == "bad_option"
    assert line.call("status")["server"]["state"] == "ready"


def test_nothing_of_a_refused_request_takes_effect(daemon, line):
    line.call("unload")
    misses = line.call("status")["models"]["misses"]
    assert line.code("load", {"preset": "fake", "num_workers": 2, "keep_alive_s": "long"}) == "bad_option"
    status = line.call("status")["models"]
    assert (status["entries"], status["misses"]) == ([], misses)


def test_null_means_omitted(line):
    result = line.call("load", preset="fake", cpu_threads=None, num_workers=None, keep_alive_s=None)
    assert result["entry"]["num_workers"] == 1
    assert line.call("unload", preset=None, wait=None)["unloaded"] >= 1
    assert line.call("sessions", limit=None, cursor=None)["next"] is None


def test_errors_have_a_documented_code(line):
    seen = {
        line.code("levitate"),
        line.code("load", {"preset": "nobody"}),
        line.code("unload", {"preset": "nobody"}),
        line.code("close_session", {"session": "nobody"}),
        line.code("pull", {"model": "nobody"}),
        line.code("pull", {"model": "no body/at home"}),
    }
    assert seen == {"unknown_method", "model_not_found", "not_found"}
    assert seen <= CODES


def test_unknown_notifications_are_ignored(line):
    line.socket.sendall(msgpack.packb([2, "nvim_error_event", [0, "?"]]))
    assert line.call("ping") == {}


# ------------------------------------------------------------------ limits


def deep(levels):
    """A request whose `client` nests so that the whole is `levels` deep."""
    value = "x"
    for _ in range(levels - 3):  # the request, params and the map
        value = [value]
    return msgpack.packb([0, 1, "hello", [{"client": value}]])


def test_a_request_may_have_64_kib_and_no_more(daemon):
    def sized(total):
        request = [0, 1, "hello", [{"client": ""}]]
        request[3][0]["client"] = "x" * (total - len(msgpack.packb(request)) - 2)
        data = msgpack.packb(request)
        assert len(data) == total
        return data

    with ControlLine(daemon) as line:
        line.socket.sendall(sized(65_536))
        assert line.read()[2]["code"] == "bad_option"  # read whole, and too long a name
        assert line.call("ping") == {}
    with ControlLine(daemon) as line:
        line.socket.sendall(sized(65_537))
        assert line.read()[:2] == [1, 1]
        with pytest.raises(EOFError):
            line.read()


def test_a_request_may_nest_sixteen_deep_and_no_deeper(daemon):
    with ControlLine(daemon) as line:
        line.socket.sendall(deep(16))
        assert line.read()[2]["code"] == "bad_option"
        assert line.call("ping") == {}
        line.socket.sendall(deep(17))
        assert line.read()[2]["code"] in ("bad_request", "too_large")
        with pytest.raises(EOFError):
            line.read()


def test_a_thirty_third_request_is_refused_unexecuted_and_the_connection_stays(slow):
    slow.call("load", preset="fake")
    with ControlLine(slow) as line:
        with speaking(slow):
            waiting = [line.ask("unload", {"preset": "fake"}) for _ in range(32)]
            refused = line.ask("shutdown")  # must not happen
            error, _ = line.answer(refused)
            assert (error["code"], error["retryable"]) == ("too_many_requests", True)
        assert all(line.answer(msgid)[0] is None for msgid in waiting)
        assert line.call("status")["server"]["state"] == "ready"


@pytest.mark.parametrize(
    ("data", "answered"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", None),
        (msgpack.packb({"method": "ping"}), None),
        (msgpack.packb([7, 1, "ping", []]), None),
        (msgpack.packb([0, 7, 12, []]), 7),
        (msgpack.packb([0, 7, "ping", [msgpack.ExtType(1, b"x")]]), 7),
        (b"\x94\x00\x07\xa4ping\x91\x81\xa1\xff\x01", 7),  # a key that is no UTF-8
        (msgpack.packb([0, 7, "ping", [{1: 2}]]), 7),
        (b"\xc1", None),
    ],
)
def test_malformed_input_ends_its_connection_and_no_other(daemon, line, data, answered):
    with ControlLine(daemon) as hostile:
        hostile.socket.sendall(data)
        if answered is not None:
            kind, msgid, error, result = hostile.read()
            assert (kind, msgid, result) == (1, answered, None)
            assert error["code"] in ("bad_request", "bad_option", "too_large")
        with pytest.raises(EOFError):
            hostile.read()
    assert line.call("ping") == {}


# ------------------------------------------------------------------ hello, describe, status, models, config


def test_hello_is_optional_and_says_who_is_there(line):
    hello = line.call("hello", client="test/1", protocol=1)
    assert hello.keys() >= {"server", "protocol", "pid", "uid", "features", "limits"}
    assert (hello["protocol"], hello["uid"]) == (1, os.geteuid())
    assert isinstance(hello["features"], list)
    assert isinstance(hello["limits"], dict)


def test_describe_has_every_method_with_parameters_types_permission_and_since(line):
    methods = line.call("describe")["methods"]
    assert methods.keys() == METHODS
    assert all(method.keys() >= {"params", "permission", "since"} for method in methods.values())
    assert {name for name, method in methods.items() if method["permission"] == "privileged"} == {
        "pull",
        "reload",
        "config",
        "drain",
        "undrain",
        "shutdown",
    }
    load = json.dumps(methods["load"]["params"])
    for name in ("preset", "cpu_threads", "num_workers", "keep_alive_s", "type", "int", "float"):
        assert name in load


STATUS = {
    "server": "version pid uptime_s state listeners config_path",
    "models": "loaded max_loaded entries hits misses load_failures idle_ttl_seconds process_rss_bytes remotes",
    "sessions": "active peak limit total uploads",
    "scheduler": "queued in_flight workers batches batch_size_mean queue_wait_ms coalesced rejected realtime_factor",
    "latency_ms": "final interim",
    "quotas": "sessions waiting_jobs held_bytes upload_bytes container_bytes bytes_per_s connections_control requests"
    " connections_unix",
    "health": "event_loop_lag_ms_p99 audio_dropped_s engine_restarts last_error",
}
ENTRY = {
    "preset", "cpu_threads", "num_workers", "cache_key", "loaded_for_seconds", "idle_for_seconds", "hits", "leases",
    "pinned", "expires_in_s", "device", "compute_type", "ram_bytes", "vram_bytes",
}  # fmt: skip
MODELS_ROW = {"preset", "backend", "model", "device", "compute_type", "loaded", "local", "default_for"}
SESSION_ROW = {
    "session", "uid", "label", "kind", "state", "model", "lang", "audio_s", "utterances", "lag_s",
}  # fmt: skip


def test_status_of_a_daemon_without_a_past(serve):
    daemon = serve("--tcp", "off", "--model", "fake")
    status = daemon.call("status")
    assert 0 <= status.pop("admission") < 1
    assert {part: set(status[part]) for part in status} == {part: set(keys.split()) for part, keys in STATUS.items()}
    assert status["scheduler"]["queued"] == {"final": 0, "speculative": 0, "interim": 0, "file": 0}
    assert status["scheduler"]["queue_wait_ms"].keys() >= {"final", "interim"}
    assert status["scheduler"]["queue_wait_ms"]["final"] == {"p50": None, "p95": None}
    assert status["latency_ms"] == {
        "final": {"p50": None, "p95": None, "p99": None},
        "interim": {"p50": None, "p95": None},
    }
    assert status["server"]["state"] == "ready"
    assert status["models"]["entries"] == []
    assert status["health"]["last_error"] is None


def test_status_after_speech(daemon):
    transcribe(daemon, SECOND * 2, endpointing=False)
    status = daemon.call("status")
    assert status["latency_ms"]["final"]["p99"] >= status["latency_ms"]["final"]["p50"] > 0
    (entry,) = status["models"]["entries"]
    assert entry.keys() >= ENTRY
    assert entry["cache_key"] == f"fake|threads={entry['cpu_threads']}|workers={entry['num_workers']}"
    assert status["scheduler"]["workers"] == entry["num_workers"]


def test_entries_are_least_recently_used_first(unloaded):
    unloaded.call("load", preset="one")
    unloaded.call("load", preset="two")
    assert list(entries(unloaded)) == ["one", "two"]
    unloaded.call("load", preset="one")
    assert list(entries(unloaded)) == ["two", "one"]


def test_models_lists_every_preset(unloaded):
    unloaded.call("load", preset="one")
    rows = {row["preset"]: row for row in unloaded.call("models")["presets"]}
    assert all(row.keys() >= MODELS_ROW for row in rows.values())
    assert rows["fake"]["default_for"] == ["final", "interim"]
    assert rows["one"]["default_for"] == []
    assert (rows["one"]["loaded"], rows["two"]["loaded"]) == (True, False)
    assert (rows["fake"]["local"], rows["demo"]["local"]) == (True, True)
    assert rows["fake"]["backend"] == "fake"


def test_config_says_where_each_value_comes_from(serve, tmp_path):
    (tmp_path / "sttd.toml").write_text("[vad]\naggressiveness = 3\n")
    daemon = serve(
        "--tcp", "off", "--model", "fake", "--config", str(tmp_path / "sttd.toml"),
        "--set", "server.token=secret-token", env={"STTD_LIMITS__SESSIONS": "9"},
    )  # fmt: skip
    values = daemon.call("config")["values"]
    assert values["vad.aggressiveness"] == {"value": 3, "origin": "file"}
    assert values["limits.sessions"] == {"value": 9, "origin": "environment"}
    assert values["models.model"] == {"value": "fake", "origin": "flag"}
    assert values["vad.silero"] == {"value": True, "origin": "default"}
    assert "secret-token" not in json.dumps(values)


# ------------------------------------------------------------------ load and unload


def test_load_says_whether_it_was_there(unloaded):
    first, second = unloaded.call("load", preset="fake"), unloaded.call("load", preset="fake")
    assert [first["cache_hit"], second["cache_hit"]] == [False, True]
    assert first["load_seconds"] >= 0
    assert second["entry"].keys() >= ENTRY
    assert second["entry"]["hits"] == 1


def test_options_of_a_load_are_those_of_sessions_until_the_next_load_or_reload(unloaded):
    keys = []
    for after in ({"cpu_threads": 3, "num_workers": 2}, {"num_workers": 2}, {}):
        unloaded.call("load", preset="one", **after)
        with speaking(unloaded, model="one"):
            keys += [entry["cache_key"] for entry in unloaded.call("status")["models"]["entries"] if entry["leases"]]
    own = entries(unloaded)["one"]["cpu_threads"]
    assert keys == ["one|threads=3|workers=2", f"one|threads={own}|workers=2", f"one|threads={own}|workers=1"]
    unloaded.call("load", preset="one", num_workers=2)
    unloaded.call("reload")
    with speaking(unloaded, model="one"):
        keys = [entry["cache_key"] for entry in unloaded.call("status")["models"]["entries"] if entry["leases"]]
    assert keys == [f"one|threads={own}|workers=1"]


def test_keep_alive_decides_when_a_model_goes(unloaded):
    unloaded.call("load", preset="one", keep_alive_s=0)
    eventually(lambda: "one" not in entries(unloaded))
    unloaded.call("load", preset="one", keep_alive_s=100)
    assert 99 < entries(unloaded)["one"]["expires_in_s"] <= 100
    unloaded.call("load", preset="one", keep_alive_s=0.2)
    eventually(lambda: "one" not in entries(unloaded))
    unloaded.call("load", preset="one", keep_alive_s=-1)
    assert (entries(unloaded)["one"]["pinned"], entries(unloaded)["one"]["expires_in_s"]) == (True, None)


def test_keep_alive_of_nothing_waits_for_the_users(unloaded):
    with speaking(unloaded, model="one"):
        unloaded.call("load", preset="one", keep_alive_s=0)
        assert entries(unloaded)["one"]["leases"] >= 1
    eventually(lambda: "one" not in entries(unloaded))


def test_beyond_the_limit_the_least_recently_used_goes(unloaded):
    for preset in ("one", "two", "three"):
        unloaded.call("load", preset=preset)
    assert list(entries(unloaded)) == ["two", "three"]
    unloaded.call("load", preset="three", keep_alive_s=-1)
    unloaded.call("load", preset="two")  # later used, and not pinned
    unloaded.call("load", preset="one")
    assert set(entries(unloaded)) == {"three", "one"}


def test_with_every_slot_leased_or_pinned_a_load_waits_and_is_overloaded(unloaded):
    unloaded.call("load", preset="one", keep_alive_s=-1)
    with speaking(unloaded, model="two"):
        began = time.monotonic()
        with pytest.raises(RuntimeError) as caught:
            unloaded.call("load", preset="three")
        assert 0.4 < time.monotonic() - began < 30  # `load_wait_s`, where a slot would come free never
    error = caught.value.args[0]
    assert (error["code"], error["retryable"]) == ("overloaded", True)
    assert unloaded.call("load", preset="three")["cache_hit"] is False


def test_a_model_is_leased_from_speech_start_to_final(unloaded):
    with unloaded.connect() as client:
        start(client, endpointing=False, interim=False)
        client.send(b"")
        assert entries(unloaded) == {}
        client.send(SECOND)
        read_until(client, "speech_start")
        eventually(lambda: entries(unloaded).get("fake", {}).get("leases"))
        say(client, "finalize")
        read_until(client, "speech_end")
        assert entries(unloaded)["fake"]["leases"] >= 1
        read_until(client, "final")
        eventually(lambda: not entries(unloaded)["fake"]["leases"])


def test_a_silent_session_holds_no_lease(unloaded):
    with unloaded.connect() as client:
        start(client)
        client.send(bytes(96_000))
        eventually(lambda: unloaded.call("sessions")["sessions"][0]["audio_s"] == 3.0)
        assert entries(unloaded) == {}


def test_unload_waits_for_the_leases(unloaded):
    done = []
    unloader = threading.Thread(target=lambda: done.append(unloaded.call("unload", preset="fake")))
    with speaking(unloaded) as client:
        unloader.start()
        eventually(lambda: entries(unloaded)["fake"]["draining"])
        time.sleep(0.1)
        assert done == []
        say(client, "finalize")
        assert read_until(client, "final")[-1]["text"] == "w1 w2 w3"
        unloader.join(PATIENCE_S)
        assert done[0].keys() >= {
            "unloaded", "entries", "native_trim_attempted", "process_rss_bytes", "vram_bytes",
        }  # fmt: skip
        assert (done[0]["unloaded"], done[0]["entries"]) == (1, [])
        assert "fake" not in entries(unloaded)


def test_unload_without_waiting_marks_what_is_in_use(unloaded):
    unloaded.call("load", preset="one")
    with speaking(unloaded) as client:
        result = unloaded.call("unload", wait=False)  # the utterance goes on until the `finalize` below
        assert [(entry["preset"], entry["draining"]) for entry in result["entries"]] == [("fake", True)]
        assert result["unloaded"] == 1
        say(client, "finalize")
        assert read_until(client, "final")[-1]["text"] == "w1 w2 w3"
    eventually(lambda: entries(unloaded) == {})


# ------------------------------------------------------------------ sessions


def test_sessions_are_listed_page_by_page(daemon):
    with ExitStack() as stack:
        opened = [start(stack.enter_context(daemon.connect()), label=f"n{n}", lang="en")["session"] for n in range(5)]
        rows, cursor, pages = [], None, 0
        while pages == 0 or cursor is not None:
            page = daemon.call("sessions", limit=2, cursor=cursor)
            assert len(page["sessions"]) <= 2
            rows, cursor, pages = rows + page["sessions"], page["next"], pages + 1
        assert pages == 3
        assert [row["session"] for row in rows] == opened
        assert [row["label"] for row in rows] == [f"n{n}" for n in range(5)]
        assert all(row.keys() >= SESSION_ROW for row in rows)
        assert rows[0]["kind"] == "live"
        assert daemon.call("sessions", limit=5)["next"] is None
        counts = daemon.call("status")["sessions"]
        assert counts["active"] == 5
        assert counts["peak"] >= 5
    eventually(lambda: daemon.call("sessions")["sessions"] == [])


def test_close_session_ends_it_gently_or_at_once(slow):
    for drain, code in ((True, 1000), (False, 1008)):
        with slow.connect() as client:
            session = start(client, endpointing=False, interim=False)["session"]
            client.send(SECOND)
            read_until(client, "speech_start")
            assert slow.call("close_session", session=session, drain=drain) == {}
            events = read_to_end(client)
            assert client.close_code == code
        assert [event["type"] for event in events] == ["speech_end", "final", "stopped"]
        assert events[1]["reason"] == "drain"
        assert events[1]["text"] == ("w1 w2 w3" if drain else "")
        with pytest.raises(RuntimeError, match="not_found"):
            slow.call("close_session", session=session)


# ------------------------------------------------------------------ events


def test_each_topic_tells_its_events(unloaded):
    with ControlLine(unloaded) as line:
        line.call("subscribe", topics=["sessions", "models", "transcripts", "health"])
        with speaking(unloaded, label="told", words=True):
            pass
        unloaded.call("unload")
        told = []
        while not told or told[-1]["event"] != "unloaded":
            told.append(line.event())
    assert [(event["topic"], event["event"]) for event in told] == [
        ("sessions", "opened"), ("models", "loading"), ("models", "loaded"), ("transcripts", "final"),
        ("sessions", "closed"), ("models", "unloaded"),
    ]  # fmt: skip
    assert [event["seq"] for event in told] == list(range(1, 7))
    assert told[0].keys() >= SESSION_ROW
    assert told[0]["label"] == "told"
    assert told[1].keys() >= ENTRY
    final = told[3]
    assert final.keys() >= {
        "session", "utterance", "text", "start_s", "end_s", "language", "confidence", "reason", "model", "words",
        "timing",
    }  # fmt: skip
    assert (final["session"], final["text"], final["reason"]) == (told[0]["session"], "w1 w2 w3", "stop")
    assert len(final["words"]) == 3


def test_only_subscribed_topics_are_told_and_unsubscribe_ends_them(daemon, line):
    line.call("subscribe", topics=["transcripts"])
    transcribe(daemon, SECOND, endpointing=False)
    assert line.event()["topic"] == "transcripts"
    line.call("unsubscribe")
    transcribe(daemon, SECOND, endpointing=False)
    assert line.call("ping") == {}
    assert line.events == []


def test_a_load_that_fails_is_told_and_counted(serve, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("model.bin", "config.json", "tokenizer.json"):
        (broken / name).write_text("{}")
    daemon = serve(
        "--tcp", "off", "--model", "fake",
        "--set", "presets.broken.backend=whisper", "--set", f"presets.broken.model={broken}",
    )  # fmt: skip
    with ControlLine(daemon) as line:
        line.call("subscribe", topics=["models"])
        assert line.code("load", {"preset": "broken"}) == "model_load_failed"
        told = [line.event(), line.event()]
        assert [event["event"] for event in told] == ["loading", "load_failed"]
        assert told[1]["preset"] == "broken"
        status = line.call("status")
        assert status["models"]["load_failures"] == 1
        assert status["health"]["last_error"]
        assert line.code("load", {"preset": "broken"}) == "model_load_failed"  # the key is not wedged
    said = [text for text in daemon.log().splitlines() if "model load_failed" in text]
    assert said
    assert all("WARNING" in text.upper() and "'broken' does not load" in text for text in said), said
    with daemon.connect() as client:  # a session learns of it, and its utterance still has a final
        start(client, model="broken", endpointing=False)
        client.send(SECOND)
        say(client, "stop")
        events = read_to_end(client)
    assert [event["code"] for event in events if event["type"] == "error"] == ["model_load_failed"]
    assert [event["type"] for event in events][-2:] == ["final", "stopped"]


def test_a_subscriber_that_looks_away_is_told_how_much_it_missed(daemon):
    """Whatever the kernel and the queue of 256 hold arrives; what does not is counted, and `seq` agrees."""
    with ControlLine(daemon) as line, ControlLine(daemon) as worker:
        worker.call("unload")
        line.call("subscribe", topics=["models"])
        rounds = 500
        for _ in range(rounds):
            worker.call("load", preset="fake")
            worker.call("unload")
        worker.call("load", preset="fake", keep_alive_s=-1)
        events, lost = [], 0
        while len(events) + lost < rounds * 3 + 2:
            event = line.event()
            if event["topic"] == "lagged":
                lost += event["dropped"]
            else:
                events.append(event)
    assert lost > 0
    assert events[-1]["seq"] == len(events) + lost
    assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})
    daemon.call("unload")


# ------------------------------------------------------------------ reload and shutdown


def test_reload_takes_a_good_file_and_no_bad_one(serve, tmp_path):
    file = tmp_path / "sttd.toml"
    file.write_text('[models]\nmodel = "fake"\nmodel_idle_ttl_seconds = 60\n')
    daemon = serve("--tcp", "off", "--config", str(file))
    assert daemon.call("reload") == {"changed": [], "needs_restart": []}
    file.write_text('[models]\nmodel = "fake"\nmodel_idle_ttl_seconds = 30\n[server]\nallowed_hosts = ["x.example"]\n')
    for _ in range(2):  # what waits for a restart goes on waiting
        result = daemon.call("reload")
        assert result["needs_restart"] == ["server.allowed_hosts"]
    assert daemon.call("status")["models"]["idle_ttl_seconds"] == 30
    for bad in (
        "[models",
        '[models]\nmodel = "nobody"\n',
        '[models]\nmodel = "fake"\nmodel_idle_ttl_seconds = -1\n',
        '[models]\nmodel = "fake"\nmodel_idle_ttl_secons = 10\n',
        '[models]\nmodel = "fake"\ninterim_model = "demo"\nmax_loaded_models = 1\n',
    ):
        file.write_text(bad)
        with pytest.raises(RuntimeError, match="config_invalid"):
            daemon.call("reload")
    assert daemon.call("status")["models"]["idle_ttl_seconds"] == 30
    assert daemon.call("config")["values"]["models.model_idle_ttl_seconds"]["value"] == 30
    file.write_text('[models]\nmodel = "fake"\nmax_loaded_models = 1\n')
    assert daemon.call("reload")["changed"] == ["models.max_loaded_models", "models.model_idle_ttl_seconds"]


def test_a_drained_daemon_finishes_what_runs_takes_nothing_new_and_opens_again(serve):
    daemon = serve("--tcp", "off", "--model", "fake")
    with daemon.connect() as client, daemon.connect() as late:
        start(client, endpointing=False, interim=False)
        assert daemon.call("drain") == {"sessions": 1}
        status = daemon.call("status")
        assert (status["server"]["state"], status["admission"]) == ("draining", 1.0)
        assert json.loads(late.recv(timeout=PATIENCE_S))["type"] == "hello"
        say(late, "start")
        refused = read_to_end(late)[-1]
        assert (refused["code"], refused["retryable"], late.close_code) == ("shutting_down", True, 1001)
        client.send(SECOND)
        say(client, "stop")
        assert [event["text"] for event in read_to_end(client) if event["type"] == "final"] == ["w1 w2 w3"]
    assert daemon.call("undrain") == {}
    assert transcribe(daemon, SECOND, endpointing=False)
    assert daemon.call("status")["server"]["state"] == "ready"


def test_shutdown_drains_sessions(serve):
    daemon = serve("--tcp", "off", "--model", "fake", "--set", "presets.fake.decode_ms=300")
    daemon.signalled = True
    with daemon.connect() as client:
        start(client, endpointing=False, interim=False)
        client.send(SECOND)
        read_until(client, "speech_start")
        assert daemon.call("shutdown", drain_s=10) == {}
        assert daemon.call("status")["server"]["state"] == "draining"
        events = read_to_end(client)
        assert client.close_code == 1001
    assert [event["type"] for event in events] == ["speech_end", "final", "stopped"]
    assert (events[1]["text"], events[1]["reason"]) == ("w1 w2 w3", "drain")
    assert daemon.process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("drain_s", [0, 0.5])
def test_a_drain_that_is_too_short_still_gives_every_shown_utterance_its_final(serve, drain_s):
    daemon = serve("--tcp", "off", "--model", "fake", "--set", "presets.fake.decode_ms=60000")
    daemon.signalled = True
    with daemon.connect() as client:
        start(client, endpointing=False, interim=False)
        client.send(SECOND)
        read_until(client, "speech_start")
        say(client, "finalize")
        client.send(SECOND)
        read_until(client, "speech_start")
        daemon.call("shutdown", drain_s=drain_s)
        began = time.monotonic()
        finals = [json.loads(message) for message in iter_messages(client)]
        assert time.monotonic() - began < drain_s + 30  # half of what a decode takes
        assert client.close_code == 1001
    assert [(event["utterance"], event["text"]) for event in finals if event["type"] == "final"] == [(1, ""), (2, "")]
    assert finals[-1]["type"] == "stopped"
    assert daemon.process.wait(PATIENCE_S) == 0
