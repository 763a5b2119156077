"""What a coordinator does a record and an event, as runs grow: planner, dispatcher, journal. CPU time, in one process.

    python benchmarks/scale.py [--sizes 100,1000,10000] [--agents 1000] [--teachers 100]

The plan is played through with invented results, and its trials are drawn by lot (Optuna's sampler has a line of its own).
The last column is the exponent with which the time of all grows with the number of tasks: 1 is the same time for each.
"""

import argparse
import math
import random
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from agentkd.architecture import Architecture
from agentkd.artifacts.journal import Journal, Record
from agentkd.config import check_experiment
from agentkd.coordinator import own_parts
from agentkd.coordinator.dispatch import Dispatcher
from agentkd.coordinator.events import Action, Ended, Event, Joined, Launch, Ready, Start, Teach
from agentkd.names import AgentName, Digest, TaskKey
from agentkd.pipeline import searching
from agentkd.pipeline.plan import Planner
from agentkd.pipeline.stages import PlannedTask
from agentkd.recipe import Distillation
from agentkd.search.space import Choices, Parameter, Values, is_searched
from agentkd.search.study import Suggester, Trial, TrialOutcome
from agentkd.task import DataSource, Distill, EpochResult, Status, Task, TaskResult, TeacherReference, Train

FAMILIES = ("unet", "pidnet_s")
LEARNING_RATE = {"learning_rate": {"low": 0.001, "high": 0.1, "log": True}}
DATA = DataSource(spec="s", content_digest="d")
NETWORK = Architecture(family="unet", num_classes=2)


class Lot(Suggester):
    """Suggests whatever comes, in no time."""

    def _ask(self, seen: Sequence[Trial], pending: Sequence[Trial], number: int) -> Values:
        lot, values = random.Random(number), dict[str, Any]()
        for name, parameter in self._space.items():
            if is_searched(self._space, name, values):
                values[name] = self._draw(lot, parameter)
        return values

    @staticmethod
    def _draw(lot: random.Random, parameter: Parameter) -> Any:
        if isinstance(parameter, Choices):
            return lot.choice(list(parameter.values))
        value = lot.uniform(parameter.low, parameter.high)
        return round(value) if parameter.integer else value


def planner(num_tasks: int) -> Planner:
    search = {"epochs": 1, "trials": num_tasks // len(FAMILIES), "lag": 4, "patience": 0, "recipe_space": LEARNING_RATE}
    given = {
        "name": "scale",
        "data": {"dataset": "generated:seed=1,size=32x32,train=4,validation=2,test=2"},
        "families": list(FAMILIES),
        "search": search | {"max_deploy_ratio": 0, "max_infeasible": num_tasks, "pruning": None},
    }
    experiment = check_experiment(given, source="benchmarks/scale.py")
    own, dataset = own_parts.take_up(experiment)
    return Planner(experiment, dataset, own=own)


def invented(step: PlannedTask) -> TaskResult:
    number, size = (int(step.key[begin : begin + 8], 16) / 16**8 for begin in (0, 8))
    return TaskResult(
        status=Status.COMPLETED,
        weights=Digest(step.key[::-1]),
        miou=number,
        epochs=1,
        num_parameters_total=1000 + int(1000 * size),
        num_parameters_network=1000,
        num_parameters_deploy=1000 + int(1000 * size),
        num_macs=1000,
        history=(EpochResult(epoch=1, loss=1, miou=number, seconds=1),),
    )


def cpu_s(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def planned(num_tasks: int) -> tuple[list[float], list[tuple[Task, TaskResult]]]:
    """Seconds of each outlook, and all that was done."""
    plan, results, done = planner(num_tasks), dict[TaskKey, TaskResult](), list[tuple[Task, TaskResult]]()
    outlook, times = plan.outlook(results), list[float]()
    while not outlook.is_finished:
        step = outlook.steps[len(results) % len(outlook.steps)]
        results[step.key] = invented(step)
        done.append((step.task, results[step.key]))
        started = time.process_time()
        outlook = plan.outlook(results)
        times.append(time.process_time() - started)
    return times, done


def dispatched(num_tasks: int, num_agents: int, num_teachers: int) -> list[float]:
    """Seconds of each event, of which nine in ten are lessons."""
    references = [TeacherReference(architecture=NETWORK, weights=Digest(f"{n:064x}")) for n in range(num_teachers)]
    plain = Train(architecture=NETWORK, data=DATA)
    lessons = [Distill(architecture=NETWORK, data=DATA, teachers=(one,), distillation=Distillation()) for one in references]
    tasks = [(TaskKey(f"{n}"), lessons[n % num_teachers] if lessons and n % 10 else plain) for n in range(num_tasks)]
    dispatcher, lot, times = Dispatcher(num_agents), random.Random(1), list[float]()
    soon, running = deque[Event](), deque[tuple[AgentName, TaskKey, int]]()

    def take(decide: Callable[[], list[Action]]) -> None:
        started = time.process_time()
        actions = decide()
        times.append(time.process_time() - started)
        for action in actions:
            if isinstance(action, Launch):
                soon.append(Joined(action.agent))
            elif isinstance(action, Teach):
                soon.append(Ready(action.agent, action.teacher.weights))
            elif isinstance(action, Start):
                running.append((action.agent, action.task, action.attempt))

    take(lambda: dispatcher.want(tasks))
    while soon or running:
        if not soon:
            running.rotate(-lot.randrange(len(running)))
        event = soon.popleft() if soon else Ended(*running.popleft())
        take(partial(dispatcher.handle, event))
    return times


def asked(num_trials: int) -> float:
    """Seconds of an ask of the sampler after so many trials."""
    plan = planner(2)
    space, lot = plan.families["pidnet_s"].space, random.Random(1)
    values = Lot(space, seed=1)
    trials = [
        Trial(n, values.suggest([], [], number=n), TrialOutcome.COMPLETED, lot.random(), violation=-0.1)
        for n in range(num_trials)
    ]
    suggester = Suggester(space, seed=1)
    suggester.suggest(trials[:-4], [], number=num_trials - 4)
    return statistics.median(cpu_s(partial(suggester.suggest, trials[:-n], [], number=num_trials)) for n in (3, 2, 1))


def commit_all(journal: Journal, done: Sequence[tuple[Task, TaskResult]]) -> None:
    for task, result in done:
        journal.commit(Record(task, result, AgentName("agent-1"), 1, "", ()))


def begin_again(journal: Journal, plan: Planner) -> None:
    plan.outlook({record.task.key: record.result for record in journal.records()})


def growth(sizes: Sequence[int], seconds: Sequence[float]) -> str:
    """The exponent between each size and the next."""
    pairs = zip(sizes, sizes[1:], seconds, seconds[1:], strict=False)
    return ", ".join(f"{math.log(after / before) / math.log(more / few):.2f}" for few, more, before, after in pairs)


def show(name: str, each: Sequence[float], unit: float, sizes: Sequence[int], totals: Sequence[float]) -> None:
    print(f"{name:<34}" + "".join(f"{unit * value:>10.2f}" for value in each) + f"   {growth(sizes, totals)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="100,1000,10000")
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--teachers", type=int, default=100)
    given = parser.parse_args()
    sizes = [int(size) for size in given.sizes.split(",")]
    print(f"{'tasks':<34}" + "".join(f"{size:>10,}" for size in sizes) + "   growth of the whole")
    searching.Suggester = Lot  # type: ignore[misc]
    plans, cold, commits = [], [], []
    with tempfile.TemporaryDirectory(prefix="agentkd-scale-") as scratch:
        for size in sizes:
            times, done = planned(size)
            plans.append(times)
            with Journal(Path(scratch) / f"{size}.sqlite") as journal:
                commits.append(cpu_s(partial(commit_all, journal, done)))
                cold.append(cpu_s(partial(begin_again, journal, planner(size))))
    show("planner, ms a record (median)", [statistics.median(t) for t in plans], 1e3, sizes, [sum(t) for t in plans])
    show("journal, ms a record", [c / s for c, s in zip(commits, sizes, strict=True)], 1e3, sizes, commits)
    show("cold start, s", cold, 1, sizes, cold)
    events = [dispatched(size, given.agents, given.teachers) for size in sizes]
    show(
        f"{given.agents} agents, {given.teachers} teachers: ms an event",
        [statistics.median(t) for t in events],
        1e3,
        sizes,
        [sum(t) for t in events],
    )
    asks = [asked(size) for size in sizes if size <= 1000]
    print(f"{'sampler, ms an ask':<34}" + "".join(f"{1e3 * value:>10.2f}" for value in asks))


if __name__ == "__main__":
    main()
