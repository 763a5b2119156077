"""What a pixel of each class counts, and how often rare classes are drawn: by hand, and what holds whatever the data."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkd.datasets.balance import class_weights, rare_class_shares
from agentkd.datasets.opening import open_dataset
from agentkd.datasets.order import rare_classes
from agentkd.errors import DatasetError

PIXELS = st.lists(st.integers(0, 10**9), min_size=2, max_size=30).filter(any)
RULES = st.sampled_from(["inverse", "effective"])


def test_inverse_frequencies_by_hand() -> None:
    """1/30, 1/10 and 1/60 are 2 : 6 : 1 of sixtieths, whose mean is 3."""
    assert class_weights("inverse", [30, 10, 60], name="") == pytest.approx((2 / 3, 2, 1 / 3))


def test_effective_numbers_by_hand() -> None:
    """Of 1, 1 and 4 pixels the mean is 2, so b is 1/2: E is 1, 1 and (1 - 1/16) / (1/2) = 15/8."""
    assert class_weights("effective", [1, 1, 4], name="") == pytest.approx([w / ((2 + 8 / 15) / 3) for w in (1, 1, 8 / 15)])


def test_effective_numbers_are_those_of_the_paper() -> None:
    pixels = [5000, 200, 7]
    volume = sum(pixels) / 3
    beta = (volume - 1) / volume
    raw = [(1 - beta) / (1 - beta**count) for count in pixels]
    assert class_weights("effective", pixels, name="") == pytest.approx([3 * one / sum(raw) for one in raw], rel=1e-9)


def test_a_list_is_brought_to_a_mean_of_one_over_the_classes_that_occur() -> None:
    assert class_weights((1.0, 3.0, 8.0), [5, 5, 0], name="") == (0.5, 1.5, 4.0)
    assert class_weights("none", [5, 5, 0], name="") == ()


@given(pixels=PIXELS, rule=RULES)
def test_weights_have_a_mean_of_one_and_rise_with_rarity(pixels: list[int], rule: str) -> None:
    weights = class_weights(rule, pixels, name="")
    there = [(count, weight) for count, weight in zip(pixels, weights, strict=True) if count]
    assert math.fsum(weight for _, weight in there) / len(there) == pytest.approx(1)
    assert [weight for count, weight in zip(pixels, weights, strict=True) if not count] == [0.0] * (len(pixels) - len(there))
    ordered = [weight for _, weight in sorted(there)]
    assert all(math.isfinite(w) and w > 0 for w in ordered) and all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(ordered))


@given(pixels=st.lists(st.integers(0, 10**6), min_size=2, max_size=9).filter(any), times=st.integers(2, 5))
def test_the_same_images_twice_give_the_same_weights(pixels: list[int], times: int) -> None:
    more = [times * count for count in pixels]
    assert class_weights("inverse", more, name="") == pytest.approx(class_weights("inverse", pixels, name=""))
    one, other = (class_weights("effective", [1000 * c for c in counts], name="") for counts in (pixels, more))
    assert one == pytest.approx(other, rel=1e-2)


def test_what_is_rarer_than_the_mean_weighs_by_both_rules_alike_and_the_frequent_less_apart() -> None:
    pixels = [900_000, 90_000, 9_000, 900]
    inverse, effective = (class_weights(rule, pixels, name="") for rule in ("inverse", "effective"))
    assert inverse[3] / inverse[0] == pytest.approx(1000) and 200 < effective[3] / effective[0] < 300
    assert effective[3] / effective[2] == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize(
    ("rule", "pixels", "said"),
    [
        ("inverse", [0, 0], "labelled"),
        ("effective", [0, 0], "labelled"),
        ((1.0, 1.0), [0, 0], "labelled"),
        ((1.0, 2.0), [1, 1, 1], "2 numbers.*3 classes"),
        ((0.0, 0.0, 1.0), [1, 1, 0], "0 for every class that has pixels"),
    ],
)
def test_weights_that_no_pixel_would_have_are_refused(rule: object, pixels: list[int], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        class_weights(rule, pixels, name="data")  # type: ignore[arg-type]


def test_rare_classes_are_drawn_as_the_paper_says() -> None:
    """Shares 0.6, 0.3 and 0.1 at T = 0.1: exp(4), exp(7) and exp(9), over their sum."""
    total = math.exp(4) + math.exp(7) + math.exp(9)
    assert rare_class_shares([60, 30, 10], 0.1) == pytest.approx([math.exp(power) / total for power in (4, 7, 9)])
    assert rare_class_shares([60, 0, 10], 1e-4) == (0.0, 0.0, 1.0), "no overflow, and never what is not there"
    assert rare_class_shares([60, 30, 0], 100.0) == pytest.approx((0.5, 0.5, 0), abs=2e-3)


def test_images_are_drawn_by_class_and_then_among_those_that_have_it() -> None:
    pixels = np.array([[9, 1, 0], [9, 0, 0], [5, 0, 5], [10, 0, 0]])
    order = rare_classes((10, 11, 12, 13), pixels, 0.2)
    assert order.members == ((10, 11, 12, 13), (10,), (12,))
    shares = rare_class_shares([33, 1, 5], 0.2)
    drawn = Counter(index for step in range(2500) for index, _ in order.step_views(4, view_seed=3, step=step, epoch_steps=50))
    expected = {10: shares[0] / 4 + shares[1], 11: shares[0] / 4, 12: shares[0] / 4 + shares[2], 13: shares[0] / 4}
    assert {index: count / 10_000 for index, count in drawn.items()} == pytest.approx(expected, abs=0.015)


@given(seed=st.integers(0, 2**60), step=st.integers(0, 10**6), batch=st.integers(2, 9), each=st.integers(1, 99))
def test_what_a_step_draws_depends_on_seed_and_step_alone(seed: int, step: int, batch: int, each: int) -> None:
    pixels = np.array([[9, 1, 0], [9, 0, 0], [5, 0, 5], [10, 0, 0]])
    first, again = (rare_classes((10, 11, 12, 13), pixels, 0.01) for _ in range(2))
    again.step_views(batch, view_seed=seed + 1, step=0, epoch_steps=each)  # nothing is remembered
    drawn = first.step_views(batch, view_seed=seed, step=step, epoch_steps=each)
    assert drawn == again.step_views(batch, view_seed=seed, step=step, epoch_steps=each)
    assert len({view_seed for _, view_seed in drawn}) == batch, "an image that is drawn twice is seen in two ways"
    for other in ({"view_seed": seed + 1, "step": step}, {"view_seed": seed, "step": step + 1}):
        assert drawn != first.step_views(batch, epoch_steps=each, **other)


def test_pixels_are_counted_of_those_images_that_are_learned_and_labelled() -> None:
    spec = "generated:seed=5,size=32x32,train=6,validation=1,test=1"
    whole, few = open_dataset(spec), open_dataset(f"few:2:{spec}")
    counts = whole.class_pixels(whole.splits["train"])
    assert counts.shape == (6, 5) and counts.sum() == 6 * 32 * 32
    labels = np.stack([whole.sample(index).label for index in whole.splits["train"]])
    assert counts.tolist() == [[int((label == k).sum()) for k in range(5)] for label in labels]
    assert few.class_pixels(few.splits["train"]).tolist() == counts[[0, 3]].tolist()
    only = open_dataset(f"only:Fire+Smoke:{spec}")
    assert only.class_pixels(only.splits["train"])[:, :3].sum() == 0 and only.class_pixels(only.splits["train"]).sum() > 0


def test_scenes_burn_in_the_share_that_is_asked_for_and_are_otherwise_what_they_were() -> None:
    often, rare = (open_dataset(f"generated:seed=5,size=32x32,train=60,validation=1,test=1{more}") for more in ("", ",fires=0.2"))
    assert often.digest != rare.digest
    assert often.digest == open_dataset("generated:seed=5,size=32x32,train=60,validation=1,test=1,fires=1").digest
    has_fire = [bool(counts[3:].sum()) for counts in rare.class_pixels(rare.splits["train"])]
    assert 5 <= sum(has_fire) <= 20
    for index, is_lit in enumerate(has_fire):
        same = np.array_equal(often.sample(index).image, rare.sample(index).image)
        assert same == is_lit and (rare.fingerprint(index) == often.fingerprint(index)) == is_lit
        assert not rare.labels_of(index)[3:].any() or is_lit
    for wrong in ("2", "-0.1", "nan", "some"):
        with pytest.raises(DatasetError, match="share of the scenes"):
            open_dataset(f"generated:fires={wrong}")
