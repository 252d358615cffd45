"""Hostile bytes against the codec and against the control plane; after each case somebody else is still served."""

import json
import os
import random
import tracemalloc
from itertools import pairwise
from pathlib import Path

import msgpack
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from sttd.errors import ProtocolError
from sttd.wire import messages, rpc
from tests.control_plane import open_plane

CONTRACT = Path(__file__).parents[1] / "contract"
CONTROL = json.loads((CONTRACT / "control.json").read_text())
AUDIO = json.loads((CONTRACT / "audio.json").read_text())
FRAMES = [bytes.fromhex(v["hex"]) for section in ("conversation", "refused") for v in CONTROL[section]]

headers = st.sampled_from([bytes([first]) for first in (*range(0x80, 0xE0), 0, 1, 2, 0x7F, 0xFF)])
soup = st.lists(st.one_of(st.binary(max_size=12), headers, st.sampled_from(FRAMES)), max_size=12).map(b"".join)


def comparable(message):
    """Errors compare by what they say."""
    if isinstance(message, rpc.Malformed):
        return message.error.code, message.error.message, message.msgid
    return message


@given(data=soup, cuts=st.lists(st.integers(0, 200), max_size=8))
def test_any_bytes_give_messages_or_one_typed_error_however_they_are_cut(data, cuts):
    whole = rpc.RpcDecoder().receive_data(data)
    for message in whole[:-1]:
        assert not isinstance(message, rpc.Malformed)
    decoder = rpc.RpcDecoder()
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [message for a, b in pairwise(edges) for message in decoder.receive_data(data[a:b])]
    assert repr([comparable(m) for m in pieces]) == repr([comparable(m) for m in whole])  # NaN equals itself here
    one_by_one = rpc.RpcDecoder()
    singly = [message for byte in data for message in one_by_one.receive_data(bytes([byte]))]
    assert repr([comparable(m) for m in singly]) == repr([comparable(m) for m in whole])


@given(data=soup)
def test_what_the_codec_lets_through_any_library_reads_the_same(data):
    unpacker = msgpack.Unpacker(strict_map_key=True)
    unpacker.feed(data)
    for message in rpc.RpcDecoder().receive_data(data):
        if isinstance(message, rpc.Malformed):
            break
        kind, *rest = unpacker.unpack()
        match message:
            case rpc.Request(msgid=msgid, method=method, params=params):
                assert repr([kind, *rest]) == repr([0, msgid, method, params])
            case rpc.Response(msgid=msgid, error=error, result=result):
                assert repr([kind, *rest]) == repr([1, msgid, error, result])
            case rpc.Notification(method=method, params=params):
                assert repr([kind, *rest]) == repr([2, method, params])


@pytest.mark.parametrize("bomb", [b"\x80" * 65_000, b"\x90" * 65_000, b"\x81\xa1k" * 20_000, b"\xdc\xff\xff" * 20_000])
def test_a_bomb_costs_little_memory(bomb):
    head = b"\x94\x00\x07\xa4load\xdc" + min(len(bomb), 0xFFFF).to_bytes(2, "big")
    tracemalloc.start()
    rpc.RpcDecoder().receive_data(head + bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20  # 64 KiB of empty maps become 65,000 dicts of 64 bytes, and no more


def mutate(rng, frame):
    """A frame with a few bytes changed, lost, doubled or put in."""
    data = bytearray(frame)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(5):
            case 0:
                data[at : at + 1] = rng.randbytes(1)
            case 1:
                del data[at : at + rng.randint(1, 4)]
            case 2:
                data[at:at] = rng.randbytes(rng.randint(1, 4))
            case 3:
                data[at:at] = data[at : at + 8]
            case _:
                data[at : at + 1] = bytes([rng.choice((0xC1, 0xC7, 0xD4, 0xDB, 0xDD, 0xDF, 0xFF))])
    return bytes(data)


@pytest.mark.parametrize("seed", range(8))
async def test_mutated_frames_hurt_only_their_own_connection(seed, tmp_path):
    rng = random.Random(seed)
    async with open_plane(tmp_path) as plane, plane.connect() as bystander:
        plane.service.gate.set()
        assert await bystander.call("ping") == {}
        open_files, tasks = count_files(), count_tasks()
        with trio.fail_after(60):
            for _ in range(40):
                frames = [mutate(rng, frame) if rng.random() < 0.5 else frame for frame in rng.choices(FRAMES, k=5)]
                await throw(plane, b"".join(frames), rng)
                assert await bystander.call("ping") == {}
            while count_files() > open_files or count_tasks() > tasks:  # noqa: ASYNC110  nobody tells of a cleanup
                await trio.sleep(0.01)
        assert await plane.is_alive()
    assert plane.failures == 0


def count_files():
    return len(os.listdir("/proc/self/fd"))


def count_tasks():
    return trio.lowlevel.current_statistics().tasks_living


async def throw(plane, data, rng):
    """Send `data` in pieces, and leave in one of the ways that peers leave."""
    async with plane.connect() as peer:
        try:
            while data:
                size = rng.choice((1, 7, 64, 4096))
                await peer.stream.send_all(data[:size])
                data = data[size:]
            if rng.random() < 0.5:
                await peer.stream.send_eof()
                with trio.move_on_after(5) as patience:
                    while await peer.stream.receive_some():
                        pass
                assert not patience.cancelled_caught, "the daemon keeps a connection that is over"
        except trio.BrokenResourceError:
            pass  # closed on us, as it should be


texts = st.one_of(
    st.text(max_size=40),
    st.sampled_from([json.dumps(v["message"]) for v in AUDIO["ops"]] + [v["text"] for v in AUDIO["refused"]]),
)


@given(text=texts, at=st.integers(0, 200), insert=st.text(max_size=5), cut=st.integers(0, 5))
def test_any_text_is_an_op_or_an_error_with_a_code(text, at, insert, cut):
    text = text[:at] + insert + text[at + cut :]
    refusal = None
    try:
        op = messages.parse_client(text)
    except ProtocolError as error:
        refusal = error
    if refusal is None:
        assert messages.parse_client(messages.encode_op(op)) == op
    else:
        assert refusal.code in ("bad_request", "unknown_op", "bad_option")
        assert refusal.message.encode()
