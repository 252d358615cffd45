"""What a key press says to the agent."""

from sttd_client.dictation import call
from sttd_client.dictation.requests import read_request


def test_the_agent_is_told_where_the_words_go(monkeypatch):
    session = {"WAYLAND_DISPLAY": "wayland-7", "DISPLAY": ":7", "XAUTHORITY": "/x"}
    for name, text in session.items():
        monkeypatch.setenv(name, text)
    assert read_request(call.request("start").rstrip())["display"] == session
