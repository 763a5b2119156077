"""A network out of a run or a file, as a module that takes images."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from agentkd.architecture import Architecture, Images, Normalization, Setting, are_same_channels, as_images
from agentkd.artifacts.bundle import unpack
from agentkd.artifacts.history import read_history
from agentkd.artifacts.naming import may_be_digest, must_name_weights
from agentkd.artifacts.own_code import let_run
from agentkd.artifacts.run_folder import RunFolder
from agentkd.code.loading import is_provided
from agentkd.code.taking import take
from agentkd.coordinator.importing import what_a_file_says
from agentkd.errors import AgentKDError, ConfigError, must_be
from agentkd.knowledge.weights import WeightsMetadata, agree_on_network, load_as_learned, read_metadata
from agentkd.networks import families
from agentkd.networks.blocks import SegmentationNetwork
from agentkd.networks.build import build
from agentkd.networks.checkpoints import read_checkpoint
from agentkd.networks.segmenter import Segmenter
from agentkd.networks.weights import import_weights


@dataclass(frozen=True)
class Given:
    """Weights as they were given.

    Args:
        name: what errors call them.
        said: what they say of themselves.
        data: ours as they are stored.
        tensors: those of others, by their names in the file.
    """

    name: str
    said: WeightsMetadata
    data: bytes = b""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Stated:
    """What the caller says of weights; see ``load_network``."""

    family: str = ""
    num_classes: int | None = None
    head: str = ""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    images: Normalization | None = None


def load_network(
    weights: str | Path,
    *,
    run: str | Path | RunFolder | None = None,
    family: str = "",
    num_classes: int | None = None,
    head: str = "",
    images: Images | None = None,
    raw: bool = False,
    allow_code: bool = False,
    **settings: Setting,
) -> Segmenter:
    """A trained network as an ``nn.Module`` in evaluation mode that takes images and returns probabilities; see ``Segmenter``.

    It is of this process and on the CPU; nothing that is done with it changes the run.

    Args:
        weights: a digest of weights in the run, or of the task that made them, or its first characters; or a file of weights.
        run: the run folder, or the bundle, in which a digest is looked for, and the code of an own network.
        family: of a file that does not say it, as others write them; ``num_classes`` and the settings too.
        num_classes: see there.
        head: which one answers, of a network with a head for each task; its classes are then those of the module. It need not
            be said where there is one alone.
        images: that it takes, see ``Community.agent``; those that the weights say, or RGB, if it is not given.
        raw: whether it returns logits, where it is not told otherwise.
        allow_code: whether code of an own network is run that is kept with the run and is not the same as here.
        settings: of the family, see there.

    Raises:
        ConfigError: there are no such weights, they are damaged, not finite or of another network, code would have to run, or
            there are several heads and none is named, or one that has learned nothing.
        ContractError: they were learned in another revision of the family, or on images of another scale.
        ArtifactError: the run folder or the bundle is none, or damaged.

    Example::

        network = agentkd.load_network("3f9a1c", run="runs/kd_nas")
        probabilities = network(torch.from_numpy(photo).permute(2, 0, 1))  # [1,K,H,W] of uint8 [H,W,3]
    """
    must_be(weights, (str, Path), "weights", "a digest, or a file")
    must_be(head, str, "head", "the name of one of the network's heads")
    told = Stated(family, num_classes, head, settings, None if images is None else as_images(images))
    return load(weights, run, told, allow_code=allow_code, raw=raw)[0]


def load(
    weights: str | Path,
    run: str | Path | RunFolder | None,
    told: Stated,
    *,
    allow_code: bool,
    raw: bool = False,
    is_last_meant: bool = False,
) -> tuple[Segmenter, WeightsMetadata]:
    """As ``load_network``, with what weights say of themselves; if ``is_last_meant``, the head that learned last is not named."""
    with opened_run(run) as folder:
        given = _given(weights, folder)
        said = given.said.architecture
        if said:
            architecture = _agreed(given, _under(given, said, told.head, is_last_meant=is_last_meant), told)
        else:
            architecture = _told(given, told)
        if architecture.code:
            _must_run(architecture, folder, allow_code=allow_code)
        resolved = families.resolve(
            architecture.family,
            architecture.num_classes,
            architecture.settings,
            images=architecture.normalization,
            code=architecture.code,
        )
        if architecture.revision > resolved.revision:
            families.check_revision(architecture, resolved.revision)
        if architecture.heads:
            resolved = resolved.with_heads(architecture.heads, architecture.head)
        network = build(resolved, seed=0)
        _fill(network, given, resolved)
    return Segmenter(network, resolved, given.said.classes_of(resolved), raw=raw).eval(), given.said


@contextlib.contextmanager
def opened_run(run: str | Path | RunFolder | None) -> Iterator[RunFolder | None]:
    """The run folder, or that of a bundle, verified and unpacked for as long as it is read."""
    if run is None or isinstance(run, RunFolder):
        yield run.must_exist() if run else None
    elif Path(run).is_file():
        with tempfile.TemporaryDirectory(prefix="agentkd-bundle-") as place:
            unpack(Path(run), Path(place) / "run")
            yield RunFolder(Path(place) / "run")
    else:
        yield RunFolder(run).must_exist()


def _given(weights: str | Path, folder: RunFolder | None) -> Given:
    must_name_weights(weights)
    name = str(weights)
    is_digest = may_be_digest(weights)
    if is_digest and folder is None:
        raise ConfigError(f"weights {name}: a digest is looked for in a run; give it: run=FOLDER, or --run FOLDER")
    if not is_digest or folder is None:
        file = Path(weights)
        said = what_a_file_says(file)
        if said.architecture:
            return Given(f"weights {name}", said, data=file.read_bytes())
        return Given(f"weights {name}", said, tensors=read_checkpoint(file))
    digest = read_history(folder).find_artifact(name, folder.store)
    data = folder.store.get(digest)
    try:
        return Given(f"weights {digest[:12]}", read_metadata(data), data=data)
    except AgentKDError as error:
        raise ConfigError(f"{digest} are no weights: {error}") from error


def _under(given: Given, architecture: Architecture, head: str, *, is_last_meant: bool) -> Architecture:
    """The architecture that weights say, with the head in use that is meant.

    Raises:
        ConfigError: it has no such head, several of which none is named, or that one has learned nothing.
    """
    heads, learned = architecture.heads, given.said.heads
    if not heads:
        if head:
            raise ConfigError(f"{given.name} are of a network with one head alone, without a name; leave out head={head!r}")
        return architecture
    there = "; ".join(f"{name} ({', '.join(learned.get(name, ())) or 'has learned nothing'})" for name in sorted(heads))
    if head and head not in heads:
        raise ConfigError(f"{given.name} have no head {head!r}; there are {there}")
    head = head or (architecture.head if is_last_meant else "")
    if not head and len(heads) > 1:
        raise ConfigError(f"{given.name} have several heads; say which is meant, such as head={min(heads)!r}: {there}")
    chosen = head or min(heads)
    if learned and chosen not in learned:
        raise ConfigError(f"{given.name}: head {chosen!r} has learned nothing; there are {there}")
    return architecture.under(chosen)


def _agreed(given: Given, architecture: Architecture, told: Stated) -> Architecture:
    """The architecture that weights say, with which what else is said must agree.

    Raises:
        ConfigError: it does not.
    """
    found = families.all_settings(architecture)
    wrong = [(name, found.get(name), value) for name, value in told.settings.items() if found.get(name) != value]
    if told.family not in ("", architecture.family):
        wrong.append(("family", architecture.family, told.family))
    if told.num_classes not in (None, architecture.num_classes):
        wrong.append(("num_classes", architecture.num_classes, told.num_classes))
    if told.images and not are_same_channels(told.images.channels, architecture.channels):
        wrong.append(("images", ",".join(architecture.channels), ",".join(told.images.channels)))
    if wrong:
        differ = "; ".join(f"{name} is {its!r}, not {value!r}" for name, its, value in wrong)
        raise ConfigError(f"{given.name} say themselves what they are: {differ}")
    return architecture


def _told(given: Given, told: Stated) -> Architecture:
    """The architecture of weights that say none.

    Raises:
        ConfigError: it was not told, or cannot be.
    """
    if told.head:
        raise ConfigError(
            f"{given.name} do not say of which network they are, so it is not known whether it has a head {told.head!r}"
        )
    if not told.family or told.num_classes is None:
        advice = "give family=... and num_classes=..., or --family and --classes, with settings where they differ"
        raise ConfigError(f"{given.name} do not say of which network they are; {advice}")
    return families.resolve(told.family, told.num_classes, dict(told.settings), images=told.images)


def _must_run(architecture: Architecture, folder: RunFolder | None, *, allow_code: bool) -> None:
    """Has the code of an own network ready to run: the user's as it is here, or with their leave what is kept.

    Raises:
        ConfigError: it is another than here, or nowhere.
    """
    here = ""
    with contextlib.suppress(ConfigError):  # there is none here, or it cannot be taken as it is
        here = take(architecture.family)
    if here == architecture.code or is_provided(architecture.code):
        return
    which = f"{architecture.family} of code {architecture.code[:12]}"
    what = f"{which} is another than here" if here else f"{which} is not here"
    if folder is None or architecture.code not in folder.store:
        raise ConfigError(f"{what}; give the run that keeps it: run=FOLDER, or --run FOLDER")
    if not allow_code:
        raise ConfigError(f"{what}; the run keeps it, and allow_code=True, or --allow-code, runs it: it can do what you can")
    let_run([architecture.code], folder.store)


def _fill(network: SegmentationNetwork, given: Given, architecture: Architecture) -> None:
    """Installs the weights.

    Raises:
        ConfigError: they are damaged, not finite, or not all that the network has.
        ContractError: as ``load_network``.
    """
    agree_on_network(given.said, architecture)
    if not given.said.architecture:
        report = import_weights(network, given.tensors, channels=architecture.channels, source=given.name)
        if report.missing or report.reshaped:
            raise ConfigError(f"{given.name} are not of this architecture: {report}")
        return
    try:
        load_as_learned(network, given.data, architecture)
    except AgentKDError as error:
        raise ConfigError(f"{given.name}: {error}") from error
