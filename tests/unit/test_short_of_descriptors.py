"""A channel at which nobody answers its own knock says why: it has no descriptors to answer with, or it is not safe."""

import pytest

from agentkd.errors import DescriptorsError, LaunchError
from agentkd.exchange import zeromq
from agentkd.exchange.keys import new_key_pair
from agentkd.exchange.post import Post


@pytest.fixture(autouse=True)
def _nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A knock is not waited for, so it is never answered."""
    monkeypatch.setattr(zeromq, "SELF_TEST_MS", 0)


def test_who_does_not_answer_with_descriptors_left_is_not_safe() -> None:
    with pytest.raises(LaunchError, match="nobody answers"):
        Post(new_key_pair(), print, bind=("tcp://127.0.0.1:*",))


def test_who_does_not_answer_for_want_of_descriptors_says_that(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(number: int, what: str) -> None:
        if "a connection at" in what:
            raise DescriptorsError(what)

    monkeypatch.setattr("agentkd.exchange.descriptors.must_have", none_left)
    with pytest.raises(DescriptorsError, match="ulimit -n"):
        Post(new_key_pair(), print, bind=("tcp://127.0.0.1:*",))
