"""What an image costs a training: decoded each time, read from the files that agents share, and from an agent's own memory.

One process reads some large images (JPEG, with masks in PNG) again and again; the ratio is to decoding. Then two processes each
read all of them, and what they hold themselves is set against the size of all decoded images.

    python benchmarks/images.py [IMAGES]       by default 60 of 2000x1500
"""

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import yaml
from PIL import Image

import agentkd
from agentkd.datasets.caching import SharedSamples
from agentkd.datasets.opening import Opened

SIZE = (2000, 1500)
ROUNDS = 3


def write(root: Path, count: int) -> None:
    """Smooth pictures, each turned a little further, so that no two are alike."""
    random = np.random.default_rng(0)
    picture = Image.fromarray(random.integers(0, 256, (75, 100, 3), dtype=np.uint8)).resize(SIZE)
    mask = Image.fromarray(random.integers(0, 2, (75, 100), dtype=np.uint8)).resize(SIZE, Image.Resampling.NEAREST)
    for kind in ("images", "masks"):
        (root / kind / "train").mkdir(parents=True)
    for number in range(count):
        picture.rotate(number).save(root / "images" / "train" / f"{number}.jpg")
        mask.save(root / "masks" / "train" / f"{number}.png")
    layout = {"images": "images/{split}/{stem}.jpg", "masks": "masks/{split}/{stem}.png"}
    (root / "dataset.yaml").write_text(yaml.safe_dump({"name": "large", "classes": ["a", "b"], "layout": layout}))


def milliseconds(read: Callable[[int], object], count: int) -> float:
    began = time.perf_counter()
    for _ in range(ROUNDS):
        for index in range(count):
            read(index)
    return (time.perf_counter() - began) * 1000 / (ROUNDS * count)


def shared(root: Path) -> Opened:
    opened = agentkd.open_dataset(f"folder:path={root}")
    opened.share_samples(SharedSamples(root / "cache", max_bytes=2**33))
    return opened


def hold(root: Path, count: int, told: "multiprocessing.Queue[int]") -> None:
    """Reads everything, as an agent does, and says how much memory is this process's alone."""
    opened, process = shared(root), psutil.Process()
    before = process.memory_full_info().uss
    for index in range(count):
        opened.sample(index)
    told.put(process.memory_full_info().uss - before)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    decoded_mb = count * 4 * SIZE[0] * SIZE[1] / 1e6
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        write(root, count)
        opened = shared(root)
        decoding = milliseconds(opened._dataset.sample, count)
        for index in range(count):
            opened.sample(index)
        reading = milliseconds(opened._read, count)
        own = milliseconds(lambda index: opened.sample(0), count)
        print(f"{'an image of 2000x1500':24} {'ms':>8} {'of decoding':>12}")
        for name, taken in (("decoded", decoding), ("from shared files", reading), ("from its own memory", own)):
            print(f"{name:24} {taken:8.3f} {taken / decoding:12.4f}")
        told: multiprocessing.Queue[int] = multiprocessing.get_context("spawn").Queue()
        agents = [multiprocessing.get_context("spawn").Process(target=hold, args=(root, count, told)) for _ in range(2)]
        for agent in agents:
            agent.start()
        held = [told.get(timeout=300) / 1e6 for _ in agents]
        for agent in agents:
            agent.join()
        print(
            f"{count} images are {decoded_mb:.0f} MB decoded; two processes that read all hold {held[0]:.0f} and {held[1]:.0f} MB"
        )


if __name__ == "__main__":
    main()
