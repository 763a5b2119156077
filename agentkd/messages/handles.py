"""Handles of memory that another process on the same host can map, with what proves that it is what is meant."""

from pydantic import Field

from agentkd.messages.body import Body
from agentkd.messages.fields import Count

UUID = r"^[0-9a-f]{32}$"
CUDA_HANDLE = r"^[0-9a-f]{128}$"


class SharedHandle(Body):
    """A stretch of a sealed memory file that the sender holds open; ``inode`` proves that it still is that file."""

    pid: Count
    descriptor: Count
    inode: Count
    offset: Count
    lease: Count


class DeviceHandle(Body):
    """A stretch of a block of GPU memory that the sender holds, by its ``CUipcMemHandle`` in hexadecimal digits.

    The block begins with its ``generation``, 8 octets, least significant first, which is another one each time that the block is
    written to: who has read the stretch and then finds this one has read what was meant.
    """

    gpu: str = Field(strict=True, pattern=UUID)
    handle: str = Field(strict=True, pattern=CUDA_HANDLE)
    block: Count
    generation: Count
    offset: Count
    lease: Count
