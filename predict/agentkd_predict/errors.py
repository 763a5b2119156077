"""Every error that is raised here on purpose, and the status that each one gives a program.

The tree::

    PredictError
    |- UsageError       2   what was typed, or asked for, cannot be
    |- NetworkError    15   the file is no network that can be used
    |- StorageError    16   nothing can be written
    `- InputError      17   one image or video cannot be done; the others can

A command that does many images ends with 1 if some of them could not be done. The numbers are those of agentkd.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentkd_predict.visible import visible


class PredictError(Exception):
    """Anything that is refused or cannot be done. ``exit_code`` is what a command ends with."""

    exit_code = 70

    def __str__(self) -> str:
        """What it says, which may be somebody else's words: nothing in it acts on a terminal."""
        return visible(super().__str__())


class UsageError(PredictError, ValueError):
    """What was typed, or asked for, cannot be."""

    exit_code = 2


class NetworkError(PredictError):
    """A file is no network that can be used here, or what it computes is not what it should be."""

    exit_code = 15

    def __init__(self, place: Path | str, found: str, expected: str = "") -> None:
        self.place, self.found, self.expected = str(place), found, expected
        super().__init__(f"{place}: {found}" + (f"; {expected}" if expected else ""))


class StorageError(PredictError):
    """The disk is full, read-only or broken. Files that are there are whole."""

    exit_code = 16

    def __init__(self, place: Path | str, reason: str) -> None:
        self.place, self.reason = str(place), reason
        super().__init__(f"cannot write {place}: {reason}; free some space, or give another folder that you may write to")


class InputError(PredictError):
    """One image or video cannot be done: what was found, and what was expected."""

    exit_code = 17

    def __init__(self, place: Path | str, found: str, expected: str = "") -> None:
        self.place, self.found, self.expected = str(place), found, expected
        super().__init__(f"{place}: {found}" + (f"; expected {expected}" if expected else ""))


@contextmanager
def writing(place: Path | str) -> Iterator[None]:
    """What fails in this block failed to write there.

    Raises:
        StorageError: the operating system refused.
    """
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        raise StorageError(place, reason) from error


def no_descriptors(error: BaseException) -> bool:
    """Whether something could not be opened for want of descriptors, which says nothing against what is there."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def words(error: BaseException, place: Path) -> str:
    """What a library said, on one line, without the path."""
    told = str(error).replace(str(place), place.name).replace("\n", " ").strip()[:200]
    if isinstance(error, OSError) and error.errno and not told:
        told = os.strerror(error.errno)
    return visible(told) or type(error).__name__
