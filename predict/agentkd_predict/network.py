"""A network in an ONNX file, run by ONNX Runtime: pixels in, probabilities out, at any size."""

import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as states
from PIL import Image

from agentkd_predict.errors import InputError, NetworkError, UsageError, words
from agentkd_predict.meaning import Pixels
from agentkd_predict.metadata import About, Foreign, about
from agentkd_predict.pictures import DISGUISES
from agentkd_predict.tiles import Floats

IMAGES, PROBABILITIES = "images", "probabilities"
RUN_ERRORS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(states).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    RuntimeError,
    ValueError,
    MemoryError,
)
FLOATS: dict[str, type[np.floating[Any]]] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
SUM_TOLERANCE = 0.05
FATAL = 4
MOST_STRIDE = 32
"""By how much the networks of agentkd, and most others, make images smaller inside."""
ADVICE = "give the ONNX file that agentkd export writes, or another of a network that takes images [N,3,H,W]"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
Size = tuple[int, int]


class Network:
    """A network ready to run. Not to be shared by threads.

    Args:
        path: the ONNX file.
        foreign: what a user says of it, if it was not exported by agentkd.
        device: ``cpu`` or ``cuda``.
        threads: for one operation; 0: as many as this process may use.

    Raises:
        NetworkError: the file is no network that can be used.
        UsageError: the device is not there, or what the user says does not fit.
    """

    def __init__(self, path: Path, foreign: Foreign | None = None, *, device: str = "cpu", threads: int = 0) -> None:
        self.path = path
        self._session = _open(path, device, threads)
        self.about = about(path, self._session.get_modelmeta().custom_metadata_map, foreign or Foreign())
        self._input, self._kind, size = _input_of(path, self._session)
        self.fixed_size: Size | None = size
        self._output = _output_of(path, self._session, self.about)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.about.classes

    @property
    def grid(self) -> int:
        """At multiples of how many pixels tiles begin, so that what is made smaller inside falls on the same places in each.

        1 for a network that takes one size only, and one of which nobody says which sizes it takes: its tiles are all alike.
        """
        if self.fixed_size or (self.about.multiple == 1 and not self.about.told):
            return 1
        return math.lcm(self.about.multiple, MOST_STRIDE) if self.about.multiple <= MOST_STRIDE else self.about.multiple

    def digest(self) -> str:
        """SHA-256 of the file."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def fitting(self, size: Size) -> Size:
        """The smallest size (height, width) that the network takes and that holds this one.

        Raises:
            UsageError: it takes one size only, which is smaller.
        """
        if self.fixed_size:
            if any(have > most for have, most in zip(size, self.fixed_size, strict=True)):
                raise UsageError(f"{self.path} takes images of {self.fixed_size[1]}x{self.fixed_size[0]} only, no larger ones")
            return self.fixed_size
        height, width = (-(-length // self.about.multiple) * self.about.multiple for length in size)
        return height, width

    def probabilities(self, pixels: Pixels, place: Path | str = "image") -> Floats:
        """The probability of each class at each pixel.

        The image is continued by its mirror image up to a size that the network takes; what it says of that is cut off.

        Args:
            pixels: RGB ``[H,W,3]`` uint8.
            place: what errors name.

        Returns:
            ``[K,H,W]``; the sum over classes is 1.

        Raises:
            InputError: the network fails on this image.
            NetworkError: what it computes are no probabilities of its classes.
        """
        height, width = pixels.shape[:2]
        to_height, to_width = self.fitting((height, width))
        if (to_height, to_width) != (height, width):
            pixels = np.pad(pixels, ((0, to_height - height), (0, to_width - width), (0, 0)), mode="reflect")
        try:
            found = self._session.run([self._output], {self._input: self._values(pixels)})[0]
        except RUN_ERRORS as error:
            advice = f"a network that takes images of {to_width}x{to_height}; try another --tile"
            raise InputError(place, f"the network fails on it ({words(error, self.path)})", advice) from None
        return self._meant(found, (to_height, to_width), place)[:, :height, :width]

    def _values(self, pixels: Pixels) -> NDArray[np.floating[Any]]:
        values = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32)
        values /= 255
        if self.about.mean:
            values -= np.array(self.about.mean, dtype=np.float32)[:, None, None]
        if self.about.std:
            values /= np.array(self.about.std, dtype=np.float32)[:, None, None]
        return values.astype(self._kind, copy=False)

    def _meant(self, found: Any, size: Size, place: Path | str) -> Floats:
        num_classes = len(self.about.classes)
        has_one = found.ndim == 4 and found.shape[1] == 1 and num_classes == 2
        if found.ndim != 4 or found.shape[0] != 1 or not (found.shape[1] == num_classes or has_one):
            shape = "x".join(map(str, found.shape))
            expected = f"expected 1x{num_classes}xHxW, for the classes {', '.join(self.about.classes)}"
            raise NetworkError(self.path, f"its output {self._output!r} is {shape} for an image of {size[1]}x{size[0]}", expected)
        values: Floats = found[0].astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise InputError(
                place, "the network gives values that are no numbers (NaN or infinite)", "an export that was checked"
            )
        if values.shape[1:] != size:
            values = resized(values, size)
        if has_one:
            second = 1 / (1 + np.exp(-values)) if self.about.is_logits else values
            return np.concatenate([1 - second, second])
        if self.about.is_logits:
            values = np.exp(values - values.max(axis=0))
            values /= values.sum(axis=0)
        total = values.sum(axis=0)
        if values.min() < -SUM_TOLERANCE or np.abs(total - 1).max() > SUM_TOLERANCE:
            furthest = float(total.flat[np.abs(total - 1).argmax()])
            text = f"its output {self._output!r} holds no probabilities: the least is {values.min():.4g}, a sum {furthest:.4g}"
            raise NetworkError(self.path, text, "add --logits, if they are to go through a softmax")
        return values


def resized(values: Floats, size: Size) -> Floats:
    """Each channel ``[h,w]`` of an array at another size, interpolated between the centers of pixels."""
    height, width = size
    channels = [Image.fromarray(channel).resize((width, height), Image.Resampling.BILINEAR) for channel in values]
    return np.stack([np.asarray(channel) for channel in channels])


def _open(path: Path, device: str, threads: int) -> Any:
    _check_file(path)
    if device not in PROVIDERS:
        raise UsageError(f"--device {device!r}: expected {' or '.join(PROVIDERS)}")
    provider = PROVIDERS[device]
    if provider not in onnxruntime.get_available_providers():
        raise UsageError(f"--device {device}: the ONNX Runtime at hand has no {provider}; pip install onnxruntime-gpu has it")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0)
    options.log_severity_level = FATAL
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=[provider])
    except RUN_ERRORS as error:
        raise NetworkError(path, f"cannot be read as ONNX ({words(error, path)})", ADVICE) from None


def _check_file(path: Path) -> None:
    """That it may be an ONNX file at all; many others are mistaken for one."""
    try:
        if path.is_dir():
            raise NetworkError(path, "is a folder", ADVICE)
        with path.open("rb") as file:
            head = file.read(256)
    except FileNotFoundError:
        raise NetworkError(path, "is not there", ADVICE) from None
    except OSError as error:
        raise NetworkError(path, f"cannot be read ({error.strerror})", ADVICE) from None
    if not head:
        raise NetworkError(path, "is empty", ADVICE)
    begins = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    if begins.startswith(b"pk\x03\x04"):
        raise NetworkError(path, "is a ZIP archive, as torch.save and torch.export write them, and no ONNX", ADVICE)
    if head[8:9] == b"{":
        raise NetworkError(path, "holds weights alone (safetensors), and no network", ADVICE)
    for start, found, _ in DISGUISES:
        if begins.startswith(start):
            raise NetworkError(path, found, ADVICE)


def _input_of(path: Path, session: Any) -> tuple[str, type[np.floating[Any]], Size | None]:
    """Name, type and size (height, width) of the input; no size if it takes any.

    Raises:
        NetworkError: it does not take one image of three channels, as floating point.
    """
    given = session.get_inputs()
    expected = "expected one input, float32 [N,3,H,W], RGB"
    if len(given) != 1:
        raise NetworkError(path, f"has {len(given)} inputs ({', '.join(one.name for one in given[:5])})", expected)
    one = given[0]
    shape = f"{one.name!r}, {one.type} {list(one.shape)}"
    if one.type not in FLOATS or len(one.shape) != 4:
        raise NetworkError(path, f"its input is {shape}", expected)
    batch, channels, height, width = (length if isinstance(length, int) else None for length in one.shape)
    if channels not in (None, 3) or batch not in (None, 1):
        more = "; channels come last, as TensorFlow has them: put a Transpose before" if one.shape[-1] == 3 else ""
        if isinstance(channels, int) and one.shape[-1] != 3 and batch in (None, 1):
            count = f"{channels} channel{'s' if channels > 1 else ''}"
            more = f"; images of {count} are not predicted here: load_network of agentkd gives a module that takes them"
        raise NetworkError(path, f"its input is {shape}", expected + more)
    if (height is None) != (width is None):
        raise NetworkError(path, f"its input is {shape}", "expected height and width both fixed, or both free")
    return one.name, FLOATS[one.type], None if height is None or width is None else (height, width)


def _output_of(path: Path, session: Any, meant: About) -> str:
    """Name of the output with the probabilities.

    Raises:
        NetworkError: there is none that can have them.
    """
    given: Sequence[Any] = session.get_outputs()
    one = next((each for each in given if each.name == PROBABILITIES), given[0])
    shape = f"{one.name!r}, {one.type} {list(one.shape)}"
    expected = f"expected float32 [N,{len(meant.classes)},H,W], for the classes {', '.join(meant.classes)[:200]}"
    if one.type not in FLOATS:
        more = "; it gives numbers of classes: leave out the ArgMax at its end" if "int" in one.type else ""
        raise NetworkError(path, f"its output is {shape}", expected + more)
    channels = one.shape[1] if len(one.shape) == 4 else 0
    has_one = channels == 1 and len(meant.classes) == 2
    if len(one.shape) not in (0, 4) or (isinstance(channels, int) and channels not in (0, len(meant.classes)) and not has_one):
        raise NetworkError(path, f"its output is {shape}", expected)
    return str(one.name)
