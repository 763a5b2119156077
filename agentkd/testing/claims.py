"""How a contract says what is broken."""

from collections.abc import Iterator
from contextlib import contextmanager


def claim(holds: object, text: str) -> None:
    """Something that must be so; the text says how it should be and what was found.

    Raises:
        AssertionError: it is not so (also where Python runs without assertions).
    """
    if not holds:
        raise AssertionError(text)


@contextmanager
def working(what: str) -> Iterator[None]:
    """What must go through without an error; ``what`` says what was tried.

    Raises:
        AssertionError: it did not.
    """
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
