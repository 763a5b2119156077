"""A network with a head for each task: one trunk, and for each head classes, data that it knows, and a self-assessment.

What is done with data is done by the head that tells their classes apart; who is meant where several could be says so:
``agent.head("fire").train(data)``. All heads share the newest weights, whichever of them learned last.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from agentkd.architecture import Architecture, Setting
from agentkd.community.futures import Derived, Lesson
from agentkd.community.handles import AgentHandle
from agentkd.community.teachers import as_teachers
from agentkd.community.works import Commons, Data
from agentkd.config import checked
from agentkd.datasets.opening import Views
from agentkd.errors import ConfigError, ContractError, must_be
from agentkd.knowledge.contracts import agreed
from agentkd.names import Digest
from agentkd.task import Average, Competence, DataSource, TaskResult, TeacherReference


class OneHead(AgentHandle):
    """One head of a network, with the trunk that it shares with the others. What it learns leaves these as they are to the bit.

    The trunk below them changes: ``protect`` and ``rehearse`` keep what they say.
    """

    def __init__(self, whole: "SeveralHeads", head: str) -> None:
        super().__init__(whole.community, f"{whole.name}.{head}", whole.family, settings=whole.settings)
        self.whole, self.course, self._seed, self._head = whole, whole.course, whole.seed, head
        self._architecture = whole.architecture.under(head)

    @property
    def architecture(self) -> Architecture:
        """The network as data, with this head in use."""
        return self.whole.architecture.under(self._head)

    @property
    def known_architecture(self) -> Architecture | None:
        """The network as data, with this head in use."""
        return self.architecture

    @property
    def _newest_lesson(self) -> Lesson | None:
        return self._learned

    @property
    def has_learned(self) -> bool:
        """Whether it has learned anything, here or before."""
        return bool(self.classes or self._learned)

    @property
    def home(self) -> DataSource | None:
        """The data that it knows."""
        return self._home

    def head(self, name: str) -> AgentHandle:
        """Another head of the same network."""
        return self.whole.head(name)

    def views(self) -> Sequence[AgentHandle]:
        """Itself, if it has learned."""
        return [self] if self.has_learned else []

    def become(self, architecture: Architecture) -> None:
        """Nothing.

        Raises:
            ConfigError: always: the other heads would lose their trunk.
        """
        self.whole.become(architecture)

    def start_from(self, weights: str) -> None:
        """Takes stored weights for the whole network."""
        self.whole.start_from(weights)

    def consolidate(self) -> Lesson:
        """As of a network, of what this head knows; what was noted of others stays."""
        weights, name = self._must_have_weights(), self._head
        if self.course.kept and self.course.noted.get(name) == weights:
            return self.course.kept[1]
        lesson = super().consolidate()
        self.course.noted[name] = weights
        return lesson

    def average(self, others: Sequence[AgentHandle], shares: Sequence[float] = ()) -> Lesson:
        """The mean of whole networks: weights are handed over with all heads."""
        return self.whole.average(others, shares)

    def take_over(self, lesson: Lesson, of: "Sequence[OneHead]") -> None:
        """What this head is once the whole network has taken the mean of others: it knows what they know."""
        self._learned = lesson
        self.classes = agreed(one.classes for one in of)
        self._home = next((one.home for one in of if one.home), None)

    def stands(self) -> tuple[Any, ...]:
        """What ``stand`` restores."""
        return self._learned, self._home, self.classes

    def stand(self, before: tuple[Any, ...]) -> None:
        """Goes back to where it stood."""
        self._learned, self._home, self.classes = before

    def _renew_code(self) -> None:
        self.whole._renew_code()

    def _must_have_weights(self) -> Digest:
        if not self.has_learned:
            raise ConfigError(f"{self.name} has learned nothing yet; call train() first")
        return super()._must_have_weights()

    def _must_forget_nothing(self, what: str) -> None:
        learned = ", ".join(one.name for one in self.whole.views() if one is not self)
        if learned:
            raise ConfigError(f"{self.name}: with {what} the trunk begins anew, and {learned} would lose what it stands on")

    def _rehearsals(self, wanted: Mapping[str, Data | None] | None, strength: float) -> list[dict[str, Any]]:
        made = super()._rehearsals(wanted, strength)
        for one in made:
            if one["head"] in self.whole.heads and not self.whole.heads[one["head"]].has_learned:
                raise ConfigError(f"{self.name}: rehearse names {one['head']}, which has learned nothing that could be kept")
        return made


class SeveralHeads(AgentHandle):
    """A network with several heads: ``heads`` by name, each to be used like a network.

    Data are learned and looked at by the head that has learned their classes, or, if none has, by the one that has learned
    nothing and has room for exactly as many. A student is taught by the head whose classes are the student's.
    """

    def __init__(
        self, community: Commons, name: str, family: str, *, heads: Mapping[str, int], settings: dict[str, Setting] | None = None
    ) -> None:
        super().__init__(community, name, family, settings=settings, heads=heads)
        self.family, self.settings = family, settings
        self.heads = {head: OneHead(self, head) for head in sorted(self.architecture.heads)}

    @property
    def seed(self) -> int:
        """Root of the random numbers of its lessons: the network is the same whichever head learns first."""
        return self._seed

    @property
    def miou(self) -> float:
        """Each head has its own.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{self.name} has a score for each head: {self._example('.miou')}")

    @property
    def score(self) -> float:
        """Each head has its own.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{self.name} has a score for each head: {self._example('.score')}")

    def head(self, name: str) -> OneHead:
        """One of its heads.

        Raises:
            ConfigError: it has no such head.
        """
        if name not in self.heads:
            raise ConfigError(f"{self.name} has no head {name!r}; it has {', '.join(self.heads)}")
        return self.heads[name]

    def views(self) -> Sequence[OneHead]:
        """The heads that have learned."""
        return [one for one in self.heads.values() if one.has_learned]

    def by_data(self, data: Data) -> OneHead:
        """The head that learns these data, and looks at them.

        Raises:
            ConfigError: several could.
            ContractError: none can.
        """
        return self.for_classes(self.community.classes(data))

    def for_classes(self, classes: Sequence[str]) -> OneHead:
        """As ``by_data``, for classes by their names."""
        fitting = self.fitting(classes)
        if not fitting:
            theirs = "; ".join(f"{name}: {self._told(one)}" for name, one in self.heads.items())
            hint = f"say which head is meant: {self._example('')}"
            raise ContractError("heads", theirs, ", ".join(classes), hint=hint)
        return self._only(fitting, classes)

    def fitting(self, classes: Sequence[str]) -> list[OneHead]:
        """The heads that have learned these classes; if there is none, those with room for them that have learned nothing."""
        learned = [one for one in self.views() if one.classes == tuple(classes)]
        free = [one for one in self.heads.values() if not one.has_learned and one.architecture.num_classes == len(classes)]
        return learned or free

    def speaking(self, classes: Sequence[str], class_map: Mapping[str, str] | None = None) -> OneHead:
        """The head that teaches a student of these classes, or, with a map, that tells apart what its values name.

        Raises:
            ConfigError: several could.
            ContractError: none can.
        """
        wanted = set(class_map.values()) if isinstance(class_map, Mapping) else None
        learned = self.views()
        fitting = [one for one in learned if (set(one.classes) >= wanted if wanted else one.classes == tuple(classes))]
        if not fitting:
            theirs = "; ".join(f"{one.architecture.head}: {', '.join(one.classes)}" for one in learned) or "none has learned yet"
            raise ContractError("heads", theirs, ", ".join(classes), hint=f"say which head teaches: {self._example('')}")
        return self._only(fitting, classes)

    def _only(self, fitting: Sequence[OneHead], classes: Sequence[str]) -> OneHead:
        if len(fitting) > 1:
            named = ", ".join(one.architecture.head for one in fitting)
            raise ConfigError(
                f"{self.name}: heads {named} are all for {', '.join(classes)[:200]}; say which is meant: {self._example('')}"
            )
        return fitting[0]

    def _told(self, one: OneHead) -> str:
        return ", ".join(one.classes) or f"nothing yet, room for {one.architecture.num_classes}"

    def _example(self, rest: str) -> str:
        return f'{self.name}.head("{next(iter(self.heads))}"){rest}'

    def start_from(self, weights: str) -> None:
        """Takes stored weights of this architecture, by digest or its beginning, with the classes that each head tells apart."""
        must_be(weights, str, "weights", "their digest")
        digest = self.community.find_artifact(weights)
        self.course.begin_with(digest)
        for one in self.heads.values():
            one.take_stored(digest)

    def become(self, architecture: Architecture) -> None:
        """Nothing.

        Raises:
            ConfigError: always: its heads would lose their trunk.
        """
        raise ConfigError(f"{self.name} has several heads, and stays what it is; give another agent that architecture")

    def settle(self, data: Data) -> None:
        """Says what data the head that tells their classes apart is at home in."""
        self.by_data(data).settle(data)

    def as_teacher(self) -> TeacherReference:
        """The whole network, as it is averaged. To teach, one of its heads is chosen by the student's classes."""
        weights = self.weights
        if not weights:
            raise ConfigError(f"{self.name} has no weights yet; call train() first, or give it weights=DIGEST")
        return TeacherReference(architecture=self.architecture, weights=weights)

    def train(self, data: Data, **options: Any) -> Lesson:
        """The head that tells the data's classes apart is trained; see ``AgentHandle.train``."""
        return self.by_data(data).train(data, **options)

    def distill(self, teachers: Any, data: Data, *args: Any, **options: Any) -> Lesson:
        """The head that tells the data's classes apart is taught; see ``AgentHandle.distill``."""
        return self.by_data(data).distill(teachers, data, *args, **options)

    def evaluate(self, data: Data, split: str = "test") -> TaskResult:
        """Scores of the head that tells the data's classes apart."""
        return self.by_data(data).evaluate(data, split)

    def assess(self, data: Data, split: str = "validation", **options: Any) -> Competence:
        """What the head that tells the data's classes apart knows about them; see ``AgentHandle.assess``."""
        return self.by_data(data).assess(data, split, **options)

    def feature_maps(self, views: Views, taps: Sequence[str] = ()) -> Derived[TaskResult, Any]:
        """What the network makes of views, with the head that tells their classes apart."""
        must_be(views, Views, "views", "what data.views([3, 4], seed=1) returns")
        return self.by_data(views.data).feature_maps(views, taps)

    def consolidate(self) -> Lesson:
        """Notes how much each weight matters for what any of the heads knows.

        Raises:
            ConfigError: none has learned anything.
        """
        learned = [one for one in self.views() if one.home]
        if not learned:
            raise ConfigError(f"{self.name} has not learned from data here, so it is not known what to keep")
        return [one.consolidate() for one in learned][-1]

    def average(self, others: Sequence[AgentHandle], shares: Sequence[float] = ()) -> Lesson:
        """Takes the mean, by shares, of the weights of networks of the same architecture: of the trunk and of all heads.

        Raises:
            ConfigError: nothing is listed, one has no heads, none has met data, or there is not a share for each.
            ContractError: the classes of a head differ.
        """
        wholes = [one.whole if isinstance(one, OneHead) else one for one in others]
        networks = [one for one in wholes if isinstance(one, SeveralHeads)]
        references = as_teachers(wholes, shares)
        home = next((one.home for whole in (self, *networks) for one in whole.heads.values() if one.home), None)
        if len(networks) < len(wholes) or not networks or home is None:
            raise ConfigError("an average of networks with several heads needs networks with the same, one of which has learned")
        fields = {"architecture": self.architecture, "data": home, "teachers": tuple(references)}
        task = checked(Average, fields, source=f"{self.name}.average")
        known = {name: [whole.heads[name] for whole in networks] for name in self.heads}
        for listed in known.values():
            agreed(one.classes for one in listed)
        lesson = self._ask_for(task)
        before = {name: one.stands() for name, one in self.heads.items()}

        def restore() -> None:
            for name, stood in before.items():
                self.heads[name].stand(stood)

        self.course.go_on(lesson, restore)
        for name, listed in known.items():
            self.heads[name].take_over(lesson, listed)
        return lesson
