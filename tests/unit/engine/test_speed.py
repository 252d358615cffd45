"""Which model a machine should have, and what `auto` means on it."""

from __future__ import annotations

import itertools

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.engine import speed as rules
from sttd.engine.presets import Machine, builtin_presets, resolve
from sttd.engine.store.catalogue import LADDER, PUBLISHED
from sttd.engine.store.ledger import Ledger, Speed
from sttd.engine.store.models import ModelStore
from sttd.engine.whisper import measurement as whisper_speed
from sttd.engine.whisper.backend import WhisperBackend
from sttd.engine.whisper.places import Places
from sttd.engine.whisper.windows import PASSED, with_windows

LAPTOP = Machine(cores=2)
AUTO = builtin_presets()["auto"]
GB = 1_000_000_000


def test_live_is_an_interim_a_second_and_the_finals():
    assert rules.runs_live(None) is None
    assert rules.runs_live(Speed(interim_s=0.5, window_s=15.0))
    assert not rules.runs_live(Speed(interim_s=0.9, window_s=15.0))
    assert rules.runs_live(Speed(interim_s=0.1)) is False


def test_small_machines_get_small_models_and_gpus_the_best():
    def live(threads):
        return lambda name: rules.runs_live(rules.expected(PUBLISHED[name], threads=threads))

    assert rules.recommend(live(2), memory_bytes=16 * GB, on_gpu=False) == "base"
    assert rules.recommend(live(1), memory_bytes=16 * GB, on_gpu=False) == "base"  # in short windows
    assert rules.recommend(live(8), memory_bytes=16 * GB, on_gpu=False) == "small"
    assert rules.recommend(live(8), memory_bytes=GB // 3, on_gpu=False) == "base"
    assert rules.recommend(lambda name: True, memory_bytes=8 * GB, on_gpu=True) == "large-v3-turbo"
    assert rules.recommend(lambda name: True, memory_bytes=1 * GB, on_gpu=True) == "small"


def test_of_several_measurements_the_best_counts():
    first = rules.best_of(None, Speed(interim_s=0.6))
    again = rules.best_of(first, Speed(interim_s=0.3, window_s=2.0))
    third = rules.best_of(again, Speed(interim_s=0.4, window_s=1.5))
    assert (again, third) == (
        Speed(interim_s=0.3, window_s=2.0, takes=2),
        Speed(interim_s=0.3, window_s=1.5, takes=3),
    )


def test_what_was_measured_corrects_what_is_expected_of_others():
    assert rules.correction({}, threads=2) == 1
    usual = rules.expected(PUBLISHED["tiny.en"], threads=2)
    twice = {"tiny.en": Speed(interim_s=2 * usual.interim_s, window_s=9.0)}
    assert rules.correction(twice, threads=2) == pytest.approx(2)
    assert rules.correction(twice | {"mine": Speed(interim_s=1.0)}, threads=2) == pytest.approx(2)


@given(on_disk=st.sets(st.sampled_from(LADDER)), live=st.sets(st.sampled_from(LADDER)))
def test_auto_is_the_best_that_runs_live_else_the_smallest(on_disk, live):
    chosen = rules.choose(on_disk, lambda name: name in live)
    if not on_disk:
        assert chosen is None
    elif on_disk & live:
        assert chosen == min(on_disk & live, key=LADDER.index)
    else:
        assert chosen == max(on_disk, key=LADDER.index)


# ------------------------------------------------------------ over a disk


@pytest.fixture
def places(tmp_path):
    store = ModelStore(own_dir=tmp_path / "own", hub_dir=tmp_path / "hub")
    every_look_is_a_second_later = itertools.count(0.0, 1.0).__next__
    ledger = Ledger(tmp_path / "models.json")
    return Places(store=store, ledger=ledger, machine=lambda: LAPTOP, clock=every_look_is_a_second_later)


def put(places, name):
    folder = places.store.own_dir / name
    folder.mkdir(parents=True)
    for file in ("model.bin", "config.json", "tokenizer.json"):
        (folder / file).write_bytes(b"{}")
    return folder


def note(places, name, speed):
    preset = with_windows(resolve(attrs.evolve(AUTO, model=name), machine=LAPTOP))
    places.ledger.note_speed(rules.key_of(preset, places.store.locate(name)), speed)


def test_auto_follows_the_disk_and_the_measurements(places):
    assert places.locate(AUTO) is None
    assert places.model_of(AUTO) == places.suggest(AUTO) == "base"
    tiny = put(places, "tiny.en")
    assert places.locate(AUTO) == tiny
    base = put(places, "base")
    assert places.locate(AUTO) == base
    put(places, "small")  # not expected to run live on two cores
    assert places.locate(AUTO) == base
    note(places, "base", Speed(interim_s=0.65, window_s=12.0))
    assert places.locate(AUTO) == tiny
    assert places.suggest(AUTO) == "tiny"
    note(places, "small", Speed(interim_s=0.2, window_s=1.0))
    assert places.model_of(AUTO) == "small"


def test_a_row_says_where_a_model_came_from_and_what_is_known_of_it(places, tmp_path):
    presets = builtin_presets()
    gone = places.describe(presets["base"])
    assert (gone.path, gone.source, gone.verified, gone.realtime) == (None, None, False, None)
    assert gone.size_bytes == PUBLISHED["base"].size_bytes
    folder = put(places, "base")
    assert (places.describe(presets["base"]).source, places.describe(presets["base"]).verified) == ("directory", False)
    places.ledger.note_receipt(folder, source="index", hashes={"model.bin": "ab"})
    note(places, "base", Speed(interim_s=0.5, window_s=1.5))
    row = places.describe(presets["base"])
    assert (row.source, row.verified, row.realtime, row.interim_s, row.window_s) == ("index", True, True, 0.5, 1.5)
    (folder / "model.bin").write_bytes(b"something else")
    assert not places.describe(presets["base"]).verified
    demo = places.describe(presets["demo"])
    assert (demo.source, demo.verified) == ("embedded", True)
    assert places.describe(attrs.evolve(presets["base"], model=str(folder))).source == "directory"
    snapshot = places.store.hub_dir / "models--Systran--faster-whisper-tiny" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    for file in ("model.bin", "config.json", "tokenizer.json"):
        (snapshot / file).write_bytes(b"{}")
    assert places.describe(presets["tiny"]).source == "hub"


def test_what_was_found_is_good_for_a_second_and_nothing_is_not(places):
    now = [0.0]
    places = attrs.evolve(places, clock=lambda: now[0])
    assert places.locate(AUTO) is None
    tiny = put(places, "tiny.en")
    assert places.locate(AUTO) == tiny
    base = put(places, "base")
    assert places.locate(AUTO) == tiny
    now[0] = 1.0
    assert places.locate(AUTO) == base
    row = places.describe(AUTO)
    places.ledger.note_receipt(base, source="hub", hashes={"model.bin": "ab"})
    assert places.describe(AUTO) is row
    places.forget()
    assert places.describe(AUTO).source == "hub"


def test_another_way_to_run_a_model_is_another_measurement(places):
    folder = put(places, "base")
    base = resolve(builtin_presets()["base"], machine=LAPTOP)
    keys = {
        rules.key_of(preset, folder)
        for preset in (
            base,
            attrs.evolve(base, cpu_threads=1),
            attrs.evolve(base, compute_type="float32"),
            attrs.evolve(base, options={"beam_size": 1}),
        )
    }
    assert len(keys) == 4
    assert rules.key_of(attrs.evolve(base, name="mine"), folder) in keys


def test_a_gpu_is_expected_to_run_the_best_that_fits(places):
    workstation = attrs.evolve(places, machine=lambda: Machine(cores=8, gpu_bytes=(24 * GB,)))
    assert workstation.suggest(AUTO) == "large-v3-turbo"
    assert workstation.suggest(attrs.evolve(AUTO, device="cpu")) == "small"


@pytest.mark.model
def test_the_first_loads_measure_when_the_machine_is_not_busy(tmp_path, monkeypatch):
    waited_s = itertools.count(0, 1_000)
    monkeypatch.setattr(whisper_speed, "_waited_s", lambda: next(waited_s))
    ledger = Ledger(tmp_path / "models.json")
    backend = WhisperBackend(ledger=ledger, machine=lambda: LAPTOP)
    demo = builtin_presets()["demo"]
    assert backend.describe(demo).realtime is None
    backend.load(demo, cpu_threads=1, num_workers=1).close()
    assert not ledger.path.exists()
    monkeypatch.setattr(whisper_speed, "_waited_s", lambda: 0.0)
    backend.load(demo, cpu_threads=1, num_workers=1).close()
    key = rules.key_of(with_windows(backend.resolve(attrs.evolve(demo, cpu_threads=1))), backend.locate(demo))
    measured = ledger.speed(key)
    assert measured is not None
    assert measured.interim_s > 0
    for takes in (2, 3, 3):
        backend.load(demo, cpu_threads=1, num_workers=1).close()
        assert ledger.speed(key).takes == takes


@pytest.mark.model
def test_a_model_that_is_too_slow_is_told_so_in_the_log(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(whisper_speed, "_waited_s", lambda: 0.0)
    monkeypatch.setattr(whisper_speed, "_decode", lambda *_, **__: 9.0)
    ledger = Ledger(tmp_path / "models.json")
    backend = WhisperBackend(ledger=ledger, machine=lambda: LAPTOP)
    demo = builtin_presets()["demo"]
    backend.load(demo, cpu_threads=1, num_workers=1).close()
    assert "too slow to run live" in caplog.text
    assert backend.describe(attrs.evolve(demo, cpu_threads=1)).realtime is False


def test_the_catalogue_knows_of_every_model_whose_interims_are_short():
    short = {name for name, passed in PASSED.items() if passed.interim_windows}
    assert short & set(PUBLISHED) == {model.name for model in PUBLISHED.values() if model.interim_share < 1}
