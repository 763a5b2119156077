"""What a dispatcher was told and decided: kept while it fits, told in lines, and enough to decide it all again."""

from dataclasses import dataclass, fields

from agentkd.coordinator.events import Action, Event
from agentkd.coordinator.state import State
from agentkd.task import DataSource, Task, TeacherReference

CHAPTER = 1000
SHOWN_DIGITS = 12


@dataclass(frozen=True)
class Happened:
    """One event and what was decided upon it."""

    event: Event
    actions: tuple[Action, ...]

    def __str__(self) -> str:
        decided = ", ".join(_describe(action) for action in self.actions)
        return f"{_describe(self.event)} -> {decided or 'nothing'}"


@dataclass(frozen=True)
class Story:
    """Events and what was decided upon each, from a state on. ``str`` of it is for reading, a line an event."""

    start: State
    told: tuple[Happened, ...]

    def __str__(self) -> str:
        return "\n".join(str(told) for told in self.told)


class Author:
    """Writes a story down. Of a long one the beginning is forgotten, a chapter of a thousand events at a time."""

    def __init__(self, start: State) -> None:
        self._start, self._earlier, self._told = start.copy(), tuple[Happened, ...](), list[Happened]()
        self._chapter_start = self._start

    def note(self, event: Event, actions: list[Action], state: State) -> None:
        """Adds what was decided upon an event. ``state`` is how things stand afterwards."""
        self._told.append(Happened(event, tuple(actions)))
        if len(self._told) == CHAPTER:
            self._start, self._earlier = self._chapter_start, tuple(self._told)
            self._chapter_start, self._told = state.copy(), []

    def story(self) -> Story:
        """All that is still known, from its beginning on."""
        return Story(self._start.copy(), (*self._earlier, *self._told))


def _describe(said: object) -> str:
    """An event or action, or a part of one, as briefly as it can be recognized."""
    if isinstance(said, str):
        return said[:SHOWN_DIGITS]
    if isinstance(said, Task):
        return str(said.kind)
    if isinstance(said, TeacherReference):
        return said.weights[:SHOWN_DIGITS]
    if isinstance(said, DataSource):
        return said.spec
    if isinstance(said, tuple | frozenset):
        return f"({', '.join(_describe(part) for part in said)})"
    if isinstance(said, dict):
        return f"({', '.join(f'{_describe(key)}: {_describe(value)}' for key, value in said.items())})"
    if isinstance(said, Event | Action):
        told = [(part.default, getattr(said, part.name)) for part in fields(said)]
        return f"{type(said).__name__}({', '.join(_describe(value) for default, value in told if value != default)})"
    return str(said)
