import sys

from sttd_client import Final, blocking

with open(sys.argv[1], "rb") as file, blocking.open_session(kind="file", encoding="container") as session:
    while data := file.read(65536):
        session.send(data)
    session.stop()
    for event in session:
        if isinstance(event, Final):
            print(event.text)
