"""Which values of 16-bit images are black and white goes with a network from its data to whoever predicts with it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import rasterio
import torch
import yaml
from exported import WRITTEN, export, scene
from lively_networks import SCENES, lively, recorded
from PIL import Image

import agentkd_predict
from agentkd.datasets.opening import open_dataset, open_silently
from agentkd.deploy.export import export_network
from agentkd.deploy.origin import found
from agentkd.knowledge.weights import encode_weights
from agentkd.networks.families import resolve
from agentkd_predict import NetworkError, sources
from agentkd_predict.cli import run
from agentkd_predict.sources import open_source

H, W = 48, 64
CLASSES = ("a", "b")
TINY = {"base": 8, "depth": 2, "convs": 1}
LEARNED = WRITTEN | {"scale": [0, 10_000]}

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def numbers(count: int, seed: int = 0) -> np.ndarray:
    """Smooth pictures ``[H,W,C]`` of 16 bits, somewhat beyond 0 to 10000."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 12_000, (6, 8, count)).astype(np.uint16)
    return small.repeat(8, axis=0).repeat(8, axis=1)


def tiff(path: Path, values: np.ndarray) -> Path:
    height, width, count = values.shape
    shape = {"height": height, "width": width, "count": count, "dtype": values.dtype}
    with rasterio.open(path, "w", driver="GTiff", **shape, **({"photometric": "RGB"} if count == 3 else {})) as out:
        out.write(values.transpose(2, 0, 1))
    return path


def folder(place: Path, values: list[np.ndarray], **described: Any) -> str:
    """A dataset of TIFFs (RGB, gray) or arrays (other channels)."""
    for split in ("train", "validation"):
        for part in ("images", "masks"):
            (place / part / split).mkdir(parents=True)
    count = values[0].shape[2]
    for number, one in enumerate(values):
        split = ("validation", "train")[number % 2]
        if count in (1, 3):
            tiff(place / "images" / split / f"x{number}.tif", one)
        else:
            np.save(place / "images" / split / f"x{number}.npy", one)
        mask = (one[:, :, 0] > 5_000).astype(np.uint8)
        Image.fromarray(mask).save(place / "masks" / split / f"x{number}.png")
    ending = "tif" if count in (1, 3) else "npy"
    told = {"name": place.name, "classes": list(CLASSES), "layout": {"images": f"images/{{split}}/{{stem}}.{ending}"}}
    (place / "dataset.yaml").write_text(yaml.safe_dump(told | described))
    return f"folder:path={place}"


def exported(place: Path, spec: str, kind: str = "onnx") -> tuple[Path, torch.nn.Module]:
    """A network that takes the dataset's images, exported in view of it."""
    architecture = resolve("unet", 2, TINY, images=open_silently(spec).normalization)
    segmenter = lively(architecture, classes=CLASSES, seed=3)
    place.mkdir()
    weights = place / "weights.safetensors"
    weights.write_bytes(encode_weights(architecture, dict(segmenter.network.state_dict()), CLASSES, None))
    with found(str(weights), data=spec) as (origin, evidence):
        return export_network(origin, evidence, place / "out", kind=kind).file, segmenter


def code_of(card: str) -> str:
    return card.split("```python\n")[1].split("```")[0]


@pytest.mark.parametrize(
    ("kind", "scale"),
    [
        ("onnx", [0, 10_000]),
        ("torch", [0, 10_000]),
        ("safetensors", [0, 65_535]),
        ("safetensors", [-100.5, 9_000]),
    ],
)
def test_the_code_of_the_card_sees_16_bits_as_the_network_learned_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, scale: list[float]
) -> None:
    spec = folder(tmp_path / "data", [numbers(3, seed) for seed in range(4)], scale=scale)
    file, segmenter = exported(tmp_path / "net", spec, kind)
    data = open_dataset(spec)
    sample = data.sample(data.splits["validation"][0])
    tiff(file.parent / "photo.tif", numbers(3, int(sample.name[-1])))
    monkeypatch.chdir(file.parent)
    card = (file.parent / "README.md").read_text()
    assert f"the values {scale[0]:g} to {scale[1]:g} became 0 to 255" in card
    ran: dict[str, Any] = {}
    exec(code_of(card), ran)
    assert np.array_equal(np.rint(ran["image"] * 255), sample.image)
    with torch.no_grad():
        expected = segmenter(torch.from_numpy(sample.image.copy()).permute(2, 0, 1))[0].numpy()
        told = ran["probabilities"]
    assert np.allclose(np.asarray(torch.as_tensor(told).detach())[0], expected, atol=1e-4)


def test_channels_of_a_scale_each_are_read_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scale = [[0, 10_000], [0, 5_000], [100, 9_000], [0, 12_000]]
    spec = folder(tmp_path / "data", [numbers(4, seed) for seed in range(4)], scale=scale, channels=4)
    file, _ = exported(tmp_path / "net", spec)
    told = json.loads({one.key: one.value for one in onnx.load(str(file)).metadata_props}["agentkd"])
    assert told["scale"] == scale
    data = open_dataset(spec)
    sample = data.sample(data.splits["validation"][0])
    np.save(file.parent / "image.npy", numbers(4, int(sample.name[-1])))
    monkeypatch.chdir(file.parent)
    card = (file.parent / "README.md").read_text()
    assert "channel by channel the values 0 to 10000, 0 to 5000, 100 to 9000, 0 to 12000 became 0 to 255" in card
    ran: dict[str, Any] = {}
    exec(code_of(card), ran)
    assert np.array_equal(np.rint(ran["image"] * 255), sample.image)


@pytest.mark.parametrize("count", [1, 3])
def test_predict_takes_the_scale_that_the_file_says(tmp_path: Path, capfd: pytest.CaptureFixture[str], count: int) -> None:
    spec = folder(tmp_path / "data", [numbers(count, seed) for seed in range(4)], scale=[0, 10_000])
    file, segmenter = exported(tmp_path / "net", spec)
    assert agentkd_predict.Network(file).about.scale == (0, 10_000)
    images, data = tmp_path / "data" / "images" / "validation", open_dataset(spec)
    plain = ["--threads", "1", str(file), str(images)]
    assert run([*plain, "--out", str(tmp_path / "out")]) == 0
    for index in data.splits["validation"]:
        sample = data.sample(index)
        with torch.no_grad():
            expected = segmenter(torch.from_numpy(sample.image.copy()).permute(2, 0, 1))[0].argmax(dim=0).numpy()
        mask = np.asarray(Image.open(tmp_path / "out" / "masks" / f"{Path(sample.name).stem}.png"))
        assert (mask == expected).mean() > 0.999
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert told["settings"]["scale"] == [0, 10_000] and not any(one["notices"] for one in told["images"])
    assert run([*plain, "--out", str(tmp_path / "same"), "--scale", "0,10000"]) == 0
    capfd.readouterr()
    assert run([*plain, "--out", str(tmp_path / "other"), "--scale", "0,65535"]) == 2
    said = capfd.readouterr().err
    assert "--scale 0,65535" in said and "learned with 0,10000" in said and "--other-scale" in said
    assert not (tmp_path / "other").exists()
    assert run([*plain, "--out", str(tmp_path / "other"), "--scale", "0,5000", "--other-scale"]) == 0
    told = json.loads((tmp_path / "other" / "summary.json").read_text())
    assert told["settings"]["scale"] == [0, 5_000]
    masks = [np.asarray(Image.open(next((tmp_path / out / "masks").iterdir()))) for out in ("out", "other")]
    assert not np.array_equal(*masks)


@pytest.mark.parametrize("is_map", [False, True])
def test_8_bits_are_taken_as_they_are_and_it_is_said(tmp_path: Path, is_map: bool) -> None:
    pixels, network = scene(20, 30), agentkd_predict.Network(export(tmp_path / "n.onnx", metadata=LEARNED), threads=1)
    if is_map:
        image = tmp_path / "a.tif"
        place = {"crs": "EPSG:32629", "transform": rasterio.transform.from_origin(500_000, 4_400_000, 1, 1)}
        with rasterio.open(image, "w", driver="GTiff", height=20, width=30, count=3, dtype="uint8", **place) as out:
            out.write(pixels.transpose(2, 0, 1))
    else:
        image = tmp_path / "a.png"
        Image.fromarray(pixels).save(image)
    done = agentkd_predict.predict(network, [image], tmp_path / "out").done[0]
    assert done.notices == (
        "has 8 bits, which are taken as they are; the network learned from images with more, in which 0 was black and 10000 "
        "white: it is right if this one was made 0 to 255 in the same way",
    )
    assert done.pixels == tuple(np.bincount(pixels.argmax(axis=2).ravel(), minlength=3).tolist())
    failed = agentkd_predict.predict(network, [image], tmp_path / "asked", agentkd_predict.Wanted(scale=(0.0, 10_000.0))).failed
    assert "8 bits" in failed[0].reason and "--scale 0,10000 does not apply" in failed[0].reason


def test_a_video_has_8_bits(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for seed in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(scene(48, 64, seed), format="rgb24")))
        container.mux(stream.encode())
    network = agentkd_predict.Network(export(tmp_path / "n.onnx", metadata=LEARNED), threads=1)
    done = agentkd_predict.predict(network, [tmp_path / "a.mp4"], tmp_path / "out").done[0]
    assert done.notices[0].startswith("has 8 bits, which are taken as they are")


def test_colors_of_16_bits_by_any_scale_need_rasterio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tiff(tmp_path / "a.tif", numbers(3))
    monkeypatch.setattr(sources, "_has_rasterio", lambda: False)
    with pytest.raises(agentkd_predict.InputError, match=r"--scale 0,10000 needs rasterio; .*agentkd-predict\[geo\]"):
        open_source(image, (0.0, 10_000.0), (), tmp_path)


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        ([10, 0], r"scale is \[10, 0\], not \[low, high\]"),
        ("0,1", "not \\[low, high\\]"),
        ([0, True], "not \\[low, high\\]"),
        ([], "not \\[low, high\\]"),
        ([[0, 1], [0, 2], [0, 1]], "another scale in each channel"),
    ],
)
def test_a_scale_that_cannot_be_is_refused(tmp_path: Path, scale: Any, words: str) -> None:
    with pytest.raises(NetworkError, match=words):
        agentkd_predict.Network(export(tmp_path / "n.onnx", metadata=WRITTEN | {"scale": scale}))
    equal = agentkd_predict.Network(export(tmp_path / "n.onnx", metadata=WRITTEN | {"scale": [[0, 7]] * 3}))
    assert equal.about.scale == (0, 7)


def test_what_is_made_of_data_has_their_scale(tmp_path: Path) -> None:
    wide = folder(tmp_path / "wide", [numbers(3, seed) for seed in range(4)], scale=[0, 10_000])
    other = folder(tmp_path / "other", [numbers(3, seed) for seed in range(4, 8)], scale=[0, 12_000])
    scenes = "generated:seed=1,size=48x48,train=2,validation=1,test=1"
    assert open_silently(scenes).value_scale == ()
    assert open_silently(wide).value_scale == open_silently(f"few:1:{wide}").value_scale == ((0, 10_000),)
    assert open_silently(f"joined:{wide}|unlabelled:{wide}").value_scale == ((0, 10_000),)
    assert open_silently(f"joined:{wide}|{other}").value_scale is None


def test_data_beside_weights_say_their_scale_and_beside_a_run_only_if_they_are_its(tmp_path: Path) -> None:
    spec = folder(tmp_path / "data", [numbers(3, seed) for seed in range(4)], scale=[0, 10_000])
    weights = str(exported(tmp_path / "net", spec)[0].parents[1] / "weights.safetensors")
    with found(weights) as (origin, _):
        assert origin.value_scale is None
    with found(weights, data=spec) as (origin, _):
        assert origin.value_scale == ((0, 10_000),)
    _, record = recorded(tmp_path / "run", lively(resolve("unet", 5, TINY)))
    for data, expected in (("", ()), (SCENES, ()), (spec, None)):
        with found(record.result.weights, run=tmp_path / "run", data=data) as (origin, _):
            assert origin.value_scale == expected


@pytest.mark.parametrize("said", [None, [0, 10_000]])
def test_a_file_says_a_scale_only_if_there_is_one(tmp_path: Path, said: Any) -> None:
    values = [numbers(3, seed) for seed in range(4)]
    spec = folder(tmp_path / "data", values if said else [(one // 50).astype(np.uint8) for one in values], scale=said)
    file, _ = exported(tmp_path / "net", spec)
    told = json.loads({one.key: one.value for one in onnx.load(str(file)).metadata_props}["agentkd"])
    assert told.get("scale") == said and ("scale" in told) == (said is not None)
    card = (file.parent / "README.md").read_text()
    assert ("more than 8 bits" in card) == (said is not None)
