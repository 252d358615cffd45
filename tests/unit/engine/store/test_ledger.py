"""What is remembered of models, and what becomes of it when files change or somebody writes nonsense."""

from __future__ import annotations

import json
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.engine.store.ledger import Ledger, Speed


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.bin").write_bytes(b"weights")
    (folder / "config.json").write_bytes(b"{}")
    return folder


HASHES = {"model.bin": "ab" * 32, "config.json": "cd" * 32}


def test_a_receipt_holds_until_a_file_changes(tmp_path, model):
    path = tmp_path / "cache" / "models.json"
    Ledger(path).note_receipt(model, source="index", hashes=HASHES)
    other = Ledger(path)
    receipt = other.receipt(model)
    assert receipt is not None
    assert receipt.source == "index"
    assert receipt.files["model.bin"].sha256 == HASHES["model.bin"]
    assert other.receipt(tmp_path) is None
    os.utime(model / "config.json", ns=(0, 0))
    assert other.receipt(model) is None
    Ledger(path).note_receipt(model, source="hub", hashes=HASHES)
    assert other.receipt(model).source == "hub"
    (model / "model.bin").unlink()
    assert other.receipt(model) is None


def test_speeds_are_kept_beside_receipts(tmp_path, model):
    ledger = Ledger(tmp_path / "models.json")
    assert ledger.speed("x") is None
    ledger.note_receipt(model, source="hub", hashes=HASHES)
    ledger.note_speed("x", Speed(interim_s=0.5, window_s=1.5))
    ledger.note_speed("y", Speed(interim_s=9.0))
    again = Ledger(tmp_path / "models.json")
    assert again.speed("x") == Speed(interim_s=0.5, window_s=1.5)
    assert again.speed("y").window_s is None
    assert again.receipt(model) is not None


def test_writers_do_not_lose_each_others_entries(tmp_path):
    def write(number):
        Ledger(tmp_path / "models.json").note_speed(f"key {number}", Speed(interim_s=1.0))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger = Ledger(tmp_path / "models.json")
    assert all(ledger.speed(f"key {number}") for number in range(8))


def test_it_does_not_grow_for_ever(tmp_path):
    ledger = Ledger(tmp_path / "models.json")
    keys = {f"key {number}": {"interim_s": 1.0} for number in range(2000)}
    ledger.path.write_text(json.dumps({"speeds": keys}))
    ledger.note_speed("newest", Speed(interim_s=1.0))
    assert ledger.speed("newest")
    assert ledger.speed("key 1999")
    assert ledger.speed("key 0") is None


NAMES = st.sampled_from(["receipts", "speeds", "/m", "k", "source", "files", "interim_s"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)


@given(content=JSON)
def test_whatever_the_file_holds_it_costs_only_what_it_remembered(tmp_path_factory, content):
    ledger = Ledger(tmp_path_factory.mktemp("ledger") / "models.json")
    ledger.path.write_text(json.dumps(content))
    ledger.speed("k")
    ledger.receipt(ledger.path.parent)
    ledger.note_speed("k", Speed(interim_s=2.0))
    assert ledger.speed("k") == Speed(interim_s=2.0)


def test_a_place_that_cannot_be_written_is_said_and_lived_with(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    ledger = Ledger(tmp_path / "file" / "models.json")
    ledger.note_speed("k", Speed(interim_s=2.0))
    assert "is not kept" in caplog.text
    assert ledger.speed("k") is None
