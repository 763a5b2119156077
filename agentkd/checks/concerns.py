"""What a check finds: what is wrong, where, and what to do. Plain data."""

from collections.abc import Iterable
from dataclasses import dataclass

from agentkd.errors import ConfigError, Problem
from agentkd.visible import visible_line


@dataclass(frozen=True)
class Concern:
    """One thing that a check found.

    Args:
        path: where it stands in the experiment file, dotted; empty if nowhere.
        text: what is wrong, and what to do.
        is_error: it cannot go well, so nothing is started. Otherwise it may be meant, and is said.
    """

    path: str
    text: str
    is_error: bool = True

    @property
    def problem(self) -> Problem:
        """As an error of the file carries it: on one line."""
        return Problem(self.path, visible_line(self.text))


def refused(error: ConfigError, path: str) -> Concern:
    """What a setting is refused for, under its own name if the error begins with that."""
    name, colon, text = str(error).partition(": ")
    return Concern(name, text) if colon and name.startswith("launch.") and " " not in name else Concern(path, str(error))


def warning(path: str, text: str) -> Concern:
    """What may be meant."""
    return Concern(path, text, is_error=False)


def raise_errors(concerns: Iterable[Concern], *, source: str) -> None:
    """Nothing, if all that was found may be meant.

    Raises:
        ConfigError: all errors among them.
    """
    errors = list(dict.fromkeys(concern.problem for concern in concerns if concern.is_error))
    if errors:
        raise ConfigError(errors, source=source)
