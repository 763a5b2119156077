"""Changes the code a little, many times, and says which changes no unit test notices: ``make mutants``.

It works in a copy of the tree. First the unit tests run once, unchanged, and it is noted which functions each of them runs.
Then each change is tried with the tests that run the changed function, the quickest first, until one fails. Changes with a
name (``mutants.toml``) are all tried; of all others as many as there is time for, in an order drawn by lot.

    python tests/mutants.py --minutes 10 --seed 1
    python tests/mutants.py --minutes 5 --module agentkd/training/loop.py

Ends with 1 if a named change survives, or more than a twentieth of the others without a reason in ``mutants.toml``; with 2 if the
tests fail without any change.
"""

import argparse
import contextlib
import importlib
import itertools
import json
import os
import queue
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from mutating import Book, Mutant, modules, mutants_of, sample
from trying import ROOT, Copy, Trace

PRELOADED = (
    "torch",
    "torchmetrics",
    "optuna",
    "torch._dynamo",
    "pydantic",
    "hypothesis",
    "pytest",
    "safetensors.torch",
    "matplotlib.pyplot",
    "rich.progress",
    "typer",
    "jinja2",
    "PIL.Image",
    "yaml",
    "zmq",
    "psutil",
)
ALLOWED = 0.05


@dataclass
class Table:
    """What became of the changes."""

    outcomes: list[tuple[Mutant, str, str]]

    def add(self, mutant: Mutant, outcome: str, reason: str) -> None:
        self.outcomes.append((mutant, "excused" if outcome == "survived" and reason else outcome, reason))

    def share(self) -> float:
        """Of the changes that were tried, those that survived without a reason."""
        return sum(outcome == "survived" for _, outcome, _ in self.outcomes) / max(1, len(self.outcomes))

    def text(self) -> str:
        columns = ("killed", "timed out", "excused", "survived")
        counts: dict[str, Counter[str]] = {}
        for mutant, outcome, _ in self.outcomes:
            counts.setdefault(mutant.package, Counter())[outcome] += 1
        counts["all"] = sum(counts.values(), Counter())
        lines = [f"{'package':<12}{'tried':>8}" + "".join(f"{column:>12}" for column in columns)]
        lines += [
            f"{name:<12}{count.total():>8}" + "".join(f"{count[column]:>12}" for column in columns)
            for name, count in counts.items()
        ]
        return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="time for the changes without a name")
    parser.add_argument("--seed", type=int, default=1, help="which of them, and in which order")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="changes tried at a time")
    parser.add_argument("--module", default="", help="changes of one module, or of those whose path begins so, alone")
    parser.add_argument("--named", action="store_true", help="the changes with a name alone")
    parser.add_argument("--again", type=Path, help="those alone that survived by such a file")
    parser.add_argument("--output", type=Path, help="where to write what became of each change")
    given = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in PRELOADED:
        importlib.import_module(name)
    sources, book = modules(ROOT), Book.read(ROOT / "tests" / "mutants.toml")
    with tempfile.TemporaryDirectory(prefix="agentkd-mutants-") as folder:
        copies = [Copy(Path(folder) / str(number)) for number in range(given.jobs)]
        started = time.monotonic()
        trace = copies[0].trace()
        if trace is None:
            print(copies[0].output())
            print("the unit tests fail without any change")
            return 2
        print(f"{len(trace.functions)} tests in {time.monotonic() - started:.0f} s", flush=True)
        lost, table = 0, Table([])
        with contextlib.ExitStack() as stack:
            for copy in copies:
                stack.enter_context(copy.ready())
            if not given.module and not given.again:
                lost = try_named(copies, book, trace)
            if not given.named:
                try_sampled(copies, sources, book, trace, given, table)
    return report(table, sources, book, given, lost)


def try_named(copies: Sequence[Copy], book: Book, trace: Trace) -> int:
    """Says of each change with a name whether it is noticed; returns how many are not."""
    sources = modules(
        ROOT, sorted({Path(m).parts[1] for m in modules(ROOT)} | {named["package"] for named in book.named if "package" in named})
    )
    mutants = [book.locate(named, sources) for named in book.named]
    names = {id(mutant): named["name"] for mutant, named in zip(mutants, book.named, strict=True)}
    outcomes = []
    for mutant, outcome, test in in_turns(copies, mutants, sources, trace):
        print(f"{outcome:<10} {names[id(mutant)]:<55} {test}", flush=True)
        outcomes.append(outcome)
    lost = outcomes.count("survived")
    print(f"changes with a name: {len(outcomes)}, of them survived {lost}\n", flush=True)
    return lost


def try_sampled(
    copies: Sequence[Copy], sources: dict[str, str], book: Book, trace: Trace, given: argparse.Namespace, table: Table
) -> None:
    every = [m for module, source in sources.items() if Path(module).name not in book.edges for m in mutants_of(module, source)]
    chosen = sample([m for m in every if m.module.startswith(given.module)], given.seed)
    if given.again:
        told = json.loads(given.again.read_text())
        chosen = [m for m in chosen if any(one["change"] == str(m) and one["outcome"] == "survived" for one in told)]
    deadline = time.monotonic() + given.minutes * 60
    for mutant, outcome, _ in in_turns(copies, chosen, sources, trace, deadline=deadline):
        table.add(mutant, outcome, book.reason(mutant))
        if outcome != "killed":
            print(f"{table.outcomes[-1][1]}: {mutant}", flush=True)


def in_turns(
    copies: Sequence[Copy], mutants: Sequence[Mutant], sources: dict[str, str], trace: Trace, *, deadline: float = float("inf")
) -> Iterator[tuple[Mutant, str, str]]:
    """Tries changes, one at a time in each copy, until all are done or the time is over."""
    waiting, ready = iter(mutants), queue.SimpleQueue[Copy]()
    for copy in copies:
        ready.put(copy)

    def one(mutant: Mutant) -> tuple[Mutant, str, str]:
        copy = ready.get()
        try:
            return mutant, *copy.attempt(mutant, sources[mutant.module], trace)
        finally:
            ready.put(copy)

    with ThreadPoolExecutor(len(copies)) as pool:
        tried = {pool.submit(one, mutant) for mutant in itertools.islice(waiting, len(copies))}
        while tried:
            done, tried = wait(tried, return_when=FIRST_COMPLETED)
            if time.monotonic() < deadline:
                tried |= {pool.submit(one, mutant) for mutant in itertools.islice(waiting, len(done))}
            yield from (future.result() for future in done)


def report(table: Table, sources: dict[str, str], book: Book, given: argparse.Namespace, lost: int) -> int:
    if table.outcomes:
        possible = sum(
            len(mutants_of(module, source)) for module, source in sources.items() if Path(module).name not in book.edges
        )
        print(f"\n{table.text()}\n")
        print(f"{len(table.outcomes)} of {possible} changes, seed {given.seed}: {100 * table.share():.1f} % survive unexcused")
        print(f"not tried, because process tests alone run them: {', '.join(book.edges) or 'none'}")
    if given.output:
        told = [{"outcome": outcome, "reason": reason, "change": str(mutant)} for mutant, outcome, reason in table.outcomes]
        given.output.write_text(json.dumps(told, indent=1))
    return int(lost > 0 or table.share() > ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
