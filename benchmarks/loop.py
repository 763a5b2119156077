"""What the loop costs beside learning: CPU seconds of a training of two short epochs, against a bare loop.

    OMP_NUM_THREADS=1 python benchmarks/loop.py

The bare loop has the same network, views, losses, fused optimizer and validation, and nothing else: no seeds, no checkpoints,
no digests, no history, no kept weights. Both take turns, in this process, and the CPU seconds of all of its threads count, so
that what others do on the machine does not. The aim is 1.03.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from agentkd.agents.feeding import DatasetFeed, open_source
from agentkd.datasets.opening import open_dataset
from agentkd.networks import families
from agentkd.networks.build import build
from agentkd.recipe import Recipe, ViewSettings
from agentkd.task import DataSource, Train
from agentkd.training.loop import Plan, train
from agentkd.training.losses import LOSSES, LossSettings
from agentkd.training.metrics import evaluate

CPU = torch.device("cpu")
CASES = (("pidnet_s", 64), ("pidnet_s", 128), ("unet", 64))
BATCH, EPOCHS, CHECKPOINT_EVERY_S = 4, 2, 30.0


class Training:
    """One that both ways do."""

    def __init__(self, family: str, side: int, steps: int) -> None:
        spec = f"generated:seed=7,size={side}x{side},train={BATCH * steps},validation={BATCH},test=1"
        recipe = Recipe.model_validate(
            {
                "epochs": EPOCHS,
                "batch_size": BATCH,
                "views": ViewSettings(crop_height=side, crop_width=side),
                **families.default_recipe(family),
            }
            | {"epochs": EPOCHS, "batch_size": BATCH}
        )
        source = DataSource(spec=spec, content_digest=open_dataset(spec).digest)
        self.task = Train(architecture=families.resolve(family, 5, {}), data=source, recipe=recipe, seed=1, view_seed=2)
        self.feed, self.loss = DatasetFeed(self.task), LOSSES[families.loss_name(family)]
        self.labels = LossSettings(5, self.feed.dataset.ignore_index)
        for indices in self.feed.dataset.splits.values():
            for index in indices:
                open_source(source).sample(index)  # drawn once, whoever comes first

    def by_library(self, place: Path) -> float:
        """CPU seconds."""
        network, plan = build(self.task.architecture, seed=1), Plan(self.task.recipe, self.loss, self.labels, seed=1)
        began = time.process_time()
        train(network, self.feed, plan, device=CPU, checkpoint=place, checkpoint_every_s=CHECKPOINT_EVERY_S)
        return time.process_time() - began

    def bare(self) -> float:
        """CPU seconds."""
        network, recipe = build(self.task.architecture, seed=1), self.task.recipe
        began = time.process_time()
        network.train()
        if recipe.optimizer == "sgd":
            optimizer: torch.optim.Optimizer = torch.optim.SGD(
                network.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum, weight_decay=1e-4, fused=True
            )
        else:
            optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, fused=True)
        for step in range(EPOCHS * self.feed.steps_per_epoch):
            batch = self.feed.training_batch(step)
            terms = self.loss(network, network(batch.images), batch, self.labels)
            loss = torch.stack(list(terms.values())).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            float(loss.detach())
            if (step + 1) % self.feed.steps_per_epoch == 0:
                evaluate(network, self.feed.validation_batches(), 5, self.labels.ignore_index, CPU)
        return time.process_time() - began


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--steps", type=int, default=12, help="of an epoch")
    told = options.parse_args()
    torch.set_num_threads(1)
    print(f"CPU seconds of {EPOCHS} epochs of {told.steps} steps of {BATCH} images, median of {told.rounds} rounds in turns")
    worst = 0.0
    with tempfile.TemporaryDirectory() as place:
        for family, side in CASES:
            training = Training(family, side, told.steps)
            training.bare(), training.by_library(Path(place) / "first")
            pairs = []
            for turn in range(told.rounds):
                first = training.bare() if turn % 2 else 0.0  # who is first changes, so that what others do cancels out
                ours = training.by_library(Path(place) / f"{family}{side}{turn}")
                pairs.append((first or training.bare(), ours))
            bare, ours = (statistics.median(found) for found in zip(*pairs, strict=True))
            ratio = statistics.median(one / other for other, one in pairs)
            worst = max(worst, ratio)
            spread = " ".join(f"{one / other:.3f}" for other, one in pairs)
            print(f"{family:9} {side:3}  bare {bare:6.2f} s  training {ours:6.2f} s  {ratio:.3f}  ({spread})", flush=True)
    print(f"at most {worst:.3f}; the aim is 1.03")
    return 0


if __name__ == "__main__":
    sys.exit(main())
