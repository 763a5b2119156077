"""Two runs side by side: what they were asked for, where they ran, what came out. Pure."""

from dataclasses import dataclass
from typing import Any

from agentkd.artifacts.journal import Journal
from agentkd.artifacts.run_folder import RunFolder
from agentkd.names import Digest, TaskKey

Difference = tuple[str, Any, Any]
PROVENANCE = ("agentkd", "code", "project", "packages", "python", "platform", "processor", "cores", "devices", "settings")


@dataclass(frozen=True)
class Same:
    """A task that both runs did: its result in each."""

    task: TaskKey
    label: str
    miou: tuple[float, float]
    weights: tuple[Digest, Digest]

    @property
    def is_identical(self) -> bool:
        """Whether the same weights came out."""
        return self.weights[0] == self.weights[1]


@dataclass(frozen=True)
class Comparison:
    """Two runs.

    Args:
        configuration: (path, in the first, in the second) where the experiments differ.
        environment: the same of code, packages, machine and settings of their last sittings.
        same: tasks that both did.
        only: labels, with mIoU, of the tasks that one of them alone did.
    """

    configuration: tuple[Difference, ...]
    environment: tuple[Difference, ...]
    same: tuple[Same, ...]
    only: tuple[tuple[tuple[str, float], ...], tuple[tuple[str, float], ...]]

    def as_data(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "configuration": [list(difference) for difference in self.configuration],
            "environment": [list(difference) for difference in self.environment],
            "same": [vars(one) | {"is_identical": one.is_identical} for one in self.same],
            "only": [list(listed) for listed in self.only],
        }


def compare(first: RunFolder, second: RunFolder) -> Comparison:
    """Compares two runs.

    Raises:
        ArtifactError: one of the folders holds no run.
    """
    experiments, environments, histories = [], [], []
    for folder in (first, second):
        with Journal(folder.must_exist().journal, read_only=True) as journal:
            experiments.append(journal.get_meta("experiment") or {})
            last = next(reversed(journal.sittings().values()), {})
            environments.append({name: last.get(name) for name in PROVENANCE})
            histories.append({record.task.key: record for record in journal.records()})
    a, b = histories
    same = tuple(
        Same(
            key,
            a[key].label or str(a[key].task.kind),
            (a[key].result.miou, b[key].result.miou),
            (a[key].result.weights, b[key].result.weights),
        )
        for key in a
        if key in b
    )
    only = tuple(
        tuple((record.label or str(record.task.kind), record.result.miou) for key, record in mine.items() if key not in other)
        for mine, other in ((a, b), (b, a))
    )
    return Comparison(
        tuple(differences(experiments[0], experiments[1])),
        tuple(differences(environments[0], environments[1])),
        same,
        (only[0], only[1]),
    )


def differences(a: Any, b: Any, path: str = "") -> list[Difference]:
    """Where two plain values differ: (dotted path, in a, in b); ``None`` where there is nothing.

    Example:
        >>> differences({"x": 1, "y": {"z": 2}}, {"x": 1, "y": {"z": 3}})
        [('y.z', 2, 3)]
    """
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted({*a, *b})
        return [d for k in keys for d in differences(a.get(k), b.get(k), f"{path}.{k}" if path else k)]
    return [] if a == b else [(path, a, b)]
