"""Models on disk, and downloads from a hub that runs in the test."""

from __future__ import annotations

import fcntl
import hashlib
import http.server
import json
import threading

import attrs
import pytest
import trio

from sttd.engine.store import models as store_module
from sttd.engine.store.catalogue import PUBLISHED
from sttd.engine.store.models import ModelStore, default_hub_dir, embedded_model, is_complete, repository_of, size_bytes
from sttd.errors import AccessError, ModelError

COMMIT = "a" * 40


@pytest.fixture(autouse=True)
def no_models_of_this_user(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def make_model(path, **changes):
    path.mkdir(parents=True)
    for name in ("model.bin", "config.json", "tokenizer.json"):
        (path / name).write_bytes(changes.get(name.partition(".")[0], b"{}"))
    return path


# ------------------------------------------------------------ locate


def test_the_demo_model_is_in_the_package():
    path = ModelStore().locate("demo")
    assert path == embedded_model()
    assert size_bytes(path) > 1_000_000


def test_a_path_is_taken_as_it_is_and_must_be_complete(tmp_path, monkeypatch):
    model = make_model(tmp_path / "mine")
    store = ModelStore(hub_dir=tmp_path / "cache")
    assert store.locate(str(model)) == model
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store.locate("~/mine") == model
    (model / "tokenizer.json").unlink()
    assert not is_complete(model)
    assert store.locate(str(model)) is None


def test_the_models_directory_comes_before_the_cache(tmp_path):
    cached = make_model(tmp_path / "cache" / "models--Systran--faster-whisper-base" / "snapshots" / COMMIT)
    refs = tmp_path / "cache" / "models--Systran--faster-whisper-base" / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    store = ModelStore(models_dir=tmp_path / "models", hub_dir=tmp_path / "cache")
    assert store.locate("base") == store.locate("Systran/faster-whisper-base") == cached
    own = make_model(tmp_path / "models" / "base")
    assert store.locate("base") == own
    assert store.locate("Systran/faster-whisper-base") == cached


def test_a_revision_is_a_branch_or_a_commit_in_the_cache(tmp_path):
    folder = tmp_path / "models--someone--whisper"
    snapshot = make_model(folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs" / "v2").write_text(COMMIT)
    store = ModelStore(hub_dir=tmp_path)
    assert store.locate("someone/whisper", revision="v2") == snapshot
    assert store.locate("someone/whisper", revision=COMMIT) == snapshot
    assert store.locate("someone/whisper", revision="v3") is None
    assert store.locate("someone/whisper") is None


def test_a_download_that_was_cut_off_does_not_count(tmp_path):
    folder = tmp_path / "models--Systran--faster-whisper-base"
    snapshot = make_model(folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    (snapshot / "model.bin").unlink()
    assert ModelStore(hub_dir=tmp_path).locate("base") is None


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HF_HUB_CACHE": "/x/hub"}, "/x/hub"),
        ({"HF_HOME": "/y"}, "/y/hub"),
        ({"XDG_CACHE_HOME": "/z"}, "/z/huggingface/hub"),
        ({"HOME": "/home/me"}, "/home/me/.cache/huggingface/hub"),
    ],
)
def test_the_cache_is_where_huggingface_hub_has_it(monkeypatch, environment, expected):
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert str(default_hub_dir()) == expected


def test_the_table_of_names_agrees_with_faster_whisper():
    from faster_whisper.utils import _MODELS

    assert {name: _MODELS[name] for name in PUBLISHED} == {row.name: row.repository for row in PUBLISHED.values()}
    assert set(_MODELS) - set(PUBLISHED) == {"large", "turbo"}  # second names


def test_names_and_repositories_can_be_pulled_and_nothing_else():
    assert repository_of("tiny.en") == "Systran/faster-whisper-tiny.en"
    assert repository_of("someone/whisper") == "someone/whisper"
    assert repository_of("a_1/b-c.d_e") == "a_1/b-c.d_e"
    for wrong in ("nope", "/a/b", "./a", "a/b/c", "a b/c", "a/", "-a/b", "a/b.", "a/b..c", "a/b\n", "a/" + 97 * "b"):
        with pytest.raises(ModelError) as caught:
            repository_of(wrong)
        assert caught.value.code == "model_not_found"


# ------------------------------------------------------------ pull, from a small hub


@attrs.define(eq=False)
class Hub:
    """As much of huggingface.co as a download needs, for one repository, `someone/whisper`."""

    files: dict[str, bytes]
    corrupt: bool = False
    stop_after: int | None = None  # bytes of model.bin after which the connection breaks
    gate: threading.Event = attrs.field(factory=threading.Event)
    requests: list[str] = attrs.field(factory=list)
    url: str = ""

    def handler(hub):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                self.answer(body=False)

            def do_GET(self):
                self.answer(body=True)

            def answer(self, *, body):
                hub.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
                if self.path.startswith("/api/models/someone/whisper"):
                    self.send(200, json.dumps(hub.listing()).encode(), body=body)
                elif self.path.startswith("/someone/whisper/resolve/"):
                    self.send_file(self.path.rpartition("/")[2], body=body)
                else:
                    self.send(404, b"{}", body=body, **{"X-Error-Code": "RepoNotFound"})

            def send_file(self, name, *, body):
                content = hub.files[name]
                begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
                headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
                if begin:
                    headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
                self.send(206 if begin else 200, content[begin:], body=body, name=name, **headers)

            def send(self, status, content, *, body, name="", **headers):
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if not body:
                    return
                if name == "model.bin" and hub.stop_after is not None:
                    self.wfile.write(content[: hub.stop_after])
                    self.wfile.flush()
                    hub.gate.wait(10)
                    self.close_connection = True
                    return
                self.wfile.write(content)

            def log_message(self, *args):
                pass

        return Handler

    def listing(self):
        return {
            "id": "someone/whisper",
            "sha": COMMIT,
            "siblings": [
                {
                    "rfilename": name,
                    "size": len(content),
                    **({"lfs": self.lfs(content)} if name == "model.bin" else {}),
                }
                for name, content in self.files.items()
            ],
        }

    def lfs(self, content):
        digest = hashlib.sha256(b"something else" if self.corrupt else content).hexdigest()
        return {"sha256": digest, "size": len(content), "pointerSize": 130}


FILES = {
    "model.bin": bytes(range(256)) * 200_000,  # 51 MB: several of the hub's blocks of 10 MB
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "README.md": b"not wanted",
}


@pytest.fixture
def hub():
    made = Hub(files=dict(FILES))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), made.handler())
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.gate.set()
    server.shutdown()
    server.server_close()
    thread.join()


async def test_pull_downloads_what_is_needed_with_progress(hub, tmp_path):
    store = ModelStore(hub_dir=tmp_path, endpoint=hub.url)
    seen = []
    with trio.fail_after(60):
        path = (await store.pull("someone/whisper", progress=lambda *report: seen.append(report))).path
    assert path == store.locate("someone/whisper")
    assert (path / "model.bin").read_bytes() == FILES["model.bin"]
    assert not (path / "README.md").exists()
    total = sum(len(FILES[name]) for name in ("model.bin", "config.json", "tokenizer.json"))
    assert seen[-1][:2] == (total, total)
    assert [report[0] for report in seen] == sorted(report[0] for report in seen)
    assert any(0 < report[0] < total and report[2] == "model.bin" for report in seen)


async def test_pull_into_the_models_directory(hub, tmp_path):
    store = ModelStore(models_dir=tmp_path / "models", hub_dir=tmp_path / "cache", endpoint=hub.url)
    with trio.fail_after(60):
        path = (await store.pull("someone/whisper")).path
    assert path == tmp_path / "models" / "someone--whisper" == store.locate("someone/whisper")


async def test_a_cancelled_pull_ends_at_once_and_the_next_one_resumes(hub, tmp_path):
    hub.stop_after = 30_000_000
    store = ModelStore(hub_dir=tmp_path, endpoint=hub.url)
    seen = []
    with trio.fail_after(60), trio.CancelScope() as scope:

        def watch(done, total, name):
            seen.append(done)
            if done >= 20_000_000:
                scope.cancel()
                hub.gate.set()  # the server goes on, the client must not

        await store.pull("someone/whisper", progress=watch)
    assert scope.cancelled_caught
    assert store.locate("someone/whisper") is None
    hub.stop_after = None
    hub.requests.clear()
    with trio.fail_after(60):
        path = (await store.pull("someone/whisper")).path
    assert (path / "model.bin").read_bytes() == FILES["model.bin"]
    assert any("bytes=" in request and "bytes=0-" not in request for request in hub.requests)


async def test_a_damaged_file_is_removed_and_told(hub, tmp_path):
    hub.corrupt = True
    store = ModelStore(hub_dir=tmp_path, endpoint=hub.url)
    with trio.fail_after(60), pytest.raises(ModelError, match="damaged"):
        await store.pull("someone/whisper")
    assert store.locate("someone/whisper") is None
    hub.corrupt = False
    with trio.fail_after(60):
        assert (await store.pull("someone/whisper")).path == store.locate("someone/whisper")


async def test_what_is_there_is_not_fetched_again(hub, tmp_path):
    store = ModelStore(models_dir=tmp_path, endpoint=hub.url)
    with trio.fail_after(60):
        await store.pull("someone/whisper")
        hub.requests.clear()
        await store.pull("someone/whisper")
    assert not any("model.bin" in request for request in hub.requests)


async def test_two_processes_do_not_download_the_same_model_at_once(hub, tmp_path):
    part = tmp_path / "someone--whisper" / "model.bin.part"
    part.parent.mkdir()
    with part.open("ab") as elsewhere:
        fcntl.flock(elsewhere, fcntl.LOCK_EX)
        with trio.fail_after(60), pytest.raises(ModelError, match="under way"):
            await ModelStore(models_dir=tmp_path, endpoint=hub.url).pull("someone/whisper")


async def test_what_is_not_there_is_not_found(hub, tmp_path):
    store = ModelStore(hub_dir=tmp_path, endpoint=hub.url)
    with trio.fail_after(60), pytest.raises(ModelError) as caught:
        await store.pull("someone/else")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("files", [{"README.md": b""}, {"model.bin": b"x", "config.json": b"{}"}])
async def test_a_repository_without_a_model_is_told(hub, tmp_path, files):
    hub.files = files
    store = ModelStore(hub_dir=tmp_path, endpoint=hub.url)
    with trio.fail_after(60), pytest.raises(ModelError, match=r"no model|lacks tokenizer\.json"):
        await store.pull("someone/whisper")


async def test_a_hub_out_of_reach_is_one_clear_error(tmp_path):
    store = ModelStore(hub_dir=tmp_path, endpoint="http://127.0.0.1:9")
    with trio.fail_after(60), pytest.raises(ModelError, match="failed: ") as caught:
        await store.pull("someone/whisper")
    assert caught.value.code == "model_load_failed"


async def test_a_service_without_network_says_so_at_once(tmp_path):
    with pytest.raises(AccessError) as caught:
        await ModelStore(hub_dir=tmp_path, network=False).pull("base")
    assert caught.value.code == "forbidden"
    assert "base" in caught.value.message


async def test_the_embedded_model_needs_no_download():
    assert (await ModelStore(network=False).pull("demo")).path == embedded_model()


def test_locate_touches_no_network_library(monkeypatch, tmp_path):
    """`locate` runs on the event loop for every row of `models`."""
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert ModelStore(hub_dir=tmp_path).locate("base") is None
    assert store_module.REQUIRED
