"""What a network's file must be and say, and what is made of its output."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from exported import CLASSES, COLORS, WRITTEN, by_channel, export, logits_of, random_weights, scene, softmax

from agentkd_predict import Foreign, InputError, Network, NetworkError, PredictError, UsageError, Views
from agentkd_predict.network import resized
from agentkd_predict.views import averaged

ABC = Foreign(classes=("a", "b", "c"))
NOT_NETWORKS = {
    "nothing": (b"", "is empty"),
    "HTML": (b"<!DOCTYPE html>", "is a page of HTML"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    "weights": ((9).to_bytes(8, "little") + b'{"a": {}}', "holds weights alone"),
    "a checkpoint": (b"PK\x03\x04" + bytes(50), "is a ZIP archive"),
    "noise": (bytes(range(256)), "cannot be read as ONNX"),
}


@pytest.mark.parametrize("name", NOT_NETWORKS)
def test_what_is_no_network_is_told_as_what_it_is(tmp_path: Path, name: str) -> None:
    content, words = NOT_NETWORKS[name]
    path = tmp_path / "n.onnx"
    path.write_bytes(content)
    with pytest.raises(NetworkError, match=f"n.onnx: {words}.*the ONNX file that agentkd export writes"):
        Network(path)


def test_a_network_that_is_not_there_or_cut_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="is not there"):
        Network(tmp_path / "n.onnx")
    with pytest.raises(NetworkError, match="is a folder"):
        Network(tmp_path)
    path = export(tmp_path / "n.onnx", random_weights(radius=2))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(NetworkError, match="cannot be read as ONNX"):
        Network(path)


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (1, "images of 1 channel are not predicted here: load_network"),
        (4, "images of 4 channels are not predicted here: load_network"),
    ],
)
def test_a_network_for_other_channels_is_refused_with_what_takes_them(tmp_path: Path, count: int, words: str) -> None:
    shapes = [
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", c, "h", "w"]) for n, c in (("x", count), ("y", 3))
    ]
    weights = onnx.numpy_helper.from_array(np.ones((3, count, 1, 1), np.float32), "w")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Conv", ["x", "w"], ["y"])], "g", shapes[:1], shapes[1:], [weights])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "n.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(NetworkError, match=words):
        Network(tmp_path / "n.onnx", ABC)


WRONG: list[tuple[Any, str]] = [
    ("{", "no JSON"),
    ([], "no object of JSON"),
    (WRITTEN | {"format": 2}, r"is of format 2; this version reads 1; upgrade"),
    (WRITTEN | {"classes": ["a", "b"], "colors": None}, r"its output is .*; expected float32 \[N,2,H,W\]"),
    (WRITTEN | {"classes": ["a", "b", "a"]}, "'a' stands there twice"),
    (WRITTEN | {"classes": "abc"}, "no list of names"),
    (WRITTEN | {"classes": ["a", " ", "c"]}, "a name is empty"),
    (WRITTEN | {"classes": ["a"]}, "1 names; expected 2 to 255"),
    (WRITTEN | {"colors": [[0, 0, 0]]}, "colors are not one of"),
    (WRITTEN | {"colors": [[0, 0, 256]] * 3}, "colors are not one of"),
    (WRITTEN | {"multiple": 0}, "multiple is 0"),
    (WRITTEN | {"multiple": True}, "multiple is True"),
    (WRITTEN | {"channels": 4}, "takes 4 channels"),
]


@pytest.mark.parametrize(("metadata", "words"), WRONG, ids=[words for _, words in WRONG])
def test_metadata_that_cannot_be_are_refused(tmp_path: Path, metadata: Any, words: str) -> None:
    with pytest.raises(NetworkError, match=words):
        Network(export(tmp_path / "n.onnx", metadata=metadata))


def test_an_exported_network_says_its_classes_and_gives_probabilities(tmp_path: Path) -> None:
    weights, pixels = random_weights(radius=1), scene(20, 30)
    network = Network(export(tmp_path / "n.onnx", weights))
    assert network.classes == CLASSES and network.about.colors == COLORS
    assert np.allclose(network.probabilities(pixels), softmax(logits_of(pixels, weights)), atol=1e-5)
    assert np.allclose(network.probabilities(pixels[:1, :1]).sum(axis=0), 1, atol=1e-5)


def test_a_network_that_says_nothing_needs_classes_and_logits_a_softmax(tmp_path: Path) -> None:
    weights, pixels = random_weights(radius=1), scene(20, 30)
    path = export(tmp_path / "n.onnx", weights, None, gives="logits")
    with pytest.raises(NetworkError, match=r"does not say what its classes are.*--classes road,car,sky"):
        Network(path)
    with pytest.raises(NetworkError, match=r"holds no probabilities.*add --logits"):
        Network(path, ABC).probabilities(pixels)
    foreign = Foreign(ABC.classes, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), is_logits=True)
    scaled = (pixels / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    around = np.pad(scaled, ((1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(around, (3, 3), axis=(0, 1))
    expected = softmax(np.einsum("hwcij,kcij->khw", windows, weights.astype(np.float64)))
    assert np.allclose(Network(path, foreign).probabilities(pixels), expected, atol=1e-4)


def test_less_than_nothing_is_no_probability_though_the_sum_is_one(tmp_path: Path) -> None:
    weights = np.repeat(np.array([2, -1, 0], dtype=np.float32)[:, None, None, None] / 3, 3, axis=1)
    with pytest.raises(NetworkError, match="holds no probabilities: the least is -1, a sum 1; add --logits"):
        Network(export(tmp_path / "n.onnx", weights, None, gives="logits"), ABC).probabilities(np.full((4, 5, 3), 255, np.uint8))


def test_what_a_network_says_itself_is_not_said_again(tmp_path: Path) -> None:
    path = export(tmp_path / "n.onnx")
    for foreign, option in ((ABC, "--classes"), (Foreign(is_logits=True), "--logits"), (Foreign(multiple=8), "--multiple")):
        with pytest.raises(UsageError, match=f"{option}: .* says itself"):
            Network(path, foreign)


@pytest.mark.parametrize(
    ("foreign", "words"),
    [
        (Foreign(("a", "a", "b")), "--classes: 'a' stands there twice"),
        (Foreign(("a", "b", "c"), mean=(1.0,)), "--mean: 1 numbers; give three"),
        (Foreign(("a", "b", "c"), std=(1.0, 0.0, 1.0)), "--std: 1,0,1: each must be above 0"),
    ],
)
def test_what_a_user_says_is_checked(tmp_path: Path, foreign: Foreign, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Network(export(tmp_path / "n.onnx", metadata=None), foreign)


def test_numbers_of_classes_and_another_count_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="leave out the ArgMax"):
        Network(export(tmp_path / "n.onnx", metadata=None, gives="numbers"), ABC)
    with pytest.raises(NetworkError, match=r"expected float32 \[N,4,H,W\], for the classes a, b, c, d"):
        Network(export(tmp_path / "n.onnx", metadata=None), Foreign(("a", "b", "c", "d")))


def test_a_smaller_output_is_interpolated_between_centers(tmp_path: Path) -> None:
    weights, pixels = random_weights(radius=0), scene(24, 32)
    small = logits_of(pixels, weights)[:, ::8, ::8].astype(np.float32)
    network = Network(export(tmp_path / "n.onnx", weights, None, gives="logits", stride=8), Foreign(ABC.classes, is_logits=True))
    assert np.allclose(network.probabilities(pixels), softmax(resized(small, (24, 32)).astype(np.float64)), atol=1e-4)
    middle = resized(np.array([[[0.0, 8.0]]], dtype=np.float32), (1, 16))[0, 0]
    assert np.allclose(middle[4:12], np.arange(8) + 0.5)


def test_one_channel_is_the_second_of_two_classes(tmp_path: Path) -> None:
    weights = np.ones((1, 3, 1, 1), dtype=np.float32) / 3
    network = Network(export(tmp_path / "n.onnx", weights, None, gives="logits"), Foreign(("no", "yes")))
    gray = np.full((2, 2, 3), 51, dtype=np.uint8)
    assert np.allclose(network.probabilities(gray)[:, 0, 0], [0.8, 0.2], atol=1e-5)


def test_a_network_of_one_size_takes_smaller_images_and_no_larger(tmp_path: Path) -> None:
    network = Network(export(tmp_path / "n.onnx", size=(32, 48)))
    assert network.probabilities(scene(20, 30)).shape == (3, 20, 30)
    with pytest.raises(UsageError, match="takes images of 48x32 only"):
        network.probabilities(scene(33, 30))


def test_values_that_are_no_numbers_fail_the_image(tmp_path: Path) -> None:
    weights = by_channel()
    weights[0, 0] = np.nan
    with pytest.raises(InputError, match=r"photo\.png: the network gives values that are no numbers"):
        Network(export(tmp_path / "n.onnx", weights)).probabilities(scene(4, 4), "photo.png")


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = export(tmp_path / "n.onnx")
    for device in ("tpu", "cuda"):
        with pytest.raises(UsageError, match=f"--device '?{device}"):
            Network(path, device=device)


def test_views_are_averaged_and_turned_back(tmp_path: Path) -> None:
    weights, pixels = random_weights(radius=1), scene(20, 30)
    network = Network(export(tmp_path / "n.onnx", weights))
    found = averaged(network, pixels, Views(has_flips=True, is_upside_down=True), "a")
    expected = [softmax(logits_of(pixels[::down, ::right], weights))[:, ::down, ::right] for down in (1, -1) for right in (1, -1)]
    assert np.allclose(found, np.mean(expected, axis=0), atol=1e-5)
    assert not np.allclose(found, expected[0], atol=1e-2)


def test_scales_see_the_image_larger_and_smaller(tmp_path: Path) -> None:
    network = Network(export(tmp_path / "n.onnx", metadata=WRITTEN | {"multiple": 32}))
    flat = np.zeros((50, 70, 3), dtype=np.uint8)
    flat[:, :35, 0], flat[:, 35:, 2] = 255, 255
    found = averaged(network, flat, Views(scales=(0.5, 1.0, 1.5)), "a")
    assert found.shape == (3, 50, 70) and np.allclose(found.sum(axis=0), 1, atol=1e-4)
    assert (found.argmax(axis=0)[:, :33] == 0).all() and (found.argmax(axis=0)[:, 37:] == 2).all()
    assert len(Views(has_flips=True, scales=(0.5, 1.0, 1.5))) == 6


def test_errors_show_no_controls() -> None:
    assert "\x1b" not in str(PredictError("\x1b[2J")) and json.dumps(str(InputError("a\x9b", "b")))
