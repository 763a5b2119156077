"""What records cost: the same lesson with nothing kept, with the record of its task, and with everything that was told.

    OMP_NUM_THREADS=1 python benchmarks/recording.py

PIDNet-M teaches PIDNet-S in one process, so that nothing but the keeping differs. *Off* keeps weights and losses alone.
*Records* adds what makes a task replayable: the digest of the weights after each epoch, provenance, and the commit to the
journal. *Everything* adds the soft targets of each step. Rounds are interleaved; the table has medians and ratios.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import torch

from agentkd.agents.feeding import DatasetFeed
from agentkd.agents.lessons import DirectLesson, lesson_request, request_digest
from agentkd.agents.recording import Recorder
from agentkd.agents.work import Surroundings, encode_weights, execute
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.provenance import provenance
from agentkd.artifacts.recordings import Told
from agentkd.artifacts.run_folder import RunFolder
from agentkd.datasets.opening import open_dataset
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.recipe import Distillation, Recipe, ViewSettings
from agentkd.task import DataSource, ExchangeSummary, Task, TaskKind, TeacherReference
from agentkd.training import loop
from agentkd.training.loop import Knowledge

SPEC = "generated:seed=7,size=128x128,train=48,validation=4,test=4"
CPU = torch.device("cpu")


class RecordedLesson(DirectLesson):
    """A lesson in one process whose answers are kept as agents keep them."""

    def __init__(self, task: Task, feed: DatasetFeed, folder: RunFolder) -> None:
        super().__init__(task, feed, store=folder.store, device=CPU)
        self._recorder = Recorder(folder.lesson(task.digest), folder.store)

    def fetch(self, step: int) -> Knowledge:
        for reference, teacher in zip(self._task.teachers, self._teachers, strict=True):
            request = lesson_request(self._task, self._feed, reference, step)
            data = bytes(teacher.answer(request).parcel.view)  # cached: no second forward pass
            self._recorder.keep(Told(reference.weights, step, request_digest(request), "", len(data), 0.0), data)
        return super().fetch(step)

    def summary(self) -> ExchangeSummary:
        return ExchangeSummary(record=self._recorder.finish(), kept_s=self._recorder.waited_s)


def lesson_task(folder: RunFolder, epochs: int) -> Task:
    teacher = resolve("pidnet_m", 5)
    weights = folder.store.put(encode_weights(teacher, dict(build(teacher, seed=1).state_dict())))
    return Task(
        kind=TaskKind.DISTILL,
        architecture=resolve("pidnet_s", 5),
        data=DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest),
        recipe=Recipe(epochs=epochs, batch_size=4, validate_every=epochs, views=ViewSettings(crop_height=128, crop_width=128)),
        teachers=(TeacherReference(architecture=teacher, weights=weights),),
        distillation=Distillation(),
    )


def run(keep: str, epochs: int) -> tuple[float, int]:
    """Seconds and bytes of one lesson."""
    with tempfile.TemporaryDirectory(prefix="agentkd-recording-") as place:
        folder = RunFolder(Path(place))
        task = lesson_task(folder, epochs)
        before = size_of(folder)

        def lesson(task: Task, feed: DatasetFeed, steps: int) -> DirectLesson:
            if keep == "everything":
                return RecordedLesson(task, feed, folder)
            return DirectLesson(task, feed, store=folder.store, device=CPU)

        at = Surroundings(store=folder.store, device=CPU, lesson=lesson)
        started = time.perf_counter()
        if keep == "off":
            with mock.patch.object(loop, "state_digest", lambda network: ""):
                execute(task, at)
        else:
            with Journal(folder.journal) as journal:
                journal.begin_sitting(provenance())
                journal.commit(Record(task, execute(task, at), "here", 1))
        return time.perf_counter() - started, size_of(folder) - before


def size_of(folder: RunFolder) -> int:
    return sum(path.stat().st_size for path in folder.place.rglob("*") if path.is_file())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--epochs", type=int, default=3)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    kinds = ("off", "records", "everything")
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    size: dict[str, int] = {}
    run("off", 1)  # the first lesson of a process is slower
    for number in range(chosen.rounds):
        for kind in kinds[number % 3 :] + kinds[: number % 3]:
            took, size[kind] = run(kind, chosen.epochs)
            seconds[kind].append(took)
            print(f"round {number + 1}, {kind}: {took:.2f} s", flush=True)
    print("\n| kept | seconds | relative | MB |\n|---|---|---|---|")
    base = statistics.median(seconds["off"])
    for kind in kinds:
        ratio = statistics.median(took / off for took, off in zip(seconds[kind], seconds["off"], strict=True))
        print(f"| {kind} | {statistics.median(seconds[kind]):.2f} | {ratio:.3f} | {size[kind] / 1e6:.1f} |")
    print(f"\nan epoch is {base / chosen.epochs:.2f} s; aim: records at most 1.02")


if __name__ == "__main__":
    main()
