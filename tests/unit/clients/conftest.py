"""Daemons that exist only in tests: what a client has to live with, scripted one conversation at a time."""

import json
import socket
import threading
from contextlib import contextmanager, suppress

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import unix_serve

from sttd.wire.rpc import Request, RpcDecoder, encode_notification, encode_response


class Conversation:
    """The daemon's end of one WebSocket, as a test writes it."""

    def __init__(self, connection):
        self.connection = connection
        self.ops = []
        self.audio = b""

    def say(self, kind, **fields):
        self.connection.send(json.dumps({"type": kind, **fields}))

    def greet(self, **started):
        self.say("hello", server="fake/1", protocol=1, encodings=["pcm_s16le"], presets=["fake"])
        self.hear()
        self.say("started", session="s1", sample_rate=16000, **started)

    def greet_again(self, *, token, last_seq, position_s, ops=0, next_token="t2"):
        """The client must show `token`; the session goes on."""
        self.say("hello", server="fake/1", protocol=1, encodings=["pcm_s16le"], presets=["fake"])
        assert self.hear() == {"op": "resume", "token": token, "last_seq": last_seq}
        self.say("resumed", position_s=position_s, resume_token=next_token, ops=ops)

    def cut(self):
        """The connection is gone, without a word."""
        self.connection.socket.shutdown(socket.SHUT_RDWR)

    def hear(self):
        """The next message of the client: an op, or audio."""
        message = self.connection.recv()
        if isinstance(message, bytes):
            self.audio += message
            return message
        self.ops.append(json.loads(message))
        return self.ops[-1]

    def hear_until_stop(self):
        while True:
            message = self.hear()
            if isinstance(message, dict) and message["op"] == "stop":
                return

    def final(self, utterance, text, **fields):
        self.say("final", utterance=utterance, text=text, start_s=0.0, end_s=1.0, reason="endpoint", **fields)

    def stopped(self):
        self.say("stopped", audio_s=1.0, utterances=1, dropped_s=0.0)


@contextmanager
def audio_daemon(path, *scripts):
    """A WebSocket server on `path`: the first connection gets the first script, and so on, the last one again."""
    conversations = []

    def handler(connection):
        script = scripts[min(len(conversations), len(scripts) - 1)]
        conversation = Conversation(connection)
        conversations.append(conversation)
        with suppress(ConnectionClosed):
            script(conversation)

    with unix_serve(handler, str(path)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield conversations
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def control_daemon(path, answer):
    """A MessagePack-RPC server on `path` for one connection; `answer(request, send)` sends what it likes."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()
    requests = []

    def serve():
        try:
            while True:
                connection, _ = listener.accept()
                with connection:
                    decoder = RpcDecoder()
                    while data := connection.recv(65536):
                        for message in decoder.receive_data(data):
                            assert isinstance(message, Request)
                            requests.append(message)
                            answer(message, connection.sendall)
        except OSError:
            pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield requests
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        path.unlink()


def results(table):
    """An `answer` that knows the result of each method; a result that is an error map with `code` is sent as error."""

    def answer(request, send):
        result = table[request.method]
        if isinstance(result, dict) and "code" in result:
            send(encode_response(request.msgid, error=result))
        else:
            send(encode_response(request.msgid, result=result))

    return answer


@pytest.fixture
def pulling():
    """An `answer` that tells progress and an event before each result."""

    def answer(request, send):
        send(encode_notification("progress", params={"msgid": 99, "done_bytes": 1, "total_bytes": 2, "file": "other"}))
        send(encode_notification("event", params={"seq": 1, "topic": "models"}))
        if request.method == "pull":
            progress = {"msgid": request.msgid, "done_bytes": 1, "total_bytes": 2, "file": "model.bin"}
            send(encode_notification("progress", params=progress))
        send(encode_response(request.msgid, result={"path": "/m"}))

    return answer


@pytest.fixture
def control_socket(tmp_path):
    return tmp_path / "control.sock"


@pytest.fixture
def fake_audio(control_socket):
    """`with fake_audio(script, ...)`: a daemon's audio plane beside `control_socket`."""
    return lambda *scripts: audio_daemon(control_socket.with_name("audio.sock"), *scripts)


@pytest.fixture
def fake_control(control_socket):
    """`with fake_control({method: result}) as requests`, or with a function that answers."""
    return lambda answer: control_daemon(control_socket, answer if callable(answer) else results(answer))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """Neither this user's daemon nor this terminal's colours."""
    for name in ("STTD_SOCKET", "XDG_RUNTIME_DIR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
