"""Opens, writes, syncs, renames, removals that fail in a small run, one after the other: each end must have a reason, and go on.

    python tests/faults.py 100 [--seed 1]
    python tests/faults.py --every open

A small experiment with a recorded lesson is run again and again. In each run one call on its folder fails (EIO, ENOSPC), or all
from one on (ENOSPC as of a full disk, EROFS as of one that turns read-only), whichever process makes it. The run must end as if
nothing was, or with exit code 16 and a reason, without a traceback; and the same command, with the fault gone, must bring the
table and the weights of the undisturbed run. So many faults are drawn from all points of the undisturbed run; ``--every KIND``
tries all.
"""

import argparse
import contextlib
import errno
import faulthandler
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from experiments import EXPERIMENT, table_of, weights_of, write_experiment
from failing import VARIABLE, Fault, Kind, Page, begin_again
from fork_servers import Keeper

SMALL = {
    "baseline": {"epochs": 1},
    "search": EXPERIMENT["search"] | {"epochs": 1, "trials": 1},
    "round1": {"epochs": 1, "teachers": "best"},
    "round2": {"epochs": 1},
    "launch": {"devices": "cpu:1", "checkpoint_every_s": 0, "record_lessons": True},
}
CHANGES = tuple(Kind)
FULL = (Kind.OPEN, Kind.WRITE, Kind.MKDIR)
ALONE = [(number, (kind,), False) for number in (errno.EIO, errno.ENOSPC) for kind in Kind]
LASTING = [(errno.ENOSPC, FULL, True), (errno.EROFS, CHANGES, True)]
STORAGE = 16
MAX_S = 240


@dataclass(frozen=True)
class End:
    """How a command ended."""

    status: int
    said: str

    @property
    def reason(self) -> str:
        """The line that says why."""
        return next((line for line in reversed(self.said.splitlines()) if line.startswith("error: ")), "")


class Trials:
    """Runs of one small experiment in a folder, of which each can be disturbed."""

    def __init__(self, folder: Path, page: Page) -> None:
        self.folder, self.page = folder, page
        self.experiment = write_experiment(folder, **SMALL)
        calm = self.run(folder / "calm", Fault(CHANGES, errno.EROFS, 0))
        assert calm.status == 0, calm.said
        self.counts, self.num_new, self.num_changes = page.counts, page.num_new, page.num_calls
        self.weights, self.table = weights_of(folder / "calm"), table_of(folder / "calm")
        self.done = Counter[tuple[int, tuple[Kind, ...], bool]]()
        self.ends = Counter[tuple[tuple[int, tuple[Kind, ...], bool], int]]()
        self.numbers = 0

    def run(self, place: Path, fault: Fault | None = None) -> End:
        """``agentkd run`` in this process, with its fork servers kept warm."""
        from agentkd.cli.app import app
        from agentkd.cli.ending import run_to_the_end

        said = io.StringIO()
        faulthandler.dump_traceback_later(MAX_S, exit=True)  # a run that hangs
        if fault is not None:
            self.page.arm(place, fault)
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), logs_as_before():
                status = run_to_the_end(app, ["run", str(self.experiment), "--out", str(place)])
        finally:
            self.page.disarm()
            faulthandler.cancel_dump_traceback_later()
        return End(status, said.getvalue())

    def points(self, of: tuple[int, tuple[Kind, ...], bool]) -> int:
        """How many calls there are in the undisturbed run that could fail so."""
        number, kinds, _ = of
        if number == errno.EROFS:
            return self.num_changes
        counts = self.counts | ({Kind.OPEN: self.num_new} if number == errno.ENOSPC else {})
        return sum(counts[kind] for kind in kinds)

    def disturb(self, of: tuple[int, tuple[Kind, ...], bool], nth: int) -> str:
        """One fault, and the run after it. Returns what is not as it must be."""
        number, kinds, lasts = of
        fault = Fault(kinds, number, nth, lasts)
        place = self.folder / f"run-{self.numbers}"
        self.numbers += 1
        end = self.run(place, fault)
        first, num_failed = self.page.first, self.page.num_failed
        print(f"{fault}: {num_failed} failed, first {first or 'none'}: ended with {end.status} {end.reason}", flush=True)
        self.done[of] += bool(num_failed)
        self.ends[of, end.status] += bool(num_failed)
        problem = self._problem(place, end)
        if not problem:
            shutil.rmtree(place)
            return ""
        return f"{fault} ({first}): {problem}"

    def _problem(self, place: Path, end: End) -> str:
        if end.status not in (0, STORAGE) or (end.status and not end.reason):
            return f"ended with {end.status}: {end.said[-2000:]}"
        if "Traceback" in end.said or [*place.glob("**/agentkd-fault-*")]:
            return f"a traceback: {end.said[-4000:]}"
        again = self.run(place) if end.status or not (place / "report" / "table.csv").exists() else end
        if again.status:
            return f"it does not go on: {again.status}: {again.said[-3000:]}"
        if weights_of(place) != self.weights or table_of(place) != self.table:
            return "other weights, or another table"
        left = [path for pattern in ("checkpoints/*", "**/*.part", "keys/*.json") for path in place.glob(pattern)]
        return f"left behind: {left}" if end.status and left else ""


@contextlib.contextmanager
def logs_as_before() -> Iterator[None]:
    """What a command adds to logging, and to signals, is taken away again."""
    import logging

    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    known = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for handler in set(root.handlers) - set(handlers):
            root.removeHandler(handler)
            with contextlib.suppress(OSError):  # the disk takes no more, and the end of a process does not mind
                handler.close()
        root.setLevel(level)
        for number, was in known.items():
            signal.signal(number, was)


def drawn(trials: Trials, count: int, seed: int) -> Iterator[tuple[tuple[int, tuple[Kind, ...], bool], int]]:
    """So many faults: of each kind in turn, at points that are drawn."""
    random_numbers = random.Random(seed)
    kinds = [*LASTING, *ALONE]
    random_numbers.shuffle(kinds)
    for index in range(count):
        of = kinds[index % len(kinds)]
        yield of, random_numbers.randint(1, max(1, trials.points(of)))


def table(trials: Trials) -> str:
    """What was tried and how it ended, in Markdown."""
    lines = ["| fault | at | points | tried | went on | stopped with 16 |", "|---|---|---|---|---|---|"]
    for of in (*ALONE, *LASTING):
        number, kinds, lasts = of
        at = "/".join(kind.name.lower() for kind in kinds) if len(kinds) < len(Kind) else "any change"
        name = errno.errorcode[number] + (" from there on" if lasts else "")
        ends = (trials.ends[of, 0], trials.ends[of, STORAGE])
        lines.append(f"| {name} | {at} | {trials.points(of)} | {trials.done[of]} | {ends[0]} | {ends[1]} |")
    return "\n".join(lines)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("faults", type=int, nargs="?", default=0)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--every", choices=[kind.name.lower() for kind in Kind], help="all points of a kind, with EIO")
    options.add_argument("--keep", type=Path, help="a folder for the runs that did not end as they must")
    chosen = options.parse_args()
    if VARIABLE not in os.environ:
        return begin_again()
    started = time.monotonic()
    problems = []
    keeper = Keeper()
    with (
        tempfile.TemporaryDirectory(prefix="agentkd-faults-") as folder,
        mock.patch("agentkd.launch.local.ForkServer", keeper.take),
    ):
        try:
            trials = Trials(Path(folder), Page(Path(os.environ[VARIABLE])))
            print(f"undisturbed: {', '.join(f'{count} x {kind.name.lower()}' for kind, count in trials.counts.items())}")
            faults = list(drawn(trials, chosen.faults, chosen.seed))
            if chosen.every:
                kind = Kind[chosen.every.upper()]
                faults += [((errno.EIO, (kind,), False), nth) for nth in range(1, trials.counts[kind] + 1)]
            for of, nth in faults:
                problem = trials.disturb(of, nth)
                if problem:
                    print(f"PROBLEM: {problem}", flush=True)
                    problems.append(problem)
                    if chosen.keep:
                        shutil.copytree(trials.folder / f"run-{trials.numbers - 1}", chosen.keep / f"run-{trials.numbers - 1}")
        finally:
            keeper.close()
        print(table(trials))
    count = sum(trials.done.values())
    print(f"{count} faults in {time.monotonic() - started:.0f} s; {len(problems)} ends were not as they must be")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
