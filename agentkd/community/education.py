"""Education cycles: data arrive, and every agent decides by its own rules whether it teaches, learns, or leaves it."""

from collections.abc import Callable, Sequence
from typing import Any

from agentkd.community.futures import Lesson
from agentkd.community.handles import AgentHandle, Data
from agentkd.community.rules import Decision, Offer, Role, Rules, decide
from agentkd.datasets.opening import Opened
from agentkd.errors import ConfigError
from agentkd.objectives import Features, Objective, Pairwise, SoftTargets


class Educated:
    """An agent with rules, and a memory of the data that it has learned.

    Args:
        agent: its network.
        learned: data that it knows already.
        rules: how it judges and learns.
    """

    def __init__(self, agent: AgentHandle, learned: Data, rules: Rules | None = None) -> None:
        self.agent, self.rules = agent, rules or Rules()
        self.learned = [_spec(learned)]

    @property
    def name(self) -> str:
        """The agent's name."""
        return self.agent.name

    def assess(self, data: Data) -> Offer:
        """What it says of itself about data; labels are not looked at.

        Pixels alone can deceive: a network may be sure of itself where everything is strange. So what is known counts as far as
        the classes that it sees there are as frequent as in what it learned.
        """
        there = self.agent.assess(data, split="train")
        at_home = self.agent.assess("joined:" + "|".join(self.learned), split="validation")
        overlap = sum(min(pair) for pair in zip(there.predicted, at_home.predicted, strict=True))
        return Offer(self.name, (there.known_fraction or 0.0) * overlap, self.agent.miou)

    def learn(self, data: Data, teachers: Sequence["Educated"], **recipe: Any) -> Lesson:
        """Learns data from teachers, by its policy, and protects what it knew; it can teach them afterwards.

        Args:
            data: labels of the training split are not used.
            teachers: the best first.
            recipe: fields of ``Recipe``.

        Raises:
            ConfigError: the policy needs taps, or an equal architecture, and there is none.
        """
        rules, new = self.rules, _spec(data)
        best = teachers[0].agent
        if rules.policy == "weights":
            lesson = self.agent.average([best])
        elif rules.policy == "data":
            lesson = self.agent.train("joined:" + "|".join(self._remembered(teachers[0].learned)), **recipe)
        else:
            lesson = self._be_taught(new, [teacher.agent for teacher in teachers], recipe)
        self.learned.append(new)
        self.agent.settle("joined:" + "|".join(self.learned))
        return lesson

    def _be_taught(self, new: str, teachers: list[AgentHandle], recipe: dict[str, Any]) -> Lesson:
        rules, options = self.rules, dict(recipe)
        hidden = f"unlabelled:{new}"
        if rules.policy == "weights_and_fine_tune":
            options["start"] = "inherit"
        if rules.protection == "ewc":
            self.agent.consolidate()
            options["protect"] = rules.strength
        elif rules.protection == "lwf":
            share = (1 - rules.own_share) / len(teachers)
            options["shares"] = [share] * len(teachers) + [rules.own_share]
            teachers = [*teachers, self.agent]
        elif rules.protection == "replay":
            hidden = "joined:" + "|".join(f"unlabelled:{spec}" for spec in (new, *self.learned))
            teachers = [*teachers[:1], self.agent]
            options["route"] = [(0,), tuple(range(1, len(self.learned) + 1))]
        chosen: dict[str, Any] = {"alpha": 0, "hard_loss": "none", "keep": "last", **options}
        return self.agent.distill(teachers, hidden, self._objectives(), **chosen)

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

    def _remembered(self, theirs: list[str]) -> list[str]:
        return list(dict.fromkeys([*self.learned, *theirs]))


def education_cycle(agents: Sequence[Educated], data: Data, **recipe: Any) -> dict[str, Decision]:
    """Data arrive at every agent. Each asks the others, decides by its own rules, and learns if it is a student.

    Returns once all have ended, with what each decided.

    Args:
        agents: the community.
        data: what arrives; the labels of its training split are not used.
        recipe: fields of ``Recipe`` for those who learn.

    Raises:
        TrainingError: a lesson failed; the others are finished first.
    """
    offers = {agent.name: agent.assess(data) for agent in agents}
    named = {agent.name: agent for agent in agents}
    taught: dict[str, tuple[str, ...]] = {}
    decisions, lessons = {}, []
    for agent in agents:
        others = [offer for name, offer in offers.items() if name != agent.name]
        decision = decide(offers[agent.name], others, agent.rules, taught)
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


def _spec(data: Data) -> str:
    return data.spec if isinstance(data, Opened) else data
