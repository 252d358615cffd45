"""How OpenAI's API says what is wrong: `{"error": {"message", "type", "param", "code"}}`, all four always there.

The SDKs repeat 408, 409, 429 and 5xx by themselves, and wait as long as the answer says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import attrs

from sttd.errors import CODES
from sttd.wire.http import Denial, Response, json_response

# Where OpenAI's word for it is another than sttd's.
_CODES: Final[Mapping[str, str]] = {"unauthorized": "invalid_api_key"}
_STATUS: Final[Mapping[str, int]] = {"overloaded": 429, "too_many_requests": 429, "decode_failed": 500}
_HOPELESS: Final = frozenset({"model_not_local", "internal"})  # and whatever has status 408


def error_fields(code: str, message: str, *, status: int, param: str | None = None) -> dict[str, Any]:
    """The four fields of an error."""
    kind = "rate_limit_error" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
    return {"message": message, "type": kind, "param": param, "code": code}


def refuse(denial: Denial, *, param: str | None = None) -> Response:
    """The answer that says no."""
    status = denial.status or _STATUS.get(denial.code) or CODES[denial.code].http_status
    code = "method_not_allowed" if status == 405 else _CODES.get(denial.code, denial.code)
    answer = json_response({"error": error_fields(code, denial.message, status=status, param=param)}, status=status)
    return attrs.evolve(answer, headers=(*answer.headers, *_retrying(denial, status), *denial.headers))


def _retrying(denial: Denial, status: int) -> tuple[tuple[str, str], ...]:
    if status == 408 or denial.code in _HOPELESS:
        return (("x-should-retry", "false"),)
    if denial.retry_after_s is None:
        return ()
    milliseconds = math.ceil(denial.retry_after_s * 1000)
    return (("retry-after-ms", str(milliseconds)), ("retry-after", str(math.ceil(denial.retry_after_s))))
