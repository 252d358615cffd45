"""What becomes of the head and the body of a request, before anything is decoded."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sttd_ray.reception import MAX_WAIT_S, Body, Caller, Room, check_model, named_model, receive_head

from sttd.core.types import DecodeItem, DecodeOptions, Effort, JobClass
from sttd.engine.remote.asking import request_for
from sttd.errors import ModelError
from sttd.wire.http import Request
from sttd.wire.openai_answers import Refused

BOUND = 100_000
PATH = "/v1/audio/transcriptions"
FORM = (b"content-type", b"multipart/form-data; boundary=xyz")


def head(*headers, path=PATH, method="POST", length=10):
    sized = ((b"content-length", b"%d" % length),) if method == "POST" else ()
    return Request(method=method, path=path, headers=(FORM, *sized, *headers))


def received(*headers, token="", **more):
    return receive_head(head(*headers, **more), token=token, body_bytes=BOUND)


def refused(*headers, token="", **more):
    with pytest.raises(Refused) as caught:
        received(*headers, token=token, **more)
    answer = caught.value.answer
    return answer.status, caught.value.error["code"]


def sent(effort=Effort.FULL, *, deadline_s=5.0, **options):
    """The head and the body of what a daemon sends."""
    item = DecodeItem(samples=np.zeros(16_000, np.float32), options=DecodeOptions(effort=effort, **options))
    asked = request_for(
        item, model="tiny.en", answer="verbose_json", send_priority=False, deadline_s=deadline_s, boundary="xyz"
    )
    headers = tuple((name.lower().encode(), value.encode()) for name, value in asked.headers)
    length = (b"content-length", b"%d" % len(asked.body))
    return Request(method=asked.method, path="/v1" + asked.path, headers=(*headers, length)), asked.body


@pytest.mark.parametrize(
    ("effort", "urgency", "job_class"),
    [
        (Effort.FULL, "final", JobClass.FINAL),
        (Effort.QUICK, "interim", JobClass.INTERIM),
        (Effort.TIMED, "file", JobClass.FILE),
    ],
)
def test_what_a_daemon_sends_is_what_is_decoded(effort, urgency, job_class):
    request, data = sent(effort, language="de", prompt="Good day", words=True)
    caller = receive_head(request, token="", body_bytes=BOUND)
    assert (caller.urgency, caller.job_class, caller.wait_s) == (urgency, job_class, 5.0)
    body = Body(caller=caller, most_bytes=BOUND)
    body.feed(data)
    order = body.finish(model="tiny.en", repository="")
    assert order.options == DecodeOptions(effort=effort, language="de", prompt="Good day", words=True)
    assert order.audio.startswith(b"RIFF")
    assert order.item(np.zeros(10, np.float32)).complete is (effort is Effort.FULL)
    assert order.request.format == "verbose_json"


def test_who_does_not_say_what_it_is_waits_for_a_final():
    assert received() == Caller(endpoint="transcriptions", boundary=b"xyz")


def test_words_cost_time_and_are_looked_for_where_they_are_shown():
    def words(*fields):
        caller = received()
        body = Body(caller=caller, most_bytes=BOUND)
        parts = [b'--xyz\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % each for each in fields]
        file = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n...\r\n--xyz--\r\n'
        body.feed(b"".join(parts) + file)
        return body.finish(model="m", repository="").options.words

    assert not words((b"response_format", b"json"))
    assert words((b"response_format", b"srt"))
    assert not words((b"response_format", b"verbose_json"), (b"timestamp_granularities[]", b"segment"))
    assert words((b"response_format", b"verbose_json"), (b"timestamp_granularities[]", b"word"))


@pytest.mark.parametrize("shown", [(), ((b"authorization", b"Bearer wrong"),), ((b"authorization", b"secret"),)])
def test_without_the_token_nothing_is_looked_at(shown):
    assert refused(*shown, token="secret", path="/nowhere") == (401, "invalid_api_key")


def test_with_the_token_one_may_go_on():
    assert received((b"authorization", b"Bearer secret"), token="secret").endpoint == "transcriptions"


@pytest.mark.parametrize(
    ("headers", "more", "expected"),
    [
        ((), {"path": "/v1/audio/speech"}, (404, "not_found")),
        ((), {"path": "/v1/models", "method": "POST"}, (405, "method_not_allowed")),
        ((), {"method": "GET"}, (405, "method_not_allowed")),
        ((), {"length": BOUND + 1}, (413, "too_large")),
        (((b"x-sttd-class", b"urgent"),), {}, (400, "invalid_value")),
        (((b"x-sttd-class", b"final"), (b"x-sttd-class", b"file")), {}, (400, "invalid_value")),
        (((b"x-sttd-deadline-ms", b"0"),), {}, (400, "invalid_value")),
        (((b"x-sttd-deadline-ms", b"1e9"),), {}, (400, "invalid_value")),
        (((b"x-sttd-deadline-ms", b"-5"),), {}, (400, "invalid_value")),
    ],
)
def test_what_the_head_decides_is_refused_by_the_head(headers, more, expected):
    assert refused(*headers, **more) == expected


def test_nobody_waits_for_longer_than_an_hour():
    assert received((b"x-sttd-deadline-ms", b"999999999")).wait_s == MAX_WAIT_S


def test_models_are_listed_and_named():
    assert received(path="/v1/models", method="GET").endpoint == "models"
    request = head(path="/v1/models/whisper%2Fbase", method="GET")
    assert receive_head(request, token="", body_bytes=BOUND).endpoint == "model"
    assert named_model(request) == "whisper/base"


@pytest.mark.parametrize("name", [None, "", "base", "whisper-1", "Systran/faster-whisper-base", "openai/whisper-base"])
def test_the_model_has_its_usual_names(name):
    check_model(name, model="base", repository="Systran/faster-whisper-base")


def test_another_model_is_not_there():
    with pytest.raises(ModelError):
        check_model("large-v3", model="base", repository="")


@given(st.lists(st.binary(max_size=3000), max_size=30), st.integers(1, 20_000))
def test_no_more_of_a_body_is_kept_than_it_may_have(pieces, most_bytes):
    body, took = Body(caller=Caller(endpoint="transcriptions", boundary=b"xyz"), most_bytes=most_bytes), 0
    for piece in pieces:
        took += len(piece)
        if took > most_bytes:
            with pytest.raises(Refused) as caught:
                body.feed(piece)
            assert caught.value.answer.status == 413
            return
        body.feed(piece)
    with pytest.raises(Refused) as caught:  # none of this is a form
        body.finish(model="base", repository="")
    assert caught.value.answer.status == 400


@given(st.lists(st.lists(st.integers(1, 500), max_size=5), max_size=8))
def test_all_bodies_have_so_much_room_together_and_give_it_back(bodies):
    room = Room(most_bytes=1000)
    opened = []
    for lengths in bodies:
        opened.append(Body(caller=Caller(endpoint="transcriptions", boundary=b"xyz"), most_bytes=BOUND, room=room))
        for length in lengths:
            if (before := room.taken_bytes) + length > 1000:
                with pytest.raises(Refused) as caught:
                    opened[-1].feed(bytes(length))
                assert caught.value.answer.status == 429
                assert "retry-after" in dict(caught.value.answer.headers)
                assert room.taken_bytes == before
            else:
                opened[-1].feed(bytes(length))
                assert room.taken_bytes == before + length
    for body in opened:
        body.close()
        body.close()
    assert room.taken_bytes == 0


def test_what_is_too_long_names_the_option_of_the_application():
    with pytest.raises(Refused, match="body_bytes"):
        received(length=BOUND + 1)
    body = Body(caller=received(), most_bytes=BOUND)
    with pytest.raises(Refused, match="body_bytes"):
        body.feed(bytes(BOUND + 1))


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=20))
def test_how_a_body_is_cut_says_nothing(lengths):
    request, data = sent(prompt="hello")
    body = Body(caller=receive_head(request, token="", body_bytes=BOUND), most_bytes=BOUND)
    at = 0
    for length in lengths:
        body.feed(data[at : at + length])
        at += length
    body.feed(data[at:])
    order = body.finish(model="tiny.en", repository="")
    assert order.options.prompt == "hello"
    assert len(order.audio) == 44 + 32_000
