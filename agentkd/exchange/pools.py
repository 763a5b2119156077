"""Memory of this process that peers may hold for a while, of any kind: pooled, counted by its holders, lent by leases."""

import itertools
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from agentkd.messages.handles import DeviceHandle, SharedHandle
from agentkd.names import PublicKey

MAX_LEASES = 64

Handle_co = TypeVar("Handle_co", bound=SharedHandle | DeviceHandle, covariant=True)


class Lendable(Protocol[Handle_co]):
    """A stretch of memory: held by so many, and doubtful once somebody may still read it who was given up."""

    capacity: int
    num_holders: int
    is_doubtful: bool

    def handle(self, lease: int) -> Handle_co:
        """What another process needs to map it."""
        ...

    def close(self) -> None:
        """Gives the memory up."""
        ...


L = TypeVar("L", bound=Lendable[SharedHandle] | Lendable[DeviceHandle])


@dataclass
class _Lease(Generic[L]):
    peer: PublicKey
    lent: L


class Pool(Generic[L]):
    """What every kind of memory that is lent has in common. Thread-safe. What is taken, and kept or not, a kind decides.

    Args:
        capacity_bytes: bounds what is kept for the next use.
        numbers: of the leases; pools of one process share them, so that a number means one lease.
    """

    def __init__(self, capacity_bytes: int, numbers: "itertools.count[int] | None" = None) -> None:
        self.capacity_bytes = capacity_bytes
        self._free: list[L] = []
        self._leases: OrderedDict[int, _Lease[L]] = OrderedDict()
        self._numbers = numbers or itertools.count(1)
        self._lock = threading.RLock()

    def give(self, lent: L) -> None:
        """One holder lets go. With the last one the memory is kept for the next use, or closed."""
        with self._lock:
            lent.num_holders -= 1
            if lent.num_holders:
                return
            if self._keeps(lent):
                self._free.append(lent)
            else:
                lent.close()

    def release(self, peer: PublicKey, numbers: tuple[int, ...]) -> None:
        """Takes leases back that this peer holds; others are ignored."""
        with self._lock:
            for number in numbers:
                lease = self._leases.get(number)
                if lease is not None and lease.peer == peer:
                    del self._leases[number]
                    self.give(lease.lent)

    def peer_gone(self, peer: PublicKey) -> None:
        """Drops what a lost peer held, which it may still be reading."""
        with self._lock:
            for number in [number for number, lease in self._leases.items() if lease.peer == peer]:
                self._drop(number)

    def close(self) -> None:
        """Gives up what is kept for the next use, and every lease."""
        with self._lock:
            for number in list(self._leases):
                self._drop(number)
            while self._free:
                self._free.pop().close()

    @property
    def num_leases(self) -> int:
        """Leases that peers hold."""
        return len(self._leases)

    def _lend(self, peer: PublicKey, lent: L) -> int:
        """A lease's number. The oldest lease of too many is dropped."""
        with self._lock:
            number = next(self._numbers)
            lent.num_holders += 1
            self._leases[number] = _Lease(peer, lent)
            while len(self._leases) > MAX_LEASES:
                self._drop(next(iter(self._leases)))
        return number

    def _keeps(self, lent: L) -> bool:
        kept = sum(free.capacity for free in self._free)
        return not lent.is_doubtful and kept + lent.capacity <= self.capacity_bytes

    def _drop(self, number: int) -> None:
        lent = self._leases.pop(number).lent
        lent.is_doubtful = True
        self.give(lent)
