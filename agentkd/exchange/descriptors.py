"""Descriptors of this process: as many as it may have, and how near to their end it is."""

import os
import resource

from agentkd.errors import check_descriptors

WANTED = 65_536
RESERVED_SHARE = 8
MAX_RESERVED = 256


def raise_limit() -> int:
    """Raises the soft limit to the hard one, if that is not beyond all need; returns the limit that holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return limit()


def limit() -> int:
    """How many descriptors this process may have at most."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return WANTED if soft == resource.RLIM_INFINITY else soft


def reserve(of: int) -> int:
    """How many of so many are for files and known peers alone."""
    return min(MAX_RESERVED, of // RESERVED_SHARE)


def are_short() -> bool:
    """Whether only the reserve is left.

    The system gives the lowest number that is free: if that is high, all below are in use.
    """
    try:
        lowest = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    os.close(lowest)
    most = limit()
    return lowest >= most - reserve(most)


def must_have(number: int, what: str) -> None:
    """Whether so many descriptors are free. For what ends the whole process if it finds none, as ZeroMQ's start does.

    Raises:
        DescriptorsError: there are fewer.
    """
    held: list[int] = []
    try:
        while len(held) < number:
            held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        check_descriptors(what, error)
        raise
    finally:
        for descriptor in held:
            os.close(descriptor)
