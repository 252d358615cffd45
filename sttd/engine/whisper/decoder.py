"""How a batch of utterances becomes hypotheses: keys, windows, second passes.

Interims and finals see the shortest window that `interim_windows` and `final_windows` allow; what is doubted there
(`doubt`) sees the full one of 3000 frames, as Whisper was trained. Files always do. Files and finals of more than
`LONG_S` are decoded with timestamps, which say where their segments lie and where there is more to hear. What is
searched for and how often is the business of `search`, what is written down that of `writing`.

An item with a lead is heard together with it, and what is new of the text is its own (`core/leads.py`).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final

import attrs
import numpy as np

from sttd.core import leads
from sttd.core.forms import keeps
from sttd.core.types import (
    SAMPLE_RATE,
    DecodeItem,
    Effort,
    Hypothesis,
    Samples,
    seconds,
)
from sttd.engine.contract import NOBODY, SomeWaiters, Unfinished, Waiters
from sttd.engine.whisper.doubt import doubtful, said_once
from sttd.engine.whisper.features import (
    FULL_WINDOW,
    HOP,
    MAX_SAMPLES,
    Encoded,
    Features,
    Recordings,
    encode,
    log_power,
    normalised,
    window_for,
)
from sttd.engine.whisper.keeping import completed
from sttd.engine.whisper.languages import LanguageChooser
from sttd.engine.whisper.options import Settings
from sttd.engine.whisper.passes import Known
from sttd.engine.whisper.search import Attempt, Language, Search, mean_logprob
from sttd.engine.whisper.segments import speaks_on, split_at_timestamps
from sttd.engine.whisper.tokens import TextCodec, compression_ratio
from sttd.engine.whisper.writing import Writer
from sttd.host import logs

log = logs.get(__name__)

# Of several sentences Whisper without timestamps may write the first ones and stop, with all confidence. Measured on
# utterances of 8 to 17 s, joined from recordings: word errors 9.1 -> 3.6 % (tiny.en), 5.4 -> 3.1 % (base), lost words
# 71 -> 4 of 1128 and 38 -> 3 of 1140. Of 5 to 8 s hardly anything is lost, and with them both hear a little worse.
LONG_S: Final = 8.0
MIN_REST_S: Final = 1.0  # a window's rest shorter than this holds no words
UNHEARD_S: Final = 1.5  # chosen: longer than the pause that ends an utterance, and the last timestamp is not exact
_QUIET_MS: Final = 100  # with 50 ms the demo model had its last words
_SHORT_S: Final = 2.0  # chosen: a few words
# Of a short word that is cut this close base thinks that it is no speech: 6 of 12 takes of a synthetic "yes" were
# thrown away, with 300 ms of quiet behind them 1, with 500 ms again 1; `no_speech_prob` fell by 0.08 to 0.16. Of 24
# other words base had as many right as before, tiny.en one more.
_SHORT_QUIET_MS: Final = 300


@attrs.frozen(kw_only=True)
class BatchKey:
    """What items must have in common to share a call."""

    effort: Effort
    window: int
    timestamps: bool
    context: Hashable  # tokens before <|startoftranscript|>, or from what they are made
    words: bool
    step: int  # tries before: the next is at another temperature


def key_of(item: DecodeItem, settings: Settings, *, context: Hashable) -> BatchKey:
    """The key of an item, where `context` stands for what comes before <|startoftranscript|>."""
    effort, length = item.options.effort, len(item.samples)
    return BatchKey(
        effort=effort,
        window=window_for(length, allowed=_allowed(effort, settings)),
        timestamps=effort is Effort.TIMED or (effort is Effort.FULL and seconds(length) > LONG_S),
        context=context,
        words=item.options.words,
        step=item.step,
    )


def _allowed(effort: Effort, settings: Settings) -> tuple[int, ...]:
    """The short windows that a decode may use."""
    match effort:
        case Effort.QUICK:
            return settings.interim_windows
        case Effort.FULL:
            return settings.final_windows
        case _:
            return ()


@attrs.define(eq=False)
class Decoder:
    """Decodes batches on one loaded model. No state of its own, so several threads may call it."""

    _whisper: Any  # ctranslate2.models.Whisper
    _extractor: Any  # faster_whisper's FeatureExtractor
    _codec: TextCodec
    _settings: Settings
    _recordings: Recordings = attrs.field(factory=Recordings)
    _search: Search = attrs.field(init=False)
    _chooser: LanguageChooser = attrs.field(init=False)
    _writer: Writer = attrs.field(init=False)

    @_search.default
    def _build_search(self) -> Search:
        return Search(codec=self._codec, settings=self._settings)

    @_chooser.default
    def _build_chooser(self) -> LanguageChooser:
        return LanguageChooser(self._whisper, self._codec)

    @_writer.default
    def _build_writer(self) -> Writer:
        return Writer(codec=self._codec)

    def batch_key(self, item: DecodeItem) -> BatchKey:
        """Some microseconds; prompts are tokenised once and remembered."""
        context = len(self._codec.context(item.options.prompt, item.options.hotwords))
        return key_of(item, self._settings, context=context)

    def decode(self, batch: Sequence[DecodeItem], *, waiters: Waiters = NOBODY) -> list[Hypothesis | Unfinished]:
        """Decode items of one key. Raises whatever CTranslate2 raises, for all of them.

        Of finals, `waiters` hear at once what needs no second try while others of the batch do; those may take as long
        again, or three times as long as in a short window. An item for which nobody waits any more is not tried again.
        Only windows of files are left unfinished, when asked to hurry.
        """
        key = self.batch_key(batch[0])
        features = [self._features(item, window=key.window) for item in batch]
        encoded = encode(self._whisper, np.stack(features))
        languages = self._chooser.languages(encoded, batch)
        tried = [list(Known.of(item).tried) for item in batch]
        attempts: dict[int, Attempt] = {}
        found: dict[int, Hypothesis] = {}
        again: list[int] = []
        for settled in self._search.attempts(
            encoded,
            batch,
            effort=key.effort,
            timestamps=key.timestamps,
            once=key.effort is Effort.QUICK or key.window < FULL_WINDOW,
            languages=languages,
            tried=tried,
            waiters=waiters,
        ):
            if key.effort is Effort.QUICK:
                settled = {index: self._said_once(batch[index], attempt) for index, attempt in settled.items()}
            if key.window < FULL_WINDOW:
                doubted = [index for index, attempt in settled.items() if self._doubts(batch[index], attempt)]
                again = [index for index in doubted if not waiters.gone(index)]
                settled = {index: attempt for index, attempt in settled.items() if index not in again}
            if key.effort is Effort.FULL:
                settled = self._keeping(encoded, batch, settled, key=key, languages=languages, waiters=waiters)
            made = self._writer.hypotheses(encoded, batch, attempts=settled, languages=languages, words=key.words)
            attempts |= settled
            found |= {index: Known.of(batch[index]).whole(hypothesis) for index, hypothesis in made.items()}
            if key.effort is Effort.FULL and len(found) < len(batch):
                for index, attempt in settled.items():
                    if (whole := self._whole(batch[index], attempt, found[index])) is not None:
                        waiters.tell(index, whole)
        results = self._in_full(batch, again, waiters=waiters) if again else {}
        results |= self._passes(
            batch,
            [index for index in range(len(batch)) if index not in results],
            attempts=attempts,
            found=found,
            tried=tried,
            languages=languages,
            waiters=waiters,
        )
        return [results[index] for index in range(len(batch))]

    def _features(self, item: DecodeItem, *, window: int) -> Features:
        """The spectrum of an item; of a recording that was decoded before, only what is new is computed."""
        known, heard = self._recordings.spectrum(item.recording), _heard(item)
        spectrum = log_power(self._extractor, heard, window=window, known=known)
        # Where the quiet is now the recording may go on: what it was decoded from then is not part of it.
        self._recordings.keep(item.recording, spectrum[:, : len(item.samples) // HOP + 1])
        return normalised(spectrum, samples=len(heard), window=window)

    # ------------------------------------------------------------ second passes

    def _keeping(
        self,
        encoded: Encoded,
        batch: Sequence[DecodeItem],
        attempts: Mapping[int, Attempt],
        *,
        key: BatchKey,
        languages: Sequence[Language],
        waiters: Waiters,
    ) -> dict[int, Attempt]:
        """The attempts, but for items whose text does not begin with the one that it is to keep and need not differ.

        Those are decoded once more with that text forced. The forced attempt is taken where it is less probable by the
        margin at most, as the alignment says of both, for a search does not say how probable a forced beginning is; and
        with all of its words (`keeping`). Whatever goes wrong with it, the attempt that was free stands.
        """
        wanted = {
            index: self._to_keep(batch[index], attempt, languages[index])
            for index, attempt in attempts.items()
            if not waiters.gone(index)
        }
        freed = [index for index, text in wanted.items() if text]
        if not freed:
            return dict(attempts)
        try:
            again = self._search.forced(
                encoded.take(freed),
                [batch[index] for index in freed],
                texts=[wanted[index] for index in freed],
                timestamps=key.timestamps,
                languages=[languages[index] for index in freed],
            )
            forced = {
                index: whole
                for index, attempt in zip(freed, again, strict=True)
                if (whole := completed(attempt, attempts[index], wanted=wanted[index], codec=self._codec)) is not None
            }
            free_logprobs = self._mean_logprobs(encoded, batch, {index: attempts[index] for index in freed}, languages)
            forced_logprobs = self._mean_logprobs(encoded, batch, forced, languages)
        except Exception:
            log.warning("what a final should keep could not be forced; it stays as it was heard", exc_info=True)
            return dict(attempts)
        kept = dict(attempts)
        for index, attempt in forced.items():
            gap = free_logprobs[index] - forced_logprobs[index]
            if gap <= batch[index].options.keep_margin and not self._search.repetitive(attempt):
                kept[index] = attrs.evolve(attempt, avg_logprob=min(0.0, attempts[index].avg_logprob - gap))
        return kept

    def _to_keep(self, item: DecodeItem, attempt: Attempt, language: Language) -> str:
        """What the text must begin with to keep what it is to keep; empty where it does so, or has nothing to.

        Behind a lead that is also what was heard of the lead: to the text that is out it need not agree.
        """
        keep, text = item.options.keep, self._codec.decode(attempt.tokens).strip()
        if not keep or not text:
            return ""
        before = ""
        if item.lead is not None:
            divided = leads.divide(item.lead, text, keep=keep, language=language.code)
            if divided is None:
                return ""  # it is decoded alone
            before, text = divided.lead_text, divided.own_text
        return "" if keeps(keep, text, language=language.code) else f"{before} {keep}".strip()

    def _mean_logprobs(
        self,
        encoded: Encoded,
        batch: Sequence[DecodeItem],
        attempts: Mapping[int, Attempt],
        languages: Sequence[Language],
    ) -> dict[int, float]:
        """The mean log probability of a token of each text, however its search came to it."""
        texts = {
            index: [token for token in attempt.tokens if token < self._codec.eot] for index, attempt in attempts.items()
        }
        aligned = self._writer.aligned(encoded, batch, languages=languages, texts=texts)
        return {index: mean_logprob(one.probabilities) for index, one in aligned.items()}

    def _said_once(self, item: DecodeItem, attempt: Attempt) -> Attempt:
        return said_once(attempt, audio_s=seconds(len(item.samples)), codec=self._codec)

    def _doubts(self, item: DecodeItem, attempt: Attempt) -> bool:
        """An interim is doubted for what is its own: people begin a phrase again behind a pause."""
        text, audio_s = self._codec.decode(attempt.tokens), seconds(len(item.samples))
        if item.lead is not None and item.options.effort is Effort.QUICK:
            divided = leads.divide(item.lead, text, language=item.options.language or "en")
            if divided is None:
                return False  # it says nothing
            text, audio_s = divided.own_text, audio_s - seconds(item.lead.samples)
            attempt = attrs.evolve(attempt, compression_ratio=compression_ratio(text))
        return doubtful(attempt, text, effort=item.options.effort, audio_s=audio_s, settings=self._settings)

    def _in_full(
        self, batch: Sequence[DecodeItem], indices: Sequence[int], *, waiters: Waiters
    ) -> dict[int, Hypothesis | Unfinished]:
        """Some items, heard in the full window."""
        full = attrs.evolve(self, settings=attrs.evolve(self._settings, interim_windows=(), final_windows=()))
        found = full.decode([batch[index] for index in indices], waiters=SomeWaiters(waiters, tuple(indices)))
        return dict(zip(indices, found, strict=True))

    def _passes(
        self,
        batch: Sequence[DecodeItem],
        indices: Sequence[int],
        *,
        attempts: Mapping[int, Attempt],
        found: Mapping[int, Hypothesis],
        tried: Sequence[Sequence[Attempt]],
        languages: Sequence[Language],
        waiters: Waiters,
    ) -> dict[int, Hypothesis | Unfinished]:
        """What one pass makes of some of the items.

        Where Whisper opened a segment and stopped it goes on from there, as faster-whisper does by seeking; an item
        with a lead is then decoded alone, and so is a final of whose text it cannot be told what is its own. Of files
        that, and the tries that were not made, become calls of their own when somebody waits for the worker.
        """
        results: dict[int, Hypothesis | Unfinished] = {}
        rests: dict[int, DecodeItem] = {}
        for index in indices:
            item, known = batch[index], Known.of(batch[index])
            if index not in found:
                again = attrs.evolve(known, tried=tuple(tried[index]), language=languages[index])
                results[index] = Unfinished(attrs.evolve(item, known=again, step=len(again.tried)))
                continue
            whole = self._whole(item, attempts[index], found[index])
            results[index] = found[index] if whole is None else whole
            if whole is not None or waiters.gone(index):
                continue
            open_s = self._open_s(item, attempts[index])
            if item.lead is not None or open_s is None:
                rests[index] = item.alone()
            else:
                rests[index] = known.rest(item, whole=found[index], at_s=open_s, language=languages[index])
        timed = batch[0].options.effort is Effort.TIMED
        if rests and timed and waiters.hurry():
            return results | {index: Unfinished(item) for index, item in rests.items()}
        # Rests of one length share a call; those of finals may be so short that they have another key.
        return results | self._by_key(rests, waiters=waiters)

    def _by_key(self, items: Mapping[int, DecodeItem], *, waiters: Waiters) -> dict[int, Hypothesis | Unfinished]:
        """More items of a batch, in as many calls as they have keys."""
        results: dict[int, Hypothesis | Unfinished] = {}
        for key in dict.fromkeys(map(self.batch_key, items.values())):
            some = [index for index, item in items.items() if self.batch_key(item) == key]
            heard = self.decode([items[index] for index in some], waiters=SomeWaiters(waiters, tuple(some)))
            results |= zip(some, heard, strict=True)
        return results

    def _whole(self, item: DecodeItem, attempt: Attempt, heard: Hypothesis) -> Hypothesis | None:
        """What is heard of an item itself, once a pass has heard all of it; else None."""
        if self._open_s(item, attempt) is not None:
            return None
        own = heard if item.lead is None else leads.own(item, heard)
        return own if own is heard or own is None else attrs.evolve(own, compression_ratio=compression_ratio(own.text))

    def _open_s(self, item: DecodeItem, attempt: Attempt) -> float | None:
        """Where the text ends before the audio does and may be gone on with: an open segment, or speech behind it."""
        samples = item.samples[:MAX_SAMPLES]
        duration_s = seconds(len(samples))
        begin = self._codec.timestamp_begin
        split = split_at_timestamps(attempt.tokens, timestamp_begin=begin, duration_s=duration_s)
        open_s = split.resume_s
        if open_s is None and split.pieces and item.options.effort is Effort.FULL:
            end_s = split.pieces[-1].end_s
            open_s = end_s if duration_s - end_s >= UNHEARD_S and speaks_on(samples, after_s=end_s) else None
        more = open_s and duration_s - open_s >= MIN_REST_S and Known.of(item).resumes
        return open_s if more else None


def _heard(item: DecodeItem) -> Samples:
    """The audio, and a little quiet where its speaker was done: else a last word looks as if the end had cut it.

    Of a few words the last is a large part, and the audio ends soon behind it: they get more, but for interims.
    """
    short = item.options.effort is Effort.FULL and seconds(len(item.samples)) < _SHORT_S
    quiet_ms = _SHORT_QUIET_MS if short else _QUIET_MS if item.complete else 0
    if not quiet_ms:
        return item.samples
    return np.concatenate([item.samples, np.zeros(quiet_ms * SAMPLE_RATE // 1000, np.float32)])
