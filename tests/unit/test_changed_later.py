"""What the reference of the experiment file says of changing a field later is so: which stages' tasks keep their keys."""

from collections import defaultdict
from typing import Any

import pytest
from experiments import EXPERIMENT
from planning import invented, planner

from agentkd.pipeline.plan import Planner
from website.fields import LATER

STAGES = ("baseline", "search", "round1", "round2")


def keys(plan: Planner) -> dict[str, set[str]]:
    """The keys of all tasks of a plan by stage, each with an invented result."""
    found: dict[str, set[str]] = defaultdict(set)
    results: dict[str, Any] = {}
    for _ in range(200):
        outlook = plan.outlook(results)
        assert not outlook.failure
        if outlook.is_finished:
            return found
        for step in outlook.steps:
            found[str(step.stage)].add(step.key)
            results[step.key] = invented(step)
    raise AssertionError("the experiment does not end")


def changed(field: str, value: object) -> dict[str, set[str]]:
    part, _, name = field.partition(".")
    given: Any = EXPERIMENT.get(part, {})
    return keys(planner(**{part: given | {name: value} if name else value}))


@pytest.fixture(scope="module")
def before() -> dict[str, set[str]]:
    return keys(planner())


@pytest.mark.parametrize(
    ("field", "value", "kept"),
    [
        ("name", "other", 4),
        ("launch.lease_s", 99.0, 4),
        ("seed", 4, 0),
        ("recipe.learning_rate", 0.02, 0),
        ("data.dataset", "generated:seed=6,size=32x32,train=16,validation=8,test=8", 0),
        ("baseline.epochs", 3, 0),
        ("search.epochs", 4, 1),
        ("round1.epochs", 3, 2),
        ("round2.epochs", 3, 3),
    ],
)
def test_what_is_done_again_begins_at_the_stage_that_the_page_says(
    before: dict[str, set[str]], field: str, value: object, kept: int
) -> None:
    after = changed(field, value)
    assert all(before[stage] <= after[stage] for stage in STAGES[:kept]), f"{field} keeps {STAGES[:kept]}"
    assert all(not before[stage] <= after[stage] for stage in STAGES[kept : kept + 1]), f"{field} does {STAGES[kept]} again"
    said = LATER.get(field) or LATER[field.partition(".")[0]]
    nothing, everything = "nothing is done again", ("everything", "every training")
    words = [everything, ("search is done",), ("both rounds",), ("round 2 is done",), (nothing,)][kept]
    assert any(word in said for word in words) or (field == "baseline.epochs" and "baselines are done again" in said)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("search.trials", 4),
        ("search.patience", 1),
        ("search.candidates", 1),
        ("search.confirm", 1),
        ("control", True),
        ("seeds", 2),
    ],
)
def test_what_keeps_its_trials_keeps_them(before: dict[str, set[str]], field: str, value: object) -> None:
    after = changed(field, value)
    assert before["baseline"] <= after["baseline"]
    assert before["search"] <= after["search"] or (field == "search.patience" and after["search"] <= before["search"])
    assert field in LATER


def test_the_page_says_nothing_of_fields_that_there_are_not() -> None:
    given = planner().experiment
    for part, _, name in (field.partition(".") for field in LATER):
        assert part in type(given).model_fields
        assert not name or name in type(getattr(given, part)).model_fields
