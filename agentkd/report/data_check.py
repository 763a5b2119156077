"""What was found in a dataset, for people: lines of text, and a picture of some samples beside their masks."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from agentkd.checks.dataset import Look
from agentkd.checks.findings import Findings, PairFound
from agentkd.datasets.contact_sheet import contact_sheet
from agentkd.durable import write_whole
from agentkd.errors import ConfigError, DatasetError, StorageError
from agentkd.visible import visible_line

SHEET = "samples.png"
DEFAULT = Path("data-check")


def lines(found: Findings, most: int) -> Iterator[str]:
    """The findings, line by line.

    Args:
        found: them.
        most: how many problems, pairs and files are named; the others are counted.
    """
    yield f"{found.name}: {found.format}, {_count(len(found.class_names), 'class', 'es')}, {_count(found.num_images, 'image')}"
    yield f"looked at {found.spec}"
    if found.sample:
        yield f"a part of it: at most {found.sample:,} images of each split; the files of others were not opened"
    yield ""
    yield from _splits(found)
    yield from _classes(found)
    if found.sizes:
        yield ""
        yield _sizes(found)
    if found.twins:
        yield from _pairs("the same", found.twins, most)
    if found.alike:
        yield from _pairs("almost the same", found.alike, most)
    if found.left_over:
        yield ""
        yield from _named([f"left over: {file}" for file in found.left_over], most)
    if found.warnings or found.problems:
        yield ""
    yield from (f"warn {text}" for text in found.warnings)
    yield from _named([f"FAIL {text}" for text in found.problems], most)


def verdict(found: Findings) -> str:
    """All of it in one line."""
    problems = _count(len(found.problems), "problem")
    sound = "sound" if found.is_complete else "no problem so far"
    text = f"{problems if found.problems else sound}, {_count(len(found.warnings), 'warning')}"
    read = f"{found.num_read:,} of {_count(found.num_images, 'image')} read"
    return f"{text}; {read}" + ("" if found.is_complete else "; interrupted, so this is not all")


def default_place(found: Findings) -> Path:
    """Where pictures go if nothing is said: ``data-check/NAME``, of a name that every file system takes."""
    name = re.sub(r"[^\w.-]+", "-", found.name).strip("-.")[:80] or "data"
    return DEFAULT / name


def write_sheet(look: Look, out: Path) -> Path | None:
    """Draws some samples beside their masks, those of rare classes before others; ``None`` if no sample could be read.

    Raises:
        StorageError: it cannot be written.
    """
    found, dataset = look.findings, look.dataset
    split_of = {index: split for split, indices in dataset.splits.items() for index in indices}
    shown = []
    for index in look.survey.worth_showing(dataset.splits, len(dataset.classes)):
        try:
            sample = dataset.sample(index)
        except (DatasetError, ConfigError):  # it was sound before; what has changed meanwhile is not shown
            continue
        height, width = sample.label.shape
        shown.append((f"{split_of[index]}: {sample.name}, {width}x{height}", sample))
    if not shown:
        return None
    picture = contact_sheet(f"{found.name}: {len(shown)} of {found.num_images:,} images, each beside its mask", dataset, shown)
    path = out / SHEET
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(path, picture)
    except OSError as error:
        raise StorageError.of_use(path, error) from error
    return path


def _splits(found: Findings) -> Iterator[str]:
    wide = max([len("split"), *(len(visible_line(split.name)) for split in found.splits)])
    yield f"{'split':<{wide}} {'images':>9} {'read':>9} {'groups':>9}"
    for split in found.splits:
        yield f"{visible_line(split.name):<{wide}} {split.num_images:>9,} {split.num_read:>9,} {split.num_groups:>9,}"


def _classes(found: Findings) -> Iterator[str]:
    """A row a class, a column a split: its share of the labelled pixels, and in how many images it is."""
    splits = list(dict.fromkeys(one.split for one in found.classes))
    if not splits:
        return
    names = [visible_line(name) for name in found.class_names]
    wide = max(len("not labelled"), *(len(name) for name in names))
    by_split = {(one.name, one.split): one for one in found.classes}
    yield ""
    yield " ".join([f"{'class':<{wide}}", *(f"{visible_line(split)[:18]:>18}" for split in splits)]) + "  pixels, images"
    for name, shown in zip(found.class_names, names, strict=True):
        cells = (by_split[name, split] for split in splits)
        yield " ".join([f"{shown:<{wide}}", *(f"{_share(one.share):>9} {one.num_images:>8,}" for one in cells)])
    yield " ".join(
        [f"{'not labelled':<{wide}}", *(f"{_share(found.not_labelled[split]):>9} {'':>8}" for split in splits)]
    ).rstrip()


def _sizes(found: Findings) -> str:
    sizes = found.sizes
    assert sizes is not None
    (a, b), (c, d), (e, f), (g, h) = sizes.smallest, sizes.median, sizes.largest, sizes.most_frequent
    if sizes.num_sizes == 1:
        return f"sizes      {a}x{b} all"
    others = f"{sizes.num_sizes:,} sizes; most are {g}x{h}, {_count(sizes.num_others, 'image')} not"
    return f"sizes      smallest {a}x{b}, median {c}x{d}, largest {e}x{f}; {others}"


def _pairs(what: str, pairs: Sequence[PairFound], most: int) -> Iterator[str]:
    def bits(pair: PairFound) -> str:
        return "" if pair.num_bits is None else f", {pair.num_bits} of 64 bits differ"

    yield ""
    texts = [f"{what}: {pair.first} ({pair.first_split}), {pair.second} ({pair.second_split}){bits(pair)}" for pair in pairs]
    yield from _named(texts, most)


def _named(texts: Sequence[str], most: int) -> Iterator[str]:
    yield from texts[:most]
    if len(texts) > most:
        word = texts[most].partition(":")[0] if not texts[most].startswith("FAIL") else "FAIL"
        yield f"{word}: {len(texts) - most:,} more (--most names more, --format json all)"


def _share(share: float | None) -> str:
    if share is None:
        return "-"
    return "0" if not share else f"{100 * share:.2f} %" if share >= 0.0001 else "< 0.01 %"


def _count(number: int, what: str, ending: str = "s") -> str:
    return f"{number:,} {what}{ending if number != 1 else ''}"
