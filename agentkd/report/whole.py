"""Files that appear whole or not at all."""

import os
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """A file appears whole or not at all; a link in its place is replaced, and what it leads to stays."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("xb") as file:
            file.write(data)
        temporary.replace(path)
    except FileExistsError:
        raise
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
