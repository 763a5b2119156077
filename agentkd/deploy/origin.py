"""A network that is to be exported or measured, found by whatever names it, with what is known of where it comes from."""

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from agentkd.architecture import Architecture, Setting
from agentkd.artifacts.history import History, read_history
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.lineage import Ancestor, trace_back
from agentkd.artifacts.listings import DATA
from agentkd.artifacts.naming import MIN_PREFIX, may_be_digest
from agentkd.artifacts.own_code import let_run
from agentkd.artifacts.run_folder import RunFolder
from agentkd.coordinator.data_places import NotedData, bases, found_here
from agentkd.coordinator.generations import present
from agentkd.coordinator.run import read_run
from agentkd.datasets.files import spread_colors
from agentkd.datasets.opening import Opened, open_again
from agentkd.datasets.samples import Color, ValueScale
from agentkd.deploy import evidence
from agentkd.deploy.evidence import Evidence
from agentkd.deploy.loading import Stated, load, opened_run
from agentkd.errors import ConfigError, DatasetError
from agentkd.knowledge.weights import WeightsMetadata
from agentkd.names import NO_DIGEST, Digest
from agentkd.networks.segmenter import Segmenter
from agentkd.task import Evaluate, TaskResult

EXPORTED = {".onnx": "an ONNX file", ".pt2": "a program of torch.export"}


@dataclass(frozen=True)
class Origin:
    """A network and where it comes from.

    Args:
        segmenter: the network.
        weights: its digest, or that of the file.
        classes: names, in the order of the logits.
        colors: of the classes.
        record: of the task in which it learned last, if a run has one; of a network with several heads, in which the one in use
            did. ``is_as_recorded`` says whether its trunk has learned since.
        ancestry: what led to it.
        tests: results on other splits, by the split's name.
        named: as it was given.
        heads: classes of each head that has learned, of a network with several.
        value_scale: which values of images with more than 8 bits were black and white in its data, as
            ``agentkd.datasets.samples.value_scale_of`` says it; ``None`` where the data are not here.
    """

    segmenter: Segmenter
    weights: Digest
    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    named: str
    record: Record | None = None
    ancestry: Ancestor | None = None
    tests: tuple[tuple[str, TaskResult], ...] = ()
    heads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    value_scale: ValueScale = None

    @property
    def is_as_recorded(self) -> bool:
        """Whether the record's figures are of these weights."""
        return self.record is not None and self.record.result.weights == self.weights

    @property
    def lineage(self) -> tuple[str, ...]:
        """The digests of all networks and tasks before it that are known."""
        steps = self.ancestry.walk() if self.ancestry else iter(())
        return tuple(dict.fromkeys(step.name for step in steps if step.name != self.weights))


@contextlib.contextmanager
def found(
    model: str,
    *,
    run: Path | None = None,
    data: str = "",
    family: str = "",
    num_classes: int | None = None,
    settings: dict[str, Setting] | None = None,
    head: str = "",
    allow_code: bool = False,
) -> Iterator[tuple[Origin, Evidence]]:
    """The network that is meant and the images to look at it with, for as long as the context lasts.

    Args:
        model: a run or a bundle, for the network that won; a digest, with ``run``; or a file of weights.
        run: in which the digest is looked for.
        data: a dataset to use in place of the run's.
        family: of a file that does not say it; ``num_classes`` and ``settings`` too.
        num_classes: see there.
        settings: see there.
        head: of a network with several; not given, the one that learned last.
        allow_code: whether own code is run that is kept with the run, of the network and of its data.

    Raises:
        ConfigError: there is no such network, it is not known which is meant, or its head has not learned; as ``load_network``.
        ArtifactError: as ``load_network``.
        ContractError: as ``load_network``.
    """
    must_be_there(model)
    is_run = not may_be_digest(model) and _is_run(Path(model))
    if is_run and run is not None:
        raise ConfigError(f"{model} is a run, and --run names another; give one of them, or a digest with --run")
    with opened_run(Path(model) if is_run else run) as folder:
        history = read_history(folder) if folder else None
        weights = _winner(folder, history, model) if is_run and folder and history else model
        segmenter, said = load(
            weights, folder, Stated(family, num_classes, head, settings or {}), allow_code=allow_code, is_last_meant=True
        )
        _must_have_learned(segmenter, said, model)
        origin = _of_run(segmenter, weights, model, folder, history) if folder and history else _of_file(segmenter, model)
        origin = replace(origin, heads=said.heads)
        network = segmenter.architecture
        dataset: Opened | None = None
        if data:
            dataset, images = evidence.given(data, network)
        elif folder and origin.record:
            dataset, images = _of_record(origin.record, folder, network, allow_code=allow_code)
        else:
            images = evidence.generated(network, "the weights come without data; --data SPEC names some")
        yield _named(origin, dataset), images


def _is_run(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() == ".zip"


def must_be_there(model: str) -> None:
    """Says what may be given, where it is neither there nor may be a digest.

    Raises:
        ConfigError: it is not.
    """
    if may_be_digest(model) or Path(model).exists():
        kind = Path(model).suffix.lower()
        if kind in EXPORTED and Path(model).is_file():
            raise ConfigError(f"{model} is {EXPORTED[kind]}, and no weights; name what it was made from: its card says which")
        return
    short = f"; of a digest give at least {MIN_PREFIX} characters" if re.fullmatch("[0-9a-f]+", model) else ""
    raise ConfigError(f"there is no run, bundle or file of weights {model[:200]!r}{short}")


def _must_have_learned(segmenter: Segmenter, said: WeightsMetadata, model: str) -> None:
    """Checks that what leaves has learned something.

    Raises:
        ConfigError: the head in use has not, of a network with several.
    """
    architecture = segmenter.architecture
    if not architecture.heads or said.heads.get(architecture.head):
        return
    learned = ", ".join(sorted(name for name, classes in said.heads.items() if classes)) or "none"
    raise ConfigError(f"{model}: its head {architecture.head!r} has not learned yet; heads that have: {learned}; see --head")


def _winner(folder: RunFolder, history: History, model: str) -> Digest:
    """The network that a run of an experiment ends with.

    Raises:
        ConfigError: it has none yet, or is no experiment: then those that it has are listed.
    """
    with Journal(folder.journal, read_only=True) as journal:
        is_experiment = present(journal) is not None
    if is_experiment:
        _, _, outlook, opened = read_run(folder)
        with opened:
            pass
        if outlook.winner is not None:
            return history.by_task[outlook.winner.key].result.weights
    made = {record.result.weights: record.label or record.task.kind for record in history.by_task.values()}
    made.pop(NO_DIGEST, None)
    if len(made) == 1:
        return next(iter(made))
    shown = ", ".join(f"{digest[:12]} ({label})" for digest, label in list(made.items())[-5:])
    why = "has no winner yet" if is_experiment else "is no experiment with a winner"
    raise ConfigError(f"{model} {why}; name a network by its digest, with --run {model}: {shown or 'it has made none'}")


def _of_run(segmenter: Segmenter, weights: str, model: str, folder: RunFolder, history: History) -> Origin:
    if not may_be_digest(weights):
        return _of_file(segmenter, model)
    digest = history.find_artifact(weights, folder.store)
    maker = history.maker(digest)
    ancestry = trace_back(digest, history) if maker else None
    record = _teaching(ancestry, segmenter.architecture) if ancestry else None
    with Journal(folder.journal, read_only=True) as journal:
        noted: NotedData | None = journal.get_meta(DATA, NotedData)
    classes = segmenter.classes
    if noted is not None and record is not None and noted.content_digest == record.task.data.content_digest:
        classes = classes or noted.classes
    colors = noted.colors if noted is not None and noted.classes == classes else ()
    looks = [
        other
        for other in history.by_task.values()
        if isinstance(other.task, Evaluate)
        and (other.task.initial_weights, other.task.architecture.head) == (digest, segmenter.architecture.head)
        and other.result.class_iou
    ]
    return Origin(
        segmenter,
        digest,
        classes,
        colors,
        model,
        record,
        ancestry,
        tuple((look.task.data.validation, look.result) for look in looks),
    )


def _teaching(ancestry: Ancestor, architecture: Architecture) -> Record | None:
    """The last task in which the head in use learned; of a network without heads the one that made it."""
    if not architecture.heads:
        return ancestry.record
    for step in ancestry.walk():
        learned = step.record.task.architecture if step.record else None
        if learned and learned.head == architecture.head and learned.whole == architecture.whole:
            return step.record
    return None


def _of_file(segmenter: Segmenter, model: str) -> Origin:
    digest = Digest(hashlib.sha256(Path(model).read_bytes()).hexdigest())
    return Origin(segmenter, digest, segmenter.classes, (), model)


def _of_record(record: Record, folder: RunFolder, network: Architecture, *, allow_code: bool) -> tuple[Opened | None, Evidence]:
    """The data that a network was made from, if they are here as they were; own code is run where that may be."""
    source = record.task.data
    if source.code and not allow_code:
        return None, evidence.generated(network, "the run's data are read by own code; --allow-code runs it")
    dataset: Opened | None
    try:
        if source.code:
            let_run([source.code], folder.store)
            dataset, reason = open_again(source.spec, source.code), ""
            if dataset.digest != source.content_digest:
                dataset, reason = None, "its content is another now"
        else:
            with Journal(folder.journal, read_only=True) as journal:
                dataset, _, reason = found_here(source.spec, source.content_digest, bases(journal, folder.place))
        if dataset is not None:
            return dataset, evidence.of_dataset(dataset, network, train=source.train, validation=source.validation)
    except DatasetError as error:
        reason = str(error)
    return None, evidence.generated(network, f"the run's data are not here: {reason}")


def _named(origin: Origin, dataset: Opened | None) -> Origin:
    """With what the data say: names and colors of the classes if they are of as many, else numbers; and their scale.

    That is of data with which it learned. Those that a user names beside a run may be others, of another camera.
    """
    count = origin.segmenter.architecture.num_classes
    fits = dataset is not None and len(dataset.classes) == count
    classes = origin.classes or (dataset.classes if dataset is not None and fits else ())
    classes = classes or tuple(f"class {number}" for number in range(count))
    colors = origin.colors
    if not colors and dataset is not None and fits and tuple(dataset.classes) == tuple(classes):
        colors = dataset.colors
    learned = origin.record.task.data.content_digest if origin.record is not None else None
    scale = dataset.value_scale if dataset is not None and learned in (None, dataset.digest) else None
    return replace(origin, classes=tuple(classes), colors=colors or spread_colors(count), value_scale=scale)
