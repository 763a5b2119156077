"""A run as it is watched, put together of records and of what is heard: pure, so that each case is some lines."""

import json

from hypothesis import given
from hypothesis import strategies as st

from agentkd.artifacts.feed import (
    Agent,
    AnyLine,
    Began,
    Ended,
    Gone,
    Moved,
    Over,
    Planned,
    Progress,
    Said,
    Started,
)
from agentkd.names import AgentName, Digest, TaskKey, TeacherId
from agentkd.watch.board import Board, Editions
from agentkd.watch.machine import read_gpus, read_processes
from agentkd.watch.records import Recorded
from agentkd.watch.scene import MAX_CURVES, MAX_POINTS, MAX_SAID, SHOWN_DIGITS, Scene, Usage
from agentkd.watch.timeline import BREAK_S, SLACK_S, Timeline, seconds_of

AT = "2026-01-02T03:04:05Z"
NOON = seconds_of(AT)
BEGAN = Began(at=AT, clock=50.0, host="here", pid=1)
KEY, OTHER = TaskKey("ab" * 32), TaskKey("cd" * 32)
SHORT, SHORT_OTHER = KEY[:SHOWN_DIGITS], OTHER[:SHOWN_DIGITS]
TEACHER: TeacherId = Digest("ef" * 32)
A, B, C = AgentName("a"), AgentName("b"), AgentName("c")


def agent(name: AgentName, condition: str = "busy", task: str = "", t: float = 0.0) -> Agent:
    return Agent(t=t, agent=name, role="learning", condition=condition, device="cpu", pid=7, host="here", task=TaskKey(task))


def started(
    t: float = 1.0,
    *,
    task: TaskKey = KEY,
    by: AgentName = A,
    attempt: int = 1,
    teachers: tuple[tuple[TeacherId, AgentName], ...] = (),
) -> Started:
    return Started(
        t=t,
        task=task,
        agent=by,
        attempt=attempt,
        label="round1 of unet: x teaches y",
        kind="distill",
        family="unet",
        epochs=10,
        teachers=teachers,
    )


def progress(
    t: float, step: int, *, task: TaskKey = KEY, score: float | None = None, received: int = 0, waited: float = 0.0
) -> Progress:
    return Progress(t=t, task=task, step=step, steps=100, loss=1 / step, score=score, received_bytes=received, waited_s=waited)


def ended(t: float, *, task: TaskKey = KEY, status: str = "completed") -> Ended:
    return Ended(t=t, task=task, agent=A, attempts=1, status=status, score=0.5, parameters=1000, seconds=3.0)


def recorded(*, at: float = NOON + 9, seconds: float = 4.0, task: TaskKey = KEY, sort: str = "search") -> Recorded:
    return Recorded(task, A, "train", "unet", sort, "trial 1", "completed", 0.5, False, 1000, seconds, at, 1)


def scene_of(*lines: AnyLine, clock: float | None = None, is_held: bool = True) -> Scene:
    scene = Scene(Board())
    scene.hear(lines)
    scene.settle(clock, is_held=is_held)
    return scene


def test_a_task_that_is_begun_stands_in_its_agents_lane_until_it_has_ended() -> None:
    scene = scene_of(BEGAN, agent(A, task=KEY), started(2.0))
    item = scene.board.get("tasks", SHORT)
    assert (item["agent"], item["from"], item["to"], item["status"], item["stage"]) == (A, 2.0, None, "running", "round1")
    scene.hear([ended(7.0)])
    item = scene.board.get("tasks", SHORT)
    assert (item["from"], item["to"], item["status"], item["score"], item["size"]) == (2.0, 7.0, "completed", 0.5, 1000)
    scene.record([recorded()])
    item = scene.board.get("tasks", SHORT)
    assert (item["from"], item["to"], item["label"]) == (2.0, 7.0, "trial 1"), (
        "what was heard is more exact than what is recorded"
    )


def test_a_record_alone_says_when_its_task_was_done() -> None:
    scene = Scene(Board())
    scene.record([recorded(), recorded(at=NOON + 20, task=OTHER)])
    places = [(scene.board.get("tasks", key)["from"], scene.board.get("tasks", key)["to"]) for key in (SHORT, SHORT_OTHER)]
    assert places == [(0.0, 4.0), (11.0, 15.0)]
    assert scene.board.get("run", "recorded") == {"tasks": 2, "device_s": 8.0}


def test_an_agent_says_who_teaches_it_how_much_it_hears_and_how_long_it_waits() -> None:
    teachers = ((TEACHER, B),)
    lines = [BEGAN, agent(A, task=KEY), agent(B, "teaching"), started(teachers=teachers)]
    scene = scene_of(*lines, progress(2.0, 10, received=1000, waited=0.5), progress(4.0, 20, received=9000, waited=1.0))
    student, teacher = scene.board.get("agents", A), scene.board.get("agents", B)
    assert (student["hears"], student["bytes_per_s"], student["waits"]) == ([B], 4000, 0.25)
    assert (student["step"], student["steps"], teacher["teaches"]) == (20, 100, [A])
    scene.hear([agent(C, "teaching"), Moved(t=5.0, agent=A, teacher=TEACHER, at=C)])
    scene.settle(None, is_held=True)
    assert scene.board.get("agents", A)["hears"] == [C]
    assert "teaches" not in scene.board.get("agents", B) and scene.board.get("agents", C)["teaches"] == [A]


def test_an_attempt_that_was_lost_stays_to_be_seen_beside_the_next() -> None:
    scene = scene_of(BEGAN, agent(A, task=KEY), started(1.0), Gone(t=3.0, agent=A), started(4.0, by=B, attempt=2))
    lost, now = scene.board.get("tasks", f"{SHORT}.1"), scene.board.get("tasks", SHORT)
    assert (lost["status"], lost["agent"], lost["to"]) == ("lost", A, 4.0)
    assert (now["status"], now["agent"], now["tries"]) == ("running", B, 2)
    assert scene.board.names("agents") == []


def test_what_is_said_again_at_the_beginning_of_a_new_file_changes_nothing() -> None:
    lines = [BEGAN, agent(A, task=KEY), started(1.0), progress(2.0, 10, score=0.25)]
    scene = scene_of(*lines)
    before = scene.board.whole()
    again = [BEGAN.model_copy(update={"is_continued": True}), *(line.model_copy(update={"t": 2.0}) for line in lines[1:3])]
    scene.hear(again)
    scene.settle(None, is_held=True)
    assert scene.board.whole() == before


def test_a_sitting_that_was_killed_is_over_when_nobody_holds_the_folder() -> None:
    scene = scene_of(BEGAN, agent(A, task=KEY), started(1.0), progress(3.0, 10))
    assert scene.board.get("run", "counts")["running"] == 1
    scene.settle(None, is_held=False)
    assert scene.board.names("agents") == [] == scene.board.names("curves")
    assert scene.board.get("tasks", f"{SHORT}.1")["to"] == 3.0 and scene.board.get("run", "now") is None


def test_a_new_sitting_ends_what_the_one_before_had_in_hand() -> None:
    scene = scene_of(BEGAN, agent(A, task=KEY), started(1.0), BEGAN.model_copy(update={"at": "2026-01-02T05:00:00Z"}), agent(B))
    assert scene.board.names("agents") == [B] and scene.board.get("tasks", f"{SHORT}.1")["status"] == "lost"
    assert scene.board.get("run", "counts")["running"] == 0


def test_why_a_sitting_ended_is_said_until_the_next_begins() -> None:
    scene = scene_of(BEGAN, Over(t=1.0, text="the disk is full"), is_held=False)
    assert scene.board.get("run", "ended_because") == "the disk is full"
    scene.hear([BEGAN])
    assert scene.board.get("run", "ended_because") == ""


def test_learning_curves_have_an_end_and_so_have_their_number_and_what_was_said() -> None:
    scene = scene_of(BEGAN, started(), *(progress(2.0 + n, n + 1, score=n / 2000) for n in range(1000)))
    curve = scene.board.get("curves", SHORT)
    assert 20 < len(curve["scores"]) <= MAX_POINTS and curve["scores"][-1][1] == 0.4995
    for number in range(2 * MAX_CURVES):
        key = TaskKey(f"{number:02}" * 32)
        scene.hear([started(task=key), progress(2000.0, 10, task=key), Said(t=2000.0, text=str(number))])
    scene.hear(Said(t=1.0, text="again") for _ in range(2 * MAX_SAID))
    assert len(scene.board.names("curves")) == MAX_CURVES and len(scene.board.names("said")) == MAX_SAID


def test_counts_are_those_of_the_plan_and_the_time_is_the_coordinators() -> None:
    scene = scene_of(BEGAN, started(1.0), Planned(t=2.0, num_recorded=3, num_expected=9, left_s=4.0), clock=60.0)
    counts = scene.board.get("run", "counts")
    assert (counts["planned"], counts["expected"], counts["left_s"], counts["running_s"]) == (3, 9, 4.0, 9)
    assert scene.board.get("run", "now") == 10
    scene.settle(None, is_held=True)
    assert scene.board.get("run", "now") == 2, "elsewhere it is the newest that was heard"


def test_what_a_process_takes_is_said_of_its_agent() -> None:
    scene = scene_of(BEGAN, agent(A), agent(B))
    scene.measure({A: Usage(2**20, 0.5, 2**30)})
    scene.settle(None, is_held=True)
    item = scene.board.get("agents", A)
    assert (item["memory"], item["cores"], item["gpu_memory"]) == (2**20, 0.5, 2**30) and "memory" not in scene.board.get(
        "agents", B
    )


def test_texts_of_others_cannot_act() -> None:
    scene = scene_of(BEGAN, started().model_copy(update={"label": "a\u202eb", "family": "x:\x1b[2J"}), Said(text="c\x1b[2J"))
    assert "\x1b" not in json.dumps(scene.board.whole(), ensure_ascii=False) and "\u202e" not in json.dumps(scene.board.whole())


def test_hours_in_which_nobody_worked_take_no_room() -> None:
    timeline = Timeline()
    timeline.work([(1000.0, 1100.0), (90_000.0, 90_050.0), (1050.0, 1200.0)])
    assert timeline.breaks == [200.0 + BREAK_S]
    assert [timeline.place(at) for at in (900.0, 1000.0, 1200.0, 5000.0, 90_000.0, 90_040.0)] == [0, 0, 200, 210, 210, 250]
    timeline.work([(90_060.0, 90_050.0 + SLACK_S)])
    assert timeline.breaks == [210.0] and timeline.place(90_070.0) == 280.0


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e4)), min_size=1, max_size=20))
def test_later_is_never_placed_before_earlier(spans: list[tuple[float, float]]) -> None:
    timeline = Timeline()
    timeline.work((start, start + lasting) for start, lasting in spans)
    times = sorted(time for start, lasting in spans for time in (start, start + lasting))
    places = [timeline.place(time) for time in times]
    assert places == sorted(places)


LINES = st.sampled_from(
    [
        BEGAN,
        agent(A, task=KEY),
        agent(B, "teaching"),
        Gone(agent=A),
        started(1.0),
        started(2.0, attempt=2, by=B, teachers=((TEACHER, C),)),
        started(1.5, task=OTHER),
        Moved(agent=B, teacher=TEACHER, at=A),
        progress(3.0, 5, score=0.5),
        progress(4.0, 6, task=OTHER),
        ended(5.0),
        ended(6.0, task=OTHER, status="failed"),
        Planned(num_recorded=1, num_expected=2),
        Said(text="x"),
        Over(),
    ]
)


@given(st.lists(st.tuples(LINES, st.booleans()), max_size=40))
def test_whatever_is_heard_in_whatever_order_changes_lead_to_the_whole(heard: list[tuple[AnyLine, bool]]) -> None:
    scene, shown = Scene(Board()), dict[str, dict[str, object]]()
    for line, is_published in heard:
        scene.hear([line])
        if is_published:
            scene.settle(55.0, is_held=True)
            change = scene.board.take() or {"put": {}, "drop": {}}
            json.dumps(change, allow_nan=False)
            for section, items in change["put"].items():
                shown.setdefault(section, {}).update(items)
            for section, names in change["drop"].items():
                for name in names:
                    shown[section].pop(name, None)
            whole = {section: items for section, items in scene.board.whole()["put"].items() if items}
            assert {section: items for section, items in shown.items() if items} == whole


def test_who_was_away_for_a_moment_is_told_what_came_since_and_who_was_longer_the_whole() -> None:
    board = Board()
    editions = Editions(board)
    assert not editions.publish() and editions.since(0) == []
    for number in range(3):
        board.put("run", "x", number)
        assert editions.publish()
    assert [one for one, _ in editions.since(1) or ()] == [2, 3] and editions.since(3) == []
    assert editions.since(9) is None, "that is another server's"
    for number in range(500):
        board.put("run", "x", -number)
        editions.publish()
    assert editions.since(3) is None and json.loads(editions.whole()[1])["put"] == {"run": {"x": -499}}


def test_a_loss_that_has_diverged_is_written_as_null() -> None:
    board = Board()
    editions = Editions(board)
    board.put("curves", "a", {"losses": [(1, float("nan")), (2, float("-inf"))]})
    editions.publish()
    assert json.loads(editions.whole()[1])["put"]["curves"]["a"] == {"losses": [[1, None], [2, None]]}


def test_what_nvidia_smi_says_is_read_and_what_it_does_not_know_is_not_known() -> None:
    said = "0, GPU-1a, NVIDIA H200, 37, 2048, 143771\n1, GPU-2b, NVIDIA A100, [N/A], 0, 40960\nError: strange\n"
    found = read_gpus(said)
    assert (found["GPU-1a"].share, found["GPU-1a"].used_bytes, found["GPU-2b"].share) == (0.37, 2**31, None) and len(found) == 2
    assert read_processes("12, 100\n12, 50\n13, [N/A]\n\n") == {12: 150 * 2**20}
