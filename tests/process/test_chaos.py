"""Ten kills at random; ``make chaos`` does two hundred."""

from pathlib import Path

import pytest
from chaos import KINDS, disturb

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(600)]


def test_ten_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    chaos = disturb(10, seed=1, folder=tmp_path)
    assert chaos.num_kills >= 10 and set(KINDS) <= set(chaos.done)
