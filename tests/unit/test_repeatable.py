"""Nothing that agentkd computes uses an operation that PyTorch has no repeatable form of on CUDA, and no bit changes on a CPU."""

import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from typing import Any

import pytest
import torch
from every_objective import ALL
from operators import LIST, RAISING, demanded, recorded
from small_trainings import CLASSES, IGNORE, SMALL, batch_of, training
from torch import Tensor
from torch.nn import functional as F

from agentkd import repeatable, seeding
from agentkd.knowledge import codecs, objectives, payloads
from agentkd.knowledge.energy import energy
from agentkd.knowledge.objectives import Moment
from agentkd.knowledge.scores import SCORES, Mahalanobis
from agentkd.networks import families
from agentkd.networks.build import build
from agentkd.objectives import payloads as payloads_of
from agentkd.recipe import Recipe
from agentkd.training.continual import divergence, elastic_penalty, importance
from agentkd.training.losses import LOSSES, LossSettings
from agentkd.training.metrics import SegmentationMetrics
from agentkd.training.taps import TAP

MEMBERS = 50
NARROW: dict[str, Any] = {
    "planes": 8,
    "base": 8,
    "width": 0.25,
    "i2i_width": 8,
    "context_planes": 16,
    "spatial_planes": 16,
    "head_planes": 8,
}
NARROW |= dict.fromkeys(
    ("num_blocks", "num_blocks3", "num_blocks4", "bottlenecks", "blocks1", "blocks2", "blocks3", "blocks4"), 1
)
MOMENTS: dict[str, dict[str, Any]] = {
    "one": {},
    "shares": {"shares": (1.0, 2.0)},
    "by class": {"class_shares": ((0.1,) * CLASSES, (0.2,) * CLASSES)},
    "by energy": {"energies": ((-2.0, -1.0), (-3.0, -1.0))},
    "by image": {"teacher_of": torch.tensor([1, 0])},
}


def backward(value: Tensor) -> None:
    value.sum().backward()


def test_the_list_is_that_of_the_installed_torch() -> None:
    told = torch.use_deterministic_algorithms.__doc__
    assert told
    bullets = re.split(r"\n {8}\* ", told.partition("In addition, several")[0])[1:]
    plain = [re.sub(r"\s+", " ", re.sub(r":\w+:`~?([^`]*)`", r"\1", one).replace("`", "")) for one in bullets]
    listed = [entry["text"] for entry in (*LIST["becomes"], *LIST["raises"])]
    assert [one.partition(" The following")[0].strip() for one in plain] == listed
    for operator in RAISING:
        name, _, overload = operator.partition(".")
        packet = getattr(torch.ops.aten, name, None) or getattr(torch.ops.mkldnn, name, None)
        assert packet is not None or name.startswith("mkldnn"), operator
        assert not overload or overload in packet.overloads()


RAISE: dict[str, Callable[[Tensor], object]] = {
    "upsample_bilinear2d_backward": lambda x: backward(F.interpolate(x, size=(9, 9), mode="bilinear")),
    "upsample_bicubic2d_backward": lambda x: backward(F.interpolate(x, size=(9, 9), mode="bicubic")),
    "_adaptive_avg_pool2d_backward": lambda x: backward(F.adaptive_avg_pool2d(x, 2)),
    "reflection_pad2d_backward": lambda x: backward(F.pad(x, (1, 1, 1, 1), mode="reflect")),
    "nll_loss2d_forward": lambda x: F.cross_entropy(x, torch.zeros(1, 6, 6).long()),
    "bincount": lambda x: torch.bincount(torch.zeros(3).long(), torch.ones(3)),
    "cumsum": lambda x: x.cumsum(0),
    "median.dim": lambda x: x.median(dim=0),
    "histc": lambda x: torch.histc(x),
    "put_": lambda x: x.detach().put_(torch.tensor([0]), torch.tensor([1.0])),
    "max_unpool2d": lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    "scatter_reduce": lambda x: torch.ones(3).scatter_reduce(0, torch.tensor([0]), torch.ones(1), "prod"),
    "grid_sampler_2d_backward": lambda x: backward(F.grid_sample(x, torch.zeros(1, 2, 2, 2), align_corners=False)),
}
ALLOWED: dict[str, Callable[[Tensor], object]] = {
    "bincount": lambda x: torch.bincount(torch.zeros(3).long()),
    "cumsum": lambda x: torch.ones(3).long().cumsum(0),
    "scatter_reduce": lambda x: torch.ones(3).scatter_reduce(0, torch.tensor([0]), torch.ones(1), "sum"),
    "index_add_": lambda x: torch.ones(3).index_add_(0, torch.tensor([0]), torch.ones(1)),
}


@pytest.mark.parametrize("operator", RAISE)
def test_an_operation_of_the_list_is_seen(operator: str) -> None:
    with recorded() as record, suppress(RuntimeError):  # on a CPU two of them raise too
        RAISE[operator](torch.randn(1, 2, 6, 6, requires_grad=True))
    assert list(record.raising) == [operator]


@pytest.mark.parametrize("operator", ALLOWED)
def test_what_is_repeatable_or_becomes_so_is_let_through(operator: str) -> None:
    with recorded() as record:
        ALLOWED[operator](torch.randn(1, 2, 6, 6))
    assert operator in record.seen
    assert not record.raising


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("loss", ["family", "cross_entropy", "ohem"])
@pytest.mark.parametrize("family", SMALL)
def test_a_training_of_a_family_is_repeatable(family: str, loss: Any, precision: Any) -> None:
    """With weights of classes, clipping, both optimizers, and an evaluation after it."""
    optimizer = "adamw" if loss == "ohem" else "sgd"
    recipe = Recipe(epochs=1, batch_size=2, loss=loss, precision=precision, optimizer=optimizer, clip_norm=1.0)
    weights = (1.0, 2.0, 1.0, 0.0, 1.0) if loss != "cross_entropy" else ()
    with recorded() as record:
        trained = training(family, recipe, class_weights=weights)
    assert len(trained.losses) == 2
    assert "convolution_backward" in record.seen
    assert not record.raising


def test_without_gradients_of_our_own_it_would_not_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeatable, "is_demanded", lambda: False)
    with recorded() as record:
        training("cnn_i2i_bisenet", Recipe(epochs=1, batch_size=2))
    assert record.raising.keys() == {"upsample_bilinear2d_backward", "reflection_pad2d_backward"}


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_is_used_by_a_family_or_a_recipe_and_so_looked_at(loss: str) -> None:
    assert loss in {"cross_entropy", *(families.loss_name(family) for family in SMALL)}
    assert set(SMALL) == set(families.FAMILIES)


@pytest.mark.slow
@pytest.mark.parametrize("family", SMALL)
def test_members_of_a_search_space_are_repeatable(family: str) -> None:
    """As they are drawn, but narrow: how wide a network is and how often it repeats a block decides no operator."""
    space = families.search_space(family)
    for draw in range(MEMBERS):
        random = seeding.generator("repeatable", family, draw)
        drawn = {name: values[int(random.integers(len(values)))] for name, values in space.items()}
        settings = drawn | {name: NARROW[name] for name in drawn if name in NARROW}
        network = build(families.resolve(family, CLASSES, settings), seed=1).train()
        with recorded() as record:
            outputs = network(torch.randn(2, 3, 40, 56))
            sum(output.float().sum() for output in outputs.values()).backward()  # type: ignore[union-attr]
        assert not record.raising, settings


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", ALL)
def test_both_halves_of_an_objective_are_repeatable(name: str, moment: str) -> None:
    objective, count = ALL[name], 1 if moment == "one" else 2
    student = {"logits": torch.randn(2, CLASSES, 9, 13, requires_grad=True)}
    student[TAP + "s"] = torch.randn(2, 8, 9, 13, requires_grad=True)
    with recorded() as record:
        teachers = []
        for _ in range(count):
            outputs = {"logits": torch.randn(2, CLASSES, 10, 12), TAP + "t": torch.randn(2, 8, 10, 12)}
            teachers.append({one.name: payloads.reduce(one, outputs) for one in payloads_of(objective)})
        told = Moment(batch_of(0).labels, IGNORE, **MOMENTS[moment])
        objectives.loss(objective, student, teachers, told).backward()
    assert not record.raising


@pytest.mark.parametrize("codec", [*codecs.CODECS, codecs.AUTO])
@pytest.mark.parametrize("name", ["logits", "features.t"])
def test_a_codec_is_repeatable(codec: str, name: str) -> None:
    with recorded() as record:
        assert codecs.read(name, codecs.write(name, torch.randn(2, CLASSES, 9, 13), codec, max_kl=1e-3), CLASSES) is not None
    assert not record.raising


def test_what_is_measured_of_networks_and_kept_of_them_is_repeatable() -> None:
    network = build(families.resolve("unet", CLASSES, SMALL["unet"]), seed=1).eval()
    batch = batch_of(0)
    with recorded() as record:
        matters = importance(network, [batch.images[:1]], seed=3)
        elastic_penalty(network, dict(network.state_dict()), matters, 1.0)().backward()
        logits = network(batch.images)["logits"]
        divergence(logits.detach() + 1, logits).backward()
        metrics = SegmentationMetrics(CLASSES, IGNORE)
        metrics.update(logits[..., ::2, ::2], batch.labels)
        metrics.update(logits.mean(dim=(2, 3), keepdim=True), batch.labels)
        metrics.scores()
        energy(logits)
        known = Mahalanobis.fit(torch.randn(50, CLASSES), torch.randint(0, CLASSES, (50,)))
        known(logits)
        for score in SCORES.values():
            assert score is not None
    assert not record.raising
    assert "bincount" in record.seen


def test_without_the_demand_everything_is_torchs_own_and_with_it_the_same_numbers_come_out_forward() -> None:
    x = torch.randn(2, 3, 7, 9)
    pairs = {
        "bilinear": (lambda: repeatable.bilinear(x, (20, 13)), F.interpolate(x, size=(20, 13), mode="bilinear")),
        "smaller": (lambda: repeatable.bilinear(x, (3, 4)), F.interpolate(x, size=(3, 4), mode="bilinear")),
        "pooled": (lambda: repeatable.mean_pooled(x, (3, 4)), F.adaptive_avg_pool2d(x, (3, 4))),
        "reflected": (lambda: repeatable.reflected(x, 3), F.pad(x, (3, 3, 3, 3), mode="reflect")),
    }
    for made, expected in pairs.values():
        assert torch.equal(made(), expected)
        with demanded():
            assert torch.equal(made(), expected)


@pytest.mark.parametrize("size", [(20, 13), (3, 4), (7, 9), (1, 1), (14, 5)])
def test_gradients_of_what_is_resized_or_pooled_are_those_of_torch(size: tuple[int, int]) -> None:
    for ours, theirs in (
        (repeatable.bilinear, lambda x, to: F.interpolate(x, size=to, mode="bilinear")),
        (repeatable.mean_pooled, F.adaptive_avg_pool2d),
    ):
        x = torch.randn(2, 3, 7, 9, dtype=torch.float64, requires_grad=True)
        with demanded():
            assert torch.autograd.gradcheck(lambda x, ours=ours: ours(x, size), x)
            weight = torch.randn(2, 3, *size, dtype=torch.float64)
            (found,) = torch.autograd.grad((ours(x, size) * weight).sum(), x)
        (expected,) = torch.autograd.grad((theirs(x, size) * weight).sum(), x)
        torch.testing.assert_close(found, expected)


def test_the_gradient_of_a_reflection_is_that_of_torch() -> None:
    x = torch.randn(2, 3, 4, 9, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 10, 15, dtype=torch.float64)
    with demanded():
        assert torch.autograd.gradcheck(lambda x: repeatable.reflected(x, 3), x)
        (found,) = torch.autograd.grad((repeatable.reflected(x, 3) * weight).sum(), x)
    (expected,) = torch.autograd.grad((F.pad(x, (3, 3, 3, 3), mode="reflect") * weight).sum(), x)
    torch.testing.assert_close(found, expected)


def test_half_precision_stays_half_on_the_way_back() -> None:
    x = torch.randn(1, 2, 5, 5, dtype=torch.bfloat16, requires_grad=True)
    with demanded():
        repeatable.bilinear(x, (9, 9)).float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(2, 5, 7, 9), (40, 5)])
def test_picking_has_the_bits_of_torchs_cross_entropy(shape: tuple[int, ...]) -> None:
    logits = torch.randn(*shape, requires_grad=True)
    classes = torch.randint(0, 5, (shape[0], *shape[2:]))
    classes[:1] = IGNORE
    expected = F.cross_entropy(logits, classes, ignore_index=IGNORE, reduction="none")
    found = -repeatable.picked(logits.log_softmax(dim=1), classes, classes != IGNORE)
    assert torch.equal(found, expected)
    weight = torch.rand_like(found.detach())
    gradients = [torch.autograd.grad((one * weight).sum(), logits)[0] for one in (found, expected)]
    assert torch.equal(*gradients)


def test_a_class_that_is_not_there_is_refused_where_it_counts() -> None:
    log_p, classes = torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2), 3)
    with pytest.raises(RuntimeError, match="out of bounds"):
        repeatable.picked(log_p, classes, classes == 3)
    assert not repeatable.picked(log_p, classes, classes != 3).any()


@pytest.mark.parametrize("family", SMALL)
def test_a_loss_is_the_same_where_repeatable_algorithms_are_demanded(family: str) -> None:
    """But for rounding: what is not picked out is added up in another order."""
    found = []
    for is_demanded in (False, True):
        with demanded() if is_demanded else nullcontext():
            torch.manual_seed(0)
            network = build(families.resolve(family, CLASSES, SMALL[family]), seed=1).train()
            batch = batch_of(0)
            terms = LOSSES[families.loss_name(family)](network, network(batch.images), batch, LossSettings(CLASSES, IGNORE))
            torch.stack(list(terms.values())).sum().backward()
            found.append((terms, {name: parameter.grad for name, parameter in network.named_parameters()}))
    (terms, gradients), (terms_again, gradients_again) = found
    assert terms.keys() == terms_again.keys()
    torch.testing.assert_close(list(terms_again.values()), list(terms.values()), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients_again, gradients, rtol=1e-3, atol=1e-4)


def test_on_a_cpu_nothing_is_set_and_nothing_more_is_recorded() -> None:
    repeatable.prepare(torch.device("cpu"))
    assert not torch.are_deterministic_algorithms_enabled()
    assert repeatable.surroundings(torch.device("cpu")) == {}


def test_the_drivers_version_is_read_from_what_it_tells() -> None:
    told = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version: 12\n"
    assert repeatable.driver_version(told) == "550.54.15"
    told = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n"
    assert repeatable.driver_version(told) == "570.86.15"
    assert repeatable.driver_version("") == "unknown"


@pytest.fixture
def torch_as_it_was() -> Iterator[None]:
    """What ``prepare`` sets is set back."""
    begun, kept = repeatable.settings(), repeatable.keep()
    yield
    repeatable.keep_to(kept)
    repeatable.set_again(begun)


@pytest.mark.usefixtures("torch_as_it_was")
def test_what_cuda_needs_to_be_repeatable_is_set_and_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of it needs a device to be there."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    repeatable.prepare(torch.device("cuda:0"))
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    told = repeatable.surroundings(torch.device("cuda:0"))
    assert told.keys() == {"cuda", "cudnn", "driver", "cublas_workspace", "deterministic", "cudnn_benchmark", "tf32"}
    expected = {"cublas_workspace": ":4096:8", "deterministic": "True", "cudnn_benchmark": "False", "tf32": "False"}
    assert told.items() >= expected.items()
    with repeatable.counting_alone():
        assert not torch.are_deterministic_algorithms_enabled()
    assert torch.are_deterministic_algorithms_enabled()
