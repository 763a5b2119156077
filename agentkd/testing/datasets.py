"""What every dataset keeps to: of a built-in kind or a user's own."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from agentkd.architecture import UNIT
from agentkd.datasets.opening import Opened, open_dataset
from agentkd.datasets.samples import Sample, split_indices
from agentkd.datasets.views import make_view, whole_view
from agentkd.recipe import ViewSettings
from agentkd.testing.claims import claim, working

ELSEWHERE = "import sys; from agentkd.datasets.opening import open_dataset; print(open_dataset(sys.argv[1]).digest)"
ELSEWHERE_TIMEOUT_S = 120.0


def check_dataset(spec: str, *, max_samples: int = 64) -> None:
    """Checks that agents can learn from a dataset: ``check_dataset("my_package.data:scenes")``.

    It opens; classes have names of their own, and colors; the splits ``train`` and ``validation`` are not empty, and no sample is
    in two; samples are images with labels that are classes or ignored; the same index gives the same sample, on any thread and
    when it is opened again; its digest is one, and the same in another process, where agents open it; views of it depend on
    their seed alone; and its own ``check`` finds nothing.

    Args:
        spec: as ``agentkd.open_dataset`` takes it.
        max_samples: how many of each split are looked at here. ``check`` looks at all.

    Raises:
        AssertionError: what is broken.
    """
    with working(f"{spec} must be opened"):
        one, other = open_dataset(spec), open_dataset(spec)
    _check_description(one)
    indices = [index for split in one.splits.values() for index in split[:max_samples]]
    with working(f"{spec}: its samples must be read"):
        samples = {index: one.sample(index) for index in indices}
    for index, sample in samples.items():
        _check_sample(one, index, sample)
    with working(f"{spec}: its samples must be read by several threads"), ThreadPoolExecutor(4) as pool:
        again = dict(zip(indices, pool.map(one.sample, indices), strict=True))
    reopened = {index: other.sample(index) for index in indices}
    for found, where in ((again, "a second time"), (reopened, "when it is opened again")):
        changed = [index for index in indices if not _is_same(samples[index], found[index])]
        claim(not changed, f"{spec}: an index must always give the same sample; {where} sample {changed[:1]} is another")
    _check_digest(one, other)
    _check_views(one)
    with working(f"{spec}: its own check must pass"):
        one.check()


def _check_description(data: Opened) -> None:
    spec = data.spec
    with working(f"{spec}: it must say its name, classes, colors, ignore_index, splits and digest"):
        classes, *_ = data.classes, data.name, data.colors, data.ignore_index, data.splits, data.digest
    are_texts = all(isinstance(name, str) and name for name in classes)
    claim(are_texts and len(classes) >= 2, f"{spec}: it must have two classes or more, with names; they are {classes}")
    claim(len(set(classes)) == len(classes), f"{spec}: each class must have a name of its own; they are {classes}")
    num_colors = len(data.colors)
    claim(num_colors == len(classes), f"{spec}: there must be a color for each of {len(classes)} classes; there are {num_colors}")
    legal = all(len(color) == 3 and all(0 <= part <= 255 for part in color) for color in data.colors)
    claim(legal, f"{spec}: colors must be (red, green, blue), each 0 to 255; they are {data.colors}")
    claim(
        0 <= data.ignore_index <= 255 and data.ignore_index >= len(classes),
        f"{spec}: the ignore index must be a label that is no class, {len(classes)} to 255; it is {data.ignore_index}",
    )
    for split in ("train", "validation"):
        with working(f"{spec}: it must have a split {split!r} with samples"):
            split_indices(data, split)
    seen: dict[int, str] = {}
    for split, indices in data.splits.items():
        for index in indices:
            where = f"{index} is in {seen.get(index)}, and in {split}"
            claim(index not in seen, f"{spec}: a sample must be in one split, once; {where}")
            seen[index] = split
            group = data.group(index)
            claim(isinstance(group, str), f"{spec}: the group of a sample must be a text; that of {index} is {group!r}")


def _check_sample(data: Opened, index: int, sample: Sample) -> None:
    name = f"{data.spec}: sample {index}"
    image, label = sample.image, sample.label
    count = len(data.channels)
    claim(
        image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == count,
        f"{name}: the image must be uint8 [H,W,{count}], of the channels {', '.join(data.channels)}; "
        f"it is {image.dtype} {image.shape}",
    )
    claim(
        label.dtype == np.uint8 and label.shape == image.shape[:2],
        f"{name}: the label must be uint8 [H,W] of the image's size {image.shape[:2]}; it is {label.dtype} {label.shape}",
    )
    unknown = sorted({int(value) for value in np.unique(label)} - {*range(len(data.classes)), data.ignore_index})
    claim(not unknown, f"{name}: labels must be 0 to {len(data.classes) - 1} or {data.ignore_index}; there are {unknown[:5]}")
    claim(isinstance(sample.name, str) and sample.name, f"{name}: it must have a name; it is {sample.name!r}")


def _check_digest(one: Opened, other: Opened) -> None:
    spec = one.spec
    claim(re.fullmatch("[0-9a-f]{64}", one.digest), f"{spec}: the digest must be a SHA-256 in hexadecimal; it is {one.digest!r}")
    claim(one.digest == other.digest, f"{spec}: opened again it must have the same digest")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", ELSEWHERE, spec]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=ELSEWHERE_TIMEOUT_S, check=False)
    claim(done.returncode == 0, f"{spec}: it must be opened in another process, as agents do:\n{done.stderr[-2000:]}")
    claim(
        done.stdout.split()[-1:] == [one.digest],
        f"{spec}: in another process it must have the same digest (no hash(), no time, no order of a set in it)",
    )


def _check_views(data: Opened) -> None:
    index = data.splits["train"][0]
    settings = ViewSettings(crop_height=32, crop_width=32)
    before = data.sample(index).image.copy()
    with working(f"{data.spec}: views of it must be made"):
        one, same = (make_view(data, index, 1, settings, UNIT) for _ in range(2))
        whole_view(data, index, UNIT)
    is_same = np.array_equal(one.image, same.image) and np.array_equal(one.label, same.label)
    claim(is_same, f"{data.spec}: the same seed must give the same view")
    claim(np.array_equal(before, data.sample(index).image), f"{data.spec}: a sample must stay as it is when a view of it is made")


def _is_same(one: Sample, other: Sample) -> bool:
    return one.name == other.name and np.array_equal(one.image, other.image) and np.array_equal(one.label, other.label)
