"""Two runs side by side: what they were asked for, where they ran, what came out. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.making import made_of
from agentkd.artifacts.own_code import named, source
from agentkd.artifacts.run_folder import RunFolder
from agentkd.names import Digest, TaskKey
from agentkd.task.judging import measure_of

Difference = tuple[str, Any, Any]
PROVENANCE = ("agentkd", "code", "project", "packages", "python", "platform", "processor", "cores", "devices", "settings")


@dataclass(frozen=True)
class Score:
    """The scores of a task."""

    miou: float
    accuracy: float | None = None


@dataclass(frozen=True)
class Same:
    """A task that both runs did: its result in each."""

    task: TaskKey
    label: str
    miou: tuple[float, float]
    weights: tuple[Digest, Digest]
    accuracy: tuple[float | None, float | None] = (None, None)

    @property
    def text(self) -> str:
        """What both are compared by, for people."""
        ours, theirs = map(Score, self.miou, self.accuracy)
        measure = measure_of([ours, theirs])
        return f"{measure.text(ours)} | {100 * measure.must_be_of(theirs):.2f} %"

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
        own_code: the same of the code of own networks, data and objectives: by what names it, its digests; and by file where
            both have one and the texts are at hand, how many lines.
        same: tasks that both did.
        only: labels, with the score (mIoU, or a classifier's accuracy), of the tasks that one of them alone did.
    """

    configuration: tuple[Difference, ...]
    environment: tuple[Difference, ...]
    own_code: tuple[Difference, ...]
    same: tuple[Same, ...]
    only: tuple[tuple[tuple[str, float], ...], tuple[tuple[str, float], ...]]

    def as_data(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "configuration": [list(difference) for difference in self.configuration],
            "environment": [list(difference) for difference in self.environment],
            "own_code": [list(difference) for difference in self.own_code],
            "same": [vars(one) | {"is_identical": one.is_identical} for one in self.same],
            "only": [list(listed) for listed in self.only],
        }


def compare(first: RunFolder, second: RunFolder) -> Comparison:
    """Compares two runs.

    Raises:
        ArtifactError: one of the folders holds no run.
    """
    with made_of(first.place, "comparison"):
        return _compared(first, second)


def _compared(first: RunFolder, second: RunFolder) -> Comparison:
    experiments, environments, histories = [], [], []
    for folder in (first, second):
        with Journal(folder.must_exist().journal, read_only=True) as journal:
            experiments.append(journal.get_meta("experiment", dict[str, Any]) or {})
            last = journal.last_sitting()
            environments.append({name: last.get(name) for name in PROVENANCE})
            histories.append({record.task.key: record for record in journal.records()})
    a, b = histories
    same = tuple(
        Same(
            key,
            a[key].label or str(a[key].task.kind),
            (a[key].result.miou, b[key].result.miou),
            (a[key].result.weights, b[key].result.weights),
            (a[key].result.accuracy, b[key].result.accuracy),
        )
        for key in a
        if key in b
    )
    only = tuple(
        tuple(
            (record.label or str(record.task.kind), record.result.judged_by) for key, record in mine.items() if key not in other
        )
        for mine, other in ((a, b), (b, a))
    )
    return Comparison(
        tuple(differences(experiments[0], experiments[1])),
        tuple(differences(environments[0], environments[1])),
        tuple(_own_code((first, a.values()), (second, b.values()))),
        same,
        (only[0], only[1]),
    )


def _own_code(*runs: tuple[RunFolder, Iterable[Record]]) -> Iterator[Difference]:
    """Where the own code of two runs differs, by what names it, and then by file."""
    codes: list[dict[str, list[Digest]]] = []
    for _, records in runs:
        pairs = sorted({pair for record in records for pair in named(record.task)})
        codes.append({name: [code for other, code in pairs if other == name] for name, _ in pairs})
    for name in sorted({*codes[0], *codes[1]}):
        before, after = (found.get(name, []) for found in codes)
        if before == after:
            continue
        yield name, _short(before), _short(after)
        if len(before) == len(after) == 1:
            a, b = (source(code, folder.store) for code, (folder, _) in zip((before[0], after[0]), runs, strict=True))
            changed = [file for file in sorted({*a, *b}) if a and b and a.get(file) != b.get(file)]
            yield from ((f"{name} {file}", _num_lines(a, file), _num_lines(b, file)) for file in changed)


def _short(codes: list[Digest]) -> list[str] | None:
    return [code[:12] or "not kept" for code in codes] or None


def _num_lines(files: dict[str, str], file: str) -> str | None:
    return f"{len(files[file].splitlines())} lines" if file in files else None


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
