"""Whatever own code raises ends its task and not the agent, and is told: of whom, in which file and line, in few words."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from reference.scenarios import SCENES
from reference.tasks import put, small, source

from agentkd.agents import agent as agents
from agentkd.agents import endings
from agentkd.agents.agent import Agent, AgentSettings
from agentkd.agents.blaming import blame
from agentkd.agents.lessons import DirectLesson
from agentkd.agents.work import Surroundings, execute
from agentkd.code.loading import load, provide
from agentkd.code.running import EndedBySignal, told
from agentkd.code.source import SourceCode
from agentkd.code.taking import take
from agentkd.datasets.opening import open_dataset
from agentkd.errors import ConfigError
from agentkd.exchange.keys import new_key_pair
from agentkd.exchange.post import Delivery
from agentkd.messages.bodies import MAX_ERROR_TEXT, ErrorReply, TaskRequest, TeachRequest
from agentkd.messages.wire import Message
from agentkd.networks.families import resolve
from agentkd.objectives import Own
from agentkd.recipe import Distillation, Recipe, ViewSettings
from agentkd.task import DataSource, Distill, Task, TaskResult, TeacherReference, Train

FRIEND = new_key_pair().public
CPU = torch.device("cpu")
RECIPE = Recipe(epochs=1, steps_per_epoch=2, batch_size=2, views=ViewSettings(crop_height=32, crop_width=32))
TEXT = """
class Odd(BaseException): pass
class Mute(Exception):
    def __str__(self): raise RuntimeError("no text")
class Coded(__import__("agentkd").errors.ConfigError):
    code = "x" * 1000
    def __str__(self): raise RuntimeError("no text")
class Goal:
    def loss(self, student, teacher, moment):
        {body}
    def again(self):
        return self.again()
"""


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    settings = AgentSettings(
        (), FRIEND, new_key_pair(), device="cpu", threads=1, run_folder=tmp_path / "run", listen=("memory://*",), allows_code=True
    )
    made = Agent(settings)
    made.post.start()
    yield made
    made.carrier.close()
    made.post.close()


@pytest.fixture
def said(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> Callable[[Task], ErrorReply]:
    """What the agent answers when it is to do a task; teachers teach in its process."""
    store = agent.folder.store

    def directly(task: Task, at: Surroundings) -> TaskResult:
        lesson: Any = lambda task, feed, steps: DirectLesson(task, feed, store=store, device=CPU)  # noqa: E731
        return execute(task, Surroundings(store, CPU, lesson=lesson))

    def ask(task: Task) -> ErrorReply:
        answers: list[Any] = []
        monkeypatch.setattr(agents, "execute", directly)
        monkeypatch.setattr(agent, "_obtain", lambda digest: None)
        monkeypatch.setattr(agent.post, "send", lambda peer, body, **rest: answers.append(body))
        agent._answer(Delivery(FRIEND, Message(TaskRequest(task=task, attempt=1))))
        [answer] = answers
        assert isinstance(answer, ErrorReply) and answer.task == task.key and not agent._is_busy
        return answer

    return ask


@pytest.fixture
def taught(agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Distill]:
    """A task with an own objective of this source."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(text: str) -> Distill:
        (tmp_path / "mine.py").write_text(text)
        return Distill(
            architecture=small(),
            data=source(SCENES),
            recipe=RECIPE,
            seed=1,
            view_seed=1,
            distillation=Distillation(objectives=(Own(path="mine:Goal", code=take("mine:Goal")),)),
            teachers=(TeacherReference(architecture=small(), weights=put(agent.folder.store, small(), 3)),),
        )

    return make


RAISED = {
    "raise Odd('base')": "Odd: base",
    "raise KeyboardInterrupt": "KeyboardInterrupt",
    "raise GeneratorExit": "GeneratorExit",
    "raise __import__('asyncio').CancelledError": "CancelledError",
    "__import__('sys').exit(3)": "SystemExit: 3",
    "return self.again()": "RecursionError: maximum recursion depth exceeded",
    "raise MemoryError": "MemoryError",
    "raise ValueError": "ValueError",
    "raise KeyError('where')": "KeyError: 'where'",
    "raise Mute": "Mute: <exception str() failed>",
    "raise Coded('x')": "<exception str() failed>",
    "raise type('a\\tname' * 50, (Exception,), {})('text')": "text",
    "raise ExceptionGroup('several', [ValueError('one')])": "ExceptionGroup: several (1 sub-exception)",
    "import nowhere_at_all": "ModuleNotFoundError: No module named 'nowhere_at_all'; if that is a module of yours",
}


@pytest.mark.parametrize("body", RAISED)
def test_what_an_objective_raises_names_it_with_file_and_line(said: Any, taught: Any, body: str) -> None:
    answer = said(taught(TEXT.replace("{body}", body)))
    assert answer.text.startswith("objective mine:Goal: <code ") and RAISED[body] in answer.text, answer.text
    assert f"/mine.py, line {12 if 'again' in body else 10}: " in answer.text
    assert answer.code == ("out_of_memory" if "Memory" in body else "config" if "Coded" in body else "internal")


@pytest.mark.parametrize("where", ["def __init__(self):\n        ", "async def no(self):\n        pass\n    "])
def test_what_it_raises_when_it_is_made_does_so_too(said: Any, taught: Any, where: str) -> None:
    answer = said(taught(f"class Odd(BaseException): pass\nclass Goal:\n    {where}raise Odd('early')\n"))
    assert "mine:Goal: <code " in answer.text and "/mine.py, line " in answer.text and "Odd: early" in answer.text


@pytest.mark.parametrize("raised", ["raise ValueError('q' * 3_000_000)", "raise Odd('q\\n' * 3_000_000)", "raise Coded('q' * 9)"])
def test_a_text_of_megabytes_is_cut_and_says_so(said: Any, taught: Any, raised: str) -> None:
    answer = said(taught(TEXT.replace("{body}", raised)))
    assert len(answer.text) < 3000 and ("characters)" in answer.text or "9" in raised)


def test_of_agentkds_own_errors_no_more_than_a_part_goes_on_the_wire() -> None:
    answer = ErrorReply.of(ConfigError("\x1b" * 3_000_000))
    assert len(answer.text) < MAX_ERROR_TEXT + 100 and answer.text.endswith(" ... (12,000,000 characters)")


NETWORK = """
from torch import nn
class Odd(BaseException): pass
class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layer = nn.Conv2d(3, num_classes, 1)
    def forward(self, images):
        if images.is_meta or not self.training:
            return self.layer(images)
        raise Odd("inside")
"""
DATA = """
import numpy as np
class Scenes:
    name, classes, ignore_index, digest = "no name of its own", ("a", "b"), 255, "d"
    splits = {"train": range(4), "validation": range(2), "test": range(1)}
    colors = ()
    def group(self, index): return str(index)
    def check(self): pass
    def sample(self, index):
        raise EOFError("no such image")
"""


def test_what_a_network_raises_names_it(said: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine_net.py").write_text(NETWORK)
    task = Train(architecture=resolve("mine_net:Net", 5), data=source(SCENES), recipe=RECIPE, seed=1, view_seed=1)
    assert "network mine_net:Net: <code " in (text := said(task).text)
    assert "/mine_net.py, line 11: Odd: inside" in text


def test_what_a_dataset_raises_names_it(said: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine_data.py").write_text(DATA)
    opened = open_dataset("few:2:mine_data:Scenes")
    data = DataSource(spec=opened.spec, content_digest=opened.digest, code=opened.code)
    text = said(Train(architecture=small(), data=data, recipe=RECIPE, seed=1, view_seed=1)).text
    assert "dataset mine_data:Scenes: <code " in text and "/mine_data.py, line 10: " in text and "no such image" in text


def test_a_network_that_is_to_teach_is_named_too() -> None:
    code = provide(SourceCode(files={"mine.py": "def Net(num_classes):\n    raise KeyError('no')\n"}))
    with pytest.raises(KeyError) as caught:
        load("mine:Net", code)(5)
    request = TeachRequest.model_construct(architecture=small().replace(family="mine:Net", code=code), data=None)
    assert blame(caught.value, (request.architecture, None)).startswith("network mine:Net: <code ")
    assert blame(caught.value, None).startswith("own code: <code ")
    assert blame(ValueError("ours"), None) == ""


def test_a_signal_passes_through_own_code_that_is_loaded_or_tried() -> None:
    code = provide(SourceCode(files={"mine.py": f"import os, signal\nos.kill({os.getpid()}, signal.SIGTERM)\n"}))
    before = signal.signal(signal.SIGTERM, endings._end)
    try:
        with pytest.raises(EndedBySignal):
            load("mine:Net", code)
    finally:
        signal.signal(signal.SIGTERM, before)
    with pytest.raises(EndedBySignal), told("cannot be read"):
        raise EndedBySignal(0)


@pytest.mark.parametrize("raised", ["Odd('base')", "GeneratorExit()", "Mute()", "ValueError('q' * 3_000_000)"])
def test_before_a_run_it_is_told_as_well(raised: str) -> None:
    text = TEXT.replace("{body}", "pass") + f"raise {raised}\n"
    with pytest.raises(ConfigError, match=r"mine:Goal: <code .*/mine.py, line 13: ") as caught:
        load("mine:Goal", provide(SourceCode(files={"mine.py": text})))
    assert len(str(caught.value)) < 3000
