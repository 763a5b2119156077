"""The bytes of a dataset's files: each is read and hashed once, and they name the dataset.

Digests are part of the keys of recorded tasks. A dataset that was read rightly before keeps its own; see
``docs/decisions/0029-what-files-mean.md`` for the others.
"""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agentkd.architecture import RGB
from agentkd.datasets.description import Description
from agentkd.datasets.finding import Pair
from agentkd.datasets.manner import Refuse, at_once
from agentkd.datasets.pictures import orientation_in
from agentkd.datasets.samples import Size
from agentkd.errors import DatasetError, check_descriptors
from agentkd.names import Digest

THREADS = 4
AT_A_TIME = 256

# What decides labels or pixels, and is in the digest where it is not as it always was.
READING = (
    "first_value",
    "values",
    "ignored_values",
    "label_divisor",
    "id_channel",
    "palette",
    "alpha",
    "scale",
    "orientation",
    "background",
)
JPEG_ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif")


def hash_files(place: Path, files: Sequence[str], *, is_turned: bool, refuse: Refuse = at_once) -> dict[str, bytes]:
    """What names each file's content: its SHA-256, and after it how it is turned by its orientation tag, if it is.

    Args:
        place: below which the files are.
        files: their names.
        is_turned: whether orientation tags are followed.
        refuse: what is done with one that cannot be read, which is left out then.

    Raises:
        DatasetError: one cannot be read.
    """
    root = str(place)

    def hash_one(file: str) -> bytes | DatasetError:
        try:
            return _hash(f"{root}/{file}", is_turned)
        except DatasetError as error:
            return error

    def hash_some(at: int) -> list[bytes | DatasetError]:
        return [hash_one(file) for file in files[at : at + AT_A_TIME]]

    hashes: dict[str, bytes] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        found = (digest for part in pool.map(hash_some, range(0, len(files), AT_A_TIME)) for digest in part)
        for file, digest in zip(files, found, strict=True):
            if isinstance(digest, DatasetError):
                refuse(digest)
            else:
                hashes[file] = digest
    return hashes


def content_digest(
    description: Description,
    pairs: Sequence[Pair],
    hashes: Mapping[str, bytes],
    size: Size | None,
    splits: Mapping[str, tuple[int, ...]],
) -> Digest:
    """Over classes, ignored value, size, splits, how files are read, and the bytes of every file, in order."""
    sha = hashlib.sha256()
    sha.update(repr((description.classes, description.ignore_index, description.format, size, sorted(splits.items()))).encode())
    told = _reading(description, pairs)
    if told:
        sha.update(repr(told).encode())
    for pair in pairs:
        sha.update(image_hash(pair, hashes))
        sha.update(hashes[pair.mask])
    if description.release:
        sha.update(hashes[description.release])
    return Digest(sha.hexdigest())


def find_twins(
    pairs: Sequence[Pair], hashes: Mapping[str, bytes], splits: Mapping[str, tuple[int, ...]]
) -> list[tuple[tuple[str, Pair], tuple[str, Pair]]]:
    """Images that are in two splits, byte for byte: (split, pair) of one and of the other."""
    first: dict[bytes, tuple[str, Pair]] = {}
    twins = []
    for split, indices in splits.items():
        for index in indices:
            before = first.setdefault(image_hash(pairs[index], hashes), (split, pairs[index]))
            if before[0] != split:
                twins.append((before, (split, pairs[index])))
    return twins


def image_hash(pair: Pair, hashes: Mapping[str, bytes]) -> bytes:
    """What names the content of an image: that of its file, or those of its channels' files, one after the other."""
    return b"".join(hashes[file] for file in pair.images)


def _reading(description: Description, pairs: Sequence[Pair]) -> list[tuple[str, object]]:
    fields = type(description).model_fields
    told: list[tuple[str, object]] = []
    for name in READING:
        value = getattr(description, name)
        if value != fields[name].get_default(call_default_factory=True):
            told.append((name, sorted(value.items(), key=str) if isinstance(value, dict) else value))
    if tuple(description.channels) != RGB:
        told.append(("channels", tuple(description.channels)))
    if description.format == "color-mask":
        told.append(("colors", (description.colors, description.ignored_colors)))
    if description.format == "threshold-mask" and description.threshold != fields["threshold"].default:
        told.append(("threshold", description.threshold))
    if description.format == "binary-mask" and any(pair.mask.lower().endswith(JPEG_ENDINGS) for pair in pairs):
        told.append(("compression", "without noise"))
    return told


def _hash(path: str, is_turned: bool) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 a million times
            data = file.read()
    except OSError as error:
        check_descriptors(path, error)
        raise DatasetError(path, f"cannot be read ({error.strerror or error})") from None
    digest = hashlib.sha256(data).digest()
    turned = orientation_in(data) if is_turned else 1
    return digest if turned == 1 else digest + b"orientation %d" % turned
