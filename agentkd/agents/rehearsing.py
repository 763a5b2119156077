"""What the other heads of a network said before it learns, kept while one of them learns: the trunk is held to it.

On the images of the lesson itself this is learning without forgetting, on those that a head knows it is replay. The heads that
are kept do not learn: what changes is the trunk below them. No labels are needed, and nobody has to be asked.

Sources: Li, Hoiem, "Learning without Forgetting", ECCV 2016; Robins, "Catastrophic Forgetting, Rehearsal and Pseudorehearsal",
Connection Science 1995.
"""

import torch
from torch import Tensor

from agentkd.agents.feeding import DatasetFeed
from agentkd.networks.blocks import SegmentationNetwork
from agentkd.networks.heads import using
from agentkd.task import Limited, Rehearsal
from agentkd.training.batches import Batch
from agentkd.training.continual import divergence
from agentkd.training.losses import Terms


class Rehearsing:
    """The terms that rehearsals add to a step.

    Args:
        task: what is learned, and what is rehearsed meanwhile.
        network: learns.
        before: the network as it was, in evaluation mode, on the same device; it says what is to be kept.
    """

    def __init__(self, task: Limited, network: SegmentationNetwork, before: SegmentationNetwork) -> None:
        self._network, self._before = network, before.requires_grad_(requires_grad=False)
        plain = task.recipe.replace(class_weights="none", sampler="uniform")  # no labels are looked at
        self._feeds: list[tuple[Rehearsal, DatasetFeed | None]] = [
            (one, DatasetFeed(task.replace(data=one.data, rehearsals=(), recipe=plain)) if one.data else None)
            for one in task.rehearsals
        ]

    def __call__(self, step: int, batch: Batch) -> Terms:
        """What is lost of what each head said, on the images of a step."""
        terms = {}
        for rehearsal, feed in self._feeds:
            images = batch.images if feed is None else feed.training_batch(step).images.to(batch.images.device)
            terms[f"rehearsal.{rehearsal.head}"] = rehearsal.strength * self._lost(images, rehearsal.head)
        return terms

    def _lost(self, images: Tensor, head: str) -> Tensor:
        with torch.no_grad(), using(self._before, head):
            target = self._before(images)["logits"]
        with using(self._network, head):
            return divergence(target, self._network(images)["logits"])
