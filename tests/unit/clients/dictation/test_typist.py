"""What a dictation types, for anything that a session may say."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sttd_client.dictation.phrases import tables
from sttd_client.dictation.typist import HOLD_S, Erase, Halt, Typist, Write
from sttd_client.events import Final, Interim, Reconnected, SpeechStart

TABLES = tables({})


def interim(text, stable, utterance=1):
    return Interim(utterance=utterance, seq=1, text=text, stable_chars=stable, start_s=0.0, end_s=1.0)


def final(text, utterance=1, language="en"):
    return Final(utterance=utterance, text=text, start_s=0.0, end_s=1.0, reason="endpoint", language=language)


class Screen:
    """An editor that obeys."""

    def __init__(self, **options):
        self.typist = Typist(**{"tables": TABLES, "language": "en", **options})
        self.text, self.erased, self.halted = "", 0, False

    def obey(self, actions):
        for action in actions:
            match action:
                case Write(text):
                    assert text
                    self.text += text
                case Erase(count):
                    assert 0 < count <= len(self.text)
                    self.text = self.text[:-count]
                    self.erased += count
                case Halt():
                    self.halted = True
        return self.text

    def hear(self, *events, now_s=0.0):
        for event in events:
            self.obey(self.typist.feed(event, now_s=now_s))
        return self.text

    def end(self):
        return self.obey(self.typist.end())


def dictated(*texts, language="en", **options):
    """What finals become."""
    screen = Screen(language=language, **options)
    screen.hear(*(final(text, number, language) for number, text in enumerate(texts, 1)))
    return screen.end()


# ---------------------------------------------------------------- the table


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        (["Hello world."], "Hello world."),
        (["Hello, comma, world."], "Hello, world."),
        (["Hello", "Comma,", "world."], "Hello, world."),
        (["Hello.", "Comma, world."], "Hello, world."),
        (["hello period how are you question mark"], "hello. How are you?"),
        (["Dear Anna comma new line thank you."], "Dear Anna,\nThank you."),
        (["First. New line. Second."], "First.\nSecond."),
        (["One, new-line, two"], "One\nTwo"),
        (["One new paragraph two"], "One\n\nTwo"),
        (["It took a period of time."], "It took a period of time."),
        (["Buy the new line of shoes."], "Buy the new line of shoes."),
        (["Something new. Line up."], "Something new. Line up."),
        (["Say literal new line now."], "Say new line now."),
        (["That is literal"], "That is literal"),
        (["see open parenthesis below close parenthesis please"], "see (below) please"),
        (["open quote yes close quote he said"], "“yes” he said"),
        (["a well hyphen known name"], "a well-known name"),
        (["me at sign example"], "me@example"),
        (["Something brand new"], "Something brand new"),
        (["I saw it and", "The dog ran."], "I saw it and the dog ran."),
        (["I saw it and", "Peter ran."], "I saw it and Peter ran."),
        (["I saw it.", "The dog ran."], "I saw it. The dog ran."),
        (["", "Yes."], "Yes."),
        (["Look at this\x1b[2J\x00 thing."], "Look at this [2J thing."),
    ],
)
def test_english(said, typed):
    assert dictated(*said) == typed


@pytest.mark.parametrize(
    ("language", "said", "typed"),
    [
        ("de", ["Hallo Komma neue Zeile wie geht es Fragezeichen"], "Hallo,\nWie geht es?"),
        ("de", ["Der Punkt ist klar Punkt"], "Der Punkt ist klar."),
        ("de", ["Anführungszeichen auf, ja, Anführungszeichen zu."], "„ja“"),
        ("de", ["Ich kam und", "Das Haus stand."], "Ich kam und das Haus stand."),
        ("fr", ["Bonjour virgule ça va point d'interrogation"], "Bonjour, ça va\u00a0?"),
        ("fr", ["Bonjour ?", "À la ligne.", "oui"], "Bonjour ?\nOui"),
        ("fr", ["De ce point de vue oui point"], "De ce point de vue oui."),
        ("es", ["Abre interrogación, qué tal, cierra interrogación."], "¿qué tal?"),
        ("es", ["Hola coma Ana punto y aparte adiós"], "Hola, Ana.\nAdiós"),
        ("zh", ["你好。", "世界。"], "你好。世界。"),
        ("pl", ["Hello comma world."], "Hello comma world."),
    ],
)
def test_other_languages(language, said, typed):
    assert dictated(*said, language=language) == typed


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        (["Hello there.", "Good day.", "Scratch that.", "Bye."], "Hello there. Bye."),
        (["Hello there.", "Good day.", "Scratch that.", "Scratch that.", "Bye."], "Bye."),
        (["Hello there. Good day, scratch that, bye."], "bye."),
        (["One.", "New line.", "Scratch that.", "Two."], "One.\nTwo."),
        (["Scratch that.", "Two."], "Two."),
    ],
)
def test_scratch_that_takes_back_an_utterance_but_never_a_new_line(said, typed):
    assert dictated(*said) == typed


def test_words_of_the_user_come_on_top_and_take_phrases_away():
    mine = tables(
        {
            "any": {"phrases": {"jason": "JSON"}},
            "en": {"phrases": {"period": "", "smiley": ":-)", "my address": "1 High Street"}},
        }
    )
    said = "Jason, send it to my address period smiley"
    assert dictated(said, tables=mine) == "JSON, send it to 1 High Street period :-)"
    assert dictated("jason", tables=mine, language="sv") == "JSON"


# ---------------------------------------------------------------- live


def test_stable_text_is_typed_as_it_comes_and_a_possible_phrase_waits():
    screen = Screen()
    assert screen.hear(interim("hello", 0)) == ""
    assert screen.hear(interim("hello brave", 5)) == "hello"
    assert screen.hear(interim("hello brave new world", 15)) == "hello brave"  # "new line"?
    assert screen.hear(interim("hello brave new world", 21)) == "hello brave new world"
    assert screen.hear(final("hello brave new world comma")) == "hello brave new world,"
    assert screen.erased == 0


def test_punctuation_waits_for_a_spoken_mark_but_not_for_ever():
    screen = Screen()
    assert screen.hear(final("Hello."), now_s=10.0) == "Hello"
    assert screen.typist.due_at_s == 10.0 + HOLD_S
    assert screen.obey(screen.typist.tick(10.0 + HOLD_S / 2)) == "Hello"
    screen.hear(SpeechStart(utterance=2, at_s=1.0))
    assert screen.typist.due_at_s is None
    assert screen.hear(final("Comma, world.", 2), now_s=12.0) == "Hello, world"
    assert screen.obey(screen.typist.tick(12.0 + HOLD_S)) == "Hello, world."
    assert screen.hear(final("Next.", 3)) == "Hello, world. Next"


def test_live_text_of_a_later_utterance_waits_for_the_final_before_it():
    screen = Screen()
    assert screen.hear(interim("second", 6, utterance=2)) == ""
    assert screen.hear(final("First.", 1)) == "First. second"


def test_after_a_reconnect_utterances_count_from_one_again():
    screen = Screen()
    screen.hear(final("First.", 1), final("Second.", 2), interim("lost words", 10, utterance=3))
    screen.hear(Reconnected(session="s2", lost_bytes=1), final("Third.", 1))
    assert screen.end() == "First. Second. lost words Third."


def test_an_utterance_that_a_new_session_hears_again_is_written_once():
    screen = Screen()
    screen.hear(final("First.", 1), interim("Second ten", 10, utterance=2))
    screen.hear(Reconnected(session="s2", lost_bytes=0, again_bytes=640))
    screen.hear(interim("Second", 6))
    assert screen.text == "First. Second ten"  # it stands while it is heard again
    screen.hear(interim("Second ten words", 16), final("Second ten words.", 1), final("Third.", 2))
    assert screen.end() == "First. Second ten words. Third."
    assert not screen.erased


def test_what_a_new_session_hears_otherwise_is_mended_once_its_final_is_there():
    screen = Screen()
    screen.hear(final("First.", 1), interim("Second ten", 10, utterance=2))
    screen.hear(Reconnected(session="s2", lost_bytes=0, again_bytes=640), interim("Second hen runs", 15))
    assert screen.text == "First. Second ten"
    screen.hear(final("Second hen runs.", 1), interim("Third", 5, utterance=2), final("Not third.", 2))
    assert screen.end() == "First. Second hen runs. Third"  # and nothing is taken back after that


def test_stop_dictation_halts_and_nothing_is_typed_after_it():
    screen = Screen()
    screen.hear(final("That is it. Stop dictation. And more.", 1), final("More.", 2))
    assert screen.end() == "That is it."
    assert screen.halted


def test_the_next_dictation_goes_on_where_this_one_ended():
    first = Screen()
    first.hear(final("Hello", 1))
    first.end()
    second = Screen(before=first.typist.page, next_utterance=2)
    assert second.hear(final("The world.", 2)) == " the world"


def test_revise_writes_all_live_text_and_takes_back_what_changed():
    screen = Screen(revise=True)
    assert screen.hear(interim("I scream", 0)) == "I scream"
    assert screen.hear(interim("Ice cream now", 0)) == "Ice cream now"
    assert screen.hear(final("Ice cream new line now")) == "Ice cream\nNow"
    assert screen.erased > 0
    assert screen.hear(interim("and new line", 0, 2)) == "Ice cream\nNow and"  # not stable: not obeyed


def test_revise_never_goes_back_over_a_new_line():
    screen = Screen(revise=True)
    assert screen.hear(interim("Won new line too much", 16)) == "Won\nToo much"
    assert screen.hear(final("One new line two")) == "Won\nTwo"


def test_a_final_that_breaks_the_promise_of_stable_text_takes_nothing_back():
    screen = Screen()
    screen.hear(interim("I scream", 8))
    assert screen.hear(final("Ice cream")) == "I scream"
    assert screen.hear(final("Next", 2)) == "I scream Next"


# ---------------------------------------------------------------- anything

_SAID = (
    "hello world new line comma period scratch that a the I full stop literal open quote close hyphen stop dictation "
    "iPhone don't 3.5 naïve Anna and it paragraph parenthesis é jason"
)
VOCABULARY = _SAID.split()
WORDS = st.tuples(st.sampled_from(VOCABULARY), st.sampled_from(["", "", ",", ".", "?", "...", "."]), st.booleans()).map(
    lambda parts: (parts[0].capitalize() if parts[2] else parts[0]) + parts[1]
)
TEXTS = st.one_of(st.lists(WORDS, max_size=12).map(" ".join), st.text(alphabet="ab .,?!\n -'é…(ABcomma", max_size=30))


@st.composite
def conversations(draw):
    """Interims whose stable beginnings grow, and finals that begin with them; stable text ends anywhere."""
    events = []
    for number, text in enumerate(draw(st.lists(TEXTS, max_size=4)), 1):
        cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=5)))
        for cut in cuts:
            noise = draw(st.sampled_from(["", "x", " something else", ", new line"]))
            shown = text if draw(st.booleans()) else text[:cut] + noise
            events.append(interim(shown, cut, number))
        events.append(final(text, number))
    return events


def finals(events):
    return [event for event in events if isinstance(event, Final)]


@given(conversations())
def test_without_revise_nothing_is_taken_back_and_the_text_is_that_of_the_finals(events):
    live, late = Screen(), Screen()
    for event in events:
        live.hear(event)
    late.hear(*finals(events))
    scratched = any("scratch" in event.text.casefold() for event in events)
    assert live.end() == late.end()
    assert scratched or (live.erased, late.erased) == (0, 0)
    assert live.halted == late.halted


@given(conversations())
def test_with_revise_the_end_is_the_same(events):
    live, late = Screen(revise=True), Screen()
    for event in events:
        live.hear(event)
    late.hear(*finals(events))
    assert live.end() == late.end()


@given(st.lists(st.lists(st.sampled_from(["hello", "Anna", "fog", "3.5", "don't"]), min_size=1), min_size=1))
def test_words_without_phrases_are_joined_by_one_space(utterances):
    assert dictated(*(" ".join(words) for words in utterances)) == " ".join(itertools.chain(*utterances))


@given(conversations())
def test_what_is_typed_has_no_control_characters_and_no_double_spaces(events):
    screen = Screen()
    screen.hear(*events)
    assert not re.search(r"  |[\x00-\x09\x0b-\x1f]", screen.end())
