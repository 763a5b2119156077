"""Handles to the networks of a community: what a script says to them becomes tasks."""

from collections.abc import Mapping, Sequence
from typing import Any

from agentkd import seeding
from agentkd.code.taking import take
from agentkd.community.futures import Lesson
from agentkd.community.holding import Held
from agentkd.community.teachers import (
    Route,
    TeacherLike,
    as_teachers,
    class_order,
    must_be_different,
    refuse_no_list,
    routes_of,
)
from agentkd.community.works import Data
from agentkd.config import checked
from agentkd.errors import ConfigError, ContractError, must_be
from agentkd.names import NO_DIGEST
from agentkd.networks import families
from agentkd.networks.likeness import differences_told
from agentkd.objectives import Objective, SoftTargets
from agentkd.recipe import Distillation, Recipe
from agentkd.task import (
    Average,
    Consolidate,
    Consolidation,
    DataSource,
    Distill,
    Evaluate,
    Task,
    TeacherReference,
    Train,
)


class AgentHandle(Held):
    """A named network of a community. Its tasks are done one after the other; ``weights`` is the digest of the newest.

    A task that failed is said when its result, or what it was to make, is asked for. After that the network stands where it stood
    before, and can go on from there.
    """

    def head(self, name: str) -> "AgentHandle":
        """One of a network's heads, to be used like a network: with classes, data that it knows and a score of its own.

        Args:
            name: as in ``heads=`` of ``community.agent``.

        Raises:
            ConfigError: it has no such head.
        """
        several = f'community.agent(..., heads={{"{name}": NUMBER_OF_CLASSES, ...}})'
        raise ConfigError(f"{self.name} has one head alone, without a name; for several: {several}")

    @property
    def network(self) -> "AgentHandle":
        """The whole network: itself, or that whose head it is."""
        return self

    def by_data(self, data: Data) -> "AgentHandle":
        """Who of this network learns these data, and looks at them: itself, or the head that tells their classes apart."""
        return self

    def speaking(self, classes: Sequence[str], class_map: Mapping[str, str] | None = None) -> "AgentHandle":
        """Who of this network teaches a student of these classes: itself, or the head that tells them apart."""
        return self

    def views(self) -> "Sequence[AgentHandle]":
        """Who of this network has learned: itself, or its heads, each by its own name."""
        return [self] if self.weights else []

    def _must_forget_nothing(self, what: str) -> None:
        """Nothing: who has one head may begin anew."""

    def train(
        self,
        data: Data,
        *,
        protect: float = 0.0,
        rehearse: Mapping[str, Data | None] | None = None,
        rehearse_strength: float = 1.0,
        **recipe: Any,
    ) -> Lesson:
        """Trains; goes on from the newest weights.

        Args:
            data: a dataset, or its specification (see ``agentkd.open_dataset``); splits ``train`` and ``validation`` are used.
            protect: how strongly what ``consolidate`` noted is kept.
            rehearse: of a network with several heads: whose answers are kept meanwhile, and on which data: those that the head
                knows (replay), or, if it is ``None``, those of this lesson (learning without forgetting).
            rehearse_strength: how strongly.
            recipe: fields of ``Recipe`` that differ from those that the family comes with.
        """
        fields = self.inputs(data, recipe) | {"consolidation": self._protection(protect)}
        fields["rehearsals"] = self._rehearsals(rehearse, rehearse_strength)
        return self._learn(checked(Train, fields, source=f"{self.name}.train"), self.community.classes(data))

    def consolidate(self) -> Lesson:
        """Notes what the newest weights are and how much each of them matters, so that ``protect`` can keep them (online EWC).

        Looks at up to 256 training images of the data that was learned last; labels are not needed.

        Raises:
            ConfigError: nothing was learned yet.
        """
        weights, course = self._must_have_weights(), self.course
        if self._home is None:
            raise ConfigError(f"{self.name} has not learned from data here, so it is not known what to keep")
        before = self._protection(1.0) if course.kept else None
        if before and course.noted and before.anchors == weights:
            before = before.replace(decay=1.0)  # of another head at the same moment, which counts as much
        task = Consolidate(
            architecture=self.architecture,
            data=self._home,
            seed=self._seed,
            initial_weights=weights,
            consolidation=before,
        )
        (lesson,) = self.community.submit((task, f"consolidation of {self.name}"))
        course.kept = (weights, lesson)
        return lesson

    def _protection(self, strength: float) -> Consolidation | None:
        if not strength:
            return None
        if self.course.kept is None:
            raise ConfigError(f"{self.name} has nothing to protect; call consolidate() before it learns something else")
        weights, lesson = self.course.kept
        fields = {"anchors": weights, "importance": lesson.result().knowledge, "strength": strength}
        return checked(Consolidation, fields, source=f"{self.name}: protect")

    def _rehearsals(self, wanted: Mapping[str, Data | None] | None, strength: float) -> list[dict[str, Any]]:
        must_be(wanted or {}, Mapping, "rehearse", "heads, each with the data on which it is rehearsed, or None")
        sources = {head: None if data is None else self.community.source(data) for head, data in (wanted or {}).items()}
        return [{"head": head, "data": source, "strength": strength} for head, source in sorted(sources.items())]

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
        rehearse: Mapping[str, Data | None] | None = None,
        rehearse_strength: float = 1.0,
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
            rehearse: as of ``train``.
            rehearse_strength: see there.
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
        if start != "own":
            self._must_forget_nothing(f"start={start!r}")
        inputs = self.inputs(data, recipe, needs_labels=hard_loss != "none")
        classes = self.community.classes(data)
        listed = [one.speaking(classes, class_map) if isinstance(one, AgentHandle) else one for one in listed]
        why = "a network teaches a lesson by one head: name it once, and give it a share"
        must_be_different(listed, f"{self.name}.distill", why)
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
        inputs["rehearsals"] = self._rehearsals(rehearse, rehearse_strength)
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

        Args:
            others: the networks, each named once.
            shares: one above 0 for each, in their order; equal ones if none are given. Only their proportion counts.

        Raises:
            ConfigError: nothing is listed, none has met data, or there is not a share for each.
            ContractError: their classes differ.
        """
        return self._take_mean(others, shares, "average")

    def ema(self, other: "AgentHandle", decay: float = 0.99) -> Lesson:
        """Moves to an exponential moving average: decay times the own weights, the rest of another network's (mean teacher).

        Args:
            other: the network of the same architecture to which it moves.
            decay: share of the own weights that stays, between 0 and 1, neither included.

        Raises:
            ConfigError: as ``average``, or the decay is not between 0 and 1.

        Source: Tarvainen, Valpola, "Mean teachers are better role models", NeurIPS 2017.
        """
        must_be(decay, (int, float), "decay", "a number above 0 and below 1")
        if not 0 < decay < 1:
            raise ConfigError(f"decay is {decay}; it must be above 0 and below 1")
        return self._take_mean([self, other], [decay, 1 - decay], "ema")

    def _take_mean(self, others: Sequence["AgentHandle"], shares: Sequence[float], what: str) -> Lesson:
        references = as_teachers(others, shares)
        self._must_be_like(others, what)
        headed = next((other for other in others if other.architecture.heads), None)
        if headed is not None:
            raise ConfigError(f"{self.name}.{what}: {headed.name} has several heads, and {self.name} one alone; give it heads=")
        home = next((other._home for other in (self, *others) if other._home), None)
        if home is None:
            raise ConfigError(f"{self.name}.{what} needs networks, one of which has learned from data")
        classes = {other._classes: other.name for other in others if other._classes}
        if len(classes) > 1:
            (one, first), (other, second) = sorted(classes.items())[:2]
            raise ContractError("classes", ", ".join(one), ", ".join(other), sides=(f"{first} has", f"{second} has"))
        self._architecture = self._architecture or others[0].architecture
        fields = {"architecture": self.architecture, "data": home, "teachers": tuple(references)}
        task = checked(Average, fields, source=f"{self.name}.{what}")
        return self._learn(task, next(iter(classes), ()))

    def _must_be_like(self, others: Sequence["AgentHandle"], what: str) -> None:
        """Nothing, if these are networks of the same architecture, each named once.

        Raises:
            ConfigError: they are not, and in what.
        """
        if not others:
            raise ConfigError(f"{self.name}.{what} needs networks, one of which has learned from data")
        why = "weights are averaged as a whole: name each network once, and give it a share"
        must_be_different(others, f"{self.name}.{what}", why)
        guest = next((one for one in others if not isinstance(one, AgentHandle)), None)
        if guest is not None:
            raise ConfigError(f"{self.name}.{what}: {guest.name} is a guest; what is averaged are networks of this community")
        ours = self._architecture or others[0].architecture
        for other in others:
            if told := differences_told(other.architecture, ours):
                text = f"networks of one architecture alone are averaged; {other.name} differs: {told}"
                raise ConfigError(f"{self.name}.{what}: {text}")

    def inputs(self, data: Data, recipe: dict[str, Any], *, needs_labels: bool = True) -> dict[str, Any]:
        """What every task of learning from this data begins with; waits for the newest weights.

        A user's own network learns by its code as it is now. Weights that are there already are looked at, and teach, by the code
        that they were learned by.
        """
        source = self._meet(data)
        self._renew_code()
        found, classes = self.architecture.num_classes, self.community.classes(data)
        if found < len(classes):
            hint = f"{self.name} cannot tell all classes of the data apart"
            raise ContractError("num_classes", found, len(classes), hint=hint, sides=("the network has", "the data have"))
        usual = families.default_recipe(self.architecture.family)
        chosen = checked(Recipe, usual | recipe, source=self.name)
        self.community.must_be_learnable(data, chosen, needs_labels=needs_labels, name=self.name)
        return {
            "architecture": self.architecture,
            "data": source,
            "recipe": chosen,
            "seed": self._seed,
            "view_seed": seeding.derive(self.community.seed, "views"),
            "initial_weights": self.weights,
        }

    def _renew_code(self) -> None:
        """Takes up a user's own network as its code is now."""
        if families.is_own(self._family) and not self._keeps_code:
            known = self.architecture
            self._architecture = self._resolved(known.num_classes, known.heads or None, known.head)

    def _learn(self, task: Task, classes: tuple[str, ...]) -> Lesson:
        lesson = self._ask_for(task)
        self.take_up(lesson, task, classes)
        return lesson

    def take_up(self, lesson: Lesson, task: Task, classes: tuple[str, ...]) -> None:
        """A lesson that this network is in now: its result will be the newest weights."""
        before = self.stands()
        self.course.go_on(lesson, lambda: self.stand(before))
        self._learned, self._home, self.classes, self._is_mean = lesson, task.data, classes, isinstance(task, Average)

    def stands(self) -> tuple[Any, ...]:
        """What ``stand`` restores."""
        return self._learned, self._home, self.classes, self._is_mean

    def stand(self, before: tuple[Any, ...]) -> None:
        """Goes back to where it stood."""
        self._learned, self._home, self.classes, self._is_mean = before
