"""A GPU's memory as the driver has it (``libcuda``, by ctypes): blocks that other processes of this host may map by a handle.

Nothing of torch is needed for it, and nothing is pickled. GPUs are known by their UUID, since numbers depend on what a process is
let see (``CUDA_VISIBLE_DEVICES``). Whatever the driver refuses is an ``ExchangeError`` with the driver's word for it; then pieces
go as they go without a GPU.
"""

import contextlib
import ctypes
import logging
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Protocol

from agentkd.errors import ExchangeError

LIBRARY = "libcuda.so.1"
HANDLE_BYTES, UUID_BYTES = 64, 16
LAZY_ENABLE_PEER_ACCESS = 1  # the one flag there is, which the driver demands
NON_BLOCKING = 1  # a stream that does not wait for the default one, where the network computes

log = logging.getLogger(__name__)


class Gpu(Protocol):
    """One GPU's memory. Addresses are of this process. What blocks waits for its own copy alone. Thread-safe.

    Every method raises ``ExchangeError`` if the driver refuses.
    """

    uuid: str

    def allocate(self, size_bytes: int) -> int:
        """The address of a new block, which is a multiple of 256."""
        ...

    def free(self, address: int) -> None:
        """Gives a block up."""
        ...

    def export(self, address: int) -> bytes:
        """The handle of a block, of 64 octets."""
        ...

    def map(self, handle: bytes) -> int:
        """The address here of another process's block."""
        ...

    def unmap(self, address: int) -> None:
        """Lets go of another process's block."""
        ...

    def extent(self, address: int) -> int:
        """How many octets of its block stand behind an address."""
        ...

    def read(self, address: int, target: memoryview) -> None:
        """Copies to memory of the host, and waits for it."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Copies from memory of the host, and waits for it."""
        ...

    def array(self, address: int, size_bytes: int) -> Any:
        """The octets there as what ``torch.as_tensor`` takes without a copy."""
        ...


class _Handle(ctypes.Structure):
    _fields_ = [("octets", ctypes.c_ubyte * HANDLE_BYTES)]


class _Array:
    """Octets at an address, by the interface that libraries for arrays on CUDA share."""

    def __init__(self, address: int, size_bytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size_bytes,),
            "typestr": "|u1",
            "data": (address, False),
            "strides": None,
            "version": 2,
        }


class Cuda:
    """A GPU, by its number among those that this process sees. Its context is the one in which torch computes.

    Raises:
        ExchangeError: there is no such GPU, or no driver.
    """

    def __init__(self, number: int) -> None:
        self._library = _library()
        device, context, uuid = ctypes.c_int(), ctypes.c_void_p(), (ctypes.c_ubyte * UUID_BYTES)()
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(number))
        self._call("cuDeviceGetUuid_v2", ctypes.byref(uuid), device)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.uuid, self._context, self._stream = bytes(uuid).hex(), context, ctypes.c_void_p()
        with self._current():
            self._call("cuStreamCreate", ctypes.byref(self._stream), ctypes.c_uint(NON_BLOCKING))

    def allocate(self, size_bytes: int) -> int:
        address = ctypes.c_uint64()
        with self._current():
            self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size_bytes))
        return address.value

    def free(self, address: int) -> None:
        with self._current():
            self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def export(self, address: int) -> bytes:
        handle = _Handle()
        with self._current():
            self._call("cuIpcGetMemHandle", ctypes.byref(handle), ctypes.c_uint64(address))
        return bytes(handle.octets)

    def map(self, handle: bytes) -> int:
        if len(handle) != HANDLE_BYTES:
            raise ExchangeError(f"a handle of GPU memory has {HANDLE_BYTES} octets, not {len(handle)}")
        address = ctypes.c_uint64()
        with self._current():
            mapped = _Handle.from_buffer_copy(handle)
            self._call("cuIpcOpenMemHandle_v2", ctypes.byref(address), mapped, ctypes.c_uint(LAZY_ENABLE_PEER_ACCESS))
        return address.value

    def unmap(self, address: int) -> None:
        with self._current():
            self._call("cuIpcCloseMemHandle", ctypes.c_uint64(address))

    def extent(self, address: int) -> int:
        start, size = ctypes.c_uint64(), ctypes.c_size_t()
        with self._current():
            self._call("cuMemGetAddressRange_v2", ctypes.byref(start), ctypes.byref(size), ctypes.c_uint64(address))
        return start.value + size.value - address

    def read(self, address: int, target: memoryview) -> None:
        into = (ctypes.c_ubyte * len(target)).from_buffer(target)
        with self._current():
            self._call("cuMemcpyDtoHAsync_v2", into, ctypes.c_uint64(address), ctypes.c_size_t(len(target)), self._stream)
            self._call("cuStreamSynchronize", self._stream)

    def write(self, address: int, data: bytes) -> None:
        with self._current():
            self._call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), data, ctypes.c_size_t(len(data)), self._stream)
            self._call("cuStreamSynchronize", self._stream)

    def array(self, address: int, size_bytes: int) -> Any:
        return _Array(address, size_bytes)

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        """The context is this thread's meanwhile, and afterwards what it was before."""
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            before = ctypes.c_void_p()
            self._call("cuCtxPopCurrent_v2", ctypes.byref(before))

    def _call(self, name: str, *arguments: Any) -> None:
        _call(self._library, name, *arguments)


def find_gpu(number: int, make: Callable[[int], Gpu] = Cuda) -> Gpu | None:
    """A GPU by its number among those that this process sees; ``None``, and a line in the log, if its memory cannot be had so."""
    try:
        return make(number)
    except ExchangeError as error:
        log.info("nothing is handed over in GPU memory: %s", error)
        return None


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise ExchangeError(f"there is no CUDA driver: {error}") from error
    _call(library, "cuInit", ctypes.c_uint(0))
    return library


def _call(library: ctypes.CDLL, name: str, *arguments: Any) -> None:
    try:
        function = getattr(library, name)
    except AttributeError as error:
        raise ExchangeError(f"the CUDA driver is too old: it has no {name}") from error
    if result := function(*arguments):
        raise ExchangeError(f"{name}: the CUDA driver says {_word(library, result)}")


def _word(library: ctypes.CDLL, result: int) -> str:
    word = ctypes.c_char_p()
    if library.cuGetErrorName(ctypes.c_int(result), ctypes.byref(word)) or word.value is None:
        return str(result)
    return word.value.decode()
