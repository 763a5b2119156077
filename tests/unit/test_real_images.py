"""Real images, where they are to be had: found through AGENTKD_DATA, skipped elsewhere."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from agentkd.agents.work import Surroundings, execute
from agentkd.artifacts.store import Store
from agentkd.datasets.opening import open_dataset
from agentkd.networks.families import resolve
from agentkd.recipe import Recipe, ViewSettings
from agentkd.task import DataSource, Train

DATA = Path(os.environ.get("AGENTKD_DATA", Path(__file__).parents[3] / "shared" / "data"))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not (DATA / "camvid-11").is_dir(), reason="CamVid is not here")]
SPEC = f"folder:path={DATA}/camvid-11,size=80x60,holdout=0.25"


def test_camvid_is_split_by_sequence_and_every_file_is_sound() -> None:
    dataset = open_dataset(SPEC)
    dataset.check()
    groups = {split: {dataset.group(i) for i in indices} for split, indices in dataset.splits.items()}
    assert not groups["train"] & groups["validation"]
    assert {split: len(indices) for split, indices in dataset.splits.items()} == {"train": 305, "validation": 62, "test": 101}
    assert set(np.unique(dataset.sample(0).label)) <= {*range(11), 255}


def test_a_small_network_learns_real_images(tmp_path: Path) -> None:
    task = Train(
        architecture=resolve("unet", 11, {"base": 8, "depth": 2}),
        data=DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest),
        recipe=Recipe(
            epochs=2, batch_size=4, optimizer="adamw", learning_rate=3e-3, views=ViewSettings(crop_height=48, crop_width=64)
        ),
    )
    result = execute(task, Surroundings(Store(tmp_path), torch.device("cpu")))
    assert result.miou > 2 * result.one_class_miou
