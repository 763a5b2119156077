"""What samplers suggested, kept by a digest of all that decides it, so that each suggestion is made once. Pure.

Plans are made again and again, by reports and by runs that go on. To ask a sampler anew for a thousand trials takes half a
minute, and another version of it may answer otherwise: what was noted is what a run goes on with.
"""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from agentkd.names import Digest
from agentkd.search.space import Choices, Parameter, Space, Values, is_searched

Place = Annotated[int, Field(strict=True, ge=0)] | Annotated[float, Field(strict=True)]
Noted = dict[str, Place]
"""By parameter the place in the list of choices, or the number itself."""


class Suggestions:
    """Those that are known. ``take_new`` gives those that came since it was called last, to be written down.

    Args:
        known: what was written down before.
    """

    def __init__(self, known: Mapping[Digest, Noted] | None = None) -> None:
        self._known = dict(known or {})
        self._new: dict[Digest, Noted] = {}

    def find(self, key: Digest, space: Space) -> Values | None:
        """What was suggested then; ``None`` if that is not known, or is nothing that this space has."""
        noted = self._known.get(key)
        if noted is None or not noted.keys() <= space.keys():
            return None
        values: Values = {}
        for name, parameter in space.items():
            if is_searched(space, name, values):
                if name not in noted or not _fits(parameter, noted[name]):
                    return None
                values[name] = parameter.values[int(noted[name])] if isinstance(parameter, Choices) else noted[name]
        return values if values.keys() == noted.keys() else None

    def note(self, key: Digest, space: Space, values: Values) -> None:
        """Keeps what was suggested."""
        self._known[key] = self._new[key] = {name: _place(space[name], value) for name, value in values.items()}

    def take_new(self) -> dict[Digest, Noted]:
        """What was noted since this was called last."""
        new, self._new = self._new, {}
        return new


def _place(parameter: Parameter, value: int | float) -> int | float:
    if not isinstance(parameter, Choices):
        return value
    return next(place for place, choice in enumerate(parameter.values) if type(choice) is type(value) and choice == value)


def _fits(parameter: Parameter, noted: int | float) -> bool:
    if isinstance(parameter, Choices):
        return isinstance(noted, int) and noted < len(parameter.values)
    return isinstance(noted, int) is parameter.integer and parameter.low <= noted <= parameter.high
