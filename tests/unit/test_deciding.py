"""Agents decide in their own processes, by their own rules, whoever wrote them, and begin to when data arrive."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from experiments import SPEC
from noting import Recording
from sides import wait_until

import agentkd
from agentkd.agents.deciding import decide, decision_of
from agentkd.artifacts.journal import Journal
from agentkd.code import loading
from agentkd.community import arrivals
from agentkd.community.arrivals import Education
from agentkd.community.education import Educated, education_cycle, path_of
from agentkd.community.handles import AgentHandle
from agentkd.community.rules import Decision, Offer, Role, Rules
from agentkd.errors import ChannelClosedError, ConfigError, TrainingError
from agentkd.names import Digest
from agentkd.networks.families import resolve
from agentkd.task import DataSource, Decide, read_task
from agentkd.testing import Community

OTHER = f"{SPEC.replace('seed=5', 'seed=6')},light=dusk"
RECIPE: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 4,
    "learning_rate": 0.05,
    "views": agentkd.ViewSettings(crop_height=32, crop_width=32),
}
ME, BETTER = Offer("a", 0.1, 0.5), Offer("b", 0.95, 0.8)
RULE = """
from agentkd.community.rules import Decision, Role

def {name}(me, others, rules, taught):
    {body}
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """Writes a rule into a file that can be imported; returns its path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))

    def made(name: str, body: str) -> str:
        (tmp_path / f"rules_{name}.py").write_text(RULE.format(name=name, body=body))
        return f"rules_{name}:{name}"

    return made


def task(**fields: Any) -> Decide:
    work: dict[str, Any] = {"architecture": resolve("unet", 5, {}), "data": DataSource(spec="s", content_digest=Digest("d"))}
    return Decide(**work | {"me": ME, "others": (BETTER,), "rules": Rules()} | fields)


def by(rule: str, **fields: Any) -> Decide:
    from agentkd.code.taking import take

    return task(rules=Rules(rule=rule, code=take(rule)), **fields)


def test_a_task_of_deciding_says_all_that_decides_and_gives_what_the_rules_give() -> None:
    asked = task(taught=(("c", ("a",)),))
    assert read_task(asked.canonical()) == asked
    assert decision_of(asked) == decide(ME, [BETTER], Rules(), {"c": ("a",)})
    assert decision_of(task(others=(BETTER, Offer("c", 0.9, 0.9)), taught=(("b", ("a",)),))).teachers == ("c",)
    for wrong in ({"me": {"name": "a", "known_fraction": 2, "miou": 0}}, {"rules": {"known_at": "often"}}, {"rules": {"run": 1}}):
        with pytest.raises(ValueError):
            task(**wrong)
    with pytest.raises(ValueError):
        read_task(asked.canonical() | {"others": [{"name": "b", "known_fraction": 1, "miou": 1, "more": 1}]})


def test_an_own_rule_decides_with_what_agentkds_would(write: Callable[[str, str], str]) -> None:
    body = "return Decision(Role.STUDENT, tuple(o.name for o in others), f'{me.name} {rules.margin} {sorted(taught)}')"
    asked = by(write("all_of_them", body), taught=(("c", ("d",)),))
    assert decision_of(asked) == Decision(Role.STUDENT, ("b",), "a 0.05 ['c']")
    assert asked.runs_code and ("runs code", asked.rules.code) in [*asked.reads()]


WRONG = {
    "raises": ("1 / 0", "cannot decide by it"),
    "nothing": ("pass", "a rule returns"),
    "text": ("return 'student'", "a rule returns"),
    "stranger": ("return Decision(Role.STUDENT, ('z',), '')", "chose z"),
    "itself": ("return Decision(Role.STUDENT, ('a',), '')", "chose a"),
    "pupil": ("return Decision(Role.STUDENT, ('c',), '')", "chose c"),
    "twice": ("return Decision(Role.STUDENT, ('b', 'b'), '')", "each once"),
    "nobody": ("return Decision(Role.STUDENT, (), '')", "with 0 teachers"),
    "taught_teacher": ("return Decision(Role.TEACHER, ('b',), '')", "with 1 teachers"),
    "long": ("return Decision(Role.IDLE, (), 'x' * 10_000)", "a rule returns"),
    "exits": ("raise SystemExit(0)", "cannot decide by it"),
}


@pytest.mark.parametrize(("body", "said"), WRONG.values(), ids=WRONG)
def test_what_an_own_rule_may_not_decide_is_said(write: Callable[[str, str], str], body: str, said: str, request: Any) -> None:
    asked = by(write(request.node.callspec.id, body), others=(BETTER, Offer("c", 0.9, 0.9)), taught=(("c", ("a",)),))
    with pytest.raises(ConfigError, match=said):
        decision_of(asked)


def test_a_rule_that_is_no_function_or_not_there_is_said() -> None:
    with pytest.raises(ConfigError, match=r"no function of a module"):
        path_of(lambda *rest: Decision(Role.IDLE, (), ""))
    with pytest.raises(ConfigError, match="expected a function"):
        path_of(3)  # type: ignore[arg-type]
    assert path_of("my_rules:careful") == "my_rules:careful" and path_of(path_of_nothing).endswith(":path_of_nothing")
    with pytest.raises(ConfigError, match="not provided"):
        decision_of(task(rules=Rules(rule="my_rules:careful", code=Digest("f" * 64))))


def path_of_nothing() -> None: ...


def test_in_a_cycle_each_decides_by_its_own_rule_as_a_task_that_is_recorded(
    write: Callable[[str, str], str], tmp_path: Path
) -> None:
    rule = write(
        "eager", "return Decision(Role.STUDENT, (others[0].name,), 'always') if not taught else Decision(Role.IDLE, (), '')"
    )
    with Community(devices="cpu:2", record=tmp_path / "run") as community:
        networks = [community.agent(name, "tiny_networks:tiny") for name in ("a", "b")]
        for network, data in zip(networks, (SPEC, OTHER), strict=True):
            network.train(data, **RECIPE).result()
        agents = [
            Educated(network, data, Rules(protection="none"), rule=rule)
            for network, data in zip(networks, (SPEC, OTHER), strict=True)
        ]
        before = networks[0].weights
        decisions = education_cycle(agents, OTHER, **RECIPE)
        assert decisions == {"a": Decision(Role.STUDENT, ("b",), "always"), "b": Decision(Role.IDLE, (), "")}
        assert networks[0].weights != before
        mistaken = Educated(networks[0], SPEC, rule=write("mistaken", "return taught['nobody']"))
        with pytest.raises(TrainingError, match="cannot decide by it"):
            education_cycle([mistaken, agents[1]], SPEC, **RECIPE)
    with Journal(tmp_path / "run" / "journal.sqlite", read_only=True) as journal:
        decided = [record for record in journal.records() if isinstance(record.task, Decide)]
    assert [record.result.decision for record in decided] == [*decisions.values()]
    assert all(loading.is_provided(record.task.rules.code) for record in decided), "its source is an input, and kept"


def test_what_an_agent_finds_of_itself_is_a_share_whatever_its_shares_add_up_to(monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(known_fraction=1.0, predicted=(0.5000001, 0.5000001))
    agent = AgentHandle(Recording(), "a", "unet", num_classes=5)  # type: ignore[arg-type]
    monkeypatch.setattr(agent, "assess", lambda *rest, **how: found)
    offer = Educated(agent, "s").assess("new")
    assert offer == Offer("a", 1.0, 0.0) and task(me=offer).me == offer


# Data arrive.


class Cycles:
    """What was gone through, in the place of ``education_cycle``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.data: list[Any] = []
        self.goes_on, self.began = threading.Event(), threading.Event()
        self.goes_on.set()
        monkeypatch.setattr(arrivals, "education_cycle", self)
        monkeypatch.setattr(arrivals, "LOOK_EVERY_S", 0.01)

    def __call__(self, agents: list[Educated], data: Any, **recipe: Any) -> dict[str, Decision]:
        self.began.set()
        self.data.append(data)
        assert self.goes_on.wait(20) and recipe == {"epochs": 3}
        if data == "wrong":
            raise TrainingError("it cannot be learned")
        return {"a": Decision(Role.IDLE, (), str(data))}


def test_data_that_arrive_begin_a_cycle_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    cycles = Cycles(monkeypatch)
    with Education([], epochs=3) as education:
        told = [education.arrive(data) for data in ("x", "wrong", "y")]
        assert told[2].result(timeout=20)["a"].reason == "y" and told[0].result()["a"].reason == "x"
        with pytest.raises(TrainingError, match="cannot be learned"):
            told[1].result()
        assert cycles.data == ["x", "wrong", "y"] == [data for data, _ in education.cycles]
    with pytest.raises(ChannelClosedError):
        education.arrive("z")
    with pytest.raises(ChannelClosedError):
        Education([], epochs=3).arrive("z")


def test_when_the_block_ends_the_cycle_under_way_is_finished_and_the_others_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    cycles = Cycles(monkeypatch)
    cycles.goes_on.clear()
    with Education([], epochs=3) as education:
        first, second = education.arrive("x"), education.arrive("y")
        assert cycles.began.wait(20)
        threading.Timer(0.05, cycles.goes_on.set).start()
    assert first.result(timeout=0)["a"].reason == "x"
    with pytest.raises(ChannelClosedError, match="nobody learns here any more"):
        second.result(timeout=0)


def test_a_dataset_that_is_put_into_the_inbox_arrives_once_and_when_it_is_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cycles, inbox, elsewhere = Cycles(monkeypatch), tmp_path / "inbox", tmp_path / "elsewhere"
    with pytest.raises(ConfigError, match="mkdir"):
        Education([], inbox=inbox)
    (elsewhere / "images").mkdir(parents=True)
    (elsewhere / "dataset.yaml").write_text("name: x")
    inbox.mkdir()
    signatures: list[Path] = []
    changing = threading.Event()
    honest = arrivals._signature

    def signature(folder: Path) -> arrivals.Signature:
        signatures.append(folder)
        return honest(folder) if changing.is_set() else (("written", len(signatures), 0),)

    monkeypatch.setattr(arrivals, "_signature", signature)
    with Education([], inbox=inbox, epochs=3) as education:
        (inbox / "not a dataset").mkdir()
        shutil.copytree(elsewhere, inbox / "fires")
        wait_until(lambda: len(signatures) > 5, timeout_s=20)
        assert cycles.data == [], "somebody writes there"
        changing.set()
        wait_until(lambda: len(cycles.data) == 1, timeout_s=20)
        count = len(signatures)
        wait_until(lambda: len(signatures) > count + 5, timeout_s=20)
        assert cycles.data == [f"folder:path={(inbox / 'fires').resolve()}"] == [data for data, _ in education.cycles]
