"""A network of a community as it stands: what it is, what weights it has, what it is at home in, and what is asked of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentkd import seeding
from agentkd.architecture import Architecture, Normalization, Setting
from agentkd.community.futures import Derived, Lesson
from agentkd.community.teachers import refuse_no_list
from agentkd.community.works import Commons, Data
from agentkd.config import checked
from agentkd.datasets.opening import Opened, Views
from agentkd.datasets.splits import TRAIN, VALIDATION
from agentkd.errors import ConfigError, must_be
from agentkd.knowledge.contracts import agree_on_channels, agree_on_classes
from agentkd.names import NO_DIGEST, Digest
from agentkd.networks import families
from agentkd.task import (
    Assess,
    Competence,
    DataSource,
    Decide,
    Evaluate,
    FeatureMaps,
    Pack,
    ScoreName,
    Task,
    TaskResult,
    TeacherReference,
)
from agentkd.task.inputs import ENERGY
from agentkd.task.judging import Measure
from agentkd.task.rules import Decision, Offer, Rules
from agentkd.visible import html_table, visible_line

if TYPE_CHECKING:
    from torch import Tensor

    from agentkd.knowledge.weights import WeightsMetadata


@dataclass
class Course:
    """The weights that a network has now, whichever of its heads learned them.

    Args:
        initial: those that it began with.
        last: the lesson whose result are the newest ones.
        kept: what must not be forgotten: weights, and the task that noted how much each of them matters.
        noted: of each head, with which weights that was noted.
    """

    initial: Digest = NO_DIGEST
    last: Lesson | None = None
    kept: tuple[Digest, Lesson] | None = None
    noted: dict[str, Digest] = field(default_factory=dict)
    _undo: Callable[[], None] | None = None

    def newest(self) -> TaskResult | None:
        """What came of the last lesson, but for those that failed and were said to have. Waits."""
        while self.last and self.last.is_told_failed:
            undo, self._undo, self.last = self._undo, None, None
            if undo:
                undo()
        return self.last.result() if self.last else None

    def go_on(self, lesson: Lesson, undo: Callable[[], None]) -> None:
        """A lesson whose result will be the newest weights; if it fails, all is as ``undo`` makes it."""
        before = self.last

        def restore() -> None:
            self.last = before
            undo()

        self.last, self._undo = lesson, restore

    def begin_with(self, weights: Digest) -> None:
        """Other weights, of no lesson of these."""
        self.initial, self.last = weights, None


class Held:
    """What a network is and knows, and tasks that change nothing of it. See ``AgentHandle``."""

    def __init__(
        self,
        community: Commons,
        name: str,
        family: str,
        *,
        num_classes: int | None = None,
        settings: dict[str, Setting] | None = None,
        heads: Mapping[str, int] | None = None,
        images: Normalization | None = None,
    ) -> None:
        self.name, self._family, self._settings, self._images = name, family, settings or {}, images
        self.community, self.course = community, Course()
        self._seed = seeding.derive(community.seed, name)
        self._learned: Lesson | None = None
        self._home: DataSource | None = None
        self._is_mean = False  # its weights are a mean, which nobody has looked at yet
        self._classes: tuple[str, ...] = ()
        self._architecture = self._resolved(num_classes, heads) if num_classes or heads is not None else None
        self._keeps_code = False

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes that it tells apart, in the order of its logits; empty if nobody knows."""
        return self._classes

    @classes.setter
    def classes(self, names: Sequence[str]) -> None:
        self._classes = tuple(names)

    @property
    def home(self) -> DataSource | None:
        """The data that it knows: those that it learned last, or those of ``settle``."""
        return self._home

    @property
    def architecture(self) -> Architecture:
        """The network as data.

        Raises:
            ConfigError: its number of classes is not known before it has met data.
        """
        if self._architecture is None:
            raise ConfigError(f"{self.name} does not know its number of classes yet; give num_classes=..., or data first")
        return self._architecture

    @property
    def known_architecture(self) -> Architecture | None:
        """The same; ``None`` before its number of classes is known."""
        return self._architecture

    @property
    def num_classes(self) -> int | None:
        """K, of the head in use; ``None`` before it is known."""
        known = self.known_architecture
        return known.num_classes if known else None

    @property
    def weights(self) -> Digest:
        """Digest of the newest weights; waits for the task that makes them. Empty before any training.

        Raises:
            TrainingError: that task failed, and nobody has been told.
        """
        newest = self.course.newest()
        return newest.weights if newest else self.course.initial

    @property
    def miou(self) -> float:
        """Validation mIoU of the newest weights on the data they were trained with; 0 before any training. Waits.

        Weights that are a mean are looked at for this.
        """
        newest = self._measured()
        return newest.miou if newest else 0.0

    @property
    def score(self) -> float:
        """By which networks are compared: a classifier's validation accuracy, else mIoU, as ``miou``. Waits."""
        return self.score_by(self.measure)

    @property
    def measure(self) -> Measure:
        """Which score that is. Waits."""
        newest = self._measured()
        return newest.measure if newest else Measure.MIOU

    def score_by(self, measure: Measure) -> float:
        """The score of that name: where classifiers are compared with others, each by its mIoU. Waits, as ``miou``."""
        newest = self._measured()
        return measure.must_be_of(newest) if newest else 0.0

    def _measured(self) -> TaskResult | None:
        """What the newest weights are worth on the data that they are at home in."""
        newest = self._newest()
        if newest is None or self._home is None or not self._is_mean:
            return newest
        return self._ask_for(Evaluate(architecture=self.architecture, data=self._home, initial_weights=self.weights)).result()

    def _newest(self) -> TaskResult | None:
        """What came of the last lesson, but for those that failed and were said to have. Waits."""
        self.course.newest()
        return self._learned.result() if self._learned else None

    @property
    def _newest_lesson(self) -> Lesson | None:
        return self.course.last

    def _shown(self) -> dict[str, str]:
        """What it is and how it stands, without waiting."""
        lesson, initial = self._newest_lesson, self.course.initial
        begun = f"begins with {initial[:12]}" if initial else "has learned nothing yet"
        settings = ", ".join(f"{name}={value}" for name, value in self._settings.items())
        rows = {"family": self._family, "settings": settings, **self._classes_shown()}
        rows["state"] = f"{lesson.label}: {lesson.state}" if lesson else begun
        return {name: value for name, value in rows.items() if value}

    def _classes_shown(self) -> dict[str, str]:
        known = self._architecture
        return {"classes": ", ".join(self._classes) or (str(known.num_classes) if known else "those of its first data")}

    def __repr__(self) -> str:
        return visible_line(f"<network {self.name}: {', '.join(self._shown().values())}>")

    def _repr_html_(self) -> str:
        return html_table(self.name, self._shown())

    def start_from(self, weights: str) -> None:
        """Takes stored weights of this architecture, by digest or its beginning, as its own, with the classes they tell apart.

        Raises:
            ConfigError: they are of another architecture, and in what. The network is as it was.
            ArtifactError: they are not there, or damaged.
        """
        must_be(weights, str, "weights", "their digest")
        digest = self.community.find_artifact(weights)
        said = self._said_by(digest)
        if self._architecture is None and said.architecture is not None:
            wanted = self._resolved(said.architecture.num_classes)
        else:
            wanted = self.architecture
        self.community.must_be_of(wanted, digest)
        self._architecture = wanted
        self.begin_with(digest)

    def begin_with(self, weights: Digest) -> None:
        """Takes stored weights that are known to be of this architecture, with the classes they tell apart."""
        self.take_stored(self._said_by(weights))
        self.course.begin_with(weights)

    def take_stored(self, said: "WeightsMetadata") -> None:
        """Takes from what stored weights say of themselves which classes they tell apart."""
        self._classes = said.classes_of(self.architecture) if self._architecture else said.classes
        self._learned = None

    def _said_by(self, weights: Digest) -> "WeightsMetadata":
        from agentkd.knowledge.weights import read_metadata  # needs torch, which a script that only plans does not

        return read_metadata(self.community.artifact(weights))

    def become(self, architecture: Architecture) -> None:
        """Takes another architecture, to be learned from the beginning; the weights until now stay in the record.

        Own code that it names is that code from now on, however files here are changed.

        Args:
            architecture: as data; from ``share_architecture`` or a guest's ``obtain_architecture``, say.

        Raises:
            ConfigError: it is none, or has several heads.
        """
        must_be(architecture, Architecture, "the architecture", "an agentkd.Architecture")
        if architecture.heads:
            heads = ", ".join(architecture.heads)
            raise ConfigError(f"{self.name} has one head alone, and cannot become a network with {heads}; give a new one heads=")
        self._keeps_code = bool(architecture.code)
        self._family, self._settings = architecture.family, dict(architecture.settings)
        self._images = architecture.normalization
        self._architecture, self._learned, self.classes = architecture, None, ()
        self.course.begin_with(NO_DIGEST)

    def settle(self, data: Data) -> None:
        """Says what data the network is at home in, if that is more than it learned last; see ``assess``."""
        self._home = self._meet(data)

    def as_teacher(self) -> TeacherReference:
        """This network, as it is now, as the teacher of a task.

        Raises:
            ConfigError: it has no weights yet.
        """
        return TeacherReference(architecture=self.architecture, weights=self._must_have_weights())

    def evaluate(self, data: Data, split: str = "test", **arithmetic: Any) -> TaskResult:
        """Scores of the newest weights on a split; waits for them. ``arithmetic`` are fields of ``Arithmetic``, how it computes.

        Raises:
            ContractError: they tell other classes apart than the data, or have them in another order.
        """
        agree_on_classes(self.classes, self.community.classes(data))
        fields = {"architecture": self.architecture, "data": self._split(data, split), "arithmetic": arithmetic}
        fields["initial_weights"] = self._must_have_weights()
        return self._ask_for(checked(Evaluate, fields, source=f"{self.name}.evaluate")).result()

    def assess(
        self, data: Data, split: str = "validation", *, score: ScoreName = ENERGY, tap: str = "", home: Data | None = None
    ) -> Competence:
        """What the newest weights know about a split: how much of it is known, how well, and what is seen in it. Waits.

        Args:
            data: what is looked at; labels are used where there are any.
            split: of it.
            score: how it is told what is known: ``energy``, ``max_softmax``, ``entropy``, or ``mahalanobis``, the distance to the
                features of what was learned, whose training split is looked at too.
            tap: with ``mahalanobis``, the dotted name of the module whose features those are; the logits if it is not given.
            home: the data that the network knows; what it learned last if they are not given, see ``settle``.

        Raises:
            ConfigError: there is no such score, or a tap with one of logits.
        """
        source, weights = self._split(data, split), self._must_have_weights()
        known = self._home if home is None else self._meet(home)
        fields = {"architecture": self.architecture, "data": source, "initial_weights": weights, "home": known}
        task = checked(Assess, fields | {"score": score, "tap": tap}, source=f"{self.name}.assess")
        competence = self._ask_for(task).result().competence
        assert competence is not None
        return competence

    def decide(
        self, data: Data, me: Offer, others: Sequence[Offer], rules: Rules, taught: Mapping[str, tuple[str, ...]]
    ) -> Decision:
        """What an agent does about data by these rules, which run there. Waits. See ``agentkd.Educated``.

        Raises:
            ConfigError: an argument is of another kind.
        """
        must_be(others, (list, tuple), "others", "a list of the other agents' offers")
        must_be(taught, Mapping, "taught", "who was taught by whom, by name")
        fields = {"architecture": self.architecture, "data": self._meet(data), "me": me, "others": tuple(others), "rules": rules}
        task = checked(Decide, fields | {"taught": tuple(taught.items())}, source=f"{self.name}.decide")
        decision = self._ask_for(task).result().decision
        assert decision is not None
        return decision

    def feature_maps(self, views: Views, taps: Sequence[str] = ()) -> "Derived[TaskResult, dict[str, Tensor]]":
        """What the newest weights make of views: ``logits`` [N,K,h,w] and the features of each tap by its name.

        Args:
            views: from ``data.views([3, 4], seed=1)``.
            taps: dotted names of modules, such as ``spp`` or ``layer3``.
        """
        from agentkd.knowledge import tensors  # needs torch, which a script that only plans does not

        must_be(views, Views, "views", "what data.views([3, 4], seed=1) returns")
        refuse_no_list("taps", taps)
        source = self._meet(views.data)
        fields = {
            "architecture": self.architecture,
            "data": source,
            "initial_weights": self._must_have_weights(),
            "views": views.keys,
            "view_settings": views.settings,
            "taps": tuple(taps),
        }
        task = checked(FeatureMaps, fields, source=f"{self.name}.feature_maps")
        (done,) = self.community.submit((task, f"feature maps of {self.name}"))
        return Derived(done, lambda result: tensors.decode(self.community.artifact(result.knowledge)))

    def share_data(self, data: Data | None = None, splits: Sequence[str] = (TRAIN, VALIDATION)) -> "Derived[TaskResult, Opened]":
        """Has data packed where an agent has them, as one piece of knowledge from which any agent learns, wherever it runs.

        What ``result()`` gives is a dataset, ``shared:DIGEST``. An agent that lacks its file gets it, and checks it, when it is
        given a task with it. Labels travel with the images; ``unlabelled:`` before the specification hides those of ``train``.

        Args:
            data: which; those that this network learned last if they are not given.
            splits: which parts of them, in the order in which their samples are then numbered.

        Raises:
            ConfigError: it has met no data, or the splits are none.
        """
        refuse_no_list("splits", splits)
        task = checked(Pack, self._packing(data, "data") | {"splits": tuple(splits)}, source=f"{self.name}.share_data")
        return Derived(self._ask_for(task), lambda result: self.community.shared_data(result.knowledge))

    def share_architecture(self, data: Data | None = None) -> "Derived[TaskResult, Architecture]":
        """Has what this network is packed as a piece of knowledge, without its weights; ``become`` takes what ``result()`` gives.

        Args:
            data: for whose images it is counted what it costs; those that it learned last if they are not given.

        Raises:
            ConfigError: it has met no data.
        """
        from agentkd.knowledge.sharing import decode_architecture  # needs torch, which a script that only plans does not

        task = checked(Pack, self._packing(data, "architecture"), source=f"{self.name}.share_architecture")
        return Derived(self._ask_for(task), lambda result: decode_architecture(self.community.artifact(result.knowledge))[0])

    def _packing(self, data: Data | None, what: str) -> dict[str, Any]:
        """What a task of packing begins with."""
        self._newest()  # a lesson that failed has taught nothing
        source = self._meet(data) if data is not None else self._home
        if source is None:
            raise ConfigError(f"{self.name} has met no data here; say which: data=...")
        return {"architecture": self.architecture, "data": source, "what": what}

    def _split(self, data: Data, split: str) -> DataSource:
        """Data of which a split is to be looked at."""
        if not isinstance(split, str):
            raise ConfigError(f"the split is {split!r}; expected its name, such as validation or test")
        return self._meet(data).replace(validation=split)

    def _ask_for(self, task: Task) -> Lesson:
        return self.community.submit((task, f"{task.kind} of {self.name}"))[0]

    def _must_have_weights(self) -> Digest:
        if not self.weights:
            raise ConfigError(f"{self.name} has no weights yet; call train() first, or give it weights=FILE")
        return self.weights

    def _meet(self, data: Data) -> DataSource:
        """The data as a part of a task; a network without a number of classes takes the data's, and their channels.

        Raises:
            ContractError: the data's images have other channels than it is for.
        """
        source, classes, images = self.community.source(data), self.community.classes(data), self.community.images(data)
        if self._architecture is None:
            self._images = self._images or images
            self._architecture = self._resolved(len(classes))
        hint = f"{self.name} is for other images; give another network these: agent(NAME, FAMILY, images={list(images.channels)})"
        agree_on_channels(self._architecture.channels, images.channels, hint=hint)
        return source

    def _resolved(self, num_classes: int | None, heads: Mapping[str, int] | None = None, head: str = "") -> Architecture:
        """The network as data, of an own family by its code as it is now."""
        if heads is None:
            return families.resolve(self._family, num_classes or 0, self._settings, images=self._images)
        resolved = families.resolve(self._family, max(heads.values()), self._settings, images=self._images)
        return resolved.with_heads(heads, head)
