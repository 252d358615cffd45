"""RealtimeSTT's recorder behind a socket, run in its environment: PCM comes in, texts go back as JSON lines.

    python realtimestt_host.py PORT MODEL_DIRECTORY

RealtimeSTT is a library for one speaker: its `AudioToTextRecorder` is fed chunks, and its `text()` is called in a loop,
as its README shows. So one host serves one connection after the other. Lines are `{"shown": text}` for a text that may
change, `{"final": text}`, and `{"done": true}` when the client has ended its audio and nothing is under way any more.
"""

import json
import socket
import sys
import threading
import time

QUIET_S = 1.0  # after the end of the audio nothing may be under way for so long; chosen


class Host:
    """A recorder and the connection that it serves at present."""

    def __init__(self, model):
        from RealtimeSTT import AudioToTextRecorder

        self._connection = None
        self._lock = threading.Lock()
        self._begun = self._done = 0
        self._recorder = AudioToTextRecorder(
            model=model,
            language="en",
            device="cpu",
            compute_type="int8",
            beam_size=5,
            use_microphone=False,
            spinner=False,
            no_log_file=True,
            enable_realtime_transcription=True,
            use_main_model_for_realtime=True,
            on_realtime_transcription_update=lambda text: self._say(shown=text),
            on_recording_start=self._on_start,
        )
        threading.Thread(target=self._loop, daemon=True).start()

    def serve(self, connection):
        """Feed what comes until the client ends its side, then wait for the last text."""
        with self._lock:
            self._connection = connection
        fed = False
        while data := connection.recv(3200):
            fed = True
            self._recorder.feed_audio(data)
        if not fed:
            return  # somebody looked whether the port is open
        still_since = time.monotonic()
        while time.monotonic() - still_since < QUIET_S:
            if self._begun > self._done:
                still_since = time.monotonic()
            time.sleep(0.05)
        self._say(done=True)
        with self._lock:
            self._connection = None
        connection.close()

    def _on_start(self):
        self._begun += 1

    def _loop(self):
        while True:
            text = self._recorder.text()
            self._say(final=text or "")
            self._done = self._begun

    def _say(self, **message):
        with self._lock:
            if self._connection is not None:
                try:
                    self._connection.sendall(json.dumps(message).encode() + b"\n")
                except OSError:
                    self._connection = None


def main():
    """Load the model, then accept connections."""
    port, model = int(sys.argv[1]), sys.argv[2]
    host = Host(model)
    listener = socket.create_server(("127.0.0.1", port))
    while True:
        connection, _ = listener.accept()
        host.serve(connection)


if __name__ == "__main__":
    main()
