"""Steps per second of distillation with agents, against one process that does it all, in the same run.

    OMP_NUM_THREADS=1 python benchmarks/teaching.py

Teacher PIDNet-M, student PIDNet-S, batch 4. The monolithic loop has all cores; agents have one thread each. One teacher serves
one, two and four students; students are told recorded soft targets again; a student learns without a teacher. Medians of rounds
that are interleaved, and the ratios that matter.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import agentkd
from agentkd.agents.feeding import DatasetFeed
from agentkd.agents.lessons import DirectLesson, lesson_request
from agentkd.agents.teaching import Teacher
from agentkd.agents.work import Surroundings, execute
from agentkd.artifacts.store import Store
from agentkd.knowledge.weights import encode_weights
from agentkd.networks.build import build
from agentkd.networks.families import published_recipe, resolve
from agentkd.recipe import Distillation, Recipe
from agentkd.task import DataSource, Distill, Task, TaskResult, TeacherReference

CPU = torch.device("cpu")
TEACHER, STUDENT = resolve("pidnet_m", 5), resolve("pidnet_s", 5)
BATCH = 4


class Bench:
    """One size of image and one number of steps."""

    def __init__(self, place: Path, size: int, steps: int) -> None:
        self.place, self.num_runs = place, 0
        self.spec = f"generated:seed=7,size={size}x{size},train={BATCH * steps},validation=2,test=2"
        self.data = DataSource(spec=self.spec, content_digest=agentkd.open_dataset(self.spec).digest)
        views = agentkd.ViewSettings(crop_height=size, crop_width=size)
        self.recipe = {"epochs": 1, "batch_size": BATCH, "learning_rate": 1e-3, "views": views}
        self.weights = place / "teacher.safetensors"
        self.weights.write_bytes(encode_weights(TEACHER, dict(build(TEACHER, seed=1).state_dict())))

    def lesson(self, seed: int, store: Store) -> Task:
        """The lesson as a task, for what is done in this process."""
        return Distill(
            architecture=STUDENT,
            data=self.data,
            recipe=Recipe.model_validate(published_recipe("pidnet_s") | self.recipe),
            seed=seed,
            view_seed=seed,
            teachers=(TeacherReference(architecture=TEACHER, weights=store.put(self.weights.read_bytes())),),
            distillation=Distillation(),
        )

    def monolithic(self, seed: int) -> float:
        """Teacher and student one after the other, in one process with all cores."""
        store = Store(self.place / f"one-{seed}")
        at = Surroundings(store, CPU, lesson=lambda task, feed, steps: DirectLesson(task, feed, store=store, device=CPU))
        torch.set_num_threads(torch.multiprocessing.cpu_count())
        try:
            return rate(execute(self.lesson(seed, store), at))
        finally:
            torch.set_num_threads(1)

    def teacher_alone(self, seed: int) -> float:
        """A teacher that answers and does nothing else, one thread."""
        store = Store(self.place / f"alone-{seed}")
        task = self.lesson(seed, store)
        feed = DatasetFeed(task)
        teacher = Teacher(TEACHER, task.teachers[0].weights, self.data, stored=self.weights.read_bytes(), device=CPU)
        started = time.monotonic()
        for step in range(feed.steps_per_epoch):
            teacher.answer(lesson_request(task, feed, task.teachers[0], step))
        return feed.steps_per_epoch / (time.monotonic() - started)

    def student_beside_teacher(self, seed: int) -> float:
        """A student that learns alone, while a teacher answers somebody else on another core: what sharing a machine costs."""
        store = Store(self.place / f"beside-{seed}")
        task = self.lesson(seed, store)
        feed = DatasetFeed(task)
        teacher = Teacher(TEACHER, task.teachers[0].weights, self.data, stored=self.weights.read_bytes(), device=CPU)
        self.num_runs += 1
        with agentkd.Community(record=self.place / f"run-{self.num_runs}", devices="cpu:1", seed=seed) as community:
            lesson = community.agent("student", "pidnet_s").train(self.spec, **self.recipe)
            for step in itertools.cycle(range(feed.steps_per_epoch)):
                if lesson.done():
                    return rate(lesson.result())
                teacher.answer(lesson_request(task, feed, task.teachers[0], step))
        raise AssertionError("not reached")

    def agents(self, seed: int, students: int = 1, *, taught: bool = True, again: int = 0) -> list[TaskResult]:
        """Students in agents of their own; with ``again`` that many more, afterwards, who are told the recorded lesson."""
        self.num_runs += 1
        options: dict[str, Any] = {"devices": f"cpu:{max(2, students, again)}", "seed": seed, "record_lessons": bool(again)}
        with agentkd.Community(record=self.place / f"run-{self.num_runs}", **options) as community:
            teacher = community.agent("teacher", "pidnet_m", weights=self.weights)
            results: list[TaskResult] = []
            for turn, count in enumerate((students, again) if again else (students,)):
                learners = [community.agent(f"student-{turn}-{i}", "pidnet_s") for i in range(count)]
                lessons = [
                    one.distill(teacher, self.spec, **self.recipe) if taught else one.train(self.spec, **self.recipe)
                    for one in learners
                ]
                results = [lesson.result() for lesson in lessons]
        return results


def rate(result: TaskResult) -> float:
    return result.images_per_s / BATCH


def total(results: list[TaskResult]) -> float:
    return sum(rate(result) for result in results)


def forwards_per_view(results: list[TaskResult]) -> float:
    exchanges = [result.exchange for result in results if result.exchange]
    return sum(one.requests - one.cached for one in exchanges) / exchanges[0].requests


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--size", type=int, default=128)
    options.add_argument("--steps", type=int, default=24)
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    rates: dict[str, list[float]] = {}
    forwards: dict[int, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(Path(place), chosen.size, chosen.steps)
        for seed in range(1, chosen.rounds + 1):
            found = {
                "one process, all cores": bench.monolithic(seed),
                "teacher alone": bench.teacher_alone(seed),
                "student alone": total(bench.agents(seed, taught=False)),
                "student beside a teacher of others": bench.student_beside_teacher(seed),
                "replayed, 1 student": total(bench.agents(seed, again=1)),
                "replayed, 2 students": total(bench.agents(seed, again=2)),
                "replayed, 4 students": total(bench.agents(seed, again=4)),
            }
            for count in (1, 2, 4):
                results = bench.agents(seed, count)
                found[f"taught, {count} student{'s' if count > 1 else ''}"] = total(results)
                forwards.setdefault(count, []).append(forwards_per_view(results))
            for name, value in found.items():
                rates.setdefault(name, []).append(value)
                print(f"round {seed}: {name} {value:.2f} steps/s", flush=True)
    middle = {name: statistics.median(values) for name, values in rates.items()}
    print(f"\n| {chosen.size}x{chosen.size} | steps/s, all students together | relative to one process |\n|---|---|---|")
    for name, value in middle.items():
        print(f"| {name} | {value:.2f} | {value / middle['one process, all cores']:.2f} |")
    ideal = min(middle["teacher alone"], middle["student alone"])
    print(f"\none student / ideal pipeline (the slower of both alone): {middle['taught, 1 student'] / ideal:.2f}, target 0.95")
    beside = middle["taught, 1 student"] / middle["student beside a teacher of others"]
    print(f"one student / student beside a teacher of others: {beside:.2f}")
    print(f"replayed / student alone: {middle['replayed, 1 student'] / middle['student alone']:.2f}, target 0.97")
    for count in (2, 4):
        share = middle[f"taught, {count} students"] / middle[f"replayed, {count} students"]
        print(
            f"{count} students / {count} replayed: {share:.2f}, target 0.9; forwards a view {max(forwards[count]):.2f}, target 1"
        )


if __name__ == "__main__":
    main()
