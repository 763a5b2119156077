"""The images on which an export is compared and calibrated: those that the network learned with, if they are here."""

from dataclasses import dataclass

from agentkd.architecture import Architecture, are_same_channels
from agentkd.datasets.manner import evenly
from agentkd.datasets.opening import Opened, open_silently
from agentkd.datasets.samples import IGNORE_INDEX, Pixels, Sample, split_indices
from agentkd.errors import ConfigError, DatasetError

MAX_COMPARED, MAX_CALIBRATED = 64, 32
GENERATED = "generated:seed=1,size=192x128,train=16,validation=16,test=1,channels={channels}"


@dataclass(frozen=True)
class Evidence:
    """Images ``[H,W,C]`` uint8 and what is known of them.

    Args:
        source: what they are, for people.
        images: on which an export is compared.
        calibration: on which the ranges of int8 are measured.
        labels: of ``images``, ``[H,W]``; none if they are not labelled with the network's classes.
        ignore_index: the label that does not count.
        is_real: whether they are of data that the network is for.
    """

    source: str
    images: tuple[Pixels, ...]
    calibration: tuple[Pixels, ...]
    labels: tuple[Pixels, ...] = ()
    ignore_index: int = IGNORE_INDEX
    is_real: bool = True


def of_dataset(
    dataset: Opened, network: Architecture, *, train: str, validation: str, limit: int = MAX_COMPARED, is_real: bool = True
) -> Evidence:
    """Images of a dataset, spread over its splits.

    Args:
        dataset: is read.
        network: labels of a dataset with another number of classes are not used.
        train: the split whose images are for calibration.
        validation: the split whose images are compared.
        limit: how many are compared at most.
        is_real: whether the network is for such images.

    Raises:
        DatasetError: it has no such split, other channels than the network takes, or a sample cannot be read.
        ConfigError: an own dataset fails.
    """
    if not are_same_channels(dataset.channels, network.channels):
        takes = f"the network takes {', '.join(network.channels)}"
        raise DatasetError(dataset.name, f"its images have the channels {', '.join(dataset.channels)}", takes)
    compared = [dataset.sample(index) for index in evenly(split_indices(dataset, validation), limit)]
    calibration = [dataset.sample(index) for index in evenly(split_indices(dataset, train), MAX_CALIBRATED)]
    has_labels = is_real and len(dataset.classes) == network.num_classes
    return Evidence(
        f"{len(compared)} images of the split {validation!r} of {dataset.spec}",
        tuple(sample.image for sample in compared),
        tuple(sample.image for sample in calibration),
        tuple(sample.label for sample in compared) if has_labels and _is_labelled(compared, dataset.ignore_index) else (),
        dataset.ignore_index,
        is_real,
    )


def generated(network: Architecture, why: str) -> Evidence:
    """Scenes that are made up, which is said, with the reason."""
    dataset = open_silently(GENERATED.format(channels=network.num_channels))
    as_called = network.replace(normalization=dataset.normalization)
    found = of_dataset(dataset, as_called, train="train", validation="validation", is_real=False)
    return Evidence(f"{len(found.images)} generated scenes ({why})", found.images, found.calibration, is_real=False)


def given(spec: str, network: Architecture) -> tuple[Opened, Evidence]:
    """Images of a dataset that the user names for this: its splits ``train`` and ``validation``, or else ``test`` or ``train``.

    Raises:
        ConfigError: it is no dataset, or has none of these.
    """
    try:
        dataset = open_silently(spec)
        held = [name for name, indices in dataset.splits.items() if indices]
        named = [name for name in ("validation", "test", "train") if name in held] or held
        if not named:
            raise ConfigError(f"--data {spec}: has no images")
        train = "train" if "train" in held else named[0]
        return dataset, of_dataset(dataset, network, train=train, validation=named[0])
    except DatasetError as error:
        raise ConfigError(f"--data {error}") from error


def _is_labelled(samples: list[Sample], ignore_index: int) -> bool:
    return any((sample.label != ignore_index).any() for sample in samples)
