"""What types where, and what it is told."""

import socket

import pytest
from sttd_client.dictation.backends import BACKENDS, NAMES, HandError, lacks_of
from sttd_client.dictation.hand import hand_of
from sttd_client.dictation.seat import Seat, look

KEYBOARD = frozenset({"wl_seat", "zwp_virtual_keyboard_manager_v1"})


@pytest.fixture
def seat(tmp_path):
    """`seat("wtype", wayland=…)`: a session with these programs."""

    def make(*programs, wayland=None, x11=False):
        for name in programs:
            (tmp_path / name).write_text("#!/bin/sh\n")
            (tmp_path / name).chmod(0o755)
        return Seat(environ={"PATH": str(tmp_path)}, wayland=wayland, x11=x11)

    return make


def working(seat):
    return [name for name, lack in lacks_of(seat).items() if not lack]


def test_what_works_is_found_by_looking(seat):
    assert working(seat()) == []
    assert working(seat(x11=True)) == ["x11"]
    assert working(seat("wtype", "xdotool", "xclip", x11=True)) == ["x11", "xdotool", "clipboard"]
    assert working(seat("wtype", "wl-copy", wayland=KEYBOARD)) == ["wayland", "wtype", "clipboard"]


def test_what_lacks_is_said(seat):
    gnome = lacks_of(seat("wtype", "xdotool", wayland=frozenset({"wl_seat"}), x11=True))
    assert list(gnome) == list(NAMES)
    assert "GNOME" in gnome["wayland"]
    assert "GNOME" in gnome["wtype"]
    assert "old X programs" in gnome["x11"]
    assert "not installed" in gnome["dotool"]
    assert all(gnome.values())


def test_a_hand_that_is_wanted_and_does_not_work_says_why(seat):
    with pytest.raises(HandError, match="no Wayland compositor"):
        hand_of(seat(x11=True), wanted="wtype", paste_keys="ctrl+v")
    with pytest.raises(HandError, match="doctor"):
        hand_of(seat(), wanted=None, paste_keys="ctrl+v")
    assert hand_of(seat(x11=True), wanted=None, paste_keys="ctrl+v").name == "x11"
    assert "x11" in hand_of(seat("xclip", x11=True), wanted="clipboard", paste_keys="ctrl+v").name


def test_text_is_told_by_standard_input_and_never_by_the_command():
    for backend in BACKENDS.values():
        for step in backend.write("a secret\nline"):
            assert "secret" not in " ".join(step.command)
            assert b"secret" in step.stdin


def test_backspaces_come_in_bounded_commands():
    for backend in BACKENDS.values():
        steps = backend.erase(250)
        assert len(steps) == 3
        assert all(len(" ".join(step.command)) < 4000 for step in steps)


def test_new_lines_of_dotool_are_keys():
    (step,) = BACKENDS["dotool"].write("one\n\ntwo")
    assert step.stdin == b"type one\nkey enter\n\nkey enter\ntype two\n"


def test_a_display_that_does_not_answer_is_none(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.bind(str(tmp_path / "wayland-0"))
        silent.listen()
        seat = look({"WAYLAND_DISPLAY": "wayland-0", "XDG_RUNTIME_DIR": str(tmp_path), "DISPLAY": ":98765"})
    assert (seat.wayland, seat.x11) == (None, False)
    assert look({"DISPLAY": "far.example:0"}).x11
