"""What a network takes as it is, folded, as ONNX in float32 and in int8, each family at two sizes, in one run.

``python benchmarks/deploy.py [FAMILY ...]``, with OMP_NUM_THREADS for the threads of all forms.
"""

import sys

import torch

from agentkd.deploy.costing import FORMS, costs
from agentkd.networks.build import build
from agentkd.networks.families import FAMILIES, resolve, title
from agentkd.networks.segmenter import Segmenter

SIDES = (256, 512)
RUNS = 15


def main() -> None:
    print(f"median milliseconds of {RUNS} runs (times as fast as eager), {torch.get_num_threads()} threads")
    print(f"{'family':<24}{'size':>6}" + "".join(f"{form:>22}" for form in FORMS))
    for family in sys.argv[1:] or FAMILIES:
        architecture = resolve(family, 5)
        segmenter = Segmenter(build(architecture, seed=0), architecture).eval()
        for side in SIDES:
            found = costs(segmenter, side, side, runs=RUNS).latency
            eager = found["eager"].median_ms
            shown = [f"{found[form].median_ms:.1f} ({eager / found[form].median_ms:.2f})" for form in FORMS if form in found]
            print(f"{title(family):<24}{side:>6}" + "".join(f"{text:>22}" for text in shown), flush=True)


if __name__ == "__main__":
    main()
