"""What waits for a program that does not read."""

from sttd_client.events import Final, Interim, SpeechStart
from sttd_client.inbox import CAPACITY, Inbox


def interim(utterance, seq):
    return Interim(utterance=utterance, seq=seq, text="a", stable_chars=0, start_s=0.0, end_s=1.0)


def final(utterance):
    return Final(utterance=utterance, text="a", start_s=0.0, end_s=1.0, reason="stop")


def test_a_newer_interim_takes_the_place_of_the_one_before():
    inbox = Inbox()
    for event in (SpeechStart(utterance=1, at_s=0.0), interim(1, 1), interim(1, 2), final(1), interim(2, 1)):
        inbox.put(event)
    assert [getattr(event, "seq", None) for event in inbox.take_all()] == [None, 2, None, 1]


def test_finals_are_never_dropped_and_a_full_inbox_says_so():
    inbox = Inbox()
    for number in range(CAPACITY):
        assert not inbox.full
        inbox.put(final(number))
    assert inbox.full
    first = inbox.get()
    assert first is not None
    assert first.utterance == 0
    assert len(inbox.take_all()) == CAPACITY - 1
    assert inbox.get() is None
