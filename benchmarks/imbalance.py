"""What helps when one class is rare: a small U-Net on scenes of which one in ten burns, trained in each way that a recipe has.

    OMP_NUM_THREADS=1 python benchmarks/imbalance.py

Fire has about one pixel in a hundred. Every way is trained with the same seeds on the same scenes; the network of the epoch with
the best validation mIoU is looked at on the test split. Mean and standard deviation over the seeds, in percent.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from agentkd.agents.work import Surroundings, execute
from agentkd.artifacts.store import Store
from agentkd.datasets.generated import CLASSES, FIRE
from agentkd.datasets.opening import open_dataset
from agentkd.networks.families import default_recipe, resolve
from agentkd.recipe import Recipe
from agentkd.task import DataSource, Evaluate, TaskResult, Train

SPEC = "generated:seed=7,size=48x48,train=96,validation=32,test=160,fires=0.1"
SMALL = {"base": 8, "depth": 2}
WAYS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "class_weights: inverse": {"class_weights": "inverse"},
    "class_weights: effective": {"class_weights": "effective"},
    "loss: ohem": {"loss": "ohem"},
    "sampler: rare_class": {"sampler": "rare_class"},
    "sampler: rare_class, sampler_temperature: 0.1": {"sampler": "rare_class", "sampler_temperature": 0.1},
}


def trained(fields: dict[str, Any], seed: int, epochs: int, at: Surroundings) -> tuple[TaskResult, TaskResult]:
    """A training in one way, and how its network does on the test split."""
    architecture = resolve("unet", len(CLASSES), SMALL)
    data = DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest)
    recipe = Recipe(**default_recipe("unet") | {"epochs": epochs, "validate_every": 4} | fields)
    task = Train(architecture=architecture, data=data, recipe=recipe, seed=seed, view_seed=seed)
    result = execute(task, at)
    test = data.replace(validation="test")
    return result, execute(Evaluate(architecture=architecture, data=test, initial_weights=result.weights), at)


def mean_and_deviation(values: list[float]) -> str:
    """In percent."""
    return f"{100 * statistics.mean(values):.1f} ± {100 * statistics.stdev(values):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        at = Surroundings(Store(Path(place)), torch.device("cpu"))
        print("| recipe | mIoU | IoU of Fire | weight of Fire | seconds |\n| --- | --- | --- | --- | --- |", flush=True)
        for name, fields in WAYS.items():
            pairs = [trained(fields, seed, options.epochs, at) for seed in range(1, options.seeds + 1)]
            miou = mean_and_deviation([test.miou for _, test in pairs])
            fire = mean_and_deviation([test.class_iou[FIRE] or 0.0 for _, test in pairs])
            weights, seconds = pairs[0][0].class_weights, statistics.mean(result.seconds for result, _ in pairs)
            weight = f"{weights[FIRE]:.2f}" if weights else ""
            print(f"| {name} | {miou} | {fire} | {weight} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
