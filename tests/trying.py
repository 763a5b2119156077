"""Tries changes of the code, each in a fork of a process that has the unit tests ready.

Where a change is in the body of a function, the fork gives that function its changed code, and nothing is imported again, which
saves nearly all of the time. Anywhere else (a default, a constant), and where nothing notices a change of what importing runs, it
is written into a copy of the tree and everything of ours is imported anew.
"""

import contextlib
import faulthandler
import gc
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import IO, Any

from mutating import MODULE, Mutant, codes, import_path, modules

ROOT = Path(__file__).parents[1]
COPIED = ("agentkd", "tests", "examples", "protocols", "docs", "benchmarks", "website")
MOST_S = 300.0  # of tests for one change, as long as they took without it
SLOWER = 8.0  # how many times as long before a change counts as one that never ends
AT_LEAST_S = 60.0
AT_LEAST_READY_S = 5.0  # the same of one test, where nothing is imported
OWN = ("mutants.py", "mutants.toml", "mutating.py", "trying.py")
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
        self._generated: set[str] = set()  # modules of whose classes a method ran that Python wrote, such as a dataclass's
        self.functions: dict[str, list[tuple[str, str]]] = {}
        self.seconds: dict[str, float] = {}

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        """Called where a function begins; since it returns nothing, for none of its lines."""
        self._ran.add(frame.f_code)
        if frame.f_code.co_filename == "<string>":
            self._generated.add(frame.f_globals.get("__file__", ""))

    def pytest_runtest_protocol(self, item: Any) -> None:
        self._ran, self._generated = set(), set()
        threading.settrace(self._note)
        sys.settrace(self._note)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        found = {
            (code.co_filename.removeprefix(self._prefix), code.co_qualname.partition(".<locals>")[0])
            for code in self._ran
            if code.co_filename.startswith(self._within)
        } | {(file.removeprefix(self._prefix), MODULE) for file in self._generated if file.startswith(self._within)}
        self.functions[nodeid] = sorted(found)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration


class Ready:
    """A pytest plugin that, in place of running the tests, waits for changes, and runs chosen tests of each in a fork.

    Args:
        questions: a line for each change: ``path`` and ``function`` that it is in, the changed ``source``, and for each of the
            ``tests`` within how many seconds it must end.
        answers: a line for each: the outcome, and the test that noticed. ``elsewhere`` if it cannot be tried here.
    """

    def __init__(self, root: Path, questions: IO[str], answers: IO[str]) -> None:
        self._root, self._questions, self._answers = root, questions, answers
        self._ran_at_import: set[CodeType] = set()
        sys.settrace(self._note)

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        self._ran_at_import.add(frame.f_code)

    def pytest_runtestloop(self, session: Any) -> bool:
        items = {item.nodeid: item for item in session.items}
        for module in modules(self._root):
            importlib.import_module(module.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
        sys.settrace(None)
        functions: dict[tuple[str, str], list[FunctionType]] = {}
        for one in gc.get_objects():
            if isinstance(one, FunctionType) and one.__code__.co_filename.startswith(f"{self._root}/agentkd/"):
                functions.setdefault((one.__code__.co_filename, one.__code__.co_qualname), []).append(one)
        gc.freeze()
        for line in self._questions:
            asked = json.loads(line)
            bodies = _bodies(functions.get((asked["path"], asked["function"]), []), asked)
            tests = [(items[test], within_s) for test, within_s in asked["tests"]]
            outcome = self._attempt(bodies, tests) if bodies else ("elsewhere", "")
            self._answers.write(json.dumps(outcome) + "\n")
            self._answers.flush()
        return True

    def _attempt(self, bodies: list[tuple[FunctionType, CodeType]], tests: list[tuple[Any, float]]) -> tuple[str, str]:
        reading, writing = os.pipe()
        with tempfile.TemporaryDirectory(prefix="agentkd-mutant-") as folder:
            child = os.fork()
            if child == 0:
                _run_ready(bodies, tests, folder, writing)
            os.close(writing)
            code = _wait(child, sum(within_s for _, within_s in tests))
        with os.fdopen(reading) as told:
            noticed = told.read()
        if code == 0 and any(function.__code__ in self._ran_at_import for function, _ in bodies):
            return "elsewhere", ""
        return "killed" if noticed else "survived" if code == 0 else "timed out", noticed


def _bodies(functions: list[FunctionType], asked: dict[str, Any]) -> list[tuple[FunctionType, CodeType]]:
    """Which functions get which code; none if one of them cannot."""
    changed = codes(asked["source"], asked["path"], asked["function"])
    found = [(function, changed.get(function.__code__.co_firstlineno)) for function in functions]
    bodies = [(function, code) for function, code in found if code is not None and code != function.__code__]
    fits = all(code.co_freevars == function.__code__.co_freevars for function, code in bodies)
    return bodies if fits else []


def _run_ready(bodies: list[tuple[FunctionType, CodeType]], tests: list[tuple[Any, float]], folder: str, told: int) -> None:
    """Runs tests in this fork until one fails or takes too long, and ends it."""
    code = 1
    try:
        os.setpgid(0, 0)
        os.environ["PYTEST_DEBUG_TEMPROOT"] = folder
        for function, body in bodies:
            function.__code__ = body
        tests[0][0].config.pluginmanager.register(_EndsAtFailure(told))
        for (test, within_s), (following, _) in zip(tests, [*tests[1:], (None, 0.0)], strict=True):
            faulthandler.dump_traceback_later(within_s, exit=True)
            test.config.hook.pytest_runtest_protocol(item=test, nextitem=following)
        code = 0
    finally:
        os._exit(code)


class _EndsAtFailure:
    """A pytest plugin that ends the process with the first test that fails, and says which."""

    def __init__(self, told: int) -> None:
        self._told = told

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            os.write(self._told, report.nodeid.encode())
            os._exit(1)


class Copy:
    """A copy of the tree, in which tests run in forks of this process, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        for name in COPIED:
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "Makefile"):
            shutil.copy(ROOT / name, folder / name)
        self._questions: IO[str]
        self._answers: IO[str]

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """As long as this lasts, a process has all tests in its memory."""
        asked, asks = os.pipe()
        told, tells = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(asks)
            os.close(told)
            with os.fdopen(asked) as questions, os.fdopen(tells, "w") as answers:
                _test(self.root, [*self._files(), "-q"], [Ready(self.root, questions, answers)])
        os.close(asked)
        os.close(tells)
        with os.fdopen(asks, "w") as self._questions, os.fdopen(told) as self._answers:
            yield
        _wait(child, 10)

    def _files(self) -> list[str]:
        files = sorted((self.root / "tests" / "unit").glob("test_*.py"))
        return [path.relative_to(self.root).as_posix() for path in files if path.stem.removeprefix("test_") not in LEFT_OUT]

    def run(
        self, arguments: Sequence[str], *, within_s: float, plugins: Sequence[Any] = (), then: Callable[[], None] = lambda: None
    ) -> int | None:
        """Exit code of pytest, or ``None`` if it did not end in time."""
        child = os.fork()
        if child == 0:
            _test(self.root, arguments, plugins, then)
        return _wait(child, within_s)

    def trace(self) -> Trace | None:
        """What each unit test runs, kept until the code or a test changes; ``None`` if they fail."""
        kept = Path(tempfile.gettempdir()) / f"agentkd-mutants-{self._digest()}.json"
        if not kept.is_file():
            made = self.root / "trace.json"
            tracer = Tracer(self.root, tuple(sorted({Path(module).parts[1] for module in modules(self.root)} | {"datasets"})))

            def write() -> None:
                made.write_text(json.dumps({"functions": tracer.functions, "seconds": tracer.seconds}))

            if self.run([*self._files(), "-q"], within_s=3600, plugins=[tracer], then=write) != 0:
                return None
            shutil.move(made, kept)
        told = json.loads(kept.read_text())
        return Trace({test: {(m, f) for m, f in ran} for test, ran in told["functions"].items()}, told["seconds"])

    def output(self) -> str:
        """The last of what pytest has said here."""
        return (self.root / "output.txt").read_text(errors="replace")[-4000:]

    def _failed(self) -> str:
        lines = self.output().splitlines()
        told = [line.split(" - ")[0] for line in lines if line.startswith(("FAILED ", "ERROR "))]
        return told[0].partition(" ")[2] if told else ""

    def _digest(self) -> str:
        made = hashlib.sha256()
        for path in sorted([*(self.root / "agentkd").rglob("*.py"), *(self.root / "tests").rglob("*.*")]):
            made.update(path.read_bytes() if path.is_file() and path.name not in OWN else b"")
        return made.hexdigest()[:16]

    def attempt(self, mutant: Mutant, source: str, trace: Trace) -> tuple[str, str]:
        """``killed``, ``survived`` or ``timed out``, and the test that noticed."""
        tests = trace.tests_of(mutant)
        if not tests:
            return "survived", ""
        outcome, test = self._ask(mutant, source, trace, tests)
        return (outcome, test) if outcome != "elsewhere" else self._attempt_anew(mutant, source, trace, tests)

    def _ask(self, mutant: Mutant, source: str, trace: Trace, tests: list[str]) -> tuple[str, str]:
        if mutant.function == MODULE:
            return "elsewhere", ""
        limits = [(test, AT_LEAST_READY_S + SLOWER * trace.seconds[test]) for test in tests]
        question = {"path": str(self.root / mutant.module), "function": mutant.function, "source": mutant.apply(source)}
        self._questions.write(json.dumps(question | {"tests": limits}) + "\n")
        self._questions.flush()
        answer = self._answers.readline()
        if not answer:
            raise RuntimeError(f"the process with the tests has ended:\n{self.output()}")
        outcome, test = json.loads(answer)
        return outcome, test

    def _attempt_anew(self, mutant: Mutant, source: str, trace: Trace, tests: list[str]) -> tuple[str, str]:
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


def _test(root: Path, arguments: Sequence[str], plugins: Sequence[Any], then: Callable[[], None] = lambda: None) -> None:
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
        import hypothesis
        import pytest

        only = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # the first failure will do, it need not be the smallest
        hypothesis.settings.register_profile("mutants", phases=only, derandomize=True)
        hypothesis.settings.load_profile("mutants")
        code = int(pytest.main([*arguments, "-p", "no:cacheprovider"], plugins=list(plugins)))
        then()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _wait(child: int, within_s: float) -> int | None:
    """Exit code of a child, or ``None`` if it did not end in time; ends what it has left behind."""
    deadline = time.monotonic() + within_s
    done, status = 0, 0
    while not done and time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if not done:
            time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    if not done:
        os.waitpid(child, 0)
        return None
    return os.waitstatus_to_exitcode(status)
