"""A transcript that grows: after every change its file is whole, in order, and has lost nothing."""

import json
import re

import hypothesis.strategies as st
import pytest
from hypothesis import given
from sttd_client.events import Final
from sttd_client.growing_transcript import GrowingTranscript
from sttd_client.transcripts import Entry, Hole, formatted, head, part

KINDS = ("txt", "srt", "vtt", "tsv", "jsonl")


def said(text, start_s, channel="", length_s=1.0):
    final = Final(utterance=1, text=text, start_s=start_s, end_s=start_s + length_s, reason="endpoint", language="en")
    return Entry(what=final, channel=channel)


class File:
    """What a disk makes of the changes."""

    def __init__(self, kind, **options):
        self.growing = GrowingTranscript(kind, **options)
        self.data = self.growing.begin().data

    def add(self, entry):
        change = self.growing.add(entry)
        assert change.keep <= len(self.data)
        self.data = self.data[: change.keep] + change.data
        return change

    @property
    def text(self):
        return self.data.decode()


def whole(kind, entries, *, channels):
    """The transcript of entries that are all there, written in one go."""
    text, shown = head(kind, channels=channels), 0
    for entry in entries:
        more, cues = part(entry, kind=kind, after=shown)
        text, shown = text + more, shown + cues
    return text


entries = st.lists(
    st.builds(
        said,
        st.text("abc äß\n你", max_size=60),
        st.floats(0, 100).map(lambda s: round(s, 2)),
        st.sampled_from(["you", "system"]),
    ),
    max_size=30,
)


@given(st.sampled_from(KINDS), entries, st.integers(0, 6))
def test_after_every_change_it_is_the_transcript_of_all_that_was_said(kind, spoken, moved):
    """Against the plain rule: behind all that began earlier or at once, but not before what can no longer be moved."""
    file, expected = File(kind, channels=True, moved=moved), []
    assert file.text == head(kind, channels=True)
    for entry in spoken:
        settled = max(0, len(expected) - moved)
        place = next(
            (at for at in range(len(expected), settled, -1) if expected[at - 1].start_s <= entry.start_s), settled
        )
        expected.insert(place, entry)
        file.add(entry)
        assert file.text == whole(kind, expected, channels=True)


@given(entries)
def test_json_is_one_object_in_order_after_every_change(spoken):
    file = File("json", channels=True)
    for count, entry in enumerate(spoken, 1):
        file.add(entry)
        rows = json.loads(file.text)["utterances"]
        assert len(rows) == count
        assert [row["start_s"] for row in rows] == sorted(row["start_s"] for row in rows)


@pytest.mark.parametrize("kind", KINDS)
def test_one_channel_only_adds_and_is_what_transcribe_writes(kind):
    file = File(kind, channels=False)
    finals = [said(f"Sentence {number}.", number * 2.0) for number in range(5)]
    for entry in finals:
        before = len(file.data)
        assert file.add(entry).keep == before
    assert file.text == formatted([entry.what for entry in finals], kind=kind, file="a", audio_s=9.0)


def test_an_answer_in_the_middle_of_a_long_sentence_comes_behind_its_beginning():
    file = File("srt", channels=True)
    file.add(said("Good morning.", 0.0, "system"))
    file.add(said("Yes.", 5.0, "you"))
    file.add(said("As I said, this goes on for a while.", 2.0, "system", length_s=6.5))
    assert file.text == (
        "1\n00:00:00,000 --> 00:00:01,000\nsystem: Good morning.\n\n"
        "2\n00:00:02,000 --> 00:00:08,500\nsystem: As I said, this goes on for a\nwhile.\n\n"
        "3\n00:00:05,000 --> 00:00:06,000\nyou: Yes.\n"
    )


def test_every_format_says_who_spoke():
    shown = {kind: File(kind, channels=True) for kind in (*KINDS, "json")}
    for file in shown.values():
        file.add(said("Hi & <bye>.", 61.5, "A>B"))
    assert shown["txt"].text == "[00:01:01] A>B: Hi & <bye>.\n"
    assert "<v A&gt;B>Hi &amp; &lt;bye>." in shown["vtt"].text
    assert shown["tsv"].text == "start\tend\tchannel\ttext\n61500\t62500\tA>B\tHi & <bye>.\n"
    assert json.loads(shown["jsonl"].text)["channel"] == "A>B"
    value = json.loads(shown["json"].text)
    assert (value["utterances"][0]["channel"], value["text"]) == ("A>B", "A>B: Hi & <bye>.")


def test_a_hole_is_seen_in_its_place_and_says_whose_it_is():
    for kind in (*KINDS, "json"):
        file = File(kind, channels=True)
        file.add(said("Late.", 9.0, "you"))
        file.add(Entry(what=Hole(start_s=2.0, end_s=None, code="internal", message="a bug"), channel="system"))
        assert "internal" in file.text
        assert kind == "json" or file.text.index("internal") < file.text.index("Late.")
        assert re.search("system", file.text)


def test_half_a_character_is_written_as_far_as_it_goes():
    file = File("txt", channels=False)
    file.add(said("a\ud800b", 0.0))
    assert file.text == "a?b\n"
