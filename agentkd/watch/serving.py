"""A page served: a run folder or a bundle, on this host alone, until Ctrl-C."""

import contextlib
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from agentkd.artifacts.bundle import unpack
from agentkd.artifacts.run_folder import RunFolder
from agentkd.errors import ArtifactError, ConfigError
from agentkd.watch.app import make_app
from agentkd.watch.entrance import new_token
from agentkd.watch.watching import Watching

LOOPBACK = "127.0.0.1"
NICENESS = 10
"""A page waits for the run and not the run for a page."""
END_WITHIN_S = 1


def serve(place: Path, others: tuple[Path, ...], *, port: int, on_ready: Callable[[str], None]) -> None:
    """Shows a run until this process is told to end.

    Args:
        place: of a run folder, which may be empty as yet, or a bundle.
        others: run folders or bundles to compare with.
        port: where to listen on this host; any that is free if it is 0.
        on_ready: told the address once it can be opened.

    Raises:
        ArtifactError: there is no such folder or bundle, or it is no run's.
        ConfigError: the port is taken.
    """
    with contextlib.ExitStack() as held:
        folder, *compared = (held.enter_context(opened(one)) for one in (place, *others))
        listening = held.enter_context(_listen(port))
        token = new_token()
        with contextlib.suppress(OSError):
            os.nice(NICENESS)
        app = make_app(Watching(folder, compared), token)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=END_WITHIN_S,
        )
        on_ready(f"http://{LOOPBACK}:{listening.getsockname()[1]}/{token}/")
        _Server(config, app).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Ends the streams before it waits for what is under way: they would never end by themselves."""

    def __init__(self, config: uvicorn.Config, app: Starlette) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        self._app.state.stream.close()
        await super().shutdown(sockets)


@contextmanager
def opened(place: Path) -> Iterator[RunFolder]:
    """A run folder, or what is in a bundle, which is looked through first and gone afterwards.

    Raises:
        ArtifactError: it is neither.
    """
    if place.is_dir():
        yield RunFolder(place).must_be_its_own()
    elif place.is_file():
        with tempfile.TemporaryDirectory(prefix="agentkd-watch-") as around:
            inside = Path(around) / (place.stem or "run")
            unpack(place, inside)
            yield RunFolder(inside)
    else:
        raise ArtifactError(
            f"{place} is no run folder and no bundle: there is nothing; begin a run and watch it with: agentkd run FILE --watch"
        )


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((LOOPBACK, port))
        listening.listen()  # whoever comes before all is ready waits a moment
    except OSError as error:
        listening.close()
        raise ConfigError(f"--port {port} cannot be had ({error.strerror}); leave it out to take any that is free") from error
    return listening
