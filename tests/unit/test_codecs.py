"""Codecs: what is written is read back within what each may lose, and what does not belong together is refused."""

from typing import get_args

import pytest
import torch

from agentkd import objectives
from agentkd.errors import ContractError
from agentkd.knowledge import codecs, tensors
from agentkd.knowledge.codecs import divergence, read, size, write

ALL = ["float32", "float16", "bfloat16", "int8", "top1", "top2", "top3", "auto"]
LOGITS = 4 * torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("codec", ALL)
def test_what_is_written_travels_and_is_read_back(codec: str) -> None:
    sent = tensors.decode(tensors.encode(write("logits", LOGITS, codec, max_kl=1e-4)))
    found = read("logits", sent, 5)
    assert found is not None and found.shape == LOGITS.shape
    assert torch.equal(found, read("logits", write("logits", LOGITS, codec, max_kl=1e-4), 5))


def test_each_codec_loses_as_much_as_it_may() -> None:
    bounds = {"float32": 1e-12, "float16": 1e-6, "bfloat16": 1e-4, "int8": 1e-3, "top3": 1e-2}
    found = {codec: divergence(LOGITS, codec) for codec in bounds}
    assert all(found[codec] <= bound for codec, bound in bounds.items()), found
    assert divergence(LOGITS, "top1") > divergence(LOGITS, "top2") > divergence(LOGITS, "top3")


def test_int8_is_a_quarter_of_float32() -> None:
    wide = torch.randn(2, 5, 64, 64)
    assert 0.25 <= size("int8", wide) / size("float32", wide) < 0.26


def test_two_classes_with_their_tail_lose_nothing_but_rounding() -> None:
    """Of three classes the best one and the sum of the rest leave open how the rest is shared; of the best two nothing."""
    three = torch.randn(1, 3, 4, 4)
    assert divergence(three, "top1") > 1e-4
    assert divergence(three, "top2") < 1e-6, "written as float16, since nothing is saved"


def test_probabilities_are_kept_by_the_top_classes() -> None:
    found = read("logits", write("logits", LOGITS, "top2"), 5).softmax(dim=1)
    values, indices = LOGITS.softmax(dim=1).topk(2, dim=1)
    assert torch.allclose(found.gather(1, indices), values, atol=2e-3)


@pytest.mark.parametrize("max_kl", [0.0, 1e-7, 1e-4, 1e-2, 1.0])
def test_auto_is_the_shortest_that_keeps_to_its_budget(max_kl: float) -> None:
    chosen = codecs.shortest(LOGITS, max_kl)
    assert chosen == "float32" or divergence(LOGITS, chosen) <= max_kl
    shorter = [codec for codec in codecs.CANDIDATES if size(codec, LOGITS) < size(chosen, LOGITS)]
    assert all(divergence(LOGITS, codec) > max_kl for codec in shorter)


def test_auto_loses_nothing_unless_it_is_told_that_it_may() -> None:
    assert torch.equal(read("logits", write("logits", LOGITS, "auto"), 5), LOGITS)


def test_a_flat_image_survives_int8() -> None:
    assert torch.equal(read("logits", write("logits", torch.zeros(1, 3, 2, 2), "int8"), 3), torch.zeros(1, 3, 2, 2))


def test_other_payloads_are_written_too() -> None:
    attention, features = torch.rand(2, 4, 4), torch.randn(2, 8, 4, 4)
    for codec in ALL:
        assert torch.allclose(read("attention.s", write("attention.s", attention, codec), 5).float(), attention, atol=1e-2)
        assert torch.allclose(read("features.s", write("features.s", features, codec), 5).float(), features, atol=3e-2)


def test_parts_that_do_not_belong_together_are_refused() -> None:
    good = write("logits", LOGITS, "top2")
    beyond = good | {"logits.indices": torch.full_like(good["logits.indices"], 9)}
    lone = {"logits.int8": torch.zeros(1, 5, 2, 2, dtype=torch.int8)}
    other = write("logits", LOGITS, "int8") | {"logits.scale": torch.ones(2, 1, 1, 1)}
    for parts in (beyond, lone, other, good | lone):
        with pytest.raises(ContractError):
            read("logits", parts, 5)
    assert read("logits", {"features": LOGITS}, 5) is None
    with pytest.raises(ContractError, match="gzip"):
        codecs.check("gzip")


def changed(part: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    return write("logits", LOGITS, "top2") | {f"logits.{part}": value}


@pytest.mark.parametrize(
    "parts",
    [
        changed("indices", torch.full((2, 2, 6, 7), -1)),
        changed("indices", torch.full((2, 2, 6, 7), 5)),
        changed("indices", torch.zeros(2, 1, 6, 7, dtype=torch.uint8)),
        changed("tail", torch.zeros(2, 2, 6, 7)),
        changed("tail", torch.zeros(1, 1, 6, 7)),
        {"logits.values": torch.zeros(2, 2, 6), "logits.indices": torch.zeros(2, 2, 6), "logits.tail": torch.zeros(2, 1, 6)},
        *(
            {"logits.values": some, "logits.indices": some.byte(), "logits.tail": torch.zeros(2, 1, 6, 7)}
            for some in (torch.zeros(2, 0, 6, 7), torch.zeros(2, 5, 6, 7), torch.zeros(2, 6, 6, 7))
        ),
    ],
    ids=["below", "beyond", "fewer", "two tails", "one image", "rank", "none", "all", "more"],
)
def test_top_classes_that_cannot_be_are_refused(parts: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ContractError, match=r"the tensors of one codec|at least one number"):
        read("logits", parts, 5)


def test_every_codec_that_can_be_asked_for_has_its_row() -> None:
    assert set(get_args(objectives.Codec)) == {*codecs.CODECS, codecs.AUTO} and set(codecs.CANDIDATES) <= set(codecs.CODECS)


def test_int8_counts_from_the_mean_over_the_classes_so_that_a_common_shift_costs_nothing() -> None:
    shifted = LOGITS + 1000 * torch.randn(2, 1, 6, 7, generator=torch.Generator().manual_seed(2))
    plain, moved = write("logits", LOGITS, "int8"), write("logits", shifted, "int8")
    assert torch.equal(plain["logits.int8"], moved["logits.int8"]) or divergence(shifted, "int8") < 1e-3
    centred = LOGITS - LOGITS.mean(dim=1, keepdim=True)
    largest = centred.abs().amax(dim=(2, 3), keepdim=True)
    assert torch.allclose(plain["logits.scale"], largest / 127)
    assert torch.allclose(read("logits", plain, 5), centred, atol=float(largest.max()) / 254 + 1e-6)


def test_int8_leaves_features_where_they_are() -> None:
    features = 3 + torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(
        read("features.s", write("features.s", features, "int8"), 5), features, atol=float(features.max()) / 254
    )


@pytest.mark.parametrize(
    ("classes", "codec", "is_short"), [(3, "top1", True), (3, "top2", False), (5, "top3", True), (5, "top4", False)]
)
@pytest.mark.parametrize("size", [2, 9])
def test_top_classes_are_written_where_that_is_shorter_whatever_the_size_of_the_map(
    classes: int, codec: str, is_short: bool, size: int
) -> None:
    parts = write("logits", torch.randn(1, classes, size, size), codec)
    assert set(parts) == ({"logits.values", "logits.indices", "logits.tail"} if is_short else {"logits"})
