"""The command line in this process: what is typed, and what comes of it."""

import contextlib
import io
from dataclasses import dataclass

from wrong_things import typed as status_of


@dataclass(frozen=True)
class Typed:
    """Exit status, output, errors."""

    status: int
    out: str
    err: str


def typed(*arguments: object) -> Typed:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace") for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = status_of([str(one) for one in arguments])
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return Typed(status, *texts)
