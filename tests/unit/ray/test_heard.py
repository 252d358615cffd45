"""What a daemon gets of the cluster's engine, beside what its own hears: with the embedded model, without Ray."""

import asyncio
from pathlib import Path

import pytest
from sttd_ray.answers import answer
from sttd_ray.audio import read_audio
from sttd_ray.engine import EngineThread, find_backends
from sttd_ray.options import read_options, read_preset, settle_preset
from sttd_ray.reception import Body, receive_head

from sttd.core.types import DecodeItem, DecodeOptions, Effort
from sttd.engine.process.crew import Crew
from sttd.engine.remote.asking import Answer, read_answer, request_for
from sttd.wire.http import Request
from tests.running import PATIENCE_S, read_samples

pytestmark = pytest.mark.model

SPEECH = read_samples(Path(__file__).parents[2] / "data" / "light.flac")
BOUND = 1_000_000


@pytest.fixture(scope="module")
def engine():
    options, crew = read_options({"model": "demo"}), Crew()
    backends = find_backends(crew, models_dir="")
    preset = settle_preset(read_preset(options, backends), backends, cpus=1)
    running = EngineThread(preset=preset, backends=backends, crew=crew, decode_timeout_s=PATIENCE_S)
    running.start()
    yield running
    running.stop(wait_s=PATIENCE_S)


def there_and_back(engine, item):
    """An item as it goes to the cluster, and what comes back."""
    asked = request_for(
        item, model="demo", answer="verbose_json", send_priority=False, deadline_s=PATIENCE_S, boundary="xyz"
    )
    headers = tuple((name.lower().encode(), value.encode()) for name, value in asked.headers)
    length = (b"content-length", b"%d" % len(asked.body))
    head = Request(method=asked.method, path="/v1" + asked.path, headers=(*headers, length))
    caller = receive_head(head, token="", body_bytes=BOUND)
    body = Body(caller=caller, most_bytes=BOUND)
    body.feed(asked.body)
    order = body.finish(model="demo", repository="")
    samples = read_audio(order.audio, most_s=30)
    decoding = engine.decode(order.item(samples), job_class=caller.job_class, wait_s=caller.wait_s)
    response = answer(asyncio.run(decoding), order.request, duration_s=len(samples) / 16_000)
    return read_answer(Answer(status=response.status, headers={}, body=response.body), item)


def test_a_final_is_there_with_its_words(engine):
    heard = there_and_back(engine, DecodeItem(samples=SPEECH, options=DecodeOptions(words=True)))
    assert heard.text == "Turn on the kitchen light."
    assert [word.word for word in heard.words] == ["Turn", "on", "the", "kitchen", "light."]
    assert heard.words[-1].end_s <= len(SPEECH) / 16_000
    assert heard.avg_logprob > -0.5


def test_of_live_text_the_daemon_knows_how_sure_each_word_is(engine):
    heard = there_and_back(engine, DecodeItem(samples=SPEECH, options=DecodeOptions(effort=Effort.QUICK)))
    assert heard.text == "Turn on the kitchen light."
    assert heard.certainties is not None
    assert "".join(piece.word for piece in heard.certainties).split() == heard.text.split()
    assert all(piece.least > 0.5 for piece in heard.certainties)
    assert heard.ending is not None
