"""Seeds and random numbers: everything random in agentkd is derived here from one root seed and a list of names.

A generator is counter-based (Philox) and keyed by what the numbers are *for*, never by who draws them. So the same view,
trial or initialization comes out on any worker, process and order.
"""

import hashlib

import numpy as np

from agentkd import canonical

Key = str | int | float | bool | None


def derive(*keys: Key) -> int:
    """A 63-bit seed, a pure function of the keys.

    Example:
        >>> derive(7, "trial", 3) == derive(7, "trial", 3) != derive(7, "trial", 4)
        True
    """
    return int.from_bytes(_key_bytes(keys)[:8], "little") >> 1


def generator(*keys: Key) -> np.random.Generator:
    """A counter-based generator keyed by the given values."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(_key_bytes(keys)[:16], "little")))


def _key_bytes(keys: tuple[Key, ...]) -> bytes:
    return hashlib.sha256(canonical.encode(list(keys))).digest()
