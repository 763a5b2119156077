"""Replays: tasks of a run are given to agents once more, in a folder of their own, and their results compared with the records.

The run itself is only read. Every replay executes every task; one that was interrupted can be gone on with. Own code runs only
if whoever replays the run allows that, in agents and not in this process.
"""

import itertools
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Literal

from agentkd.artifacts import recordings
from agentkd.artifacts.history import MAX_TRACE, History, read_history, read_losses, read_recordings
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.making import made_of
from agentkd.artifacts.own_code import Listing, codes_of, listed, named
from agentkd.artifacts.run_folder import RunFolder, RunLock, beside
from agentkd.coordinator import generations
from agentkd.coordinator.desk import Done, Order, desk_with_agents
from agentkd.coordinator.run import read_run
from agentkd.coordinator.watching import Silent, Watcher
from agentkd.datasets.options import looking_below
from agentkd.errors import ArtifactError, ArtifactNotFoundError, ConfigError, StorageError
from agentkd.launch.devices import Slot, parse_devices
from agentkd.launch.settings import LaunchConfig
from agentkd.names import NO_DIGEST, Digest, TaskKey
from agentkd.networks import families
from agentkd.replay.data import Lacking, look_for_data
from agentkd.replay.swaps import Swap, swapped
from agentkd.replay.verdicts import Outcome, ReplayReport, Verdict, judge
from agentkd.task import Limited, Status, Task, TaskResult
from agentkd.visible import visible_line

NO_LIMIT = 2.0**30
DECIDED = "that it failed is a recorded decision: {}"
TOO_SLOW = "that it was too slow is what a device of then took: {}"


class TeachersFrom(StrEnum):
    """Who teaches in a replay."""

    RECORD = "from-record"
    LIVE = "live"
    EITHER = "record where there is one"


@dataclass(frozen=True)
class ReplayOptions:
    """What is replayed, and how.

    Args:
        tasks: keys of tasks, or digests of what they made, or the beginnings of these; empty for all.
        teaching: whether lessons are told from their recordings, by teachers, or as it can be.
        swaps: things to be replaced; then only the lessons are replayed that have them.
        tolerance: the largest difference in mIoU that another environment may make.
        reuse: whether a replay in the same folder that was interrupted is gone on with.
        allows_code: whether own code that the run's tasks name is run.
    """

    tasks: tuple[str, ...] = ()
    teaching: TeachersFrom = TeachersFrom.EITHER
    swaps: tuple[Swap, ...] = ()
    devices: str = "auto"
    tolerance: float = 0.01
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    reuse: bool = False
    allows_code: bool = False


def replay(source: RunFolder, out: RunFolder, options: ReplayOptions, watcher: Watcher | None = None) -> ReplayReport:
    """Executes recorded tasks again in ``out`` and compares.

    Raises:
        ConfigError: a task or a swap names nothing, ``out`` holds another replay or, unless it is reused, this one; a network is
            of a revision that is not built here; or own code would have to run, which is not allowed, and then it says which.
        ArtifactError: something that a task needs is not in the run; with ``from-record``: a lesson was not recorded.
    """
    history = read_history(source)
    if not history.by_task:
        raise ArtifactError(f"{source.place} holds no finished task yet, so there is nothing to replay; go on with its run first")
    chosen = _choose(history, options.tasks)
    wanted = _wanted(chosen, history, options)
    _check_revisions(wanted.values())
    taught_live = _check_recordings(source, wanted.values(), options.teaching)
    code = _check_code(source, wanted.values(), options)
    lacking = look_for_data(source, wanted.values())
    if wanted and lacking.reasons.keys() >= {task.key for task in wanted.values()}:
        raise ArtifactError(f"nothing can be replayed, for the data are not here as they were: {lacking}")
    wanted = {key: task for key, task in wanted.items() if task.key not in lacking.reasons}
    if out.place.resolve() == source.place.resolve():
        raise ConfigError(f"{out.place} is the run itself; choose another folder with --out")
    if not wanted:  # every task was decided, and a report is written all the same
        with RunLock(out), Journal(out.journal) as journal:
            _adopt(journal, source, out, options)
    with looking_below(lacking.base):
        done = _execute(source, out, history, wanted, options, watcher or Silent()) if wanted else {}
    verdicts = [_verdict(source, out, record, wanted, done, options, lacking) for record in chosen]
    plan, is_confirmed = ("", True) if options.tasks or options.swaps else _check_plan(source, history)
    swaps = tuple(str(swap) for swap in options.swaps)
    num_new = sum(one.is_new for one in done.values())
    return ReplayReport(
        str(source.place),
        tuple(v for v in verdicts if v),
        plan,
        taught_live,
        is_confirmed,
        swaps,
        num_executed=num_new,
        num_reused=len(done) - num_new,
        code=code,
        lacking=lacking.said,
        num_superseded=lacking.num_superseded,
    )


def _check_revisions(tasks: Iterable[Task]) -> None:
    """Checks that the networks can be built. What an own family's code is trained by, an agent sees.

    Raises:
        ConfigError: this version of agentkd builds another revision of a family.
    """
    for task in tasks:
        for architecture in filter(None, (task.architecture, *(teacher.architecture for teacher in task.taught_by))):
            row = families.FAMILIES.get(architecture.family)
            if row is not None:
                families.check_revision(architecture, row.revision)


def _check_code(source: RunFolder, tasks: Iterable[Task], options: ReplayOptions) -> tuple[Listing, ...]:
    """The own code that will run.

    Raises:
        ConfigError: there is some, and none is allowed to run; or it is named without its source, by a version of before.
        ArtifactError: it is damaged.
    """
    tasks = list(tasks)
    sourceless = sorted({name for task in tasks for name, code in named(task) if not code})
    if sourceless:
        raise ConfigError(
            f"{visible_line(', '.join(sourceless))}: this run is of an older version of agentkd, which kept no source of "
            f"own code, so nobody knows what would run; choose other tasks with --task"
        )
    code = listed(tasks, source.store)
    if code and not options.allows_code:
        lines = "\n".join(f"  {one}" for one in code)
        raise ConfigError(
            f"this replay would run own code of whoever made the run, with all that your account may do:\n{lines}\n"
            "look at it, and if you trust it give the same command with --allow-code"
        )
    return code


def what_runs(source: RunFolder, options: ReplayOptions) -> tuple[Listing, ...]:
    """The own code that a replay would run.

    Raises:
        ConfigError: there is some, and none is allowed to run; or a task or a swap names nothing.
        ArtifactError: it is damaged.
    """
    history = read_history(source)
    return _check_code(source, _wanted(_choose(history, options.tasks), history, options).values(), options)


def _choose(history: History, beginnings: Sequence[str]) -> list[Record]:
    """The records that are meant; with a student of a mutual lesson the others, without whom it cannot be repeated."""
    if not beginnings:
        return list(history.by_task.values())
    chosen = {record.task.key: record for record in (history.find(beginning) for beginning in beginnings)}
    for record in list(chosen.values()):
        for partner in record.task.partner_tasks():
            if partner.key in history.by_task:
                chosen[partner.key] = history.by_task[partner.key]
    return list(chosen.values())


def _wanted(chosen: Iterable[Record], history: History, options: ReplayOptions) -> dict[TaskKey, Task]:
    """What is to be executed, by the key of the recorded task; what failed, or was too slow, is taken as it was decided then."""
    wanted: dict[TaskKey, Task] = {}
    for record in chosen:
        task: Task | None = record.task
        for swap in options.swaps:
            task = swapped(task, swap, history) if task else None
        if task and not _was_decided(record.result):
            wanted[record.task.key] = _to_repeat(task)
    if not wanted and options.swaps:
        raise ConfigError(f"no lesson among the chosen tasks has what --swap {', '.join(map(str, options.swaps))} replaces")
    return wanted


def _was_decided(result: TaskResult) -> bool:
    """Whether something else than the inputs has ended the task: a fault, or the time that the device of then took."""
    return result.status is Status.FAILED or (result.status is Status.INFEASIBLE and result.latency_ms > 0)


def _to_repeat(task: Task) -> Task:
    """The task without a limit that another measurement may find broken; it does the same to the bit."""
    return task.as_decided() if isinstance(task, Limited) else task


def _check_recordings(source: RunFolder, tasks: Iterable[Task], teaching: TeachersFrom) -> int:
    """How many lessons need a teacher.

    Raises:
        ArtifactError: one does, and none is to be there.
    """
    known = read_recordings(source)
    missing = []
    for task in tasks:
        absent = {teacher.weights for teacher in task.taught_by}
        absent -= known.find(task)[1] if teaching is not TeachersFrom.LIVE else set()
        if absent:
            missing.append((task, absent))
    if missing and teaching is TeachersFrom.RECORD:
        task, absent = missing[0]
        raise ArtifactError(
            f"{len(missing)} of the lessons were not recorded as they are wanted, for instance task {task.key[:12]} by "
            f"{', '.join(weights[:12] for weights in sorted(absent))}; leave --from-record out to have teachers asked "
            f"(launch.record_lessons records them)"
        )
    return len(missing)


def _execute(
    source: RunFolder,
    out: RunFolder,
    history: History,
    wanted: dict[TaskKey, Task],
    options: ReplayOptions,
    watcher: Watcher,
) -> dict[TaskKey, Done]:
    """What was done, by the key of the task as it is wanted."""
    labels = {task.key: history.by_task[key].label or task.kind for key, task in wanted.items()}
    results: dict[TaskKey, Done] = {}
    slots, launch = _slots(options.devices, wanted.values()), options.launch.replace(max_record_gib=NO_LIMIT)
    with desk_with_agents(out, slots, launch, watcher, is_forgiving=True) as desk:
        _adopt(desk.journal, source, out, options)
        left = [task for task in wanted.values() if desk.journal.find(task.key) is None]
        for task in left:
            _lend(source, out, task)
        if left and options.teaching is not TeachersFrom.LIVE:
            for record in history.by_task.values():
                _lend_recording(source, out, record)
                desk.crew.note(record.task, record.result)
        desk.submit(Order(task, labels[task.key]) for task in wanted.values())
        while len(results) < len(labels):
            for done in desk.turn():
                results[done.task.key] = done
                if done.is_new:
                    watcher.tell(f"replayed {done.label}, {len(labels) - len(results)} left")
    return results


def _slots(devices: str, tasks: Iterable[Task]) -> tuple[Slot, ...]:
    """Room for the agents, enough for those that must learn side by side."""
    slots = parse_devices(devices)
    together = max((1 + len(task.partner_tasks()) for task in tasks), default=1)
    if len(slots) < together:
        raise ConfigError(f"{together} students teach each other and need as many agents; give --devices cpu:{together}")
    return slots


def _adopt(journal: Journal, source: RunFolder, out: RunFolder, options: ReplayOptions) -> None:
    """Takes a folder for this replay. A run is known by its first record, wherever it lies."""
    with Journal(source.journal, read_only=True) as recorded:
        first = next((row.digest for row in recorded.rows()), NO_DIGEST)
    meant = {"of": first, "teaching": str(options.teaching)}
    noted = journal.get_meta("replay", dict[Literal["of", "teaching"], str])
    is_empty = not any(True for _ in journal.rows())
    if noted is None and is_empty and journal.get_meta("experiment") is None:
        journal.set_meta("replay", meant)
    elif noted == meant and not options.reuse and not is_empty:
        raise ConfigError(
            f"{out.place} holds this replay already, and a replay executes every task; go on with it by --reuse, or choose "
            f"another folder with --out"
        )
    elif noted != meant:
        what = (
            f"another replay ({noted.get('teaching')}, of a run that begins with {noted.get('of', '')[:12]})"
            if noted
            else "a run of its own"
        )
        raise ConfigError(f"{out.place} holds {what}; choose another folder with --out")


def _lend(source: RunFolder, out: RunFolder, task: Task) -> None:
    """Has in the replay's store what a task reads. Teachers that are told from a recording need not be there."""
    taught = {teacher.weights for teacher in task.taught_by}
    for what, digest in task.references():
        try:
            _link(source, out, digest)
        except ArtifactNotFoundError:
            if digest not in taught:
                lacking = f"task {task.key[:12]} {what} {digest[:12]}, which is not in {source.place}"
                text = f"{lacking}: left out of a bundle, or removed; choose other tasks with --task"
                raise ArtifactError(text) from None


def _lend_recording(source: RunFolder, out: RunFolder, record: Record) -> None:
    exchange = record.result.exchange
    if exchange is None or not exchange.record or exchange.record not in source.store:
        return
    _link(source, out, exchange.record)
    for piece in recordings.pieces(recordings.read(source.store, exchange.record)):
        if piece in source.store:
            _link(source, out, piece)


def _link(source: RunFolder, out: RunFolder, digest: Digest) -> None:
    """The same file in both stores; a copy where that cannot be. Files of a store are never written to."""
    there, here = source.store.must_have(digest), out.store.path(digest)
    if here.exists():
        return
    try:
        here.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(there, here)
        except OSError:
            part = here.with_suffix(".part")
            shutil.copyfile(there, part)
            part.replace(here)
    except OSError as error:
        raise StorageError.of(here, error) from error


def _verdict(
    source: RunFolder,
    out: RunFolder,
    record: Record,
    wanted: dict[TaskKey, Task],
    done: dict[TaskKey, Done],
    options: ReplayOptions,
    lacking: Lacking,
) -> Verdict | None:
    key, then = record.task.key, record.result
    label = record.label or str(record.task.kind)
    if absent := lacking.reasons.get(_to_repeat(record.task).key):
        return Verdict(key, label, Outcome.ELSEWHERE, then, reason=absent)
    if key not in wanted:
        if options.swaps:
            return None
        reason = TOO_SLOW.format(then.error_text) if then.latency_ms else DECIDED.format(then.error_code or then.status)
        return Verdict(key, label, Outcome.KEPT, then, reason=reason)
    now = done[wanted[key].key].result
    is_swapped = wanted[key] != _to_repeat(record.task)
    if now.status is Status.FAILED:
        return Verdict(key, label, Outcome.FAILED, then, now, f"{now.error_code}: {now.error_text}")
    losses = _losses(source, then), _losses(out, now)
    swapped = is_swapped or bool(options.swaps)
    verdict = judge(key, label, then, now, tolerance=options.tolerance, losses=losses, is_swapped=swapped)
    return replace(verdict, code=(codes_of(record.task), codes_of(wanted[key])))


def _losses(folder: RunFolder, result: TaskResult) -> list[float]:
    if not result.trace or result.trace not in folder.store:
        return []
    return read_losses(folder.store.get(result.trace, max_bytes=MAX_TRACE))


def _check_plan(source: RunFolder, history: History) -> tuple[str, bool]:
    """Whether the experiment's plan, made again from its records, wants exactly the tasks that were done."""
    with Journal(source.journal, read_only=True) as journal:
        if journal.get_meta("experiment") is None:
            return "", True
    _, _, outlook, opened = read_run(source, trusting=False)
    with opened, made_of(source.place, "plan"):
        results = {key: record.result for key, record in history.by_task.items()}
        before = generations.earlier(opened)
        planned = outlook.keys.union(*(state.planner().outlook(results, state.asks, state.answers).keys for state in before))
    strange = history.by_task.keys() - planned
    of_all = f", in {len(before) + 1} states of the experiment" if before else ""
    if strange:
        return f"{len(strange)} recorded tasks are not among those that the plan wants: {min(strange)[:12]} ...", False
    if outlook.steps:
        return f"unfinished: {len(outlook.steps)} tasks are wanted next", True
    return f"the plan, made again from the records, wants exactly these {len(history.by_task)} tasks{of_all}", True


def default_out(source: Path, swaps: Sequence[Swap], *, reuse: bool = False) -> Path:
    """Beside the run, a new folder for each replay; to go on with one, the newest of those that there are for these swaps.

    Where nothing can be written beside it, in the current folder. New is where nothing stands: what came with somebody's run, a
    link or a folder, is not written to.
    """
    first = beside(source, "-".join(["-replay", *(str(swap).replace("=", "-").replace(":", "-") for swap in swaps)])[:150])
    taken: list[Path] = []
    for number in itertools.count(1):
        place = first if number == 1 else first.with_name(f"{first.name}-{number}")
        if not os.path.lexists(place):
            return taken[-1] if reuse and taken else place
        if not place.is_symlink() and RunFolder(place).journal.is_file():
            taken.append(place)
    raise AssertionError("there are more numbers")
