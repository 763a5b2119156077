"""GPU memory as a way for pieces, by a GPU of the tests' own: offered to whoever computes on the same one, and never needed."""

import queue
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from experiments import SPEC
from fake_gpu import FakeGpu
from sides import Side, wait_until

from agentkd.agents.feeding import DatasetFeed
from agentkd.agents.landing import Landing
from agentkd.agents.recording import Recorder
from agentkd.agents.remote_lesson import RemoteLesson
from agentkd.agents.teaching import Teacher
from agentkd.artifacts.store import Store
from agentkd.datasets.opening import open_dataset
from agentkd.errors import ExchangeError, RemoteProtocolError
from agentkd.exchange import cuda, pieces
from agentkd.exchange.blocks import GRANULE, HEAD, BlockPool, Mappings
from agentkd.exchange.cuda import Cuda, find_gpu
from agentkd.exchange.pieces import Carrier
from agentkd.exchange.post import PLAIN_HELLO, Delivery, Manners
from agentkd.exchange.transports import find_transport
from agentkd.knowledge.weights import encode_weights
from agentkd.messages.bodies import KnowledgeReply, KnowledgeRequest, Piece, ReleaseEvent, TaughtBy, Way
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.objectives import Features, SoftTargets
from agentkd.recipe import Distillation, Recipe, ViewSettings
from agentkd.task import DataSource, Distill, TeacherReference

CPU = torch.device("cpu")
PEER, OTHER = "p" * 40, "o" * 40
NETWORK = resolve("tiny_networks:tiny", 5, {"width": 8})
WEIGHTS = "ab" * 32
STEPS = 8


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    monkeypatch.setattr(pieces, "DEVICE_BYTES", 0)


class Agent(Side):
    """One end, with a carrier, that says which GPU it computes on."""

    def __init__(self, gpu: FakeGpu | None, **options: Any) -> None:
        hello = PLAIN_HELLO.model_copy(update={"gpu": gpu.uuid if gpu else ""})
        super().__init__("ipc://*", manners=Manners(hello=hello))
        self.carrier = Carrier(self.post, None, gpu=gpu, **options)  # type: ignore[arg-type]

    def close(self) -> None:
        self.carrier.close()
        self.post.close()


class School:
    """A teacher and a student in one process, over sockets."""

    def __init__(self, teachers: FakeGpu | None, students: FakeGpu | None, **options: Any) -> None:
        self.teaching, self.learning = Agent(teachers), Agent(students, **options)
        self.teaching.post._deliver = self._teach
        self.learning.post._deliver = self._hear
        self.teaching.post.allow([self.learning.key])
        stored = encode_weights(NETWORK, dict(build(NETWORK, seed=1).state_dict()))
        self.source = DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest)
        self.teacher = Teacher(NETWORK, WEIGHTS, self.source, stored=stored, device=CPU, allocate=self.teaching.carrier.allocate)
        self.inbox: queue.Queue[Delivery] = queue.Queue()
        self.ways: list[Way] = []
        self.spoil = lambda piece: piece

    def _teach(self, delivery: Delivery) -> None:
        body = delivery.message.body
        if isinstance(body, ReleaseEvent):
            self.teaching.carrier.release(delivery.sender, body.leases)
        elif isinstance(body, KnowledgeRequest):
            answer = self.teacher.answer(body)
            piece, buffers = self.teaching.carrier.pack(delivery.sender, answer.parcel, body.ways)
            self.ways.append(piece.way)
            reply = KnowledgeReply(kind=body.kind, weights=WEIGHTS, piece=self.spoil(piece))
            self.teaching.post.send(delivery.sender, reply, parent_id=delivery.message.msg_id, buffers=buffers)

    def _hear(self, delivery: Delivery) -> None:
        if isinstance(delivery.message.body, KnowledgeReply):
            self.inbox.put(delivery)

    def lesson(self, recorder: Recorder | None = None, **fields: Any) -> RemoteLesson:
        task = Distill(
            architecture=NETWORK,
            data=self.source,
            recipe=Recipe(epochs=4, batch_size=2, views=ViewSettings(crop_height=32, crop_width=32)),
            teachers=(TeacherReference(architecture=NETWORK, weights=WEIGHTS),),
            distillation=Distillation(**fields),
        )
        gpu = self.learning.carrier.gpu
        return RemoteLesson(
            task,
            DatasetFeed(task),
            (TaughtBy(weights=WEIGHTS, peer=self.teaching.address),),
            post=self.learning.post,
            carrier=self.learning.carrier,
            inbox=self.inbox,
            check=lambda: None,
            total_steps=STEPS,
            obtain=lambda digest: b"",
            recorder=recorder,
            landing=Landing(CPU) if gpu else None,
        )

    def told(self, **fields: Any) -> list[dict[str, torch.Tensor]]:
        """What the student hears in all steps."""
        lesson = self.lesson(**fields)
        try:
            self.wait_for_greeting()
            return [{name: value.clone() for name, value in lesson.hear(step, {})[0].items()} for step in range(STEPS)]
        finally:
            lesson.close()

    def greet(self) -> None:
        self.learning.reach(self.teaching)
        self.wait_for_greeting()

    def wait_for_greeting(self) -> None:
        """What is asked before goes by the host."""
        wait_until(lambda: self.learning.post.peer(self.teaching.key) is not None)

    def close(self) -> None:
        self.teacher.close()
        for agent in (self.teaching, self.learning):
            agent.close()


@pytest.fixture
def schools() -> Iterator[Any]:
    made: list[School] = []

    def make(*gpus: FakeGpu | None, **options: Any) -> School:
        made.append(School(*gpus, **options))
        return made[-1]

    yield make
    for school in made:
        school.close()


def same(ones: list[dict[str, torch.Tensor]], others: list[dict[str, torch.Tensor]]) -> bool:
    return all(
        one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        for one, other in zip(ones, others, strict=True)
    )


@pytest.mark.parametrize(
    "fields",
    [{}, {"codec": "int8"}, {"codec": "top1"}, {"objectives": (SoftTargets(), Features({"body.2": "body.2"}))}],
    ids=["logits", "int8", "top classes", "features"],
)
def test_what_is_heard_has_the_same_bits_as_by_the_host_and_nothing_stays_lent(schools: Any, fields: dict[str, Any]) -> None:
    expected = schools(None, None).told(**fields)
    gpus = FakeGpu(), FakeGpu()
    school = schools(*gpus)
    assert same(school.told(**fields), expected)
    assert set(school.ways) == {Way.DEVICE}
    wait_until(lambda: school.teaching.carrier.num_leases == 0)
    assert not gpus[1].mapped, "the lesson is over"
    school.close()
    assert not gpus[0].owned


def test_a_recording_holds_the_bytes_that_it_would_hold_by_the_host(schools: Any, tmp_path: Path) -> None:
    digests = []
    for number, gpus in enumerate(((None, None), (FakeGpu(), FakeGpu()))):
        school = schools(*gpus)
        recorder = Recorder(tmp_path / f"lesson-{number}.jsonl", Store(tmp_path / f"store-{number}"))
        lesson = school.lesson(recorder)
        school.wait_for_greeting()
        for step in range(STEPS):
            lesson.hear(step, {})
        lesson.close()
        lesson.summary()
        place = tmp_path / f"store-{number}"
        digests.append({str(file.relative_to(place)) for file in place.rglob("*") if file.is_file()})
    assert set(school.ways) == {Way.DEVICE}
    assert len(digests[0]) > STEPS and len(digests[0] & digests[1]) >= STEPS, "the recording itself says how long it took"


@pytest.mark.parametrize(
    "gpus",
    [(FakeGpu(1), FakeGpu(2)), (FakeGpu(), None), (None, FakeGpu()), (FakeGpu(can_share=False), FakeGpu())],
    ids=["another GPU", "a student without", "a teacher without", "a driver that shares none"],
)
def test_whatever_is_missing_the_host_is_the_way(schools: Any, gpus: tuple[FakeGpu | None, FakeGpu | None]) -> None:
    school, expected = schools(*gpus), schools(None, None).told()
    assert same(school.told(), expected)
    assert Way.DEVICE not in school.ways
    assert not any(gpu.owned or gpu.mapped for gpu in gpus if gpu)


def test_on_another_host_or_by_another_transport_it_is_not_offered(schools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    school = schools(FakeGpu(), FakeGpu(), ways=find_transport("shared").ways)
    assert Way.DEVICE not in school.learning.carrier.ways_to(school.teaching.key)
    other = schools(FakeGpu(), FakeGpu())
    other.greet()
    assert other.learning.carrier.ways_to(other.teaching.key)[0] is Way.DEVICE
    monkeypatch.setattr("agentkd.exchange.post.host_name", lambda folder=None: "another")
    assert Way.DEVICE not in other.learning.carrier.ways_to(other.teaching.key)


SPOILED = {
    "a handle of nothing": {"handle": "00" * 64},
    "a handle of another process": {"handle": "7" * 128},
    "another GPU": {"gpu": "f" * 32},
    "before its block": {"offset": 0},
    "behind its block": {"offset": 2**62},
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_a_handle_that_is_none_sends_the_piece_the_other_way_at_once(schools: Any, spoiled: str) -> None:
    expected = schools(None, None).told()
    school = schools(FakeGpu(), FakeGpu())
    change = {"update": SPOILED[spoiled]}
    school.spoil = lambda piece: piece.model_copy(update={"block": piece.block.model_copy(**change)}) if piece.block else piece
    assert same(school.told(), expected)
    assert school.ways.count(Way.DEVICE) <= STEPS, "those that were asked before the first came"
    assert Way.INLINE in school.ways
    assert Way.DEVICE not in school.learning.carrier.ways_to(school.teaching.key)
    wait_until(lambda: school.teaching.carrier.num_leases == 0)


def test_a_block_that_is_used_again_while_it_is_read_is_asked_for_again(schools: Any) -> None:
    expected = schools(None, None).told()
    school = schools(FakeGpu(), FakeGpu())
    stale = [True]

    def spoil(piece: Piece) -> Piece:
        if piece.block is None or not stale:
            return piece
        stale.clear()
        return piece.model_copy(update={"block": piece.block.model_copy(update={"generation": 99})})

    school.spoil = spoil
    assert same(school.told(), expected)
    assert set(school.ways) == {Way.DEVICE} and len(school.ways) == STEPS + 1


def test_where_the_pool_or_the_gpu_has_no_more_the_host_has(schools: Any) -> None:
    expected = schools(None, None).told()
    school = schools(FakeGpu(memory_bytes=2 * GRANULE), FakeGpu())
    assert same(school.told(), expected)
    assert school.ways.count(Way.DEVICE) == 2 and school.ways.count(Way.INLINE) == STEPS - 2, "answers are kept"


def test_nobody_is_handed_gpu_memory_who_did_not_ask_for_it(schools: Any) -> None:
    school = schools(FakeGpu(), FakeGpu())
    school.greet()
    parcel = school.teaching.carrier.allocate(1000, (Way.DEVICE,))
    wait_until(lambda: school.teaching.post.peer(school.learning.key) is not None)
    piece, buffers = school.teaching.carrier.pack(school.learning.key, parcel, (Way.DEVICE, Way.INLINE))
    assert piece.way is Way.DEVICE and not buffers
    with pytest.raises(RemoteProtocolError, match="asked for"):
        school.learning.carrier.fetch(school.teaching.key, piece)
    with pytest.raises(RemoteProtocolError, match="asked for"):
        Carrier(school.learning.post).fetch(school.teaching.key, piece, land=lambda array: array)
    parcel.close()


def test_what_is_in_gpu_memory_is_copied_once_for_who_takes_it_by_the_host(schools: Any) -> None:
    carrier = schools(FakeGpu(), None).teaching.carrier
    parcel = carrier.allocate(1000, (Way.DEVICE,))
    torch.as_tensor(parcel.array).copy_(torch.arange(1000) % 251)
    assert bytes(parcel.view) == bytes(number % 251 for number in range(1000))
    assert parcel.view is parcel.view and bytes(parcel.source().read(2, 3)) == bytes([2, 3, 4])
    parcel.close()
    parcel.close()


def test_a_pool_uses_blocks_again_gives_up_those_that_are_too_small_and_never_has_more_than_it_may() -> None:
    gpu = FakeGpu()
    pool = BlockPool(gpu, capacity_bytes=4 * GRANULE)
    first = pool.take(10)
    lease = pool.lease(PEER, first)
    assert (lease.generation, lease.offset, first.capacity) == (1, HEAD, GRANULE)
    pool.give(first)
    pool.release(OTHER, (lease.lease,))
    assert pool.num_leases == 1, "a lease is released by whoever holds it"
    pool.release(PEER, (lease.lease,))
    assert pool.take(GRANULE - HEAD) is first and first.generation == 2
    second, third = pool.take(GRANULE), pool.take(1)
    assert second.capacity == 2 * GRANULE
    with pytest.raises(ExchangeError, match="left"):
        pool.take(1)
    pool.give(first)
    pool.give(third)
    large = pool.take(GRANULE)
    assert len(gpu.owned) == 2, "the two small ones have made room"
    pool.give(second)
    pool.close()
    assert len(gpu.owned) == 1
    pool.give(large)
    assert not gpu.owned


def test_a_block_that_a_lost_reader_held_is_used_again_and_the_reader_would_know() -> None:
    owner, reader = FakeGpu(), FakeGpu()
    pool, mappings = BlockPool(owner), Mappings(reader)
    block = pool.take(10)
    found = mappings.find(PEER, pool.lease(PEER, block), 10)
    found.check()
    pool.give(block)
    pool.peer_gone(PEER)
    assert pool.take(10) is block
    with pytest.raises(ExchangeError, match="used again"):
        found.check()
    for _ in range(70):
        pool.lease(PEER, block)
    assert pool.num_leases == 64, "the oldest are dropped"
    pool.give(block)
    mappings.close()
    pool.close()


def test_mappings_are_kept_for_the_next_piece_and_let_go_with_their_owner_or_when_there_are_too_many() -> None:
    owner, reader = FakeGpu(), FakeGpu()
    pool, mappings = BlockPool(owner), Mappings(reader, most=2)
    blocks = [pool.take(10) for _ in range(3)]
    for block in (blocks[0], blocks[1], blocks[0], blocks[2]):
        mappings.find(PEER, pool.lease(PEER, block), 10)
        assert len(reader.mapped) <= 2
    mappings.find(OTHER, pool.lease(OTHER, blocks[0]), 10)
    mappings.part(PEER)
    assert len(reader.mapped) == 1
    mappings.close()
    assert not reader.mapped
    for block in blocks:
        pool.give(block)
    pool.close()


@pytest.fixture
def driver_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Has another library taken for the driver's."""

    def take(path: str) -> None:
        monkeypatch.setattr(cuda, "LIBRARY", path)
        cuda._library.cache_clear()

    yield take
    cuda._library.cache_clear()


def test_without_a_driver_there_is_no_gpu(driver_at: Callable[[str], None]) -> None:
    driver_at("libthere-is-none.so")
    assert find_gpu(0) is None
    with pytest.raises(ExchangeError, match="no CUDA driver"):
        Cuda(0)


def test_a_driver_that_lacks_a_function_is_none(driver_at: Callable[[str], None]) -> None:
    driver_at("libc.so.6")
    with pytest.raises(ExchangeError, match="too old: it has no cuInit"):
        Cuda(0)


def test_the_driver_is_called_as_its_header_says(driver_at: Callable[[str], None], tmp_path: Path) -> None:
    """By a library with the functions that are used, over memory of the host."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    source, library = Path(__file__).parents[1] / "fake_cuda.c", tmp_path / "libcuda.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    driver_at(str(library))
    gpu = Cuda(0)
    assert gpu.uuid == "ab" * 16
    address = gpu.allocate(GRANULE)
    gpu.write(address + 10, b"hello")
    found = bytearray(5)
    gpu.read(address + 10, memoryview(found))
    assert bytes(found) == b"hello"
    assert (gpu.extent(address), gpu.extent(address + 10)) == (GRANULE, GRANULE - 10)
    handle = gpu.export(address)
    assert len(handle) == 64 and gpu.map(handle) == address
    gpu.unmap(address)
    assert gpu.array(address, 5).__cuda_array_interface__ == {
        "shape": (5,),
        "typestr": "|u1",
        "data": (address, False),
        "strides": None,
        "version": 2,
    }
    gpu.free(address)
    with pytest.raises(ExchangeError, match="cuMemAlloc_v2: the CUDA driver says CUDA_ERROR_OUT_OF_MEMORY"):
        gpu.allocate(2**40)
    with pytest.raises(ExchangeError, match="cuIpcOpenMemHandle_v2"):
        gpu.map(b"\1" * 8 + bytes(56))
    with pytest.raises(ExchangeError, match="64 octets, not 3"):
        gpu.map(b"abc")
    with pytest.raises(ExchangeError, match="cuDeviceGet: the CUDA driver says 101"):
        Cuda(1)
