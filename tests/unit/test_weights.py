"""Weights that people have are loaded, and what did not fit is said."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from agentkd.errors import ConfigError
from agentkd.knowledge.weights import encode_weights, inherit_weights
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.networks.weights import import_weights, read_checkpoint

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
