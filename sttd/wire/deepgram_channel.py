"""What a client of Deepgram's live API is told of one channel, sans IO. Twin of `deepgram.py`, which hears the client.

    what a session says ──▶ Channel ──▶ messages for the client

Rules. Times are milliseconds of its audio; an utterance is one of the client's, of one final or more.

1. An `is_final` is a final of the session, which never changes. Its range begins where the one before it ended, the
   first at 0, and ends with its speech or its last word: what is quiet behind it lies in the next. The last range ends
   with the audio; where the last final ends before, an empty one follows it.
2. `speech_final` says that the utterance has ended: by an endpoint, `Finalize`, or the end of the stream. A final that
   `max_utterance_s` cut does not end it. Where nobody spoke on behind the cut, an empty `speech_final` says so as soon
   as the silence is as long as an endpoint's.
3. What may change (`is_final` false) is what was heard behind the last range. So the interim of an utterance waits
   until the finals before it are out; of those that wait the newest counts.
4. Words rise and lie in the range; what would stick out is moved to its border. A final with text has words: where the
   session knows none, its text is spread over its speech.
5. Each `Finalize` has exactly one `is_final` with `from_finalize`. Its range ends at the audio that came before it,
   as far as that can be counted: a container's own time is that of the final. Where nothing was open it is empty, and
   ends no utterance. Those that the end of the session overtakes are answered there.
6. `UtteranceEnd` comes once an utterance, behind its `speech_final`, when `utterance_end_ms` of audio came behind its
   last word and nobody spoke. A sound that turns out to be no speech does not count; words that come sooner take the
   place of the last one. Where no voice is listened for (`endpointing=false`), an utterance of the session begins with
   any audio: then it is text that says that somebody speaks, here and to `SpeechStarted`.
7. At the end of the stream comes all that is pending.
"""

from __future__ import annotations

import unicodedata
import uuid
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import attrs

from sttd.wire import heard
from sttd.wire.jsontext import write_object

_PADDING_MS: Final = 40  # the last frame of a session is filled up, or left out: two frames of 20 ms at the most
_ARCH: Final = "whisper"


@attrs.frozen
class _Word:
    """A word as it is sent."""

    text: str
    start_ms: int
    end_ms: int
    confidence: float

    def fields(self) -> dict[str, Any]:
        return {
            "word": _bare(self.text),
            "start": self.start_ms / 1000,
            "end": self.end_ms / 1000,
            "confidence": round(self.confidence, 4),
            "punctuated_word": self.text,
        }


@attrs.define(eq=False, kw_only=True)
class Channel:
    """The rules above for one channel. Every input returns the messages that follow from it, in order.

    Args:
        index, count: which of how many channels it is.
        request_id: of the connection.
        model, interim_model: presets, of finals and interims.
        version: of the daemon.
        bytes_per_s: of the audio that is fed; None: a container's, which cannot be counted.
        vad_events: `SpeechStarted` is wanted.
        tell_language: the language was not given but detected, and is told.
        utterance_end_ms: see rule 6; None: `UtteranceEnd` is not wanted.
        silence_ms: an endpoint's (rule 2); None: no voice is listened for (rule 6).
    """

    index: int = 0
    count: int = 1
    request_id: str
    model: str
    interim_model: str
    version: str
    bytes_per_s: int | None
    vad_events: bool = False
    tell_language: bool = False
    utterance_end_ms: int | None = None
    silence_ms: int | None = 700
    end_ms: int = attrs.field(default=0, init=False)  # of the last range
    _fed_bytes: int = attrs.field(default=0, init=False)
    _asked: deque[int | None] = attrs.field(factory=deque, init=False)  # where each open `Finalize` came
    _done: int = attrs.field(default=0, init=False)  # the last utterance of the session that has its final
    _starts: dict[int, int] = attrs.field(factory=dict, init=False)  # where those began that have none yet
    _unheard: dict[int, int] = attrs.field(factory=dict, init=False)  # the same of those in which nobody spoke so far
    _waiting: heard.Interim | None = attrs.field(default=None, init=False)  # for the finals before it
    _cut: bool = attrs.field(default=False, init=False)  # the client's utterance goes on, or that is not known yet
    _word_ms: int | None = attrs.field(default=None, init=False)  # end of the last word of the client's utterance
    _quiet_from_ms: int | None = attrs.field(default=None, init=False)  # the same of one that is to have its end

    @property
    def awaits_quiet(self) -> bool:
        """Whether silence is of interest, so that `quiet` is to be told how it grows."""
        ending = self.utterance_end_ms is not None and self._quiet_from_ms is not None
        return not self._starts and (ending or (self._cut and self.silence_ms is not None))

    @property
    def fed_ms(self) -> int | None:
        """How much audio came; None: nobody can count it."""
        return None if self.bytes_per_s is None else self._fed_bytes * 1000 // self.bytes_per_s

    # ---------------------------------------------------------------- what the client does

    def fed(self, count_bytes: int) -> None:
        """The session was given audio."""
        self._fed_bytes += count_bytes

    def finalize(self) -> None:
        """The session was told to end its utterance here."""
        self._asked.append(self.fed_ms)

    # ---------------------------------------------------------------- what the session says

    def speech_started(self, utterance: int, at_s: float) -> list[str]:
        """An utterance of the session was opened."""
        self._unheard[utterance] = _ms(at_s)
        return [] if self.silence_ms is None else self._begin(utterance)

    def interim(self, interim: heard.Interim) -> list[str]:
        """Text that may change (rule 3)."""
        if not interim.text:
            return []
        told = self._begin(interim.utterance)
        if interim.utterance != self._done + 1:
            self._waiting = interim
            return told
        return [
            *told,
            self._results(
                end_ms=max(self.end_ms, _ms(interim.end_s)),
                text=interim.text,
                confidence=interim.stable_chars / len(interim.text),
                is_final=False,
                model=self.interim_model,
            ),
        ]

    def final(self, final: heard.Final) -> list[str]:
        """Text that does not change any more (rules 1, 2, 4, 5)."""
        from_finalize = final.reason == "finalize"
        asked_ms = self._asked.popleft() if from_finalize and self._asked else None
        words = _heard_words(final)
        end_ms = self._end_of(final, words, asked_ms=asked_ms)
        words = _within(words, self.end_ms, end_ms)
        told = self._begin(final.utterance) if final.text else []
        opened = {self._starts.pop(final.utterance, None), self._unheard.pop(final.utterance, None)} != {None}
        speech_final = (opened or self._cut) and final.reason != "max_length"
        told.append(
            self._results(
                end_ms=end_ms,
                text=final.text,
                words=words,
                confidence=final.confidence if final.text else 0.0,
                speech_final=speech_final,
                from_finalize=from_finalize,
                language=final.language,
                model=final.model,
            )
        )
        self._done, self._cut = final.utterance, final.reason == "max_length"
        if words:
            self._word_ms, self._quiet_from_ms = words[-1].end_ms, None
        if speech_final:
            self._end_utterance()
        if self._starts:
            told += self._utterance_end(min(self._starts.values()))
        if self._waiting is not None and self._waiting.utterance == self._done + 1:
            waited, self._waiting = self._waiting, None
            told += self.interim(waited)
        return told

    def quiet(self, until_s: float) -> list[str]:
        """The session has heard so much and said nothing new (rules 2 and 6). Only while `awaits_quiet`."""
        until_ms, told = _ms(until_s), list[str]()
        if self._cut and self.silence_ms is not None and until_ms >= self.end_ms + self.silence_ms:
            told.append(self._results(end_ms=self.end_ms + self.silence_ms, speech_final=True))
            self._cut = False
            self._end_utterance()
        return [*told, *self._utterance_end(until_ms)]

    def stopped(self, audio_s: float | None) -> list[str]:
        """The session has ended, after so much audio; None: because of an error (rules 1, 5, 7)."""
        end_ms = self._audio_end_ms(audio_s)
        told = list[str]()
        while self._asked:
            asked_ms = self._asked.popleft()
            reach_ms = end_ms if asked_ms is None else min(asked_ms, end_ms)
            told.append(self._last(reach_ms, from_finalize=True))
        if end_ms > self.end_ms or (self._cut and audio_s is not None):
            told.append(self._last(end_ms))
        return [*told, *self._utterance_end(end_ms)]

    # ---------------------------------------------------------------- rules

    def _begin(self, utterance: int) -> list[str]:
        """Somebody speaks in this utterance; nothing where that is known."""
        at_ms = self._unheard.pop(utterance, None)
        if at_ms is None:
            return []
        told = [] if self._starts else self._utterance_end(at_ms)
        self._starts[utterance] = at_ms
        if self.vad_events:
            told.append(write_object({"type": "SpeechStarted", "channel": [self.index], "timestamp": at_ms / 1000}))
        return told

    def _last(self, end_ms: int, *, from_finalize: bool = False) -> str:
        """Without text, at the end of the stream."""
        speech_final, self._cut = self._cut, False
        text = self._results(end_ms=max(end_ms, self.end_ms), speech_final=speech_final, from_finalize=from_finalize)
        if speech_final:
            self._end_utterance()
        return text

    def _end_utterance(self) -> None:
        """A `speech_final` was sent."""
        if self._word_ms is not None:
            self._quiet_from_ms, self._word_ms = self._word_ms, None

    def _utterance_end(self, quiet_until_ms: int) -> list[str]:
        """Rule 6."""
        last_ms, wanted_ms = self._quiet_from_ms, self.utterance_end_ms
        if last_ms is None or wanted_ms is None or quiet_until_ms < last_ms + wanted_ms:
            return []
        self._quiet_from_ms = None
        fields = {"channel": [self.index, self.count], "last_word_end": last_ms / 1000}
        return [write_object({"type": "UtteranceEnd", **fields})]

    def _end_of(self, final: heard.Final, words: Sequence[_Word], *, asked_ms: int | None) -> int:
        """Where the range of a final ends (rules 1 and 5)."""
        fed_ms = self.fed_ms
        if asked_ms is not None:
            end_ms = asked_ms
        elif final.reason == "stop" and fed_ms is not None:
            end_ms = fed_ms
        else:
            end_ms = max([_ms(final.end_s), *(word.end_ms for word in words)])
            end_ms = end_ms if fed_ms is None else min(end_ms, fed_ms)
        return max(end_ms, self.end_ms)

    def _audio_end_ms(self, audio_s: float | None) -> int:
        """Where the audio of the session ended. What it was given may be more: then it did not take it all."""
        if audio_s is None:
            return self.end_ms
        heard_ms, fed_ms = _ms(audio_s), self.fed_ms
        return fed_ms if fed_ms is not None and fed_ms < heard_ms + _PADDING_MS else heard_ms

    def _results(
        self,
        *,
        end_ms: int,
        text: str = "",
        words: Sequence[_Word] = (),
        confidence: float = 0.0,
        is_final: bool = True,
        speech_final: bool = False,
        from_finalize: bool = False,
        language: str = "",
        model: str | None = None,
    ) -> str:
        start_ms = self.end_ms
        if is_final:
            self.end_ms = end_ms
        alternative: dict[str, Any] = {
            "transcript": text,
            "confidence": round(confidence, 4),
            "words": [word.fields() for word in words],
        }
        if self.tell_language and language and text:
            alternative["languages"] = [language]
        name = model or self.model
        return write_object(
            {
                "type": "Results",
                "channel_index": [self.index, self.count],
                "start": start_ms / 1000,
                "duration": (end_ms - start_ms) / 1000,
                "is_final": is_final,
                "speech_final": speech_final,
                "from_finalize": from_finalize,
                "channel": {"alternatives": [alternative]},
                "metadata": {
                    "request_id": self.request_id,
                    "model_uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"sttd:{name}")),
                    "model_info": {"name": name, "version": self.version, "arch": _ARCH},
                },
            }
        )


def _ms(time_s: float) -> int:
    return round(time_s * 1000)


def _heard_words(final: heard.Final) -> list[_Word]:
    """The words of a final; where it has text alone, that is spread over its speech (rule 4)."""
    known = [
        _Word(text, _ms(word.start_s), _ms(word.end_s), word.probability)
        for word in final.words or ()
        if (text := word.word.strip())
    ]
    texts = final.text.split()
    if known or not texts:
        return known
    start_ms, length_ms = _ms(final.start_s), _ms(final.end_s - final.start_s)
    ends = [start_ms + length_ms * (index + 1) // len(texts) for index in range(len(texts))]
    return [
        _Word(text, begin, end, final.confidence)
        for text, begin, end in zip(texts, [start_ms, *ends], ends, strict=False)
    ]


def _within(words: Sequence[_Word], start_ms: int, end_ms: int) -> list[_Word]:
    """The words in their order, none before another's end, all between these times."""
    fitted: list[_Word] = []
    after_ms = start_ms
    for word in words:
        begin = min(max(word.start_ms, after_ms), end_ms)
        after_ms = min(max(word.end_ms, begin), end_ms)
        fitted.append(attrs.evolve(word, start_ms=begin, end_ms=after_ms))
    return fitted


def _bare(word: str) -> str:
    """In lower case, without the punctuation round it; what is nothing else stays."""
    marks = "".join(letter for letter in set(word) if unicodedata.category(letter).startswith("P"))
    return (word.strip(marks) or word).lower()
