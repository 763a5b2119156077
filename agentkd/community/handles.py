"""Handles to the networks of a community: what a script says to them becomes tasks."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agentkd import seeding
from agentkd.architecture import Architecture, Setting
from agentkd.code.taking import take
from agentkd.community.futures import Derived, Lesson
from agentkd.community.teachers import Route, TeacherLike, as_teachers, class_order, refuse_no_list, routes_of
from agentkd.community.works import Commons, Data
from agentkd.config import checked
from agentkd.datasets.opening import Opened, Views
from agentkd.datasets.splits import TRAIN, VALIDATION
from agentkd.errors import ConfigError, ContractError, must_be
from agentkd.knowledge.contracts import agree_on_classes
from agentkd.names import NO_DIGEST, Digest
from agentkd.networks import families
from agentkd.objectives import Objective, SoftTargets
from agentkd.recipe import Distillation, Recipe
from agentkd.task import (
    Assess,
    Average,
    Competence,
    Consolidate,
    Consolidation,
    DataSource,
    Decide,
    Distill,
    Evaluate,
    FeatureMaps,
    Pack,
    ScoreName,
    Task,
    TaskResult,
    TeacherReference,
    Train,
)
from agentkd.task.inputs import ENERGY
from agentkd.task.rules import Decision, Offer, Rules
from agentkd.visible import html_table, visible_line

if TYPE_CHECKING:
    from torch import Tensor


class AgentHandle:
    """A named network of a community. Its tasks are done one after the other; ``weights`` is the digest of the newest.

    A task that failed is said when its result, or what it was to make, is asked for. After that the network stands where it stood
    before, and can go on from there.
    """

    def __init__(
        self,
        community: Commons,
        name: str,
        family: str,
        *,
        num_classes: int | None = None,
        settings: dict[str, Setting] | None = None,
    ) -> None:
        self.name, self._family, self._settings = name, family, settings or {}
        self.community, self._initial = community, NO_DIGEST
        self._last: Lesson | None = None
        self._home: DataSource | None = None
        self._before: tuple[Lesson | None, DataSource | None, tuple[str, ...]] | None = None
        self._kept: tuple[Digest, Lesson] | None = None
        self.classes: tuple[str, ...] = ()
        self._architecture = families.resolve(family, num_classes, self._settings) if num_classes else None
        self._keeps_code = False

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
    def num_classes(self) -> int | None:
        """K; ``None`` before it is known."""
        return self._architecture.num_classes if self._architecture else None

    @property
    def weights(self) -> Digest:
        """Digest of the newest weights; waits for the task that makes them. Empty before any training.

        Raises:
            TrainingError: that task failed, and nobody has been told.
        """
        newest = self._newest()
        return newest.weights if newest else self._initial

    @property
    def miou(self) -> float:
        """Validation mIoU of the newest weights on the data they were trained with; 0 before any training. Waits."""
        newest = self._newest()
        return newest.miou if newest else 0.0

    @property
    def score(self) -> float:
        """By which networks are compared: a classifier's validation accuracy, else mIoU; 0 before any training. Waits."""
        newest = self._newest()
        return newest.judged_by if newest else 0.0

    def _newest(self) -> TaskResult | None:
        """What came of the last task, but for those that failed and were said to have. Waits."""
        while self._last and self._last.is_told_failed:
            self._last, self._home, self.classes = self._before or (None, None, ())
            self._before = None
        return self._last.result() if self._last else None

    def _shown(self) -> dict[str, str]:
        """What it is and how it stands, without waiting."""
        known = ", ".join(self.classes) or (
            str(self._architecture.num_classes) if self._architecture else "those of its first data"
        )
        begun = f"begins with {self._initial[:12]}" if self._initial else "has learned nothing yet"
        settings = ", ".join(f"{name}={value}" for name, value in self._settings.items())
        rows = {"family": self._family, "settings": settings, "classes": known}
        rows["state"] = f"{self._last.label}: {self._last.state}" if self._last else begun
        return {name: value for name, value in rows.items() if value}

    def __repr__(self) -> str:
        return visible_line(f"<network {self.name}: {', '.join(self._shown().values())}>")

    def _repr_html_(self) -> str:
        return html_table(self.name, self._shown())

    def start_from(self, weights: str) -> None:
        """Takes stored weights of this architecture, by digest or its beginning, as its own, with the classes they tell apart.

        Raises:
            ArtifactError: they are not there, or damaged.
        """
        from agentkd.knowledge.weights import read_metadata  # needs torch, which a script that only plans does not

        must_be(weights, str, "weights", "their digest")
        digest = self.community.find_artifact(weights)
        self.classes = read_metadata(self.community.artifact(digest)).classes
        self._initial, self._last = digest, None

    def become(self, architecture: Architecture) -> None:
        """Takes another architecture, to be learned from the beginning; the weights until now stay in the record.

        Own code that it names is that code from now on, however files here are changed.

        Args:
            architecture: as data; from ``share_architecture`` or a guest's ``obtain_architecture``, say.
        """
        must_be(architecture, Architecture, "the architecture", "an agentkd.Architecture")
        self._keeps_code = bool(architecture.code)
        self._family, self._settings = architecture.family, dict(architecture.settings)
        self._architecture, self._initial, self._last, self.classes = architecture, NO_DIGEST, None, ()

    def settle(self, data: Data) -> None:
        """Says what data the network is at home in, if that is more than it learned last; see ``assess``."""
        self._home = self._meet(data)

    def as_teacher(self) -> TeacherReference:
        """This network, as it is now, as the teacher of a task.

        Raises:
            ConfigError: it has no weights yet.
        """
        return TeacherReference(architecture=self.architecture, weights=self._must_have_weights())

    def train(self, data: Data, *, protect: float = 0.0, **recipe: Any) -> Lesson:
        """Trains; goes on from the newest weights.

        Args:
            data: a dataset, or its specification (see ``agentkd.open_dataset``); splits ``train`` and ``validation`` are used.
            protect: how strongly what ``consolidate`` noted is kept.
            recipe: fields of ``Recipe`` that differ from those that the family comes with.
        """
        fields = self.inputs(data, recipe) | {"consolidation": self._protection(protect)}
        return self._learn(checked(Train, fields, source=f"{self.name}.train"), self.community.classes(data))

    def consolidate(self) -> Lesson:
        """Notes what the newest weights are and how much each of them matters, so that ``protect`` can keep them (online EWC).

        Looks at up to 256 training images of the data that was learned last; labels are not needed.

        Raises:
            ConfigError: nothing was learned yet.
        """
        weights = self._must_have_weights()
        if self._home is None:
            raise ConfigError(f"{self.name} has not learned from data here, so it is not known what to keep")
        seed = seeding.derive(self.community.seed, self.name)
        task = Consolidate(
            architecture=self.architecture,
            data=self._home,
            seed=seed,
            initial_weights=weights,
            consolidation=self._protection(1.0) if self._kept else None,
        )
        (lesson,) = self.community.submit((task, f"consolidation of {self.name}"))
        self._kept = (weights, lesson)
        return lesson

    def _protection(self, strength: float) -> Consolidation | None:
        if not strength:
            return None
        if self._kept is None:
            raise ConfigError(f"{self.name} has nothing to protect; call consolidate() before it learns something else")
        weights, lesson = self._kept
        fields = {"anchors": weights, "importance": lesson.result().knowledge, "strength": strength}
        return checked(Consolidation, fields, source=f"{self.name}: protect")

    def distill(
        self,
        teachers: TeacherLike | Sequence[TeacherLike],
        data: Data,
        objectives: Sequence[Objective] = (SoftTargets(),),
        *,
        shares: Sequence[float] = (),
        route: Route | Sequence[Sequence[int]] = "shares",
        class_map: Mapping[str, str] | None = None,
        protect: float = 0.0,
        alpha: float = 0.5,
        hard_loss: str = "family",
        start: str = "own",
        codec: str = "float16",
        max_kl: float = 1e-5,
        **recipe: Any,
    ) -> Lesson:
        """Learns from one or several teachers, which serve what the objectives need from processes of their own.

        Waits until the teachers' own tasks are done, or a guest has come, since the weights that teach are part of the task.

        Args:
            teachers: other networks of the community, or guests.
            data: a dataset, or its specification.
            objectives: what of the teachers' output is learned.
            shares: weight of each teacher; equal if empty.
            route: who of several teachers teaches where: all by ``shares``; in each tile of the image who is most at home there
                (``tiles``); at each pixel who knows best the class that it sees (``classes``, which needs labelled validation
                data); or, of joined data, for each teacher the numbers of the parts that it teaches: ``[(0,), (1, 2)]``.
            protect: how strongly what ``consolidate`` noted is kept.
            class_map: name of each of the data's classes to the teachers' name for it, where teachers learned other classes or
                another order.
            alpha: as the following ones, a field of ``Distillation``.
            hard_loss: see there.
            start: see there.
            codec: see there.
            max_kl: see there.
            recipe: fields of ``Recipe``.

        Raises:
            ConfigError: a teacher has no weights, the arguments do not fit, or a guest should be routed.
            ContractError: a teacher tells other classes apart, or numbers them otherwise, and no map says how they correspond.
        """
        listed = list(teachers) if isinstance(teachers, Sequence) else [teachers]
        refuse_no_list("objectives", objectives)
        inputs = self.inputs(data, recipe, needs_labels=hard_loss != "none")
        classes = self.community.classes(data)
        routes = routes_of(listed, data, route, self.community.num_parts(data))
        references = [
            reference.replace(class_order=class_order(classes, teacher.classes, class_map), **where)
            for teacher, reference, where in zip(listed, as_teachers(listed, shares), routes, strict=True)
        ]
        settings = {"objectives": tuple(objectives), "alpha": alpha, "hard_loss": hard_loss}
        settings |= {"start": start, "codec": codec, "max_kl": max_kl}
        inputs["distillation"] = checked(Distillation, settings, source=f"{self.name}.distill").with_code(take)
        inputs["teachers"] = tuple(references)
        if start != "own":
            inputs["initial_weights"] = NO_DIGEST
        inputs["consolidation"] = self._protection(protect)
        task = checked(Distill, inputs, source=f"{self.name}.distill")
        lesson = self._learn(task, classes)
        lesson.rivals = lambda: [self._validated(reference, task.data) for reference in references]
        return lesson

    def _validated(self, teacher: TeacherReference, data: DataSource) -> Lesson | None:
        if teacher.architecture is None or teacher.class_order:
            return None
        task = Evaluate(architecture=teacher.architecture, data=data, initial_weights=teacher.weights)
        return self.community.submit((task, f"evaluation of {teacher.weights[:12]}"))[0]

    def average(self, others: Sequence["AgentHandle"], shares: Sequence[float] = ()) -> Lesson:
        """Takes the mean, by shares, of the weights of networks of the same architecture (itself only if it is listed).

        Raises:
            ConfigError: nothing is listed, none has met data, or there is not a share for each.
            ContractError: their classes differ.
        """
        references = as_teachers(others, shares)
        home = next((other._home for other in (self, *others) if other._home), None)
        if not references or home is None:
            raise ConfigError("an average needs networks, one of which has learned from data")
        classes = {other.classes for other in others if other.classes}
        if len(classes) > 1:
            raise ContractError("classes", *(", ".join(names) for names in sorted(classes)[:2]))
        self._architecture = self._architecture or others[0].architecture
        fields = {"architecture": self.architecture, "data": home, "teachers": tuple(references)}
        task = checked(Average, fields, source=f"{self.name}.average")
        return self._learn(task, next(iter(classes), ()))

    def ema(self, other: "AgentHandle", decay: float = 0.99) -> Lesson:
        """Moves to an exponential moving average: decay times the own weights, the rest of another network's (mean teacher).

        Raises:
            ConfigError: as ``average``, or the decay is not between 0 and 1.

        Source: Tarvainen, Valpola, "Mean teachers are better role models", NeurIPS 2017.
        """
        must_be(decay, (int, float), "decay", "a number above 0 and below 1")
        if not 0 < decay < 1:
            raise ConfigError(f"decay is {decay}; it must be above 0 and below 1")
        return self.average([self, other], shares=[decay, 1 - decay])

    def evaluate(self, data: Data, split: str = "test") -> TaskResult:
        """Scores of the newest weights on a split; waits for them.

        Raises:
            ContractError: they tell other classes apart than the data, or have them in another order.
        """
        agree_on_classes(self.classes, self.community.classes(data))
        task = Evaluate(architecture=self.architecture, data=self._split(data, split), initial_weights=self._must_have_weights())
        return self._ask_for(task).result()

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
        """The data as a part of a task; a network without a number of classes takes the data's."""
        source, classes = self.community.source(data), self.community.classes(data)
        if self._architecture is None:
            self._architecture = families.resolve(self._family, len(classes), self._settings)
        return source

    def inputs(self, data: Data, recipe: dict[str, Any], *, needs_labels: bool = True) -> dict[str, Any]:
        """What every task of learning from this data begins with; waits for the newest weights.

        A user's own network learns by its code as it is now. Weights that are there already are looked at, and teach, by the code
        that they were learned by.
        """
        source = self._meet(data)
        if families.is_own(self._family) and not self._keeps_code:
            self._architecture = families.resolve(self._family, self.architecture.num_classes, self._settings)
        found, classes = self.architecture.num_classes, self.community.classes(data)
        if found < len(classes):
            raise ContractError("num_classes", found, len(classes), hint=f"{self.name} cannot tell all classes of the data apart")
        usual = families.default_recipe(self.architecture.family)
        chosen = checked(Recipe, usual | recipe, source=self.name)
        self.community.must_be_learnable(data, chosen, needs_labels=needs_labels, name=self.name)
        return {
            "architecture": self.architecture,
            "data": source,
            "recipe": chosen,
            "seed": seeding.derive(self.community.seed, self.name),
            "view_seed": seeding.derive(self.community.seed, "views"),
            "initial_weights": self.weights,
        }

    def _learn(self, task: Task, classes: tuple[str, ...]) -> Lesson:
        lesson = self._ask_for(task)
        self.take_up(lesson, task, classes)
        return lesson

    def take_up(self, lesson: Lesson, task: Task, classes: tuple[str, ...]) -> None:
        """A lesson that this network is in now: its result will be the newest weights."""
        self._before = (self._last, self._home, self.classes)
        self._last, self._home, self.classes = lesson, task.data, classes
