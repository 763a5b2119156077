"""For tests of code that uses agentkd: a community in one process, and what an own part must keep to.

Whoever brings an objective, a family, a dataset or a launcher of its own has the same contract to keep as the built-in ones.
Each ``check_`` function raises ``AssertionError`` with what is broken and how it should be.
"""

from agentkd.testing.community import Community
from agentkd.testing.datasets import check_dataset
from agentkd.testing.families import check_family
from agentkd.testing.launchers import check_launcher
from agentkd.testing.objectives import check_objective

__all__ = ["Community", "check_dataset", "check_family", "check_launcher", "check_objective"]
