"""Run folders of experiments whose tasks nobody executed: a plan is played with invented results, which are recorded."""

from pathlib import Path

from planning import Outcome, experiment, invented

from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.run_folder import RunFolder
from agentkd.coordinator import generations, own_parts
from agentkd.names import AgentName
from agentkd.task import TaskResult


def recorded_run(
    place: Path, *, num_tasks: int = 1000, outcome: Outcome = invented, stores: bool = False, **changes: object
) -> RunFolder:
    """A run of the tests' tiny experiment after so many tasks, or to its end. ``stores``: what its tasks made is there."""
    folder, given = RunFolder(place), experiment(**changes)
    own, dataset = own_parts.take_up(given)
    results: dict[str, TaskResult] = {}
    with Journal(folder.journal) as journal:
        journal.begin_sitting({"started_at": "2026-01-01T00:00:00Z"})
        generation, _ = generations.adopt(given, own, dataset, folder, journal, results)
        planner = generation.planner(dataset)
        while len(results) < num_tasks:
            outlook = planner.outlook(results, {})
            generations.note_suggestions(planner.suggestions, journal)
            if outlook.is_finished:
                break
            step = outlook.steps[0]
            made = {"weights": folder.store.put(f"weights of {step.key}".encode())} if stores else {}
            results[step.key] = outcome(step).model_copy(update={"seconds": 2.0, **made})
            label = f"{step.stage} of {step.family}: {step.label}"
            journal.commit(Record(step.task, results[step.key], AgentName("agent-1"), 1, label, at="2026-01-01T00:00:00Z"))
    return folder
