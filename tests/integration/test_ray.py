"""Ray Serve as the engine of daemons: a real cluster of three nodes on this machine, with what goes wrong in one.

It wants an environment of its own: `make ray` makes one, and then these tests run. The cluster is started once, since
that takes the most time of all.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import threading
import time

import pytest

from benchmarks import ray_cluster, report
from sttd.engine.remote.asking import wav
from tests.running import PATIENCE_S, RunningDaemon, eventually, free_port
from tests.speakers import LOCAL_WORD_MS, Speaker, remote
from tests.unit.ray.recordings import silence

pytestmark = [
    pytest.mark.skipif(not ray_cluster.PYTHON.exists(), reason=ray_cluster.REASON),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

TOKEN = "correct-horse-battery"
WORD_MS = 100  # of `fake` on the cluster: so it is heard who decoded
DECODE_MS = 100
FAULT_S = 20  # longer audio is what the engine fails on
SESSIONS = 4
PATH = "/v1/audio/transcriptions"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("ray")
    (directory / "token").write_text(TOKEN)
    (directory / "token").chmod(0o600)
    return directory


@pytest.fixture(scope="module")
def port():
    return free_port()


@pytest.fixture(scope="module")
def cluster(place, port):
    config = ray_cluster.configuration(
        port=port,
        args={
            "model": "fake",
            "token_file": str(place / "token"),
            "preset": {"decode_ms": DECODE_MS, "word_ms": WORD_MS, "fault": "raise", "fault_s": FAULT_S},
            "body_bytes": 1024 * 1024,
        },
        ingress={"num_replicas": 1},
        finals=ray_cluster.replicas(2),
        bulk=ray_cluster.scaled(most=2, ongoing=1, waiting=2),
    )
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setenv("RAY_TMPDIR", str(place / "others"))  # where Ray notes which cluster is this machine's
        yield stack.enter_context(ray_cluster.RayCluster(config, place / "cluster", nodes=3, cpus=2))


@pytest.fixture(scope="module")
def daemon(place, port):
    (place / "sttd.toml").write_text(f"""
[models]
model = "cluster"
interim_model = "here"
max_loaded_models = 3

[presets.cluster]
backend = "remote"
url = "http://127.0.0.1:{port}/v1"
model = "fake"
token_file = "{place}/token"
fallback = "here"
timeout_s = 30
max_in_flight = 8

[presets.here]
backend = "fake"
word_ms = {LOCAL_WORD_MS}
""")
    running = RunningDaemon.start(place / "here", "--config", f"{place}/sttd.toml", "--tcp", "off")
    yield running
    assert running.stop() == 0


LOOK = """
import sys, yaml
from ray.serve.schema import ServeDeploySchema
from sttd_ray.app import build
config = yaml.safe_load(open(sys.argv[1]))
config = yaml.safe_load(config["spec"]["serveConfigV2"]) if "spec" in config else config
known = ServeDeploySchema.model_validate(config)
for application in known.applications:
    build(application.args)
print([each.name for each in known.applications[0].deployments])
"""


@pytest.mark.parametrize("name", ["serve.yaml", "rayservice.yaml"])
def test_the_configurations_are_what_ray_serve_takes(name):
    folder = report.ROOT / "deploy" / "ray"
    ran = subprocess.run(
        [ray_cluster.PYTHON, "-c", LOOK, folder / name],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "PYTHONPATH": f"{folder}:{report.ROOT}", "RAY_USAGE_STATS_ENABLED": "0"},
        check=False,
    )
    assert ran.stdout.strip() == "['ingress', 'finals', 'bulk']", ran.stderr[-2000:]


def form(audio, **fields):
    parts = [
        f'--xyz\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()
    ]
    file = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    return "".join(parts).encode() + file + audio + b"\r\n--xyz--\r\n"


def ask(port, *, seconds=1.0, body=None, method="POST", path=PATH, token=TOKEN, **headers):
    """The status of an answer, its headers, and what is in it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    sent = {"Content-Type": "multipart/form-data; boundary=xyz", "Authorization": f"Bearer {token}"}
    sent |= {name.replace("_", "-"): str(value) for name, value in headers.items()}
    data = form(wav(silence(seconds)), model="fake") if body is None else body
    try:
        connection.request(method, path, data if method == "POST" else None, sent)
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), json.loads(answer.read())
    finally:
        connection.close()


def test_it_answers_the_api_and_refuses_as_the_api_does(cluster, port):
    assert ask(port)[2]["text"].split() == [f"w{number}" for number in range(1, 11)]
    assert ask(port, X_Sttd_Class="file", X_Sttd_Deadline_Ms=60_000)[0] == 200
    status, headers, listed = ask(port, method="GET", path="/v1/models")
    assert (status, [row["id"] for row in listed["data"]]) == (200, ["fake", "whisper-1"])
    assert headers["x-request-id"]

    def refusal(**asked):
        status, _, content = ask(port, **asked)
        return status, content["error"]["code"]

    assert refusal(token="wrong") == (401, "invalid_api_key")
    assert refusal(path="/v1/nothing") == (404, "not_found")
    assert refusal(body=form(wav(silence(1)), model="other")) == (404, "model_not_found")
    assert refusal(body=form(b"no audio", model="fake")) == (400, "invalid_audio")
    assert refusal(seconds=FAULT_S + 1) == (500, "decode_failed")
    assert refusal(seconds=30.5) == (413, "audio_too_long")
    assert refusal(body=form(bytes(2 * 1024 * 1024))) == (413, "too_large")
    assert refusal(X_Sttd_Deadline_Ms=1) == (504, "overloaded")


def test_too_much_of_live_text_is_refused_for_a_moment_and_costs_no_final(cluster, port):
    answers, finals = [], []

    def interim():
        answers.append(ask(port, X_Sttd_Class="interim"))

    threads = [threading.Thread(target=interim) for _ in range(24)]
    for thread in threads:
        thread.start()
    finals = [ask(port)[0] for _ in range(3)]
    for thread in threads:
        thread.join(PATIENCE_S)
    assert finals == [200] * 3
    refused = [headers for status, headers, _ in answers if status == 429]
    assert refused, [status for status, _, _ in answers]
    assert all(int(headers["retry-after"]) >= 1 for headers in refused)
    assert {status for status, _, _ in answers} == {200, 429}


def test_where_requests_wait_a_replica_is_added(cluster, port):
    done = threading.Event()

    def interims():
        while not done.is_set():
            assert ask(port, X_Sttd_Class="interim")[0] in (200, 429)

    threads = [threading.Thread(target=interims) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: len(cluster.order("replicas")["bulk"]) == 2, otherwise=lambda: cluster.order("replicas"))
    finally:
        done.set()
        for thread in threads:
            thread.join(PATIENCE_S)


def test_after_many_who_hung_up_the_next_is_answered(cluster, port):
    body = form(wav(silence(1)), model="fake")
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nX-Sttd-Class: final\r\n"
        f"Content-Type: multipart/form-data; boundary=xyz\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port)) as gone:
            gone.sendall(head.encode() + body)
    assert ask(port)[0] == 200


def test_a_replica_is_killed_while_people_speak_and_no_final_is_lost(cluster, daemon, capsys):
    speakers = [Speaker(daemon) for _ in range(SESSIONS)]

    def all_have(count, since):
        return all(len(speaker.since(since, "server")) >= count for speaker in speakers)

    def seen():
        return [speaker.finals[-5:] for speaker in speakers], remote(daemon), daemon.log()[-3000:]

    eventually(lambda: all_have(2, 0.0), otherwise=seen)
    killed = time.monotonic()
    pid = cluster.order("kill", "finals")
    eventually(lambda: all_have(5, killed), otherwise=seen)
    replaced = eventually(lambda: len(pids := cluster.order("replicas")["finals"]) == 2 and pid not in pids)
    assert replaced
    [speaker.finish() for speaker in speakers]
    finals = [final for speaker in speakers for final in speaker.finals]
    by = [whom for _, whom, _ in finals]
    assert by.count("nobody") == 0, "no final is empty"
    tell(capsys, "a replica was killed", finals, since=killed)


def test_the_cluster_goes_and_comes_and_sessions_go_on(cluster, daemon, port, capsys):
    speakers = [Speaker(daemon) for _ in range(SESSIONS)]

    def all_have(count, since, whom):
        return all(len(speaker.since(since, whom)) >= count for speaker in speakers)

    def seen():
        return [speaker.finals[-5:] for speaker in speakers], remote(daemon), daemon.log()[-3000:]

    eventually(lambda: all_have(1, 0.0, "server"), otherwise=seen)
    gone = time.monotonic()
    cluster.order("leave")
    eventually(lambda: all_have(3, gone, "fallback"), otherwise=seen)
    assert remote(daemon)["reachable"] is False
    cluster.order("come")
    back = time.monotonic()
    eventually(lambda: all_have(1, back, "server"), otherwise=seen)
    assert remote(daemon)["reachable"] is True
    [speaker.finish() for speaker in speakers]
    finals = [final for speaker in speakers for final in speaker.finals]
    assert "nobody" not in {whom for _, whom, _ in finals}, "no final is empty"
    tell(capsys, "the cluster was gone", finals, since=gone)


def tell(capsys, what, finals, *, since):
    took = sorted(seconds for at, _, seconds in finals if at >= since)
    p99 = statistics.quantiles(took, n=100)[98] if len(took) > 1 else took[0]
    by = [whom for at, whom, _ in finals if at >= since]
    with capsys.disabled():
        print(
            f"\n{what}: {len(by)} finals after it, {by.count('server')} of the cluster and "
            f"{by.count('fallback')} of the fallback, none lost; p50 {statistics.median(took):.2f} s, "
            f"p99 {p99:.2f} s, at most {took[-1]:.2f} s"
        )


def test_others_on_this_machine_do_not_join_it(cluster, place):
    assert not (place / "others").exists()


def test_when_it_ends_no_process_is_left(cluster):
    assert cluster.order("processes")
    cluster.order("leave")
    assert cluster.order("processes") == []
