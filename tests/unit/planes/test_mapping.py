"""Options in and events out: what a client leaves out comes from the configuration."""

import attrs
import pytest

from sttd.core import types as core
from sttd.options import Endpointing, EndpointingFields, SessionOptions
from sttd.planes import mapping
from sttd.wire.messages import EVENTS, Configure, Start, parse_event

DEFAULTS = SessionOptions(
    model="auto",
    interim_model="tiny",
    endpointing=Endpointing(silence_ms_min=300, silence_ms_max=600, max_utterance_s=20.0, aggressiveness=3),
    max_utterance_s=20.0,
)


def options(**fields):
    return mapping.session_options(Start(**fields), defaults=DEFAULTS)


def changed(configure):
    return mapping.session_changes(configure, current=None).given()


def test_an_empty_start_is_the_defaults():
    assert options() == DEFAULTS


def test_named_fields_replace_defaults():
    got = options(lang="de", words=True, hotwords=("a",), overflow="drop", channels=2, encoding="mulaw")
    assert got == attrs.evolve(
        DEFAULTS, lang="de", words=True, hotwords=("a",), overflow="drop", channels=2, encoding="mulaw"
    )
    assert options(lang="auto").lang is None


def test_languages_are_kept_in_their_order_each_once():
    got = options(languages=("es", "en", "es"))
    assert (got.lang, got.languages) == (None, ("es", "en"))
    assert options(lang="en", languages=("es", "en")).lang == "en"
    assert options(lang="auto", languages=("es",)).lang is None


def test_who_names_several_languages_wants_them_told_apart():
    assert changed(Configure(languages=("es", "en"))) == {"lang": None, "languages": ("es", "en")}
    both = Configure(lang="es", languages=("es", "en"))
    assert changed(both) == {"lang": "es", "languages": ("es", "en")}
    assert changed(Configure(lang="auto")) == {"lang": None}


def test_a_named_model_makes_interims_too_unless_that_is_named():
    assert options(model="base").interim_model == "base"
    assert options(model="base", interim_model="tiny").interim_model == "tiny"
    assert options().interim_model == "tiny"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"silence_ms_min": 900}, (900, 900)),  # what was not named gives way
        ({"silence_ms_max": 200}, (200, 200)),
        ({"silence_ms_min": 200}, (200, 600)),
        ({"silence_ms_min": 100, "silence_ms_max": 5000}, (100, 5000)),
        ({"aggressiveness": 0}, (300, 600)),
    ],
)
def test_endpointing_is_merged_field_by_field(asked, expected):
    merged = options(endpointing=EndpointingFields(**asked)).endpointing
    assert (merged.silence_ms_min, merged.silence_ms_max) == expected
    assert merged.max_utterance_s == 20.0


def test_the_longest_utterance_holds_for_both_ways_of_cutting():
    assert options(endpointing=EndpointingFields(max_utterance_s=5.0)).max_utterance_s == 5.0
    manual = options(endpointing=False)
    assert (manual.endpointing, manual.max_utterance_s) == (None, 20.0)


def test_changes_name_what_was_named():
    changes = mapping.session_changes(Configure(lang="auto", interim=False), current=DEFAULTS.endpointing)
    assert changes.given() == {"lang": None, "interim": False}
    assert mapping.endpointing_after(changes, current=DEFAULTS.endpointing) is DEFAULTS.endpointing
    off = mapping.session_changes(Configure(endpointing=False), current=DEFAULTS.endpointing)
    assert mapping.endpointing_after(off, current=DEFAULTS.endpointing) is None
    on = mapping.session_changes(Configure(endpointing=EndpointingFields(silence_ms_min=500)), current=None)
    assert on.given() == {"endpointing": Endpointing(silence_ms_min=500)}


def test_started_reads_back_as_what_start_says():
    fields = mapping.started_fields("s1", attrs.evolve(DEFAULTS, endpointing=None, hotwords=("a", "b")))
    started = parse_event({"type": "started", **fields})
    assert (started.session, started.endpointing, started.hotwords, started.lang) == ("s1", False, ("a", "b"), "auto")
    assert fields["languages"] is None
    assert mapping.started_fields("s1", attrs.evolve(DEFAULTS, languages=("es", "en")))["languages"] == ["es", "en"]


EVERY_EVENT = [
    core.SpeechStart(utterance=1, at_s=0.12345),
    core.Interim(
        utterance=1,
        seq=2,
        text="é",
        stable_chars=1,
        start_s=0.1,
        end_s=0.2,
        words=(core.InterimWord(word="é", probability=0.98765, stable=True),),
    ),
    core.SpeechEnd(utterance=1, at_s=1.0, silence_ms=400),
    core.Final(
        utterance=1,
        text="hi",
        start_s=0.0,
        end_s=1.0,
        language="en",
        confidence=0.5,
        reason="endpoint",
        model="demo",
        words=(core.Word(word="hi", start_s=0.1, end_s=0.3, probability=0.98765),),
        timing=core.Timing(endpoint_ms=1.0, queue_ms=2.0, decode_ms=3.0, speculative=False),
    ),
    core.Progress(done_s=1.0, total_s=2.0),
    core.Gap(from_s=1.0, to_s=2.0, reason="overflow"),
    core.Warn(code="lagging", message="late", lag_s=2.0),
    core.Failure(code="bad_audio", message="no", retryable=False, fatal=True),
    core.Stopped(audio_s=1.0, utterances=1, dropped_s=0.0),
]


@pytest.mark.parametrize("event", EVERY_EVENT, ids=lambda event: type(event).__name__)
def test_every_event_of_the_core_is_one_of_the_wire(event):
    read = parse_event(mapping.event_message(event))
    unsent = {"reason"} if isinstance(event, core.SpeechEnd) else set()  # the final says it
    assert attrs.asdict(read).keys() >= attrs.asdict(event).keys() - unsent


def test_no_event_of_the_wire_is_left_out():
    kinds = {parse_event(mapping.event_message(event)).type for event in EVERY_EVENT}
    assert kinds == EVENTS.keys() - {"hello", "started", "resumed", "ack"}
