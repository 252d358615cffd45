"""How Deepgram's API says no: `{"err_code", "err_msg", "request_id"}`, and the same in headers."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from typing import Final

import attrs

from sttd.errors import CODES
from sttd.wire.http import Denial, Response, json_response

_CODES: Final[Mapping[int, str]] = {401: "INVALID_AUTH", 403: "INSUFFICIENT_PERMISSIONS", 503: "SERVICE_UNAVAILABLE"}
_STATUS: Final[Mapping[str, int]] = {"model_not_found": 400}  # a query value like any other
_OTHERS: Final = "Bad Request"


def refuse(denial: Denial) -> Response:
    """The answer that says no."""
    status = denial.status or _STATUS.get(denial.code) or CODES[denial.code].http_status
    code, request_id = _CODES.get(status, _OTHERS), str(uuid.uuid4())
    fields = {"err_code": code, "err_msg": denial.message, "request_id": request_id}
    answer = json_response(fields, status=status)
    own = (("dg-request-id", request_id), ("dg-error", _in_a_line(denial.message)))
    wait_s = denial.retry_after_s
    wait = (("Retry-After", str(math.ceil(wait_s))),) if wait_s is not None else ()
    return attrs.evolve(answer, headers=(*answer.headers, *own, *wait, *denial.headers))


def _in_a_line(text: str) -> str:
    """As a header may carry it."""
    return " ".join(text.encode("ascii", "replace").decode().split())
