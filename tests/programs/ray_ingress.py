"""The ingress and the decoder of deploy/ray without a cluster: what Ray would do to them is done here, by hand.

python ray_ingress.py prints a JSON object: what came of each case. Run by tests/integration/test_ray_ingress.py, in an
environment that has Ray.
"""

import asyncio
import gc
import io
import json
import os
import sys

import attrs
import numpy as np
from ray.exceptions import OutOfMemoryError, RayTaskError, TaskCancelledError
from starlette.requests import Request
from sttd_ray import app
from sttd_ray.options import AppOptions
from sttd_ray.reception import Room

from sttd.core.types import DecodeItem, DecodeOptions, Hypothesis, JobClass
from sttd.engine.contract import EngineLostError
from sttd.engine.remote.asking import request_for
from sttd.errors import DecodeError
from sttd.host import logs

ITEM = DecodeItem(samples=np.zeros(16_000, np.float32), options=DecodeOptions())
HEARD = Hypothesis(text="heard", language="en")


class Handle:
    """The handle of a deployment whose replicas do one after the other what `outcomes` say."""

    def __init__(self, outcomes):
        self.decode, self.outcomes, self.asked = self, list(outcomes), 0

    def remote(self, item, job_class, wait_s):
        self.asked += 1
        return Pending(self.outcomes.pop(0))


class Pending:
    """A response that will be there."""

    def __init__(self, outcome):
        self.outcome = outcome

    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        if isinstance(self.outcome, asyncio.Event):
            yield from self.outcome.wait().__await__()
            return HEARD
        if isinstance(self.outcome, Exception) and not isinstance(self.outcome, EngineLostError):
            raise self.outcome
        return self.outcome

    def cancel(self):
        """Nothing runs."""


def request(messages, **headers):
    """One with these ASGI messages for a body; an exception is raised, and behind the last nothing comes."""
    asked = request_for(ITEM, model="demo", answer="json", send_priority=False, deadline_s=60.0, boundary="xyz")
    whole = {"type": "http.request", "body": asked.body, "more_body": False}
    left = [whole] if messages is None else list(messages)

    async def receive():
        if not left:
            await asyncio.Event().wait()
        message = left.pop(0)
        if isinstance(message, Exception):
            raise message
        return message

    known = {name.lower(): value for name, value in asked.headers} | {"content-length": str(len(asked.body))} | headers
    scope = {
        "type": "http", "method": "POST", "path": "/v1" + asked.path, "root_path": "", "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in known.items()],
    }  # fmt: skip
    return Request(scope, receive)


async def answered(*outcomes, messages=None, room=None):
    """What becomes of a request: its status, how often replicas were asked, and how many bytes are still held."""
    handle = Handle(outcomes)
    ingress = app.Ingress(AppOptions(model="demo"), handle, handle)
    if room is not None:
        ingress._room = room
    log = io.StringIO()
    logs.configure(format="text", stream=log)
    try:
        answer = await ingress(request(messages))
    except asyncio.CancelledError:
        status, headers, content = "cancelled", {}, {}
    else:
        status, headers, content = answer.status_code, dict(answer.headers), json.loads(answer.body)
    return {
        "status": status,
        "again": headers.get("retry-after"),
        "code": content.get("error", {}).get("code"),
        "asked": handle.asked,
        "ids": "x-request-id" in headers,
        "held": ingress._room.taken_bytes,
        "log": log.getvalue(),
    }


class Ended(BaseException):
    """A process has ended."""


@attrs.define
class Failing:
    """The engine of a replica."""

    error: Exception
    lost: str | None = None

    async def decode(self, item, *, job_class, wait_s):
        if isinstance(self.error, DecodeError) and self.error.message == "it hangs":
            self.lost = "a decode hangs"
        raise self.error

    def look_after(self):
        """All is well."""

    def stop(self, *, wait_s):
        """Nothing runs."""


async def of_engine(engine):
    """What a replica with this engine does when it is asked, asked again, and asked after its health."""

    def end(status):
        raise Ended

    app.os = type("Os", (), {"_exit": staticmethod(end), "environ": os.environ})
    decoder = object.__new__(app.Decoder)
    decoder._engine = engine
    found = []
    for _ in range(2):
        try:
            found.append((await decoder.decode(ITEM, JobClass.FINAL, 1.0)).message)
        except Ended:
            found.append("ended")
    try:
        decoder.check_health()
        found.append("well")
    except Ended:
        found.append("ended")
    app.os = os
    return found


async def files():
    """What becomes of a file and of live text while there are as many files as may be, and of a file behind them."""
    done = asyncio.Event()
    handle = Handle([done, HEARD, HEARD])
    ingress = app.Ingress(AppOptions(model="demo", files=1), handle, handle)

    async def ask(kind):
        return (await ingress(request(None, **{"x-sttd-class": kind}))).status_code

    first = asyncio.create_task(ask("file"))
    while not handle.asked:
        await asyncio.sleep(0.01)
    found = [await ask("file"), await ask("interim")]
    done.set()
    return [*found, await first, await ask("file")]


def unloadable():
    """What is said of a model that is not there, and what besides."""
    besides = []
    sys.unraisablehook = lambda unraisable: besides.append(repr(unraisable.exc_value))
    app.ray = type("Ray", (), {"get_runtime_context": staticmethod(Context)})
    try:
        app.Decoder(AppOptions(model="mine", preset={"model": "/nowhere"}))
    except Exception as error:
        said = type(error).__name__
    gc.collect()
    sys.unraisablehook = sys.__unraisablehook__
    return {"said": said, "besides": besides}


class Context:
    """Of a replica with a CPU."""

    def get_assigned_resources(self):
        return {"CPU": 1}


async def main():
    os.environ.pop("STTD_RAY_TOKEN", None)
    begun = {"type": "http.request", "body": b"--xyz\r\n", "more_body": True}
    app.BODY_S, patient = 0.05, app.BODY_S
    slow = await answered(messages=[begun])
    app.BODY_S = patient
    full = Room(most_bytes=1000)
    found = {
        "well": await answered(HEARD),
        "killed for memory": await answered(OutOfMemoryError("the node ran out of memory"), HEARD),
        "lost": await answered(EngineLostError("the GPU is gone"), HEARD),
        "all gone": await answered(*[OutOfMemoryError("the node ran out of memory")] * 3),
        "bug": await answered(RayTaskError("decode", "Traceback", ValueError("odd")), HEARD),
        "hung up": await answered(messages=[begun, TaskCancelledError()]),
        "disconnected": await answered(messages=[begun, {"type": "http.disconnect"}]),
        "slow": slow,
        "no room": await answered(room=full),
        "engine lost": await of_engine(Failing(EngineLostError("no"), lost="the GPU is gone")),
        "engine hangs": await of_engine(Failing(DecodeError("it hangs"))),
        "engine well": await of_engine(Failing(DecodeError("odd audio"))),
        "files": await files(),
        "not loaded": unloadable(),
    }
    json.dump(found, sys.stdout)


asyncio.run(main())
