"""`sttctl` in this process, against a scripted control plane."""

import pytest
from sttd_client.ctl.main import main

STATUS = {
    "server": {
        "version": "0.1.0",
        "pid": 42,
        "uptime_s": 4000.0,
        "state": "ready",
        "listeners": ["control: /c.sock", "audio: /a.sock"],
        "config_path": "",
    },
    "models": {
        "loaded": 1,
        "max_loaded": 2,
        "hits": 3,
        "misses": 1,
        "load_failures": 0,
        "process_rss_bytes": 150 << 20,
        "entries": [
            {
                "preset": "base",
                "cpu_threads": 4,
                "num_workers": 1,
                "device": "cpu",
                "compute_type": "int8",
                "leases": 0,
                "hits": 3,
                "ram_bytes": 80 << 20,
                "vram_bytes": None,
                "loaded_for_seconds": 120.0,
                "idle_for_seconds": 3.0,
                "pinned": False,
                "expires_in_s": 297.0,
            }
        ],
    },
    "sessions": {"active": 2, "peak": 5, "limit": 64, "total": 12},
    "admission": 0.25,
    "scheduler": {
        "queued": {"final": 0, "speculative": 0, "interim": 1, "file": 3},
        "in_flight": 1,
        "workers": 1,
        "batches": 10,
        "batch_size_mean": 1.5,
        "coalesced": 4,
        "rejected": 0,
        "realtime_factor": 0.12,
        "queue_wait_ms": {"final": {"p50": 1.0, "p95": 2.0}, "interim": {"p50": None, "p95": None}},
    },
    "latency_ms": {"final": {"p50": 310.0, "p95": 520.0, "p99": 600.0}, "interim": {"p50": None, "p95": None}},
    "health": {"event_loop_lag_ms_p99": 1.25, "audio_dropped_s": 0.0, "engine_restarts": 0, "last_error": None},
}

PRESETS = [
    {
        "preset": "base",
        "backend": "whisper",
        "model": "base",
        "device": "cpu",
        "compute_type": "int8",
        "loaded": True,
        "local": True,
        "verified": True,
        "source": "index",
        "size_bytes": 145_217_607,
        "realtime": True,
        "interim_s": 0.5,
        "default_for": ["final", "interim"],
    },
    {
        "preset": "tiny",
        "backend": "whisper",
        "model": "tiny",
        "device": "cpu",
        "compute_type": "int8",
        "loaded": False,
        "local": False,
        "size_bytes": 75_537_502,
        "default_for": [],
    },
]


@pytest.fixture
def sttctl(capsys, control_socket):
    """`sttctl("status", "--json")` -> (exit status, standard output, standard error)."""

    def run(*arguments):
        try:
            status = main(["--socket", str(control_socket), *arguments])
        except SystemExit as exit_:  # argparse
            status = exit_.code
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def status_report():
    return STATUS


@pytest.fixture
def presets():
    return PRESETS
