"""Handles to the networks of a community: what a script says to them becomes tasks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from agentkd import seeding
from agentkd.architecture import Architecture, Setting
from agentkd.code.taking import take
from agentkd.community.futures import Derived, Lesson
from agentkd.community.works import Commons, Data
from agentkd.config import checked
from agentkd.datasets.opening import Views
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
    Distill,
    Evaluate,
    FeatureMaps,
    Task,
    TaskResult,
    TeacherReference,
    Train,
)

if TYPE_CHECKING:
    from torch import Tensor

Route = Literal["shares", "tiles", "classes"]
MAX_SHARE = 1e9


class TeacherLike(Protocol):
    """Whoever can be the teacher of a task: a handle, or a guest."""

    classes: tuple[str, ...]

    @property
    def name(self) -> str: ...
    def as_teacher(self) -> TeacherReference: ...


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

    def _newest(self) -> TaskResult | None:
        """What came of the last task, but for those that failed and were said to have. Waits."""
        while self._last and self._last.is_told_failed:
            self._last, self._home, self.classes = self._before or (None, None, ())
            self._before = None
        return self._last.result() if self._last else None

    def start_from(self, weights: str) -> None:
        """Takes stored weights of this architecture, by their digest, as its own, with the classes that they tell apart.

        Raises:
            ArtifactError: they are not there, or damaged.
        """
        from agentkd.knowledge.weights import read_metadata  # needs torch, which a script that only plans does not

        must_be(weights, str, "weights", "their digest")
        digest = Digest(weights)
        self.classes = read_metadata(self.community.artifact(digest)).classes
        self._initial, self._last = digest, None

    def become(self, architecture: Architecture) -> None:
        """Takes another architecture, to be learned from the beginning; the weights until now stay in the record."""
        must_be(architecture, Architecture, "the architecture", "an agentkd.Architecture")
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

    def assess(self, data: Data, split: str = "validation") -> Competence:
        """What the newest weights know about a split: how much of it is known, how well, and what is seen in it. Waits."""
        source, weights = self._split(data, split), self._must_have_weights()
        task = Assess(architecture=self.architecture, data=source, initial_weights=weights, home=self._home)
        competence = self._ask_for(task).result().competence
        assert competence is not None
        return competence

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
        if families.is_own(self._family):
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


def as_teachers(listed: Sequence[TeacherLike], shares: Sequence[float]) -> list[TeacherReference]:
    """Each as a teacher, with its share if shares are given.

    Raises:
        ConfigError: one is no network or has no weights, there is not a share for each, or one is not positive.
    """
    refuse_no_list("networks", listed)
    refuse_no_list("shares", shares)
    strange = [one for one in listed if not hasattr(one, "as_teacher")]
    if strange:
        raise ConfigError(f"{strange[0]!r} is no network; give what community.agent() or community.guest() returned")
    if shares and len(shares) != len(listed):
        raise ConfigError(f"{len(shares)} shares for {len(listed)} teachers; give one for each")
    wrong = [share for share in shares if not (isinstance(share, Real) and 0 < share < MAX_SHARE)]
    if wrong:
        raise ConfigError(f"a share is {wrong[0]!r}; each must be a number above 0 and below {MAX_SHARE:.0e}")
    given = zip(listed, shares or [1.0] * len(listed), strict=True)
    return [teacher.as_teacher().replace(share=float(share)) for teacher, share in given]


def routes_of(
    teachers: Sequence[TeacherLike], data: Data, route: Route | Sequence[Sequence[int]], num_parts: int
) -> list[dict[str, Any]]:
    """What each teacher's reference says so that it teaches where it is to.

    Raises:
        ConfigError: not every teacher has parts and every part of the data one teacher, or as ``routed``.
    """
    if route == "shares":
        return [{} for _ in teachers]
    if isinstance(route, str):
        if route not in get_args(Route):
            raise ConfigError(f"route {route!r}: there are {', '.join(get_args(Route))}, or the parts that each teacher teaches")
        return [routed(teacher, data, route) for teacher in teachers]
    if not (isinstance(route, Sequence) and all(is_parts(parts) for parts in route)):
        raise ConfigError(f"route is {route!r}; it is one of {', '.join(get_args(Route))}, or a list of parts for each teacher")
    if len(route) != len(teachers) or not all(route):
        raise ConfigError(f"route names parts for {len(route)} of {len(teachers)} teachers; give each one at least")
    given = Counter(part for parts in route for part in parts)
    if set(given) != set(range(num_parts)) or max(given.values()) > 1:
        named = ", ".join(str(part) for part in sorted(given.elements()))
        raise ConfigError(f"route names the parts {named}; the data have {num_parts}, numbered from 0: name each of them once")
    return [{"parts": tuple(parts)} for parts in route]


def is_parts(parts: object) -> bool:
    """Whether these are numbers of parts."""
    return isinstance(parts, Sequence) and not isinstance(parts, str) and all(type(part) is int for part in parts)


def refuse_no_list(name: str, value: object) -> None:
    """Raises ``ConfigError`` if an argument that should be a list is none."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ConfigError(f"{name}: {value!r} is no list")


def routed(teacher: TeacherLike, data: Data, route: str) -> dict[str, Any]:
    """What a teacher's reference says so that it teaches where it knows best.

    Raises:
        ConfigError: it is a guest, or it is not known what it knows.
    """
    if not isinstance(teacher, AgentHandle):
        raise ConfigError(f"{teacher.name} is a guest; route={route!r} is for networks of the community")
    competence = teacher.assess(data)
    if route == "classes" and competence.miou is not None:
        return {"class_shares": tuple(value or 0.0 for value in competence.class_iou)}
    if route == "tiles" and competence.energies is not None:
        return {"energies": competence.energies}
    unlabelled, homeless = "the validation split has no labels of its classes", "it has not learned from data in this community"
    raise ConfigError(f"{teacher.name} cannot be routed by {route}: {unlabelled if route == 'classes' else homeless}")


def class_order(ours: Sequence[str], theirs: Sequence[str], class_map: Mapping[str, str] | None) -> tuple[int, ...]:
    """For each of our classes the number of the one of theirs that means the same; empty if they are numbered alike.

    Raises:
        ContractError: the classes differ and the map does not say how they correspond.
        ConfigError: the map is none.

    Example:
        >>> class_order(["sky", "road"], ["Road", "Sky"], {"sky": "Sky", "road": "Road"})
        (1, 0)
    """
    if not (class_map is None or isinstance(class_map, Mapping)):
        raise ConfigError(f"class_map is {class_map!r}; it is a dictionary, from each of the data's classes to the teacher's")
    if class_map is not None and not theirs:
        raise ConfigError(
            "class_map: it is not known which classes the teacher tells apart; say so first: teacher.classes = (...)"
        )
    if not theirs or (tuple(ours) == tuple(theirs) and class_map is None):
        return ()
    if class_map is None:
        hint = "say which class is which: class_map={OURS: THEIRS, ...}"
        raise ContractError("classes", ", ".join(theirs), ", ".join(ours), hint=hint)
    missing = [name for name in ours if class_map.get(name) not in theirs]
    if missing:
        raise ContractError("classes", ", ".join(theirs), missing[0], hint="class_map must name one of them for each class")
    return tuple(theirs.index(class_map[name]) for name in ours)
