"""Text that only grows: appended pieces are the text, and later utterances wait for earlier ones."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sttd.wire.growing import GrowingText


def test_stable_text_comes_at_once_and_the_final_brings_the_rest():
    text = GrowingText()
    assert text.stable(1, "") == ""
    assert text.stable(1, "turn on") == "turn on"
    assert text.stable(1, "turn on") == ""
    assert text.stable(1, "turn on the") == " the"
    assert text.final(1, "turn on the light.", language="en") == " light."
    assert text.text == "turn on the light."


def test_between_utterances_stands_what_the_language_puts_there():
    text = GrowingText()
    assert text.final(1, "One.", language="en") == "One."
    assert text.final(2, "", language="en") == ""
    assert text.stable(3, "Two") == " Two"
    assert text.final(3, "Two.", language="en") == "."
    chinese = GrowingText()
    assert chinese.final(1, "你好。", language="zh") + chinese.final(2, "再见。", language="zh") == "你好。再见。"
    assert GrowingText("ja").language == "ja"


def test_stable_text_of_a_later_utterance_waits_for_the_finals_before_it():
    text = GrowingText()
    assert text.stable(1, "one") == "one"
    assert text.stable(2, "three") == ""
    assert text.stable(2, "three four") == ""
    assert text.final(1, "one two", language="en") == " two three four"
    assert text.final(2, "three four", language="en") == ""
    assert text.text == "one two three four"


def test_what_was_appended_stays_whatever_a_final_says():
    text = GrowingText()
    assert text.stable(1, "I scream") == "I scream"
    assert text.final(1, "Ice cream", language="en") == ""
    assert text.final(2, "please", language="en") == " please"
    assert text.text == "I scream please"


spoken = st.lists(st.text("ab ", max_size=8), max_size=5)


@settings(max_examples=40)
@given(spoken=spoken, data=st.data())
def test_all_that_was_appended_is_the_text_and_no_final_is_missing(spoken, data):
    """Stable texts grow and are beginnings of their finals; those of an utterance may come before earlier finals."""
    text, appended, shown, done = GrowingText(), "", [0] * len(spoken), 0
    while done < len(spoken):
        if data.draw(st.booleans()):
            appended += text.final(done + 1, spoken[done], language="en")
            done += 1
            continue
        number = data.draw(st.integers(done, min(done + 1, len(spoken) - 1)))
        shown[number] = data.draw(st.integers(shown[number], len(spoken[number])))
        appended += text.stable(number + 1, spoken[number][: shown[number]])
    assert appended == text.text == " ".join(part for part in spoken if part)
