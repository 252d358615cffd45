"""Transcripts in every format."""

import itertools
import json
import re

import hypothesis.strategies as st
from hypothesis import given
from sttd_client.events import Final, WordFields
from sttd_client.transcripts import Entry, Hole, cues_of, formatted

from sttd.wire.cues import CUE_S, LINE_CHARS


def final(text, start_s=0.0, end_s=2.0, number=1, words=None):
    return Final(
        utterance=number, text=text, start_s=start_s, end_s=end_s, reason="endpoint", language="en", words=words
    )


TWO = (final("Hello <you> & me.", 0.5, 2.0), final("", 3.0, 4.0), final("Second\tline.", 3661.25, 3662.5, number=3))


def test_text_is_a_line_for_each_utterance_with_text():
    assert formatted(TWO, kind="txt", file="a", audio_s=1.0) == "Hello <you> & me.\nSecond\tline.\n"


def test_subrip_numbers_its_cues_and_writes_commas():
    assert formatted(TWO, kind="srt", file="a", audio_s=1.0) == (
        "1\n00:00:00,500 --> 00:00:02,000\nHello <you> & me.\n\n2\n01:01:01,250 --> 01:01:02,500\nSecond line.\n"
    )


def test_webvtt_has_its_header_and_escapes_markup():
    assert formatted(TWO, kind="vtt", file="a", audio_s=1.0) == (
        "WEBVTT\n\n00:00:00.500 --> 00:00:02.000\nHello &lt;you> &amp; me.\n\n"
        "01:01:01.250 --> 01:01:02.500\nSecond line.\n"
    )


def test_an_arrow_in_a_text_does_not_end_its_cue():
    text = formatted([final("a --> b")], kind="vtt", file="a", audio_s=1.0)
    assert text.endswith("\na --&gt; b\n")


def test_tsv_is_milliseconds_and_one_line_of_text():
    assert formatted(TWO, kind="tsv", file="a", audio_s=1.0) == (
        "start\tend\ttext\n500\t2000\tHello <you> & me.\n3661250\t3662500\tSecond line.\n"
    )


def test_json_has_everything():
    words = (WordFields(word=" Hi", start_s=0.0, end_s=0.5, probability=0.9),)
    value = json.loads(formatted([final("Hi", words=words)], kind="json", file="a.wav", audio_s=2.5))
    assert value["file"] == "a.wav"
    assert value["audio_s"] == 2.5
    assert value["language"] == "en"
    assert value["text"] == "Hi"
    assert value["utterances"][0]["words"] == [{"word": " Hi", "start_s": 0.0, "end_s": 0.5, "probability": 0.9}]


def test_nothing_said_is_an_empty_transcript():
    assert formatted([], kind="txt", file="a", audio_s=1.0) == ""
    assert formatted([], kind="srt", file="a", audio_s=1.0) == ""
    assert formatted([], kind="vtt", file="a", audio_s=1.0) == "WEBVTT\n"
    assert formatted([final("  ")], kind="srt", file="a", audio_s=1.0) == ""


def test_words_time_the_cues_where_there_are_any():
    words = tuple(
        WordFields(word=f" word{number}", start_s=number * 2.0, end_s=number * 2.0 + 0.5, probability=1.0)
        for number in range(8)
    )
    cues = cues_of(Entry(what=final(" ".join(word.word.strip() for word in words), 0.0, 20.0, words=words)))
    assert [cue.text for cue in cues] == ["word0 word1 word2 word3", "word4 word5 word6 word7"]
    assert (cues[0].start_s, cues[0].end_s, cues[1].start_s) == (0.0, 6.5, 8.0)


def test_a_cue_ends_with_its_sentence_where_there_is_a_pause():
    def word(text, start_s):
        return WordFields(word=text, start_s=start_s, end_s=start_s + 0.3, probability=1.0)

    words = (word("Stop.", 0.0), word("No,", 1.0), word("go.", 2.0), word("Now.", 2.4))
    cues = cues_of(Entry(what=final("Stop. No, go. Now.", 0.0, 3.0, words=words)))
    assert [cue.text for cue in cues] == ["Stop.", "No, go. Now."]


@given(
    st.lists(st.text("abcdefg", min_size=1, max_size=12), min_size=1, max_size=80),
    st.floats(0, 1000),
    st.floats(0.1, 28),
)
def test_cues_keep_the_limits_and_lose_no_word(words, start_s, length_s):
    cues = cues_of(Entry(what=final(" ".join(words), start_s, start_s + length_s)))
    assert " ".join(cue.text for cue in cues).split() == words
    for cue in cues:
        assert cue.end_s > cue.start_s
        assert cue.end_s - cue.start_s <= CUE_S + 0.2 or len(cue.text.split()) == 1
    for before, after in itertools.pairwise(cues):
        assert after.start_s >= before.start_s
    text = formatted([final(" ".join(words), start_s, start_s + length_s)], kind="srt", file="a", audio_s=1.0)
    lines = [line for line in text.splitlines() if re.fullmatch("[a-g ]+", line)]
    assert max(map(len, lines)) <= LINE_CHARS


def worded(text, *words):
    timed = (
        WordFields(word=word, start_s=number * 0.2, end_s=number * 0.2 + 0.2, probability=1.0)
        for number, word in enumerate(words)
    )
    return final(text, 0.0, 0.2 * len(words), words=tuple(timed))


def test_words_of_scripts_without_spaces_are_put_together_as_they_are_in_the_text():
    heard = worded("廣州市 佛地產,OK", "廣", "州", "市", " 佛", "地", "產,", "OK")
    assert [cue.text for cue in cues_of(Entry(what=heard))] == ["廣州市 佛地產,OK"]
    assert "廣州市 佛地產,OK" in formatted([heard], kind="srt", file="a", audio_s=1.0)
    assert [cue.text for cue in cues_of(Entry(what=worded("สวัสดีครับ", "สวัสดี", "ครับ")))] == ["สวัสดีครับ"]
    # Words that say nothing of spaces take them from the text as well.
    assert [cue.text for cue in cues_of(Entry(what=worded("w1 w2", "w1", "w2")))] == ["w1 w2"]


@given(st.text("廣州市佛地産中間協會分析", min_size=1, max_size=90), st.booleans())
def test_chinese_keeps_the_limits_and_its_characters(text, timed):
    cues = cues_of(Entry(what=worded(text, *text) if timed else final(text, 0.0, 10.0)))
    assert "".join(cue.text for cue in cues) == text
    assert max(2 * len(line) for cue in cues for line in cue.lines) <= LINE_CHARS
    assert max(len(cue.lines) for cue in cues) <= 2


def test_several_finals_of_chinese_are_one_text_without_spaces():
    value = json.loads(formatted([final("你好。"), final("再见")], kind="json", file="a", audio_s=1.0))
    assert value["text"] == "你好。再见"


HOLE = Hole(start_s=2.0, end_s=2.5, code="out_of_memory", message="no room")


def test_a_hole_is_seen_in_every_format():
    finals = (final("One.", 0.0, 1.5), final("Two.", 3.0, 4.0))
    for kind in ("txt", "srt", "vtt", "tsv"):
        text = formatted(finals, [HOLE], kind=kind, file="a", audio_s=4.0)
        assert text.index("One.") < text.index("[not transcribed from 00:00:02.000") < text.index("Two.")
    value = json.loads(formatted(finals, [HOLE], kind="json", file="a", audio_s=4.0))
    assert value["holes"] == [{"start_s": 2.0, "end_s": 2.5, "code": "out_of_memory", "message": "no room"}]
    assert "to the end: lost]" in Hole(start_s=1.0, end_s=None, code="lost", message="").text
