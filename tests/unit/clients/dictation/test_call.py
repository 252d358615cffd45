"""What a key press says to the agent, and what it makes of the answer."""

import json
import socket

import pytest
from sttd_client.dictation import call
from sttd_client.dictation.requests import read_request


def test_the_agent_is_told_where_the_words_go(monkeypatch):
    session = {"WAYLAND_DISPLAY": "wayland-7", "DISPLAY": ":7", "XAUTHORITY": "/x"}
    for name, text in session.items():
        monkeypatch.setenv(name, text)
    assert read_request(call.request("start").rstrip())["display"] == session


@pytest.fixture
def agent(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(call.socket_path())
        listener.listen()
        yield listener


def test_a_press_without_an_answer_is_not_repeated(agent, monkeypatch, capsys):
    monkeypatch.setattr(call, "_ANSWER_S", 0.05)
    assert call.press(["dictate", "--toggle"])  # said twice, a toggle would undo itself
    assert "does not answer" in capsys.readouterr().err
    asked, _ = agent.accept()
    with asked:
        assert json.loads(asked.recv(4096))["do"] == "toggle"


@pytest.mark.parametrize("words", [["dictate"], ["dictate", "status"], ["dictate", "start", "--once"], ["status"], []])
def test_what_is_more_than_a_press_is_left_to_sttctl(words):
    assert call.press(words) is None
