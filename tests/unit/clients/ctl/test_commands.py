"""Every command that stands for a verb: what it asks, what it prints, how it ends."""

import io
import json

import pytest
from sttd_client.ctl.models import live
from sttd_client.ctl.status import lines_of

from sttd.errors import CODES, EXIT_FAILED, EXIT_USAGE
from sttd.wire.rpc import encode_notification, encode_response


def test_status_is_readable(sttctl, fake_control, status_report):
    rows = [
        {"session": "s1", "api": "realtime"},
        {"session": "s2", "api": "sttd"},
        {"session": "s3", "api": "realtime"},
    ]
    with fake_control({"status": status_report, "sessions": {"sessions": rows}}):
        status, out, err = sttctl("status")
    assert (status, err) == (0, "")
    assert "sttd 0.1.0  ready  pid 42, up 1 h 6 min" in out
    assert "2 active of 64, peak 5, 12 since the start" in out
    assert "25% taken\n" in out
    assert "by 2 realtime, 1 sttd" in out
    assert "0 final, 0 speculative, 1 interim, 3 file; 1 decoding on 1 workers" in out
    assert "p50 310 ms, p95 520 ms after the last speech" in out
    row = next(line for line in out.splitlines() if line.startswith("base"))
    assert " ".join(row.split()) == "base cpu int8 4 1 0 3 80 MiB - 2 min 3 s 4 min"
    assert "\x1b" not in out


def test_status_survives_a_daemon_that_says_less(sttctl, fake_control):
    with fake_control({"status": {}, "sessions": {}}):
        status, out, _ = sttctl("status")
    assert status == 0
    assert "sttd -" in out


def test_json_is_what_the_daemon_said(sttctl, fake_control, status_report, presets):
    with fake_control({"status": status_report, "models": {"presets": presets}}):
        assert json.loads(sttctl("status", "--json")[1]) == status_report
        assert json.loads(sttctl("--json", "models")[1]) == {"presets": presets}


def test_models_say_what_is_on_disk_and_loaded(sttctl, fake_control, presets):
    with fake_control({"models": {"presets": presets}}):
        _, out, _ = sttctl("models")
    header, base, *rest = out.splitlines()
    assert "LIVE HERE" in header
    assert " ".join(base.split()) == "base base cpu int8 138 MiB index yes yes (0.50 s an interim) yes final, interim"
    assert rest == ["", "Not on disk; `sttctl pull NAME` gets one:", "  tiny (72 MiB)"]


@pytest.mark.parametrize(
    ("auto", "recommended", "last"),
    [
        (None, "base", "No model for people's speech is on disk. The one for this machine: sttctl pull base"),
        ("base", "small", "This machine can run a better one live: sttctl pull small"),
        ("base", "base", "  tiny (72 MiB)"),
    ],
)
def test_models_say_which_one_to_get(sttctl, fake_control, presets, auto, recommended, last):
    with fake_control({"models": {"presets": presets, "auto": auto, "recommended": recommended}}):
        _, out, _ = sttctl("models")
    assert out.splitlines()[-1] == last


def test_a_service_without_network_has_a_unit_that_pulls(sttctl, fake_control, presets):
    with fake_control({"models": {"presets": presets, "auto": None, "recommended": "base", "network": False}}):
        _, out, _ = sttctl("models")
    assert "`sudo systemctl start sttd-pull@NAME` gets one" in out
    assert out.endswith("sudo systemctl start sttd-pull@base\n")


def test_a_model_is_live_slow_or_not_measured():
    assert live({}) == "not measured"
    assert live({"realtime": False, "interim_s": 2.5}) == "no (2.50 s an interim)"
    assert live({"realtime": True, "interim_s": None}) == "yes"


@pytest.mark.parametrize(
    ("arguments", "method", "params"),
    [
        (["load", "base"], "load", [{"preset": "base"}]),
        (
            ["load", "base", "--cpu-threads", "4", "--num-workers=2", "--keep-alive", "-1"],
            "load",
            [{"preset": "base", "cpu_threads": 4, "num_workers": 2, "keep_alive_s": -1.0}],
        ),
        (["unload"], "unload", []),
        (["unload", "--all"], "unload", []),
        (["unload", "base", "--no-wait"], "unload", [{"preset": "base", "wait": False}]),
        (["pull", "base", "--revision", "abc"], "pull", [{"model": "base", "revision": "abc"}]),
        (["close", "s1"], "close_session", [{"session": "s1"}]),
        (["close", "s1", "--no-drain"], "close_session", [{"session": "s1", "drain": False}]),
        (["reload"], "reload", []),
        (["undrain"], "undrain", []),
        (["sessions", "--limit", "3"], "sessions", [{"limit": 3}]),
    ],
)
def test_arguments_become_parameters(sttctl, fake_control, arguments, method, params):
    with fake_control({method: {}}) as requests:
        assert sttctl(*arguments)[0] == 0
    assert [(request.method, request.params) for request in requests] == [(method, params)]


def test_results_are_said_in_words(sttctl, fake_control):
    entry = {"preset": "base", "device": "cpu", "compute_type": "int8"}
    table = {
        "load": {"cache_hit": False, "load_seconds": 1.5, "entry": entry},
        "unload": {"unloaded": 1, "process_rss_bytes": 1 << 20, "entries": [{**entry, "draining": True}]},
        "pull": {"path": "/models/base", "model": "base", "source": "index", "verified": True},
        "reload": {"changed": ["models.model"], "needs_restart": ["server.tcp"]},
        "close_session": {},
        "sessions": {"sessions": [], "next": None},
    }
    with fake_control(table):
        assert sttctl("load", "base")[1] == "base loaded in 1.50 s, on cpu as int8\n"
        assert sttctl("unload")[1].splitlines() == [
            "1 model unloaded; the daemon has 1 MiB",
            "in use, going when their users are done: base",
        ]
        assert sttctl("pull", "base")[1] == "base is in /models/base: from the index, every file verified\n"
        assert sttctl("reload")[1] == "changed: models.model\nin effect after a restart: server.tcp\n"
        assert sttctl("close", "s1")[1] == "session s1 closed\n"
        assert sttctl("sessions")[1] == "no sessions\n"
        for command in (["load", "base"], ["unload"], ["pull", "base"], ["reload"], ["close", "s1"], ["sessions"]):
            assert isinstance(json.loads(sttctl(*command, "--json")[1]), dict)


@pytest.mark.parametrize(
    ("arguments", "left", "status", "says"),
    [
        ([], [2], 0, "2 sessions run"),
        (["--wait"], [2, 1, 0], 0, "no session runs"),
        (["--wait", "--timeout", "0"], [1, 1], 6, "1 session runs"),
    ],
)
def test_a_drain_waits_for_the_last_session_or_until_its_time_is_over(
    sttctl, fake_control, monkeypatch, arguments, left, status, says
):
    monkeypatch.setattr("sttd_client.ctl.draining._EVERY_S", 0.01)
    counts = iter(left)

    def count(request, send):
        number = next(counts)
        status = {"server": {"state": "draining"}, "sessions": {"active": number // 2, "uploads": number - number // 2}}
        result = {"sessions": number} if request.method == "drain" else status
        send(encode_response(request.msgid, result=result))

    with fake_control(count):
        assert sttctl("drain", *arguments) == (status, f"no new sessions are taken; {says}\n", "")
    counts = iter(left)
    with fake_control(count):
        assert json.loads(sttctl("drain", "--json", *arguments)[1]).keys() == {"sessions"}


def test_a_drain_that_does_not_wait_has_no_time_to_wait(sttctl):
    status, said, trouble = sttctl("drain", "--timeout", "5")
    assert (status, said) == (EXIT_USAGE, "")
    assert "--wait" in trouble


def test_a_drain_that_somebody_takes_back_is_not_waited_for_and_has_not_succeeded(sttctl, fake_control, monkeypatch):
    monkeypatch.setattr("sttd_client.ctl.draining._EVERY_S", 0.01)

    def undrained(request, send):
        status = {"server": {"state": "ready"}, "sessions": {"active": 0, "uploads": 0}}
        send(encode_response(request.msgid, result={"sessions": 1} if request.method == "drain" else status))

    with fake_control(undrained):
        status, said, trouble = sttctl("drain", "--wait")
    assert (status, said) == (EXIT_FAILED, "")
    assert "`undrain`" in trouble


def test_a_drain_whose_daemon_dies_has_not_succeeded(sttctl, fake_control, monkeypatch):
    monkeypatch.setattr("sttd_client.ctl.draining._EVERY_S", 0.01)

    def dies(request, send):
        if request.method == "status":
            raise OSError
        send(encode_response(request.msgid, result={"sessions": 1}))

    with fake_control(dies):
        status, said, trouble = sttctl("drain", "--wait")
    assert (status, said) == (EXIT_FAILED, "")
    assert trouble


def test_sessions_are_listed_over_all_pages(sttctl, fake_control):
    row = {"uid": 1000, "label": "", "kind": "live", "state": "open", "model": "base", "lang": "en"}
    row |= {"audio_s": 61.5, "utterances": 7, "lag_s": 0.0}

    def answer(request, send):
        cursor = request.params[0].get("cursor")
        page = {"sessions": [{"session": cursor or "first", **row}], "next": None if cursor else "second"}
        send(encode_response(request.msgid, result=page))

    with fake_control(answer):
        _, out, _ = sttctl("sessions")
        assert [line.split()[0] for line in out.splitlines()] == ["SESSION", "first", "second"]
        assert "61.5 s" in out
        assert len(json.loads(sttctl("sessions", "--json", "--limit", "1")[1])["sessions"]) == 1


def test_config_shows_all_or_a_part(sttctl, fake_control):
    values = {
        "models.model": {"value": "base", "origin": "file"},
        "vad.silero": {"value": True, "origin": "default"},
    }
    with fake_control({"config": {"values": values}}):
        assert sttctl("config")[1].splitlines()[1].split() == ["models.model", '"base"', "file"]
        assert len(sttctl("config", "vad")[1].splitlines()) == 2
        assert json.loads(sttctl("config", "vad.silero", "--json")[1]) == {
            "values": {"vad.silero": values["vad.silero"]}
        }
        status, _, err = sttctl("config", "models.modle")
    assert status == 5
    assert "did you mean `models.model`?" in err


def test_watch_prints_events_until_the_daemon_leaves(sttctl, fake_control):
    events = [
        {"seq": 1, "topic": "transcripts", "event": "final", "session": "s1", "utterance": 2, "text": "hello"},
        {"seq": 2, "topic": "models", "event": "loaded", "preset": "base", "device": "cpu"},
        {"seq": 3, "topic": "lagged", "dropped": 4},
    ]

    def answer(request, send):
        send(encode_response(request.msgid, result={}))
        for event in events:
            send(encode_notification("event", params=event))
        raise OSError  # the daemon goes

    with fake_control(answer) as requests:
        status, out, err = sttctl("watch", "models", "transcripts")
    assert requests[0].params == [{"topics": ["models", "transcripts"]}]
    assert status == 1
    assert "closed the connection" in err
    assert out.splitlines()[:2] == ["transcripts final s1 2 hello", "models loaded base device=cpu"]
    assert "4 events were lost" in out
    with fake_control(answer):
        lines = sttctl("watch", "--json")[1].splitlines()
    assert [json.loads(line) for line in lines] == events


@pytest.mark.parametrize("code", list(CODES))
def test_every_error_has_its_exit_status_and_no_traceback(sttctl, fake_control, code):
    with fake_control({"status": {"code": code, "message": "so it is", "retryable": False, "data": {}}}):
        status, out, err = sttctl("status")
    assert (status, out) == (CODES[code].exit_status, "")
    assert err == f"sttctl: so it is ({code})\n"


def test_without_a_daemon_the_status_is_3_and_the_advice_is_there(sttctl):
    status, out, err = sttctl("status")
    assert (status, out) == (3, "")
    assert "no sttd daemon answers" in err
    assert "sttd serve" in err


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["load"], ["load", "a", "--cpu-threads", "x"], ["watch", "nonsense"], ["--frob"]]
)
def test_usage_errors_end_with_2(sttctl, arguments):
    status, out, err = sttctl(*arguments)
    assert (status, out) == (2, "")
    assert "usage: sttctl" in err


def test_naming_a_preset_and_all_of_them_is_a_contradiction(sttctl):
    assert sttctl("unload", "base", "--all")[0] == 2


def test_raw_calls_one_method(sttctl, fake_control):
    with fake_control({"load": {"cache_hit": True}}) as requests:
        status, out, _ = sttctl("raw", "load", '{"preset": "base"}')
        assert (status, json.loads(out)) == (0, {"id": 1, "result": {"cache_hit": True}})
        assert sttctl("raw", "load", "{nonsense")[0] == 2
    assert requests[0].params == [{"preset": "base"}]


def test_raw_serves_lines_and_ends_with_the_first_error(sttctl, fake_control, monkeypatch, tmp_path):
    lines = tmp_path / "lines"
    lines.write_text('{"method": "ping", "id": "a"}\n\nnonsense\n{"method": "load", "params": {"preset": "x"}}')
    table = {"ping": {}, "load": {"code": "model_not_found", "message": "no", "retryable": False, "data": {}}}
    with fake_control(table), lines.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        status, out, _ = sttctl("raw")
    answers = [json.loads(line) for line in out.splitlines()]
    assert {"id": "a", "result": {}} in answers
    assert [answer["error"]["code"] for answer in answers if "error" in answer] == ["bad_request", "model_not_found"]
    assert status == 2


def test_raw_names_the_request_that_progress_belongs_to(sttctl, fake_control, pulling, monkeypatch, tmp_path):
    lines = tmp_path / "lines"
    lines.write_text('{"method": "pull", "params": {"model": "m"}, "id": "mine"}\n')
    with fake_control(pulling), lines.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        _, out, _ = sttctl("raw")
    progress = [json.loads(line) for line in out.splitlines()][2]
    assert progress == {
        "notification": "progress",
        "done_bytes": 1,
        "total_bytes": 2,
        "file": "model.bin",
        "id": "mine",
    }


def test_a_progress_line_is_drawn_at_terminals_only(monkeypatch):
    from sttd_client.ctl.progress import bytes_progress

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr("sys.stderr", stream)
        with bytes_progress(hidden=False) as show:
            show(1 << 20, 4 << 20, "model.bin")
        if stream.isatty():
            assert "model.bin" in stream.getvalue()
            assert "25%" in stream.getvalue()
            assert stream.getvalue().endswith("\r\x1b[K")
        else:
            assert stream.getvalue() == ""


def test_status_says_when_a_user_has_all_that_one_may_have():
    rows = {"sessions": {"per_user": 2, "most": 2}, "bytes_per_s": {"per_user": 0, "most": 9}}
    (line,) = [line for line in lines_of({"quotas": rows}) if line.startswith("quotas")]
    assert line.endswith("of sessions")
    assert not [line for line in lines_of({}) if line.startswith("quotas")]
