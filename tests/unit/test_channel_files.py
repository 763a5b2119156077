"""Files of images with other channels than RGB: TIFF and GeoTIFF, NumPy's arrays, and a file for each channel."""

import builtins
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from numpy.typing import NDArray
from PIL import Image

from agentkd.architecture import Normalization
from agentkd.datasets.bands import is_beyond_pillow
from agentkd.datasets.opening import Opened, open_dataset
from agentkd.errors import DatasetError

H, W = 24, 32
BYTES = np.random.default_rng(1).integers(0, 256, (H, W, 6), dtype=np.uint8)
WIDE = np.random.default_rng(2).integers(0, 10_000, (H, W, 6)).astype(np.uint16)
ARRAYS = {"layout": {"images": "images/{split}/{stem}.npy"}}
PARTED = {"layout": {"images": "images/{split}/{stem}_{channel}.tif"}}

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
Write = Callable[[Path, str], None]


def scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    return np.rint(np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def tiff(values: NDArray[Any], **how: Any) -> Write:
    def write(folder: Path, stem: str) -> None:
        height, width, count = values.shape
        shape = {"height": height, "width": width, "count": count, "dtype": values.dtype}
        with rasterio.open(folder / f"{stem}.tif", "w", driver="GTiff", **shape, **how) as out:
            out.write(values.transpose(2, 0, 1))

    return write


def array(values: NDArray[Any]) -> Write:
    return lambda folder, stem: np.save(folder / f"{stem}.npy", values)


def parted(values: NDArray[Any], names: list[str]) -> Write:
    def write(folder: Path, stem: str) -> None:
        for at, name in enumerate(names):
            tiff(values[:, :, at : at + 1])(folder, f"{stem}_{name}")

    return write


def folder(place: Path, write: Write, count: int = 2, **described: Any) -> Path:
    images, masks = place / "images" / "train", place / "masks" / "train"
    images.mkdir(parents=True)
    masks.mkdir(parents=True)
    for at in range(count):
        write(images, f"a{at}")
        Image.fromarray(np.random.default_rng(at).integers(0, 2, (H, W), dtype=np.uint8)).save(masks / f"a{at}.png")
    told = {"name": "bands", "classes": ["a", "b"], **described}
    (place / "dataset.yaml").write_text(yaml.safe_dump(told, sort_keys=False))
    return place


def opened(place: Path, write: Write, **described: Any) -> Opened:
    data = open_dataset(f"folder:path={folder(place, write, **described)}")
    data.check()
    return data


AS_THEY_ARE: dict[str, Write] = {
    "GeoTIFF": tiff(BYTES[:, :, :4], crs="EPSG:32633", transform=rasterio.transform.from_origin(5e5, 5e6, 10, 10)),
    "compressed": tiff(BYTES[:, :, :4], compress="lzw"),
    "deflated, with predictor": tiff(BYTES[:, :, :4], compress="deflate", predictor=2),
    "tiled": tiff(BYTES[:, :, :4], tiled=True, blockxsize=16, blockysize=16),
    "band by band": tiff(BYTES[:, :, :4], interleave="band"),
    "RGB and one more": tiff(BYTES[:, :, :4], photometric="RGB"),
    "RGB and alpha": tiff(BYTES[:, :, :4], photometric="RGB", ALPHA="YES"),
    "multiplied alpha": tiff(BYTES[:, :, :4], photometric="RGB", ALPHA="PREMULTIPLIED"),
    "BigTIFF": tiff(BYTES[:, :, :4], BIGTIFF="YES"),
    "PNG with alpha": lambda place, stem: Image.fromarray(BYTES[:, :, :4]).save(place / f"{stem}.png"),
}


@pytest.mark.parametrize("name", AS_THEY_ARE)
def test_bytes_of_four_channels_are_read_as_they_are(tmp_path: Path, name: str) -> None:
    data = opened(tmp_path, AS_THEY_ARE[name], channels=["red", "green", "blue", "nir"])
    assert data.channels == ("red", "green", "blue", "nir") and data.size_of(0) == (H, W)
    assert np.array_equal(data.sample(1).image, BYTES[:, :, :4])


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_any_number_of_channels_is_read_from_tiff_and_arrays(tmp_path: Path, count: int) -> None:
    for name, write, more in (("tif", tiff(BYTES[:, :, :count]), {}), ("npy", array(BYTES[:, :, :count]), ARRAYS)):
        data = opened(tmp_path / name, write, channels=count, **more)
        assert data.channels == tuple(map(str, range(1, count + 1)))
        assert np.array_equal(data.sample(0).image, BYTES[:, :, :count])


def test_pillow_says_nothing_of_channels_that_rasterio_reads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = opened(tmp_path, tiff(np.zeros((24, 32, 16), dtype=np.uint8)), channels=16)
    assert data.sample(data.splits["train"][0]).image.shape == (24, 32, 16)
    assert not [record for record in caplog.records if record.name.startswith("PIL")]


def test_gray_is_one_channel(tmp_path: Path) -> None:
    gray = opened(tmp_path / "png", lambda place, stem: Image.fromarray(BYTES[:, :, 0]).save(place / f"{stem}.png"), channels=1)
    assert np.array_equal(gray.sample(0).image, BYTES[:, :, :1])
    flat = opened(tmp_path / "npy", array(BYTES[:, :, 0]), channels=["thermal"], **ARRAYS)
    assert np.array_equal(flat.sample(0).image, BYTES[:, :, :1])
    bits = opened(
        tmp_path / "bits", lambda place, stem: Image.fromarray(BYTES[:, :, 0] > 99).save(place / f"{stem}.png"), channels=1
    )
    assert np.array_equal(bits.sample(0).image, np.where(BYTES[:, :, :1] > 99, 255, 0))


@pytest.mark.parametrize("kind", ["<u2", ">u2", "<i2", "<u4", "<f4", "<f8"])
def test_more_bits_are_scaled_as_it_is_said(tmp_path: Path, kind: str) -> None:
    values = WIDE[:, :, :4].astype(kind)
    data = opened(tmp_path / "npy", array(values), channels=4, scale=[100, 5000], **ARRAYS)
    assert np.array_equal(data.sample(0).image, scaled(values, 100, 5000))
    if kind[0] == "<":
        same = opened(tmp_path / "tif", tiff(values), channels=4, scale=[100, 5000])
        assert np.array_equal(same.sample(0).image, scaled(values, 100, 5000))


def test_each_channel_may_have_a_scale(tmp_path: Path) -> None:
    pairs = [[0, 10_000], [0, 5000], [100, 200]]
    data = opened(tmp_path, tiff(WIDE[:, :, :3]), channels=["nir", "red", "green"], scale=pairs)
    expected = np.dstack([scaled(WIDE[:, :, at], *pair) for at, pair in enumerate(pairs)])
    assert np.array_equal(data.sample(0).image, expected)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"photometric": "RGB"},
        {"interleave": "band"},
        {"interleave": "band", "photometric": "RGB"},
        {"interleave": "band", "compress": "lzw"},
        {"photometric": "RGB", "compress": "lzw"},
    ],
)
def test_colors_of_16_bits_are_scaled_too(tmp_path: Path, how: dict[str, str]) -> None:
    data = opened(tmp_path / "own", tiff(WIDE[:, :, :3], **how), scale=[0, 3000])
    assert np.array_equal(data.sample(0).image, scaled(WIDE[:, :, :3], 0, 3000))
    full = opened(tmp_path / "full", tiff(WIDE[:, :, :3], **how), scale=[0, 65535])
    assert np.array_equal(full.sample(0).image, WIDE[:, :, :3] >> 8)


def test_the_upper_half_of_16_bits_needs_no_rasterio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder(tmp_path, tiff(WIDE[:, :, :3], photometric="RGB"), scale=[0, 65535])
    image = place / "images" / "train" / "a0.tif"
    assert [is_beyond_pillow(image, scale) for scale in (None, (0, 65535), (0, 10_000))] == [False, False, True]
    monkeypatch.setitem(sys.modules, "rasterio", None)
    assert np.array_equal(open_dataset(f"folder:path={place}").sample(0).image, WIDE[:, :, :3] >> 8)


def test_a_file_of_several_pictures_is_refused(tmp_path: Path) -> None:
    def doubled(place: Path, stem: str) -> None:
        tiff(BYTES[:, :, :5])(place, stem)
        path = place / f"{stem}.tif"
        data = bytearray(path.read_bytes())
        assert data[:4] == b"II*\0"
        first = int.from_bytes(data[4:8], "little")
        end = first + 2 + 12 * int.from_bytes(data[first : first + 2], "little")
        second = len(data) + len(data) % 2
        page = data[first:end] + bytes(4)  # the same picture once more
        data[end : end + 4] = second.to_bytes(4, "little")
        path.write_bytes(bytes(data) + bytes(len(data) % 2) + page)

    with pytest.raises(DatasetError, match=r"a\d.tif: holds 2 pictures; expected one; files of several pages are not read"):
        opened(tmp_path, doubled, channels=5)


# A file for each channel

SENTINEL = {"red": "B04", "green": "B03", "blue": "B02", "nir": "B08"}


def test_channels_may_have_files_of_their_own(tmp_path: Path) -> None:
    write = parted(WIDE[:, :, :4], list(SENTINEL.values()))
    data = opened(tmp_path, write, channels=SENTINEL, scale=[0, 10_000], **PARTED)
    assert data.channels == tuple(SENTINEL) and len(data.splits["train"]) == 2
    assert np.array_equal(data.sample(0).image, scaled(WIDE[:, :, :4], 0, 10_000))
    assert len(data.files) == 2 * 4 + 2 and not [text for text in data.notices if "left over" in text]


def test_the_order_of_channels_is_theirs_in_dataset_yaml_and_not_that_of_files(tmp_path: Path) -> None:
    names = ["B1", "B10", "B2"]
    data = opened(tmp_path, parted(BYTES, names), channels=["B10", "B2", "B1"], **PARTED)
    assert np.array_equal(data.sample(0).image, BYTES[:, :, [1, 2, 0]])


def test_a_channel_without_file_is_named(tmp_path: Path) -> None:
    place = folder(tmp_path, parted(BYTES, ["B1", "B2"]), channels=["B1", "B2"], **PARTED)
    (place / "images" / "train" / "a1_B2.tif").unlink()
    with pytest.raises(DatasetError, match=r"a1_B1.tif.*no file of channel B2.*a1_B2.tif"):
        open_dataset(f"folder:path={place}")


def test_files_of_channels_are_of_one_size_and_hold_one_each(tmp_path: Path) -> None:
    def write(place: Path, stem: str) -> None:
        tiff(BYTES[:, :, :1])(place, f"{stem}_B1")
        tiff(BYTES[:12, :16, :1])(place, f"{stem}_B2")

    with pytest.raises(DatasetError, match=r"32x24 pixels.*_B2.tif.*16x12"):
        opened(tmp_path / "sizes", write, channels=["B1", "B2"], **PARTED)
    two = parted(BYTES, ["B1"])

    def doubled(place: Path, stem: str) -> None:
        two(place, stem)
        tiff(BYTES[:, :, :2])(place, f"{stem}_B2")

    with pytest.raises(DatasetError, match=r"_B2.tif.*has 2 channels.*expected 1"):
        opened(tmp_path / "count", doubled, channels=["B1", "B2"], **PARTED)


def test_every_file_and_the_order_of_channels_are_in_the_digest(tmp_path: Path) -> None:
    def digest(name: str, values: NDArray[Any], **described: Any) -> str:
        return opened(tmp_path / name, parted(values, ["B1", "B2"]), **{"channels": ["B1", "B2"], **PARTED, **described}).digest

    changed = BYTES.copy()
    changed[0, 0, 1] ^= 1
    found = [digest("one", BYTES), digest("two", changed), digest("three", BYTES, channels=["B2", "B1"])]
    assert len(set(found)) == 3 and digest("four", BYTES) == found[0]


# What is refused

UNFIT: dict[str, tuple[Write, dict[str, Any], str]] = {
    "another number": (tiff(BYTES[:, :, :5]), {"channels": 4}, r"has 5 channels; expected 4 \(1, 2, 3, 4\)"),
    "colors for one": (
        lambda place, stem: Image.fromarray(BYTES[:, :, :3]).save(place / f"{stem}.png"),
        {"channels": 1},
        "has 3 channels; expected 1",
    ),
    "no scale": (tiff(WIDE[:, :, :4]), {"channels": 4}, r"values of uint16 in channel 1.*scale: \[low, high\]"),
    "scale of bytes": (tiff(BYTES[:, :, :4]), {"channels": 4, "scale": [0, 100]}, "channel 1 has 8 bits"),
    "beyond scale": (tiff(WIDE[:, :, :4]), {"channels": 4, "scale": [20_000, 30_000]}, "lie beyond scale"),
    "not a number": (array(np.full((H, W, 2), np.nan)), {"channels": 2, "scale": [0, 1], **ARRAYS}, "no numbers"),
    "complex": (array(np.zeros((H, W, 2), complex)), {"channels": 2, **ARRAYS}, "holds complex128"),
    "four dimensions": (array(np.zeros((1, H, W, 2))), {"channels": 2, **ARRAYS}, r"holds float64 \[1, 24, 32, 2\]"),
    "objects": (array(np.array([{}] * 4)), {"channels": 2, **ARRAYS}, "cannot be read as an array of numbers"),
    "no pixel": (array(np.zeros((0, W, 2), np.uint8)), {"channels": 2, **ARRAYS}, "holds uint8"),
    "a palette": (
        lambda place, stem: Image.fromarray(BYTES[:, :, 0]).convert("P").save(place / f"{stem}.png"),
        {"channels": 1},
        "stored as palette",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_an_image_that_is_not_as_described_is_refused(tmp_path: Path, name: str) -> None:
    write, described, said = UNFIT[name]
    with pytest.raises(DatasetError, match=said):
        opened(tmp_path, write, **described)


@pytest.mark.parametrize(("write", "more"), [(tiff(BYTES), {}), (array(BYTES), ARRAYS)])
def test_files_that_end_early_are_named(tmp_path: Path, write: Write, more: dict[str, Any]) -> None:
    place = folder(tmp_path, write, channels=6, **more)
    for file in (place / "images" / "train").iterdir():
        file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    with pytest.raises(DatasetError, match=r"a0\.(tif|npy).*cannot be read"):
        open_dataset(f"folder:path={place}").check()


def test_an_array_whose_head_lies_takes_no_memory(tmp_path: Path) -> None:
    place = folder(tmp_path, array(BYTES), channels=6, **ARRAYS)
    for file in (place / "images" / "train").iterdir():
        whole = file.read_bytes()
        head = b"{'descr': '|u1', 'fortran_order': False, 'shape': (9000000, 9000000, 6), }"
        file.write_bytes(whole[:10] + head.ljust(117) + b"\n" + whole[128:])
    with pytest.raises(DatasetError, match=r"a0\.npy"):
        open_dataset(f"folder:path={place}").check()


def test_a_turned_image_of_bands_is_refused_unless_tags_are_not_followed(tmp_path: Path) -> None:
    place = folder(tmp_path, tiff(BYTES), channels=6)
    for file in (place / "images" / "train").iterdir():
        data = bytearray(file.read_bytes())
        at = int.from_bytes(data[4:8], "little") + 2
        entry = at + 12 * next(n for n in range(30) if data[at + 12 * n : at + 12 * n + 2] == (284).to_bytes(2, "little"))
        data[entry : entry + 12] = bytes(
            [18, 1, 3, 0, 1, 0, 0, 0, 6, 0, 0, 0]
        )  # orientation in the place of what is usual anyway
        file.write_bytes(data)
    with pytest.raises(DatasetError, match="orientation tag 6"):
        open_dataset(f"folder:path={place}").check()
    told = yaml.safe_load((place / "dataset.yaml").read_text())
    (place / "dataset.yaml").write_text(json.dumps({**told, "orientation": "stored"}))
    assert np.array_equal(open_dataset(f"folder:path={place}").sample(0).image, BYTES)


@pytest.fixture
def without_rasterio(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    real = builtins.__import__

    def importing(name: str, *given: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "rasterio":
            raise ImportError(name)
        return real(name, *given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(builtins, "__import__", importing)
        yield


def test_without_rasterio_it_is_said_what_to_install_and_the_rest_is_read(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    places = [
        folder(tmp_path / "six", tiff(BYTES), channels=6),
        folder(tmp_path / "alpha", AS_THEY_ARE["RGB and alpha"], channels=4),
        folder(tmp_path / "npy", array(BYTES), channels=6, **ARRAYS),
        folder(tmp_path / "broken", lambda place, stem: (place / f"{stem}.tif").write_bytes(b"II*\0no"), channels=3),
    ]
    request.getfixturevalue("without_rasterio")
    six, alpha, arrays, broken = (open_dataset(f"folder:path={place}") for place in places)
    with pytest.raises(DatasetError, match=r"pip install 'agentkd\[geo\]'"):
        six.sample(0)
    assert np.array_equal(alpha.sample(0).image, BYTES[:, :, :4]) and np.array_equal(arrays.sample(0).image, BYTES)
    with pytest.raises(DatasetError, match="cannot be read as an image"):
        broken.sample(0)


WRONG_KEYS: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({"channels": 0}, "channels: expected how many there are, 1 to 16"),
    "too many": ({"channels": 17}, "channels: expected how many there are, 1 to 16"),
    "too many names": ({"channels": [f"b{n}" for n in range(17)]}, "channels: expected how many there are, 1 to 16"),
    "one name twice": ({"channels": ["a", "a"]}, "two of them have one name"),
    "one file twice": ({"channels": {"a": "B1", "b": "B1"}}, "two of them have one name"),
    "numbers": ({"channels": [4, 3]}, "4 is no name of a channel; expected a text, in quotes"),
    "yes": ({"channels": True}, "channels: expected how many"),
    "a word": ({"channels": "red"}, "channels: expected how many"),
    "blank": ({"channels": ["a", " "]}, "no name of a channel"),
    "scales": ({"channels": 4, "scale": [[0, 1], [0, 1]]}, "scale has 2 pairs, and there are 4 channels"),
    "scales of colors": ({"scale": [[0, 1]] * 3}, "scale of images in RGB is one for all"),
    "scale upside down": ({"channels": 2, "scale": [[0, 1], [1, 0]]}, "the lower first"),
    "means": (
        {"channels": 2, "normalization": {"mean": [0.5], "deviation": [1, 1]}},
        "normalization has 1 means and 2 deviations",
    ),
    "no deviation": ({"channels": 1, "normalization": {"mean": [0.5], "deviation": [0]}}, "normalization.deviation"),
    "files and not": ({"channels": 2, "layout": {"images": ["{stem}_{channel}.tif", "{stem}.png"]}}, "with and without"),
    "files of one": ({"channels": 1, "layout": {"images": "{stem}_{channel}.tif"}}, "images have one channel; leave it out"),
}


@pytest.mark.parametrize("name", WRONG_KEYS)
def test_keys_that_contradict_themselves_are_refused(tmp_path: Path, name: str) -> None:
    described, said = WRONG_KEYS[name]
    with pytest.raises(DatasetError, match=said):
        open_dataset(f"folder:path={folder(tmp_path, tiff(BYTES), **described)}")


def test_channels_that_are_the_usual_ones_change_nothing(tmp_path: Path) -> None:
    write: Write = lambda place, stem: Image.fromarray(BYTES[:, :, :3]).save(place / f"{stem}.png")  # noqa: E731
    digests = {
        opened(tmp_path / str(at), write, **described).digest
        for at, described in enumerate(({}, {"channels": 3}, {"channels": ["red", "green", "blue"]}))
    }
    assert len(digests) == 1


def test_data_may_say_how_their_images_are_seen(tmp_path: Path) -> None:
    said = {"mean": [0.1, 0.2], "deviation": [0.3, 0.4]}
    data = opened(tmp_path, tiff(BYTES[:, :, :2]), channels=["vv", "vh"], normalization=said)
    assert data.normalization == Normalization(mean=(0.1, 0.2), deviation=(0.3, 0.4), channels=("vv", "vh"))


def test_images_of_many_channels_are_resized(tmp_path: Path) -> None:
    place = folder(tmp_path, tiff(np.repeat(BYTES[:, :, :1], 6, axis=2)), channels=6)
    image = open_dataset(f"folder:path={place},size=16x16").sample(0).image
    assert image.shape == (16, 16, 6) and (image == image[:, :, :1]).all()
