"""OpenAI's Realtime API as its clients use it: the real `openai` package, and strangers, against a real daemon."""

from __future__ import annotations

import base64
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import openai
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect, unix_connect

from tests.realtime_client import NAMES, check_items
from tests.running import ControlLine, RunningDaemon, free_port, read_pcm

DATA = Path(__file__).parents[1] / "data"
SECOND = np.random.default_rng(1).integers(-3000, 3000, 24_000).astype("<i2").tobytes()  # no speech, for who commits
QUIET = bytes(len(SECOND))
PATIENCE_S = 60.0
# The client opens its connection in a way that newer versions of its WebSocket library warn of.
DEPRECATED = pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")


class Running:
    """A daemon with a TCP port of its own."""

    def __init__(self, directory, *arguments):
        self.port = free_port()
        self.daemon = RunningDaemon.start(directory, "--tcp", f"127.0.0.1:{self.port}", *arguments)

    def client(self, kind=openai.OpenAI):
        return kind(
            api_key="unused",
            base_url=f"http://127.0.0.1:{self.port}/v1",
            websocket_base_url=f"ws://127.0.0.1:{self.port}/v1",
        )

    def connect(self, query="", **options):
        """A foreign WebSocket, over the Unix socket."""
        return unix_connect(str(self.daemon.audio), f"ws://localhost/v1/realtime{query}", max_size=None, **options)


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    """Recognisers that take no time and cut at two seconds; one that takes its time, one that never loads."""
    running = Running(
        tmp_path_factory.mktemp("fake"), "--model", "fake", "--set", "endpointing.max_utterance_s=2",
        "--set", "presets.slow.backend=fake", "--set", "presets.slow.decode_ms=400",
        "--set", "presets.quick.backend=fake", "--set", "presets.quick.word_ms=100",
        "--set", "presets.english.backend=fake", "--set", "presets.english.model=words.en",
    )  # fmt: skip
    yield running
    assert running.daemon.stop() == 0, running.daemon.log()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    running = Running(tmp_path_factory.mktemp("demo"), "--model", "demo")
    yield running
    assert running.daemon.stop() == 0, running.daemon.log()


def clip(name="light"):
    return read_pcm(DATA / f"{name}.flac", rate=24_000)


def pieces(pcm, milliseconds=50):
    size = 48 * milliseconds
    return [base64.b64encode(pcm[at : at + size]).decode() for at in range(0, len(pcm), size)]


def say(socket, kind, **fields):
    socket.send(json.dumps({"type": kind, **fields}))


def append(socket, pcm):
    say(socket, "input_audio_buffer.append", audio=base64.b64encode(pcm).decode())


def hear(socket, *kinds, timeout_s=PATIENCE_S):
    """Events up to and with the first of these kinds."""
    events = []
    while not events or events[-1]["type"] not in kinds:
        events.append(json.loads(socket.recv(timeout=timeout_s)))
    return events


def hear_all(socket):
    """Events until the close, and its code."""
    events = []
    try:
        while True:
            events.append(json.loads(socket.recv(timeout=PATIENCE_S)))
    except ConnectionClosed as closed:
        return events, closed.rcvd.code if closed.rcvd else None


def outcome(socket):
    return hear(socket, f"{NAMES}completed", f"{NAMES}failed")


@contextmanager
def push_to_talk(running, query="", **session):
    """A stranger who commits."""
    with running.connect(query) as socket:
        hear(socket, "session.created")
        say(socket, "session.update", session={"turn_detection": None, **session})
        hear(socket, "session.updated")
        yield socket


# ---------------------------------------------------------------- with the real client


@DEPRECATED
def test_the_openai_client_commits_and_gets_its_transcript(fake):
    with fake.client().realtime.connect(extra_query={"intent": "transcription"}) as connection:
        created = connection.recv()
        assert created.type == "session.created"
        assert created.session.audio.input.turn_detection.silence_duration_ms == 500
        connection.session.update(
            session={
                "type": "transcription",
                "audio": {
                    "input": {
                        "format": {"type": "audio/pcm", "rate": 24000},
                        "turn_detection": None,
                        "transcription": {"model": "gpt-4o-transcribe", "language": "en", "prompt": "words"},
                    }
                },
                "include": ["item.input_audio_transcription.logprobs"],
            }
        )
        updated = connection.recv()
        assert updated.session.audio.input.transcription.model == "gpt-4o-transcribe"
        assert updated.session.audio.input.turn_detection is None
        for piece in pieces(SECOND):
            connection.input_audio_buffer.append(audio=piece)
        connection.input_audio_buffer.commit()
        events = []
        while not events or not events[-1].type.endswith("completed"):
            events.append(connection.recv())
    kinds = [event.type.removeprefix(NAMES) for event in events]
    assert kinds[-1] == "completed"
    assert [kind for kind in kinds if kind != "delta"] == [
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "completed",
    ]
    completed = events[-1]
    assert completed.transcript == "w1 w2 w3"
    assert "".join(event.delta for event in events if event.type.endswith("delta")) == completed.transcript
    assert (completed.usage.type, completed.usage.seconds) == ("duration", 1.0)
    assert [language.code for language in completed.languages] == ["en"]
    assert "".join(token.token for token in completed.logprobs) == completed.transcript
    (placed,) = (event for event in events if event.type == "conversation.item.done")
    assert placed.item.id == completed.item_id


async def in_asyncio(running):
    """The beta of the same client, asynchronous, with turn detection."""
    client = running.client(openai.AsyncOpenAI)
    async with client.beta.realtime.connect(
        model="gpt-4o-transcribe", extra_query={"intent": "transcription"}
    ) as connection:
        created = await connection.recv()
        await connection.transcription_session.update(
            session={
                "input_audio_format": "pcm16",
                "input_audio_transcription": {"model": "gpt-4o-transcribe"},
                "turn_detection": {"type": "server_vad", "silence_duration_ms": 400},
            }
        )
        events = [created, await connection.recv()]
        for piece in pieces(clip() + QUIET):
            await connection.input_audio_buffer.append(audio=piece)
        while not events[-1].type.endswith("completed"):
            events.append(await connection.recv())
    await client.close()
    return events


def test_the_beta_of_the_openai_client_lets_the_daemon_end_the_turn(fake):
    import asyncio  # noqa: TID251  (the client's, in a thread of its own)

    with ThreadPoolExecutor(1) as pool:
        events = pool.submit(asyncio.run, in_asyncio(fake)).result()
    assert [event.type for event in events[:2]] == ["transcription_session.created", "transcription_session.updated"]
    assert events[1].session.turn_detection.silence_duration_ms == 400
    kinds = [event.type.removeprefix(NAMES) for event in events[2:] if not event.type.endswith("delta")]
    assert kinds == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.created",
        "completed",
    ]
    assert events[-1].transcript == "".join(event.delta for event in events if event.type.endswith("delta"))
    assert events[-1].transcript.startswith("w1 w2")


def test_text_comes_while_the_person_speaks(demo):
    pcm = clip("question")
    with push_to_talk(demo) as socket:
        append(socket, pcm[:4800])  # the model loads
        say(socket, "input_audio_buffer.clear")
        hear(socket, "input_audio_buffer.cleared")
        shown = threading.Event()
        sender = threading.Thread(target=_speak, args=(socket, pcm, shown))
        sender.start()
        events = hear(socket, f"{NAMES}delta")  # nothing is committed yet
        shown.set()
        sender.join()
        say(socket, "input_audio_buffer.commit")
        events += outcome(socket)
    check_items(events)
    wanted = json.loads((DATA / "question.json").read_text())
    said = " ".join(utterance["text"] for utterance in wanted["utterances"]).lower().split()
    heard = events[-1]["transcript"].lower().split()
    assert len(set(said) & set(heard)) > len(set(said)) / 2, heard


def _speak(socket, pcm, shown):
    """At the pace of speech, with silence behind it until text of it was shown."""
    at, deadline = 0, time.monotonic() + PATIENCE_S
    while at < len(pcm) or not (shown.is_set() or time.monotonic() > deadline):
        append(socket, pcm[at : at + 4800] or bytes(4800))
        at += 4800
        time.sleep(0.1)


# ---------------------------------------------------------------- items


def test_what_is_longer_than_an_utterance_is_one_item_where_the_client_commits(fake):
    with push_to_talk(fake) as socket:
        for _ in range(5):
            append(socket, SECOND)
        say(socket, "input_audio_buffer.commit")
        events = outcome(socket)
    check_items(events)
    assert events[-1]["usage"]["seconds"] == 5.0
    assert events[-1]["transcript"].count("w1") >= 3


def test_commits_in_a_row_are_answered_in_order_before_anything_is_decoded(fake):
    with push_to_talk(fake, "?model=slow") as socket:
        for seconds in (1, 2):
            append(socket, SECOND * seconds)
            say(socket, "input_audio_buffer.commit")
        events = outcome(socket)
        assert [event["type"] for event in events].count("input_audio_buffer.committed") == 2
        events += outcome(socket)
    check_items(events)
    finals = [event["transcript"] for event in events if event["type"] == f"{NAMES}completed"]
    assert [final.count("w") for final in finals] == [3, 6]


def test_cleared_audio_is_in_no_item_and_too_little_is_not_committed(fake):
    with push_to_talk(fake) as socket:
        append(socket, SECOND)
        say(socket, "input_audio_buffer.clear")
        append(socket, SECOND[:4700])
        say(socket, "input_audio_buffer.commit", event_id="mine")
        (error,) = hear(socket, "error")[-1:]
        assert error["error"]["code"] == "input_audio_buffer_commit_empty"
        assert error["error"]["event_id"] == "mine"
        append(socket, SECOND[4700:])
        say(socket, "input_audio_buffer.commit")
        events = outcome(socket)
    check_items(events)
    assert (events[-1]["transcript"], events[-1]["usage"]["seconds"]) == ("w1 w2 w3", 1.0)


def test_a_commit_with_turn_detection_ends_the_item_now_and_silence_is_an_empty_one(fake):
    with fake.connect() as socket:
        hear(socket, "session.created")
        append(socket, clip() + SECOND[:24_000])
        events = hear(socket, "input_audio_buffer.speech_started")
        say(socket, "input_audio_buffer.commit")
        events += outcome(socket)
        assert events[-1]["transcript"].startswith("w1")
        append(socket, QUIET)
        say(socket, "input_audio_buffer.commit")
        events += outcome(socket)
    check_items(events[1:])
    assert (events[-1]["transcript"], events[-1]["languages"]) == ("", [])


@pytest.mark.parametrize(
    ("form", "size"),
    [({"type": "audio/pcmu"}, 8000), ({"type": "audio/pcma"}, 8000), ({"type": "audio/pcm", "rate": 48000}, 96000)],
)
def test_other_formats_are_heard_as_long_as_they_are(fake, form, size):
    with push_to_talk(fake, audio={"input": {"format": form}}) as socket:
        append(socket, bytes(range(256)) * (size // 256 + 1))
        say(socket, "input_audio_buffer.commit")
        assert outcome(socket)[-1]["transcript"] == "w1 w2 w3"
        say(socket, "session.update", session={"audio": {"input": {"format": None}}})
        assert hear(socket, "error")[-1]["error"]["param"] == "session.audio.input.format"


def test_another_model_is_used_from_the_next_item_on(fake):
    with push_to_talk(fake) as socket:
        append(socket, SECOND)
        say(socket, "session.update", session={"audio": {"input": {"transcription": {"model": "quick"}}}})
        hear(socket, "session.updated")
        say(socket, "input_audio_buffer.commit")
        append(socket, SECOND)
        say(socket, "input_audio_buffer.commit")
        events = outcome(socket)
        events += outcome(socket)
    check_items(events)
    finals = [event["transcript"] for event in events if event["type"] == f"{NAMES}completed"]
    assert [final.count("w") for final in finals] == [3, 10]


def test_interims_are_for_those_who_ask(fake):
    with push_to_talk(fake, include=["sttd.interim"]) as socket:
        for piece in pieces(SECOND * 2):
            say(socket, "input_audio_buffer.append", audio=piece)
            time.sleep(0.02)
        interim = hear(socket, "sttd.interim")[-1]
        assert interim["text"].startswith("w1")
        assert 0 <= interim["stable_chars"] <= len(interim["text"])


# ---------------------------------------------------------------- who is let in


def test_an_unknown_model_is_404_before_the_upgrade(fake):
    with pytest.raises(InvalidStatus) as refused:
        fake.connect("?intent=transcription&model=nonsense")
    assert refused.value.response.status_code == 404
    error = json.loads(refused.value.response.body)["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")


@pytest.mark.parametrize("query", ["?intent=transcription&model=gpt-realtime", "?model=whisper-fake&x=1", "?model="])
def test_names_of_other_systems_are_known(fake, query):
    with fake.connect(query) as socket:
        hear(socket, "session.created")


@pytest.mark.parametrize("path", ["client_secrets", "sessions"])
def test_ephemeral_keys_are_not_offered(fake, path):
    with pytest.raises(openai.NotFoundError):
        fake.client().post(f"/realtime/{path}", cast_to=object, body={})


def test_a_wrong_update_changes_nothing_and_the_session_goes_on(fake):
    with fake.connect() as socket:
        hear(socket, "session.created")
        for transcription, code in (
            ({"model": "nonsense"}, "model_not_found"),
            ({"model": "english", "language": "de"}, "invalid_value"),
            ({"language": "klingon"}, "invalid_value"),
        ):
            session = {"audio": {"input": {"transcription": transcription, "turn_detection": None}}}
            say(socket, "session.update", event_id="u1", session=session)
            error = hear(socket, "error")[-1]["error"]
            assert (error["code"], error["event_id"], error["type"]) == (code, "u1", "invalid_request_error")
        say(socket, "session.update", session={})
        session = hear(socket, "session.updated")[-1]["session"]
        assert session["audio"]["input"]["turn_detection"] is not None
        assert session["audio"]["input"]["transcription"]["model"] == "whisper-1"


def test_overload_is_503_before_the_upgrade_and_1013_after(serve):
    daemon = serve("--tcp", "off", "--model", "fake", "--set", "limits.sessions=1")
    open_ = lambda: unix_connect(str(daemon.audio), "ws://localhost/v1/realtime", max_size=None)  # noqa: E731
    with open_() as waiting, open_() as talking:
        append(talking, SECOND)
        _until(lambda: daemon.call("status")["sessions"]["active"] == 1)
        with pytest.raises(InvalidStatus) as refused:
            open_()
        assert refused.value.response.status_code == 503
        assert int(refused.value.response.headers["retry-after"]) > 0
        append(waiting, SECOND)
        events, code = hear_all(waiting)
        assert (events[-1]["error"]["code"], events[-1]["error"]["type"], code) == ("overloaded", "server_error", 1013)


def test_a_key_may_come_as_a_subprotocol_and_a_missing_one_is_401(serve):
    port = free_port()
    serve("--tcp", f"127.0.0.1:{port}", "--model", "fake", "--set", "server.token=open-sesame")
    url = f"ws://127.0.0.1:{port}/v1/realtime"
    with pytest.raises(InvalidStatus) as refused:
        connect(url)
    assert refused.value.response.status_code == 401
    offered = ["realtime", "openai-insecure-api-key.open-sesame", "openai-beta.realtime-v1"]
    with connect(url, subprotocols=offered) as socket:
        assert socket.subprotocol == "realtime"
        assert hear(socket, "transcription_session.created")


# ---------------------------------------------------------------- the end


def test_a_daemon_that_stops_completes_the_items_first(serve):
    daemon = serve("--tcp", "off", "--model", "fake", "--set", "presets.fake.decode_ms=300")
    with (
        unix_connect(str(daemon.audio), "ws://localhost/v1/realtime", max_size=None) as talking,
        unix_connect(str(daemon.audio), "ws://localhost/v1/realtime", max_size=None) as idle,
    ):
        say(talking, "session.update", session={"turn_detection": None})
        append(talking, SECOND)
        say(talking, "input_audio_buffer.commit")
        append(talking, SECOND)
        _until(lambda: any(row["audio_s"] >= 1.9 for row in daemon.call("sessions")["sessions"]))
        daemon.terminate()
        events, code = hear_all(talking)
        assert code == 1001
        check_items(events)
        assert [event["transcript"] for event in events if event["type"] == f"{NAMES}completed"] == ["w1 w2 w3"] * 2
        assert hear_all(idle)[1] == 1001


def test_a_session_that_is_closed_from_outside_completes_its_items(fake):
    with push_to_talk(fake) as socket, ControlLine(fake.daemon) as line:
        append(socket, SECOND)
        _until(lambda: any(row["audio_s"] >= 0.9 for row in line.call("sessions")["sessions"]))
        (row,) = line.call("sessions")["sessions"]
        assert (row["api"], row["label"].split()[0]) == ("realtime", "realtime")
        line.call("close_session", session=row["session"])
        events, code = hear_all(socket)
        assert code == 1000
        check_items(events)
        assert events[-1]["transcript"] == "w1 w2 w3"


def test_what_a_client_said_that_is_gone_goes_to_subscribers(fake):
    with ControlLine(fake.daemon) as line:
        line.call("subscribe", topics=["transcripts"])
        with push_to_talk(fake) as socket:
            append(socket, SECOND)
            say(socket, "input_audio_buffer.commit")
        event = line.event()
        assert (event["topic"], event["text"]) == ("transcripts", "w1 w2 w3")


# ---------------------------------------------------------------- strangers


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"\0\0", "invalid_json"),
        ("nonsense", "invalid_json"),
        ("[" * 5000, "invalid_json"),
        ('{"type": "response.create"}', "invalid_value"),
        ('{"type": "conversation.item.create", "item": {}}', "invalid_value"),
        ('{"type": "input_audio_buffer.append", "audio": "*"}', "invalid_value"),
        ('{"type": "input_audio_buffer.append"}', "missing_required_parameter"),
        ('{"type": "session.update"}', "missing_required_parameter"),
        ("[" * (2 << 20), "invalid_value"),
    ],
)
def test_nonsense_is_answered_and_the_connection_stays(fake, message, code):
    with fake.connect() as socket:
        hear(socket, "session.created")
        socket.send(message)
        assert hear(socket, "error")[-1]["error"]["code"] == code
        say(socket, "session.update", session={})
        hear(socket, "session.updated")


def test_the_largest_append_is_taken_and_nobody_waits_for_it(fake):
    with push_to_talk(fake) as big, push_to_talk(fake) as other:
        append(big, bytes(15 << 20))
        append(other, SECOND)
        say(other, "input_audio_buffer.commit")
        assert outcome(other)[-1]["transcript"] == "w1 w2 w3"
        assert big.ping().wait(PATIENCE_S)
        say(big, "session.update", session={})
        hear(big, "session.updated")
        append(big, bytes((15 << 20) + 1))
        assert hear(big, "error")[-1]["error"]["param"] == "audio"


def test_a_flood_of_commits_and_clears_is_answered_one_by_one(fake):
    tenth = SECOND[:4800]
    with push_to_talk(fake) as socket:
        sender = threading.Thread(target=_flood, args=(socket, tenth))
        sender.start()
        events = []
        while sum(event["type"] == f"{NAMES}completed" for event in events) < 50:
            events.append(json.loads(socket.recv(timeout=PATIENCE_S)))
        sender.join()
    check_items(events)
    assert sum(event["type"] == "input_audio_buffer.cleared" for event in events) == 100
    assert all(event["usage"]["seconds"] == 0.1 for event in events if event["type"] == f"{NAMES}completed")


def _flood(socket, tenth):
    for _ in range(50):
        append(socket, tenth[:960])
        say(socket, "input_audio_buffer.clear")
        say(socket, "input_audio_buffer.clear")
        append(socket, tenth)
        say(socket, "input_audio_buffer.commit")


def test_a_client_that_is_gone_in_the_middle_of_a_large_message_leaves_nothing(fake):
    with push_to_talk(fake, "?model=quick") as socket:
        append(socket, SECOND)
        say(socket, "session.update", session={})
        hear(socket, "session.updated")
        payload = bytes(10 << 20)
        socket.socket.sendall(b"\x81\xff" + (20 << 20).to_bytes(8, "big") + bytes(4) + payload.replace(b"\0", b"a"))
        socket.socket.close()
    _until(lambda: not fake.daemon.call("sessions")["sessions"])


def test_too_large_a_message_closes_with_1009_and_what_is_owed_still_comes(fake):
    with push_to_talk(fake) as socket:
        append(socket, SECOND)
        say(socket, "input_audio_buffer.commit")
        socket.send("x" * (21 * 1024 * 1024 + 1))
        events, code = hear_all(socket)
    assert code == 1009
    assert [event["transcript"] for event in events if event["type"] == f"{NAMES}completed"] == ["w1 w2 w3"]
    assert [event["error"]["code"] for event in events if event["type"] == "error"] == ["too_large"]


def _until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
