"""What a crew says is told to the feed, and to whoever else watches; nothing that an agent says of itself can end that."""

from pathlib import Path

from agentkd.artifacts.feed import Agent, Began, FeedReader, Over, Planned, Progress, Said
from agentkd.artifacts.run_folder import RunFolder
from agentkd.coordinator.dispatch import Dispatcher
from agentkd.coordinator.events import Arrived, Late
from agentkd.coordinator.narration import Narrator, Situation, narrated
from agentkd.coordinator.underway import Underway
from agentkd.coordinator.watching import Silent, Snapshot
from agentkd.messages.bodies import TaskProgressEvent
from agentkd.names import AgentName, TaskKey
from agentkd.pipeline.plan import Outlook

KEY = TaskKey("ab" * 32)
OUTLOOK = Outlook((), (), (), {}, {})


class Members:
    """Where agents are, as they say themselves."""

    def __init__(self, host: str = "here") -> None:
        self.host = host

    def process_of(self, name: AgentName) -> tuple[int, str]:
        return 42, self.host

    def device_of(self, name: AgentName) -> str:
        return "cpu"


class Telling(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, line: str) -> None:
        self.lines.append(line)


def begun(place: Path, members: Members, watcher: Telling | None = None) -> tuple[Narrator, Dispatcher, FeedReader]:
    folder = RunFolder(place)
    dispatcher = Dispatcher(1, max_copies=1, places=(0,))
    narrator = narrated(folder, watcher or Silent())
    narrator.begin(Situation(dispatcher, members, Underway()))  # type: ignore[arg-type]
    return narrator, dispatcher, FeedReader(folder.feed, folder.earlier_feed)


def progress(step: int, miou: float | None = None) -> TaskProgressEvent:
    return TaskProgressEvent(task=KEY, attempt=1, step=step, steps=9, loss=0.5, miou=miou)


def test_an_agent_that_changes_is_told_once_for_each_change(tmp_path: Path) -> None:
    narrator, dispatcher, read = begun(tmp_path, Members())
    event = Arrived(AgentName("guest"), learns=True)
    for _ in range(2):
        narrator.note(dispatcher.handle(event), event)
    narrator.close()
    told = [line for line in read.read() if isinstance(line, Agent)]
    assert [(one.agent, one.role, one.condition, one.pid) for one in told] == [("guest", "guest", "idle", 42)]


def test_what_a_guest_says_of_itself_that_has_no_place_in_a_line_is_left_out(tmp_path: Path) -> None:
    narrator, dispatcher, read = begun(tmp_path, Members(host="x" * 10_000))
    event = Arrived(AgentName("guest"), learns=True)
    narrator.note(dispatcher.handle(event), event)
    narrator.note([], Late(AgentName("nobody")))
    narrator.tell("still there\x1b[2J")
    narrator.close("all is lost\nat once")
    assert [type(line) for line in read.read()] == [Began, Said, Over]


def test_progress_is_told_at_most_once_a_second_but_for_a_new_score_and_the_last_step(tmp_path: Path) -> None:
    narrator, _, read = begun(tmp_path, Members())
    for event in (progress(1), progress(2), progress(3, 0.25), progress(4, 0.25), progress(9, 0.25)):
        narrator.progress(event)
    narrator.close()
    assert [line.step for line in read.read() if isinstance(line, Progress)] == [1, 3, 9]


def test_counts_are_told_when_they_change_and_whoever_watches_besides_is_told_all(tmp_path: Path) -> None:
    watcher = Telling()
    narrator, _, read = begun(tmp_path, Members(), watcher)
    for count in (1, 1, 2):
        narrator.show(Snapshot("x", 1.0, count, 9, None, OUTLOOK, ()))
    narrator.tell("something")
    narrator.close()
    lines = read.read()
    assert [line.num_recorded for line in lines if isinstance(line, Planned)] == [1, 2]
    assert watcher.lines == ["something"] == [line.text for line in lines if isinstance(line, Said)]


def test_who_narrates_already_is_taken_as_it_is(tmp_path: Path) -> None:
    narrator = Narrator(RunFolder(tmp_path), Silent())
    assert narrated(RunFolder(tmp_path), narrator) is narrator


def test_without_agents_nothing_is_written(tmp_path: Path) -> None:
    narrator = Narrator(RunFolder(tmp_path), Silent())
    narrator.tell("x")
    narrator.turn()
    narrator.close()
    assert not list(tmp_path.iterdir())
