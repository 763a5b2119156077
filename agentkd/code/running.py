"""Own code that runs before a run starts: whatever it raises is told as its user's mistake, with what was asked of it."""

from collections.abc import Iterator
from contextlib import contextmanager

from agentkd.errors import AgentKDError, ConfigError, Problem


@contextmanager
def told(what: str) -> Iterator[None]:
    """What own code may do in here, it may do wrong; ``what`` says what then is not so.

    Raises:
        ConfigError: it raised something.
        AgentKDError: as it is.
    """
    try:
        yield
    except AgentKDError:
        raise
    except (Exception, SystemExit) as error:  # whatever own code does when it runs
        said = str(error).strip().splitlines()
        raise ConfigError([Problem("", f"{what} ({type(error).__name__}: {said[0] if said else ''})")]) from error
