"""One video through a network, frame by frame: a video of the overlay, and a table with a row for each frame."""

import csv
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np

from agentkd_predict.errors import InputError, StorageError, no_descriptors, words, writing
from agentkd_predict.files import Files
from agentkd_predict.images import Progress, Wanted, settled
from agentkd_predict.meaning import Pixels
from agentkd_predict.network import Network
from agentkd_predict.pictures import damage
from agentkd_predict.products import overlaid
from agentkd_predict.records import Areas, Done
from agentkd_predict.sources import PictureSource
from agentkd_predict.visible import visible

CODECS = ("libx264", "mpeg4")
RATE = Fraction(25)
WHOLE = 0.9
QUARTERS = {0: 0, 90: 1, 180: 2, 270: 3}
FAILURES = (av.FFmpegError, OSError, ValueError, MemoryError)


def predict_video(network: Network, path: Path, wanted: Wanted, places: dict[str, Path], out: Path, progress: Progress) -> Done:
    """Writes an overlay of all frames as MP4, without sound, and how many pixels of each are of which class, as CSV.

    Frames are turned as the file says they are shown. One frame is held at a time.

    Raises:
        InputError: the video cannot be read, or ends in damage: then nothing of it is kept.
        NetworkError: what the network computes are no probabilities.
        StorageError: a file cannot be written.
    """
    began, total = time.monotonic(), np.zeros(len(network.classes), dtype=np.int64)
    count, height, width = 0, 0, 0
    with Files() as files, ExitStack() as opened:
        overlay, table = files.part(places["overlay"]), files.part(places["frames"])
        frames = _Frames(path, progress)
        with writing(places["frames"]):
            lines = opened.enter_context(table.open("w", encoding="utf-8", newline=""))
            rows = csv.writer(lines, lineterminator="\n")
            rows.writerow(["frame", "seconds", *map(visible, network.classes)])
        writer: _Writer | None = None
        for count, (seconds, pixels) in enumerate(frames, 1):
            if writer is None:
                height, width = pixels.shape[:2]
                writer = opened.enter_context(_Writer(overlay, height, width, frames.rate))
            elif pixels.shape[:2] != (height, width):
                found = f"frame {count - 1} is {pixels.shape[1]}x{pixels.shape[0]}, those before {width}x{height}"
                raise InputError(path, found, "frames of one size")
            areas, mask = Areas(len(network.classes)), np.empty((height, width), dtype=np.uint8)
            for top, part, _, _ in settled(network, PictureSource(path, pixels), wanted, [], lambda share: None):
                mask[top : top + len(part)] = part
            areas.add_rows(0, mask)
            total += areas.pixels
            writer.add(overlaid(pixels, mask, network.about.colors), seconds)
            with writing(places["frames"]):
                rows.writerow([count - 1, f"{seconds:.6f}", *areas.pixels.tolist()])
        if writer is None:
            raise InputError(path, "holds no frame", "a video")
        writer.finish()
        with writing(places["frames"]):
            lines.flush()
        files.keep()
    kept = {name: str(place.relative_to(out)) for name, place in places.items()}
    return Done(str(path), kept, height, width, tuple(total.tolist()), None, time.monotonic() - began, frames.notices, count)


class _Frames:
    """The frames of a video in their order: when each is shown, in seconds from the first, and its pixels."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self._path, self._progress = path, progress
        self.rate, self.notices = RATE, tuple[str, ...]()

    def __iter__(self) -> Iterator[tuple[float, Pixels]]:
        with _reading(self._path, 0), av.open(str(self._path.absolute())) as container:
            if not container.streams.video:
                raise InputError(self._path, "has no picture, only sound or text", "a video")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            self.rate = stream.average_rate or stream.guessed_rate or RATE
            length = stream.frames or (float(container.duration or 0) / av.time_base * float(self.rate))
            first, number, seconds = None, 0, 0.0
            frames = container.decode(stream)
            while True:
                with _reading(self._path, number):
                    frame = next(frames, None)
                    if frame is None:
                        break
                    pixels = np.rot90(frame.to_ndarray(format="rgb24"), QUARTERS.get(round(frame.rotation) % 360, 0))
                seconds = number / float(self.rate) if frame.time is None else float(frame.time)
                first = seconds if first is None else first
                yield seconds - first, np.ascontiguousarray(pixels)
                number += 1
                self._progress(min(number / length, 1.0) if length else 0.0)
            whole_s = float(container.duration or 0) / av.time_base
            if number and seconds - (first or 0.0) + 1 / float(self.rate) < WHOLE * whole_s:
                self.notices = (
                    f"its pictures end at {seconds - (first or 0.0):.1f} s, and it says that it lasts {whole_s:.1f} s",
                )


class _Writer:
    """An MP4 that takes pictures of one size. A side that is odd, which H.264 does not have, is one longer."""

    def __init__(self, place: Path, height: int, width: int, rate: Fraction) -> None:
        self._place, self._last = place, -1
        self._more = ((0, height % 2), (0, width % 2), (0, 0))
        with _encoding(place):
            self._container: Any = av.open(str(place), "w")
            self._stream = cast(Any, self._container.add_stream(_codec(), rate=rate))
            self._stream.width, self._stream.height = width + width % 2, height + height % 2
            self._stream.pix_fmt = "yuv420p"
            self._base = Fraction(1, 90_000)
            self._stream.codec_context.time_base = self._base

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *ended: object) -> None:
        self._container.close()

    def add(self, pixels: Pixels, seconds: float) -> None:
        frame = av.VideoFrame.from_ndarray(np.pad(pixels, self._more, mode="edge"), format="rgb24")
        self._last = max(round(seconds / self._base), self._last + 1)
        frame.pts, frame.time_base = self._last, self._base
        with _encoding(self._place):
            self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        with _encoding(self._place):
            self._container.mux(self._stream.encode())
            self._container.close()


def _codec() -> str:
    return next(name for name in CODECS if name in av.codecs_available)


@contextmanager
def _reading(path: Path, number: int) -> Iterator[None]:
    try:
        yield
    except FAILURES as error:
        if no_descriptors(error):
            raise
        if number:
            raise InputError(path, f"is damaged after frame {number - 1} ({words(error, path)})", "a whole video") from None
        raise damage(path, error, what="a video", whole="a whole file that FFmpeg reads") from None


@contextmanager
def _encoding(place: Path) -> Iterator[None]:
    try:
        yield
    except FAILURES as error:
        raise StorageError(place, words(error, place)) from error
