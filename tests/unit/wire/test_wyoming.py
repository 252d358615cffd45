"""The Wyoming codec: what real clients write, what it refuses, and that chunks do not matter."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wyoming.asr import Transcribe as TheirTranscribe
from wyoming.audio import AudioChunk as TheirChunk
from wyoming.audio import AudioChunkConverter
from wyoming.audio import AudioStart as TheirStart
from wyoming.audio import AudioStop as TheirStop
from wyoming.event import Event as TheirEvent
from wyoming.event import read_event, write_event
from wyoming.info import Describe as TheirDescribe
from wyoming.info import Info
from wyoming.ping import Ping as TheirPing

from sttd.errors import ProtocolError
from sttd.wire import wyoming
from sttd.wire.wyoming import (
    MAX_DATA_BYTES,
    MAX_LINE_BYTES,
    MAX_PAYLOAD_BYTES,
    AudioChunk,
    AudioStart,
    AudioStop,
    Describe,
    EventReader,
    Format,
    Model,
    Other,
    Ping,
    Samples,
    Transcribe,
    Widener,
)

SPEECH = Format(rate=16000, width=2, channels=1)
AUDIO = {"rate": 16000, "width": 2, "channels": 1}


class _Bytes:
    """A file for `write_event`."""

    def __init__(self):
        self.data = b""

    def writelines(self, lines):
        self.data += b"".join(lines)

    def write(self, data):
        self.data += data

    def flush(self):
        pass


def theirs(*events):
    """What the package `wyoming` writes."""
    file = _Bytes()
    for event in events:
        write_event(event if isinstance(event, TheirEvent) else event.event(), file)
    return file.data


def line(**head):
    return json.dumps(head).encode() + b"\n"


def read(*pieces):
    reader, events = EventReader(), []
    for piece in pieces:
        reader.receive_data(piece)
        while (event := reader.next_event()) is not None:
            events.append(event)
    return events


def refused(data):
    with pytest.raises(ProtocolError) as caught:
        read(data)
    return caught.value.code


# ------------------------------------------------------------------ reading


def test_what_the_real_clients_write_is_understood():
    stream = theirs(
        TheirDescribe(),
        TheirPing("hi"),
        TheirPing(),
        TheirTranscribe(name="base", language="de", transcript_names=["Büro", "Küche"], transcript_terms=["Lux"]),
        TheirTranscribe(),
        TheirStart(16000, 2, 1),
        TheirChunk(16000, 2, 1, b"abcdef", timestamp=20),
        TheirChunk(16000, 2, 1, b""),
        TheirStop(),
    )
    assert read(stream) == [
        Describe(),
        Ping("hi"),
        Ping(None),
        Transcribe(name="base", language="de", words=("Büro", "Küche", "Lux")),
        Transcribe(),
        AudioStart(SPEECH),
        AudioChunk(SPEECH),
        Samples(b"abcdef"),
        AudioChunk(SPEECH),
        AudioStop(),
    ]


def test_data_may_lie_in_the_line_and_beside_it_and_what_lies_beside_counts():
    assert read(line(type="audio-start", data=AUDIO)) == [AudioStart(SPEECH)]
    body = json.dumps({"width": 4}).encode()
    merged = read(line(type="audio-start", data=AUDIO, data_length=len(body)) + body)
    assert merged == [AudioStart(Format(rate=16000, width=4, channels=1))]
    assert read(line(type="ping", data=None, data_length=None, payload_length=None)) == [Ping(None)]
    assert read(b'{"type": "describe", "version": 7}\r\n') == [Describe()]


def test_unknown_events_and_payloads_of_no_use_are_read_over():
    stream = (
        line(type="synthesize", data_length=5, payload_length=7) + b"<any>" + b"payload"
        + line(type="detect", data=[1, 2]) + line(type="describe", data_length=3, payload_length=2) + b"{{{" + b"xx"
        + line(type="ping", data={"text": 5}, payload_length=4) + b"\n{\n}"
        + line(type="audio-stop")
    )  # fmt: skip
    assert read(stream) == [Other(), Other(), Describe(), Ping(None), AudioStop()]


def test_a_payload_is_handed_on_as_it_comes():
    head = line(type="audio-chunk", data=AUDIO, payload_length=6)
    assert read(head + b"ab", b"c", b"def" + line(type="audio-stop")) == [
        AudioChunk(SPEECH),
        Samples(b"ab"),
        Samples(b"c"),
        Samples(b"def"),
        AudioStop(),
    ]


def test_words_that_nobody_could_say_are_left_out():
    names = ["  Living \t room ", "", "\u0000", "\ud800", "x" * 101, "Living room"]
    data = {"transcript_names": names, "transcript_terms": None}
    assert read(line(type="transcribe", data=data)) == [Transcribe(words=("Living room",))]


@pytest.mark.parametrize(
    "data",
    [
        b"\n",
        b"GET / HTTP/1.1\r\n",
        b"[]\n",
        b'"describe"\n',
        b"{}\n",
        line(type=None),
        line(type=["describe"]),
        b'{"type": "describe", "type": "ping"}\n',
        b'{"type": "ping", "data": {"text": NaN}}\n',
        b"\xff\xfe\n",
        b'{"type": "' + b"[" * 999 + b"\n",
        line(type="describe", data_length=-1),
        line(type="describe", data_length="5"),
        line(type="describe", data_length=True),
        line(type="describe", payload_length=1.5),
        line(type="audio-start", data=[]),
        line(type="ping", data_length=4) + b"null",
        line(type="ping", data_length=4) + b"{\xff\xff}",
        line(type="transcribe", data_length=2) + b"[]",
    ],
)
def test_what_is_no_object_with_a_type_is_refused(data):
    assert refused(data) == "bad_request"


@pytest.mark.parametrize(
    "data",
    [
        line(type="audio-start"),
        line(type="audio-start", data={"rate": 16000, "width": 2}),
        line(type="audio-start", data={**AUDIO, "rate": 7999}),
        line(type="audio-start", data={**AUDIO, "rate": 192001}),
        line(type="audio-start", data={**AUDIO, "rate": 10**30}),
        line(type="audio-start", data={**AUDIO, "rate": True}),
        line(type="audio-start", data={**AUDIO, "width": 0}),
        line(type="audio-chunk", data={**AUDIO, "width": 5}),
        line(type="audio-chunk", data={**AUDIO, "channels": 9}),
        line(type="transcribe", data={"name": 5}),
        line(type="transcribe", data={"language": ["en"]}),
        line(type="transcribe", data={"transcript_names": "Anna"}),
        line(type="transcribe", data={"transcript_terms": ["a", 1]}),
    ],
)
def test_a_wrong_value_is_named(data):
    assert refused(data) == "bad_option"


def test_every_length_has_its_bound_and_is_refused_before_the_bytes_come():
    at_most = b'{"type": "x", "y": "' + b"z" * (MAX_LINE_BYTES - 22) + b'"}'
    assert len(at_most) == MAX_LINE_BYTES
    assert read(at_most + b"\n") == [Other()]
    assert refused(at_most + b" \n") == "too_large"
    assert refused(b"x" * (MAX_LINE_BYTES + 1)) == "too_large"  # no end of the line is in sight
    assert refused(line(type="ping", data_length=MAX_DATA_BYTES + 1)) == "too_large"
    assert refused(line(type="x", payload_length=MAX_PAYLOAD_BYTES + 1)) == "too_large"
    text = "t" * (MAX_DATA_BYTES - len('{"text": ""}'))
    body = json.dumps({"text": text}).encode()
    assert read(line(type="ping", data_length=len(body)) + body) == [Ping(text)]


def test_a_long_list_of_names_is_taken_and_what_only_costs_time_is_not():
    names = [f"light {number}" for number in range(50_000)]
    body = json.dumps({"transcript_names": names}).encode()
    (asked,) = read(line(type="transcribe", data_length=len(body)) + body)
    assert asked.words == tuple(names[:200])
    for costly in (b"[]," * 2000 + b"[]", b"1," * 300_000 + b"1", b'{"a":1},' * 2000 + b"1"):
        body = b'{"context": [' + costly + b"]}"
        assert refused(line(type="transcribe", data_length=len(body)) + body) == "too_large"


values = st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)
soup = st.lists(
    st.one_of(
        st.binary(max_size=30),
        st.sampled_from(
            [
                theirs(TheirStart(16000, 2, 1)),
                theirs(TheirChunk(22050, 3, 2, b"0123456789")),
                theirs(TheirTranscribe(language="en"), TheirDescribe(), TheirPing("p"), TheirStop()),
                line(type="unknown", data_length=3, payload_length=3),
                line(type="ping", data_length=2),
                b"{}",
                b'{"a": 1}',
                b"\n",
            ]
        ),
        values.map(lambda value: line(type="transcribe", data=value, data_length=None)),
    ),
    max_size=10,
).map(b"".join)


def outcome(pieces):
    """All events, samples put together, and the code of the error at the end."""
    reader, events = EventReader(), []
    try:
        for piece in pieces:
            reader.receive_data(piece)
            while (event := reader.next_event()) is not None:
                if isinstance(event, Samples) and events and isinstance(events[-1], Samples):
                    events[-1] = Samples(events[-1].data + event.data)
                else:
                    events.append(event)
    except ProtocolError as error:
        events.append(error.code)
    return events


@given(data=soup, cuts=st.lists(st.integers(0, 300), max_size=8))
def test_any_bytes_give_events_or_one_typed_error_however_they_are_cut(data, cuts):
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    whole = outcome([data])
    assert outcome([data[a:b] for a, b in pairwise(edges)]) == whole
    assert outcome([bytes([byte]) for byte in data]) == whole


# ------------------------------------------------------------------ samples


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@given(values=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=20), cuts=st.lists(st.integers(0, 80), max_size=5))
def test_samples_of_any_width_keep_their_values_however_they_are_cut(width, values, cuts):
    values = [value >> 8 * (4 - width) for value in values]
    if width == 1:
        data = bytes(value + 128 for value in values)
    else:
        data = b"".join(value.to_bytes(width, "little", signed=True) for value in values)
    widener, edges = Widener(width), [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    wide = b"".join(widener.widen(data[a:b]) for a, b in pairwise(edges))
    out, full = ("<i2", 2**15) if width <= 2 else ("<i4", 2**31)
    assert Format(rate=8000, width=width, channels=1).encoding == ("pcm_s16le" if width <= 2 else "pcm_s32le")
    assert [sample / full for sample in np.frombuffer(wide, out)] == [value / 2 ** (8 * width - 1) for value in values]


def test_eight_bits_mean_here_what_they_mean_to_the_clients():
    theirs = AudioChunkConverter(width=2).convert(TheirChunk(16000, 1, 1, bytes(range(256)))).audio
    assert Widener(1).widen(bytes(range(256))) == theirs


# ------------------------------------------------------------------ writing


def their_events(data):
    """What the package reads of what the daemon wrote."""

    class Reader:
        def __init__(self):
            self.rest = data

        def readline(self):
            end = self.rest.find(b"\n") + 1
            line, self.rest = self.rest[:end], self.rest[end:]
            assert len(line) <= MAX_LINE_BYTES
            return line

        def read(self, count):
            part, self.rest = self.rest[:count], self.rest[count:]
            return part

    reader, events = Reader(), []
    while reader.rest:
        events.append(read_event(reader))
    return events


def test_what_the_daemon_says_the_real_clients_read():
    said = (
        wyoming.pong("hé\ud800")
        + wyoming.pong(None)
        + wyoming.transcript_start(None)
        + wyoming.transcript_start("de")
        + wyoming.transcript_chunk(" Grüße")
        + wyoming.transcript("Grüße\nan alle", "de")
        + wyoming.transcript("", None)
        + wyoming.transcript_stop()
        + wyoming.error("no", "overloaded")
    )
    assert [(event.type, event.data) for event in their_events(said)] == [
        ("pong", {"text": "hé?"}),
        ("pong", {"text": None}),
        ("transcript-start", {}),
        ("transcript-start", {"language": "de"}),
        ("transcript-chunk", {"text": " Grüße"}),
        ("transcript", {"text": "Grüße\nan alle", "language": "de"}),
        ("transcript", {"text": ""}),
        ("transcript-stop", {}),
        ("error", {"text": "no", "code": "overloaded"}),
    ]


def test_info_lists_one_program_and_its_models():
    models = [
        Model(name="base", description="b", repository="Systran/x", installed=True, languages=("en", "de")),
        Model(name="mine", description="m", repository=None, installed=False, languages=("en",)),
    ]
    (event,) = their_events(wyoming.info(models, version="1.2", streaming=True))
    assert event.data.keys() == {"asr", "tts", "wake", "handle", "intent", "mic", "snd"}
    info = Info.from_event(event)
    (program,) = info.asr
    assert (info.tts, info.wake, info.handle, info.intent, info.mic, info.snd) == ([], [], [], [], [], [])
    assert (program.name, program.version, program.installed) == ("sttd", "1.2", True)
    assert program.description
    assert program.supports_transcript_streaming
    assert program.requires_external_vad
    assert [(model.name, model.installed, model.languages) for model in program.models] == [
        ("base", True, ["en", "de"]),
        ("mine", False, ["en"]),
    ]
    assert program.models[0].attribution.url == "https://huggingface.co/Systran/x"
    assert program.models[1].version == "1.2"
    (event,) = their_events(wyoming.info([], version="1.2", streaming=False))
    assert not Info.from_event(event).asr[0].supports_transcript_streaming
