"""Opening datasets of many files: time, and what it takes in memory, beside reading and hashing the same files and no more.

A digest names the content, so every byte is read when data are opened; the limit is one thread that walks the folder, reads
each file and hashes it. Files are small, as the time for large ones is that of their bytes. Each measurement is a process of
its own; the folders were just written, so they are in the page cache.

    python benchmarks/opening.py [FILES ...]       by default 1000 10000 100000; a million takes some minutes to write
"""

import hashlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

COUNTS = (1_000, 10_000, 100_000)
PER_FOLDER = 1_000


def write(root: Path, files: int) -> None:
    """Half images and half masks, in folders of sequences below two splits."""
    encoded = []
    for pixels in (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    for number in range(files // 2):
        split = "val" if number % PER_FOLDER >= 0.9 * PER_FOLDER else "train"
        for kind, content in zip(("images", "masks"), encoded, strict=True):
            folder = root / kind / split / f"seq{number // PER_FOLDER}"
            if number % PER_FOLDER in (0, int(0.9 * PER_FOLDER)):
                folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:07}.png").write_bytes(
                content + number.to_bytes(4)
            )  # what follows the picture makes each one differ
    layout = {kind: f"{kind}/{{split}}/*/{{stem}}.png" for kind in ("images", "masks")}
    described = {"name": "many", "classes": ["a", "b"], "layout": layout, "group_separator": ""}
    (root / "dataset.yaml").write_text(yaml.safe_dump(described))


def opened(root: str) -> int:
    import agentkd

    data = agentkd.open_dataset(f"folder:path={root}")
    return sum(map(len, data.splits.values()))


def read_alone(root: str) -> int:
    digests = []
    for folder, _, names in os.walk(root):
        for name in names:
            with open(f"{folder}/{name}", "rb") as file:  # noqa: PTH123
                digests.append(hashlib.sha256(file.read()).digest())
    return len(digests)


def measure(what: str, root: str) -> None:
    """In a process of its own: prints seconds, and by how much its memory grew."""
    from agentkd.datasets import opening  # noqa: F401  imported before the clock runs

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    count = {"open": opened, "read": read_alone}[what](root)
    took = time.perf_counter() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"count": count, "s": took, "mib": grown / 1024}))


def in_a_process(what: str, root: Path) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, what, str(root)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main(counts: tuple[int, ...]) -> None:
    print(f"{'files':>9} {'open, s':>9} {'read alone, s':>14} {'x':>6} {'us a file':>10} {'MiB':>7} {'bytes a file':>13}")
    for files in counts:
        with tempfile.TemporaryDirectory() as place:
            root = Path(place)
            write(root, files)
            read, taken = in_a_process("read", root), in_a_process("open", root)
            per_file = 1e6 * taken["s"] / files, taken["mib"] * 1024**2 / files
            print(
                f"{files:>9,} {taken['s']:>9.2f} {read['s']:>14.2f} {taken['s'] / read['s']:>6.2f} {per_file[0]:>10.1f} ", end=""
            )
            print(f"{taken['mib']:>7.0f} {per_file[1]:>13,.0f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] in (["open"], ["read"]):
        measure(*sys.argv[1:3])
    else:
        main(tuple(int(text) for text in sys.argv[1:]) or COUNTS)
