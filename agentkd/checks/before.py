"""Everything that can be known before anything starts: the checks in their order, and what came of them, all at once.

Nothing here starts an agent or writes a file. A check is a row of ``CHECKS``: a function from the plan to what is wrong with it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentkd import __version__
from agentkd.artifacts.journal import Journal
from agentkd.artifacts.run_folder import RunFolder
from agentkd.canonical import digest
from agentkd.checks import balance, data, fitting, launching, needs, pretrained, room, searching, spaces
from agentkd.checks.concerns import Concern, raise_errors
from agentkd.checks.plan import RunPlan, gather_own
from agentkd.config import Read, look_through, open_data, read_experiment
from agentkd.datasets.opening import Opened
from agentkd.datasets.splits import some
from agentkd.errors import AgentKDError, ConfigError
from agentkd.experiment import Experiment
from agentkd.launch import placement
from agentkd.launch.devices import parse_devices
from agentkd.launch.engines import LOCAL
from agentkd.names import NO_DIGEST, Digest
from agentkd.networks import families
from agentkd.pipeline.counting import task_counts

Check = Callable[[RunPlan], list[Concern]]

LOOKED_AT = "looked_at"
"""Under this a run's journal notes what was found to be sound, by ``Foreseen.key``."""

# Each with the parts of the file that it is of no use to look at if they are wrong by themselves, and with whether it tries
# networks, for which torch is loaded: a run that goes on as it was found sound does without.
CHECKS: tuple[tuple[Check, frozenset[str], bool], ...] = (
    (data.check_notices, frozenset(), False),
    (data.check_labels, frozenset({"data"}), False),
    (data.check_roles, frozenset(), False),
    (balance.check_balance, frozenset({"recipe", "round1", "round2", "search", "data"}), False),
    (fitting.check_batches, frozenset({"recipe", "round1", "round2"}), True),
    (fitting.check_networks, frozenset({"recipe", "round1", "round2"}), True),
    (fitting.check_taps, frozenset(), True),
    (fitting.check_compiled, frozenset({"recipe", "round1", "round2", "search"}), False),
    (pretrained.check_weights, frozenset(), False),
    (spaces.check_recipe_spaces, frozenset(), False),
    (spaces.check_architecture_spaces, frozenset(), True),
    (spaces.check_built_spaces, frozenset({"recipe", "round1", "round2"}), True),
    (launching.check_launch, frozenset({"launch"}), False),
    (searching.check_latency, frozenset({"search", "select", "launch"}), False),
    (room.check_memory, frozenset({"recipe", "round1", "round2", "launch"}), True),
    (room.check_disk, frozenset({"launch"}), True),
)


@dataclass(frozen=True)
class Foreseen:
    """What is planned, and what is wrong with it.

    Args:
        source: the file.
        plan: none if too little of the file is right.
        concerns: errors first.
    """

    source: str
    plan: RunPlan | None
    concerns: tuple[Concern, ...]

    @property
    def key(self) -> Digest:
        """What was looked at: the experiment, its own code, its data, and by which version."""
        return _key(self.plan) if self.plan else NO_DIGEST

    @property
    def warnings(self) -> tuple[Concern, ...]:
        """What may be meant."""
        return tuple(concern for concern in self.concerns if not concern.is_error)

    @property
    def dataset(self) -> Opened:
        """The data of a plan that can be carried out."""
        assert self.plan is not None and self.plan.dataset is not None
        return self.plan.dataset

    def must_be_sound(self) -> RunPlan:
        """The plan, if it can be carried out.

        Raises:
            ConfigError: all that is wrong with it.
        """
        raise_errors(self.concerns, source=self.source)
        if self.plan is None or self.plan.dataset is None:
            raise ConfigError("nothing can be planned", source=self.source)
        return self.plan


def look_at_file(file: str | Path, overrides: Sequence[str] = (), out: Path | None = None, *, in_full: bool = True) -> Foreseen:
    """Everything about an experiment file, its data and its networks that can be known.

    Args:
        file: of the experiment.
        overrides: ``a.b=value`` texts.
        out: folder of the run; by default ``runs/NAME``.
        in_full: whether networks are tried again for a run that goes on as it was found sound.

    Raises:
        ConfigError: the file cannot be read, or is no mapping.
    """
    told = read_experiment(file, overrides)
    section = told.get("data")
    launch = told.get("launch")
    devices = launch.get("devices") if isinstance(launch, dict) else None
    return _look(look_through(told), section if isinstance(section, dict) else {}, str(file), out, devices, in_full=in_full)


def look_at(experiment: Experiment, out: Path | None = None, *, in_full: bool = True) -> Foreseen:
    """The same of an experiment that was read already."""
    section = experiment.data.canonical()
    return _look(Read(experiment), section, experiment.name, out, experiment.launch.devices, in_full=in_full)


def run_folder(experiment: Experiment) -> Path:
    """Where an experiment is run if nothing else is said."""
    return Path("runs") / experiment.name


def describe(plan: RunPlan) -> list[str]:
    """What is planned, for people: families, data, tasks, agents, disk and memory."""
    experiment = plan.experiment
    lines = [f"{experiment.name}: run folder {plan.folder}"]
    for family in plan.families:
        tried = plan.tried[family]
        size = "" if isinstance(tried, ConfigError) else f", {tried.trainable_bytes // needs.FLOAT:,} parameters"
        lines.append(f"family   {families.title(family)} ({family}){size}")
    if plan.dataset:
        counts = ", ".join(f"{role} {len(plan.split(role)):,}" for role in ("train", "validation", "test"))
        lines.append(f"data     {plan.dataset.name}: {counts} images; {plan.num_classes} classes: {some(plan.dataset.classes)}")
    tasks = task_counts(experiment)
    listed = ", ".join(_counted(count, what) for what, count in tasks.items())
    lines.append(f"tasks    at most {sum(tasks.values()):,}: {listed}")
    try:
        slots = experiment.launch.slots
        learners = f"{len(slots)} that learn" if len(slots) > 1 else "1 that learns"
        lines.append(f"agents   {learners} ({some([slot.device for slot in slots])})")
        launch = experiment.launch
        where = (
            placement.describe(launch.teachers, slots) if launch.engine == LOCAL else f"where the engine {launch.engine} has room"
        )
        lines.append(f"teachers as many as they need, {where}")
    except ConfigError as error:
        lines.append(f"agents   {error}")
    disk = room.disk(plan)
    if disk:
        lines.append(f"disk     {room.gib(disk.most)} at most; {room.gib(disk.free)} are free in {disk.place}")
    needed = max(room.memory(plan), key=lambda one: one.likely, default=None)
    if needed:
        there = room.host_memory_bytes()
        have = f"; this machine has {room.gib(there)}" if there else ""
        lines.append(f"memory   about {room.gib(needed.likely)} an agent ({needed.exercise.family}, {needed.what}){have}")
    return lines


def _counted(count: int, what: str) -> str:
    head, _, rest = what.partition(" ")
    return f"{count:,} {head}{'s' if count != 1 else ''} {rest}".strip()


def _look(read: Read, section: dict[str, Any], source: str, out: Path | None, devices: object, *, in_full: bool) -> Foreseen:
    dataset, problems = open_data(section, says=False)
    concerns = [Concern(problem.path, problem.text) for problem in (*read.problems, *problems)]
    if isinstance(devices, str):  # of the file, for what is left of a wrong one may have the default
        try:
            parse_devices(devices)
        except ConfigError as error:
            concerns.append(Concern("launch.devices", str(error)))
    if read.experiment is None:
        return Foreseen(source, None, _ordered(concerns))
    own, lacking = gather_own(read.experiment, dataset)
    concerns += lacking
    folder = out or run_folder(read.experiment)
    plan = RunPlan(read.experiment, dataset, own, folder, is_begun=RunFolder(folder).journal.is_file())
    touched = read.touched | ({"data"} if problems else frozenset())
    is_known = not in_full and not concerns and _was_sound(plan)
    for check, reads, tries_networks in CHECKS:
        if not touched & reads and not (tries_networks and is_known):
            concerns += check(plan)
    return Foreseen(source, plan, _ordered(concerns))


def _key(plan: RunPlan) -> Digest:
    data = plan.dataset.digest if plan.dataset else NO_DIGEST
    return digest([__version__, plan.experiment.canonical(), plan.own.codes, data])


def _was_sound(plan: RunPlan) -> bool:
    """Whether the same was looked at when the run was begun, or went on."""
    if not plan.is_begun or plan.folder is None:
        return False
    try:
        with Journal(RunFolder(plan.folder).journal, read_only=True) as journal:
            return bool(journal.get_meta(LOOKED_AT, str) == _key(plan))
    except AgentKDError:  # which is told when the run's folder is opened
        return False


def _ordered(concerns: Iterable[Concern]) -> tuple[Concern, ...]:
    """Each once, errors first. What an error says is no warning besides."""
    listed = tuple(dict.fromkeys(concerns))
    errors = [concern for concern in listed if concern.is_error]
    said = [error.text for error in errors]
    return (*errors, *(c for c in listed if not c.is_error and not any(text.startswith(c.text) for text in said)))
