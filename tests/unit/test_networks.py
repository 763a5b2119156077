"""Parameter counts to the unit, published names, costs. That families train and evaluate is in ``contracts/``."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from agentkd.errors import ConfigError
from agentkd.networks.build import build, count_architecture
from agentkd.networks.cost import measure_cost
from agentkd.networks.families import resolve

KEYS = Path(__file__).parent / "data"

# (family, K, settings, total, deploy): the paper's Table I and other known points.
COUNTS = [
    ("cnn_i2i_bisenet", 2, {}, 18_408_758, 17_336_450),
    ("cnn_i2i_bisenet", 5, {}, 18_419_153, 17_336_645),
    ("cnn_i2i_bisenet", 5, {"skips": 0}, 17_811_409, 12_893_253),
    ("cnn_i2i_bisenet", 5, {"discriminator_width": 8}, 17_767_961, 17_336_645),
    ("pidnet_s", 2, {}, 7_716_549, 7_623_522),
    ("pidnet_s", 5, {}, 7_717_323, 7_623_909),
    ("pidnet_s", 2, {"ppm_planes": 16, "head_planes": 16}, 6_942_117, 6_914_050),
    ("pidnet_s", 5, {"ppm_planes": 16, "head_planes": 16}, 6_942_219, 6_914_101),
    ("pidnet_s", 2, {"ppm_planes": 16, "head_planes": 32}, 6_969_893, None),
    ("pidnet_m", 2, {}, 28_758_725, None),
    ("pidnet_m", 5, {}, 28_759_499, 28_536_709),
    ("pidnet_m", 5, {"width4": 0.75, "width5": 0.75, "head_planes": 64}, 19_592_523, None),
    ("pidnet_m", 5, {"planes": 48, "num_blocks3": 1, "ppm_planes": 16}, 14_494_251, None),
    ("pidnet_l", 2, {}, 37_305_573, None),
    ("pidnet_l", 5, {}, 37_307_115, 36_935_973),
    ("pidnet_l", 5, {"planes": 56, "ppm_planes": 32}, 27_987_051, None),
    ("pidnet_l", 5, {"num_blocks4": 1, "width5": 0.75, "head_planes": 64}, 19_315_307, None),
    ("unet", 2, {}, 7_763_074, 7_763_074),
    ("unet", 5, {}, 7_763_173, 7_763_173),
    ("unet", 5, {"depth": 3}, 1_927_141, 1_927_141),
    ("unet", 5, {"base": 64, "depth": 2}, 1_864_389, 1_864_389),
    ("unetpp", 5, {}, 9_045_957, 9_045_957),
]
GIGAMACS = {"pidnet_s": 5.89, "pidnet_m": 22.16, "pidnet_l": 34.35, "cnn_i2i_bisenet": 16.15, "unet": 48.32, "unetpp": 119.19}


@pytest.mark.parametrize(("family", "classes", "settings", "total", "deploy"), COUNTS)
def test_parameter_counts_are_right_to_the_unit(family, classes, settings, total, deploy) -> None:
    counts = count_architecture(resolve(family, classes, settings))
    assert counts.total == total
    assert deploy is None or counts.deploy == deploy


def test_the_discriminator_is_in_total_alone() -> None:
    counts = count_architecture(resolve("cnn_i2i_bisenet", 2))
    assert counts.total - counts.network == 696_225


@pytest.mark.parametrize("family", ["pidnet_s", "pidnet_m", "pidnet_l"])
def test_pidnet_keeps_the_published_names_and_shapes(family) -> None:
    lines = (KEYS / f"{family}_keys.txt").read_text(encoding="utf-8").splitlines()
    published = dict(line.split() for line in lines if not line.startswith("#"))
    with torch.device("meta"):
        state = build(resolve(family, 5)).state_dict()
    assert {name: "x".join(map(str, value.shape)) or "scalar" for name, value in state.items()} == published


def test_the_context_path_has_the_names_of_torchvisions_resnet18() -> None:
    with torch.device("meta"):
        names = set(build(resolve("cnn_i2i_bisenet", 5)).context.state_dict())
    assert {"conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "layer2.0.downsample.0.weight"} <= names
    assert len(names) == 120


@pytest.mark.parametrize(("family", "gigamacs"), GIGAMACS.items())
def test_cost_is_that_of_the_literature_and_nothing_is_left_uncounted(family, gigamacs) -> None:
    cost = measure_cost(resolve(family, 5), 512, 512)
    assert round(cost.num_macs / 1e9, 2) == gigamacs
    assert cost.uncounted_operations == ()


def test_the_same_seed_builds_the_same_network_and_leaves_torchs_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, two = (build(resolve("unet", 2, {"base": 8, "depth": 3}), seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert torch.equal(before, torch.random.get_rng_state())


def test_equal_networks_have_equal_digests_however_they_are_written() -> None:
    assert resolve("pidnet_s", 5).digest == resolve("pidnet_s", 5, {"planes": 32, "pag": True}).digest
    assert resolve("pidnet_s", 5).digest != resolve("pidnet_s", 5, {"planes": 40}).digest


def test_wrong_settings_are_all_reported_with_what_would_be_right() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("pidnet_s", 5, {"plains": 32, "pyramid": "big"})
    text = str(caught.value)
    assert "settings.plains: unknown setting" in text and "settings.pyramid" in text and "'pappm'" in text


def test_a_family_that_does_not_exist_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no family 'resnet'; known: pidnet_s, "):
        resolve("resnet", 5)


def test_a_users_own_builder_is_a_family() -> None:
    architecture = resolve("tiny_networks:tiny", 4, {"width": 8})
    logits = build(architecture, seed=1)(torch.zeros(2, 3, 32, 32))["logits"]
    assert logits.shape == (2, 4, 16, 16)
    assert resolve("tiny_networks:tiny", 4).settings == {"width": 12}
    with pytest.raises(ConfigError, match=r"settings\.depth: unknown setting; tiny_networks:tiny takes width"):
        resolve("tiny_networks:tiny", 4, {"depth": 3})
    with pytest.raises(ConfigError, match=r"tiny_networks:missing: module tiny_networks of code [0-9a-f]{12} has no 'missing'"):
        resolve_and_build("tiny_networks:missing")


def resolve_and_build(family: str) -> None:
    build(resolve(family, 2))


def test_counting_parameters_does_not_import_the_compiler_of_torch() -> None:
    code = """
import sys
from agentkd.networks import build, families
for family in families.FAMILIES:
    build.count_architecture(families.resolve(family, 5))
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
