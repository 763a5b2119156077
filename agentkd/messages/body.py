"""What every message, and whatever stands in one, has in common: frozen data that are read without what is not known."""

from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from agentkd import canonical
from agentkd.messages.evolution import known_fields
from agentkd.recipe import AS_WRITTEN


class Body(BaseModel):
    """One message's content. Unknown fields are ignored (they may come from a newer minor version)."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)
    holds_records: ClassVar[bool] = False

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> Self:
        """A body from unpacked data. Those that hold tasks and recipes are checked as strict JSON, all the way down.

        Unknown fields are ignored inside of others too, see ``evolution``.

        Raises:
            ValueError: the data are not such a body (pydantic's ``ValidationError`` is one).
        """
        known = known_fields(cls, data)
        if cls.holds_records:
            return cls.model_validate_json(canonical.encode(known), strict=True, context=AS_WRITTEN)
        return cls.model_validate(known)
