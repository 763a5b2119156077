"""What happens among agents, told to the feed of the run: a line each, for whoever watches. Nothing is decided here, or waits."""

import logging
import os
import time
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ValidationError

from agentkd.artifacts import feed
from agentkd.artifacts.run_folder import RunFolder
from agentkd.coordinator.dispatch import Dispatcher
from agentkd.coordinator.events import Action, Event, Move
from agentkd.coordinator.members import Members
from agentkd.coordinator.underway import Doing, Finished, Underway
from agentkd.coordinator.watching import Snapshot, Watcher
from agentkd.exchange.hosts import host_name
from agentkd.messages.bodies import TaskProgressEvent
from agentkd.names import AgentName, TaskKey
from agentkd.task import Training
from agentkd.visible import visible_line

EVERY_S = 1.0
"""Between two lines on how far a task is, unless something else is new: longer where there are many agents."""
MANY = 250
FLUSH_EVERY_S = 0.2

log = logging.getLogger(__name__)


class Situation:
    """How things stand with agents and tasks, as lines of a feed."""

    def __init__(self, dispatcher: Dispatcher, members: Members, underway: Underway) -> None:
        self._dispatcher, self._members, self._underway = dispatcher, members, underway

    @property
    def num_agents(self) -> int:
        """How many are there."""
        return len(self._dispatcher.state.members)

    def agent(self, name: AgentName) -> dict[str, Any] | None:
        """How an agent is; ``None`` if it is gone."""
        member = self._dispatcher.state.members.get(name)
        if member is None:
            return None
        pid, host = self._members.process_of(name)
        return {
            "agent": name,
            "role": "guest" if member.is_guest else member.bench.value,
            "condition": member.condition.value,
            "device": self._members.device_of(name) or member.device,
            "slot": member.slot,
            "host": host,
            "pid": pid,
            "task": member.task,
            "weights": member.weights,
        }

    def agents(self) -> Iterator[dict[str, Any]]:
        """All of them."""
        return filter(None, map(self.agent, self._dispatcher.state.members))

    def started(self) -> Iterator[Doing]:
        """The tasks that agents have in hand."""
        return (doing for member in self._dispatcher.state.members.values() if (doing := self._underway.find(member.task)))

    def doing(self, key: TaskKey) -> Doing | None:
        """What is known of a task in an agent's hands."""
        return self._underway.find(key)


class Narrator:
    """Writes a feed, and passes on what a watcher is shown and told. One thread calls its methods; none of them raises.

    Args:
        folder: of the run.
        watcher: who is told besides.
    """

    def __init__(self, folder: RunFolder, watcher: Watcher) -> None:
        self._watcher, self._began = watcher, time.monotonic()
        self._at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._feed = feed.FeedWriter(folder.feed, folder.earlier_feed, self._restated, watcher.tell)
        self._situation: Situation | None = None
        self._agents: dict[AgentName, dict[str, Any]] = {}
        self._heard: dict[TaskKey, tuple[float, float | None]] = {}
        self._planned: dict[str, Any] = {}
        self._planned_at = self._flushed_at = 0.0
        self._has_begun = False

    # What a watcher is asked for.

    def show(self, snapshot: Snapshot) -> None:
        """How far the run is."""
        now = self._now()
        counts = {"num_recorded": snapshot.num_recorded, "num_expected": snapshot.num_expected}
        is_new = any(self._planned.get(name) != value for name, value in counts.items())
        if is_new or now - self._planned_at >= EVERY_S:
            left = None if snapshot.left_s is None else round(snapshot.left_s, 1)
            if is_new or left != self._planned.get("left_s"):
                self._planned = counts | {"left_s": left}
                self._add(feed.Planned, self._planned)
            self._planned_at = now
        self._watcher.show(snapshot)

    def tell(self, line: str) -> None:
        """Something happened."""
        self._add(feed.Said, {"text": _text(line)})
        self._watcher.tell(line)

    # What a crew says.

    def begin(self, situation: Situation) -> None:
        """Agents are about to be started."""
        self._situation, self._has_begun = situation, True

    def note(self, actions: Iterable[Action], event: Event | None = None) -> None:
        """What was decided, perhaps upon an event, and is done."""
        if self._situation is None:
            return
        listed = [*([event] if event is not None else []), *actions]
        for said in listed:
            if isinstance(said, Move):
                self._add(feed.Moved, {"agent": said.student, "teacher": said.teacher_id, "at": said.teacher})
        for name in dict.fromkeys(name for said in listed if (name := getattr(said, "agent", None))):
            self._note_agent(name)

    def started(self, doing: Doing) -> None:
        """An agent was given a task."""
        self._heard.pop(doing.task.key, None)
        self._add(feed.Started, _started(doing))

    def progress(self, body: TaskProgressEvent) -> None:
        """An agent says how far its task is, and what it says counts."""
        if self._situation is None:
            return
        now, score = self._now(), body.judged_by
        at, told = self._heard.get(body.task, (-EVERY_S, None))
        pace = EVERY_S * max(1.0, self._situation.num_agents / MANY)
        if now - at >= pace or score != told or body.step == body.steps:
            self._heard[body.task] = now, score
            self._add(feed.Progress, _progress(body))

    def ended(self, finished: Finished) -> None:
        """A task has a result, or was given up."""
        self._heard.pop(finished.key, None)
        result = finished.result
        line = {
            "task": finished.key,
            "agent": finished.agent,
            "attempts": finished.attempts,
            "status": result.status.value,
            "score": result.judged_by,
            "parameters": result.num_parameters_deploy,
            "seconds": result.seconds,
            "text": _text(result.error_text.partition("\n")[0]),
        }
        self._add(feed.Ended, line)

    def turn(self) -> None:
        """A moment has passed: what was said is written."""
        now = self._now()
        if self._has_begun and now - self._flushed_at >= FLUSH_EVERY_S:
            self._flushed_at = now
            self._feed.flush()

    def close(self, why: str = "") -> None:
        """The sitting is over."""
        if self._has_begun:
            self._add(feed.Over, {"text": _text(why)})
            self._feed.close()

    def _note_agent(self, name: AgentName) -> None:
        assert self._situation is not None
        now, before = self._situation.agent(name), self._agents.get(name)
        if now is None and before is not None:
            del self._agents[name]
            self._add(feed.Gone, {"agent": name})
        elif now is not None and now != before:
            self._agents[name] = now
            self._add(feed.Agent, now)

    def _restated(self, is_continued: bool) -> Iterator[feed.Line]:
        began = {"at": self._at, "clock": self._began, "host": host_name(), "pid": os.getpid()}
        told: list[tuple[type[feed.Line], dict[str, Any]]] = [(feed.Began, began | {"is_continued": is_continued})]
        if self._situation is not None and is_continued:
            told += [(feed.Planned, self._planned)] if self._planned else []
            told += [(feed.Agent, agent) for agent in self._situation.agents()]
            for doing in self._situation.started():
                told.append((feed.Started, _started(doing)))
                told += [(feed.Progress, _progress(doing.progress))] if doing.progress else []
        for kind, fields in told:
            line = self._line(kind, fields)
            if line is not None:
                yield line

    def _add(self, kind: type[feed.Line], fields: dict[str, Any]) -> None:
        line = self._line(kind, fields)
        if line is not None:
            self._feed.add(line)

    def _line(self, kind: type[feed.Line], fields: dict[str, Any]) -> feed.Line | None:
        try:
            return kind(t=0.0 if kind is feed.Began else round(self._now(), 3), **fields)
        except ValidationError as error:  # a guest may say of itself what it likes
            log.debug("the feed has no line for this: %s", error)
            return None

    def _now(self) -> float:
        return time.monotonic() - self._began


def narrated(folder: RunFolder, watcher: Watcher) -> Narrator:
    """The narrator of a run who tells this watcher too: itself, if it is one."""
    return watcher if isinstance(watcher, Narrator) else Narrator(folder, watcher)


def _started(doing: Doing) -> dict[str, Any]:
    task = doing.task
    return {
        "task": task.key,
        "agent": doing.agent,
        "attempt": doing.attempt,
        "label": _text(doing.label),
        "kind": str(task.kind),
        "family": _name(task.architecture.family),
        "epochs": task.recipe.epochs if isinstance(task, Training) else 0,
        "teachers": doing.teachers,
    }


def _progress(body: TaskProgressEvent) -> dict[str, Any]:
    return {
        "task": body.task,
        "step": body.step,
        "steps": body.steps,
        "loss": body.loss,
        "score": body.judged_by,
        "received_bytes": body.received_bytes,
        "waited_s": round(body.waited_s, 3),
    }


def _text(text: str) -> str:
    return visible_line(text)[: feed.MAX_TEXT]


def _name(text: str) -> str:
    return visible_line(text)[: feed.MAX_NAME]
