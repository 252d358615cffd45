"""Which language is spoken: evidence in, a belief out."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.core import languages
from sttd.core.languages import (
    CONTRADICTION,
    ENGLISH,
    LEAST,
    PATIENCE_S,
    SURE,
    SURE_FIRST,
    WEIGHT_MOST,
    Prior,
    SessionLanguages,
    UtteranceLanguage,
    evidence,
    weight_of,
)

CODES = ("en", "es", "pt", "de", "fr", "zh")
SPANISH = (("es", 0.97), ("pt", 0.02), ("en", 0.002))
ENGLISH_SPEECH = (("en", 0.98), ("es", 0.003))
PORTUGUESE = (("pt", 0.98), ("es", 0.013))  # what base makes of three seconds of one of the Spanish recordings
ANYTHING = tuple((code, 1 / len(CODES)) for code in CODES)


@st.composite
def sounds(draw):
    """Evidence as `evidence` makes it."""
    shares = draw(st.dictionaries(st.sampled_from(CODES), st.floats(0.001, 1.0), min_size=1))
    return evidence({code: share / sum(shares.values()) for code, share in shares.items()}, silence={})


utterances = st.lists(st.tuples(sounds(), st.floats(0.0, 30.0)), max_size=12)


def session_of(spoken, **options):
    session = SessionLanguages(**options)
    for number, (heard, speech_s) in enumerate(spoken, 1):
        session.hear(number, heard, speech_s=speech_s)
    return session


def best(session, utterance, heard, *, speech_s=3.0):
    """What the engine would decode it in."""
    return session.prior(utterance, speech_s=speech_s).posterior(heard)[0][0]


def as_dict(prior):
    return pytest.approx({"": prior.other, **dict(prior.likely)})


# ------------------------------------------------------------------ evidence


def test_what_the_model_says_of_silence_is_taken_out():
    silence = {"en": 0.6, "es": 0.03, "de": 0.01}
    assert [code for code, _ in evidence(silence, silence=silence)] == ["en", "es", "de"]
    heard = dict(evidence({"en": 0.5, "es": 0.4, "de": 0.1}, silence=silence))
    assert heard["es"] > heard["en"]  # more than it leans to already
    assert sum(heard.values()) == pytest.approx(1.0)


def test_without_a_leaning_the_evidence_is_the_probabilities():
    heard = evidence({"es": 0.25, "en": 0.75}, silence={})
    assert heard == (("en", pytest.approx(0.75)), ("es", pytest.approx(0.25)))


def test_languages_that_are_not_possible_are_no_evidence():
    heard = evidence({"pt": 0.9, "es": 0.06, "en": 0.02}, silence={}, allowed=("es", "en"))
    assert heard == (("es", pytest.approx(0.75)), ("en", pytest.approx(0.25)))


def test_what_is_hardly_there_is_left_out():
    assert [code for code, _ in evidence({"en": 0.9995, "cy": 0.0005}, silence={})] == ["en"]


@pytest.mark.parametrize("probabilities", [{}, {"en": 0.0, "es": 0.0}, {"en": float("nan")}])
def test_no_number_is_no_evidence(probabilities):
    assert evidence(probabilities, silence={"en": 0.5}) == ()


def test_the_weight_grows_with_the_speech_up_to_a_bound():
    weights = [weight_of(speech_s) for speech_s in (-1.0, 0.0, 0.5, 1.0, 2.0, 2.25, 30.0)]
    assert weights == sorted(weights)
    assert (weights[0], weights[-1]) == (0.0, WEIGHT_MOST)
    assert weights[-2] == WEIGHT_MOST


# ------------------------------------------------------------------ a belief


@given(spoken=utterances, heard=sounds(), speech_s=st.floats(0.0, 30.0))
def test_probabilities_are_probabilities(spoken, heard, speech_s):
    session = session_of(spoken)
    prior = session.prior(len(spoken) + 1, speech_s=speech_s)
    rest = languages._COUNT - len(prior.likely)
    assert sum(share for _, share in prior.likely) + rest * prior.other == pytest.approx(1.0)
    posterior = prior.posterior(heard)
    assert [share for _, share in posterior] == sorted((share for _, share in posterior), reverse=True)
    assert 0 < sum(share for _, share in posterior) <= 1.0 + 1e-9
    assert hash(prior) == hash(session.prior(len(spoken) + 1, speech_s=speech_s))


@given(spoken=utterances, heard=sounds())
def test_only_what_the_client_allows_has_any_probability(spoken, heard):
    session = session_of(spoken, allowed=("es", "pt"))
    posterior = session.prior(len(spoken) + 1, speech_s=2.0).posterior(heard)
    assert {code for code, _ in posterior} == {"es", "pt"}
    assert sum(share for _, share in posterior) == pytest.approx(1.0)
    assert session.certain in ("es", "pt", None)


def test_an_utterance_of_next_to_nothing_says_nothing_of_the_language():
    session = SessionLanguages()
    session.hear(1, (("de", 0.5), ("en", 0.4)), speech_s=5e-324)
    session.hear(2, (("de", 0.5), ("en", 0.4)), speech_s=5e-324)
    assert as_dict(session.prior(3, speech_s=1.0)) == as_dict(SessionLanguages().prior(1, speech_s=1.0)).expected


@given(spoken=utterances, seed=st.integers())
def test_the_order_in_which_decodes_come_back_does_not_matter(spoken, seed):
    expected = session_of(spoken)
    arrived = [(number, heard, speech_s) for number, (heard, speech_s) in enumerate(spoken, 1)]
    random.Random(seed).shuffle(arrived)
    session = SessionLanguages()
    for number, heard, speech_s in arrived:
        session.prior(len(spoken) + 1, speech_s=1.0)  # whoever asks in between changes nothing
        session.hear(number, heard, speech_s=speech_s)
    for number in range(1, len(spoken) + 2):
        assert as_dict(session.prior(number, speech_s=1.0)) == as_dict(expected.prior(number, speech_s=1.0)).expected
    assert session.certain == expected.certain


@given(spoken=utterances, partly=sounds(), heard=sounds(), shorter_s=st.floats(0.0, 2.0))
def test_an_utterance_counts_once_by_its_longest_decode(spoken, partly, heard, shorter_s):
    number = len(spoken) + 1
    once, again = session_of(spoken), session_of(spoken)
    once.hear(number, heard, speech_s=3.0)
    again.hear(number, partly, speech_s=shorter_s)
    again.hear(number, heard, speech_s=3.0)
    again.hear(number, partly, speech_s=shorter_s)
    assert as_dict(again.prior(number + 1, speech_s=1.0)) == as_dict(once.prior(number + 1, speech_s=1.0)).expected


@given(spoken=st.lists(st.tuples(sounds(), st.floats(0.1, 9.0)), min_size=40, max_size=40))
def test_what_is_forgotten_is_summed_up(spoken):
    session, everything = session_of(spoken), Prior()
    assert len(session._evidence) == languages._KEPT
    belief = languages._Belief(languages=everything)
    for heard, speech_s in spoken:
        belief = belief.after(languages._Evidence(heard=heard, speech_s=speech_s), start=everything)
    assert as_dict(session.prior(41, speech_s=1.0)) == as_dict(belief.before_next(everything)).expected
    before = session.prior(41, speech_s=1.0)
    session.hear(3, PORTUGUESE, speech_s=9.0)  # too late
    assert session.prior(41, speech_s=1.0) == before


def test_at_first_english_is_more_probable_and_nothing_is_certain():
    session = SessionLanguages()
    prior = session.prior(1, speech_s=1.0)
    assert prior.posterior(())[0] == ("en", pytest.approx(ENGLISH * prior.other))
    assert session.certain is None
    assert SessionLanguages(allowed=("es", "en")).prior(1, speech_s=1.0).likely == (("en", 0.75), ("es", 0.25))


def test_one_misdetection_changes_nothing():
    session = session_of([(SPANISH, 2.0)] * 3)
    assert best(session, 4, PORTUGUESE, speech_s=3.0) == "es"
    session.hear(4, PORTUGUESE, speech_s=3.0)
    assert best(session, 5, ANYTHING) == "es"


def test_a_change_of_language_is_followed_within_an_utterance():
    session = session_of([(SPANISH, 5.0)] * 20)
    assert best(session, 21, ENGLISH_SPEECH, speech_s=4.0) == "en"
    session.hear(21, ENGLISH_SPEECH, speech_s=4.0)
    assert session.certain == "en"
    assert best(session, 22, SPANISH, speech_s=4.0) == "es"


def test_who_has_spoken_two_languages_is_believed_sooner():
    """What was spoken before is familiar: less evidence suffices for it than for a new language."""
    bilingual = session_of([(ENGLISH_SPEECH, 4.0), (SPANISH, 4.0), (SPANISH, 4.0)])
    spanish = session_of([(SPANISH, 4.0)] * 3)
    doubtful = (("en", 0.82), ("es", 0.02))
    assert best(bilingual, 4, doubtful, speech_s=1.5) == "en"
    assert best(spanish, 4, doubtful, speech_s=1.5) == "es"


def test_short_speech_is_little_evidence():
    session = session_of([(SPANISH, 3.0)])
    heard = (("pt", 0.99), ("es", 0.005))
    assert best(session, 2, heard, speech_s=0.5) == "es"
    assert best(session, 2, heard, speech_s=5.0) == "pt"


@given(spoken=st.lists(st.tuples(sounds(), st.floats(0.0, 9.0)), max_size=60))
def test_no_language_is_ever_ruled_out(spoken):
    session = session_of(spoken)
    for more in (1, 2, 3):
        session.hear(len(spoken) + more, (("zh", 0.999),), speech_s=5.0)
    assert session.certain == "zh"


def test_an_earlier_utterance_is_judged_by_what_came_before_it():
    session = session_of([(SPANISH, 4.0), (ENGLISH_SPEECH, 4.0)])
    assert session.prior(2, speech_s=1.0).likely[0][0] == "es"
    assert session.prior(3, speech_s=1.0).likely[0][0] == "en"


@pytest.mark.parametrize("options", [{"given": "de"}, {"allowed": ("de",)}, {"given": "de", "allowed": ("de", "en")}])
def test_where_only_one_language_is_possible_nothing_is_detected(options):
    session = SessionLanguages(**options)
    utterance = UtteranceLanguage(utterance=1, session=session)
    assert (session.only, session.certain, utterance.code) == ("de", "de", "de")
    assert utterance.prior(speech_s=3.0) is None
    utterance.hear(ENGLISH_SPEECH, speech_s=9.0)
    assert utterance.best == "de"


# ------------------------------------------------------------------ one language for an utterance


def settle(utterance, heard, *, speech_s):
    """An interim as the engine makes it; whether it is shown."""
    code, probability = utterance.prior(speech_s=speech_s).posterior(heard)[0]
    return utterance.settle(code, probability=probability, heard=heard, speech_s=speech_s)


def test_an_interim_waits_until_its_language_is_sure():
    utterance = UtteranceLanguage(utterance=1, session=SessionLanguages())
    assert not settle(utterance, ANYTHING, speech_s=0.7)
    assert utterance.code is None
    assert settle(utterance, SPANISH, speech_s=1.4)
    assert utterance.code == "es"


def test_it_waits_for_some_seconds_at_most():
    utterance = UtteranceLanguage(utterance=1, session=SessionLanguages())
    assert not settle(utterance, ANYTHING, speech_s=PATIENCE_S - 0.1)
    assert settle(utterance, ANYTHING, speech_s=PATIENCE_S)
    assert utterance.code is not None


def test_the_language_of_an_utterance_never_changes():
    utterance = UtteranceLanguage(utterance=1, session=SessionLanguages())
    assert settle(utterance, SPANISH, speech_s=2.0)
    assert utterance.settle("en", probability=1.0, heard=ENGLISH_SPEECH, speech_s=5.0)
    assert utterance.code == "es"
    assert utterance.takes("es")
    assert utterance.takes("")
    assert not utterance.takes("en")


def test_after_the_first_utterance_more_is_asked():
    """The belief contains what was spoken before, and a change of language contradicts just that."""
    probability = (SURE_FIRST + SURE) / 2
    doubtful = (("pt", 0.5), ("es", 0.5 / (CONTRADICTION + 1)))
    first = UtteranceLanguage(utterance=1, session=SessionLanguages())
    later = UtteranceLanguage(utterance=2, session=session_of([(SPANISH, 3.0)]))
    assert first.settle("es", probability=probability, heard=ANYTHING, speech_s=1.0)
    assert not later.settle("es", probability=probability, heard=ANYTHING, speech_s=1.0)
    assert not later.settle("es", probability=SURE, heard=doubtful, speech_s=1.0)
    assert later.settle("es", probability=SURE, heard=ANYTHING, speech_s=1.0)


def test_among_few_languages_more_is_asked_from_the_first_utterance_on():
    named = UtteranceLanguage(utterance=1, session=SessionLanguages(allowed=("es", "en")))
    assert not named.settle("en", probability=SURE_FIRST, heard=ANYTHING, speech_s=1.0)
    assert named.settle("en", probability=SURE, heard=ANYTHING, speech_s=1.0)


def test_a_later_utterance_in_the_same_language_is_shown_at_once():
    session = session_of([(SPANISH, 3.0)] * 2)
    assert settle(UtteranceLanguage(utterance=3, session=session), SPANISH, speech_s=0.7)


def test_a_change_of_language_is_not_shown_in_the_old_one():
    utterance = UtteranceLanguage(utterance=3, session=session_of([(SPANISH, 3.0)] * 2))
    assert not settle(utterance, (("en", 0.6), ("es", 0.05), ("pt", 0.05)), speech_s=0.7)
    assert settle(utterance, ENGLISH_SPEECH, speech_s=3.0)
    assert utterance.code == "en"


def test_a_model_of_one_language_does_not_wait():
    utterance = UtteranceLanguage(utterance=1, session=SessionLanguages())
    assert utterance.settle("en", probability=1.0, heard=(), speech_s=0.1)
    assert utterance.code == "en"


def test_what_was_heard_in_vain_counts_for_the_next_utterance():
    session = session_of([(SPANISH, 3.0)] * 2)
    utterance = UtteranceLanguage(utterance=3, session=session)
    assert settle(utterance, SPANISH, speech_s=0.7)
    utterance.hear(ENGLISH_SPEECH, speech_s=4.0)
    assert (utterance.code, session.certain) == ("es", "en")


def test_least_is_what_bounds_a_contradiction():
    prior = Prior(likely=(("es", 0.5), ("en", 0.5)), other=0.0, allowed=("es", "en"))
    (_, high), (_, low) = prior.posterior((("en", 1.0),))
    assert low / high == pytest.approx(LEAST)


def test_a_final_says_how_probable_its_language_is_unless_it_was_given():
    utterance = UtteranceLanguage(utterance=1, session=SessionLanguages())
    assert utterance.probability(0.6) == 0.6  # no interim settled it: that of the final's own decode
    utterance.settle("es", probability=0.99, heard=SPANISH, speech_s=1.0)
    assert utterance.probability(1.0) == 0.99  # the final is decoded in that language, which says nothing
    given = UtteranceLanguage(utterance=1, session=SessionLanguages(given="de"))
    assert given.probability(1.0) is None
