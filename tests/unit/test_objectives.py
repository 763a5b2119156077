"""The numbers of every objective, by hand and by differences. What all have in common is in ``contracts/``."""

import math
from collections.abc import Mapping

import pytest
import torch
from every_objective import ALL
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from agentkd.code.taking import take
from agentkd.errors import ConfigError, ContractError
from agentkd.knowledge import objectives, payloads
from agentkd.knowledge.objectives import Moment
from agentkd.objectives import (
    Attention,
    Boundary,
    ChannelWise,
    Dist,
    Dkd,
    Features,
    Ifvd,
    Objective,
    Own,
    Pairwise,
    Payload,
    SoftTargets,
)
from agentkd.objectives import payloads as payloads_of
from agentkd.recipe import Distillation
from agentkd.training.taps import Pupil, tapped

IGNORE, K, C = 255, 3, 4
EVERY = pytest.mark.parametrize("objective", ALL.values(), ids=ALL)


def outputs(seed: int, tap: str, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "logits": torch.randn(2, K, 4, 4, generator=generator, dtype=dtype),
        f"tap.{tap}": torch.randn(2, C, 4, 4, generator=generator, dtype=dtype),
    }


def labels() -> Tensor:
    return torch.randint(0, K, (2, 4, 4), generator=torch.Generator().manual_seed(9))


def taught(objective: Objective, teacher: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The payloads in full precision, so that the numerics of the loss are what is tested."""
    found = {}
    for payload in payloads_of(objective):
        found[payload.name] = payloads.reduction(payload, teacher["tap.t" if payload.tap else "logits"])
    return found


def value(
    objective: Objective, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], truth: Tensor | None = None
) -> Tensor:
    moment = Moment(labels() if truth is None else truth, IGNORE)
    return objectives.loss(objective, student, [taught(objective, teacher)], moment)


@EVERY
def test_gradients_are_those_of_finite_differences(objective: Objective) -> None:
    student, teacher = outputs(1, "s"), outputs(2, "t")
    leaves = [tensor.requires_grad_() for tensor in student.values()]
    assert torch.autograd.gradcheck(lambda *given: value(objective, dict(zip(student, given, strict=True)), teacher), leaves)


@EVERY
def test_tiled_images_change_nothing(objective: Objective) -> None:
    if isinstance(objective, Pairwise):
        objective = Pairwise({"s": "t"}, size=8)
    truth = labels()
    if isinstance(objective, Boundary):  # no new edge at the seam
        truth[:, 0], truth[:, -1], truth[:, :, 0], truth[:, :, -1] = 0, 0, 0, 0
        objective = Boundary(width=1)
        student, teacher = outputs(1, "s"), outputs(2, "t")
        tiled = [{n: t.repeat(1, 1, 1, 2) for n, t in given.items()} for given in (student, teacher)]
        assert torch.allclose(value(objective, student, teacher, truth), value(objective, *tiled, truth.repeat(1, 1, 2)))
        return
    student, teacher = outputs(1, "s"), outputs(2, "t")
    tiled = [{name: tensor.repeat(1, 1, 2, 2) for name, tensor in given.items()} for given in (student, teacher)]
    assert torch.allclose(value(objective, student, teacher, truth), value(objective, *tiled, truth.repeat(1, 2, 2)))


def one(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64).reshape(1, -1, 1, 1)


def by_hand(objective: Objective, student: Tensor, teacher: Tensor, truth: Tensor) -> float:
    s, t = {"logits": student, "tap.s": student}, {"logits": teacher, "tap.t": teacher}
    return float(value(objective, s, t, truth))


LABEL = torch.zeros(1, 1, 1, dtype=torch.long)


def test_soft_targets_by_hand() -> None:
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    student, teacher = one(0, 0), one(math.log(3), 0)
    assert math.isclose(by_hand(SoftTargets(temperature=1), student, teacher, LABEL), expected, rel_tol=1e-12)
    plain = by_hand(SoftTargets(temperature=4, scale_by_temperature_squared=False), student, teacher, LABEL)
    assert math.isclose(by_hand(SoftTargets(temperature=4), student, teacher, LABEL), 16 * plain)


def test_standardized_logits_forget_scale_and_shift_over_the_classes() -> None:
    teacher, student = one(1, 2, 5), one(0, 3, 1)
    objective = SoftTargets(standardize=True)
    assert math.isclose(
        by_hand(objective, student, teacher, LABEL), by_hand(objective, 3 * student + 7, 0.5 * teacher - 1, LABEL), rel_tol=1e-6
    )


def test_standardized_logits_that_hardly_differ_far_from_zero_are_told_apart() -> None:
    near, far = (shift + 2.0**-13 * one(-1, 0, 1).float() for shift in (0, 1024))
    found = [by_hand(SoftTargets(standardize=True), shifted, one(1, 2, 5), LABEL) for shifted in (near, far)]
    assert found[0] == pytest.approx(found[1])


def test_features_that_are_the_same_everywhere_have_nothing_to_teach() -> None:
    flat = torch.ones(1, 2, 1, 4, dtype=torch.float64)
    assert by_hand(Features({"s": "t"}), flat, 3 * flat, torch.zeros(1, 1, 4, dtype=torch.long)) == 0


def test_dkd_by_hand() -> None:
    """Teacher 1/2, 1/4, 1/4 and student 1/4, 1/2, 1/4; the target is class 0."""
    teacher, student = one(math.log(2), 0, 0), one(0, math.log(2), 0)
    target = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    rest = 0.5 * math.log(0.5 / (2 / 3)) + 0.5 * math.log(0.5 / (1 / 3))
    assert math.isclose(by_hand(Dkd(target=1, rest=8), student, teacher, LABEL), target + 8 * rest, rel_tol=1e-9)


def test_dkd_has_a_gradient_where_a_teacher_is_surer_than_exp_can_say() -> None:
    student = torch.zeros(1, 3, 1, 1, requires_grad=True)
    sent = {"logits": torch.tensor([200.0, 0.0, 0.0]).reshape(1, 3, 1, 1)}
    objectives.loss(Dkd(), {"logits": student}, [sent], Moment(LABEL, IGNORE)).backward()
    assert student.grad is not None and torch.isfinite(student.grad).all() and student.grad[0, 0] < 0


def test_dist_by_hand() -> None:
    """Opposite order over the classes has correlation -1."""
    teacher, student = one(1, 0), one(0, 1)
    assert math.isclose(by_hand(Dist(beta=1, gamma=0), student, teacher, LABEL), 2.0, rel_tol=1e-6)


def test_channel_by_hand() -> None:
    """One channel, two places: 3/4, 1/4 against 1/2, 1/2; tau 2 has factor 4."""
    teacher = torch.tensor([2 * math.log(3.0), 0.0], dtype=torch.float64).reshape(1, 1, 1, 2)
    student = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    expected = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    truth = torch.zeros(1, 1, 2, dtype=torch.long)
    assert math.isclose(by_hand(ChannelWise(temperature=2), student, teacher, truth), expected, rel_tol=1e-9)


def test_features_by_hand() -> None:
    wild = one(1e6, -1e6).repeat(1, 1, 1, 4) * torch.arange(4)
    assert by_hand(Features({"s": "t"}), wild, -wild, torch.zeros(1, 1, 4, dtype=torch.long)) == pytest.approx(4.0)
    assert by_hand(Features({"s": "t"}, standardize=False), one(1, 2), one(3, 2), LABEL) == 2.0


def test_attention_by_hand() -> None:
    """All attention on one of two places against the other: unit vectors at a right angle."""
    here, there = (torch.tensor(x, dtype=torch.float64).reshape(1, 1, 1, 2) for x in ([2.0, 0.0], [0.0, 5.0]))
    assert math.isclose(by_hand(Attention({"s": "t"}), here, there, torch.zeros(1, 1, 2, dtype=torch.long)), 2.0)


def test_pairwise_by_hand() -> None:
    """Two places, alike for the teacher, at a right angle for the student: two of four pairs differ by one."""
    teacher = torch.ones(1, 2, 1, 2, dtype=torch.float64)
    student = torch.eye(2, dtype=torch.float64).reshape(1, 2, 1, 2)
    assert math.isclose(by_hand(Pairwise({"s": "t"}), student, teacher, torch.zeros(1, 1, 2, dtype=torch.long)), 0.5)


def test_ifvd_by_hand() -> None:
    """Both places of one class: the teacher's are its mean (cosine 1), the student's at 45 degrees to theirs."""
    teacher = torch.ones(1, 2, 1, 2, dtype=torch.float64)
    student = torch.eye(2, dtype=torch.float64).reshape(1, 2, 1, 2)
    expected = (1 - math.sqrt(0.5)) ** 2
    assert math.isclose(by_hand(Ifvd({"s": "t"}), student, teacher, torch.zeros(1, 1, 2, dtype=torch.long)), expected)


def test_boundary_counts_only_pixels_near_an_edge() -> None:
    truth = torch.zeros(1, 1, 8, dtype=torch.long)
    truth[..., 4:] = 1
    teacher, student = torch.zeros(1, 2, 1, 8, dtype=torch.float64), torch.zeros(1, 2, 1, 8, dtype=torch.float64)
    teacher[:, 0, :, :2] = 9.0
    assert by_hand(Boundary(width=1, temperature=1), student, teacher, truth) == 0
    teacher[:, 0, :, 3] = math.log(3)
    near = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert math.isclose(by_hand(Boundary(width=1, temperature=1), student, teacher, truth), near / 2)


def test_gates_close_where_they_should() -> None:
    student, teacher = outputs(1, "s"), outputs(2, "t")
    right = teacher["logits"].argmax(dim=1)
    wrong = (right + 1) % K
    through = value(SoftTargets(), student, teacher)
    assert torch.allclose(value(SoftTargets(gate="correct"), student, teacher, right), through)
    assert value(SoftTargets(gate="correct"), student, teacher, wrong) == 0
    assert value(SoftTargets(gate="confidence", gate_at=0), student, teacher) == through
    assert value(SoftTargets(gate="confidence", gate_at=1), student, teacher) == 0
    certain = {"logits": 1e4 * F.one_hot(right, K).movedim(-1, 1).float()}
    assert value(SoftTargets(gate="confidence", gate_at=1), student, certain) > 0, "as sure as can be is sure enough"
    sent = [taught(SoftTargets(), teacher)]
    late, early = Moment(labels(), IGNORE, progress=0.75), Moment(labels(), IGNORE, progress=0.25)
    assert objectives.loss(SoftTargets(gate="cutoff", gate_at=0.5), student, sent, late) == 0
    assert objectives.loss(SoftTargets(gate="cutoff", gate_at=0.5), student, sent, early) == through
    assert torch.allclose(objectives.loss(SoftTargets(gate="linear"), student, sent, late), 0.25 * through)
    assert objectives.loss(SoftTargets(gate="linear"), student, sent, Moment(labels(), IGNORE)) == through, "at the beginning"


@pytest.mark.parametrize(("schedule", "factors"), [("rise", (0, 0.5, 1)), ("fall", (1, 0.5, 0)), ("cosine", (1, 0.5, 0))])
def test_a_schedule_moves_the_weight_and_is_told_only_where_there_is_one(schedule: str, factors: tuple[float, ...]) -> None:
    moving, still = SoftTargets(schedule=schedule), SoftTargets()
    assert [moving.factor(p) for p in (0.0, 0.5, 1.0)] == pytest.approx(factors)
    assert "schedule" not in still.canonical() and moving.canonical() == still.canonical() | {"schedule": schedule}
    assert SoftTargets.model_validate(moving.canonical()) == moving


def test_several_teachers_average_probabilities_by_their_shares() -> None:
    loud, soft = one(9, 0), one(0, 1)
    for shares in ((), (1.0, 3.0)):
        weights = shares or (1.0, 1.0)
        mean = (weights[0] * loud.softmax(1) + weights[1] * soft.softmax(1)) / sum(weights)
        moment = Moment(LABEL, IGNORE, shares=shares)
        found = objectives.loss(SoftTargets(temperature=1), {"logits": mean.log()}, [{"logits": loud}, {"logits": soft}], moment)
        assert abs(float(found)) < 1e-9


@pytest.mark.parametrize("shares", [(), (1.0, 3.0)])
@pytest.mark.parametrize("name", ["channel logits", "channel features", "features", "attention", "ifvd"])
def test_of_several_teachers_the_losses_are_averaged_by_their_shares(name: str, shares: tuple[float, ...]) -> None:
    student, teachers = outputs(1, "s"), [taught(ALL[name], outputs(seed, "t")) for seed in (2, 3)]
    first, second = (objectives.loss(ALL[name], student, [teacher], Moment(labels(), IGNORE)) for teacher in teachers)
    of_both = objectives.loss(ALL[name], student, teachers, Moment(labels(), IGNORE, shares=shares))
    assert torch.allclose(of_both, (first + 3 * second) / 4 if shares else (first + second) / 2)


@EVERY
def test_where_no_pixel_counts_the_loss_and_its_gradient_are_zero(objective: Objective) -> None:
    student, teacher = outputs(1, "s"), outputs(2, "t")
    leaves = [tensor.requires_grad_() for tensor in student.values()]
    found = value(objective, student, teacher, torch.full((2, 4, 4), IGNORE))
    assert found == 0
    gradients = torch.autograd.grad(found, leaves, allow_unused=True)
    assert all(gradient is None or not gradient.any() for gradient in gradients)


def test_classification_is_dense_prediction_of_one_pixel() -> None:
    student, teacher = torch.randn(2, K), torch.randn(2, K)
    sent = {"logits": payloads.reduce(Payload(), {"logits": teacher})}
    found = objectives.loss(SoftTargets(temperature=1), {"logits": student}, [sent], Moment(torch.tensor([0, 2]), IGNORE))
    direct = F.kl_div(F.log_softmax(student, 1), F.log_softmax(teacher, 1), log_target=True, reduction="batchmean")
    assert torch.allclose(found, direct)


def test_a_users_own_objective_is_a_class_with_a_loss() -> None:
    path = "own.objectives:Power"
    objective = Own(path=path, code=take(path), settings={"power": 2.0})
    student, teacher = outputs(1, "s"), outputs(2, "t")
    assert torch.allclose(value(objective, student, teacher), F.mse_loss(student["logits"], teacher["logits"]))
    with pytest.raises(ConfigError, match="NotOne has no method loss"):
        objectives.load_own(objective.replace(path="own.objectives:NotOne", settings={}))
    with pytest.raises(ConfigError, match=r"Power: .*unexpected keyword argument 'depth'"):
        objectives.load_own(objective.replace(settings={"depth": 1}))


def test_a_distillation_asks_for_each_payload_once() -> None:
    d = Distillation(objectives=(SoftTargets(), Dist(), Features({"s": "t"}), Ifvd({"s": "t"}), Attention({"s": "u"})))
    assert [payload.name for payload in d.payloads] == ["logits", "features.t", "attention.u"]
    assert d.student_taps == ("s",) and d.projected_taps == (("s", "t"),)
    with pytest.raises(ValidationError):
        Features({})


@pytest.mark.parametrize(
    "fields",
    [{"tap": "s"}, {"form": "features"}, {"form": "similarity", "tap": "s"}, {"form": "attention", "tap": "s", "size": 4}],
)
def test_payloads_that_cannot_be_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Payload.model_validate(fields)


class TestTaps:
    def make(self) -> nn.Module:
        class Small(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

            def forward(self, x: Tensor) -> dict[str, Tensor]:
                return {"logits": self.head(self.stem(x))}

        return Small()

    def test_a_tap_is_what_the_module_returned(self) -> None:
        network, images = self.make(), torch.randn(1, 3, 2, 2)
        found = tapped(network, images, ("stem",))
        assert torch.equal(found["tap.stem"], network.stem(images)) and set(found) == {"logits", "tap.stem"}
        assert not network.stem._forward_hooks

    def test_a_tap_that_is_not_there_is_refused_by_name(self) -> None:
        with pytest.raises(ContractError, match=r"'tap' differs: teacher has 'head, stem'"):
            tapped(self.make(), torch.randn(1, 3, 2, 2), ("spp",))

    def test_a_tap_that_returns_something_else_than_a_tensor_is_refused_and_nobody_listens_any_more(self) -> None:
        network = nn.Sequential(self.make())
        network.tap_root = network
        with pytest.raises(ContractError, match="tap a module that returns one tensor"):
            tapped(network, torch.randn(1, 3, 2, 2), ("0",))
        assert not network[0]._forward_hooks

    def test_projections_are_trained_and_dropped(self) -> None:
        network = self.make()
        pupil = Pupil(network, ("stem",), {"0.stem": ("stem", nn.Conv2d(4, 7, 1, bias=False))})
        assert pupil.train()(torch.randn(2, 3, 2, 2))["projected.0.stem"].shape == (2, 7, 2, 2)
        assert set(pupil.eval()(torch.randn(2, 3, 2, 2))) == {"logits"}
        assert set(Pupil.own(dict(pupil.state_dict()))) == set(network.state_dict()) and pupil.head is network.head
