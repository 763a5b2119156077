"""Things of a run by the first characters of their names, as people type them: which one is meant, or which could be."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from agentkd.errors import ConfigError

MIN_PREFIX = 4
WHOLE = 64
BEGINNING = re.compile(rf"[0-9a-f]{{{MIN_PREFIX},{WHOLE}}}")
MAX_LISTED = 8
SHOWN = 16

Thing = TypeVar("Thing")


def is_beginning(text: str) -> bool:
    """Whether a text can be a digest or a key, or the first characters of one."""
    return bool(BEGINNING.fullmatch(text))


def may_be_digest(text: str | Path) -> bool:
    """Whether what is a file or a digest is a digest, or the first characters of one: there is no file of that name."""
    name = str(text)
    return is_beginning(name) and (len(name) == WHOLE or not Path(name).exists())


def must_name_weights(text: str | Path) -> None:
    """Says what is missing where something is neither a digest, or the first characters of one, nor a file.

    Raises:
        ConfigError: it is not.
    """
    name = str(text)
    if not name.strip():
        raise ConfigError(f"weights are given as {name!r}; give a digest, or a file")
    if may_be_digest(text) or _is_there(Path(text)):
        return
    short = re.fullmatch(rf"[0-9a-f]{{1,{MIN_PREFIX - 1}}}", name)
    advice = f"; of a digest give at least {MIN_PREFIX} characters" if short else ""
    raise ConfigError(f"no weights file {name[:200]}{advice}")


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that no file can have, or in a folder that may not be looked into
        return False


def only(beginning: str, named: Mapping[str, tuple[Thing, str]]) -> Thing:
    """The one thing of those that are named so.

    Args:
        beginning: what was typed.
        named: each name to the thing and to what it is in words. Several names of one thing do not contradict each other.

    Raises:
        ConfigError: it is too short, no name begins so, or those of several things do, which are listed.
    """
    if not is_beginning(beginning):
        text = f"give at least {MIN_PREFIX} characters of one, which are 0-9 and a-f, as agentkd lineage prints them"
        raise ConfigError(f"{beginning[:80]!r} is not how the digest of a task, or of something in the store, begins: {text}")
    meant = {name: found for name, found in sorted(named.items()) if name.startswith(beginning)}
    things = {thing for thing, _ in meant.values()}
    if len(things) == 1:
        return things.pop()
    if not things:
        raise ConfigError(f"nothing here begins with {beginning!r}: no task, and nothing that one made or began with")
    length = next(n for n in range(len(beginning) + 1, 65) if len({name[:n] for name in meant}) == len(meant))
    listed = [f"{name[: max(length, SHOWN)]} ({words})" for name, (_, words) in meant.items()]
    more = f", and {len(listed) - MAX_LISTED} more" if len(listed) > MAX_LISTED else ""
    raise ConfigError(f"{beginning!r} could be {', '.join(listed[:MAX_LISTED])}{more}; give more characters")
