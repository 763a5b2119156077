"""Tiles cover an image, count to 1 everywhere, and give together what the whole image gives, where a network sees no further."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from exported import WRITTEN, export, logits_of, random_weights, scene, softmax
from hypothesis import given
from hypothesis import strategies as st

from agentkd_predict import Foreign, Network, Tiling, UsageError
from agentkd_predict.blending import Blend, order
from agentkd_predict.tiles import Floats, lay


@given(length=st.integers(1, 400), tile=st.integers(1, 90), share=st.floats(0, 0.5), grid=st.sampled_from([1, 2, 14, 32]))
def test_tiles_cover_an_axis_and_count_to_one(length: int, tile: int, share: float, grid: int) -> None:
    overlap = int(tile * share)
    axis = lay(length, tile, overlap, grid)
    total = np.zeros(length)
    for index in range(len(axis)):
        (first, last), (begin, end) = axis.used(index), axis.span(index)
        assert begin <= first <= last <= end <= length and axis.tile <= end - begin <= axis.longest
        assert begin % grid == 0 or grid > tile - overlap
        assert end - begin < axis.tile + grid and (end == length or end - begin == axis.tile)
        assert first == 0 or first - begin >= overlap // 4
        assert last == length or end - last >= overlap // 4
        weights = axis.weights(index)
        assert (weights >= 0).all()
        total[first:last] += weights
    assert np.allclose(total, 1, atol=1e-6)
    settled = [axis.settled(index) for index in range(len(axis))]
    assert settled[0][0] == 0 and settled[-1][1] == length
    assert all(before[1] == after[0] for before, after in pairwise(settled))


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    tile=st.integers(4, 24),
    overlap=st.integers(0, 12),
    seed=st.integers(0, 9),
    grid=st.sampled_from([1, 4]),
)
def test_blending_is_the_weighted_sum_of_all_tiles(
    height: int, width: int, tile: int, overlap: int, seed: int, grid: int
) -> None:
    rows, columns = (lay(length, tile, min(overlap, tile // 2), grid) for length in (height, width))
    random = np.random.default_rng(seed)
    blend, expected, found = Blend(rows, columns, 2), np.zeros((2, height, width)), np.full((2, height, width), np.nan)
    for row, column in order(rows, columns):
        (upper, lower), (first, last) = rows.span(row), columns.span(column)
        given_: Floats = random.random((2, lower - upper, last - first), dtype=np.float32)
        (top, bottom), (left, right) = rows.used(row), columns.used(column)
        y, x = rows.starts[row], columns.starts[column]
        weights = rows.weights(row)[:, None] * columns.weights(column)
        expected[:, top:bottom, left:right] += given_[:, top - y : bottom - y, left - x : right - x] * weights
        block = blend.add(row, column, given_)
        place = np.s_[
            :, block.top : block.top + block.probabilities.shape[1], block.left : block.left + block.probabilities.shape[2]
        ]
        assert np.isnan(found[place]).all()
        found[place] = block.probabilities
    assert np.allclose(found, expected, atol=1e-6)


def whole(network: Network, pixels: np.ndarray) -> Floats:
    return network.probabilities(pixels)


def tiled(network: Network, pixels: np.ndarray, tile: int, overlap: int) -> Floats:
    rows, columns = Tiling(tile, overlap).axes(network, *pixels.shape[:2])
    blend, found = Blend(rows, columns, len(network.classes)), np.empty((len(network.classes), *pixels.shape[:2]), np.float32)
    for row, column in order(rows, columns):
        (top, bottom), (left, right) = rows.span(row), columns.span(column)
        block = blend.add(row, column, network.probabilities(pixels[top:bottom, left:right]))
        _, height, width = block.probabilities.shape
        found[:, block.top : block.top + height, block.left : block.left + width] = block.probabilities
    return found


@pytest.mark.parametrize("size", [(203, 310), (65, 64), (64, 700), (1, 150), (129, 130)])
def test_tiles_give_what_the_whole_image_gives_if_the_network_looks_no_further_than_a_quarter_of_the_overlap(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    weights, pixels = random_weights(radius=4), scene(*size)
    network = Network(export(tmp_path / "n.onnx", weights))
    by_tiles = tiled(network, pixels, tile=64, overlap=16)
    assert np.allclose(by_tiles, whole(network, pixels), atol=1e-5)
    assert np.allclose(by_tiles, softmax(logits_of(pixels, weights)), atol=1e-4)


@pytest.mark.parametrize("size", [(203, 310), (97, 161), (66, 65)])
def test_a_network_that_makes_images_smaller_sees_them_on_the_same_grid_in_each_tile(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    weights, pixels = random_weights(radius=4), scene(*size)
    network = Network(export(tmp_path / "n.onnx", weights, WRITTEN | {"multiple": 4}, stride=4))
    for tile, overlap in ((96, 48), (90, 45)):
        assert np.allclose(tiled(network, pixels, tile, overlap), whole(network, pixels), atol=1e-5)


def test_a_network_of_others_that_does_not_say_what_it_takes_gets_tiles_that_are_all_alike(tmp_path: Path) -> None:
    places = {name: Path(tmp_path / f"{name}.onnx") for name in ("others", "said", "fixed")}
    others = Network(export(places["others"], metadata=None), Foreign(("a", "b", "c")))
    assert (others.grid, Network(export(places["said"])).grid) == (1, 32)
    assert Network(export(places["fixed"], size=(64, 64))).grid == 1
    assert Network(places["others"], Foreign(("a", "b", "c"), multiple=14)).grid == 224
    assert [axis.span(len(axis) - 1) for axis in Tiling(64, 16).axes(others, 101, 130)] == [(37, 101), (66, 130)]


def test_a_network_that_looks_further_still_agrees_at_999_of_1000_pixels_inside_the_margin(tmp_path: Path) -> None:
    pixels = np.repeat(np.repeat(scene(40, 50), 10, axis=0), 10, axis=1)
    network = Network(export(tmp_path / "n.onnx", random_weights(radius=12)))
    expected = whole(network, pixels).argmax(axis=0)
    assert (tiled(network, pixels, 128, 32).argmax(axis=0) == expected).mean() > 0.999
    assert (tiled(network, pixels, 128, 0).argmax(axis=0) == expected).mean() < 0.999


def test_tiles_are_multiples_of_what_the_network_takes_and_images_are_continued_by_reflection(tmp_path: Path) -> None:
    network = Network(export(tmp_path / "n.onnx", random_weights(radius=1), WRITTEN | {"multiple": 32}))
    assert Tiling(100, 16).fitting(network) == (128, 128) and Tiling(0, 16).fitting(network) == (0, 0)
    pixels = scene(40, 70)
    reflected = np.pad(pixels, ((0, 24), (0, 26), (0, 0)), mode="reflect")
    expected = softmax(logits_of(reflected, random_weights(radius=1)))[:, :40, :70]
    assert np.allclose(network.probabilities(pixels), expected, atol=1e-5)


def test_an_overlap_of_more_than_half_a_tile_is_refused(tmp_path: Path) -> None:
    network = Network(export(tmp_path / "n.onnx"))
    with pytest.raises(UsageError, match=r"--overlap 40: expected 0 to 32, half of --tile 64"):
        Tiling(64, 40).axes(network, 10, 10)
