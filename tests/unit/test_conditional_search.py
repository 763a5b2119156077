"""A search asks for nothing that makes no difference, never for one training under two names, and goes on as it was begun."""

from typing import Any

import pytest
import yaml
from experiments import EXPERIMENT

from agentkd.canonical import Proviso
from agentkd.config import check_experiment
from agentkd.coordinator import own_parts
from agentkd.experiment import build_recipe
from agentkd.names import Digest, TaskKey
from agentkd.networks.spaces import EDITION, FIRST_EDITION
from agentkd.pipeline.families import FamilyPlan
from agentkd.pipeline.own import OwnParts
from agentkd.pipeline.plan import Outlook, Planner
from agentkd.pipeline.spaces import search_space
from agentkd.pipeline.stages import PlannedTask
from agentkd.search.space import Choices, ConditionalSpace, Range, Space
from agentkd.search.study import Trial, TrialOutcome, suggest
from agentkd.task import EpochResult, Status, TaskResult

DATA = "generated:seed=5,size=64x64,train=4,validation=2,test=2"
DISCRIMINATOR = {"architecture.discriminator_width", "architecture.discriminator_layers"}
SPACE: Space = {
    "a.width": Choices(values=(8, 16)),
    "a.on": Choices(values=(True, False)),
    "b": Range(low=0.1, high=1.0),
}
WIDTH_IF_ON = {"a.width": Proviso("on is true", ("a.on",), lambda values: bool(values["a.on"]))}


def planner(**changes: Any) -> Planner:
    given = EXPERIMENT | {"data": {"dataset": DATA}} | changes
    experiment = check_experiment(yaml.safe_load(yaml.safe_dump(given)), source="test")
    own, dataset = own_parts.take_up(experiment)
    return Planner(experiment, dataset, own=own)


def invented(step: PlannedTask, number: int) -> TaskResult:
    return TaskResult(
        status=Status.COMPLETED,
        weights=Digest(f"{number:064x}"),
        miou=0.3 + (number * 7 % 11) / 100,
        epochs=1,
        num_parameters_total=1000 + number,
        num_parameters_network=1000 + number,
        num_parameters_deploy=1000 + number,
        num_macs=1000,
        history=(EpochResult(epoch=1, loss=1, miou=0.3, seconds=1),),
    )


def play(plan: Planner, results: dict[TaskKey, TaskResult], num_tasks: int = 1000) -> Outlook:
    outlook = plan.outlook(results)
    while outlook.steps and len(results) < num_tasks:
        step = outlook.steps[0]
        results[step.key] = invented(step, len(results))
        outlook = plan.outlook(results)
    return outlook


def search(trials: int) -> dict[str, Any]:
    listed = {"optimizer": {"values": ["sgd", "adamw"]}, "momentum": {"values": [0.8, 0.9]}, "power": {"values": [0.9, 2.0]}}
    return {
        "epochs": 1,
        "trials": trials,
        "patience": 0,
        "lag": 2,
        "recipe_space": listed,
        "max_deploy_ratio": 0.0,
        "pruning": None,
    }


def test_no_trial_has_a_value_that_makes_no_difference_and_each_of_the_others() -> None:
    families = {"cnn_i2i_bisenet": {}, "unet": {"recipe": {"schedule": "cosine"}}}
    plan = planner(families=families, search=search(24))
    outlook = play(plan, {}, num_tasks=60)
    for family, trials in outlook.trials.items():
        space = plan.families[family].space
        assert isinstance(space, ConditionalSpace)
        seen = set()
        for trial in trials:
            lacking = space.keys() - trial.values.keys()
            expected = {"recipe.power"} if family == "unet" else set()
            expected |= {"recipe.momentum"} if trial.values["recipe.optimizer"] == "adamw" else set()
            if family == "cnn_i2i_bisenet" and not trial.values["architecture.discriminator"]:
                expected |= DISCRIMINATOR
            if family == "unet":
                widest = (
                    trial.values["architecture.base"] * trial.values["architecture.growth"] ** trial.values["architecture.depth"]
                )
                expected |= {"architecture.max_width"} if round(widest / 8) * 8 <= 256 else set()
            assert lacking == expected
            seen.add(frozenset(lacking))
        assert len(trials) == 24 and len(seen) > 2, "both sides of each condition came up"


@pytest.mark.parametrize("loss", ["family", "cross_entropy"])
def test_what_the_family_loss_alone_sees_is_not_searched_with_another(loss: str) -> None:
    plan = planner(families={"cnn_i2i_bisenet": {"recipe": {"loss": loss}}}, search=search(6) | {"recipe_space": {}})
    trials = play(plan, {}, num_tasks=8).trials["cnn_i2i_bisenet"]
    hidden = {*DISCRIMINATOR, "architecture.discriminator", "architecture.i2i_kernel"}
    assert any(hidden <= trial.values.keys() for trial in trials) == (loss == "family")
    assert any(hidden & trial.values.keys() for trial in trials) == (loss == "family")


def test_the_sampler_is_told_of_values_as_they_are_written() -> None:
    """Of two values that build one network it learns of one, whichever it asked for."""
    space = {"skip": ["add"], "up": ["bilinear", "bilinear_1x1"], "base": [16], "depth": [2], "max_width": [0, 512]}
    plan = planner(families={"unet": {"space": space}}, search=search(8) | {"recipe_space": {}})
    outlook = play(plan, {}, num_tasks=12)
    assert {trial.values["architecture.up"] for trial in outlook.trials["unet"][1:]} == {"bilinear_1x1"}
    assert len(set(outlook.trial_keys["unet"][1:])) == 1, "it is one network"


def test_the_same_search_comes_out_every_time_and_after_an_interruption() -> None:
    families = {"cnn_i2i_bisenet": {}}
    one, results = play(planner(families=families, search=search(16)), whole := {}), whole
    part = {key: results[key] for key in list(results)[:7]}
    assert play(planner(families=families, search=search(16)), part) == one


def test_a_parameter_is_asked_for_after_those_that_decide_whether_it_is() -> None:
    space = ConditionalSpace(SPACE, WIDTH_IF_ON, {})
    assert list(space) == ["a.on", "a.width", "b"] and dict(space) == SPACE
    history = [
        Trial(n, space.searched({"a.width": 8, "a.on": n % 2 == 0, "b": 0.1 + n / 40}), TrialOutcome.COMPLETED, n / 30)
        for n in range(20)
    ]
    made = [suggest(space, history, [], number=20 + n, seed=1) for n in range(40)]
    assert {("a.width" in values) == values["a.on"] for values in made} == {True}
    assert {values["a.on"] for values in made} == {True, False}
    assert made[3] == suggest(space, history, [], number=23, seed=1)


def test_what_is_not_in_the_space_decides_as_it_is() -> None:
    left = {name: SPACE[name] for name in ("a.width", "b")}
    for value in (True, False):
        space = ConditionalSpace(left, WIDTH_IF_ON, {"a.on": value})
        assert ("a.width" in suggest(space, [], [], number=1, seed=1)) == value


def test_a_space_without_conditions_is_asked_as_it_was() -> None:
    history = [Trial(n, {"a.width": 8, "a.on": True, "b": 0.1 + n / 40}, TrialOutcome.COMPLETED, n / 30) for n in range(20)]
    for number in (0, 5, 20, 21):
        seen = history[:number]
        assert suggest(ConditionalSpace(SPACE, {}, {}), seen, [], number=number, seed=3) == suggest(
            SPACE, seen, [], number=number, seed=3
        )


def before(plan: Planner) -> Planner:
    """The same as a version that had the first edition of the spaces would have planned it."""
    for family in plan.families.values():
        family._search_now, family._search_before = family._search_before, None  # type: ignore[assignment]
    return plan


def test_a_run_that_was_begun_in_the_first_edition_is_reported_and_gone_on_with_in_it() -> None:
    families = {"unet": {"settings": {"max_width": 512}, "recipe": {"momentum": 0.8}}, "cnn_i2i_bisenet": {}}
    changes = {"families": families, "search": search(5)}
    results: dict[TaskKey, TaskResult] = {}
    was = play(before(planner(**changes)), results)
    assert was.is_finished
    assert any(task.recipe.momentum == 0.8 and task.recipe.optimizer == "adamw" for task in tasks(was)), "as it was written"
    again = planner(**changes)
    now = again.outlook(results)
    assert now == was and {family.edition for family in again.families.values()} == {FIRST_EDITION}
    for done in (1, 4, 9):
        part = {key: results[key] for key in list(results)[:done]}
        assert part.keys() <= play(planner(**changes), dict(part)).keys, "nothing that is recorded is done again"
    part = {key: results[key] for key in list(results)[:-1]}
    assert play(planner(**changes), part).keys == was.keys


def test_a_run_of_now_stays_what_it_is_from_its_first_record_on() -> None:
    changes = {"families": {"unet": {"settings": {"max_width": 512}}}, "search": search(5)}
    results: dict[TaskKey, TaskResult] = {}
    plan = planner(**changes)
    was = play(plan, results)
    assert was.is_finished and plan.families["unet"].edition == EDITION
    assert was.keys != play(before(planner(**changes)), {}).keys
    for done in range(len(results)):
        part = {key: results[key] for key in list(results)[:done]}
        assert planner(**changes).outlook(part).keys <= was.keys


def tasks(outlook: Outlook) -> list[Any]:
    return [row.entrant.task for row in outlook.rows]


def test_a_lesson_has_the_recipe_that_its_file_says_whatever_made_no_difference_before() -> None:
    """A field that a trial did not need, and its lesson does, is that of the file."""
    families = {"unet": {"recipe": {"momentum": 0.7, "validate_every": 4}}}
    round1 = {"epochs": 8, "recipe": {"optimizer": "sgd", "learning_rate": 0.01}}
    changes = {"families": families, "search": search(2) | {"recipe_space": {}}, "round1": round1, "select": {"baseline": False}}
    outlook = play(planner(**changes), {})
    (lesson,) = outlook.lessons
    assert lesson.student.recipe.momentum == 0.9 and lesson.student.recipe.validate_every == 1, "of one epoch of AdamW"
    assert lesson.taught is not None
    recipe = lesson.taught.task.recipe
    assert (recipe.optimizer, recipe.momentum, recipe.validate_every, recipe.epochs) == ("sgd", 0.7, 4, 8)


def test_a_setting_that_a_trial_needs_is_that_of_the_file() -> None:
    settings = {"discriminator": False, "discriminator_width": 8}
    space = {"discriminator": [True]}
    plan = planner(families={"cnn_i2i_bisenet": {"settings": settings, "space": space}}, search=search(2) | {"recipe_space": {}})
    results: dict[TaskKey, TaskResult] = {}
    play(plan, results, num_tasks=3)
    (trial,) = plan.outlook(results).trials["cnn_i2i_bisenet"][1:]
    assert trial.values == {"architecture.discriminator": True}
    wanted = [
        step.task.architecture.settings
        for step in planner(families={"cnn_i2i_bisenet": {"settings": {"discriminator": True, "discriminator_width": 8}}})
        .outlook({})
        .steps
    ]
    trained = plan.families["cnn_i2i_bisenet"].drafts.architecture({**settings, "discriminator": True}).settings
    assert trained == wanted[0] and trained["discriminator_width"] == 8


def test_the_space_of_a_family_is_that_of_its_edition() -> None:
    plan = planner(families={"pidnet_s": {}})
    experiment, own = plan.experiment, OwnParts()
    old = search_space(experiment, "pidnet_s", own, {}, edition=FIRST_EDITION)
    new = search_space(experiment, "pidnet_s", own, {})
    assert not isinstance(old, ConditionalSpace) and new.keys() - old.keys() == {
        "architecture.convolution",
        "architecture.padding",
    }
    assert isinstance(plan.families["pidnet_s"], FamilyPlan) and plan.families["pidnet_s"].space.keys() == new.keys()


def test_a_recipe_may_be_built_as_it_was_written() -> None:
    experiment = planner(families={"unet": {"recipe": {"momentum": 0.8}}}).experiment
    assert build_recipe(experiment, "unet").momentum == 0.9 and build_recipe(experiment, "unet", as_written=True).momentum == 0.8
