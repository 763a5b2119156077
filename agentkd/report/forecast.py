"""What a run would do, and how long that would take by what is recorded, or timed here. Nothing of a run is made."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentkd.artifacts.journal import Asks, Journal, Record
from agentkd.artifacts.run_folder import RunFolder
from agentkd.canonical import digest_bytes
from agentkd.checks import room
from agentkd.checks.plan import RunPlan
from agentkd.coordinator import choices
from agentkd.coordinator.reusing import lenders
from agentkd.errors import ConfigError
from agentkd.names import Digest
from agentkd.networks.families import title
from agentkd.pipeline.choosing import Answers
from agentkd.pipeline.plan import Planner, recorded_revisions
from agentkd.pipeline.remaining import Left, Pace, pace_of, remaining, seconds_left
from agentkd.pipeline.stages import Stage
from agentkd.report.closing import columns
from agentkd.report.live import clock


@dataclass(frozen=True)
class Forecast:
    """What a run would do.

    Args:
        num_kept: tasks that are recorded and wanted: they are not done again.
        left: what is to be done, at most, by family and stage.
        left_s: how long that takes about, ``None`` if nothing is known of it.
        rests_on: from what that is known; of what is not known, why.
        each_s: of ``left`` how long one task takes, ``None`` where it is not known.
    """

    plan: RunPlan
    num_kept: int
    left: tuple[Left, ...]
    left_s: float | None
    rests_on: str
    each_s: tuple[float | None, ...]

    def as_data(self) -> dict[str, Any]:
        """As plain data."""
        disk, memory = room.disk(self.plan), max(room.memory(self.plan), key=lambda one: one.likely, default=None)
        tasks = [
            {
                "family": one.family,
                "stage": one.stage.value,
                "tasks": one.num_tasks,
                "epochs": one.epochs,
                "seconds_each": None if each is None else round(each, 2),
            }
            for one, each in zip(self.left, self.each_s, strict=True)
        ]
        return {
            "name": self.plan.experiment.name,
            "run": str(self.plan.folder),
            "num_kept": self.num_kept,
            "num_left": sum(one.num_tasks for one in self.left),
            "tasks": tasks,
            "left_s": None if self.left_s is None else round(self.left_s, 1),
            "rests_on": self.rests_on,
            "disk_bytes": disk.most if disk else None,
            "free_bytes": disk.free if disk else None,
            "memory_bytes_an_agent": memory.likely if memory else None,
        }


def forecast(plan: RunPlan, others: Sequence[Path] = (), *, measures: bool = False) -> Forecast:
    """What a run of a plan that can be carried out would do.

    Args:
        plan: that is sound.
        others: run folders whose recorded tasks would be taken over where they are the same.
        measures: whether some steps of each family are timed here if nothing is recorded.

    Raises:
        ArtifactError: a run folder is damaged, or none.
        AgentKDError: as a training that is timed.
    """
    records, asks, answers = _recorded(plan)
    own = {record.task.key for record in records}
    for lender in lenders(others, RunFolder(plan.folder or "")):
        records += [record for record in lender.records() if record.task.key not in own]
    results = {record.task.key: record.result for record in records}
    assert plan.dataset is not None
    revisions = recorded_revisions(record.task for record in records if record.task.key in own)
    planner = Planner(plan.experiment, plan.dataset, _pretrained(plan), plan.own, revisions)
    outlook = planner.outlook(results, asks, answers)
    left = tuple(remaining(planner, outlook))
    num_agents = _num_agents(plan)
    pace = pace_of((record.task, record.result) for record in records)
    sources = [f"what {pace.num_tasks:,} recorded tasks took"] if pace.num_tasks else []
    unknown = [family for family in _unknown(left, pace) if family in planner.families]
    if unknown and measures:
        _time(planner, unknown, pace)
        sources.append(f"some steps of {', '.join(map(title, unknown))} timed here, alone")
    rests_on = f"{' and '.join(sources)}, with {num_agents} at a time"
    each = tuple(pace.seconds(one) for one in left)
    left_s = seconds_left(plan.experiment, left, pace, num_agents=num_agents)
    if left_s is None:
        lacking = ", ".join(map(title, _unknown(left, pace)))
        rests_on = f"nothing is recorded of how long {lacking} takes to train; --measure times some steps here"
    return Forecast(plan, len(outlook.keys & results.keys()), left, left_s, rests_on, each)


def lines(found: Forecast) -> Iterator[str]:
    """A forecast for people: tasks by family and stage, and the time."""
    heads = ["family", "stage", "tasks", "epochs", "each", "together"]
    rows = [
        [
            title(one.family),
            _named(one.stage),
            f"{one.num_tasks:,}",
            f"{one.epochs:,}" if one.epochs else "-",
            "unknown" if each is None else _duration(each),
            "unknown" if each is None else _duration(each * one.num_tasks),
        ]
        for one, each in zip(found.left, found.each_s, strict=True)
    ]
    yield from columns([heads, *rows], right=range(2, 6)) if rows else ()
    if found.num_kept:
        yield f"kept     {found.num_kept:,} recorded tasks, which are not done again"
    if not found.left:
        yield "time     nothing is left to be done"
    elif found.left_s is None:
        yield f"time     unknown: {found.rests_on}"
    else:
        yield f"time     about {_duration(found.left_s)} at most, by {found.rests_on}"


def _recorded(plan: RunPlan) -> tuple[list[Record], Asks, Answers]:
    """What stands in the run's folder."""
    if not plan.is_begun or plan.folder is None:
        return [], {}, {}
    with Journal(RunFolder(plan.folder).journal, read_only=True) as journal:
        return list(journal.records()), journal.asks(), choices.noted(journal)


def _pretrained(plan: RunPlan) -> dict[str, Digest]:
    """As ``generations`` notes them, but nothing is kept."""
    files = {family: Path(config.weights) for family, config in plan.experiment.families.items() if config.weights}
    try:
        return {family: digest_bytes(path.read_bytes()) for family, path in files.items()}
    except OSError as error:
        raise ConfigError(f"families: the weights cannot be read: {error}") from error


def _num_agents(plan: RunPlan) -> int:
    try:
        return len(plan.experiment.launch.slots)
    except ConfigError:
        return plan.experiment.launch.agents or 1


def _unknown(left: Sequence[Left], pace: Pace) -> list[str]:
    """Families that are to be trained and of which it is not known how long that takes."""
    return list(dict.fromkeys(one.family for one in left if one.epochs and pace.seconds(one) is None))


def _time(planner: Planner, families: Sequence[str], pace: Pace) -> None:
    """Times families here, and notes what an epoch takes."""
    from agentkd.coordinator.timing import time_baselines  # needs torch, which a forecast by records does not

    tasks = [planner.families[family].drafts.baseline[1] for family in families]
    for one in time_baselines(tasks, planner.experiment.launch.slots[0]):
        pace.note_epoch(one.family, one.epoch_s)


def _named(stage: Stage) -> str:
    return stage.traits.title


def _duration(seconds: float) -> str:
    return clock(seconds) if seconds >= 10 else f"{seconds:.1f} s"
