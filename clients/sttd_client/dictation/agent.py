"""The agent of one user: holds a session ready, listens while a dictation is on, and types what is said.

`python -m sttd_client.dictation` runs it; the first `sttctl dictate` starts it. It leaves after `IDLE_S` without
work. What to do when, `course` decides; here it is done:

    socket ──> Course ──> Ear ──> session ──> Course ──> hand
    desktop ──┘

One task each: for a connection, for the session (`_hold`), for the microphone, for the hand, for the clock, for the
desktop. They call the course, whose answers are obeyed at once and in order: letters go into a queue for the hand, and
what is shown goes the same way, so nobody hears that it is over before the last letter is typed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, cast

import attrs
import trio

from sttd.errors import EXIT_FAILED, EXIT_OK, AccessError, SttdError
from sttd.fields import FieldError
from sttd.wire.schema import dump
from sttd_client.ctl.outcome import exit_status_of, words_of
from sttd_client.dictation import seat
from sttd_client.dictation.backends import HandError
from sttd_client.dictation.course import Course, Deafen, Discard, Do, Drop, Flush, Listen, Show, State
from sttd_client.dictation.desktop import Desktop
from sttd_client.dictation.ear import Ear
from sttd_client.dictation.hand import Hand, hand_of, write_while
from sttd_client.dictation.leave import allowed
from sttd_client.dictation.link import Link
from sttd_client.dictation.page import Page
from sttd_client.dictation.phrases import Table, default_file, likely_language, read_user, tables
from sttd_client.dictation.portal_hand import ASKS
from sttd_client.dictation.requests import Lines, is_mine, read_request, refusal, tell
from sttd_client.dictation.shortcuts import Shortcuts
from sttd_client.dictation.typist import Erase, Typist, Write
from sttd_client.dictation.wish import Wish, wish_of
from sttd_client.options import Endpointing
from sttd_client.sound import NoMicrophoneError, recorder
from sttd_client.trio_session import Session, open_session

IDLE_S = 900.0  # chosen: an agent at rest has no session, no microphone and some 40 MB
_RECONNECT_S = 10.0  # a daemon that is restarted
_LINE_S = 5.0  # from the connection to its request
CLIENTS = 16  # connections at a time: keys that repeat, and somebody who looks


@attrs.define(eq=False, kw_only=True)
class Agent:
    """One user's agent. `run` serves until it is idle for too long or is asked to quit."""

    environ: dict[str, str]
    control_socket: str | None = None  # of the daemon that is meant
    idle_s: float = IDLE_S
    _course: Course = attrs.field(factory=Course, init=False)
    _seat: seat.Seat = attrs.field(init=False)
    _hands: dict[tuple[str | None, str], Hand] = attrs.field(factory=dict, init=False)
    _hand: Hand | None = attrs.field(default=None, init=False)
    _wish: Wish = attrs.field(factory=Wish, init=False)
    _link: Link | None = attrs.field(default=None, init=False)
    _command: list[str] = attrs.field(factory=lambda: [""], init=False)  # that records
    _ear: Ear | None = attrs.field(default=None, init=False)
    _flushed: trio.Event = attrs.field(factory=trio.Event, init=False)  # the finalize of the ear before
    _queue: deque[Write | Erase | Show] = attrs.field(factory=deque, init=False)
    _changed: trio.Event = attrs.field(factory=trio.Event, init=False)  # for the clock; replaced when it was set
    _queued: trio.Event = attrs.field(factory=trio.Event, init=False)
    _watchers: set[trio.MemorySendChannel[Show]] = attrs.field(factory=set, init=False)
    _clients: int = attrs.field(default=0, init=False)
    _stops: int = attrs.field(default=0, init=False)  # keys that ended a dictation, also one that has not begun
    _told: State = attrs.field(default="idle", init=False)  # the state as it was shown: letters go before it
    _note: str = attrs.field(default="", init=False)  # why it stopped, until the next start
    _failed: int = attrs.field(default=EXIT_OK, init=False)  # the exit status of that, where it was an error
    _desktop: Desktop = attrs.field(init=False)
    _shortcuts: Shortcuts = attrs.field(init=False)
    _nursery: trio.Nursery = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._seat = seat.look(self.environ)
        self._desktop = Desktop(environ=self.environ, on_away=self._away)
        self._shortcuts = Shortcuts(self._press)
        self._flushed.set()

    async def run(self, listener: trio.SocketListener) -> None:
        """Serve. Cancelled, a dictation is cut off."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._type)
            nursery.start_soon(self._keep_time)
            nursery.start_soon(self._desktop.run)
            nursery.start_soon(self._leave)
            await trio.serve_listeners(self._serve, [listener], handler_nursery=nursery)

    # ---------------------------------------------------------------- who asks

    async def _serve(self, stream: trio.SocketStream) -> None:
        self._clients += 1
        try:
            async with stream:
                if is_mine(stream) and self._clients <= CLIENTS:
                    await self._converse(stream)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # who asked does not want to know
        finally:
            self._clients -= 1
            self._changed.set()

    async def _converse(self, stream: trio.SocketStream) -> None:
        """One request and its answer; with `wait` also what happens until the dictation is over."""
        lines = Lines(stream)
        line = None
        with trio.move_on_after(_LINE_S):
            line = await lines.next()
        if line is None:
            return
        watch, shows = trio.open_memory_channel[Show](64)
        try:
            request = read_request(line)
            if request["wait"]:
                self._watchers.add(watch)
            answer = await self._obey(request)
            try:
                await tell(stream, answer)
                if request["wait"]:
                    await self._report(stream, lines, shows)
            except BaseException:
                if request["wait"]:  # whoever waited went away without a word
                    self._perform(self._course.stop(now_s=trio.current_time()))
                raise
        except (SttdError, FieldError, OSError) as error:
            await tell(stream, {"error": self._refused(error)})
        finally:
            self._watchers.discard(watch)

    def _refused(self, error: Exception) -> dict[str, object]:
        """What is against it; also shown, as a key binding has no terminal."""
        told = refusal(error)
        self._desktop.tell("No dictation", str(told["message"]))
        return told

    async def _report(self, stream: trio.SocketStream, lines: Lines, shows: trio.MemoryReceiveChannel[Show]) -> None:
        """Tell who waits what happens, until the dictation is over."""
        begun = False  # an end that is told before is that of the dictation before
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear_more, lines, nursery.cancel_scope)
            async for show in shows:
                begun = begun or show.state == "listening"
                if begun:
                    status = (self._failed or EXIT_FAILED) if show.note else EXIT_OK  # no note: a key, or a pause
                    await tell(stream, {"state": show.state, "note": show.note, "status": status})
                if begun and show.state == "idle":
                    nursery.cancel_scope.cancel()

    async def _hear_more(self, lines: Lines, scope: trio.CancelScope) -> None:
        """Obey who waits; one that goes away does not want to dictate any more."""
        while (line := await lines.next()) is not None:
            with suppress(SttdError, FieldError, OSError):
                await self._obey(read_request(line))
        self._perform(self._course.stop(now_s=trio.current_time()))
        scope.cancel()

    async def _obey(self, request: Mapping[str, Any]) -> dict[str, Any]:
        now_s, do = trio.current_time(), request["do"]
        if do == "toggle":
            do = "stop" if self._course.state == "listening" else "start"
        if do == "start":
            await self._start(request, now_s=now_s)
        elif do in ("stop", "cancel"):
            self._stops += 1
            self._perform((self._course.stop if do == "stop" else self._course.cancel)(now_s=now_s))
        elif do == "bind":
            await self._shortcuts.bind(self._nursery)
        elif do == "quit":
            self._nursery.cancel_scope.deadline = trio.current_time() + 0.1  # for the answer to go out
        typing = self._course.state == "idle" and self._told != "idle"
        return {
            "state": "finishing" if typing else self._course.state,
            "types": self._hand.name if self._hand else None,
            "session": bool(self._link and self._link.session),
            "note": self._note,
            "shortcuts": self._shortcuts.keys,
        }

    async def _press(self, do: str, hold: bool) -> None:
        try:
            await self._obey({"do": do, "wait": False, "display": {}, "wish": {"hold": True} if hold else {}})
        except (SttdError, FieldError, OSError) as error:
            self._refused(error)

    # ---------------------------------------------------------------- beginning

    async def _start(self, request: Mapping[str, Any], *, now_s: float) -> None:
        """Begin a dictation; returns when the microphone is open. Raises what is against it."""
        stops, user = self._stops, read_user(default_file(self.environ))
        wish, known = wish_of(request["wish"], user), tables(user)
        moved = any(self.environ.get(name) != value for name, value in request["display"].items())
        if moved or not (self._seat.x11 or self._seat.wayland):  # one that was late to answer may be there now
            self.environ |= request["display"]
            self._seat = await trio.to_thread.run_sync(seat.look, self.environ)
            self._hands.clear()
        await self._desktop.look()
        if refusal := self._desktop.refusal:
            raise AccessError(refusal)
        hand = self._hand_for(wish)
        await allowed(hand.prepare, self._nursery, asks=ASKS)
        command = await trio.to_thread.run_sync(recorder, wish.device)
        if command is None:
            raise NoMicrophoneError("no program to record with; `sttctl doctor` says what to install")
        if refusal := self._desktop.refusal:  # meanwhile
            raise AccessError(refusal)
        if self._stops != stops:
            if request["wait"]:
                raise AccessError("it was stopped before it had begun")
            return  # a key that was touched only
        if self._course.state == "listening":
            if request["wait"]:  # a key that repeats is to be neither shown nor heard
                self._queue.append(Show("listening"))
        else:
            self._wish, self._hand, self._command, self._note, self._failed = wish, hand, command, "", EXIT_OK
            self._link_for(wish)
        self._perform(self._course.start(partial(self._typist, wish, known), once=wish.once, now_s=now_s))
        if self._ear is not None:
            await self._ear.opened.wait()

    def _typist(self, wish: Wish, known: Mapping[str, Table], utterance: int, page: Page) -> Typist:
        language = wish.language if wish.language not in (None, "auto") else likely_language(self.environ)
        return Typist(tables=known, language=language, revise=wish.revise, next_utterance=utterance, before=page)

    def _hand_for(self, wish: Wish) -> Hand:
        key = (wish.type, wish.paste_keys)
        if key not in self._hands:
            self._hands[key] = hand_of(self._seat, wanted=wish.type, paste_keys=wish.paste_keys)
        return self._hands[key]

    def _link_for(self, wish: Wish) -> None:
        """Have a session with the options that are wished for."""
        if self._link is not None and self._link.options == wish.session:
            return
        if self._link is not None:
            self._link.scope.cancel()
            self._perform(self._course.lost("", now_s=trio.current_time()))
        self._link = Link(options=wish.session)
        self._nursery.start_soon(self._hold, self._link)

    # ---------------------------------------------------------------- doing

    def _perform(self, what: Iterable[Do]) -> None:
        for do in what:
            match do:
                case Listen():
                    self._ear = Ear(command=self._command)
                    self._nursery.start_soon(self._listen, self._ear, self._flushed)
                case Deafen() if self._ear is not None:
                    self._ear.close()
                case Flush():
                    before, self._flushed = self._flushed, trio.Event()
                    self._nursery.start_soon(self._flush, self._ear, before, self._flushed)
                case Discard():
                    self._queue = deque(item for item in self._queue if isinstance(item, Show))
                case Drop() if self._link is not None:
                    self._link.scope.cancel()
                case Write() | Erase() | Show():
                    self._queue.append(do)
        self._changed.set()
        self._queued.set()

    def _away(self, why: str) -> None:
        self._perform(self._course.cancel(now_s=trio.current_time(), note=why))

    async def _hold(self, link: Link) -> None:
        """Hold a session until the daemon or the course ends it."""
        note = "the daemon ended the session"
        try:
            with link.scope:
                async with open_session(
                    socket_path=self.control_socket, reconnect_s=_RECONNECT_S, **link.options
                ) as session:
                    link.session = session
                    link.ready.set()
                    async for event in session:
                        if self._link is link:
                            self._perform(self._course.event(event, now_s=trio.current_time()))
        except (SttdError, OSError) as error:
            note = words_of(error)
            if self._link is link:
                self._failed = exit_status_of(error)
        finally:
            link.session = None
            link.ready.set()
        if self._link is link:
            self._link = None
            self._perform(self._course.lost(note, now_s=trio.current_time()))

    async def _listen(self, ear: Ear, before: trio.Event) -> None:
        """Send what the microphone hears, behind the `finalize` of the dictation before."""
        note = ""

        async def ready() -> Callable[[bytes], Awaitable[None]]:
            await before.wait()
            session = await self._session()
            if session is None:
                raise ConnectionError
            return session.send

        try:
            await ear.run(ready)
            note = "the microphone ended" if ear.heard_bytes else "the microphone gives no sound"
        except NoMicrophoneError as error:
            note = words_of(error)
        except (SttdError, OSError):
            ear.close()  # the session is gone, and `_hold` says why
            return
        if not ear.closing and self._ear is ear:
            self._perform(self._course.deaf(note, now_s=trio.current_time()))

    async def _flush(self, ear: Ear | None, before: trio.Event, flushed: trio.Event) -> None:
        """Ask for the rest once all that was heard is sent."""
        try:
            await before.wait()
            if ear is not None:
                await ear.done.wait()
            with suppress(SttdError, OSError):
                if session := await self._session():
                    await session.finalize()
        finally:
            flushed.set()

    async def _session(self) -> Session | None:
        """The session, once it is open and configured as the dictation wants it; None where there is none."""
        link = self._link
        if link is None:
            return None
        await link.ready.wait()
        if link.session is not None and link.hold != self._wish.hold:
            link.hold = self._wish.hold
            told = link.session.started.endpointing  # to configure nothing would leave it off after a key was held
            usual = cast("Endpointing", dump(told)) if told else {}
            await link.session.configure(endpointing=False if link.hold else usual)
        return link.session

    async def _type(self) -> None:
        """Type and show what is in the queue, in its order."""
        while True:
            while not self._queue:
                self._queued = trio.Event()
                await self._queued.wait()
            item = self._queue.popleft()
            if isinstance(item, Show):
                self._show(item)
                continue
            try:
                await self._act(item)
            except HandError as error:
                self._perform(self._course.cancel(now_s=trio.current_time(), note=words_of(error)))

    async def _act(self, item: Write | Erase) -> None:
        if self._hand is None:
            return
        if isinstance(item, Erase):
            await self._hand.erase(item.count)
            return
        text = item.text
        while self._queue and isinstance(following := self._queue[0], Write):  # one run of a program for both
            self._queue.popleft()
            text += following.text
        queue = self._queue  # another one is there when the rest is discarded
        await write_while(self._hand, text, lambda: self._queue is queue)

    def _show(self, show: Show) -> None:
        self._told, self._note = show.state, show.note or self._note
        self._desktop.show(show, wish=self._wish, types=self._hand.name if self._hand else "nothing")
        for watcher in list(self._watchers):
            with suppress(trio.WouldBlock, trio.BrokenResourceError):
                watcher.send_nowait(Show(show.state, self._note))

    # ---------------------------------------------------------------- time

    async def _keep_time(self) -> None:
        while True:
            self._changed = trio.Event()
            due_s = self._course.due_at_s
            with trio.move_on_at(float("inf") if due_s is None else due_s):
                await self._changed.wait()
            if due_s is not None and trio.current_time() >= due_s:
                self._perform(self._course.tick(now_s=trio.current_time()))

    async def _leave(self) -> None:
        """End when nobody wanted anything for long enough."""
        idle_since = trio.current_time()
        while True:
            if self._course.state != "idle" or self._clients or self._shortcuts.keys is not None:
                idle_since = trio.current_time()
            if trio.current_time() - idle_since >= self.idle_s:
                self._nursery.cancel_scope.cancel()
            await trio.sleep(min(self.idle_s / 4, 30.0))
