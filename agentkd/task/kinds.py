"""The kinds of task, each with its own fields and with what it reads. An illegal task cannot be made.

A new kind is a class here and its row in ``KINDS``; how it is executed is a row in ``agentkd.agents.work``.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from agentkd.architecture import MAX_HEADS, Architecture, are_same_channels
from agentkd.canonical import digest
from agentkd.names import NO_DIGEST, Digest
from agentkd.objectives import LOGITS, Tap
from agentkd.recipe import AS_WRITTEN, Arithmetic, Distillation, Recipe, ViewSettings
from agentkd.task.inputs import ENERGY, Consolidation, DataSource, Number, Partner, Rehearsal, ScoreName, TeacherReference
from agentkd.task.rules import AgentLabel, Offer, Rules
from agentkd.task.work import NEUTRAL, TAUGHT_BY_CODE, Reference, Work

MAX_TEACHERS = 64
# The fields of a recipe that say which views each step sees.
DECIDE_WHAT_IS_SEEN = ("epochs", "batch_size", "steps_per_epoch", "sampler", "sampler_temperature", "views")
# Fields that a kind has got since it was first said in a message: where they say nothing they are left out there too.
LATER: dict[str, frozenset[str]] = {
    "train": frozenset({"measures_latency", "max_latency_ms", "rehearsals"}),
    "distill": frozenset(
        {
            *("measures_latency", "max_latency_ms", "pretrained", "max_deploy_parameters", "max_num_macs", "prune_below"),
            "rehearsals",
        }
    ),
}

Weights = Annotated[Digest, Field(min_length=1)]


class _Training(Work):
    """A network learns.

    Args:
        seed: root of initialization and dropout; views have a seed of their own so that students can share them.
        view_seed: root of the training views.
        initial_weights: digest to start from; empty means initialization from ``seed``.
    """

    recipe: Recipe = Recipe()
    seed: int = 0
    view_seed: int = 0
    initial_weights: Digest = NO_DIGEST

    def reads(self) -> Iterator[Reference]:
        yield from super().reads()
        if self.initial_weights:
            yield "starts from weights", self.initial_weights


def _other_channels(theirs: Architecture, ours: Architecture) -> str:
    channels, own = (", ".join(one.channels) for one in (theirs, ours))
    return f"is for images of the channels {channels}, and the student for {own}; on one dataset both see the same"


def _held_by(consolidation: Consolidation | None) -> Iterator[Reference]:
    if consolidation:
        yield "is held to weights", consolidation.anchors
        yield "is held by importance", consolidation.importance


class _Limited(_Training):
    """A network learns as a search may have it tried: from what another has learned, and within limits."""

    kind: Literal["train", "distill"]
    pretrained: Digest = NO_DIGEST
    max_deploy_parameters: int = Field(default=0, ge=0)
    max_num_macs: int = Field(default=0, ge=0)
    prune_below: tuple[float, ...] = ()
    measures_latency: bool = False
    max_latency_ms: float = Field(default=0.0, ge=0)
    rehearsals: tuple[Rehearsal, ...] = Field(default=(), max_length=MAX_HEADS)

    @model_validator(mode="after")
    def _check_latency(self) -> Self:
        if self.max_latency_ms and not self.measures_latency:
            raise ValueError("max_latency_ms is a limit on what is not measured; set measures_latency, or leave it out")
        return self

    @model_validator(mode="after")
    def _check_rehearsals(self) -> Self:
        named = [one.head for one in self.rehearsals]
        wrong = next((name for name in named if name not in self.architecture.heads or name == self.architecture.head), None)
        if wrong is not None:
            others = ", ".join(sorted(self.architecture.heads.keys() - {self.architecture.head})) or "none"
            raise ValueError(f"{wrong} is rehearsed, which is none of the other heads of this network; there are {others}")
        if len(set(named)) < len(named):
            raise ValueError("a head is rehearsed twice; join the data on which it is")
        if named and not self.initial_weights:
            raise ValueError("there are no initial_weights, so no head has said anything yet that could be kept")
        return self

    def _codes(self) -> Iterator[Digest]:
        yield from super()._codes()
        yield from (one.data.code for one in self.rehearsals if one.data)

    def _sources(self) -> Iterator[DataSource]:
        yield from super()._sources()
        yield from (one.data for one in self.rehearsals if one.data)

    @model_serializer(mode="wrap")
    def _leave_out_what_says_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = handler(self)
        return {name: value for name, value in plain.items() if value or name not in LATER[self.kind]}

    def as_decided(self) -> Self:
        """Without the limit on what a device took: whether that was kept is recorded, and would be measured otherwise now."""
        return self.replace(max_latency_ms=0.0)

    @property
    def with_or_without_teachers(self) -> dict[str, Any]:
        """The fields that a training and a lesson have in common."""
        return {name: getattr(self, name) for name in _Limited.model_fields if name != "kind"}

    def reads(self) -> Iterator[Reference]:
        yield from super().reads()
        if self.pretrained:
            yield "inherits weights", self.pretrained


class Train(_Limited):
    """Learning from labels.

    Args:
        pretrained: digest of weights of which matching tensors are inherited at initialization.
        max_deploy_parameters: reject before training if the deploy form is larger; 0 means no limit.
        max_num_macs: the same for the multiply-accumulates of one image.
        prune_below: per epoch, the validation score (``judged_by``) under which a trial is stopped; empty means never.
        measures_latency: whether the result is to say how long the network takes for an image.
        max_latency_ms: reject before training if it takes longer than so many milliseconds, measured then; 0 means no limit.
        rehearsals: what other heads of the network are to go on saying.
        consolidation: what is not to be forgotten while this is learned.
    """

    kind: Literal["train"] = "train"
    consolidation: Consolidation | None = None

    def reads(self) -> Iterator[Reference]:
        yield from super().reads()
        yield from _held_by(self.consolidation)


class Distill(_Limited):
    """Learning from teachers, which serve what the objectives need from processes of their own.

    Args:
        pretrained: as of a training; so are all limits, ``measures_latency`` and ``rehearsals``.
        teachers: whose weights teach, each once; they are told apart by ``share``, or by one kind of route.
        consolidation: what is not to be forgotten while this is learned.
    """

    kind: Literal["distill"] = "distill"
    teachers: tuple[TeacherReference, ...] = Field(min_length=1, max_length=MAX_TEACHERS)
    distillation: Distillation
    consolidation: Consolidation | None = None

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        if self.distillation.start != "own" and self.initial_weights:
            raise ValueError(f"start {self.distillation.start} leaves no room for initial_weights; leave them out or start own")
        return self

    @model_validator(mode="after")
    def _check_taps(self) -> Self:
        if self.recipe.compiled and self.distillation.student_taps:
            tap = self.distillation.student_taps[0]
            raise ValueError(f"{tap} of the student is looked at, and nobody can look into a compiled network; compiled: false")
        return self

    @model_validator(mode="after")
    def _check_classes(self) -> Self:
        for teacher in self.teachers:
            named, ours = f"teacher {teacher.weights[:12]}", self.architecture.num_classes
            theirs = teacher.architecture.num_classes if teacher.architecture else None
            if teacher.class_order and len(teacher.class_order) != ours:
                raise ValueError(f"{named}: class_order names {len(teacher.class_order)} classes, the student has {ours}")
            if theirs is not None and any(number >= theirs for number in teacher.class_order):
                raise ValueError(f"{named}: class_order names class {max(teacher.class_order)}, the teacher has {theirs}")
            if theirs not in (None, ours) and not teacher.class_order:
                raise ValueError(f"{named} has {theirs} classes and the student {ours}; class_order must say which is which")
            if teacher.architecture and not are_same_channels(teacher.architecture.channels, self.architecture.channels):
                raise ValueError(f"{named} {_other_channels(teacher.architecture, self.architecture)}")
            if teacher.class_shares and len(teacher.class_shares) != ours:
                raise ValueError(f"{named}: class_shares are of {len(teacher.class_shares)} classes, the student has {ours}")
        return self

    @model_validator(mode="after")
    def _check_routes(self) -> Self:
        if len({teacher.weights for teacher in self.teachers}) < len(self.teachers):
            raise ValueError("two of the teachers have the same weights; name each once, and give it a share")
        routes = {teacher.route for teacher in self.teachers}
        if len(routes) > 1 or "+" in routes.pop():
            raise ValueError("teachers are told apart in one way, class_shares, energies or parts, and all of them or none")
        twice = [part for part, count in Counter(p for t in self.teachers for p in t.parts).items() if count > 1]
        if twice:
            raise ValueError(f"part {twice[0]} has two teachers; each part is taught by one")
        return self

    def references(self) -> Iterator[Reference]:
        yield from self.reads()
        for teacher in self.teachers:
            if teacher.architecture is not None:  # else a guest's, which are nowhere but with the guest
                yield "is taught by weights", teacher.weights
        known = {NO_DIGEST, *self._codes()}
        theirs = dict.fromkeys(teacher.architecture.code for teacher in self.teachers if teacher.architecture)
        yield from ((TAUGHT_BY_CODE, code) for code in theirs if code not in known)

    def reads(self) -> Iterator[Reference]:
        yield from super().reads()
        yield from _held_by(self.consolidation)

    def _codes(self) -> Iterator[Digest]:
        yield from super()._codes()
        yield from self.distillation.codes

    @property
    def taught_by(self) -> tuple[TeacherReference, ...]:
        return self.teachers

    def lesson_digest(self, teacher: TeacherReference) -> Digest:
        """What a teacher is asked, step by step: equal digests mean the same questions, whoever the student is."""
        d, r = self.distillation, self.recipe
        asked = [payload.canonical() for payload in d.payloads]
        how = [d.codec, d.max_kl, r.batch_size, r.steps_per_epoch, r.views.canonical(), self.view_seed]
        if r.sampler != "uniform":
            how += [r.sampler, r.sampler_temperature]
        if d.arithmetic != Arithmetic():
            how += [d.arithmetic.canonical()]
        how += [part for part in (teacher.architecture.code, teacher.architecture.head) if part] if teacher.architecture else []
        classes = 0 if teacher.class_order else self.architecture.num_classes  # with an order the weights say how many
        return digest([teacher.weights, classes, self.data.canonical(), asked, how])


class Mutual(_Training):
    """Learning together with partners: in each step every student is taught by the logits of all others.

    Args:
        partners: the other students, by digest; they look at the same views in the same steps.
    """

    kind: Literal["mutual"] = "mutual"
    distillation: Distillation
    partners: tuple[Partner, ...] = Field(min_length=1, max_length=15)

    @model_validator(mode="after")
    def _check_partners(self) -> Self:
        if list(self.partners) != sorted(self.partners, key=lambda one: one.digest):
            raise ValueError("partners stand in the order of their digests, or each would be another task to the others")
        everyone = (self._as_partner, *self.partners)
        if len({partner.digest for partner in everyone}) < len(everyone):
            raise ValueError("students that teach each other must differ in architecture, weights or seed")
        shown = {tuple(getattr(partner.recipe, name) for name in DECIDE_WHAT_IS_SEEN) for partner in everyone}
        if len(shown) > 1:
            *names, last = DECIDE_WHAT_IS_SEEN
            raise ValueError(f"students that teach each other need equal {', '.join(names)} and {last}")
        if any(partner.architecture.num_classes != self.architecture.num_classes for partner in self.partners):
            raise ValueError("students that teach each other need the same classes")
        for partner in self.partners:
            if not are_same_channels(partner.architecture.channels, self.architecture.channels):
                raise ValueError(f"a partner {_other_channels(partner.architecture, self.architecture)}")
        if self.distillation.payloads != (LOGITS,):
            raise ValueError("students teach each other by their logits alone; give objectives of logits")
        if self.distillation.start != "own":
            raise ValueError("students that teach each other start as they are; give start: own")
        if self.distillation.arithmetic != Arithmetic():
            raise ValueError("students that teach each other say what they make of a step as they learn; leave arithmetic out")
        return self

    @property
    def _as_partner(self) -> Partner:
        return Partner(architecture=self.architecture, recipe=self.recipe, seed=self.seed, initial_weights=self.initial_weights)

    def _codes(self) -> Iterator[Digest]:
        yield from super()._codes()
        yield from self.distillation.codes

    def partner_tasks(self) -> tuple["Mutual", ...]:
        """The tasks of the other students, in the order of ``partners``."""
        tasks = []
        for partner in self.partners:
            others = [self._as_partner, *(other for other in self.partners if other != partner)]
            fields = {name: getattr(partner, name) for name in Partner.model_fields}
            tasks.append(self.replace(**fields, partners=tuple(sorted(others, key=lambda one: one.digest))))
        return tuple(tasks)


class _Look(Work):
    """Something is made of a network with its weights as they are."""

    initial_weights: Weights

    def reads(self) -> Iterator[Reference]:
        yield from super().reads()
        yield "starts from weights", self.initial_weights


class Evaluate(_Look):
    """Scores on the split named ``validation``, and pictures.

    Args:
        arithmetic: how the network computes; left out where that is as usual.
    """

    kind: Literal["evaluate"] = "evaluate"
    arithmetic: Arithmetic = Arithmetic()

    @model_serializer(mode="wrap")
    def _leave_out_what_says_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = handler(self)
        return {name: value for name, value in plain.items() if value or name != "arithmetic"}


class Assess(_Look):
    """What a network knows about the split named ``validation``; labels are not needed.

    Args:
        home: the data that the network learned, whose validation split says what it knows.
        score: how it is told what is strange to the network, see ``agentkd.knowledge.scores``.
        tap: for ``mahalanobis``: the module whose features are looked at; the logits if it is empty.
    """

    kind: Literal["assess"] = "assess"
    home: DataSource | None = None
    score: ScoreName = ENERGY
    tap: Tap | Literal[""] = ""

    @model_validator(mode="after")
    def _check_tap(self) -> Self:
        if self.tap and self.score != "mahalanobis":
            raise ValueError(f"score {self.score} is of the logits; leave tap out, or give score mahalanobis")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_what_all_had(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = handler(self)
        return {name: value for name, value in plain.items() if (name, value) not in (("score", ENERGY), ("tap", ""))}

    def _codes(self) -> Iterator[Digest]:
        yield from super()._codes()
        yield self.home.code if self.home else NO_DIGEST

    def _sources(self) -> Iterator[DataSource]:
        yield from super()._sources()
        if self.home:
            yield self.home


class FeatureMaps(_Look):
    """What a network makes of views inside.

    Args:
        views: (sample index, view seed) pairs.
        view_settings: what the views look like.
        taps: the modules whose output is wanted besides the logits.
    """

    kind: Literal["features"] = "features"
    views: tuple[tuple[Number, int], ...] = Field(min_length=1)
    view_settings: ViewSettings = ViewSettings()
    taps: tuple[Tap, ...] = ()

    def canonical(self) -> Any:
        """The settings of the views stand in a recipe's place."""
        plain = super().canonical()
        return plain | {"recipe": NEUTRAL["recipe"] | {"views": plain.pop("view_settings")}}


class Consolidate(_Look):
    """How much each weight matters for what the network knows, and knew before.

    Args:
        seed: root of the labels that are drawn from the network's own predictions.
        consolidation: the importance until now.
    """

    kind: Literal["consolidate"] = "consolidate"
    seed: int = 0
    consolidation: Consolidation | None = None

    def reads(self) -> Iterator[Reference]:
        yield from super().reads()
        yield from _held_by(self.consolidation)


class Average(Work):
    """The mean of several networks' weights by their shares; all are of the task's architecture.

    Args:
        teachers: whose weights.
    """

    kind: Literal["average"] = "average"
    teachers: tuple[TeacherReference, ...] = Field(min_length=1, max_length=MAX_TEACHERS)

    @model_validator(mode="after")
    def _check_teachers(self) -> Self:
        if any(teacher.route or teacher.class_order for teacher in self.teachers):
            raise ValueError("weights are averaged by shares alone; leave class_order and routes out")
        whole = self.architecture.whole
        other = next((t for t in self.teachers if t.architecture is None or t.architecture.whole != whole), None)
        if other is not None:
            raise ValueError(f"weights {other.weights[:12]} are not known to be of this architecture; only like is averaged")
        return self

    def reads(self) -> Iterator[Reference]:
        yield from super().reads()
        for teacher in self.teachers:
            yield "is taught by weights", teacher.weights


class Pack(Work):
    """Data, or the architecture itself, as a piece of knowledge: one file that can be handed over, named by its digest.

    Args:
        what: whether ``data`` or the ``architecture`` is packed. With the architecture the data say what an image costs it.
        splits: of the data, in the order in which their samples are then numbered.
    """

    kind: Literal["pack"] = "pack"
    what: Literal["data", "architecture"]
    splits: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = Field(default=(), max_length=64)

    @model_validator(mode="after")
    def _check_splits(self) -> Self:
        if bool(self.splits) != (self.what == "data") or len(set(self.splits)) < len(self.splits):
            raise ValueError("data are packed by splits, each named once; an architecture has none")
        return self


class Decide(Work):
    """What an agent does about data that have arrived, by its own rules.

    Args:
        me: what it finds of itself.
        others: what the others answered.
        rules: by which it decides; an own rule runs here.
        taught: in this cycle, by student, who taught it.
    """

    kind: Literal["decide"] = "decide"
    me: Offer
    others: tuple[Offer, ...] = Field(max_length=1024)
    rules: Rules
    taught: tuple[tuple[AgentLabel, tuple[AgentLabel, ...]], ...] = Field(default=(), max_length=1024)

    def _codes(self) -> Iterator[Digest]:
        yield from super()._codes()
        yield self.rules.code


Task = Train | Distill | Mutual | Evaluate | Assess | FeatureMaps | Consolidate | Average | Pack | Decide
Training = Train | Distill | Mutual
Limited = Train | Distill
Taught = Distill | Mutual
KINDS: dict[str, type[Task]] = {
    "train": Train,
    "distill": Distill,
    "mutual": Mutual,
    "evaluate": Evaluate,
    "assess": Assess,
    "features": FeatureMaps,
    "consolidate": Consolidate,
    "average": Average,
    "pack": Pack,
    "decide": Decide,
}
AnyTask = Annotated[Task, Field(discriminator="kind")]


def read_task(plain: Any) -> Task:
    """A task from its canonical form, with the key that it was written under: what makes no difference stays in it.

    Raises:
        ValueError: it is none (pydantic's ``ValidationError`` is one).
    """
    kind = KINDS.get(str(plain.get("kind"))) if isinstance(plain, dict) else None
    if kind is None:
        raise ValueError(f"no task is of that kind; there are {', '.join(KINDS)}")
    own = dict(plain)
    if kind is FeatureMaps and isinstance(own.get("recipe"), dict):
        own["view_settings"] = own["recipe"].get("views", {})
        own["recipe"] = own["recipe"] | {"views": NEUTRAL["recipe"]["views"]}
    foreign = {name for name, value in NEUTRAL.items() if name not in kind.model_fields and own.get(name) == value}
    return kind.model_validate({name: value for name, value in own.items() if name not in foreign}, context=AS_WRITTEN)
