"""Faults at random moments, again and again; the end must be as if nothing was.

    python tests/chaos.py 300 [--seed 1]
    python tests/chaos.py 10 --coordinator --trials 50

Agents, fork servers and coordinators are killed, agents and coordinators stopped for longer than the lease, disks are full,
break or turn read-only (with ``failing.py``, where there is a C compiler), bits flip in checkpoints and unfinished recordings.
Runs the tiny experiment, with recorded lessons, as often as it takes to do so many faults. After each run: the same table and
the same weights as those of an undisturbed run, every task recorded once, every digest sound, and a replay from its records,
with the teachers gone, gives the same weights. Kills only processes that it started itself, by their number.
"""

import argparse
import contextlib
import errno
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from experiments import EXPERIMENT, agentkd, agents_of, command, environment, table_of, weights_of, write_experiment
from failing import VARIABLE, Fault, Kind, Page
from failing import environment as failing_environment

from agentkd.errors import LaunchError, StorageError

LAUNCH = {"devices": "cpu:2", "checkpoint_every_s": 0, "record_lessons": True, "max_attempts": 1000, "lease_s": 4}
LONGER = {"baseline": {"epochs": 20}, "round2": {"epochs": 20}}
MAX_STARTS = 200
PATIENCE_S = 900
STOPPED_S = 6.0  # longer than the lease
WEIGHTS = {
    "agent killed": 6,
    "coordinator killed": 2,
    "fork server killed": 1,
    "agent stopped": 1,
    "coordinator stopped": 1,
    "disk full": 1,
    "disk broken": 1,
    "disk read-only": 1,
    "bit flipped": 3,
}
KINDS = tuple(WEIGHTS)
CHANGES = tuple(Kind)
FULL = (Kind.OPEN, Kind.WRITE, Kind.MKDIR)
DISKS = {
    "disk full": (FULL, errno.ENOSPC, True),
    "disk broken": (CHANGES, errno.EIO, False),
    "disk read-only": (CHANGES, errno.EROFS, True),
}
UNFINISHED = (".safetensors", ".before", ".jsonl")
SOON = 40  # calls on files after which a disk fails, at most


@dataclass
class Chaos:
    """What was done so far."""

    drawn: random.Random
    wanted: int
    kinds: tuple[str, ...] = KINDS
    done: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    starts: int = 0
    stopped: list[psutil.Process] = field(default_factory=list)
    page: Page | None = None
    preloaded: dict[str, str] = field(default_factory=dict)
    first: list[str] = field(init=False)

    def __post_init__(self) -> None:
        if self.page is None:
            self.kinds = tuple(kind for kind in self.kinds if kind not in DISKS)
        self.first = self.drawn.sample(self.kinds, len(self.kinds))  # each once, so that few kills miss none

    @property
    def num_faults(self) -> int:
        return sum(count for what, count in self.done.items() if what in WEIGHTS)

    @property
    def is_enough(self) -> bool:
        """So many faults, and each kind among them."""
        return self.num_faults >= self.wanted and all(self.done[kind] for kind in self.first)

    def run(self, experiment: Path, place: Path) -> None:
        """One run, from its start to its end, however often its coordinator has to be started again."""
        for _ in range(MAX_STARTS):
            self.starts += 1
            process = subprocess.Popen(
                command("run", experiment, "--out", place),
                env=environment(**self.preloaded),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            while process.poll() is None:
                time.sleep(self.drawn.uniform(0.5, 3.0))
                if not self.is_enough:
                    self._disturb(process, place)
            if self.page is not None:
                self.page.disarm()
            assert process.stderr
            said = process.stderr.read().decode(errors="replace")
            for victim in self.stopped:  # one that was stopped before it could ask to die with its parent is still there
                if victim.is_running():
                    victim.kill()
            if process.returncode == 0:
                self.runs += 1
                return
            is_expected = process.returncode in (-signal.SIGKILL, LaunchError.exit_code, StorageError.exit_code)
            assert is_expected and "Traceback" not in said, f"the coordinator ended with {process.returncode}: {said}"
            self.done["started again"] += 1
        raise AssertionError("the run does not come to an end")

    def _disturb(self, process: "subprocess.Popen[bytes]", place: Path) -> None:
        """Kills up to three agents at once, or does another of the kinds of faults; once there are agents."""
        agents = list(agents_of(process.pid).values())
        due = [kind for kind in self.first if not self.done[kind]]
        what = due[0] if due else self.drawn.choices(self.kinds, [WEIGHTS[kind] for kind in self.kinds])[0]
        if not agents:
            return
        if what in ("coordinator killed", "bit flipped"):
            process.kill()
            process.wait()
            psutil.wait_procs(agents, timeout=10)
            self.done[what] += flip_bits(place / "checkpoints", self.drawn) if what == "bit flipped" else 1
            return
        if what == "coordinator stopped":
            process.send_signal(signal.SIGSTOP)
            time.sleep(STOPPED_S)
            process.send_signal(signal.SIGCONT)
            self.done[what] += 1
            return
        if what in DISKS:
            self._fail_disk(what, place)
            return
        is_stop = what == "agent stopped"
        if what == "fork server killed":
            victims = [parent for agent in agents[:1] if (parent := agent.parent()) and parent.pid != process.pid]
        else:
            victims = self.drawn.sample(agents, 1 if is_stop else min(len(agents), self.drawn.randint(1, 3)))
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.send_signal(signal.SIGSTOP if is_stop else signal.SIGKILL)
                self.done[what] += 1
                self.stopped += [victim] if is_stop else []

    def _fail_disk(self, what: str, place: Path) -> None:
        """From some call on, or once, as soon as it comes to that; until the coordinator has ended, or the next such fault."""
        assert self.page is not None
        kinds, number, lasts = DISKS[what]
        self.page.arm(place, Fault(kinds, number, self.drawn.randint(1, SOON), lasts))
        give_up_at = time.monotonic() + STOPPED_S
        while not self.page.num_failed and time.monotonic() < give_up_at:
            time.sleep(0.05)
        self.done[what] += bool(self.page.num_failed)


def flip_bits(folder: Path, drawn: random.Random) -> int:
    """A bit in each of up to three files of unfinished tasks; returns how many there were."""
    files = sorted(
        path for path in folder.glob("*") if path.suffix in (".safetensors", ".before", ".jsonl") and path.stat().st_size
    )
    chosen = drawn.sample(files, min(len(files), drawn.randint(1, 3)))
    for path in chosen:
        data = bytearray(path.read_bytes())
        data[drawn.randrange(len(data))] ^= 1 << drawn.randrange(8)
        path.write_bytes(data)
    return len(chosen)


def disturb(num_faults: int, seed: int, folder: Path, *, kinds: tuple[str, ...] = KINDS, trials: int = 0) -> Chaos:
    """So many faults, however many runs they take. Fails with what is not as it must be."""
    search = {"search": EXPERIMENT["search"] | {"trials": trials}} if trials else {}
    experiment = write_experiment(folder, launch=LAUNCH, **LONGER, **search)
    calm = agentkd("run", experiment, "--out", folder / "calm", timeout_s=PATIENCE_S)
    assert calm.returncode == 0, calm.stderr
    expected, table = weights_of(folder / "calm"), table_of(folder / "calm")
    preloaded = failing_environment(folder) or {}
    page = Page(Path(preloaded[VARIABLE])) if preloaded else None
    chaos = Chaos(random.Random(seed), num_faults, kinds, page=page, preloaded=preloaded)
    while not chaos.is_enough:
        place = folder / f"run-{chaos.runs}"
        chaos.run(experiment, place)
        assert weights_of(place) == expected, "tasks are missing, or other weights came out"
        assert table_of(place) == table
        sound = agentkd("verify", place)
        assert sound.returncode == 0, sound.stdout
        replay = folder / f"replay-{place.name}"
        replayed = agentkd("replay", place, "--from-record", "--allow-code", "--out", replay, timeout_s=PATIENCE_S)
        assert replayed.returncode == 0, replayed.stdout + replayed.stderr
        print(f"{place.name} ended as undisturbed; {chaos.num_faults} faults so far, {chaos.starts} starts", flush=True)
    return chaos


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("faults", type=int)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--coordinator", action="store_true", help="kill nothing but the coordinator")
    options.add_argument("--trials", type=int, default=0, help="trials of each family's search")
    chosen = options.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="agentkd-chaos-") as folder:
        kinds = ("coordinator killed",) if chosen.coordinator else KINDS
        chaos = disturb(chosen.faults, chosen.seed, Path(folder), kinds=kinds, trials=chosen.trials)
    told = ", ".join(f"{count} x {what}" for what, count in sorted(chaos.done.items()))
    print(f"{chaos.runs} runs in {time.monotonic() - started:.0f} s: {told}; every end as undisturbed, all sound, all replayed")
    print(f"0 of {chaos.num_faults} faults lost anything: less than {300 / chaos.num_faults:.1f} % a fault, at 95 % confidence")


if __name__ == "__main__":
    sys.exit(main())
