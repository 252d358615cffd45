"""Deepgram's live API as its clients use it: the real `deepgram-sdk`, and strangers, against a real daemon."""

from __future__ import annotations

import hashlib
import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from deepgram import AsyncDeepgramClient
from deepgram.core import ApiError
from deepgram.listen.v1.types import (
    ListenV1CloseStream,
    ListenV1Configure,
    ListenV1ConfigureSuccess,
    ListenV1Finalize,
    ListenV1KeepAlive,
    ListenV1Metadata,
    ListenV1Results,
    ListenV1SpeechStarted,
    ListenV1UtteranceEnd,
)
from websockets.exceptions import InvalidStatus

from tests.deepgram_client import (
    DATA,
    PATIENCE_S,
    Running,
    check_ranges,
    clip,
    finals,
    hear,
    hear_all,
    listen,
    pieces,
    say,
    transcript,
)
from tests.running import ControlLine

RAW = {"encoding": "linear16", "sample_rate": "16000"}
QUIET = bytes(32_000)
LIGHT = "Turn on the kitchen light."
REFUSED = (ApiError, InvalidStatus)  # the client knows the error of older versions of its WebSocket library alone
# The client takes names of its WebSocket library of which newer versions warn.
pytestmark = pytest.mark.filterwarnings("ignore:websockets:DeprecationWarning")


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    """A recogniser that takes no time and hears a word each 300 ms."""
    running = Running(
        tmp_path_factory.mktemp("fake"), "--model", "fake", "--set", "limits.sessions=8",
        "--set", "presets.slow.backend=fake", "--set", "presets.slow.decode_ms=1000",
    )  # fmt: skip
    yield running
    assert running.daemon.stop() == 0, running.daemon.log()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    running = Running(tmp_path_factory.mktemp("demo"), "--model", "demo")
    yield running
    assert running.daemon.stop() == 0, running.daemon.log()


# ---------------------------------------------------------------- the real client


def test_the_real_client_hears_what_was_said(demo):
    pcm, messages = clip() + QUIET, []
    options = {**RAW, "model": "nova-3", "language": "en-US", "interim_results": "true", "vad_events": "true"}
    with demo.client().listen.v1.connect(**options, utterance_end_ms="1000", smart_format="true") as socket:
        request_id = socket._websocket.response.headers["dg-request-id"]
        listening = listen(socket, messages)
        for piece in pieces(pcm):
            socket.send_media(piece)
        socket.send_close_stream(ListenV1CloseStream(type="CloseStream"))
        listening.join(PATIENCE_S)
        assert socket._websocket.close_code == 1000
    results = [message for message in messages if isinstance(message, ListenV1Results)]
    check_ranges(results, len(pcm) / 32_000)
    said = [result for result in results if result.is_final and transcript(result)]
    assert " ".join(transcript(result) for result in said) == LIGHT
    assert said[-1].speech_final
    words = [word for result in said for word in result.channel.alternatives[0].words]
    assert [word.word for word in words] == ["turn", "on", "the", "kitchen", "light"]
    assert words[-1].punctuated_word == "light."
    assert said[-1].metadata.model_info.name == "demo"
    assert sum(isinstance(message, ListenV1SpeechStarted) for message in messages) == 1
    [end] = [message for message in messages if isinstance(message, ListenV1UtteranceEnd)]
    assert (end.channel, end.last_word_end) == ([0, 1], words[-1].end)
    metadata = messages[-1]
    assert isinstance(metadata, ListenV1Metadata)
    assert metadata.request_id == said[-1].metadata.request_id == request_id
    assert metadata.sha256 == hashlib.sha256(pcm).hexdigest()
    assert metadata.duration == pytest.approx(len(pcm) / 32_000, abs=0.001)


async def in_asyncio(running):
    """Push-to-talk with the asynchronous client: what came until each answer to a `Finalize`."""
    answers = []
    client = running.client(AsyncDeepgramClient)
    options = {**RAW, "model": "fake", "endpointing": "false", "interim_results": "false"}
    async with client.listen.v1.connect(**options) as socket:
        for name in ("light", None, "date"):
            for piece in pieces(clip(name)) if name else ():
                await socket.send_media(piece)
            await socket.send_finalize(ListenV1Finalize(type="Finalize"))
            heard = []
            while not heard or not heard[-1].from_finalize:
                heard.append(await socket.recv())
            answers.append(heard)
        await socket.send_keep_alive(ListenV1KeepAlive(type="KeepAlive"))
        await socket.send_configure(ListenV1Configure(type="Configure", keyterms=["sttd"]))
        answers.append([await socket.recv()])
        await socket.send_close_stream(ListenV1CloseStream(type="CloseStream"))
        answers.append([await socket.recv()])
    return answers


def test_the_asynchronous_client_has_an_answer_for_each_finalize(fake):
    import asyncio  # noqa: TID251  (the client's, in a thread of its own)

    with ThreadPoolExecutor(1) as pool:
        light, nothing, date, configured, end = pool.submit(asyncio.run, in_asyncio(fake)).result()
    assert [len(heard) for heard in (light, nothing, date)] == [1, 1, 1]
    assert [bool(transcript(heard[-1])) for heard in (light, nothing, date)] == [True, False, True]
    assert all(heard[-1].speech_final for heard in (light, date))
    light_s, date_s = len(clip()) / 32_000, len(clip("date")) / 32_000
    assert light[-1].duration == pytest.approx(light_s, abs=0.002)
    assert (nothing[-1].start, nothing[-1].duration) == pytest.approx((light_s, 0), abs=0.002)
    assert (date[-1].start, date[-1].duration) == pytest.approx((light_s, date_s), abs=0.003)
    assert isinstance(configured[-1], ListenV1ConfigureSuccess)
    assert configured[-1].keyterms == ["sttd"]
    assert isinstance(end[-1], ListenV1Metadata)


def test_two_channels_are_two_speakers(demo):
    left, right = (np.frombuffer(clip(name) + QUIET, "<i2") for name in ("light", "date"))
    both = np.zeros((max(len(left), len(right)), 2), "<i2")
    both[: len(left), 0], both[: len(right), 1] = left, right
    messages = []
    with demo.client().listen.v1.connect(**RAW, model="nova-3", channels="2", multichannel="true") as socket:
        listening = listen(socket, messages)
        for piece in pieces(both.tobytes(), 6402):
            socket.send_media(piece)
        socket.send_close_stream()
        listening.join(PATIENCE_S)
    results = [message for message in messages if isinstance(message, ListenV1Results)]
    for channel, text in enumerate((LIGHT, "Today is Tuesday the twenty first of May.")):
        check_ranges(results, len(both) / 16_000, channel)
        own = [transcript(result) for result in results if result.channel_index == [channel, 2]]
        assert " ".join(filter(None, own)) == text
    assert messages[-1].channels == 2


def test_a_container_says_itself_what_it_is(demo):
    with demo.connect("model=whisper-1&detect_language=true") as socket:
        for piece in pieces((DATA / "light.flac").read_bytes(), 4096):
            socket.send(piece)
        socket.send(b"")
        messages, code, _ = hear_all(socket)
    assert " ".join(filter(None, map(transcript, finals(messages)))) == LIGHT
    [said] = [result for result in finals(messages) if transcript(result)]
    assert said["channel"]["alternatives"][0]["languages"] == ["en"]
    assert (messages[-1]["type"], code) == ("Metadata", 1000)


@pytest.mark.parametrize(
    ("query", "rate"), [("encoding=linear16&sample_rate=44100", 44_100), ("encoding=linear16&sample_rate=8000", 8_000)]
)
def test_audio_of_any_rate_has_the_times_of_its_own_clock(fake, query, rate):
    pcm = clip(rate=rate)
    with fake.connect(query) as socket:
        for piece in pieces(pcm, 4001):  # torn samples
            socket.send(piece)
        say(socket, "CloseStream")
        messages, _, _ = hear_all(socket)
    end = finals(messages)[-1]
    assert end["start"] + end["duration"] == pytest.approx(len(pcm) / 2 / rate, abs=0.002)
    assert messages[-1]["duration"] == pytest.approx(len(pcm) / 2 / rate, abs=0.002)
    assert any(map(transcript, finals(messages)))


def test_interims_come_while_the_person_speaks(fake):
    with fake.connect("encoding=linear16&sample_rate=16000&interim_results=true") as socket:
        pcm = clip("held-out")
        for piece in pieces(pcm[: 32_000 * 2]):
            socket.send(piece)
        heard = hear(socket, lambda message: message["type"] == "Results" and not message["is_final"])
        assert transcript(heard[-1]).startswith("w1")
        say(socket, "CloseStream")
        hear_all(socket)


def test_the_end_of_an_utterance_comes_in_the_silence_behind_it(fake):
    with fake.connect("encoding=linear16&sample_rate=16000&interim_results=true&utterance_end_ms=1000") as socket:
        socket.send(clip())
        ended = threading.Event()
        with ThreadPoolExecutor(1) as pool:

            def keep_silence():
                while not ended.is_set():
                    socket.send(QUIET[:3200])
                    time.sleep(0.05)

            pool.submit(keep_silence)
            heard = hear(socket, lambda message: message["type"] == "UtteranceEnd")
            ended.set()
        assert heard[-1]["last_word_end"] == finals(heard)[-1]["channel"]["alternatives"][0]["words"][-1]["end"]
        assert finals(heard)[-1]["speech_final"]


def test_who_is_connected_is_seen_by_the_name_of_the_program(fake):
    with fake.client().listen.v1.connect(**RAW, model="nova-3") as socket:
        [row] = [row for row in fake.daemon.call("sessions")["sessions"] if row["api"] == "deepgram"]
        assert row["label"].startswith("deepgram deepgram-sdk/")
        socket.send_close_stream()
        assert isinstance(socket.recv(), ListenV1Metadata)


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    "query",
    [
        "encoding=opus&sample_rate=48000",
        "encoding=linear16",
        "encoding=linear16&sample_rate=16000&channels=9",
        "model=gpt5",
        "language=klingon",
        "utterance_end_ms=1000",
        "redact=pci",
        "callback=http%3A%2F%2Fexample.org",
        "interim_results=%00%ff",
    ],
)
def test_a_wrong_value_is_400_in_the_form_of_the_api(fake, query):
    with pytest.raises(InvalidStatus) as caught, fake.connect(query):
        pass
    answer = caught.value.response
    body = json.loads(answer.body)
    assert (answer.status_code, body["err_code"]) == (400, "Bad Request")
    assert answer.headers["dg-error"] == body["err_msg"].encode("ascii", "replace").decode()
    assert answer.headers["dg-request-id"] == body["request_id"]


def test_there_is_no_api_for_recordings(fake):
    connection = http.client.HTTPConnection("127.0.0.1", fake.port, timeout=PATIENCE_S)
    connection.request("POST", "/v1/listen?model=nova-3", b"RIFF")
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Allow")) == (405, "GET")
    assert answer.getheader("dg-request-id") == json.loads(answer.read())["request_id"]


def test_overload_is_said_before_the_upgrade_with_the_time_to_wait(fake):
    with fake.connect("encoding=linear16&sample_rate=16000&channels=8&multichannel=true") as socket:
        with pytest.raises(REFUSED, match="503"), fake.client().listen.v1.connect(**RAW, model="nova-3"):
            pass
        with pytest.raises(InvalidStatus) as stranger, fake.connect():
            pass
        headers = stranger.value.response.headers
        assert "sessions are taken" in headers["dg-error"]
        assert int(headers["Retry-After"]) >= 1
        say(socket, "CloseStream")
        assert hear_all(socket)[1] == 1000


def test_a_key_is_asked_for_where_there_is_one(tmp_path):
    running = Running(tmp_path / "guarded", "--model", "fake", "--set", "server.token=s3cret")
    try:
        wrong = running.client(key="wrong")
        with pytest.raises(REFUSED, match="401"), wrong.listen.v1.connect(**RAW, model="nova-3"):
            pass
        with running.client(key="s3cret").listen.v1.connect(**RAW, model="nova-3") as socket:
            socket.send_close_stream()
            assert isinstance(socket.recv(), ListenV1Metadata)
        with running.connect(subprotocols=["token", "s3cret"]) as browser:
            assert browser.subprotocol == "token"
    finally:
        assert running.daemon.stop() == 0


# ---------------------------------------------------------------- how it ends


def test_a_client_that_says_nothing_is_closed_and_one_that_keeps_alive_is_not(tmp_path):
    running = Running(tmp_path / "brief", "--model", "fake", "--set", "limits.keepalive_s=3")
    try:
        with running.connect(ping_interval=0.2) as socket:
            for _ in range(15):
                say(socket, "KeepAlive")
                time.sleep(0.3)
            with pytest.raises(TimeoutError):
                socket.recv(timeout=0)
            socket.send(clip())
            messages, code, reason = hear_all(socket)
        assert (code, reason[:8]) == (1011, "NET-0001")
        assert any(map(transcript, finals(messages)))
        assert "Metadata" not in {message["type"] for message in messages}
    finally:
        assert running.daemon.stop() == 0


@pytest.mark.parametrize(
    ("query", "audio"),
    [
        ("model=fake", b"this is no container at all " * 400),
        ("encoding=linear32&sample_rate=16000", np.full(16_000, np.nan, "<f4").tobytes()),
        ("model=fake&channels=2&multichannel=true", (DATA / "light.flac").read_bytes()),  # has one channel
    ],
)
def test_audio_that_is_not_what_was_said_is_named_so(fake, query, audio):
    with fake.connect(query) as socket:
        socket.send(audio)
        say(socket, "CloseStream")
        messages, code, reason = hear_all(socket)
    assert (code, reason[:9]) == (1008, "DATA-0000")
    assert "Metadata" not in {message["type"] for message in messages}


def test_a_drained_stream_has_its_last_words_and_its_metadata(tmp_path):
    running = Running(tmp_path / "drained", "--model", "fake")
    with running.connect() as socket:
        socket.send(clip()[: -32_000 // 2])
        say(socket, "Configure")
        hear(socket, lambda message: message["type"] == "ConfigureSuccess")
        running.daemon.terminate()
        messages, code, _ = hear_all(socket)
    assert any(map(transcript, finals(messages)))
    assert (messages[-1]["type"], code) == ("Metadata", 1001)
    assert running.daemon.stop() == 0


def test_a_session_that_is_closed_ends_its_stream(fake):
    with fake.connect() as socket:
        [row] = [row for row in fake.daemon.call("sessions")["sessions"] if row["api"] == "deepgram"]
        fake.daemon.call("close_session", session=row["session"])
        messages, code, _ = hear_all(socket)
    assert ([message["type"] for message in messages], code) == (["Metadata"], 1000)


def test_a_client_that_is_gone_leaves_its_last_words_to_subscribers(fake):
    with ControlLine(fake.daemon, timeout_s=PATIENCE_S) as line:
        line.call("subscribe", topics=["transcripts"])
        with fake.connect("encoding=linear16&sample_rate=16000&endpointing=false") as socket:
            socket.send(clip())
            say(socket, "Configure")
            hear(socket, lambda message: message["type"] == "ConfigureSuccess")
            socket.close_socket()
        event = line.event()
        assert (event["reason"], bool(event["text"])) == ("disconnect", True)


# ---------------------------------------------------------------- hostile clients


def served(running):
    """Whether somebody else gets text meanwhile."""
    with running.connect() as socket:
        socket.send(clip())
        say(socket, "CloseStream")
        messages, code, _ = hear_all(socket)
    return code == 1000 and any(map(transcript, finals(messages)))


def test_a_message_that_is_too_large_ends_its_own_stream_alone(fake):
    with fake.connect() as socket:
        socket.send(bytes((1 << 20) + 1))
        messages, code, _ = hear_all(socket)
        assert (messages[0]["variant"], code) == ("too_large", 1009)
    assert served(fake)


def test_what_is_no_message_is_answered_however_much_of_it_comes(fake):
    count = 2000
    with fake.connect() as socket, ThreadPoolExecutor(1) as pool:
        answers = pool.submit(lambda: [json.loads(socket.recv(timeout=PATIENCE_S)) for _ in range(count)])
        for number in range(count):
            socket.send(f"nonsense {number}")
        assert served(fake)
        assert [answer["message"] for answer in answers.result()] == [f"nonsense {n}" for n in range(count)]
        say(socket, "CloseStream")
        assert hear_all(socket)[1] == 1000


def test_as_many_finalizes_as_a_client_likes_have_an_answer_each(fake):
    count = 500
    with fake.connect() as socket:
        for _ in range(count):
            say(socket, "Finalize")
        say(socket, "CloseStream")
        messages, code, _ = hear_all(socket)
    assert (sum(result["from_finalize"] for result in finals(messages)), code) == (count, 1000)


def test_a_recording_may_be_sent_as_fast_as_it_goes_and_read_afterwards(fake):
    pcm = clip("held-out")
    with fake.connect("encoding=linear16&sample_rate=16000&interim_results=true&utterance_end_ms=1000") as socket:
        for piece in pieces(pcm, 1 << 20):
            socket.send(piece)
        say(socket, "CloseStream")
        messages, code, _ = hear_all(socket)
    assert code == 1000
    end = finals(messages)[-1]
    assert end["start"] + end["duration"] == pytest.approx(len(pcm) / 32_000, abs=0.002)
    # The pauses between its sentences are 0.8 s, so that it ends once.
    assert [message["type"] for message in messages].count("UtteranceEnd") <= 1
