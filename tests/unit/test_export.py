"""What is exported is what the network was, says what it is, and is not there if it is not."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from lively_networks import SCENES, lively, pictures, recorded, scenes
from PIL import Image
from torch import nn
from wrong_things import typed

import agentkd
import agentkd_predict
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.run_folder import RunFolder
from agentkd.deploy import costing
from agentkd.deploy import export as exporting
from agentkd.deploy.agreement import Agreement, Reference, Tolerance, as_floats
from agentkd.deploy.costing import activation_bytes
from agentkd.deploy.evidence import Evidence, generated, given, of_dataset
from agentkd.deploy.export import export_network
from agentkd.deploy.inference import Inference
from agentkd.deploy.model_card import File, model_card
from agentkd.deploy.onnx_files import Session, as_onnx
from agentkd.deploy.origin import Origin, found
from agentkd.deploy.quantizing import in_int8
from agentkd.errors import ConfigError, ContractError, DatasetError, StorageError
from agentkd.knowledge.weights import encode_weights
from agentkd.names import AgentName, Digest
from agentkd.networks.build import OwnNetwork
from agentkd.networks.families import resolve
from agentkd.networks.heads import using
from agentkd.networks.segmenter import Segmenter
from agentkd.task import DataSource, Status, TaskResult, Train
from agentkd_predict.cli import run as predicts

TINY = {"base": 8, "depth": 2, "convs": 1}
SMALL: dict[str, dict[str, Any]] = {
    "pidnet_s": {"planes": 16, "num_blocks": 1, "num_blocks3": 1, "num_blocks4": 1, "bottlenecks": 1},
    "pidnet_l": {"planes": 16, "num_blocks": 1, "num_blocks3": 1, "num_blocks4": 1, "bottlenecks": 1, "norm": "group"},
    "cnn_i2i_bisenet": {"width": 0.5, "i2i_width": 8, "skips": 2},
    "unet": TINY | {"up": "transpose", "activation": "gelu"},
    "unetpp": TINY | {"deep_supervision": True, "norm": "instance", "activation": "hardswish"},
}


# One of each builder; all families, and members of their spaces, are exported by tests/round_trips.py.
@pytest.fixture(scope="module")
def origin() -> Origin:
    data = scenes()
    segmenter = lively(resolve("unet", 5, TINY), classes=data.classes)
    return Origin(segmenter=segmenter, weights=Digest("ab" * 32), classes=data.classes, colors=data.colors, named="weights")


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return given(SCENES, resolve("unet", 5, TINY))[1]


@pytest.mark.parametrize("family", sorted(SMALL))
def test_an_onnx_file_of_every_family_says_at_every_size_what_the_network_says(family: str) -> None:
    segmenter = lively(resolve(family, 4, SMALL[family]))
    session = Session(as_onnx(Inference(segmenter)).SerializeToString(), 1)
    same = pixels = 0
    for number, size in enumerate([(64, 96), (33, 130), (20, 7), (150, 61)]):
        images = pictures(1 + number % 2, *size).numpy()
        with torch.no_grad():
            expected = segmenter(torch.from_numpy(images)).numpy()
        told = session(images)
        assert told.shape == expected.shape and np.abs(told - expected).max() < 1e-3
        same, pixels = same + int((told.argmax(1) == expected.argmax(1)).sum()), pixels + told[:, 0].size
    assert same / pixels >= 0.9999
    assert expected.std() > 0.05, "a network that says the same everywhere shows nothing"


def test_an_own_network_that_takes_some_sizes_alone_takes_all_as_a_file() -> None:
    segmenter = lively(resolve("halving_networks:halving", 3))
    session = Session(as_onnx(Inference(segmenter)).SerializeToString(), 1)
    for size in ((40, 44), (41, 50), (3, 5)):
        images = np.random.default_rng(1).random((1, 3, *size), dtype=np.float32)
        with torch.no_grad():
            assert np.allclose(session(images), segmenter(torch.from_numpy(images)).numpy(), atol=1e-4)


def test_a_file_says_what_it_is_and_has_a_card_beside_it(origin: Origin, evidence: Evidence, tmp_path: Path) -> None:
    made = export_network(origin, evidence, tmp_path / "out", command="agentkd export weights out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "network.onnx"]
    session = onnxruntime.InferenceSession(made.file, providers=["CPUExecutionProvider"])
    ends = [(one.name, one.type, one.shape) for one in (*session.get_inputs(), *session.get_outputs())]
    assert ends == [
        ("images", "tensor(float)", ["N", 3, "H", "W"]),
        ("probabilities", "tensor(float)", ["N", 5, "H", "W"]),
    ]
    told = json.loads(session.get_modelmeta().custom_metadata_map["agentkd"])
    assert told["format"] == 1 and told["multiple"] == 1 and told["channels"] == 3 and told["precision"] == "float32"
    assert told["classes"] == list(origin.classes) and told["colors"] == [list(color) for color in origin.colors]
    assert told["weights"] == "ab" * 32 and told["lineage"] == []
    assert told["architecture"] == origin.segmenter.architecture.canonical()
    assert told["checks"]["agreement"] >= 0.9999 and told["checks"]["miou"] == pytest.approx(
        told["checks"]["miou_before"], abs=1e-3
    )
    kinds = {node.op_type for node in onnx.load_model(made.file).graph.node}
    assert "Softmax" not in kinds and "BatchNormalization" not in kinds, "slow in ONNX Runtime, or not folded"
    raw = made.file.read_bytes()
    assert str(Path(agentkd.__file__).parent).encode() not in raw, "paths of this machine are in the file"
    card = (tmp_path / "out" / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["pipeline_tag"] == "image-segmentation" and head["library_name"] == "onnx"
    assert "4 images of the split 'validation'" in card and "agentkd export weights out" in card


def test_names_of_classes_are_cells_of_the_card_whatever_they_are(tmp_path: Path) -> None:
    folder, record = recorded(tmp_path / "run", lively(resolve("unet", 5, TINY)))
    with found(record.result.weights, run=folder.place) as (origin, _):
        named = replace(origin, classes=("a|b", "<i>c</i>", "mIoU", "d", "e"))
    card = model_card(named, File("network.safetensors", "safetensors", {"precision": "float32", "multiple": 1}, (), ""))
    lines = [line for line in card.splitlines() if line.startswith(("| mIoU |", "| a\\|b |", "| &lt;i&gt;c&lt;/i&gt; |"))]
    assert len(lines) == 4 and "<i>" not in card
    assert f"{100 * record.result.miou:.2f} %" in lines[0]


def test_a_file_that_is_not_the_network_is_refused_unless_that_is_allowed(
    origin: Origin, evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(exporting.TOLERANCES, "float32", Tolerance(1.1, 0.0))
    with pytest.raises(ConfigError, match=r"is not the network .* get the same class; .*nothing was written; --allow-loss"):
        export_network(origin, evidence, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    made = export_network(origin, evidence, tmp_path / "out", allow_loss=True)
    assert any("It was written although" in remark for remark in made.remarks)
    assert "It was written although" in (tmp_path / "out" / "README.md").read_text()


def test_mean_iou_counts_where_there_are_labels_and_pixels_where_there_are_none() -> None:
    bits, rounding = Tolerance(0.98, 0.01, is_by_labels=True), Tolerance(0.9999, 0.0005)
    seen, unseen = Agreement(1, 0.1, 0.9, 0.80, 0.795), Agreement(1, 0.1, 0.9)
    assert not seen.problem(bits) and "at least 98.00 %" in unseen.problem(bits)
    assert "mIoU falls by 2.00 points; 1.00" in replace(seen, miou=0.78).problem(bits)
    assert "mIoU falls by 0.50 points; 0.05" in seen.problem(rounding)
    assert "at least 99.99 %" in replace(seen, miou=0.80).problem(rounding)


def test_a_comparison_sees_one_pixel_and_one_number(origin: Origin, evidence: Evidence) -> None:
    reference = Reference(origin.segmenter, evidence)

    def says(images: Any) -> Any:
        with torch.no_grad():
            return origin.segmenter(torch.from_numpy(images)).numpy()

    def one_pixel(images: Any) -> Any:
        found = says(images)
        found[0, :, 5, 7] = np.roll(found[0, :, 5, 7], 1)
        return found

    exact, near = reference.compare(says), reference.compare(one_pixel)
    assert (exact.agreement, exact.largest_difference, exact.miou) == (1.0, 0.0, exact.miou_before)
    height, width = evidence.images[0].shape[:2]
    first = iter([one_pixel, *[says] * 3])
    assert reference.compare(lambda images: next(first)(images)).largest_difference > 0.01
    assert as_floats(np.full((1, 1, 3), 255, dtype=np.uint8)).max() == 1.0
    assert near.agreement == pytest.approx(1 - 1 / (height * width)) and near.largest_difference > 0.01
    with pytest.raises(ContractError, match="NaN"):
        reference.compare(lambda images: says(images) * np.nan)
    with pytest.raises(ContractError, match="probabilities"):
        reference.compare(lambda images: says(images)[..., 1:])


class Swinging(nn.Module):
    """One channel is a thousand times as large as those that matter: eight bits for both leave nothing of these."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.middle, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, num_classes, 1)
        with torch.no_grad():
            self.middle.weight[0] *= 3000
            self.head.weight[:, 0] = 0
            self.head.weight *= 20

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.middle(self.first(images).relu()).relu())


def test_layers_that_lose_too_much_in_int8_stay_in_float(origin: Origin, evidence: Evidence) -> None:
    segmenter = Segmenter(OwnNetwork(Swinging(5)).eval(), origin.segmenter.architecture)
    unlabelled = replace(evidence, labels=())
    model = as_onnx(Inference(segmenter))
    tolerance = Tolerance(0.97, 0.01, is_by_labels=True)
    reference = Reference(segmenter, unlabelled)
    all_of_it = in_int8(model, unlabelled.calibration, reference, Tolerance(0.0, 1.0))
    assert all_of_it.in_float == () and all_of_it.agreement.problem(tolerance), "all of it in int8 is good enough as it is"
    made = in_int8(model, unlabelled.calibration, reference, tolerance)
    assert not made.agreement.problem(tolerance) and 0 < len(made.in_float) < made.num_layers == 3
    kinds = [node.op_type for node in made.model.graph.node]
    assert "QuantizeLinear" in kinds and "QuantizeLinear" in [node.op_type for node in all_of_it.model.graph.node]


@pytest.mark.parametrize("precision", ["int8", "float16"])
def test_fewer_bits_are_smaller_and_measured(precision: str, origin: Origin, evidence: Evidence, tmp_path: Path) -> None:
    made = export_network(origin, evidence, tmp_path / precision, precision=precision, allow_loss=True)
    plain = export_network(origin, evidence, tmp_path / "plain")
    assert made.file.name == f"network-{precision}.onnx" and made.file.stat().st_size < 0.75 * plain.file.stat().st_size
    model = onnx.load_model(made.file)
    told = json.loads(next(one.value for one in model.metadata_props if one.key == "agentkd"))
    assert told["precision"] == precision and told["checks"]["agreement"] > 0.8
    scales = {one.name: list(one.dims) for one in model.graph.initializer if one.name.endswith("_scale")}
    if precision == "int8":
        assert any(dims and dims[0] > 1 for dims in scales.values()), "weights have one scale for all channels"
        last = next(node for node in reversed(model.graph.node) if node.op_type == "Resize")
        quantized = [node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
        assert last.output[0] not in quantized, "the logits are enlarged in eight bits"
        assert "In int8 are" in (tmp_path / precision / "README.md").read_text()


def test_a_program_and_weights_are_read_again(origin: Origin, evidence: Evidence, tmp_path: Path) -> None:
    program = export_network(origin, evidence, tmp_path / "torch", kind="torch")
    images = torch.rand(1, 3, 50, 77)
    extra = {"agentkd.json": ""}
    module = torch.export.load(program.file, extra_files=extra).module()
    with torch.no_grad():
        assert torch.allclose(module(images), origin.segmenter(images), atol=1e-4)
    assert json.loads(extra["agentkd.json"])["classes"] == list(origin.classes)
    assert program.file.stat().st_size < 2_000_000
    weights = export_network(origin, evidence, tmp_path / "weights", kind="safetensors")
    again = agentkd.load_network(weights.file)
    assert again.classes == origin.classes and torch.equal(again(images), origin.segmenter(images))


def test_a_network_that_answers_otherwise_for_each_image_cannot_be_a_program() -> None:
    class Looking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, 3, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.head(images) if images.mean() > 0.5 else self.head(-images)

    segmenter = Segmenter(OwnNetwork(Looking()).eval(), resolve("unet", 3, TINY))
    with pytest.raises(ConfigError, match="cannot be exported for images of all sizes"):
        as_onnx(Inference(segmenter))


def test_what_fails_leaves_nothing_and_what_is_there_is_not_touched(
    origin: Origin, evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    for taken in ("mine", "file"):
        with pytest.raises(ConfigError, match=f"{taken} is there already"):
            export_network(origin, evidence, tmp_path / taken, kind="safetensors")

    def full(*given: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "model_card", full)
    with pytest.raises(StorageError, match="the disk is full"):
        export_network(origin, evidence, tmp_path / "out", kind="safetensors")
    for kind, write in exporting._WRITERS.items():  # a file system that is always full
        with pytest.raises(OSError, match="No space left on device"):
            write(origin, evidence, Path("/dev/full"), {"precision": "float32", "kind": kind})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mine"]
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["photo.jpg"]


def test_who_is_asked_to_end_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "w.safetensors"
    segmenter = lively(resolve("unet", 5, TINY))
    weights.write_bytes(encode_weights(segmenter.architecture, dict(segmenter.network.state_dict())))
    monkeypatch.setattr(exporting, "model_card", lambda *given: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    assert typed(["export", str(weights), str(tmp_path / "out"), "--format", "safetensors"]) == 143
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"] and signal.getsignal(signal.SIGTERM) == before


def test_a_package_that_is_missing_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setattr("importlib.util.find_spec", lambda name, package=package: None if name == package else True)
        with pytest.raises(ConfigError, match=rf"{package} is not installed; run: pip install 'agentkd\[export\]'"):
            exporting.check_request("onnx", "float32")
        exporting.check_request("torch", "float32")
    for kind, precision in (("tflite", "float32"), ("torch", "int8"), ("onnx", "int4")):
        with pytest.raises(ConfigError, match=r"expected one of|written in float32"):
            exporting.check_request(kind, precision)


def test_a_network_is_found_by_its_run_its_digest_or_its_file_with_its_data(tmp_path: Path) -> None:
    segmenter = lively(resolve("unet", 5, TINY))
    folder, record = recorded(tmp_path / "run", segmenter)
    digest = record.result.weights
    (tmp_path / "a.safetensors").write_bytes(folder.store.get(digest))
    for model, run in ((str(folder.place), None), (digest[:12], folder.place)):
        with found(model, run=run) as (origin, images):
            assert (origin.weights, origin.record, images.is_real, len(images.labels)) == (digest, record, True, 4)
            assert origin.classes == scenes().classes and origin.colors == scenes().colors
    with found(str(tmp_path / "a.safetensors")) as (origin, images):
        assert (origin.weights, origin.record, images.is_real, images.labels) == (digest, None, False, ())
        assert "generated scenes" in images.source
    with found(str(tmp_path / "a.safetensors"), data=SCENES) as (origin, images):
        assert images.is_real and len(images.labels) == 4
    recorded(tmp_path / "run", segmenter, seed=2)
    other = lively(resolve("unet", 5, TINY), seed=4)
    recorded(tmp_path / "run", other, seed=3)
    with (
        pytest.raises(ConfigError, match=f"no experiment with a winner; name a network by its digest.*{digest[:12]}"),
        found(str(folder.place)),
    ):
        pass
    with pytest.raises(ConfigError, match="--run names another"), found(str(folder.place), run=folder.place):
        pass


@pytest.mark.parametrize("what", ["others by now", "nowhere", "read by own code"])
def test_without_its_data_a_network_is_compared_on_generated_scenes_and_that_is_said(what: str, tmp_path: Path) -> None:
    folder, record = recorded(tmp_path / "run", lively(resolve("unet", 5, TINY)))
    sources = {
        "others by now": record.task.data.replace(content_digest="0" * 64),
        "nowhere": DataSource(spec="folder:path=nowhere", content_digest="0" * 64),
        "read by own code": DataSource(spec="own_data:made", content_digest="0" * 64, code="1" * 64),
    }
    other = replace(record, task=record.task.replace(data=sources[what], seed=9), label="other")
    place = RunFolder(tmp_path / "other")
    place.store.put(folder.store.get(record.result.weights))
    with Journal(place.journal) as journal:
        journal.commit(other)
    with found(str(place.place)) as (origin, images):
        assert origin.record == other and not images.is_real and images.labels == ()
        said = {"others by now": "another now", "nowhere": "not here", "read by own code": "--allow-code runs it"}[what]
        assert "generated scenes" in images.source and said in images.source


def test_the_command_writes_and_says_what_it_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _, record = recorded(tmp_path / "run", lively(resolve("unet", 5, TINY)))
    assert typed(["export", "run"]) == 0
    said = capsys.readouterr().out
    place = tmp_path / f"unet-{record.result.weights[:12]}-onnx"
    assert (place / "network.onnx").is_file() and "of the pixels are of the same class, mIoU" in said
    assert typed(["export", "run", str(place)]) == 2
    assert typed(["export", "run", "x", "--int8", "--fp16"]) == 2
    assert typed(["export", "run", "x", "--format", "torch", "--int8"]) == 2
    assert typed(["export", "run", "--to", "tensorboard"]) == 2
    assert typed(["export", "run", "events", "--to", "tensorboard"]) == 0
    assert typed(["export", "nothing.safetensors", "x"]) == 2
    assert not (tmp_path / "x").exists()


def test_what_a_network_costs_is_counted_and_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        typed(["cost", "unet", "--size", "64x48", "--runs", "2", "--set", "base=8", "--set", "depth=2", "--format", "json"]) == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert list(told["latency"]) == ["eager", "folded", "onnx float32", "onnx int8"]
    assert all(0 < one["median_ms"] <= one["p90_ms"] * 1.5 and one["runs"] == 2 for one in told["latency"].values())
    assert told["total"] == told["network"] == told["deploy"] > 1000 and told["num_macs"] > 1e6
    for size in ("x", "64", "0x64", "64x99999", ""):
        assert typed(["cost", "unet", "--size", size]) == 2


def test_activation_memory_is_what_is_alive_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    small = activation_bytes(resolve("unet", 3, TINY), 64, 64)
    assert activation_bytes(resolve("unet", 3, TINY), 128, 128) == pytest.approx(4 * small, rel=0.05)
    wide = activation_bytes(resolve("unet", 3, TINY | {"base": 16}), 64, 64)
    assert 1.7 * small < wide < 2.1 * small
    map_bytes = 64 * 64 * 4 * 8  # of the widest maps of which there are several at once, at full resolution
    assert 3 * map_bytes <= small <= 8 * map_bytes
    monkeypatch.setattr(costing._Alive, "_remove", lambda self, name, size: self._known.discard(name))
    assert activation_bytes(resolve("unet", 3, TINY), 64, 64) > 1.5 * small, "what is dead was counted before"


def test_what_is_exported_from_a_run_is_applied_by_agentkd_predict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    segmenter = lively(resolve("unet", 5, TINY))
    _, record = recorded(tmp_path / "run", segmenter)
    assert typed(["export", record.result.weights[:8], "out", "--run", "run"]) == 0
    network = agentkd_predict.Network(tmp_path / "out" / "network.onnx")
    assert network.classes == scenes().classes and network.about.colors == scenes().colors
    pixels = np.random.default_rng(1).integers(0, 256, (33, 51, 3), dtype=np.uint8)
    (tmp_path / "photos").mkdir()
    for name, image in {"odd": pixels, "one": pixels[:1, :1], "narrow": pixels[:, :5]}.items():
        Image.fromarray(image).save(tmp_path / "photos" / f"{name}.png")
        with torch.no_grad():
            expected = segmenter(torch.from_numpy(image.copy()).permute(2, 0, 1))[0].numpy()
        assert np.allclose(network.probabilities(image), expected, atol=1e-4)
    assert predicts(["out/network.onnx", "photos", "--out", "masks", "--tile", "0"], "agentkd predict") == 0
    told = json.loads((tmp_path / "masks" / "summary.json").read_text())
    assert told["network"]["weights"] == record.result.weights and len(told["images"]) == 3 and not told["failed"]
    mask = np.asarray(Image.open(tmp_path / "masks" / "masks" / "odd.png"))
    with torch.no_grad():
        expected = segmenter(torch.from_numpy(pixels).permute(2, 0, 1))[0].argmax(dim=0).numpy()
    assert (mask == expected).mean() > 0.999


def two_heads(place: Path) -> tuple[RunFolder, list[Record]]:
    """A run in which the head ``fire`` learned scenes and then ``roads`` of the same trunk two classes; ``more`` has not."""
    architecture = resolve("unet", 5, TINY).with_heads({"fire": 5, "roads": 2, "more": 3}, "fire")
    learned = {"fire": scenes().classes}
    folder, made = RunFolder(place), list[Record]()
    for seed, head in enumerate(("fire", "roads")):
        under, before = architecture.under(head), made[-1].result.weights if made else ""
        learned |= {} if head == "fire" else {head: ("Road", "Other")}
        state = dict(lively(under, seed=seed).network.state_dict())
        weights = folder.store.put(encode_weights(under, state, learned[head], learned))
        task = Train(
            architecture=under,
            data=DataSource(spec=SCENES, content_digest=scenes().digest),
            seed=seed,
            initial_weights=Digest(before),
        )
        ious = (0.25 + seed / 2,) * under.num_classes
        result = TaskResult(status=Status.COMPLETED, weights=weights, miou=0.25 + seed / 2, class_iou=ious)
        made.append(Record(task, result, AgentName("agent-1"), 1, f"lesson of {head}"))
        with Journal(folder.journal) as journal:
            journal.commit(made[-1])
    return folder, made


def test_of_a_network_with_several_heads_one_leaves_and_it_is_said_which(tmp_path: Path) -> None:
    folder, (first, last) = two_heads(tmp_path / "run")
    digest = last.result.weights
    with found(digest, run=folder.place) as (origin, _):
        assert (origin.segmenter.architecture.head, origin.classes, origin.record) == ("roads", ("Road", "Other"), last)
    with found(digest, run=folder.place, head="fire") as (origin, images):
        assert (origin.classes, origin.record, origin.is_as_recorded) == (scenes().classes, first, False)
        assert origin.colors == scenes().colors and len(images.labels) == 4
        made = export_network(origin, images, tmp_path / "torch", kind="torch")
        again = export_network(origin, images, tmp_path / "all", kind="safetensors")
    assert 'load_network("network.safetensors", head="fire")' in (tmp_path / "all" / "README.md").read_text()
    said = " ".join((tmp_path / "torch" / "README.md").read_text().split())
    for words in ("has `fire` alone, and not `more`, `roads`", "25.00 %", "head as it was then", f"--task {last.task.key[:16]}"):
        assert words in said
    image, network = torch.rand(1, 3, 40, 40), lively(last.task.architecture, seed=1)
    with torch.no_grad(), using(network.network, "fire"):
        expected = network(image)
        assert torch.allclose(torch.export.load(made.file).module()(image), expected, atol=1e-4)
        assert torch.allclose(agentkd.load_network(again.file, head="fire")(image), expected, atol=1e-5)
    names = [name for name, _ in torch.export.load(made.file).named_parameters()]
    assert any("fire" in name for name in names) and not any("roads" in name or "more" in name for name in names)
    assert agentkd.load_network(again.file, head="roads").classes == ("Road", "Other"), "what the others tell apart is lost"
    for head, words in (
        ("sea", "no head 'sea'; there are fire .*more .*roads"),
        ("more", "'more' has learned nothing; there are fire"),
    ):
        with pytest.raises(ConfigError, match=words), found(digest, run=folder.place, head=head):
            pass
    (tmp_path / "w.safetensors").write_bytes(
        encode_weights(resolve("unet", 5, TINY), dict(lively(resolve("unet", 5, TINY)).network.state_dict()))
    )
    with pytest.raises(ConfigError, match="one head alone, without a name; leave out head='fire'"):
        agentkd.load_network(tmp_path / "w.safetensors", head="fire")


def test_what_is_named_wrongly_is_told_what_could_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("made.onnx", "made.PT2"):
        (tmp_path / name).write_bytes(b"PK")
    for model, words in (
        ("runs/nowhere", "no run, bundle or file of weights 'runs/nowhere'"),
        ("abc", "of a digest give at least 4 characters"),
        ("abcd", "--run FOLDER"),
        ("made.onnx", "made.onnx is an ONNX file, and no weights"),
        ("made.PT2", "made.PT2 is a program of torch.export, and no weights"),
    ):
        for command in ("export", "cost"):
            assert typed([command, model]) == 2
            assert words in " ".join(capsys.readouterr().err.split())


def test_a_classifier_leaves_as_it_is(evidence: Evidence, tmp_path: Path) -> None:
    """One answer for a whole image is that of each of its pixels."""

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.Linear(8, 5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.head(self.norm(self.conv(images)).relu().mean(dim=(2, 3)))

    torch.manual_seed(2)
    segmenter = Segmenter(OwnNetwork(Classifier()).eval(), resolve("unet", 5, TINY), multiple=1)
    origin = Origin(segmenter, Digest("ab" * 32), scenes().classes, scenes().colors, "weights")
    made = export_network(origin, replace(evidence, labels=()), tmp_path / "out")
    found_now = Session(made.file.read_bytes())(np.random.default_rng(0).random((1, 3, 40, 37), dtype=np.float32))
    assert found_now.shape == (1, 5, 40, 37) and np.ptp(found_now, axis=(2, 3)).max() < 1e-6


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_a_network_of_four_channels_leaves_with_them(tmp_path: Path, kind: str) -> None:
    segmenter = lively(resolve("unet", 5, TINY, images=scenes(4).normalization), seed=1)
    origin = Origin(segmenter, Digest("ab" * 32), scenes().classes, scenes().colors, "weights")
    made = export_network(origin, generated(segmenter.architecture, "no data"), tmp_path / "out", kind=kind)
    assert made.agreement is not None and made.agreement.agreement >= 0.9999
    image = torch.rand(1, 4, 48, 64)
    with torch.no_grad():
        expected = segmenter(image)
    if kind == "torch":
        found = torch.export.load(made.file).module()(image)
    else:
        found = torch.from_numpy(Session(made.file.read_bytes())(image.numpy()))
    assert torch.allclose(found, expected, atol=1e-4)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "of 4 channels (red, green, blue, nir)" in card and "agentkd predict network" not in card
    with pytest.raises(DatasetError, match=r"red, green, blue.*the network takes red, green, blue, nir"):
        of_dataset(scenes(), segmenter.architecture, train="train", validation="validation")
