"""Images of 1 to 16 channels, from data to weights: networks, views, what travels, and whom they do not fit."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from noting import Recording
from pydantic import ValidationError
from torch.nn import functional as F
from typer.testing import CliRunner

import agentkd
from agentkd.architecture import (
    IMAGENET,
    RGB,
    UNIT,
    Architecture,
    Normalization,
    are_same_channels,
    as_images,
    colors_among,
    numbered,
    usual_normalization,
)
from agentkd.checks.before import look_at
from agentkd.cli.app import app
from agentkd.community.handles import AgentHandle
from agentkd.config import check_experiment
from agentkd.coordinator.importing import bring
from agentkd.datasets.caching import SharedSamples
from agentkd.datasets.opening import Opened, open_dataset
from agentkd.datasets.samples import Sample, as_rgb, images_of, resize_pixels
from agentkd.datasets.shared import SharedDataset, pack
from agentkd.datasets.views import make_view, whole_view
from agentkd.errors import ConfigError, ContractError, DatasetError
from agentkd.knowledge.images import decode_images, encode_images, normalized
from agentkd.knowledge.weights import agree_on_images, encode_weights, load_weights, read_metadata
from agentkd.names import Digest
from agentkd.networks import families
from agentkd.networks.blocks import SegmentationNetwork
from agentkd.networks.build import build, count_architecture
from agentkd.networks.cost import measure_cost
from agentkd.networks.segmenter import Segmenter
from agentkd.networks.trying import try_network
from agentkd.networks.weights import import_weights
from agentkd.recipe import ViewSettings
from agentkd.task import DataSource, Distill, Mutual, Partner, TeacherReference
from agentkd.testing import Community
from agentkd.training.batches import Batch
from agentkd.training.losses import LOSSES, LossSettings

LEARNED = "generated:seed=7,size=48x32,train=16,validation=2,test=0,channels=4"
NIR = (*RGB, "nir")
FOUR = usual_normalization(NIR)
SPEC = "generated:seed=7,size=48x32,train=2,validation=1,test=0"


def four(spec: str = SPEC) -> Opened:
    return open_dataset(f"{spec},channels=4")


def small(family: str, images: Normalization = IMAGENET) -> Architecture:
    settings = {"unet": {"base": 8, "depth": 2}, "unetpp": {"base": 8, "depth": 2}}.get(family, {})
    return families.resolve(family, 5, dict(settings), images=images)


def test_what_had_a_digest_before_there_were_channels_has_it_still() -> None:
    assert families.resolve("unet", 5).digest == "c712178ecb93e07984d9d54bf37f967043dec7621450706b5a417d8dab7816a2"
    assert families.resolve("unet", 5, images=usual_normalization(RGB)) == families.resolve("unet", 5)
    data = open_dataset(SPEC)
    assert data.digest == "81f4e6530e0055b0dbb1eaafbd44f30cc5fe777432f0609ede1847fd5786e634"
    packed = hashlib.sha256(pack(data, ["train"])).hexdigest()
    assert packed == "52b573848fb053a91958101e01e3df8c8f316f8549d276b3f25e0ec4773ac72c"
    view = make_view(data, 0, 11, ViewSettings(crop_height=24, crop_width=24, scale_min=0.5, scale_max=2.0, color=0.4), IMAGENET)
    seen = hashlib.sha256(view.image.tobytes()).hexdigest()
    assert seen == "0b4532a150d7d83f4ab6f12625637dcd40fa13bcbf7eaf28b16655e4fbf329ba"


def test_an_architecture_says_its_channels_and_keeps_their_names_and_order() -> None:
    named, unnamed = small("unet", FOUR), small("unet", usual_normalization(numbered(4)))
    turned = small("unet", usual_normalization(("nir", *RGB)))
    assert (named.num_channels, named.channels, unnamed.channels) == (4, NIR, ("1", "2", "3", "4"))
    assert "channels" not in unnamed.canonical()["normalization"]
    assert Architecture.model_validate(named.canonical()) == named
    assert Architecture.model_validate(unnamed.canonical()) == unnamed
    assert len({one.digest for one in (named, unnamed, turned, small("unet"))}) == 4
    assert turned.normalization.mean == (0.449, 0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    "said",
    [
        {"mean": [0.5] * 17, "deviation": [1] * 17},
        {"mean": [], "deviation": []},
        {"mean": [0.5, 0.5], "deviation": [1]},
        {"mean": [0.5, 0.5], "deviation": [1, 0]},
        {"mean": [0.5, 0.5], "deviation": [1, 1], "channels": ["a", "a"]},
        {"mean": [0.5, 0.5], "deviation": [1, 1], "channels": ["a"]},
        {"mean": [0.5, 0.5], "deviation": [1, 1], "channels": ["a", ""]},
    ],
)
def test_what_cannot_be_channels_is_refused(said: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"mean|deviation|channels|name"):
        Normalization.model_validate(said)


def test_names_count_where_both_have_them() -> None:
    assert are_same_channels(NIR, numbered(4)) and are_same_channels(numbered(1), ("gray",)) and are_same_channels(RGB, RGB)
    assert not are_same_channels(NIR, ("nir", *RGB)) and not are_same_channels(NIR, RGB)
    assert not are_same_channels(RGB, ("nir", "red", "green"))  # three without other names are red, green and blue
    assert colors_among(("b", "blue", "green", "red")) == (3, 2, 1) and colors_among(("red", "nir")) is None


@pytest.mark.parametrize("said", [0, 17, True, "red", ["a", "a"], [1, 2], [""], 2.0])
def test_a_script_says_images_that_there_are(said: object) -> None:
    with pytest.raises(ConfigError, match=r"images=.*expected"):
        as_images(said)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 2, 4, 16])
@pytest.mark.parametrize("family", ["pidnet_s", "cnn_i2i_bisenet", "unet", "unetpp"])
def test_every_family_learns_from_images_of_any_number_of_channels(family: str, count: int) -> None:
    architecture = small(family, usual_normalization(numbered(count)))
    network = build(architecture, seed=1).train()
    batch = Batch(torch.rand(2, count, 64, 64), torch.randint(0, 5, (2, 64, 64)))
    terms = LOSSES[families.loss_name(family)](network, network(batch.images), batch, LossSettings(5, 255))
    sum(terms.values()).backward()
    first = [p for p in network.parameters() if p.dim() == 4 and p.shape[1] == count]
    assert first and all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in first)
    passed = try_network(architecture).passes(2, 64, 64, is_training=False)
    assert passed.output[:2] == (2, 5)


def test_parameters_and_operations_are_counted_with_the_channels_that_there_are() -> None:
    one, rgb, four = (small("unet", usual_normalization(numbered(count))) for count in (1, 3, 4))
    weights = 8 * 3 * 3  # of one channel in the first convolution
    counts = [count_architecture(a).deploy for a in (one, rgb, four)]
    assert counts == [counts[1] - 2 * weights, counts[1], counts[1] + weights]
    macs = [measure_cost(a, 64, 48).num_macs for a in (one, rgb, four)]
    assert macs == [macs[1] - 2 * weights * 64 * 48, macs[1], macs[1] + weights * 64 * 48]


def own(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str) -> str:
    (folder / f"{name}.py").write_text(f"from torch import nn\n\n\n{source}")
    monkeypatch.syspath_prepend(str(folder))
    return f"{name}:net"


def test_an_own_builder_is_told_the_number_of_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "def net(num_classes, num_channels, width=8):\n    return nn.Conv2d(num_channels, num_classes, 3, padding=1)\n"
    family = own(tmp_path, monkeypatch, "told_channels", source)
    architecture = families.resolve(family, 5, images=FOUR)
    assert (architecture.channels, architecture.settings) == (NIR, {"width": 8})
    assert architecture.normalization.mean == (0.0,) * 4  # it declares none, and sees images as they are
    assert build(architecture, seed=0)(torch.zeros(1, 4, 32, 32))["logits"].shape == (1, 5, 32, 32)
    assert families.resolve(family, 5).num_channels == 3


def test_an_own_builder_that_is_not_told_is_for_rgb_and_says_what_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = own(tmp_path, monkeypatch, "for_rgb", "def net(num_classes):\n    return nn.Conv2d(3, num_classes, 1)\n")
    assert families.resolve(family, 5).channels == RGB
    with pytest.raises(
        ConfigError, match=r"is for images of 3 channels, and these have 4.*give its builder a parameter num_channels"
    ):
        families.resolve(family, 5, images=FOUR)


def test_an_own_builder_may_say_how_four_channels_are_normalized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "def net(num_classes, num_channels):\n    return nn.Conv2d(num_channels, num_classes, 1)\n\n\n"
    source += "net.normalization = {'mean': (0.1, 0.2, 0.3, 0.4), 'deviation': (1, 1, 1, 2)}\n"
    family = own(tmp_path, monkeypatch, "says_four", source)
    assert families.resolve(family, 5).num_channels == 4
    assert families.resolve(family, 5, images=FOUR).normalization == Normalization(
        mean=(0.1, 0.2, 0.3, 0.4), deviation=(1, 1, 1, 2), channels=NIR
    )
    with pytest.raises(ConfigError, match="mean and deviation are of 4 channels, and images have 3"):
        families.resolve(family, 5, images=IMAGENET)


# Published weights


def published(family: str = "unet") -> tuple[SegmentationNetwork, dict[str, torch.Tensor]]:
    network = build(small(family), seed=3)
    return network, {name: value.clone() for name, value in network.state_dict().items()}


def test_weights_for_rgb_become_such_for_other_channels_by_their_names() -> None:
    _, tensors = published()
    name, given = next((name, value) for name, value in tensors.items() if value.dim() == 4)
    channels = ("nir", "blue", "green", "red")
    network = build(small("unet", usual_normalization(channels)), seed=0)
    report = import_weights(network, tensors, channels=channels)
    found = network.state_dict()[name]
    mean = given.mean(dim=1)
    expected = torch.stack([mean, given[:, 2], given[:, 1], given[:, 0]], dim=1) * 3 / 4
    assert torch.allclose(found, expected, atol=1e-7)
    assert report.adapted == (name,) and not report.missing and not report.reshaped and name in report.loaded
    assert f"for RGB, and made for other channels: {name}" in str(report) and any(name in line for line in report.lines())


@pytest.mark.parametrize("family", ["pidnet_s", "cnn_i2i_bisenet", "unet", "unetpp"])
@pytest.mark.parametrize("count", [1, 7])
def test_of_a_colorless_image_the_same_comes_as_before(family: str, count: int) -> None:
    rgb, tensors = published(family)
    other = build(small(family, usual_normalization(numbered(count))), seed=0)
    report = import_weights(other, tensors, channels=numbered(count))
    assert set(report.reshaped) <= {name for name in tensors if name.startswith("discriminator")}
    gray = torch.rand(1, 1, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected, found = (one.double().eval()(gray.expand(-1, c, -1, -1))["logits"] for one, c in ((rgb, 3), (other, count)))
    largest = float(expected.abs().max())  # sums of large terms may be small, and what was rounded are the weights
    assert float((found - expected).abs().max()) <= 1e-6 * largest


def test_weights_that_say_their_channels_go_nowhere_else(tmp_path: Path) -> None:
    architecture, turned = small("unet", FOUR), small("unet", usual_normalization(("nir", *RGB)))
    stored = encode_weights(architecture, dict(build(architecture, seed=1).state_dict()))
    assert read_metadata(stored).architecture == architecture
    load_weights(build(architecture), stored, architecture)
    unnamed = small("unet", usual_normalization(numbered(4)))
    load_weights(build(unnamed), stored, unnamed)
    with pytest.raises(ContractError, match=r"channels.*nir, red, green, blue"):
        load_weights(build(turned), stored, turned)
    with pytest.raises(ContractError, match=r"--channels red,green,blue,nir"):
        agree_on_images(read_metadata(encode_weights(small("unet"), {})), architecture)


def test_weights_are_brought_in_for_other_channels_and_come_out_as_a_module(tmp_path: Path) -> None:
    file, out = tmp_path / "rgb.pt", tmp_path / "four.safetensors"
    torch.save(published()[1], file)
    settings = {"base": 8, "depth": 2}
    report = bring(file, out, "unet", 5, images=FOUR, settings=dict(settings))
    assert len(report.adapted) == 1
    network = agentkd.load_network(out)
    assert network.architecture.channels == NIR
    assert network(torch.zeros(4, 40, 56, dtype=torch.uint8)).shape == (1, 5, 40, 56)
    with pytest.raises(ConfigError, match=r"\[N,4,H,W\] or \[4,H,W\], the channels red, green, blue, nir"):
        network(torch.zeros(1, 3, 40, 56))
    with pytest.raises(ConfigError, match="images is 'red,green,blue,nir', not 'red,green,blue'"):
        agentkd.load_network(out, images=3)
    with pytest.raises(ContractError, match="channels"):
        bring(out, tmp_path / "two.safetensors", "unet", images=usual_normalization(numbered(2)), settings=dict(settings))
    assert not (tmp_path / "two.safetensors").exists()


def test_weights_of_ours_for_rgb_are_brought_in_for_four_channels_too(tmp_path: Path) -> None:
    file, out = tmp_path / "rgb.safetensors", tmp_path / "four.safetensors"
    file.write_bytes(encode_weights(small("unet"), published()[1], tuple("abcde")))
    assert len(bring(file, out, "unet", images=FOUR, settings={"base": 8, "depth": 2}).adapted) == 1
    said = read_metadata(out.read_bytes())
    assert said.classes == tuple("abcde") and said.architecture is not None and said.architecture.channels == NIR


# Views and data


def test_colors_change_red_green_and_blue_alone_and_all_channels_are_moved_alike() -> None:
    rgb, data = open_dataset(SPEC), four()
    moved = ViewSettings(crop_height=24, crop_width=24, scale_min=0.5, scale_max=2.0, color=0.0)
    unit = UNIT.for_channels(NIR)
    for seed in range(6):
        changed = make_view(data, 0, seed, moved.replace(color=0.5), unit).image
        plain = make_view(data, 0, seed, moved, unit).image
        assert changed.shape == (4, 24, 24) and np.array_equal(changed[3], plain[3])
        assert not np.array_equal(changed[:3], plain[:3])
    assert np.array_equal(data.sample(0).image[:, :, :3], rgb.sample(0).image)


def test_geometry_is_of_all_channels() -> None:
    class Same:
        """Sixteen times one channel."""

        name, classes, digest, channels = "same", ("a", "b"), "d", numbered(16)

        def sample(self, index: int) -> Sample:
            one = np.random.default_rng(3).integers(0, 256, (40, 30, 1), dtype=np.uint8)
            return Sample(np.repeat(one, 16, axis=2), np.zeros((40, 30), np.uint8), "0")

    settings = ViewSettings(crop_height=16, crop_width=24, scale_min=0.5, scale_max=2.0, color=0.0)
    unit = UNIT.for_channels(numbered(16))
    image = make_view(Same(), 0, 5, settings, unit).image  # type: ignore[arg-type]
    assert all(np.array_equal(image[0], image[at]) for at in range(16)) and image[0].std() > 0
    small, _ = resize_pixels(Same().sample(0).image, np.zeros((40, 30), np.uint8), (20, 15))
    assert small.shape == (20, 15, 16) and (small == small[:, :, :1]).all()


@pytest.mark.parametrize("count", range(1, 17))
def test_generated_scenes_have_the_channels_that_are_asked_for(count: int) -> None:
    data = open_dataset(f"{SPEC},channels={count}")
    image = data.sample(0).image
    assert len(data.channels) == len(set(data.channels)) == count and image.shape == (32, 48, count)
    assert np.array_equal(image, open_dataset(f"{SPEC},channels={count}").sample(0).image)
    assert all(image[:, :, at].std() > 0 for at in range(count))
    assert (data.digest == open_dataset(SPEC).digest) == (count == 3)


@pytest.mark.parametrize("count", ["0", "17", "x", "-1"])
def test_other_numbers_of_channels_cannot_be_generated(count: str) -> None:
    with pytest.raises(DatasetError, match="channels="):
        open_dataset(f"{SPEC},channels={count}")


@pytest.mark.parametrize("images", [UNIT, usual_normalization(("nir", *RGB)), usual_normalization(numbered(5))])
def test_a_view_is_not_made_for_a_network_of_other_channels(images: Normalization) -> None:
    for make in (lambda: whole_view(four(), 0, images), lambda: make_view(four(), 0, 1, ViewSettings(), images)):
        with pytest.raises(ContractError, match="channels"):
            make()


def test_data_are_shared_and_kept_with_their_channels(tmp_path: Path) -> None:
    data = four()
    packed = pack(data, ["train", "validation"])
    digest = Digest(hashlib.sha256(packed).hexdigest())
    (tmp_path / "packed").write_bytes(packed)
    arrived = SharedDataset(tmp_path / "packed", digest)
    assert (arrived.channels, images_of(arrived)) == (NIR, FOUR)
    assert np.array_equal(arrived.sample(1).image, data.sample(1).image) and arrived.sample(1).image.shape == (32, 48, 4)
    kept = SharedSamples(tmp_path / "kept", 10**8)
    first = kept.sample(digest, 0, data.sample)
    again = kept.sample(digest, 0, lambda index: pytest.fail("it is kept"))
    assert np.array_equal(first.image, again.image) and np.array_equal(first.label, again.label)


def test_images_of_any_channels_travel_and_are_held_against_the_network() -> None:
    images = torch.rand(2, 4, 8, 8)
    sent = decode_images(encode_images(images))
    assert torch.equal(normalized(sent, UNIT.for_channels(NIR)), images)
    with pytest.raises(ContractError, match="channels"):
        normalized(sent, IMAGENET)
    for wrong in (torch.rand(2, 17, 8, 8), torch.rand(2, 0, 8, 8), torch.rand(4, 8, 8)):
        with pytest.raises(ContractError, match=r"\[N,C,H,W\]"):
            encode_images(wrong)


@pytest.mark.parametrize("kind", ["few:1:", "unlabelled:", "only:Fire+Smoke:"])
def test_data_made_of_others_have_their_channels(kind: str) -> None:
    assert open_dataset(f"{kind}{SPEC},channels=4").channels == NIR


def test_data_of_other_channels_are_not_joined() -> None:
    assert open_dataset(f"joined:{SPEC},channels=4|generated:seed=8,channels=4").channels == NIR
    with pytest.raises(DatasetError, match="red, green, blue, nir"):
        open_dataset(f"joined:{SPEC}|generated:seed=8,channels=4")


def test_people_are_shown_colors_or_gray() -> None:
    image = np.arange(2 * 2 * 4, dtype=np.uint8).reshape(2, 2, 4)
    assert np.array_equal(as_rgb(image, ("nir", "blue", "green", "red")), image[:, :, [3, 2, 1]])
    assert np.array_equal(as_rgb(image, numbered(4)), image[:, :, :3])
    assert np.array_equal(as_rgb(image, ("a", "b", "c", "d")), np.repeat(image[:, :, :1], 3, axis=2))
    assert np.array_equal(as_rgb(image[:, :, :1], ("gray",)), np.repeat(image[:, :, :1], 3, axis=2))


# Who meets whom


def test_teacher_and_student_of_other_channels_are_told_before_anything_starts() -> None:
    source = DataSource(spec=SPEC, content_digest=Digest("d" * 64))
    teacher = TeacherReference(architecture=small("unet", FOUR), weights=Digest("e" * 64))
    lesson = {"data": source, "teachers": (teacher,), "distillation": {}}
    Distill(architecture=small("unetpp", FOUR), **lesson)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match="is for images of the channels red, green, blue, nir, and the student for red, green, blue"
    ):
        Distill(architecture=small("unetpp"), **lesson)  # type: ignore[arg-type]
    partner = Partner(architecture=small("unet", FOUR), recipe={}, seed=2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a partner is for images of the channels"):
        Mutual(architecture=small("unetpp"), data=source, distillation={}, partners=(partner,))  # type: ignore[arg-type]


def test_a_network_takes_the_channels_of_its_first_data_and_refuses_others() -> None:
    community = Recording()
    agent = AgentHandle(community, "a", "unet", num_classes=None)
    agent.train("s=4")
    assert community.tasks[0].architecture.num_channels == 4
    with pytest.raises(ContractError, match=r"channels.*images="):
        agent.train("s")
    other = AgentHandle(community, "b", "unet", num_classes=5, images=FOUR)
    other.train("s=4")
    assert community.tasks[-1].architecture.channels == NIR
    for use in (lambda: other.evaluate("s"), lambda: other.assess("s"), lambda: other.settle("s")):
        with pytest.raises(ContractError, match="channels"):
            use()


def test_an_experiment_is_planned_with_the_channels_of_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = own(tmp_path, monkeypatch, "rgb_alone", "def net(num_classes):\n    return nn.Conv2d(3, num_classes, 1)\n")
    told = {"name": "x", "families": ["unet"], "data": {"dataset": LEARNED, "test": ""}, "recipe": {"batch_size": 2}}
    plan = look_at(check_experiment(told, source="x"), tmp_path / "run")
    assert plan.plan is not None and plan.plan.architecture("unet").channels == NIR
    assert not [concern for concern in plan.concerns if concern.is_error]
    wrong = look_at(check_experiment({**told, "families": ["unet", family]}, source="x"), tmp_path / "run")
    errors = [concern for concern in wrong.concerns if concern.is_error]
    assert [error.path for error in errors] == [f"families.{family}"] and "num_channels" in errors[0].text


def test_pretrained_layers_for_rgb_are_told_before_a_run(tmp_path: Path) -> None:
    file = tmp_path / "rgb.safetensors"
    whole = families.resolve("unet", 5)
    file.write_bytes(encode_weights(whole, dict(build(whole, seed=0).state_dict())))
    told = {
        "name": "x",
        "families": {"unet": {"weights": str(file)}},
        "data": {"dataset": LEARNED, "test": ""},
        "recipe": {"batch_size": 2},
    }
    errors = [concern for concern in look_at(check_experiment(told, source="x"), tmp_path / "run").concerns if concern.is_error]
    assert [error.path for error in errors] == ["families.unet.weights"]
    assert "--channels red,green,blue,nir" in errors[0].text


def test_networks_of_four_channels_are_trained_and_teach(tmp_path: Path) -> None:
    data = "generated:seed=7,size=32x32,train=4,validation=2,test=2,channels=4"
    with Community(devices="cpu:1", record=tmp_path / "run") as community:
        teacher = community.agent("teacher", "unet", base=8, depth=2)
        student = community.agent("student", "unetpp", base=8, depth=2)
        teacher.train(data, epochs=1, batch_size=2)
        student.distill(teacher, data, epochs=1, batch_size=2)
        assert student.architecture.channels == NIR and student.evaluate(data).miou >= 0
        with pytest.raises(ContractError, match="channels"):
            student.evaluate(data.replace(",channels=4", ""))
        again = community.agent("student", "unetpp", base=8, depth=2, images=NIR)
        assert again is student
        with pytest.raises(ConfigError, match="images"):
            community.agent("student", "unetpp", base=8, depth=2, images=3)


def test_the_list_of_networks_counts_with_the_channels_that_are_typed() -> None:
    said = [CliRunner().invoke(app, ["networks", "--family", "unet", *more]).output for more in ([], ["--channels", "4"])]
    rgb, four = (int(text.split()[-3].replace(",", "")) for text in said)
    assert four - rgb == families.resolve("unet", 5).settings["base"] * 9  # type: ignore[operator]


@pytest.mark.parametrize(
    "normalization", [UNIT, IMAGENET, *(usual_normalization(numbered(count)) for count in (1, 2, 4, 16))], ids=str
)
def test_images_of_any_channels_are_read_as_strictly_as_messages_are(normalization: Normalization) -> None:
    said = normalization.model_dump_json()
    assert Normalization.model_validate_json(said, strict=True) == normalization
    architecture = Architecture(family="unet", num_classes=2, normalization=normalization)
    assert Architecture.model_validate_json(architecture.model_dump_json(), strict=True) == architecture
    for wrong in (
        '{"mean": "abc", "deviation": [1, 1, 1]}',
        '{"mean": ["0", 0, 0], "deviation": [1, 1, 1]}',
        "[]",
        '{"mean": {}}',
    ):
        with pytest.raises(ValidationError):
            Normalization.model_validate_json(wrong, strict=True)


def test_a_segmenter_of_gray_images_is_the_network_with_both_ends() -> None:
    architecture = small("unet", usual_normalization(("gray",)))
    network = build(architecture, seed=0)
    images = torch.randint(0, 256, (2, 1, 40, 40), dtype=torch.uint8)
    found = Segmenter(network, architecture).eval()(images, raw=True)
    logits = network.eval()((images / 255 - 0.449) / 0.226)["logits"]
    assert torch.allclose(found, F.interpolate(logits, size=(40, 40), mode="bilinear", align_corners=False), atol=1e-5)


def test_networks_of_other_channels_are_not_averaged_nor_begun_with(tmp_path: Path) -> None:
    data = "generated:seed=7,size=32x32,train=4,validation=2,test=2"
    with Community(devices="cpu:1", record=tmp_path / "run") as community:
        rgb, four = (community.agent(name, "unet", base=8, depth=2) for name in ("rgb", "four"))
        rgb.train(data, epochs=1, batch_size=2).result()
        four.train(f"{data},channels=4", epochs=1, batch_size=2).result()
        told = r"channels red, green, blue, nir, not red, green, blue"
        for take in (lambda: rgb.average([rgb, four]), lambda: rgb.ema(four), lambda: rgb.start_from(four.weights)):
            with pytest.raises(ConfigError, match=told):
                take()
        assert rgb.architecture.channels == RGB and rgb.evaluate(data).miou >= 0
