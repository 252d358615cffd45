"""The audio plane as its clients meet it: every op and option, with the fake recogniser and a foreign client."""

from __future__ import annotations

import base64
import json
import time

import numpy as np
import pytest

from tests.running import PATIENCE_S, RunningDaemon, check_promises, read_to_end, read_until, say, start, transcribe

SECOND = np.random.default_rng(1).integers(-3000, 3000, 16_000).astype("<i2").tobytes()


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    daemon = RunningDaemon.start(tmp_path_factory.mktemp("fake"), "--tcp", "off", "--model", "fake")
    yield daemon
    assert daemon.stop() == 0


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    daemon = RunningDaemon.start(
        tmp_path_factory.mktemp("slow"), "--tcp", "off", "--model", "fake", "--set", "presets.fake.decode_ms=400"
    )
    yield daemon
    assert daemon.stop() == 0


def of(events, kind):
    return [event for event in events if event["type"] == kind]


def test_the_shortest_client_works_as_written(fake):
    with fake.connect() as client:
        client.send(json.dumps({"op": "start", "sample_rate": 16000, "lang": "en"}))
        for _ in range(5):
            client.send(json.dumps({"op": "audio", "payload": base64.b64encode(SECOND).decode()}))
        client.send(json.dumps({"op": "stop"}))
        events = read_to_end(client)
        assert client.close_code == 1000
    assert [event["type"] for event in events[:2]] == ["hello", "started"]
    assert (events[-1]["type"], events[-1]["audio_s"]) == ("stopped", 5.0)


def test_hello_and_started_say_what_holds(fake):
    with fake.connect() as client:
        hello = json.loads(client.recv())
        assert (hello["type"], hello["protocol"]) == ("hello", 1)
        assert hello["server"].startswith("sttd/")
        assert {"demo", "fake"} <= set(hello["presets"])
        assert "container" in hello["encodings"]
        say(client, "start", label="notes", endpointing={"silence_ms_min": 300})
        started = json.loads(client.recv())
    assert started["session"]
    assert started["sample_rate"] == 16000
    assert started["lang"] == "auto"
    assert started["model"] == started["interim_model"] == "fake"
    assert (started["endpointing"]["silence_ms_min"], started["endpointing"]["silence_ms_max"]) == (300, 700)


def test_a_client_that_finalizes_itself_gets_one_utterance_a_finalize(fake):
    with fake.connect() as client:
        start(client, endpointing=False, interim=False, words=True)
        for _ in range(2):
            client.send(SECOND)
            say(client, "finalize")
        say(client, "stop")
        events = read_to_end(client)
    check_promises(events)
    finals = of(events, "final")
    assert [final["reason"] for final in finals] == ["finalize", "finalize"]
    assert [final["text"] for final in finals] == ["w1 w2 w3"] * 2
    assert [final["start_s"] for final in finals] == pytest.approx([0, 1], abs=0.03)
    assert finals[1]["words"][0]["start_s"] == pytest.approx(finals[1]["start_s"], abs=0.05)
    assert len(finals[0]["words"]) == 3
    assert [end["silence_ms"] for end in of(events, "speech_end")] == [0, 0]


def test_finalize_with_nothing_open_is_answered_by_a_final_alone(fake):
    with fake.connect() as client:
        start(client)
        say(client, "finalize")
        events = read_until(client, "final")
        say(client, "stop")
        rest = read_to_end(client)
    assert [event["type"] for event in events] == ["final"]
    assert (events[0]["utterance"], events[0]["text"], events[0]["reason"]) == (1, "", "finalize")
    assert rest[-1] == {"type": "stopped", "audio_s": 0.0, "utterances": 1, "dropped_s": 0.0}


def test_the_rest_of_a_frame_behind_a_finalize_is_no_utterance(fake):
    with fake.connect() as client:
        start(client, endpointing=False, interim=False)
        client.send(SECOND + bytes(32))
        say(client, "finalize")
        say(client, "stop")
        events = read_to_end(client)
    assert [event["utterance"] for event in of(events, "final")] == [1]


def test_an_empty_file_is_an_error_that_says_so(fake):
    events = transcribe(fake, b"", kind="file", encoding="container")
    assert [(event["type"], event["code"]) for event in events if event["type"] != "progress"] == [
        ("error", "bad_audio")
    ]


def test_interims_have_numbers_that_rise_and_ends_that_grow(fake):
    with fake.connect() as socket_:
        start(socket_, endpointing=False)
        events = []
        for _ in range(4):  # whoever sends everything at once and stops may get none: they are for live speech
            socket_.send(SECOND)
            events += read_until(socket_, "interim")
        say(socket_, "stop")
        events += read_to_end(socket_)
    check_promises(events)
    interims = of(events, "interim")
    assert len(interims) >= 4
    assert [interim["seq"] for interim in interims] == sorted({interim["seq"] for interim in interims})
    ends = [interim["end_s"] for interim in interims]
    assert ends == sorted(ends)
    assert {"utterance", "seq", "text", "stable_chars", "start_s", "end_s", "type"} == set(interims[0])


def test_who_asks_for_words_gets_them_with_interims(fake):
    with fake.connect() as socket_:
        start(socket_, endpointing=False, words=True)
        socket_.send(SECOND * 6)
        events = read_until(socket_, "interim")  # whoever stops at once may get none
        say(socket_, "stop")
        events += read_to_end(socket_)
    interims = of(events, "interim")
    for interim in interims:
        words = interim["words"]
        assert "".join(word["word"] for word in words) == interim["text"]
        assert all(0 < word["probability"] <= 1 for word in words)
        stable = "".join(word["word"] for word in words if word["stable"])
        assert stable == interim["text"][: interim["stable_chars"]]


def test_without_interims_there_are_none(fake):
    assert of(transcribe(fake, SECOND * 3, endpointing=False, interim=False), "interim") == []


def test_max_utterance_cuts_and_loses_nothing(fake):
    events = transcribe(fake, SECOND * 7, endpointing={"max_utterance_s": 2}, lang="en")
    check_promises(events)
    events = transcribe(fake, SECOND * 7, endpointing=False, interim=False)
    assert sum(len(final["text"].split()) for final in of(events, "final")) == 23  # floor(7000 / 300)


@pytest.mark.parametrize(
    ("encoding", "dtype", "scale"),
    [("pcm_s16le", "<i2", 1), ("pcm_s32le", "<i4", 65536), ("pcm_f32le", "<f4", 1 / 32768)],
)
def test_encodings_rates_and_channels_keep_the_clock(fake, encoding, dtype, scale):
    samples = np.frombuffer(SECOND, "<i2")
    at_48k = np.repeat(samples, 3)
    stereo = np.repeat(at_48k[:, None], 2, axis=1)
    data = (stereo.astype("f8") * scale).astype(dtype).tobytes()
    events = transcribe(
        fake, data, encoding=encoding, sample_rate=48_000, channels=2, endpointing=False, chunk_bytes=4001
    )
    check_promises(events)
    assert events[-1]["audio_s"] == pytest.approx(1.0, abs=0.05)
    assert of(events, "final")[0]["text"] == "w1 w2 w3"


def test_configure_takes_effect_with_the_next_utterance(fake):
    with fake.connect() as client:
        start(client, endpointing=False, lang="en")
        client.send(SECOND)
        say(client, "configure", lang="de", interim=False)
        client.send(SECOND)
        say(client, "finalize")
        client.send(SECOND * 2)
        say(client, "stop")
        events = read_to_end(client)
    check_promises(events)
    first, second = of(events, "final")
    assert (first["language"], second["language"]) == ("en", "de")
    assert [interim["utterance"] for interim in of(events, "interim") if interim["utterance"] == 2] == []


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('{"op": "start"}', "already_started"),
        ('{"op": "sing"}', "unknown_op"),
        ('{"no": "op"}', "unknown_op"),
        ("[1]", "bad_request"),
        ("{", "bad_request"),
        ('{"op": "configure", "lang": 5}', "bad_option"),
        ('{"op": "configure", "volume": 5}', "bad_option"),
        ('{"op": "audio", "payload": "?"}', "bad_option"),
        ('{"op": "stop", "now": true}', "bad_option"),
    ],
)
def test_a_wrong_message_is_named_and_the_session_goes_on(fake, message, code):
    with fake.connect() as client:
        start(client, endpointing=False)
        client.send(message)
        error = read_until(client, "error")[-1]
        assert (error["code"], error["fatal"]) == (code, False)
        assert error["message"]
        client.send(SECOND)
        say(client, "stop")
        events = read_to_end(client)
    check_promises(events)
    assert of(events, "final")[0]["text"] == "w1 w2 w3"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"model": "nobody"}, "model_not_found"),
        ({"sample_rate": 7999}, "bad_option"),
        ({"channels": 9}, "bad_option"),
        ({"channels": 1, "channel_select": 1}, "bad_option"),
        ({"lang": "xx"}, "bad_option"),
        ({"encoding": "mp3"}, "bad_option"),
        ({"words": 1}, "bad_option"),
        ({"endpointing": {"silence_ms_min": 900, "silence_ms_max": 500}}, "bad_option"),
        ({"endpointing": True}, "bad_option"),
        ({"tempo": 3}, "bad_option"),
    ],
)
def test_a_wrong_start_is_refused_and_may_be_tried_again(fake, options, code):
    with fake.connect() as client:
        client.recv()
        say(client, "start", **options)
        error = json.loads(client.recv())
        assert (error["type"], error["code"]) == ("error", code)
        if not error["fatal"]:
            say(client, "start")
            assert json.loads(client.recv())["type"] == "started"


def test_audio_before_start_is_refused(fake):
    with fake.connect() as client:
        client.recv()
        client.send(SECOND)
        assert json.loads(client.recv())["code"] == "not_started"


def test_bad_audio_is_fatal_and_what_was_shown_gets_its_final(fake):
    with fake.connect() as client:
        start(client, encoding="container")
        client.send(b"this is no audio file at all" * 100)
        say(client, "stop")
        events = read_to_end(client)
        assert client.close_code == 1003
    assert [(event["type"], event["code"], event["fatal"]) for event in events] == [("error", "bad_audio", True)]


def test_a_slow_engine_loses_nothing_with_overflow_wait(slow):
    with slow.connect() as client:
        start(client, endpointing=False, interim=False)
        for _ in range(10):
            client.send(SECOND)
            say(client, "finalize")
        say(client, "stop")
        events = read_to_end(client)
    check_promises(events)
    assert [final["text"] for final in of(events, "final")] == ["w1 w2 w3"] * 10
    assert events[-1]["dropped_s"] == 0.0


def test_overflow_drop_says_what_it_lost(slow):
    with slow.connect() as client:
        start(client, endpointing=False, interim=False, overflow="drop")
        for _ in range(120):
            client.send(SECOND)
            say(client, "finalize")
        say(client, "stop")
        events = read_to_end(client)
    check_promises(events)
    gaps = of(events, "gap")
    assert gaps
    lost = sum(gap["to_s"] - gap["from_s"] for gap in gaps)
    assert lost > 1
    assert events[-1]["dropped_s"] == pytest.approx(lost, abs=0.01)
    assert events[-1]["audio_s"] == pytest.approx(120, abs=0.5)


def test_a_dropped_connection_still_gets_its_finals_to_subscribers(slow):
    import msgpack

    from tests.running import socket

    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(PATIENCE_S)
        control.connect(str(slow.control))
        control.sendall(msgpack.packb([0, 1, "subscribe", [{"topics": ["transcripts"]}]]))
        unpacker = msgpack.Unpacker()

        def messages():
            while True:
                yield from unpacker
                unpacker.feed(control.recv(65536))

        stream = messages()
        assert next(stream)[:2] == [1, 1]
        with slow.connect() as client:
            session = start(client, endpointing=False, interim=False)["session"]
            client.send(SECOND)
            read_until(client, "speech_start")
            client.socket.shutdown(socket.SHUT_RDWR)  # no close frame: the cable was pulled
        kind, name, (event,) = next(stream)
    assert (kind, name, event["topic"], event["event"]) == (2, "event", "transcripts", "final")
    assert (event["session"], event["text"], event["reason"]) == (session, "w1 w2 w3", "disconnect")


def closed_by_another(daemon, *, drain):
    """What a client that is in the middle of an utterance is told, interims aside, and the close code."""
    with daemon.connect() as client:
        session = start(client, endpointing=False)["session"]
        client.send(SECOND)
        read_until(client, "speech_start")
        assert daemon.call("close_session", session=session, drain=drain) == {}
        events = read_to_end(client)
        return [event for event in events if event["type"] != "interim"], client.close_code


def test_close_session_drains(slow):
    events, code = closed_by_another(slow, drain=True)
    assert ([event["type"] for event in events], code) == (["speech_end", "final", "stopped"], 1000)
    assert events[1]["reason"] == "drain"


def test_close_session_at_once_takes_the_stable_text_and_waits_for_no_decode(serve):
    minute = "presets.fake.decode_ms=60000"
    daemon = serve("--tcp", "off", "--model", "fake", "--set", minute, "--set", "server.drain_s=0.1")
    began = time.monotonic()
    events, code = closed_by_another(daemon, drain=False)
    assert time.monotonic() - began < 30
    assert ([event["type"] for event in events], code) == (["speech_end", "final", "stopped"], 1008)
    assert (events[1]["text"], events[1]["reason"]) == ("", "drain")


def test_lock_stable_keeps_every_stable_character(fake):
    events = transcribe(fake, SECOND * 6, endpointing=False, lock_stable=True)
    check_promises(events)
    stable = [interim["text"][: interim["stable_chars"]] for interim in of(events, "interim")]
    assert of(events, "final")[0]["text"].startswith(max(stable, key=len, default=""))


def test_a_message_that_is_too_large_closes_with_1009(fake):
    with fake.connect() as client:
        start(client, endpointing=False)
        client.send(bytes(1_100_000))
        events = read_to_end(client)
        assert client.close_code == 1009
    assert all(event["type"] != "stopped" for event in events)


def test_status_counts_what_happened(fake):
    transcribe(fake, SECOND * 2, endpointing=False)
    status = fake.call("status")
    assert status["sessions"]["total"] >= 1
    assert status["latency_ms"]["final"]["p50"] > 0
    assert status["models"]["entries"][0]["cache_key"].startswith("fake|threads=")
    assert status["scheduler"]["batches"] > 0
