"""Does a teacher help? A student taught by a better network against the same student alone, equally many steps, several seeds.

    AGENTKD_DATA=DIR python benchmarks/taught_or_alone.py --data folder:path=camvid-11,size=120x90,holdout=0.25

The students of a seed start from the same weights and see the same views; what is kept is the last epoch, so no choice is made on
validation data. Prints a table of validation and test mIoU with means and sample standard deviations.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import agentkd
from agentkd.community.handles import AgentHandle
from agentkd.datasets.opening import Opened

TEACHER = {"family": "unet", "base": 16, "depth": 3}
STUDENT = {"family": "unet", "base": 8, "depth": 3}
FEATURES = agentkd.Features({"encoder.2": "encoder.2"}, weight=5, standardize=True)
METHODS: dict[str, dict[str, Any]] = {
    "alone": {},
    "features": {"objectives": (FEATURES,), "alpha": 1.0},
    "soft targets": {"objectives": (agentkd.SoftTargets(temperature=2),), "alpha": 0.5},
}

Scores = tuple[float, float]


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


def scores(agent: AgentHandle, data: Opened) -> Scores:
    """Validation and test mIoU."""
    return agent.miou, agent.evaluate(data).miou


def taught_network(data: Opened, place: Path, recipe: dict[str, Any]) -> tuple[Path, Scores]:
    """The teacher's weights as a file, and its scores."""
    with agentkd.Community(devices="cpu:2", record=place / "teacher") as community:
        teacher = community.agent("teacher", **TEACHER)
        teacher.train(data, **recipe).result()
        found = scores(teacher, data)
        weights = community.artifact(teacher.weights)
    file = place / "teacher.safetensors"
    file.write_bytes(weights)
    return file, found


def learn(method: dict[str, Any], data: Opened, place: Path, seed: int, file: Path, recipe: dict[str, Any]) -> Scores:
    """Scores of a student that learned by one method."""
    with agentkd.Community(devices="cpu:2", record=place, seed=seed) as community:
        student: AgentHandle = community.agent("student", **STUDENT)
        if method:
            teacher = community.agent("teacher", weights=file, **TEACHER)
            student.distill(teacher, data, **method, **recipe).result()
        else:
            student.train(data, **recipe).result()
        return scores(student, data)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", default="folder:path=camvid-11,size=120x90,holdout=0.25")
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--epochs", type=int, default=30)
    options.add_argument("--teacher-epochs", type=int, default=200)
    options.add_argument("--learning-rate", type=float, default=0.05)
    options.add_argument("--record", type=Path, default=Path("runs/taught_or_alone"))
    chosen = options.parse_args()
    data = agentkd.open_dataset(chosen.data)
    lesson = recipe(chosen.epochs, chosen.learning_rate)
    file, found = taught_network(data, chosen.record, recipe(chosen.teacher_epochs, chosen.learning_rate))
    rows = {"teacher": [found]}
    print(f"teacher: {100 * found[0]:.2f} validation, {100 * found[1]:.2f} test", flush=True)
    for seed in chosen.seeds:
        for name, method in METHODS.items():
            found = learn(method, data, chosen.record / f"{name}-{seed}", seed, file, lesson)
            rows.setdefault(name, []).append(found)
            print(f"seed {seed}, {name}: {100 * found[0]:.2f} validation, {100 * found[1]:.2f} test", flush=True)
    print("\n| | validation mIoU, % | test mIoU, % |\n|---|---|---|")
    for name, several in rows.items():
        shown = []
        for column in zip(*several, strict=True):
            spread = f" +- {100 * statistics.stdev(column):.2f}" if len(column) > 1 and name != "teacher" else ""
            shown.append(f"{100 * statistics.mean(column):.2f}{spread}")
        print(f"| {name} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
