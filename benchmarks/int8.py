"""What int8 costs each family on real images: mIoU on the validation clip as it is and in int8, and what stayed in float.

    AGENTKD_DATA=DIR python benchmarks/int8.py [FAMILY ...] [--data SPEC] [--epochs N] [--out DIR]

Each family is trained first. What loses more than a point is refused, as ``agentkd export --int8`` does, and the line says so.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import agentkd
from agentkd.deploy.export import export_network
from agentkd.deploy.origin import found
from agentkd.networks.families import FAMILIES, title

RECIPES: dict[str, dict[str, Any]] = {
    "unet": {"learning_rate": 0.003, "optimizer": "adamw"},
    "cnn_i2i_bisenet": {"learning_rate": 0.005, "loss": "cross_entropy"},
}
PLAIN = {"learning_rate": 0.05, "clip_norm": 10.0}


def trained(family: str, data: str, epochs: int, record: Path) -> str:
    """The digest of its weights."""
    views = agentkd.ViewSettings(crop_height=72, crop_width=96, scale_min=0.8, scale_max=1.6)
    recipe = {"epochs": epochs, "batch_size": 4, "validate_every": epochs, "views": views} | RECIPES.get(family, PLAIN)
    with agentkd.Community(devices="cpu:1", record=record) as community:
        network = community.agent(family, family)
        network.train(data, **recipe).result()
        return network.weights


def line(family: str, weights: str, record: Path, out: Path) -> str:
    """The figures of its export, or why there is none."""
    with found(weights, run=record) as (origin, images):
        try:
            made = export_network(origin, images, out, precision="int8")
        except agentkd.AgentKDError as error:
            return f"{title(family):<24} refused: {error}"
    said = made.agreement
    assert said is not None and said.miou is not None and said.miou_before is not None
    scores = f"{100 * said.miou_before:>9.2f}{100 * said.miou:>9.2f}{100 * (said.miou - said.miou_before):>+9.2f}"
    return f"{title(family):<24}{scores}{100 * said.agreement:>12.2f}   {'; '.join(made.remarks)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY")
    parser.add_argument("--data", default="folder:path=camvid-11,size=120x90")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=Path, help="keeps the runs and the files there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="agentkd-int8-") as scratch:
        place = given.out or Path(scratch)
        print(f"{given.data}, {given.epochs} epochs; mIoU in % on the validation images, agreement of pixels in %")
        print(f"{'family':<24}{'float32':>9}{'int8':>9}{'change':>9}{'agreement':>12}", flush=True)
        for family in given.families or FAMILIES:
            weights = trained(family, given.data, given.epochs, place / family)
            print(line(family, weights, place / family, place / f"{family}-int8"), flush=True)


if __name__ == "__main__":
    main()
