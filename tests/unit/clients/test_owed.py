"""What is owed to a program when its session goes, and what the next one is told of it."""

import math

import hypothesis.strategies as st
from hypothesis import given
from sttd_client.events import Final, Stopped
from sttd_client.owed import Anew, Owed

from sttd.wire.messages import Finalize, Start

ROOM = 1000


def final(end_s, reason="endpoint"):
    return Final(utterance=1, text="x", start_s=0.0, end_s=end_s, reason=reason)


def anew(lost=0, *again):
    return Anew(lost_bytes=lost, again_bytes=sum(len(said) for said in again if isinstance(said, bytes)), again=again)


def test_a_finalize_covers_what_was_sent_before_it_however_much_of_that_was_quiet():
    owed = Owed(Start(), room_bytes=ROOM)
    owed.audio(bytes(32_000))
    owed.finalize()
    owed.audio(b"ab" * 50)
    owed.heard(final(0.2, "finalize"))
    assert owed.begin_anew() == anew(0, b"ab" * 50)


def test_without_room_nothing_is_told_again_and_all_is_counted():
    owed = Owed(Start())
    owed.audio(bytes(100))
    assert owed.begin_anew() == anew(100)


def test_a_daemon_that_stops_has_taken_what_it_says():
    owed = Owed(Start(sample_rate=8000, encoding="mulaw"), room_bytes=ROOM)
    owed.audio(bytes(8000))
    owed.heard(Stopped(audio_s=1.0, utterances=0, dropped_s=0.0))
    assert owed.begin_anew() == anew()


def test_of_a_container_a_final_covers_what_was_sent_before_it_and_nothing_is_told_again():
    owed = Owed(Start(encoding="container"), room_bytes=ROOM)
    owed.audio(bytes(1000))
    owed.heard(final(0.1))
    owed.audio(bytes(10))
    assert owed.begin_anew() == anew(10)


def test_a_finalize_is_said_again_at_its_place_until_it_is_answered():
    owed = Owed(Start(), room_bytes=ROOM)
    owed.finalize()
    owed.audio(b"abcd")
    owed.finalize()
    owed.audio(b"ef")
    told = anew(0, Finalize(), b"abcd", Finalize(), b"ef")
    assert owed.begin_anew() == told
    assert owed.begin_anew() == told  # that session went, too
    owed.heard(final(0.0, "finalize"))
    assert owed.begin_anew() == anew(0, b"abcd", Finalize(), b"ef")


def test_the_newest_is_kept_and_begins_with_a_whole_sample():
    owed = Owed(Start(channels=3), room_bytes=10)
    owed.audio(b"0123")
    owed.audio(b"456789ab")
    owed.audio(b"cd")
    assert owed.begin_anew() == anew(6, b"6789ab", b"cd")


def test_what_two_sessions_were_lost_with_is_not_told_to_a_third():
    """It may be what kills them."""
    owed = Owed(Start(), room_bytes=ROOM)
    owed.audio(b"abcd")
    owed.finalize()
    for _ in range(2):
        assert owed.begin_anew() == anew(0, b"abcd", Finalize())
    owed.audio(b"ef")
    assert owed.begin_anew() == anew(6, Finalize())  # answered with an empty text
    owed.audio(b"gh")
    assert owed.begin_anew() == anew(0, Finalize(), b"gh")


def test_a_final_begins_the_count_of_sessions_again():
    owed = Owed(Start(), room_bytes=ROOM)
    owed.audio(bytes(ROOM))
    for _ in range(5):
        assert owed.begin_anew().again_bytes > 0
        owed.heard(final(0.0001))


STEPS = st.lists(
    st.one_of(
        st.integers(1, 400).map(lambda count: ("audio", count)),
        st.floats(0, 1).map(lambda part: ("final", part)),
        st.just(("finalize", 0)),
        st.just(("answer", 0)),
        st.just(("lost", 0)),
    )
)


@given(steps=STEPS, room=st.sampled_from([0, 300, 100_000]), channels=st.sampled_from([1, 3]))
def test_every_byte_is_covered_told_again_in_its_place_or_counted(steps, room, channels):
    owed = Owed(Start(channels=channels), room_bytes=room)
    per_s, frame = 32_000 * channels, 2 * channels
    session, covered, finalizes, running = b"", 0, [], 0  # what it was told, and how many were lost without a final
    for what, value in steps:
        if what == "audio":
            piece = bytes((len(session) + at) % 251 for at in range(value))
            session += piece
            owed.audio(piece)
        elif what == "finalize":
            owed.finalize()
            finalizes.append(len(session))
        elif what == "answer" and finalizes:
            owed.heard(final(0.0, "finalize"))
            covered, running = max(covered, finalizes.pop(0)), 0
        elif what == "final":
            end_s = value * len(session) / per_s
            owed.heard(final(end_s))
            until = math.ceil((end_s + 0.001) * per_s)  # finals tell their end to a millisecond
            covered, running = max(covered, until), 0 if until > covered else running
        elif what == "lost":
            told = owed.begin_anew()
            audio = b"".join(said for said in told.again if isinstance(said, bytes))
            begins = len(session) - len(audio)
            places, at = [], 0
            for said in told.again:
                places += [at] if isinstance(said, Finalize) else []
                at += len(said) if isinstance(said, bytes) else 0
            assert session.endswith(audio)
            assert begins % frame == 0 or not audio
            assert len(audio) == told.again_bytes <= room
            assert places == [max(place - begins, 0) for place in finalizes]
            assert told.lost_bytes == max(begins - covered, 0)
            assert told.lost_bytes == 0 or room < 100_000 or running >= 2
            session, covered, finalizes, running = audio, 0, places, running + 1 if audio else 0
