"""A network out of a run or a file, as a module that takes images."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from agentkd.architecture import Architecture, Setting
from agentkd.artifacts.bundle import unpack
from agentkd.artifacts.history import read_history
from agentkd.artifacts.naming import may_be_digest
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


def load_network(
    weights: str | Path,
    *,
    run: str | Path | RunFolder | None = None,
    family: str = "",
    num_classes: int | None = None,
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
        raw: whether it returns logits, where it is not told otherwise.
        allow_code: whether code of an own network is run that is kept with the run and is not the same as here.
        settings: of the family, see there.

    Raises:
        ConfigError: there are no such weights, they are damaged, not finite or of another network, or code would have to run.
        ContractError: they were learned in another revision of the family, or on images of another scale.
        ArtifactError: the run folder or the bundle is none, or damaged.

    Example::

        network = agentkd.load_network("3f9a1c", run="runs/kd_nas")
        probabilities = network(torch.from_numpy(photo).permute(2, 0, 1))  # [1,K,H,W] of uint8 [H,W,3]
    """
    must_be(weights, (str, Path), "weights", "a digest, or a file")
    with opened_run(run) as folder:
        given = _given(weights, folder)
        said = given.said.architecture
        architecture = _agreed(given, family, num_classes, settings) if said else _told(given, family, num_classes, settings)
        if architecture.code:
            _must_run(architecture, folder, allow_code=allow_code)
        resolved = families.resolve(architecture.family, architecture.num_classes, architecture.settings, code=architecture.code)
        if architecture.revision > resolved.revision:
            families.check_revision(architecture, resolved.revision)
        network = build(resolved, seed=0)
        _fill(network, given, resolved)
    return Segmenter(network, resolved, given.said.classes, raw=raw).eval()


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
    name = str(weights)
    is_digest = may_be_digest(weights)
    if is_digest and folder is None:
        raise ConfigError(f"weights {name}: a digest is looked for in a run; give it: run=FOLDER")
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


def _agreed(given: Given, family: str, num_classes: int | None, settings: dict[str, Setting]) -> Architecture:
    """The architecture that weights say, with which what else is said must agree.

    Raises:
        ConfigError: it does not.
    """
    architecture = given.said.architecture
    assert architecture is not None
    known = families.all_settings(architecture)
    wrong = [(name, known.get(name), value) for name, value in settings.items() if known.get(name) != value]
    if family not in ("", architecture.family):
        wrong.append(("family", architecture.family, family))
    if num_classes not in (None, architecture.num_classes):
        wrong.append(("num_classes", architecture.num_classes, num_classes))
    if wrong:
        told = "; ".join(f"{name} is {found!r}, not {value!r}" for name, found, value in wrong)
        raise ConfigError(f"{given.name} say themselves what they are: {told}")
    return architecture


def _told(given: Given, family: str, num_classes: int | None, settings: dict[str, Setting]) -> Architecture:
    """The architecture of weights that say none.

    Raises:
        ConfigError: it was not told, or cannot be.
    """
    if not family or num_classes is None:
        raise ConfigError(f"{given.name} do not say of which network they are; give family=... and num_classes=...")
    return families.resolve(family, num_classes, settings)


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
        raise ConfigError(f"{what}; give the run that keeps it: run=FOLDER")
    if not allow_code:
        raise ConfigError(f"{what}; the run keeps it, and allow_code=True runs it: it can do what you can")
    let_run([architecture.code], folder.store)


def _fill(network: SegmentationNetwork, given: Given, architecture: Architecture) -> None:
    """Installs the weights.

    Raises:
        ConfigError: they are damaged, not finite, or not all that the network has.
        ContractError: as ``load_network``.
    """
    agree_on_network(given.said, architecture)
    if not given.said.architecture:
        report = import_weights(network, given.tensors, source=given.name)
        if report.missing or report.reshaped:
            raise ConfigError(f"{given.name} are not of this architecture: {report}")
        return
    try:
        load_as_learned(network, given.data, architecture)
    except AgentKDError as error:
        raise ConfigError(f"{given.name}: {error}") from error
