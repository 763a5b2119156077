"""Networks, lessons and results show what they are in a few words, in notebooks as a table, without waiting and without torch."""

import io
import subprocess
import sys

import pytest
from noting import Recording
from rich.console import Console

from agentkd.community.futures import Derived, Lesson
from agentkd.community.handles import AgentHandle
from agentkd.errors import TrainingError
from agentkd.messages.bodies import TaskProgressEvent
from agentkd.report.live import PlainWatcher
from agentkd.task import Status, TaskResult

EVIL = '<script>alert("x")</script>\x1b[2J\n'
DONE = TaskResult(status=Status.COMPLETED, weights="ab" * 32, miou=0.7584, class_iou=(0.5, None), epochs=8, best_epoch=7)


def as_html(thing: object) -> str:
    made = thing._repr_html_()  # type: ignore[attr-defined]
    assert made.startswith("<table>") and made.endswith("</table>")
    return made


def test_a_network_says_its_family_its_classes_and_what_it_does_without_waiting_for_it() -> None:
    class Waiting(Recording):
        def submit(self, *tasks):
            self.lesson = Lesson(tasks[0][1])
            return (self.lesson,)

    community = Waiting()
    handle = AgentHandle(community, "small", "unet", settings={"base": 8})
    assert repr(handle) == "<network small: unet, base=8, those of its first data, has learned nothing yet>"
    handle.train("s", epochs=8)
    assert repr(handle) == "<network small: unet, base=8, a, b, c, d, e, train of small: asked for>"
    community.lesson.note(TaskProgressEvent(task="a" * 64, attempt=1, step=12, steps=1000, loss=0.5))
    assert "step 12 of 1,000, loss 0.5>" in repr(handle) and "<td>train of small: step 12 of 1,000" in as_html(handle)
    community.lesson.settle(DONE)
    assert "8 epochs, mIoU 75.84 %, weights abababababab>" in repr(handle)


def test_a_lesson_and_its_result_say_what_came_of_it() -> None:
    lesson = Lesson("train of small")
    assert repr(lesson) == "<Lesson train of small: asked for>" and "<td>asked for</td>" in as_html(lesson)
    lesson.settle(DONE)
    assert repr(lesson) == "<Lesson train of small: completed, 8 epochs, mIoU 75.84 %, weights abababababab>"
    assert repr(DONE) == "<TaskResult: completed, 8 epochs, mIoU 75.84 %, weights abababababab>"
    for made in (as_html(DONE), as_html(lesson)):
        assert "<th>weights</th><td>" + "ab" * 32 in made and "<td>50.0 %, -</td>" in made and "MACs" not in made
    assert repr(Derived(lesson, str)) == f"<Derived from {lesson!r}>"


def test_a_lesson_that_failed_says_why_and_can_still_be_asked_for() -> None:
    lesson = Lesson("train")
    lesson.settle(TaskResult(status=Status.FAILED, error_code="training", error_text="the loss is not finite"))
    assert repr(lesson) == "<Lesson train: ended by TrainingError: training: the loss is not finite>"
    assert not lesson.is_told_failed, "to look at it is not to be told"
    with pytest.raises(TrainingError):
        lesson.result()


def test_what_others_say_is_shown_and_does_nothing() -> None:
    failed = TaskResult(status=Status.FAILED, error_code="own", error_text=EVIL)
    lesson = Lesson(EVIL)
    lesson.settle(failed)
    handle = AgentHandle(Recording(), EVIL, "unet", num_classes=5, settings={"norm": "batch"})
    handle.classes = (EVIL, "Fire & Smoke")
    for thing in (failed, lesson, handle):
        assert "\x1b" not in repr(thing) and "\n" not in repr(thing)
        made = as_html(thing)
        assert "<script>" not in made and "&lt;script&gt;alert(&quot;x&quot;)" in made and "\x1b" not in made
    assert "Fire &amp; Smoke" in as_html(handle)


def test_to_show_something_needs_no_torch() -> None:
    code = (
        "import sys; from agentkd.community.futures import Lesson; from agentkd.task import TaskResult;"
        "lesson = Lesson('x'); lesson.settle(TaskResult(status='completed')); repr(lesson); lesson._repr_html_();"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_name_between_colons_is_no_picture() -> None:
    stream = io.StringIO()
    PlainWatcher(Console(file=stream)).tell("my_networks:hourglass: trial 1")
    assert stream.getvalue().endswith("my_networks:hourglass: trial 1\n")
