"""A teacher answers equal requests by one forward pass, and never with what was made for another request."""

from pathlib import Path
from typing import Any

import pytest
import torch
from experiments import SPEC

from agentkd.agents import teaching
from agentkd.agents.teaching import Teacher
from agentkd.datasets.opening import open_dataset
from agentkd.errors import ContractError, DatasetError, RemoteProtocolError
from agentkd.exchange.sources import Parcel
from agentkd.knowledge import tensors
from agentkd.knowledge.images import normalized
from agentkd.knowledge.weights import encode_weights
from agentkd.messages.bodies import KnowledgeKind, KnowledgeRequest
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.objectives import LOGITS, Payload
from agentkd.recipe import ViewSettings
from agentkd.task import DataSource

NETWORK = resolve("tiny_networks:tiny", 5, {"width": 8})
DATA = open_dataset(SPEC)
CPU = torch.device("cpu")
FEATURES = Payload(form="features", tap="body.2")
ATTENTION = Payload(form="attention", tap="body")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))


def teacher(seed: int = 1, **options: Any) -> Teacher:
    stored = encode_weights(NETWORK, dict(build(NETWORK, seed=seed).state_dict()))
    source = DataSource(spec=SPEC, content_digest=DATA.digest)
    return Teacher(NETWORK, "ab" * 32, source, stored=stored, device=CPU, **options)


def request(**changes: object) -> KnowledgeRequest:
    fields = {
        "kind": KnowledgeKind.FEATURE_MAPS if "payloads" in changes else KnowledgeKind.SOFT_TARGETS,
        "weights": "ab" * 32,
        "num_classes": 5,
        "dataset": DATA.digest,
        "view_settings": ViewSettings(crop_height=32, crop_width=32),
        "views": ((0, 11), (3, 12)),
    }
    return KnowledgeRequest.model_validate(fields | changes)


@pytest.mark.parametrize("crop", [{"crop_height": 8192, "crop_width": 8192}, {}], ids=["crops", "whole images"])
def test_a_request_for_too_many_pixels_is_refused_before_one_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, crop: dict[str, int]
) -> None:
    taught, views = teacher(), tuple((0, seed) for seed in range(4096))
    monkeypatch.setattr(teaching, "MAX_PIXELS", teaching.MAX_PIXELS if crop else 4095 * 32 * 32)
    with pytest.raises(RemoteProtocolError, match=r"4096 views of .* one request is for .* at most \[limit\]"):
        taught.answer(request(views=views, view_settings=ViewSettings(**crop)))
    assert taught.num_forwards == 0
    monkeypatch.setattr(teaching, "MAX_PIXELS", 2 * 32 * 32)
    assert not taught.answer(request()).is_cached, "as many as may be"
    assert not taught.answer(request(views=((0, 1),), view_settings=ViewSettings())).is_cached, "a whole one too"


def test_a_request_for_no_views_says_so() -> None:
    with pytest.raises(ContractError, match="at least one, or images"):
        teacher().answer(request(views=()))


def test_a_sample_that_the_dataset_does_not_have_is_refused() -> None:
    taught, last = teacher(), DATA.splits["test"][-1]
    assert len(taught.answer(request(views=((last, 1),))).parcel.view)
    with pytest.raises(ContractError, match=f"32 samples, in splits train, validation, test.*sample {last + 1}"):
        taught.answer(request(views=((0, 1), (last + 1, 1))))


def test_several_students_that_ask_for_the_same_views_cost_one_forward_pass() -> None:
    taught = teacher()
    answers = [taught.answer(request(ways=ways)) for ways in (("inline",), ("shared", "inline"), ("stream",), ("inline",))]
    assert taught.num_forwards == 1 and [answer.is_cached for answer in answers] == [False, True, True, True]
    assert len({bytes(answer.parcel.view) for answer in answers}) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"views": ((0, 11), (3, 13))},
        {"views": ((0, 11), (4, 12))},
        {"codec": "float32"},
        {"codec": "int8"},
        {"codec": "auto", "max_kl": 1e-3},
        {"view_settings": ViewSettings(crop_height=32, crop_width=32, flip=0.0)},
        {"payloads": (LOGITS, FEATURES)},
    ],
    ids=["view seed", "sample", "float32", "int8", "auto", "view settings", "payloads"],
)
def test_another_request_is_not_answered_from_the_cache(changes: dict[str, object]) -> None:
    taught = teacher()
    first, second = taught.answer(request()), taught.answer(request(**changes))
    assert taught.num_forwards == 2 and not second.is_cached
    assert bytes(first.parcel.view) != bytes(second.parcel.view)


def test_one_changed_weight_changes_the_answer() -> None:
    stored = [tensors.decode(bytes(teacher().answer(request(codec="float32")).parcel.view))["logits"] for _ in range(2)]
    other = tensors.decode(bytes(teacher(seed=2).answer(request(codec="float32")).parcel.view))["logits"]
    assert torch.equal(*stored) and not torch.equal(stored[0], other)


def test_every_payload_of_a_request_comes_from_one_forward_pass() -> None:
    taught = teacher()
    answer = taught.answer(request(payloads=(LOGITS, FEATURES, ATTENTION, Payload(form="similarity", tap="body", size=4))))
    found = tensors.decode(answer.parcel.view)
    assert taught.num_forwards == 1
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "logits": (2, 5, 16, 16),
        "features.body.2": (2, 8, 16, 16),
        "attention.body": (2, 16, 16),
        "similarity.body.4": (2, 4, 4, 16),
    }


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"num_classes": 4}, ContractError, "num_classes"),
        ({"weights": "cd" * 32}, ContractError, "weights"),
        ({"dataset": "other"}, ContractError, "dataset"),
        ({"codec": "gzip"}, ContractError, "gzip"),
        ({"payloads": (Payload(form="features", tap="spp"),)}, ContractError, "dotted names"),
        ({"payloads": (FEATURES,), "kind": KnowledgeKind.SOFT_TARGETS}, ContractError, "feature_maps"),
    ],
)
def test_what_it_cannot_give_is_refused_by_name(changes: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        teacher().answer(request(**changes))


def sent(seed: int) -> bytes:
    return tensors.encode({"images": torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))})


def test_images_that_are_sent_are_told_apart_by_their_pixels() -> None:
    taught, asked = teacher(), request(views=())
    first, second, again = (taught.answer(asked, images=sent(seed)) for seed in (1, 2, 1))
    assert taught.num_forwards == 2 and [answer.is_cached for answer in (first, second, again)] == [False, False, True]
    assert bytes(first.parcel.view) == bytes(again.parcel.view) != bytes(second.parcel.view)


def test_what_is_taught_is_said_in_evaluation_mode() -> None:
    network = build(NETWORK, seed=1)
    found = tensors.decode(teacher().answer(request(views=(), codec="float32"), images=sent(1)).parcel.view)["logits"]
    images = normalized(tensors.decode(sent(1))["images"], NETWORK.normalization)
    with torch.no_grad():
        assert torch.allclose(found, network.eval()(images)["logits"], atol=1e-6)
        assert not torch.allclose(found, network.train()(images)["logits"], atol=1e-2)


def test_answers_that_take_too_much_memory_are_forgotten_the_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    taught = teacher()
    size = taught.answer(request(views=()), images=sent(0)).parcel.size_bytes
    monkeypatch.setattr(teaching, "CACHED_BYTES", 2 * size)
    cached = [taught.answer(request(views=()), images=sent(seed)).is_cached for seed in (1, 0, 2, 0, 1)]
    assert cached == [False, True, False, True, False], "0 was used again, so 1 was the oldest when 2 came"


def test_by_default_answers_of_a_quarter_of_a_gibibyte_are_kept() -> None:
    half = 128 * 2**20

    def pretending(sizes: list[int]) -> Teacher:
        class Large(Parcel):
            """Says that it is larger than it is."""

            def __init__(self, size_bytes: int) -> None:
                super().__init__(size_bytes)
                self.size_bytes = sizes.pop(0)

        return teacher(allocate=lambda size_bytes, ways: Large(size_bytes))

    for sizes, asked, is_kept in (
        ([0, half, half], (1, 2, 1), True),
        ([0, half, half + 1, half], (1, 2, 1), False),
        ([0, 1, 3 * half], (1, 2, 2), True),
    ):
        taught = pretending(sizes)
        answers = [taught.answer(request(views=()), images=sent(seed)) for seed in asked]
        assert [answer.is_cached for answer in answers] == [False, False, is_kept], "the last one in any case"


def test_a_teacher_can_be_told_of_more_data_and_keeps_those_that_it_has() -> None:
    taught, more = teacher(), open_dataset(SPEC.replace("seed=5", "seed=6"))
    taught.teach_about(DataSource(spec=SPEC.replace("seed=5", "seed=6"), content_digest=more.digest))
    first, second = taught.answer(request()), taught.answer(request(dataset=more.digest))
    assert bytes(first.parcel.view) != bytes(second.parcel.view) and taught.num_forwards == 2
    with pytest.raises(ContractError, match="dataset"):
        taught.answer(request(dataset="other"))


def test_a_teacher_without_data_is_sent_images_or_says_so() -> None:
    stored = encode_weights(NETWORK, dict(build(NETWORK, seed=1).state_dict()))
    taught = Teacher(NETWORK, "ab" * 32, None, stored=stored, device=CPU)
    with pytest.raises(DatasetError, match="no dataset"):
        taught.answer(request())
    assert not taught.answer(request(views=()), images=sent(1)).is_cached
    for images in ({"images": torch.zeros(2, 4, 32, 32)}, {"images": torch.zeros(3, 32, 32)}, {"pictures": torch.zeros(1)}):
        with pytest.raises(ContractError, match="images"):
            taught.answer(request(views=()), images=tensors.encode(images))


def test_the_shortest_codec_is_chosen_by_what_the_student_may_lose() -> None:
    exact, rough = (teacher().answer(request(codec="auto", max_kl=max_kl)).parcel.size_bytes for max_kl in (0.0, 10.0))
    assert rough < exact / 2


def test_a_teacher_that_is_closed_lets_go_of_all_that_it_made_to_hand_over() -> None:
    made: list[Parcel] = []
    closed: list[Parcel] = []

    class Remembering(Parcel):
        def __init__(self, size_bytes: int) -> None:
            super().__init__(size_bytes)
            made.append(self)

        def close(self) -> None:
            closed.append(self)

    taught = teacher(allocate=lambda size_bytes, ways: Remembering(size_bytes))
    for views in (((0, 11),), ((3, 12),)):
        taught.answer(request(views=views))
    assert not closed
    taught.close()
    assert len(made) == 3 and {id(one) for one in closed} == {id(one) for one in made}, "weights and two answers"
