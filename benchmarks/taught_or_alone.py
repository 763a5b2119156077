"""Does a teacher help? A student taught by a better network against the same student alone, equally many steps, several seeds.

    AGENTKD_DATA=DIR python benchmarks/taught_or_alone.py --data folder:path=camvid-11,size=120x90,holdout=0.25

The students of a seed start from the same weights and see the same views; what is kept is the last epoch, so no choice is made on
validation data. Prints a table of validation and test mIoU with
means and sample standard deviations.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import agentkd
from agentkd.community.handles import AgentHandle
from agentkd.datasets.opening import Opened

TEACHER = {"family": "unet", "base": 16, "depth": 3}
STUDENT = {"family": "unet", "base": 8, "depth": 3}
METHODS: dict[str, Sequence[Any]] = {
    "alone": (),
    "soft targets": (agentkd.SoftTargets(temperature=2),),
    "soft targets and features": (
        agentkd.SoftTargets(temperature=2),
        agentkd.Features({"encoder.2": "encoder.2"}, weight=0.5, standardize=True),
    ),
}

Scores = dict[str, tuple[float, float]]


def recipe(epochs: int, learning_rate: float) -> dict[str, Any]:
    views = agentkd.ViewSettings(crop_height=72, crop_width=96, scale_min=0.75, scale_max=1.5)
    return {
        "epochs": epochs,
        "batch_size": 4,
        "keep": "last",
        "validate_every": epochs,
        "views": views,
        "optimizer": "sgd",
        "learning_rate": learning_rate,
    }


def scores(agent: AgentHandle, data: Opened) -> tuple[float, float]:
    """Validation and test mIoU."""
    return agent.miou, agent.evaluate(data).miou


def measure(data: Opened, place: Path, seed: int, teachers: dict[str, Any], students: dict[str, Any]) -> Scores:
    """Validation and test mIoU of the teacher and of each student, with their recipes."""
    found: Scores = {}
    with agentkd.Community(devices="cpu:2", record=place / "teacher") as community:
        teacher = community.agent("teacher", **TEACHER)
        teacher.train(data, **teachers).result()
        found["teacher"] = scores(teacher, data)
        weights = community.artifact(teacher.weights)
    file = place / "teacher.safetensors"
    file.write_bytes(weights)
    for name, objectives in METHODS.items():
        with agentkd.Community(devices="cpu:2", record=place / f"{name}-{seed}", seed=seed) as community:
            student: AgentHandle = community.agent("student", **STUDENT)
            if objectives:
                teacher = community.agent("teacher", weights=file, **TEACHER)
                student.distill(teacher, data, objectives, **students).result()
            else:
                student.train(data, **students).result()
            found[name] = scores(student, data)
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", default="folder:path=camvid-11,size=120x90,holdout=0.25")
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--epochs", type=int, default=60)
    options.add_argument("--teacher-epochs", type=int, default=200)
    options.add_argument("--learning-rate", type=float, default=0.05)
    options.add_argument("--record", type=Path, default=Path("runs/taught_or_alone"))
    chosen = options.parse_args()
    data = agentkd.open_dataset(chosen.data)
    rows: dict[str, list[tuple[float, float]]] = {}
    teachers, students = recipe(chosen.teacher_epochs, chosen.learning_rate), recipe(chosen.epochs, chosen.learning_rate)
    for seed in chosen.seeds:
        for name, found in measure(data, chosen.record, seed, teachers, students).items():
            rows.setdefault(name, []).append(found)
            print(f"seed {seed}, {name}: {100 * found[0]:.2f} validation, {100 * found[1]:.2f} test", flush=True)
    print("\n| | validation mIoU, % | test mIoU, % |\n|---|---|---|")
    for name, found in rows.items():
        shown = []
        for column in zip(*found, strict=True):
            spread = f" +- {100 * statistics.stdev(column):.2f}" if len(column) > 1 and name != "teacher" else ""
            shown.append(f"{100 * statistics.mean(column):.2f}{spread}")
        print(f"| {name} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
