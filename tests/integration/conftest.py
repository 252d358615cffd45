"""The browser of the tests of the page, and its microphone."""

import pytest

from tests.browser import browser, write_microphone


@pytest.fixture(scope="session")
def microphone(tmp_path_factory):
    """The bundled sample, said once."""
    return write_microphone(tmp_path_factory.mktemp("microphone") / "sample.wav")


@pytest.fixture
def page(tmp_path, microphone):
    """A page in a fresh browser that grants the microphone."""
    with browser(tmp_path / "profile", microphone) as page:
        yield page
