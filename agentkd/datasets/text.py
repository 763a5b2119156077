"""Text that people write: UTF-8, and YAML without a key twice. Anything else is refused by name."""

from pathlib import Path
from typing import Any

from agentkd import plain
from agentkd.errors import DatasetError, check_descriptors
from agentkd.visible import visible


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without its mark.

    Raises:
        DatasetError: it cannot be read, or is in another encoding, which is named if it says so.
    """
    try:
        data = plain.read_file(path)
    except OSError as error:
        check_descriptors(path, error)
        raise DatasetError(path, f"cannot be read ({error.strerror or error})") from None
    try:
        return plain.decode_text(data)
    except ValueError as error:
        raise DatasetError(path, str(error), "UTF-8; save it so") from None


def read_yaml(path: Path) -> Any:
    """The content of a YAML file in UTF-8, in which no key is there twice.

    Raises:
        DatasetError: it is not that.
    """
    try:
        return plain.read_yaml(read_text(path))
    except ValueError as error:
        raise DatasetError(path, visible(str(error))) from None
