"""What lies on a map stays there: georeference, areas, gaps, bands. What is too large to be decoded whole is read in strips."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from exported import COLORS, WRITTEN, export, scene
from PIL import Image
from rasterio.transform import Affine, from_origin

from agentkd_predict import InputError, Network, Tiling, Wanted, predict, sources
from agentkd_predict.areas import WGS84, Georeference
from agentkd_predict.sources import open_source

UTM = {"crs": "EPSG:32629", "transform": from_origin(500_000, 4_400_000, 0.5, 0.5)}
SMALL_TILES = Tiling(64, 16)


def raster(path: Path, values: np.ndarray, **profile: Any) -> Path:
    """A GeoTIFF of ``values [bands,H,W]``."""
    size = {"count": values.shape[0], "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype}
    with rasterio.open(path, "w", **({"driver": "GTiff"} | size | profile)) as file:
        file.write(values)
    return path


def bands(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.ascontiguousarray(scene(height, width, seed).transpose(2, 0, 1))


@pytest.fixture
def network(tmp_path: Path) -> Network:
    return Network(export(tmp_path / "n.onnx"), threads=1)


def summary(out: Path) -> dict[str, Any]:
    return json.loads((out / "summary.json").read_text())


def test_masks_overlays_and_probabilities_lie_where_the_image_lies(tmp_path: Path, network: Network) -> None:
    values = bands(150, 210)
    image = raster(tmp_path / "a.tif", values, **UTM)
    wanted = Wanted(SMALL_TILES, has_overlay=True, has_probabilities=True)
    predict(network, [image], tmp_path / "out", wanted)
    expected = values.argmax(axis=0)
    for folder in ("masks", "overlays", "probabilities"):
        with rasterio.open(tmp_path / "out" / folder / "a.tif") as made:
            assert made.crs == UTM["crs"] and made.transform == UTM["transform"] and made.shape == (150, 210)
    with rasterio.open(tmp_path / "out" / "masks" / "a.tif") as mask:
        assert np.array_equal(mask.read(1), expected) and mask.nodata == 255
        assert [mask.colormap(1)[number][:3] for number in range(3)] == list(COLORS)
    with rasterio.open(tmp_path / "out" / "probabilities" / "a.tif") as file:
        found = file.read()
        assert file.tags(1, ns="IMAGE_STRUCTURE")["NBITS"] == "16" and np.array_equal(found.argmax(axis=0), expected)
        assert np.allclose(found.sum(axis=0), 1, atol=2e-3)
    with rasterio.open(tmp_path / "out" / "overlays" / "a.tif") as file:
        colors = np.array(COLORS, dtype=np.uint16)[expected].transpose(2, 0, 1)
        assert np.array_equal(file.read([1, 2, 3]), (values + colors) // 2)
    told = summary(tmp_path / "out")["images"][0]
    counts = [int((expected == number).sum()) for number in range(3)]
    assert list(told["pixels"].values()) == counts
    assert np.allclose(list(told["hectares"].values()), [count * 0.25 / 10_000 for count in counts])


def test_what_has_no_data_is_in_no_class(tmp_path: Path, network: Network) -> None:
    values = bands(100, 130)
    values[:, :30, :] = 0
    values[:, 30:, :] |= 1
    image = raster(tmp_path / "a.tif", values, nodata=0, **UTM)
    predict(network, [image], tmp_path / "out", Wanted(SMALL_TILES, has_overlay=True))
    with rasterio.open(tmp_path / "out" / "masks" / "a.tif") as mask:
        assert (mask.read(1)[:30] == 255).all() and np.array_equal(mask.read(1)[30:], values[:, 30:].argmax(axis=0))
    with rasterio.open(tmp_path / "out" / "overlays" / "a.tif") as overlay:
        assert (overlay.read(4)[:30] == 0).all() and (overlay.read(4)[30:] == 255).all()
    assert sum(summary(tmp_path / "out")["images"][0]["pixels"].values()) == 70 * 130


def test_values_that_are_no_numbers_have_no_data_on_a_map(tmp_path: Path, network: Network) -> None:
    values = bands(40, 50).astype(np.float32)
    values[:, 5:9, 7:11] = np.nan
    image = raster(tmp_path / "a.tif", values, **UTM)
    predict(network, [image], tmp_path / "out", Wanted(scale=(0.0, 255.0)))
    with rasterio.open(tmp_path / "out" / "masks" / "a.tif") as mask:
        gaps = mask.read(1) == 255
    assert gaps[5:9, 7:11].all() and gaps.sum() == 16


def test_a_gap_is_where_the_file_says_it_and_where_there_is_no_number(tmp_path: Path, network: Network) -> None:
    values = bands(40, 50).astype(np.float32)
    values[:, 5:9, 7:11], values[:, 20:22, 30:33] = np.nan, -1
    image = raster(tmp_path / "a.tif", values, nodata=-1, **UTM)
    predict(network, [image], tmp_path / "out", Wanted(scale=(0.0, 255.0)))
    with rasterio.open(tmp_path / "out" / "masks" / "a.tif") as mask:
        gaps = mask.read(1) == 255
    assert gaps[5:9, 7:11].all() and gaps[20:22, 30:33].all() and gaps.sum() == 16 + 6


def test_what_stands_in_gaps_is_no_value_of_the_image(tmp_path: Path) -> None:
    values = np.full((3, 10, 12), 1000, dtype=np.uint16)
    values[:, :4] = 5500  # which lies in the scale, and would be gray
    source = open_source(raster(tmp_path / "a.tif", values, nodata=5500, **UTM), (5000.0, 6000.0), (), tmp_path)
    pixels, valid = source.rows(0, 10)
    assert valid is not None and not valid[:4].any() and valid[4:].all() and not pixels.any()
    assert source.notices == ("all its values lie beyond --scale 5000,6000, so that it is all black or white",)
    source.close()


def test_the_overlay_of_a_gap_is_what_stands_there(tmp_path: Path, network: Network) -> None:
    values = np.minimum(bands(20, 30), 199)
    values[:, :5] = 200
    predict(network, [raster(tmp_path / "a.tif", values, nodata=200, **UTM)], tmp_path / "out", Wanted(has_overlay=True))
    with rasterio.open(tmp_path / "out" / "overlays" / "a.tif") as overlay:
        assert (overlay.read([1, 2, 3])[:, :5] == 200).all() and (overlay.read(4)[:5] == 0).all()


def test_of_16_bits_in_colors_the_upper_8_count(tmp_path: Path) -> None:
    values = np.arange(3 * 128 * 170, dtype=np.uint32).reshape(3, 128, 170).astype(np.uint16)
    values[0, 0, :3] = 255, 32_895, 65_280  # nearest levels 1, 128, 254; of the upper bits 0, 128, 255
    source = open_source(raster(tmp_path / "a.tif", values, **UTM), (0.0, 65535.0), (), tmp_path)
    assert np.array_equal(source.rows(0, 128)[0], (values >> 8).astype(np.uint8).transpose(1, 2, 0))
    source.close()


def test_a_map_in_which_0_is_white_is_seen_as_it_is_shown(tmp_path: Path) -> None:
    gray = bands(20, 30)[:1]
    plain = raster(tmp_path / "plain.tif", gray, photometric="MINISWHITE")
    found = []
    for image in (plain, raster(tmp_path / "map.tif", gray, photometric="MINISWHITE", **UTM)):
        source = open_source(image, None, (), tmp_path)
        found.append(source.rows(0, 20)[0])
        assert (source.georeference is None) == (image == plain)
        source.close()
    assert np.array_equal(found[1], np.repeat(255 - gray[0][:, :, None], 3, axis=2)) and np.array_equal(*found)


@pytest.mark.parametrize(
    ("dtype", "factor", "scale", "words"),
    [
        ("uint16", 257, (0.0, 65535.0), ""),
        ("uint16", 16, (0.0, 4080.0), ""),
        ("int16", 100, (0.0, 25500.0), ""),
        ("float32", 1, (0.0, 255.0), ""),
        ("uint16", 257, None, "a.tif: holds uint16; expected --scale LOW,HIGH"),
        ("uint8", 1, (0.0, 100.0), "a.tif: has 8 bits, to which --scale 0,100 does not apply"),
    ],
)
def test_more_than_8_bits_need_a_scale(
    tmp_path: Path, dtype: str, factor: int, scale: tuple[float, float] | None, words: str
) -> None:
    values = bands(10, 12)
    image = raster(tmp_path / "a.tif", (values.astype(np.int64) * factor).astype(dtype), **UTM)
    if words:
        with pytest.raises(InputError, match=words):
            open_source(image, scale, (), tmp_path)
        return
    source = open_source(image, scale, (), tmp_path)
    assert np.array_equal(source.rows(0, 10)[0], values.transpose(1, 2, 0)) and not source.notices
    source.close()


def test_a_scale_that_no_value_is_in_is_told(tmp_path: Path, network: Network) -> None:
    image = raster(tmp_path / "a.tif", bands(10, 12).astype(np.uint16) + 1000, **UTM)
    found = predict(network, [image], tmp_path / "out", Wanted(scale=(5000.0, 6000.0)))
    assert found.done[0].notices == ("all its values lie beyond --scale 5000,6000, so that it is all black or white",)


def test_bands_that_are_not_told_apart_are_asked_for(tmp_path: Path) -> None:
    values = np.concatenate([bands(10, 12), bands(10, 12, seed=1)])
    image = raster(tmp_path / "a.tif", values, photometric="MINISBLACK", **UTM)
    with pytest.raises(InputError, match=r"has 6 bands .*; expected --bands RED,GREEN,BLUE: which of them, from 1"):
        open_source(image, None, (), tmp_path)
    source = open_source(image, None, (6, 4, 5), tmp_path)
    assert np.array_equal(source.rows(2, 7)[0], values[[5, 3, 4], 2:7].transpose(1, 2, 0))
    source.close()
    with pytest.raises(InputError, match="has 6 bands, and --bands says 1,2,7"):
        open_source(image, None, (1, 2, 7), tmp_path)


def test_hectares_are_those_of_the_ellipsoid_where_coordinates_are_degrees() -> None:
    whole = Georeference((1.0, 0, -180, 0, -1.0, 90), None, "geographic", math.pi / 180)
    rows = whole.hectares(180)
    assert rows is not None and np.isclose(rows.sum() * 360 / 100, 510_065_621.7, rtol=1e-8)  # km2, of WGS 84
    small = Georeference((1e-5, 0, 10, 0, -1e-5, 60), None, "geographic", math.pi / 180).hectares(3)
    flattening = 1 / WGS84[1]
    squared, sine = flattening * (2 - flattening), math.sin(math.radians(60))
    north = WGS84[0] * (1 - squared) / (1 - squared * sine**2) ** 1.5
    east = WGS84[0] * math.cos(math.radians(60)) / math.sqrt(1 - squared * sine**2)
    assert small is not None and np.allclose(small, north * east * math.radians(1e-5) ** 2 / 10_000, rtol=1e-5)


def test_beyond_the_poles_is_no_ground() -> None:
    found = Georeference((1.0, 0, -180, 0, -1.0, 92), None, "geographic", math.pi / 180).hectares(184)
    assert found is not None and not found[:2].any() and not found[-2:].any() and (found[2:-2] > 0).all()
    assert np.isclose(found.sum() * 360 / 100, 510_065_621.7, rtol=1e-8)


def test_degrees_are_those_of_the_systems_own_ellipsoid(tmp_path: Path) -> None:
    source = open_source(
        raster(tmp_path / "a.tif", bands(3, 4), crs="EPSG:4267", transform=from_origin(-100, 40, 1e-3, 1e-3)), None, (), tmp_path
    )
    assert source.georeference is not None and source.georeference.ellipsoid == pytest.approx((6378206.4, 294.978698), rel=1e-8)
    clarke = Georeference((1e-3, 0, -100, 0, -1e-3, 40), None, "geographic", math.pi / 180, (6378206.4, 294.9786982))
    found, expected = source.georeference.hectares(3), clarke.hectares(3)
    assert found is not None and expected is not None and np.allclose(found, expected, rtol=1e-9)
    source.close()


def test_hectares_of_web_mercator_are_those_on_the_ground() -> None:
    y = 6378137 * math.log(math.tan(math.pi / 4 + math.radians(60) / 2))
    found = Georeference((1.0, 0, 0, 0, -1.0, y), None, "web mercator").hectares(1)
    assert found is not None and 0.249 < found[0] * 10_000 < 0.2515


@pytest.mark.parametrize(
    ("crs", "transform", "pixel"),
    [
        ("EPSG:32629", Affine(0.3, 0.4, 5e5, 0.4, -0.3, 4e6), 0.25),
        ("EPSG:2263", from_origin(9e5, 2e5, 1, 1), (1200 / 3937) ** 2),
        (None, from_origin(0, 0, 1, 1), None),
    ],
)
def test_hectares_follow_the_units_and_the_turn_of_the_georeference(
    tmp_path: Path, crs: str | None, transform: Affine, pixel: float | None
) -> None:
    image = raster(tmp_path / "a.tif", bands(4, 5), crs=crs, transform=transform)
    source = open_source(image, None, (), tmp_path)
    assert source.georeference is not None
    found = source.georeference.hectares(4)
    assert (found is None) if pixel is None else np.allclose(found, pixel / 10_000)
    source.close()


@pytest.fixture
def strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of more than 5,000 pixels are large."""
    monkeypatch.setattr(sources, "MAX_PIXELS", 5_000)


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize("ending", ["png", "tif", "gray.png", "alpha.png", "palette.png"])
def test_a_large_image_is_read_in_strips_and_is_the_same(tmp_path: Path, network: Network, ending: str) -> None:
    pixels = scene(90, 110)
    picture = Image.fromarray(pixels)
    if ending == "alpha.png":
        picture.putalpha(100)
    picture = {"gray.png": picture.convert("L"), "palette.png": picture.convert("P")}.get(ending, picture)
    path = tmp_path / f"a.{ending}"
    picture.save(path)
    source = open_source(path, None, (), tmp_path)
    assert type(source).__name__ == "RasterSource" and source.georeference is None
    found = np.concatenate([source.rows(top, top + 30)[0] for top in (0, 30, 60)])
    assert np.array_equal(found, np.asarray(picture.convert("RGB")))
    source.close()
    predict(network, [path], tmp_path / "out", Wanted(SMALL_TILES))
    mask = np.asarray(Image.open(next((tmp_path / "out" / "masks").glob("*.png"))))
    assert mask.shape == (90, 110) and np.array_equal(mask, found.argmax(axis=2))


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_a_large_image_that_is_turned_is_read_as_it_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orientation: int, ending: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{ending}"
    Image.fromarray(scene(80, 100)).save(path, exif=exif)
    source = open_source(path, None, (), tmp_path)
    found = np.concatenate([source.rows(top, min(top + 33, source.height))[0] for top in range(0, source.height, 33)])
    source.close()
    monkeypatch.setattr(sources, "MAX_PIXELS", 1_000_000)
    whole = open_source(path, None, (), tmp_path)
    assert np.array_equal(found, whole.rows(0, whole.height)[0])
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.usefixtures("strips")
def test_a_large_image_that_can_only_be_decoded_whole_is_refused_with_what_to_do(tmp_path: Path) -> None:
    picture = Image.fromarray(scene(80, 100))
    cases: dict[str, tuple[Image.Image, dict[str, Any], str]] = {
        "steps.jpg": (picture, {"progressive": True}, "several passes.*a JPEG that is not progressive"),
        "a.webp": (picture, {}, "WEBP is decoded whole; expected TIFF, PNG or JPEG"),
        "inks.jpg": (picture.convert("CMYK"), {}, "stored as CMYK, YCbCr, which is decoded whole; expected gray or RGB"),
        "a.jp2": (picture, {}, "in one piece.*JPEG 2000 in tiles"),
    }
    for name, (image, options, words) in cases.items():
        image.save(tmp_path / name, **options)
        with pytest.raises(InputError, match=f"{name}: has 100x80 pixels.*{words}"):
            open_source(tmp_path / name, None, (), tmp_path)


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
def test_a_large_file_that_ends_early_is_named(tmp_path: Path, network: Network, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(scene(200, 210)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    found = predict(network, [path], tmp_path / "out")
    assert len(found.failed) == 1 and any(words in found.failed[0].reason for words in ("is damaged in rows", "cannot be read"))
    assert not list((tmp_path / "out" / "masks").glob("*"))


def test_what_rasterio_would_read_says_so_where_it_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_has_rasterio", lambda: False)
    image = raster(tmp_path / "a.tif", bands(10, 12), **UTM)
    assert open_source(image, None, (), tmp_path).notices == (
        "its georeference is left out: pip install agentkd-predict[geo] reads it",
    )
    monkeypatch.setattr(sources, "MAX_PIXELS", 100)
    with pytest.raises(InputError, match=r"has 12x10 pixels, and more than 100 are not decoded at once; .*\[geo\]"):
        open_source(image, None, (), tmp_path)
    with pytest.raises(InputError, match="--bands needs rasterio"):
        open_source(image, None, (1, 2, 3), tmp_path)


def test_pages_are_counted_and_smaller_copies_are_not(tmp_path: Path) -> None:
    pages = tmp_path / "pages.tif"
    picture = Image.fromarray(scene(10, 12))
    picture.save(pages, save_all=True, append_images=[picture])
    with pytest.raises(InputError, match="holds 2 pictures"):
        open_source(pages, None, (1, 2, 3), tmp_path)
    cog = raster(tmp_path / "cog.tif", bands(600, 600), driver="COG", **UTM)
    source = open_source(cog, None, (), tmp_path)
    assert (source.height, source.width) == (600, 600)
    source.close()


def test_metadata_say_the_sizes_of_tiles(tmp_path: Path) -> None:
    network = Network(export(tmp_path / "m.onnx", metadata=WRITTEN | {"multiple": 32}), threads=1)
    image = raster(tmp_path / "a.tif", bands(70, 100), **UTM)
    predict(network, [image], tmp_path / "out", Wanted(Tiling(40, 16)))
    with rasterio.open(tmp_path / "out" / "masks" / "a.tif") as mask:
        assert np.array_equal(mask.read(1), bands(70, 100).argmax(axis=0))
