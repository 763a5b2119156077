"""Everything that can be known is checked before anything starts: each kind of fault, by its place, with all others at once."""

import functools
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from agentkd.architecture import IMAGENET, UNIT, Normalization
from agentkd.artifacts.journal import Journal
from agentkd.artifacts.run_folder import RunFolder
from agentkd.checks import before, room, spaces
from agentkd.checks.before import CHECKS, Foreseen, look_at, look_at_file
from agentkd.checks.concerns import Concern
from agentkd.checks.plan import RunPlan
from agentkd.checks.script import DataChecks
from agentkd.cli import app
from agentkd.community.community import Community
from agentkd.config import load_experiment
from agentkd.coordinator.run import run_experiment
from agentkd.datasets.opening import open_dataset
from agentkd.errors import ConfigError, DatasetError
from agentkd.experiment import Experiment
from agentkd.knowledge.weights import encode_weights
from agentkd.networks import families
from agentkd.networks.build import build
from agentkd.recipe import Recipe, ViewSettings

SPEC = "generated:seed=5,size=32x32,train=8,validation=4,test=4"
GOOD: dict[str, Any] = {
    "name": "t",
    "data": {"dataset": SPEC},
    "families": {"tiny_networks:tiny": {}},
    "recipe": {"batch_size": 2, "views": {"crop_height": 32, "crop_width": 32}},
    "search": {"trials": 2, "recipe_space": {"learning_rate": {"low": 0.01, "high": 0.1, "log": True}}},
    "launch": {"devices": "cpu:1"},
}
OWN = """
import numpy as np
from torch import nn

class Net(nn.Module):
    def __init__(self, classes, width, depth=0):
        super().__init__()
        self.depth, self.body, self.head = depth, nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, classes, 1)
    def forward(self, images):
        if images.shape[-1] % 2 ** self.depth or images.shape[-2] % 2 ** self.depth:
            raise ValueError(f"sides must be multiples of {2 ** self.depth}")
        return self.head(self.body(images))

def own(**space):
    def builder(num_classes: int, a=1, width: int = 8, groups: int = 1, depth: int = 0):
        if width == 12:
            raise ValueError("width 12 is not for me")
        if width % groups:
            raise ValueError("groups must divide the width")
        return Net(num_classes, width, depth)
    builder.space = space
    return builder

pairs, lists, nones = own(a=((1, 2), (2, 4))), own(a=([1],)), own(a=(None, 1))
mixed, scalar, empty, text = own(a=(True, 1)), own(a=3), own(a=()), own(a="ab")
unordered, mapping, unknown = own(a={1, 2}), own(a={"low": 0.1, "high": 0.5}), own(zz=(1, 2))
objects, twice = own(a=(nn.ReLU,)), own(a=(2, 2))
ranged, arrays, scalars = own(a=range(1, 4)), own(a=np.arange(1, 4)), own(a=(np.int64(3), np.float32(0.5), np.bool_(True)))
raises, grouped, deep = own(width=(8, 12)), own(width=(8, 6), groups=(1, 2, 4)), own(depth=(0, 1, 6))
no_space = own()
no_space.space = [("a", (1, 2))]

def many(num_classes: int, **settings):
    return Net(num_classes, 4)
many.space = {f"s{i}": tuple(range(8)) for i in range(6)}

def coarse(num_classes: int):
    return Net(num_classes, 4, depth=4)

def extra(num_classes: int):
    return Net(num_classes + 1, 4)

def lonely(num_classes: int):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1), nn.InstanceNorm2d(4), nn.Conv2d(4, num_classes, 1))

class Numeric(Net):
    def forward(self, images):
        return super().forward(images) * (1 if images.sum().item() < 1 else 2)

def numeric(num_classes: int):
    return Numeric(num_classes, 4, depth=4)

def unbuilt(num_classes: int):
    raise RuntimeError("out of luck")
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "before_nets.py").write_text(OWN)
    return tmp_path


def changed(**changes: Any) -> dict[str, Any]:
    """The good experiment with other values at dotted paths (two underscores are a dot)."""
    data = yaml.safe_load(yaml.safe_dump(GOOD))
    for path, value in changes.items():
        *parents, last = path.split("__")
        target = data
        for name in parents:
            target = target.setdefault(name, {})
        target[last] = value
    return data


def look(data: dict[str, Any], *, in_full: bool = True) -> Foreseen:
    Path("e.yaml").write_text(yaml.safe_dump(data))
    return look_at_file("e.yaml", out=Path("run"), in_full=in_full)


def errors(data: dict[str, Any]) -> dict[str, str]:
    return {concern.path: concern.text for concern in look(data).concerns if concern.is_error}


def warnings(data: dict[str, Any]) -> dict[str, str]:
    found = look(data)
    assert not [concern for concern in found.concerns if concern.is_error]
    return {concern.path: concern.text for concern in found.warnings}


def folder(place: Path, *, sizes: list[tuple[int, int]], classes: int = 3, seed: int = 0, top: int = 2) -> str:
    """A dataset of files: so many training images of these (height, width), two for validation, classes up to ``top``."""
    random = np.random.default_rng(seed)
    for split, listed in (("train", sizes), ("val", [sizes[0]] * 2)):
        for kind in ("images", "masks"):
            (place / kind / split).mkdir(parents=True, exist_ok=True)
        for at, (height, width) in enumerate(listed):
            label = np.arange(height * width, dtype=np.uint8).reshape(height, width) % (top + 1)
            pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / "images" / split / f"{split}{at}x.png")
            Image.fromarray(label).save(place / "masks" / split / f"{split}{at}x.png")
    (place / "dataset.yaml").write_text(yaml.safe_dump({"name": "toy", "classes": [f"c{i}" for i in range(classes)]}))
    return f"folder:path={place}"


# Search spaces.

RECIPE_SPACES = {
    "a batch of one": ("batch_size", {"low": 1, "high": 2, "integer": True}, ".low", "greater than or equal to 2"),
    "a batch of one among many": ("batch_size", {"values": [2, 4, 1]}, ".values.2", "greater than or equal to 2"),
    "parts of an image": ("batch_size", {"low": 2, "high": 4}, "", "integer: true"),
    "momentum that never ends": ("momentum", {"values": [0.5, 1.0]}, ".values.1", "less than 1"),
    "an optimizer that is not there": ("optimizer", {"values": ["adam", "sgd"]}, ".values.0", "'sgd' or 'adamw'"),
    "numbers for an optimizer": ("optimizer", {"low": 0, "high": 1}, ".low", "'sgd' or 'adamw'"),
    "a rate that is too large": ("learning_rate", {"low": 1, "high": 20}, ".high", "less than or equal to 10"),
    "a logarithm of less than one": ("batch_size", {"low": 0.5, "high": 4, "log": True, "integer": True}, ".low", "no whole"),
    "ends that are cut off": ("batch_size", {"low": 2, "high": 4.7, "integer": True}, ".high", "no whole number"),
    "a group of fields": ("views", {"values": ["a"]}, "", "cannot be searched"),
    "what a stage says": ("epochs", {"values": [1, 2]}, "", "search.epochs says it"),
    "one value in two forms": ("clip_norm", {"values": [1, 1.0]}, "", "one value to a search"),
    "more than there are images": ("batch_size", {"values": [2, 16]}, "", "fewer than a batch of 16"),
}


@pytest.mark.parametrize(("name", "space", "at", "told"), RECIPE_SPACES.values(), ids=RECIPE_SPACES.keys())
@pytest.mark.parametrize("place", ["search", "families.unet"])
def test_every_value_of_a_recipes_space_is_held_against_the_recipe(
    here: Path, name: str, space: Any, at: str, told: str, place: str
) -> None:
    data = changed(families={"unet": {"settings": {"base": 8, "depth": 1}}})
    (data["search"] if place == "search" else data["families"]["unet"])["recipe_space"] = {name: space}
    found = errors(data)
    assert next(iter(found)) == f"{place}.recipe_space.{name}{at}" and told in found[f"{place}.recipe_space.{name}{at}"]


def test_a_value_that_is_wrong_for_several_families_is_said_once_with_their_names(here: Path) -> None:
    data = changed(families={"unet": {}, "unetpp": {}}, search__recipe_space={"momentum": {"values": [2]}})
    assert "2 cannot be momentum of unet, unetpp: input should be less than 1" in errors(data).values()


OWN_SPACES = {
    "pairs": "(1, 2) is no value that a search can choose",
    "lists": "[1] is no value",
    "nones": "None is no value",
    "objects": "ReLU'> is no value",
    "mixed": "True and 1 are one value to a search",
    "scalar": "is 3; expected a tuple of values",
    "text": "is 'ab'; expected a tuple",
    "mapping": "expected a tuple of values",
    "unordered": "a set has no order",
    "empty": "a has no values to choose from (in before_nets:empty.space)",
    "unknown": "1 cannot be zz of before_nets:unknown (in before_nets:unknown.space): unknown setting",
    "no_space": "expected settings to their values",
    "raises": "with width 12 (in before_nets:raises.space) before_nets:raises cannot be built (ValueError: width 12",
    "deep": "with depth 6 (in before_nets:deep.space) before_nets:deep does not take 2 images of 32x32 in training",
}


@pytest.mark.parametrize(("name", "told"), OWN_SPACES.items())
def test_an_own_space_is_looked_at_whatever_it_is(here: Path, name: str, told: str) -> None:
    found = look(changed(families={f"before_nets:{name}": {}}))
    said = [concern for concern in found.concerns if concern.is_error]
    assert said and all(concern.path.startswith(f"families.before_nets:{name}") for concern in said)
    assert told in said[0].text
    assert not Path("run").exists()


@pytest.mark.parametrize("name", ["ranged", "arrays", "scalars"])
def test_an_own_space_may_be_any_sequence_of_plain_values(here: Path, name: str) -> None:
    found = look(changed(families={f"before_nets:{name}": {}}))
    assert found.concerns == ()
    own = found.must_be_sound().own.family(f"before_nets:{name}").space["a"]
    assert own == ((3, 0.5, True) if name == "scalars" else (1, 2, 3)) and {type(v) for v in own} <= {int, float, bool}


def test_combinations_that_are_not_built_are_said_and_may_be_meant(here: Path) -> None:
    (text,) = warnings(changed(families={"before_nets:grouped": {}})).values()
    assert "width 6 and groups 4" in text and "groups must divide the width" in text and "such trials fail" in text


def test_a_space_too_large_to_enumerate_is_tried_by_values_and_pairs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = {f"s{i}": tuple(range(8)) for i in range(6)}
    combinations = list(spaces._combinations(space))
    assert len(combinations) == 6 * 8 + 15 * 64 and {len(settings) for settings in combinations} == {1, 2}
    monkeypatch.setattr(spaces, "MAX_TRIED", 60)
    (text,) = warnings(changed(families={"before_nets:many": {}})).values()
    assert "60 values and pairs of its space were tried" in text


def test_values_of_a_file_for_a_family_of_ours_are_named_by_their_key(here: Path) -> None:
    space = {"base": [8, 4], "depth": [1, 9], "dropout": [1.0], "nonsense": [1], "convs": [2, 2.0]}
    found = errors(changed(families={"unet": {"settings": {"base": 8, "depth": 1}, "space": space}}))
    assert set(found) == {f"families.unet.space.{at}" for at in ("base.1", "depth.1", "dropout.0", "nonsense.0", "convs")}
    assert "4 cannot be base of unet: input should be greater than or equal to 8" in found["families.unet.space.base.1"]


# Images, crops, batches, networks.


def test_images_of_several_sizes_need_a_crop(here: Path) -> None:
    spec = folder(here / "data", sizes=[(40, 64), (48, 60), (40, 64)])
    data = changed(data__dataset=spec, recipe__views={})
    found = errors(data)
    assert list(found) == ["recipe.views"]
    assert "have 2 sizes (64x40, 60x48), so they cannot be one batch; write crop_height" in found["recipe.views"]
    data["round1"] = {"recipe": {"views": {"crop_height": 16, "crop_width": 16}}}
    assert list(errors(data)) == ["recipe.views"]
    assert errors(changed(data__dataset=spec, recipe__views={"crop_height": 16, "crop_width": 16})) == {}
    assert errors(changed(data__dataset=f"{spec},size=32x32", recipe__views={})) == {}
    later = changed(data__dataset=spec)
    later["round1"] = {"recipe": {"views": {"flip": 0.1}}}
    assert list(errors(later)) == ["round1.recipe.views"]


def test_a_crop_that_is_larger_than_images_is_said(here: Path) -> None:
    data = changed(data__dataset=folder(here / "data", sizes=[(40, 64)] * 4), recipe__views={"crop_height": 48, "crop_width": 48})
    assert "the crop of 48x48 is larger than 4 of 4 images, such as one of 64x40" in warnings(data)["recipe.views"]


@pytest.mark.parametrize(
    ("train", "told"), [(3, "has 3 images, fewer than a batch of 4; write 2 to 3"), (1, "has 1 image; a batch")]
)
def test_a_batch_that_is_larger_than_the_split_is_refused_where_it_is_said(here: Path, train: int, told: str) -> None:
    spec = SPEC.replace("train=8", f"train={train}")
    found = errors(changed(data__dataset=spec, families={"tiny_networks:tiny": {"recipe": {"batch_size": 4}}}))
    assert list(found) == ["families.tiny_networks:tiny.recipe.batch_size"] and told in next(iter(found.values()))


NETWORKS = {
    "coarse": "does not take 2 images of 24x24 in training (ValueError: sides must be multiples of 16)",
    "extra": "makes logits of shape [2, 6, 24, 24] of images [2, 3, 24, 24]; expected [2, 5, h, w]",
    "lonely": "Expected more than 1 spatial element when training",
    "numeric": "does not take 2 images of 24x24 in training (ValueError: sides must be multiples of 16)",
    "unbuilt": "cannot be built (RuntimeError: out of luck)",
}


@pytest.mark.parametrize(("name", "told"), NETWORKS.items())
def test_a_network_that_does_not_take_what_it_is_to_learn_from_is_refused(here: Path, name: str, told: str) -> None:
    data = changed(families={f"before_nets:{name}": {}}, recipe__views={"crop_height": 24, "crop_width": 24})
    found = errors(data)
    assert list(found) == [f"families.before_nets:{name}"] and told in found[f"families.before_nets:{name}"]


def test_a_network_that_needs_numbers_is_tried_with_them(here: Path) -> None:
    assert look(changed(families={"before_nets:numeric": {}}, recipe__batch_size=4)).concerns == ()


def test_a_network_must_take_the_whole_images_of_validation_too(here: Path) -> None:
    data = changed(families={"before_nets:coarse": {}}, data__dataset=SPEC.replace("32x32", "40x40"))
    assert "does not take 1 images of 40x40 in evaluation" in errors(data)["families.before_nets:coarse"]


def test_nobody_looks_into_a_student_that_is_compiled(here: Path) -> None:
    taught = {"distillation": {"objectives": [{"kind": "attention", "taps": {"bottleneck": "bottleneck"}}]}}
    assert "recipe.compiled" not in errors(changed(round1=taught))
    told = errors(changed(round1=taught, recipe={"compiled": True}))["recipe.compiled"]
    assert "round1.distillation.objectives look at the student's bottleneck" in told
    told = errors(changed(round1=taught | {"recipe": {"compiled": True}}))
    assert "round1.recipe.compiled" in told
    assert not errors(changed(recipe={"compiled": True})).keys() & {"recipe.compiled"}


def test_a_tap_that_no_network_has_is_refused_and_one_that_some_lack_is_said(here: Path) -> None:
    def taught(tap: str) -> dict[str, Any]:
        return {"distillation": {"objectives": [{"kind": "features", "taps": {"body": tap}}]}}

    nets: dict[str, Any] = {"tiny_networks:tiny": {}, "unet": {"settings": {"base": 8, "depth": 1}}}
    found = errors(changed(families=nets, round2=taught("bodi")))
    assert list(found) == ["round2.distillation.objectives"]
    assert "no module 'bodi' is in the own network of tiny_networks:tiny, unet, whose modules begin with body" in str(found)
    assert "own network of unet, " in warnings(changed(families=nets, round2=taught("body")))["round2.distillation.objectives"]
    assert errors(changed(round1=taught("body.0"), round2=taught("bodi"))) == {}, "one family has no second round"


# Classes and splits.


@pytest.mark.parametrize("content", [b"", b"not weights\n", b"\x80\x02}q\x00.", b"\xff" * 64])
def test_a_file_that_holds_no_weights_is_told_with_its_name(here: Path, content: bytes) -> None:
    (here / "w.safetensors").write_bytes(content)
    found = errors(changed(families={"unet": {"settings": {"base": 8}, "weights": "w.safetensors"}}))
    assert list(found) == ["families.unet.weights"]
    assert "w.safetensors is no file of weights" in found["families.unet.weights"]


def weights_of(family: str, classes: tuple[str, ...] = (), normalization: Normalization = IMAGENET, **settings: Any) -> None:
    architecture = families.resolve(family, 4, settings).replace(normalization=normalization)
    state = dict(build(architecture, seed=0).state_dict())
    Path("w.safetensors").write_bytes(encode_weights(architecture, state, classes))


def test_what_weights_say_of_their_classes_and_images_is_held_against_the_data_and_the_network(here: Path) -> None:
    data = changed(families={"unet": {"settings": {"base": 8}, "weights": "w.safetensors"}})
    ours = open_dataset(data["data"]["dataset"]).classes
    for classes in (ours, ("other", *ours[1:]), ()):
        weights_of("unet", classes, base=8)
        assert not errors(data), classes
    weights_of("unet", ours[::-1], base=8)
    assert "the same in another order" in errors(data)["families.unet.weights"]
    weights_of("unet", ours, UNIT, base=8)
    assert "normalization" in errors(data)["families.unet.weights"]


def test_weights_of_others_are_told_with_the_command_that_makes_them_ours(here: Path) -> None:
    torch.save(build(families.resolve("unet", 4, {"base": 8}), seed=0).state_dict(), "w.pth")
    told = errors(changed(families={"unet": {"settings": {"base": 8}, "weights": "w.pth"}}))["families.unet.weights"]
    assert re.search("agentkd weights w.pth w-unet.safetensors --family unet --classes [0-9]", told)


def test_weights_of_another_network_are_refused_and_those_of_this_are_not(here: Path) -> None:
    data = changed(families={"unet": {"settings": {"base": 8}, "weights": "w.safetensors"}})
    weights_of("pidnet_s")
    assert "it is another network's" in errors(data)["families.unet.weights"]
    weights_of("unet", base=16)
    assert "it is another network's" in errors(data)["families.unet.weights"]
    weights_of("unet", base=8)
    assert not errors(data) and "families.unet.weights" not in warnings(data)


def test_a_class_that_is_not_there_is_said_and_one_that_is_alone_is_refused(here: Path) -> None:
    data = changed(data__dataset=folder(here / "two", sizes=[(32, 32)] * 4, top=1))
    assert "no pixel anywhere is 'c2'" in warnings(data)["data.dataset"]
    data = changed(data__dataset=folder(here / "one", sizes=[(32, 32)] * 4, top=0))
    assert "only one class has pixels, 'c0'" in errors(data)["data.dataset"]


OWN_DATA = """
import numpy as np
from agentkd.datasets.samples import Sample

class Scenes:
    name, classes, colors, ignore_index, digest = "mine", ("a", "b", "c"), ((0, 0, 0),) * 3, 255, "{digest}"
    splits = {splits}
    def sample(self, index):
        image = np.full((32, 32, 3), {value}, np.uint8)
        return Sample(image, np.full((32, 32), {label}, np.uint8) * np.ones((32, 32), np.uint8), str(index))
    def group(self, index):
        return str(index)
    def check(self):
        pass
"""


def own_data(here: Path, name: str, *, splits: str, label: str, value: str = "index") -> str:
    (here / f"{name}.py").write_text(OWN_DATA.format(digest="a" * 64, splits=splits, label=label, value=value))
    return f"{name}:Scenes"


SPLITS = "{'train': (0, 1, 2, 3), 'validation': (4, 5), 'test': (6, 7)}"


def test_an_own_dataset_is_looked_at_by_its_samples(here: Path) -> None:
    one = own_data(here, "before_one", splits=SPLITS, label="0")
    assert "in split 'train' only one class has pixels, 'a'" in errors(changed(data__dataset=one))["data.dataset"]
    none = own_data(here, "before_none", splits=SPLITS, label="index % 2 if index < 4 else 255")
    assert "no pixel of split 'validation' is labelled" in errors(changed(data__dataset=none))["data.dataset"]
    few = own_data(here, "before_few", splits=SPLITS, label="index % 2")
    assert "no pixel of split 'train' is 'c'" in str(look(changed(data__dataset=few)).warnings)
    twins = own_data(here, "before_twins", splits=SPLITS, label="index % 3", value="index % 4")
    assert "4 images are in two splits, such as 0 in 'train' and 4 in 'validation'" in str(errors(changed(data__dataset=twins)))
    same = own_data(here, "before_same", splits=SPLITS.replace("(4, 5)", "(3, 5)"), label="index % 3")
    assert "1 image is in two splits, such as 3 in 'train' and 3 in 'validation'" in str(errors(changed(data__dataset=same)))


def test_what_an_own_dataset_raises_is_told(here: Path) -> None:
    raising = own_data(here, "before_raising", splits=SPLITS, label="index % 3", value="{0: 1}[index]")
    assert "sample 1 cannot be read (KeyError: 1)" in errors(changed(data__dataset=raising))["data.dataset"]
    (here / "before_check.py").write_text(
        (here / "before_raising.py").read_text().replace("        pass", "        raise ValueError('no')")
    )
    told = [concern.text for concern in look(changed(data__dataset="before_check:Scenes")).concerns]
    assert any("its check cannot be done (ValueError: no)" in text for text in told)
    wide = own_data(here, "before_wide", splits=SPLITS, label="index % 3")
    (here / "before_wide.py").write_text(
        (here / "before_wide.py").read_text().replace("np.ones((32, 32), np.uint8)", "np.int32(1)")
    )
    assert "a label of int32 [32, 32]; expected uint8" in errors(changed(data__dataset=wide))["data.dataset"]


def test_labels_that_are_hidden_are_none_to_learn_from(here: Path) -> None:
    assert "no pixel of split 'train' is labelled" in str(errors(changed(data__dataset=f"unlabelled:{SPEC}")))
    assert errors(changed(data__dataset=f"only:Fire:{SPEC}")) == {}, "who asks for one class has it"


def test_an_image_of_one_dataset_in_another_split_of_a_second_is_found_when_they_are_joined(here: Path) -> None:
    one, other = folder(here / "one", sizes=[(32, 32)] * 4), folder(here / "other", sizes=[(32, 32)] * 4, seed=1)
    assert errors(changed(data__dataset=f"joined:{one}|{other}")) == {}
    shutil.copy(here / "one/images/train/train0x.png", here / "other/images/val/val0x.png")
    assert "1 image is in two splits" in errors(changed(data__dataset=f"joined:{one}|{other}"))["data.dataset"]


def test_the_same_bytes_in_two_splits_are_an_error_and_the_same_name_is_said(here: Path) -> None:
    spec = folder(here / "data", sizes=[(32, 32)] * 4)
    shutil.copy(here / "data/images/train/train0x.png", here / "data/images/val/val0x.png")
    found = look(changed(data__dataset=spec))
    assert ["in two splits byte for byte" in concern.text for concern in found.concerns] == [True], "once, as an error"
    spec = folder(here / "names", sizes=[(32, 32)] * 4)
    for kind in ("images", "masks"):
        (here / "names" / kind / "val/val0x.png").rename(here / "names" / kind / "val/train0x.png")
    assert "names are in more than one split" in str(warnings(changed(data__dataset=spec)))


def test_a_split_in_two_roles_is_said(here: Path) -> None:
    assert "has 8 images that 'train' has too" in warnings(changed(data__validation="train"))["data.validation"]


# Memory and disk.


def test_what_surely_cannot_be_is_refused_and_what_may_not_be_is_said(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "host_memory_bytes", lambda: 10_000)
    found = errors(changed())
    assert "of tiny_networks:tiny needs 0.1 MiB at least (batches of 2 at 32x32)" in found["recipe.batch_size"]
    assert "smaller batch_size" in found["recipe.batch_size"] and "write size=WIDTHxHEIGHT" in found["data.dataset"]
    monkeypatch.setattr(room, "host_memory_bytes", lambda: 2**20)
    searched = changed(
        search__recipe_space={"batch_size": {"values": [2, 4000]}}, data__dataset=SPEC.replace("train=8", "train=5000")
    )
    assert "batches of 4000 at 32x32" in errors(searched)["search.recipe_space.batch_size"]
    monkeypatch.setattr(room, "host_memory_bytes", lambda: 2**28)
    assert "1 agents that learn on cpu may need" in warnings(changed())["launch.devices"]


def test_memory_grows_with_batches_images_and_agents(here: Path) -> None:
    def needed(**changes: Any) -> int:
        return max(one.least for one in room.memory(look(changed(**changes)).must_be_sound()))

    plain = needed()
    assert needed(recipe__batch_size=8) > 2 * plain
    assert needed(recipe__optimizer="adamw") > plain
    large = needed(data__dataset=SPEC.replace("32x32", "2400x2400"))
    assert large < plain + 2 * 20 * 2400 * 2400, "of large images fewer are validated at once"
    assert needed(data__dataset=SPEC.replace("32x32", "256x256")) > 4 * 20 * 256 * 256, "four whole images are validated at once"


def test_of_each_task_under_way_room_for_three_checkpoints_is_wanted(here: Path) -> None:
    """The last, the one before it, and the one that is written: each with two states of the network and two of an optimizer."""
    plans = [look(changed(launch__devices=f"cpu:{count}")).must_be_sound() for count in (1, 2)]
    one, two = (found for plan in plans if (found := room.disk(plan)) is not None)
    largest = max(tried.state_bytes for tried in plans[0].tried.values())
    assert two.most - one.most == 3 * 4 * largest


def test_a_disk_that_is_too_small_is_refused_but_not_to_a_run_that_is_there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        free = 1000

    monkeypatch.setattr(room.shutil, "disk_usage", lambda place: Full)
    assert "free some, or choose another folder with --out" in errors(changed())[""]
    Path("run").mkdir()
    Path("run/journal.sqlite").touch()
    assert "the run writes" in warnings(changed())[""]
    Full.free = 20_000
    assert "the run may write" in warnings(changed(launch__record_lessons=True))[""]


# All at once, and nothing else.


def test_all_kinds_of_problems_are_told_together(here: Path) -> None:
    data = changed(
        serach={},
        baseline={"epochs": "many"},
        families={"before_nets:raises": {}, "before_nets:gone": {}, "unet": {"space": {"base": [4]}}},
        search__recipe_space={"momentum": {"values": [1.5]}},
        data__dataset=folder(here / "data", sizes=[(40, 64), (48, 60)], top=1),
        recipe__views={},
    )
    found = look(data)
    places = {concern.path for concern in found.concerns if concern.is_error}
    expected = {"serach", "baseline.epochs", "families.before_nets:gone", "families.before_nets:raises", "recipe.views"}
    assert places == expected | {"families.unet.space.base.0", "search.recipe_space.momentum.values.0"}
    assert "no pixel anywhere is 'c2'" in str(found.warnings)
    with pytest.raises(ConfigError, match="7 problems"):
        found.must_be_sound()


@pytest.mark.parametrize(
    "change", [{"serach": {}}, {"launch__port": -1}, {"families": {}}, {"data__dataset": "folder:path=/none"}]
)
def test_devices_that_are_not_there_are_told_whatever_else_is_wrong(here: Path, change: dict[str, Any]) -> None:
    found = errors(changed(launch__devices="cuda:9999", **change))
    assert "cuda:9999 is not there" in found.pop("launch.devices") and found


def test_what_follows_from_a_wrong_field_alone_is_not_said_besides(here: Path) -> None:
    data = changed(data__dataset=folder(here / "data", sizes=[(40, 64), (48, 60)]), recipe__views={"crop_height": "big"})
    assert {path.partition(".")[0] for path in errors(data)} == {"recipe"}
    data = changed(data__dataset=folder(here / "more", sizes=[(32, 32)] * 4), search__recipe_space={"rate": {"values": [1]}})
    assert list(errors(data)) == ["search.recipe_space.rate"], "and not that the default space has batches of eight"
    data = changed(data__dataset=folder(here / "sizes", sizes=[(40, 64), (48, 60)]), recipe__views={})
    data["families"] = {"unet": {"recipe": {"views": {"crop_height": "big"}}}}
    assert {path.partition(".")[0] for path in errors(data)} == {"families"}


def test_nothing_is_recorded_of_what_was_refused_so_the_corrected_file_runs_in_the_same_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Began(Exception):
        pass

    def begin(*given: object) -> None:
        raise Began

    monkeypatch.setattr("agentkd.coordinator.run._Coordinator.run", begin)
    wrong = changed(search__recipe_space={"batch_size": {"values": [1, 2]}})
    with pytest.raises(ConfigError, match=r"batch_size\.values\.0"):
        run_experiment(Experiment.model_validate(wrong), here / "run")
    assert not (here / "run").exists()
    with pytest.raises(Began):
        run_experiment(Experiment.model_validate(changed()), here / "run")


def test_a_dry_run_says_what_is_planned_and_makes_nothing(here: Path) -> None:
    Path("e.yaml").write_text(yaml.safe_dump(changed()))
    before = sorted(here.iterdir())
    done = CliRunner().invoke(app, ["run", "e.yaml", "--dry-run"])
    assert done.exit_code == 0 and sorted(here.iterdir()) == before
    for line in (
        "t: run folder runs/t",
        "tasks    at most 9: 1 baseline, 2 trials, 2 lessons in round 1, 4 tests",
        "agents   1 that learns",
    ):
        assert line in done.stdout
    Path("e.yaml").write_text(yaml.safe_dump(changed(search__recipe_space={"momentum": {"values": [1]}})))
    done = CliRunner().invoke(app, ["run", "e.yaml", "--dry-run"])
    assert isinstance(done.exception, ConfigError) and done.exception.exit_code == 2 and "run folder runs/t" in done.stdout
    done = CliRunner().invoke(app, ["run", "e.yaml"])
    assert isinstance(done.exception, ConfigError) and sorted(here.iterdir()) == before


def test_the_doctor_says_the_same_beside_the_machine(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentkd.report.doctor.examine", list)
    Path("e.yaml").write_text(yaml.safe_dump(changed(data__validation="train", recipe__batch_size=4)))
    done = CliRunner().invoke(app, ["doctor", "e.yaml"])
    assert done.exit_code == 0 and "warn experiment   data.validation: 'train' has 8 images" in done.stdout
    Path("e.yaml").write_text(yaml.safe_dump(changed(search__recipe_space={"momentum": {"values": [1]}})))
    done = CliRunner().invoke(app, ["doctor", "e.yaml"])
    assert done.exit_code == 2 and "FAIL experiment   search.recipe_space.momentum.values.0: 1 cannot be" in done.stdout
    Path("e.yaml").write_bytes("name: t".encode("utf-16"))
    done = CliRunner().invoke(app, ["doctor", "e.yaml"])
    assert done.exit_code == 2 and "is text in UTF-16" in done.stdout


def test_a_good_experiment_has_nothing_said_of_it(here: Path) -> None:
    assert look(changed()).concerns == ()
    assert look_at(Experiment.model_validate(changed())).concerns == ()
    assert len({check for check, _, _ in CHECKS}) == len(CHECKS)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("name: t\n".encode("utf-16"), "is text in UTF-16"),
        ("name: t\n".encode("utf-32"), "is text in UTF-32"),
        ("name: t\n".encode("utf-16-le"), "in UTF-16 without a mark"),
        ("name: t\n# é\n".encode("latin-1"), r"byte 0xe9 in line 2 \(perhaps Latin-1 or Windows-1252\)"),
    ],
)
def test_an_experiment_in_another_encoding_is_refused_by_its_name(here: Path, data: bytes, told: str) -> None:
    Path("e.yaml").write_bytes(data)
    with pytest.raises(ConfigError, match=rf"e\.yaml .*{told}.*; expected text in UTF-8; save it so"):
        load_experiment("e.yaml")


def test_an_experiment_with_a_mark_of_utf_8_is_read(here: Path) -> None:
    Path("e.yaml").write_bytes(b"\xef\xbb\xbf" + yaml.safe_dump(changed(name="été"), allow_unicode=True).encode())
    assert load_experiment("e.yaml").name == "été"


# Scripts.


def learnable(data: str, *, needs_labels: bool = True, **recipe: Any) -> None:
    given = Recipe(batch_size=2, views=ViewSettings(crop_height=32, crop_width=32)).replace(**recipe)
    DataChecks().must_be_learnable(open_dataset(data), given, needs_labels=needs_labels, name="a")


def test_a_script_is_held_to_the_same(here: Path) -> None:
    good = folder(here / "good", sizes=[(32, 32)] * 4)
    learnable(good)
    with pytest.raises(ConfigError, match=r"a: 1 problem\n  - batch_size: split 'train' has 4 images, fewer than a batch of 8"):
        learnable(good, batch_size=8)
    mixed = folder(here / "mixed", sizes=[(32, 32), (40, 32)])
    with pytest.raises(ConfigError, match="have 2 sizes"):
        learnable(mixed, views=ViewSettings())
    learnable(f"unlabelled:{good}", needs_labels=False)
    with pytest.raises(DatasetError, match="no pixel of split 'train' is labelled"):
        learnable(f"unlabelled:{good}")
    shutil.copy(here / "good/images/train/train0x.png", here / "good/images/val/val0x.png")
    with pytest.raises(DatasetError, match="in two splits byte for byte"):
        learnable(good)


def test_a_script_that_never_checks_its_data_is_refused_masks_of_one_class(here: Path) -> None:
    spec = folder(here / "fire", sizes=[(32, 32)] * 4, classes=2, top=1)
    for mask in (here / "fire/masks").rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(mask)) * 255).save(mask)
    with Community(devices="none", record=here / "run") as community:
        agent = community.agent("a", "unet", base=8, depth=1)
        with pytest.raises(DatasetError, match=r"only one class has pixels.*255, which is 'not labelled'.*format: binary-mask"):
            agent.train(spec, batch_size=2)


def noting(check: before.Check, tried: list[str]) -> before.Check:
    """A check that is noted when it is made."""

    @functools.wraps(check)
    def noted(plan: RunPlan) -> list[Concern]:
        tried.append(check.__name__)
        return check(plan)

    return noted


def test_a_run_that_goes_on_as_it_was_found_sound_is_not_looked_at_by_costly_checks_again(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trying networks takes seconds. Anything that is other than it was has all checks again."""
    tried: list[str] = []
    monkeypatch.setattr(before, "CHECKS", tuple((noting(check, tried), *more) for check, *more in before.CHECKS))
    run = Path("run")
    first = look(changed())
    assert "check_networks" in tried and not first.warnings
    with Journal(RunFolder(run).journal) as journal:
        for noted, is_again in ((None, True), ("other", True), (first.key, False)):
            if noted is not None:
                journal.set_meta(before.LOOKED_AT, noted)
            tried.clear()
            assert look(changed(), in_full=False).key == first.key
            assert ("check_networks" in tried) is is_again and "check_roles" in tried
        tried.clear()
        assert look(changed()).key == first.key and "check_networks" in tried, "who asks what is wrong is told all"
    for other in (
        changed(baseline__epochs=7),
        changed(launch__devices="cpu:2"),
        changed(data__dataset=SPEC.replace("seed=5", "seed=6")),
    ):
        tried.clear()
        assert look(other, in_full=False).key != first.key and "check_networks" in tried


def test_a_damaged_journal_is_no_sound_run(here: Path) -> None:
    Path("run").mkdir()
    RunFolder(Path("run")).journal.write_bytes(b"no journal")
    assert look(changed()).plan is not None


RULES = "number = 3\ndef smallest(candidates):\n    return candidates[-1]\n"


@pytest.mark.parametrize("place", ["select.rule", "round1.teachers", "round2.teachers"])
def test_a_rule_of_the_users_own_is_looked_for_before_anything_starts(
    here: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.syspath_prepend(str(here))
    Path("before_rules.py").write_text(RULES)
    part, key = place.split(".")
    told = {name: errors(changed(**{f"{part}__{key}": f"before_rules:{name}"})) for name in ("smallest", "missing", "number")}
    assert told["smallest"] == {}
    assert "has no 'missing'" in told["missing"][place]
    assert told["number"] == {place: "before_rules:number is int, and a rule is a function"}
