"""A run as it is watched: what was recorded and what is heard of it, put together on a board. No files, no clock, no sockets."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentkd.artifacts import feed
from agentkd.names import NO_TASK, AgentName, TaskKey
from agentkd.networks.families import title
from agentkd.visible import visible_line
from agentkd.watch.board import Board
from agentkd.watch.records import Recorded, stage_of
from agentkd.watch.timeline import Timeline, seconds_of

MAX_SAID = 100
MAX_POINTS, MAX_CURVES = 120, 24
"""Of a learning curve under way: of a longer one every other point is left out; and how many are shown at a time."""
SHOWN_DIGITS = 16
"""Of a task's key: enough to tell tasks apart on a page."""
RUNNING, LOST = "running", "lost"
NAME = 200


@dataclass
class _Doing:
    """A task in an agent's hands."""

    started: feed.Started
    began_at: float
    progress: feed.Progress | None = None
    told_at: float = 0.0
    bytes_per_s: float = 0.0
    waiting: float = 0.0
    scores: list[tuple[float, float]] = field(default_factory=list)
    losses: list[tuple[float, float]] = field(default_factory=list)

    @property
    def stage(self) -> str:
        return stage_of(self.started.label)[0]

    def epoch_of(self, progress: feed.Progress) -> float:
        """How far it is, in epochs."""
        return round(progress.step / max(1, progress.steps) * max(1, self.started.epochs), 3)


@dataclass(frozen=True)
class Usage:
    """What a process takes now: bytes of memory, of a GPU too if that is known, and cores."""

    memory_bytes: int = 0
    cores: float | None = None
    gpu_bytes: int | None = None


class Scene:
    """Puts a run on a board. One thread calls its methods."""

    def __init__(self, board: Board) -> None:
        self.board, self.timeline = board, Timeline()
        self._families: dict[str, int] = {}
        self._began_at: float | None = None
        self._clock: tuple[str, float] = ("", 0.0)
        self._last_t = 0.0
        self._agents: dict[AgentName, feed.Agent] = {}
        self._doing: dict[TaskKey, _Doing] = {}
        self._times: dict[TaskKey, tuple[float, float]] = {}
        self._usage: Mapping[AgentName, Usage] = {}
        self._num_said = self._num_records = 0
        self._device_s = 0.0
        self._changed: set[AgentName] = set()
        self.planned: feed.Planned | None = None
        self.is_over = True

    @property
    def agents(self) -> Mapping[AgentName, feed.Agent]:
        """Those that are there."""
        return self._agents

    @property
    def began_by(self) -> tuple[str, float]:
        """On which host the newest sitting is, and what its monotonic clock said when it began."""
        return self._clock

    def now(self, clock: float | None) -> float:
        """The time, in seconds since 1970, by the coordinator: from its monotonic clock, or else the newest that it said."""
        if self._began_at is None:
            return 0.0
        return self._began_at + (self._last_t if clock is None else max(self._last_t, clock - self._clock[1]))

    # What is recorded.

    def record(self, records: Iterable[Recorded]) -> None:
        """Tasks that are recorded."""
        listed = list(records)
        self.timeline.work((r.ended_at - r.seconds, r.ended_at) for r in listed if r.ended_at)
        for one in listed:
            known = self._times.pop(one.task, None)
            start, end = known or (one.ended_at - one.seconds, one.ended_at)
            self._forget(one.task)
            self._num_records += 1
            self._device_s += one.seconds
            item = self._task(one.agent, one.family, one.stage, start, end, one.status, one.label, one.kind)
            item |= {"score": round(one.score, 5), "size": one.num_parameters, "tries": one.attempts}
            item |= {"seconds": round(one.seconds, 2), "memory": one.peak_memory_bytes, "error": one.error}
            item |= {"bytes": one.received_bytes, "waited": round(one.waited_s, 2), "teachers": list(one.teachers)}
            self.board.put("tasks", one.task[:SHOWN_DIGITS], _without_nothing(item))
        if listed:
            self.board.put("run", "breaks", [round(place, 1) for place in self.timeline.breaks])
            self.board.put("run", "recorded", {"tasks": self._num_records, "device_s": round(self._device_s, 1)})

    def _task(
        self, agent: str, family: str, stage: str, start: float, end: float | None, status: str, label: str, kind: str
    ) -> dict[str, Any]:
        """An item of a task, with what every task has."""
        return {
            "agent": agent,
            "family": self._family(family),
            "stage": stage,
            "from": round(self.timeline.place(start), 2),
            "to": None if end is None else round(self.timeline.place(end), 2),
            "status": status,
            "label": label,
            "kind": kind,
        }

    def name_families(self, families: Iterable[str]) -> None:
        """Those of the experiment, in its order, which is that of their colors."""
        for family in families:
            self._family(family)

    def _family(self, family: str) -> int:
        if family not in self._families:
            self._families[family] = len(self._families)
            names = [{"name": name, "title": visible_line(title(name))[:NAME]} for name in self._families]
            self.board.put("run", "families", names)
        return self._families[family]

    # What is heard.

    def hear(self, lines: Iterable[feed.AnyLine]) -> None:
        """Lines of the feed, in their order."""
        for line in lines:
            if isinstance(line, feed.Began):
                self._begin(line)
                continue
            self._last_t = max(self._last_t, line.t)
            at = (self._began_at or 0.0) + line.t
            if isinstance(line, feed.Agent):
                self._agents[line.agent] = line
                self._changed.add(line.agent)
            elif isinstance(line, feed.Gone):
                self._leave(line.agent)
            elif isinstance(line, feed.Started):
                self._start(line, at)
            elif isinstance(line, feed.Moved):
                self._move(line)
            elif isinstance(line, feed.Progress):
                self._note_progress(line, at)
            elif isinstance(line, feed.Ended):
                self._end(line, at)
            elif isinstance(line, feed.Planned):
                self.planned = line
            elif isinstance(line, feed.Said):
                self._say(line, at)
            elif isinstance(line, feed.Over):
                self.stop(line.text)

    def stop(self, why: str = "") -> None:
        """Nobody works on the run now."""
        if self.is_over:
            return
        at = self.now(None)
        for key in list(self._doing):
            self._lose(key, at)
        for name in list(self._agents):
            self._leave(name)
        self.is_over, self.planned = True, None
        self.board.put("run", "ended_because", why)

    def _begin(self, line: feed.Began) -> None:
        if not line.is_continued:
            self.is_over = False
            self.stop()
        began_at = seconds_of(line.at)
        self._began_at, self._clock, self._last_t, self.is_over = began_at, (line.host, line.clock), 0.0, False
        self.timeline.work([(began_at, began_at)])
        self.board.put("run", "ended_because", "")

    def _start(self, line: feed.Started, at: float) -> None:
        known = self._doing.get(line.task)
        if known is not None and known.started.attempt == line.attempt:
            return  # said again, at the beginning of a new file
        if known is not None:
            self._lose(line.task, at)
        self._doing[line.task] = _Doing(line, at, told_at=at)
        stage, label = stage_of(line.label)
        item = self._task(line.agent, line.family, stage, at, None, RUNNING, visible_line(label)[:NAME], line.kind)
        item |= {"tries": line.attempt, "teachers": [agent for _, agent in line.teachers]}
        self.board.put("tasks", line.task[:SHOWN_DIGITS], _without_nothing(item))
        self._changed |= {line.agent, *(agent for _, agent in line.teachers)}

    def _move(self, line: feed.Moved) -> None:
        for doing in self._doing.values():
            if doing.started.agent == line.agent:
                teachers = tuple((one, line.at if one == line.teacher else at) for one, at in doing.started.teachers)
                self._changed |= {line.agent, line.at, *(at for _, at in doing.started.teachers)}
                doing.started = doing.started.model_copy(update={"teachers": teachers})

    def _note_progress(self, line: feed.Progress, at: float) -> None:
        doing = self._doing.get(line.task)
        if doing is None:
            return
        before, passed = doing.progress, at - doing.told_at
        if before is not None and passed > 0:
            doing.bytes_per_s = max(0, line.received_bytes - before.received_bytes) / passed
            doing.waiting = min(1.0, max(0.0, line.waited_s - before.waited_s) / passed)
        doing.progress, doing.told_at = line, at
        epoch = doing.epoch_of(line)
        if line.score is not None and (not doing.scores or doing.scores[-1][1] != round(line.score, 5)):
            _add(doing.scores, (epoch, round(line.score, 5)))
        if line.loss is not None:
            _add(doing.losses, (epoch, round(line.loss, 5)))
        curve = {"family": self._family(doing.started.family), "stage": doing.stage, "label": self._label(doing)}
        curve |= {"scores": list(doing.scores), "losses": list(doing.losses), "agent": doing.started.agent}
        name = line.task[:SHOWN_DIGITS]
        if self.board.get("curves", name) or len(self.board.names("curves")) < MAX_CURVES:
            self.board.put("curves", name, curve)
        self._changed |= {doing.started.agent, *(agent for _, agent in doing.started.teachers)}

    def _end(self, line: feed.Ended, at: float) -> None:
        doing = self._doing.pop(line.task, None)
        if doing is None:
            return
        name = line.task[:SHOWN_DIGITS]
        self.timeline.work([(doing.began_at, at)])
        self._times[line.task] = doing.began_at, at
        end = {"to": round(self.timeline.place(at), 2), "status": line.status, "score": round(line.score, 5)}
        end |= {"size": line.parameters, "seconds": round(line.seconds, 2), "tries": line.attempts, "error": line.text}
        self.board.put("tasks", name, _without_nothing(self.board.get("tasks", name) | end))
        self.board.drop("curves", name)
        self._changed |= {doing.started.agent, *(agent for _, agent in doing.started.teachers)}

    def _lose(self, key: TaskKey, at: float) -> None:
        """An attempt has come to nothing."""
        doing, name = self._doing.pop(key), key[:SHOWN_DIGITS]
        item = self.board.get("tasks", name)
        if item is not None and item["status"] == RUNNING:
            self.board.drop("tasks", name)
            lost = item | {"to": round(self.timeline.place(at), 2), "status": LOST}
            self.board.put("tasks", f"{name}.{doing.started.attempt}", lost)
        self.board.drop("curves", name)
        self._changed |= {doing.started.agent, *(agent for _, agent in doing.started.teachers)}

    def _forget(self, key: TaskKey) -> None:
        doing = self._doing.pop(key, None)
        if doing is not None:
            self.board.drop("curves", key[:SHOWN_DIGITS])
            self._changed |= {doing.started.agent, *(agent for _, agent in doing.started.teachers)}

    def _leave(self, agent: AgentName) -> None:
        self._agents.pop(agent, None)
        self._changed.discard(agent)
        self.board.drop("agents", agent)

    def _say(self, line: feed.Said, at: float) -> None:
        self._num_said += 1
        said = {"at": round(self.timeline.place(at), 1), "text": visible_line(line.text)}
        self.board.put("said", str(self._num_said), said)
        self.board.drop("said", str(self._num_said - MAX_SAID))

    # What is put on the board when all was heard.

    def measure(self, usage: Mapping[AgentName, Usage]) -> None:
        """What agents' processes take."""
        self._changed |= {name for name in self._agents if usage.get(name) != self._usage.get(name)}
        self._usage = usage

    def settle(self, clock: float | None, *, is_held: bool) -> None:
        """Puts agents and counts on the board, as they are at this time.

        Args:
            clock: the monotonic clock of the coordinator's host; ``None`` elsewhere.
            is_held: whether a coordinator holds the folder.
        """
        if not is_held:
            self.stop()
        now = self.now(clock)
        if not self.is_over:
            self.timeline.work([(now, now)])
        students = self._students()
        for name in self._changed & self._agents.keys():
            self.board.put("agents", name, self._agent(self._agents[name], students.get(name, [])))
        self._changed.clear()
        running = sum(max(0.0, now - doing.began_at) for doing in self._doing.values())
        counts: dict[str, float] = {"running": len(self._doing), "agents": len(self._agents), "running_s": round(running)}
        if self.planned is not None:
            counts |= {"expected": self.planned.num_expected, "planned": self.planned.num_recorded}
            counts |= {"left_s": self.planned.left_s} if self.planned.left_s is not None else {}
        self.board.put("run", "counts", counts if not self.is_over else {"running": 0, "agents": 0, "running_s": 0})
        self.board.put("run", "now", round(self.timeline.place(now)) if not self.is_over else None)

    def _students(self) -> dict[AgentName, list[AgentName]]:
        found: dict[AgentName, list[AgentName]] = {}
        for doing in self._doing.values():
            for _, teacher in doing.started.teachers:
                found.setdefault(teacher, []).append(doing.started.agent)
        return found

    def _agent(self, agent: feed.Agent, students: list[AgentName]) -> dict[str, Any]:
        item: dict[str, Any] = {"role": agent.role, "condition": agent.condition, "device": agent.device, "pid": agent.pid}
        doing = self._doing.get(agent.task) if agent.task != NO_TASK else None
        if doing is not None and doing.started.agent == agent.agent:
            item |= {"task": agent.task[:SHOWN_DIGITS], "doing": self._label(doing), "stage": doing.stage}
            item |= {"family": self._family(doing.started.family), "hears": [at for _, at in doing.started.teachers]}
            if (told := doing.progress) is not None:
                item |= {"step": told.step, "steps": told.steps, "score": told.score}
                item |= {"loss": None if told.loss is None else round(told.loss, 4)}
            if doing.started.teachers:
                item |= {"bytes_per_s": round(doing.bytes_per_s), "waits": round(doing.waiting, 3)}
        item |= {"teaches": sorted(students)}
        used = self._usage.get(agent.agent)
        if used is not None:
            item |= {"memory": used.memory_bytes, "cores": used.cores, "gpu_memory": used.gpu_bytes}
        return _without_nothing(item)

    def _label(self, doing: _Doing) -> str:
        stage, label = stage_of(doing.started.label)
        shown = visible_line(label)[:NAME]
        name = visible_line(title(doing.started.family))[:NAME]
        return f"{name}: {shown}" if stage else shown


def _add(points: list[tuple[float, float]], point: tuple[float, float]) -> None:
    points.append(point)
    if len(points) > MAX_POINTS:
        del points[1:-1:2]


def _without_nothing(item: dict[str, Any]) -> dict[str, Any]:
    """An item without what says nothing."""
    return {name: value for name, value in item.items() if value not in (None, "", [], ()) or name == "to"}
