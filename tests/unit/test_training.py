"""The loop: resumes to the bit, prunes, keeps the best, and fails with a type and a reason."""

import math
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_tasks import CPU, RECIPE, SPEC, Stop, make_task, stop_at
from torch import nn
from torch.optim import Optimizer

from agentkd.agents.feeding import DatasetFeed
from agentkd.agents.work import Surroundings, execute
from agentkd.artifacts.store import Store
from agentkd.datasets.opening import open_dataset
from agentkd.errors import ContractError, NonFiniteLossError, RemoteProtocolError, StorageError
from agentkd.knowledge import tensors
from agentkd.knowledge.weights import encode_weights, load_weights
from agentkd.names import TaskKey
from agentkd.networks.blocks import ParameterGroup
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.recipe import Recipe
from agentkd.task import DataSource, EpochResult, Status, Task
from agentkd.training.batches import Batch
from agentkd.training.checkpoint import Progress, before, copied, load_checkpoint, state_digest, write_checkpoint
from agentkd.training.loop import Hooks, Knowledge, Plan, train
from agentkd.training.losses import LOSSES, LossSettings, Outputs, Terms
from agentkd.training.optimization import build_optimizers, learning_rate, set_learning_rate


@pytest.mark.parametrize(
    "fields", [{}, {"optimizer": "adamw", "schedule": "cosine"}, {"clip_norm": 1.0, "precision": "bfloat16"}]
)
@pytest.mark.parametrize("step", [3, 6, 9])
def test_an_interrupted_training_resumes_to_the_same_bits(tmp_path: Path, fields: dict, step: int) -> None:
    task = make_task(RECIPE.model_copy(update=fields))
    whole = execute(task, Surroundings(Store(tmp_path / "a"), CPU))
    at = {"checkpoint": tmp_path / "checkpoint.safetensors", "checkpoint_every_s": 0.0}
    with pytest.raises(Stop):
        execute(task, Surroundings(Store(tmp_path / "b"), CPU, hooks=stop_at(step), **at))
    steps: list[int] = []
    resumed = execute(task, Surroundings(Store(tmp_path / "b"), CPU, hooks=Hooks(on_step=lambda s, n, v: steps.append(s)), **at))
    assert steps[0] == step
    assert resumed.weights == whole.weights
    assert [e.miou for e in resumed.history] == [e.miou for e in whole.history]
    assert [e.loss for e in resumed.history] == [e.loss for e in whole.history]


@pytest.mark.parametrize("family", ["unet", "cnn_i2i_bisenet"])
def test_networks_with_dropout_and_two_optimizers_resume_to_the_same_bits(tmp_path: Path, family: str) -> None:
    small = {
        "unet": {"base": 8, "depth": 2, "dropout": 0.2},
        "cnn_i2i_bisenet": {"width": 0.5, "i2i_width": 8, "context_planes": 16},
    }
    task = make_task(RECIPE.model_copy(update={"epochs": 1}), resolve(family, 5, small[family]))
    whole = execute(task, Surroundings(Store(tmp_path / "a"), CPU))
    at = {"checkpoint": tmp_path / "c.safetensors", "checkpoint_every_s": 0.0}
    with pytest.raises(Stop):
        execute(task, Surroundings(Store(tmp_path / "b"), CPU, hooks=stop_at(3), **at))
    assert execute(task, Surroundings(Store(tmp_path / "b"), CPU, **at)).weights == whole.weights


def test_a_checkpoint_of_another_task_is_not_used(tmp_path: Path) -> None:
    at = Surroundings(Store(tmp_path), CPU, checkpoint=tmp_path / "c.safetensors")
    first = execute(make_task(), at)
    other = make_task().replace(seed=9)
    assert execute(other, at).weights == execute(other, Surroundings(Store(tmp_path), CPU)).weights != first.weights


def save_checkpoint(path: Path, network: nn.Module, optimizers: dict[str, Optimizer], progress: Progress, *, task: str) -> None:
    write_checkpoint(path, copied(network, optimizers, progress, task=TaskKey(task)))


def interrupted(place: Path, task: Task, step: int) -> Path:
    """The checkpoint of a training that was stopped at a step, with the one before it."""
    path = place / "c.safetensors"
    with pytest.raises(Stop):
        execute(task, Surroundings(Store(place), CPU, hooks=stop_at(step), checkpoint=path, checkpoint_every_s=0.0))
    return path


DAMAGES = {
    "empty": lambda data: b"",
    "NULs": lambda data: bytes(len(data)),
    "truncated": lambda data: data[: len(data) // 2],
    "lacks its last byte": lambda data: data[:-1],
    "weights zeroed": lambda data: data[:-400] + bytes(400),
    "a bit in the weights": lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
    "a bit in what it says": lambda data: data.replace(b'\\"step\\": ', b'\\"stdp\\": '),
    "another step": lambda data: re.sub(rb'(\\"step\\": )\d', rb"\g<1>0", data),
    "garbage": lambda data: b"\xff" * 100,
}


@pytest.mark.parametrize("both", [False, True], ids=["the last", "both"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_and_the_task_goes_on_from_the_one_before_or_the_start(
    tmp_path: Path, damage: Callable[[bytes], bytes], both: bool, caplog: pytest.LogCaptureFixture
) -> None:
    task = make_task(RECIPE.replace(epochs=2))
    whole = execute(task, Surroundings(Store(tmp_path / "whole"), CPU))
    path = interrupted(tmp_path, task, 6)
    for place in (path, before(path)) if both else (path,):
        place.write_bytes(damage(place.read_bytes()))
    steps: list[int] = []
    hooks = Hooks(on_step=lambda step, *told: steps.append(step))
    again = execute(task, Surroundings(Store(tmp_path), CPU, checkpoint=path, hooks=hooks))
    assert steps[0] == (1 if both else 5)
    assert (again.weights, again.history[-1].miou) == (whole.weights, whole.history[-1].miou)
    assert f"{path} is damaged" in caplog.text
    aside = {"c.safetensors.damaged"} | ({"c.before.damaged"} if both else set())
    assert {file.name for file in tmp_path.glob("*.damaged")} == aside


def test_any_bit_that_flips_in_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    network, path = nn.Linear(1, 1), tmp_path / "c.safetensors"
    save_checkpoint(path, network, {}, Progress(step=3, losses=[0.5]), task="t")
    sound = path.read_bytes()
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    for place in range(len(sound) * 8):
        data = bytearray(sound)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        assert load_checkpoint(path, network, {}, task="t") is None, place
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


def test_a_checkpoint_is_synced_before_it_has_its_name_and_the_one_before_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_sync(descriptor: int) -> None:
        done.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().suffix}")
        fsync(descriptor)

    def note_replace(path: Path, to: Path) -> Path:
        done.append(f"{path.suffix} becomes {to.suffix}")
        return replace(path, to)

    path = tmp_path / "c.safetensors"
    save_checkpoint(path, nn.Linear(1, 1), {}, Progress(step=1), task="t")
    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_replace)
    save_checkpoint(path, nn.Linear(1, 1), {}, Progress(step=2), task="t")
    moves = [".safetensors becomes .before", ".part becomes .safetensors"]
    assert [one for one in done if "becomes" in one] == moves
    assert done.index("sync .part") < done.index(moves[0]) and done[-1] == "sync "
    monkeypatch.undo()
    path.unlink()
    found = load_checkpoint(path, nn.Linear(1, 1), {}, task="t")
    assert found is not None and found.step == 1, "a kill between the two renames"


def test_training_learns(tmp_path: Path) -> None:
    result = execute(make_task(RECIPE.model_copy(update={"epochs": 12})), Surroundings(Store(tmp_path), CPU))
    assert result.miou > result.one_class_miou + 0.15
    assert result.history[-1].loss < result.history[0].loss


def test_the_best_epochs_weights_are_kept_and_scored(tmp_path: Path) -> None:
    result = execute(make_task(), Surroundings(Store(tmp_path), CPU))
    assert result.miou == max(epoch.miou for epoch in result.history)
    last = execute(make_task(RECIPE.model_copy(update={"keep": "last"})), Surroundings(Store(tmp_path), CPU))
    assert last.miou == last.history[-1].miou and last.best_epoch == 3


def test_a_trial_below_its_bound_is_pruned(tmp_path: Path) -> None:
    result = execute(make_task(prune_below=(0.0, 0.99, 0.99)), Surroundings(Store(tmp_path), CPU))
    assert (result.status, result.epochs) == (Status.PRUNED, 2)


@pytest.mark.parametrize("limit", [{"max_deploy_parameters": 10}, {"max_num_macs": 10}])
def test_an_architecture_over_its_limit_is_a_result_before_training(tmp_path: Path, limit: dict) -> None:
    result = execute(make_task(**limit), Surroundings(Store(tmp_path), CPU))
    assert (result.status, result.epochs, result.weights) == (Status.INFEASIBLE, 0, "")
    assert result.error_text.endswith("above the limit of 10")


def test_an_architecture_at_its_limits_is_trained(tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 1})
    free = execute(make_task(recipe), Surroundings(Store(tmp_path), CPU))
    limits = {"max_deploy_parameters": free.num_parameters_deploy, "max_num_macs": free.num_macs}
    assert execute(make_task(recipe, **limits), Surroundings(Store(tmp_path), CPU)).weights == free.weights


def test_one_image_is_enough_to_validate_by_and_to_count_the_cost_of(tmp_path: Path) -> None:
    task, spec = make_task(RECIPE.model_copy(update={"epochs": 1})), SPEC.replace("validation=8", "validation=1")
    few = task.replace(data=DataSource(spec=spec, content_digest=open_dataset(spec).digest))
    results = [execute(one, Surroundings(Store(tmp_path), CPU)) for one in (task, few)]
    assert results[0].num_macs == results[1].num_macs > 0 and results[1].miou is not None


def test_a_loss_that_is_not_finite_is_a_typed_failure(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match="lower the learning rate"):
        execute(make_task(RECIPE.model_copy(update={"learning_rate": 1e30})), Surroundings(Store(tmp_path), CPU))


def test_weights_of_another_architecture_are_refused_by_name() -> None:
    narrow, wide = (resolve("tiny_networks:tiny", 5, {"width": width}) for width in (8, 12))
    data = encode_weights(narrow, dict(build(narrow, seed=1).state_dict()))
    assert tensors.read_metadata(data) == {"kind": "weights", "architecture": narrow.canonical()}
    with pytest.raises(ContractError, match=r"network\.body\.0\.weight"):
        load_weights(build(wide), data, wide)


def test_equal_weights_are_equal_bytes() -> None:
    architecture = resolve("tiny_networks:tiny", 5, {"width": 8})
    assert len({encode_weights(architecture, dict(build(architecture, seed=1).state_dict())) for _ in range(8)}) == 1


@pytest.mark.parametrize("data", [b"", b"x" * 7, b"\xff" * 64, b"\x80\x04\x95pickle", (2**40).to_bytes(8, "little") + b"{}"])
def test_bytes_that_are_not_safetensors_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        tensors.decode(data)


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="NaN or infinite"):
        tensors.decode(tensors.encode({"a": torch.tensor([math.nan])}))


def test_the_learning_rate_follows_its_schedule() -> None:
    recipe = Recipe(learning_rate=1.0, schedule="polynomial", power=0.9, warmup_steps=10)
    assert learning_rate(recipe, 0, 110) == pytest.approx(0.1)
    assert learning_rate(recipe, 10, 110) == 1.0
    assert learning_rate(recipe, 60, 110) == pytest.approx(0.5**0.9)
    assert learning_rate(Recipe(learning_rate=1.0, schedule="cosine"), 50, 100) == pytest.approx(0.5)
    assert learning_rate(Recipe(learning_rate=1.0, schedule="constant"), 99, 100) == 1.0


class Listening:
    """Teachers that say nothing; keeps what the loop does with them."""

    is_heard = False

    def __init__(self, checkpoint: Path) -> None:
        self.log: list[str] = []
        self._checkpoint = checkpoint

    def _note(self, what: str) -> None:
        self.log.append(f"{what}{' under autocast' if torch.is_autocast_enabled('cpu') else ''}")

    def attend(self, network: nn.Module) -> None:
        self._note("attend")
        network.register_forward_pre_hook(lambda *inputs: self._note("forward"))

    def hear(self, step: int, outputs: Outputs) -> Knowledge:
        assert outputs["logits"].requires_grad
        self._note("hear")
        return ({"logits": torch.ones(1)},)

    def terms(self, hard: Terms, outputs: Outputs, knowledge: Knowledge, batch: Batch, progress: float) -> Terms:
        assert knowledge[0]["logits"].item() == 1
        self._note("terms")
        return hard

    def secure(self) -> None:
        self._note(f"secure before checkpoint {self._checkpoint.exists()}")

    def can_resume(self, step: int) -> bool:
        raise AssertionError("there is no checkpoint")


def test_teachers_are_heard_outside_autocast_between_forward_pass_and_terms_and_secured_before_a_checkpoint(
    tmp_path: Path,
) -> None:
    task = make_task(Recipe(epochs=1, batch_size=16, precision="bfloat16", views=RECIPE.views))
    path = tmp_path / "checkpoint.safetensors"
    teaching = Listening(path)
    plan = Plan(task.recipe, LOSSES["cross_entropy"], LossSettings(5, 255), seed=1, teaching=teaching)
    train(build(task.architecture, seed=1), DatasetFeed(task), plan, device=CPU, checkpoint=path)
    step = ["attend", "forward under autocast", "hear", "terms under autocast"]
    assert [done for done in teaching.log if done != "forward"] == [*step, "secure before checkpoint False"]


def test_the_schedule_begins_after_the_warm_up_and_ends_at_the_last_step() -> None:
    polynomial = Recipe(learning_rate=2.0, schedule="polynomial", power=2.0, warmup_steps=4)
    rates = [learning_rate(polynomial, step, 8) for step in range(8)]
    assert rates == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2 * 0.75**2, 2 * 0.5**2, 2 * 0.25**2])
    cosine = Recipe(learning_rate=2.0, schedule="cosine", warmup_steps=2)
    assert [learning_rate(cosine, step, 6) for step in range(6)] == pytest.approx(
        [1.0, 2.0, 2.0, 1 + math.cos(math.pi / 4), 1.0, 1 - math.cos(math.pi / 4)]
    )
    short = Recipe(learning_rate=2.0, warmup_steps=5)
    assert [learning_rate(short, step, 3) for step in range(3)] == pytest.approx([0.4, 0.8, 1.2]), "it ends while it warms up"


def test_every_group_has_its_rate_and_a_discriminator_an_optimizer_of_its_own() -> None:
    backbone, head, adversary = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    groups = [
        ParameterGroup((backbone,)),
        ParameterGroup((adversary,), optimizer="discriminator"),
        ParameterGroup((head,), rate=10.0),
    ]
    recipe = Recipe(learning_rate=0.5, momentum=0.8, weight_decay=0.25, schedule="polynomial", power=1.0)
    optimizers = build_optimizers(groups, recipe)
    assert {name: type(optimizer).__name__ for name, optimizer in optimizers.items()} == {"main": "SGD", "discriminator": "Adam"}
    assert {group["lr"] for group in optimizers["main"].param_groups} == {0.5}, "until the first step is reached"
    set_learning_rate(optimizers["main"], recipe, 5, 10)
    told = [
        (g["params"][0] is p, g["lr"], g["momentum"], g["weight_decay"])
        for g, p in zip(optimizers["main"].param_groups, (backbone, head), strict=True)
    ]
    assert told == [(True, 0.25, 0.8, 0.25), (True, 2.5, 0.8, 0.25)]
    (own,) = optimizers["discriminator"].param_groups
    assert own["params"][0] is adversary and (own["lr"], own["betas"], own["weight_decay"]) == (2e-6, (0.5, 0.999), 0)
    assert all(group["fused"] for optimizer in optimizers.values() for group in optimizer.param_groups)
    adamw = build_optimizers(groups[:1], recipe.replace(optimizer="adamw"))
    assert adamw.keys() == {"main"} and type(adamw["main"]).__name__ == "AdamW"
    (only,) = adamw["main"].param_groups
    assert (only["lr"], only["weight_decay"]) == (0.5, 0.25)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_weights_move_as_those_of_optimizers_that_are_not_fused_also_where_a_gradient_comes_later(kind: str) -> None:
    recipe = Recipe.model_validate({"optimizer": kind, "learning_rate": 0.01, "momentum": 0.9 if kind == "sgd" else 0.0})
    fused, plain = ([nn.Parameter(torch.linspace(-1, 1, 37)), nn.Parameter(torch.ones(3, 5))] for _ in range(2))
    unused = nn.Parameter(torch.ones(2), requires_grad=False)
    optimizers = [
        build_optimizers([ParameterGroup((*fused, unused))], recipe)["main"],
        torch.optim.SGD(plain, lr=0.01, momentum=0.9, weight_decay=recipe.weight_decay)
        if kind == "sgd"
        else torch.optim.AdamW(plain, lr=0.01, weight_decay=recipe.weight_decay),
    ]
    for step in range(6):
        for parameters, optimizer in zip((fused, plain), optimizers, strict=True):
            optimizer.zero_grad()
            sum((parameter**3).sum() * (step + 1) for parameter in parameters[: 1 + (step > 2)]).backward()
            optimizer.step()
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)
    assert unused not in optimizers[0].state or not optimizers[0].state[unused]


def test_a_record_says_how_weights_were_updated_and_a_checkpoint_of_another_way_is_not_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = execute(make_task(), Surroundings(Store(tmp_path), CPU))
    assert whole.environment["optimizers"] == "fused"
    path = tmp_path / "c.safetensors"
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr("agentkd.training.checkpoint.SURROUNDINGS", {})
        execute(make_task(), Surroundings(Store(tmp_path), CPU, hooks=stop_at(6), checkpoint=path, checkpoint_every_s=0.0))
    steps: list[int] = []
    hooks = Hooks(on_step=lambda step, *told: steps.append(step))
    again = execute(make_task(), Surroundings(Store(tmp_path), CPU, checkpoint=path, hooks=hooks))
    assert steps[0] == 1 and again.weights == whole.weights
    assert "updated weights otherwise" in caplog.text


def test_a_checkpoint_makes_its_folder_and_one_that_cannot_be_written_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, path = torch.nn.Linear(2, 2), tmp_path / "a" / "b" / "c.safetensors"
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0, momentum=0.9)
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    progress = Progress(
        step=3, seconds=1.5, loss_sum=0.25, best_score=0.5, best_epoch=2, best={"w": torch.ones(1)}, losses=[1.0, 0.1]
    )
    progress.history.append(EpochResult(epoch=1, loss=0.5, miou=None, seconds=1.0))
    save_checkpoint(path, network, {"main": optimizer}, progress, task="t")
    assert [p.name for p in path.parent.iterdir()] == ["c.safetensors"]

    def full(tensors: object, file: Path, **fields: object) -> None:
        file.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("agentkd.training.checkpoint.save_file", full)
    with pytest.raises(StorageError, match="No space left"):
        save_checkpoint(path, network, {"main": optimizer}, Progress(), task="t")
    (tmp_path / "a file").write_bytes(b"")
    with pytest.raises(StorageError):
        save_checkpoint(tmp_path / "a file" / "x", network, {"main": optimizer}, Progress(), task="t")
    assert [p.name for p in path.parent.iterdir()] == ["c.safetensors"]
    other = torch.nn.Linear(2, 2)
    fresh = torch.optim.SGD(other.parameters(), lr=1.0, momentum=0.9)
    found = load_checkpoint(path, other, {"main": fresh}, task="t")
    assert found == progress and torch.equal(other.weight, network.weight)
    buffers = [list(o.state_dict()["state"].values()) for o in (optimizer, fresh)]
    assert (
        all(torch.equal(a["momentum_buffer"], b["momentum_buffer"]) for a, b in zip(*buffers, strict=True))
        and len(buffers[1]) == 2
    )
    assert load_checkpoint(path, other, {"main": fresh}, task="another") is None
    assert load_checkpoint(tmp_path / "nowhere", other, {"main": fresh}, task="t") is None


def test_the_digest_of_a_state_changes_with_any_bit_name_shape_and_number_type() -> None:
    def digest(**tensors: torch.Tensor) -> str:
        network = torch.nn.Module()
        for name, value in tensors.items():
            network.register_buffer(name, value)
        return state_digest(network)

    a = torch.tensor([1.0, 2.0])
    assert digest(a=a) == digest(a=a.clone()) and digest(a=a, b=a) == digest(b=a, a=a)
    others = [digest(a=a[None]), digest(b=a), digest(a=a.view(torch.int32)), digest(a=a + 1e-7), digest(a=a, b=a)]
    assert len({digest(a=a), *others}) == 6


def test_a_training_that_starts_from_weights_does_not_draw_its_own(tmp_path: Path) -> None:
    store, task = Store(tmp_path), make_task(RECIPE.model_copy(update={"epochs": 1}))
    weights = store.put(encode_weights(task.architecture, dict(build(task.architecture, seed=7).state_dict())))

    def trace(seed: int, initial_weights: str) -> str:
        return execute(task.replace(seed=seed, initial_weights=initial_weights), Surroundings(store, CPU)).trace

    assert trace(1, weights) == trace(2, weights) and len({trace(1, ""), trace(2, ""), trace(1, weights)}) == 3
