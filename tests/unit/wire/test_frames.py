"""Bytes become messages however they were cut; frames are few a turn, and judged by their headers."""

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.wire import frames
from sttd.wire.frames import FRAMES_A_TURN, MAX_FRAGMENTS, FrameGuard, LargeMessages
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
    """What of `data` is dealt with, in which portions, if it arrives in these pieces."""
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
    assert [*guard.messages] == payloads


@pytest.mark.parametrize("payload", [b"", b"x", b"audio"])
def test_a_turn_has_few_frames(payload):
    data = frame(BINARY, payload) * 100
    portions = hand_on(FrameGuard(), data)
    assert max(map(len, portions)) <= FRAMES_A_TURN * len(frame(BINARY, payload))
    assert b"".join(portions) == data


@given(
    pieces=st.lists(
        st.tuples(st.sampled_from(["text", "binary", "fragments", "ping", "pong"]), st.binary(max_size=400)),
        max_size=12,
    ),
    mask=st.binary(min_size=4, max_size=4),
    cuts=st.lists(st.integers(0, 5000), max_size=8),
    large=st.booleans(),
)
def test_messages_come_out_whole_and_in_order_and_only_control_frames_are_for_the_library(pieces, mask, cuts, large):
    data, messages, controls = b"", [], b""
    for kind, payload in pieces:
        if kind == "text":
            text = payload.hex()
            data += masked(TEXT, text.encode(), mask)
            messages.append(text)
        elif kind == "binary":
            data += masked(BINARY, payload, mask)
            messages.append(payload)
        elif kind == "fragments":
            half = len(payload) // 2
            ping = masked(PING, b"between", mask)
            data += masked(BINARY, payload[:half], mask, fin=False) + ping + masked(CONTINUATION, payload[half:], mask)
            messages.append(payload)
            controls += ping
        else:
            control = masked(PING if kind == "ping" else PONG, payload[:125], mask)
            data += control
            controls += control
    guard = FrameGuard(large=LargeMessages(limit_bytes=0) if large else None)
    assert b"".join(hand_on(guard, data, cuts=sorted(cut for cut in cuts if cut < len(data)))) == data
    assert guard.violation is None
    assert [*guard.messages] == messages
    assert bytes(guard.controls) == controls


def masked(opcode, payload, mask, *, fin=True):
    whole = frame(opcode, payload, fin=fin)
    head = whole[: len(whole) - len(payload) - 4]
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


@given(
    cuts=st.lists(st.integers(0, 700), max_size=5), case=st.sampled_from(["no mask", "two bytes for a short length"])
)
def test_what_lies_before_a_violation_is_handed_on(cuts, case):
    good = masked(BINARY, b"said before", b"mask") + masked(PING, b"", b"mask")
    data = good + BROKEN[case]
    guard = FrameGuard()
    hand_on(guard, data, cuts=sorted(cut for cut in cuts if cut < len(data)))
    assert guard.violation.close_code == 1002
    assert ([*guard.messages], bytes(guard.controls)) == ([b"said before"], good[-6:])


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


def test_a_larger_message_may_have_more_fragments():
    guard = FrameGuard(21 * MAX_MESSAGE_BYTES)
    piece = bytes(16 * 1024)
    data = frame(BINARY, piece, fin=False) + frame(CONTINUATION, piece, fin=False) * 1343
    hand_on(guard, data)
    assert guard.violation is None


def test_what_large_messages_have_beyond_others_is_counted_for_all_connections_until_it_is_taken():
    large = LargeMessages(limit_bytes=MAX_MESSAGE_BYTES)
    first, second = (FrameGuard(4 * MAX_MESSAGE_BYTES, large) for _ in range(2))
    half = frame(BINARY, bytes(3 * MAX_MESSAGE_BYTES // 2))
    hand_on(first, frame(BINARY, b"small") + half)
    hand_on(second, half[: -MAX_MESSAGE_BYTES // 4])
    assert large.held_bytes == 3 * MAX_MESSAGE_BYTES // 4
    first.taken()
    assert large.held_bytes == 3 * MAX_MESSAGE_BYTES // 4
    first.taken()
    assert large.held_bytes == MAX_MESSAGE_BYTES // 4
    hand_on(first, half)
    hand_on(second, half[-MAX_MESSAGE_BYTES // 4 :] + frame(BINARY, bytes(MAX_MESSAGE_BYTES)))
    assert (first.violation, second.violation) == (None, None)
    hand_on(second, frame(BINARY, bytes(MAX_MESSAGE_BYTES + 1)))
    assert second.violation.code == "overloaded"
    for guard in (first, second):
        guard.close()
    assert large.held_bytes == 0


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


# ---------------------------------------------------------------- what the RFC forbids

TEXT, CLOSE = 0x1, 0x8
EURO = "€".encode()

BROKEN = {
    "no mask": frame(TEXT, b"{}", masked=False),
    "a kind that does not exist": frame(0x3),
    "a control frame that does not exist": frame(0xB),
    "reserved bits": bytes([frame(TEXT)[0] | 0x40]) + frame(TEXT)[1:],
    "a ping in pieces": frame(PING, fin=False),
    "a long ping": frame(PING, bytes(126)),
    "a fragment of nothing": frame(CONTINUATION, b"x"),
    "a message in a message": frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"),
    "two bytes for a short length": b"\x82\xfe" + struct.pack("!H", 5) + bytes(9),
    "eight bytes for a short length": b"\x82\xff" + struct.pack("!Q", 1000) + bytes(4),
    "a length with a sign": frame(BINARY, declared=1 << 63),
    "a close with half a code": frame(CLOSE, b"\x03"),
    "a close with a code of nobody": frame(CLOSE, struct.pack("!H", 999)),
    "a close with a code that is never sent": frame(CLOSE, struct.pack("!H", 1006)),
}
NO_TEXT = {
    "no UTF-8": frame(TEXT, b"\xff\xfe"),
    "a surrogate": frame(TEXT, b"\xed\xa0\x80"),
    "a character in two messages": frame(TEXT, EURO[:2]) + frame(TEXT, EURO[2:]),
    "a character that does not end": frame(TEXT, EURO[:1], fin=False) + frame(CONTINUATION),
    "wrong in the second piece": frame(TEXT, EURO[:1], fin=False) + frame(CONTINUATION, b"a", fin=False),
    "the reason of a close": frame(CLOSE, struct.pack("!H", 1000) + b"\xff"),
}


@pytest.mark.parametrize("cuts", [(), range(1, 200)])
@pytest.mark.parametrize("case", [*BROKEN, *NO_TEXT])
def test_what_the_rfc_forbids_has_the_close_code_that_it_names(case, cuts):
    good = frame(TEXT, b"{}") + frame(PING)
    data = good + {**BROKEN, **NO_TEXT}[case]
    guard = FrameGuard()
    passed = b"".join(hand_on(guard, data, cuts=[cut for cut in cuts if cut < len(data)]))
    assert guard.violation.code == "bad_request"
    assert guard.violation.close_code == (1002 if case in BROKEN else 1007)
    assert passed.startswith(good)
    assert len(passed) < len(data)
    assert guard.admit(frame(PING), now=0.0) == 0


@given(
    text=st.text(max_size=300), pieces=st.lists(st.integers(0, 900), max_size=4), mask=st.binary(min_size=4, max_size=4)
)
def test_text_may_be_cut_anywhere_by_whoever_likes(text, pieces, mask):
    payload, data = text.encode(), b""
    edges = [0, *sorted(min(piece, len(payload)) for piece in pieces), len(payload)]
    for number, (begin, end) in enumerate(pairwise(edges)):
        whole = frame(CONTINUATION if number else TEXT, payload[begin:end], fin=end == len(payload) == edges[-1])
        last = number == len(edges) - 2
        head = bytes([whole[0] & 0x7F | (0x80 if last else 0)]) + whole[1 : len(whole) - (end - begin) - 4]
        data += head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload[begin:end]))
    guard = FrameGuard()
    assert b"".join(hand_on(guard, data, cuts=[piece for piece in sorted(pieces) if piece < len(data)])) == data
    assert guard.violation is None


@pytest.mark.parametrize("payload", [b"", struct.pack("!H", 1000), struct.pack("!H", 3000) + EURO])
def test_after_a_close_nothing_is_looked_at(payload):
    guard, rest = FrameGuard(), frame(0x3) * 100
    data = frame(CLOSE, payload) + rest
    assert b"".join(hand_on(guard, data)) == data
    assert guard.violation is None
