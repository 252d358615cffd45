"""What frames cost: few a turn, judged by their headers, however the bytes were cut."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.wire import frames
from sttd.wire.frames import FRAMES_A_TURN, MAX_FRAGMENTS, FrameGuard
from sttd.wire.jsontext import MAX_MESSAGE_BYTES

PING, PONG, BINARY, CONTINUATION = 0x9, 0xA, 0x2, 0x0


def frame(opcode, payload=b"", *, fin=True, masked=True, declared=None):
    length = len(payload) if declared is None else declared
    head = bytes([(0x80 if fin else 0) | opcode])
    mask = 0x80 if masked else 0
    if length < 126:
        head += bytes([mask | length])
    elif length < 1 << 16:
        head += bytes([mask | 126]) + struct.pack("!H", length)
    else:
        head += bytes([mask | 127]) + struct.pack("!Q", length)
    return head + (bytes(4) if masked else b"") + payload


def hand_on(guard, data, *, cuts=(), now=0.0):
    """What of `data` is handed on, in which portions, if it arrives in these pieces."""
    portions, held, edges = [], b"", [*sorted(cuts), len(data)]
    start = 0
    for edge in edges:
        held += data[start:edge]
        start = edge
        while held and (size := guard.admit(held, now=now)):
            portions.append(held[:size])
            held = held[size:]
    return portions


@given(
    payloads=st.lists(st.sampled_from([b"", b"a", bytes(125), bytes(126), bytes(70_000)]), max_size=8),
    cuts=st.lists(st.integers(0, 300_000), max_size=6),
)
def test_what_is_in_order_is_handed_on_unchanged_however_it_is_cut(payloads, cuts):
    data = b"".join(frame(BINARY, payload) for payload in payloads)
    guard = FrameGuard()
    assert b"".join(hand_on(guard, data, cuts=[cut for cut in cuts if cut < len(data)])) == data
    assert guard.violation is None


def test_a_turn_has_few_frames():
    data = frame(BINARY, b"x") * 100
    portions = hand_on(FrameGuard(), data)
    assert max(map(len, portions)) <= FRAMES_A_TURN * len(frame(BINARY, b"x"))
    assert b"".join(portions) == data


@pytest.mark.parametrize("cut", [0, 1, 2, 5, 9])
def test_a_frame_that_declares_too_much_is_refused_by_its_header(cut):
    guard = FrameGuard()
    hand_on(guard, frame(BINARY, declared=1 << 62), cuts=[cut])
    assert guard.violation.code == "too_large"
    assert guard.admit(b"more", now=0.0) == 0


def test_fragments_are_one_message():
    guard, half = FrameGuard(), bytes(MAX_MESSAGE_BYTES // 2)
    hand_on(guard, frame(BINARY, half, fin=False) + frame(CONTINUATION, half))
    assert guard.violation is None
    hand_on(guard, frame(BINARY, half, fin=False) + frame(CONTINUATION, half, fin=False) + frame(CONTINUATION, b"x"))
    assert guard.violation.code == "too_large"


def test_a_message_has_few_fragments():
    guard = FrameGuard()
    hand_on(guard, frame(BINARY, fin=False) + frame(CONTINUATION, fin=False) * (MAX_FRAGMENTS - 1))
    assert guard.violation is None
    hand_on(guard, frame(CONTINUATION, fin=False))
    assert "fragments" in guard.violation.message


def test_control_frames_between_fragments_are_no_part_of_the_message():
    guard = FrameGuard()
    hand_on(guard, frame(BINARY, fin=False) + frame(PING, b"x") + frame(CONTINUATION))
    assert guard.violation is None


def test_keep_alives_are_free_and_a_flood_of_them_is_not():
    guard = FrameGuard()
    for second in range(3600):
        hand_on(guard, frame(PING, b"still there?") * 2, now=float(second))
    assert guard.violation is None
    hand_on(guard, frame(PONG) * int(frames.CONTROLS_AT_ONCE + 1), now=3600.0)
    assert guard.violation.code == "too_many_requests"


def test_frames_without_a_mask_are_counted_too():
    guard = FrameGuard()
    data = frame(BINARY, b"abc", masked=False) * 3
    assert b"".join(hand_on(guard, data)) == data
