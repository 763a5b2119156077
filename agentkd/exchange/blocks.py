"""GPU memory between processes of one user on one host: blocks, pooled and leased by their owner, mapped by readers.

A reader copies what it is handed into memory of its own at once, waits for its copy, and releases the lease; its network never
computes on another process's memory. A block begins with its generation, which is written anew before anything else of it is: who
was given up, and reads on, finds another generation afterwards and throws away what it has read. So a block may be used again at
once, whoever held it.

What the driver does when a process is killed is its own: memory that somebody maps stays until nobody does. A mapping is kept
for the next piece in the same block, as long as the reader keeps to its owner; to map costs more than to copy.
"""

import itertools
import secrets
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from agentkd.errors import ExchangeError
from agentkd.exchange.cuda import Gpu
from agentkd.exchange.pools import Pool
from agentkd.messages.handles import DeviceHandle
from agentkd.names import PublicKey

BLOCK_POOL_BYTES = 512 * 1024**2
GRANULE = 2 * 1024**2  # of what the driver hands out; smaller blocks would share one, and with it a handle
HEAD = 256  # octets before a piece: the generation, and a start at which numbers of any type may stand
GENERATION_BYTES = 8
MAX_MAPPINGS = 128


class GpuBlock:
    """A block of GPU memory that can be handed to other processes.

    Raises:
        ExchangeError: there is no memory for it, or none that can be shared.
    """

    def __init__(self, gpu: Gpu, size_bytes: int) -> None:
        self._gpu, self.capacity = gpu, room_for(size_bytes)
        self.address = gpu.allocate(self.capacity)
        try:
            self._handle = gpu.export(self.address).hex()
        except BaseException:
            gpu.free(self.address)
            raise
        self.number, self.generation = secrets.randbits(62), 0
        self.num_holders, self.is_doubtful = 0, False

    def begin(self) -> None:
        """Held once, and about to be written: whoever still reads what it held will know."""
        self.num_holders, self.is_doubtful = 1, False
        self.generation += 1
        self._gpu.write(self.address, self.generation.to_bytes(GENERATION_BYTES, "little"))

    def array(self, size_bytes: int) -> Any:
        """The place of a piece, as what ``torch.as_tensor`` takes without a copy."""
        return self._gpu.array(self.address + HEAD, size_bytes)

    def read(self, target: memoryview) -> None:
        """Copies the piece to memory of the host."""
        self._gpu.read(self.address + HEAD, target)

    def handle(self, lease: int) -> DeviceHandle:
        """What another process needs to map it."""
        return DeviceHandle(
            gpu=self._gpu.uuid,
            handle=self._handle,
            block=self.number,
            generation=self.generation,
            offset=HEAD,
            lease=lease,
        )

    def close(self) -> None:
        """Gives the memory up."""
        with suppress(ExchangeError):  # the driver is about to end with its process
            self._gpu.free(self.address)


def room_for(size_bytes: int) -> int:
    """The octets of a block for a piece of this size."""
    return -(-(size_bytes + HEAD) // GRANULE) * GRANULE


class BlockPool(Pool[GpuBlock]):
    """Blocks of this process on one GPU. Thread-safe. ``capacity_bytes`` bounds all of them, used or not."""

    def __init__(self, gpu: Gpu, capacity_bytes: int = BLOCK_POOL_BYTES, numbers: "itertools.count[int] | None" = None) -> None:
        super().__init__(capacity_bytes, numbers)
        self._gpu, self._made_bytes, self._is_closed = gpu, 0, False

    def take(self, size_bytes: int) -> GpuBlock:
        """A block for a piece of this size, held once.

        Raises:
            ExchangeError: all that the pool may have is in use, or the GPU has no more.
        """
        with self._lock:
            fitting = [block for block in self._free if block.capacity >= size_bytes + HEAD]
            if fitting:
                block = min(fitting, key=lambda block: block.capacity)
                self._free.remove(block)
            else:
                block = self._make(size_bytes)
            try:
                block.begin()
            except BaseException:
                self._close(block)
                raise
            return block

    def lease(self, peer: PublicKey, block: GpuBlock) -> DeviceHandle:
        """Lets a peer read a block until it releases the lease. The oldest lease of too many is dropped."""
        return block.handle(self._lend(peer, block))

    def close(self) -> None:
        """Gives up every block, those in use when they are let go."""
        self._is_closed = True
        super().close()

    def _make(self, size_bytes: int) -> GpuBlock:
        room = room_for(size_bytes)
        while self._free and self._made_bytes + room > self.capacity_bytes:
            self._close(self._free.pop(0))
        if self._made_bytes + room > self.capacity_bytes:
            raise ExchangeError(f"{size_bytes} octets are more than is left of {self.capacity_bytes} of GPU memory for pieces")
        block = GpuBlock(self._gpu, size_bytes)
        self._made_bytes += block.capacity
        return block

    def _close(self, block: GpuBlock) -> None:
        self._made_bytes -= block.capacity
        block.close()

    def _keeps(self, lent: GpuBlock) -> bool:
        return not self._is_closed


@dataclass(frozen=True)
class Mapped:
    """A piece in another process's block, where this process can read it.

    Args:
        array: what ``torch.as_tensor`` takes without a copy.
    """

    array: Any
    _gpu: Gpu
    _start: int
    _handle: DeviceHandle

    def check(self) -> None:
        """Says if what was read until now is not what was meant.

        Raises:
            ExchangeError: the block was used again meanwhile.
        """
        found = bytearray(GENERATION_BYTES)
        self._gpu.read(self._start, memoryview(found))
        if int.from_bytes(found, "little") != self._handle.generation:
            raise ExchangeError("the block of GPU memory was used again by its owner while it was read")


class Mappings:
    """Other processes' blocks that are mapped here. For one thread: what it reads must not be let go meanwhile."""

    def __init__(self, gpu: Gpu, most: int = MAX_MAPPINGS) -> None:
        self._gpu, self._most = gpu, most
        self._open: OrderedDict[tuple[PublicKey, int, str], int] = OrderedDict()

    def find(self, peer: PublicKey, handle: DeviceHandle, size_bytes: int) -> Mapped:
        """A piece that a peer has lent, to be read while its lease is held.

        Raises:
            ExchangeError: it is on another GPU, its block is not there any more, or it is not in it.
        """
        if handle.gpu != self._gpu.uuid:
            raise ExchangeError(f"the piece is on GPU {handle.gpu}, and this process computes on {self._gpu.uuid}")
        known = (peer, handle.block, handle.handle)
        if known not in self._open:
            self._open[known] = self._gpu.map(bytes.fromhex(handle.handle))
        self._open.move_to_end(known)
        while len(self._open) > self._most:
            self._let_go(self._open.popitem(last=False)[1])
        start = self._open[known]
        if handle.offset < GENERATION_BYTES or handle.offset + size_bytes > self._gpu.extent(start):
            raise ExchangeError(f"{size_bytes} octets at {handle.offset} are not within their block of GPU memory")
        return Mapped(self._gpu.array(start + handle.offset, size_bytes), self._gpu, start, handle)

    def part(self, peer: PublicKey) -> None:
        """Lets go of what a peer has lent."""
        for known in [known for known in self._open if known[0] == peer]:
            self._let_go(self._open.pop(known))

    def close(self) -> None:
        """Lets go of everything."""
        while self._open:
            self._let_go(self._open.popitem()[1])

    def _let_go(self, address: int) -> None:
        with suppress(ExchangeError):  # its owner may be gone
            self._gpu.unmap(address)
