"""The control plane's declarations and the parsing of parameters."""

import msgpack
import pytest

from sttd.errors import ProtocolError
from sttd.wire import verbs
from sttd.wire.verbs import VERBS, parse_params

# The methods of docs/reference/control.md, by hand: the contract must not follow the code.
CONTRACT = {
    "hello": {"client", "protocol"},
    "ping": set(),
    "status": set(),
    "models": set(),
    "load": {"preset", "cpu_threads", "num_workers", "keep_alive_s"},
    "unload": {"preset", "wait"},
    "pull": {"model", "revision", "source"},
    "sessions": {"limit", "cursor"},
    "close_session": {"session", "drain"},
    "config": set(),
    "reload": set(),
    "subscribe": {"topics"},
    "unsubscribe": set(),
    "drain": set(),
    "undrain": set(),
    "shutdown": {"drain_s"},
    "describe": set(),
}


def test_the_verbs_are_those_of_the_contract():
    described = verbs.describe_verbs()["methods"]
    assert {name: set(verb["params"]) for name, verb in described.items()} == CONTRACT
    privileged = {name for name, verb in VERBS.items() if verb.permission == "privileged"}
    assert privileged == {"pull", "reload", "config", "drain", "undrain", "shutdown"}


def test_the_description_is_plain_data():
    described = verbs.describe_verbs()
    assert msgpack.unpackb(msgpack.packb(described)) == described
    assert described["methods"]["load"]["params"]["cpu_threads"]["maximum"] == 64
    assert described["methods"]["unload"]["params"]["wait"]["default"] is True


def test_parameters_have_their_defaults():
    assert parse_params("unload", []) == verbs.UnloadParams(preset=None, wait=True)
    assert parse_params("sessions", [{}]) == verbs.SessionsParams(limit=100, cursor=None)
    assert parse_params("load", [{"preset": "demo", "keep_alive_s": -1}]).keep_alive_s == -1.0
    assert parse_params("subscribe", [{"topics": ["models"]}]).topics == ("models",)


@pytest.mark.parametrize("params", [None, {}, "x", [1], [{}, {}], [[]], [None], 5])
def test_parameters_of_another_shape_are_a_bad_request(params):
    with pytest.raises(ProtocolError) as caught:
        parse_params("ping", params)
    assert caught.value.code == "bad_request"


@pytest.mark.parametrize(
    ("verb", "params", "field"),
    [
        ("ping", {"x": 1}, "x"),
        ("load", {}, "preset"),
        ("load", {"preset": "demo", "cpu_threads": 65}, "cpu_threads"),
        ("load", {"preset": "demo", "cpu_threads": True}, "cpu_threads"),
        ("load", {"preset": "demo", "num_workers": 0}, "num_workers"),
        ("load", {"preset": "demo", "keep_alive_s": -0.5}, "keep_alive_s"),
        ("load", {"preset": b"demo"}, "preset"),
        ("hello", {"protocol": 2}, "protocol"),
        ("sessions", {"limit": 0}, "limit"),
        ("subscribe", {"topics": ["weather"]}, "topics[0]"),
        ("close_session", {"session": "s1", "drain": 0}, "drain"),
        ("shutdown", {"drain_s": float("nan")}, "drain_s"),
    ],
)
def test_what_is_wrong_is_named(verb, params, field):
    with pytest.raises(ProtocolError) as caught:
        parse_params(verb, [params])
    assert (caught.value.code, caught.value.data["field"]) == ("bad_option", field)


def test_an_unknown_method_is_said():
    with pytest.raises(ProtocolError, match="there is no method `fly`") as caught:
        parse_params("fly", [])
    assert caught.value.code == "unknown_method"
