"""A form with a file in it (`multipart/form-data`), sans IO: pieces of a body in, pieces of its file out.

Rules:

1. The head of the request says that it is such a form, what separates its parts, and how long the body is, or that it
   comes in chunks. A body that is too long by its head is not read.
2. A form has `MAX_PARTS` parts at the most, a field `MAX_FIELD_BYTES`, the headers of a part `MAX_HEADER_BYTES`.
3. The part that is named `file` is the file, whatever else is said of it; there is one. Fields come in any order, in
   front of it or behind.
4. **What is wrong with a body is said behind it.** The first thing that is wrong counts, and from there on the body is
   thrown away: a client that still sends does not look for an answer.
"""

from __future__ import annotations

from typing import Final

import attrs
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from sttd.wire.http import Denial, Request
from sttd.wire.openai_answers import Refused

MAX_PARTS: Final = 64
MAX_FIELD_BYTES: Final = 64 * 1024
MAX_HEADER_BYTES: Final = 8 * 1024
STEP_BYTES: Final = 4096  # of what `feed` should be given at once: the parser looks at some bytes one by one
_FILE: Final = "file"


@attrs.frozen(kw_only=True)
class FormHead:
    """What the head of a request says about its form."""

    boundary: bytes
    length: int | None  # bytes of the body; None: it comes in chunks


def form_head(request: Request, *, most_bytes: int) -> FormHead:
    """Rule 1. Raises Refused."""
    kind, options = parse_options_header(b", ".join(request.values(b"content-type")))
    if kind.lower() != b"multipart/form-data":
        raise Refused(Denial("bad_request", "the body must be multipart/form-data", status=415))
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= 70:  # RFC 2046
        raise Refused(Denial("bad_request", "the Content-Type has no boundary of 1 to 70 characters"))
    if request.words(b"transfer-encoding"):  # HTTP knows one alone that a body may have: chunked
        return FormHead(boundary=boundary, length=None)
    lengths = request.values(b"content-length")
    if not lengths:
        raise Refused(Denial("bad_request", "a body needs a Content-Length, or comes in chunks", status=411))
    length = int(lengths[0])
    if length > most_bytes:
        raise too_large(most_bytes)
    return FormHead(boundary=boundary, length=length)


def too_large(most_bytes: int) -> Refused:
    """The body has more than it may."""
    return Refused(Denial("too_large", f"a body may have {most_bytes} bytes at most; see limits.upload_bytes"))


@attrs.define(eq=False)
class FormReader:
    """Rules 2 to 4 for one body.

    Args:
        boundary: what separates the parts.
    """

    boundary: bytes
    fields: list[tuple[str, bytes]] = attrs.field(factory=list, init=False)  # in order, the file left out
    has_file: bool = attrs.field(default=False, init=False)
    trouble: Refused | None = attrs.field(default=None, init=False)
    _begun: bool = attrs.field(default=False, init=False)  # something came besides line breaks
    _parts: int = attrs.field(default=0, init=False)
    _header_bytes: int = attrs.field(default=0, init=False)
    _header: tuple[bytearray, bytearray] = attrs.field(factory=lambda: (bytearray(), bytearray()), init=False)
    _name: str | None = attrs.field(default=None, init=False)  # of the part that is read
    _value: bytearray = attrs.field(factory=bytearray, init=False)
    _pieces: list[bytes] = attrs.field(factory=list, init=False)  # of the file, to be fetched
    _complete: bool = attrs.field(default=False, init=False)
    _parser: MultipartParser = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._parser = MultipartParser(
            self.boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_begin": self._begin_header,
                "on_header_field": self._take_header_name,
                "on_header_value": self._take_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._take_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
            max_header_count=MAX_HEADER_BYTES,  # `_take_header` counts them together
            max_header_size=MAX_HEADER_BYTES + 1,
        )

    def feed(self, data: bytes) -> bytes:
        """Take a piece of the body; returns what of the file is in it."""
        if not self._begun:
            # Behind a line break the parser skips anything, as far as it came in one piece: two networks, two answers.
            data = data.lstrip(b"\r\n")
            self._begun = bool(data)
        if self.trouble is None:
            try:
                self._parser.write(data)
            except Refused as refused:
                self.give_up(refused)
            except FormParserError:  # its words may be those of the client
                self.give_up(_malformed("the parts cannot be told apart"))
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces) if self.trouble is None else b""

    def give_up(self, why: Refused) -> None:
        """The request will be refused for this; what still comes of its body is thrown away."""
        if self.trouble is None:
            self.trouble = why
        self.fields, self._value = [], bytearray()

    def finish(self) -> None:
        """The body has ended. Raises Refused: the first thing that was wrong."""
        if self.trouble is None and not self._complete:
            self.give_up(_malformed("it ends in the middle"))
        if self.trouble is not None:
            raise self.trouble

    # ---------------------------------------------------------------- what the parser finds

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise _malformed(f"it has more than {MAX_PARTS} parts")
        self._header_bytes, self._name, self._value = 0, None, bytearray()

    def _begin_header(self) -> None:
        self._header = bytearray(), bytearray()

    def _take_header_name(self, data: bytes, start: int, end: int) -> None:
        self._take_header(0, data[start:end])

    def _take_header_value(self, data: bytes, start: int, end: int) -> None:
        self._take_header(1, data[start:end])

    def _take_header(self, half: int, data: bytes) -> None:
        self._header_bytes += len(data)
        if self._header_bytes > MAX_HEADER_BYTES:
            raise _malformed(f"a part has more than {MAX_HEADER_BYTES} bytes of headers")
        self._header[half].extend(data)

    def _end_header(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            kind, options = parse_options_header(bytes(value))
            if kind.lower() == b"form-data" and b"name" in options:
                self._name = options[b"name"].decode(errors="replace")

    def _end_headers(self) -> None:
        if self._name is None:
            raise _malformed("a part has no name")
        if self._name == _FILE:
            if self.has_file:
                raise _malformed("it has more than one `file`")
            self.has_file = True

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == _FILE:
            self._pieces.append(data[start:end])
            return
        self._value.extend(data[start:end])
        if len(self._value) > MAX_FIELD_BYTES:
            raise _malformed(f"a field has more than {MAX_FIELD_BYTES} bytes")

    def _end_part(self) -> None:
        if self._name is not None and self._name != _FILE:
            self.fields.append((self._name, bytes(self._value)))

    def _end(self) -> None:
        self._complete = True


def _malformed(what: str) -> Refused:
    return Refused(Denial("bad_request", f"the form is malformed: {what}"))
