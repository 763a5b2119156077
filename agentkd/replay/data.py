"""Which tasks can be replayed with the data that are here. A run that was corrected has had several; old ones may be gone."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from agentkd.artifacts.journal import Journal
from agentkd.artifacts.run_folder import RunFolder
from agentkd.coordinator import generations
from agentkd.coordinator.data_places import NotedData, bases, changed_files, found_here
from agentkd.datasets.opening import open_again
from agentkd.datasets.options import looking_below
from agentkd.datasets.shared import look_in
from agentkd.errors import DatasetError
from agentkd.names import NO_DIGEST, Digest, TaskKey
from agentkd.task import Task


@dataclass(frozen=True)
class Lacking:
    """The tasks whose data are not here as they were.

    Args:
        reasons: of each such task, why.
        said: each reason once, with how many tasks it concerns.
        num_superseded: of these tasks those of before a correction.
        base: the folder below which the other tasks' data are; empty if they are found anyway.
    """

    reasons: dict[TaskKey, str] = field(default_factory=dict)
    said: tuple[str, ...] = ()
    num_superseded: int = 0
    base: str = ""

    def __str__(self) -> str:
        return "; ".join(self.said)


def look_for_data(source: RunFolder, tasks: Iterable[Task]) -> Lacking:
    """Opens the data of each task, where the run says that they may be. Own datasets are left to the agents that run their code.

    Raises:
        ArtifactError: what the run notes cannot be read.
    """
    look_in(source.store.place)
    with Journal(source.journal, read_only=True) as journal:
        places = tuple(bases(journal, source.place))
        now, before = generations.present(journal), generations.earlier(journal)
    noted = {state.data.content_digest: state.data for state in (*before, *([now] if now else [])) if state.data}
    present = now.data.content_digest if now and now.data else NO_DIGEST
    by_data: dict[tuple[str, Digest], list[Task]] = {}
    for task in tasks:
        if not task.data.code:
            by_data.setdefault((task.data.spec, task.data.content_digest), []).append(task)
    wanted = sorted(by_data, key=lambda one: one[1] != present)  # what the run stands for comes first
    base = next((found for spec, digest in wanted if (found := _base(spec, digest, places)) is not None), "")
    reasons: dict[TaskKey, str] = {}
    num_superseded = 0
    with looking_below(base):
        for (spec, digest), concerned in by_data.items():
            reason = _missing(spec, digest, noted.get(digest), source)
            if reason:
                reasons |= dict.fromkeys((task.key for task in concerned), reason)
                num_superseded += len(concerned) if present and digest != present else 0
    counts = Counter(reasons.values())
    said = tuple(f"{reason} ({count} task{'s' if count != 1 else ''})" for reason, count in counts.items())
    return Lacking(reasons, said, num_superseded, base)


def _base(spec: str, digest: Digest, places: tuple[str, ...]) -> str | None:
    """Below which folder the data are as they were; ``None`` if nowhere."""
    opened, base, _ = found_here(spec, digest, iter(places))
    return base if opened is not None else None


def _missing(spec: str, digest: Digest, noted: NotedData | None, source: RunFolder) -> str:
    """Why the data are not here as they were; empty if they are."""
    try:
        opened = open_again(spec, NO_DIGEST)
    except DatasetError as error:
        return str(error)
    if opened.digest == digest:
        return ""
    what = changed_files(source.store, noted, opened) if noted else "its content is not what it was then"
    return f"{spec}: {what}; to replay with it as it was, stand in a folder without it and name one that has it in AGENTKD_DATA"
