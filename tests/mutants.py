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
import hashlib
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from mutating import MODULE, Book, Mutant, import_path, modules, mutants_of, sample

ROOT = Path(__file__).parents[1]
COPIED = ("agentkd", "tests", "examples", "protocols", "docs", "benchmarks")
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
MOST_S = 300.0  # of tests for one change, as long as they took without it
SLOWER = 8.0  # how many times as long before a change counts as one that never ends
AT_LEAST_S = 60.0
FIRST = 12  # so many tests are tried before the modules of all the others are imported
# Of texts, networks, sockets and public data: what they run of these packages others run in a hundredth of the time.
LEFT_OUT = (
    "documents",
    "keys",
    "lying_streams",
    "messages",
    "mutants",
    "networks",
    "post",
    "protocols",
    "real_images",
    "segments",
    "streams",
)


@dataclass(frozen=True)
class Trace:
    """What the unit tests run: by test the functions and how long it took."""

    functions: dict[str, set[tuple[str, str]]]
    seconds: dict[str, float]

    def tests_of(self, mutant: Mutant) -> list[str]:
        """Those that run the changed function, or anything of the module if the change is in none; the quickest first."""

        def runs(ran: set[tuple[str, str]]) -> bool:
            if mutant.function == MODULE:
                return any(module == mutant.module for module, _ in ran)
            return (mutant.module, mutant.function) in ran

        by_time = sorted((test for test, ran in self.functions.items() if runs(ran)), key=self.seconds.__getitem__)
        of_each = {test.partition("[")[0]: test for test in reversed(by_time)}.values()
        order = [*sorted(of_each, key=self.seconds.__getitem__), *by_time]  # first one with each name, whatever its parameters
        chosen, spent = [], 0.0
        for test in dict.fromkeys(order):
            spent += self.seconds[test]
            if chosen and spent > MOST_S:
                break
            chosen.append(test)
        return chosen


class Tracer:
    """A pytest plugin that writes down, for each test, the functions of agentkd that it runs, in any thread."""

    def __init__(self, root: Path, packages: Sequence[str]) -> None:
        self._prefix, self._within = f"{root}/", tuple(f"{root}/agentkd/{package}/" for package in packages)
        self._ran: set[Any] = set()
        self.functions: dict[str, list[tuple[str, str]]] = {}
        self.seconds: dict[str, float] = {}

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        """Called where a function begins; since it returns nothing, for none of its lines."""
        self._ran.add(frame.f_code)

    def pytest_runtest_protocol(self, item: Any) -> None:
        self._ran = set()
        threading.settrace(self._note)
        sys.settrace(self._note)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        found = {
            (code.co_filename.removeprefix(self._prefix), code.co_qualname.partition(".<locals>")[0])
            for code in self._ran
            if code.co_filename.startswith(self._within)
        }
        self.functions[nodeid] = sorted(found)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration


class Copy:
    """A copy of the tree, in which tests run in forks of this process, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        for name in COPIED:
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "Makefile"):
            shutil.copy(ROOT / name, folder / name)

    def run(
        self, arguments: Sequence[str], *, within_s: float, plugin: "Tracer | None" = None, report: Path | None = None
    ) -> int | None:
        """Exit code of pytest, or ``None`` if it did not end in time."""
        child = os.fork()
        if child == 0:
            _test(self.root, arguments, plugin, report)
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                _end_group(child)
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        _end_group(child)
        os.waitpid(child, 0)
        return None

    def trace(self) -> Trace | None:
        """What each unit test runs, kept until the code or a test changes; ``None`` if they fail."""
        kept = Path(tempfile.gettempdir()) / f"agentkd-mutants-{self._digest()}.json"
        if not kept.is_file():
            made = self.root / "trace.json"
            files = sorted((self.root / "tests" / "unit").glob("test_*.py"))
            chosen = [path.relative_to(self.root).as_posix() for path in files if path.stem.removeprefix("test_") not in LEFT_OUT]
            packages = tuple(sorted({Path(module).parts[1] for module in modules(self.root)} | {"datasets"}))
            if self.run([*chosen, "-q"], within_s=3600, plugin=Tracer(self.root, packages), report=made) != 0:
                return None
            shutil.move(made, kept)
        told = json.loads(kept.read_text())
        return Trace({test: {(m, f) for m, f in ran} for test, ran in told["functions"].items()}, told["seconds"])

    def _failed(self) -> str:
        lines = (self.root / "output.txt").read_text(errors="replace").splitlines()
        told = [line.split(" - ")[0] for line in lines if line.startswith(("FAILED ", "ERROR "))]
        return told[0].partition(" ")[2] if told else ""

    def _digest(self) -> str:
        made = hashlib.sha256()
        for path in sorted([*(self.root / "agentkd").rglob("*.py"), *(self.root / "tests").rglob("*.*")]):
            made.update(path.read_bytes() if path.is_file() and path.name != "mutants.toml" else b"")
        return made.hexdigest()[:16]

    def attempt(self, mutant: Mutant, source: str, trace: Trace) -> tuple[str, str]:
        """``killed``, ``survived`` or ``timed out``, and the test that noticed."""
        tests = trace.tests_of(mutant)
        if not tests:
            return "survived", ""
        path = self.root / mutant.module
        path.write_text(mutant.apply(source), encoding="utf-8")
        try:
            for few in (tests[:FIRST], tests[FIRST:]):
                usual_s = sum(trace.seconds[test] for test in few)
                code = self.run([*few, "-x", "-q"], within_s=AT_LEAST_S + SLOWER * usual_s) if few else 0
                if code != 0:
                    return "timed out" if code is None else "killed", self._failed()
            return "survived", ""
        finally:
            path.write_text(source, encoding="utf-8")


def _test(root: Path, arguments: Sequence[str], plugin: Tracer | None, report: Path | None) -> None:
    """Runs pytest in this fork and ends it."""
    code = 99
    try:
        os.setpgid(0, 0)
        os.chdir(root)
        sys.path[:] = import_path(ROOT, root, sys.path)
        os.environ["PYTHONPATH"] = f"{root}:{root / 'tests'}"
        sys.dont_write_bytecode = True
        output = os.open(root / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        import pytest

        code = int(pytest.main([*arguments, "-p", "no:cacheprovider"], plugins=[plugin] if plugin else []))
        if plugin and report:
            report.write_text(json.dumps({"functions": plugin.functions, "seconds": plugin.seconds}))
    finally:
        sys.stdout.flush()
        os._exit(code)


def _end_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


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
            print((copies[0].root / "output.txt").read_text()[-4000:])
            print("the unit tests fail without any change")
            return 2
        print(f"{len(trace.functions)} tests in {time.monotonic() - started:.0f} s", flush=True)
        lost = 0
        if not given.module and not given.again:
            lost = try_named(copies, book, trace)
        table = Table([])
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
    waiting, ready = list(reversed(mutants)), list(copies)

    def one(mutant: Mutant) -> tuple[Mutant, str, str]:
        copy = ready.pop()
        try:
            return mutant, *copy.attempt(mutant, sources[mutant.module], trace)
        finally:
            ready.append(copy)

    with ThreadPoolExecutor(len(copies)) as pool:
        while waiting and time.monotonic() < deadline:
            few = [waiting.pop() for _ in range(min(len(waiting), 4 * len(copies)))]
            yield from pool.map(one, few)


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
