"""What the ingress and the decoder of deploy/ray make of what Ray does to them. There is no cluster in it."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from benchmarks import ray_cluster, report
from tests.running import PATIENCE_S

pytestmark = pytest.mark.skipif(not ray_cluster.PYTHON.exists(), reason=ray_cluster.REASON)


@pytest.fixture(scope="module")
def found():
    root = report.ROOT
    path = os.pathsep.join(map(str, (root / "deploy" / "ray", root)))
    ran = subprocess.run(
        [ray_cluster.PYTHON, root / "tests" / "programs" / "ray_ingress.py"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout)


@pytest.mark.parametrize("how", ["killed for memory", "lost"])
def test_whatever_ended_a_replica_another_one_decodes(found, how):
    assert (found[how]["status"], found[how]["asked"]) == (200, 2)


def test_where_all_replicas_are_gone_or_there_is_a_bug_nothing_is_repeated_for_ever(found):
    assert (found["all gone"]["status"], found["all gone"]["asked"]) == (503, 3)
    assert (found["bug"]["status"], found["bug"]["asked"]) == (500, 1)


@pytest.mark.parametrize("how", ["hung up", "disconnected"])
def test_who_hangs_up_while_sending_is_no_error(found, how):
    assert (found[how]["status"], found[how]["log"]) == ("cancelled", "")


def test_a_body_that_does_not_come_is_not_waited_for(found):
    assert (found["slow"]["status"], found["slow"]["code"]) == (408, "idle_timeout")


def test_an_ingress_holds_so_many_bodies_and_no_more(found):
    assert (found["no room"]["status"], found["no room"]["again"]) == (429, "1")
    assert [case["held"] for case in found.values() if "held" in case] == [0] * 9


def test_a_replica_whose_engine_is_lost_ends_before_it_is_given_more(found):
    assert found["engine lost"] == ["ended", "ended", "ended"]
    assert found["engine well"] == ["odd audio", "odd audio", "well"]


def test_audio_that_hangs_costs_one_replica_and_not_one_after_the_other(found):
    assert found["engine hangs"] == ["it hangs", "ended", "ended"], "the answer of the first is not to be tried again"


def test_of_a_model_that_does_not_load_the_reason_is_said_and_nothing_else(found):
    assert found["not loaded"] == {"said": "ModelError", "besides": []}


def test_files_leave_room_for_live_text(found):
    assert found["files"] == [429, 200, 200, 200]


def test_a_request_has_one_id_and_that_is_of_the_proxy(found):
    assert found["well"]["ids"] is False
