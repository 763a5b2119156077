"""Canonical data and its digest: the one place that says how plain data become bytes and a name.

Canonical JSON here: keys sorted, no white space, UTF-8, finite numbers only. Two values that compare equal as JSON
have the same bytes, hence the same SHA-256, on every machine.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from agentkd.names import Digest

THROWN = re.compile(r"Error calling function `\w+`: (?P<kind>\w+): (?P<words>.*)", re.DOTALL)


class FrozenData(BaseModel):
    """Immutable plain data with a canonical form. Unknown fields are errors, and so are numbers that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def canonical(self) -> Any:
        """The value as plain JSON data."""
        return self.model_dump(mode="json")

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """As pydantic's, but what ends a program (Ctrl-C, a signal) is not taken for an error of a serializer."""
        try:
            return super().model_dump(**options)
        except ValueError as error:  # pydantic's own is one, whatever it was made of
            ended = _what_ended(error)
            if ended is None:
                raise
            raise ended from None

    @property
    def digest(self) -> Digest:
        """SHA-256 (hex) of the canonical JSON."""
        return digest(self.canonical())

    def replace(self, **changes: Any) -> Self:
        """The same with other values in some fields, checked like any other.

        Args:
            changes: field to value; what is not named stays.

        Raises:
            ValueError: it cannot be (pydantic's ``ValidationError`` is one).
        """
        return type(self).model_validate({name: getattr(self, name) for name in type(self).model_fields} | changes)


class ExplainedData(FrozenData):
    """Data that people write. What a field means stands below it as a docstring: for readers, editors and the JSON Schema."""

    model_config = ConfigDict(use_attribute_docstrings=True)


def _what_ended(error: ValueError) -> BaseException | None:
    """What ends a program and was thrown while something was written; two serializers deep pydantic keeps its name and words."""
    cause, told = error.__cause__, THROWN.fullmatch(str(error))
    if cause is not None or told is None:
        return None if isinstance(cause, Exception) else cause
    kind = next((kind for kind in _enders(BaseException) if kind.__name__ == told["kind"]), None)
    words = told["words"]
    return kind(int(words) if words.isdecimal() else words) if kind else None


def _enders(kind: type[BaseException]) -> Iterator[type[BaseException]]:
    """It and all that are made of it, but errors."""
    yield kind
    for one in kind.__subclasses__():
        yield from _enders(one) if not issubclass(one, Exception) else ()


@dataclass(frozen=True)
class Proviso:
    """When a field makes a difference. Elsewhere its default stands in the canonical form, so that what is equal has one digest.

    Args:
        text: the same as people say it.
        names: the fields that it looks at.
        holds: whether it makes one, with the values of these.
    """

    text: str
    names: tuple[str, ...]
    holds: Callable[[Mapping[str, Any]], bool]


def encode(value: Any) -> bytes:
    """Canonical JSON bytes of plain data.

    Example:
        >>> encode({"b": 1, "a": [True, None]})
        b'{"a":[true,null],"b":1}'

    Raises:
        ValueError: a number is not finite, and which.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        found = next(_not_finite(value), None)
        raise ValueError(f"{found}: not a finite number" if found else str(error)) from error


def _not_finite(value: Any, place: str = "") -> Iterator[str]:
    """Where numbers that are not finite stand."""
    if isinstance(value, float) and not math.isfinite(value):
        yield place
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for name, part in inside:
        yield from _not_finite(part, f"{place}.{name}" if place else str(name))


def digest(value: Any) -> Digest:
    """SHA-256 (hex) of the canonical JSON of plain data."""
    return digest_bytes(encode(value))


def digest_bytes(data: bytes | bytearray | memoryview) -> Digest:
    """SHA-256 (hex) of bytes."""
    return Digest(hashlib.sha256(data).hexdigest())


def digest_file(file: BufferedIOBase) -> Digest:
    """SHA-256 (hex) of an open file, which is never loaded whole."""
    return Digest(hashlib.file_digest(file, "sha256").hexdigest())


def new_digest() -> "hashlib._Hash":
    """A digest for bytes that come piece by piece."""
    return hashlib.sha256()
