"""An experiment to begin with, suggested from what a dataset is found to be: values, and why these. Nothing is written."""

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentkd.architecture import RGB
from agentkd.checks.dataset import Look, look_at_dataset
from agentkd.checks.findings import ClassFound, Findings
from agentkd.datasets.samples import channels_of
from agentkd.datasets.splits import TEST, TRAIN, VALIDATION, some
from agentkd.errors import ConfigError
from agentkd.networks.families import FAMILIES
from agentkd.visible import visible_line

LARGEST_CROP = {"cpu": 128, "cuda": 512}
STEP = 32
"""Sides of a crop are multiples of this: what every family can halve as often as it does."""
STEPS = {"cpu": 600, "cuda": 6_000}
"""Of a baseline, about: with fewer a network from scratch has learned little."""
TRIALS = {"cpu": 6, "cuda": 20}
EPOCHS = (12, 240)
SHARES = {"baseline": 12, "search": 5, "round1": 5, "round2": 5}
"""In proportion as in the paper: 120, 50, 50 and 50."""
RARE = 0.01
SMALL = {"cpu": ("pidnet_s", "unet"), "cuda": ("pidnet_s", "pidnet_m", "unet", "cnn_i2i_bisenet")}
HOLDOUT = 0.25


@dataclass(frozen=True)
class Suggested:
    """What to begin with.

    Args:
        dataset: its specification.
        crop: (width, height) of the views; ``None`` for whole images.
        epochs: by the part of the file.
        families: that are compared.
        notes: by the part of the file why it is so, or what may be done about it, a line each.
    """

    name: str
    dataset: str
    test: str
    crop: tuple[int, int] | None
    batch_size: int
    epochs: dict[str, int]
    trials: int
    families: tuple[str, ...]
    device: str
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)


def suggest(text: str, *, device: str, sample: int = 0) -> tuple[Suggested | None, Findings]:
    """An experiment for a dataset; ``None`` if a run would refuse the data, for what the findings say.

    Args:
        text: a folder, its ``dataset.yaml``, or a specification.
        device: ``cpu`` or ``cuda``: what it is to be trained on.
        sample: read so many images of each split; all for 0.

    Raises:
        DatasetError: there is nothing to look at.
        ConfigError: there is no split to learn from, or own code fails.
    """
    look = look_at_dataset(text, sample=sample)
    splits = {split.name: split.num_images for split in look.findings.splits}
    notes: dict[str, list[str]] = {"data": [], "recipe": [], "families": []}
    if TRAIN in splits and VALIDATION not in splits and look.findings.spec.startswith("folder:"):
        look = look_at_dataset(f"{look.findings.spec},holdout={HOLDOUT}", sample=sample)
        notes["data"].append(f"It has no split {VALIDATION!r}: a quarter of {TRAIN!r} is held out for it, by groups.")
        splits = {split.name: split.num_images for split in look.findings.splits}
    found = look.findings
    if not found.is_sound:
        return None, found
    lacking = [split for split in (TRAIN, VALIDATION) if not splits.get(split)]
    if lacking:
        told = f"{found.name} has no split {lacking[0]!r}, but {some([*splits]) or 'none'}"
        raise ConfigError(f"{told}; name its splits in dataset.yaml, or write data.train and data.validation by hand")
    if splits[TRAIN] < 2:
        raise ConfigError(f"{found.name} has one image to learn from; a batch needs 2 at least, so add images")
    return _suggested(look, splits, device, notes), found


def _suggested(look: Look, splits: dict[str, int], device: str, notes: dict[str, list[str]]) -> Suggested:
    found = look.findings
    listed = ", ".join(f"{split} {count:,}" for split, count in splits.items())
    notes["data"].insert(
        0, f"{found.format}, images: {listed}; {len(found.class_names)} classes: {', '.join(found.class_names)}."
    )
    if TEST not in splits:
        notes["data"].append(
            "It has no split 'test', so the final networks are looked at on the validation split, which chose them."
        )
    crop = _crop(found, device, notes["recipe"])
    batch_size = max(2, min(4 if device == "cpu" else 8, splits[TRAIN]))
    steps_per_epoch = max(1, splits[TRAIN] // batch_size)
    baseline = min(max(STEPS[device] // steps_per_epoch, EPOCHS[0]), EPOCHS[1])
    channels = channels_of(look.dataset)
    if channels != RGB:
        notes["families"].append(f"Images have the channels {', '.join(channels)}; every family takes them, from scratch.")
    rare = sorted({one.name for one in found.classes if one.split == TRAIN and _is_rare(one)})
    if rare:
        notes["recipe"].append(
            f"Under 1 % of the pixels are {', '.join(rare)}. If these matter: class_weights: effective, or sampler: rare_class."
        )
    chosen = SMALL[device]
    others = [f"{name} ({row.title})" for name, row in FAMILIES.items() if name not in chosen]
    notes["families"].append(
        f"Also there: {', '.join(others)}; agentkd networks says how large they are. Your own: package.module:builder."
    )
    return Suggested(
        name=_name(found.name),
        dataset=found.spec,
        test=TEST if TEST in splits else "",
        crop=crop,
        batch_size=batch_size,
        epochs={part: max(2, baseline * share // SHARES["baseline"]) for part, share in SHARES.items()},
        trials=TRIALS[device],
        families=chosen,
        device=device,
        notes={part: tuple(lines) for part, lines in notes.items()},
    )


def _is_rare(one: ClassFound) -> bool:
    return one.share is not None and 0 < one.share < RARE


def _crop(found: Findings, device: str, notes: list[str]) -> tuple[int, int] | None:
    """The largest crop that fits into every image and is no larger than this device does well with."""
    sizes = found.sizes
    if sizes is None:
        return None
    most = LARGEST_CROP[device]
    smallest = sizes.smallest
    said = f"{smallest[0]}x{smallest[1]}" + ("" if sizes.num_sizes == 1 else f" to {sizes.largest[0]}x{sizes.largest[1]}")
    crop = [max(STEP, min(side, most) // STEP * STEP) for side in smallest]
    notes.append(f"Images are {said} pixels; learned is from crops of {crop[0]}x{crop[1]}, looked at are whole images.")
    if max(sizes.largest) > 2 * most:
        notes.append("Large images take long to look at: ,size=WIDTHxHEIGHT behind the dataset makes them smaller.")
    return crop[0], crop[1]


def _name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip("-.")[:60] or "experiment"


def as_text(made: Suggested, first: str, file: Path) -> str:
    """The experiment file: commented YAML.

    Args:
        made: what is suggested.
        first: its first line, for editors.
        file: how it is called.
    """
    quoted = {name: _scalar(value) for name, value in {"name": made.name, "dataset": made.dataset}.items()}
    crop = f"crop_width: {made.crop[0]}, crop_height: {made.crop[1]}, scale_min: 0.5, scale_max: 2.0, " if made.crop else ""
    views = f"  views: {{{crop}flip: 0.5, color: 0.2}}"
    typed = visible_line(shlex.quote(str(file)))
    where = "a GPU" if made.device == "cuda" else "CPUs"
    epochs = made.epochs

    def comments(part: str) -> list[str]:
        return [f"  # {visible_line(line)}" for line in made.notes.get(part, ())]

    lines = [
        first,
        f"# An experiment for {visible_line(made.name)}, by agentkd init: a beginning, sized for {where}. Change what you like.",
        "#",
        f"#   agentkd run {typed} --dry-run     what would be trained, how long (--measure), how much disk and memory",
        f"#   agentkd run {typed}               run it; the same command goes on after an interruption",
        f"name: {quoted['name']}",
        "seed: 1",
        "",
        "data:",
        *comments("data"),
        f"  dataset: {quoted['dataset']}",
        f"  train: {TRAIN}",
        f"  validation: {VALIDATION}",
        f"  test: {_scalar(made.test)}",
        "",
        "# Each family is searched for itself; then they teach each other.",
        "families:",
        *comments("families"),
        *(f"  {name}: {{}}" for name in made.families),
        "",
        "# Over the recipe that each family comes with (optimizer, learning rate, loss).",
        "recipe:",
        *comments("recipe"),
        f"  batch_size: {made.batch_size}",
        views,
        "",
        "# Epochs are in proportion as in the paper (120, 50, 50, 50).",
        "baseline:",
        f"  epochs: {epochs['baseline']}",
        "",
        "search:",
        f"  epochs: {epochs['search']}",
        "  # Feasible networks that are tried, for each family. More can be added later: what is recorded is kept.",
        f"  trials: {made.trials}",
        f"  startup_trials: {max(2, made.trials // 2)}",
        "  # Searched beside the architecture; the batch stays as it is.",
        "  recipe_space:",
        "    learning_rate: {low: 0.0001, high: 0.05, log: true}",
        "    weight_decay: {low: 0.00001, high: 0.001, log: true}",
        "  # At most so many times the parameters of the family's own network.",
        "  max_deploy_ratio: 0.5",
        "",
        "# Within a family: the best of the search teaches the others.",
        "round1:",
        f"  epochs: {epochs['round1']}",
        "  students: 1",
        "",
        "# Across families: the largest network teaches the others (best, ensemble and competence are other ways).",
        "round2:",
        f"  epochs: {epochs['round2']}",
        "",
        "# Which network goes on: the smallest within 0.7 points of mIoU of the best.",
        "select: {rule: smallest_within, tolerance: 0.007, count: total}",
        "",
        "launch:",
        "  # Every GPU, or a slot a core; cpu:2, or cuda:0,cuda:1, or cuda:0x2 for two on one.",
        "  devices: auto",
        "",
    ]
    return "\n".join(lines)


def _scalar(value: Any) -> str:
    """A text in YAML, quoted where it must be: JSON's strings are YAML's."""
    return json.dumps(value, ensure_ascii=False)
