"""Does a teacher help? A student taught by a better network against the same student alone, equally many steps, several seeds.

    AGENTKD_DATA=DIR python benchmarks/taught_or_alone.py --data folder:path=camvid-11,size=120x90,holdout=0.25
    AGENTKD_DATA=DIR python benchmarks/taught_or_alone.py --labelled 16 --epochs 30

With ``--labelled N`` only so many training images have labels, for the student: alone it learns those, and taught also, or all
images from its teacher without any label.

The students of a seed start from the same weights and see the same views; what is kept is the last epoch, so no choice is made on
validation data. Prints a table of validation and test mIoU with
means and sample standard deviations.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import agentkd
from agentkd.community.handles import AgentHandle
from agentkd.datasets.opening import Opened

TEACHER = {"family": "unet", "base": 16, "depth": 3}
BATCH = 4
STUDENT = {"family": "unet", "base": 8, "depth": 3}
TARGETS = agentkd.SoftTargets(temperature=2)
FEATURES = agentkd.Features({"encoder.2": "encoder.2"}, weight=0.5, standardize=True)


@dataclass(frozen=True)
class Method:
    """How a student learns: from which data, and what of its teacher's output."""

    data: str = "{all}"
    objectives: Sequence[Any] = ()
    options: dict[str, Any] = field(default_factory=dict)


ALL_LABELLED = {
    "alone": Method(),
    "soft targets": Method(objectives=(TARGETS,)),
    "soft targets and features": Method(objectives=(TARGETS, FEATURES)),
}
FEW_LABELLED = {
    "alone, {n} labelled images": Method("few:{n}:{all}"),
    "taught, {n} labelled images": Method("few:{n}:{all}", (TARGETS,)),
    "taught, all images, no labels": Method("unlabelled:{all}", (TARGETS,), {"alpha": 0.0, "hard_loss": "none"}),
}


def recipe(epochs: int, learning_rate: float, steps: int = 0) -> dict[str, Any]:
    views = agentkd.ViewSettings(crop_height=72, crop_width=96, scale_min=0.75, scale_max=1.5)
    return {
        "epochs": epochs,
        "steps_per_epoch": steps,
        "batch_size": BATCH,
        "keep": "last",
        "validate_every": epochs,
        "views": views,
        "optimizer": "sgd",
        "learning_rate": learning_rate,
    }


def scores(agent: AgentHandle, data: Opened) -> tuple[float, float]:
    """Validation and test mIoU."""
    return agent.miou, agent.evaluate(data).miou


def taught_network(data: Opened, place: Path, recipe: dict[str, Any]) -> tuple[Path, tuple[float, float]]:
    """The teacher's weights as a file, and its scores."""
    with agentkd.Community(devices="cpu:2", record=place / "teacher") as community:
        teacher = community.agent("teacher", **TEACHER)
        teacher.train(data, **recipe).result()
        found = scores(teacher, data)
        weights = community.artifact(teacher.weights)
    file = place / "teacher.safetensors"
    file.write_bytes(weights)
    return file, found


def learn(method: Method, spec: str, place: Path, seed: int, file: Path, recipe: dict[str, Any]) -> tuple[float, float]:
    """Scores of a student that learned by one method."""
    with agentkd.Community(devices="cpu:2", record=place, seed=seed) as community:
        student: AgentHandle = community.agent("student", **STUDENT)
        data = agentkd.open_dataset(spec)
        if method.objectives:
            teacher = community.agent("teacher", weights=file, **TEACHER)
            student.distill(teacher, data, method.objectives, **method.options, **recipe).result()
        else:
            student.train(data, **recipe).result()
        return scores(student, data)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", default="folder:path=camvid-11,size=120x90,holdout=0.25")
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--epochs", type=int, default=60)
    options.add_argument("--teacher-epochs", type=int, default=200)
    options.add_argument("--learning-rate", type=float, default=0.05)
    options.add_argument("--labelled", type=int, default=0, help="labelled training images that the student has; 0 for all")
    options.add_argument("--record", type=Path, default=Path("runs/taught_or_alone"))
    chosen = options.parse_args()
    data = agentkd.open_dataset(chosen.data)
    steps = len(data.splits["train"]) // BATCH
    lesson = recipe(chosen.epochs, chosen.learning_rate, steps)
    file, found = taught_network(data, chosen.record, recipe(chosen.teacher_epochs, chosen.learning_rate))
    rows = {"teacher": [found]}
    print(f"teacher: {100 * found[0]:.2f} validation, {100 * found[1]:.2f} test", flush=True)
    for seed in chosen.seeds:
        for named, method in (FEW_LABELLED if chosen.labelled else ALL_LABELLED).items():
            name, spec = (text.format(n=chosen.labelled, all=chosen.data) for text in (named, method.data))
            found = learn(method, spec, chosen.record / f"{name}-{seed}", seed, file, lesson)
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
