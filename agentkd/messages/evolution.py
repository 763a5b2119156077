"""What a later minor version has added inside a message is passed over before the message is read.

A task, an architecture and a data source go by the digest of all that they say, so nothing in them can be passed over: there an
unknown field stays, and is refused.
"""

from functools import lru_cache
from typing import Any, get_args

from pydantic import BaseModel

from agentkd.architecture import Architecture
from agentkd.task import KINDS, DataSource

NAMED_BY_DIGEST = (Architecture, DataSource, *KINDS.values())


def known_fields(kind: type[BaseModel], plain: Any) -> Any:
    """Plain data without the fields that a message, and what stands in it, does not have. What is no map is left as it is."""
    if not isinstance(plain, dict) or issubclass(kind, NAMED_BY_DIGEST):
        return plain
    inside = _inside(kind)
    return {
        name: _without_unknown(inside[name], value) if name in inside else value
        for name, value in plain.items()
        if name in kind.model_fields
    }


def _without_unknown(kind: type[BaseModel], value: Any) -> Any:
    return [known_fields(kind, one) for one in value] if isinstance(value, list) else known_fields(kind, value)


@lru_cache(maxsize=256)
def _inside(kind: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Those fields of a kind of data that hold data with fields of their own, one or a list: what each holds."""
    found = {name: list(_models(field.annotation)) for name, field in kind.model_fields.items()}
    return {name: models[0] for name, models in found.items() if len(models) == 1}


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
