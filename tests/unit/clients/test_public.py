"""The surface of the client library, and what importing it costs."""

import inspect
import subprocess
import sys
import typing

import pytest
import sttd_client
from sttd_client import options

from sttd.fields import rules_of
from sttd.options import EndpointingFields
from sttd.wire.messages import Configure, Start


def test_every_public_name_is_there_and_documented():
    for name in sttd_client.__all__:
        value = getattr(sttd_client, name)
        if name != "Event":  # a union of the others
            assert inspect.getdoc(value), name


def test_the_surface_is_what_was_decided():
    entrances = {"open_session", "open_control", "aio", "blocking", "Session", "Control", "TcpAddress"}
    events = {"Hello", "Started", "SpeechStart", "Interim", "SpeechEnd", "Final", "Progress", "Gap", "Warn"}
    events |= {"Failure", "Stopped", "Reconnected", "Resumed", "Event", "stable_and_tail"}
    errors = {"SttdError", "NoDaemonError", "ConnectionLostError"}
    assert set(sttd_client.__all__) == entrances | events | errors
    for twin in (sttd_client.aio, sttd_client.blocking):
        assert sorted(twin.__all__) == ["Control", "Session", "open_control", "open_session"]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        sttd_client.nonsense  # noqa: B018


@pytest.mark.parametrize(
    ("declared", "fields"),
    [
        (options.StartOptions, Start),
        (options.ConfigureOptions, Configure),
        (options.Endpointing, EndpointingFields),
    ],
)
def test_the_options_are_those_of_the_wire(declared, fields):
    assert set(typing.get_type_hints(declared)) == set(rules_of(fields))


def modules_after(statement):
    program = f"{statement}; import sys; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["status", "models", "sessions", "configuration", "watch", "raw", "doctor"])
def test_sttctl_imports_nothing_heavy(module):
    loaded = modules_after(f"import sttd_client.ctl.main, sttd_client.ctl.{module}")
    assert not loaded & {"trio", "numpy", "rich", "wsproto", "asyncio", "sttd.wire.messages", "cattrs"}


def test_transcribing_needs_neither_trio_nor_numpy():
    loaded = modules_after("import sttd_client.ctl.transcribe, sttd_client.blocking")
    assert not loaded & {"trio", "numpy", "rich", "asyncio"}


def test_no_client_imports_more_of_the_daemon_than_the_wire_and_what_is_under_it():
    loaded = modules_after("import sttd_client.demo, sttd_client.trio_session, sttd_client.ctl.listen")
    of_daemon = {name for name in loaded if name.startswith("sttd.")}
    below = ("sttd.wire", "sttd.options", "sttd.live_text", "sttd.fields", "sttd.errors")
    assert {name for name in of_daemon if not name.startswith(below)} == set()
