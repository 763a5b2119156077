"""What records cost: of one lesson, the share of the time that goes into what makes it replayable, and the bytes that it leaves.

    OMP_NUM_THREADS=1 python benchmarks/recording.py

PIDNet-M teaches PIDNet-S in one process. *Records* are the digest of the weights after each epoch, provenance, and the commit
to the journal; *everything* are these and the soft targets of each step, which a thread beside the student writes. The calls
themselves are timed, since their cost drowns in how differently two equal trainings take. Medians.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from agentkd.agents.feeding import DatasetFeed
from agentkd.agents.lessons import DirectLesson, lesson_request, request_digest
from agentkd.agents.recording import Recorder
from agentkd.agents.work import Surroundings, execute
from agentkd.artifacts import recordings
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.provenance import provenance
from agentkd.artifacts.recordings import Told
from agentkd.artifacts.run_folder import RunFolder
from agentkd.datasets.opening import open_dataset
from agentkd.knowledge.weights import encode_weights
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.recipe import Distillation, Recipe, ViewSettings
from agentkd.task import DataSource, Distill, ExchangeSummary, Task, TeacherReference
from agentkd.training import loop
from agentkd.training.loop import Knowledge

SPEC = "generated:seed=7,size=128x128,train=48,validation=4,test=4"
CPU = torch.device("cpu")


class RecordedLesson(DirectLesson):
    """A lesson in one process whose answers are kept as agents keep them."""

    def __init__(self, task: Task, feed: DatasetFeed, folder: RunFolder) -> None:
        super().__init__(task, feed, store=folder.store, device=CPU)
        self._recorder = Recorder(folder.lesson(task.key), folder.store)

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
    return Distill(
        architecture=resolve("pidnet_s", 5),
        data=DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest),
        recipe=Recipe(epochs=epochs, batch_size=4, validate_every=epochs, views=ViewSettings(crop_height=128, crop_width=128)),
        teachers=(TeacherReference(architecture=teacher, weights=weights),),
        distillation=Distillation(),
    )


class Timed:
    """Seconds that calls took, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

        return timed


def run(epochs: int) -> tuple[float, dict[str, float], dict[str, int]]:
    """Seconds of one lesson in all, and of what is kept; and the bytes of that."""
    with tempfile.TemporaryDirectory(prefix="agentkd-recording-") as place:
        folder, timed = RunFolder(Path(place)), Timed()
        task = lesson_task(folder, epochs)
        before = size_of(folder)
        told: list[RecordedLesson] = []

        def lesson(task: Task, feed: DatasetFeed, steps: int) -> DirectLesson:
            told.append(RecordedLesson(task, feed, folder))
            return told[0]

        digests = mock.patch.object(loop, "state_digest", timed.wrap("weights of each epoch", loop.state_digest))
        keeping = mock.patch.object(Recorder, "keep", timed.wrap("soft targets", Recorder.keep))
        finishing = mock.patch.object(Recorder, "finish", timed.wrap("soft targets", Recorder.finish))
        started = time.perf_counter()
        with digests, keeping, finishing, Journal(folder.journal) as journal:
            journal.begin_sitting(timed.wrap("provenance", provenance)())
            result = execute(task, Surroundings(store=folder.store, device=CPU, lesson=lesson))
            timed.wrap("commit", journal.commit)(Record(task, result, "here", 1))
        took = time.perf_counter() - started
        exchange = result.exchange
        assert exchange
        pieces = {one.piece for one in recordings.decode(folder.store.get(exchange.record))}
        size = sum(folder.store.path(piece).stat().st_size for piece in pieces)
        weights = folder.store.path(result.weights).stat().st_size
        return took, timed.seconds, {"soft targets": size, "records": size_of(folder) - before - size - weights}


def size_of(folder: RunFolder) -> int:
    return sum(path.stat().st_size for path in folder.place.rglob("*") if path.is_file())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--epochs", type=int, default=3)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    run(1)  # the first lesson of a process is slower
    rounds = [run(chosen.epochs) for _ in range(chosen.rounds)]
    names = ("weights of each epoch", "provenance", "commit", "soft targets")
    total = statistics.median(took for took, *_ in rounds)
    print(
        f"a lesson of {chosen.epochs} epochs of 12 steps: {total:.1f} s\n\n| kept | ms | share of the lesson, % |\n|---|---|---|"
    )
    for name in names:
        seconds = statistics.median(spent[name] for _, spent, _ in rounds)
        print(f"| {name} | {1000 * seconds:.1f} | {100 * seconds / total:.2f} |")
    for title, parts in (("records only", names[:3]), ("everything", names)):
        share = statistics.median(sum(spent[part] for part in parts) / took for took, spent, _ in rounds)
        print(f"| {title} | | **{100 * share:.2f}** |")
    size = rounds[-1][2]
    print(f"\nrecords {size['records'] / 1e3:.0f} KB, soft targets {size['soft targets'] / 1e3:.0f} KB; aim: records under 2 %")


if __name__ == "__main__":
    main()
