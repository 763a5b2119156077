"""Who teaches whom, as data: a graph that can be stored, compared, drawn by lot, and carried out."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator, model_validator

from agentkd.canonical import FrozenData
from agentkd.community.futures import Lesson
from agentkd.community.handles import AgentHandle
from agentkd.community.works import Data
from agentkd.errors import ConfigError
from agentkd.objectives import Objective, SoftTargets


class Edge(FrozenData):
    """One network teaches another.

    Args:
        objectives: what is learned, with weights, schedules and gates. All edges to one student need the same.
        share: weight among the student's teachers.
    """

    teacher: str
    student: str
    objectives: tuple[Objective, ...] = Field(default=(SoftTargets(),), min_length=1)
    share: float = Field(default=1.0, gt=0)


class TransferGraph(FrozenData):
    """Edges from teachers to students without a circle. A student that also teaches does so once it has learned: a chain.

    Example:
        >>> chain = TransferGraph(edges=[{"teacher": "a", "student": "b"}, {"teacher": "b", "student": "c"}])
        >>> chain.students
        ('b', 'c')
    """

    edges: tuple[Edge, ...] = Field(min_length=1)

    @field_validator("edges")
    @classmethod
    def _check_edges(cls, edges: tuple[Edge, ...]) -> tuple[Edge, ...]:
        pairs = [(edge.teacher, edge.student) for edge in edges]
        if len(set(pairs)) < len(pairs):
            raise ValueError("an edge stands twice")
        for student in {edge.student for edge in edges}:
            if len({edge.objectives for edge in edges if edge.student == student}) > 1:
                raise ValueError(f"the edges to {student} have different objectives")
        return edges

    @model_validator(mode="after")
    def _check_order(self) -> "TransferGraph":
        left = [student for student in dict.fromkeys(edge.student for edge in self.edges) if student not in self.students]
        if left:
            raise ValueError(f"{', '.join(left)} would be taught by who learns from them; use agentkd.mutual for that")
        return self

    @property
    def students(self) -> tuple[str, ...]:
        """Every student, after those students that teach it."""
        waiting = list(dict.fromkeys(edge.student for edge in self.edges))
        ordered: list[str] = []
        while ready := [one for one in waiting if not {e.teacher for e in self.edges if e.student == one} & set(waiting)]:
            ordered += ready
            waiting = [one for one in waiting if one not in ready]
        return tuple(ordered)

    def teach(self, networks: Mapping[str, AgentHandle], data: Data, **options: Any) -> dict[str, Lesson]:
        """Carries the graph out; returns a future for each student. Waits for students that are teachers of others.

        Args:
            networks: those that the edges name.
            data: what is learned.
            options: as of ``AgentHandle.distill``.

        Raises:
            ConfigError: an edge names a network that is not there, or two names are of the same one.
        """
        missing = sorted({name for edge in self.edges for name in (edge.teacher, edge.student)} - networks.keys())
        if missing:
            raise ConfigError(f"the graph names {', '.join(missing)}; there are {', '.join(networks)}")
        self._must_be_different(networks)
        lessons = {}
        for student in self.students:
            edges = [edge for edge in self.edges if edge.student == student]
            lessons[student] = networks[student].distill(
                [networks[edge.teacher] for edge in edges],
                data,
                edges[0].objectives,
                shares=[edge.share for edge in edges],
                **options,
            )
        return lessons

    def _must_be_different(self, networks: Mapping[str, AgentHandle]) -> None:
        """Nothing, if no two names are of the same network, or the same head of one.

        Raises:
            ConfigError: two are: it would be taught by itself.
        """
        named: dict[int, str] = {}
        for name in dict.fromkeys(name for edge in self.edges for name in (edge.teacher, edge.student)):
            first = named.setdefault(id(networks[name]), name)
            if first != name:
                raise ConfigError(f"the graph names {first} and {name}, and both are {networks[name].name}; give each its own")
