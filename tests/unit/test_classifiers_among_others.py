"""Networks that classify whole images, with several heads, learning one thing after the other, and beside segmenting ones."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import agentkd
from agentkd import Educated, Rules, education_cycle
from agentkd.artifacts.journal import Journal
from agentkd.recipe import ViewSettings
from agentkd.task import Decide
from agentkd.task.judging import Measure, shared_measure
from agentkd.testing import Community

SPEC = "generated:seed=5,size=32x32,train=8,validation=6,test=6"
OTHER = SPEC + ",light=infrared"
HOW: dict[str, Any] = {"epochs": 2, "batch_size": 4, "views": ViewSettings(crop_height=32, crop_width=32)}
CLASSIFIER = "tiny_networks:classifier"


@pytest.fixture
def community(tmp_path: Path) -> Iterator[Community]:
    with Community(devices="cpu:2", record=tmp_path / "run") as opened:
        yield opened


def offers(community: Community) -> dict[str, float]:
    """How well each agent said that it does, in what it decided last."""
    with Journal(community._folder.journal, read_only=True) as journal:
        tasks = [record.task for record in journal.records() if isinstance(record.task, Decide)]
    return {task.me.name: task.me.miou for task in tasks}


def test_who_knows_data_best_is_found_by_a_score_that_all_have(community: Community) -> None:
    whole, dense = community.agent("whole", CLASSIFIER), community.agent("dense", "tiny_networks:tiny")
    second = community.agent("second", CLASSIFIER, width=6)
    for one in (whole, second):
        one.train(SPEC, **HOW).result()
    assert whole.measure is Measure.ACCURACY and whole.score == whole.evaluate(SPEC, "validation").accuracy != whole.miou
    order = community.who_knows(SPEC)
    assert [found for found, _ in order] == sorted(
        (whole, second), key=lambda one: -(one.assess(SPEC).known_fraction or 0) * one.score
    )
    dense.train(SPEC, **HOW).result()
    assert dense.measure is Measure.MIOU and whole.score_by(Measure.MIOU) == whole.miou
    found = {handle.name: competence.known_fraction for handle, competence in community.who_knows(SPEC)}
    expected = {one.name: -(one.assess(SPEC).known_fraction or 0) * one.miou for one in (whole, second, dense)}
    assert list(found) == sorted(expected, key=lambda name: expected[name]), "an accuracy is no mIoU"


@pytest.mark.parametrize("mixed", [True, False])
def test_agents_say_of_themselves_what_can_be_compared(mixed: bool, community: Community) -> None:
    whole = community.agent("whole", CLASSIFIER)
    other = community.agent("other", "tiny_networks:tiny" if mixed else CLASSIFIER)
    for one in (whole, other):
        one.train(SPEC, **HOW).result()
    assert whole.miou != whole.score
    education_cycle([Educated(one, SPEC, Rules(known_at=0.0)) for one in (whole, other)], SPEC, **HOW)
    assert offers(community) == {one.name: one.miou if mixed else one.score for one in (whole, other)}
    assert Educated(whole, SPEC).assess(SPEC).miou == whole.score, "alone it goes by its own"


def test_a_classifier_has_a_head_for_each_task_and_an_accuracy_for_each(community: Community) -> None:
    a = community.agent("a", CLASSIFIER, heads={"day": 5, "infrared": 5, "spare": 5})
    a.head("day").train(SPEC, **HOW).result()
    a.consolidate()
    a.head("infrared").train(OTHER, rehearse={"day": SPEC}, protect=5.0, **HOW).result()
    for head, data in (("day", SPEC), ("infrared", OTHER)):
        assert a.head(head).measure is Measure.ACCURACY and a.head(head).evaluate(data).accuracy is not None
    now = a.head("infrared").evaluate(OTHER, "validation")
    assert a.head("infrared").score == now.accuracy and a.measure is Measure.ACCURACY
    both = Educated(a, {"day": SPEC, "infrared": OTHER})
    assert both.measure is Measure.ACCURACY
    offered = both.assess(OTHER)
    there = {head: a.head(head).evaluate(data, "validation").accuracy for head, data in (("day", SPEC), ("infrared", OTHER))}
    assert offered.miou in there.values()
    assert both._heads["infrared"].assess(OTHER, Measure.MIOU).miou == now.miou
    segmenter = community.agent("s", "tiny_networks:headed", heads={"day": 5, "infrared": 5})
    segmenter.head("day").train(SPEC, **HOW).result()
    assert segmenter.measure is Measure.MIOU and shared_measure([]) is Measure.MIOU


def test_a_mean_of_classifiers_is_worth_its_accuracy(community: Community) -> None:
    a, b, c = (community.agent(name, CLASSIFIER) for name in "abc")
    for one in (a, b):
        one.train(SPEC, **HOW).result()
    c.average([a, b]).result()
    looked = c.evaluate(SPEC, "validation")
    assert (c.measure, c.score, c.miou) == (Measure.ACCURACY, looked.accuracy, looked.miou)


def test_an_agent_of_one_head_hands_on_what_it_knew(community: Community) -> None:
    heads = {"day": 5, "infrared": 5}
    a, b = (community.agent(name, "tiny_networks:headed", heads=heads) for name in "ab")
    a.head("day").train(SPEC, **HOW).result()
    b.head("day").train(OTHER, **HOW).result()
    teacher, student = Educated(a.head("day"), SPEC), Educated(b, {"day": OTHER}, Rules(policy="weights"))
    new = SPEC.replace("seed=5", "seed=9")
    student.learn(new, [teacher], **HOW).result()
    assert student.learned == [SPEC, new] and b.head("day").classes == agentkd.open_dataset(SPEC).classes
