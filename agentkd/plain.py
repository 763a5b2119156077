"""Plain data that somebody else may have written, as JSON or YAML: read within limits, and refused with a reason beyond them.

What a path names is a file or refused: a pipe that nobody writes to is not waited for, a device without an end not read. A short
text must not become much memory, much time or a value that nothing later can hold. So a reader counts what a text spells out
before it is made: values, nesting, digits, and in YAML what aliases repeat.
"""

import codecs
import contextlib
import errno
import json
import math
import os
import re
import select
import stat
from pathlib import Path
from typing import Any

import yaml

from agentkd.visible import visible_line

MAX_NAME = 200
MAX_JSON = 16 * 2**20
MAX_YAML = 2**20
MAX_VALUES = 1_000_000
MAX_YAML_VALUES = 100_000
MAX_DEPTH = 64
MAX_NUMBER = 100
MAX_FILE = 64 * 2**20
PIPE_TIMEOUT_S = 10.0
INTEGERS = range(-(2**63), 2**64)
UNDER_WAY = (0, 0)
MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def must_be_file(path: Path) -> None:
    """Refuses what a library would wait for, or read for ever: a pipe, a device, a socket; a folder too.

    Raises:
        OSError: there is no such file, or it is none.
    """
    _check_kind(path.stat().st_mode, path)


def must_be_writable_as_file(path: Path) -> None:
    """Refuses to write where something else than a file is: what takes its place would end a device, or wait for a pipe's reader.

    Raises:
        OSError: there is a folder, a pipe, a device or a socket.
    """
    with contextlib.suppress(FileNotFoundError):
        _check_kind(path.stat().st_mode, path)


def read_file(path: Path, *, max_bytes: int = MAX_FILE) -> bytes:
    """The bytes of a file, or of a pipe that somebody writes to (``agentkd run <(...)``).

    Raises:
        OSError: it cannot be read, is no file, or has more than ``max_bytes``.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        is_pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
        if not is_pipe:
            _check_kind(os.fstat(descriptor).st_mode, path)
        data = bytearray()
        while len(data) <= max_bytes:
            piece = file.read(max_bytes + 1 - len(data))
            if piece is None:
                if not select.select([file], [], [], PIPE_TIMEOUT_S)[0]:
                    raise OSError(errno.ETIMEDOUT, f"nothing came through this pipe for {PIPE_TIMEOUT_S:.0f} s", str(path))
                continue
            if not piece and is_pipe and not data:
                raise OSError(errno.EINVAL, "it is a pipe that nobody writes to; give a file", str(path))
            if not piece:
                return bytes(data)
            data += piece
    raise OSError(errno.EFBIG, f"it has more than {max_bytes:,} bytes", str(path))


def _check_kind(mode: int, path: Path) -> None:
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
    if not stat.S_ISREG(mode):
        found = next((word for is_one, word in kinds.items() if is_one(mode)), "a device")
        raise OSError(errno.EINVAL, f"it is {found}; give a file", str(path))


def decode_text(data: bytes) -> str:
    r"""The text that bytes are in UTF-8, with or without its mark.

    Raises:
        ValueError: they are in another encoding, which is named.

    Example:
        >>> decode_text("name: caf\u00e9".encode("latin-1"))
        Traceback (most recent call last):
        ValueError: is not UTF-8: byte 0xe9 in line 1 (perhaps Latin-1 or Windows-1252)
    """
    for mark, name in MARKS:
        if data.startswith(mark):
            raise ValueError(f"is text in {name}")
    if b"\0" in data[:4096]:
        raise ValueError("is no text, or in UTF-16 without a mark")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"is not UTF-8: byte 0x{data[error.start]:02x} in line {line} (perhaps Latin-1 or Windows-1252)"
        raise ValueError(found) from None


def read_json(text: str | bytes) -> Any:
    """What a JSON text says. Names stand once in an object, numbers are finite and fit into 64 bits.

    Raises:
        ValueError: it says nothing, or more than may be: 16 MiB, a million values, 64 levels.

    Example:
        >>> read_json('{"a": [1, 2.5, null]}')
        {'a': [1, 2.5, None]}
    """
    if len(text) > MAX_JSON:
        raise ValueError(f"it has {len(text):,} characters; at most {MAX_JSON:,} are read")
    text = text if isinstance(text, str) else text.decode()
    if sum(map(text.count, ",[{")) > MAX_VALUES:
        raise ValueError(f"it has more than {MAX_VALUES:,} values")
    try:
        found = json.loads(text, parse_int=_integer, parse_float=_finite, parse_constant=_finite, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels") from None
    _check_depth(found)
    if _SURROGATE.search(text):
        json.dumps(found, ensure_ascii=False).encode()
    return found


def read_yaml(text: str) -> Any:
    r"""What a YAML text says, without any tags but those of plain data.

    Raises:
        ValueError: it says nothing, or more than may be: 1 MiB, 100,000 values with what its aliases repeat, 64 levels.

    Example:
        >>> read_yaml("a: &x [1, 2]\nb: *x")
        {'a': [1, 2], 'b': [1, 2]}
    """
    if len(text) > MAX_YAML:
        raise ValueError(f"it has {len(text):,} characters; at most {MAX_YAML:,} are read")
    try:
        loader = yaml.SafeLoader(text)  # the one in C ends the process where a text is nested deeply
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, {})
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels") from None
    except (ArithmeticError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"a value is not of the kind that it is said to be ({error})") from None


def _integer(digits: str) -> int:
    value = int(digits) if len(digits) <= MAX_NUMBER else INTEGERS.stop
    if value not in INTEGERS:
        raise ValueError(f"the number {digits[:20]}... does not fit into 64 bits")
    return value


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:20]} is no finite number")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return made


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner = [part.values() if isinstance(part, dict) else part for part in level if isinstance(part, dict | list)]
        level = [part for parts in inner for part in parts]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")


def _check_keys(node: yaml.Node) -> None:
    """That no key of a mapping is there twice."""
    seen = set()
    for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
        name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
        if name in seen:
            raise ValueError(f"line {key.start_mark.line + 1}: the key {key.value!r} is there twice")
        seen.add(name)


def _measure(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """How many values a node stands for, each as often as aliases repeat it, and on how many levels."""
    line = f"line {node.start_mark.line + 1}"
    if isinstance(node, yaml.ScalarNode):
        if node.tag != "tag:yaml.org,2002:str" and len(node.value) > MAX_NUMBER:
            raise ValueError(f"{line}: a number has {len(node.value):,} characters")
        return 1, 1
    if id(node) not in known:
        known[id(node)] = UNDER_WAY
        parts = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        _check_keys(node)
        sizes = [_measure(part, known) for part in parts]
        known[id(node)] = 1 + sum(count for count, _ in sizes), 1 + max((levels for _, levels in sizes), default=0)
    count, levels = known[id(node)]
    if (count, levels) == UNDER_WAY:
        raise ValueError(f"{line}: it holds itself")
    if count > MAX_YAML_VALUES or levels > MAX_DEPTH + 1:
        raise ValueError(f"{line}: it stands for more than {MAX_YAML_VALUES:,} values or {MAX_DEPTH} levels, with its aliases")
    return count, levels


def no_file_name(text: str) -> str:
    """Why a text is no name that one file or folder can have and that is shown as it is; empty if it is one.

    Example:
        >>> no_file_name("../evil")
        'a name with / is a path'
    """
    if not text.strip():
        return "an empty name names nothing"
    if text in (".", ".."):
        return "it names a folder that is there already"
    if "/" in text:
        return "a name with / is a path"
    if visible_line(text) != text or "\t" in text:
        return "it has characters that control or hide"
    size = len(text.encode())
    return f"it has {size} bytes; {MAX_NAME} are the most" if size > MAX_NAME else ""
