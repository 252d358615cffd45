"""The MessagePack-RPC codec: what passes, what it refuses, and that chunks do not matter."""

from itertools import pairwise

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.wire import rpc
from sttd.wire.rpc import Malformed, Notification, Request, Response, RpcDecoder

START = b"\x94\x00\x07\xa1x"  # [0, 7, "x", ... of which params are still to come


def decode(data, **limits):
    return RpcDecoder(**limits).receive_data(data)


def the_error(data, **limits):
    *before, last = decode(data, **limits)
    assert isinstance(last, Malformed), last
    assert before == []
    return last.error.code, last.msgid


def test_each_kind_of_message_makes_the_round_trip():
    stream = (
        rpc.encode_request(1, "ping")
        + rpc.encode_request(2**32 - 1, "load", params={"preset": "demo", "num_workers": 2})
        + rpc.encode_response(1, result={})
        + rpc.encode_response(2, error={"code": "internal"})
        + rpc.encode_notification("event", params={"seq": 1})
    )
    assert decode(stream) == [
        Request(msgid=1, method="ping", params=[]),
        Request(msgid=2**32 - 1, method="load", params=[{"preset": "demo", "num_workers": 2}]),
        Response(msgid=1, error=None, result={}),
        Response(msgid=2, error={"code": "internal"}, result=None),
        Notification(method="event", params=[{"seq": 1}]),
    ]


def test_every_size_of_header_is_understood():
    params = {
        "integers": [0, 127, 128, 255, 256, 2**16, 2**32, 2**64 - 1, -1, -32, -33, -128, -129, -(2**15) - 1, -(2**63)],
        "floats": [0.5],
        "strings": ["", "a" * 31, "a" * 32, "é" * 200, "a" * 40_000],
        "bytes": [b"", b"a" * 300],
        "others": [None, True, False],
        "array": [0] * 20,
        "map": {f"k{i}": i for i in range(20)},
        "longer": [0] * 3,
    }
    data = rpc.encode_request(5, "x", params=params)
    assert decode(data) == [Request(msgid=5, method="x", params=[params])]
    wide = b"\xdd\0\0\0\4\xce\0\0\0\0\xd3\0\0\0\0\0\0\0\7\xdb\0\0\0\1x\xdc\0\1\xdf\0\0\0\1\xda\0\1k\xca?\0\0\0"
    decoder = RpcDecoder()
    assert [m for byte in wide for m in decoder.receive_data(bytes([byte]))] == decode(wide)
    assert decode(wide) == [Request(msgid=7, method="x", params=[{"k": 0.5}])]
    large = START + b"\x91\x81\xa1b\xc6\0\0\0\3abc" + START + b"\x91\x81\xa1b\xc5\0\3abc"
    assert [message.params for message in decode(large)] == [[{"b": b"abc"}]] * 2


def test_text_that_is_no_utf8_is_sent_with_a_mark():
    assert msgpack.unpackb(rpc.encode_response(1, result={"path": "/a\udcff"}))[3] == {"path": "/a?"}


@pytest.mark.parametrize(
    ("data", "msgid"),
    [
        (b"GET / HTTP/1.1\r\n", None),
        (b"\x80", None),
        (b"\xc0", None),
        (b"\x90", None),
        (b"\x91\x00", None),
        (b"\x93\x00\x07\xa1x", None),  # a request without params
        (b"\x95\x00\x07\xa1x\x90\x90", None),
        (b"\x94\x03\x07\xa1x\x90", None),  # no such type
        (b"\x94\xc2\x07\xa1x\x90", None),  # false is not 0
        (b"\x94\xca\0\0\0\0\x07\xa1x\x90", None),  # 0.0 is not 0
        (b"\x94\x00\xff\xa1x\x90", None),  # msgid -1
        (b"\x94\x00\xcf\0\0\0\1\0\0\0\0\xa1x\x90", None),  # msgid 2**32
        (b"\x94\x00\xc3\xa1x\x90", None),
        (b"\x94\x01\xa1a\xc0\xc0", None),
        (b"\x94\x00\x07\x05\x90", 7),  # the method is a number
        (b"\x94\x00\x07\xc4\1x\x90", 7),  # the method is bytes
        (b"\x93\x02\x05\x90", None),
        (START + b"\xc1", 7),  # never used
        (START + b"\xd4\1\0", 7),  # extension types
        (START + b"\xc7\x0c\xff" + b"\xff" * 12, 7),
        (START + b"\x91\xd6\xff\0\0\0\0", 7),
        (START + b"\x91\x81\1\2", 7),  # a key that is a number
        (START + b"\x91\x81\xc4\1a\2", 7),
        (START + b"\x91\x82\xa1a\1\x90\2", 7),
        (START + b"\x91\x82\xa1a\1\xa1a\2", 7),  # the same key twice
        (b"\x94\x00\x07\xa2\xff\xff\x90", 7),  # no UTF-8
        (START + b"\x91\xa3\xed\xa0\x80", 7),  # a surrogate in UTF-8
        (START + b"\x91" * 16, 7),
        (START + b"\x91" * 14 + b"\x82\xa1k\x80\xa1l\x91", 7),
        (b"\x94\x00\xd6\xff\0\0\0\0\xa1x\x90", None),  # an extension as msgid
        (b"\x94\x00\xdb\0\1\0\0", None),
    ],
)
def test_what_is_malformed_ends_the_stream(data, msgid):
    code, blamed = the_error(data)
    assert code == ("too_large" if data.endswith(b"\xdb\0\1\0\0") else "bad_request")
    assert blamed == msgid


@pytest.mark.parametrize(
    "tail",
    [
        b"\xdb\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdc\xff\xff",
    ],
)
def test_a_length_counts_before_its_bytes_are_there(tail):
    assert the_error(START + tail) == ("too_large", 7)


def test_the_size_limit_is_exact():
    def request(size):
        return START + b"\x91\xda" + (size - len(START) - 4).to_bytes(2, "big") + b"a" * (size - len(START) - 4)

    assert len(request(100)) == 100
    (message,) = decode(request(100), max_message_bytes=100)
    assert message.msgid == 7
    assert the_error(request(101), max_message_bytes=100) == ("too_large", 7)
    many = request(100) * 50
    assert len(decode(many, max_message_bytes=100)) == 50


def test_the_depth_limit_is_exact():
    deepest = START + b"\x91" * 14 + b"\x90"  # with the message itself 16
    (message,) = decode(deepest)
    assert message.method == "x"
    assert the_error(START + b"\x91" * 15 + b"\x90") == ("bad_request", 7)


def test_messages_before_the_violation_are_delivered_and_none_after():
    decoder = RpcDecoder()
    ping = rpc.encode_request(1, "ping")
    first, second, last = decoder.receive_data(ping + ping + b"\xc1" + ping)
    assert (first, second) == (Request(msgid=1, method="ping", params=[]),) * 2
    assert isinstance(last, Malformed)
    assert not decoder.pending
    assert decoder.receive_data(ping) == []


def test_a_message_that_has_begun_is_pending():
    decoder = RpcDecoder()
    ping = rpc.encode_request(1, "ping")
    assert not decoder.pending
    decoder.receive_data(ping + ping[:3])
    assert decoder.pending
    decoder.receive_data(ping[3:])
    assert not decoder.pending


def test_giving_up_blames_the_request_that_has_begun():
    decoder = RpcDecoder()
    decoder.receive_data(START)
    error = rpc.ProtocolError("too slow")
    assert decoder.give_up(error) == Malformed(error=error, msgid=7)
    assert decoder.receive_data(b"\x90") == []
    assert not decoder.pending
    assert RpcDecoder().give_up(error) == Malformed(error=error, msgid=None)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


@given(
    params=st.lists(st.dictionaries(st.text(max_size=4), json_like, max_size=4), max_size=5),
    cuts=st.lists(st.integers(0, 2000)),
)
def test_however_the_bytes_are_cut_the_same_messages_come_out(params, cuts):
    stream = b"".join(rpc.encode_request(i, "m", params=p) for i, p in enumerate(params))
    expected = [Request(msgid=i, method="m", params=[p]) for i, p in enumerate(params)]
    decoder = RpcDecoder()
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    got = [m for a, b in pairwise(edges) for m in decoder.receive_data(stream[a:b])]
    assert got == expected
    assert not decoder.pending
