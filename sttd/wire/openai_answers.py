"""How OpenAI's API says what is wrong: `{"error": {"message", "type", "param", "code"}}`, all four always there.

The SDKs repeat 408, 409, 429 and 5xx by themselves, and wait as long as the answer says. Every answer says which
request it belongs to, and how long that took.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from typing import Any, Final

import attrs

from sttd.errors import CODES, SttdError
from sttd.wire.http import Denial, Response, json_response

# Where OpenAI's word for it is another than sttd's.
_CODES: Final[Mapping[str, str]] = {"unauthorized": "invalid_api_key"}
_STATUS: Final[Mapping[str, int]] = {"overloaded": 429, "too_many_requests": 429, "decode_failed": 500}
_RETRY_S: Final = 5.0  # chosen: where nobody knows better when there will be room
_HOPELESS: Final = frozenset({"model_not_local", "internal"})  # and whatever has status 408


class Refused(Exception):
    """A request of this API is refused; `param` names the field that is wrong."""

    def __init__(self, denial: Denial, *, param: str | None = None) -> None:
        super().__init__(denial.message)
        self.denial, self.param = denial, param

    @classmethod
    def of(cls, error: SttdError) -> Refused:
        """An error of the service, in the words of this API."""
        denial, field = Denial.of(error), error.data.get("field")
        match error.code:
            case "model_not_found":
                return cls(denial, param="model")
            case "bad_option" if field in ("lang", "languages"):
                param = "language" if field == "lang" else field
                return cls(attrs.evolve(denial, code="unsupported_language", status=400), param=param)
            case "bad_option":  # nothing else of a request depends on the model but the task
                return cls(attrs.evolve(denial, code="invalid_value", status=400), param="model")
            case "bad_audio":
                return cls(attrs.evolve(denial, code="invalid_audio", status=400), param="file")
        return cls(denial)

    @property
    def answer(self) -> Response:
        """The answer that says so."""
        return refuse(self.denial, param=self.param)

    @property
    def error(self) -> dict[str, Any]:
        """The same where the answer has begun."""
        code, status = code_and_status(self.denial)
        return error_fields(code, self.denial.message, status=status, param=self.param)


def wrong_value(param: str, message: str) -> Refused:
    """A field has a value that it cannot have."""
    return Refused(Denial("invalid_value", message, status=400), param=param)


def error_fields(code: str, message: str, *, status: int, param: str | None = None) -> dict[str, Any]:
    """The four fields of an error."""
    kind = "rate_limit_error" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
    return {"message": message, "type": kind, "param": param, "code": code}


def refuse(denial: Denial, *, param: str | None = None) -> Response:
    """The answer that says no."""
    code, status = code_and_status(denial)
    answer = json_response({"error": error_fields(code, denial.message, status=status, param=param)}, status=status)
    answer = attrs.evolve(answer, headers=(*answer.headers, *_retrying(denial, status), *denial.headers))
    return marked(answer, request_id=new_id(), processing_ms=0)


def code_and_status(denial: Denial) -> tuple[str, int]:
    """What OpenAI's API calls it."""
    status = denial.status or _STATUS.get(denial.code) or CODES[denial.code].http_status
    return "method_not_allowed" if status == 405 else _CODES.get(denial.code, denial.code), status


def marked(answer: Response, *, request_id: str, processing_ms: float) -> Response:
    """An answer with what every one of this API says of its request."""
    marks = (("x-request-id", request_id), ("openai-processing-ms", str(round(processing_ms))))
    others = (header for header in answer.headers if header[0] not in dict(marks))
    return attrs.evolve(answer, headers=(*others, *marks))


def new_id() -> str:
    """The id of a request that has no session."""
    return f"req_{uuid.uuid4().hex}"


def _retrying(denial: Denial, status: int) -> tuple[tuple[str, str], ...]:
    if status == 408 or denial.code in _HOPELESS:
        return (("x-should-retry", "false"),)
    wait_s = denial.retry_after_s
    if wait_s is None and status != 429:
        return ()
    wait_s = _RETRY_S if wait_s is None else wait_s
    return (("retry-after-ms", str(math.ceil(wait_s * 1000))), ("retry-after", str(math.ceil(wait_s))))
