"""Agents that educate each other, classifiers among them, and teachers that are slow."""

from pathlib import Path

import pytest
from experiments import SPEC, environment, load_example

import agentkd
from agentkd.community.education import Educated
from agentkd.community.rules import Rules

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]
VIEWS = agentkd.ViewSettings(crop_height=32, crop_width=32)
RECIPE = {"epochs": 1, "batch_size": 4, "views": VIEWS}


@pytest.fixture(autouse=True)
def _own_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])


def test_the_education_example_tells_what_each_agent_decides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = load_example("education_cycle").main(record=str(tmp_path / "run"), epochs=1)
    said = capsys.readouterr().out
    assert said.count(" is ") == 9 and "after cycle 3: mean mIoU" in said and 0 < kept.average < 1


def test_an_agent_learns_unlabelled_data_under_every_protection_and_ends_differently(tmp_path: Path) -> None:
    other = SPEC.replace("seed=5", "seed=6") + ",light=dusk"
    ends = {}
    with agentkd.Community(devices="cpu:2", record=tmp_path / "run") as community:
        for protection in ("none", "ewc", "lwf", "replay"):
            networks = [community.agent(f"{name}-{protection}", "tiny_networks:tiny") for name in ("student", "teacher")]
            for network, data in zip(networks, (SPEC, other), strict=True):
                network.train(data, **RECIPE).result()
            student = Educated(networks[0], SPEC, Rules(protection=protection))
            result = student.learn(other, [Educated(networks[1], other)], **RECIPE).result()
            assert result.exchange and result.exchange.requests > 0
            assert student.assess(other).known_fraction > 0
            ends[protection] = result.weights
    assert len(set(ends.values())) == 4


def test_networks_that_classify_whole_images_teach_and_are_taught_as_others_are(tmp_path: Path) -> None:
    with agentkd.Community(devices="cpu:2", record=tmp_path / "run") as community:
        big, small = (community.agent(f"of-{width}", "tiny_networks:classifier", width=width) for width in (16, 8))
        big.train(SPEC, **RECIPE).result()
        objectives = [agentkd.SoftTargets(), agentkd.Features({"body.0": "body.0"}), agentkd.Dist()]
        taught = small.distill(big, SPEC, objectives, **RECIPE).result()
        assert taught.exchange and taught.exchange.requests == 4
        for lesson in agentkd.mutual(big, small, data=SPEC, **RECIPE):
            assert lesson.result().weights
        assert 0 <= big.assess(SPEC).known_fraction <= 1


def test_a_teacher_that_is_ten_times_slower_makes_its_student_wait_and_changes_nothing(tmp_path: Path) -> None:
    ends = []
    for family in ("other", "slow"):
        with agentkd.Community(devices="cpu:2", record=tmp_path / family) as community:
            teacher = community.agent("teacher", f"tiny_networks:{family}")
            teacher.train(SPEC, **RECIPE).result()
            ends.append(community.agent("student", "tiny_networks:tiny").distill(teacher, SPEC, **RECIPE).result())
    fast, slow = ends
    assert slow.weights == fast.weights
    assert slow.exchange and slow.exchange.teacher_s > 0.4, "four answers, each after a tenth of a second"
