"""A video becomes a video: frame by frame, turned as it is shown, with a row of counts for each frame."""

import csv
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from exported import COLORS, export

from agentkd_predict import InputError, Network, Wanted, predict, running
from agentkd_predict.images import Tiling
from agentkd_predict.videos import predict_video

RATE = 10


def video(path: Path, count: int = 6, size: tuple[int, int] = (48, 64)) -> Path:
    """Frame n is red to the left of column 8 n, and blue from there on."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "0"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv444p"
        for number in range(count):
            pixels = np.zeros((*size, 3), dtype=np.uint8)
            pixels[:, : 8 * number, 0], pixels[:, 8 * number :, 2] = 250, 250
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def network(tmp_path: Path) -> Network:
    return Network(export(tmp_path / "n.onnx"), threads=1)


def frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("size", [(48, 64), (50, 70)])
def test_each_frame_is_counted_and_overlaid(tmp_path: Path, network: Network, size: tuple[int, int]) -> None:
    height, width = size
    source = video(tmp_path / "v.mp4", size=size)
    found = predict(network, [source], tmp_path / "out", Wanted(Tiling(32, 8)))
    assert not found.failed and found.done[0].frames == 6 and (found.done[0].height, found.done[0].width) == size
    rows = list(csv.reader((tmp_path / "out" / "videos" / "v.csv").open()))
    assert rows[0] == ["frame", "seconds", "Burnt", "Fire", "Smoke"]
    for number, row in enumerate(rows[1:]):
        assert row[0] == str(number) and float(row[1]) == pytest.approx(number / RATE)
        assert [int(cell) for cell in row[2:]] == [height * 8 * number, 0, height * (width - 8 * number)]
    made = frames(tmp_path / "out" / "videos" / "v.mp4")
    assert len(made) == 6 and made[3].shape == (height, width, 3)
    left, right = (np.array(COLORS[number]) + color for number, color in ((0, [250, 0, 0]), (2, [0, 0, 250])))
    assert np.abs(made[3][:, :16].mean(axis=(0, 1)) - left // 2).max() < 8
    assert np.abs(made[3][:, 32:].mean(axis=(0, 1)) - right // 2).max() < 8
    with av.open(str(tmp_path / "out" / "videos" / "v.mp4")) as container:
        assert float(container.streams.video[0].average_rate or 0) == pytest.approx(RATE, rel=0.01)


def test_a_video_that_is_turned_is_read_as_it_is_shown(tmp_path: Path, network: Network) -> None:
    data = bytearray(video(tmp_path / "v.mp4").read_bytes())
    at = data.index(b"tkhd") + 44  # version and flags, times, track, duration, layer, volume; then nine numbers
    straight = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    assert data[at : at + 36] == straight
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)  # a quarter, clockwise
    (tmp_path / "v.mp4").write_bytes(data)
    predict(network, [tmp_path / "v.mp4"], tmp_path / "out")
    made = frames(tmp_path / "out" / "videos" / "v.mp4")[3]
    assert made.shape == (64, 48, 3)
    assert made[:16, :, 0].mean() > made[32:, :, 0].mean() + 50  # what was to the left is above


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; expected a video"),
        (b"<html>", "is a page of HTML"),
        (b"version https://git-lfs", "is a Git LFS pointer"),
        (b"RIFF" + bytes(40), "cannot be read as a video"),
        (None, "cannot be read as a video|is damaged after frame"),
    ],
)
def test_what_is_no_whole_video_is_named_and_leaves_nothing(
    tmp_path: Path, network: Network, content: bytes | None, words: str
) -> None:
    path = tmp_path / "v.mp4"
    if content is None:
        content = video(path, count=30).read_bytes()
        content = content[: len(content) // 2]
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        predict_video(network, path, Wanted(), Wanted().video_places(tmp_path / "out", "v"), tmp_path / "out", lambda share: None)
    assert not [one for one in (tmp_path / "out").rglob("*") if one.is_file()]


def test_a_video_without_pyav_is_told_with_the_line_to_type(
    tmp_path: Path, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "find_spec", lambda name: None)
    found = predict(network, [video(tmp_path / "v.mp4")], tmp_path / "out")
    assert "pip install agentkd-predict[video]" in found.failed[0].reason
