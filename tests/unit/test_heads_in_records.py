"""What records, cards and lineages say of networks with several heads, and of networks that a run did not learn last."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import agentkd
from agentkd.artifacts.history import read_history
from agentkd.artifacts.lineage import describe, trace_back
from agentkd.artifacts.run_folder import RunFolder
from agentkd.errors import ConfigError
from agentkd.recipe import ViewSettings
from agentkd.report.packing import write_bundle
from agentkd.testing import Community

SPEC = "generated:seed=5,size=32x32,train=4,validation=2,test=2"
ROADS = "two_kinds:Roads"
HEADS = {"fire": 5, "roads": 2, "spare": 3}
FAMILY = "tiny_networks:headed"
HOW: dict[str, Any] = {"epochs": 1, "batch_size": 4, "views": ViewSettings(crop_height=32, crop_width=32)}
CLASSES = "Burnt, Half-Burnt, Non-Burnt, Fire, Smoke"


@pytest.fixture
def community(tmp_path: Path) -> Iterator[Community]:
    with Community(devices="cpu:2", record=tmp_path / "run") as opened:
        yield opened


def learned(community: Community, name: str = "a") -> Any:
    made = community.agent(name, FAMILY, heads=HEADS)
    made.train(SPEC, **HOW).result()
    made.head("roads").train(ROADS, rehearse={"fire": SPEC}, rehearse_strength=2.5, **HOW).result()
    made.head("fire").train(SPEC, rehearse={"roads": None}, **HOW).result()
    return made


def cards(folder: RunFolder, place: Path) -> dict[str, str]:
    write_bundle(folder, place / "run.zip")
    with zipfile.ZipFile(place / "run.zip") as packed:
        return {name[6:18]: packed.read(name).decode() for name in packed.namelist() if name.startswith("cards/")}


def test_a_lineage_says_which_head_learned_and_on_what_the_others_were_rehearsed(community: Community, tmp_path: Path) -> None:
    a = learned(community)
    newest = trace_back(a.weights, read_history(RunFolder(tmp_path / "run")))
    (before,) = [step for step in newest.ancestors if step.relation == "starts from weights"]
    digest = agentkd.open_dataset(SPEC).digest[:12]
    assert "head fire of fire of 5, roads of 2, spare of 3" in describe(newest)
    assert "head roads rehearsed on the images of the lesson, strength 1" in describe(newest)
    assert "head roads of fire of 5, roads of 2, spare of 3" in describe(before)
    assert f"head fire rehearsed on data {SPEC} ({digest}), strength 2.5" in describe(before)
    plain = community.agent("p", FAMILY)
    plain.train(ROADS, **HOW).result()
    told = describe(trace_back(plain.weights, read_history(RunFolder(tmp_path / "run"))))
    assert not any(line.startswith("head") for line in told)


def test_a_card_has_the_classes_of_its_network_not_of_what_was_learned_last(community: Community, tmp_path: Path) -> None:
    plain = community.agent("p", FAMILY)
    plain.train(ROADS, **HOW).result()
    community.agent("q", FAMILY).train(SPEC, **HOW).result()
    told = cards(RunFolder(tmp_path / "run"), tmp_path)[plain.weights[:12]]
    assert "into 2 classes: Ground, Road." in told and "| Road | " in told and "Burnt" not in told


def test_a_card_tells_every_head_with_its_classes_and_each_look_by_its_head(community: Community, tmp_path: Path) -> None:
    a = learned(community)
    fire, roads = a.head("fire").evaluate(SPEC), a.head("roads").evaluate(ROADS)
    card = cards(RunFolder(tmp_path / "run"), tmp_path)[a.weights[:12]]
    assert f"into 5 classes: {CLASSES}." in card and "what is told of it here is of head fire" in card
    assert f"| fire | {CLASSES} |" in card and "| roads | Ground, Road |" in card
    assert "| spare | has learned nothing that is known, room for 3 |" in card
    assert "* head roads rehearsed on the images of the lesson, strength 1" in card
    assert f"Test mIoU {100 * fire.miou:.2f} %." in card
    assert f"Test of head roads: mIoU {100 * roads.miou:.2f} % on `{ROADS}`." in card
    assert f"| Smoke | {100 * (fire.class_iou[4] or 0):.2f} % |" in card, "not of the other head"


def test_a_mean_is_looked_at_before_it_is_said_what_it_is_worth(community: Community, tmp_path: Path) -> None:
    a, b = learned(community), community.agent("b", FAMILY, heads=HEADS)
    b.average([a, learned(community, "c")], shares=[1, 2]).result()
    assert "Nobody looked when it was made." in cards(RunFolder(tmp_path / "run"), tmp_path)[b.weights[:12]]
    for head, data in (("fire", SPEC), ("roads", ROADS)):
        there = b.head(head).evaluate(data, "validation").miou
        assert b.head(head).miou == b.head(head).score == there > 0
    plain, other = (community.agent(name, "unet", base=8, depth=1) for name in "xy")
    plain.train(SPEC, **HOW).result()
    other.average([plain]).result()
    assert other.miou == plain.evaluate(SPEC, "validation").miou > 0
    other.train(SPEC, **HOW).result()
    assert other.miou == other._learned.result().miou, "what it learned since is known"
    assert len(community.who_knows(SPEC)) == 8
    with pytest.raises(ConfigError, match="has learned nothing yet"):
        b.head("spare").evaluate(SPEC)
