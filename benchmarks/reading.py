"""What a run of many tasks takes to be read: report, verify, lineage and diff, as processes of their own.

    python benchmarks/reading.py [--sizes 100,1000,10000]

The runs are played through with invented results and trials drawn by lot (see scale.py), in two families; each network's weights
are a file of some hundred bytes. Seconds are CPU seconds of the whole process, Python's start and imports included; the last
column is the exponent with which they grow.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

from scale import Lot, invented, planner, show

from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.run_folder import RunFolder
from agentkd.coordinator import generations
from agentkd.names import AgentName, Digest, TaskKey
from agentkd.pipeline import searching
from agentkd.task import TaskResult


def write_run(place: Path, num_tasks: int) -> Digest:
    """A finished run of so many trials, and what comes after them. Returns the winner's weights."""
    folder, results = RunFolder(place), dict[TaskKey, TaskResult]()
    with patch.object(searching, "Suggester", Lot), Journal(folder.journal) as journal:
        plan = planner(num_tasks)
        generations.adopt(plan.experiment, plan.own, plan.dataset, folder, journal, results)
        journal.begin_sitting({"agentkd": "benchmark"})
        outlook, asks = plan.outlook(results), journal.asks()
        while not outlook.is_finished:
            generations.note_suggestions(plan.suggestions, journal)
            if outlook.asks:
                journal.note_asks(outlook.asks)
                asks = journal.asks()
            step = outlook.steps[0]
            weights = folder.store.put(f"weights of {step.key}\n".encode() * 4)
            results[step.key] = invented(step).replace(weights=weights)
            journal.commit(Record(step.task, results[step.key], AgentName("agent-1"), 1, step.label))
            outlook = plan.outlook(results, asks)
    assert outlook.winner
    return outlook.winner.result.weights


def cpu_s(*arguments: object) -> float:
    """CPU seconds of a command of agentkd."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "agentkd", *map(str, arguments)], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{arguments[0]}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="100,1000,10000")
    sizes = [int(size) for size in parser.parse_args().sizes.split(",")]
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="agentkd-reading-") as scratch:
        for size in sizes:
            run = Path(scratch) / f"{size}"
            weights = write_run(run, size)
            commands = {
                "report": (run,),
                "verify": (run,),
                "lineage": (weights, "--run", run),
                "diff": (run, run),
            }
            for name, arguments in commands.items():
                seconds.setdefault(name, []).append(cpu_s(name, *arguments))
    print(f"{'tasks':<34}" + "".join(f"{size:>10,}" for size in sizes) + "   growth of the whole")
    for name, each in seconds.items():
        show(f"{name}, s", each, 1, sizes, each)


if __name__ == "__main__":
    main()
