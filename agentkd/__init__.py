"""Neural networks as agents that teach each other: knowledge distillation and architecture search, replayable.

The names below are the public API. They are imported when first used, so ``import agentkd`` costs nothing and needs no torch.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PLACES = {
    "AgentKDError": "agentkd.errors",
    "Architecture": "agentkd.architecture",
    "Community": "agentkd.community.community",
    "ConfigError": "agentkd.errors",
    "Distillation": "agentkd.recipe",
    "Recipe": "agentkd.recipe",
    "TrainingError": "agentkd.errors",
    "ViewSettings": "agentkd.recipe",
    "load_experiment": "agentkd.config",
    "open_dataset": "agentkd.datasets.opening",
    "Attention": "agentkd.objectives",
    "Boundary": "agentkd.objectives",
    "ChannelWise": "agentkd.objectives",
    "Dist": "agentkd.objectives",
    "Features": "agentkd.objectives",
    "Pairwise": "agentkd.objectives",
    "SoftTargets": "agentkd.objectives",
    "mutual": "agentkd.community.mutual",
    "run_experiment": "agentkd.coordinator.run",
}

__all__ = [*sorted(_PLACES), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'agentkd' has no attribute {name!r}; it has {', '.join(sorted(_PLACES))}")
    return getattr(importlib.import_module(_PLACES[name]), name)
