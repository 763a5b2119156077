"""The command that shows a run in a browser, and the same beside a run that is begun."""

import contextlib
import importlib.util
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from agentkd.cli.ending import say
from agentkd.cli.typed import path
from agentkd.errors import ConfigError

NEEDED = ("starlette", "uvicorn")
READY_WITHIN_S = 60.0
END_WITHIN_S = 10.0
Watch = Annotated[bool, typer.Option("--watch", help="Show the run in a browser as it goes; see agentkd watch.")]


def watch(
    run_folder: Annotated[
        Path, typer.Argument(parser=path, metavar="RUN", help="Run folder, finished or not, or empty as yet; or a bundle.")
    ],
    others: Annotated[
        list[Path] | None, typer.Argument(parser=path, metavar="OTHER...", help="Other runs, or bundles, to compare with.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen on this host; any that is free if it is 0.")] = 0,
    parent: Annotated[int, typer.Option(hidden=True, help="Process that this one must not outlive; 0 for none.")] = 0,
) -> None:
    """Show a run in a browser, as it goes or afterwards, on this host alone; nothing is written. Ends with Ctrl-C.

    It prints the address, with a token: whoever has that sees the page. From elsewhere: ssh -L PORT:127.0.0.1:PORT HOST.
    """
    from agentkd.cli.running import end_as_by_ctrl_c
    from agentkd.launch.parent import die_with_parent

    must_be_installed()
    from agentkd.watch.serving import serve

    if parent:
        die_with_parent(parent)
    end_as_by_ctrl_c()

    def is_ready(address: str) -> None:
        say(f"open {address}" if not parent else address)
        sys.stdout.flush()

    with contextlib.suppress(KeyboardInterrupt):  # that is how it ends
        serve(run_folder, tuple(others or ()), port=port, on_ready=is_ready)


def must_be_installed() -> None:
    """Checks that a page can be served.

    Raises:
        ConfigError: a package is not here.
    """
    for package in NEEDED:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"{package} is not installed; run: pip install 'agentkd[watch]'")


@contextlib.contextmanager
def watched(place: Path) -> Iterator[str]:
    """A run is shown, by a process of its own that ends with this one; the address of the page.

    Raises:
        ConfigError: it cannot be.
    """
    command = [sys.executable, "-P", "-m", "agentkd", "watch", str(place.absolute()), f"--parent={os.getpid()}"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
    try:
        yield _address(process)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_WITHIN_S)
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _address(process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout is not None
    deadline, said = time.monotonic() + READY_WITHIN_S, b""
    while not said.endswith(b"\n") and (left := deadline - time.monotonic()) > 0:
        if select.select([process.stdout], [], [], left)[0]:
            more = os.read(process.stdout.fileno(), 4096)
            if not more:
                break
            said += more
    if not said.endswith(b"\n"):
        raise ConfigError("--watch: the page could not be served; agentkd watch RUN in another terminal says why")
    return said.decode().strip()
