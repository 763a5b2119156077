"""Every family keeps to the published contract, and the contract notices who does not."""

import importlib
import pkgutil

import pytest

from agentkd import networks
from agentkd.networks.blocks import SegmentationNetwork
from agentkd.networks.families import FAMILIES
from agentkd.testing import check_family

SIZES = ((64, 64), (32, 32), (72, 104), (75, 101))
PIDNET = {"planes": 16, "num_blocks3": 1, "num_blocks4": 1}
SMALL = {
    "pidnet_s": PIDNET,
    "pidnet_m": PIDNET,
    "pidnet_l": PIDNET,
    "cnn_i2i_bisenet": {"width": 0.5, "i2i_width": 16, "context_planes": 32},
    "unet": {"base": 8, "depth": 3},
    "unetpp": {"base": 8, "depth": 3, "deep_supervision": True},
}
BROKEN = {
    "missing": "must be found and take its settings: ConfigError: .*has no .missing.",
    "not_plain": "must be found and take its settings: ConfigError: ",
    "wrong_loss": "there is no loss 'dices'; there are cross_entropy, ",
    "no_module": r"expected a torch\.nn\.Module",
    "on_its_device": "must be built without memory for its parameters",
    "seeded": "another seed must give other weights",
    "unseeded": "the same seed must give the same weights",
    "idle": r"must reach every parameter; it does not reach network\.idle\.weight",
    "even": r"images? of \(72, 104\) must",
    "flat": r"logits must be \[N,3,h,w\]",
    "of_the_batch": "must not depend on the other images of the batch",
    "chancy": "evaluated twice, an image must give the same logits",
    "hidden": "its weights must say all that it is",
    "needs_helper": r"what is in training_only \(network\.helper\) must not be needed",
    "no_helper": r"training_only names network\.helpers, which it does not have",
    "no_place": r"places names penultimate: helpers, which it does not have",
    "wrong_space": "the search space has depth = 1, which must be legal",
    "wrong_member": r"'width': 0.* (must|is)",
}


def test_every_network_that_there_is_has_its_row_and_every_row_is_checked() -> None:
    written = set()
    for module in pkgutil.iter_modules(networks.__path__, "agentkd.networks."):
        for name, member in vars(importlib.import_module(module.name)).items():
            is_network = isinstance(member, type) and issubclass(member, SegmentationNetwork) and member.__module__ == module.name
            written |= {f"{module.name}:{name}"} if is_network else set()
    not_families = {"agentkd.networks.blocks:SegmentationNetwork", "agentkd.networks.build:OwnNetwork"}
    assert written - not_families == {family.builder for family in FAMILIES.values()}
    assert set(SMALL) == set(FAMILIES)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_keeps_to_the_contract(family: str) -> None:
    check_family(family, settings=SMALL[family], sizes=SIZES)


@pytest.mark.parametrize("name", ["tiny_networks:tiny", "tiny_networks:other", "tiny_networks:classifier", "own.families:plain"])
def test_a_users_own_keeps_to_it(name: str) -> None:
    check_family(name)


def test_parts_that_only_training_needs_are_allowed() -> None:
    check_family("own.families:with_helper")


@pytest.mark.parametrize(("name", "text"), BROKEN.items())
def test_a_family_that_breaks_it_is_told_where(name: str, text: str) -> None:
    with pytest.raises(AssertionError, match=text):
        check_family(f"own.families:{name}")
