"""Education cycles: data arrive, and every agent decides by its own rules whether it teaches, learns, or leaves it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentkd.code.taking import take
from agentkd.community.futures import Lesson
from agentkd.community.handles import AgentHandle
from agentkd.community.heads import OneHead, SeveralHeads
from agentkd.community.rules import Decision, Offer, Role, Rules
from agentkd.community.teachers import TeacherLike, must_be_different, refuse_no_list
from agentkd.community.works import Data
from agentkd.datasets.opening import JOINED, Opened
from agentkd.errors import ConfigError, ContractError, must_be
from agentkd.objectives import Features, Objective, Pairwise, SoftTargets
from agentkd.task import Competence, TeacherReference
from agentkd.task.judging import Measure, shared_measure


@dataclass
class Earlier:
    """What an agent was before a lesson, as one of its teachers."""

    name: str
    classes: tuple[str, ...]
    reference: TeacherReference

    def as_teacher(self) -> TeacherReference:
        """Its weights of then."""
        return self.reference


class Educated:
    """An agent with rules, and a memory of the data that it has learned.

    One with several heads is at home in several kinds of data: it looks at data with the heads for their classes, speaks for
    itself by the one that is most at home, learns with the head for their classes, and keeps what the other heads say.

    Args:
        agent: its network.
        learned: data that it knows already; of a network with several heads by head, as ``{"fire": DATA}``.
        rules: how it judges and learns.
        rule: an own rule in the place of theirs, a function of ``(me, others, rules, taught)`` in a file of yours, or its path
            (``my_rules:careful``). Its source is collected as it is when it is needed; it runs in the agent.

    Raises:
        ConfigError: the rule is none of a file that can be collected, or a head is named that has learned nothing.
        ContractError: data are named that have other classes than the network, or the head.
    """

    def __init__(
        self,
        agent: AgentHandle,
        learned: Data | Mapping[str, Data],
        rules: Rules | None = None,
        *,
        rule: str | Callable[..., Decision] = "",
    ) -> None:
        must_be(agent, AgentHandle, "the agent", "what community.agent() returned")
        must_be(rules or Rules(), Rules, "rules", "agentkd.Rules")
        chosen = rules or Rules()
        self.agent, self.rules = agent, replace(chosen, rule=path_of(rule)) if rule else chosen
        self._network = agent if isinstance(agent, SeveralHeads) else None
        self._heads: dict[str, Educated] = {}
        self._others: Mapping[str, Educated] = {}
        self._learned: list[str] = []
        if self._network is not None:
            by_head = learned if isinstance(learned, Mapping) else {self._network.by_data(learned).architecture.head: learned}
            for head, data in by_head.items():
                view, specs = self._network.head(head), _specs(data)
                if not view.has_learned:
                    raise ConfigError(
                        f"{view.name} has learned nothing yet, so it knows no data; train it first, or leave it out"
                    )
                _must_know(view, specs)
                self._take_in(view, specs)
        elif isinstance(learned, Mapping):
            raise ConfigError(f"{agent.name}: data by head are for a network with several heads; give data")
        else:
            self._learned = _specs(learned)
            _must_know(agent, self._learned)

    def _take_in(self, view: OneHead, learned: list[str]) -> "Educated":
        """A head that has a memory from now on."""
        made = Educated(view, _joined(learned or [""]), self.rules)
        made._learned, made._others = learned, self._heads
        self._heads[view.architecture.head] = made
        return made

    @property
    def learned(self) -> list[str]:
        """The data that it knows, of all heads."""
        return [spec for one in self._heads.values() for spec in one.learned] if self._network else self._learned

    @property
    def name(self) -> str:
        """The agent's name."""
        return self.agent.name

    @property
    def measure(self) -> Measure:
        """Which score it is judged by, if nobody else is there. Waits."""
        return self.agent.measure

    def assess(self, data: Data, measure: Measure | None = None) -> Offer:
        """What it says of itself about data; labels are not looked at.

        Pixels alone can deceive: a network may be sure of itself where everything is strange. So what is known counts as far as
        the classes that it sees there are as frequent as in what it learned. Of data of other classes nothing is known.

        Args:
            data: what is looked at.
            measure: which score it says of itself; its own if it is not given.
        """
        by = measure or self.measure
        how: dict[str, Any] = {"score": self.rules.score, "tap": self.rules.tap}
        nothing = Offer(self.name, 0.0, 0.0)
        if self._network:
            offers = (one.assess(data, by) for one in self._for(data))
            return replace(max(offers, key=_at_home, default=nothing), name=self.name)
        if self.agent.classes not in ((), self.agent.community.classes(data)):
            return nothing
        there = self.agent.assess(data, split="train", **how)
        at_home = self.agent.assess(_joined(self.learned), split="validation", **how)
        overlap = sum(min(pair) for pair in zip(there.predicted, at_home.predicted, strict=True))
        known = min((there.known_fraction or 0.0) * overlap, 1.0)  # shares add up to nearly 1
        return Offer(self.name, known, self._score(at_home, by))

    def _score(self, at_home: Competence, measure: Measure) -> float:
        """How well it does in what it knows. A head is looked at now, if labels are there: others move its trunk."""
        now = measure.of(at_home) if isinstance(self.agent, OneHead) else None
        return self.agent.score_by(measure) if now is None else now

    def _for(self, data: Data) -> "list[Educated]":
        """The heads for the classes of data."""
        classes = self.agent.community.classes(data)
        return [one for one in self._heads.values() if one.agent.classes == classes]

    def speaking(self, data: Data) -> "Educated":
        """Who of it teaches about data: itself, or the head for their classes that is most at home in them.

        Raises:
            ContractError: it has none for them.
        """
        if not self._network:
            return self
        able = self._for(data) or [self._heads[self._network.speaking(self.agent.community.classes(data)).architecture.head]]
        return able[0] if len(able) == 1 else max(able, key=lambda one: _at_home(one.assess(data)))

    def can_learn(self, data: Data) -> bool:
        """Whether it has a head with room for the classes of data."""
        classes = self.agent.community.classes(data)
        if self._network:
            return bool(self._network.fitting(classes))
        return self.agent.architecture.num_classes >= len(classes)

    def decide(self, data: Data, me: Offer, others: Sequence[Offer], taught: Mapping[str, tuple[str, ...]]) -> Decision:
        """What it does about data, by its own rules; an agent decides. Waits.

        Args:
            data: that arrive.
            me: what it finds of itself.
            others: what the others answered.
            taught: in this cycle, by student, who taught it.

        Raises:
            ConfigError: its own rule cannot be collected.
            TrainingError: its own rule failed, or decided what cannot be.
        """
        rules = replace(self.rules, code=take(self.rules.rule)) if self.rules.rule else self.rules
        return self.agent.decide(data, me, others, rules, taught)

    def learn(self, data: Data, teachers: Sequence["Educated"], **recipe: Any) -> Lesson:
        """Learns data from teachers, by its policy, and protects what it knew; it can teach them afterwards.

        Args:
            data: labels of the training split are not used.
            teachers: the best first.
            recipe: fields of ``Recipe``.

        Raises:
            ConfigError: the policy needs taps, or does not go together with the protection.
        """
        policy, new, best = self.rules.policy, _specs(data), teachers[0]
        if self._network:
            if policy == "weights":
                return self._become(self._network, best, data)
            return self._learner(self._network, data).learn(data, [teacher.speaking(data) for teacher in teachers], **recipe)
        if policy == "weights":
            lesson, known = self.agent.average([best.agent]), [*best.learned, *new]
        elif policy == "data":
            speaking = best.speaking(data)
            known = [*self.learned, speaking.agent.share_data(_joined(speaking.learned)).result().spec]
            lesson = self.agent.train(_joined(known), **self._keeping(), **recipe)
        else:
            taught_by = [teacher.speaking(data).agent for teacher in teachers]
            lesson, known = self._be_taught(new, taught_by, recipe), [*self.learned, *new]
        self._learned = list(dict.fromkeys(known))
        self.agent.settle(_joined(self._learned))
        return lesson

    def _learner(self, network: SeveralHeads, data: Data) -> "Educated":
        """The head that learns data: of those that know their classes the one most at home, else one with room for them."""
        fitting = network.fitting(network.community.classes(data))
        known = [self._heads[one.architecture.head] for one in fitting if one.architecture.head in self._heads]
        if len(known) > 1:
            return max(known, key=lambda one: _at_home(one.assess(data)))
        return known[0] if known else self._take_in(network.by_data(data), [])

    def _become(self, network: SeveralHeads, best: "Educated", data: Data) -> Lesson:
        """Takes the best one's weights, with all heads, and what it knows."""
        taught_by = best.speaking(data).agent.architecture.head
        theirs_all = {one.architecture.head for one in best.agent.network.views()}
        lost = ", ".join(one.name for one in network.views() if one.architecture.head not in theirs_all)
        if lost:
            text = f"with policy weights all its heads would be those of {best.name}, and {lost} would lose what it has learned"
            raise ConfigError(f"{self.name}: {text}; choose another policy")
        lesson = network.average([best.agent])
        theirs = {head: list(one.learned) for head, one in best._heads.items()}
        if not theirs:
            theirs[taught_by] = list(best.learned)
        theirs.setdefault(taught_by, []).extend(_specs(data))
        self._heads.clear()
        for head, specs in theirs.items():
            made = self._take_in(network.head(head), list(dict.fromkeys(specs)))
            made.agent.settle(_joined(made.learned))
        return lesson

    def _keeping(self) -> dict[str, Any]:
        """How what the other heads say is kept while this one learns; nothing of a network with one."""
        others = {head: one for head, one in self._others.items() if one is not self and one.learned}
        if not others or self.rules.protection not in ("lwf", "replay"):
            return {}
        replays = self.rules.protection == "replay"
        return {"rehearse": {head: _joined(one.learned) if replays else None for head, one in others.items()}}

    def _be_taught(self, new: list[str], able: list[AgentHandle], recipe: dict[str, Any]) -> Lesson:
        rules, options = self.rules, dict(recipe)
        teachers: list[TeacherLike] = list(able)
        looked_at, earlier = new, self._earlier()
        if rules.policy == "architecture":
            if rules.protection == "ewc":
                raise ConfigError(f"{self.name}: with policy architecture no weights are left to protect; choose lwf or replay")
            self.agent.become(able[0].share_architecture().result())
        if rules.policy == "weights_and_fine_tune":
            options["start"] = "inherit"
        if rules.protection == "ewc":
            if any(one.learned for one in (self, *self._others.values())):
                (self.agent.whole if isinstance(self.agent, OneHead) else self.agent).consolidate()
                options["protect"] = rules.strength
        elif earlier is None:
            pass  # a head that has learned nothing says nothing yet that is to be kept
        elif rules.protection == "lwf":
            share = (1 - rules.own_share) / len(teachers)
            options["shares"] = [share] * len(teachers) + [rules.own_share]
            teachers = [*teachers, earlier]
        elif rules.protection == "replay":
            if len(teachers) > 1:
                raise ConfigError(f"{self.name}: with replay one teacher teaches what is new; choose protection ewc, lwf or none")
            looked_at = [*new, *self.learned]
            teachers = [*teachers, earlier]
            numbers = range(len(looked_at))
            options["route"] = [tuple(numbers[: len(new)]), tuple(numbers[len(new) :])]
        chosen: dict[str, Any] = {"alpha": 0, "hard_loss": "none", "keep": "last", **self._keeping(), **options}
        hidden = _joined([f"unlabelled:{spec}" for spec in looked_at])
        return self.agent.distill(teachers, hidden, self._objectives(), **chosen)

    def _earlier(self) -> Earlier | None:
        """What it is before a lesson; ``None`` of a head that has learned nothing."""
        return Earlier(self.name, self.agent.classes, self.agent.as_teacher()) if self.learned else None

    def _objectives(self) -> list[Objective]:
        soft, taps = SoftTargets(temperature=1), dict(self.rules.taps)
        wanted: dict[str, Callable[[], Objective]] = {
            "features": lambda: Features(taps=taps, weight=1),
            "relations": lambda: Pairwise(taps=taps, weight=1),
        }
        if self.rules.policy not in wanted:
            return [soft]
        if not taps:
            raise ConfigError(f"{self.name}: policy {self.rules.policy!r} needs taps=((OURS, THEIRS), ...)")
        return [soft, wanted[self.rules.policy]()]


def education_cycle(agents: Sequence[Educated], data: Data, **recipe: Any) -> dict[str, Decision]:
    """Data arrive at every agent. Each asks the others, decides by its own rules, and learns if it is a student.

    Returns once all have ended, with what each decided. What an agent finds of itself and what it decides are tasks of its own,
    recorded like its lesson.

    Args:
        agents: the community.
        data: what arrives; the labels of its training split are not used.
        recipe: fields of ``Recipe`` for those who learn.

    Raises:
        ConfigError: a network is given twice.
        TrainingError: a lesson failed; the others are finished first.
    """
    refuse_no_list("agents", agents)
    for agent in agents:
        must_be(agent, Educated, "an agent", "an agentkd.Educated")
    why = "give it once, with what each of its heads knows: Educated(agent, {HEAD: DATA, ...})"
    must_be_different([agent.agent for agent in agents], "an education cycle", why)
    measure = shared_measure([agent.measure for agent in agents])
    offers = {agent.name: agent.assess(data, measure) for agent in agents}
    named = {agent.name: agent for agent in agents}
    taught: dict[str, tuple[str, ...]] = {}
    decisions, lessons = {}, []
    for agent in agents:
        others = [offer for name, offer in offers.items() if name != agent.name]
        if not agent.can_learn(data):
            decisions[agent.name] = Decision(Role.IDLE, (), "has no head for their classes")
            continue
        decision = agent.decide(data, offers[agent.name], others, taught)
        decisions[agent.name] = decision
        if decision.role is Role.STUDENT:
            taught[agent.name] = decision.teachers
    for name, teachers in taught.items():
        lessons.append(named[name].learn(data, [named[teacher] for teacher in teachers], **recipe))
    for lesson in lessons:
        lesson.exception()
    for lesson in lessons:
        lesson.result()
    return decisions


def _must_know(agent: AgentHandle, specs: Sequence[str]) -> None:
    """Nothing, if a network, or head, may have learned these data.

    Raises:
        ContractError: their classes are others than its own.
    """
    for spec in specs:
        theirs = agent.community.classes(spec) if spec else ()
        if theirs and agent.classes and theirs != agent.classes:
            sides = (f"{agent.name} has", f"{spec[:60]} has")
            raise ContractError("classes", ", ".join(agent.classes), ", ".join(theirs), sides=sides)


def _at_home(offer: Offer) -> tuple[float, float]:
    """By which a head is chosen: how much it knows of data, not how well it does in its own."""
    return offer.known_fraction, offer.score


def path_of(rule: str | Callable[..., Decision]) -> str:
    """``module:name`` of a function; itself if it is that already."""
    if isinstance(rule, str):
        return rule
    if not callable(rule):
        raise ConfigError(f"the rule is {rule!r}; expected a function, or its path, such as my_rules:careful")
    path = f"{getattr(rule, '__module__', '')}:{getattr(rule, '__qualname__', '')}"
    if "<" in path or "." in path.partition(":")[2]:
        raise ConfigError(f"{path} is no function of a module; write it into a file of its own, such as my_rules.py")
    return path


def _specs(data: Data) -> list[str]:
    """What a dataset is joined of; itself if it is not."""
    must_be(data, (str, Opened), "the data", "a specification, or what agentkd.open_dataset returned")
    spec = data.spec if isinstance(data, Opened) else data
    return spec.removeprefix(JOINED).split("|")


def _joined(specs: Sequence[str]) -> str:
    return specs[0] if len(specs) == 1 else JOINED + "|".join(dict.fromkeys(specs))
