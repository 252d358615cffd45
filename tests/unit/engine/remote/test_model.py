"""A model that a server decodes, against servers on real sockets that do what servers do."""

import contextlib
import socket
import ssl
import threading
import time
from collections import deque
from pathlib import Path

import attrs
import numpy as np
import pytest

from sttd.core.types import SAMPLE_RATE, DecodeItem, DecodeOptions, Effort, Hypothesis
from sttd.engine.contract import Preset
from sttd.engine.fake import FakeBackend
from sttd.engine.remote import breaker, fallback
from sttd.engine.remote.asking import MAX_BODY_BYTES, Request
from sttd.engine.remote.backend import RemoteBackend, warnings, with_fallbacks
from sttd.engine.remote.client import Client, Gone
from sttd.engine.remote.fallback import Fallback, NoFallbackError
from sttd.engine.remote.options import RemoteOptions
from sttd.errors import ConfigError, DecodeError, ModelError
from tests.unit.engine.remote.servers import PATIENCE_S, Server, drip, hang, heard, raw, reply, reset

TLS = Path(__file__).parents[3] / "data" / "tls"
TOKEN = "correct-horse-battery"
LOCAL = "w1 w2 w3"  # what `fake` hears in a second


@attrs.define
class Waiter:
    """Whoever waits for one item."""

    patience: float = PATIENCE_S
    left: threading.Event = attrs.field(factory=threading.Event)
    told: list[Hypothesis] = attrs.field(factory=list)
    set_backs: int = 0
    waits_for: list[str | None] = attrs.field(factory=list)

    def tell(self, index, hypothesis):
        self.told.append(hypothesis)

    def gone(self, index):
        return self.left.is_set()

    def hurry(self):
        return False

    def patience_s(self):
        return self.patience

    def set_back(self, waits_for=None):
        self.set_backs += 1
        self.waits_for.append(waits_for)


def item(effort=Effort.FULL, **options):
    samples = np.zeros(SAMPLE_RATE, dtype=np.float32)
    return DecodeItem(samples=samples, options=DecodeOptions(effort=effort, language="en", **options))


@contextlib.contextmanager
def loaded(server, *, backend=None, **options):
    """A remote preset's model for that server; `fallback` by name is of this machine."""
    local = {"fake": FakeBackend()}
    backend = backend or RemoteBackend(local=local)
    url = server if isinstance(server, str) else server.url
    presets = {
        "cluster": Preset(name="cluster", backend="remote", model="large", options={"url": url, **options}),
        "here": Preset(name="here", backend="fake"),
    }
    preset = with_fallbacks(presets, backend.local)["cluster"]
    preset = backend.resolve(preset)
    model = backend.load(preset, cpu_threads=1, num_workers=preset.num_workers)
    try:
        yield model
    finally:
        model.close()


def decode(model, what=None, waiter=None):
    (result,) = model.decode([what or item()], waiters=waiter or Waiter())
    return result


def state(model):
    return model.link.reachable, model.link.reason


def nobody():
    """The address of a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return f"http://localhost:{sock.getsockname()[1]}/v1"


# ---------------------------------------------------------------- a server that is well


def test_one_connection_serves_many_requests():
    with Server() as server, loaded(server) as model:
        assert [decode(model).text for _ in range(5)] == ["hello"] * 5
        assert server.connections == 1
        assert {asked.path for asked in server.asked} == {"/v1/audio/transcriptions"}
        assert server.asked[0].field("model") == "large"
        assert state(model) == (True, None)


def test_a_connection_that_the_server_closed_meanwhile_costs_nobody_anything():
    with Server() as server, loaded(server) as model:
        server.steps = deque([reply({"text": "one"}, keep=False), heard("two"), reset(), heard("three")])
        assert decode(model).text == "one"
        assert decode(model).text == "two"
        waiter = Waiter()
        assert decode(model, waiter=waiter).text == "three"
        assert waiter.set_backs == 0, "what broke before a byte came back was an idle connection"


def test_calls_at_the_same_time_go_over_connections_of_their_own():
    together = threading.Barrier(3)

    def step(sock):
        together.wait(PATIENCE_S)
        return heard()(sock)

    with Server(otherwise=step) as server, loaded(server, max_in_flight=3) as model:
        assert (model.workers, model.max_batch(model.batch_key(item()))) == (3, 1)
        results = []
        threads = [threading.Thread(target=lambda: results.append(decode(model).text)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert results == ["hello"] * 3
        assert server.connections == 3


def test_the_class_and_the_time_that_is_left_travel_with_the_request():
    with Server() as server, loaded(server, timeout_s=5) as model:
        for effort in (Effort.FULL, Effort.QUICK, Effort.TIMED):
            decode(model, item(effort), Waiter(patience=60.0))
        assert [asked.headers["x-sttd-class"] for asked in server.asked] == ["final", "interim", "file"]
        assert all(0 < int(asked.headers["x-sttd-deadline-ms"]) <= 5000 for asked in server.asked)


def test_the_server_is_verified_and_gets_the_token_of_the_file_as_it_is_now(tmp_path):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "one.pem", TLS / "one.key")
    with Server(context=context) as server:
        with loaded(server, token_file=str(file), ca_file=str(TLS / "one.pem")) as model:
            assert decode(model).text == "hello"
            file.write_text("another")
            assert decode(model).text == "hello"
            assert [asked.headers["authorization"] for asked in server.asked] == [f"Bearer {TOKEN}", "Bearer another"]
        with loaded(server, token_file=str(file), ca_file=str(TLS / "two.pem"), fallback="here") as model:
            assert decode(model).text == LOCAL
            assert model.link.reachable is False
            assert "certificate is not trusted" in model.link.reason
        assert len(server.asked) == 2, "who is not trusted hears nothing"


# ---------------------------------------------------------------- a server that is not


@pytest.mark.parametrize(
    "step",
    [
        raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), raw(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n<<>"),
        reply(b"[]"), reply({"text": 1}), reply({"text": "hello"}, 500), reply({"text": "x"}, content_encoding="gzip"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + bytes(MAX_BODY_BYTES + 100_000)),
        raw(b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 200_000), reply({}, 400), reply({}, 413),
    ],
)  # fmt: skip
def test_rubbish_and_refusals_go_to_the_fallback_or_fail_with_a_word_on_what_to_do(step):
    with Server(otherwise=step) as server:
        with loaded(server, fallback="here") as model:
            assert decode(model).text == LOCAL
        with loaded(server) as model:
            failed = decode(model)
            assert isinstance(failed, DecodeError)
            assert "presets.cluster.fallback" in failed.message


@pytest.mark.parametrize(
    "step",
    [
        reset(), reset(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{"), reply({}, 502), reply({}, 504),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{"), raw(b""),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"),
    ],
)  # fmt: skip
def test_a_final_is_asked_for_again_where_nothing_was_answered_and_an_interim_is_not(step):
    with Server() as server, loaded(server) as model:
        server.steps = deque([step])
        assert isinstance(decode(model, item(Effort.QUICK)), DecodeError)
        assert len(server.asked) == 1
        server.steps = deque([heard(), step, step])
        decode(model)
        waiter = Waiter()
        assert decode(model, waiter=waiter).text == "hello"
        assert waiter.set_backs >= 1, "the first breaks an idle connection, perhaps"
        assert state(model) == (True, None)


def test_a_server_that_is_busy_is_left_alone_for_as_long_as_it_says():
    with Server() as server, loaded(server) as model:
        server.steps = deque([reply({}, 429, retry_after="0.5"), reply({}, 503, retry_after="0.5")])
        began = time.monotonic()
        assert decode(model).text == "hello"
        assert time.monotonic() - began >= 1.0
        assert state(model) == (True, None), "it is there"


def test_with_a_fallback_nobody_waits_for_a_busy_server_longer_than_for_a_slow_one():
    busy = reply({}, 429, retry_after="30")
    with Server(otherwise=busy) as server, loaded(server, fallback="here", timeout_s=5) as model:
        assert decode(model).text == LOCAL


def test_a_server_that_is_busy_for_ever_is_away_after_a_few_finals_and_one_at_a_time_looks_whether_it_still_is():
    busy = reply({}, 429, retry_after="30")
    with Server(otherwise=busy) as server, loaded(server, fallback="here", timeout_s=5) as model:
        for count in range(1, breaker.FAILURES + 1):
            assert state(model)[0] is not False
            assert decode(model).text == LOCAL
            assert len(server.asked) == count
        assert state(model) == (False, "it answers 429")
        for _ in range(3):
            assert decode(model).text == LOCAL
        assert len(server.asked) == breaker.FAILURES, "it is left alone for as long as it said"


def test_a_server_that_is_busy_now_and_then_is_there():
    with Server() as server, loaded(server, fallback="here", timeout_s=20) as model:
        server.steps = deque([reply({}, 429, retry_after="0.01"), heard()] * (2 * breaker.FAILURES))
        for _ in range(2 * breaker.FAILURES):
            assert decode(model).text == "hello"
            assert state(model) == (True, None)


def test_a_server_that_is_busy_for_ever_fails_finals_without_a_fallback_with_its_word():
    with Server(otherwise=reply({}, 429, retry_after="30")) as server, loaded(server) as model:
        waiter = Waiter(patience=1.0)
        failed = decode(model, waiter=waiter)
        assert isinstance(failed, DecodeError)
        assert "429" in failed.message
        assert waiter.waits_for == ["waiting for the server of preset 'cluster': it answers 429"]


def test_whoever_hangs_is_given_up_and_the_next_final_does_not_wait_for_it():
    released = threading.Event()
    with Server(otherwise=hang(released)) as server, loaded(server, fallback="here", timeout_s=0.5) as model:
        assert decode(model).text == LOCAL
        assert model.link.reason == "it did not answer in time"
        assert decode(model).text == LOCAL
        assert len(server.asked) == 1, "one of them found it out"
        assert released.wait(PATIENCE_S), "it is told by a connection that is cut"


def test_an_answer_that_drips_has_an_end():
    released = threading.Event()
    with Server(otherwise=drip(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1000, released)) as server:
        with loaded(server, fallback="here", timeout_s=0.5) as model:
            assert decode(model).text == LOCAL
        released.set()


def test_who_no_longer_waits_has_his_request_cut():
    released = threading.Event()
    with Server(otherwise=hang(released)) as server, loaded(server) as model:
        waiter = Waiter()
        results = []
        thread = threading.Thread(target=lambda: results.append(decode(model, waiter=waiter)))
        thread.start()
        while not server.asked:
            time.sleep(0.01)
        waiter.left.set()
        thread.join(PATIENCE_S)
        assert isinstance(results[0], DecodeError)
        assert released.wait(PATIENCE_S)
        assert state(model) == (None, None), "that says nothing of the server"


def test_a_token_that_is_refused_opens_the_breaker_and_stands_in_no_message(tmp_path):
    (tmp_path / "token").write_text(TOKEN)
    with Server(otherwise=reply({}, 401)) as server, loaded(server, token_file=str(tmp_path / "token")) as model:
        failed = decode(model, waiter=Waiter(patience=1.0))
        assert isinstance(failed, DecodeError)
        assert "401" in failed.message
        assert "token_file" in failed.message
        assert TOKEN not in f"{failed!r} {failed.message} {model!r} {model.link!r} {model.client!r}"


# ---------------------------------------------------------------- gone and back


def test_a_final_waits_for_a_server_that_comes_back_and_is_lost_by_nobody_s_patience_alone():
    with Server(otherwise=reply({}, 503)) as server, loaded(server) as model:
        results = []
        thread = threading.Thread(target=lambda: results.append(decode(model)))
        thread.start()
        while model.link.reachable is not False:
            time.sleep(0.01)
        assert isinstance(decode(model, item(Effort.QUICK)), DecodeError), "an interim does not wait"
        failed = decode(model, waiter=Waiter(patience=0.2))
        assert isinstance(failed, DecodeError)
        assert failed.code == "decode_failed"
        assert thread.is_alive()
        server.otherwise = heard("late")
        thread.join(PATIENCE_S)
        assert results[0].text == "late"
        assert state(model) == (True, None)


def test_the_fallback_decodes_until_the_server_is_back_and_is_freed_after_that():
    away, options = reply({}, 503), {"fallback": "here", "fallback_keep_s": 0.0}
    with Server(otherwise=away, probe=away) as server, loaded(server, **options) as model:
        assert decode(model).text == LOCAL
        assert model.fallback.model is not None
        assert decode(model, item(Effort.QUICK)).text == LOCAL, "interims, too"
        requests = len(server.asked)
        assert requests == breaker.FAILURES
        server.otherwise, server.probe = heard(), reply({"data": []})
        while (text := decode(model).text) == LOCAL:
            time.sleep(0.02)
        assert text == "hello"
        waiter = Waiter()
        decode(model, waiter=waiter)
        assert model.fallback.model is None
        assert [hypothesis.text for hypothesis in waiter.told] in (["hello"], [])


def test_once_somebody_waited_in_vain_windows_of_files_fail_at_once_and_speech_still_waits():
    with loaded(nobody()) as model:
        waiter = Waiter(patience=1.0)
        assert isinstance(decode(model, item(Effort.TIMED), waiter), DecodeError)
        assert "waiting for the server of preset 'cluster': no connection" in waiter.waits_for[0]
        for _ in range(3):
            failed = decode(model, item(Effort.TIMED))  # with the patience of the tests, which this does not use up
            assert isinstance(failed, DecodeError)
            assert "presets.cluster.fallback" in failed.message
        results, patient = [], Waiter()
        thread = threading.Thread(target=lambda: results.append(decode(model, waiter=patient)))
        thread.start()
        while len(patient.waits_for) < 2:
            time.sleep(0.01)
        assert not results
        patient.left.set()
        thread.join(PATIENCE_S)


def test_nobody_there_is_found_out_at_once():
    with loaded(nobody(), fallback="here") as model:
        assert decode(model).text == LOCAL
        assert model.link.reachable is False
        assert "no connection" in model.link.reason


def test_a_fallback_that_does_not_load_is_said_and_the_final_waits_for_the_server():
    class Broken(FakeBackend):
        def load(self, preset, *, cpu_threads, num_workers):
            raise ModelError("there is no memory", code="out_of_memory")

    with loaded(nobody(), backend=RemoteBackend(local={"fake": Broken()}), fallback="here") as model:
        failed = decode(model, waiter=Waiter(patience=1.0))
        assert isinstance(failed, DecodeError)
        assert failed.code == "decode_failed"
        assert "there is no memory" in failed.message


def test_a_fallback_that_is_given_up_while_it_loads_is_closed_when_it_is_there():
    closed, loading, goes_on = threading.Event(), threading.Event(), threading.Event()

    class Slow:
        workers = 1

        def close(self):
            closed.set()

    def load():
        loading.set()
        goes_on.wait(60)
        return Slow()

    here = Fallback(preset="here", load=load)

    def use():
        with contextlib.suppress(NoFallbackError, Gone):
            here.decode(item(), waiters=Waiter(), until=time.monotonic() + 60)

    thread = threading.Thread(target=use)
    thread.start()
    assert loading.wait(60)
    here.abandon()
    goes_on.set()
    assert closed.wait(60)
    thread.join(60)
    assert here.model is None


def test_an_upload_over_tls_that_stands_still_for_a_moment_is_finished():
    """TLS 1.3 sends tickets behind its handshake: what can be read there is no answer yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "one.pem", TLS / "one.key")
    body, got = bytes(2_000_000), bytearray()

    def serve(sock):
        with context.wrap_socket(sock, server_side=True) as line:
            time.sleep(0.5)
            while len(got) < len(body) and (data := line.recv(1 << 16)):
                got.extend(data)
            line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: serve(listener.accept()[0]))
        thread.start()
        options = RemoteOptions(url=f"https://localhost:{listener.getsockname()[1]}/v1")
        client = Client(options, ssl.create_default_context(cafile=str(TLS / "one.pem")))
        answer = client.exchange(
            Request(method="POST", path="/x", body=body), until=time.monotonic() + 60, gone=lambda: False
        )
        client.close()
        thread.join(60)
    assert answer.status == 200
    assert len(got) >= len(body)


def test_finals_go_before_files_into_a_fallback_that_has_room_for_one():
    order, inside, go = [], threading.Event(), threading.Event()

    class Gated:
        workers = 1
        ram_bytes = vram_bytes = 0

        def decode(self, batch, *, waiters):
            inside.set()
            go.wait(PATIENCE_S)
            order.append(batch[0].options.effort)
            return [Hypothesis(text="")]

        def close(self):
            pass

    stand_in = fallback.Fallback(preset="here", load=Gated)

    def start(effort):
        call = {"waiters": Waiter(), "until": time.monotonic() + PATIENCE_S}
        thread = threading.Thread(target=stand_in.decode, args=(item(effort),), kwargs=call)
        thread.start()
        return thread

    threads = [start(Effort.TIMED)]
    assert inside.wait(PATIENCE_S)
    for number, effort in enumerate((Effort.TIMED, Effort.FULL), start=1):
        threads.append(start(effort))
        while len(stand_in._waiting) < number:
            time.sleep(0.01)
    with pytest.raises(fallback.NoFallbackError):
        stand_in.decode(item(Effort.QUICK), waiters=Waiter(), until=time.monotonic() + PATIENCE_S)
    go.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert order == [Effort.TIMED, Effort.FULL, Effort.TIMED]
    stand_in.close()


# ---------------------------------------------------------------- presets


def preset(**options):
    return Preset(name="cluster", backend="remote", model="large", options={"url": "http://localhost/v1", **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": None}, "url"), ({"url": "localhost:8000"}, "https://host"), ({"url": "ftp://host/v1"}, "https://host"),
        ({"url": "http://host:99999/v1"}, "https://host"), ({"url": "http://host/v1?key=sesame"}, "https://host"),
        ({"url": "https://me:sesame@host/v1"}, "token_file"), ({"token": "sesame"}, "token_file"),
        ({"token_file": "/nowhere/token"}, "/nowhere/token"),
        ({"url": "https://host/v1", "ca_file": "/nowhere/ca"}, "ca_file"), ({"max_in_flight": 1000}, "max_in_flight"),
    ],
)  # fmt: skip
def test_an_option_that_cannot_hold_is_refused_and_secrets_are_not_repeated(options, message):
    with pytest.raises(ConfigError) as caught:
        RemoteBackend(local={}).resolve(preset(**options))
    assert message in caught.value.message
    assert "sesame" not in caught.value.message


def test_a_token_that_is_no_line_is_refused_without_showing_it(tmp_path):
    for content in ("", "two words\nsesame", "x" * 9000, "sésame"):
        (tmp_path / "token").write_text(content)
        with pytest.raises(ConfigError) as caught:
            RemoteBackend(local={}).resolve(preset(token_file=str(tmp_path / "token")))
        assert "same" not in caught.value.message


def test_a_fallback_is_a_preset_of_this_machine():
    backends = {"fake": FakeBackend()}
    local = Preset(name="here", backend="fake")
    other = attrs.evolve(preset(), name="other")
    for wanted, message in (("nowhere", "nowhere"), ("cluster", "server"), ("other", "server")):
        presets = {"cluster": preset(fallback=wanted), "other": other, "here": local}
        with pytest.raises(ConfigError, match=message):
            with_fallbacks(presets, backends)
    found = with_fallbacks({"cluster": preset(fallback="here"), "here": local}, backends)
    assert found["cluster"].fallback.name == "here"


def test_audio_in_the_clear_on_its_way_to_another_machine_is_warned_of():
    def warned(url):
        return len(warnings({"cluster": preset(url=url)}))

    assert warned("http://gpu.example:8000/v1") == 1
    assert not warned("https://gpu.example/v1") + warned("http://127.0.0.1:8000/v1") + warned("http://localhost/v1")


def test_what_is_known_of_a_server_outlives_its_model():
    backend = RemoteBackend(local={"fake": FakeBackend()})
    url = nobody()
    with loaded(url, backend=backend, fallback="here") as model:
        known = backend.resolve(model.link.preset)
        assert backend.describe(model.link.preset).remote.reachable is None
        decode(model)
        assert backend.describe(model.link.preset).remote.fallback_loaded
    row = backend.describe(known).remote
    assert (row.url, row.reachable, row.fallback, row.fallback_loaded) == (url, False, "here", False)
    with pytest.raises(ModelError, match="nothing to download"):
        backend.suggest(known)
