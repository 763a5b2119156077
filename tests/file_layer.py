"""Every call of what writes a run's files fails, once and for good: each end is a reason, and goes on when the fault is gone.

    python tests/file_layer.py [--of 5]

Begins again with the library of ``failing.py`` preloaded, and prints for each operation how many calls it makes, and how many
faults were tried.
"""

import argparse
import errno
import itertools
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from failing import VARIABLE, Fault, Kind, Page, begin_again
from torch import nn

from agentkd.agents.recording import Recorder
from agentkd.architecture import Architecture
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.recordings import Told
from agentkd.artifacts.run_folder import RunFolder, RunLock
from agentkd.artifacts.store import Store
from agentkd.canonical import digest_bytes
from agentkd.durable import write_whole
from agentkd.errors import StorageError
from agentkd.exchange.audit import Audit
from agentkd.exchange.keys import load_key_pair, new_key_pair, save_key_pair, write_private
from agentkd.names import NO_DIGEST, AgentName, Digest, TaskKey
from agentkd.task import DataSource, Status, TaskResult, Train
from agentkd.training.checkpoint import Progress, copied, load_checkpoint, write_checkpoint

KEY = TaskKey("ab" * 32)
DATA = bytes(range(256)) * 40
DIGEST = Digest("cd" * 32)
FAULTS = [(errno.EIO, False), (errno.EIO, True), (errno.ENOSPC, False), (errno.ENOSPC, True), (errno.EROFS, True)]
CHANGES = tuple(Kind)
OTHERWISE = 70
MEMORY = Path("/dev/shm")  # where nothing waits for a disk


@dataclass(frozen=True)
class Operation:
    """Something that writes.

    Args:
        begin: what was there before, in a folder.
        act: the operation; it may raise ``StorageError``.
        look: raises, by an assertion, if what is there after a failure is neither as before nor as after.
        after: the same after a success.
    """

    act: Callable[[Path], None]
    after: Callable[[Path], None]
    begin: Callable[[Path], None] = lambda place: None
    look: Callable[[Path], None] = lambda place: None


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 3)


def checkpoint(place: Path, step: int) -> None:
    write_checkpoint(place / "checkpoints" / "c.safetensors", copied(network(), {}, Progress(step=step), task=KEY))


def step_of(place: Path) -> int:
    found = load_checkpoint(place / "checkpoints" / "c.safetensors", network(), {}, task=KEY)
    return found.step if found else 0


def record_lesson(place: Path) -> None:
    store = Store(place / "artifacts")
    recorder = Recorder(place / "checkpoints" / "l.lesson.jsonl", store)
    try:
        for step in range(3):
            recorder.keep(Told(DIGEST, step, digest_bytes(b"%d" % step), NO_DIGEST, 1, 0.1), b"%d" % step)
        recorder.secure()
        recorder.finish()
    finally:
        recorder.close()


def record(seed: int) -> Record:
    task = Train(
        architecture=Architecture(family="unet", num_classes=2), data=DataSource(spec="s", content_digest=DIGEST), seed=seed
    )
    return Record(task, TaskResult(status=Status.COMPLETED, weights=DIGEST), AgentName("ann"), 1)


def commit(place: Path, *seeds: int) -> None:
    with Journal(place / "journal.sqlite") as journal:
        for seed in seeds:
            journal.commit(record(seed))


def recorded(place: Path) -> list[int]:
    if not (place / "journal.sqlite").exists():
        return []
    with Journal(place / "journal.sqlite") as journal:
        journal.must_be_whole()
        return [one.task.seed for one in journal.records()]


def lock(place: Path) -> None:
    with RunLock(RunFolder(place)):
        pass


def receive(place: Path) -> None:
    with Store(place / "artifacts").incoming(digest_bytes(DATA)) as part:
        part.write(0, DATA)
        part.commit()


def sweep(place: Path) -> None:
    RunFolder(place).sweep()
    RunFolder(place).clear(KEY)


def litter(place: Path) -> None:
    left = (f"checkpoints/{KEY}.safetensors", f"checkpoints/{KEY}.said/1.safetensors")
    for name in ("keys/old.json", "artifacts/ab/tmp1.part", *left):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(b"x")


def equal(*allowed: object) -> Callable[[object], None]:
    def check(found: object) -> None:
        assert found in allowed, f"{found!r} is none of {allowed!r}"

    return check


def looked(read: Callable[[Path], object], *allowed: object) -> Callable[[Path], None]:
    return lambda place: equal(*allowed)(read(place))


def write_old(path: Path) -> None:
    path.parent.mkdir()
    write_whole(path, b"old")


def text_of(place: Path) -> bytes:
    return (place / "report" / "table.csv").read_bytes()


def key_is_whole(place: Path) -> bool:
    return not (place / "keys" / "ann.json").exists() or bool(load_key_pair(place / "keys" / "ann.json"))


PAIR = new_key_pair()
OPERATIONS = {
    "a file written whole": Operation(
        begin=lambda place: write_old(place / "report" / "table.csv"),
        act=lambda place: write_whole(place / "report" / "table.csv", b"new" * 2000),
        look=looked(text_of, b"old", b"new" * 2000),
        after=looked(text_of, b"new" * 2000),
    ),
    "an artifact put": Operation(
        act=lambda place: equal(digest_bytes(DATA))(Store(place / "artifacts").put(DATA)),
        look=lambda place: equal(True)(digest_bytes(DATA) not in Store(place / "artifacts") or whole(place)),
        after=lambda place: equal(True)(whole(place)),
    ),
    "an artifact received": Operation(
        act=receive,
        look=lambda place: equal(True)(digest_bytes(DATA) not in Store(place / "artifacts") or whole(place)),
        after=lambda place: equal(True)(whole(place)),
    ),
    "a checkpoint": Operation(
        begin=partial(checkpoint, step=1), act=partial(checkpoint, step=2), look=looked(step_of, 1, 2), after=looked(step_of, 2)
    ),
    "a recording": Operation(act=record_lesson, after=lambda place: None),
    "a new journal": Operation(act=lambda place: commit(place, 1), look=looked(recorded, [], [1]), after=looked(recorded, [1])),
    "a record": Operation(
        begin=lambda place: commit(place, 1),
        act=lambda place: commit(place, 1, 2, 3),
        look=looked(recorded, [1], [1, 2], [1, 2, 3]),
        after=looked(recorded, [1, 2, 3]),
    ),
    "the lock": Operation(act=lock, after=lambda place: None),
    "an audit line": Operation(
        act=lambda place: Audit(place / "logs" / "a.jsonl").note(
            None, kind="weights", digest=DIGEST, size_bytes=1, way="", outcome="served"
        ),
        after=lambda place: None,
    ),
    "a key": Operation(
        act=lambda place: None if (place / "keys" / "ann.json").exists() else save_key_pair(place / "keys" / "ann.json", PAIR),
        look=looked(key_is_whole, True),
        after=looked(key_is_whole, True),
    ),
    "a private file": Operation(
        begin=lambda place: write_private(place / "contact.json", "old"),
        act=lambda place: write_private(place / "contact.json", "new", replace=True),
        look=looked(lambda place: (place / "contact.json").read_text(), "old", "new"),
        after=looked(lambda place: (place / "contact.json").read_text(), "new"),
    ),
    "sweeping": Operation(begin=litter, act=sweep, after=lambda place: equal([])([*place.glob("*/*.*")])),
}


def whole(place: Path) -> bool:
    return Store(place / "artifacts").get(digest_bytes(DATA)) == DATA


def faults(num_calls: int) -> Iterator[Fault]:
    for number, lasts in FAULTS:
        kinds = (Kind.OPEN, Kind.WRITE, Kind.MKDIR) if number == errno.ENOSPC and lasts else CHANGES
        yield from (Fault(kinds, number, nth, lasts) for nth in range(1, num_calls + 1))


def ends_with_reason(act: Callable[[], None]) -> bool:
    """Whether something that is done in a process of its own, as in a run, ends with a reason. Fails if it ends otherwise."""
    child = os.fork()
    if not child:
        status = OTHERWISE
        try:
            act()
            status = 0
        except (StorageError, OSError):
            status = StorageError.exit_code
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    equal(0, StorageError.exit_code)(status)
    return status != 0


def disturbed(page: Page, operation: Operation, place: Path, fault: Fault) -> int:
    """Whether anything failed. Fails with what is not as it must be."""
    place.mkdir()
    operation.begin(place)
    page.arm(place, fault)
    is_told = ends_with_reason(lambda: operation.act(place))
    page.disarm()
    (operation.look if is_told or page.num_failed else operation.after)(place)
    operation.act(place)
    operation.after(place)
    return bool(page.num_failed)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--of", type=int, default=1, help="try one of so many")
    options.add_argument("--only", default="", help="operations whose name has this in it")
    options.add_argument("-v", action="store_true", help="with tracebacks")
    chosen = options.parse_args()
    page, problems = Page(Path(os.environ[VARIABLE])), 0
    with tempfile.TemporaryDirectory(prefix="agentkd-layer-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        for name, operation in OPERATIONS.items():
            if chosen.only and chosen.only not in name:
                continue
            place = Path(folder) / name.replace(" ", "-")
            disturbed(page, operation, place, Fault(CHANGES, errno.EIO, 0))
            num_calls, num_failed = page.num_calls, 0
            for index, fault in enumerate(itertools.islice(faults(num_calls), 0, None, chosen.of)):
                try:
                    num_failed += disturbed(page, operation, place.with_name(f"{place.name}-{index}"), fault)
                except Exception as error:  # each is told, and the next tried
                    problems += 1
                    print(f"PROBLEM: {name}: {fault} ({page.first}): {type(error).__name__}: {error}")
                    if chosen.v:
                        traceback.print_exception(error)
            print(f"{name}: {num_calls} calls, {num_failed} faults")
    print(f"{problems} ends were not as they must be")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main() if VARIABLE in os.environ else begin_again())
