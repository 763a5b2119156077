"""How the program ends: Ctrl-C, a fault of ours, outputs that are closed, full or read by nobody; and what --debug shows."""

import errno
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from experiments import environment

import agentkd
from agentkd import logs
from agentkd.cli import app
from agentkd.cli.ending import run_to_the_end
from agentkd.errors import ConfigError, OutOfMemoryError, ThreadsError
from agentkd.exchange.grants import Registry
from agentkd.exchange.keys import new_key_pair

CLOSED: dict[str, tuple[Callable[[], object], int]] = {
    "its output is closed": (lambda: os.close(1), 0),
    "its errors are closed": (lambda: os.close(2), 0),
    "all are closed": (lambda: os.closerange(0, 3), 0),
    "the disk of its output is full": (lambda: os.dup2(os.open("/dev/full", os.O_WRONLY), 1), 16),
    "nobody reads it": (lambda: os.dup2(pipe_that_nobody_reads(), 1), 141),
}


def pipe_that_nobody_reads() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def broken(error: BaseException) -> typer.Typer:
    """A program of one command that ends so."""
    made = typer.Typer()

    @made.command()
    def command() -> None:
        raise error

    return made


def test_ctrl_c_ends_a_command_quietly(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(registry: Registry) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Registry, "entries", wait)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what runs in the background
    try:
        assert run_to_the_end(app, ["keys", "list"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert tuple(capsys.readouterr()) == ("", "interrupted\n")


FAULTS = [
    ZeroDivisionError("by zero"),
    AssertionError(),
    OSError(1, "of nobody knows what"),
    KeyError("x"),
    EOFError(),
    TypeError("x"),
]


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
def test_a_fault_of_ours_says_where_its_traceback_is_and_what_to_report(
    error: Exception, temporary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_to_the_end(broken(error), []) == 70
    said = capsys.readouterr().err
    (kept,) = temporary.iterdir()
    assert "Traceback" not in said and str(kept) in said and "please report" in said and type(error).__name__ in said
    text = kept.read_text(encoding="utf-8")
    assert "Traceback" in text and "in command" in text and agentkd.__version__ in text


def test_a_fault_whose_traceback_cannot_be_kept_shows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert run_to_the_end(broken(ZeroDivisionError()), []) == 70
    assert "Traceback" in capsys.readouterr().err


def test_a_fault_during_a_run_is_kept_beside_its_logs(tmp_path: Path, temporary: Path) -> None:
    root, before = logging.getLogger(), list(logging.getLogger().handlers)
    logs.to_file(tmp_path / "run" / "logs" / "coordinator.log")
    try:
        assert run_to_the_end(broken(ZeroDivisionError()), []) == 70
    finally:
        for handler in [one for one in root.handlers if one not in before]:
            root.removeHandler(handler)
            handler.close()
    assert len([*(tmp_path / "run" / "logs").glob("agentkd-fault-*.txt")]) == 1 and not [*temporary.iterdir()]


@pytest.mark.parametrize(
    ("arguments", "variable", "is_shown"),
    [(["--debug"], "", True), ([], "1", True), ([], "0", False), ([], "", False)],
)
def test_who_asks_is_shown_the_traceback(
    arguments: list[str], variable: str, is_shown: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "show_all", lambda: None)
    monkeypatch.setenv("AGENTKD_DEBUG", variable)
    assert run_to_the_end(broken(ConfigError("this: is wrong")), arguments) == 2
    said = capsys.readouterr().err
    assert ("Traceback" in said) == is_shown and said.endswith("error: this: is wrong\n")


@pytest.mark.parametrize("line", [["--debug", "keys", "list"], ["keys", "--debug", "list"], ["keys", "list", "--debug"]])
def test_the_log_is_shown_to_who_asks_wherever_he_does(line: list[str], tmp_path: Path) -> None:
    code = "import logging; from agentkd.exchange.grants import Registry; "
    code += "Registry.entries = lambda registry: logging.getLogger('agentkd.x').debug('here') or {}"
    command = [sys.executable, "-c", f"{code}; from agentkd.cli import main; main()", *line]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment(), timeout=60, check=False)
    assert done.returncode == 0 and "DEBUG   agentkd.x: here" in done.stderr, done.stderr


def test_what_is_after_two_dashes_is_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_to_the_end(app, ["verify", "--", "--debug"]) == 15
    assert "--debug is not a run folder" in capsys.readouterr().err


def listing(tmp_path: Path, prepare: Callable[[], object]) -> Any:
    registry = Registry(tmp_path / "keys")
    registry.register("Läufe 火", new_key_pair().public)
    before = registry.path.read_bytes()
    command = [sys.executable, "-m", "agentkd", "keys", "list", "--keys", str(tmp_path / "keys")]
    done = subprocess.run(command, capture_output=True, env=environment(), timeout=60, check=False, preexec_fn=prepare)
    assert registry.path.read_bytes() == before
    return done


@pytest.mark.parametrize("how", CLOSED)
def test_a_listing_ends_in_order_wherever_it_goes(how: str, tmp_path: Path) -> None:
    prepare, status = CLOSED[how]
    done = listing(tmp_path, prepare)
    assert done.returncode == status, done.stdout + done.stderr
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr
    assert (b"standard output" in done.stderr) == (status == 16)


NO_MEMORY = [
    MemoryError(),
    MemoryError("Unable to allocate 3.0 GiB for an array"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
    ),
    RuntimeError("std::bad_alloc"),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), "/some/file"),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: f"{type(error).__name__} {error}"[:40])
def test_too_little_memory_is_no_fault_of_ours(error: Exception, temporary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_to_the_end(broken(error), []) == OutOfMemoryError.exit_code
    said = capsys.readouterr().err
    assert said.startswith("error: there is not enough memory for this process") and "launch.devices: cpu:1" in said
    assert "report" not in said and not [*temporary.iterdir()]


def test_a_limit_of_memory_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (300 * 2**20, 300 * 2**20))
    assert run_to_the_end(broken(MemoryError()), []) == OutOfMemoryError.exit_code
    assert "it may have 300 MiB of addresses (ulimit -v) (MemoryError); allow it more" in capsys.readouterr().err


def test_threads_that_cannot_be_started_are_no_fault_of_ours(temporary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_to_the_end(broken(RuntimeError("can't start new thread")), []) == ThreadsError.exit_code
    assert "no more processes or threads can be started" in capsys.readouterr().err and not [*temporary.iterdir()]
