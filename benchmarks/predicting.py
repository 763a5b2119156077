"""Time and peak memory of `agentkd-predict` on one large image, against what the image takes decoded; and tiles against none.

A synthetic mosaic is written by rows as GeoTIFF, PNG and JPEG, and predicted in a process of its own, whose peak of resident
memory the system says. Of a part of it the masks made with and without tiles are compared.

    python benchmarks/predicting.py [SIDE] [MODEL.onnx]       by default 20000, and a network of two convolutions
"""

import json
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import rasterio
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from rasterio.shutil import copy
from rasterio.windows import Window

CLASSES = ["Burnt", "Half-Burnt", "Non-Burnt", "Fire", "Smoke"]
WIDTHS = (3, 8, len(CLASSES))
CELL, ROWS, PART = 40, 400, 2000
LIMIT_MIB = 1024


def write_network(path: Path) -> Path:
    """Two convolutions of 3x3: each pixel looks two pixels far."""
    random, weights, nodes, last = np.random.default_rng(0), [], [], "images"
    for number, (before, after) in enumerate(pairwise(WIDTHS)):
        kernel = random.normal(0, (2 / before / 9) ** 0.5, (after, before, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"kernel{number}"))
        nodes.append(helper.make_node("Conv", [last, f"kernel{number}"], [f"conv{number}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"conv{number}"], [f"relu{number}"]))
        last = f"relu{number}"
    nodes[-1] = helper.make_node("Softmax", [f"conv{len(WIDTHS) - 2}"], ["probabilities"], axis=1)
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, "h", "w"])
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(CLASSES), "h", "w"])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [images], [output], weights), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    helper.set_model_props(model, {"agentkd": json.dumps({"format": 1, "classes": CLASSES, "multiple": 1})})
    onnx.save(model, str(path))
    return path


def write_mosaic(path: Path, side: int) -> Path:
    """Fields of one color each, with some noise, half a metre a pixel."""
    random = np.random.default_rng(1)
    profile = {"driver": "GTiff", "height": side, "width": side, "count": 3, "dtype": "uint8", "compress": "deflate"}
    place = {"crs": "EPSG:32629", "transform": rasterio.transform.from_origin(500_000, 4_400_000, 0.5, 0.5)}
    fields = random.integers(0, 230, (3, -(-side // CELL), -(-side // CELL)), dtype=np.uint8)
    with rasterio.open(path, "w", tiled=True, photometric="RGB", BIGTIFF="IF_SAFER", **profile, **place) as raster:
        for top in range(0, side, ROWS):
            rows = np.arange(top, min(top + ROWS, side))
            values = fields[:, rows[:, None] // CELL, np.arange(side) // CELL]
            values = values + random.integers(0, 25, (1, len(rows), side), dtype=np.uint8)
            raster.write(values, window=Window(0, top, side, len(rows)))
    return path


MEASURED = """
import sys
from agentkd_predict.cli import run
status = run(sys.argv[1:])
lines = open("/proc/self/status").read().splitlines()
print(*(line.split()[1] for line in lines if line.startswith("VmHWM")))
sys.exit(status)
"""


def predict(network: Path, image: Path, out: Path, *options: str) -> tuple[float, float]:
    """Seconds, and the peak of resident memory in MiB."""
    command = [sys.executable, "-c", MEASURED, str(network), str(image), "--out", str(out), "--quiet", "--overwrite", *options]
    began = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return time.monotonic() - began, int(done.stdout) / 1024


def main() -> None:
    side = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        network = Path(sys.argv[2]) if len(sys.argv) > 2 else write_network(root / "network.onnx")
        mosaic = write_mosaic(root / "mosaic.tif", side)
        copy(mosaic, root / "mosaic.png", driver="PNG")
        copy(mosaic, root / "mosaic.jpg", driver="JPEG")
        print(f"{side}x{side} pixels, {side * side * 3 / 2**20:,.0f} MiB decoded; the limit is {LIMIT_MIB:,} MiB")
        print(f"{'image':24} {'s':>8} {'peak MiB':>9}")
        for name, image, options in (
            ("GeoTIFF", mosaic, ()),
            ("with overlay", mosaic, ("--overlay",)),
            ("with probabilities", mosaic, ("--probabilities",)),
            ("PNG", root / "mosaic.png", ()),
            ("JPEG", root / "mosaic.jpg", ()),
        ):
            seconds, peak = predict(network, image, root / "out", *options)
            print(f"{name:24} {seconds:8.1f} {peak:9.0f}{'' if peak < LIMIT_MIB else '  above the limit'}", flush=True)
        with rasterio.open(mosaic) as raster:
            pixels = raster.read(window=Window(0, 0, PART, PART)).transpose(1, 2, 0)
        Image.fromarray(np.ascontiguousarray(pixels)).save(root / "part.png")
        masks = {}
        for tile in ("512", "0"):
            seconds, peak = predict(network, root / "part.png", root / tile, "--tile", tile)
            masks[tile] = np.asarray(Image.open(root / tile / "masks" / "part.png"))
            print(f"{PART}x{PART}, tiles of {tile:10} {seconds:8.1f} {peak:9.0f}")
        print(f"agree at {(masks['512'] == masks['0']).mean():.6%} of its pixels")


if __name__ == "__main__":
    main()
