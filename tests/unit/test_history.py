"""What is read from a run's records is what it says it is."""

import numpy as np
import pytest
from safetensors.numpy import save

from agentkd.artifacts.history import read_losses
from agentkd.errors import ArtifactError


def test_a_trace_has_the_loss_of_every_step() -> None:
    assert read_losses(save({"loss": np.array([1.5, 0.25])})) == [1.5, 0.25]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a trace",
        save({"accuracy": np.array([1.5])}),
        save({"loss": np.ones((2, 2))}),
        save({"loss": np.array(1.5)}),
    ],
    ids=["nothing", "something else", "another name", "a table", "a number"],
)
def test_what_is_no_trace_is_told_so(data: bytes) -> None:
    with pytest.raises(ArtifactError, match="not the trace of a training"):
        read_losses(data)
