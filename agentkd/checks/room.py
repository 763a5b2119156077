"""Is there memory and disk for what is planned? Estimates: only what surely cannot be is an error."""

import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agentkd.checks.concerns import Concern, refused, warning
from agentkd.checks.fitting import searched_batch, trained_sizes
from agentkd.checks.needs import held_bytes, of_training, pixel_bytes
from agentkd.checks.plan import Exercise, RunPlan
from agentkd.datasets.order import whole_at_once
from agentkd.datasets.samples import Size
from agentkd.datasets.splits import TEST, TRAIN, VALIDATION
from agentkd.errors import ConfigError
from agentkd.launch.devices import cuda_memory_bytes
from agentkd.launch.engines import LOCAL
from agentkd.pipeline.stages import Stage

if TYPE_CHECKING:
    from agentkd.networks.trying import Tried

WHOLE = "data.dataset"
CHECKPOINTS = 3
"""Of each task under way, at most: the last, the one before it, and the one that is being written."""
STATES = 4
"""As large as a network, in each: the network, the best so far, and what the optimizer keeps."""
PROCESS_BYTES = 350 * 2**20
LIMIT_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
MEMORY_FILE = Path("/proc/meminfo")


@dataclass(frozen=True)
class Memory:
    """What a training takes.

    Args:
        least: bytes without which it cannot be.
        likely: bytes that it will take, about.
        exercise: which one, or which a trial is like.
        what: of which sizes.
        place: where in the file that is said.
    """

    least: int
    likely: int
    exercise: Exercise
    what: str
    place: str

    @property
    def advice(self) -> str:
        """What makes it less."""
        if self.place == WHOLE:
            return "write size=WIDTHxHEIGHT there, or cut the images"
        return "write a smaller batch_size, or a smaller crop in views"


@dataclass(frozen=True)
class Disk:
    """What a run writes: bytes at least and at most, and what is free for it."""

    least: int
    most: int
    free: int
    place: Path


def check_memory(plan: RunPlan) -> list[Concern]:
    """Whether each device has the memory for what is learned there."""
    found: list[Concern] = []
    if plan.experiment.launch.engine != LOCAL:
        return found  # its devices are not known here
    try:
        slots = plan.experiment.launch.slots
    except ConfigError as error:
        return [refused(error, "launch.devices")]
    needed = sorted(memory(plan), key=lambda one: one.likely)
    if not needed:
        return []
    for device in dict.fromkeys(slot.device for slot in slots):
        there = host_memory_bytes() if device == "cpu" else cuda_memory_bytes(int(device.partition(":")[2] or 0))
        if there is None:
            continue
        too_much = {one.place: one for one in needed if one.least > there}
        for place, one in too_much.items():
            text = f"{one.exercise.stage} of {one.exercise.family} needs {gib(one.least)} at least ({one.what})"
            found.append(Concern(place, f"{text}, and {device} has {gib(there)}; {one.advice}"))
        if too_much:
            continue
        together = sum(slot.device == device for slot in slots) * needed[-1].likely
        if together > there:
            count = sum(slot.device == device for slot in slots)
            text = f"{count} agents that learn on {device} may need {gib(together)} ({needed[-1].what}), and it has {gib(there)}"
            found.append(warning("launch.devices", f"{text}; name fewer, or write a smaller batch_size or crop"))
    return found


def check_disk(plan: RunPlan) -> list[Concern]:
    """Whether the run's folder has room for what is kept."""
    needed = disk(plan)
    if needed is None:
        return []
    have = f"{gib(needed.free)} are free in {needed.place}; free some, or choose another folder with --out"
    if needed.least > needed.free:
        return [Concern("", f"the run writes {gib(needed.least)} at least, and {have}", is_error=not plan.is_begun)]
    if needed.most > needed.free:
        return [warning("", f"the run may write {gib(needed.most)} (weights, checkpoints, recorded lessons), and {have}")]
    return []


def memory(plan: RunPlan) -> list[Memory]:
    """Of every training that every run has, and of the largest batch that is searched."""
    found = []
    for exercise in plan.exercises:
        tried = plan.tried.get(exercise.family)
        if tried is None or isinstance(tried, ConfigError):
            continue
        batches = [(exercise.recipe.batch_size, exercise.where("batch_size"))]
        if exercise.stage is Stage.BASELINE:
            batches += [(int(size), place) for place, size in searched_batch(plan, exercise.family)]
        for batch, place in batches:
            found += _learning(plan, exercise, tried, batch, place)
        whole = _validated(plan)
        if whole:
            count, size = whole
            needed = held_bytes(exercise.recipe, tried) + count * size[0] * size[1] * pixel_bytes(tried)
            what = f"validation with {count} images of {size[1]}x{size[0]}"
            found.append(Memory(needed, needed, exercise, what, WHOLE))
    return found


def _learning(plan: RunPlan, exercise: Exercise, tried: "Tried", batch: int, place: str) -> list[Memory]:
    found = []
    for height, width in trained_sizes(exercise.recipe, plan.sizes[TRAIN])[-1:]:
        num_teachers = len(plan.families) if exercise.stage is not Stage.BASELINE else 0
        try:
            needed = of_training(exercise.recipe, tried, batch, height, width, num_teachers=num_teachers)
        except ConfigError:
            continue  # other checks say why
        what = f"batches of {batch} at {width}x{height}"
        found.append(Memory(needed.least, needed.likely + PROCESS_BYTES, exercise, what, place))
    return found


def disk(plan: RunPlan) -> Disk | None:
    """What a run writes and what is free, if its folder is known."""
    if plan.folder is None:
        return None
    sizes = {f: tried.state_bytes for f, tried in plan.tried.items() if not isinstance(tried, ConfigError)}
    experiment, again = plan.experiment, plan.experiment.search.confirm * plan.experiment.search.confirm_seeds
    taught = (experiment.round1.students + 1) * (2 if experiment.control else 1)
    weights = experiment.seeds * sum(size * (1 + experiment.trials(family) + again + taught) for family, size in sizes.items())
    kept = CHECKPOINTS * STATES * max(sizes.values(), default=0)
    lessons = int(experiment.launch.max_record_gib * 2**30) if experiment.launch.record_lessons else 0
    place = next(folder for folder in (plan.folder.absolute(), *plan.folder.absolute().parents) if folder.is_dir())
    try:
        slots = len(experiment.launch.slots)
        free = shutil.disk_usage(place).free
    except (ConfigError, OSError):
        return None
    return Disk(sum(sizes.values()), weights + slots * kept + lessons, free, place)


def host_memory_bytes() -> int | None:
    """Bytes that processes here may have in all, swapped out or not; none if the system does not say."""
    try:
        lines = MEMORY_FILE.read_text(encoding="ascii").splitlines()
        told = {name: int(value.split()[0]) * 1024 for name, _, value in (line.partition(":") for line in lines)}
        total = told["MemTotal"] + told.get("SwapTotal", 0)
    except (OSError, ValueError, KeyError, IndexError):
        try:
            total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError):
            return None
    for file in LIMIT_FILES:
        try:
            total = min(total, int(file.read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return total


def gib(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:,.1f} MiB"


def _validated(plan: RunPlan) -> tuple[int, Size] | None:
    """The images that are looked at whole with the most pixels at once: how many, and their size."""
    counts = {
        size: min(whole_at_once(math.prod(size)), max(plan.sizes[VALIDATION][size], 1))
        for size in plan.sizes[VALIDATION] | plan.sizes[TEST]
    }
    return max(((count, size) for size, count in counts.items()), key=lambda one: one[0] * math.prod(one[1]), default=None)
