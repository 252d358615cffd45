"""Push to talk: Enter begins, Enter ends, the text comes at once. A WAV file as argument stands for the microphone."""

import contextlib
import os
import select
import sys

from sttd_client import Final
from sttd_client.blocking import open_session
from sttd_client.capture import microphone, recording


def main() -> None:
    source = recording(sys.argv[1]) if len(sys.argv) > 1 else microphone()
    # endpointing=False: no pause ends the utterance, only `finalize` does. The speaker decides.
    options = {"endpointing": False, "interim": False}
    # The daemon ends a session that says nothing for minutes; reconnect_s opens the next one.
    with source as audio, open_session(**audio.options, **options, reconnect_s=30) as session:
        talking = False
        print("press Enter and talk; press Enter again when you are done; Ctrl-D ends", file=sys.stderr)
        while True:
            ready, _, _ = select.select([sys.stdin, audio.descriptor, session.fileno()], [], [])
            if audio.descriptor in ready:
                data = os.read(audio.descriptor, 4096)
                if talking and data:  # what is heard while nobody holds the key is thrown away
                    session.send(data)
            if sys.stdin in ready:
                if not sys.stdin.readline():
                    break
                talking = not talking
                if not talking:
                    session.finalize()
            for event in session.poll():
                if isinstance(event, Final):
                    print(event.text, flush=True)
        session.stop()
        for event in session:
            if isinstance(event, Final):
                print(event.text, flush=True)


with contextlib.suppress(KeyboardInterrupt):
    main()
