"""A network that takes images as they are: what it makes of them, which it refuses, and that it learns and can be exported."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.export import Dim, export
from torch.nn import functional as F

from agentkd import Segmenter
from agentkd.datasets.opening import open_dataset
from agentkd.datasets.views import whole_view
from agentkd.errors import ConfigError
from agentkd.networks.build import build
from agentkd.networks.families import FAMILIES, resolve

SMALL = {
    "pidnet_s": {"planes": 16},
    "pidnet_m": {"planes": 16},
    "pidnet_l": {"planes": 16},
    "cnn_i2i_bisenet": {"width": 0.5, "i2i_width": 8, "context_planes": 16, "discriminator_width": 8},
    "unet": {"base": 8, "depth": 2},
    "unetpp": {"base": 8, "depth": 2, "deep_supervision": True},
    "tiny_networks:tiny": {},
    "tiny_networks:classifier": {},
    "halving_networks:halving": {},
}
EACH = pytest.mark.parametrize("family", SMALL)


def segmenter(family: str, num_classes: int = 5) -> Segmenter:
    architecture = resolve(family, num_classes, SMALL[family])
    return Segmenter(build(architecture, seed=1), architecture).eval()


def photo(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(height))


def test_every_family_is_tried_here() -> None:
    assert set(FAMILIES) <= set(SMALL)


@EACH
def test_it_sees_what_the_network_sees_when_it_is_evaluated(family: str) -> None:
    data = open_dataset("generated:seed=5,size=52x76,train=2,validation=1,test=1")
    network = segmenter(family)
    view = whole_view(data, 0, network.architecture.normalization)
    with torch.no_grad():
        logits = network.network(torch.from_numpy(view.image)[None])["logits"]
        found = network(torch.from_numpy(data.sample(0).image.copy()).permute(2, 0, 1), raw=True)
    assert torch.equal(found, F.interpolate(logits, size=(76, 52), mode="bilinear", align_corners=False))


@EACH
@pytest.mark.parametrize("size", [(33, 70), (47, 65), (1, 1), (5, 131), (64, 31)])
def test_images_of_any_size_give_probabilities_of_that_size(family: str, size: tuple[int, int]) -> None:
    network, image = segmenter(family), photo(*size)
    with torch.no_grad():
        found = network(image)
        assert found.shape == (1, 5, *size) and found.dtype == torch.float32
        assert float((found.sum(dim=1) - 1).abs().max()) < 1e-5 and float(found.min()) >= 0
        for other in (image[None], image.float() / 255, (image.double() / 255)[None]):
            assert torch.allclose(network(other), found, atol=1e-5)
        assert torch.allclose(network(image, raw=True).softmax(dim=1), found)


@pytest.mark.parametrize(("family", "multiple"), [("tiny_networks:tiny", 1), ("halving_networks:halving", 4), ("unet", 1)])
def test_what_a_network_does_not_take_is_filled_up_by_repeating_the_border(family: str, multiple: int) -> None:
    network, image = segmenter(family), photo(41, 54)
    assert network.multiple == multiple
    filled = F.pad(image[None].float(), (0, -54 % multiple, 0, -41 % multiple), mode="replicate")[0].to(torch.uint8)
    with torch.no_grad():
        assert torch.allclose(network(image), network(filled)[..., :41, :54], atol=1e-6)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.zeros(40, 40, 3), r"\[40, 40, 3\].*permute\(2, 0, 1\)"),
        (torch.zeros(40, 40), r"\[40, 40\]"),
        (torch.zeros(1, 4, 40, 40), r"\[1, 4, 40, 40\]"),
        (torch.zeros(3, 40, 40, dtype=torch.int64), r"torch.int64; expected torch.uint8"),
        (torch.full((3, 40, 40), 200.0), r"from 200 to 200.*divide by 255"),
        (torch.full((3, 40, 40), -2.1), "do not normalize"),
        (torch.full((3, 40, 40), torch.nan), "from nan to nan"),
        (torch.zeros(3, 0, 40), "at least one pixel"),
        (torch.zeros(0, 3, 40, 40, dtype=torch.uint8), "at least one pixel"),
        (np.zeros((3, 40, 40), np.uint8), "ndarray.*torch.from_numpy"),
    ],
)
def test_what_are_no_such_images_is_refused_with_what_to_do(images: Tensor, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        segmenter("tiny_networks:tiny")(images)


def test_it_returns_logits_where_that_was_said_and_is_not_said_otherwise() -> None:
    made = segmenter("unet")
    network = Segmenter(made.network, made.architecture, ("a", "b"), raw=True).eval()
    image = photo(40, 40)
    with torch.no_grad():
        assert torch.equal(network(image), made(image, raw=True)) and torch.equal(network(image, raw=False), made(image))
    assert "classes=(a, b)" in repr(network) and "family=unet" in repr(network)


@pytest.mark.parametrize("family", ["pidnet_s", "cnn_i2i_bisenet", "unet", "tiny_networks:tiny"])
def test_it_trains_on(family: str) -> None:
    network = segmenter(family, 2).train()
    images = torch.stack([photo(48, 48), photo(49, 48)[:, :48]])
    images[:, :, :, 24:] //= 4
    labels = torch.zeros(2, 48, 48, dtype=torch.long)
    labels[:, :, 24:] = 1
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images, raw=True), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    first = next(network.network.parameters())
    assert first.grad is not None and float(first.grad.abs().max()) > 0
    assert set(network.state_dict()) == {f"network.{name}" for name in network.network.state_dict()}


@EACH
def test_it_can_be_exported_as_a_program(family: str) -> None:
    network, image = segmenter(family), photo(48, 80)[None]
    program = export(network, (image,), strict=False).module()
    with torch.no_grad():
        assert torch.allclose(program(image), network(image), atol=1e-6)


@pytest.mark.parametrize(("family", "multiple"), [("tiny_networks:tiny", 1), ("halving_networks:halving", 4)])
def test_nothing_that_it_adds_depends_on_the_size_of_the_images(family: str, multiple: int) -> None:
    network = segmenter(family)
    sizes = {at: Dim(name, min=32 // multiple, max=1024) * multiple for at, name in ((2, "height"), (3, "width"))}
    program = export(network, (photo(52, 72)[None],), dynamic_shapes={"images": sizes}, strict=False).module()
    with torch.no_grad():
        for image in (photo(32, 36)[None], photo(64, 64)[None], photo(60, 132)[None]):
            assert torch.allclose(program(image), network(image), atol=1e-6)
