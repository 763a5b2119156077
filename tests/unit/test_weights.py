"""Weights that people have are loaded, and what did not fit is said."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from agentkd.errors import ConfigError
from agentkd.knowledge.weights import encode_weights, inherit_weights
from agentkd.networks.build import build
from agentkd.networks.checkpoints import read_checkpoint
from agentkd.networks.families import resolve
from agentkd.networks.weights import import_weights

SMALL = {"planes": 16, "num_blocks3": 1, "num_blocks4": 1}


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {f"model.{k}": v for k, v in s.items()}])
def test_a_published_pidnet_checkpoint_is_loaded_whole(tmp_path: Path, wrap) -> None:
    architecture = resolve("pidnet_s", 5, SMALL)
    theirs, ours = build(architecture, seed=1).eval(), build(architecture, seed=2).eval()
    torch.save(wrap(theirs.state_dict()), tmp_path / "published.pt")
    report = import_weights(ours, read_checkpoint(tmp_path / "published.pt"))
    assert not (report.missing or report.unexpected or report.reshaped)
    images = torch.randn(1, 3, 75, 101)
    assert torch.equal(theirs(images)["logits"], ours(images)["logits"])


def test_a_head_with_other_classes_is_left_as_it_was_and_named() -> None:
    theirs, ours = build(resolve("pidnet_s", 19, SMALL), seed=1), build(resolve("pidnet_s", 5, SMALL), seed=2)
    report = import_weights(ours, theirs.state_dict())
    assert set(report.reshaped) == {
        f"{head}.conv2.{kind}" for head in ("seghead_p", "final_layer") for kind in ("weight", "bias")
    }
    assert "another number of classes?" in str(report)


def test_what_has_another_name_or_shape_is_not_inherited() -> None:
    architecture = resolve("pidnet_s", 19, SMALL)
    theirs, ours = build(architecture, seed=1), build(resolve("pidnet_s", 5, SMALL), seed=2)
    given, before = theirs.state_dict(), {name: value.clone() for name, value in ours.state_dict().items()}
    fitting = {name for name, value in given.items() if before[name].shape == value.shape}
    assert inherit_weights(ours, encode_weights(architecture, given | {"somewhere.else": torch.zeros(1)})) == len(fitting)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, given[name] if name in fitting else before[name]), name
    assert 0 < len(fitting) < len(before)


def test_an_imagenet_resnet18_is_found_to_be_the_context_path(tmp_path: Path) -> None:
    small = {"width": 0.5, "i2i_width": 8}
    theirs, ours = (build(resolve("cnn_i2i_bisenet", 5, small), seed=seed) for seed in (1, 2))
    backbone = {**theirs.context.state_dict(), "fc.weight": torch.zeros(10, 256)}
    save_file(backbone, tmp_path / "resnet.safetensors")
    report = import_weights(ours, read_checkpoint(tmp_path / "resnet.safetensors"))
    assert report.unexpected == ("context.fc.weight",)
    assert torch.equal(ours.context.layer1[0].conv1.weight, theirs.context.layer1[0].conv1.weight)


def test_a_file_that_would_execute_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ConfigError, match="holds more than tensors"):
        read_checkpoint(tmp_path / "evil.pt")


def test_what_does_not_fit_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no weights file"):
        read_checkpoint(tmp_path / "nothing.pt")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ConfigError, match="cannot be read as weights"):
        read_checkpoint(tmp_path / "text.safetensors")
    with pytest.raises(ConfigError, match="is it the right family"):
        import_weights(build(resolve("unet", 5, {"base": 8, "depth": 2})), {"something": torch.zeros(1)})


WRAPPED = {
    "in parallel": lambda s: {f"module.{k}": v for k, v in s.items()},
    "compiled": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "compiled in parallel": lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
    "parallel, then compiled": lambda s: {"model": {f"_orig_mod.module.{k}": v for k, v in s.items()}},
    "in a frame of its own": lambda s: {"state_dict": {f"net.{k}": v for k, v in s.items()}, "loops": {}},
    "beside a score of NumPy": lambda s: {"state_dict": s, "best": np.float64(0.5), "rng": np.arange(3)},
    "beside options": lambda s: {"args": argparse.Namespace(lr=0.1), "network": s, "epoch": 3},
    "beside its average": lambda s: {"model": s, "ema": {k: v * 0 for k, v in s.items()}},
    "beside its optimizer": lambda s: {"weights_of_mine": s, "optimizer": {"state": {0: {"momentum": torch.ones(3)}}}},
    "without counters": lambda s: {k: v for k, v in s.items() if "num_batches" not in k},
    "in half precision": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
}


@pytest.mark.parametrize("own", ["tiny_networks:tiny", "framed_networks:framed"])
@pytest.mark.parametrize("how", WRAPPED)
def test_a_users_own_weights_are_read_however_they_were_saved(tmp_path: Path, own: str, how: str) -> None:
    network = build(resolve(own, 5), seed=1)
    state = {name.removeprefix("network."): value for name, value in network.state_dict().items()}
    for number, names in enumerate((state, network.state_dict())):
        torch.save(WRAPPED[how](dict(names)), tmp_path / f"{number}.pth")
        fresh = build(resolve(own, 5), seed=2)
        report = import_weights(fresh, read_checkpoint(tmp_path / f"{number}.pth"))
        assert not (report.missing or report.unexpected or report.reshaped), report
        for name, value in fresh.state_dict().items():
            assert "half" in how or "num_batches" in name or torch.equal(value, network.state_dict()[name]), name


def test_the_content_of_a_file_decides_how_it_is_read_and_not_its_name(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "tensors.pth")
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch.safetensors")
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert all(set(read_checkpoint(path)) == {"a"} for path in tmp_path.iterdir())


def test_two_networks_in_one_file_are_not_taken_for_one(tmp_path: Path) -> None:
    network = build(resolve("unet", 5, {"base": 8, "depth": 2}), seed=1)
    both = {f"{whose}.{name}": value for whose in ("student", "teacher") for name, value in network.state_dict().items()}
    with pytest.raises(ConfigError, match=r"both\.pth: several networks in it fit \(student\., teacher\.\)"):
        import_weights(network, both, source="both.pth")
    torch.save({"student": network.state_dict(), "teacher": network.state_dict()}, tmp_path / "two.pth")
    with pytest.raises(ConfigError, match="several sets of weights"):
        read_checkpoint(tmp_path / "two.pth")


def test_weights_that_are_not_finite_are_refused_by_name() -> None:
    network = build(resolve("unet", 5, {"base": 8, "depth": 2}), seed=1)
    name, value = next(iter(network.state_dict().items()))
    with pytest.raises(ConfigError, match=rf"a\.pth: not finite .*{name}"):
        import_weights(network, network.state_dict() | {name: value / 0}, source="a.pth")


def whole(path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), path)


def cut_short(path: Path) -> None:
    torch.save({"a": torch.ones(2)}, path)
    path.write_bytes(path.read_bytes()[:-40])


def script(path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.ones(1)), path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 32\n"), "git lfs pull"),
        (lambda path: path.write_text("\n<!DOCTYPE html><html>Virus scan warning</html>"), "web page"),
        (lambda path: path.write_text("hello"), "neither as a safetensors file nor"),
        (lambda path: path.write_bytes(b"\x80\x02hello"), "damaged or cut short"),
        (lambda path: path.mkdir(), "it is a folder"),
        (os.mkfifo, "it is a pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a device"),
        (cut_short, "damaged or cut short"),
        (whole, r"more than tensors \(torch.nn.modules.linear.Linear\).*torch.save\(network.state_dict"),
        (script, "TorchScript"),
        (lambda path: torch.save([torch.ones(2)], path), "no tensors but a list"),
        (lambda path: torch.save({"a": np.ones(2)}, path), "no tensors but a dict with a"),
    ],
)
def test_what_is_no_file_of_weights_is_refused_with_the_reason(tmp_path: Path, make: Callable[[Path], None], said: str) -> None:
    make(tmp_path / "file.pth")
    with pytest.raises(ConfigError, match=rf"file\.pth.*{said}"):
        read_checkpoint(tmp_path / "file.pth")
