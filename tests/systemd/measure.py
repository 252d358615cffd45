"""How fast the service is up, in the private systemd: `python -m tests.systemd.measure`, as root.

    start to READY     `systemctl start sttd`, which returns when the daemon says that it is ready
    socket to final    the daemon is not running; a client connects, which starts it, streams the bundled sample as
                       fast as it can, and waits for the first final: start, model load and decode together

The files are in the page cache; `--cold` drops it before each round (the whole machine feels that).
"""

import argparse
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

import sttd
from tests.systemd.lab import Lab, why_not
from tests.systemd.talk import Session, call

CONFIG = '[models]\nmodel = "demo"\n'


def sample():
    """The bundled sample as 16-bit PCM at 16 kHz."""
    import av

    resampler = av.AudioResampler(format="s16", layout="mono", rate=16_000)
    with av.open(str(Path(sttd.__file__).parent / "assets/sample.flac")) as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]).tobytes()


def first_final(path, pcm):
    """Stream everything at once; the seconds until the first final, and its text."""
    began = time.monotonic()
    with Session.open(path, endpointing=None) as session:
        for start in range(0, len(pcm), 64_000):
            session.websocket.send(pcm[start : start + 64_000])
        session.send(op="finalize")
        final = session.until("final")
        elapsed_s = time.monotonic() - began
        session.send(op="stop")
        session.until_closed()
    return elapsed_s, final["text"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold", action="store_true")
    arguments = parser.parse_args()
    if reason := why_not():
        raise SystemExit(reason)

    def forget():
        lab.systemctl("stop", "sttd")
        lab.systemctl("reset-failed", "sttd")  # and with it the count of starts in this minute
        if arguments.cold:
            subprocess.run(["sync"], check=True)
            Path("/proc/sys/vm/drop_caches").write_text("3")

    pcm = sample()
    rows = {"start to READY": [], "socket to final": [], "the same, running": []}
    with tempfile.TemporaryDirectory() as directory, Lab.up(Path(directory), config=CONFIG) as lab:
        lab.systemctl("start", "sttd.socket", "sttd-audio.socket")
        for _ in range(arguments.rounds):
            forget()
            began = time.monotonic()
            lab.systemctl("start", "sttd")
            rows["start to READY"].append(time.monotonic() - began)
            forget()
            elapsed_s, text = first_final(lab.audio, pcm)
            rows["socket to final"].append(elapsed_s)
            rows["the same, running"].append(first_final(lab.audio, pcm)[0])
        resident = call(lab.control, "status")["models"]["process_rss_bytes"] / 2**20
    print(f"{'seconds':20} {'median':>8} {'best':>8} {'worst':>8}")
    for name, values in rows.items():
        print(f"{name:20} {statistics.median(values):8.2f} {min(values):8.2f} {max(values):8.2f}")
    print(f"first final: {text!r}; resident {resident:.0f} MiB")


if __name__ == "__main__":
    main()
