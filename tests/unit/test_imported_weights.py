"""Weights with the names that people's files have are taken, wherever they lie in a file; too few or wrong ones are refused."""

import itertools
import json
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import published_names
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from agentkd.cli.app import app
from agentkd.errors import AgentKDError, ConfigError
from agentkd.knowledge.weights import encode_weights, read_metadata
from agentkd.networks.blocks import SegmentationNetwork
from agentkd.networks.build import OwnNetwork, build
from agentkd.networks.checkpoints import read_checkpoint
from agentkd.networks.families import resolve
from agentkd.networks.weights import ImportReport, import_weights

State = dict[str, Tensor]
SMALL = {"base": 8, "depth": 2}


def drawn(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype = torch.float32) -> State:
    random = torch.Generator().manual_seed(3)
    return {
        name: torch.tensor(7) if name.endswith("tracked") else (0.5 + 0.1 * torch.rand(shape, generator=random)).to(dtype)
        for name, shape in shapes.items()
    }


def through(path: Path, content: Any, network: SegmentationNetwork, **options: Any) -> ImportReport:
    """The content saved as a file of PyTorch, read, and imported."""
    torch.save(content, path)
    return import_weights(network, read_checkpoint(path), source=path.name, **options)


def unet(seed: int = 1, **settings: Any) -> SegmentationNetwork:
    return build(resolve("unet", 5, SMALL | settings), seed=seed)


@pytest.mark.parametrize(
    ("size", "data"),
    [
        ("pidnet_s", "imagenet"),
        ("pidnet_s", "cityscapes"),
        ("pidnet_s", "camvid"),
        ("pidnet_m", "imagenet"),
        ("pidnet_l", "camvid"),
    ],
)
def test_published_pidnet_files_are_taken_but_for_heads_of_other_classes(size: str, data: str, tmp_path: Path) -> None:
    num_classes = {"imagenet": 1000, "cityscapes": 19, "camvid": 11}[data]
    state = drawn(published_names.pidnet(size, num_classes, heads=data != "imagenet"))
    if data == "imagenet":  # a classifier that was trained before there were heads, its names as they are
        state = {name: value for name, value in state.items() if not name.startswith(("final_layer", "dfm", "spp"))}
        content: Any = {"state_dict": state | drawn({"classifier.weight": (1000, 64), "classifier.bias": (1000,)}), "epoch": 99}
    else:  # in the frame of its training, beside the weights of the classes in its loss
        content = {f"model.{name}": value for name, value in state.items()} | {
            "sem_loss.criterion.weight": torch.ones(num_classes)
        }
    for classes in (num_classes, 5) if (size, data) == ("pidnet_s", "camvid") else (5,):
        network = build(resolve(size, classes), seed=1)
        report = through(tmp_path / "published.pt", content, network)
        other = {f"{head}.conv2.{kind}" for head in ("seghead_p", "final_layer") for kind in ("weight", "bias")}
        heads = set() if data == "imagenet" or classes == num_classes else other
        assert set(report.reshaped) == heads and set(report.loaded) == set(state) - heads
        assert len(report.unexpected) == (2 if data == "imagenet" else 1)
        for name in report.loaded:
            assert torch.equal(network.state_dict()[name], state[name]), name


def test_torchvisions_resnet18_becomes_the_context_path(tmp_path: Path) -> None:
    state = drawn(published_names.resnet18())
    network = build(resolve("cnn_i2i_bisenet", 5), seed=1)
    report = through(tmp_path / "resnet18-f37072fd.pth", OrderedDict(state), network)
    assert set(report.unexpected) == {"context.fc.weight", "context.fc.bias"} and not report.reshaped
    assert set(report.loaded) == {f"context.{name}" for name in state if not name.startswith("fc.")}
    assert torch.equal(network.state_dict()["context.layer4.1.bn2.running_var"], state["layer4.1.bn2.running_var"])


class WithBackbone(nn.Module):
    """A user's network upon somebody's backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"body": nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3))})
        self.head = nn.Conv2d(8, 5, 1)


def test_a_backbones_own_names_are_found_wherever_the_backbone_is() -> None:
    backbone = WithBackbone().encoder["body"]
    network = OwnNetwork(WithBackbone())
    report = import_weights(network, {f"module.{name}": value for name, value in backbone.state_dict().items()})
    assert not report.unexpected and set(report.missing) == {"network.head.weight", "network.head.bias"}
    assert torch.equal(network.state_dict()["network.encoder.body.2.weight"], backbone[2].weight)


@pytest.mark.parametrize("order", list(itertools.permutations(["module.", "model.", "network.", "_orig_mod."])))
def test_prefixes_come_in_any_order(order: tuple[str, ...]) -> None:
    theirs = unet(seed=1).state_dict()
    ours = unet(seed=2)
    for prefixes in (order, order[:3], order[:2]):
        for network in (ours, OwnNetwork(ours)):
            report = import_weights(network, {"".join(prefixes) + name: value for name, value in theirs.items()})
            assert not (report.missing or report.unexpected or report.reshaped)
            assert report.share == 1


def test_what_torch_puts_into_names_is_passed_over_wherever_it_stands() -> None:
    theirs = unet(seed=1).state_dict()
    put = {name.replace("encoder.", "encoder._orig_mod.").replace(".body", "._fsdp_wrapped_module.body") for name in theirs}
    renamed = dict(zip(sorted(put), (theirs[name] for name in sorted(theirs)), strict=True))
    report = import_weights(unet(seed=2), {f"model._orig_mod.{name}": value for name, value in renamed.items()})
    assert not (report.missing or report.unexpected or report.reshaped)
    compiled = nn.ModuleDict({"encoder": nn.ModuleDict({"_orig_mod": nn.Conv2d(3, 4, 3)}), "head": nn.Conv2d(4, 5, 1)})
    plain = {name.replace("_orig_mod.", ""): value for name, value in compiled.state_dict().items()}
    assert not import_weights(OwnNetwork(compiled), plain).unexpected


AVERAGES: dict[str, Callable[[State, State], Any]] = {
    "alone": lambda s, other: {"ema": s, "updates": 100},
    "of timm": lambda s, other: {"state_dict": s, "state_dict_ema": other, "epoch": 3},
    "beside the network": lambda s, other: {"model": s, "ema": other},
    "with a step as a tensor": lambda s, other: {"step": torch.tensor(3), "my_weights": s, "optimizer": {"state": {}}},
    "beside a network of another name": lambda s, other: {"student": s, "student_ema": other},
    "in one state": lambda s, other: {f"{p}{k}": v for p, d in (("model.", s), ("model_ema.", other)) for k, v in d.items()},
    "of torch": lambda s, other: {"n_averaged": torch.tensor(9), **{f"module.{k}": v for k, v in s.items()}},
    "within": lambda s, other: {"ema": {"state_dict": s, "decay": 0.99}, "scaler": {"scale": torch.tensor(65536.0)}},
    "beside an optimizer of another name": lambda s, other: {
        "net_of_mine": s,
        "opt": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
    },
    "with scores of NumPy": lambda s, other: {"ema_model": s, "best": np.float32(0.5), "seen": np.int64(3)},
}


@pytest.mark.parametrize("how", AVERAGES)
def test_a_network_is_preferred_to_its_average_which_is_taken_if_it_is_alone(how: str, tmp_path: Path) -> None:
    theirs, other = dict(unet(seed=1).state_dict()), dict(unet(seed=3).state_dict())
    network = unet(seed=2)
    report = through(tmp_path / "average.pth", AVERAGES[how](theirs, other), network)
    assert not (report.missing or report.reshaped)
    assert all(torch.equal(value, theirs[name]) for name, value in network.state_dict().items() if "tracked" not in name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn])
@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_other_number_types_are_turned_into_the_networks(dtype: torch.dtype, form: str, tmp_path: Path) -> None:
    theirs = {n: v.to(dtype) if v.is_floating_point() else v for n, v in unet(seed=1).state_dict().items()}
    file = tmp_path / f"few.{form}"
    save_file(theirs, file) if form == "safetensors" else torch.save(theirs, file)
    network = unet(seed=2)
    import_weights(network, read_checkpoint(file))
    for name, value in network.state_dict().items():
        assert value.dtype == unet().state_dict()[name].dtype and torch.equal(value, theirs[name].to(value.dtype)), name


def head_of(change: Callable[[Tensor], Tensor]) -> State:
    state = dict(unet(seed=1).state_dict())
    return state | {"head.weight": change(state["head.weight"])}


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (head_of(lambda value: value / 0), r"not finite .*head\.weight"),
        (head_of(lambda value: value.double() * 1e300), r"not finite .*head\.weight"),
        (head_of(lambda value: (100 * value).to(torch.int8)), r"head\.weight \(torch\.int8\).*not quantized"),
        (head_of(lambda value: value.to(torch.complex64)), r"head\.weight \(torch\.complex64\)"),
        (head_of(lambda value: value.to("meta")), r"without values, or sparse: head\.weight"),
        (head_of(lambda value: value.to_sparse()), r"without values, or sparse: head\.weight"),
    ],
)
def test_numbers_that_are_none_of_a_network_are_refused_by_name_and_change_nothing(state: State, said: str) -> None:
    network = unet(seed=2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ConfigError, match=rf"^a\.pth: .*{said}"):
        import_weights(network, state, source="a.pth")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def renamed(state: State, share: float) -> State:
    """So many of the tensors under names that nobody knows."""
    names = [name for name in state if "tracked" not in name]
    lost = set(names[: round(share * len(names))])
    return {(f"q{name.replace('.', '_')}" if name in lost else name): value for name, value in state.items()}


def test_below_half_of_the_tensors_it_is_refused_with_those_that_do_not_fit() -> None:
    theirs = dict(unet(seed=1).state_dict())
    assert import_weights(unet(seed=2), renamed(theirs, 0.4)).share == pytest.approx(0.6, abs=0.05)
    with pytest.raises(ConfigError, match=r"a\.pth: only \d+ of its \d+ tensors .* has \d+; at least 50% .*not wanted: q"):
        import_weights(unet(seed=2), renamed(theirs, 0.6), source="a.pth")
    assert import_weights(unet(seed=2), renamed(theirs, 0.6), least_share=0.3).share == pytest.approx(0.4, abs=0.05)
    wider = dict(unet(seed=1, base=16).state_dict())
    with pytest.raises(ConfigError, match=r"of another shape: \S+ is \[16, 3, 3, 3\] in the file and \[8, 3, 3, 3\]"):
        import_weights(unet(seed=2), wider)


@pytest.mark.parametrize("state", [{"weight": torch.ones(8)}, {"bn.weight": torch.ones(8), "bn.bias": torch.ones(8)}, {}])
def test_a_few_tensors_that_happen_to_fit_somewhere_are_no_weights(state: State) -> None:
    with pytest.raises(ConfigError, match="right family"):
        import_weights(unet(), state)


@pytest.mark.parametrize(("theirs", "ours"), [("pidnet_s", "cnn_i2i_bisenet"), ("unet", "unetpp"), ("unetpp", "pidnet_s")])
def test_weights_of_another_family_are_refused(theirs: str, ours: str) -> None:
    with pytest.raises(ConfigError, match="is it the right family"):
        import_weights(build(resolve(ours, 5), seed=1), build(resolve(theirs, 5), seed=1).state_dict())


def test_parts_of_a_network_that_a_file_fits_alike_are_named() -> None:
    twins = nn.ModuleDict({side: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)) for side in ("left", "right")})
    one = twins["left"].state_dict()
    with pytest.raises(ConfigError, match=r"several parts of the network alike \(network\.left\., network\.right\.\)"):
        import_weights(OwnNetwork(twins), one)
    assert not import_weights(OwnNetwork(twins), twins.state_dict()).missing


def test_a_report_lists_every_tensor_that_was_not_loaded() -> None:
    state = dict(unet(seed=1).state_dict())
    del state["head.bias"]
    report = import_weights(unet(seed=2), state | {"head.weight": torch.zeros(7, 8, 1, 1), "extra": torch.zeros(2)})
    assert list(report.lines()) == [
        "left as initialized: head.bias",
        "not wanted: extra",
        "of another shape: head.weight is [7, 8, 1, 1] in the file and [5, 8, 1, 1] in the network",
    ]


def test_the_command_says_what_did_not_fit_and_keeps_what_the_weights_say_of_themselves(tmp_path: Path) -> None:
    run = CliRunner().invoke
    architecture = resolve("unet", 3, SMALL)
    source, out, again = tmp_path / "a.pt", tmp_path / "b.safetensors", tmp_path / "c.safetensors"
    state = dict(build(architecture, seed=1).state_dict())
    torch.save({"ema": {f"module.{n}": v.bfloat16() for n, v in state.items() if n != "head.bias"}, "x": 1}, source)
    small = ["--family", "unet", *(f"--set={name}={value}" for name, value in SMALL.items())]
    done = run(app, ["weights", str(source), str(out), *small, "--names", "Burnt, Fire, Smoke"])
    assert done.exit_code == 0, done.output
    assert "left as initialized: head.bias" in done.output and "1 left as initialized, 0 not wanted" in done.output
    said = read_metadata(out.read_bytes())
    assert said.classes == ("Burnt", "Fire", "Smoke") and said.architecture == architecture
    done = run(app, ["weights", str(out), str(again), *small, "--format", "json"])
    told = json.loads(done.output)
    assert (told["share"], told["missing"], len(told["loaded"])) == (1.0, [], len(state))
    assert read_metadata(again.read_bytes()) == said
    assert run(app, ["weights", str(out), str(again), *small, "--classes", "4"]).exit_code == 0
    assert read_metadata(again.read_bytes()).classes == ()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--family", "unet", "--names", "a,b"], r"2 names \(a, b\) for 3 classes"),
        (["--family", "unet", "--names", "a,a,b", "--classes", "3"], "each needs one of its own"),
        (["--family", "unet", "--names", "Fire,Burnt,Smoke"], "classes.*another order"),
        (["--family", "unetpp"], "says that it is of unet, not of unetpp"),
        (["--family", "unet", "--set", "base=16"], r"only 1 of its 56 tensors belong to this network"),
    ],
)
def test_what_contradicts_what_weights_say_of_themselves_is_refused(options: list[str], said: str, tmp_path: Path) -> None:
    architecture = resolve("unet", 3, SMALL)
    file = tmp_path / "a.safetensors"
    file.write_bytes(encode_weights(architecture, dict(build(architecture, seed=1).state_dict()), ("Burnt", "Fire", "Smoke")))
    small = [f"--set={name}={value}" for name, value in SMALL.items()]
    classes = ["--classes", "3"] if "--classes" not in options else []
    done = CliRunner().invoke(app, ["weights", str(file), str(tmp_path / "b.safetensors"), *small, *classes, *options])
    assert isinstance(done.exception, AgentKDError) and re.search(said, str(done.exception)), done.exception
    assert not (tmp_path / "b.safetensors").exists()
