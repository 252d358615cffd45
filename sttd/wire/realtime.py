"""The server's half of OpenAI's Realtime API, for transcription, sans IO: items out of utterances.

What the client says comes in as events (`wire/realtime_messages.py`), what its sttd session says as utterances. Out
come messages for the client (`Say`) and what the session is to do. A session may give way to another one, since some
of what a client may change is fixed when a session opens; the machine is told when each has said its last.

Rules:

 1. **Items.** With turn detection an utterance is an item, committed where its speech ended. A client's commit ends an
    utterance, and everything that the session hears before it gets there is of the committed item: several utterances
    where `max_utterance_s` cut it, none where nobody spoke.
 2. **Attribution** goes by order. The session answers every finalize: by the end of the utterance that it ended, or,
    with nothing to end, by an utterance number that nobody was shown. So of the items that wait for an answer, the
    first one gets whatever begins; where none waits, what begins is of the open item.
 3. **Clear** is a finalize whose item is never shown.
 4. **Deltas** are the stable text and nothing else, and nothing of them is taken back: all deltas of an item are its
    transcript, to the character. Where a final would contradict what was sent, what was sent stays.
 5. **One outcome** for each committed item, `completed` or `failed`, in the order of the commits. An item fails where
    part of it could not be decoded, or its session ended without a word about it.
 6. **The end.** What is open when a session ends (a drain, another model) is committed: no last word is lost.
 7. **Turn detection that comes on** ends what the client would have had to commit. Other changes hold from the next
    item on, and so does another session: it takes over at the next commit, or at once where nothing is open.
 8. Milliseconds are of the audio appended, through all sessions.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import attrs

from sttd.errors import SttdError
from sttd.options import SAMPLE_BYTES
from sttd.wire.growing import GrowingText
from sttd.wire.heard import Text
from sttd.wire.jsontext import write_object
from sttd.wire.names import separator
from sttd.wire.openai_answers import error_fields
from sttd.wire.openai_transcript import tokens
from sttd.wire.realtime_messages import Clear, Commit, Update
from sttd.wire.realtime_settings import INTERIMS, Dialect, RefusedError, Settings

_COMMIT_MS: Final = 100  # the least that may be committed; upstream's limit
_TRANSCRIPTION: Final = "conversation.item.input_audio_transcription"
_PLACED: Final[dict[Dialect, tuple[str, ...]]] = {
    "ga": ("conversation.item.added", "conversation.item.done"),
    "beta": ("conversation.item.created",),
}
_CREATED: Final[dict[Dialect, str]] = {"ga": "session.created", "beta": "transcription_session.created"}
_UPDATED: Final[dict[Dialect, str]] = {"ga": "session.updated", "beta": "transcription_session.updated"}
_ENDED_INSIDE: Final = ("endpoint", "max_length")  # by the session itself; any other end was asked for


@attrs.frozen
class Say:
    """A message for the client."""

    text: str


@attrs.frozen
class Finalize:
    """The session is to end the utterance at this point of the audio."""


@attrs.frozen
class Renew:
    """The session is to stop; what comes goes to another one."""


Act = Say | Finalize | Renew


@attrs.define(eq=False, kw_only=True)
class _Item:
    """What the client gets one transcript of."""

    id: str
    committed: bool = False
    cleared: bool = False
    announced: bool = False  # the client was told that speech started
    whole: bool = False  # no more utterances will be part of it
    begun_s: float | None = None  # on the clock of its session
    duration_s: float = 0.0
    growing: GrowingText = attrs.field(factory=GrowingText)  # its text, which is what was sent in deltas
    final_chars: int = 0  # of it
    languages: dict[str, None] = attrs.field(factory=dict)  # in order
    logprobs: list[dict[str, Any]] | None = None
    trouble: dict[str, Any] | None = None  # why it fails
    part: int = 1  # the place in it of the utterance whose final comes next
    waits_for: deque[int] = attrs.field(factory=deque)  # utterances whose finals are to come

    @property
    def done(self) -> bool:
        return self.whole and not self.waits_for


@attrs.define(eq=False)
class _Round:
    """One session's share: what it was asked to end and has not answered, and what it is hearing."""

    offset_ms: float
    fed: bool = False  # audio came for it, so the session is there
    asked: deque[_Item] = attrs.field(factory=deque)
    open: _Item | None = None
    last: int = 0  # the newest utterance
    items: dict[int, _Item] = attrs.field(factory=dict)  # by utterance, until it is final
    silent: set[int] = attrs.field(factory=set)  # those of them with nothing to end


@attrs.define(eq=False, kw_only=True)
class RealtimeTalk:
    """The rules above for one connection.

    Args:
        token: makes ids unique among connections.
        dialect: of the events that have two names.
        settings: that it begins with.
        expires_at: what is shown of the end of the session, in seconds since 1970.
    """

    token: str
    dialect: Dialect
    settings: Settings
    expires_at: int
    _events: int = attrs.field(default=0, init=False)
    _items: int = attrs.field(default=0, init=False)
    _rounds: deque[_Round] = attrs.field(factory=lambda: deque([_Round(0.0)]), init=False)
    _owed: deque[_Item] = attrs.field(factory=deque, init=False)  # committed, in that order, without an outcome
    _appended_ms: float = attrs.field(default=0.0, init=False)
    _marked_ms: float = attrs.field(default=0.0, init=False)  # the newest commit or clear
    _previous: str | None = attrs.field(default=None, init=False)  # the newest committed item
    _renewing: bool = attrs.field(default=False, init=False)  # at the next commit
    _trouble: SttdError | None = attrs.field(default=None, init=False)  # the newest of the session's

    # ---------------------------------------------------------------- what the client says

    def greet(self) -> list[Act]:
        """The first message, unasked."""
        return [self._session(_CREATED[self.dialect], self.dialect)]

    def refuse(self, error: RefusedError, *, event_id: str | None = None) -> list[Act]:
        """A message is refused, and the session goes on; `event_id` where the error names none."""
        fields = error_fields(error.code, error.message, status=400, param=error.param)
        return [self._error(fields, event_id=error.event_id or event_id)]

    def fail(self, error: SttdError, *, event_id: str | None = None) -> list[Say]:
        """An error of sttd's own; whether the session goes on is the caller's matter."""
        return [self._error(_own_error(error), event_id=event_id)]

    def propose(self, update: Update) -> Settings:
        """The settings that an update asks for; nothing has changed yet. Raises RefusedError."""
        settings = self.settings.updated(update.session)
        same = (settings.audio_type, settings.rate) == (self.settings.audio_type, self.settings.rate)
        if self._appended_ms and not same:
            param = "session.audio.input.format" if update.dialect == "ga" else "session.input_audio_format"
            raise RefusedError("the format is set before the first audio", param=param)
        return settings

    def adopt(self, settings: Settings, update: Update, *, renew: bool) -> list[Act]:
        """The settings hold. `renew`: the session that there is cannot have them."""
        acts: list[Act] = []
        before, self.settings = self.settings, settings
        if before.turn_detection is None and settings.turn_detection is not None and self._uncommitted_ms:
            acts += self._commit()
        acts.append(self._session(_UPDATED[update.dialect], update.dialect))
        self._renewing = self._renewing or renew
        open_now = self._rounds[-1].open is not None or (settings.turn_detection is None and self._uncommitted_ms)
        return acts if open_now else [*acts, *self._renew()]

    def appended(self, size_bytes: int) -> None:
        """So much audio went to the session."""
        per_second = SAMPLE_BYTES[self.settings.encoding] * self.settings.rate
        self._appended_ms += size_bytes * 1000 / per_second
        self._rounds[-1].fed = True

    def commit(self, event: Commit) -> list[Act]:
        """The client ends the item."""
        if self._uncommitted_ms < _COMMIT_MS:
            error = RefusedError(
                f"only {self._uncommitted_ms:.0f} ms of audio came since the last commit, and {_COMMIT_MS} ms are the"
                f" least that can be committed",
                code="input_audio_buffer_commit_empty",
            )
            return self.refuse(error, event_id=event.event_id)
        return [*self._commit(), *self._renew()]

    def clear(self, event: Clear) -> list[Act]:
        """The client takes back what it did not commit."""
        acts: list[Act] = []
        if self._uncommitted_ms:
            item = self._take_open()
            item.cleared = True
            acts = self._ask(item)
        return [*acts, self._say("input_audio_buffer.cleared"), *self._renew()]

    # ---------------------------------------------------------------- what its session says

    def speech_started(self, utterance: int, *, at_s: float) -> list[Act]:
        """An utterance has begun."""
        self._catch_up(utterance)
        item = self._item_of_next()
        self._take(utterance, item)
        item.begun_s = at_s if item.begun_s is None else item.begun_s
        if item.committed or item.cleared or item.announced or self.settings.turn_detection is None:
            return []
        item.announced = True
        return [self._say("input_audio_buffer.speech_started", audio_start_ms=self._ms(at_s), item_id=item.id)]

    def interim(self, utterance: int, *, text: str, stable_chars: int) -> list[Act]:
        """What is heard of an utterance so far."""
        item = self._rounds[0].items[utterance]
        if item.cleared or item.waits_for[0] != utterance:
            return []  # an earlier part of the item has no final yet
        acts = self._delta(item, item.growing.stable(item.part, text[:stable_chars]))
        if INTERIMS in self.settings.include:
            stable = item.growing.text
            between = separator(item.growing.language) if stable and not stable_chars else ""
            whole = stable + between + text[stable_chars:]
            acts.append(self._say("sttd.interim", item_id=item.id, text=whole, stable_chars=len(stable)))
        return acts

    def speech_ended(self, utterance: int, *, at_s: float, silence_ms: int, reason: str) -> list[Act]:
        """An utterance has ended; its final comes."""
        round_, item = self._rounds[0], self._rounds[0].items[utterance]
        if round_.asked and round_.asked[0] is item:
            if reason not in _ENDED_INSIDE:
                round_.asked.popleft().whole = True
            return []
        if reason == "max_length" and not item.announced:
            return []
        round_.open, item.whole = None, True
        item.duration_s = at_s - (item.begun_s or 0.0)
        self._marked_ms = max(self._marked_ms, round_.offset_ms + at_s * 1000 + silence_ms)
        stopped = [self._stopped(item, self._ms(at_s))] if item.announced else []
        acts = [*stopped, *self._place(item)]
        return [*acts, *self._renew()] if round_ is self._rounds[-1] else acts

    def final(self, utterance: int, final: Text, *, decoded: bool) -> list[Act]:
        """The final of an utterance; not `decoded`: its text is no more than what was stable."""
        self._catch_up(utterance + 1)
        round_ = self._rounds[0]
        item = round_.items.pop(utterance)
        item.waits_for.popleft()
        if not decoded and utterance not in round_.silent and self._trouble is not None:
            item.trouble = _own_error(self._trouble)
        round_.silent.discard(utterance)
        return [] if item.cleared else [*self._add(item, final), *self._settle()]

    def troubled(self, error: SttdError) -> None:
        """The session could not do something; an utterance that gets no text for it fails."""
        self._trouble = error

    def session_ended(self, error: SttdError) -> list[Act]:
        """A session has said its last; `error` is what becomes of items that it said nothing of."""
        ended = self._rounds.popleft()
        if not self._rounds:
            self._rounds.append(_Round(self._appended_ms))
        for item in {*ended.asked, *ended.items.values()}:
            item.whole = True
            item.waits_for.clear()
            item.trouble = item.trouble or _own_error(error)
        return self._settle()

    # ---------------------------------------------------------------- rules

    @property
    def _uncommitted_ms(self) -> float:
        return max(0.0, self._appended_ms - self._marked_ms)

    def _new_item(self) -> _Item:
        self._items += 1
        return _Item(id=f"item_{self.token}{self._items:06d}")

    def _take_open(self) -> _Item:
        """The item of what was appended last, which ends here."""
        round_ = self._rounds[-1]
        item, round_.open = round_.open or self._new_item(), None
        return item

    def _item_of_next(self) -> _Item:
        """The item of an utterance that begins (rule 2)."""
        round_ = self._rounds[0]
        if round_.asked:
            return round_.asked[0]
        round_.open = round_.open or self._new_item()
        return round_.open

    def _take(self, utterance: int, item: _Item) -> None:
        round_ = self._rounds[0]
        round_.last, round_.items[utterance] = utterance, item
        item.waits_for.append(utterance)

    def _catch_up(self, before: int) -> None:
        """The numbers that nobody was shown answer a finalize with nothing to end (rule 2)."""
        round_ = self._rounds[0]
        for utterance in range(round_.last + 1, before):
            item = round_.asked.popleft()
            item.whole = True
            self._take(utterance, item)
            round_.silent.add(utterance)

    def _commit(self) -> list[Act]:
        item = self._take_open()
        item.duration_s = self._uncommitted_ms / 1000
        acts = self._ask(item)
        if item.announced:
            acts.append(self._stopped(item, round(self._appended_ms)))
        return [*acts, *self._place(item), *self._settle()]

    def _ask(self, item: _Item) -> list[Act]:
        """The session is to end an item. One between two sessions has none: the old one says what it still heard."""
        round_, self._marked_ms = self._rounds[-1], self._appended_ms
        if not round_.fed:
            item.whole = True
            return []
        round_.asked.append(item)
        return [Finalize()]

    def _renew(self) -> list[Act]:
        if not self._renewing:
            return []
        self._renewing = False
        self._rounds.append(_Round(self._appended_ms))
        return [Renew()]

    def _place(self, item: _Item) -> list[Act]:
        """An item is committed."""
        item.committed = True
        self._owed.append(item)
        previous, self._previous = self._previous, item.id
        content = [{"type": "input_audio", "transcript": None}]
        shown = {"id": item.id, "type": "message", "role": "user", "status": "completed", "content": content}
        return [
            self._say("input_audio_buffer.committed", item_id=item.id, previous_item_id=previous),
            *(self._say(name, previous_item_id=previous, item=shown) for name in _PLACED[self.dialect]),
        ]

    def _add(self, item: _Item, final: Text) -> list[Act]:
        if final.text and final.language:
            item.languages[final.language] = None
        delta = item.growing.final(item.part, final.text, language=final.language if final.text else None)
        if final.words is not None:
            added = item.growing.text[item.final_chars :]
            item.logprobs = [*(item.logprobs or ()), *tokens(added, final)]
        item.part, item.final_chars = item.part + 1, len(item.growing.text)
        return self._delta(item, delta)

    def _delta(self, item: _Item, delta: str) -> list[Act]:
        return [self._say(f"{_TRANSCRIPTION}.delta", item_id=item.id, content_index=0, delta=delta)] if delta else []

    def _settle(self) -> list[Act]:
        """The outcomes whose turn it is (rule 5)."""
        acts: list[Act] = []
        while self._owed and self._owed[0].done:
            acts.append(self._outcome(self._owed.popleft()))
        return acts

    def _outcome(self, item: _Item) -> Say:
        if item.trouble is not None:
            return self._say(f"{_TRANSCRIPTION}.failed", item_id=item.id, content_index=0, error=item.trouble)
        known = {} if item.logprobs is None else {"logprobs": item.logprobs}
        return self._say(
            f"{_TRANSCRIPTION}.completed",
            item_id=item.id,
            content_index=0,
            transcript=item.growing.text,
            usage={"type": "duration", "seconds": round(item.duration_s, 3)},
            languages=[{"code": code} for code in item.languages],
            **known,
        )

    # ---------------------------------------------------------------- messages

    def _ms(self, at_s: float) -> int:
        return round(self._rounds[0].offset_ms + at_s * 1000)

    def _stopped(self, item: _Item, at_ms: int) -> Say:
        return self._say("input_audio_buffer.speech_stopped", audio_end_ms=at_ms, item_id=item.id)

    def _session(self, name: str, dialect: Dialect) -> Say:
        session: dict[str, Any] = {"object": "realtime.transcription_session", "id": f"sess_{self.token}"}
        if dialect == "ga":
            session = {"type": "transcription", **session}
        session["expires_at"] = self.expires_at
        return self._say(name, session={**session, **self.settings.shown(dialect)})

    def _error(self, fields: dict[str, Any], *, event_id: str | None) -> Say:
        return self._say("error", error={**fields, "event_id": event_id})

    def _say(self, name: str, **fields: Any) -> Say:
        self._events += 1
        return Say(write_object({"type": name, "event_id": f"event_{self.token}{self._events:08d}", **fields}))


def _own_error(error: SttdError) -> dict[str, Any]:
    return error_fields(error.code, error.message, status=500)
