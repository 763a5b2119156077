"""Exports random members of every family's search space and says how well each form agrees with the network; ends with 1 if not.

Run with: python tests/round_trips.py 50 [FAMILY ...] [--first NUMBER]
"""

import argparse
import sys
from typing import Any

import numpy as np
import torch
from lively_networks import lively, scenes

from agentkd import seeding
from agentkd.architecture import Architecture
from agentkd.datasets.samples import Floats
from agentkd.deploy.inference import Inference, as_program
from agentkd.deploy.onnx_files import Session, as_onnx
from agentkd.errors import ConfigError
from agentkd.networks.families import FAMILIES, resolve

NEEDED = 0.9999
SIZES = ((64, 96), (128, 128), (87, 61), (256, 200))


def member(family: str, number: int) -> Architecture:
    """One of a family's space, by its number."""
    random = seeding.generator("round trip", family, number)
    space = FAMILIES[family].space
    chosen: dict[str, Any] = {name: one.values[int(random.integers(len(one.values)))] for name, one in space.items()}
    return resolve(family, 5, chosen)


def pictures() -> list[Floats]:
    data = scenes()
    image = data.sample(data.splits["validation"][0]).image.astype(np.float32) / 255
    tiled = np.tile(image.transpose(2, 0, 1), (1, 5, 5))
    return [np.ascontiguousarray(tiled[None, :, :height, :width]) for height, width in SIZES]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("members", type=int)
    parser.add_argument("families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--first", type=int, default=0, help="number of the first member, to try others than before")
    asked = parser.parse_args()
    images, is_right = pictures(), True
    for family in asked.families:
        least = dict.fromkeys(("folded", "program", "onnx"), 1.0)
        for number in range(asked.first, asked.first + asked.members):
            architecture = member(family, number)
            try:
                agreed = round_trip(architecture, images)
            except ConfigError as error:
                print(f"FAIL {family} {number}: {error}\n  {architecture.settings}", flush=True)
                is_right = False
                continue
            for form, share in agreed.items():
                least[form] = min(least[form], share)
                if share < NEEDED:
                    print(f"FAIL {family} {number}: {form} {100 * share:.4f} %\n  {architecture.settings}", flush=True)
                    is_right = False
        print(f"{family}: of {asked.members} members the least agreement in % of pixels is", end=" ")
        print(", ".join(f"{100 * share:.4f} {form}" for form, share in least.items()), flush=True)
    return 0 if is_right else 1


def round_trip(architecture: Architecture, images: list[Floats]) -> dict[str, float]:
    """The share of pixels that get the same class as from the network, by form."""
    segmenter = lively(architecture)
    inference = Inference(segmenter)
    program, session = as_program(inference).module(), Session(as_onnx(inference).SerializeToString(), 1)
    same, pixels = dict.fromkeys(("folded", "program", "onnx"), 0), 0
    with torch.no_grad():
        for image in images:
            given = torch.from_numpy(image)
            told = segmenter(given).numpy().argmax(axis=1)
            found = {"folded": inference(given).numpy(), "program": program(given).numpy(), "onnx": session(image)}
            pixels += told.size
            for form, values in found.items():
                same[form] += int((values.argmax(axis=1) == told).sum())
    return {form: count / pixels for form, count in same.items()}


if __name__ == "__main__":
    sys.exit(main())
