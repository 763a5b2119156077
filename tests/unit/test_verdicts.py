"""Where a training that was done again first differs."""

from agentkd.replay.verdicts import first_difference
from agentkd.task import EpochResult

ONE, TWO = "ab" * 32, "cd" * 32


def epochs(*weights: str, loss: float = 0.5) -> list[EpochResult]:
    return [EpochResult(epoch=number, loss=loss, seconds=1.0, weights=digest) for number, digest in enumerate(weights, start=1)]


def test_an_epoch_differs_by_its_loss_or_by_weights_that_both_records_know() -> None:
    then = epochs("", ONE, ONE)
    assert first_difference(then, epochs(TWO, ONE, ONE), (), ()).epoch == 0, "nobody knows the weights of the first"
    assert first_difference(then, epochs(TWO, ONE, TWO), (), ()).epoch == 3
    assert first_difference(then, epochs("", ONE, ONE, loss=0.25), (), ()).epoch == 1
    assert first_difference(then, epochs("", ONE), (), ()).epoch == 3
