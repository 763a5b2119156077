"""A run folder looked at again and again: what is new in its journal, its feed and its processes goes onto a board.

Nothing is written there, no lock is taken, and nothing that is read is trusted to be what it should be.
"""

import logging
import os
import queue
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agentkd.artifacts.feed import FeedReader
from agentkd.artifacts.journal import Journal
from agentkd.artifacts.making import made_of
from agentkd.artifacts.run_folder import RunFolder, RunLock
from agentkd.errors import AgentKDError, ArtifactNotFoundError
from agentkd.exchange.hosts import host_name
from agentkd.experiment import RecordedExperiment
from agentkd.names import NO_DIGEST, Digest
from agentkd.visible import visible, visible_line
from agentkd.watch import verdict
from agentkd.watch.board import Board
from agentkd.watch.machine import Machine
from agentkd.watch.records import Recorded, read_new
from agentkd.watch.scene import Scene
from agentkd.watch.verdict import Prospect

LOOK_S = 0.25
IDLE_LOOK_S = 1.0
IDLE_AFTER_S = 30.0
MEASURE_EVERY_S = 2.0
JUDGE_EVERY_S = 2.0
JUDGE_SHARE = 0.05
"""Of the time that may go into making the run's plan again and again, which takes longer the longer a run is."""
MAX_TAIL = 64 * 1024
TRAINED = ("train", "distill", "mutual")

log = logging.getLogger(__name__)


class Watching:
    """Watches a run. ``look``, ``judge`` and what is asked of it may be called from any threads, one call of each at a time.

    Args:
        folder: of the run; it need not hold one yet.
        others: runs to compare with.
    """

    def __init__(self, folder: RunFolder, others: Iterable[RunFolder] = ()) -> None:
        self.folder, self.board = folder, Board()
        self.scene = Scene(self.board)
        self.verdict: Prospect | None = None
        self._others = tuple(others)
        self._feed = FeedReader(folder.feed, folder.earlier_feed)
        self._machine, self._host = Machine(), host_name()
        self._journal_seen: tuple[tuple[int, int], ...] = ()
        self._judged: tuple[tuple[int, int], ...] | None = None
        self._last_number, self._last_digest = 0, NO_DIGEST
        self._measured_at = self._heard_at = self._judged_at = -1e9
        self._judging_s = 0.0
        self._is_held = False
        self._found: queue.SimpleQueue[tuple[str, str, object]] = queue.SimpleQueue()  # of slower looks, for the board
        self._has_named = False
        self.board.put("run", "place", visible_line(str(folder.place)))
        self.board.put("run", "study", visible_line(str(folder.study)))

    @property
    def pause_s(self) -> float:
        """How long to wait until the next look."""
        return LOOK_S if time.monotonic() - self._heard_at < IDLE_AFTER_S else IDLE_LOOK_S

    def look(self) -> None:
        """Puts on the board what is new. Takes a moment, and of a long run at the first time some."""
        try:
            with made_of(self.folder.place, "page"):
                self._look()
            self.board.put("run", "fault", "")
        except (AgentKDError, OSError) as error:  # it may be read the next time
            self.board.put("run", "fault", verdict.refusal(error))

    def _look(self) -> None:
        now = time.monotonic()
        is_measuring = now - self._measured_at >= MEASURE_EVERY_S
        self._read_journal()  # first: it says which families there are, in their order
        lines = self._feed.read()
        if lines:
            self._heard_at = now
            self.scene.hear(lines)
        if is_measuring or lines:
            self._is_held = RunLock(self.folder).is_held
        if is_measuring:
            self._measured_at = now
            self._measure()
        host, _ = self.scene.began_by
        self.scene.settle(time.monotonic() if host == self._host else None, is_held=self._is_held)
        while not self._found.empty():
            self.board.put(*self._found.get())
        self.board.put("run", "condition", self._condition())

    def judge(self) -> None:
        """Makes the run's plan, if it is time to and something is new. What comes of it is on the board after the next look."""
        now, seen = time.monotonic(), self._journal_seen
        if seen == self._judged or now - self._judged_at < max(JUDGE_EVERY_S, self._judging_s / JUDGE_SHARE):
            return
        try:
            found = verdict.judge(self.folder)
        except AgentKDError as error:
            self._found.put(("run", "no_table", verdict.refusal(error) if self._last_number else ""))
        else:
            self.verdict = found
            plain = found.plain | {"has_pictures": verdict.has_pictures(found)}
            self._found.put(("run", "no_table", ""))
            self._found.put(("run", "verdict", plain))
        self._judged, self._judged_at = seen, time.monotonic()
        self._judging_s = self._judged_at - now

    def compare(self) -> None:
        """Reads the runs to compare with, once."""
        for other in self._others:
            shown: dict[str, Any] = {}
            try:
                with Journal(other.must_have_journal().journal, read_only=True) as journal:
                    shown["points"] = _points(read_new(journal, 0)[0])
                shown |= verdict.summary(verdict.judge(other))
            except AgentKDError as error:
                shown["note"] = verdict.refusal(error)
            self._found.put(("others", visible_line(str(other.place)), shown))
        self._others = ()

    def logs(self) -> list[str]:
        """The names of the logs in the run's folder, without ``.log``."""
        try:
            listed = [path for path in self.folder.logs.iterdir() if path.suffix == ".log"]
            return sorted(path.stem for path in listed if stat.S_ISREG(path.lstat().st_mode))
        except OSError:
            return []

    def log_tail(self, name: str) -> str:
        """The end of a log.

        Raises:
            ArtifactNotFoundError: there is none of that name.
        """
        if name not in self.logs():
            raise ArtifactNotFoundError(name[:100], self.folder.logs)
        return _tail(self.folder.logs / f"{name}.log")

    def pictures(self) -> bytes | None:
        """Images and what the final networks make of them, as PNG; ``None`` if there are none."""
        return verdict.pictures(self.verdict, self.folder) if self.verdict else None

    def _condition(self) -> str:
        if self._is_held:
            return "going on"
        if not self._last_number:
            return "empty"
        found = self.verdict
        if found is None:
            return "at rest"
        return "finished" if found.outlook.is_finished else "at rest"

    def _read_journal(self) -> None:
        seen = tuple(map(_state, (self.folder.journal, self.folder.journal.with_name(f"{self.folder.journal.name}-wal"))))
        if seen == self._journal_seen or not self.folder.journal.is_file():
            return
        try:
            with Journal(self.folder.must_have_journal().journal, read_only=True) as journal:
                if self._last_number and self._last_digest != _digest_of(journal, self._last_number):
                    self._begin_anew()  # another run lies here now
                if not self._has_named:
                    self._name(journal)
                records, self._last_number = read_new(journal, self._last_number)
                self._last_digest = _digest_of(journal, self._last_number)
        except AgentKDError as error:
            self.board.put("run", "note", verdict.refusal(error))
            return
        self.scene.record(records)
        self._journal_seen = seen
        self.board.put("run", "note", "")

    def _begin_anew(self) -> None:
        """What was seen here before is gone."""
        for section in ("tasks", "agents", "curves", "said"):
            for name in self.board.names(section):
                self.board.drop(section, name)
        self.scene, self._last_number, self._has_named, self.verdict = Scene(self.board), 0, False, None
        self._feed = FeedReader(self.folder.feed, self.folder.earlier_feed)

    def _name(self, journal: Journal) -> None:
        """What the journal says of the experiment, which it does before anything is recorded."""
        experiment = journal.get_meta("experiment", RecordedExperiment)
        if experiment is not None:
            self.scene.name_families(experiment.families)
            self.board.put("run", "name", visible_line(experiment.name))
            self._has_named = True

    def _measure(self) -> None:
        ours = {name: agent for name, agent in self.scene.agents.items() if agent.pid and agent.host == self._host}
        gpus, gpu_bytes = self._machine.gpus() if any(a.device.startswith("cuda") for a in ours.values()) else ({}, {})
        self.scene.measure(self._machine.usage({name: agent.pid for name, agent in ours.items()}, gpu_bytes))
        for uuid in set(self.board.names("gpus")) - gpus.keys():
            self.board.drop("gpus", uuid)
        for uuid, gpu in gpus.items():
            shown = {"index": gpu.index, "name": gpu.name, "share": gpu.share, "used": gpu.used_bytes, "total": gpu.total_bytes}
            self.board.put("gpus", uuid, shown)


def _points(records: list[Recorded]) -> list[tuple[int, float]]:
    return [(one.num_parameters, round(one.score, 5)) for one in records if one.kind in TRAINED and one.status == "completed"]


def _digest_of(journal: Journal, number: int) -> Digest:
    row = next(journal.rows(after=number - 1), None)
    return row.digest if row is not None and row.number == number else NO_DIGEST


def _state(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _tail(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:  # noqa: PTH123
            size = file.seek(0, 2)
            file.seek(max(0, size - MAX_TAIL))
            text = file.read(MAX_TAIL).decode(errors="replace")
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return visible(text if size <= MAX_TAIL else text.partition("\n")[2])
