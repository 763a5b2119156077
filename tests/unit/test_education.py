"""What an agent decides by itself, what is kept of what it knew, and data made of other data."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from experiments import SPEC
from noting import Recording
from torch import nn

from agentkd.agents.deciding import decide, learned_from
from agentkd.community.education import Educated
from agentkd.community.graph import Edge, TransferGraph
from agentkd.community.handles import AgentHandle
from agentkd.community.rules import Decision, Offer, Role, Rules, retention
from agentkd.datasets.opening import open_dataset
from agentkd.errors import ConfigError, DatasetError
from agentkd.knowledge.energy import energy, known_fraction, usual
from agentkd.knowledge.objectives import TILE, Moment, best_teacher, soft_targets
from agentkd.networks.families import resolve
from agentkd.objectives import Boundary, Dist, SoftTargets
from agentkd.recipe import Distillation
from agentkd.task import Consolidate, Distill, Pack, Task
from agentkd.training.continual import accumulate, elastic_penalty, importance

KNOWS, BETTER, KNOWS_NOT = Offer("a", 0.9, 0.6), Offer("b", 0.95, 0.8), Offer("c", 0.3, 0.9)


def test_who_knows_the_data_teaches_and_who_does_not_learns_from_the_best() -> None:
    assert decide(KNOWS, [BETTER], Rules(), {}).role is Role.TEACHER
    assert decide(KNOWS_NOT, [KNOWS, BETTER], Rules(), {}) == Decision(Role.STUDENT, ("b",), "knows 30% of it, b 95%")
    assert decide(KNOWS_NOT, [KNOWS, BETTER], Rules(policy="ensemble"), {}).teachers == ("b", "a")


def test_nobody_learns_from_who_is_not_better_or_does_not_know() -> None:
    assert decide(KNOWS_NOT, [Offer("d", 0.9, 0.31)], Rules(), {}).role is Role.IDLE, "0.28 is not better than 0.27 by the margin"
    assert decide(KNOWS_NOT, [Offer("d", 0.7, 0.99)], Rules(), {}).role is Role.IDLE
    assert decide(KNOWS_NOT, [], Rules(), {}).role is Role.IDLE


def test_nobody_becomes_its_own_teacher_by_way_of_others() -> None:
    taught = {"a": ("c",), "b": ("a",)}
    assert learned_from("c", taught) == {"a", "b"}
    assert decide(KNOWS_NOT, [KNOWS, BETTER], Rules(), taught).role is Role.IDLE


def test_forgetting_and_backward_transfer_are_those_of_what_was_known_before() -> None:
    scores = [{"a": [0.8, 0.1]}, {"a": [0.6, 0.5]}, {"a": [0.7, 0.4]}]
    kept = retention(scores, {"a": [0, 1]})
    assert kept.average == pytest.approx(0.55)
    assert kept.forgetting == pytest.approx((0.1 + 0.1) / 2) and kept.backward_transfer == pytest.approx((-0.1 - 0.1) / 2)
    assert retention(scores[:1], {"a": [0, -1]}).forgetting == 0.0


def educated(community: Recording, name: str, rules: Rules) -> Educated:
    agent = AgentHandle(community, name, "unet")  # type: ignore[arg-type]
    agent.train(f"{name}-data")
    return Educated(agent, f"{name}-data", rules)


def learn(rules: Rules) -> list[Task]:
    community = Recording()
    student, teacher = educated(community, "s", rules), educated(community, "t", Rules())
    student.learn("new", [teacher], epochs=3)
    known = {"weights": ["t-data", "new"], "data": ["s-data", "shared:k"]}
    assert student.learned == known.get(rules.policy, ["s-data", "new"])
    return community.tasks[2:]


def test_each_protection_keeps_what_was_known_in_its_way() -> None:
    (plain,) = learn(Rules(protection="none"))
    assert plain.data.spec == "unlabelled:new" and [t.weights for t in plain.teachers] == ["w2"]
    assert plain.distillation and plain.distillation.hard_loss == "none" and plain.recipe.epochs == 3
    noted, elastic = learn(Rules(protection="ewc", strength=7))
    assert isinstance(noted, Consolidate) and noted.data.spec == "s-data"
    assert elastic.consolidation and elastic.consolidation.strength == 7 and elastic.consolidation.anchors == "w1"
    (own,) = learn(Rules(protection="lwf", own_share=0.25))
    assert [(t.weights, t.share) for t in own.teachers] == [("w2", 0.75), ("w1", 0.25)]
    (again,) = learn(Rules(protection="replay"))
    assert again.data.spec == "joined:unlabelled:new|unlabelled:s-data"
    assert [(t.weights, t.parts) for t in again.teachers] == [("w2", (0,)), ("w1", (1,))]


def test_each_policy_takes_something_else_from_the_teacher() -> None:
    def kinds(policy: Any, **more: Any) -> tuple[str, list[str]]:
        (task,) = learn(Rules(policy=policy, protection="none", **more))
        return task.kind, [objective.kind for objective in task.distillation.objectives] if isinstance(task, Distill) else []

    taps = {"taps": (("encoder.0", "encoder.0"),)}
    assert kinds("soft_targets") == ("distill", ["soft_targets"])
    assert kinds("features", **taps) == ("distill", ["soft_targets", "features"])
    assert kinds("relations", **taps) == ("distill", ["soft_targets", "pairwise"])
    assert kinds("weights") == ("average", [])
    packed, trained = learn(Rules(policy="data"))
    assert isinstance(packed, Pack) and (packed.data.spec, packed.what) == ("t-data", "data"), "who has them hands them over"
    assert (trained.kind, trained.data.spec) == ("train", "joined:s-data|shared:k")
    (started,) = learn(Rules(policy="weights_and_fine_tune", protection="none"))
    assert started.distillation and started.distillation.start == "inherit" and not started.initial_weights
    with pytest.raises(ConfigError, match="needs taps"):
        learn(Rules(policy="features"))


class OneWeight(nn.Module):
    """Logits (w, 0) at every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.unused = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(1.0))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        flat = torch.zeros(len(images), 1, 2, 2)
        return {"logits": torch.cat([flat + self.w, flat], dim=1)}


def test_importance_is_that_of_the_weights_that_matter_and_accumulates() -> None:
    images = [torch.zeros(1, 3, 2, 2)] * 3
    first = importance(OneWeight(), images, seed=1)
    assert first["w"] == 2.0 and first["unused"] == 0.0, "divided by its mean"
    assert torch.equal(first["w"], importance(OneWeight(), images, seed=1)["w"])
    assert accumulate({"w": torch.tensor(4.0)}, first, 0.5)["w"] == 4.0


def test_the_penalty_is_zero_at_the_anchors_and_pulls_back_what_matters() -> None:
    network = OneWeight()
    anchors = {"w": torch.tensor(0.5), "unused": torch.tensor(1.0)}
    penalty = elastic_penalty(network, anchors, {"w": torch.tensor(2.0), "unused": torch.tensor(0.0)}, strength=3.0)
    assert penalty() == 0
    with torch.no_grad():
        network.w += 2
        network.unused += 5
    assert float(penalty().detach()) == pytest.approx(0.5 * 3 * 2 * 2**2 / 2)
    penalty().backward()
    assert network.w.grad is not None and float(network.w.grad) == pytest.approx(0.5 * 3 * 2 * 2 * 2 / 2)
    assert network.unused.grad == 0


def test_what_nothing_is_known_of_is_free_to_move_and_counts_in_no_mean() -> None:
    network = OneWeight()
    penalty = elastic_penalty(network, {"w": torch.tensor(0.5)}, {"w": torch.tensor(2.0)}, strength=3.0)
    with torch.no_grad():
        network.w += 2
        network.unused += 5
    assert float(penalty().detach()) == pytest.approx(0.5 * 3 * 2 * 2**2)


def test_data_made_of_others_hide_ignore_and_join() -> None:
    plain, hidden = open_dataset(SPEC), open_dataset(f"unlabelled:{SPEC}")
    only, both = open_dataset(f"only:Fire+Smoke:{SPEC}"), open_dataset(f"joined:unlabelled:{SPEC}|{SPEC}")
    train, validation = plain.splits["train"][0], plain.splits["validation"][0]
    assert np.array_equal(hidden.sample(train).image, plain.sample(train).image)
    assert (hidden.sample(train).label == 255).all() and (hidden.sample(validation).label != 255).any()
    assert set(np.unique(only.sample(train).label)) <= {3, 4, 255} and only.classes == plain.classes
    assert len(both.splits["train"]) == 2 * len(plain.splits["train"])
    first, second = both.splits["train"][0], both.splits["train"][-1]
    assert (both.part(first), both.part(second)) == (0, 1) and both.group(first) != both.group(second)
    assert (both.sample(first).label == 255).all()
    assert np.array_equal(both.sample(second).label, plain.sample(plain.splits["train"][-1]).label)
    assert len({one.digest for one in (plain, hidden, only, both)}) == 4
    both.check()
    with pytest.raises(DatasetError, match="a flat list"):
        open_dataset(f"joined:{SPEC}|unlabelled:joined:{SPEC}")
    with pytest.raises(DatasetError, match="has no class Water"):
        open_dataset(f"only:Water:{SPEC}")
    with pytest.raises(DatasetError, match="light='noon' is not known"):
        open_dataset("generated:seed=1,light=noon")


def test_few_images_are_spread_over_the_split_and_nothing_else_changes() -> None:
    plain, few = open_dataset(SPEC), open_dataset(f"few:3:{SPEC}")
    train = plain.splits["train"]
    assert few.splits == {**plain.splits, "train": (train[0], train[len(train) // 3], train[2 * len(train) // 3])}
    assert np.array_equal(few.sample(train[0]).label, plain.sample(train[0]).label)
    assert open_dataset(f"few:{len(train)}:{SPEC}").splits == plain.splits
    assert len({plain.digest, few.digest, open_dataset(f"few:4:{SPEC}").digest}) == 3
    for wrong in ("0", str(len(train) + 1)):
        with pytest.raises(DatasetError, match=f"1 to {len(train)}"):
            open_dataset(f"few:{wrong}:{SPEC}")
    with pytest.raises(DatasetError, match="is not a number of images"):
        open_dataset(f"few:{SPEC}")


def test_light_changes_images_and_nothing_else() -> None:
    day, dusk = (open_dataset(f"generated:seed=5,size=32x32,light={light}") for light in ("day", "dusk"))
    assert day.digest == open_dataset("generated:seed=5,size=32x32").digest != dusk.digest
    assert np.array_equal(day.sample(0).label, dusk.sample(0).label)
    assert day.sample(0).image.mean() > dusk.sample(0).image.mean() + 10


def logits(*rows: list[float]) -> torch.Tensor:
    """Teachers' logits [teachers,1,K,TILE,2 TILE], the same at all pixels."""
    return torch.tensor(rows)[:, None, :, None, None].expand(-1, 1, -1, TILE, 2 * TILE).clone()


def test_who_knows_best_teaches_by_class_by_tile_or_by_image() -> None:
    labels = torch.zeros(1, TILE, 2 * TILE, dtype=torch.long)
    sees = logits([5.0, 0.0], [0.0, 5.0])
    by_class = best_teacher(sees, Moment(labels, 255, class_shares=((0.9, 0.0), (0.0, 0.6))))
    assert (by_class == 0).all()
    sees[0, :, :, :, TILE:] = 0.5  # the first one is at a loss on the right
    by_tile = best_teacher(sees, Moment(labels, 255, energies=((-5.0, -4.0), (-6.0, -3.0))))
    assert (by_tile[:, :, :TILE] == 0).all() and (by_tile[:, :, TILE:] == 1).all()
    edge = best_teacher(sees[..., : TILE // 2, : TILE + 3], Moment(labels, 255, energies=((-5.0, -4.0), (-6.0, -3.0))))
    assert edge.shape == (1, TILE // 2, TILE + 3) and (edge[:, :, TILE:] == 1).all(), "a tile may end with the image"


@pytest.mark.parametrize(("energies", "best"), [((-9.0, -1.96), 1), ((-9.8, -1.98), 0)])
def test_who_is_at_home_in_a_tile_is_told_by_what_is_usual_for_each_teacher(energies: tuple[float, float], best: int) -> None:
    """The one meets -10 to -8 in what it knows, the other -2 to -1.9."""
    sees = logits(*([-energy - math.log(2)] * 2 for energy in energies))
    labels = torch.zeros(1, TILE, 2 * TILE, dtype=torch.long)
    assert (best_teacher(sees, Moment(labels, 255, energies=((-10.0, -8.0), (-2.0, -1.9)))) == best).all()


def test_a_pixel_at_the_very_threshold_is_known() -> None:
    assert known_fraction(torch.tensor([[1.0, 2.0], [3.0, 2.0]]), 2.0) == 0.75


def test_the_energy_of_a_pixel_is_that_of_all_its_classes() -> None:
    assert torch.allclose(
        energy(torch.tensor([[2.0, 2.0], [0.0, 3.0]])), -torch.tensor([2 + math.log(2), math.log(1 + math.e**3)])
    )


def test_each_image_is_taught_by_the_teacher_of_its_part() -> None:
    student, labels = torch.zeros(2, 2, 4, 4), torch.zeros(2, 4, 4).long()
    teachers = [torch.tensor(value)[None, :, None, None].expand(2, 2, 4, 4) for value in ([3.0, 0.0], [0.0, 1.0])]
    alone = [float(soft_targets(SoftTargets(), student, [teacher], Moment(labels, 255))) for teacher in teachers]
    together = soft_targets(SoftTargets(), student, teachers, Moment(labels, 255, teacher_of=torch.tensor([0, 1])))
    assert float(together) == pytest.approx(sum(alone) / 2)


def test_usual_energies_are_the_middle_and_the_95th_percentile() -> None:
    assert usual(torch.arange(101.0)) == (50.0, 95.0)


def test_learning_without_labels_says_so_and_refuses_what_needs_them() -> None:
    with pytest.raises(ValueError, match="give alpha=0"):
        Distillation(hard_loss="none")
    with pytest.raises(ValueError, match="boundary needs labels"):
        Distillation(hard_loss="none", alpha=0, objectives=(Boundary(),))
    with pytest.raises(ValueError, match="soft_targets needs labels"):
        Distillation(hard_loss="none", alpha=0, objectives=(SoftTargets(gate="correct"),))


def test_a_transfer_graph_is_carried_out_in_the_order_of_its_chains() -> None:
    community = Recording()
    networks = {name: AgentHandle(community, name, "unet") for name in "abcd"}  # type: ignore[arg-type]
    for name in "ab":
        networks[name].train("s")
    edges = [
        Edge(teacher="c", student="d"),
        Edge(teacher="a", student="c", objectives=(SoftTargets(gate="linear"),), share=3),
        Edge(teacher="b", student="c", objectives=(SoftTargets(gate="linear"),)),
    ]
    graph = TransferGraph(edges=tuple(edges))
    assert graph.students == ("c", "d") and TransferGraph.model_validate(graph.canonical()) == graph
    lessons = graph.teach(networks, "s", epochs=2)
    first, second = community.tasks[2:]
    assert [(teacher.weights, teacher.share) for teacher in first.teachers] == [("w1", 3.0), ("w2", 1.0)]
    assert first.distillation and first.distillation.objectives == (SoftTargets(gate="linear"),)
    assert [teacher.weights for teacher in second.teachers] == ["w3"] and set(lessons) == {"c", "d"}
    with pytest.raises(ConfigError, match="names c, d; there are a"):
        graph.teach({"a": networks["a"], "b": networks["b"]}, "s")


def test_a_transfer_graph_with_a_circle_a_repetition_or_a_contradiction_is_refused() -> None:
    there, back = Edge(teacher="a", student="b"), Edge(teacher="b", student="a")
    with pytest.raises(ValueError, match="b, a would be taught by who learns from them"):
        TransferGraph(edges=(there, back))
    with pytest.raises(ValueError, match="stands twice"):
        TransferGraph(edges=(there, there))
    with pytest.raises(ValueError, match="the edges to b have different objectives"):
        TransferGraph(edges=(there, Edge(teacher="c", student="b", objectives=(Dist(),))))


def test_a_moving_average_is_an_average_with_shares() -> None:
    community = Recording()
    a, b = (AgentHandle(community, name, "unet") for name in "ab")  # type: ignore[arg-type]
    a.train("s")
    b.train("s")
    a.ema(b, decay=0.9)
    assert [(t.weights, t.share) for t in community.tasks[-1].teachers] == [("w1", 0.9), ("w2", pytest.approx(0.1))]
    with pytest.raises(ConfigError, match="above 0 and below 1"):
        a.ema(b, decay=1.0)


def test_what_was_joined_is_remembered_in_its_parts() -> None:
    community = Recording()
    student, teacher = educated(community, "s", Rules()), educated(community, "t", Rules())
    student.learn("joined:n1|n2", [teacher])
    task = community.tasks[-1]
    assert task.data.spec == "joined:unlabelled:n1|unlabelled:n2|unlabelled:s-data"
    assert [t.parts for t in task.teachers] == [(0, 1), (2,)] and student.learned == ["s-data", "n1", "n2"]


def test_teachers_are_told_apart_in_one_way_and_all_or_none() -> None:
    community = Recording()
    student, teacher = educated(community, "s", Rules()), educated(community, "t", Rules())
    student.learn("new", [teacher])
    task = community.tasks[-1]
    for wrong in ({"parts": ()}, {"energies": (0.0, 1.0)}):
        teachers = (task.teachers[0], task.teachers[1].replace(**wrong))
        with pytest.raises(ValueError, match="all of them or none"):
            task.replace(teachers=teachers)


def test_an_ensemble_needs_different_teachers_and_no_replay() -> None:
    community = Recording()
    student, teacher = educated(community, "s", Rules(policy="ensemble", protection="none")), educated(community, "t", Rules())
    with pytest.raises(ConfigError, match="t is named twice"):
        student.learn("new", [teacher, teacher])
    student.rules = Rules(policy="ensemble")
    with pytest.raises(ConfigError, match="with replay one teacher"):
        student.learn("new", [teacher, teacher])
    assert student.learned == ["s-data"], "what was refused is not learned"


def test_a_student_may_take_its_teachers_architecture_and_its_earlier_self_teaches_it_too() -> None:
    community = Recording()
    student, teacher = educated(community, "s", Rules(policy="architecture")), educated(community, "t", Rules())
    teacher.agent.become(resolve("unet", 5, {"base": 16, "depth": 2}))
    teacher.agent.train("t-data", epochs=1)
    before = student.agent.as_teacher()
    student.learn("new", [teacher], epochs=1).result()
    task = community.tasks[-1]
    assert task.architecture == teacher.agent.architecture != before.architecture and task.initial_weights == ""
    assert [(one.weights, one.architecture) for one in task.teachers][1] == (before.weights, before.architecture)
    student.rules = Rules(policy="architecture", protection="ewc")
    with pytest.raises(ConfigError, match="no weights are left to protect"):
        student.learn("new", [teacher], epochs=1)


def test_what_is_usual_is_the_median_and_the_95th_percentile_in_any_precision() -> None:
    energies = torch.arange(101.0)
    assert usual(energies) == usual(energies.double().reshape(1, 101)) == (50.0, 95.0)
    many = torch.arange(2_500_000.0)
    assert usual(many) == pytest.approx((1_250_000, 2_375_000), rel=1e-4), "of very many every second counts"
