"""Networks that have not learned but answer as if they had: their normalizations have seen scenes, and their answers differ."""

from pathlib import Path

import torch

from agentkd.architecture import Architecture
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.run_folder import RunFolder
from agentkd.datasets.opening import Opened, open_dataset
from agentkd.knowledge.weights import encode_weights
from agentkd.names import AgentName
from agentkd.networks.build import build
from agentkd.networks.segmenter import Segmenter
from agentkd.task import DataSource, Status, TaskResult, Train

SCENES = "generated:seed=5,size=96x64,train=4,validation=4,test=2"


def scenes(num_channels: int = 3) -> Opened:
    return open_dataset(SCENES if num_channels == 3 else f"{SCENES},channels={num_channels}")


def pictures(count: int, height: int, width: int) -> torch.Tensor:
    """Images of scenes ``[N,3,H,W]`` in [0, 1], repeated where they are too small: on noise a network says nothing sensible."""
    data = scenes()
    found = [torch.from_numpy(data.sample(index).image.copy()) for index in data.splits["validation"][:count]]
    images = torch.stack(found).permute(0, 3, 1, 2).float() / 255
    return images.repeat(1, 1, height // 64 + 1, width // 96 + 1)[:, :, :height, :width].contiguous()


def lively(architecture: Architecture, *, seed: int = 0, classes: tuple[str, ...] = ()) -> Segmenter:
    """A network whose normalizations have statistics of scenes, not those that they begin with."""
    segmenter = Segmenter(build(architecture, seed=seed), architecture, classes)
    data = scenes(architecture.num_channels)
    images = torch.stack([torch.from_numpy(data.sample(index).image.copy()) for index in data.splits["train"]])
    pixels = (images.permute(0, 3, 1, 2) / 255 - segmenter.mean) / segmenter.deviation
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in segmenter.modules():
            if isinstance(module, torch.nn.BatchNorm2d | torch.nn.GroupNorm | torch.nn.InstanceNorm2d) and module.affine:
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.uniform_(module.bias, -0.5, 0.5)
        segmenter.network.train()
        for _ in range(20):
            segmenter.network(pixels[:, :, :64, :64])
        factor = 2 / segmenter.network.eval()(pixels)["logits"].std()
        for module in segmenter.modules():  # what was not trained is sure of everything, and rounding shows
            if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d) and module.out_channels == architecture.num_classes:
                for parameter in module.parameters():
                    parameter.mul_(factor)
    return segmenter.eval()


def recorded(place: Path, segmenter: Segmenter, *, seed: int = 1) -> tuple[RunFolder, Record]:
    """A run whose only training made it."""
    folder, data = RunFolder(place), scenes()
    weights = folder.store.put(encode_weights(segmenter.architecture, dict(segmenter.network.state_dict()), data.classes))
    source = DataSource(spec=SCENES, content_digest=data.digest)
    ious = (0.5,) * segmenter.architecture.num_classes
    result = TaskResult(status=Status.COMPLETED, weights=weights, miou=0.5, class_iou=ious, num_parameters_deploy=1)
    record = Record(
        Train(architecture=segmenter.architecture, data=source, seed=seed), result, AgentName("agent-1"), 1, "baseline"
    )
    with Journal(folder.journal) as journal:
        journal.commit(record)
    return folder, record
