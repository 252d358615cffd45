"""When a forced attempt has lost words, and what is put in their place."""

import attrs
import pytest

from sttd.engine.whisper.keeping import completed
from sttd.engine.whisper.search import Attempt

BEGIN = 10_000  # the first timestamp


@attrs.frozen
class Codec:
    """A token is a piece of text of the table."""

    pieces: tuple[str, ...]
    timestamp_begin: int = BEGIN

    def encode(self, text):
        tokens, rest = [], " " * bool(text) + text
        while rest:
            piece = max((piece for piece in self.pieces if piece and rest.startswith(piece)), key=len)
            tokens.append(self.pieces.index(piece))
            rest = rest[len(piece) :]
        return tokens

    def decode(self, tokens):
        return "".join(self.pieces[token] for token in tokens if token < BEGIN)


CODEC = Codec((" and", " mister", " john", " had", " then", " left", " th", "e", " house", " hou", "se", ".", " for"))


def attempt(text, *, times=()):
    tokens = CODEC.encode(text)
    tokens = (*times[:1], *tokens, *times[1:])
    return Attempt(tokens=tokens, avg_logprob=-0.1, no_speech_prob=0.0, compression_ratio=1.0, temperature=0.0)


LATER = "had then left the house."


@pytest.mark.parametrize(
    ("wanted", "free", "forced", "text"),
    [
        ("mister john", f"and mister john {LATER}", "mister john had", f"mister john {LATER}"),
        ("john", f"and john {LATER}", "john", f"john {LATER}"),
        ("and john had", f"and mister john {LATER}", "and john had", f"and john {LATER}"),
        ("john had", "john had then left.", "john had then left.", "john had then left."),
        ("and john", f"john {LATER}", "and john had then left the", "and john had then left the"),
        ("and mister", "", "and mister", "and mister"),
    ],
)
def test_what_is_behind_the_text_is_all_there(wanted, free, forced, text):
    whole = completed(attempt(forced), attempt(free), wanted=wanted, codec=CODEC)
    assert CODEC.decode(whole.tokens).strip() == text


def test_without_its_last_word_nobody_knows_where_to_go_on():
    assert completed(attempt("and mister"), attempt(f"john {LATER}"), wanted="and mister", codec=CODEC) is None


def test_timestamps_are_those_of_the_free_one():
    free = attempt("and john had then left the house.", times=(BEGIN, BEGIN + 90))
    whole = completed(attempt("john", times=(BEGIN,)), free, wanted="john", codec=CODEC)
    assert whole.tokens == (BEGIN, *CODEC.encode("john had then left the house."), BEGIN + 90)
    assert whole.probabilities is None


def test_a_token_on_both_sides_cannot_be_parted():
    joined = attrs.evolve(CODEC, pieces=(*CODEC.pieces, " john had"))
    free = attrs.evolve(attempt(""), tokens=tuple(joined.encode(f"and john {LATER}")))
    assert " john had" in {joined.pieces[token] for token in free.tokens}
    assert completed(attempt("mister john"), free, wanted="mister john", codec=joined) is None
