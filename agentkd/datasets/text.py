"""Text that people write: UTF-8, and YAML without a key twice. Anything else is refused by name."""

import codecs
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
        data = path.read_bytes()
    except OSError as error:
        check_descriptors(path, error)
        raise DatasetError(path, f"cannot be read ({error.strerror or error})") from None
    for mark, name in (
        (codecs.BOM_UTF32_LE, "UTF-32"),
        (codecs.BOM_UTF32_BE, "UTF-32"),
        (codecs.BOM_UTF16_LE, "UTF-16"),
        (codecs.BOM_UTF16_BE, "UTF-16"),
    ):
        if data.startswith(mark):
            raise DatasetError(path, f"is text in {name}", "UTF-8; save it so")
    if b"\0" in data[:4096]:
        raise DatasetError(path, "is no text, or in UTF-16 without a mark", "text in UTF-8; save it so")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"is not UTF-8: byte 0x{data[error.start]:02x} in line {line} (perhaps Latin-1 or Windows-1252)"
        raise DatasetError(path, found, "text in UTF-8; save it so") from None


def read_yaml(path: Path) -> Any:
    """The content of a YAML file in UTF-8, in which no key is there twice.

    Raises:
        DatasetError: it is not that.
    """
    try:
        return plain.read_yaml(read_text(path))
    except ValueError as error:
        raise DatasetError(path, visible(str(error))) from None
