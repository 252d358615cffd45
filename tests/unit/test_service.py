"""The service behind all planes: who is admitted, who sees what, and how sessions are left. The pool and the dispatcher
are real, the recogniser is the fake one."""

import os
import threading
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from sttd.admission import Peer
from sttd.config.reader import Loaded
from sttd.config.tree import Config
from sttd.core.pooling import PoolLimits
from sttd.core.scheduling import PolicyOptions
from sttd.core.types import Final, Stopped
from sttd.engine.contract import NOBODY, Preset
from sttd.engine.engine import build_engine, open_engine
from sttd.engine.fake import FakeBackend, FakeModel
from sttd.engine.store.models import ModelStore
from sttd.errors import AccessError, ModelError, NotFoundError, OverloadedError, ProtocolError, SessionError
from sttd.host.looplag import LoopWatch
from sttd.hub import Hub
from sttd.metrics import Metrics
from sttd.options import SessionChanges
from sttd.service import Service
from sttd.session.registry import Registry
from tests.unit.session.rooms import NOISE, read_all

ROOT = Peer(uid=0, privileged=True)
ANN = Peer(uid=1000, privileged=False)
BOB = Peer(uid=1001, privileged=False)


@attrs.frozen
class Absent(FakeBackend):
    """A recogniser whose models are not on disk."""

    name: str = "absent"

    def locate(self, preset):
        return None


def preset(name, *, backend="fake", decode_ms=0.0, **fields):
    options = {"decode_ms": decode_ms} if backend == "fake" else {}
    return Preset(name=name, backend=backend, model=name, options=options, num_workers=1, cpu_threads=1, **fields)


PRESETS = {
    "fake": preset("fake"),
    "slow": preset("slow", decode_ms=300),
    "short": preset("short", max_window_s=5.0),
    "away": preset("away", backend="absent"),
    "words.en": preset("words.en"),
}


@asynccontextmanager
async def serving(*, sessions=10, per_uid=10, silero=None, **models):
    """A service that serves, its time bounded."""
    config = Config(models=attrs.evolve(Config().models, model="fake", **models))
    backends = {"fake": FakeBackend(), "absent": Absent()}
    engine = build_engine(
        presets=PRESETS,
        backends=backends,
        limits=PoolLimits(max_loaded_models=2, idle_ttl_s=300, load_wait_s=1, allow_smaller=False),
        options=PolicyOptions(),
    )
    engine.silero = silero
    service = Service(
        loaded=Loaded(config=config, origins={}, path=""),
        preset_table=PRESETS,
        engine=engine,
        store=ModelStore(hub_dir=Path("/nowhere")),
        registry=Registry(sessions, per_uid),
        hub=Hub(),
        meters=Metrics(),
        health=LoopWatch(),
        on_reload=lambda: None,
        on_shutdown=lambda drain_s: None,
    )
    with trio.fail_after(60):
        async with open_engine(engine):
            service.open()
            yield service


def asked(service, **options):
    """What a client that finalizes itself and wants no interims gets."""
    return attrs.evolve(service.defaults(), endpointing=None, interim=False, **options)


async def refusal(service, *, peer=ANN, **options):
    with pytest.raises((ModelError, OverloadedError, SessionError)) as caught:
        async with service.open_session(asked(service, **options), peer=peer):
            pass
    return caught.value.code


# ------------------------------------------------------------------ the voice detector


@attrs.define
class Network:
    """A stand-in for Silero that remembers in which threads it was loaded."""

    error: Exception | None = None
    threads: list = attrs.field(factory=list)

    @property
    def loaded(self):
        return bool(self.threads) and self.error is None

    def load(self):
        self.threads.append(threading.current_thread())
        if self.error is not None:
            raise self.error


async def test_silero_is_loaded_once_and_never_on_the_event_loop():
    network = Network()
    async with serving(silero=network) as service:
        for _ in range(2):
            async with service.open_session(asked(service), peer=ANN):
                pass
        assert len(network.threads) == 1
        assert threading.main_thread() not in network.threads


async def test_where_silero_does_not_load_sessions_open_without_it_and_it_is_said_once(caplog):
    network = Network(error=FileNotFoundError("no such file"))
    async with serving(silero=network) as service:
        for _ in range(2):
            async with service.open_session(asked(service), peer=ANN):
                pass
        assert len(network.threads) == 1
        assert "no such file" in service.status().health.last_error
    assert caplog.text.count("WebRTC VAD decides alone") == 1


# ------------------------------------------------------------------ admission


async def test_a_session_is_opened_counted_told_and_closed():
    async with serving() as service:
        events = service.subscribe(peer=ROOT, topics=("sessions", "transcripts"))
        async with service.open_session(asked(service, label="notes"), peer=ANN) as session:
            assert attrs.asdict(service.status().sessions) == {
                "active": 1,
                "peak": 1,
                "limit": 10,
                "total": 1,
                "uploads": 0,
            }
            session.feed(NOISE)
            session.stop()
            await read_all(session)
        told = [await events.receive() for _ in range(3)]
        assert [event["event"] for event in told] == ["opened", "final", "closed"]
        assert (told[0]["label"], told[0]["uid"]) == ("notes", 1000)
        assert (told[1]["text"], told[1]["session"], told[1]["timing"]["speculative"]) == (
            "w1 w2 w3",
            session.id,
            False,
        )
        assert service.status().sessions.active == 0
        assert service.status().latency_ms.final.p50 > 0


async def test_no_session_for_a_model_that_is_unknown_withheld_or_absent():
    async with serving(selectable=("slow", "away")) as service:
        assert service.presets() == ["slow", "away"]
        assert await refusal(service, model="nobody") == "model_not_found"
        assert await refusal(service, model="short") == "model_not_found"
        assert await refusal(service, model="away") == "model_not_local"
        assert await refusal(service, interim_model="away") == "model_not_local"
        async with service.open_session(asked(service), peer=ANN) as session:  # the default always may
            assert session.options.interim_model == "fake"
        assert service.registry.total == 1


@pytest.mark.parametrize(
    ("asked_for", "field"),
    [
        ({"model": "words.en", "lang": "de"}, "lang"),
        ({"model": "words.en", "lang": "de", "languages": ("de", "en")}, "lang"),
        ({"model": "words.en", "languages": ("de", "fr")}, "languages"),
        ({"interim_model": "words.en", "interim": True, "lang": "de"}, "lang"),
    ],
)
async def test_a_model_that_knows_english_only_is_not_asked_for_other_languages(asked_for, field):
    async with serving() as service:
        with pytest.raises(ProtocolError) as caught:
            async with service.open_session(attrs.evolve(asked(service), **asked_for), peer=ANN):
                pass
        assert (caught.value.code, caught.value.data) == ("bad_option", {"field": field})
        assert "words.en" in caught.value.message
        assert service.registry.total == 0


@pytest.mark.parametrize(
    ("asked_for", "lang"),
    [
        ({"model": "words.en"}, "en"),
        ({"model": "words.en", "lang": "en"}, "en"),
        ({"model": "words.en", "languages": ("de", "en")}, "en"),
        ({"interim_model": "words.en", "interim": True}, "en"),
        ({"interim_model": "words.en", "lang": "de"}, "de"),  # no interims, so nobody sees its English
        ({"lang": "de"}, "de"),
        ({}, None),
    ],
)
async def test_a_session_whose_model_knows_english_only_is_in_english(asked_for, lang):
    async with serving() as service:
        options = attrs.evolve(asked(service), **asked_for)
        async with service.open_session(options, peer=ANN) as session:
            assert session.options.lang == lang


async def test_nor_is_it_by_a_change():
    async with serving() as service:
        english = asked(service, model="words.en", lang="en")
        for changes in SessionChanges(lang="de"), SessionChanges(lang=None, languages=("de", "fr")):
            with pytest.raises(ProtocolError):
                service.fit_changes(changes, options=english)
        assert service.fit_changes(SessionChanges(lang=None), options=english) == SessionChanges(lang="en")
        unchanged = SessionChanges(prompt="x")
        assert service.fit_changes(unchanged, options=english) == unchanged
        many = asked(service, interim_model="words.en", lang="de")
        french = SessionChanges(lang="fr")
        assert service.fit_changes(french, options=many) == french
        with pytest.raises(ProtocolError):
            service.fit_changes(SessionChanges(interim=True), options=many)


async def test_no_session_beyond_the_limits_or_while_stopping():
    async with serving(sessions=2, per_uid=1) as service:
        async with service.open_session(asked(service), peer=ANN):
            assert await refusal(service) == "overloaded"
            async with service.open_session(asked(service), peer=BOB):
                assert await refusal(service, peer=ROOT) == "overloaded"
        async with service.open_session(asked(service), peer=ANN):
            assert service.begin_drain() == 1
            assert service.state == "draining"
            assert service.readiness() == (False, "the daemon is stopping")
            assert await refusal(service, peer=BOB) == "shutting_down"
            with pytest.raises(SessionError, match="stopping"):
                service.admission.undrain(uid=0)


async def test_who_is_drained_serves_those_who_are_there_and_nobody_else_until_it_is_taken_back():
    async with serving() as service:
        async with service.open_session(asked(service), peer=ANN) as session:
            for _ in range(2):
                service.admission.drain(uid=0)
            assert (service.state, service.status().admission) == ("draining", 1.0)
            assert service.summary().startswith("draining; 1 session(s)")
            assert "drained" in service.readiness()[1]
            assert await refusal(service, peer=BOB) == "shutting_down"
            session.feed(NOISE)
            session.stop()
            assert isinstance((await read_all(session))[-1], Stopped)
            service.admission.undrain(uid=0)
        assert (service.state, service.readiness()) == ("ready", (True, "ok"))
        async with service.open_session(asked(service), peer=BOB):
            pass


async def test_a_place_that_is_kept_counts_and_is_good_for_a_start_whatever_comes_between():
    async with serving(sessions=2) as service:
        admission, defaults = service.admission, service.defaults()
        with admission.expect(defaults, uid=ANN.uid) as place, admission.expect(defaults, uid=ANN.uid):
            assert service.status().sessions.active == 2
            assert service.quotas.rows()["sessions"].most == 2
            assert await refusal(service, peer=BOB) == "overloaded"
            admission.drain(uid=0)
            assert await refusal(service, peer=BOB) == "shutting_down"
            async with service.open_session(asked(service), peer=ANN, place=place):
                assert len(service.registry) == 2
            with pytest.raises(SessionError, match="drained"):
                admission.expect(defaults, uid=ANN.uid)
        assert len(service.registry) == 0
        admission.undrain(uid=0)
        with admission.expect(defaults, uid=ANN.uid) as place:
            service.begin_drain()
            with pytest.raises(SessionError, match="stopping"):
                async with service.open_session(asked(service), peer=ANN, place=place):
                    pass
        assert len(service.registry) == 0


async def test_who_was_promised_a_session_before_a_drain_takes_no_room_before_it_and_gets_it_then():
    async with serving(sessions=1) as service:
        with service.admission.promise(uid=ANN.uid) as place:
            async with service.open_session(asked(service), peer=BOB):
                assert (service.status().sessions.active, service.status().sessions.uploads) == (1, 1)
            service.admission.drain(uid=0)
            with pytest.raises(SessionError, match="drained"):
                service.admission.promise(uid=ANN.uid)
            async with service.open_session(asked(service), peer=ANN, place=place):
                assert (service.status().sessions.active, service.status().sessions.uploads) == (1, 0)


async def test_a_drained_daemon_does_not_leave_by_itself_for_the_next_one_would_not_know_that_it_is():
    async with serving() as service:
        service.admission.drain(uid=0)
        assert service.in_use
        service.admission.undrain(uid=0)
        assert not service.in_use


# ------------------------------------------------------------------ the number


class Load:
    """How much of what each rule allows is taken, as a test says."""

    def __init__(self, service, monkeypatch):
        self.service, self.wait_s, self.free_bytes = service, 0.0, 1 << 40
        monkeypatch.setattr(type(service.dispatcher), "queue_wait_s", lambda dispatcher, preset: self.wait_s)
        service.admission.available_bytes = lambda: self.free_bytes

    def refuses(self):
        try:
            self.service.admission.check(self.service.defaults(), uid=os.geteuid())
        except OverloadedError:
            return True
        return False


@pytest.mark.parametrize("rule", ["wait", "memory"])
async def test_admission_rises_with_what_is_taken_and_is_one_exactly_where_the_next_session_is_refused(
    monkeypatch, rule
):
    async with serving() as service:
        load, told = Load(service, monkeypatch), []
        reserve, bound_s = service.settings.limits.memory_reserve_bytes, service.settings.scheduler.admission_wait_s
        for part in (0.001, 0.2, 0.5, 0.9, 0.9996, 0.99999, 1.0, 1.5, 40.0):
            if rule == "wait":
                load.wait_s = part * bound_s
            else:
                load.free_bytes = round(reserve / part)
            told.append(service.status().admission)
            assert (told[-1] == 1.0) == load.refuses() == (part >= 1), part
        assert told == sorted(told)
        assert told[:3] == [0.001, 0.2, 0.5]


async def test_admission_counts_the_sessions_of_all_and_of_the_daemons_own_user():
    own, other = Peer(uid=os.geteuid(), privileged=True), Peer(uid=os.geteuid() + 1, privileged=False)
    async with serving(sessions=4, per_uid=2) as service, AsyncExitStack() as stack:
        service.admission.available_bytes = lambda: 1 << 50
        told = [service.status().admission]
        for peer in (other, own, own):
            await stack.enter_async_context(service.open_session(asked(service), peer=peer))
            told.append(service.status().admission)
        assert told == [0.0, 0.25, 0.5, 1.0]
        assert service.readiness() == (True, "ok")  # a full daemon is well
        assert await refusal(service, peer=own) == "overloaded"


async def test_admission_is_one_where_the_model_is_not_there():
    async with serving() as service:
        config = attrs.evolve(service.settings, models=attrs.evolve(service.settings.models, model="away"))
        loaded = attrs.evolve(service.loaded, config=config)
        service.apply(loaded, presets=PRESETS, limits=PoolLimits(), options=PolicyOptions())
        assert service.status().admission == 1.0


async def test_a_live_session_whose_finals_would_be_late_is_refused_and_a_file_is_not(monkeypatch):
    async with serving() as service:
        monkeypatch.setattr(type(service.dispatcher), "queue_wait_s", lambda self, preset: 7.0)
        with pytest.raises(OverloadedError, match=r"7\.0 s") as caught:
            async with service.open_session(asked(service), peer=ANN):
                pass
        assert caught.value.data == {"retry_after_s": 7.0}
        assert service.status().scheduler.rejected == 1
        assert b'sttd_sessions_refused_total{kind="live"} 1.0' in service.metrics()
        async with service.open_session(asked(service, kind="file"), peer=ANN):
            pass


async def test_subscribers_of_health_hear_of_trouble_and_of_nothing_else(monkeypatch):
    monkeypatch.setattr("sttd.service._HEALTH_EVERY_S", 0.01)
    async with serving() as service, trio.open_nursery() as nursery:
        events = service.subscribe(peer=ANN, topics=("health",))
        nursery.start_soon(service.watch_health)
        await trio.sleep(0.1)
        service.last_error = "the model does not load"
        event = await events.receive()
        assert (event["seq"], event["topic"], event["event"]) == (1, "health", "changed")
        assert event["last_error"] == "the model does not load"
        assert event["engine_restarts"] == 0
        assert set(event) == {"seq", "topic", "event", *attrs.asdict(service.status().health)}
        nursery.cancel_scope.cancel()


async def test_a_model_in_memory_is_good_for_new_sessions_whatever_became_of_its_files(monkeypatch):
    async with serving() as service:
        await service.desk.load(peer=ROOT, preset="fake")
        monkeypatch.setattr(FakeBackend, "locate", lambda self, preset: None)
        assert service.readiness() == (True, "ok")
        async with service.open_session(asked(service), peer=ANN) as session:
            session.feed(bytes(32_000))
            session.stop()
            assert await session.receive()
        assert await refusal(service, model="short") == "model_not_local"


@asynccontextmanager
async def a_file(service, *, model, peer=BOB):
    """A transcription that has its model and goes on until the block ends."""
    async with service.open_session(asked(service, kind="file", model=model, label=model), peer=peer) as session:
        async with trio.open_nursery() as nursery:

            async def read_on():
                while True:
                    session.feed(NOISE)
                    session.finalize()
                    await session.receive()

            nursery.start_soon(read_on)
            await wait_for(lambda: any(entry.leases for entry in entries(service) if entry.preset == model))
            yield session
            nursery.cancel_scope.cancel()
        session.abort()


def entries(service):
    return service.pool.stock.status().entries


async def wait_for(condition):
    while not condition():  # noqa: ASYNC110 (the point is to watch from outside)
        await trio.sleep(0.005)


async def test_files_give_their_slots_back_for_speech():
    async with (
        serving() as service,
        a_file(service, model="slow"),
        a_file(service, model="fake"),
        service.open_session(asked(service, model="words.en"), peer=ANN) as speaker,
    ):
        for _ in range(3):
            speaker.feed(NOISE)
            speaker.finalize()
        speaker.stop()
        finals = [event.text for event in await read_all(speaker) if isinstance(event, Final)]
        assert len(finals) == 3
        assert all(finals)


async def test_a_session_whose_model_has_no_room_is_refused_at_the_start():
    async with serving() as service:
        for preset in ("slow", "fake"):
            await service.desk.load(peer=ROOT, preset=preset, keep_alive_s=-1)
        with pytest.raises(OverloadedError, match="every model slot is in use \\(fake, slow\\)") as caught:
            async with service.open_session(asked(service, model="words.en"), peer=ANN):
                pass
        assert caught.value.data["retry_after_s"] > 0
        async with service.open_session(asked(service, model="fake"), peer=ANN):
            pass


async def test_a_pin_of_somebody_without_rights_makes_room():
    async with serving() as service:
        for preset in ("slow", "fake"):
            assert (await service.desk.load(peer=BOB, preset=preset, keep_alive_s=-1)).entry.pinned
        async with service.open_session(asked(service, model="words.en"), peer=ANN) as session:
            session.feed(NOISE)
            session.stop()
            assert any(isinstance(event, Final) and event.text for event in await read_all(session))


async def test_what_a_peer_without_rights_may_load():
    async with serving(selectable=["slow"]) as service:
        for preset in ("fake", "slow"):  # the default too
            await service.desk.load(peer=ANN, preset=preset)
        with pytest.raises(ModelError) as caught:
            await service.desk.load(peer=ANN, preset="words.en")
        assert caught.value.code == "model_not_found"
        await service.desk.load(peer=ROOT, preset="words.en")
        for settings in ({"cpu_threads": 2}, {"num_workers": 2}):
            with pytest.raises(AccessError, match="for everybody"):
                await service.desk.load(peer=ANN, preset="slow", **settings)
            await service.desk.load(peer=ROOT, preset="slow", **settings)


async def test_nobody_unloads_the_models_of_other_users_sessions():
    async with serving() as service:
        for preset in ("slow", "fake"):
            await service.desk.load(peer=ROOT, preset=preset)
        async with service.open_session(asked(service, model="slow"), peer=BOB):
            with pytest.raises(AccessError, match="other users"):
                await service.desk.unload(peer=ANN, preset="slow")
            assert (await service.desk.unload(peer=ANN)).unloaded == 1
            assert [entry.preset for entry in entries(service)] == ["slow"]
            assert (await service.desk.unload(peer=BOB, preset="slow")).unloaded == 1
            await service.desk.load(peer=ROOT, preset="slow")
            assert (await service.desk.unload(peer=ROOT)).unloaded == 1


async def test_no_session_where_memory_runs_out():
    async with serving() as service:
        service.admission.available_bytes = lambda: 63 * 1024**2
        with pytest.raises(OverloadedError, match="66 MB of memory are free") as caught:
            async with service.open_session(asked(service), peer=ANN):
                pass
        assert caught.value.data["retry_after_s"] > 0
        assert caught.value.data["available_bytes"] == 63 * 1024**2
        limits = attrs.evolve(service.settings.limits, memory_reserve_bytes=0)
        config = attrs.evolve(service.settings, limits=limits)
        loaded = attrs.evolve(service.loaded, config=config)
        service.apply(loaded, presets=PRESETS, limits=PoolLimits(), options=PolicyOptions())
        async with service.open_session(asked(service), peer=ANN):
            assert len(service.registry) == 1


async def test_no_utterance_is_longer_than_its_model_takes():
    async with serving() as service:
        for endpointing in (None, service.defaults().endpointing):
            options = attrs.evolve(service.defaults(), model="short", endpointing=endpointing)
            async with service.open_session(options, peer=ANN) as session:
                assert session.options.max_utterance_s == 5.0
                assert endpointing is None or session.options.endpointing.max_utterance_s == 5.0


def test_files_are_cut_at_real_pauses_only():
    async def defaults():
        async with serving() as service:
            return service.defaults(kind="live"), service.defaults(kind="file")

    live, file = trio.run(defaults)
    assert (live.interim, file.interim) == (True, False)
    assert live.endpointing.silence_ms_min < file.endpointing.silence_ms_min


async def test_ready_means_that_the_default_model_is_on_disk():
    async with serving() as service:
        assert service.readiness() == (True, "ok")
    async with serving(interim_model="away") as service:
        ready, reason = service.readiness()
        assert not ready
        assert "sttctl pull away" in reason


# ------------------------------------------------------------------ how sessions are left


async def test_a_connection_that_drops_has_its_finals_made_before_the_session_is_left():
    async with serving() as service:
        events = service.subscribe(peer=ANN, topics=("transcripts",))
        async with service.open_session(asked(service, model="slow"), peer=ANN) as session:
            session.feed(NOISE)
        assert service.registry.all() == ()
        event = await events.receive()
        assert (event["text"], event["reason"]) == ("w1 w2 w3", "disconnect")


async def test_what_the_block_raises_comes_out_as_it_is():
    async with serving() as service:
        with pytest.raises(KeyError, match="mine"):  # noqa: PT012
            async with service.open_session(asked(service), peer=ANN) as session:
                session.feed(NOISE)
                raise KeyError("mine")
        assert session.row().state == "draining"
        assert service.registry.all() == ()


async def test_cancelled_a_session_is_left_at_once(monkeypatch):
    begun, gate, real = threading.Event(), threading.Event(), FakeModel.decode

    def decode(self, batch, *, waiters=NOBODY):
        begun.set()
        assert gate.wait(60)
        return real(self, batch, waiters=waiters)

    monkeypatch.setattr(FakeModel, "decode", decode)
    async with serving() as service:
        with trio.CancelScope() as scope:
            async with service.open_session(asked(service), peer=ANN) as session:
                session.feed(NOISE)
                session.finalize()
                await wait_for(begun.is_set)
                scope.cancel()
                await trio.sleep_forever()
        assert service.registry.all() == ()
        assert service.dispatcher.statistics().in_flight == 1  # its decode goes on without it
        gate.set()


# ------------------------------------------------------------------ who sees what


async def test_a_peer_sees_hears_and_ends_its_own():
    async with serving() as service:
        hers = service.subscribe(peer=ANN, topics=("sessions", "transcripts"))
        async with (
            service.open_session(asked(service), peer=ANN) as ann,
            service.open_session(asked(service), peer=BOB) as bob,
        ):
            bob.feed(NOISE)
            bob.finalize()
            while service.registry.find(bob.id, uid=None).row().utterances == 0:  # noqa: ASYNC110
                await trio.sleep(0.005)
            assert [row.session for row in service.sessions(peer=ANN).sessions] == [ann.id]
            assert [row.session for row in service.sessions(peer=ROOT).sessions] == [ann.id, bob.id]
            with pytest.raises(NotFoundError):
                service.close_session(peer=ANN, session=bob.id)
            service.close_session(peer=ANN, session=ann.id)
            service.close_session(peer=ROOT, session=bob.id, drain=False)
            await read_all(ann)
            await read_all(bob)
            assert (ann.close_code, bob.close_code) == (1000, 1008)
        assert [(await hers.receive())["session"] for _ in range(2)] == [ann.id] * 2  # opened and closed
        hers.close()
        with pytest.raises(trio.EndOfChannel):
            await hers.receive()


async def test_models_say_what_they_are_the_default_for():
    async with serving(interim_model="slow") as service:
        rows = {row.preset: row for row in service.desk.models().presets}
        assert {name: list(row.default_for) for name, row in rows.items()} == {
            "fake": ["final"],
            "slow": ["interim"],
            "short": [],
            "away": [],
            "words.en": [],
        }
        loaded = await service.desk.load(peer=ROOT, preset="slow", num_workers=2, keep_alive_s=-1)
        assert (loaded.cache_hit, loaded.entry.num_workers, loaded.entry.pinned) == (False, 2, True)
        assert (await service.desk.unload(peer=ROOT, preset="slow")).unloaded == 1


async def test_pull_knows_presets_by_their_model():
    async with serving() as service:
        with pytest.raises(ModelError, match="'away' cannot be downloaded"):
            await service.desk.pull(model="away", progress=lambda *_: None)


async def test_a_download_is_a_use_of_the_daemon(monkeypatch):
    async with serving() as service:
        seen = []

        async def pull(self, model, **_):
            seen.append(service.in_use)
            raise ModelError("no network")

        monkeypatch.setattr(type(service.store), "pull", pull)
        assert not service.in_use
        with pytest.raises(ModelError, match="no network"):
            await service.desk.pull(model="base", progress=lambda *_: None)
        assert (seen, service.in_use) == ([True], False)


async def test_the_metrics_page_has_what_status_has():
    async with serving() as service:
        assert b"sttd_" in service.metrics()
