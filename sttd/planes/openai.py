"""The plane of OpenAI's REST API: a recording comes whole, its text goes back (docs/how-to/openai-api.md).

    socket ──▶ body ──▶ form ──▶ spool ──▶ the first seconds, decoded ──▶ a session ──▶ answer, or stream of events

1. What the head decides is refused unread, the rest behind the body (`wire/multipart.py`).
2. How long the audio is, decoding says. Up to `final_upload_s` it is one utterance that the client finalizes, and due
   like any final; unless this user has `final_uploads` of those already. What is longer is a file.
3. The socket is watched while the session works. Who hangs up has everything dropped at once.
4. When the daemon stops, an upload that is still coming is refused at once, and one that is being decoded has as long
   as any session. What is not done then is refused (`planes/outcome.py`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterable, Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Final, Protocol
from urllib.parse import unquote

import attrs
import trio

from sttd.admission import Peer, Place
from sttd.core.types import SAMPLE_RATE, Progress, SessionEvent
from sttd.core.types import Final as FinalText
from sttd.errors import InternalError, OverloadedError, SessionError, SttdError
from sttd.host.spool import PIECE_BYTES, RETRY_S, Spool
from sttd.options import SessionOptions, Task
from sttd.planes.asking import Asked, agent_of, nameable, selectable, session_options
from sttd.planes.drain import Drain
from sttd.planes.outcome import Done, Outcome, Step
from sttd.planes.streams import RECEIVE_BYTES
from sttd.planes.supervise import beside
from sttd.service import Service
from sttd.wire.http import CONTINUE, LAST_CHUNK, BodyReader, Denial, Response, chunk
from sttd.wire.multipart import STEP_BYTES, FormReader, form_head, too_large
from sttd.wire.names import find_preset
from sttd.wire.openai_answers import Refused, marked, new_id
from sttd.wire.openai_request import TranscriptionRequest, read_request
from sttd.wire.openai_transcript import STREAM_TYPE, Transcript, comment, event, model_answer, model_list
from sttd.wire.routes import Call

_SHORTEST_S: Final = 0.1  # of audio
_WRITTEN_S: Final = 10.0  # for a piece of a stream; as long as any other answer may take
_RAW: Final = {"encoding": "pcm_f32le", "sample_rate": SAMPLE_RATE}
_CONTAINER: Final = {"encoding": "container"}
_GLANCE_S: Final = 0.05  # between two looks at a client that sends what nobody asked for; chosen


@attrs.frozen(kw_only=True)
class UploadLimits:
    """Bounds of one request."""

    body_bytes: int = 512 * 1024**2
    stall_s: float = 30.0  # without a byte of the body
    final_s: float = 30.0  # the longest recording that is decoded like the final of a live session
    comment_s: float = 5.0  # between two signs of life of a stream


class Session(Protocol):
    """What `Service.open_session` yields, as far as this plane uses it."""

    id: str

    @property
    def ending(self) -> str | None: ...
    async def wait_for_room(self, *, patient: bool) -> None: ...
    def feed(self, data: bytes) -> None: ...
    def finalize(self) -> None: ...
    def stop(self) -> None: ...
    def abort(self) -> None: ...
    async def receive(self) -> SessionEvent: ...


async def serve_call(
    stream: trio.SocketStream,
    call: Call,
    body: BodyReader,
    *,
    service: Service,
    peer: Peer,
    drain: Drain,
    limits: UploadLimits,
    respond: Callable[[Response], Awaitable[None]],
    on_freed: Callable[[int], None],
) -> None:
    """Answer one request whose head was read and allowed. The caller closes the socket.

    `respond` writes a whole answer; `on_freed` is told at the end how many bytes the client had sent.

    Raises whatever goes wrong, after telling the client where that is still possible. Cancellation cuts the connection
    and ends its session at once.
    """
    exchange = _Exchange(
        stream=stream,
        call=call,
        body=body,
        service=service,
        peer=peer,
        drain=drain,
        limits=limits,
        whole_answer=respond,
    )
    try:
        await exchange.run()
    finally:
        on_freed(exchange.received_bytes)


@attrs.define(eq=False, kw_only=True)
class _Exchange:
    """One request and its answer."""

    stream: trio.SocketStream
    call: Call
    body: BodyReader
    service: Service
    peer: Peer
    drain: Drain
    limits: UploadLimits
    whole_answer: Callable[[Response], Awaitable[None]]
    received_bytes: int = attrs.field(default=0, init=False)
    _began_at: float = attrs.field(factory=trio.current_time, init=False)
    _request_id: str = attrs.field(factory=new_id, init=False)
    _streaming: bool = attrs.field(default=False, init=False)  # the head of the answer is out
    # What goes on now (receiving the body, then decoding it), so that others can put an end to it.
    _work: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    async def run(self) -> None:
        """Answer, whatever becomes of the request."""
        try:
            await self._serve()
        except Refused as refused:
            await self._refuse(refused)
        except SttdError as error:
            await self._refuse(Refused.of(error))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise  # the client is gone
        except MemoryError:
            message = "there is no memory for this upload; come again later"
            await self._refuse(Refused.of(OverloadedError(message, data={"retry_after_s": RETRY_S})))
        except Exception:
            await self._refuse(Refused.of(InternalError("a bug in sttd; the journal has the traceback")))
            raise

    async def _serve(self) -> None:
        match self.call.endpoint:
            case "models":
                await self._respond(model_list(row.preset for row in selectable(self.service) if row.local))
            case "model":
                await self._respond(self._model())
            case "transcriptions" | "translations":
                await self._transcribe()

    def _model(self) -> Response:
        name = unquote(self.call.request.path.removeprefix("/v1/models/"))
        find_preset(name, nameable(self.service))
        return model_answer(name)

    # ------------------------------------------------------------------ the request

    async def _transcribe(self) -> None:
        head = form_head(self.call.request, most_bytes=self.limits.body_bytes)
        with self.service.admission.promise(uid=self.peer.uid) as place:  # a body is not sent to another daemon
            self.service.uploads.room.check(head.length or 0, uid=self.peer.uid)
            async with self.service.uploads.receive(self.peer.uid) as spool:
                form = FormReader(head.boundary)
                await self._receive(form, spool)
                translate = self.call.endpoint == "translations"
                task: Task = "translate" if translate else "transcribe"
                request = read_request(form.fields, has_file=form.has_file, task=task)
                self._options(request)  # what is wrong with them is said before anything is decoded
                with trio.CancelScope() as self._work:
                    await beside(self._heed_hanging_up, partial(self._decode, request, spool, place))
                if self._work.cancelled_caught:
                    raise trio.BrokenResourceError("the client is gone")

    async def _receive(self, form: FormReader, spool: Spool) -> None:
        """The body, its file into the spool. Raises Refused, SttdError; BrokenResourceError: the client is gone."""
        if self.body.awaited:
            await self._send(CONTINUE)
        with trio.CancelScope() as self._work:
            await beside(self._heed_drain, partial(self._take_all, form, spool))
        if self._work.cancelled_caught:
            if self.drain.started.is_set():
                raise SessionError("the daemon is stopping", code="shutting_down")
            raise form.trouble or SessionError(f"nothing more came for {self.limits.stall_s:g} s")
        form.finish()

    async def _take_all(self, form: FormReader, spool: Spool) -> None:
        while True:
            for piece in self.body.pieces():
                self.received_bytes += len(piece)
                if self.received_bytes > self.limits.body_bytes:
                    form.give_up(too_large(self.limits.body_bytes))
                    if self.received_bytes > 2 * self.limits.body_bytes:
                        return  # it has no end
                await self._take(form, spool, piece)
            if self.body.done:
                return
            self._work.deadline = trio.current_time() + self.limits.stall_s
            data = await self.stream.receive_some(RECEIVE_BYTES)
            self._work.deadline = math.inf  # a slow disk is not the client's doing
            if not data:
                raise trio.BrokenResourceError("the client is gone")
            await self.service.pace(self.peer.uid)(len(data))
            self.body.push(bytes(data))

    async def _take(self, form: FormReader, spool: Spool, piece: bytes) -> None:
        for at in range(0, len(piece), STEP_BYTES):
            if data := form.feed(piece[at : at + STEP_BYTES]):
                try:
                    await spool.write(data)
                except SttdError as error:
                    form.give_up(Refused.of(error))
            if form.trouble is not None:
                await spool.aclose()  # nobody will read it
                return
        await trio.lowlevel.checkpoint()

    async def _heed_drain(self) -> None:
        await self.drain.started.wait()
        self._work.cancel()

    async def _heed_hanging_up(self) -> None:
        """What the client still sends is nobody's."""
        with contextlib.suppress(trio.BrokenResourceError):
            async for _ in self.stream:
                await trio.sleep(_GLANCE_S)
        self._work.cancel()

    # ------------------------------------------------------------------ the session

    def _options(self, request: TranscriptionRequest, **more: Any) -> SessionOptions:
        asked = Asked(
            model=request.model,
            language=request.language,
            languages=request.languages,
            prompt=request.prompt,
            hotwords=request.hotwords,
        )
        options = session_options(
            asked,
            service=self.service,
            api="openai",
            agent=agent_of(self.call.request),
            task=request.task,
            words=request.needs_words,
            interim=False,
            **more,
        )
        return attrs.evolve(options, interim_model=options.model)  # there are no interims

    async def _decode(self, request: TranscriptionRequest, spool: Spool, place: Place) -> None:
        """Raises SttdError, Refused."""
        beginning = await self.service.uploads.decode_beginning(
            spool.pieces(), most_s=max(self.limits.final_s, _SHORTEST_S), uid=self.peer.uid
        )
        if beginning.whole and beginning.duration_s < _SHORTEST_S:
            message = f"there must be {_SHORTEST_S} s of audio at least, and there are {beginning.duration_s:.2f}"
            raise Refused(Denial("audio_too_short", message, status=400), param="file")
        short = beginning.whole and beginning.duration_s <= self.limits.final_s
        with ExitStack() as stack:
            urgent = short and stack.enter_context(self.service.uploads.as_final(self.peer.uid))
            if urgent:
                options = self._options(request, kind="live", endpointing=None, **_RAW)
            else:
                options = self._options(request, kind="file", **(_RAW if beginning.whole else _CONTAINER))
            pieces: AsyncIterable[bytes] = _Cut(beginning.pcm) if beginning.whole else spool.pieces()
            duration_s = beginning.duration_s if beginning.whole else None
            opening = self.service.open_session(options, peer=self.peer, api="openai", whole=True, place=place)
            async with opening as opened:
                session: Session = opened
                self._request_id = session.id
                try:
                    await self._converse(session, request, pieces, duration_s)
                finally:
                    session.abort()  # who is told that it has failed waits for nothing more

    async def _converse(
        self, session: Session, request: TranscriptionRequest, pieces: AsyncIterable[bytes], duration_s: float | None
    ) -> None:
        outcome, transcript = Outcome(), Transcript(request)
        feed = partial(self._feed, session, pieces, outcome)
        await beside(feed, partial(self._follow, session, outcome, transcript, duration_s))

    async def _feed(self, session: Session, pieces: AsyncIterable[bytes], outcome: Outcome) -> None:
        try:
            async for piece in pieces:
                await session.wait_for_room(patient=True)
                if session.ending is not None:
                    return
                session.feed(piece)
        except SttdError as error:  # the disk
            outcome.unreadable = error
            session.abort()
            return
        if session.ending is None:
            outcome.fed = True
            session.finalize()
            session.stop()

    async def _follow(
        self, session: Session, outcome: Outcome, transcript: Transcript, duration_s: float | None
    ) -> None:
        """Events in, answer out. Raises SttdError."""
        streaming = transcript.request.stream
        if streaming:
            await self._begin_stream()
        while True:
            step: Step | None = None
            with trio.move_on_after(self.limits.comment_s if streaming else math.inf) as patience:
                try:
                    step = outcome.take(await session.receive())
                except trio.EndOfChannel:
                    step = outcome.end()
            match step:
                case Done():
                    if streaming:
                        await self._write(transcript.done_event())
                        await self._end_stream()
                    else:
                        await self._respond(transcript.answer(duration_s or step.duration_s))
                    return
                case FinalText():
                    if not streaming:
                        transcript.add(step)
                    elif said := transcript.delta_event(step):
                        await self._write(said)
                case Progress() if streaming:
                    await self._write(comment(done_s=step.done_s, total_s=step.total_s))
                case None if streaming and patience.cancelled_caught:
                    await self._write(comment())

    # ------------------------------------------------------------------ the answer

    def _marked(self, answer: Response) -> Response:
        """With what every answer has."""
        took_ms = (trio.current_time() - self._began_at) * 1000
        answer = marked(answer, request_id=self._request_id, processing_ms=took_ms)
        return attrs.evolve(answer, headers=(*answer.headers, *self.call.headers))

    async def _respond(self, answer: Response) -> None:
        await self.whole_answer(self._marked(answer))

    async def _refuse(self, refused: Refused) -> None:
        if not self._streaming:
            await self._respond(refused.answer)
            return
        await self._write(event({"error": refused.error}))
        await self._end_stream()

    async def _begin_stream(self) -> None:
        self._streaming = True
        self.service.meters.count_response(200)
        head = self._marked(Response(status=200, body=b"", content_type=STREAM_TYPE))
        await self._send(head.head_of_stream(chunked=self._chunked))

    @property
    def _chunked(self) -> bool:
        return self.call.request.version != "1.0"

    async def _write(self, data: bytes) -> None:
        await self._send(chunk(data) if self._chunked else data)

    async def _end_stream(self) -> None:
        if self._chunked:
            await self._send(LAST_CHUNK)

    async def _send(self, data: bytes) -> None:
        """Raises BrokenResourceError where the client is gone, or does not read."""
        with trio.move_on_after(_WRITTEN_S) as patience:
            await self.stream.send_all(data)
        if patience.cancelled_caught:
            raise trio.BrokenResourceError("the client does not read")


@attrs.define(eq=False)
class _Cut:
    """Bytes as pieces."""

    data: bytes
    _at: int = attrs.field(default=0, init=False)

    def __aiter__(self) -> _Cut:
        return self

    async def __anext__(self) -> bytes:
        piece = self.data[self._at : self._at + PIECE_BYTES]
        if not piece:
            raise StopAsyncIteration
        self._at += len(piece)
        await trio.lowlevel.checkpoint()
        return piece
