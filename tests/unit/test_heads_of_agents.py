"""Scripts with networks of several heads: who learns, who looks, who teaches, and what an agent finds of itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from experiments import load_example
from two_kinds import Roads

import agentkd
from agentkd import Educated, Rules, education_cycle
from agentkd.artifacts.journal import Journal
from agentkd.community.heads import OneHead, SeveralHeads
from agentkd.community.rules import Role
from agentkd.errors import ConfigError, ContractError, TrainingError
from agentkd.recipe import ViewSettings
from agentkd.task import Distill
from agentkd.testing import Community

SPEC = "generated:seed=5,size=32x32,train=16,validation=8,test=8"
OTHER = SPEC.replace("seed=5", "seed=6")
ROADS = "two_kinds:Roads"
HEADS = {"fire": 5, "roads": 2}
FAMILY = "tiny_networks:headed"
RECIPE: dict[str, Any] = {
    "batch_size": 4,
    "learning_rate": 0.1,
    "validate_every": 8,
    "views": ViewSettings(crop_height=32, crop_width=32),
}


@pytest.fixture
def community(tmp_path: Path) -> Iterator[Community]:
    with Community(devices="cpu:2", record=tmp_path / "run") as opened:
        yield opened


def agent(community: Community, name: str = "a", heads: dict[str, int] | None = None) -> SeveralHeads:
    made = community.agent(name, FAMILY, heads=heads or HEADS)
    assert isinstance(made, SeveralHeads)
    return made


def learned(community: Community, name: str = "a", epochs: int = 6) -> SeveralHeads:
    """Knows scenes with one head and roads with the other."""
    made = agent(community, name)
    made.train(SPEC, epochs=epochs, **RECIPE).result()
    made.head("roads").train(ROADS, epochs=epochs, rehearse={"fire": SPEC}, rehearse_strength=5.0, **RECIPE).result()
    return made


def test_each_head_has_classes_a_score_and_data_of_its_own_and_all_have_the_newest_weights(community: Community) -> None:
    a = learned(community)
    fire, roads = a.head("fire"), a.head("roads")
    assert fire.classes == agentkd.open_dataset(SPEC).classes and roads.classes == Roads.classes
    assert fire.weights == roads.weights == a.weights and (fire.name, roads.name) == ("a.fire", "a.roads")
    assert roads.score > 0.6 and fire.score != roads.score
    assert len(a.evaluate(SPEC).class_iou) == 5 and len(a.evaluate(ROADS).class_iou) == 2
    with pytest.raises(ConfigError, match=r"a score for each head: a\.head\(\"fire\"\)\.score"):
        a.score  # noqa: B018
    with pytest.raises(ConfigError, match="a has no head 'sky'; it has fire, roads"):
        a.head("sky")


def test_an_agent_is_at_home_in_both_kinds_of_data_and_each_head_in_its_own(community: Community) -> None:
    """By the pixels of its own validation, and, in two lights of the same classes, by which of its heads knows them."""
    a = learned(community)
    for own, head in ((SPEC, "fire"), (ROADS, "roads")):
        assert a.head(head).assess(own).known_fraction == pytest.approx(0.95, abs=0.02)
        (first, competence), *rest = community.who_knows(own)
        assert {first.name, *(one.name for one, _ in rest)} == {"a.fire", "a.roads"} and competence.known_fraction


def test_its_self_assessment_tells_two_kinds_of_data_apart_head_by_head(community: Community) -> None:
    infrared = f"{SPEC},light=infrared"
    a = agent(community, heads={"day": 5, "infrared": 5})
    a.head("day").train(SPEC, epochs=8, **RECIPE).result()
    a.head("infrared").train(infrared, epochs=8, rehearse={"day": SPEC}, rehearse_strength=5.0, **RECIPE).result()
    both = Educated(a, {"day": SPEC, "infrared": infrared})
    one, other = (Educated(a.head(head), data) for head, data in (("day", SPEC), ("infrared", infrared)))
    assert one.assess(SPEC).known_fraction > one.assess(infrared).known_fraction
    assert other.assess(infrared).known_fraction > other.assess(SPEC).known_fraction
    assert (both.speaking(SPEC).name, both.speaking(infrared).name) == ("a.day", "a.infrared")
    for data, best in ((SPEC, one), (infrared, other)):
        assert both.assess(data).known_fraction == best.assess(data).known_fraction > 0.8
    assert both.assess(ROADS).known_fraction == 0 and not both.can_learn(ROADS), "it has no head for these"


def test_data_go_to_the_head_for_their_classes_and_who_is_not_meant_is_asked_for(community: Community) -> None:
    a = agent(community)
    with pytest.raises(ConfigError, match=r"a\.roads has learned nothing yet"):
        a.assess(ROADS)
    assert isinstance(a.by_data(SPEC), OneHead) and a.by_data(SPEC) is a.head("fire")
    twins = agent(community, "twins", {"day": 5, "night": 5})
    with pytest.raises(ConfigError, match=r"heads day, night are all for .*; say which is meant: twins\.head\(\"day\"\)"):
        twins.train(SPEC, **RECIPE)
    twins.head("night").train(SPEC, epochs=1, **RECIPE).result()
    assert twins.by_data(OTHER) is twins.head("night"), "the one that has learned these classes"
    with pytest.raises(ContractError, match=r"day: nothing yet, room for 5; night: Burnt"):
        twins.train(ROADS, **RECIPE)
    with pytest.raises(ContractError, match="num_classes"):
        a.head("roads").train(SPEC, epochs=1, **RECIPE)


def test_a_student_is_taught_by_the_head_whose_classes_are_its_own(community: Community) -> None:
    a = learned(community, epochs=4)
    student = community.agent("s", "tiny_networks:tiny")
    hidden = f"unlabelled:{ROADS}"
    objectives = [agentkd.SoftTargets(temperature=1)]
    lesson = student.distill(a, hidden, objectives, alpha=0, hard_loss="none", keep="last", epochs=6, **RECIPE)
    assert lesson.result().miou > 0.6
    mapped = community.agent("m", "tiny_networks:tiny")
    names = {"Ground": "Ground", "Road": "Road"}
    assert mapped.distill(a, ROADS, class_map=names, epochs=1, **RECIPE).result().miou >= 0
    new = community.agent("new", FAMILY, heads={"fire": 5})
    with pytest.raises(ContractError, match="none has learned yet"):
        student.distill(new, ROADS, epochs=1, **RECIPE)


def test_both_heads_of_one_agent_teach_at_the_same_time(community: Community) -> None:
    a = learned(community, epochs=2)
    lessons = [
        community.agent(name, "tiny_networks:tiny").distill(a, data, alpha=0.0, epochs=1, **RECIPE)
        for name, data in (("x", SPEC), ("y", ROADS))
    ]
    assert [len(lesson.result().class_iou) for lesson in lessons] == [5, 2]


def test_weights_of_another_session_bring_all_heads_with_their_classes(community: Community) -> None:
    a = learned(community, epochs=1)
    again = community.agent("again", FAMILY, weights=a.weights)
    assert isinstance(again, SeveralHeads) and again.architecture == a.architecture
    assert {name: one.classes for name, one in again.heads.items()} == {name: one.classes for name, one in a.heads.items()}
    assert again.evaluate(ROADS).miou == a.evaluate(ROADS).miou
    with pytest.raises(ConfigError):
        community.agent("plain", FAMILY, weights=a.weights, num_classes=5)


def test_a_lesson_that_failed_leaves_every_head_where_it_stood(community: Community) -> None:
    a = learned(community, epochs=1)
    before = a.weights, a.head("roads").classes, a.head("roads").score
    objectives = [agentkd.Features(taps={"nowhere": "nowhere"}, weight=1)]
    with pytest.raises(TrainingError):
        a.head("roads").distill(a, ROADS, objectives, epochs=1, **RECIPE).result()
    assert (a.weights, a.head("roads").classes, a.head("roads").score) == before and a.head("fire").weights == before[0]


def test_the_trunk_does_not_begin_anew_below_heads_that_have_learned(community: Community) -> None:
    a = learned(community, epochs=1)
    b = community.agent("b", FAMILY)
    b.train(ROADS, epochs=1, **RECIPE).result()
    with pytest.raises(ConfigError, match=r"a\.fire would lose what it stands on"):
        a.head("roads").distill(b, ROADS, start="inherit", epochs=1, **RECIPE)
    for one in (a, a.head("fire")):
        with pytest.raises(ConfigError, match="has several heads"):
            one.become(b.architecture)
    with pytest.raises(ConfigError, match="learned nothing that could be kept"):
        agent(community, "c").head("fire").train(SPEC, rehearse={"roads": ROADS}, **RECIPE)
    with pytest.raises(ConfigError, match="one head alone"):
        b.head("fire")


def test_heads_that_cannot_be_are_refused_before_anything_starts(community: Community) -> None:
    for heads in ({}, {"a.b": 2}, {"a": 1}, {"a": "two"}, [("a", 2)]):
        with pytest.raises(ConfigError, match="heads"):
            community.agent("x", "unet", heads=heads)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="leave num_classes out"):
        community.agent("x", "unet", heads=HEADS, num_classes=5)
    with pytest.raises(ConfigError, match="head_modules"):
        community.agent("x", "tiny_networks:tiny", heads=HEADS)
    assert agent(community, "x").name == "x", "the name is still free"


def test_networks_with_heads_are_averaged_as_a_whole(community: Community) -> None:
    a, b = learned(community, epochs=1), agent(community, "b")
    b.average([a.head("roads")]).result()
    assert {name: one.classes for name, one in b.heads.items()} == {name: one.classes for name, one in a.heads.items()}
    assert b.evaluate(ROADS).miou == pytest.approx(a.evaluate(ROADS).miou, abs=1e-3)
    plain = community.agent("p", FAMILY)
    plain.train(SPEC, epochs=1, **RECIPE).result()
    with pytest.raises(ConfigError, match="p differs: heads none, not fire: 5 and roads: 2"):
        b.average([plain])


def test_importance_is_noted_of_every_head(community: Community) -> None:
    a = learned(community, epochs=1)
    noted = a.consolidate()
    assert a.consolidate() is noted, "of these weights it is known already"
    result = a.head("fire").train(SPEC, epochs=1, protect=10.0, **RECIPE).result()
    assert result.weights and a.consolidate() is not noted


@pytest.mark.parametrize("protection", ["replay", "lwf", "ewc", "none"])
def test_in_a_cycle_an_agent_with_two_heads_teaches_what_it_knows_and_learns_what_it_does_not(
    protection: Any, community: Community
) -> None:
    a = agent(community)
    a.train(SPEC, epochs=8, **RECIPE).result()
    b = community.agent("b", "tiny_networks:tiny")
    b.train(ROADS, epochs=8, **RECIPE).result()
    rules = Rules(known_at=0.6, margin=0.02, protection=protection, strength=100.0)
    both = [Educated(a, {"fire": SPEC}, rules), Educated(b, ROADS, rules)]
    found = education_cycle(both, SPEC, epochs=1, **RECIPE)
    assert (found["a"].role, found["b"].role) == (Role.TEACHER, Role.IDLE), "b has no head for five classes"
    found = education_cycle(both, ROADS, epochs=8, **RECIPE)
    assert (found["a"].role, found["a"].teachers, found["b"].role) == (Role.STUDENT, ("b",), Role.TEACHER)
    assert both[0].learned == [SPEC, ROADS] and a.head("roads").classes == Roads.classes
    assert a.head("roads").evaluate(ROADS).miou > 0.6
    if protection == "replay":
        again = [education_cycle(both, data, epochs=1, **RECIPE)["a"].role for data in (SPEC, ROADS)]
        assert again == [Role.TEACHER, Role.TEACHER], "it is at home in both"


def test_the_example_of_two_heads_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agentkd, "Community", Community)
    found = load_example("knowledge/heads").main(record=str(tmp_path / "run"), epochs=2)
    assert set(found.values()) <= {"both.day", "both.infrared"} and len(found) == 2


def test_an_agent_claims_no_data_that_its_network_has_not_learned(community: Community) -> None:
    a = agent(community)
    a.train(SPEC, epochs=1, **RECIPE).result()
    with pytest.raises(ConfigError, match=r"a\.roads has learned nothing yet, so it knows no data"):
        Educated(a, {"roads": ROADS})
    for one, data in ((a, {"fire": ROADS}), (a.head("fire"), ROADS), (a, {"fire": f"joined:{SPEC}|{ROADS}"})):
        with pytest.raises(ContractError, match=r"a\.fire has 'Burnt.*two_kinds:Roads has 'Ground, Road'"):
            Educated(one, data)
    plain = community.agent("p", "tiny_networks:tiny")
    plain.train(ROADS, epochs=1, **RECIPE).result()
    with pytest.raises(ContractError, match="p has 'Ground, Road'"):
        Educated(plain, SPEC)


def test_in_a_cycle_each_network_is_one_agent(community: Community) -> None:
    a = agent(community)
    a.train(SPEC, epochs=1, **RECIPE).result()
    whole = Educated(a, {"fire": SPEC})
    for others in ([whole, whole], [whole, Educated(a.head("fire"), SPEC)]):
        with pytest.raises(ConfigError, match=r"an education cycle: a .*; give it once, with what each of its heads knows"):
            education_cycle(others, SPEC, epochs=1, **RECIPE)


def test_weights_are_not_taken_from_who_lacks_what_a_head_has_learned(community: Community) -> None:
    a, b = agent(community), agent(community, "b")
    a.train(SPEC, epochs=1, **RECIPE).result()
    b.train(ROADS, epochs=1, **RECIPE).result()
    student, teacher = Educated(a, {"fire": SPEC}, Rules(policy="weights")), Educated(b, {"roads": ROADS})
    before = a.weights
    with pytest.raises(ConfigError, match=r"heads would be those of b, and a\.fire would lose what it has learned"):
        student.learn(ROADS, [teacher], epochs=1, **RECIPE)
    assert (a.weights, a.head("fire").has_learned, student.learned) == (before, True, [SPEC])
    b.train(SPEC, epochs=1, **RECIPE).result()
    student.learn(ROADS, [Educated(b, {"roads": ROADS, "fire": OTHER})], epochs=1, **RECIPE).result()
    assert student.learned == [ROADS, OTHER] and a.evaluate(ROADS).miou == b.evaluate(ROADS).miou


def test_with_a_map_the_head_teaches_that_tells_all_apart_that_is_named(community: Community) -> None:
    a = learned(community, epochs=1)
    wanted = {"Ground": "Burnt", "Road": "Fire"}
    assert a.speaking(Roads.classes, wanted) is a.head("fire"), "it has more classes than are named"
    assert a.speaking(Roads.classes, {"Ground": "Road", "Road": "Road"}) is a.head("roads")
    for missing in ({"Ground": "Burnt", "Road": "Road"}, {"Ground": "Sky", "Road": "Road"}):
        with pytest.raises(ContractError, match="say which head teaches"):
            a.speaking(Roads.classes, missing)


def test_a_head_says_how_well_it_does_now_not_before_its_trunk_moved(community: Community) -> None:
    a = learned(community, epochs=2)
    fire, now = a.head("fire"), a.evaluate(SPEC, "validation").miou
    assert now != fire.score, "the trunk has moved since"
    assert Educated(fire, SPEC).assess(SPEC).miou == Educated(a, {"fire": SPEC}).assess(SPEC).miou == now


@pytest.mark.parametrize("protection", ["replay", "lwf"])
def test_a_head_that_learns_on_has_the_others_rehearsed_and_not_itself(protection: Any, community: Community) -> None:
    a, teacher = learned(community, epochs=1), community.agent("t", "tiny_networks:tiny")
    teacher.train(OTHER, epochs=1, **RECIPE).result()
    student = Educated(a, {"fire": SPEC, "roads": ROADS}, Rules(protection=protection))
    lesson = student.learn(OTHER, [Educated(teacher, OTHER)], epochs=1, **RECIPE)
    assert lesson.result().weights == a.weights and student.learned == [SPEC, OTHER, ROADS]
    with Journal(community._folder.journal, read_only=True) as journal:
        task = next(record.task for record in journal.records() if record.result.weights == a.weights)
    assert isinstance(task, Distill)
    ((head, data),) = [(one.head, one.data) for one in task.rehearsals]
    assert head == "roads" and (data.spec == ROADS if data else protection == "lwf")
