"""Sentences of the demo domain: templates for sense, random word lists so that the model has to listen.

A template is plain text with slots: `<name>` is filled from the rule or the word category of that name, `<name>s` is
its plural, and `[a|b|]` picks one alternative. Everything is decided by the `random.Random` handed in.
"""

from __future__ import annotations

import functools
import itertools
import random
import re
from typing import Final

from training.demo_model.lexicon import CATEGORIES, HOMOPHONES

#: Share of items that are random word lists. With templates alone a small decoder learns to guess instead of to listen.
RANDOM_SHARE: Final = 0.3

_RULES: Final[dict[str, list[str]]] = {
    "small": ["<nonzero>", "<nonzero>", "<teen>", "<tens>", "<tens> <nonzero>", "<tens> <nonzero>"],
    "number": [
        "<digit>",
        "<teen>",
        "<tens> <nonzero>",
        "<tens> <nonzero>",
        "<nonzero> hundred",
        "<nonzero> hundred and <small>",
        "<small> thousand",
        "<small> thousand <nonzero> hundred",
        "<nonzero> million",
        "<small> point <digit>",
    ],
    "ordinals": ["<ordinal>", "<ordinal>", "<late_ordinal>", "twenty <ordinal>", "thirtieth", "thirty first"],
    "clock": [
        "<hour>",
        "<hour> o'clock",
        "<hour> <tens>",
        "<hour> fifteen",
        "half past <hour>",
        "ten past <hour>",
        "five to <hour>",
        "quarter to <hour>",
        "quarter past <hour>",
        "noon",
        "midnight",
    ],
    "date": [
        "<weekday>",
        "the <ordinals> of <month>",
        "<month> <small>",
        "<weekday> the <ordinals> of <month>",
        "the <ordinals> of <month> twenty <tens> <nonzero>",
        "<weekday> <daypart>",
    ],
    "when": [
        "<when_word>",
        "on <weekday>",
        "at <clock>",
        "tomorrow at <clock>",
        "on <date>",
        "in <small> <any_unit>s",
        "next <long_unit>",
        "in the <daypart>",
        "before <clock>",
        "after <clock>",
        "this <season>",
    ],
    "any_unit": ["<short_unit>", "<long_unit>"],
    "the": ["the", "a", "my", "your", "this", "that", "his", "her", "our"],
    "thing": ["<object>", "<object>", "<adjective> <object>", "<colour> <object>", "<adjective> <colour> <object>"],
    "thing_of": ["<the> <thing>", "<the> <thing>", "<the> <material> <object>", "<the> <person>'s <object>"],
    "someone": ["my <person>", "<name>", "the <person>", "your <person>", "<name>"],
    "somewhere": [
        "in the <room>",
        "at the <place>",
        "near the <place>",
        "under the <object>",
        "behind the <place>",
        "in <city>",
        "in <country>",
        "at home",
        "next to the <thing>",
        "on the table",
    ],
    "they": ["he", "she", "<someone>", "<name>", "it"],
    "tail": ["", "", "", "please", "now", "<when>"],
    "link": ["and", "but", "or", "because", "when", "if", "so"],
    "sentence": [
        # digits, numbers, arithmetic
        "<digit> <digit> <digit>",
        "<digit> <digit> <digit> <digit> <digit>",
        "<digit> <digit> <digit> <digit> <digit> <digit> <digit>",
        "the number is <number>",
        "<number> [plus|minus|times|divided by] <number> equals <number>",
        "my phone number is <digit> <digit> <digit> <digit> <digit>",
        "the price is <number> [dollars|euros|pounds]",
        # commands
        "turn [on|off] the <room> <device> <tail>",
        "turn [on|off] the <device> <tail>",
        "switch [on|off] the <colour> <device>",
        "set the <level> to <number> percent",
        "set the <level> to <small> degrees <tail>",
        "make the <device> [louder|quieter|brighter|darker|warmer]",
        "set a timer for <small> <short_unit>s",
        "set an alarm for <clock> <tail>",
        "wake me up at <clock>",
        "remind me to [call <someone>|buy some <food>|visit <someone>|<motion>|pay the <person>] <when>",
        "<file_verb> the [<ordinal>|new|old|last|next|other] <document> <tail>",
        "<file_verb> the <document> <tail>",
        "[open|close|start|quit] the <app> <tail>",
        "[select|delete|copy|repeat|correct] the [last|next|first|whole] <edit_unit>",
        "[play|stop|pause|skip] the [next|last|] <media> <tail>",
        "play some music by <name>",
        "[scroll|go|move] [up|down|left|right|back|forward]",
        "[undo that|select all|new line|new paragraph|go back|copy that|paste that|cut that|go to the top"
        "|go to the bottom]",
        "[start|stop|pause|continue|end] [dictation|recording|typing|listening]",
        "[comma|full stop|question mark|exclamation mark|open quote|close quote|caps lock|delete that|enter]",
        "call <someone> <tail>",
        "send a message to <someone> <tail>",
        "add <food> to the shopping list",
        "buy <small> <object>s <tail>",
        # small talk and dictation
        "[hello|hello world|good morning|good evening|good night|thank you|thank you very much|yes please"
        "|no thank you|okay|goodbye|welcome home]",
        "[this is a test|this is a speech test|the quick brown fox jumps over the lazy dog|please continue"
        "|see you <when>|how are you]",
        "my name is <name> and I live in <city>",
        "what [time is it|day is it today|is your name|is the weather like <when>|colour is <the> <object>]?",
        "where is <thing_of>?",
        "who [has|wants|lost|found] <thing_of>?",
        "how many <object>s are there <somewhere>?",
        "can you <verb> <thing_of> <tail>?",
        "why did <they> <verb> the <abstract>?",
        "when does the [train|bus|plane|boat] [leave|arrive]?",
        "<thing_of> is [<colour>|<adjective>|very <adjective>|not <adjective>|<somewhere>]",
        "[I|we|they|you] [want|like|need|have] [<thing_of>|some <food>|<small> <object>s|<food> and <food>"
        "|<food> with <food>]",
        "[he|she|<name>] [wants|likes|needs|has] [<thing_of>|some <food>|<small> <object>s|<food> and <food>]",
        "<they> is going [home|to work|to school|to the <place>|to <city>] <when>",
        "<they> <past_verb> <thing_of> <tail>",
        "<they> <past_verb> the <abstract> of the <person>",
        "<someone> and <someone> will <motion> <somewhere>",
        "we should <verb> the <abstract> <adverb>",
        "they <adverb> <verb> the <adjective> <abstract>",
        "you must not <verb> the <adjective> <object>",
        "[every|each|another] <person> has a <adjective> <abstract>",
        "there is a <adjective> <animal_wild> <somewhere>",
        "<they> would like to <motion> [to|near|around] the <place>",
        "the <abstract> was <adjective> <link> the <object> was <adjective>",
        "today is <date>",
        "the [meeting|lesson|party|concert] is <when>",
        "[it is|it was|it will be] <clock>",
        "it will be <weather> <when>",
        "the <season> in <country> is <weather>",
        "put <thing_of> <somewhere>",
        "my <clothing> are <adjective> and <colour>",
        "[bring|give|show|tell|sell] <someone> the <abstract>",
        "the <person> [lives|works|sleeps|waits|sits|stands] <somewhere>",
        "<function> the <abstract> of <country>",
        "<adjective> <abstract> is <adverb> <adjective>",
        "<colour> <colour> <colour>",
        "<weekday> <weekday> <month>",
        "<filler> <filler>",
    ],
}

_SLOT: Final = re.compile(r"<(\w+)>(s?)|\[([^\[\]]*)\]")


def _plural(word: str) -> str:
    """Returns the plural of the last word of a phrase."""
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    if word in ("tomato", "potato"):
        return word + "es"
    return "scarves" if word == "scarf" else word + "s"


def _fill(template: str, rng: random.Random) -> str:
    def one(match: re.Match[str]) -> str:
        name, plural, choice = match.groups()
        if choice is not None:
            return str(rng.choice(choice.split("|")))
        word = _fill(rng.choice(_RULES.get(name) or CATEGORIES[name]), rng)
        return _plural(word) if plural else word

    while "<" in template or "[" in template:
        template = _SLOT.sub(one, template)
    return template


def finish(words: str) -> str:
    """Returns `words` as a written sentence: `an` before vowels, a capital first, a full stop or question mark last."""
    tokens = words.replace("?", " ?").split()
    question = tokens[-1] == "?"
    tokens = tokens[:-1] if question else tokens
    for index, (word, following) in enumerate(itertools.pairwise(tokens)):
        if word == "a" and following[0] in "aeiou" and not following.startswith(("one", "us", "eu")):
            tokens[index] = "an"
    text = " ".join(tokens)
    return text[0].upper() + text[1:] + ("?" if question else ".")


@functools.cache
def vocabulary() -> tuple[str, ...]:
    """Returns every word a sentence can contain, sorted, in the spelling it has inside a sentence."""
    found: set[str] = set()
    for words in CATEGORIES.values():
        found.update(words)
    for templates in _RULES.values():
        for template in templates:
            plain = re.sub(r"<\w+>('s)?s?", " ", template)
            found.update(word for word in re.split(r"[\s\[\]|?]+", plain) if word)
    for name in ("short_unit", "long_unit", "object"):
        found.update(_plural(word) for word in CATEGORIES[name])
    found.update(word + "'s" for word in CATEGORIES["person"])
    return tuple(sorted(found | {"an", "I"}))


@functools.cache
def fixed_phrases() -> frozenset[str]:
    """Returns the sentences without open slots, such as `What time is it?`: too few to keep any from training."""
    phrases = []
    for template in _RULES["sentence"]:
        parts = [part.split("|") for part in re.split(r"[\[\]]", template)]
        phrases += ["".join(choice) for choice in itertools.product(*parts)]
    return frozenset(finish(phrase) for phrase in phrases if "<" not in phrase)


@functools.cache
def listening_words() -> tuple[str, ...]:
    """Returns the words random lists draw from: those that sound like no other, without plurals and possessives."""
    plurals = {_plural(word) for words in CATEGORIES.values() for word in words}
    plurals |= {word + "'s" for word in CATEGORIES["person"]}
    listed = {word for words in CATEGORIES.values() for word in words}
    return tuple(word for word in vocabulary() if word not in HOMOPHONES and (word not in plurals or word in listed))


def sentence(rng: random.Random, *, random_share: float = RANDOM_SHARE) -> str:
    """Returns one sentence of the domain, such as `Turn on the kitchen light.`"""
    if rng.random() < random_share:
        return finish(" ".join(rng.choice(listening_words()) for _ in range(rng.randint(1, 7))))
    return finish(_fill(rng.choice(_RULES["sentence"]), rng))


def unique_sentences(rng: random.Random, *, count: int) -> list[str]:
    """Returns `count` different sentences, none of them a fixed phrase."""
    found: dict[str, None] = {}
    while len(found) < count:
        text = sentence(rng)
        if text not in fixed_phrases():
            found[text] = None
    return list(found)
