"""What would lose what a head has learned, or claim what none has, is refused with the reason, and all stays as it was."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from two_kinds import Roads

import agentkd
from agentkd.agents.work import Surroundings, execute
from agentkd.artifacts.store import Store
from agentkd.community.graph import TransferGraph
from agentkd.community.heads import SeveralHeads
from agentkd.errors import AgentKDError, ArtifactError, ConfigError, ContractError
from agentkd.knowledge.weights import encode_weights, read_metadata
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.recipe import ViewSettings
from agentkd.task import Average, DataSource, TeacherReference
from agentkd.testing import Community

SPEC = "generated:seed=5,size=32x32,train=4,validation=2,test=2"
OTHER = SPEC.replace("seed=5", "seed=6")
ROADS = "two_kinds:Roads"
FAMILY = "tiny_networks:headed"
TWINS = {"day": 5, "night": 5}
HOW: dict[str, Any] = {"epochs": 1, "batch_size": 4, "views": ViewSettings(crop_height=32, crop_width=32)}


@pytest.fixture
def community(tmp_path: Path) -> Iterator[Community]:
    with Community(devices="cpu:2", record=tmp_path / "run") as opened:
        yield opened


def twins(community: Community, name: str = "a", *, learned: tuple[str, ...] = ("day", "night")) -> SeveralHeads:
    made = community.agent(name, FAMILY, heads=TWINS)
    assert isinstance(made, SeveralHeads)
    for head in learned:
        made.head(head).train(SPEC, **HOW).result()
    return made


def standing(network: SeveralHeads) -> list[Any]:
    return [network.weights, *((one.weights, one.classes, one.home, one.score) for one in network.heads.values())]


def test_two_heads_of_one_network_do_not_learn_from_each_other_at_the_same_time(community: Community) -> None:
    a, other = twins(community), community.agent("o", "tiny_networks:tiny", num_classes=5)
    before = standing(a)
    for students in ((a.head("day"), a.head("night")), (a.head("day"), a.head("night"), other), (other, a.head("day"), other)):
        with pytest.raises(ConfigError, match=r"mutual teaching: .*; of two lessons at the same time one would be lost"):
            agentkd.mutual(*students, data=SPEC, **HOW)
    with pytest.raises(ConfigError, match=r"a\.day and a are of one network"):
        agentkd.mutual(a.head("day"), a, data=SPEC, **HOW)
    assert standing(a) == before
    lessons = agentkd.mutual(a.head("day"), other, data=SPEC, **HOW)
    assert [lesson.result().weights for lesson in lessons] == [a.weights, other.weights]


def test_a_network_is_averaged_once_whichever_of_its_heads_is_named(community: Community) -> None:
    a, b = twins(community), twins(community, "b")
    before = standing(b)
    for listed in ([a.head("day"), a.head("night")], [a, a.head("night")], [a, b, a]):
        with pytest.raises(ConfigError, match=r"b\.average: a.*(of one network|named twice); weights are averaged as a whole"):
            b.average(listed)
    with pytest.raises(ConfigError, match=r"a\.ema: a\.day and a\.night are of one network"):
        a.head("day").ema(a.head("night"))
    plain = community.agent("p", FAMILY, num_classes=5)
    plain.train(SPEC, **HOW).result()
    with pytest.raises(ConfigError, match=r"p\.average: p is named twice"):
        plain.average([plain, plain], shares=[1, 3])
    assert standing(b) == before


def test_a_network_teaches_a_lesson_by_one_head_and_stands_under_one_name_in_a_graph(community: Community) -> None:
    a, s = twins(community), community.agent("s", FAMILY)
    with pytest.raises(
        ConfigError, match=r"s\.distill: a\.day and a\.night are of one network; a network teaches a lesson by one"
    ):
        s.distill([a.head("day"), a.head("night")], SPEC, **HOW)
    graph = TransferGraph(edges=[{"teacher": "x", "student": "y"}, {"teacher": "y", "student": "z"}])
    with pytest.raises(ConfigError, match="the graph names x and z, and both are s; give each its own"):
        graph.teach({"x": s, "y": a.head("day"), "z": s}, SPEC, **HOW)


def test_a_head_learns_from_another_of_its_network_as_that_was_and_neither_lesson_is_lost(community: Community) -> None:
    a = twins(community, learned=("day",))
    before = a.weights
    first = a.head("night").distill(a.head("day"), OTHER, **HOW)
    second = a.head("day").train(SPEC, **HOW)
    assert second.result().weights == a.weights != first.result().weights
    tasks = {record.label: record.task for record in _records(community)}
    lesson = tasks["distill of a.night"]
    assert (lesson.initial_weights, lesson.teachers[0].weights) == (before, before)
    assert tasks["train of a.day"].initial_weights == first.result().weights


def _records(community: Community) -> list[Any]:
    from agentkd.artifacts.journal import Journal

    with Journal(community._folder.journal, read_only=True) as journal:
        return list(journal.records())


def test_weights_of_another_network_are_not_taken_and_the_network_keeps_its_own(community: Community) -> None:
    a = twins(community)
    plain = community.agent("p", FAMILY, num_classes=5)
    plain.train(SPEC, **HOW).result()
    wide = community.agent("w", FAMILY, num_classes=5, width=16)
    wide.train(SPEC, **HOW).result()
    others = community.agent("o", FAMILY, heads={"day": 5, "sky": 5})
    others.head("day").train(SPEC, **HOW).result()
    before = standing(a)
    for weights, told in (
        (plain.weights, "heads none, not day: 5 and night: 5"),
        (wide.weights, "heads none, not day: 5 and night: 5; width 16, not 12"),
        (others.weights, "heads day: 5 and sky: 5, not day: 5 and night: 5"),
    ):
        for one in (a, a.head("night")):
            with pytest.raises(ConfigError, match=f"weights {weights[:12]} are of another network: {told}"):
                one.start_from(weights)
    assert standing(a) == before and a.head("night").evaluate(SPEC).class_iou
    for network, weights, told in (
        (plain, a.weights, "heads day: 5 and night: 5, not none"),
        (plain, wide.weights, "width 16, not 12"),
        (community.agent("q", FAMILY), a.weights, "heads day: 5 and night: 5, not none"),
    ):
        kept = network.weights, network.classes, network.known_architecture
        with pytest.raises(ConfigError, match=told):
            network.start_from(weights)
        assert (network.weights, network.classes, network.known_architecture) == kept
    for damaged in ("f" * 64, community._folder.store.put(b"no weights")):
        with pytest.raises(AgentKDError):
            a.start_from(damaged)
        assert standing(a) == before
    late = community.agent("late", FAMILY)
    late.start_from(plain.weights)
    assert (late.num_classes, late.classes, late.weights) == (5, plain.classes, plain.weights)


def test_weights_that_say_nothing_of_themselves_are_told_by_their_tensors(community: Community) -> None:
    plain = community.agent("p", "unet", num_classes=5, base=8, depth=1)
    state = dict(build(resolve("unet", 5, {"base": 8, "depth": 2}), seed=1).state_dict())
    from agentkd.knowledge import tensors

    with pytest.raises(ConfigError, match=r"'tensor names' differs: the weights have .*, the network has"):
        plain.start_from(community._folder.store.put(tensors.encode(state)))
    assert plain.weights == ""
    with pytest.raises(ArtifactError):
        plain.start_from("0" * 64)


def test_what_weights_are_is_told_where_a_new_network_is_to_begin_with_them(community: Community) -> None:
    a = twins(community)
    for asked, told in (
        ({"num_classes": 5}, "heads day: 5 and night: 5, not none"),
        ({"heads": {"x": 5, "y": 5}}, "heads day: 5 and night: 5, not x: 5 and y: 5"),
        ({"heads": TWINS, "width": 16}, "width 12, not 16"),
    ):
        with pytest.raises(ConfigError, match=told) as refused:
            community.agent("n", FAMILY, weights=a.weights, **asked)
        assert "teacher" not in str(refused.value) and a.weights not in str(refused.value)


def test_a_mean_claims_what_all_have_learned(community: Community) -> None:
    a, b = twins(community, learned=("day",)), twins(community, "b", learned=("night",))
    before = standing(a)
    with pytest.raises(ContractError, match=r"who has learned is 'a\.day', who has not is 'b\.day'; the mean of"):
        a.average([a, b])
    assert standing(a) == before
    c, d = twins(community, "c", learned=("day",)), twins(community, "d", learned=())
    d.average([a, c]).result()
    assert d.head("day").classes == a.head("day").classes and d.head("day").has_learned
    assert not d.head("night").has_learned and d.views() == [d.head("day")], "nobody's has learned"
    said = read_metadata(community.artifact(d.weights))
    assert said.heads == {"day": d.head("day").classes}
    with pytest.raises(ConfigError, match=r"d\.night has learned nothing yet"):
        d.head("night").evaluate(SPEC)


def test_an_agent_refuses_a_mean_of_networks_in_which_other_heads_have_learned(tmp_path: Path) -> None:
    at = Surroundings(Store(tmp_path / "store"), torch.device("cpu"))
    network = resolve("unet", 5, {"base": 8, "depth": 1}).with_heads(TWINS)
    opened = agentkd.open_dataset(SPEC)
    state = dict(build(network, seed=1).state_dict())
    made = {
        name: at.store.put(encode_weights(network, state, opened.classes, dict.fromkeys(heads, opened.classes)))
        for name, heads in (("day", ["day"]), ("night", ["night"]), ("both", ["day", "night"]))
    }
    data = DataSource(spec=opened.spec, content_digest=opened.digest)

    def mean(*names: str) -> Any:
        teachers = tuple(TeacherReference(architecture=network, weights=made[name]) for name in names)
        return execute(Average(architecture=network, data=data, teachers=teachers), at)

    for names in (("day", "night"), ("both", "day"), ("day", "both")):
        with pytest.raises(ContractError, match="those that have learned are"):
            mean(*names)
    assert read_metadata(at.store.get(mean("both", "both").weights)).heads.keys() == {"day", "night"}


def test_networks_that_differ_are_told_in_what_whichever_mean_is_taken(community: Community) -> None:
    a, other = twins(community), community.agent("t", FAMILY, heads={"day": 5, "zz": 3})
    other.head("day").train(SPEC, **HOW).result()
    plain = community.agent("p", FAMILY, num_classes=5)
    plain.train(SPEC, **HOW).result()
    wide = community.agent("w", FAMILY, num_classes=5, width=16)
    wide.train(SPEC, **HOW).result()
    for take, told in (
        (lambda: a.ema(other), r"^a\.ema: .*t differs: heads day: 5 and zz: 3, not day: 5 and night: 5"),
        (lambda: a.average([a, plain]), r"^a\.average: .*p differs: heads none, not day: 5 and night: 5"),
        (lambda: plain.ema(a.head("day")), r"^p\.ema: .*a\.day differs: heads day: 5 and night: 5, not none"),
        (lambda: plain.average([plain, wide]), r"^p\.average: .*w differs: width 16, not 12"),
        (lambda: community.agent("u", FAMILY).average([a]), r"^u\.average: a has several heads, and u one alone"),
    ):
        with pytest.raises(ConfigError, match=told):
            take()
    with pytest.raises(ConfigError, match="p has one head alone, and cannot become a network with day, night"):
        plain.become(a.architecture)


def test_a_network_is_not_called_as_a_head_of_another_is(community: Community) -> None:
    twins(community, learned=())
    with pytest.raises(ConfigError, match=r"'a\.day' is taken in this community: it is that of head day of a"):
        community.agent("a.day", FAMILY)
    community.agent("b.night", FAMILY)
    with pytest.raises(ConfigError, match=r"'b\.night' is taken .*b would have a head of that name"):
        community.agent("b", FAMILY, heads=TWINS)
    assert community.agent("b", FAMILY, heads={"day": 5}).head("day").name == "b.day", "the name is still free"
    assert community.agent("a.sky", FAMILY).name == "a.sky"


def test_what_is_of_each_head_is_not_asked_of_the_whole(community: Community) -> None:
    a = twins(community, learned=("day",))
    for what in ("miou", "score", "classes", "num_classes", "home"):
        with pytest.raises(ConfigError, match=rf'for each head: a\.head\("day"\)\.{what}'):
            getattr(a, what)
    with pytest.raises(ConfigError, match=r"classes of its own for each head"):
        a.classes = ("x",)
    for share in (a.share_data, a.share_architecture):
        with pytest.raises(ConfigError, match=rf'for each head: a\.head\("day"\)\.{share.__name__}\(\)'):
            share()
    assert a.share_data(SPEC).result().classes == a.head("day").share_data().result().classes == a.head("day").classes
    assert (a.head("day").num_classes, a.head("day").home.spec) == (5, SPEC) and a.head("night").home is None
    shown = f"day ({', '.join(a.head('day').classes)}); night (nothing yet, room for 5)"
    assert shown in repr(a) and f"<th>heads</th><td>{shown}</td>" in a._repr_html_()
    for name in (["day"], None, {}, 5):
        with pytest.raises(ConfigError, match=r"a has no head .*; it has day, night"):
            a.head(name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("heads", "told"),
    [
        ({"": 5}, "heads: '' is no name of a head; expected 1 to 64 letters, digits and _"),
        ({"a.b": 5}, r"heads: 'a\.b' is no name"),
        ({"a-b": 5}, "heads: 'a-b' is no name"),  # it would be in the names of tensors, which have no hyphen
        ({" ": 5}, "heads: ' ' is no name"),
        ({"a\n": 5}, r"heads: 'a\\n' is no name"),
        ({"_a": 5}, "not beginning with _"),
        ({1: 5}, "heads: 1 is no name"),
        ({"x" * 200: 5}, r"heads: 'xxx.* \(202 characters\) is no name"),
        ({"a": "5"}, "heads.a: '5' is no number of classes; expected a whole number from 2 to 1000"),
        ({"a": 5.0}, r"heads.a: 5\.0 is no number"),
        ({"a": True}, "heads.a: True is no number"),
        ({"a": None}, "heads.a: None is no number"),
        ({"a": 1}, "heads.a: 1 is no number"),
        ({"a": 1001}, "heads.a: 1001 is no number"),
        ({"a": 1, "b": 2, "c d": 3}, "2 problems"),
        ({}, "heads: there is none in it; expected names, each with its number of classes, such as"),
        (["day"], r"heads: \['day'\] is list; expected names"),
        ("day", "heads: 'day' is str; expected names"),
        ({f"h{number}": 2 for number in range(17)}, "there are 17; a network has 16 at most"),
    ],
)
def test_heads_that_are_none_are_told_in_words(heads: Any, told: str, tmp_path: Path) -> None:
    with Community(devices="cpu:1", record=tmp_path / "run") as community:
        with pytest.raises(ConfigError, match=told) as refused:
            community.agent("x", FAMILY, heads=heads)
        assert "pattern" not in str(refused.value) and "Input should" not in str(refused.value)
        assert len(community._handles) == 0


def test_numbers_of_classes_are_whole_numbers_of_any_kind(tmp_path: Path) -> None:
    with Community(devices="cpu:1", record=tmp_path / "run") as community:
        made = community.agent("x", FAMILY, heads={"a": np.int64(5), "b": 2})
        assert made.architecture.heads == {"a": 5, "b": 2} and community.agent("x", FAMILY, heads={"a": 5, "b": 2}) is made
        with pytest.raises(ConfigError, match="num_classes 'a number for each head', not 5"):
            community.agent("x", FAMILY, num_classes=5)
        assert community.agent("y", "unet", num_classes=np.uint8(5)).num_classes == 5
        for wrong in ("5", 5.0, True):
            with pytest.raises(ConfigError, match="num_classes: expected a whole number from 2 to 1000, got"):
                community.agent("z", "unet", num_classes=wrong)  # type: ignore[arg-type]


def test_data_that_no_head_is_for_are_told_without_a_teacher(community: Community) -> None:
    a = twins(community, learned=("day",))
    assert Roads.classes
    with pytest.raises(ContractError, match=r"a has 'day: Burnt.*night: nothing yet, room for 5', the data have 'Ground, Road'"):
        a.train(ROADS, **HOW)
    with pytest.raises(ContractError, match="the network has 2, the data have 5"):
        community.agent("two", FAMILY, num_classes=2).train(SPEC, **HOW)


@pytest.mark.parametrize("name", ["hyphens", "endless"])
def test_a_network_whose_tensors_cannot_be_handed_over_is_refused_before_it_learns(name: str) -> None:
    with pytest.raises(ConfigError, match=f"tiny_networks:{name}: a tensor is called .*could not be handed over"):
        build(resolve(f"tiny_networks:{name}", 3))


def test_a_mean_is_at_home_where_its_networks_are_and_not_where_it_was(community: Community) -> None:
    a, d = twins(community, learned=("day",)), twins(community, "d", learned=())
    for head in TWINS:
        d.head(head).train(OTHER, **HOW).result()
    d.average([a]).result()
    assert d.head("day").home == a.head("day").home and d.head("day").home.spec == SPEC
    assert d.head("night").home is None and not d.head("night").has_learned and d.head("night").classes == ()
