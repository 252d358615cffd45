"""A bus for what a desktop says."""

import pytest

from tests.logind import start_bus


@pytest.fixture
def bus(tmp_path, monkeypatch):
    """One bus that is the session's and the system's; yields its address."""
    address = f"unix:path={tmp_path}/bus"
    process = start_bus(address)
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
    yield address
    process.terminate()
    process.wait()
    process.stdout.close()
