"""What is made of a run's records, which may be somebody else's word: where nothing can be made of them, the run is told so."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentkd.artifacts.gate import first_line
from agentkd.errors import AgentKDError, ArtifactError


@contextmanager
def made_of(place: Path, what: str) -> Iterator[None]:
    """Where records are taken together: each is well-formed by itself, and together they may still say what cannot be.

    Args:
        place: of the run.
        what: is made of its records.

    Raises:
        ArtifactError: it cannot be made.
    """
    try:
        yield
    except AgentKDError:
        raise
    except (ValueError, LookupError, TypeError, ArithmeticError, AttributeError, RecursionError, MemoryError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ArtifactError(f"of the records in {place} no {what} can be made: they do not fit together ({reason})") from error
