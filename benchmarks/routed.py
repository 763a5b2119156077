"""Two teachers that learned disjoint classes, and one student: taught by either, by the mean of both, or by who knows best where.

    OMP_NUM_THREADS=1 python benchmarks/routed.py

No student sees a label. Prints test mIoU with means and sample standard deviations over seeds.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import agentkd

DATA = "generated:seed={seed},size=64x64,train=64,validation=24,test=48"
CLASSES = {"first": "Burnt+Half-Burnt+Non-Burnt", "second": "Fire+Smoke"}


def measure(seed: int, epochs: int, place: Path) -> dict[str, float]:
    """Test mIoU of both teachers and every student."""
    data = DATA.format(seed=seed)
    views = agentkd.ViewSettings(crop_height=64, crop_width=64, scale_min=1.0, scale_max=1.4)
    recipe: dict[str, Any] = {"epochs": epochs, "batch_size": 4, "learning_rate": 0.05, "validate_every": 4, "views": views}
    with agentkd.Community(devices="cpu:2", record=place / str(seed), seed=seed) as community:
        teachers = {name: community.agent(name, "unet", base=16, depth=3) for name in CLASSES}
        for lesson in [teachers[name].train(f"only:{kept}:{data}", **recipe) for name, kept in CLASSES.items()]:
            lesson.result()
        first, second = teachers.values()
        methods: dict[str, tuple[list[Any], dict[str, Any]]] = {
            "taught by the first": ([first], {}),
            "taught by the second": ([second], {}),
            "mean of both": ([first, second], {}),
            "routed by classes": ([first, second], {"route": "classes"}),
            "routed by tiles": ([first, second], {"route": "tiles"}),
        }
        found = {name: teacher.evaluate(data).miou for name, teacher in teachers.items()}
        for name, (chosen, options) in methods.items():
            student = community.agent(name, "unet", base=8, depth=3)
            soft = [agentkd.SoftTargets(temperature=1)]
            student.distill(chosen, f"unlabelled:{data}", soft, alpha=0, hard_loss="none", **options, **recipe).result()
            found[name] = student.evaluate(data).miou
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--epochs", type=int, default=12)
    options.add_argument("--record", type=Path, default=Path("runs/routed"))
    chosen = options.parse_args()
    rows: dict[str, list[float]] = {}
    for seed in chosen.seeds:
        for name, miou in measure(seed, chosen.epochs, chosen.record).items():
            rows.setdefault(name, []).append(miou)
            print(f"seed {seed}, {name}: {100 * miou:.2f} %", flush=True)
    print("\n| | test mIoU, % |\n|---|---|")
    for name, values in rows.items():
        spread = f" +- {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
        print(f"| {name} | {100 * statistics.mean(values):.2f}{spread} |")


if __name__ == "__main__":
    main()
