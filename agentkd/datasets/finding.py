"""Finds images and what labels them: one listing of the folder, two patterns, each file used once or left over.

It looks at names alone, and takes time in proportion to their number.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from agentkd.datasets.description import DESCRIPTION, Description
from agentkd.datasets.listing import is_image, list_files
from agentkd.datasets.manner import Refuse, at_once
from agentkd.datasets.patterns import Parts, Pattern, composed
from agentkd.datasets.splits import TRAIN
from agentkd.datasets.text import read_text
from agentkd.errors import DatasetError


@dataclass(frozen=True, slots=True)
class Pair:
    """An image file and what labels it, relative to the folder; ``others`` are files of its further channels, if each has one."""

    image: str
    mask: str
    split: str
    stem: str
    within: str = ""
    others: tuple[str, ...] = ()

    @property
    def images(self) -> tuple[str, ...]:
        """The files of its image: one, or one for each channel, in their order."""
        return (self.image, *self.others)

    @property
    def name(self) -> str:
        """What it is called: its stem, after what the stars of the pattern matched."""
        return f"{self.within}/{self.stem}" if self.within else self.stem


@dataclass
class Pairing:
    """All pairs, split by split, what is left over, and the patterns of ignored files that match none."""

    pairs: list[Pair]
    left_over: list[str] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)


def find_pairs(place: Path, description: Description, *, needs_stem: bool = True, refuse: Refuse = at_once) -> Pairing:
    """Every image with what labels it.

    Args:
        place: the folder.
        description: of it.
        needs_stem: whether each image has a file of its own that labels it; if not, one may do so for many.
        refuse: what is done with an image or a mask that has no partner, or several; it is left out then.

    Raises:
        DatasetError: no images; an image that nothing labels; two files where one is meant; a split that is not there.
    """
    where = f"{place / DESCRIPTION}: layout"
    names, channels = tuple(description.splits), tuple(description.channels.values())
    images = _Side([Pattern(text, f"{where}.images", names, channels) for text in description.layout.images], f"{where}.images")
    masks = _Side([Pattern(text, f"{where}.masks", names) for text in description.layout.masks], f"{where}.masks")
    if not images.has_stem or (needs_stem and not masks.has_stem):
        raise DatasetError(
            images.where if not images.has_stem else masks.where, "has no {stem}", "{stem} where the file's own name stands"
        )
    ignored = [Pattern(text, f"{place / DESCRIPTION}: ignored_files") for text in description.ignored_files]
    left_over: list[str] = []
    idle = dict.fromkeys(description.ignored_files)
    for file in list_files(place, refuse):
        name = composed(file)
        matched = [pattern for pattern in ignored if pattern.match(name)]
        for pattern in matched:
            idle.pop(pattern.text, None)
        if file != DESCRIPTION and not matched:
            _sort(place, file, name, images, masks, left_over)
    images.gather(place, channels, refuse)
    chosen = _choose(place, description, images, refuse)
    pairs, used = _pair(place, chosen, images, masks, left_over, refuse)
    left_over += [file for file in images.files() if file not in used]
    left_over += [file for file in masks.files() if file not in used]
    if not chosen:
        refuse(DatasetError(place, "no images found", _advice(description, sorted(left_over))))
    return Pairing(pairs, _worth_saying(left_over, used), [*idle])


class _Side:
    """Images or masks: their patterns, and the files found by their parts."""

    def __init__(self, patterns: list[Pattern], where: str) -> None:
        first = patterns[0]
        self.patterns, self.where = patterns, where
        self.has_split, self.has_stem, self.num_stars = first.has_split, first.has_stem, first.num_stars
        self.has_channel = first.has_channel
        self.found: dict[Parts, str | list[str]] = {}
        self.further: dict[str, tuple[str, ...]] = {}
        for other in patterns[1:]:
            if (other.has_split, other.has_stem, other.num_stars) != (first.has_split, first.has_stem, first.num_stars):
                raise DatasetError(
                    where, f"{first.text!r} and {other.text!r} have other parts", "the same {split}, {stem} and * in each"
                )

    def match(self, name: str) -> tuple[Parts, int] | None:
        for pattern in self.patterns:
            parts = pattern.match(name)
            if parts is not None:
                return parts, pattern.num_literal
        return None

    def add(self, parts: Parts, file: str) -> None:
        before = self.found.get(parts)
        if before is None:
            self.found[parts] = file
        else:
            self.found[parts] = [*([before] if isinstance(before, str) else before), file]

    def gather(self, place: Path, channels: Sequence[str], refuse: Refuse) -> None:
        """Puts the files of an image that has one for each channel together: the first stands for all.

        An image that lacks one, or has two for one channel, is refused and left out.
        """
        if not self.has_channel:
            return
        images: dict[Parts, dict[str, str]] = {}
        for parts, file in self.found.items():
            one = _one(place, file, f"channel {parts.channel}", refuse)
            images.setdefault(replace(parts, channel=""), {})[parts.channel] = one
        ordered: dict[Parts, list[str]] = {}
        for parts, files in images.items():
            lacking = [channel for channel in map(composed, channels) if channel not in files]
            if lacking:
                expected, some = self.patterns[0].fill(replace(parts, channel=lacking[0])), next(iter(files.values()))
                text = f"there is no file of channel {lacking[0]} of this image"
                refuse(DatasetError(place / some, text, f"{place / expected}"))
            elif all(files.values()):
                ordered[parts] = [files[composed(channel)] for channel in channels]
        self.found = {parts: files[0] for parts, files in ordered.items()}
        self.further = {files[0]: tuple(files[1:]) for files in ordered.values()}

    def files(self) -> Iterator[str]:
        for found in self.found.values():
            for file in [found] if isinstance(found, str) else found:
                yield from (file, *self.further.get(file, ()))


def _sort(place: Path, file: str, name: str, images: _Side, masks: _Side, left_over: list[str]) -> None:
    """Puts a file where it belongs. Of two patterns that it matches, the one with more of its letters knows better."""
    image, mask = images.match(name), masks.match(name)
    if image and mask:
        if image[1] == mask[1]:
            raise DatasetError(
                place / file, "is an image and a mask, by layout.images and layout.masks", "patterns that tell one from the other"
            )
        image, mask = (image, None) if image[1] > mask[1] else (None, mask)
    if image:
        images.add(image[0], file)
    elif mask:
        masks.add(mask[0], file)
    else:
        left_over.append(file)


def _one(place: Path, found: str | list[str], what: str, refuse: Refuse) -> str:
    """The only one; nothing if there are several."""
    if isinstance(found, str):
        return found
    others = f" (and {len(found) - 2} more)" if len(found) > 2 else ""
    text = f"and {place / found[1]}{others} are both {what}"
    refuse(DatasetError(place / found[0], text, "one of them; list the other in ignored_files"))
    return ""


def _choose(place: Path, description: Description, images: _Side, refuse: Refuse) -> list[tuple[str, Parts]]:
    """(split, parts of the image) of everything that is used, split by split."""
    if isinstance(description.splits, dict) and description.splits:
        return [item for split, listed in description.splits.items() for item in _listed(place, split, listed, images, refuse)]
    by_split: dict[str, list[Parts]] = {}
    for parts in images.found:
        by_split.setdefault(parts.split if images.has_split else TRAIN, []).append(parts)
    missing = [name for name in description.splits if composed(name) not in by_split]
    for name in missing:
        text = f"split {name!r} is listed, and has no images"
        refuse(DatasetError(place, text, f"files like {' or '.join(description.layout.images)}"))
    order: Iterable[str] = map(composed, description.splits) if description.splits else sorted(by_split)
    return [(split, parts) for split in order for parts in by_split.get(split, ())]


def _listed(place: Path, split: str, listed: Sequence[str] | str, images: _Side, refuse: Refuse) -> Iterator[tuple[str, Parts]]:
    found: dict[str, list[Parts]] = {}
    for parts, files in images.found.items():
        if not images.has_split or parts.split == composed(split):
            for name in _names(parts, composed(files if isinstance(files, str) else files[0])):
                found.setdefault(name, []).append(parts)
    if isinstance(listed, str):
        try:
            lines = [composed(line.strip()) for file in _lists(place, listed) for line in read_text(file).splitlines()]
        except DatasetError as error:
            refuse(error)
            return
        listed = tuple(line if line in found else line.split()[0] for line in lines if line)
    missing = [stem for stem in listed if composed(stem) not in found]
    for stem in missing:  # of which the first is the end, if one fault is
        others = len(missing) - 1 if refuse is at_once else 0
        rest = f" and {others} more that are not there" if others else ", which is not there"
        refuse(DatasetError(place, f"split {split!r} lists {stem!r}{rest}", images.patterns[0].text.replace("{split}", split)))
    seen: set[Parts] = set()
    for stem in map(composed, listed):
        if stem not in found:
            continue
        if len(found[stem]) > 1:
            files = [_one(place, images.found[parts], "the same image", refuse) for parts in found[stem]]
            text = f"split {split!r} lists {stem!r}, which is {files[0]} and {files[1]}"
            refuse(DatasetError(place, text, "the folder before the stem as well"))
            continue
        if found[stem][0] in seen:
            refuse(DatasetError(place, f"split {split!r} lists {stem!r} twice", "each image once"))
            continue
        seen.add(found[stem][0])
        yield split, found[stem][0]


def _lists(place: Path, text: str) -> list[Path]:
    """The file of this name that lists images, or those that match it as a pattern, in the order of their names.

    Raises:
        DatasetError: none does.
    """
    if (place / text).exists() or not any(sign in text for sign in "*{"):
        return [place / text]
    pattern = Pattern(text, f"{place / DESCRIPTION}: splits")
    files = [place / file for file in list_files(place) if pattern.match(composed(file))]
    if not files:
        raise DatasetError(place / DESCRIPTION, f"splits: {text!r} matches no file", "one or more, each with an image a line")
    return files


def _names(parts: Parts, file: str) -> set[str]:
    """How a list may name an image: its stem, with what stars matched before it, its file's name, or its path."""
    return {parts.stem, "/".join((*parts.stars, parts.stem)), file.rpartition("/")[2], file, file.rpartition(".")[0]}


def _pair(
    place: Path, chosen: list[tuple[str, Parts]], images: _Side, masks: _Side, left_over: list[str], refuse: Refuse
) -> tuple[list[Pair], set[str]]:
    num_stars = min(images.num_stars, masks.num_stars)
    has_split = images.has_split and masks.has_split

    def shared(parts: Parts) -> Parts:
        return Parts(parts.split if has_split else "", parts.stars[:num_stars], parts.stem if masks.has_stem else "")

    by_shared: dict[Parts, str | list[str]] = {}
    for parts, found in masks.found.items():
        for file in [found] if isinstance(found, str) else found:
            before = by_shared.get(shared(parts))
            by_shared[shared(parts)] = file if before is None else [*([before] if isinstance(before, str) else before), file]
    pairs: list[Pair] = []
    missing: list[tuple[str, Parts, str]] = []
    owner: dict[str, str] = {}
    for split, parts in chosen:
        image = _one(place, images.found[parts], "images of one name", refuse)
        several = by_shared.get(shared(parts))
        if several is None and image:
            missing.append((split, parts, image))
        mask = _one(place, several, f"masks of {image}", refuse) if several is not None and image else ""
        if not mask:
            continue
        if masks.has_stem and owner.setdefault(mask, image) != image:
            text = f"would be the mask of {owner[mask]} and of {image}"
            refuse(DatasetError(place / mask, text, "a mask for each; name in layout.masks what tells them apart"))
            continue
        pairs.append(Pair(image, mask, split, parts.stem, "/".join(filter(None, parts.stars)), images.further.get(image, ())))
    for error in _faults_of_missing(place, missing, pairs, masks, left_over, at_once=refuse is at_once):
        refuse(error)
    paired = {file for pair in pairs for file in (*pair.images, pair.mask)}
    return pairs, paired | {image for _, _, image in missing}


def _faults_of_missing(
    place: Path, missing: list[tuple[str, Parts, str]], pairs: list[Pair], masks: _Side, left_over: list[str], *, at_once: bool
) -> Iterator[DatasetError]:
    """What is said of images without masks: one fault of all, or one of each, but one of all of a split that has no masks."""
    if at_once:
        groups = [missing] if missing else []
    else:
        labelled = {pair.split for pair in pairs}
        alone = dict.fromkeys(split for split, _, _ in missing if split not in labelled)
        groups = [[one for one in missing if one[0] == split] for split in alone]
        groups += [[one] for one in missing if one[0] in labelled]
    for group in groups:
        yield _no_mask(place, group, pairs, masks, left_over)


def _no_mask(
    place: Path, missing: list[tuple[str, Parts, str]], pairs: list[Pair], masks: _Side, left_over: list[str]
) -> DatasetError:
    _, parts, image = missing[0]
    expected = " or ".join(str(place / pattern.fill(parts)) for pattern in masks.patterns)
    meant = {pattern.fill(parts).rpartition(".")[0] for pattern in masks.patterns}
    like = [file for file in left_over if file.rpartition(".")[0] in meant]
    if like:
        expected += f"; there is {like[0]}: for it, let layout.masks end in .{like[0].rpartition('.')[2]} or .*"
    labelled = list(dict.fromkeys(pair.split for pair in pairs))
    alone = [name for name in dict.fromkeys(name for name, _, _ in missing) if name not in labelled]
    more = f" ({len(missing)} such images)" if len(missing) > 1 else ""
    if labelled and alone:
        expected += f". Split {alone[0]!r} has no masks at all: to leave it out, write splits: [{', '.join(labelled)}]"
    return DatasetError(place / image, f"image without mask{more}", expected)


def _worth_saying(left_over: list[str], used: set[str]) -> list[str]:
    """What lies where images and masks lie, or is an image: not what a dataset has beside, as a README."""
    folders = {file.rpartition("/")[0] for file in used} - {""}
    return sorted(file for file in left_over if file.rpartition("/")[0] in folders or is_image(file))


def _advice(description: Description, left_over: list[str]) -> str:
    text = f"files like {' or '.join(description.layout.images)}"
    seen = [file for file in left_over if is_image(file)]
    if not seen:
        return text
    text += f"; there are {len(seen)} images such as {seen[0]}"
    folders = {file.rpartition("/")[0] for file in seen}
    if folders <= {"images", "masks"}:
        text += ": for folders without splits, write layout: {images: 'images/{stem}.*', masks: 'masks/{stem}.png'}"
    return text
