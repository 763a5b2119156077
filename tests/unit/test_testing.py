"""A community in one process: a script does there what it does with agents, and everybody who waits is answered."""

import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from experiments import SPEC, load_example

import agentkd
from agentkd.artifacts.journal import Journal, Record
from agentkd.coordinator.watching import Silent
from agentkd.errors import ArtifactError, ChannelClosedError, ConfigError, StorageError, TrainingError
from agentkd.task import Status
from agentkd.testing import Community, in_process

VIEWS = agentkd.ViewSettings(crop_height=32, crop_width=32)
RECIPE: dict[str, Any] = {"epochs": 1, "steps_per_epoch": 3, "batch_size": 4, "learning_rate": 0.05, "views": VIEWS}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "run"


def recorded(place: Path) -> int:
    with Journal(place / "journal.sqlite", read_only=True) as journal:
        return len(list(journal.records()))


class Noting(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, line: str) -> None:
        self.lines.append(line)


def script(kind: type[agentkd.Community], record: Path) -> list[str]:
    """A user's script."""
    with kind(devices="cpu:2", record=record, seed=4) as community:
        big, small = community.agent("big", "tiny_networks:other"), community.agent("small", "tiny_networks:tiny")
        trained = big.train(SPEC, **RECIPE).result().weights
        objectives = [agentkd.SoftTargets(), agentkd.Features({"body": "body"}, weight=1)]
        lesson = small.distill(big, SPEC, objectives, **RECIPE)
        taught = lesson.result().weights
        together = [each.result().weights for each in agentkd.mutual(big, small, data=SPEC, **RECIPE)]
        small.consolidate()
        kept = small.train(SPEC, protect=5.0, **RECIPE).result().weights
        return [trained, taught, *together, kept]


def test_a_network_whose_task_failed_says_so_and_then_goes_on_from_where_it_stood(place: Path) -> None:
    with Community(devices="cpu:1", record=place) as community:
        network = community.agent("one", "tiny_networks:picky")
        good = network.train(SPEC, **RECIPE).result().weights
        for see in (lambda lesson: lesson.result(), lambda lesson: network.weights, lambda lesson: network.train(SPEC, **RECIPE)):
            lesson = network.train(SPEC, **RECIPE | {"batch_size": 7})
            with pytest.raises(TrainingError, match="batch of 7"):
                see(lesson)
            assert network.weights == good and network.miou > 0, "it was said"
        assert network.train(SPEC, **RECIPE).result().weights not in ("", good)
        fresh = community.agent("fresh", "tiny_networks:picky")
        with pytest.raises(TrainingError):
            fresh.train(SPEC, **RECIPE | {"batch_size": 7}).result()
        assert fresh.weights == "" and fresh.train(SPEC, **RECIPE).result().weights


def test_a_script_does_all_that_it_does_with_agents_and_is_answered_from_the_records_the_next_time(place: Path) -> None:
    first = script(Community, place)
    count = recorded(place)
    assert count == 6 and len(set(first)) == 5
    watcher = Noting()
    with Community(devices="cpu:2", record=place, seed=4, watcher=watcher) as community:
        big = community.agent("big", "tiny_networks:other")
        result = big.train(SPEC, **RECIPE).result()
    assert result.weights == first[0] and watcher.lines == [] and recorded(place) == count


def test_progress_competence_and_feature_maps_are_there(place: Path) -> None:
    with Community(devices="cpu:1", record=place) as community:
        agent = community.agent("a", "tiny_networks:tiny")
        steps = [event.step for event in agent.train(SPEC, **RECIPE).progress()]
        assert steps == sorted(set(steps)) and steps[-1] == 3
        assert agent.assess(SPEC).known_fraction is not None
        maps = agent.feature_maps(agentkd.open_dataset(SPEC).views([1, 2]), taps=["body"]).result()
        assert set(maps) == {"logits", "body"} and len(maps["body"]) == 2
        assert community.recordings.num_lessons == 0


def test_what_fails_is_told_as_by_agents_with_its_cause_and_the_community_goes_on(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Community(devices="cpu:1", record=place) as community:
        broken = community.agent("broken", "tiny_networks:broken")
        with pytest.raises(
            TrainingError,
            match=r"internal: network tiny_networks:broken: .*/tiny_modules.py, line 30: RuntimeError: this network is broken",
        ):
            broken.train(SPEC, **RECIPE).result(timeout=60)
        assert "tiny_modules.py" in caplog.text, "where it broke"
        good = community.agent("good", "tiny_networks:tiny")
        teacher = community.agent("teacher", "tiny_networks:other")
        teacher.train(SPEC, **RECIPE).result(timeout=60)
        with pytest.raises(TrainingError, match=r"contract: .*tap"):
            good.distill(teacher, SPEC, [agentkd.Features({"no": "body"})], **RECIPE).result(timeout=60)
        good = community.agent("another", "tiny_networks:tiny")
        assert good.train(SPEC, **RECIPE).result(timeout=60).status is Status.COMPLETED
    assert recorded(place) == 2


def test_students_that_teach_each_other_fail_together(place: Path) -> None:
    with Community(devices="cpu:2", record=place) as community:
        good, bad = community.agent("good", "tiny_networks:tiny"), community.agent("bad", "tiny_networks:broken")
        lessons = agentkd.mutual(good, bad, data=SPEC, **RECIPE)
        with pytest.raises(TrainingError, match="another student failed, without which it cannot be done"):
            lessons[0].result(timeout=60)
        with pytest.raises(TrainingError, match="this network is broken"):
            lessons[1].result(timeout=60)
    assert recorded(place) == 0


def test_of_students_that_teach_each_other_none_is_recorded_without_the_others(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(journal: Journal, record: Record, sitting: int, provenance: str) -> None:
        if len(written) == 1:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        written.append(record)
        insert(journal, record, sitting, provenance)

    insert, written = Journal._insert, list[Record]()
    monkeypatch.setattr(Journal, "_insert", full)
    with Community(devices="cpu:2", record=place) as community:
        students = [community.agent(name, "tiny_networks:tiny") for name in "ab"]
        for lesson in agentkd.mutual(*students, data=SPEC, **RECIPE):
            with pytest.raises(StorageError):
                lesson.result(timeout=60)
    assert len(written) == 1 and recorded(place) == 0


def test_a_student_whose_partner_is_recorded_learns_with_it_again(place: Path) -> None:
    with Community(devices="cpu:2", record=place) as community:
        students = [community.agent(name, "tiny_networks:tiny") for name in "ab"]
        weights = [lesson.result(timeout=60).weights for lesson in agentkd.mutual(*students, data=SPEC, **RECIPE)]
    with sqlite3.connect(place / "journal.sqlite") as journal:
        journal.execute("DELETE FROM records WHERE number = 2")
    journal.close()
    with Community(devices="cpu:2", record=place) as community:
        students = [community.agent(name, "tiny_networks:tiny") for name in "ab"]
        lessons = agentkd.mutual(*students, data=SPEC, **RECIPE)
        assert [lesson.result(timeout=60).weights for lesson in lessons] == weights
        assert community.agent("c", "tiny_networks:tiny").train(SPEC, **RECIPE).result(timeout=60).weights


def test_a_community_that_is_closed_stops_at_the_next_step_and_answers_everybody(place: Path) -> None:
    with Community(devices="cpu:1", record=place) as community:
        agent, other = community.agent("a", "tiny_networks:tiny"), community.agent("b", "tiny_networks:tiny")
        running, waiting = agent.train(SPEC, **RECIPE | {"epochs": 10_000}), other.train(SPEC, **RECIPE)
        next(running.progress())
    for lesson in (running, waiting):
        with pytest.raises(ChannelClosedError, match="closed before this was done"):
            lesson.result(timeout=0)
    with pytest.raises(ChannelClosedError, match="with-block"):
        community.agent("c", "tiny_networks:tiny").train(SPEC, **RECIPE)


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [
        (in_process, "execute", StorageError("x", "full")),
        (in_process, "execute", KeyboardInterrupt()),
        (Journal, "commit", ArtifactError("not deterministic")),
    ],
    ids=["no space", "interrupted", "not recorded"],
)
def test_whatever_ends_it_everybody_is_told(
    place: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, error: BaseException
) -> None:
    all_are_asked = threading.Event()

    def fail(*arguments: object) -> None:
        all_are_asked.wait(60)
        raise error

    monkeypatch.setattr(owner, name, fail)
    with Community(devices="cpu:1", record=place) as community:
        lessons = [community.agent(name, "tiny_networks:tiny").train(SPEC, **RECIPE) for name in "ab"]
        all_are_asked.set()
        assert [lesson.exception(timeout=60) for lesson in lessons] == [error] * 2


def test_a_folder_that_is_in_use_is_refused(place: Path) -> None:
    with Community(devices="cpu:1", record=place), pytest.raises(ArtifactError, match="in use"), Community(record=place):
        pass


def test_the_scripts_own_random_numbers_and_threads_are_left_alone(place: Path) -> None:
    torch.manual_seed(3)
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    with Community(devices="cpu:1", record=place) as community:
        community.agent("a", "tiny_networks:tiny").train(SPEC, **RECIPE).result()
    assert torch.equal(before, torch.random.get_rng_state()) and torch.get_num_threads() == threads


def test_arguments_are_checked_as_ever_and_devices_need_not_be_here(place: Path) -> None:
    assert Community(devices="cuda:0,cuda:1,cuda:2", record=place).num_learners == 3
    assert (Community(record=place).num_learners or 0) >= 1
    with pytest.raises(ConfigError, match="did you mean 'record_lessons'"):
        Community(record=place, record_lesson=True)
    with pytest.raises(ConfigError, match="'gpu' is not a device"):
        Community(devices="gpu", record=place)
    with pytest.raises(ConfigError, match="guests cannot come"):
        Community(devices="none", record=place)
    with Community(devices="cpu:1", record=place) as community:
        with pytest.raises(ConfigError, match="neither agents nor guests"):
            community.guest("g", "k" * 40)
        a, b = community.agent("a", "tiny_networks:tiny"), community.agent("b", "tiny_networks:other")
        with pytest.raises(ConfigError, match="need as many agents, and there are 1"):
            agentkd.mutual(a, b, data=SPEC)


def test_a_script_that_visits_finds_what_is_recorded(place: Path) -> None:
    with Community(devices="cpu:1", record=place) as community:
        weights = community.agent("a", "tiny_networks:tiny").train(SPEC, **RECIPE).result().weights
    with Community.connect(place) as visited:
        assert visited.agent("b", "tiny_networks:tiny", weights=weights).evaluate(SPEC).status is Status.COMPLETED


def test_an_example_is_tested_by_putting_it_in_the_place_of_the_other(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(agentkd, "Community", Community)
    load_example("exchange").main(record=str(place), epochs=1)
    said = capsys.readouterr().out
    assert "step 8 of 8" in said and said.count("calibration error") == 2
