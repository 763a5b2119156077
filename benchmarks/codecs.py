"""Bytes and loss of every codec for one batch of soft targets, and the time to write and read it.

The logits are those of a PIDNet-S (stride 8) and a U-Net (stride 1), trained for a hundred steps, for four views of 256x256.
"KL" is the mean over pixels of the divergence of the teacher's probabilities from those that the student reads.

    python benchmarks/codecs.py
"""

import tempfile
import time
from pathlib import Path

import torch

import agentkd
from agentkd.knowledge.codecs import divergence, read, write

DATA = "generated:seed=7,size=256x256,train=16,validation=4,test=4"
CODECS = ("float32", "float16", "bfloat16", "int8", "top1", "top2", "top3", "auto")
ROUNDS = 20
FULL_BYTES = 4 * 5 * 256 * 256 * 4


def logits_of(family: str, place: Path, **settings: int) -> torch.Tensor:
    """Raw logits [4,5,h,w] of a network that has learned a little."""
    data = agentkd.open_dataset(DATA)
    views = agentkd.ViewSettings(crop_height=128, crop_width=128)
    with agentkd.Community(devices="cpu:1", record=place) as community:
        agent = community.agent(family, family, **settings)
        agent.train(data, epochs=25, batch_size=4, views=views).result()
        whole = agentkd.ViewSettings(crop_height=256, crop_width=256, scale_min=1.0, scale_max=1.0)
        return agent.feature_maps(data.views([0, 1, 2, 3], seed=1, settings=whole)).result()["logits"]


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        for family, settings in (("pidnet_s", {}), ("unet", {"base": 16, "depth": 3})):
            logits = logits_of(family, Path(place) / family, **settings)
            print(f"\n{family}: logits {tuple(logits.shape)}; full resolution in float32 is {FULL_BYTES / 1000:,.0f} KB")
            print(f"  {'codec':<10} {'KB':>9} {'1 / full':>9} {'KL':>10} {'write, ms':>10} {'read, ms':>9}")
            for codec in CODECS:
                began = time.perf_counter()
                for _ in range(ROUNDS):
                    parts = write("logits", logits, codec, max_kl=1e-5)
                written = time.perf_counter()
                for _ in range(ROUNDS):
                    read("logits", parts, logits.shape[1])
                done = time.perf_counter()
                size = sum(part.numel() * part.element_size() for part in parts.values())
                lost = divergence(logits, codec) if codec != "auto" else 0.0
                shown = f"{lost:10.1e}" if codec != "auto" else f"{'<= 1e-05':>10}"
                times = 1000 * (written - began) / ROUNDS, 1000 * (done - written) / ROUNDS
                print(f"  {codec:<10} {size / 1000:9.1f} {FULL_BYTES / size:9.0f} {shown} {times[0]:10.2f} {times[1]:9.2f}")


if __name__ == "__main__":
    main()
