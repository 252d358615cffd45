"""The application that Ray Serve runs, which a configuration names as `sttd_ray.app:build`.

    HTTP ──► Ray's proxy ──► Ingress ──┬─ finals ──────────► Decoder "finals", replicas
                                       └─ interims, files ─► Decoder "bulk", replicas

Which replica decodes, on which machine, how many there are, how many requests may wait for them and what becomes of
one that dies is Ray Serve's business, and said in the configuration. Within a replica decodes sttd's own engine
(`engine.py`).

Rules of the ingress, besides those of `reception.py`:

1. A deadline begins with the head. When it is over, or when the client has hung up, the request is cancelled wherever
   it is: what waits is not decoded.
2. A piece whose replica died is given to another one, `tries` times in all. To decode twice does no harm. A replica
   whose engine is lost ends by itself: it answers at once, and would be given most of what comes.
3. When too many requests wait (`max_queued_requests`) the answer is 429, and says when to come again. A daemon does.
   Of files there are at most `files`: they come many at a time, and live text waits in the same queue.
4. What was said is in no log. Who hangs up is no error.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import ray
from ray import serve
from ray.exceptions import RayError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
    RequestCancelledError,
)
from ray.serve.handle import DeploymentHandle
from starlette.requests import ClientDisconnect
from starlette.requests import Request as ServeRequest
from starlette.responses import Response as ServeResponse

from sttd.core.types import DecodeItem, Hypothesis, JobClass, seconds
from sttd.engine.contract import EngineLostError
from sttd.engine.process.crew import Crew
from sttd.errors import InternalError, OverloadedError, SttdError
from sttd.host import logs
from sttd.wire.http import Denial, Request, Response
from sttd.wire.openai_answers import Refused, marked, new_id
from sttd.wire.openai_transcript import model_answer, model_list
from sttd_ray.answers import answer
from sttd_ray.audio import read_audio
from sttd_ray.engine import EngineThread, TooLateError, find_backends
from sttd_ray.options import AppOptions, read_options, read_preset, read_token, settle_preset
from sttd_ray.reception import BODY_S, Body, Caller, Room, check_model, named_model, receive_head, too_slow

log = logs.get(__name__)

_RETRY_S: Final = 1.0  # chosen: of requests that are refused because too many wait; about what a batch takes
_STOP_S: Final = 10.0  # for the decode that runs when a replica is taken away; chosen
_STEP_BYTES: Final = 64 * 1024  # of a body that one turn of the loop looks at


class Decoder:
    """A replica that decodes: a model in memory."""

    def __init__(self, options: AppOptions) -> None:
        """Load the model. Blocks; raises SttdError, and Ray Serve says so and tries again."""
        logs.configure()
        crew = Crew()
        backends = find_backends(crew, models_dir=options.models_dir)
        cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 0)
        preset = settle_preset(read_preset(options, backends), backends, cpus=cpus)
        engine = EngineThread(preset=preset, backends=backends, crew=crew, decode_timeout_s=options.decode_timeout_s)
        engine.start()
        self._engine = engine  # once it runs: what did not start is not stopped

    async def decode(self, item: DecodeItem, job_class: JobClass, wait_s: float) -> Hypothesis | SttdError | None:
        """What was heard, or why nothing was. None: the deadline is over."""
        self._leave_if_lost()
        try:
            return await self._engine.decode(item, job_class=job_class, wait_s=wait_s)
        except EngineLostError as error:
            self._leave_if_lost()
            return error
        except SttdError as error:  # also of the item that an engine was lost over: no other replica is to have it
            return error
        except TooLateError:
            return None

    def check_health(self) -> None:
        """Ray Serve asks now and then. It replaces a replica that raises, but only at the third time."""
        self._engine.look_after()
        self._leave_if_lost()

    def _leave_if_lost(self) -> None:
        """Rule 2. Ray Serve starts another replica, and whoever asked this one hears that it died."""
        if self._engine.lost is not None:
            log.error("this replica decodes nothing any more, and ends", reason=self._engine.lost)
            os._exit(1)

    def __del__(self) -> None:
        if (engine := getattr(self, "_engine", None)) is not None:
            engine.stop(wait_s=_STOP_S)


class Ingress:
    """A replica that answers HTTP. It decodes nothing, so a few of them do for many decoders."""

    def __init__(self, options: AppOptions, finals: DeploymentHandle, bulk: DeploymentHandle) -> None:
        logs.configure()
        self._options = options
        self._token = read_token(options, os.environ)
        self._repository = str(options.preset.get("model") or "")
        self._handles = {JobClass.FINAL: finals, JobClass.INTERIM: bulk, JobClass.FILE: bulk}
        self._room = Room()
        self._files = 0

    async def __call__(self, request: ServeRequest) -> ServeResponse:
        """Answer one request. Ray Serve cancels this when the client hangs up."""
        began = time.monotonic()
        try:
            found = await self._answer(request, began)
        except Refused as refused:
            found = refused.answer
        except SttdError as error:
            found = Refused.of(error).answer
        except MemoryError:
            found = Refused.of(OverloadedError("there is no memory for this", data={"retry_after_s": _RETRY_S})).answer
        except Exception as error:
            log.error("a request could not be answered", kind=type(error).__name__, exc_info=error)
            found = Refused.of(InternalError("a bug in sttd; the log of the replica has the traceback")).answer
        found = marked(found, request_id=new_id(), processing_ms=1000 * (time.monotonic() - began))
        # Ray's proxy adds an `x-request-id`, which its log has as well: one of our own would be a second.
        headers = {name: value for name, value in found.headers if name != "x-request-id"}
        return ServeResponse(
            content=found.body, status_code=found.status, media_type=found.content_type, headers=headers
        )

    async def _answer(self, asked: ServeRequest, began: float) -> Response:
        """Raises Refused, SttdError."""
        # `root_path` is the route prefix of an application that has one.
        path = asked.scope["path"].removeprefix(asked.scope.get("root_path", ""))
        head = Request(method=asked.method, path=path, headers=tuple(map(tuple, asked.scope["headers"])))
        options = self._options
        caller = receive_head(head, token=self._token, body_bytes=options.body_bytes)
        if caller.endpoint == "models":
            return model_list([options.model])
        if caller.endpoint == "model":
            name = named_model(head)
            check_model(name, model=options.model, repository=self._repository)
            return model_answer(name)
        until = began + (options.patience_s if caller.wait_s is None else caller.wait_s)
        try:
            with self._admitted(caller):
                async with asyncio.timeout(until - time.monotonic()):
                    return await self._transcribe(asked, caller, until)
        except TimeoutError:
            raise _too_late() from None

    @contextlib.contextmanager
    def _admitted(self, caller: Caller) -> Iterator[None]:
        """Rule 3, of files. Raises Refused."""
        count = caller.job_class is JobClass.FILE
        if count and self._files >= self._options.files:
            raise _too_many()
        self._files += count
        try:
            yield
        finally:
            self._files -= count

    async def _transcribe(self, asked: ServeRequest, caller: Caller, until: float) -> Response:
        body = Body(caller=caller, most_bytes=self._options.body_bytes, room=self._room)
        try:
            await _receive(asked, body)
            order = body.finish(model=self._options.model, repository=self._repository)
            samples = await asyncio.to_thread(read_audio, order.audio, most_s=self._options.audio_s)
        finally:
            body.close()
        item, request = order.item(samples), order.request
        del order  # it has the file, and waits with the request otherwise
        hypothesis = await self._decode(item, caller.job_class, until)
        return answer(hypothesis, request, duration_s=seconds(len(samples)))

    async def _decode(self, item: DecodeItem, job_class: JobClass, until: float) -> Hypothesis:
        """Rule 2. Raises Refused, SttdError."""
        for _ in range(self._options.tries):
            result = await self._by_replica(item, job_class, until)
            if isinstance(result, Hypothesis):
                return result
            if not isinstance(result, EngineLostError):
                raise result
            log.warning("a replica is gone", reason=result.message)
        raise Refused(Denial("model_load_failed", "the replicas that were to decode this are gone"))

    async def _by_replica(self, item: DecodeItem, job_class: JobClass, until: float) -> Hypothesis | SttdError:
        """What some replica made of an item; EngineLostError: it is gone. Raises Refused."""
        pending = self._handles[job_class].decode.remote(item, job_class, until - time.monotonic())
        try:
            result: Hypothesis | SttdError | None = await pending
        except asyncio.CancelledError:
            pending.cancel()
            raise
        except BackPressureError:
            raise _too_many() from None
        except (RequestCancelledError, TaskCancelledError):
            raise _too_late() from None
        except RayTaskError:  # our own bug, in the replica
            raise
        except (RayError, DeploymentUnavailableError, ReplicaUnavailableError) as error:
            # Not only RayActorError: the end of one that Ray's memory monitor has killed is an OutOfMemoryError.
            return EngineLostError(type(error).__name__)
        if result is None:
            raise _too_late()
        return result


async def _receive(asked: ServeRequest, body: Body) -> None:
    """Feed a body as it comes. Raises Refused, and CancelledError where the client, or the proxy, has gone."""
    try:
        async with asyncio.timeout(BODY_S):
            async for data in asked.stream():
                for at in range(0, len(data), _STEP_BYTES):
                    body.feed(data[at : at + _STEP_BYTES])
                    await asyncio.sleep(0)
    except (ClientDisconnect, RayError):  # Ray says it in both ways, depending on who notices first
        raise asyncio.CancelledError from None
    except TimeoutError:
        raise too_slow() from None


def _too_many() -> Refused:
    message = "too many requests wait already; come again later"
    return Refused.of(OverloadedError(message, data={"retry_after_s": _RETRY_S}))


def _too_late() -> Refused:
    return Refused(Denial("overloaded", "nobody waits for this any longer", status=504))


def build(args: Mapping[str, Any]) -> serve.Application:
    """The application. Raises ConfigError. `args`: the options (`options.py`)."""
    options = read_options(args)
    read_preset(options, find_backends(Crew(), models_dir=options.models_dir))
    # What is said here holds where the configuration says nothing: a laptop. Each is an option of Ray Serve's.
    scaling = {"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 4}
    decoder: dict[str, Any] = {
        "max_ongoing_requests": 16,
        "max_queued_requests": 64,
        "autoscaling_config": scaling,
        "ray_actor_options": {"num_cpus": 1},
        "health_check_period_s": 5,
        "graceful_shutdown_timeout_s": 30,
    }
    finals = serve.deployment(Decoder, name="finals", **decoder)
    bulk = serve.deployment(Decoder, name="bulk", **decoder)
    ingress = serve.deployment(
        Ingress, name="ingress", num_replicas=1, max_ongoing_requests=500, ray_actor_options={"num_cpus": 0}
    )
    return ingress.bind(options, finals.bind(options), bulk.bind(options))


__all__ = ["Decoder", "Ingress", "build"]
