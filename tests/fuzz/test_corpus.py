"""Every input that fuzzing began with or found is tried again: it means something, or is refused."""

import pytest

from tests.fuzz.seeds import corpus, seeds
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_no_input_of_the_corpora_does_harm(target):
    for data in (*seeds(target), *corpus(target)):
        try:
            TARGETS[target](data)
        except Exception as error:
            raise AssertionError(f"{target}: {data.hex()}") from error
