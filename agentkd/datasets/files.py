"""Readers of labelled images in folders: the folder layout with its ``dataset.yaml``, and CamVid as SegNet arranged it.

Nothing is inferred silently: the description names classes, colors, ignored value and mask kind, and whatever does not
fit is an error that names the file, what was found and what was expected. What is doubtful but not wrong is in ``notices``.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agentkd.architecture import RGB
from agentkd.datasets.bands import is_beyond_pillow, read_channels, size_of_channels
from agentkd.datasets.census import Census, count_labels, merged
from agentkd.datasets.coco import CocoReader
from agentkd.datasets.contents import content_digest, find_twins, hash_files, image_hash
from agentkd.datasets.description import DESCRIPTION, PIXELS, Description, Layout, read_description
from agentkd.datasets.finding import Pair, Pairing, find_pairs
from agentkd.datasets.labelme import LabelmeReader
from agentkd.datasets.manner import STRICT, Manner, evenly
from agentkd.datasets.masks import PixelMasks, Reader
from agentkd.datasets.meaning import as_colors
from agentkd.datasets.pictures import ORIENTATION, image_size, open_image
from agentkd.datasets.reading import read_through
from agentkd.datasets.run_lengths import RunLengthReader
from agentkd.datasets.samples import Color, Pixels, Sample, Size, ValueScale, resize_pixels
from agentkd.datasets.segments import SegmentsReader
from agentkd.datasets.splits import TRAIN, hold_out, in_several, name_splits, several_told, some
from agentkd.errors import DatasetError

MARK_BYTES = 8

# The format in dataset.yaml, and who reads it; below, whether one file may label many images.
READERS: dict[str, Callable[[Description, Path], Reader]] = {
    **dict.fromkeys(PIXELS, lambda description, _: PixelMasks(description)),
    "labelme": lambda description, _: LabelmeReader(description),
    "coco": lambda description, _: CocoReader(description),
    "run-lengths": lambda description, _: RunLengthReader(description),
    "segments": lambda description, place: SegmentsReader(description, place / description.release),
}
OF_MANY_IMAGES = ("coco", "run-lengths")


@dataclass(frozen=True, slots=True)
class Looked:
    """A sample that was looked at, and its pixels of each label, 0 to 255."""

    sample: Sample
    counts: NDArray[np.int64]


class FileDataset:
    """A ``Dataset`` of image files and files that label them.

    ``notices`` is what was seen that may be meant or not: when it was opened, and, after ``check``, in the files.
    ``left_over`` are files that it does not use; ``whole`` its splits, also if only some images of each are taken.
    """

    def __init__(
        self,
        description: Description,
        pairing: Pairing,
        *,
        place: Path,
        size: Size | None = None,
        holdout: str = "",
        manner: Manner = STRICT,
    ) -> None:
        self.name, self.place = description.name, place
        self.classes, self.ignore_index = description.classes, description.ignore_index
        self.colors = description.colors or spread_colors(len(description.classes))
        self.channels, self.normalization = tuple(description.channels), description.images
        self.value_scale: ValueScale = description.value_scale
        self._description, self._pairs, self._size = description, pairing.pairs, size
        self._is_turned = description.orientation == "shown"
        self._reader = READERS[description.format](description, place)
        self.format, self.left_over = description.format, tuple(pairing.left_over)
        self.whole, told = self._split(holdout)
        self.splits = {split: evenly(indices, manner.at_most) for split, indices in self.whole.items()}
        hashes = hash_files(place, [*self._listed()], is_turned=self._is_turned, refuse=manner.refuse)
        if manner.goes_on:
            self.splits = {split: tuple(filter(self._is_among(hashes), indices)) for split, indices in self.splits.items()}
        self._marks = b"".join(hashes[file][:MARK_BYTES] for file in self._listed())
        used = [self._pairs[index] for index in self._indices()]
        self.digest = content_digest(description, used, hashes, size, told)
        self._twins = find_twins(pairing.pairs, hashes, self.splits)
        self._hashes = {index: image_hash(self._pairs[index], hashes) for index in self._indices()}
        self._turned: dict[str, int] = {}
        self._labels: dict[int, bytes] = {}
        self._sizes: dict[int, Size] = {}
        self._whole: set[int] = set()
        twins = [f"{place}: {self._said_of_twins()}"] if self._twins else []
        self.notices: tuple[str, ...] = (*self._left_over(pairing), *self._idle(pairing), *twins, *self._shared())

    @property
    def files(self) -> dict[str, str]:
        """The files that it is made of, below its folder, each with the beginning of its digest, which tells what changed."""
        marks = (self._marks[at : at + MARK_BYTES].hex() for at in range(0, len(self._marks), MARK_BYTES))
        return dict(zip(self._listed(), marks, strict=True))

    def sample(self, index: int) -> Sample:
        """The sample under an index, at the requested size."""
        return self._read_both(index)[0]

    def group(self, index: int) -> str:
        """What the pattern's stars matched, and what stands before the stem's last separator; the stem if there is neither."""
        pair, separator = self._pairs[index], self._description.group_separator
        prefix = pair.stem.rpartition(separator)[0] if separator else ""
        return "/".join(filter(None, (pair.within, prefix))) or pair.stem

    def size_of(self, index: int) -> Size:
        """(height, width) of a sample, as its file's head says; the requested size if there is one."""
        if index not in self._sizes:
            self._sizes[index] = self._size or self._size_in_file(self.place / self._pairs[index].image)
        return self._sizes[index]

    def _size_in_file(self, path: Path) -> Size:
        is_colors = self.channels == RGB and not is_beyond_pillow(path, self._description.scales[0])
        of = image_size if is_colors else size_of_channels
        return of(path, is_turned=self._is_turned)

    def fingerprint(self, index: int) -> bytes:
        """What two images have in common only if their files are the same, byte for byte."""
        return self._hashes[index]

    def labels_of(self, index: int) -> NDArray[np.bool_]:
        """Which labels, 0 to 255, have pixels in a sample. After ``check`` no file is read for it."""
        if index not in self._labels:
            self._labels[index] = np.packbits(count_labels(self.sample(index).label) > 0).tobytes()
        return np.unpackbits(np.frombuffer(self._labels[index], dtype=np.uint8)).astype(bool)

    def check(self) -> None:
        """Reads every image and mask once, in parallel; ``notices`` then say what was seen.

        Raises:
            DatasetError: the first sample that is not as described, and how many more are not; or too few classes have pixels.
        """
        census = Census(self.name, self.classes, self.ignore_index)
        problems: dict[int, DatasetError] = {}
        split_of = {index: split for split, indices in self.splits.items() for index in indices}
        for index, found in read_through(self.look, self._indices()):
            if isinstance(found, Looked):
                census.add(split_of[index], found.sample.name, found.counts)
            elif isinstance(found, DatasetError):
                problems[index] = found
        if problems:
            raise merged(problems)
        self.judge(census)

    def look(self, index: int) -> Looked:
        """A sample, of which is kept what ``judge`` has to say of its files, which labels it has, and its size.

        Raises:
            DatasetError: it is not as described.
        """
        sample, orientation = self._read_both(index)
        if orientation != 1:
            self._turned[self._pairs[index].image] = orientation
        height, width = sample.label.shape
        counts = count_labels(sample.label)
        self._sizes[index], self._labels[index] = (height, width), np.packbits(counts > 0).tobytes()
        return Looked(sample, counts)

    def judge(self, census: Census) -> None:
        """Says in ``notices`` what was seen of the samples that were looked at.

        Args:
            census: of them.

        Raises:
            DatasetError: too few classes have pixels.
        """
        turned = self._turned
        said = census.judge(self._hint(census))
        if turned:
            said.append(
                f"{self.name}: {len(turned):,} images are turned as their orientation tags say: {some(sorted(turned))}; if their "
                "masks were drawn on them as they lie in the file, write orientation: stored"
            )
        self.notices = tuple(dict.fromkeys([*self.notices, *said, *self._of_masks(turned), *self._of_annotations()]))

    @property
    def places(self) -> tuple[Path, ...]:
        """The folder in which its files are."""
        return (self.place,)

    @property
    def twins(self) -> list[tuple[Path, str, Path, str]]:
        """Images that are in two splits, byte for byte: file and split of one, and of the other."""
        return [(self.place / a.image, one, self.place / b.image, other) for (one, a), (other, b) in self._twins]

    @property
    def allows_twins(self) -> bool:
        """Whether the description says that they may be."""
        return self._description.duplicates == "allowed"

    def image_of(self, index: int) -> Path:
        """The file of an image."""
        return self.place / self._pairs[index].image

    def check_splits(self) -> None:
        """That what is tested has not been learned.

        Raises:
            DatasetError: an image is in two splits, byte for byte, and the description does not say that it may.
        """
        if self._twins and self._description.duplicates == "refused":
            expected = f"each image in one split; duplicates: allowed in {DESCRIPTION} takes them as they are"
            raise DatasetError(self.place, self._said_of_twins(), expected)

    def _listed(self) -> dict[str, None]:
        """Every file once, in order."""
        release = self._description.release
        used = (self._pairs[index] for index in self._indices())
        files = (file for pair in used for file in (*pair.images, pair.mask))
        return dict.fromkeys([*files, *([release] if release else [])])

    def _indices(self) -> list[int]:
        """Every sample once, in the order of their pairs."""
        return sorted(index for indices in self.splits.values() for index in indices)

    def _is_among(self, hashes: Mapping[str, bytes]) -> Callable[[int], bool]:
        """Whether the files of a sample could be read."""
        return lambda index: all(file in hashes for file in (*self._pairs[index].images, self._pairs[index].mask))

    def _read_both(self, index: int) -> tuple[Sample, int]:
        """A sample, and the orientation tag by which its image was turned."""
        pair = self._pairs[index]
        path = self.place / pair.image
        pixels, orientation = self._pixels(pair, is_known=index in self._whole)
        self._whole.add(index)
        label = self._reader.label(self.place / pair.mask, path, pixels.shape[:2])
        pixels, label = resize_pixels(pixels, label, self._size)
        return Sample(image=pixels, label=label, name=pair.name), orientation

    def _pixels(self, pair: Pair, *, is_known: bool) -> tuple[Pixels, int]:
        """An image [H,W,C] as it is in its file or files, and the orientation tag by which it was turned."""
        path = self.place / pair.image
        if self.channels != RGB or pair.others or is_beyond_pillow(path, self._description.scales[0]):
            return read_channels([self.place / file for file in pair.images], self._description, is_known=is_known)
        image = open_image(path, is_turned=self._is_turned, is_known=is_known)
        return as_colors(image, self._description, path), image.info[ORIENTATION] if self._is_turned else 1

    def _split(self, holdout: str) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
        """The splits by their names here, and as the digest has them: those that people call otherwise by that other name."""
        found: dict[str, list[int]] = {}
        for index, pair in enumerate(self._pairs):
            found.setdefault(pair.split, []).append(index)
        names = name_splits([*found], has_holdout=bool(holdout), place=self.place, are_listed=bool(self._description.splits))
        splits = {names[split]: tuple(indices) for split, indices in found.items()}
        if holdout:
            splits = hold_out(splits, {i: self.group(i) for i in splits.get(TRAIN, ())}, holdout, name=self.name)
        told = {ours: theirs for theirs, ours in names.items() if theirs != "val"}
        return splits, {told.get(split, split): indices for split, indices in splits.items()}

    def _left_over(self, pairing: Pairing) -> list[str]:
        if not pairing.left_over:
            return []
        text = f"{self.place}: {len(pairing.left_over):,} files are left over: {some(pairing.left_over)}"
        return [f"{text}; if none of them belongs to it, ignored_files can say so"]

    def _idle(self, pairing: Pairing) -> list[str]:
        where = f"{self.place / DESCRIPTION}: ignored_files"
        advice = "** and a slash stand for any folders; hidden files and Thumbs.db are left out in any case"
        return [f"{where}: {pattern!r} matches no file, from {self.place.name} on; {advice}" for pattern in pairing.idle]

    def _said_of_twins(self) -> str:
        """What is in two splits byte for byte; nothing if no image is."""
        if not self._twins:
            return ""
        (one, first), (other, second) = self._twins[0]
        both = f"{self.place / first.image} in {one!r} and {self.place / second.image} in {other!r}"
        count = len(self._twins)
        return f"{count:,} image{'s are' if count > 1 else ' is'} in two splits byte for byte, such as {both}"

    def _shared(self) -> list[str]:
        """Names and groups that are in several splits: perhaps the same thing twice."""
        said = []
        names = in_several(self.whole, lambda index: self._pairs[index].name)
        if names:
            where = " and ".join(next(iter(names.values())))
            said.append(
                f"{self.place}: {len(names):,} names are in more than one split, {some([*names])} in {where}: "
                "are these other images?"
            )
        groups = in_several(self.whole, self.group)
        groups = {group: where for group, where in groups.items() if group not in names}
        if groups:
            where = " and ".join(next(iter(groups.values())))
            said.append(
                f"{self.place}: {several_told(groups)} in {where}: "
                "frames of one video look alike; if these are none, write group_separator: ''"
            )
        return said

    def _of_masks(self, turned: Mapping[str, int]) -> list[str]:
        """What is to be said of all masks that are pictures; ``turned`` are the tags of images that were turned."""
        said, seen = [], self._reader.seen
        used = [self._pairs[index] for index in self._indices()]
        tags = {pair.mask: (seen.turned.get(self.place / pair.mask, 1), turned.get(pair.image, 1)) for pair in used}
        otherwise = [
            f"{mask} (tag {ours}, its image {theirs})" for mask, (ours, theirs) in tags.items() if ours not in (1, theirs)
        ]
        if otherwise:
            said.append(
                f"{self.name}: {len(otherwise):,} masks are turned as their own orientation tags say, and their images are not "
                f"or otherwise: {some(otherwise)}; if masks lie in their files as images do, write orientation: stored"
            )
        cut = [pair.mask for pair in used if self.place / pair.mask in seen.perhaps_cut]
        if cut:
            said.append(
                f"{self.name}: {len(cut):,} masks are JPEG 2000 without loss by what they say, and taken as they are: "
                f"{some(cut)}; whether values were cut to save space they do not say, PNG cannot"
            )
        return said

    def _of_annotations(self) -> list[str]:
        used = dict.fromkeys(self._pairs[index].mask for index in self._indices())
        images: dict[str, list[Path]] = {mask: [] for mask in used}
        for pair in self._pairs:  # also those of which nothing else is looked at: they are there
            if pair.mask in images:
                images[pair.mask].append(self.place / pair.image)
        said: list[str] = []
        for mask, labelled in images.items():
            with contextlib.suppress(DatasetError):  # which was told of the image
                said += self._reader.notices(self.place / mask, labelled)
        return said

    def _hint(self, census: Census) -> str:
        """What to write, if what is "not labelled" here looks like a class."""
        has_ignored = any(counts[self.ignore_index] for counts in census.counts.values())
        if self._description.format != "index-mask" or not has_ignored or self._description.ignored_values:
            return ""
        value = self.ignore_index
        text = f"; if {value} is a class in these masks, write values: {{0: ..., {value}: ...}}"
        return text + (", or format: binary-mask" if len(self.classes) == 2 else "")


def open_folder(place: Path, *, size: Size | None = None, holdout: str = "", manner: Manner = STRICT) -> FileDataset:
    """A dataset in the folder layout.

    Raises:
        DatasetError: no or a wrong description, an image without mask, a split that is listed but not there.
    """
    description = read_description(place)
    pairing = find_pairs(place, description, needs_stem=description.format not in OF_MANY_IMAGES, refuse=manner.refuse)
    return FileDataset(description, pairing, place=place, size=size, holdout=holdout, manner=manner)


CAMVID_CLASSES = ("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist")
CAMVID_VOID = 11


def open_camvid(place: Path, *, size: Size | None = None, holdout: str = "", manner: Manner = STRICT) -> FileDataset:
    """CamVid in SegNet's form: ``{train,val,test}`` and ``{train,val,test}annot``, 11 classes, value 11 is void."""
    if not (place / "train").is_dir():
        raise DatasetError(place, "no folder train", "CamVid with train, trainannot, val, valannot, test, testannot")
    description = Description(
        name="camvid",
        classes=CAMVID_CLASSES,
        ignore_index=CAMVID_VOID,
        layout=Layout(images=("{split}/{stem}.png",), masks=("{split}annot/{stem}.png",)),
        splits=tuple(split for split in ("train", "val", "test") if (place / split).is_dir()),
    )
    pairing = find_pairs(place, description, refuse=manner.refuse)
    return FileDataset(description, pairing, place=place, size=size, holdout=holdout, manner=manner)


def spread_colors(count: int) -> tuple[Color, ...]:
    """Distinct colors for classes that come without."""
    return tuple(((53 * i + 60) % 256, (101 * i + 30) % 256, (197 * i + 90) % 256) for i in range(count))
