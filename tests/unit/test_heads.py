"""A network with a head for each task: one trunk, and heads of which one is used and learns while the others stay as they are."""

from pathlib import Path
from typing import Any

import pytest
import torch
from experiments import SPEC
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from agentkd.agents.lessons import request_digest
from agentkd.agents.teaching import Teacher
from agentkd.agents.work import Surroundings, execute
from agentkd.architecture import Architecture
from agentkd.artifacts.store import Store
from agentkd.coordinator.inspecting import inspect
from agentkd.datasets.opening import open_dataset
from agentkd.errors import ConfigError, ContractError, ResultError
from agentkd.knowledge import tensors
from agentkd.knowledge.weights import encode_weights, read_metadata
from agentkd.messages.bodies import KnowledgeKind, KnowledgeRequest
from agentkd.names import NO_DIGEST, Digest
from agentkd.networks.build import build, count_parameters
from agentkd.networks.families import resolve
from agentkd.networks.heads import using
from agentkd.recipe import Distillation, Recipe, ViewSettings
from agentkd.task import (
    Average,
    Consolidate,
    DataSource,
    Distill,
    Evaluate,
    Rehearsal,
    Task,
    TaskResult,
    TeacherReference,
    Train,
    read_task,
)
from agentkd.training.continual import divergence
from agentkd.training.taps import tapped

CPU = torch.device("cpu")
HEADS = {"fire": 5, "roads": 2}
ROADS = "two_kinds:Roads"
WHOLE = ViewSettings(crop_height=32, crop_width=32)
RECIPE = Recipe(epochs=2, batch_size=4, learning_rate=0.05, weight_decay=0.1, views=WHOLE)
SMALL_BISENET = dict.fromkeys(("blocks1", "blocks2", "blocks3", "blocks4"), 1) | {
    "width": 0.25,
    "context_planes": 16,
    "spatial_planes": 8,
    "i2i_width": 8,
    "head_planes": 8,
    "discriminator_width": 4,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "unet": {"base": 8, "depth": 1},
    "unetpp": {"base": 8, "depth": 2, "deep_supervision": True},
    "pidnet_s": {"planes": 16, "ppm_planes": 16, "head_planes": 16, "num_blocks3": 1, "num_blocks4": 1},
    "cnn_i2i_bisenet": SMALL_BISENET,
    "tiny_networks:headed": {"width": 8},
}


@pytest.fixture
def at(tmp_path: Path) -> Surroundings:
    return Surroundings(Store(tmp_path / "store"), CPU)


def network(family: str = "tiny_networks:headed", head: str = "fire", **changes: Any) -> Architecture:
    return resolve(family, 5, FAMILIES[family] | changes).with_heads(HEADS, head)


def source(spec: str) -> DataSource:
    opened = open_dataset(spec)
    return DataSource(spec=opened.spec, content_digest=opened.digest, code=opened.code)


def learning(architecture: Architecture, spec: str, weights: Digest = NO_DIGEST, **changes: Any) -> Train:
    given = {"recipe": RECIPE, "seed": 1, "view_seed": 2} | changes
    return Train(architecture=architecture, data=source(spec), initial_weights=weights, **given)


def done(task: Task, at: Surroundings) -> TaskResult:
    return execute(task, at)


def state(result: TaskResult, at: Surroundings) -> dict[str, torch.Tensor]:
    return tensors.decode(at.store.get(result.weights))


# What it is.


def test_what_has_no_heads_is_what_it_was() -> None:
    """Digests of before there were any."""
    assert resolve("unet", 5).digest == "c712178ecb93e07984d9d54bf37f967043dec7621450706b5a417d8dab7816a2"
    assert resolve("pidnet_l", 5).digest == "27261639572256d0c781fdeb52de6d23ad1434d7961f0828db2a90f277955d1e"
    plain = Architecture(family="unet", num_classes=3)
    assert not {"heads", "head"} & plain.canonical().keys()
    data = DataSource(spec="generated:seed=1", content_digest="d" * 64)
    teacher = TeacherReference(architecture=plain, weights="w" * 64)
    lesson = Distill(architecture=plain, data=data, teachers=(teacher,), distillation=Distillation())
    assert Train(architecture=plain, data=data).key == "7a0d18d656cb9570525bc025b2d7794697007074f94e928cb1705d657704f581"
    assert lesson.key == "9de94a71572884b05b2ba2162d041fb77c03163ee83330e832515ac97aaf4fb9"
    assert lesson.lesson_digest(teacher) == "e187d717d7a913b95535d615f15663bc9def6f00f774f7d1258defeabd91d02f"
    asked = {"kind": "soft_targets", "weights": "a" * 64, "num_classes": 3, "dataset": "d" * 64, "views": ((1, 2),)}
    digests = [request_digest(KnowledgeRequest.model_validate(asked | more)) for more in ({}, {"head": "a"}, {"head": "b"})]
    assert digests[0] == "71cbb5a3f56608c3b9e64ccf0e297004b3042a93582d5fb9b51774c57d367562" and len(set(digests)) == 3


@given(st.permutations([("fire", 5), ("roads", 2), ("a_1", 3), ("training", 5)]), st.sampled_from(["fire", "training"]))
@settings(max_examples=8, deadline=None)
def test_the_order_in_which_heads_are_named_makes_no_difference(order: list[tuple[str, int]], used: str) -> None:
    trunk = resolve("unet", 5, {"base": 8, "depth": 1})
    one, other = trunk.with_heads(dict(sorted(order)), used), trunk.with_heads(dict(order), used)
    assert one == other and one.digest == other.digest
    built = [build(each, seed=3).state_dict() for each in (one, other, other.under("roads"))]
    assert [list(each) for each in built] == [list(built[0])] * 3
    assert all(torch.equal(value, each[name]) for each in built for name, value in built[0].items()), "whichever is in use"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"heads": {"a": 2}, "head": "b", "num_classes": 2}, "a of 2"),
        ({"heads": {"a": 2}, "head": "a", "num_classes": 3}, "a of 2"),
        ({"head": "a", "num_classes": 2}, "names none"),
        ({"heads": {"a.b": 2}, "head": "a.b", "num_classes": 2}, "pattern"),
        ({"heads": {"a-b": 2}, "head": "a-b", "num_classes": 2}, "pattern"),
        ({"heads": {"a": 1}, "head": "a", "num_classes": 2}, "greater than or equal to 2"),
        ({"heads": {str(number): 2 for number in range(17)}, "head": "1", "num_classes": 2}, "at most 16"),
    ],
)
def test_heads_that_cannot_be_are_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Architecture.model_validate({"family": "unet"} | fields)


def test_an_architecture_with_heads_survives_its_canonical_form() -> None:
    task = learning(network("unet"), SPEC, Digest("a" * 64), rehearsals=(Rehearsal(head="roads", data=source(ROADS)),))
    again = read_task(task.canonical())
    assert (
        again == task
        and again.key == task.key
        and Architecture.model_validate(task.architecture.canonical()) == task.architecture
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_head_for_each_task_on_one_trunk(family: str) -> None:
    fire, roads = network(family), network(family, "roads")
    built, other = build(fire, seed=1), build(roads, seed=1)
    image = torch.rand(2, 3, 64, 64)
    for mode in (True, False):
        assert built.train(mode)(image)["logits"].shape[1] == 5 and other.train(mode)(image)["logits"].shape[1] == 2
    with using(built, "roads"), torch.no_grad():
        assert torch.equal(built.eval()(image)["logits"], build_with(roads, built)(image)["logits"])
    plain = {name: count_parameters(build(resolve(family, count, FAMILIES[family]))) for name, count in HEADS.items()}
    counted = count_parameters(built)
    assert counted.deploy == plain["fire"].deploy and count_parameters(other).deploy == plain["roads"].deploy, "what is in use"
    assert counted.total == count_parameters(other).total > max(one.total for one in plain.values()), "all heads"


def build_with(architecture: Architecture, other: torch.nn.Module) -> torch.nn.Module:
    made = build(architecture).eval()
    made.load_state_dict(other.state_dict())
    return made


def test_one_head_alone_learns_what_a_network_without_heads_learns_to_the_bit(at: Surroundings) -> None:
    plain = resolve("tiny_networks:headed", 5, {"width": 8})
    traces = [done(learning(one, SPEC), at).trace for one in (plain, plain.with_heads({"only": 5}))]
    assert traces[0] == traces[1]


def test_own_networks_that_do_not_say_what_their_head_is_are_refused_with_what_to_do() -> None:
    for name, told in (
        ("tiny", r"tiny_networks:tiny does not say which of its modules are its head.*head_modules = \(\"classifier\",\)"),
        ("misnamed", "head_modules names network.classifier, but it has no such module"),
        ("width_by_classes", "network.mixed.weight depends on num_classes too; name its module in head_modules"),
    ):
        for heads in (HEADS, {"one": 3, "other": 3}):
            with pytest.raises(ConfigError, match=told):
                build(resolve(f"tiny_networks:{name}", 5).with_heads(heads))


def test_a_tap_in_a_head_that_is_not_in_use_is_refused_by_name() -> None:
    built = build(network())
    image = torch.rand(1, 3, 32, 32)
    assert tapped(built, image, ["head"])["tap.head"].shape[1] == 5
    with pytest.raises(ContractError, match=r"head\.roads"):
        tapped(built, image, ["head.roads"])


# What stays as it is.


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("family", FAMILIES)
def test_other_heads_stay_to_the_bit_when_one_learns(family: str, optimizer: str, at: Surroundings) -> None:
    recipe = RECIPE.replace(epochs=1, steps_per_epoch=2, optimizer=optimizer, clip_norm=1.0)
    first, roads = done(learning(network(family), SPEC, recipe=recipe), at), network(family, "roads")
    noted = done(Consolidate(architecture=network(family), data=source(SPEC), initial_weights=first.weights, seed=1), at)
    kept = {"anchors": build_like(first, at), "importance": noted.knowledge, "strength": 10.0}
    second = done(learning(roads, ROADS, first.weights, recipe=recipe, consolidation=kept), at)
    before, after, resting = state(first, at), state(second, at), tuple(f"{name}." for name in build(roads).resting)
    assert resting and all(name.endswith(".fire.") for name in resting)
    for name, value in before.items():
        if name.startswith(resting):
            assert torch.equal(value, after[name]), f"{name} is of a head that did not learn"
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert any(".roads." in name for name in moved) and any(".roads." not in name for name in moved), "head and trunk learn"
    said = read_metadata(at.store.get(second.weights))
    assert said.heads == {"fire": open_dataset(SPEC).classes, "roads": ("Ground", "Road")}
    assert said.classes == ("Ground", "Road") and said.classes_of(network(family)) == open_dataset(SPEC).classes


def build_like(result: TaskResult, at: Surroundings) -> Digest:
    """Weights elsewhere than these: a penalty on the way back to them pulls on all that may move."""
    moved = {name: value + 0.5 if value.is_floating_point() else value for name, value in state(result, at).items()}
    return at.store.put(tensors.encode(moved, {"kind": "weights"}))


def test_a_guest_that_changes_another_head_is_not_believed(at: Surroundings) -> None:
    first = done(learning(network(), SPEC), at)
    task = learning(network(head="roads"), ROADS, first.weights)
    result = done(task, at)
    honest = inspect(task, result, at.store)
    assert read_metadata(at.store.get(honest.weights)).heads.keys() == HEADS.keys()
    changed = state(result, at)
    changed["network.head.fire.bias"] = changed["network.head.fire.bias"] + 1
    classes = open_dataset(ROADS).classes
    forged = at.store.put(encode_weights(task.architecture, changed, classes))
    with pytest.raises(ResultError, match=r"head\.fire\.bias is another than before"):
        inspect(task, result.replace(weights=forged), at.store)


def test_weights_are_looked_at_with_the_classes_of_the_head_in_use(at: Surroundings) -> None:
    first = done(learning(network(), SPEC), at)
    both = done(learning(network(head="roads"), ROADS, first.weights), at)
    for head, spec in (("fire", SPEC), ("roads", ROADS)):
        look = Evaluate(architecture=network(head=head), data=source(spec), initial_weights=both.weights)
        assert len(done(look, at).class_iou) == HEADS[head]
    wrong = Evaluate(architecture=network(head="fire"), data=source(ROADS), initial_weights=both.weights)
    with pytest.raises(ContractError, match="classes"):
        done(wrong, at)


def test_whole_networks_are_averaged_with_all_heads_whichever_is_in_use(at: Surroundings) -> None:
    first = done(learning(network(), SPEC), at)
    ends = [done(learning(network(head="roads"), ROADS, first.weights, view_seed=seed), at) for seed in (1, 2)]
    teachers = tuple(
        TeacherReference(architecture=network(head=head), weights=end.weights) for head, end in zip(HEADS, ends, strict=True)
    )
    mean = done(Average(architecture=network(), data=source(SPEC), teachers=teachers), at)
    one, two = (state(end, at)["network.head.roads.weight"] for end in ends)
    assert torch.allclose(state(mean, at)["network.head.roads.weight"], (one + two) / 2)
    assert read_metadata(at.store.get(mean.weights)).heads.keys() == HEADS.keys()
    other = TeacherReference(architecture=resolve("tiny_networks:headed", 5, {"width": 8}), weights=first.weights)
    with pytest.raises(ValidationError, match="only like is averaged"):
        Average(architecture=network(), data=source(SPEC), teachers=(other,))


# What is kept of what other heads say.


def trained_twice(at: Surroundings, **changes: Any) -> tuple[float, float]:
    """MIoU of the first head after the second has learned, and of the second."""
    recipe = RECIPE.replace(epochs=8, learning_rate=0.1, weight_decay=0.0, validate_every=8)
    first = done(learning(network(width=12), SPEC, recipe=recipe), at)
    if changes.pop("ewc", False):
        noted = done(Consolidate(architecture=network(width=12), data=source(SPEC), initial_weights=first.weights, seed=1), at)
        changes["consolidation"] = {"anchors": first.weights, "importance": noted.knowledge, "strength": 3000.0}
    second = done(learning(network(head="roads", width=12), ROADS, first.weights, recipe=recipe, **changes), at)
    look = Evaluate(architecture=network(width=12), data=source(SPEC), initial_weights=second.weights)
    return done(look, at).miou, second.miou


def test_what_one_head_knows_is_kept_while_another_learns(at: Surroundings) -> None:
    forgotten, learned = trained_twice(at)
    ways: dict[str, dict[str, Any]] = {
        "replay": {"rehearsals": ({"head": "fire", "data": source(SPEC), "strength": 5.0},)},
        "without forgetting": {"rehearsals": ({"head": "fire", "strength": 5.0},)},
        "elastic": {"ewc": True},
    }
    kept = {name: trained_twice(at, **dict(way)) for name, way in ways.items()}
    assert kept["replay"][0] > forgotten + 0.05 and kept["elastic"][0] > forgotten + 0.05
    assert kept["without forgetting"][0] > forgotten
    assert all(roads > learned - 0.15 for _, roads in kept.values()), "and what is new is learned"


def test_nothing_is_lost_as_long_as_nothing_has_changed() -> None:
    logits = torch.randn(2, 3, 4, 4)
    assert float(divergence(logits, logits)) == 0 and float(divergence(logits, logits + 1)) == pytest.approx(0, abs=1e-6)
    p, q = logits.softmax(dim=1), logits.roll(1, dims=1).softmax(dim=1)
    expected = (p * (p / q).log()).sum(dim=1).mean()
    assert float(divergence(logits, logits.roll(1, dims=1))) == pytest.approx(float(expected), rel=1e-5)


def test_only_other_heads_that_have_said_something_can_be_rehearsed() -> None:
    for rehearsals, weights, told in (
        ([{"head": "fire"}], "a" * 64, "none of the other heads"),
        ([{"head": "sky"}], "a" * 64, "there are roads"),
        ([{"head": "roads"}, {"head": "roads", "strength": 2}], "a" * 64, "twice"),
        ([{"head": "roads"}], "", "no initial_weights"),
    ):
        with pytest.raises(ValidationError, match=told):
            learning(network(), SPEC, Digest(weights), rehearsals=rehearsals)


# Who teaches.


def test_a_teacher_answers_each_student_with_the_head_for_its_classes(at: Surroundings) -> None:
    first = done(learning(network(), SPEC), at)
    both = done(learning(network(head="roads"), ROADS, first.weights), at)
    data, roads = open_dataset(SPEC), open_dataset(ROADS)
    teacher = Teacher(network(), both.weights, source(SPEC), stored=at.store.get(both.weights), device=CPU)
    teacher.teach_about(source(ROADS))

    def asked(opened: Any, **changes: Any) -> torch.Tensor:
        fields = {"kind": KnowledgeKind.SOFT_TARGETS, "weights": both.weights, "dataset": opened.digest, "codec": "float32"}
        fields |= {"num_classes": len(opened.classes), "view_settings": WHOLE, "views": ((0, 1),)}
        answer = teacher.answer(KnowledgeRequest.model_validate(fields | changes))
        return tensors.decode(bytes(answer.parcel.view))["logits"]

    assert asked(data, classes=data.classes).shape[1] == 5 and asked(roads, classes=roads.classes).shape[1] == 2
    assert torch.equal(asked(roads, classes=roads.classes), asked(roads, head="roads"))
    assert asked(data).shape[1] == 5, "who says nothing is answered by the head that it teaches with"
    assert teacher.num_forwards == 2, "the same question is answered once"
    with pytest.raises(ContractError, match="head"):
        asked(roads, head="sky")
    with pytest.raises(ContractError, match="num_classes"):
        asked(roads)
    with pytest.raises(ContractError, match="classes"):
        asked(data, classes=("a", "b", "c", "d", "e"))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("twice", "names network.head, but it is named twice"),
        ("within", r"names network.head.0, but it is within another, network\.head"),
        ("aliased", r"names network\.again, but it is the same module as network\.head"),
        ("half_aliased", r"network\.again\.\w+ of its head is|network\.head\.\w+ of its head is network\.again"),
        ("tied", r"network\.head\.0\.weight of its head is network\.mid\.weight of its trunk too"),
        ("scaled", "network.scale depends on num_classes too; put it into a module, and name that in head_modules"),
        ("text", r"head_modules is 'head'; expected the names of submodules in a tuple, such as \(\"classifier\",\)"),
        ("numbered", r"head_modules is \(1,\)"),
        ("rooted", r"head_modules is \('',\)"),
        ("auxiliary", "training_only is 'head'"),
    ],
)
@pytest.mark.parametrize("heads", [HEADS, {"one": 3, "other": 3}])
def test_own_networks_whose_head_is_not_what_they_say_are_refused(name: str, told: str, heads: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=told):
        build(resolve("misheaded:make", 5, {"how": name}).with_heads(heads))


def test_a_head_that_is_used_otherwise_than_by_calling_it_says_so() -> None:
    built = build(resolve("misheaded:make", 5, {"how": "reached_into"}).with_heads(HEADS))
    with pytest.raises(
        AttributeError, match="is used by calling it alone, as there is one for each head; 'weight' of it was used"
    ):
        built(torch.rand(1, 3, 32, 32))


def test_who_learns_is_not_who_answers_for_a_while(at: Surroundings) -> None:
    """What another head is asked in the midst of a lesson leaves that head in evaluation mode, whatever the network is put in."""
    built = build(network("unet")).train()
    with using(built, "roads"):
        built.train()
        assert built(torch.rand(1, 3, 32, 32))["logits"].shape[1] == 2
        assert built.head.get_submodule("fire").training and not built.head.get_submodule("roads").training
    assert not built.eval().head.get_submodule("fire").training
