"""What a client of OpenAI's Realtime API asks for, as a session of sttd's."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qs

import attrs

from sttd.admission import Peer
from sttd.errors import OverloadedError, SttdError
from sttd.fields import rules_of
from sttd.options import SessionChanges, SessionOptions
from sttd.planes.asking import Asked, session_options
from sttd.service import Service
from sttd.wire import openai_answers
from sttd.wire.http import Denial, Request, Response
from sttd.wire.realtime_messages import Update
from sttd.wire.realtime_settings import LOGPROBS, Dialect, RefusedError, Settings, Transcription

_BETA_PROTOCOL: Final = b"openai-beta.realtime-v1"
# What a client got wrong, beyond what the machine sees: the key of the transcription, and the API's word for it.
_WRONG: Final = {"model_not_found": ("model", "model_not_found"), "bad_option": ("language", "invalid_value")}


def check(request: Request, *, service: Service, peer: Peer) -> Response | None:
    """The refusal of a handshake where nothing could be transcribed as it asks now."""
    try:
        options = options_of(first_settings(request), service=service, agent="")
        service.admission.check(options, uid=peer.uid)
    except SttdError as error:
        status = 503 if isinstance(error, OverloadedError) else None  # some clients give up for good on 4xx
        denial = attrs.evolve(Denial.of(error), status=status)
        return openai_answers.refuse(denial, param="model" if error.code == "model_not_found" else None)
    return None


def dialect_of(request: Request) -> Dialect:
    """What a client expects some events to be called."""
    asked = b"realtime=v1" in request.words(b"openai-beta")
    return "beta" if asked or _BETA_PROTOCOL in request.words(b"sec-websocket-protocol") else "ga"


def first_settings(request: Request) -> Settings:
    """What the address says: the model. Everything else comes by an update."""
    model = parse_qs(request.query).get("model", [""])[-1]
    return Settings(transcription=Transcription(model=model or None))


def options_of(settings: Settings, *, service: Service, agent: str) -> SessionOptions:
    """The session that a connection with these settings needs. Raises ModelError, ProtocolError."""
    asked = settings.transcription
    endpointing = service.defaults().endpointing
    if settings.turn_detection is None:
        endpointing = None
    elif endpointing is not None and settings.silence_ms is not None:
        least, most = settings.silence_ms
        endpointing = attrs.evolve(endpointing, silence_ms_min=least, silence_ms_max=most)
    options = session_options(
        Asked(
            model=asked.model,
            language=asked.language,
            languages=asked.languages,
            prompt=asked.prompt,
            hotwords=asked.keywords,
        ),
        service=service,
        api="realtime",
        agent=agent,
        sample_rate=settings.rate,
        encoding=settings.encoding,
        words=LOGPROBS in settings.include,
        endpointing=endpointing,
        lock_stable=True,
    )
    return attrs.evolve(options, interim_model=options.interim_model or options.model)


def changes_between(before: SessionOptions, after: SessionOptions) -> tuple[SessionChanges, bool]:
    """What a session is to change from the next utterance on, and whether only another session can be like that."""
    rules = rules_of(SessionOptions)
    differing = [name for name in rules if getattr(before, name) != getattr(after, name)]
    changes = {name: getattr(after, name) for name in differing if rules[name].changes == "utterance"}
    return SessionChanges(**changes), len(changes) < len(differing)


def refusal_of(error: SttdError, update: Update) -> RefusedError | None:
    """What the client got wrong in an update; None where it is sttd that cannot."""
    if error.code not in _WRONG:
        return None
    key, code = _WRONG[error.code]
    group = "session.audio.input.transcription" if update.dialect == "ga" else "session.input_audio_transcription"
    return RefusedError(error.message, param=f"{group}.{key}", code=code, event_id=update.event_id)
