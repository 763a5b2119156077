"""Faults at random, each kind at least once; ``make chaos`` does three hundred."""

from pathlib import Path

import pytest
from chaos import disturb

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(1500)]


def test_a_dozen_faults_at_random_moments_change_nothing(tmp_path: Path) -> None:
    chaos = disturb(12, seed=1, folder=tmp_path)
    assert chaos.num_faults >= 12 and set(chaos.kinds) <= set(chaos.done)
