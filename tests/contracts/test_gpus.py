"""GPU memory between two processes: lent, read, used again, lost. By a GPU of the tests' own, and a real one if there is one."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from experiments import environment
from gpu_process import PEER, fill, gpu_named, pattern

from agentkd.agents.landing import Landing
from agentkd.errors import ExchangeError
from agentkd.exchange.blocks import BlockPool, Mapped, Mappings
from agentkd.exchange.cuda import Gpu
from agentkd.messages.handles import DeviceHandle

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]
SCRIPT = Path(__file__).parents[1] / "gpu_process.py"
SIZE = 3 * 1024**2 + 17
PATIENCE_S = 60


class Place:
    """A GPU as this process has it, and processes beside it."""

    def __init__(self, name: str, stack: contextlib.ExitStack) -> None:
        self.name, self._stack = name, stack
        self.gpu, self.device = gpu_named(name)
        self.mappings = Mappings(self.gpu)
        self.landing = Landing(self.device)

    def beside(self, *arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, str(SCRIPT), self.name, *arguments]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        )
        self._stack.callback(end, process)
        return process

    def copied(self, found: Mapped) -> torch.Tensor:
        return self.landing.copy(found.array).cpu()


def end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def told(process: "subprocess.Popen[str]") -> DeviceHandle:
    line = process.stdout.readline() if process.stdout else ""
    assert line, process.communicate()[1]
    return DeviceHandle.model_validate_json(line)


def tell(process: "subprocess.Popen[str]") -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture(params=["fake", pytest.param("cuda", marks=pytest.mark.gpu)])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    with contextlib.ExitStack() as stack:
        made = Place(request.param, stack)
        stack.callback(made.mappings.close)
        yield made


def test_another_process_reads_what_the_owner_wrote_and_says_if_it_was_written_again(place: Place) -> None:
    owner = place.beside("owner", str(SIZE))
    handle = told(owner)
    assert handle.gpu == place.gpu.uuid
    found = place.mappings.find(PEER, handle, SIZE)
    assert torch.equal(place.copied(found), pattern(0, SIZE))
    found.check()
    tell(owner)
    again = told(owner)
    assert (again.block, again.handle) == (handle.block, handle.handle) and again.generation == handle.generation + 1
    with pytest.raises(ExchangeError, match="used again"):
        found.check()
    newer = place.mappings.find(PEER, again, SIZE)
    assert torch.equal(place.copied(newer), pattern(1, SIZE))
    newer.check()


def test_an_owner_that_is_killed_takes_its_handle_with_it_and_nobody_else(place: Place) -> None:
    owner = place.beside("owner", str(SIZE))
    handle = told(owner)
    assert torch.equal(place.copied(place.mappings.find(PEER, handle, SIZE)), pattern(0, SIZE))
    end(owner)
    place.mappings.part(PEER)
    with pytest.raises(ExchangeError):
        place.mappings.find(PEER, handle, SIZE)
    assert int(torch.ones(5, device=place.device).sum()) == 5, "this process computes on"


def test_a_reader_that_is_killed_holds_nothing_up(place: Place) -> None:
    pool = BlockPool(place.gpu)
    block = pool.take(SIZE)
    fill(block.array(SIZE), 0, SIZE, place.device)
    reader = place.beside("reader", pool.lease(PEER, block).model_dump_json())
    assert reader.stdout and reader.stdout.readline().strip() == "mapped", reader.communicate()[1]
    end(reader)
    pool.give(block)
    assert pool.num_leases == 1
    pool.peer_gone(PEER)
    assert pool.num_leases == 0 and pool.take(SIZE) is block
    fill(block.array(SIZE), 1, SIZE, place.device)
    read = bytearray(SIZE)
    block.read(memoryview(read))
    assert bytes(read) == bytes(pattern(1, SIZE).numpy())
    pool.give(block)
    pool.close()


def test_a_handle_that_is_not_what_it_should_be_is_refused_and_the_process_lives_on(place: Place) -> None:
    owner = place.beside("owner", str(SIZE))
    handle = told(owner)
    wrong = [
        handle.model_copy(update={"gpu": "f" * 32}),
        handle.model_copy(update={"offset": 0}),
        handle.model_copy(update={"offset": 2**62}),
        handle.model_copy(update={"offset": handle.offset + 2 * 1024**2}),
    ]
    for one in wrong:
        with pytest.raises(ExchangeError):
            place.mappings.find(PEER, one, SIZE)
    stale = place.mappings.find(PEER, handle.model_copy(update={"generation": 7}), SIZE)
    with pytest.raises(ExchangeError, match="used again"):
        stale.check()
    assert torch.equal(place.copied(place.mappings.find(PEER, handle, SIZE)), pattern(0, SIZE))


@pytest.mark.parametrize("octets", ["00" * 64, "ff" * 64, "ab" * 64])
def test_octets_that_are_no_handle_are_refused_and_the_process_computes_on(place: Place, octets: str) -> None:
    """In a process of its own, since what a driver makes of them is its own."""
    handle = DeviceHandle(gpu=place.gpu.uuid, handle=octets, block=1, generation=1, offset=256, lease=1)
    reader = place.beside("reader", handle.model_dump_json())
    assert reader.stdout and reader.stdout.readline().startswith("refused"), reader.communicate()[1]
    assert reader.stdout.readline().strip() == "5"


def test_what_is_written_and_read_is_the_same(place: Place) -> None:
    gpu: Gpu = place.gpu
    address = gpu.allocate(2 * 1024**2)
    assert address % 256 == 0 and gpu.extent(address) >= 2 * 1024**2
    assert gpu.extent(address + 1024) == gpu.extent(address) - 1024
    gpu.write(address + 256, b"hello")
    found = bytearray(5)
    gpu.read(address + 256, memoryview(found))
    assert bytes(found) == b"hello"
    assert bytes(torch.as_tensor(gpu.array(address + 256, 5), device=place.device).cpu().numpy()) == b"hello"
    assert len(gpu.export(address)) == 64 and len(gpu.uuid) == 32
    gpu.free(address)
