"""What every family keeps to: built-in or a user's own builder."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import torch

from agentkd import seeding
from agentkd.architecture import Architecture, Normalization, Setting, numbered
from agentkd.knowledge.weights import encode_weights, load_weights
from agentkd.networks import families
from agentkd.networks.blocks import SegmentationNetwork
from agentkd.networks.build import build, count_architecture
from agentkd.networks.cost import measure_cost
from agentkd.testing.claims import claim, working
from agentkd.training.batches import Batch
from agentkd.training.losses import LOSSES, LossSettings

CLASSES, IGNORE, FEW_CHANNELS = 3, 255, 4
SIZES = ((64, 64), (72, 104))
MAX_DRAWS = 100
ROUNDING = 1e-3  # other sums of the same numbers, in networks of any depth


def check_family(
    family: str,
    *,
    settings: Mapping[str, Setting] | None = None,
    sizes: Sequence[tuple[int, int]] = SIZES,
    num_members: int = 4,
    max_parameters: int = 6_000_000,
) -> None:
    """Checks that a family can be trained, searched and taught: ``check_family("my_networks:small")``.

    It can be imported and its settings are plain data; it is built on no device, to be counted, and its cost is measured; equal
    seeds give equal weights and others give others; a training step gives a finite loss and reaches every parameter; it
    evaluates one image, of any of the sizes, to finite logits that do not depend on the other images of a batch or on chance;
    its weights say all that it has learned; what is for training alone is not needed elsewhere. So it is for some members of its
    search space, and every value in that is legal; and for images of four channels, if the builder is told how many there are.

    Args:
        family: a name, or ``package.module:builder``.
        settings: those that differ from the family's own.
        sizes: (height, width) of images.
        num_members: how many members of the search space are drawn.
        max_parameters: those drawn that have more are passed over.

    Raises:
        AssertionError: what is broken.
    """
    with working(f"{family} must be found and take its settings"):
        architecture = families.resolve(family, CLASSES, dict(settings or {}))
        complete = families.resolve(family, CLASSES, dict(architecture.settings), code=architecture.code)
        claim(complete.digest == architecture.digest, f"{family}: its complete settings must give the same architecture")
    loss = families.loss_name(family, architecture.code)
    claim(loss in LOSSES, f"{family}: there is no loss {loss!r}; there are {', '.join(LOSSES)}")
    for size in sizes:
        check_member(architecture, size)
    images = _of_few_channels(architecture)
    if images:
        with working(f"{family}: it has a parameter num_channels, so it must take images of {FEW_CHANNELS} channels"):
            other = families.resolve(family, CLASSES, dict(settings or {}), images=images, code=architecture.code)
        check_member(other, sizes[0])
    space = families.search_space(family, architecture.code)
    for name, values in space.items():
        claim(len(values) > 0, f"{family}: the search space has no value for {name}")
        for value in values:
            with working(f"{family}: the search space has {name} = {value!r}, which must be legal"):
                families.resolve(family, CLASSES, {name: value}, code=architecture.code)
    if not space:
        return
    small = itertools.islice((one for one in _draws(architecture, space) if _num_parameters(one) < max_parameters), num_members)
    for member in small:
        check_member(member, sizes[0])


def _of_few_channels(architecture: Architecture) -> Normalization | None:
    """Images of four channels, if an own builder says that it takes such."""
    if not families.is_own(architecture.family) or not families.look_at(architecture.family, architecture.code).takes_channels:
        return None
    try:
        return architecture.normalization.for_channels(numbered(FEW_CHANNELS))
    except ValueError:  # it says how others are normalized
        return None


def check_member(architecture: Architecture, size: tuple[int, int]) -> None:
    """Checks one architecture, with images of a (height, width), as ``check_family`` does.

    Raises:
        AssertionError: what is broken.
    """
    name = f"{architecture.family} {architecture.settings}"
    with working(f"{name}: it must be built without memory for its parameters (torch.device('meta')), to be counted"):
        counts = count_architecture(architecture)
    claim(
        0 < counts.deploy <= counts.network <= counts.total,
        f"{name}: parameters in deployment must be some, and no more than all; they are {counts}",
    )
    with working(f"{name}: the operations on an image of {size} must be counted"):
        num_macs = measure_cost(architecture, *size).num_macs
    claim(num_macs > 0, f"{name}: a forward pass must have operations that count")
    network = _check_seeds(architecture, name)
    _check_training(architecture, network, size, name)
    _check_evaluation(architecture, network, size, name)


def _check_seeds(architecture: Architecture, name: str) -> SegmentationNetwork:
    with working(f"{name}: it must be built"):
        network, same, other = (build(architecture, seed=seed) for seed in (1, 1, 2))
    states = [one.state_dict() for one in (network, same, other)]
    are_equal = all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    claim(are_equal, f"{name}: the same seed must give the same weights; draw initial weights with torch's random numbers alone")
    differ = any(not torch.equal(value, states[2][key]) for key, value in states[0].items())
    claim(differ, f"{name}: another seed must give other weights; leave torch's seed alone")
    return network


def _check_training(architecture: Architecture, network: SegmentationNetwork, size: tuple[int, int], name: str) -> None:
    torch.manual_seed(0)
    batch = Batch(torch.randn(2, architecture.num_channels, *size), torch.randint(0, CLASSES, (2, *size)))
    loss = families.loss_name(architecture.family, architecture.code)
    with working(f"{name}: a training step with the loss {loss!r} and images of {size} must go through"):
        terms = LOSSES[loss](network, network.train()(batch.images), batch, LossSettings(CLASSES, IGNORE))
        total = torch.stack([term.float() for term in terms.values()]).sum()
        total.backward()  # type: ignore[no-untyped-call]
    claim(torch.isfinite(total), f"{name}: the loss of a first step must be finite; it is {float(total.detach()):g}")
    left = [key for key, parameter in network.named_parameters() if parameter.requires_grad and parameter.grad is None]
    claim(not left, f"{name}: a training step must reach every parameter; it does not reach {', '.join(left[:5])}")


@torch.no_grad()
def _check_evaluation(architecture: Architecture, network: SegmentationNetwork, size: tuple[int, int], name: str) -> None:
    network.eval()
    images = torch.randn(3, architecture.num_channels, *size, generator=torch.Generator().manual_seed(1))
    with working(f"{name}: one image of {size} must be evaluated"):
        alone = network(images[:1])["logits"]
    claim(
        alone.dim() == 4 and tuple(alone.shape[:2]) == (1, CLASSES),
        f"{name}: logits must be [N,{CLASSES},h,w], or [N,{CLASSES}] of whole images; of one they are {tuple(alone.shape)}",
    )
    claim(torch.isfinite(alone).all(), f"{name}: logits must be finite")
    claim(torch.equal(alone, network(images[:1])["logits"]), f"{name}: evaluated twice, an image must give the same logits")
    together = network(images)["logits"][:1]
    moved, largest = float((alone - together).abs().max()), float(alone.abs().max())
    claim(
        moved <= ROUNDING * largest,
        f"{name}: in evaluation an image's logits must not depend on the other images of the batch; they differ by up to "
        f"{moved:g} of {largest:g}",
    )
    other = build(architecture, seed=2).eval()
    with working(f"{name}: its weights must be stored and read"):
        load_weights(other, encode_weights(architecture, dict(network.state_dict())), architecture)
    claim(
        torch.equal(alone, other(images[:1])["logits"]),
        f"{name}: its weights must say all that it is; with the same weights another one gives other logits "
        "(register what is neither parameter nor fixed as a buffer)",
    )
    missing = [one for one in other.training_only if one not in dict(other.named_modules())]
    claim(not missing, f"{name}: training_only names {', '.join(missing)}, which it does not have")
    lacking = [f"{place}: {one}" for place, one in other.places.items() if one not in dict(other.tap_root.named_modules())]
    claim(not lacking, f"{name}: places names {', '.join(lacking)}, which it does not have")
    needed = {key for key, _ in other.deploy_parameters()}
    for key, parameter in other.named_parameters():
        if key not in needed:
            parameter.fill_(torch.nan)
    claim(
        torch.equal(alone, other(images[:1])["logits"]),
        f"{name}: what is in training_only ({', '.join(other.training_only)}) must not be needed for logits",
    )


def _draws(first: Architecture, space: Mapping[str, Sequence[Setting]]) -> Iterator[Architecture]:
    for draw in range(MAX_DRAWS):
        random = seeding.generator("members", first.family, draw)
        settings = {name: values[int(random.integers(len(values)))] for name, values in space.items()}
        with working(f"{first.family}: the search space has {settings}, which must be legal"):
            drawn = families.resolve(first.family, CLASSES, settings, code=first.code)
        yield drawn


def _num_parameters(architecture: Architecture) -> int:
    with working(f"{architecture.family} {architecture.settings}: it must be built"):
        return count_architecture(architecture).total
