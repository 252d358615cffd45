"""Home Assistant's own client package against a real daemon: every rule of the wire, and clients that mean harm.

The model is `fake`: n seconds are heard as n / 0.3 words, `w1 w2 …`, so that a lost word is seen.
"""

import contextlib
import json
import os
import re
import socket
import threading
import time
from pathlib import Path

import attrs
import pytest
from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient, AsyncTcpClient
from wyoming.error import Error
from wyoming.event import Event, write_event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong

from tests.running import ControlLine, RunningDaemon, read_pcm, read_until, say, start, transcribe
from tests.wyoming_client import PCM, SPOKEN_S, open_client, text_of

WORDS = [f"w{number}" for number in range(1, 11)]
PATIENCE_S = 60.0  # a limit for machines that are busy; nothing here takes that long
CLIP = Path(__file__).parents[1] / "data" / "light.flac"


@attrs.frozen
class Running:
    """A daemon with Wyoming on a port and on a path."""

    daemon: RunningDaemon
    port: int

    @property
    def path(self):
        return self.daemon.directory / "w.sock"

    def sessions(self):
        return self.daemon.call("sessions")["sessions"]

    def wait(self, holds):
        """Until it holds; an event of another process cannot be waited for otherwise."""
        deadline = time.monotonic() + PATIENCE_S
        while not (result := holds()):
            assert time.monotonic() < deadline, self.sessions()
            time.sleep(0.02)
        return result

    @contextlib.contextmanager
    def client(self, *, path=None, source="127.0.0.1"):
        """A client that uses the package's reading and writing on a socket of its own."""
        if path is None:
            sock = socket.create_connection(("127.0.0.1", self.port), PATIENCE_S, source_address=(source, 0))
        else:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(PATIENCE_S)
            sock.connect(str(path))
        with open_client(sock) as client:
            yield client


def the_error(events):
    assert Error.is_type(events[-1].type), events
    error = Error.from_event(events[-1])
    assert error.text
    return error.code


@contextlib.contextmanager
def running(directory, *arguments, address="127.0.0.1:0"):
    wyoming = f'server.wyoming=["{address}", "unix://w.sock"]'
    daemon = RunningDaemon.start(directory, "--tcp", "off", "--model", "fake", "--set", wyoming, *arguments)
    try:
        names = daemon.call("status")["server"]["listeners"]
        (port,) = (int(name.rpartition(":")[2]) for name in names if name.startswith("wyoming: ") and "/" not in name)
        yield Running(daemon, port)
    finally:
        assert daemon.stop() == 0, daemon.log()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with running(tmp_path_factory.mktemp("wyoming") / "run") as found:
        yield found
        log = found.daemon.log()
        assert re.search(r"\bw1\b", log) is None  # as a word: directories in it may be named `gw1`
        assert "Traceback" not in log


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """Every decode takes 0.3 s, and interims come as often as they may."""
    arguments = ("--set", "presets.fake.decode_ms=300", "--set", "interim.interim_min_ms=100")
    with running(tmp_path_factory.mktemp("wyoming") / "slow", *arguments) as found:
        yield found


def play(coroutine):
    """Run a coroutine of the package's clients, which are for asyncio."""
    import asyncio  # noqa: TID251 (the daemon is Trio, its clients need not be)

    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE_S))


# ------------------------------------------------------------------ the real clients


async def one_utterance(client, *before):
    """What Home Assistant does (components/wyoming/stt.py)."""
    for event in (*before, AudioStart(16000, 2, 1)):
        await client.write_event(event.event())
    for at in range(0, len(PCM), 2048):
        await client.write_event(AudioChunk(16000, 2, 1, PCM[at : at + 2048]).event())
    await client.write_event(AudioStop().event())
    while True:
        event = await client.read_event()
        assert event is not None
        if Transcript.is_type(event.type):
            return Transcript.from_event(event)


def test_the_tcp_client_gets_info_and_any_number_of_transcripts(shared):
    async def talk():
        async with AsyncTcpClient("127.0.0.1", shared.port) as client:
            await client.write_event(Describe().event())
            info = Info.from_event(await client.read_event())
            texts = [await one_utterance(client, Transcribe(language="en")) for _ in range(2)]
            texts.append(await one_utterance(client))
        return info, texts

    info, texts = play(talk())
    (program,) = info.asr
    presets = shared.daemon.call("models")["presets"]
    assert (program.name, program.installed, program.supports_transcript_streaming) == ("sttd", True, True)
    assert program.models[0].name == "fake"
    assert {(model.name, model.installed) for model in program.models} == {
        (row["preset"], row["local"]) for row in presets
    }
    languages = {model.name: model.languages for model in program.models}
    assert languages["demo"] == languages["base.en"] == ["en"]
    assert {"de", "en", "zh"} <= set(languages["base"])
    assert "yue" not in languages["base"]
    assert "yue" in languages["large-v3"]
    assert [text.text.split() for text in texts] == [WORDS] * 3
    assert {text.language for text in texts} == {"en"}


def test_the_client_of_a_unix_socket_is_served_alike(shared):
    async def talk():
        async with AsyncClient.from_uri(f"unix://{shared.path}") as client:
            return await one_utterance(client, Transcribe(name="whisper-1", language="en-GB"))

    assert play(talk()).text.split() == WORDS
    assert f"wyoming: {shared.path}" in shared.daemon.call("status")["server"]["listeners"]


def test_eight_satellites_are_served_at_once_while_a_file_is_transcribed(slow):
    async def talk():
        import asyncio  # noqa: TID251

        async def satellite():
            async with AsyncTcpClient("127.0.0.1", slow.port) as client:
                return (await one_utterance(client)).text.split()

        return await asyncio.gather(*(satellite() for _ in range(8)))

    with slow.daemon.connect() as file:
        start(file, kind="file")
        for _ in range(20):
            file.send(PCM)
        say(file, "stop")
        assert play(talk()) == [WORDS] * 8
        with slow.client() as client:  # and while there is work, questions are answered as quickly as ever
            client.say(Describe())
            assert Info.is_type(client.hear().type)
        read_until(file, "stopped")


# ------------------------------------------------------------------ audio


@pytest.mark.parametrize("step", [2, 320, 999, 32_000, len(PCM)])
def test_chunks_of_any_size_are_the_same_speech(shared, step):
    pcm = PCM if step > 2 else PCM[: len(PCM) // 5]
    with shared.client() as client:
        assert client.transcribe(pcm, step=step).split() == WORDS[: 10 * len(pcm) // len(PCM)]


@pytest.mark.parametrize(
    ("rate", "width", "channels"), [(22050, 2, 2), (8000, 1, 1), (48000, 3, 2), (44100, 4, 1), (192000, 2, 8)]
)
def test_audio_of_any_format_is_taken(shared, rate, width, channels):
    """3.1 s, since a resampler keeps a little at the end; in chunks that end within samples."""
    silence = bytes([128]) if width == 1 else bytes(width)
    with shared.client() as client:
        pcm = silence * int(3.1 * rate) * channels
        assert client.transcribe(pcm, rate=rate, width=width, channels=channels, step=8191).split() in (WORDS, [])


def test_an_utterance_may_begin_with_its_first_chunk_and_have_chunks_without_samples(shared):
    with shared.client() as client:
        client.say(AudioChunk(16000, 2, 1, b""))
        client.speak()
        client.say(AudioChunk(16000, 2, 1, b""), AudioStop())
        assert text_of(client.told()).split() == WORDS


def test_no_audio_and_next_to_none_are_answered_with_no_text(shared):
    with shared.client() as client:
        assert client.transcribe(b"") == ""
        assert client.transcribe(b"\x01") == ""
        assert client.transcribe(bytes(3200)) == ""
        assert client.transcribe().split() == WORDS


def test_stable_text_comes_while_the_person_speaks_and_the_transcript_only_after_the_stop(slow):
    with slow.client() as client:
        pieces = client.speak_until_told()
        events = [client.hear(), client.hear()]
        assert TranscriptStart.is_type(events[0].type)
        assert TranscriptChunk.is_type(events[1].type)
        client.say(Ping("still speaking"))
        while not Pong.is_type((event := client.hear()).type):
            assert TranscriptChunk.is_type(event.type)
            events.append(event)
        client.say(AudioStop())
        events += client.told()
    assert text_of(events).split() == [f"w{number + 1}" for number in range(pieces)]
    assert TranscriptStop.is_type(events[-1].type)


def test_an_utterance_longer_than_a_window_is_one_transcript(tmp_path):
    arguments = ("--set", "endpointing.max_utterance_s=2", "--set", "server.wyoming_streaming=false")
    with running(tmp_path / "run", *arguments) as found, found.client() as client:
        client.say(Describe())
        assert not Info.from_event(client.hear()).asr[0].supports_transcript_streaming
        client.say(AudioStart(16000, 2, 1))
        client.speak(PCM * 2)
        client.say(AudioStop(), Ping("end"))
        events = [client.hear(), client.hear()]
    (text,) = (Transcript.from_event(event).text for event in events if Transcript.is_type(event.type))
    assert text.split().count("w1") >= 3  # 6 s in windows of 2 s at the most, each of which has its own words
    assert len(text.split()) >= 15


def test_a_start_in_an_utterance_ends_that_one_and_only_the_second_gets_a_transcript(shared):
    with shared.client() as client:
        client.say(AudioStart(16000, 2, 1))
        client.speak()
        client.say(AudioStart(16000, 2, 1), AudioStop())
        (transcript,) = [event for event in client.told() if Transcript.is_type(event.type)]
        assert Transcript.from_event(transcript).text == ""
        client.say(Transcribe(language="xx"))
        assert client.transcribe().split() == WORDS
    shared.wait(lambda: "a language that sttd does not know" in shared.daemon.log())


def test_hotwords_and_models_are_for_the_utterances_that_follow(shared):
    with shared.client() as client:
        client.say(AudioStart(16000, 2, 1), Transcribe(name="FAKE", transcript_names=["Anna"] * 300))
        client.speak()
        client.say(AudioStop())
        assert text_of(client.told()).split() == WORDS
        client.say(AudioStart(16000, 2, 1))
        (row,) = shared.wait(shared.sessions)
        assert (row["api"], row["label"], row["model"], row["uid"]) == ("wyoming", "wyoming", "fake", os.geteuid())
        client.say(AudioStop())
        client.told()
        client.say(Ping())
        client.hear()
        shared.wait(lambda: not shared.sessions())  # a connection that waits for its user holds nothing


@pytest.mark.model
def test_the_embedded_model_hears_what_is_said(tmp_path):
    said = json.loads(CLIP.with_suffix(".json").read_text())["utterances"][0]["text"]
    with running(tmp_path / "run", "--model", "demo") as found, found.client(path=found.path) as client:
        assert client.transcribe(read_pcm(CLIP, rate=48000, channels=2), rate=48000, channels=2) == said


# ------------------------------------------------------------------ the end


def test_a_client_that_goes_costs_no_decode(tmp_path):
    with running(tmp_path / "run", "--set", "presets.fake.decode_ms=2000") as found:
        with ControlLine(found.daemon) as line:
            line.call("subscribe", topics=["transcripts", "sessions"])
            with found.client() as client:
                client.say(AudioStart(16000, 2, 1))
                client.speak()
                client.say(AudioStop(), Ping("heard"))
                assert Pong.is_type(client.hear().type)
                found.wait(lambda: found.daemon.call("status")["scheduler"]["in_flight"])
            events = []
            while not events or events[-1]["event"] != "closed":
                events.append(line.event())
            assert line.call("status")["scheduler"]["in_flight"]  # for nobody, and nobody waits for it
        assert [event["text"] for event in events if event["event"] == "final"] in ([], [""])


def test_what_somebody_has_text_of_is_decoded_for_those_who_listen(slow):
    with ControlLine(slow.daemon) as line:
        line.call("subscribe", topics=["transcripts"])
        with slow.client() as client:
            client.speak_until_told()
            assert TranscriptStart.is_type(client.hear().type)
            told = TranscriptChunk.from_event(client.hear()).text
        event = line.event()
    assert event["reason"] == "disconnect"
    assert event["text"].startswith(told)
    assert event["text"].split() == [f"w{number + 1}" for number in range(len(event["text"].split()))]


def test_what_was_said_when_the_daemon_is_stopped_gets_its_transcript_and_an_idle_client_its_end(tmp_path):
    decode = ("--set", "presets.fake.decode_ms=200")
    with running(tmp_path / "run", *decode) as found, found.client() as speaker, found.client() as idle:
        idle.say(Ping())
        idle.hear()
        speaker.say(AudioStart(16000, 2, 1))
        speaker.speak()
        found.wait(lambda: any(row["audio_s"] >= SPOKEN_S for row in found.sessions()))
        found.daemon.terminate()
        assert idle.rest() == []
        assert text_of(speaker.rest()).split() == WORDS


def test_what_cannot_be_decoded_in_time_is_an_error_and_no_half_transcript(tmp_path):
    arguments = ("--set", "presets.fake.decode_ms=4000", "--set", "server.drain_s=0.3")
    with running(tmp_path / "run", *arguments) as found, found.client() as client:
        client.say(AudioStart(16000, 2, 1))
        client.speak()
        client.say(AudioStop())
        found.wait(lambda: found.daemon.call("status")["scheduler"]["in_flight"])
        found.daemon.terminate()
        assert the_error(client.rest()) == "shutting_down"


def test_a_session_that_is_closed_from_outside_gets_its_transcript(shared):
    with shared.client() as client:
        client.say(AudioStart(16000, 2, 1))
        client.speak()
        (row,) = shared.wait(lambda: [row for row in shared.sessions() if row["audio_s"] >= SPOKEN_S])
        shared.daemon.call("close_session", session=row["session"])
        assert text_of(client.rest()).split() == WORDS


def test_a_connection_on_which_nothing_is_said_is_closed_and_one_that_waits_is_not(tmp_path):
    arguments = ("--set", "limits.adapter_idle_s=1", "--set", "presets.fake.decode_ms=1500")
    with running(tmp_path / "run", *arguments) as found, found.client() as idle, found.client() as waiting:
        waiting.say(AudioStart(16000, 2, 1))
        waiting.speak()
        waiting.say(AudioStop())
        idle.say(AudioStart(16000, 2, 1))
        assert the_error(idle.rest()) == "idle_timeout"
        assert text_of(waiting.told()).split() == WORDS


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "bad_request"),
        (b'["describe"]\n', "bad_request"),
        (b"{" * 5000 + b"\n", "too_large"),
        (b'{"type": "ping", "data_length": -5}\n', "bad_request"),
        (b'{"type": "' + b"x" * 70_000, "too_large"),
        (b'{"type": "ping", "data_length": 1048577}\n', "too_large"),
        (b'{"type": "audio-chunk", "payload_length": 1048577}\n', "too_large"),
        (b'{"type": "audio-start", "data": {"rate": 7999, "width": 2, "channels": 1}}\n', "bad_option"),
        (b'{"type": "audio-chunk", "data": {"rate": 16000, "width": 5, "channels": 1}}\n', "bad_option"),
        (b'{"type": "transcribe", "data": {"name": "no-such-model"}}\n', "model_not_found"),
        (b'{"type": "transcribe", "data": {"transcript_names": "Anna"}}\n', "bad_option"),
    ],
)
def test_what_the_protocol_does_not_allow_is_an_error_and_then_the_end(shared, data, code):
    """Also for a client that goes on writing: no reset overtakes the error."""
    with shared.client() as neighbour, shared.client() as client:
        neighbour.say(AudioStart(16000, 2, 1))
        client.socket.sendall(data)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.speak(PCM)
        assert the_error(client.rest()) == code
        neighbour.speak()
        neighbour.say(AudioStop())
        assert text_of(neighbour.told()).split() == WORDS


def test_another_format_within_an_utterance_is_an_error_in_place_of_its_transcript(shared):
    with shared.client() as client:
        client.say(AudioStart(16000, 2, 1))
        client.speak(PCM[:32000])
        client.say(AudioChunk(8000, 2, 1, bytes(320)), AudioStop())
        events = client.rest()
    assert the_error(events) == "bad_audio"
    assert not any(Transcript.is_type(event.type) for event in events)


def test_a_model_that_is_not_on_disk_is_refused_with_the_command_that_gets_it(shared):
    absent = next(row["preset"] for row in shared.daemon.call("models")["presets"] if not row["local"])
    with shared.client() as client:
        client.say(Transcribe(name=absent), AudioStart(16000, 2, 1))
        client.speak()
        client.say(AudioStop())
        events = client.rest()
    assert the_error(events) == "model_not_local"
    assert "pull" in Error.from_event(events[-1]).text


def test_overload_is_said_before_any_work(tmp_path):
    arguments = ("--set", "limits.sessions=1", "--set", "limits.connections=2")
    with running(tmp_path / "run", *arguments) as found, found.client() as first, found.client() as second:
        for client in (first, second):
            client.say(Ping())
            assert Pong.is_type(client.hear().type)
        with found.client() as third:
            assert the_error(third.rest()) == "overloaded"
        first.say(AudioStart(16000, 2, 1))
        found.wait(found.sessions)
        second.say(AudioStart(16000, 2, 1), Ping("not answered any more"))
        assert the_error(second.rest()) == "overloaded"
        first.speak()
        first.say(AudioStop())
        assert text_of(first.told()).split() == WORDS


# ------------------------------------------------------------------ clients that mean harm


def test_floods_trickles_and_clients_that_do_not_read_disturb_nobody(slow):
    """A client that asks for as much as it can, one that sends bytes, some that read nothing; then all vanish."""
    stop = threading.Event()
    ping = b'{"type":"ping","data":{"text":"' + b"x" * 1000 + b'"}}\n'
    long_names = b'{"transcript_names": [' + b'"a",' * 200_000 + b'"a"]}'
    floods = [
        b'{"type":"describe"}\n' * 500,
        ping * 500,
        b'{"type":"nothing"}\n' * 3000,
        b'{"type":"transcribe","data_length":%d}\n' % len(long_names) + long_names,
        b'{"type":"audio-start","data":{"rate":16000,"width":2,"channels":1}}\n' * 300,
    ]

    def flood(data):
        with slow.client() as client, contextlib.suppress(OSError):
            client.socket.settimeout(0.2)
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):  # it reads nothing, so at some time nothing is taken
                    client.socket.sendall(data)

    def trickle():
        with slow.client() as client, contextlib.suppress(OSError):
            for byte in b'{"type": "audio-chunk", "data_length": 100, "payload_length": 1000000}\n{"rate":':
                client.socket.sendall(bytes([byte]))
                stop.wait(0.05)

    threads = [threading.Thread(target=flood, args=(data,)) for data in floods]
    threads.append(threading.Thread(target=trickle))
    for thread in threads:
        thread.start()
    try:
        with slow.client() as client:
            assert client.transcribe().split() == WORDS
            client.say(Describe())
            assert Info.is_type(client.hear().type)
        finals = [
            event["text"] for event in transcribe(slow.daemon, PCM, endpointing=False) if event["type"] == "final"
        ]
        assert [text.split() for text in finals] == [WORDS]
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)
    slow.wait(lambda: not slow.sessions())
    assert "Traceback" not in slow.daemon.log()


# ------------------------------------------------------------------ who may come


def test_only_addresses_on_the_list_are_read(tmp_path):
    arguments = ("--set", "server.wyoming_allowed=127.0.0.2, 192.0.2.0/24", "--set", "server.token=s3cret")
    with running(tmp_path / "run", *arguments, address="0.0.0.0:0") as found:
        with found.client() as stranger, contextlib.suppress(ConnectionResetError):
            assert stranger.rest() == []
        with found.client(source="127.0.0.2") as friend:
            assert friend.transcribe().split() == WORDS
        assert "Wyoming knows no token" in found.daemon.log()


def test_without_a_list_it_does_not_start_beyond_this_machine(tmp_path):
    with pytest.raises(RuntimeError, match=r"(?s)ended with 2.*wyoming_allowed"):
        RunningDaemon.start(tmp_path, "--tcp", "off", "--model", "fake", "--set", "server.wyoming=0.0.0.0:0")


def test_the_default_port_taken_by_another_is_a_warning_and_with_a_token_it_is_not_opened(tmp_path):
    default = ("--tcp", "off", "--model", "fake", "--set", "server.wyoming_streaming=true")  # and its own address
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # somebody else holds it: all the same here
            holder.bind(("127.0.0.1", 10300))
            holder.listen()
        daemon = RunningDaemon.start(tmp_path / "a", *default)
        assert not any("wyoming" in name for name in daemon.call("status")["server"]["listeners"])
        assert daemon.stop() == 0
        assert "127.0.0.1:10300 is in use" in daemon.log()
        daemon = RunningDaemon.start(tmp_path / "b", *default, "--set", "server.token=s3cret")
        assert daemon.stop() == 0
        assert "10300" not in daemon.log()


def test_events_of_other_services_are_read_over(shared):
    with shared.client() as client:
        write_event(Event("synthesize", {"text": "hello"}, b"1234"), client.file)
        write_event(Event("select-program", {"name": "sttd"}), client.file)
        client.say(Ping("a"))
        assert Pong.from_event(client.hear()).text == "a"
