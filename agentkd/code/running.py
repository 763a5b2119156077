"""Own code that runs: whatever it raises is told as its user's mistake, in few words, with what was asked of it."""

import dis
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from agentkd.code.barring import CODE
from agentkd.errors import AgentKDError, ConfigError, Problem
from agentkd.visible import shortened

MAX_NAME = 200
MAX_SAID = 2000
"""The most that is shown of what own code says of an error."""


class EndedBySignal(SystemExit):
    """Somebody wants this process to end: the only exception that passes through own code without being laid at its door."""


def said(error: BaseException) -> str:
    """The type of an error, and what it says if it says anything."""
    name, words = shortened(type(error).__name__, MAX_NAME), shortened(words_of(error), MAX_SAID)
    return f"{name}: {words}" if words else name


def words_of(error: BaseException) -> str:
    """What an error says. Own code may raise what fails when it is asked for that."""
    if isinstance(error, SyntaxError):
        return str(error.msg)
    shown = "".join(traceback.TracebackException(type(error), error, None, compact=True).format_exception_only())
    kind, _, words = shown.strip().partition(": ")
    return words if kind.endswith(type(error).__qualname__) else ""


def lines_of(error: BaseException) -> list[tuple[str, int]]:
    """Where an error, or else its cause, has been in own code: file and line, the place where it was raised last."""
    found, traced = [], error.__traceback__
    while traced is not None:
        if (file := traced.tb_frame.f_code.co_filename).startswith(CODE):
            found.append((file, traced.tb_lineno))
        traced = traced.tb_next
    return found or (lines_of(error.__cause__) if error.__cause__ is not None else [])


def raises_itself(error: BaseException) -> bool:
    """Whether own code says ``raise`` where this error comes from, and hands on none of the operating system's."""
    traced = error.__traceback__
    while traced is not None and traced.tb_next is not None:
        traced = traced.tb_next
    if traced is None or isinstance(error.__cause__ or error.__context__, OSError):
        return False
    code = traced.tb_frame.f_code
    return code.co_filename.startswith(CODE) and code.co_code[traced.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def forbid_ending() -> None:
    """From now on own code cannot end this process with ``os._exit``: it gets a ``SystemExit``, and so its task ends by it.

    It goes on as before in processes that own code has forked, and for everybody else.
    """
    end, process = os._exit, os.getpid()

    def end_unless_of_own_code(status: int) -> NoReturn:
        if os.getpid() == process and sys._getframe(1).f_code.co_filename.startswith(CODE):
            raise SystemExit(f"os._exit({status})")
        end(status)

    os._exit = end_unless_of_own_code


@contextmanager
def told(what: str) -> Iterator[None]:
    """What own code may do in here, it may do wrong; ``what`` says what then is not so.

    Raises:
        ConfigError: it raised something.
        AgentKDError: as it is.
    """
    try:
        yield
    except (AgentKDError, KeyboardInterrupt, EndedBySignal):
        raise
    except BaseException as error:  # whatever own code does when it runs
        raise ConfigError([Problem("", f"{what} ({said(error).splitlines()[0]})")]) from error
