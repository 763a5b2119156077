"""The desk: whoever waits is told, whatever ends it; what is recorded is not done again, and nothing is told before."""

import itertools
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import pytest

from agentkd.architecture import Architecture
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.run_folder import RunFolder, RunLock
from agentkd.community.community import Community
from agentkd.community.futures import Lesson
from agentkd.community.host import Host
from agentkd.coordinator.crew import Crew
from agentkd.coordinator.desk import Desk, Done, Order
from agentkd.coordinator.underway import Finished
from agentkd.coordinator.watching import Activity, Silent
from agentkd.errors import ArtifactError, ChannelClosedError, StorageError, TrainingError
from agentkd.exchange.post import Delivery
from agentkd.launch.settings import LaunchConfig
from agentkd.messages.bodies import Body, ErrorReply, SubmitRequest, TaskProgressEvent
from agentkd.messages.wire import Message
from agentkd.task import DataSource, Status, Task, TaskResult, Train

Happening = Finished | BaseException | Callable[[], None]
GOOD = TaskResult(status=Status.COMPLETED, weights="a" * 64, miou=0.5)
BAD = TaskResult(status=Status.FAILED, error_code="non_finite_loss", error_text="nan")


def work(seed: int) -> Train:
    data = DataSource(spec="s", content_digest="d")
    return Train(architecture=Architecture(family="unet", num_classes=2), data=data, seed=seed)


def order(seed: int, waiting: Lesson | None = None, *, keeps_failure: bool = False) -> Order:
    return Order(work(seed), f"task {seed}", waiting, keeps_failure)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


class Scripted:
    """Somebody whose tasks come out as a test says: ``happenings`` are what the next turn brings, one after the other."""

    def __init__(self) -> None:
        self.happenings: list[Happening] = []
        self.wanted: list[str] = []
        self.noted: list[tuple[Task, TaskResult]] = []
        self.num_roused = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *rest: object) -> None: ...

    def want(self, tasks: Iterable[tuple[str, Task, str]]) -> None:
        self.wanted += [label for _, _, label in tasks]

    def note(self, task: Task, result: TaskResult) -> None:
        self.noted.append((task, result))

    def turn(self) -> list[Finished]:
        now, self.happenings = self.happenings, []
        done = []
        for one in now:
            if isinstance(one, BaseException):
                raise one
            if isinstance(one, Finished):
                done.append(one)
            else:
                one()
        return done

    def progress(self, key: str) -> TaskProgressEvent | None:
        return TaskProgressEvent(task=key, attempt=1, step=1, steps=2, loss=0.5)

    def activities(self) -> tuple[Activity, ...]:
        return ()

    def rouse(self) -> None:
        self.num_roused += 1


@pytest.fixture
def crew() -> Scripted:
    return Scripted()


def finished(seed: int, result: TaskResult = GOOD) -> Finished:
    return Finished(work(seed).key, result, "agent-1", 2, ())


def test_a_result_is_recorded_once_and_told_to_everybody_who_waits(
    folder: RunFolder, crew: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, later = Lesson(), Lesson(), Lesson()
    with Desk(folder, lambda: crew) as desk:
        desk.submit([order(1, first), order(1, second)])
        assert desk.turn() == [] and not first.done()
        assert first._events.get_nowait() == crew.progress(work(1).key)
        assert desk.turn() == [] and first._events.empty(), "it is told once"
        with monkeypatch.context() as patch:
            patch.setattr(Scripted, "progress", lambda crew, key: None)
            assert desk.turn() == [] and first._events.empty(), "nothing is no news"
        crew.happenings.append(finished(1))
        assert desk.turn() == [Done(work(1), "task 1", GOOD, 2)]
        assert first.result(0) == second.result(0) == GOOD
        desk.submit([order(1, later)])
        assert desk.turn() == [Done(work(1), "task 1", GOOD, 0, is_new=False)] and later.result(0) == GOOD
    with Journal(folder.journal, read_only=True) as journal:
        assert [(r.task, r.agent, r.attempts, r.label) for r in journal.records()] == [(work(1), "agent-1", 2, "task 1")]


def test_what_is_recorded_is_answered_without_any_agent(folder: RunFolder, crew: Scripted) -> None:
    with Journal(folder.journal) as journal:
        journal.commit(Record(work(1), GOOD, "agent-1", 1))
    lesson = Lesson()
    with Desk(folder, lambda: crew) as desk:
        desk.submit([order(1, lesson)])
        assert [done.is_new for done in desk.turn()] == [False] and lesson.result(0) == GOOD
        assert desk.activities() == () and desk.turn() == []
    with Journal(folder.journal, read_only=True) as journal:
        assert len(journal.sittings()) == 1, "nobody worked in the second one"


def test_who_does_the_tasks_knows_of_all_that_is_recorded_now_or_before(folder: RunFolder, crew: Scripted) -> None:
    with Journal(folder.journal) as journal:
        journal.commit(Record(work(1), GOOD, "agent-1", 1))
    with Desk(folder, lambda: crew) as desk:
        desk.submit([order(1), order(2), order(3)])
        assert [done.label for done in desk.turn()] == ["task 1"] and crew.wanted == ["task 2", "task 3"]
        crew.happenings += [finished(2), finished(3, BAD)]
        desk.turn()
    assert crew.noted == [(work(1), GOOD), (work(2), GOOD)]


def test_who_waits_for_news_is_roused_by_an_order_and_when_the_desk_is_closed(folder: RunFolder, crew: Scripted) -> None:
    with Desk(folder, lambda: crew) as desk:
        desk.submit([order(1)])
        desk.turn()
        assert crew.num_roused == 0, "nobody was there yet"
        desk.submit([order(2)])
        assert crew.num_roused == 1
        desk.close()
        assert crew.num_roused == 2


def test_a_task_that_failed_and_is_ordered_again_is_told_and_recorded_as_the_new_order_says(
    folder: RunFolder, crew: Scripted
) -> None:
    again = Lesson()
    with Desk(folder, lambda: crew) as desk:
        desk.submit([order(1)])
        crew.happenings.append(finished(1, BAD))
        desk.turn()
        desk.submit([Order(work(1), "once more", again, keeps_failure=True)])
        crew.happenings.append(finished(1, BAD))
        assert desk.turn() == [Done(work(1), "once more", BAD, 2)]
        assert again._events.get_nowait() == crew.progress(work(1).key)
        assert [record.label for record in desk.journal.records()] == ["once more"]


@pytest.mark.parametrize("keeps", [True, False])
def test_a_failure_is_recorded_only_where_it_counts_as_a_result(folder: RunFolder, crew: Scripted, keeps: bool) -> None:
    lesson = Lesson()
    with Desk(folder, lambda: crew) as desk:
        desk.submit([order(1, lesson, keeps_failure=keeps)])
        crew.happenings.append(finished(1, BAD))
        assert [done.result for done in desk.turn()] == [BAD]
        with pytest.raises(TrainingError, match="non_finite_loss: nan"):
            lesson.result(0)
        assert (desk.journal.find(work(1).key) is not None) is keeps


@pytest.mark.parametrize("error", [StorageError("here", "full"), KeyError("a bug"), KeyboardInterrupt(), MemoryError()])
def test_whatever_ends_the_desk_everybody_who_waits_is_told_why(folder: RunFolder, crew: Scripted, error: BaseException) -> None:
    begun, not_yet, too_late = Lesson(), Lesson(), Lesson()
    desk = Desk(folder, lambda: crew)
    with pytest.raises(type(error)), desk:
        desk.submit([order(1, begun)])
        desk.turn()
        crew.happenings += [lambda: desk.submit([order(2, not_yet)]), error]
        desk.turn()
    desk.submit([order(3, too_late)])
    assert all(lesson.exception(0) is error for lesson in (begun, not_yet, too_late))
    assert not RunLock(folder).is_held


def test_a_result_that_cannot_be_recorded_is_not_told_as_one(
    folder: RunFolder, crew: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(journal: Journal, record: Record) -> bool:
        raise StorageError(journal.path, "No space left on device")

    lesson = Lesson()
    monkeypatch.setattr(Journal, "commit", full)
    with pytest.raises(StorageError), Desk(folder, lambda: crew) as desk:
        desk.submit([order(1, lesson)])
        crew.happenings.append(finished(1))
        desk.turn()
    assert isinstance(lesson.exception(0), StorageError)


class Leaving(Lesson):
    """Somebody who leaves the program as soon as anything is told, which ends the thread that tells it."""

    def __init__(self) -> None:
        super().__init__()
        self.add_done_callback(lambda done: sys.exit(3))


def test_who_leaves_on_being_told_keeps_nobody_else_waiting(folder: RunFolder, crew: Scripted) -> None:
    leaving, same, another, not_yet = Leaving(), Lesson(), Lesson(), Lesson()
    with pytest.raises(SystemExit), Desk(folder, lambda: crew) as desk:
        desk.submit([order(1, leaving), order(1, same), order(2, Leaving()), order(2, another)])
        desk.turn()
        crew.happenings += [lambda: desk.submit([order(3, Leaving()), order(4, not_yet)]), finished(1)]
        desk.turn()
    assert leaving.result(0) == GOOD
    assert all(isinstance(lesson.exception(0), SystemExit) for lesson in (same, another, not_yet))
    assert not RunLock(folder).is_held


def test_an_order_whose_record_cannot_be_read_is_told_so(
    folder: RunFolder, crew: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(journal: Journal, key: str) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    first, second = Lesson(), Lesson()
    monkeypatch.setattr(Journal, "find", damaged)
    with pytest.raises(sqlite3.DatabaseError), Desk(folder, lambda: crew) as desk:
        desk.submit([order(1, first), order(2, second)])
        desk.turn()
    assert all(isinstance(lesson.exception(0), sqlite3.DatabaseError) for lesson in (first, second))


def test_an_order_for_a_desk_that_cannot_be_taken_is_told_why(folder: RunFolder, crew: Scripted) -> None:
    early, late = Lesson(), Lesson()
    desk = Desk(folder, lambda: crew)
    desk.submit([order(1, early)])
    with RunLock(folder), pytest.raises(ArtifactError, match="in use by another"), desk:
        pass
    desk.submit([order(2, late)])
    assert all(isinstance(lesson.exception(0), ArtifactError) for lesson in (early, late))


def test_a_desk_that_is_closed_says_so_to_who_waits(folder: RunFolder, crew: Scripted) -> None:
    lesson = Lesson()
    with Desk(folder, lambda: crew) as desk:
        desk.submit([order(1, lesson)])
        closer = threading.Timer(0.05, desk.close)
        closer.start()
        while not desk.is_closing:
            desk.turn()
        closer.join()
    with pytest.raises(ChannelClosedError, match="run the script again"):
        lesson.result(0)


def test_a_folder_has_one_desk_and_is_not_touched_by_another(folder: RunFolder, crew: Scripted) -> None:
    with Desk(folder, lambda: crew), pytest.raises(ArtifactError, match="in use by another"), Desk(folder, lambda: crew):
        pass
    with Desk(folder, lambda: crew):
        assert RunLock(folder).is_held


def test_a_lesson_that_agents_have_begun_is_not_called_off() -> None:
    lesson = Lesson()
    assert not lesson.cancel()
    lesson.settle(GOOD)
    assert lesson.result(0) == GOOD


def test_a_communitys_thread_that_dies_of_a_bug_leaves_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def turn(crew: Crew) -> list[Finished]:
        if crew._dispatcher.state.waiting:
            raise KeyError("a bug")
        return []

    monkeypatch.setattr(Crew, "turn", turn)
    with Community(devices="none", record=tmp_path) as community:
        (lesson,) = community.submit((work(1), "a task"))
        with pytest.raises(KeyError, match="a bug"):
            lesson.result(20)
        community._works._thread.join(20)
        with pytest.raises(ChannelClosedError, match="with-block"):
            community.submit((work(2), "another"))


@pytest.mark.parametrize(("result", "told"), [(GOOD, "a task is completed"), (BAD, "a task failed: non_finite_loss: nan")])
def test_a_watcher_is_told_how_a_task_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: TaskResult, told: str
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(Silent, "tell", lambda watcher, line: lines.append(line))
    monkeypatch.setattr(
        Crew, "turn", lambda crew: [Finished(key, result, "ann", 1, ()) for key in crew._dispatcher.state.waiting]
    )
    with Community(devices="none", record=tmp_path) as community:
        (lesson,) = community.submit((work(1), "a task"))
        assert lesson.exception(20) is None or result is BAD
    assert told in lines


def test_who_waits_for_a_community_is_told_what_ended_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def turn(crew: Crew) -> list[Finished]:
        raise StorageError("here", "full")

    monkeypatch.setattr(Crew, "turn", turn)
    host = Host(RunFolder(tmp_path), (), LaunchConfig(), Silent())
    host.start()
    with ThreadPoolExecutor(1) as pool, pytest.raises(StorageError, match="full"):
        pool.submit(host.wait).result(20)
    host.close()


def test_who_waits_for_a_community_goes_on_when_it_is_closed(tmp_path: Path) -> None:
    host = Host(RunFolder(tmp_path), (), LaunchConfig(), Silent())
    host.start()
    assert host.agents.activities() == (), "they are there, and nobody has begun"
    gone_on = threading.Event()
    waiting = threading.Thread(target=lambda: (host.wait(), gone_on.set()), daemon=True)
    waiting.start()
    assert not gone_on.wait(0.05)
    host.close()
    assert gone_on.wait(20)


def test_students_of_a_cohort_are_recorded_at_once_or_not_at_all(
    folder: RunFolder, crew: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, calls = Journal.commit, itertools.count()

    def full_at_the_second(journal: Journal, *records: Record) -> bool:
        if next(calls):
            raise StorageError(journal.path, "No space left on device")
        return commit(journal, *records)

    monkeypatch.setattr(Journal, "commit", full_at_the_second)
    with Desk(folder, lambda: crew) as desk:
        desk.submit([order(1), order(2)])
        crew.happenings += [finished(1), finished(2)]
        assert len(desk.turn()) == 2 and len(list(desk.journal.records())) == 2


def test_what_students_said_is_kept_until_all_of_them_are_recorded(
    folder: RunFolder, crew: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [folder.said(work(seed).key, 0) for seed in (1, 2)]

    def full(journal: Journal, *records: Record) -> bool:
        raise StorageError(journal.path, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(StorageError), Desk(folder, lambda: crew) as desk:
        for path in said:
            path.parent.mkdir(parents=True)
            path.write_bytes(b"x")
        patch.setattr(Journal, "commit", full)
        desk.submit([order(1), order(2)])
        crew.happenings += [finished(1), finished(2)]
        desk.turn()
    assert all(path.exists() for path in said), "who begins again hears what the other said"
    with Desk(folder, lambda: crew) as desk:
        desk.submit([order(1), order(2)])
        crew.happenings += [finished(1), finished(2)]
        desk.turn()
    assert not any(path.exists() for path in said)


def test_a_community_that_cannot_begin_says_so_also_to_a_script_that_came_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Body] = []
    monkeypatch.setattr(Crew, "tell", lambda crew, key, body, parent_id: told.append(body))
    folder = RunFolder(tmp_path)
    (folder.contact / "in the way").mkdir(parents=True)
    host = Host(folder, (), LaunchConfig(), Silent())
    for check in ("must_be_its_own", "must_be_for_a_run"):  # who else would say so before
        monkeypatch.setattr(RunFolder, check, lambda folder, **rest: folder)
    enter = Crew.__enter__

    def and_an_order_comes(crew: Crew) -> Crew:
        enter(crew)
        host._take_order(crew, Delivery("k" * 40, Message(SubmitRequest(task=work(1), label="at once"))))
        return crew

    monkeypatch.setattr(Crew, "__enter__", and_an_order_comes)
    ended: list[BaseException] = []

    def begin() -> None:
        try:
            host.start()
        except StorageError as error:
            ended.append(error)

    beginning = threading.Thread(target=begin, daemon=True)
    beginning.start()
    beginning.join(20)
    assert ended, "it hangs"
    assert [type(body) for body in told] == [ErrorReply] and told[0].code == "storage"
    host._thread.join(20)
