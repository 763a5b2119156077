"""Tasks: an illegal one cannot be made, keys are those of every earlier record, each kind is executed."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from agentkd.agents.work import EXECUTIONS
from agentkd.architecture import Architecture
from agentkd.messages.bodies import TaskRequest
from agentkd.objectives import Features
from agentkd.recipe import Distillation, Recipe
from agentkd.task import (
    KINDS,
    NEUTRAL,
    AnyTask,
    Assess,
    Average,
    Consolidate,
    DataSource,
    Distill,
    Evaluate,
    ExchangeSummary,
    FeatureMaps,
    Mutual,
    Partner,
    Status,
    TaskResult,
    TeacherReference,
    Train,
    read_task,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "keys" / "tasks.json").read_text())["tasks"]
NETWORK, OTHER = Architecture(family="unet", num_classes=3), Architecture(family="pidnet_s", num_classes=3)
FIVE = Architecture(family="unet", num_classes=5)
DATA = DataSource(spec="s", content_digest="d")
WORK: dict[str, Any] = {"architecture": NETWORK, "data": DATA}
TEACHER = TeacherReference(architecture=OTHER, weights="a" * 64)
PARTNER = Partner(architecture=OTHER, recipe=Recipe(), seed=1)
PARTNERS = (PARTNER, PARTNER.replace(seed=PARTNER.seed + 1))
LESSON: dict[str, Any] = WORK | {"teachers": (TEACHER,), "distillation": Distillation()}
TOGETHER: dict[str, Any] = WORK | {"partners": (PARTNER,), "distillation": Distillation()}
LOOK: dict[str, Any] = WORK | {"initial_weights": "b" * 64}


def beside(**fields: Any) -> dict[str, Any]:
    """A lesson with one more teacher."""
    return LESSON | {"teachers": (TEACHER, TeacherReference(architecture=OTHER, weights="c" * 64, **fields))}


def by(**fields: Any) -> dict[str, Any]:
    """A lesson by another teacher."""
    return LESSON | {"teachers": (TeacherReference.model_validate({"architecture": OTHER, "weights": "c" * 64} | fields),)}


def many(architecture: Architecture, count: int) -> tuple[TeacherReference, ...]:
    """So many teachers, each with weights of its own."""
    return tuple(TeacherReference(architecture=architecture, weights=f"{number:064x}") for number in range(count))


def together(count: int) -> tuple[Partner, ...]:
    """So many partners that differ in their seeds, in the order in which they must be."""
    return tuple(sorted((PARTNER.replace(seed=seed) for seed in range(count)), key=lambda one: one.digest))


ILLEGAL = {
    "training with teachers": (Train, WORK | {"teachers": (TEACHER,)}),
    "training with partners": (Train, WORK | {"partners": (PARTNER,)}),
    "a negative limit": (Train, WORK | {"max_num_macs": -1}),
    "a lesson without teachers": (Distill, LESSON | {"teachers": ()}),
    "a lesson without objectives": (Distill, WORK | {"teachers": (TEACHER,)}),
    "a teacher twice": (Distill, LESSON | {"teachers": (TEACHER, TEACHER)}),
    "one of two teachers with parts": (Distill, beside(parts=(0,))),
    "two routes at once": (Distill, by(parts=(0,), energies=(0.0, 1.0))),
    "a part with two teachers": (Distill, LESSON | {"teachers": (*by(parts=(0, 1))["teachers"], TEACHER.replace(parts=(1,)))}),
    "too short a class order": (Distill, by(class_order=(1, 0))),
    "a class that the teacher does not have": (Distill, by(class_order=(0, 1, 3))),
    "other classes without an order": (Distill, by(architecture=FIVE)),
    "shares of other classes": (Distill, by(class_shares=(0.5, 0.5))),
    "a start from two places": (Distill, LESSON | {"initial_weights": "b" * 64, "distillation": Distillation(start="inherit")}),
    "text that no message can hold": (Train, WORK | {"data": {"spec": "\ud800", "content_digest": "d"}}),
    "more views than a message can hold": (FeatureMaps, LOOK | {"views": tuple((10**17, seed) for seed in range(50_000))}),
    "a seed that no message can hold": (Train, WORK | {"seed": 2**64}),
    "a step that no message can hold": (Train, WORK | {"recipe": {"validate_every": 10**20}}),
    "partners out of order": (Mutual, TOGETHER | {"partners": tuple(sorted(PARTNERS, key=lambda one: one.digest, reverse=True))}),
    "alone together": (Mutual, TOGETHER | {"partners": ()}),
    "together with itself": (Mutual, TOGETHER | {"partners": (Partner(architecture=NETWORK, recipe=Recipe(), seed=0),)}),
    "partners of other steps": (Mutual, TOGETHER | {"partners": (PARTNER.replace(recipe=Recipe(epochs=7)),)}),
    "partners of other views": (
        Mutual,
        TOGETHER | {"partners": (PARTNER.replace(recipe=Recipe(views={"crop_height": 32, "crop_width": 32})),)},
    ),
    "partners of other classes": (Mutual, TOGETHER | {"partners": (PARTNER.replace(architecture=FIVE),)}),
    "one of two partners of other classes": (
        Mutual,
        TOGETHER | {"partners": tuple(sorted((PARTNER, PARTNER.replace(architecture=FIVE)), key=lambda one: one.digest))},
    ),
    "features of partners": (Mutual, TOGETHER | {"distillation": Distillation(objectives=(Features({"a": "b"}),))}),
    "inheriting from partners": (Mutual, TOGETHER | {"distillation": Distillation(start="inherit")}),
    "an evaluation of nothing": (Evaluate, WORK),
    "an evaluation of empty weights": (Evaluate, LOOK | {"initial_weights": ""}),
    "an evaluation with a recipe": (Evaluate, LOOK | {"recipe": Recipe()}),
    "an assessment of nothing": (Assess, WORK),
    "features of no views": (FeatureMaps, LOOK | {"views": ()}),
    "features of a sample before the first": (FeatureMaps, LOOK | {"views": ((-1, 0),)}),
    "features of a tap that is none": (FeatureMaps, LOOK | {"views": ((0, 0),), "taps": ("a b",)}),
    "a training that is pruned below nothing": (Train, WORK | {"prune_below": (float("nan"),)}),
    "gradients clipped at infinity": (Train, WORK | {"recipe": {"clip_norm": float("inf")}}),
    "a network with a setting that is no number": (
        Train,
        WORK | {"architecture": NETWORK.model_dump() | {"settings": {"w": float("nan")}}},
    ),
    "consolidation of nothing": (Consolidate, WORK),
    "an average of nothing": (Average, WORK | {"teachers": ()}),
    "an average one of which is by classes": (
        Average,
        WORK | {"teachers": (*many(NETWORK, 1), TeacherReference(architecture=NETWORK, weights="a", class_order=(0, 1, 2)))},
    ),
    "a view that no message can hold": (FeatureMaps, LOOK | {"views": ((0, 2**64),)}),
    "an average of unlike networks": (Average, WORK | {"teachers": (TEACHER,)}),
    "an average by classes": (Average, WORK | {"teachers": (TeacherReference(architecture=NETWORK, weights="a", parts=(0,)),)}),
}


@pytest.mark.parametrize(("kind", "fields"), ILLEGAL.values(), ids=ILLEGAL)
def test_an_illegal_task_cannot_be_made_nor_read(kind: Any, fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        kind(**fields)
    with pytest.raises(ValidationError):
        TypeAdapter(AnyTask).validate_python(fields | {"kind": next(name for name, one in KINDS.items() if one is kind)})


@pytest.mark.parametrize(
    "wrong",
    [{"share": -1}, {"share": 0}, {"share": float("nan")}, {"class_shares": (2.0,)}, {"weights": ""}, {"energies": (5.0, 1.0)}],
)
def test_replacing_a_field_checks_it_like_any_other(wrong: dict[str, Any]) -> None:
    assert TEACHER.replace(share=0.25) == TeacherReference(architecture=OTHER, weights="a" * 64, share=0.25)
    assert TEACHER.replace(energies=(1.0, 1.0)).route == "energies", "all pixels may be alike"
    with pytest.raises(ValidationError):
        TEACHER.replace(**wrong)
    with pytest.raises(ValidationError):
        Train(**WORK).replace(no_such_field=1)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_key_of_a_task_never_changes(name: str) -> None:
    task = read_task(GOLDEN[name]["inputs"])
    assert (task.canonical(), task.key) == (GOLDEN[name]["inputs"], GOLDEN[name]["digest"])
    assert TypeAdapter(AnyTask).validate_json(task.model_dump_json()) == task, "the form that travels"
    if isinstance(task, Distill) and "lessons" in GOLDEN[name]:
        assert [task.lesson_digest(teacher) for teacher in task.teachers] == GOLDEN[name]["lessons"]


def test_a_teacher_is_asked_the_same_in_whatever_order_the_student_puts_its_classes() -> None:
    orders = [(), (0, 1, 2), (1, 0, 2)]
    lessons = [Distill(**LESSON | {"teachers": (TEACHER.replace(class_order=order),)}) for order in orders]
    without, *others = (lesson.lesson_digest(lesson.teachers[0]) for lesson in lessons)
    assert len(set(others)) == 1 and without not in others, "without an order it is asked for as many classes as the student has"


def test_every_kind_is_read_executed_and_has_a_golden_key() -> None:
    assert set(EXECUTIONS) == set(KINDS.values())
    assert {entry["inputs"]["kind"] for entry in GOLDEN.values()} == set(KINDS)
    assert all(kind.model_fields["kind"].default == name for name, kind in KINDS.items())


@pytest.mark.parametrize("plain", [None, [], "train", {}, {"kind": "no such"}, {"kind": ["train"]}])
def test_what_is_no_task_is_not_read(plain: Any) -> None:
    with pytest.raises(ValueError, match="no task is of that kind"):
        read_task(plain)


FOREIGN = {"seed": 3, "pretrained": "a", "max_num_macs": 5, "teachers": [{}], "recipe": {"epochs": 2}, "distillation": {}}


@given(st.sampled_from(sorted(GOLDEN)), st.sampled_from(sorted(FOREIGN)))
def test_a_foreign_field_is_left_out_only_where_it_says_nothing(name: str, field: str) -> None:
    plain = dict(GOLDEN[name]["inputs"])
    if field in KINDS[plain["kind"]].model_fields or (plain["kind"], field) == ("features", "recipe"):
        return
    with pytest.raises(ValidationError, match=field):
        read_task(plain | {field: FOREIGN[field]})


def test_what_a_task_reads_and_what_its_result_depends_on() -> None:
    golden = {name: read_task(entry["inputs"]) for name, entry in GOLDEN.items()}
    start, held = ("starts from weights", "1" * 64), [("is held to weights", "c" * 64), ("is held by importance", "e" * 64)]
    taught = [("is taught by weights", "a" * 64), ("is taught by weights", "b" * 64)]
    assert list(golden["train_all"].reads()) == [start, ("inherits weights", "2" * 64), *held]
    assert list(golden["distill"].reads()) == [start] and list(golden["distill"].references()) == [start, *taught]
    assert list(golden["distill_parts"].references()) == taught[1:], "a guest's weights are nowhere but with the guest"
    assert list(golden["average"].reads()) == taught == list(golden["average"].references())
    assert [len(golden[name].taught_by) for name in ("distill", "average", "mutual")] == [2, 0, 0]


def test_a_request_says_the_key_of_its_task() -> None:
    request = TaskRequest(task=read_task(GOLDEN["features"]["inputs"]), attempt=1)
    assert request.key == GOLDEN["features"]["digest"]
    assert TaskRequest.from_wire(request.model_dump(mode="json")) == request
    with pytest.raises(ValueError, match="not the digest"):
        TaskRequest.from_wire(request.model_dump(mode="json") | {"key": "a" * 64})


def test_an_exchange_and_a_result_of_which_nothing_is_told_are_nothing() -> None:
    assert not any(ExchangeSummary().model_dump().values())
    nothing = TaskResult(status=Status.FAILED)
    assert not any(nothing.model_dump(exclude={"status"}).values()) and nothing.artifacts == ()
    assert nothing.replace(exchange=ExchangeSummary()).artifacts == ()


def test_a_task_may_go_to_the_limit_and_no_further() -> None:
    limits: list[tuple[Any, dict[str, Any], str, Any, Any]] = [
        (Train, WORK, "seed", -(2**63), -(2**63) - 1),
        (Train, WORK, "view_seed", 2**64 - 1, 2**64),
        (Distill, LESSON, "teachers", many(OTHER, 64), many(OTHER, 65)),
        (Average, WORK, "teachers", many(NETWORK, 64), many(NETWORK, 65)),
        (Mutual, TOGETHER, "partners", together(15), together(16)),
    ]
    for kind, fields, name, most, more in limits:
        task = kind(**fields | {name: most})
        assert read_task(task.canonical()).key == task.key
        with pytest.raises(ValidationError):
            kind(**fields | {name: more})


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Train, WORK),
        (Distill, LESSON),
        (Mutual, TOGETHER),
        (Evaluate, LOOK),
        (Assess, LOOK),
        (FeatureMaps, LOOK | {"views": ((0, 0),)}),
        (Consolidate, LOOK),
        (Average, WORK | {"teachers": many(NETWORK, 1)}),
    ],
)
def test_what_is_not_told_of_a_task_is_neutral(kind: Any, fields: dict[str, Any]) -> None:
    plain = kind(**fields).canonical()
    assert {name: value for name, value in plain.items() if name not in fields} == {
        **{name: value for name, value in NEUTRAL.items() if name not in fields},
        "kind": next(name for name, one in KINDS.items() if one is kind),
    }
