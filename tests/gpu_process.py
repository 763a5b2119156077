"""A process beside the test's that owns a block of GPU memory, or maps one. What it does is told over its standard input.

    python gpu_process.py GPU owner SIZE     prints a handle; ``again`` fills the block anew and prints another; ``take`` releases
    python gpu_process.py GPU reader HANDLE  prints ``mapped``; or ``refused``, and then what five ones come to

``GPU`` is ``cuda`` or ``fake``.
"""

import sys

import torch
from fake_gpu import FakeGpu

from agentkd.errors import ExchangeError
from agentkd.exchange.blocks import BlockPool, Mappings
from agentkd.exchange.cuda import Cuda, Gpu
from agentkd.messages.handles import DeviceHandle

PEER = "p" * 40


def gpu_named(name: str) -> tuple[Gpu, torch.device]:
    """The first GPU, and where torch computes then."""
    if name == "fake":
        return FakeGpu(), torch.device("cpu")
    torch.cuda.init()
    return Cuda(0), torch.device("cuda:0")


def pattern(number: int, size: int) -> torch.Tensor:
    """Octets that are another row for each number."""
    return ((torch.arange(size) * (number + 3)) % 251).to(torch.uint8)


def fill(block_array: object, number: int, size: int, device: torch.device) -> None:
    """Puts a pattern into a block, and waits for it."""
    torch.as_tensor(block_array, device=device).copy_(pattern(number, size))
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def own(gpu: Gpu, device: torch.device, size: int) -> None:
    """A block that is lent again and again."""
    pool = BlockPool(gpu)
    number = 0
    while True:
        block = pool.take(size)
        fill(block.array(size), number, size, device)
        print(pool.lease(PEER, block).model_dump_json(), flush=True)
        if not sys.stdin.readline():
            return
        pool.give(block)
        pool.peer_gone(PEER)  # it may read on
        number += 1


def main() -> None:
    gpu, device = gpu_named(sys.argv[1])
    if sys.argv[2] == "owner":
        own(gpu, device, int(sys.argv[3]))
        return
    try:
        Mappings(gpu).find(PEER, DeviceHandle.model_validate_json(sys.argv[3]), 1)
        print("mapped", flush=True)
    except ExchangeError as error:
        print(f"refused: {error}", flush=True)
        print(int(torch.ones(5, device=device).sum()), flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
