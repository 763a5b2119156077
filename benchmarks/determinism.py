"""Whether two runs, and the replay of the first, come to the same bits on a device, for all five families, with real agents.

    python benchmarks/determinism.py

For each family a network is trained, and then teaches another of the family; all that is done twice from nothing and once more as
a replay. It prints for each family the weights' digests, whether they are the same, and images a second of the training, and ends
with exit code 1 if any is not. ``--devices cpu:2 --size 48 --steps 2`` tries all of it on a CPU.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import agentkd
from agentkd.artifacts.history import read_history
from agentkd.artifacts.run_folder import RunFolder
from agentkd.replay.perform import ReplayOptions, replay
from agentkd.replay.verdicts import Outcome

FIVE = ("pidnet_s", "pidnet_m", "pidnet_l", "unetpp", "cnn_i2i_bisenet")
BATCH = 4


@dataclass(frozen=True)
class Row:
    """What was seen of a family.

    Args:
        weights: digests of what was trained and what was taught, of the first run.
        is_same: whether the second run and the replay have them too.
        num_replayed: tasks whose replay gave the bits of the record.
        images_per_s: of the training.
    """

    family: str
    precision: str
    weights: tuple[str, ...]
    is_same: bool
    num_replayed: int
    images_per_s: float
    environment: dict[str, str]


def by_agents(place: Path, families: Sequence[str], precision: str, *, devices: str, size: int, steps: int) -> list[Row]:
    """A row for each family; everything is written below ``place``."""
    runs = [place / f"{precision}-{number}" for number in (1, 2)]
    first, second = (_run(run, families, precision, devices=devices, size=size, steps=steps) for run in runs)
    report = replay(RunFolder(runs[0]), RunFolder(place / f"{precision}-replay"), ReplayOptions(devices=devices))
    results = [record.result for record in read_history(RunFolder(runs[0])).by_task.values()]
    rows = []
    for family in families:
        again = [verdict for verdict in report.verdicts if verdict.then.weights in first[family]]
        trained = next(result for result in results if result.weights == first[family][0])
        identical = [verdict.outcome == Outcome.IDENTICAL for verdict in again]
        rows.append(
            Row(
                family=family,
                precision=precision,
                weights=first[family],
                is_same=first[family] == second[family] and len(again) == len(first[family]) and all(identical),
                num_replayed=sum(identical),
                images_per_s=trained.images_per_s,
                environment=dict(trained.environment),
            )
        )
    return rows


def _run(
    place: Path, families: Sequence[str], precision: str, *, devices: str, size: int, steps: int
) -> dict[str, tuple[str, ...]]:
    """Digests of the weights of a training and of a lesson, of each family."""
    data = f"generated:seed=7,size={size}x{size},train={BATCH * steps},validation=2,test=2"
    views = agentkd.ViewSettings(crop_height=size, crop_width=size)
    taught = {"epochs": 2, "batch_size": BATCH, "views": views, "precision": precision}
    lessons = {}
    with agentkd.Community(devices=devices, record=place) as community:
        for family in families:
            teacher, student = (community.agent(f"{name}-{family}", family) for name in ("teacher", "student"))
            training = teacher.train(data, **taught)
            lessons[family] = training, student.distill([teacher], data, [agentkd.SoftTargets()], **taught)
        return {family: tuple(task.result().weights for task in tasks) for family, tasks in lessons.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="cuda:0,cuda:0", help="one for each of two agents")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--families", nargs="+", default=list(FIVE), choices=FIVE)
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    told = parser.parse_args()
    started, all_same, environment = time.monotonic(), True, {}
    print("family           precision  same  replayed  images/s  weights")
    with tempfile.TemporaryDirectory() as place:
        for precision in told.precisions:
            rows = by_agents(Path(place), told.families, precision, devices=told.devices, size=told.size, steps=told.steps)
            for row in rows:
                weights = " ".join(digest[:12] for digest in row.weights)
                word = "yes" if row.is_same else "NO"
                print(
                    f"{row.family:16} {precision:10} {word:5} {row.num_replayed:8} {row.images_per_s:9.1f}  {weights}", flush=True
                )
            all_same, environment = all_same and all(row.is_same for row in rows), rows[0].environment
    print(", ".join(f"{name} {value}" for name, value in environment.items()))
    print(f"{'all the same' if all_same else 'NOT all the same'}, {time.monotonic() - started:.0f} s")
    return 0 if all_same else 1


if __name__ == "__main__":
    sys.exit(main())
