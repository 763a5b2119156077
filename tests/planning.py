"""Plans that are played through in a moment: every wanted task has an invented result."""

from collections.abc import Callable, Iterator

import yaml
from experiments import EXPERIMENT

from agentkd.config import check_experiment
from agentkd.coordinator import own_parts
from agentkd.experiment import Experiment
from agentkd.pipeline.plan import Outlook, Planner
from agentkd.pipeline.stages import PlannedTask
from agentkd.task import EpochResult, Status, TaskResult

ONE = {"families": ["tiny_networks:tiny"]}
Outcome = Callable[[PlannedTask], TaskResult]


def experiment(**changes: object) -> Experiment:
    return check_experiment(yaml.safe_load(yaml.safe_dump(EXPERIMENT | changes)), source="test")


def planner(**changes: object) -> Planner:
    given = experiment(**changes)
    own, dataset = own_parts.take_up(given)
    return Planner(given, dataset, own=own)


def invented(step: PlannedTask, miou: float | None = None, **fields: object) -> TaskResult:
    """A plausible result that depends on the task alone."""
    number = int(step.key[:8], 16) / 16**8
    width = int(step.task.architecture.settings["width"])
    value = 0.2 + 0.5 * number if miou is None else miou
    return TaskResult(
        status=Status.COMPLETED,
        weights=step.key[::-1],
        miou=value,
        epochs=1,
        num_parameters_total=width * 110,
        num_parameters_network=width * 105,
        num_parameters_deploy=width * 100,
        num_macs=width * 1000,
        history=(EpochResult(epoch=1, loss=1, miou=value, seconds=1),),
    ).model_copy(update=fields)


def play(
    plan: Planner, outcome: Outcome = invented, pick: Callable[[tuple[PlannedTask, ...]], PlannedTask] = lambda steps: steps[0]
) -> Iterator[Outlook]:
    """Does one wanted task after the other."""
    results: dict[str, TaskResult] = {}
    for _ in range(200):
        outlook = plan.outlook(results)
        yield outlook
        if outlook.is_finished or outlook.failure:
            return
        assert outlook.steps, "nothing is wanted and nothing is finished"
        step = pick(outlook.steps)
        assert step.key == step.task.key and step.key not in results
        results[step.key] = outcome(step)
    raise AssertionError("the experiment does not end")


def end_of(outlooks: Iterator[Outlook]) -> Outlook:
    return list(outlooks)[-1]
