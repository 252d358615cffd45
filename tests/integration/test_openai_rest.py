"""OpenAI's REST API as its own client and others use it, against a real daemon."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import httpx
import numpy as np
import openai
import pytest

from benchmarks.wires import wav
from tests.conftest import ROOT
from tests.running import RunningDaemon, read_pcm, read_until, say, start

RATE = 16_000
DATE = ROOT / "tests" / "data" / "date.flac"
KEY = "s3cret"
PAGE = "https://notes.example"


def noise(seconds):
    """What the fake recogniser hears as `w1 w2 …`, a word for every 300 ms."""
    samples = np.random.default_rng(1).integers(-3000, 3000, round(seconds * RATE))
    return wav(samples.astype("<i2").tobytes())


def long_speech():
    """43.3 s in which somebody speaks, with pauses."""
    return wav(12 * read_pcm(DATE))


@attrs.define
class Api:
    """A daemon as this API's clients see it."""

    daemon: RunningDaemon
    port: int
    key: str = "any"
    spool: Path | None = None  # where its large uploads lie

    @classmethod
    def start(cls, directory, *arguments, key="any", env=None):
        daemon = RunningDaemon.start(directory, "--model", "fake", "--tcp", "127.0.0.1:0", *arguments, env=env)
        listeners = daemon.call("status")["server"]["listeners"]
        port = next(name.rpartition(":")[2] for name in listeners if name.startswith("audio-tcp"))
        return cls(daemon, int(port), key)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def headers(self):
        return {"Authorization": f"Bearer {self.key}"}

    def client(self, kind=openai.OpenAI, **more):
        return kind(base_url=self.url, api_key=self.key, **{"max_retries": 0, "timeout": 60, **more})

    def post(self, data=None, *, file=None, path="audio/transcriptions", headers=None):
        files = {"file": ("a.wav", noise(1.0) if file is None else file)}
        headers = {**self.headers, **(headers or {})}
        return httpx.post(f"{self.url}/{path}", files=files, data=data or {}, headers=headers, timeout=60)

    def raw(self, *lines, body=b""):
        """A socket on which a request for a transcription was written, as far as `body` goes."""
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.settimeout(60)
        head = ("POST /v1/audio/transcriptions HTTP/1.1", "Host: localhost", *lines)
        authorization = f"Authorization: Bearer {self.key}"
        connection.sendall("\r\n".join([*head, authorization, "", ""]).encode() + body)
        return connection

    def sessions(self):
        return self.daemon.call("sessions", limit=100)["sessions"]


def answer(connection):
    """Status, headers and body of what comes back until the daemon closes."""
    data = b""
    while more := connection.recv(65536):
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    return int(lines[0].split()[1]), {line.split(": ")[0].lower(): line.split(": ")[1] for line in lines[1:]}, body


def form(file, *, fields=(), boundary="b0undary"):
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields
    ]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    return "".join([*parts, head]).encode() + file + f"\r\n--{boundary}--\r\n".encode()


TYPE = "Content-Type: multipart/form-data; boundary=b0undary"


def wait_for(condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return value


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    made = Api.start(tmp_path_factory.mktemp("fake"))
    yield made
    assert made.daemon.stop() == 0


@pytest.fixture(scope="module")
def tight(tmp_path_factory):
    """One that has little patience, a token, and an origin that may ask."""
    spool = tmp_path_factory.mktemp("spool")
    options = {
        "limits.upload_bytes": 3_000_000,
        "limits.upload_spool_bytes": 4_000_000,
        "limits.upload_stall_s": 1.5,
        "server.token": KEY,
        "server.allowed_origins": f'["{PAGE}"]',
    }
    sets = itertools.chain.from_iterable(("--set", f"{name}={value}") for name, value in options.items())
    made = Api.start(tmp_path_factory.mktemp("tight"), *sets, key=KEY, env={"TMPDIR": str(spool)})
    made.spool = spool
    yield made
    assert made.daemon.stop() == 0


# ---------------------------------------------------------------- what works


def test_every_format_through_the_client_of_openai(api):
    client = api.client()
    words = "w1 w2 w3 w4 w5 w6"

    def ask(**more):
        return client.audio.transcriptions.create(model="whisper-1", file=("a.wav", noise(2.0)), **more)

    made = ask()
    assert (made.text, made.usage.type, made.usage.seconds) == (words, "duration", 2)
    assert ask(response_format="text") == words + "\n"
    assert ask(response_format="srt") == f"1\n00:00:00,000 --> 00:00:01,800\n{words}\n"
    assert ask(response_format="vtt") == f"WEBVTT\n\n00:00:00.000 --> 00:00:01.800\n{words}\n"
    made = ask(response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert (made.text, made.language, made.duration, made.segments[0].text) == (words, "english", 2.0, f" {words}")
    assert [(word.word, word.start) for word in made.words][:2] == [("w1", 0.0), ("w2", 0.3)]
    assert ask(response_format="verbose_json").words is None
    made = ask(include=["logprobs"], temperature=0.2, chunking_strategy="auto", prompt="Hello", language="en")
    assert "".join(token.token for token in made.logprobs) == words
    with pytest.warns(DeprecationWarning, match="deprecated"):
        translated = client.audio.translations.create(
            model="whisper-1", file=("a.wav", noise(1.0)), response_format="verbose_json"
        )
    assert translated.language == "english"


def test_the_text_is_what_was_said(api):
    with DATE.open("rb") as file:
        made = api.client().audio.transcriptions.create(
            model="demo", file=file, response_format="verbose_json", timestamp_granularities=["word"]
        )
    assert made.text == "Today is Tuesday the twenty first of May."
    assert " ".join(word.word for word in made.words) == made.text
    assert made.segments is None


async def test_a_stream_ends_with_all_that_came_before(api):
    import anyio.abc  # noqa: F401  (what the client needs to run on Trio)

    client = api.client(openai.AsyncOpenAI)
    stream = await client.audio.transcriptions.create(
        model="whisper-1", file=("a.wav", long_speech()), stream=True, include=["logprobs"]
    )
    events = [event async for event in stream]
    await client.close()
    deltas = [event.delta for event in events[:-1]]
    assert {event.type for event in events[:-1]} == {"transcript.text.delta"}
    assert len(deltas) > 1
    assert events[-1].type == "transcript.text.done"
    assert "".join(deltas) == events[-1].text != ""
    assert "".join(token.token for token in events[-1].logprobs) == events[-1].text


def test_a_stream_of_a_file_says_how_far_it_is(api):
    with httpx.stream(
        "POST",
        f"{api.url}/audio/transcriptions",
        files={"file": ("a.wav", long_speech())},
        data={"stream": "true"},
        timeout=60,
    ) as made:
        lines = list(made.iter_lines())
    assert made.headers["content-type"].startswith("text/event-stream")
    assert made.headers["x-request-id"].startswith("s")
    assert "[DONE]" not in "".join(lines)
    assert [line for line in lines if line.startswith(": done_s=")][-1] == ": done_s=43.3 total_s=43.3"
    assert json.loads(lines[-2].removeprefix("data: "))["type"] == "transcript.text.done"


def test_models_are_listed_and_named(api):
    client = api.client()
    names = [model.id for model in client.models.list()]
    assert names[0] == "fake"
    assert names[-1] == "whisper-1"
    assert "demo" in names
    assert client.models.retrieve("whisper-1").owned_by == "sttd"
    assert httpx.get(f"{api.url}/models/Systran%2Ffaster-whisper-base").json()["id"] == "Systran/faster-whisper-base"
    assert httpx.get(f"{api.url}/models/Systran/faster-whisper-base").json()["object"] == "model"
    assert httpx.head(f"{api.url}/models").status_code == 200
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_what_sends_no_model_and_puts_the_file_first_is_served(api):
    made = api.post({"response_format": "json", "language": "", "vad_filter": "true"})
    assert (made.status_code, made.json()["text"]) == (200, "w1 w2 w3")
    assert int(made.headers["openai-processing-ms"]) >= 0
    assert made.headers["x-request-id"].startswith("s")


def test_silence_is_no_text(api):
    silence = wav(bytes(2 * RATE))
    assert api.post({"model": "demo"}, file=silence).json()["text"] == ""
    assert api.post({"model": "demo", "response_format": "srt"}, file=silence).text == ""
    verbose = api.post({"model": "demo", "response_format": "verbose_json", "language": "en"}, file=silence).json()
    assert (verbose["language"], verbose["segments"], verbose["duration"]) == ("english", [], 1.0)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_waits_for_the_go_ahead_and_may_send_chunks(api, tmp_path):
    file = tmp_path / "long.wav"
    file.write_bytes(long_speech())  # 1.4 MB: beyond a megabyte curl asks first
    url = f"{api.url}/audio/transcriptions"
    asked = subprocess.run(
        ["curl", "-sv", "-F", f"file=@{file}", "-F", "response_format=text", url], capture_output=True, timeout=100
    )
    assert b"HTTP/1.1 100 Continue" in asked.stderr
    assert asked.stdout.startswith(b"w1 w2")
    chunks = subprocess.run(
        ["curl", "-sv", "-H", "Transfer-Encoding: chunked", "-F", f"file=@{file}", url],
        capture_output=True,
        timeout=100,
    )
    assert json.loads(chunks.stdout)["text"].startswith("w1 w2")
    refused = subprocess.run(["curl", "-s", "-F", f"file=@{file}", f"{url}s"], capture_output=True, timeout=100)
    assert json.loads(refused.stdout)["error"]["code"] == "not_found"


def test_the_unix_socket_has_the_api_too(api):
    transport = httpx.HTTPTransport(uds=str(api.daemon.audio))
    with httpx.Client(transport=transport, base_url="http://sttd/v1", timeout=60) as client:
        made = openai.OpenAI(base_url="http://sttd/v1", api_key="any", http_client=client, max_retries=0)
        assert made.audio.transcriptions.create(model="", file=("a.wav", noise(0.7))).text == "w1 w2"


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("asked", "error", "code", "param"),
    [
        ({"model": "nobody"}, openai.NotFoundError, "model_not_found", "model"),
        ({"language": "klingon"}, openai.BadRequestError, "unsupported_language", "language"),
        ({"model": "demo", "language": "de"}, openai.BadRequestError, "unsupported_language", "language"),
        ({"temperature": 1.5}, openai.BadRequestError, "invalid_value", "temperature"),
        ({"response_format": "diarized_json"}, openai.BadRequestError, "invalid_value", "response_format"),
        ({"response_format": "srt", "stream": True}, openai.BadRequestError, "invalid_value", "stream"),
        ({"file": ("a.wav", b"no sound at all " * 999)}, openai.BadRequestError, "invalid_audio", "file"),
        ({"file": ("a.wav", b"")}, openai.BadRequestError, "invalid_audio", "file"),
        ({"file": ("a.wav", noise(0.05))}, openai.BadRequestError, "audio_too_short", "file"),
        ({"file": ("a.wav", noise(1.0)), "model": "medium"}, openai.InternalServerError, "model_not_local", None),
    ],
)
def test_an_error_has_its_class_and_its_four_fields(api, asked, error, code, param):
    with pytest.raises(error) as caught:
        api.client().audio.transcriptions.create(**{"model": "", "file": ("a.wav", noise(1.0)), **asked})
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.body.keys() == {"message", "type", "param", "code"}
    kind = "server_error" if caught.value.status_code >= 500 else "invalid_request_error"
    assert caught.value.type == kind
    assert "x-request-id" in caught.value.response.headers
    assert "openai-processing-ms" in caught.value.response.headers
    if code == "model_not_local":
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert "sttctl pull medium" in caught.value.message


@pytest.mark.parametrize(
    ("lines", "body", "status", "code"),
    [
        (("Content-Type: application/json", "Content-Length: 2"), b"{}", 415, "bad_request"),
        ((TYPE,), b"", 411, "bad_request"),
        ((TYPE, "Content-Length: 5000000"), b"", 413, "too_large"),  # unread
        ((TYPE, "Content-Length: 9"), b"--nothing", 400, "bad_request"),
        ((TYPE, "Transfer-Encoding: chunked"), b"zz\r\n", 400, "bad_request"),
        ((TYPE, "Content-Length: 5000000", "Expect: 100-continue"), b"", 413, "too_large"),
    ],
)
def test_what_is_no_form_is_refused(tight, lines, body, status, code):
    with tight.raw(*lines, body=body) as connection:
        got, headers, body = answer(connection)
    assert (got, json.loads(body)["error"]["code"]) == (status, code)
    assert headers["x-request-id"].startswith("req_")


def test_the_key_is_asked_for_and_origins_are_told_that_they_may_read(tight):
    with pytest.raises(openai.AuthenticationError):
        Api(tight.daemon, tight.port).client().models.list()
    with pytest.raises(openai.PermissionDeniedError) as caught:
        tight.client(default_headers={"Origin": "https://evil.example"}).models.list()
    assert "access-control-allow-origin" not in caught.value.response.headers
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    made = httpx.options(f"{tight.url}/audio/transcriptions", headers=asked)
    assert (made.status_code, made.headers["access-control-allow-headers"]) == (204, "authorization")
    for made in (tight.post(headers={"Origin": PAGE}), tight.post({"model": "nobody"}, headers={"Origin": PAGE})):
        assert made.headers["access-control-allow-origin"] == PAGE
        assert made.headers["vary"] == "Origin"
    made = httpx.put(f"{tight.url}/audio/transcriptions", headers=tight.headers)
    assert (made.status_code, made.headers["allow"]) == (405, "POST")


def test_a_body_that_grows_too_large_is_refused_behind_its_end(tight):
    def pieces():
        yield form(b"")[:-16]
        for _ in range(40):
            yield bytes(100_000)

    headers = {**tight.headers, "Content-Type": TYPE.partition(": ")[2]}
    made = httpx.post(f"{tight.url}/audio/transcriptions", content=pieces(), headers=headers, timeout=60)
    assert (made.status_code, made.json()["error"]["code"]) == (413, "too_large")


def test_a_body_that_stalls_is_given_up(tight):
    with tight.raw(TYPE, "Content-Length: 100000", body=form(bytes(1000))[:900]) as connection:
        status, headers, body = answer(connection)
    assert (status, json.loads(body)["error"]["code"], headers["x-should-retry"]) == (408, "idle_timeout", "false")


def test_large_bodies_lie_in_a_file_without_a_name_and_have_a_bound_together(tight):
    size = 2_500_000
    holding = tight.raw(TYPE, f"Content-Length: {size + 1000}", body=form(bytes(size))[:size])
    fds = Path(f"/proc/{tight.daemon.process.pid}/fd")

    def spooled():
        sizes = []
        for fd in fds.iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if os.readlink(fd).startswith(str(tight.spool)):
                    sizes.append(os.stat(fd).st_size)
        return sizes

    with holding:
        wait_for(lambda: sum(spooled()) > 2_000_000)
        assert os.listdir(tight.spool) == []
        second = tight.raw(TYPE, f"Content-Length: {size}")  # told by its head
        status, headers, body = answer(second)
        second.close()
        assert (status, json.loads(body)["error"]["type"]) == (429, "rate_limit_error")
        assert int(headers["retry-after-ms"]) > 0
        holding.sendall(bytes(10))
    wait_for(lambda: not spooled())


def test_a_crowd_of_broken_uploads_disturbs_nobody(tight):
    broken = [
        tight.raw(TYPE, "Transfer-Encoding: chunked", body=b"1\r\n-\r\n" * 3000),
        tight.raw(TYPE, "Content-Length: 90000", body=(b"--b0undary\r\n" + b"X" * 200) * 300),
        tight.raw(TYPE, "Content-Length: 90000", body=b"\r\n--b0undar" * 5000),
        tight.raw(TYPE, "Content-Length: 90000", body=form(os.urandom(50_000))[:-1]),
        *(tight.raw(TYPE, "Content-Length: 90000", body=b"--b0undary\r\n") for _ in range(30)),
    ]
    with tight.daemon.connect() as speaker:
        start(speaker, endpointing=False)
        speaker.send(noise(1.0)[44:])
        say(speaker, "finalize")
        assert read_until(speaker, "final")[-1]["text"] == "w1 w2 w3"
    for connection in broken:
        connection.close()
    assert tight.post().status_code == 200
    wait_for(lambda: tight.sessions() == [])


# ---------------------------------------------------------------- who is served when


def test_who_hangs_up_is_dropped_and_who_still_waits_at_the_end_is_told(serve, tmp_path):
    slow = Api.start(
        tmp_path / "slow",
        *("--set", "presets.fake.decode_ms=30000", "--set", "limits.final_uploads=2", "--set", "server.drain_s=1"),
    )
    try:
        body = form(wav(read_pcm(DATE)))
        lines = (TYPE, f"Content-Length: {len(body)}")
        short = [slow.raw(*lines, body=body) for _ in range(3)]
        rows = wait_for(lambda: rows if len(rows := slow.sessions()) == len(short) else None)
        assert sorted(row["kind"] for row in rows) == ["file", "live", "live"]  # the third is no speaker
        assert {(row["api"], row["label"]) for row in rows} == {("openai", "openai")}
        for connection in short:
            connection.close()
        wait_for(lambda: slow.sessions() == [], timeout_s=15.0)  # long before the decode is done
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(slow.post)
            wait_for(slow.sessions)
            slow.daemon.terminate()
            made = waiting.result()
        assert (made.status_code, made.json()["error"]["code"]) == (503, "shutting_down")
    finally:
        assert slow.daemon.stop() == 0
