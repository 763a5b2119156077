"""How a run stands, from its folder alone: what is done, what goes on, who holds the folder, what is left. Nothing is changed."""

import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from agentkd.artifacts.journal import Journal
from agentkd.artifacts.run_folder import RunFolder, RunLock
from agentkd.checks.room import gib
from agentkd.coordinator.generations import present
from agentkd.coordinator.run import describe_step, read_run
from agentkd.errors import AgentKDError, ConfigError
from agentkd.experiment import Experiment
from agentkd.names import TaskKey
from agentkd.networks.families import title
from agentkd.pipeline.plan import Outlook, Planner
from agentkd.pipeline.remaining import Left, pace_of, remaining, seconds_left
from agentkd.pipeline.stages import PlannedTask
from agentkd.report.closing import SHOWN, NextStep
from agentkd.report.live import left_text, searched_text
from agentkd.report.texts import measure_shown
from agentkd.task import Training

MAX_DEPTH = 3
"""How far below a folder runs are looked for."""
MAX_WANTED = 5


class RunState(StrEnum):
    """What a run folder is doing."""

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"
    COMMUNITY = "community"
    REPLAY = "replay"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Begun:
    """A task that is wanted now.

    Args:
        epochs_done: of its epochs, as the last checkpoint has it; ``None`` if it has none.
    """

    key: TaskKey
    label: str
    epochs: int
    epochs_done: int | None = None

    def __str__(self) -> str:
        if self.epochs_done is None:
            return self.label
        return f"{self.label} (checkpoint after epoch {self.epochs_done} of {self.epochs})"


@dataclass(frozen=True)
class RunStanding:
    """How a run stands.

    Args:
        holder: the process that works in the folder now; 0 if it is not known which.
        num_expected: tasks in all, at most; as many as are recorded in a folder of a community, which has no plan.
        left_s: of time, ``None`` if it is not known.
        rests_on: what that is known from.
        last_at: when a task was recorded last (UTC, ISO 8601).
        wanted: tasks that can be done now.
        trials: how far each family's search is, in words.
        problem: why it cannot go on, or cannot be read.
    """

    place: Path
    name: str
    state: RunState
    holder: int | None = None
    num_recorded: int = 0
    num_expected: int = 0
    left_s: float | None = None
    rests_on: str = ""
    last_at: str = ""
    wanted: tuple[Begun, ...] = ()
    left: tuple[Left, ...] = ()
    trials: dict[str, str] = field(default_factory=dict)
    outlook: Outlook | None = None
    problem: str = ""

    @property
    def best(self) -> tuple[str, float] | None:
        """The best network so far, of those that stand for a family after a stage: what it is called, and its score."""
        if self.outlook is None or not self.outlook.rows:
            return None
        if self.outlook.winner is not None:
            return self.outlook.winner.label, self.outlook.winner.result.judged_by
        best = max(self.outlook.rows, key=lambda row: row.entrant.result.judged_by)
        return best.entrant.label, best.entrant.result.judged_by

    @property
    def best_weights(self) -> str:
        """The weights of the best network so far; empty if there is none."""
        rows = self.outlook.rows if self.outlook else ()
        return max(rows, key=lambda row: row.entrant.result.judged_by).entrant.result.weights if rows else ""

    @property
    def measure(self) -> str:
        """What a score is."""
        return str(measure_shown(self.outlook)) if self.outlook else ""

    def as_data(self) -> dict[str, Any]:
        """As plain data."""
        best = self.best
        return {
            "run": str(self.place),
            "name": self.name,
            "state": self.state.value,
            "holder": self.holder,
            "num_recorded": self.num_recorded,
            "num_expected": self.num_expected,
            "left_s": None if self.left_s is None else round(self.left_s, 1),
            "rests_on": self.rests_on,
            "last_at": self.last_at,
            "best": {"label": best[0], "score": round(best[1], 6), "measure": self.measure} if best else None,
            "wanted": [vars(one) for one in self.wanted],
            "left": [{"family": one.family, "stage": one.stage.value, "tasks": one.num_tasks} for one in self.left],
            "trials": self.trials,
            "problem": self.problem,
        }


def standing_of(folder: RunFolder) -> RunStanding:
    """How a run stands, finished or not, while somebody works in it or not.

    Raises:
        ArtifactError: it is no run folder, or damaged.
    """
    lock = RunLock(folder.must_exist())
    holder = (lock.owner or 0) if lock.is_held else None
    with Journal(folder.journal, read_only=True) as journal:
        records = list(journal.records())
        is_experiment = present(journal, [record.task for record in records]) is not None
    last_at = max((record.at for record in records), default="")
    if not is_experiment:
        is_replay = (folder.place / "replay.json").is_file()
        state = RunState.RUNNING if holder is not None else RunState.REPLAY if is_replay else RunState.COMMUNITY
        name = folder.place.absolute().name
        return RunStanding(folder.place, name, state, holder, len(records), len(records), last_at=last_at)
    experiment, planner, outlook, journal = read_run(folder, looks_for_data=False)
    with journal:
        pass  # all of it is read
    num_done = len(outlook.keys & {record.task.key for record in records})
    wanted = tuple(_begun(folder, step) for step in outlook.steps)
    shares = {one.key: one.epochs_done / one.epochs for one in wanted if one.epochs_done and one.epochs}
    left = remaining(planner, outlook, shares)
    pace, num_agents = pace_of((record.task, record.result) for record in records), _num_agents(experiment)
    left_s = seconds_left(experiment, left, pace, num_agents=num_agents)
    return RunStanding(
        folder.place,
        experiment.name,
        _state(outlook, is_held=holder is not None),
        holder,
        num_done,
        num_done + sum(one.num_tasks for one in left),
        left_s=left_s,
        rests_on=f"what {pace.num_tasks:,} tasks of this run took, with {num_agents} at a time" if left_s is not None else "",
        last_at=last_at,
        wanted=wanted,
        left=tuple(left),
        trials=_trials(planner, outlook),
        outlook=outlook,
        problem=outlook.failure,
    )


def _state(outlook: Outlook, *, is_held: bool) -> RunState:
    if outlook.is_finished:
        return RunState.FINISHED
    if is_held:
        return RunState.RUNNING
    return RunState.FAILED if outlook.failure else RunState.STOPPED


def _trials(planner: Planner, outlook: Outlook) -> dict[str, str]:
    return {family: searched_text(trials, planner.experiment.trials(family)) for family, trials in outlook.trials.items()}


def _num_agents(experiment: Experiment) -> int:
    """How many learn at a time, as far as that is known on this machine, which may be another."""
    try:
        return len(experiment.launch.slots)
    except ConfigError:
        return experiment.launch.agents or 1


def _begun(folder: RunFolder, step: PlannedTask) -> Begun:
    epochs = step.task.recipe.epochs if isinstance(step.task, Training) else 0
    return Begun(step.key, describe_step(step), epochs, _epochs_done(folder.checkpoint(step.key)))


def _epochs_done(checkpoint: Path) -> int | None:
    """How many epochs a checkpoint has behind it; ``None`` if there is none that can be read."""
    try:
        with safe_open(checkpoint, framework="numpy") as file:
            told = json.loads((file.metadata() or {})["progress"])
        return len(told["history"])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None


def runs_below(place: Path) -> Iterator[RunFolder]:
    """The run folders in a folder, and so many levels down; itself, if it is one. Links are not followed."""
    waiting = [(place, 0)]
    while waiting:
        here, depth = waiting.pop(0)
        folder = RunFolder(here)
        if folder.journal.is_file():
            yield folder
            continue
        if depth < MAX_DEPTH:
            try:
                waiting += sorted(
                    (Path(entry.path), depth + 1) for entry in os.scandir(here) if entry.is_dir(follow_symlinks=False)
                )
            except OSError:  # a folder that may not be looked into holds no run that could be
                continue


def standing_or_problem(folder: RunFolder) -> RunStanding:
    """The same for a list: a run that cannot be read stands there with the reason."""
    try:
        return standing_of(folder)
    except AgentKDError as error:
        return RunStanding(folder.place, folder.place.absolute().name, RunState.UNREADABLE, problem=str(error).split("\n")[0])


def size_bytes(place: Path) -> int:
    """What all files below a folder take."""
    total = 0
    for here, _, names in os.walk(place):
        for name in names:
            try:
                total += os.lstat(os.path.join(here, name)).st_size  # noqa: PTH118 a hundred thousand of them
            except OSError:  # it was removed meanwhile
                continue
    return total


def must_be_folder(place: Path) -> Path:
    """A folder, if it is one.

    Raises:
        ConfigError: it is none.
    """
    if not place.is_dir():
        raise ConfigError(f"{place} is no folder; name one in which runs lie, as runs does if you say nothing")
    return place


def next_of(standing: RunStanding, run: Path) -> list[NextStep]:
    """What to do with a run that is not finished, or has no report."""
    place, weights = shlex.quote(str(run)), standing.best_weights
    if standing.state is RunState.FINISHED:
        return [NextStep("write the report", f"agentkd report {place}")]
    if standing.state is RunState.RUNNING:
        return [NextStep("see what happens", f"agentkd logs coordinator --run {place} -f")]
    steps = []
    if run.is_dir():
        file = shlex.quote(str(RunFolder(run).experiment))
        steps.append(NextStep("go on with it, or name your own file, with corrections", f"agentkd run {file} --out {place}"))
    steps.append(NextStep("write a report of what there is", f"agentkd report {place}"))
    if weights:
        steps.append(NextStep("see what the best network so far is", f"agentkd show {weights[:SHOWN]} --run {place}"))
    return steps


def listed(standing: RunStanding, size: int) -> list[str]:
    """A standing as a row of a list: run, experiment, state, tasks, best score, of which network, size, when."""
    best = standing.best
    most = f"/{standing.num_expected:,}" if standing.outlook is not None and not standing.outlook.is_finished else ""
    return [
        str(standing.place),
        standing.name,
        standing.problem if standing.state is RunState.UNREADABLE else standing.state.value,
        f"{standing.num_recorded:,}{most}",
        f"{100 * best[1]:.2f} %" if best else "-",
        best[0] if best else "-",
        gib(size),
        standing.last_at or "-",
    ]


def told(standing: RunStanding, run: Path) -> Iterator[str]:
    """A standing in lines, for people, without its table. ``run`` is what was asked about: the folder, or a bundle of it."""
    yield f"{standing.name}: {standing.state}" + (f", {standing.problem}" if standing.problem else "")
    yield f"folder   {run}{_held(standing)}"
    last = f", the last at {standing.last_at}" if standing.last_at else ""
    if standing.outlook is None:
        yield f"tasks    {standing.num_recorded:,} recorded{last}"
        return
    if standing.outlook.is_finished:
        yield f"tasks    all {standing.num_recorded:,} done{last}"
    else:
        yield f"tasks    {standing.num_recorded:,} of at most {standing.num_expected:,} done{last}"
        yield f"time     {_time(standing)}"
    for family, text in standing.trials.items():
        yield f"trials   {title(family)}: {text}"
    yield from (f"begun    {one}" for one in standing.wanted if one.epochs_done is not None)
    waiting = [one for one in standing.wanted if one.epochs_done is None]
    yield from (f"{'now' if standing.holder is not None else 'next':<8} {one}" for one in waiting[:MAX_WANTED])
    if len(waiting) > MAX_WANTED:
        yield f"         and {len(waiting) - MAX_WANTED} more that can be done now"


def _time(standing: RunStanding) -> str:
    if standing.left_s is None:
        return "how much is left is not known before each family has been trained once"
    return f"{left_text(standing.left_s)}, by {standing.rests_on}"


def _held(standing: RunStanding) -> str:
    if standing.holder is None:
        return ", in which nobody works"
    return f", in which process {standing.holder} works" if standing.holder else ", in which a process works"
