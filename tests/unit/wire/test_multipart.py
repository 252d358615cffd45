"""A form with a file in it: whatever comes, in whatever pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.errors import OverloadedError
from sttd.wire.http import Request
from sttd.wire.multipart import MAX_FIELD_BYTES, MAX_HEADER_BYTES, MAX_PARTS, FormReader, form_head
from sttd.wire.openai_answers import Refused

BOUNDARY = b"b0undary"


def part(name, value, *, more=b""):
    head = b'Content-Disposition: form-data; name="' + name + b'"' + more
    return b"--" + BOUNDARY + b"\r\n" + head + b"\r\n\r\n" + value + b"\r\n"


def form(*parts):
    return b"".join(parts) + b"--" + BOUNDARY + b"--\r\n"


def read(body, sizes=(), reader=None):
    """The reader, and the file, of a body that comes in pieces of these sizes and one of the rest."""
    reader = reader or FormReader(BOUNDARY)
    file, at = b"", 0
    for size in (*sizes, len(body)):
        file += reader.feed(body[at : at + size])
        at += size
    return reader, file


def refused(body):
    reader, file = read(body)
    with pytest.raises(Refused) as caught:
        reader.finish()
    assert (file, reader.fields) == (b"", [])
    return caught.value.answer.status, caught.value.denial.message


FILE = part(b"file", b"sound", more=b'; filename="a.wav"\r\nContent-Type: audio/wav')


@given(
    st.binary(max_size=300).filter(lambda data: b"\r\n--" + BOUNDARY not in b"\r\n" + data + b"\r\n--"),
    st.lists(st.integers(1, 90), max_size=40),
    st.booleans(),
)
def test_a_form_is_the_same_in_whatever_pieces_it_comes(data, sizes, first):
    parts = [part(b"file", data), part(b"model", b"base"), part(b"languages[]", b"de"), part(b"languages[]", b"")]
    reader, file = read(form(*(parts if first else reversed(parts))), sizes)
    reader.finish()
    assert file == data
    assert reader.has_file
    assert sorted(reader.fields) == [("languages[]", b""), ("languages[]", b"de"), ("model", b"base")]


@given(st.binary(max_size=400), st.lists(st.integers(1, 60), max_size=20), st.integers(0, 200))
def test_whatever_comes_is_a_form_or_is_refused(noise, sizes, at):
    body = form(FILE, part(b"model", b"base"))
    for hostile in (noise, body[:at] + noise + body[at:], body[:at] + noise):
        reader, _ = read(hostile, sizes)
        refusal = None
        try:
            reader.finish()
        except Refused as error:
            refusal = error
        assert refusal is None or (refusal.answer.status, reader.fields) == (400, [])


@pytest.mark.parametrize("size", [1, 2, 3, 50, 4096])
def test_what_stands_before_the_form_counts_the_same_in_whatever_pieces_it_comes(size):
    """Found by fuzzing: behind a line break anything was skipped, up to the end of the piece that it came in."""
    for before, well in ((b"\r\n", True), (b"\n\n", True), (b"\r\npreamble\r\n", False), (b"preamble\r\n", False)):
        body = before + form(FILE)
        reader, _ = read(body, [size] * (len(body) // size))
        assert (reader.trouble is None) == well, before


def test_a_file_twice_is_malformed():
    assert refused(form(FILE, FILE)) == (400, "the form is malformed: it has more than one `file`")


def test_a_form_that_ends_in_the_middle_is_malformed():
    body = form(FILE)
    for length in (0, 5, len(body) // 2, len(body) - 4):
        reader, _ = read(body[:length])
        with pytest.raises(Refused, match="ends in the middle"):
            reader.finish()


def test_a_part_without_a_name_is_malformed():
    nameless = b"--" + BOUNDARY + b"\r\nContent-Type: text/plain\r\n\r\nx\r\n"
    assert refused(form(nameless))[1].endswith("a part has no name")
    other = b"--" + BOUNDARY + b'\r\nContent-Disposition: attachment; name="file"\r\n\r\nx\r\n'
    assert refused(form(other))[1].endswith("a part has no name")


def test_parts_fields_and_headers_have_bounds():
    fields = [part(b"f%d" % number, b"x") for number in range(MAX_PARTS - 1)]
    reader, file = read(form(FILE, *fields))
    reader.finish()
    assert (file, len(reader.fields)) == (b"sound", MAX_PARTS - 1)
    assert "parts" in refused(form(*fields, part(b"model", b"x"), part(b"more", b"x")))[1]
    read(form(FILE, part(b"prompt", b"x" * MAX_FIELD_BYTES)))[0].finish()
    assert "field" in refused(form(part(b"prompt", b"x" * (MAX_FIELD_BYTES + 1))))[1]
    some = b"".join(b"\r\nX-%03d: %s" % (number, b"y" * 70) for number in range(90))  # fewer than 8 KiB together
    read(form(part(b"model", b"base", more=some)))[0].finish()
    one = b"\r\nX-Long: " + b"y" * (MAX_HEADER_BYTES - 100)
    read(form(part(b"model", b"base", more=one)))[0].finish()
    for more in (some + some, one + one, b"\r\n" + b"N" * MAX_HEADER_BYTES + b": 1"):
        assert refused(form(part(b"model", b"base", more=more)))[0] == 400


def test_what_is_wrong_first_counts_and_the_rest_is_thrown_away():
    reader = FormReader(BOUNDARY)
    reader.give_up(Refused.of(OverloadedError("the disk is full", data={"retry_after_s": 5.0})))
    assert reader.feed(form(FILE, FILE)) == b""
    with pytest.raises(Refused) as caught:
        reader.finish()
    assert caught.value.answer.status == 429


def head(*headers, most_bytes=1000):
    return form_head(Request(method="POST", path="/", headers=headers), most_bytes=most_bytes)


TYPE = (b"content-type", b"multipart/form-data; boundary=" + BOUNDARY)


def test_the_head_says_how_long_the_body_is_or_that_it_comes_in_chunks():
    assert (head(TYPE, (b"content-length", b"12")).length, head(TYPE, (b"content-length", b"12")).boundary) == (
        12,
        BOUNDARY,
    )
    assert head(TYPE, (b"transfer-encoding", b"chunked")).length is None
    quoted = (b"content-type", b'Multipart/Form-Data; charset=utf-8; boundary="a b"')
    assert head(quoted, (b"content-length", b"1000")).boundary == b"a b"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ((), 415),
        (((b"content-type", b"application/json"), (b"content-length", b"2")), 415),
        (((b"content-type", b"multipart/form-data"), (b"content-length", b"2")), 400),
        (((b"content-type", b"multipart/form-data; boundary=" + b"x" * 71), (b"content-length", b"2")), 400),
        ((TYPE,), 411),
        ((TYPE, (b"content-length", b"1001")), 413),
    ],
)
def test_what_the_head_decides_is_refused(headers, status):
    with pytest.raises(Refused) as caught:
        head(*headers)
    assert caught.value.answer.status == status
