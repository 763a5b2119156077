"""A network with a head for each task: one trunk, and for each head classes, data that it knows, and a self-assessment.

What is done with data is done by the head that tells their classes apart; who is meant where several could be says so:
``agent.head("fire").train(data)``. All heads share the newest weights, whichever of them learned last.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agentkd.architecture import Architecture, Normalization, Setting
from agentkd.community.futures import Derived, Lesson
from agentkd.community.handles import AgentHandle
from agentkd.community.teachers import as_teachers, refuse_no_list
from agentkd.community.works import Commons, Data
from agentkd.config import checked
from agentkd.datasets.opening import Views
from agentkd.errors import ConfigError, ContractError, must_be
from agentkd.knowledge.contracts import agreed
from agentkd.names import Digest
from agentkd.task import Average, Competence, DataSource, TaskResult, TeacherReference
from agentkd.task.judging import Measure, shared_measure

if TYPE_CHECKING:
    from agentkd.knowledge.weights import WeightsMetadata

OF_EACH_HEAD = {
    "miou": "an mIoU",
    "score": "a score",
    "classes": "classes of its own",
    "num_classes": "a number of classes",
    "home": "data that it knows",
}


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
    def network(self) -> "SeveralHeads":
        """The network whose head it is."""
        return self.whole

    @property
    def miou(self) -> float:
        """Validation mIoU of its last lesson; 0 before any. Waits. The trunk may have changed since: ``evaluate`` looks now."""
        return super().miou

    @property
    def score(self) -> float:
        """By which networks are compared, of its last lesson, as ``miou``."""
        return super().score

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

    def _take_mean(self, others: Sequence[AgentHandle], shares: Sequence[float], what: str) -> Lesson:
        """Of whole networks: weights are handed over with all heads."""
        return self.whole._take_mean(others, shares, what)

    def take_over(self, lesson: Lesson, of: "Sequence[OneHead]") -> None:
        """What this head is once the whole network has taken the mean of others: it knows what they all know, or nothing."""
        self._learned, self._is_mean = (lesson, True) if any(one.has_learned for one in of) else (None, False)
        self._classes = agreed(one.classes for one in of)
        self._home = next((one.home for one in of if one.home), None)

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
        self,
        community: Commons,
        name: str,
        family: str,
        *,
        heads: Mapping[str, int],
        settings: dict[str, Setting] | None = None,
        images: Normalization | None = None,
    ) -> None:
        super().__init__(community, name, family, settings=settings, heads=heads, images=images)
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
        raise self._of_each_head("miou")

    @property
    def score(self) -> float:
        """Each head has its own.

        Raises:
            ConfigError: always.
        """
        raise self._of_each_head("score")

    @property
    def classes(self) -> tuple[str, ...]:
        """Each head has its own.

        Raises:
            ConfigError: always.
        """
        raise self._of_each_head("classes")

    @classes.setter
    def classes(self, names: Sequence[str]) -> None:
        raise self._of_each_head("classes")

    @property
    def num_classes(self) -> int:
        """Each head has its own.

        Raises:
            ConfigError: always.
        """
        raise self._of_each_head("num_classes")

    @property
    def home(self) -> DataSource | None:
        """Each head has its own.

        Raises:
            ConfigError: always.
        """
        raise self._of_each_head("home")

    @property
    def measure(self) -> Measure:
        """Which score networks are compared by: accuracy if all of its heads that have learned are classifiers."""
        return shared_measure([one.measure for one in self.views()])

    def _of_each_head(self, what: str) -> ConfigError:
        return ConfigError(f"{self.name} has {OF_EACH_HEAD[what]} for each head: {self._example(f'.{what}')}")

    def _classes_shown(self) -> dict[str, str]:
        return {"heads": "; ".join(f"{name} ({self._told(one)})" for name, one in self.heads.items())}

    def head(self, name: str) -> OneHead:
        """One of its heads.

        Raises:
            ConfigError: it has no such head.
        """
        if not isinstance(name, str) or name not in self.heads:
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
            sides = (f"{self.name} has", "the data have")
            raise ContractError("heads", theirs, ", ".join(classes), hint=hint, sides=sides)
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
            hint = f"say which head teaches: {self._example('')}"
            raise ContractError("heads", theirs, ", ".join(classes), hint=hint, sides=(f"{self.name} has", "the data have"))
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

    def take_stored(self, said: "WeightsMetadata") -> None:
        """Takes from what stored weights say of themselves which classes each head tells apart."""
        for one in self.heads.values():
            one.take_stored(said)

    def become(self, architecture: Architecture) -> None:
        """Nothing.

        Raises:
            ConfigError: always: its heads would lose their trunk.
        """
        raise ConfigError(f"{self.name} has several heads, and stays what it is; give another agent that architecture")

    def settle(self, data: Data) -> None:
        """Says what data the head that tells their classes apart is at home in."""
        self.by_data(data).settle(data)

    def _packing(self, data: Data | None, what: str) -> dict[str, Any]:
        if data is None:
            raise ConfigError(f"{self.name} has data that it knows for each head: {self._example(f'.share_{what}()')}")
        return self.by_data(data)._packing(data, what)

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

    def evaluate(self, data: Data, split: str = "test", **arithmetic: Any) -> TaskResult:
        """Scores of the head that tells the data's classes apart; see ``AgentHandle.evaluate``."""
        return self.by_data(data).evaluate(data, split, **arithmetic)

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
            ConfigError: nothing is listed, one is named twice, one has other heads, none has met data, or there is not a share
                for each.
            ContractError: the classes of a head differ, or not all of them have learned with it.
        """
        return self._take_mean(others, shares, "average")

    def _take_mean(self, others: Sequence[AgentHandle], shares: Sequence[float], what: str) -> Lesson:
        refuse_no_list("networks", others)
        wholes = [one.network if isinstance(one, AgentHandle) else one for one in others]
        references = as_teachers(wholes, shares)
        self._must_be_like(others, what)
        networks = [one for one in wholes if isinstance(one, SeveralHeads)]
        home = next((one.home for whole in (self, *networks) for one in whole.heads.values() if one.home), None)
        if home is None:
            raise ConfigError(f"{self.name}.{what} needs networks with the same heads, one of which has learned from data")
        fields = {"architecture": self.architecture, "data": home, "teachers": tuple(references)}
        task = checked(Average, fields, source=f"{self.name}.{what}")
        known = {name: [whole.heads[name] for whole in networks] for name in self.heads}
        for listed in known.values():
            _agree_on_a_head(listed)
        lesson = self._ask_for(task)
        before = {name: one.stands() for name, one in self.heads.items()}

        def restore() -> None:
            for name, stood in before.items():
                self.heads[name].stand(stood)

        self.course.go_on(lesson, restore)
        for name, listed in known.items():
            self.heads[name].take_over(lesson, listed)
        return lesson


def _agree_on_a_head(listed: Sequence[OneHead]) -> None:
    """Checks that the mean of a head of several networks is something.

    Raises:
        ContractError: they tell other classes apart, or one has learned and another has not.
    """
    agreed(one.classes for one in listed)
    learned = [one.name for one in listed if one.has_learned]
    strange = [one.name for one in listed if not one.has_learned]
    if learned and strange:
        hint = "the mean of what was learned and of what was not is nothing that anybody learned; leave one of them out"
        raise ContractError("heads", learned[0], strange[0], hint=hint, sides=("who has learned is", "who has not is"))
