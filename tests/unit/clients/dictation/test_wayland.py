"""The keymap of the virtual keyboard, and what compositors say."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sttd_client.dictation.wayland import Events, Keymap, WaylandError, bind, combination, parts, tap

GLOBALS = {"wl_seat": 7, "zwp_virtual_keyboard_manager_v1": 9}


def event(sender, code, body):
    return struct.pack("=IHH", sender, code, 8 + len(body)) + body


def announced(number, name):
    text = name.encode() + b"\0"
    return event(2, 0, struct.pack("=II", number, len(text)) + text + bytes(-len(text) % 4) + struct.pack("=I", 1))


@given(st.lists(st.integers(1, 40), max_size=8))
def test_what_a_compositor_says_is_read_in_any_pieces(cuts):
    data = b"".join(announced(number, name) for name, number in GLOBALS.items())
    data += event(3, 0, bytes(4)) + event(9, 0, bytes(4))
    events = Events()
    for cut in [*cuts, len(data)]:
        events.feed(data[:cut])
        data = data[cut:]
    assert (events.globals_, events.greeted, events.synced) == (GLOBALS, True, 2)


def test_a_refusal_is_said_in_the_words_of_the_compositor():
    with pytest.raises(WaylandError, match="not yours"):
        Events().feed(event(1, 0, struct.pack("=III", 5, 0, 10) + b"not yours\0\0\0"))
    with pytest.raises(WaylandError, match="no Wayland"):
        Events().feed(bytes(8))
    with pytest.raises(WaylandError, match="zwp_virtual"):
        bind({"wl_seat": 1})


def test_a_keymap_grows_and_keeps_its_keys():
    keymap = Keymap()
    assert keymap.learn("hé\n")
    code = keymap.code("é")
    assert not keymap.learn("éh")
    assert keymap.learn("你")
    assert keymap.code("é") == code
    assert f"<K{code}> = {code + 8};" in keymap.text
    assert f"key <K{code}> {{[U00E9]}};" in keymap.text
    assert "[Return]" in keymap.text


@given(st.text(max_size=600))
def test_every_part_of_a_text_fits_into_a_keymap(text):
    keymap = Keymap()
    assert "".join(parts(text)) == text
    for part in parts(text):
        keymap.learn(part)
        codes = [keymap.code(char) for char in part]
        assert all(0 < code <= 200 for code in codes)
        assert len(set(codes)) == len(set(part))


def test_press_and_release_go_out_together():
    assert struct.unpack("=IHHIIIIHHIII", tap(30, at_ms=5)) == (6, 1, 20, 5, 30, 1, 6, 1, 20, 5, 30, 0)


def test_keys_that_are_pressed_together():
    assert combination("ctrl+v") == (4, "v")
    assert combination("ctrl+shift+v") == (5, "v")
    assert combination("shift+insert")[0] == 1
