"""One request of OpenAI's transcription API, from its head to what is to be decoded. No IO, no Ray.

Rules:

1. The token is looked at before anything else, in constant time, and before a byte of the body is read.
2. What the head decides is refused by the head: a path or a method that there is not, a class or a deadline that is
   none, a body that is too long or no form. One that comes in chunks is counted, and given up beyond the bound.
3. `X-Sttd-Class` says who waits: `final` somebody who has ended a sentence, `interim` somebody who speaks, `file`
   nobody. Who does not say it sends a final, as to sttd itself. Finals have replicas of their own.
4. `X-Sttd-Deadline-Ms` says for how long an answer is wanted, from the moment on at which the head was there. It is at
   most `MAX_WAIT_S`.
5. A body is there within `BODY_S` of its head, whatever the deadline: of those who send nothing an ingress would soon
   have as many as it can. All bodies that it has not unpacked have `ROOM_BYTES` together; beyond, 429.
6. One model is served. It has its own name, the usual ones of its Whisper, and those that mean what is configured
   (`sttd/wire/names.py`).
"""

from __future__ import annotations

import re
from typing import Final, Literal
from urllib.parse import unquote

import attrs

from sttd.core.languages import Prior
from sttd.core.types import DecodeItem, DecodeOptions, Effort, JobClass, Samples
from sttd.errors import OverloadedError
from sttd.options import Task
from sttd.wire.access import AccessRules, check_token
from sttd.wire.http import Denial, Request
from sttd.wire.multipart import STEP_BYTES, FormReader, form_head
from sttd.wire.names import find_language, find_preset
from sttd.wire.openai_answers import Refused, wrong_value
from sttd.wire.openai_request import TranscriptionRequest, read_request

Endpoint = Literal["transcriptions", "translations", "models", "model"]
Urgency = Literal["final", "interim", "file"]

MAX_WAIT_S: Final = 3600.0  # chosen: nobody waits for an hour
BODY_S: Final = 60.0  # chosen: 6 MiB at 0.8 Mbit/s, and what a daemon sends at a sixth of that
# chosen: 256 finals of 30 s. It is of the whole process: 60 bodies of 6 MiB took it about three times that (measured).
ROOM_BYTES: Final = 256 * 1024**2
_RETRY_S: Final = 1.0  # chosen: bodies come and go quickly
_MODEL: Final = "/v1/models/"  # and the name of one
_ENDPOINTS: Final[dict[str, tuple[Endpoint, str]]] = {
    "/v1/audio/transcriptions": ("transcriptions", "POST"),
    "/v1/audio/translations": ("translations", "POST"),
    "/v1/models": ("models", "GET"),
}
_EFFORTS: Final = {"final": Effort.FULL, "interim": Effort.QUICK, "file": Effort.TIMED}
_JOBS: Final = {"final": JobClass.FINAL, "interim": JobClass.INTERIM, "file": JobClass.FILE}
_DIGITS: Final = re.compile(rb"[0-9]{1,9}")


@attrs.frozen(kw_only=True)
class Caller:
    """What the head of a request says, which may go on."""

    endpoint: Endpoint
    urgency: Urgency = "final"
    wait_s: float | None = None  # None: it does not say
    boundary: bytes = b""  # of the form; nothing where there is none

    @property
    def job_class(self) -> JobClass:
        """How urgent it is for the engine."""
        return _JOBS[self.urgency]


def receive_head(request: Request, *, token: str, body_bytes: int) -> Caller:
    """Rules 1 to 4. Raises Refused."""
    if (denial := check_token(request, AccessRules(token=token))) is not None:
        raise Refused(attrs.evolve(denial, message="a token is asked for, and it is missing or wrong"))
    endpoint, method = _ENDPOINTS.get(request.path, ("model", "GET"))
    if endpoint == "model" and not request.path.startswith(_MODEL):
        raise Refused(Denial("not_found", "there is nothing at this path"))
    if request.method != method:
        raise Refused(Denial("bad_request", f"this path is for {method}", status=405, headers=(("Allow", method),)))
    if method == "GET":
        return Caller(endpoint=endpoint)
    return Caller(
        endpoint=endpoint,
        urgency=_urgency(request),
        wait_s=_wait_s(request),
        boundary=_boundary(request, body_bytes),
    )


def _boundary(request: Request, body_bytes: int) -> bytes:
    try:
        return form_head(request, most_bytes=body_bytes).boundary
    except Refused as refused:
        if refused.denial.code == "too_large":
            raise _too_large(body_bytes) from None  # the option has another name here
        raise


def check_model(asked: str | None, *, model: str, repository: str) -> None:
    """Rule 6. Raises ModelError."""
    find_preset(asked, {model: repository or None})


def named_model(request: Request) -> str:
    """The model that the path names."""
    return unquote(request.path.removeprefix(_MODEL))


@attrs.frozen(kw_only=True)
class Order:
    """What is to be decoded, and how it is to be answered."""

    request: TranscriptionRequest
    audio: bytes = attrs.field(repr=False)  # a file of some format
    options: DecodeOptions

    def item(self, samples: Samples) -> DecodeItem:
        """The item for the engine; `samples` are what is in the file.

        A final may end as close behind its last word as a key that is let go: who sends it does not say.
        """
        return DecodeItem(samples=samples, options=self.options, complete=self.options.effort is Effort.FULL)


@attrs.define(eq=False, kw_only=True)
class Room:
    """What all bodies of an ingress may have together (rule 5)."""

    most_bytes: int = ROOM_BYTES
    taken_bytes: int = attrs.field(default=0, init=False)

    def take(self, count: int) -> None:
        """Raises Refused where there is no room."""
        if self.taken_bytes + count > self.most_bytes:
            message = "too much is being sent already; come again later"
            raise Refused.of(OverloadedError(message, data={"retry_after_s": _RETRY_S}))
        self.taken_bytes += count


@attrs.define(eq=False, kw_only=True)
class Body:
    """The body of a request, as it comes. Whoever made it closes it.

    Args:
        caller: what its head said.
        most_bytes: of all of it.
        room: of all bodies together; one of its own where none is given.
    """

    caller: Caller
    most_bytes: int
    room: Room = attrs.field(factory=Room)
    _taken: int = attrs.field(default=0, init=False)
    _form: FormReader = attrs.field(init=False)
    _audio: bytearray = attrs.field(factory=bytearray, init=False, repr=False)
    _received: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._form = FormReader(self.caller.boundary)

    def feed(self, data: bytes) -> None:
        """Take what came. Raises Refused as soon as there is too much of it."""
        self._received += len(data)
        if self._received > self.most_bytes:
            raise _too_large(self.most_bytes)
        self.room.take(len(data))
        self._taken += len(data)
        for at in range(0, len(data), STEP_BYTES):
            self._audio += self._form.feed(data[at : at + STEP_BYTES])

    def finish(self, *, model: str, repository: str) -> Order:
        """The body has ended: what it asks for. Raises Refused, SttdError."""
        self._form.finish()
        task: Task = "translate" if self.caller.endpoint == "translations" else "transcribe"
        request = read_request(self._form.fields, has_file=self._form.has_file, task=task)
        check_model(request.model, model=model, repository=repository)
        return Order(request=request, audio=bytes(self._audio), options=_options(request, self.caller.urgency))

    def close(self) -> None:
        """It is not needed any more."""
        self._audio, taken, self._taken = bytearray(), self._taken, 0
        self.room.taken_bytes -= taken


def too_slow() -> Refused:
    """The body does not come (rule 5)."""
    return Refused(Denial("idle_timeout", f"the body did not come within {BODY_S:g} s"))


def _too_large(most_bytes: int) -> Refused:
    message = f"a body may have {most_bytes} bytes at most; see `body_bytes` of the application"
    return Refused(Denial("too_large", message))


def _options(request: TranscriptionRequest, urgency: Urgency) -> DecodeOptions:
    # Where words are costs as much again as a short decode: `verbose_json` says by itself whether it wants to know.
    words = request.words if request.format == "verbose_json" else request.needs_words
    allowed = [code for name in request.languages if (code := find_language(name))]
    return DecodeOptions(
        effort=_EFFORTS[urgency],
        language=find_language(request.language),
        languages=Prior.among(allowed) if allowed else None,
        task=request.task,
        words=words,
        prompt=request.prompt or "",
        hotwords=request.hotwords,
    )


def _urgency(request: Request) -> Urgency:
    match request.values(b"x-sttd-class"):
        case [] | [b"final"]:
            return "final"
        case [b"interim"]:
            return "interim"
        case [b"file"]:
            return "file"
    raise wrong_value("X-Sttd-Class", "`X-Sttd-Class` must be `final`, `interim` or `file`")


def _wait_s(request: Request) -> float | None:
    match request.values(b"x-sttd-deadline-ms"):
        case []:
            return None
        case [value] if _DIGITS.fullmatch(value) and int(value):
            return min(int(value) / 1000, MAX_WAIT_S)
    raise wrong_value("X-Sttd-Deadline-Ms", "`X-Sttd-Deadline-Ms` must be a number of milliseconds, of 1 at least")
