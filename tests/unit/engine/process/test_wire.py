"""What the daemon and the process of a model say to each other: it comes out as it went in, and rubbish is refused."""

import pickle

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.core.languages import Prior
from sttd.core.types import Certainty, DecodeItem, DecodeOptions, Effort, Hypothesis, Lead, Segment, Word
from sttd.engine.contract import Unfinished
from sttd.engine.process.wire import (
    HYPOTHESIS,
    INFO,
    MAX_BYTES,
    PLACED,
    Frames,
    ModelInfo,
    Placed,
    Sealed,
    WireError,
    pack,
    read_result,
    write_result,
)
from sttd.errors import DecodeError

TEXT = st.text(st.characters(), max_size=8)  # halves of surrogate pairs, too
NUMBER = st.floats(allow_nan=False)
HEARD = st.lists(st.tuples(TEXT, NUMBER), max_size=3).map(tuple)


def many(made, **fields):
    return st.lists(st.builds(made, **fields), max_size=3).map(tuple)


WORDS = many(Word, word=TEXT, start_s=NUMBER, end_s=NUMBER, probability=NUMBER)
HYPOTHESES = st.builds(
    Hypothesis,
    text=TEXT,
    segments=many(Segment, text=TEXT, start_s=NUMBER, end_s=NUMBER, words=WORDS),
    language=TEXT,
    languages=HEARD,
    avg_logprob=NUMBER,
    certainties=st.none() | many(Certainty, word=TEXT, least=NUMBER),
    ending=st.none() | NUMBER,
)
OPTIONS = st.builds(
    DecodeOptions,
    effort=st.sampled_from(Effort),
    language=st.none() | TEXT,
    languages=st.none() | st.builds(Prior, likely=HEARD, allowed=st.lists(TEXT, max_size=3).map(tuple)),
    task=st.sampled_from(["transcribe", "translate"]),
    words=st.booleans(),
    prompt=TEXT,
    hotwords=st.lists(TEXT, max_size=3).map(tuple),
    keep=TEXT,
    keep_margin=NUMBER,
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | TEXT | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=12,
)


def over(message):
    """A message as it arrives."""
    frames = Frames()
    frames.feed(pack(message))
    (arrived,) = frames.messages()
    return arrived


def item(samples=160, **fields):
    audio = np.arange(samples, dtype=np.float32)
    audio.flags.writeable = False
    return DecodeItem(samples=audio, options=DecodeOptions(), **fields)


@given(HYPOTHESES)
def test_a_hypothesis_comes_as_it_went(hypothesis):
    assert HYPOTHESIS.read(over(["tell", HYPOTHESIS.write(hypothesis)])[1]) == hypothesis


LEADS = st.none() | st.builds(Lead, samples=st.integers(0, 160), text=TEXT)


@given(OPTIONS, st.booleans(), st.none() | TEXT, st.integers(0, 9), st.none() | st.binary(max_size=9), LEADS)
def test_an_item_comes_as_it_went_but_for_its_samples(options, complete, recording, step, known, lead):
    sent = item(recording=recording, complete=complete, step=step, known=Sealed(known) if known is not None else None)
    sent = attrs.evolve(sent, options=options, lead=lead)
    came = PLACED.read(over(["decode", PLACED.write(Placed.of(sent, at=7))])[1])
    assert (came.at, came.count, came.known) == (7, 160, known)
    again = came.item(sent.samples, sent.known)
    assert attrs.asdict(again, recurse=False) == attrs.asdict(sent, recurse=False)


@given(st.lists(st.binary(max_size=60), max_size=5), st.lists(st.integers(1, 20), max_size=40))
def test_messages_come_whole_however_the_bytes_were_cut(bodies, cuts):
    data = b"".join(pack(["m", body]) for body in bodies)
    frames, came = Frames(), []
    for size in [*cuts, len(data)]:
        piece, data = data[:size], data[size:]
        frames.feed(piece)
        came += frames.messages()
    assert came == [["m", body] for body in bodies]


@given(ANYTHING)
def test_rubbish_is_refused_and_breaks_nothing(rubbish):
    for read in (HYPOTHESIS.read, PLACED.read, INFO.read, lambda plain: read_result(plain, item())):
        try:
            read(rubbish)
        except WireError:
            continue


@given(HYPOTHESES, ANYTHING, st.data())
def test_a_hypothesis_with_something_else_in_it_is_refused_or_still_one(hypothesis, rubbish, data):
    plain = HYPOTHESIS.write(hypothesis)
    plain[data.draw(st.integers(0, len(plain) - 1))] = rubbish
    try:
        read = HYPOTHESIS.read(plain)
    except WireError:
        return
    assert isinstance(read.text, str)
    assert all(isinstance(segment, Segment) for segment in read.segments)


@given(st.binary(max_size=40))
def test_bytes_that_are_no_messages_are_refused_or_waited_for(data):
    frames = Frames()
    frames.feed(data)
    try:
        messages = list(frames.messages())
    except WireError:
        return
    assert all(isinstance(message[0], str) for message in messages)


def test_a_message_that_is_too_large_is_not_written_and_not_waited_for():
    with pytest.raises(WireError):
        pack(["m", bytes(MAX_BYTES)])
    frames = Frames()
    frames.feed((MAX_BYTES + 1).to_bytes(4, "little"))
    with pytest.raises(WireError):
        list(frames.messages())


def test_what_no_message_holds_is_a_wire_error():
    with pytest.raises(WireError):
        pack(["m", object()])


def test_what_is_left_of_an_item_is_a_part_of_its_audio_and_travels_without_it():
    whole = item(step=1)
    rest = attrs.evolve(whole, samples=whole.samples[40:100], known={"tried": 2}, step=2)
    plain = over(["results", write_result(Unfinished(rest), whole, seal=pickle.dumps)])[1]
    assert plain[2] is None
    came = read_result(plain, whole).item
    assert came.samples.base is not None
    assert came.samples.tolist() == list(range(40, 100))
    assert (came.step, pickle.loads(came.known.data)) == (2, {"tried": 2})


def test_other_samples_of_what_is_left_travel_with_it():
    whole = item()
    rest = attrs.evolve(whole, samples=np.ones(3, np.float32))
    plain = over(["results", write_result(Unfinished(rest), whole, seal=pickle.dumps)])[1]
    assert read_result(plain, whole).item.samples.tolist() == [1, 1, 1]


@pytest.mark.parametrize("place", [(-1, 5), (0, 161), (160, 1), (5, -1)])
def test_samples_that_the_item_does_not_have_are_refused(place):
    whole = item()
    plain = write_result(Unfinished(whole), whole, seal=pickle.dumps)
    plain[1][:2] = place
    with pytest.raises(WireError):
        read_result(plain, whole)


def test_an_error_comes_with_its_code_and_one_of_no_code_is_refused():
    sent = DecodeError("no", code="out_of_memory")
    came = read_result(over(["results", write_result(sent, item(), seal=pickle.dumps)])[1], item())
    assert (came.code, came.message) == ("out_of_memory", "no")
    with pytest.raises(WireError):
        read_result(["error", "no_such_code", "x"], item())


def test_what_a_model_is_comes_as_it_went():
    info = ModelInfo(
        device="cpu", compute_type="int8", workers=2, ram_bytes=1, vram_bytes=0, parkable=False, facts={"width": 512}
    )
    assert INFO.read(over(["loaded", INFO.write(info)])[1]) == info
