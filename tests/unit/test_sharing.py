"""Data and architectures as knowledge: packed where they are, checked where they arrive, and granted for what they are."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load, save
from serving_agent import ServingAgent

from agentkd.agents.agent import Agent, AgentSettings
from agentkd.architecture import Architecture
from agentkd.artifacts.run_folder import RunFolder
from agentkd.artifacts.store import Store
from agentkd.canonical import digest_bytes
from agentkd.code import loading
from agentkd.code.source import SourceCode
from agentkd.coordinator.guests import Guest
from agentkd.coordinator.handing_over import HandingOver
from agentkd.datasets import shared
from agentkd.datasets.opening import open_dataset
from agentkd.errors import (
    AgentKDError,
    ArtifactNotFoundError,
    ConfigError,
    ContractError,
    DatasetError,
    RemoteProtocolError,
    Rule,
)
from agentkd.exchange.keys import new_key_pair
from agentkd.exchange.post import Delivery
from agentkd.knowledge import tensors
from agentkd.knowledge.sharing import MAX_ARCHITECTURE_BYTES, decode_architecture, encode_architecture
from agentkd.knowledge.weights import encode_weights
from agentkd.messages.bodies import (
    AdmittedPeer,
    ErrorReply,
    HelloRequest,
    KnowledgeKind,
    KnowledgeReply,
    KnowledgeRequest,
    Piece,
    TaskReply,
    TaskRequest,
    TeachRequest,
    Way,
)
from agentkd.messages.wire import Message
from agentkd.names import Digest, shared_data
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.recipe import ViewSettings
from agentkd.task import DataSource, Pack, Train
from agentkd.testing import Community

NETWORK = resolve("unet", 3, {"base": 8, "depth": 2})
RECIPE: dict[str, Any] = {"epochs": 1, "batch_size": 2, "views": ViewSettings(crop_height=32, crop_width=32)}
SECRET = "burnt-on-the-hill"


def write_folder(place: Path) -> str:
    """Six images of two sizes, named by what nobody is to learn, and of three videos."""
    rng = np.random.default_rng(5)
    for split, numbers in (("train", range(4)), ("validation", range(4, 6))):
        for number in numbers:
            size = (48, 32) if number == 2 else (32, 32)
            for kind, pixels in (("images", rng.integers(0, 256, (*size, 3))), ("masks", rng.integers(0, 3, size))):
                file = place / split / kind / f"{SECRET}-{number // 2}_{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(file)
    described = {"name": "hills", "classes": ["a", "b", "c"], "format": "index-mask", "group_separator": "_"}
    layout = {"images": "{split}/images/{stem}.png", "masks": "{split}/masks/{stem}.png"}
    (place / "dataset.yaml").write_text(json.dumps(described | {"layout": layout}))
    return f"folder:path={place}"


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServingAgent]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    made = ServingAgent(tmp_path)
    yield made
    made.close()


@pytest.fixture
def spec(tmp_path: Path) -> str:
    return write_folder(tmp_path / "data")


def packed(spec: str, *splits: str) -> bytes:
    return shared.pack(open_dataset(spec), splits or ("train", "validation"))


def arrived(data: bytes, place: Path) -> shared.SharedDataset:
    """As it is opened where it has come to."""
    digest = Store(place).put(data)
    return shared.SharedDataset(Store(place).path(digest), digest)


def test_what_arrives_is_what_was_packed_but_for_where_it_lay(spec: str, tmp_path: Path) -> None:
    ours, data = open_dataset(spec), packed(spec)
    theirs = arrived(data, tmp_path / "store")
    assert (theirs.classes, theirs.colors, theirs.ignore_index) == (ours.classes, ours.colors, ours.ignore_index)
    assert theirs.splits == {"train": (0, 1, 2, 3), "validation": (4, 5)} and theirs.digest == digest_bytes(data)
    for number, index in enumerate((*ours.splits["train"], *ours.splits["validation"])):
        sample, copy = ours.sample(index), theirs.sample(number)
        assert np.array_equal(sample.image, copy.image) and np.array_equal(sample.label, copy.label)
        assert theirs.size_of(number) == ours.size_of(index)
    together = [[theirs.group(a) == theirs.group(b) for a in range(6)] for b in range(6)]
    indices = (*ours.splits["train"], *ours.splits["validation"])
    assert together == [[ours.group(a) == ours.group(b) for a in indices] for b in indices]
    assert SECRET.encode() not in data and str(tmp_path).encode() not in data
    assert packed(spec) == data and packed(spec, "validation", "train") != data
    with pytest.raises(DatasetError, match="no sample 6"):
        theirs.sample(6)


@pytest.mark.parametrize("splits", [(), ("train", "train"), ("train", "no such")])
def test_splits_that_are_none_are_not_packed(spec: str, splits: tuple[str, ...]) -> None:
    with pytest.raises(DatasetError):
        shared.pack(open_dataset(spec), splits)


def test_what_is_too_much_for_one_piece_is_not_packed(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(spec)
    size = sum(4 * height * width for height, width in map(dataset.size_of, dataset.splits["train"]))
    assert len(shared.pack(dataset, ["train"], max_bytes=size)) > size
    with pytest.raises(DatasetError, match="too much to share"):
        shared.pack(dataset, ["train"], max_bytes=size - 1)
    monkeypatch.setattr(shared, "MAX_RUNS", 2)
    with pytest.raises(DatasetError, match="3 sizes in turn"):
        shared.pack(dataset, ["train"])
    monkeypatch.undo()
    monkeypatch.setattr(shared, "MAX_HEAD_BYTES", 400)
    with pytest.raises(DatasetError, match="to say what is in it"):
        shared.pack(dataset, ["train"])


Change = Callable[[dict[str, NDArray[Any]], dict[str, Any]], None]


def _labels(arrays: dict[str, NDArray[Any]], value: int) -> None:
    arrays["run.0.labels"] = arrays["run.0.labels"].copy()
    arrays["run.0.labels"][0, 0, 0] = value


WRONG: dict[str, Change] = {
    "a label that is no class": lambda arrays, told: _labels(arrays, 3),
    "labels of another type": lambda arrays, told: arrays.update({"run.0.labels": arrays["run.0.labels"].astype(np.int32)}),
    "labels of another size": lambda arrays, told: arrays.update({"run.0.labels": arrays["run.0.labels"][:, 1:]}),
    "images of four channels": lambda arrays, told: arrays.update({"run.0.images": np.zeros((2, 32, 32, 4), np.uint8)}),
    "a run that lacks its labels": lambda arrays, told: arrays.pop("run.0.labels") is None,
    "a run out of turn": lambda arrays, told: arrays.update({"run.9.images": arrays.pop("run.0.images")}),
    "another tensor": lambda arrays, told: arrays.update({"weights": np.zeros(1, np.float32)}),
    "no groups": lambda arrays, told: arrays.pop("groups") is None,
    "groups of others": lambda arrays, told: arrays.update({"groups": arrays["groups"][1:]}),
    "tiny images": lambda arrays, told: arrays.update(
        {"run.0.images": arrays["run.0.images"][:, :8], "run.0.labels": arrays["run.0.labels"][:, :8]}
    ),
    "more samples than there are": lambda arrays, told: told["splits"].update({"train": 5}),
    "fewer samples than there are": lambda arrays, told: told["splits"].update({"train": 3}),
    "a negative number of samples": lambda arrays, told: told["splits"].update({"train": 8, "validation": -2}),
    "a split with a path for a name": lambda arrays, told: told["splits"].update({"../x": 0}),
    "one class": lambda arrays, told: told.update({"classes": ["a"], "colors": [[0, 0, 0]]}),
    "two classes of one name": lambda arrays, told: told.update({"classes": ["a", "a", "c"]}),
    "a color too few": lambda arrays, told: told["colors"].pop() is None,
    "a color that is none": lambda arrays, told: told["colors"].__setitem__(0, [0, 0, 256]),
    "another kind": lambda arrays, told: told.update({"kind": "weights"}),
    "an ignored label that is none": lambda arrays, told: told.update({"ignore_index": 256}),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_what_arrives_and_is_no_dataset_is_refused(spec: str, tmp_path: Path, change: Change) -> None:
    data = packed(spec)
    head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    told, arrays = json.loads(head["__metadata__"]["agentkd"]), load(data)
    honest = save(arrays, metadata={"agentkd": json.dumps(told)})
    assert len(arrived(honest, tmp_path / "store").splits["train"]) == 4
    change(arrays, told)
    with pytest.raises(DatasetError, match="shared data"):
        arrived(save(arrays, metadata={"agentkd": json.dumps(told)}), tmp_path / "store")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 2**21) + b"{" + b" " * 2**21,
        save({"a": np.zeros(1, np.float32)}),
        save({"groups": np.zeros(0, np.int32)}, metadata={"agentkd": "[" * 100_000}),
    ],
    ids=["empty", "short", "a head of exabytes", "a long head", "nothing said", "nested"],
)
def test_what_arrives_and_is_no_such_file_is_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="shared data"):
        arrived(data, tmp_path)


def test_a_file_that_changed_is_refused(spec: str, tmp_path: Path) -> None:
    data = bytearray(packed(spec))
    digest = Store(tmp_path).put(bytes(data))
    data[-1] ^= 1
    Store(tmp_path).path(digest).write_bytes(data)
    with pytest.raises(DatasetError, match="has the digest"):
        shared.SharedDataset(Store(tmp_path).path(digest), digest)


def test_a_specification_names_the_files_that_it_needs_wherever_it_names_them() -> None:
    one, other = "1" * 64, "a" * 64
    assert shared_data(f"joined:few:8:shared:{one}|unlabelled:shared:{other}|only:a+b:shared:{one}") == (one, other)
    for none in (f"folder:path=/shared:{one}/x", f"folder:path=shared:{one},size=32x32", f"shared:{one}a", "shared:x", one):
        assert shared_data(none) == ()
    source = DataSource(spec=f"shared:{one}", content_digest=Digest(one))
    task = Train(architecture=NETWORK, data=source)
    assert list(task.reads()) == [("looks at shared data", one)] == list(task.references())


@pytest.mark.parametrize(
    "spec", [f"shared:{digest}" for digest in ("", "abc", "g" * 64, "a" * 64)] + ["few:2:shared:" + "b" * 64]
)
def test_data_that_are_named_wrongly_or_have_not_come_are_said_to_be_so(spec: str) -> None:
    with pytest.raises(DatasetError, match=r"shared"):
        open_dataset(spec)


# Architectures.


def test_an_architecture_arrives_as_it_is_with_its_classes() -> None:
    own = Architecture(family="nets:mine", num_classes=2, code="c" * 64, settings={"width": 3})
    for network, classes in ((NETWORK, ("a", "b", "c")), (own, ())):
        assert decode_architecture(encode_architecture(network, classes)) == (network, classes)


@pytest.mark.parametrize(
    "data",
    [
        encode_weights(NETWORK, dict(build(NETWORK, seed=1).state_dict())),
        tensors.encode({}),
        tensors.encode({}, {"kind": "architecture"}),
        tensors.encode({}, {"kind": "data", "architecture": NETWORK.canonical()}),
        tensors.encode({}, {"kind": "architecture", "architecture": {"family": "unet"}}),
        tensors.encode({}, {"kind": "architecture", "architecture": NETWORK.canonical() | {"run": "rm"}}),
        encode_architecture(NETWORK, ("a", "b")),
        encode_architecture(NETWORK) + b" " * MAX_ARCHITECTURE_BYTES,
        b"{}",
    ],
    ids=["weights", "nothing", "none", "another kind", "half of one", "more in it", "other classes", "too long", "no file"],
)
def test_what_is_no_architecture_is_refused(data: bytes) -> None:
    with pytest.raises((ContractError, RemoteProtocolError)):
        decode_architecture(data)


# In a community.


def test_an_agent_learns_from_shared_data_when_the_files_are_gone(spec: str, tmp_path: Path) -> None:
    with Community(devices="cpu:2", record=tmp_path / "run") as community:
        owner, other = (community.agent(name, "unet", base=8, depth=2) for name in ("owner", "other"))
        with pytest.raises(ConfigError, match="met no data"):
            owner.share_data()
        owner.train(f"few:2:{spec}", **RECIPE).result()
        data = owner.share_data(spec).result()
        assert len(owner.share_data().result().splits["train"]) == 2, "what it learned, if nothing else is said"
        for file in (tmp_path / "data").rglob("*.png"):
            file.unlink()
        result = other.distill(owner, f"joined:few:2:{data.spec}|{data.spec}", **RECIPE).result()
        assert other.evaluate(data, split="validation").miou >= 0 and community.shared_data(data.digest).splits == data.splits
    assert result.weights
    with Community(devices="cpu:2", record=tmp_path / "run") as again:
        student = again.agent("again", "unet", base=8, depth=2)
        assert student.train(data.spec, **RECIPE).result().weights, "in a later session too"


def test_an_agent_becomes_what_another_is(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    with Community(devices="cpu:2", record=tmp_path / "run") as community:
        teacher, student = community.agent("t", "tiny_networks:tiny", width=12), community.agent("s", "unet")
        assert teacher.share_architecture(spec).result().settings == {"width": 12}
        student.become(teacher.share_architecture(spec).result())
        assert student.architecture == teacher.architecture and student.architecture.code
        monkeypatch.setattr("agentkd.networks.families.resolve", lambda *rest: pytest.fail("its code is looked for here"))
        assert student.train(spec, **RECIPE).result().weights


def test_a_task_of_packing_says_what_is_packed() -> None:
    work: dict[str, Any] = {"architecture": NETWORK, "data": DataSource(spec="s", content_digest=Digest("d"))}
    wrong: list[dict[str, Any]] = [{"what": "data"}, {"what": "weights"}, {"what": "architecture", "splits": ("train",)}]
    for fields in [*wrong, {"what": "data", "splits": ("train", "train")}, {}]:
        with pytest.raises(ValueError):
            Pack(**work, **fields)


# Handed over by an agent, and by a coordinator.


def test_an_agent_hands_over_what_its_network_is(agent: ServingAgent) -> None:
    asked: dict[str, Any] = {"kind": KnowledgeKind.ARCHITECTURE}
    with pytest.raises(ArtifactNotFoundError, match="teaches nothing"):
        agent.hand_over(**asked)
    agent.teach()
    reply, data = agent.hand_over(**asked)
    assert decode_architecture(data) == (agent.network, ()) and reply.kind is KnowledgeKind.ARCHITECTURE
    with pytest.raises(ContractError, match="weights"):
        agent.hand_over(**asked, weights=agent.store(seed=2))
    assert [(line["kind"], line["outcome"], line["size_bytes"]) for line in agent.noted()] == [
        ("architecture", "served", len(data))
    ]


def test_an_agent_hands_over_data_that_are_named_or_that_it_shares(agent: ServingAgent, spec: str) -> None:
    data = packed(spec)
    digest, other = agent.folder.store.put(data), agent.folder.store.put(packed(spec, "train"))
    with pytest.raises(ArtifactNotFoundError, match="shares no data"):
        agent.hand_over(kind=KnowledgeKind.DATA)
    agent.serving.shares = other
    assert agent.hand_over(kind=KnowledgeKind.DATA, dataset=digest)[1] == data
    reply, default = agent.hand_over(kind=KnowledgeKind.DATA)
    assert digest_bytes(default) == other and reply.weights == agent.weights
    for wrong in (agent.weights, "9" * 64, "not a digest"):
        with pytest.raises(AgentKDError):
            agent.hand_over(kind=KnowledgeKind.DATA, dataset=wrong)
    assert [(line["kind"], line["digest"]) for line in agent.noted()] == [("data", digest), ("data", other)]


def test_data_go_by_the_grant_for_data_whatever_they_are_asked_for_as(agent: ServingAgent, spec: str) -> None:
    digest = agent.folder.store.put(packed(spec))
    for may, is_served in ((("weights",), False), (("weights", "data"), True)):
        agent.side.post.admit([AdmittedPeer(agent="ann", public_key=agent.peer.key, may=may)])
        if is_served:
            assert agent.hand_over(kind=KnowledgeKind.WEIGHTS, weights=digest)[0].kind is KnowledgeKind.WEIGHTS
        else:
            with pytest.raises(RemoteProtocolError) as refused:
                agent.hand_over(kind=KnowledgeKind.WEIGHTS, weights=digest)
            assert refused.value.rule is Rule.GRANT and agent.peer.inbox.empty()
    assert [(line["kind"], line["outcome"]) for line in agent.noted()] == [("data", "refused"), ("data", "served")]


def test_a_coordinator_hands_data_to_who_needs_them_or_may_have_data(agent: ServingAgent, spec: str) -> None:
    digest = agent.folder.store.put(packed(spec))
    handing_over = HandingOver(agent.folder, agent.side.post, agent.carrier)
    request = KnowledgeRequest(kind=KnowledgeKind.WEIGHTS, weights=digest, ways=(Way.INLINE,))
    for may, needed, is_served in (
        (("weights",), (), False),
        (("data",), (), False),
        (("weights", "data"), (), True),
        ((), (digest,), True),
    ):
        agent.side.post.admit([AdmittedPeer(agent="ann", public_key=agent.peer.key, may=may)])
        handing_over.answer(agent.asked(request), request, needed)
        body = agent.peer.inbox.get(timeout=10).message.body
        assert isinstance(body, KnowledgeReply if is_served else ErrorReply), may
    handing_over.close()
    lines = [json.loads(line) for line in (agent.folder.logs / "coordinator.audit.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines if line["outcome"] == "served"] == ["data", "data"]


def test_a_teacher_has_the_data_that_it_is_to_teach_about(agent: ServingAgent, spec: str) -> None:
    digest = digest_bytes(packed(spec))

    def obtain(wanted: Digest) -> None:
        agent.obtained.append(wanted)
        if wanted == digest:
            agent.folder.store.put(packed(spec))

    shared.look_in(agent.folder.store.place)
    source = DataSource(spec=f"shared:{digest}", content_digest=digest)
    request = TeachRequest(architecture=agent.network, weights=agent.weights, data=source)
    agent.serving.adopt(request, obtain)
    agent.serving.adopt(request.model_copy(update={"data": source}), obtain)
    assert agent.obtained.count(digest) == 2, "it is looked for each time, and is there the second"
    fields = {"dataset": digest, "views": ((4, 11),), "view_settings": ViewSettings(crop_height=32, crop_width=32)}
    assert agent.hand_over(kind=KnowledgeKind.SOFT_TARGETS, **fields)[0].weights == agent.weights


@pytest.mark.parametrize("shares_data", [False, True])
def test_an_agent_packs_data_of_its_host_only_if_its_owner_says_so(spec: str, tmp_path: Path, shares_data: bool) -> None:
    coordinator = new_key_pair()
    settings = AgentSettings(
        (), coordinator.public, new_key_pair(), device="cpu", threads=1, run_folder=tmp_path / "run", shares_data=shares_data
    )
    made = Agent(settings)
    said: list[Any] = []
    made.post.send = lambda peer, body, **rest: said.append(body) or 1  # type: ignore[method-assign, func-returns-value]
    source = DataSource(spec=spec, content_digest=open_dataset(spec).digest)
    for what, splits in (("data", ("train",)), ("architecture", ())):
        request = TaskRequest(task=Pack(architecture=NETWORK, data=source, what=what, splits=splits), attempt=1)
        made._answer(Delivery(coordinator.public, Message(request, 7, 0, "0" * 16)))
    made.post.close()
    first, second = said
    assert isinstance(second, TaskReply) and decode_architecture(made.folder.store.get(second.result.knowledge))[0] == NETWORK
    if shares_data:
        assert isinstance(first, TaskReply) and made._serving.shares == first.result.knowledge
    else:
        assert isinstance(first, ErrorReply) and first.code == "config" and first.task
        assert "--share-data" in first.text and made._serving.shares == ""


# Asked of a guest.


class Asked:
    """A crew whose guest answers with these bytes, and says what it was asked."""

    def __init__(self, place: Path, **answers: bytes) -> None:
        self.folder, self.answers, self.asked = RunFolder(place), answers, list[KnowledgeRequest]()
        self.ways = (Way.INLINE, Way.SHARED)
        self.teaches, self.classes = Digest("a" * 64), ("a", "b", "c")

    def invite(self, peer: AdmittedPeer) -> None: ...

    def greeting(self, key: str) -> HelloRequest:
        return HelloRequest(teaches=self.teaches, classes=self.classes)

    def ask(self, key: str, request: KnowledgeRequest, **rest: Any) -> SimpleNamespace:
        self.asked.append(request)
        name = "code" if request.weights == CODE.digest else str(request.kind)
        data = self.answers[name]
        piece = Piece(way=Way.INLINE, size_bytes=len(data), sha256=digest_bytes(data))
        body = KnowledgeReply(kind=request.kind, weights=request.weights, piece=piece)
        return SimpleNamespace(sender=key, message=SimpleNamespace(body=body, buffers=(data,)))

    def fetch(self, reply: SimpleNamespace) -> bytes:
        return bytes(reply.message.buffers[0])

    def keep(self, reply: SimpleNamespace, *, wanted: str, max_bytes: int) -> Digest:
        data = reply.message.buffers[0]
        if len(data) > max_bytes or wanted not in ("", digest_bytes(data)):
            raise RemoteProtocolError("over its limit, or another digest", Rule.LIMIT)
        return self.folder.store.put(data)

    @property
    def kept(self) -> list[Path]:
        return [path for path in self.folder.store.place.rglob("*") if path.is_file()]


CODE = SourceCode(files={"nets.py": "raise SystemExit('it ran')\n"})
OWN = Architecture(family="nets:mine", num_classes=3, code=CODE.digest)


def guest(crew: Asked) -> Guest:
    return Guest(crew, "ann", "k" * 40)  # type: ignore[arg-type]


def test_a_guest_is_asked_for_its_weights_which_are_checked(tmp_path: Path) -> None:
    state = dict(build(NETWORK, seed=1).state_dict())
    honest = encode_weights(NETWORK, state, ("a", "b", "c"))
    crew = Asked(tmp_path, weights=honest)
    crew.teaches = digest_bytes(honest)
    assert guest(crew).obtain_weights() == crew.teaches and crew.folder.store.get(crew.teaches) == honest
    for wrong in (
        encode_weights(NETWORK, state, ("a", "c", "b")),
        tensors.encode({}),
        b"no weights",
        encode_architecture(NETWORK),
    ):
        strange = Asked(tmp_path / "other", weights=wrong)
        strange.teaches = digest_bytes(wrong)
        with pytest.raises(AgentKDError):
            guest(strange).obtain_weights()
        assert strange.kept == []
        strange.teaches = Digest("b" * 64)
        with pytest.raises(AgentKDError):
            guest(strange).obtain_weights()


def test_a_guest_is_asked_for_what_it_makes_of_images_inside(tmp_path: Path) -> None:
    images, wanted = torch.rand(2, 3, 16, 16), {"logits": torch.rand(2, 3, 4, 4), "features.layer1": torch.rand(2, 7, 8, 8)}
    crew = Asked(tmp_path, feature_maps=tensors.encode(wanted))
    found = guest(crew).feature_maps(images, ["layer1"], num_classes=3)
    assert torch.equal(found["layer1"], wanted["features.layer1"]) and found["logits"].shape == (2, 3, 4, 4)
    assert [payload.name for payload in crew.asked[0].payloads] == ["logits", "features.layer1"]
    for name, value in (
        ("features.layer1", torch.rand(1, 7, 8, 8)),
        ("features.layer1", torch.rand(2, 7)),
        ("logits", torch.rand(2, 4, 4, 4)),
    ):
        crew.answers["feature_maps"] = tensors.encode(wanted | {name: value})
        with pytest.raises(ContractError):
            guest(crew).feature_maps(images, ["layer1"], num_classes=3)
    with pytest.raises(ContractError):
        guest(crew).feature_maps(images, ["layer2"], num_classes=3)


def test_a_guests_own_code_is_obtained_only_if_it_may_run_and_does_not_run_here(tmp_path: Path) -> None:
    crew = Asked(tmp_path, architecture=encode_architecture(OWN, ("a", "b", "c")), code=CODE.encode())
    with pytest.raises(ConfigError, match="allow_code=True"):
        guest(crew).obtain_architecture()
    assert crew.kept == [] and len(crew.asked) == 1
    assert guest(crew).obtain_architecture(allow_code=True) == OWN
    assert CODE.digest in crew.folder.store and not loading.is_provided(CODE.digest)
    crew.answers["code"] = b"other code"
    with pytest.raises(AgentKDError):
        guest(Asked(tmp_path / "x", **crew.answers)).obtain_architecture(allow_code=True)


def test_a_guests_architecture_is_checked_and_what_was_there_before_stays(tmp_path: Path) -> None:
    honest = encode_architecture(NETWORK, ("a", "b", "c"))
    crew = Asked(tmp_path, architecture=honest)
    assert guest(crew).obtain_architecture() == NETWORK and len(crew.kept) == 1
    crew.classes = ("c", "b", "a")
    with pytest.raises(ContractError, match="classes"):
        guest(crew).obtain_architecture()
    assert len(crew.kept) == 1, "a record may need it"
    for wrong in (b"none", encode_weights(NETWORK, dict(build(NETWORK, seed=1).state_dict()))):
        strange = Asked(tmp_path / "other", architecture=wrong)
        with pytest.raises(AgentKDError):
            guest(strange).obtain_architecture()
        assert strange.kept == []


def test_a_guest_is_asked_for_data_which_are_checked(spec: str, tmp_path: Path) -> None:
    data = packed(spec)
    crew = Asked(tmp_path / "run", data=data)
    shared.look_in(crew.folder.store.place)
    found = guest(crew).obtain_data()
    assert found.spec == f"shared:{digest_bytes(data)}" and found.classes == ("a", "b", "c")
    assert (crew.asked[0].dataset, crew.asked[0].weights, crew.asked[0].ways) == ("", crew.teaches, (Way.INLINE,))
    with pytest.raises(AgentKDError):
        guest(crew).obtain_data("b" * 64)
    crew.teaches = Digest("")
    assert guest(crew).obtain_data(found.digest).splits == found.splits and set(crew.asked[-1].weights) == {"0"}
    strange = Asked(tmp_path / "other", data=data[:-1])
    shared.look_in(strange.folder.store.place)
    with pytest.raises(DatasetError):
        guest(strange).obtain_data()
    assert strange.kept == []
