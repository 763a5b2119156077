"""Neural networks as agents that teach each other: knowledge distillation and architecture search, replayable.

The names below are the public API. They are imported when first used, so ``import agentkd`` costs nothing and needs no torch.
They stand here twice: as imports for type checkers and editors, and as a table for the running program, from which
``__all__`` follows. A test fails if the two differ.
"""

import importlib
import sys
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from agentkd import errors as errors
    from agentkd import objectives as objectives
    from agentkd import testing as testing
    from agentkd.architecture import Architecture as Architecture
    from agentkd.artifacts.run_folder import RunFolder as RunFolder
    from agentkd.community.community import Community as Community
    from agentkd.community.education import Educated as Educated
    from agentkd.community.education import education_cycle as education_cycle
    from agentkd.community.futures import Lesson as Lesson
    from agentkd.community.graph import Edge as Edge
    from agentkd.community.graph import TransferGraph as TransferGraph
    from agentkd.community.handles import AgentHandle as AgentHandle
    from agentkd.community.mutual import mutual as mutual
    from agentkd.community.rules import Rules as Rules
    from agentkd.config import load_experiment as load_experiment
    from agentkd.coordinator.run import run_experiment as run_experiment
    from agentkd.coordinator.watching import Silent as Silent
    from agentkd.coordinator.watching import Snapshot as Snapshot
    from agentkd.coordinator.watching import Watcher as Watcher
    from agentkd.datasets.opening import open_dataset as open_dataset
    from agentkd.deploy.loading import load_network as load_network
    from agentkd.errors import AgentKDError as AgentKDError
    from agentkd.errors import AgentLostError as AgentLostError
    from agentkd.errors import ArtifactCorruptError as ArtifactCorruptError
    from agentkd.errors import ArtifactError as ArtifactError
    from agentkd.errors import ArtifactNotFoundError as ArtifactNotFoundError
    from agentkd.errors import ChannelClosedError as ChannelClosedError
    from agentkd.errors import ConfigError as ConfigError
    from agentkd.errors import ContractError as ContractError
    from agentkd.errors import DatasetError as DatasetError
    from agentkd.errors import DescriptorsError as DescriptorsError
    from agentkd.errors import ExchangeError as ExchangeError
    from agentkd.errors import InfeasibleArchitectureError as InfeasibleArchitectureError
    from agentkd.errors import LaunchError as LaunchError
    from agentkd.errors import LocalProtocolError as LocalProtocolError
    from agentkd.errors import NonFiniteLossError as NonFiniteLossError
    from agentkd.errors import NotRepeatableError as NotRepeatableError
    from agentkd.errors import OutOfMemoryError as OutOfMemoryError
    from agentkd.errors import ProtocolError as ProtocolError
    from agentkd.errors import RemoteAgentError as RemoteAgentError
    from agentkd.errors import RemoteProtocolError as RemoteProtocolError
    from agentkd.errors import ReplyTimeoutError as ReplyTimeoutError
    from agentkd.errors import ResultError as ResultError
    from agentkd.errors import SearchError as SearchError
    from agentkd.errors import StorageError as StorageError
    from agentkd.errors import TaskCancelledError as TaskCancelledError
    from agentkd.errors import ThreadsError as ThreadsError
    from agentkd.errors import TrainingError as TrainingError
    from agentkd.errors import UnusableError as UnusableError
    from agentkd.experiment import Experiment as Experiment
    from agentkd.networks.segmenter import Segmenter as Segmenter
    from agentkd.objectives import Attention as Attention
    from agentkd.objectives import Boundary as Boundary
    from agentkd.objectives import ChannelWise as ChannelWise
    from agentkd.objectives import Dist as Dist
    from agentkd.objectives import Dkd as Dkd
    from agentkd.objectives import Features as Features
    from agentkd.objectives import Ifvd as Ifvd
    from agentkd.objectives import Own as Own
    from agentkd.objectives import Pairwise as Pairwise
    from agentkd.objectives import Payload as Payload
    from agentkd.objectives import SoftTargets as SoftTargets
    from agentkd.pipeline.plan import Outlook as Outlook
    from agentkd.recipe import Distillation as Distillation
    from agentkd.recipe import Recipe as Recipe
    from agentkd.recipe import ViewSettings as ViewSettings
    from agentkd.task import Competence as Competence
    from agentkd.task import TaskResult as TaskResult
else:  # a checker that saw this __getattr__ would take any name for one that there is
    _PLACES = {
        "agentkd": "errors objectives testing",
        "agentkd.coordinator.run": "run_experiment",
        "agentkd.coordinator.watching": "Silent Snapshot Watcher",
        "agentkd.architecture": "Architecture",
        "agentkd.artifacts.run_folder": "RunFolder",
        "agentkd.community.community": "Community",
        "agentkd.community.education": "Educated education_cycle",
        "agentkd.community.futures": "Lesson",
        "agentkd.community.graph": "Edge TransferGraph",
        "agentkd.community.handles": "AgentHandle",
        "agentkd.community.mutual": "mutual",
        "agentkd.community.rules": "Rules",
        "agentkd.config": "load_experiment",
        "agentkd.experiment": "Experiment",
        "agentkd.datasets.opening": "open_dataset",
        "agentkd.deploy.loading": "load_network",
        "agentkd.errors": (
            "AgentKDError AgentLostError ArtifactCorruptError ArtifactError ArtifactNotFoundError ChannelClosedError "
            "ConfigError ContractError DatasetError DescriptorsError ExchangeError InfeasibleArchitectureError LaunchError "
            "LocalProtocolError NonFiniteLossError NotRepeatableError OutOfMemoryError ProtocolError RemoteAgentError "
            "RemoteProtocolError ReplyTimeoutError ResultError SearchError StorageError TaskCancelledError ThreadsError "
            "TrainingError UnusableError"
        ),
        "agentkd.networks.segmenter": "Segmenter",
        "agentkd.objectives": "Attention Boundary ChannelWise Dist Dkd Features Ifvd Own Pairwise Payload SoftTargets",
        "agentkd.pipeline.plan": "Outlook",
        "agentkd.recipe": "Distillation Recipe ViewSettings",
        "agentkd.task": "Competence TaskResult",
    }
    _PLACE_OF = {name: place for place, names in _PLACES.items() for name in names.split()}
    __all__ = [*sorted(_PLACE_OF), "__version__"]

    def __getattr__(name: str) -> object:
        place = _PLACE_OF.get(name)
        if place is None:
            text = f"module 'agentkd' has no attribute {name!r}; it has {', '.join(sorted(_PLACE_OF))}"
            raise AttributeError(text, name=name, obj=sys.modules[__name__])
        if place == __name__:
            return importlib.import_module(f"{place}.{name}")
        return getattr(importlib.import_module(place), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
