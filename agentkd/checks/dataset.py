"""A dataset looked at by itself: every fault of every file, what its labels come to, and what its splits have in common.

What a run refuses is a problem here, by the same code: files by the readers, labels by the census, splits by their bytes. The
difference is that one fault does not hide the next one. Nothing is written.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agentkd.checks.data import judge_classes
from agentkd.checks.findings import ClassFound, Findings, PairFound, SizesFound, SplitFound
from agentkd.datasets import files
from agentkd.datasets.census import Census
from agentkd.datasets.description import DESCRIPTION
from agentkd.datasets.files import FileDataset, Looked
from agentkd.datasets.manner import Manner, evenly
from agentkd.datasets.opening import open_in
from agentkd.datasets.options import find_path
from agentkd.datasets.reading import read_through
from agentkd.datasets.samples import Dataset, Size, channels_of, check_splits
from agentkd.datasets.splits import TEST, TRAIN, VALIDATION, in_several, several_told, some
from agentkd.datasets.survey import Survey, reader_of
from agentkd.errors import ConfigError, DatasetError

RARE = 0.001
SPEC_KINDS = "a folder, its dataset.yaml, or a specification such as folder:path=DIR,holdout=0.25 or generated:seed=7"

Progress = Callable[[int, int], None]
"""Is told how many samples were read, and of how many."""


@dataclass
class Look:
    """What was looked at, and what was seen: the findings, and what pictures are made of."""

    findings: Findings
    dataset: Dataset
    survey: Survey

    def is_among(self, path: Path) -> bool:
        """Whether a path is in the folder of the data, in which nothing is to be written."""
        return any(_is_within(path, place) for place in getattr(self.dataset, "places", ()))


@dataclass
class _Faults:
    """Faults as they are found, each once."""

    texts: dict[str, int] = field(default_factory=dict)

    def add(self, error: DatasetError | ConfigError) -> None:
        self.texts[str(error)] = self.texts.get(str(error), 0) + 1

    def told(self) -> tuple[str, ...]:
        return tuple(text if count == 1 else f"{text} (so {count:,} times)" for text, count in self.texts.items())


def look_at_dataset(
    text: str, *, sample: int = 0, out: Path | None = None, progress: Progress = lambda _done, _all: None
) -> Look:
    """Everything about a dataset that can be known without learning from it. Ctrl-C ends it with what was seen so far.

    Args:
        text: a folder, its ``dataset.yaml``, or a specification as in an experiment file.
        sample: read so many images of each split, evenly spread; all for 0. The files of others are not opened.
        out: where the caller is going to write; not among the data.
        progress: is told how far it is.

    Raises:
        DatasetError: there is nothing to look at: no such folder, or a description that cannot be read.
        ConfigError: own code cannot be collected, or fails; ``out`` is in the folder of the data.
    """
    faults = _Faults()
    spec, dataset = _opened(text, Manner(faults.add, sample))
    for place in getattr(dataset, "places", ()) if out else ():
        if out and _is_within(out, place):
            raise ConfigError(f"--out {out} is within {place}, the data's own folder, in which nothing is written; give another")
    whole = getattr(dataset, "whole", dataset.splits)
    chosen = {split: evenly(indices, sample) for split, indices in dataset.splits.items()}
    survey = Survey(Census(dataset.name, dataset.classes, dataset.ignore_index), channels_of(dataset))
    twins: list[PairFound] = []
    alike: list[PairFound] = []
    is_complete = False
    try:
        _read(dataset, chosen, survey, faults, progress)
        twins, alike = _twins(dataset, survey, chosen), _alike(dataset, survey, chosen)
        is_complete = True
    except KeyboardInterrupt:
        pass
    is_whole = is_complete and all(len(chosen[split]) == len(dataset.splits[split]) for split in chosen)
    warnings = _judge(dataset, spec, survey, faults, is_whole=is_whole and not (sample and whole != dataset.splits))
    _tell_twins(dataset, twins, faults)
    warnings += _of_splits(dataset)
    groups = in_several(whole, dataset.group) if len(whole) > 1 else {}
    if groups and not isinstance(dataset, FileDataset):
        warnings.append(f"{dataset.name}: {several_told(groups)}")
    if alike:
        warnings.append(_said_of_alike(dataset, alike))
    warnings += _rare(survey)
    problems = faults.told()
    findings = Findings(
        spec=spec,
        name=dataset.name,
        format=getattr(dataset, "format", "") or f"{spec.partition(':')[0]} data",
        class_names=dataset.classes,
        splits=tuple(_split(dataset, survey, split, indices) for split, indices in whole.items()),
        classes=tuple(_classes(dataset, survey)),
        not_labelled=_not_labelled(survey),
        sizes=_sizes(survey.sizes) if survey.sizes else None,
        in_several_splits=groups,
        left_over=getattr(dataset, "left_over", ()),
        twins=tuple(twins),
        alike=tuple(alike),
        problems=problems,
        warnings=tuple(text for text in dict.fromkeys(warnings) if not any(problem.startswith(text) for problem in problems)),
        sample=sample,
        is_complete=is_complete,
    )
    return Look(findings, dataset, survey)


def _is_within(path: Path, place: Path) -> bool:
    """Whether a path is a folder or in it, whatever links lead there."""
    try:
        return path.resolve().is_relative_to(place.resolve())
    except (OSError, RuntimeError):
        return False


def _opened(text: str, manner: Manner) -> tuple[str, Dataset]:
    """What is meant by a text, and its dataset."""
    path = find_path(text) if text else Path()
    is_there = bool(text) and "\0" not in text and os.path.lexists(path)
    if is_there and path.is_file() and path.name == DESCRIPTION:
        path = path.parent
    if is_there and path.is_dir():
        return f"folder:path={path}", files.open_folder(path, manner=manner)
    if is_there:
        raise DatasetError(path, "is no dataset", f"{SPEC_KINDS}; an experiment file is looked at by agentkd doctor FILE")
    if ":" not in text:
        raise DatasetError(text or "''", "is not there", SPEC_KINDS)
    return text, open_in(manner, text)


def _read(dataset: Dataset, chosen: dict[str, tuple[int, ...]], survey: Survey, faults: _Faults, progress: Progress) -> None:
    split_of = {index: split for split, indices in chosen.items() for index in indices}
    is_file = isinstance(dataset, FileDataset)
    for done, (index, found) in enumerate(read_through(reader_of(dataset), split_of), 1):
        if isinstance(found, Looked):
            survey.add(index, split_of[index], found, is_file=is_file)
        else:
            faults.add(found)
        progress(done, len(split_of))


def _judge(dataset: Dataset, spec: str, survey: Survey, faults: _Faults, *, is_whole: bool) -> list[str]:
    """What is to be said of the labels; that nothing can be learned is a fault only if all was read."""
    said: list[str] = []
    if isinstance(dataset, FileDataset):
        try:
            dataset.judge(survey.census)
        except DatasetError as error:
            if is_whole:
                faults.add(error)
            else:
                said.append(f"of the images that were read: {error}")
        return [*dataset.notices, *said]
    named = {
        split: [name for label, name in enumerate(dataset.classes) if counts[label]]
        for split, counts in survey.census.counts.items()
    }
    roles = [split for split in (TRAIN, VALIDATION, TEST) if split in named]
    roles += [split for split in named if split not in roles]
    for concern in judge_classes(dataset.classes, roles, named, spec):
        if concern.is_error and is_whole and roles[0] == TRAIN:
            faults.add(DatasetError(dataset.name, concern.text))
        else:
            said.append(f"{dataset.name}: {concern.text}")
    return [*getattr(dataset, "notices", ()), *said]


def _name(dataset: Dataset, survey: Survey, index: int) -> str:
    return str(dataset.image_of(index)) if isinstance(dataset, FileDataset) else survey.names[index]


def _twins(dataset: Dataset, survey: Survey, chosen: dict[str, tuple[int, ...]]) -> list[PairFound]:
    if isinstance(dataset, FileDataset):
        return [PairFound(str(a), one, str(b), other) for a, one, b, other in dataset.twins]
    split_of = {index: split for split, indices in chosen.items() for index in indices}
    named = ((_name(dataset, survey, a), split_of[a], _name(dataset, survey, b), split_of[b]) for a, b in survey.twins)
    return [PairFound(*one) for one in named]


def _tell_twins(dataset: Dataset, twins: Sequence[PairFound], faults: _Faults) -> None:
    """That images are in two splits is a fault, unless the description allows it; then it is in the dataset's notices."""
    if not twins:
        return
    first = f"{twins[0].first} in {twins[0].first_split!r} and {twins[0].second} in {twins[0].second_split!r}"
    text = f"{len(twins):,} image{'s are' if len(twins) > 1 else ' is'} in two splits, such as {first}"
    if not hasattr(dataset, "check_splits"):
        faults.add(DatasetError(dataset.name, text, "each image in one split"))
        return
    try:
        check_splits(dataset)
    except (DatasetError, ConfigError) as error:
        faults.add(error)


def _alike(dataset: Dataset, survey: Survey, chosen: dict[str, tuple[int, ...]]) -> list[PairFound]:
    split_of = {index: split for split, indices in chosen.items() for index in indices}
    same = {(a.first, a.second) for a in _twins(dataset, survey, chosen)}
    found = []
    for pair in survey.looks.alike(chosen):
        first, second = (_name(dataset, survey, index) for index in (pair.earlier, pair.later))
        if (first, second) not in same:
            found.append(PairFound(first, split_of[pair.earlier], second, split_of[pair.later], pair.num_bits))
    return found


def _said_of_alike(dataset: Dataset, alike: Sequence[PairFound]) -> str:
    first = alike[0]
    text = f"{len(alike):,} images look almost like one of an earlier split"
    text += f", such as {first.second} in {first.second_split!r} and {first.first} in {first.first_split!r}"
    return f"{dataset.name}: {text}; if they are frames of one video, or copies, put them into one split"


def _of_splits(dataset: Dataset) -> list[str]:
    empty = [split for split, indices in dataset.splits.items() if not indices]
    said = [f"{dataset.name}: split {split!r} is empty" for split in empty]
    if TRAIN not in dataset.splits:
        said.append(f"{dataset.name}: has no split {TRAIN!r}, from which is learned; it has {some([*dataset.splits]) or 'none'}")
    if VALIDATION not in dataset.splits:
        advice = "of files, holdout=0.25 behind their path takes a quarter of train: folder:path=DIR,holdout=0.25"
        said.append(f"{dataset.name}: has no split {VALIDATION!r}, by which a search chooses; {advice}")
    return said


def _rare(survey: Survey) -> list[str]:
    """Classes of which there is hardly anything in what is learned from or chosen by."""
    said = []
    for split in (TRAIN, VALIDATION):
        counts = survey.census.counts.get(split)
        total = 0 if counts is None else int(counts[: len(survey.census.classes)].sum())
        for label, name in enumerate(survey.census.classes if total else ()):
            count = 0 if counts is None else int(counts[label])
            if 0 < count < RARE * total:
                of_images = f"in {int(survey.with_class[split][label]):,} of {survey.census.images[split]:,} images"
                said.append(f"{survey.census.name}: only {100 * count / total:.2g} % of split {split!r} is {name!r}, {of_images}")
    return said


def _split(dataset: Dataset, survey: Survey, split: str, indices: Sequence[int]) -> SplitFound:
    return SplitFound(split, len(indices), survey.census.images.get(split, 0), len({dataset.group(index) for index in indices}))


def _classes(dataset: Dataset, survey: Survey) -> Iterator[ClassFound]:
    for split, counts in survey.census.counts.items():
        total = int(counts[: len(dataset.classes)].sum())
        for label, name in enumerate(dataset.classes):
            share = int(counts[label]) / total if total else None
            yield ClassFound(name, split, int(counts[label]), share, int(survey.with_class[split][label]))


def _not_labelled(survey: Survey) -> dict[str, float]:
    known = len(survey.census.classes)
    return {split: int(counts[known:].sum()) / int(counts.sum()) for split, counts in survey.census.counts.items()}


def _sizes(sizes: dict[Size, int]) -> SizesFound:
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    half, median = (sum(sizes.values()) + 1) // 2, ordered[-1]
    for size in ordered:
        half -= sizes[size]
        if half <= 0:
            median = size
            break
    frequent = max(ordered, key=lambda size: sizes[size])
    return SizesFound(
        smallest=ordered[0][::-1],
        median=median[::-1],
        largest=ordered[-1][::-1],
        most_frequent=frequent[::-1],
        num_others=sum(sizes.values()) - sizes[frequent],
        num_sizes=len(sizes),
    )
