"""A GPU without one: blocks are memory files that other processes map by a handle of 64 octets, as they do with CUDA's."""

import bisect
import mmap
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

from agentkd.errors import ExchangeError

HANDLE = struct.Struct("<8s4Q24x")
MAGIC = b"fake gpu"
BETWEEN = 2**40  # addresses of two blocks are so far apart


class FakeGpu:
    """Keeps to what ``agentkd.exchange.cuda.Gpu`` says. ``memory_bytes`` is all it has, of this process's."""

    def __init__(self, number: int = 0, *, memory_bytes: int = 2**40, can_share: bool = True) -> None:
        self.uuid = f"{number:032x}"
        self.memory_bytes, self.can_share = memory_bytes, can_share
        self.owned: dict[int, int] = {}
        self.mapped: set[int] = set()
        self._maps: dict[int, mmap.mmap] = {}
        self._next = BETWEEN

    def allocate(self, size_bytes: int) -> int:
        if sum(len(self._maps[address]) for address in self.owned) + size_bytes > self.memory_bytes:
            raise ExchangeError("CUDA_ERROR_OUT_OF_MEMORY")
        descriptor = os.memfd_create("fake-gpu", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, size_bytes)
        address = self._keep(mmap.mmap(descriptor, size_bytes))
        self.owned[address] = descriptor
        return address

    def free(self, address: int) -> None:
        os.close(self.owned.pop(address))
        del self._maps[address]

    def export(self, address: int) -> bytes:
        if not self.can_share:
            raise ExchangeError("CUDA_ERROR_NOT_SUPPORTED")
        descriptor = self.owned[address]
        found = os.fstat(descriptor)
        return HANDLE.pack(MAGIC, os.getpid(), descriptor, found.st_ino, found.st_size)

    def map(self, handle: bytes) -> int:
        magic, pid, descriptor, inode, size = HANDLE.unpack(handle)
        if magic != MAGIC or any(handle[-24:]):
            raise ExchangeError("CUDA_ERROR_INVALID_VALUE")
        try:
            opened = os.open(Path(f"/proc/{pid}/fd/{descriptor}"), os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise ExchangeError("CUDA_ERROR_INVALID_CONTEXT") from error
        try:
            found = os.fstat(opened)
            if (found.st_ino, found.st_size) != (inode, size):
                raise ExchangeError("CUDA_ERROR_INVALID_VALUE")
            address = self._keep(mmap.mmap(opened, size))
        finally:
            os.close(opened)
        self.mapped.add(address)
        return address

    def unmap(self, address: int) -> None:
        self.mapped.remove(address)
        del self._maps[address]

    def extent(self, address: int) -> int:
        start = self._start(address)
        return start + len(self._maps[start]) - address

    def read(self, address: int, target: memoryview) -> None:
        target[:] = memoryview(self.array(address, len(target)))

    def write(self, address: int, data: bytes) -> None:
        self.array(address, len(data))[:] = np.frombuffer(data, dtype=np.uint8)

    def array(self, address: int, size_bytes: int) -> Any:
        start = self._start(address)
        return np.frombuffer(self._maps[start], dtype=np.uint8, count=size_bytes, offset=address - start)

    def _keep(self, mapped: mmap.mmap) -> int:
        address, self._next = self._next, self._next + BETWEEN
        self._maps[address] = mapped
        return address

    def _start(self, address: int) -> int:
        known = sorted(self._maps)
        return known[bisect.bisect_right(known, address) - 1]
