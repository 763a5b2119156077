"""How the program ends: which exit status, and what it says, whatever ended it. No traceback reaches who did not ask for one.

What somebody can cause ends with the status of its error (``agentkd.errors``). Anything else is a fault of agentkd: its traceback
goes to a file, and a few lines say where that is and what to report.
"""

import contextlib
import io
import itertools
import json
import os
import platform
import resource
import select
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from agentkd import __version__, logs
from agentkd.errors import INTERRUPTED, NOBODY_READS, AgentKDError, ConfigError, OutOfMemoryError, StorageError
from agentkd.shortage import NO_MEMORY, as_agentkd_error
from agentkd.visible import visible

STANDARD_OUTPUT = "standard output"
DEBUG = "--debug"
DEBUG_VARIABLE = "AGENTKD_DEBUG"
# What typer raises for wrong words on the command line; which library it takes it from differs with its version.
_WRONG_WORDS: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def say(text: str, *, err: bool = False) -> None:
    """Prints text, of which some may be somebody else's: nothing in it acts on the terminal."""
    typer.echo(visible(text), err=err)


@dataclass(frozen=True)
class Ending:
    """How an end is told: with the traceback or without, in words or as a document for programs."""

    is_debugging: bool = False
    is_json: bool = False

    def end(self, code: str, status: int, text: str, *, words: str = "", **more: Any) -> int:
        """Says why the program ends; returns the exit status.

        Args:
            code: for programs.
            status: with which it ends.
            text: what is told.
            words: for people, if these are others.
            more: what a program is told besides.
        """
        if self.is_json:
            say(json.dumps({"error": {"code": code, "exit_code": status, "text": visible(text), **more}}), err=True)
        else:
            say(words or text, err=True)
        return status


def wants_json(arguments: list[str]) -> bool:
    """Whether somebody has typed ``--format json``, or of ``export`` ``--json``, right or wrong the rest may be."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    given = arguments[:end]
    return "--format=json" in given or "--json" in given or ("--format", "json") in itertools.pairwise(given)


def run_to_the_end(app: typer.Typer, arguments: list[str]) -> int:
    """Runs a command; returns the exit status."""
    _open_what_is_closed()
    given, is_debugging = _without_debug(arguments)
    if is_debugging:
        logs.show_all()
    ending = Ending(is_debugging, wants_json(given))
    try:
        status = _run(app, given, ending)
        sys.stdout.flush()
    except BrokenPipeError as error:
        status = _nobody_reads(error, ending)
    except (AgentKDError, OSError) as error:
        status = _refuse(error, ending)
    except (KeyboardInterrupt, typer.Abort):
        status = ending.end("interrupted", INTERRUPTED, "interrupted")
    except Exception as error:
        status = _refuse(error, ending)
    return status if _is_flushed() else NOBODY_READS if status == 0 else status


def _run(app: typer.Typer, arguments: list[str], ending: Ending) -> int:
    command = typer.main.get_command(app)
    try:
        with command.make_context("agentkd", arguments) as context:
            command.invoke(context)
    except typer.Exit as ended:
        return int(ended.exit_code)
    except _WRONG_WORDS as error:
        shown = io.StringIO()
        error.show(file=shown)
        return ending.end("usage", int(error.exit_code), str(error.format_message()), words=shown.getvalue().rstrip())
    return 0


def _refuse(error: Exception, ending: Ending) -> int:
    place = STANDARD_OUTPUT if _is_of_output(error) else "a file"
    is_full = isinstance(error, BlockingIOError) and place is STANDARD_OUTPUT  # a reader that does not read
    told: BaseException = error if is_full else as_agentkd_error(error, place)
    if not isinstance(told, AgentKDError):
        told = _as_lack_of_memory(error) or told
    if isinstance(told, OSError) and (told.filename or place is STANDARD_OUTPUT):
        told = StorageError.of_use(str(told.filename or place), told)
    if not isinstance(told, AgentKDError):
        return _own_fault(error, ending)
    if ending.is_debugging:
        _show_traceback(error)
    problems = {"problems": [vars(one) for one in told.problems]} if isinstance(told, ConfigError) else {}
    return ending.end(told.code, told.exit_code, str(told), words=f"error: {told}", **problems)


def _as_lack_of_memory(error: Exception) -> OutOfMemoryError | None:
    """What it means if there is too little memory; ``None`` if it is something else."""
    words = str(error) or type(error).__name__
    if not isinstance(error, MemoryError) and not any(text in words for text in NO_MEMORY):
        return None
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    limit = f": it may have {most / 2**20:,.0f} MiB of addresses (ulimit -v)" if most != resource.RLIM_INFINITY else ""
    advice = "allow it more, end other programs, or have fewer agents at once (launch.devices: cpu:1)"
    return OutOfMemoryError(f"there is not enough memory for this process{limit} ({words}); {advice}")


def _own_fault(error: BaseException, ending: Ending) -> int:
    """Says that agentkd failed, where the traceback is, and what to report."""
    lines = "".join(traceback.format_exception(error))
    where = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" ({Path(where[0].filename).name}, line {where[0].lineno})" if where else ""
    if ending.is_debugging:
        _show_traceback(error)
    kept = _keep(lines)
    if kept is None and not ending.is_debugging and not ending.is_json:
        say(lines, err=True)
    failed = f"agentkd itself failed: {type(error).__name__}: {str(error)[:500]}{place}"
    machine = f"agentkd {__version__}, Python {platform.python_version()}, {platform.platform()}"
    words = (
        f"error: {failed}",
        f"the full traceback is {f'in {kept}' if kept else 'above: no file could be written for it'}",
        f"this is a fault of agentkd: please report it with that traceback, the command that you gave, and: {machine}",
    )
    more = {"traceback": str(kept) if kept else lines, "machine": machine}
    return ending.end(AgentKDError.code, AgentKDError.exit_code, failed, words="\n".join(words), **more)


def _keep(lines: str) -> Path | None:
    """A new file with the traceback: beside the run's logs, or else in the temporary folder; ``None`` if neither takes it."""
    for folder in (logs.folder(), None):
        with contextlib.suppress(OSError):
            handle, path = tempfile.mkstemp(prefix="agentkd-fault-", suffix=".txt", dir=folder)
            with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"agentkd {__version__}, Python {sys.version}, {platform.platform()}\n{sys.argv}\n{lines}")
            return Path(path)
    return None


def _show_traceback(error: BaseException) -> None:
    say("".join(traceback.format_exception(error)).rstrip(), err=True)


def _without_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """The arguments without ``--debug``, which may stand anywhere before ``--``, and whether it was there or the variable is."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    given = [one for one in arguments[:end] if one != DEBUG]
    return [*given, *arguments[end:]], len(given) < end or os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


def _open_what_is_closed() -> None:
    """Nothing else may be opened where standard input, output and errors are looked for, or it would be written to like them."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 for as long as the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _is_of_output(error: BaseException) -> bool:
    """Whether what failed was to write to standard output, as it does when that is a file on a full disk."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).name in ("ending.py", "utils.py", "console.py")


def _nobody_reads(error: BrokenPipeError, ending: Ending) -> int:
    """The end of a listing whose reader has gone (``agentkd networks | head -1``): quiet, as of other programs."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            poll.register(stream.fileno(), 0)
    if not poll.poll(0):
        return _refuse(error, ending)
    return NOBODY_READS


def _is_flushed() -> bool:
    """Whether all that was said went out. What cannot is dropped, or Python would complain of it at the end."""
    is_whole = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            is_whole = False
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)
    return is_whole
