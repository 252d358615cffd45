"""Which keys make a text, on keyboards of any layout."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sttd_client.dictation.x11 import (
    BACKSPACE,
    LATE_S,
    SHIFT,
    Answers,
    Keyboard,
    XError,
    keysym_of,
    pressed,
    rows,
)

US = {10: (ord("1"), ord("!")), 22: (BACKSPACE, BACKSPACE), 38: (ord("a"), ord("A")), 50: (SHIFT, 0), 65: (0x20, 0)}
DEAD = {48: (0xFE51, 0xFE57)}  # dead acute and diaeresis, where "us" has ' and "
TEXTS = st.text(alphabet="aA1! '\"éñ你Ω", max_size=40)


def keyboard(rows, *, layout=0):
    made = Keyboard()
    made.learn(rows, layout=layout)
    return made


def typed(text, rows, *, layout=0):
    """What a program reads that looks each key up when it comes, with the map as it then is."""
    board, rows, now_s, read = keyboard(rows, layout=layout), dict(rows), 0.0, ""
    while text:
        text, giving, strokes, wait_s = board.plan(text, now_s=now_s)
        now_s += wait_s
        for key, keysym in giving:
            rows[key] = (keysym, keysym)
        names = {keysym_of(char): char for char in "aA1! '\"éñ你Ω\n"}
        read += "".join(names[rows[key][shifted]] for key, shifted in strokes)
    return read


def test_the_keys_of_the_layout_are_used_first():
    assert keyboard(US | {200: (0, 0)}).plan("aA!", now_s=0.0) == ("", [], [(38, False), (38, True), (10, True)], 0.0)


def test_dead_keys_are_never_pressed():
    assert typed("'é\"", US | DEAD | {200: (0, 0), 201: (0, 0), 202: (0, 0)}) == "'é\""


def test_another_layout_has_its_own_letters():
    two = {38: (ord("a"), ord("A"), 0x010003B1, 0x01000391), 200: (0, 0, 0, 0)}
    board = keyboard(two, layout=1)
    assert board.plan("\u03b1", now_s=0.0)[2] == [(38, False)]
    assert board.plan("a", now_s=0.0)[1] == [(200, ord("a"))]


@given(TEXTS, st.integers(1, 4))
def test_any_text_is_typed_with_few_spare_keys(text, count):
    assert typed(text, US | {200 + at: (0, 0) for at in range(count)}) == text


def test_a_key_is_given_away_only_after_a_late_program_has_looked_it_up():
    board = keyboard(US | {200: (0, 0)})
    assert board.plan("é", now_s=10.0)[1:] == ([(200, ord("é"))], [(200, False)], 0.0)
    assert board.plan("ñ", now_s=10.5) == ("", [(200, ord("ñ"))], [(200, False)], LATE_S - 0.5)


def test_keys_that_an_earlier_agent_gave_away_are_known():
    board = keyboard(US | {200: (ord("é"), ord("é"))})
    assert board.plan("é", now_s=0.0)[1] == []
    assert board.plan("ñ", now_s=0.0)[1] == [(200, ord("ñ"))]
    with pytest.raises(XError, match="every key"):
        keyboard(US).plan("é", now_s=0.0)


def test_shift_is_held_for_as_long_as_it_is_needed():
    requests = list(pressed(132, [(38, True), (38, True), (38, False)], shift=50, pace_ms=0))
    keys = [
        (piece[4], piece[5]) for request in requests for piece in (request[at:] for at in range(0, len(request), 36))
    ]
    assert keys == [(2, 50), (2, 38), (3, 38), (2, 38), (3, 38), (3, 50), (2, 38), (3, 38)]


def setup_reply():
    return bytes([1, 0, 11, 0, 0, 0]) + (8).to_bytes(2, "little") + bytes(26) + bytes([8, 255]) + bytes(4)


@given(st.lists(st.integers(1, 50), max_size=8))
def test_answers_come_in_any_pieces_and_events_are_skipped(cuts):
    reply = bytes([1, 2]) + bytes(2) + (2).to_bytes(4, "little") + bytes(24) + struct.pack("<II", 7, 8)
    event = bytes([34, 0]) + b"\xff" * 30
    data, found, answers = setup_reply() + event + reply + event, [], Answers()
    for cut in [*cuts, len(data)]:
        found += answers.feed(data[:cut])
        data = data[cut:]
    assert found == [setup_reply(), reply]
    assert rows(reply, 9) == {9: (7, 8)}


def test_a_refusal_is_said_in_the_words_of_the_server():
    refusal = bytes([0, 11, 11, 0, 0, 0]) + (3).to_bytes(2, "little") + b"not allowed."
    with pytest.raises(XError, match="not allowed"):
        list(Answers().feed(refusal))
    with pytest.raises(XError, match="too much"):
        list(Answers().feed(b"\x01\0\0\0\0\0\xff\xff"))
