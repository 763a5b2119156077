"""What a page shows, as plain data in sections, each item under a name; and what of it has changed since somebody asked."""

import json
from collections import deque
from typing import Any

Change = dict[str, Any]
"""``put``: by section and name what is new or other; ``drop``: by section the names that are gone."""
MAX_KEPT = 200
"""Changes that are remembered, for pages that were away for a moment."""


class Board:
    """Sections of named items. One thread writes; what is put must be JSON, and is not changed afterwards."""

    def __init__(self) -> None:
        self._sections: dict[str, dict[str, Any]] = {}
        self._put: dict[str, dict[str, Any]] = {}
        self._drop: dict[str, set[str]] = {}

    def put(self, section: str, name: str, value: Any) -> None:
        """An item is this now."""
        items = self._sections.setdefault(section, {})
        if name in items and items[name] == value:
            return
        items[name] = value
        self._put.setdefault(section, {})[name] = value
        self._drop.get(section, set()).discard(name)

    def drop(self, section: str, name: str) -> None:
        """An item is gone."""
        if self._sections.get(section, {}).pop(name, None) is not None:
            self._put.get(section, {}).pop(name, None)
            self._drop.setdefault(section, set()).add(name)

    def get(self, section: str, name: str) -> Any:
        """An item; ``None`` if there is none."""
        return self._sections.get(section, {}).get(name)

    def names(self, section: str) -> list[str]:
        """The names of a section's items."""
        return list(self._sections.get(section, {}))

    def take(self) -> Change | None:
        """What has changed since this was asked last; ``None`` if nothing has."""
        put = {section: items for section, items in self._put.items() if items}
        drop = {section: sorted(names) for section, names in self._drop.items() if names}
        self._put, self._drop = {}, {}
        return {"put": put, "drop": drop} if put or drop else None

    def whole(self) -> Change:
        """All that there is, as a change of nothing."""
        return {"put": {section: dict(items) for section, items in self._sections.items()}, "drop": {}}


class Editions:
    """A board's changes, numbered, as texts: who knows one of the last is told what came after it, anybody else the whole."""

    def __init__(self, board: Board) -> None:
        self._board, self.number = board, 0
        self._changes: deque[tuple[int, str]] = deque(maxlen=MAX_KEPT)
        self._whole: tuple[int, str] = (-1, "")

    def publish(self) -> bool:
        """Takes what has changed; whether anything has."""
        change = self._board.take()
        if change is None:
            return False
        self.number += 1
        self._changes.append((self.number, as_text(change)))
        return True

    def since(self, number: int) -> list[tuple[int, str]] | None:
        """What came after that edition, each with its number; ``None`` if that is not known any more."""
        if (
            number > self.number
            or (self._changes and number < self._changes[0][0] - 1)
            or (not self._changes and number < self.number)
        ):
            return None
        return [(one, text) for one, text in self._changes if one > number]

    def whole(self) -> tuple[int, str]:
        """All that there is, and the number of its edition."""
        if self._whole[0] != self.number:
            self._whole = self.number, as_text(self._board.whole())
        return self._whole


def as_text(plain: Any) -> str:
    """As JSON on one line; what is no number (a loss that has diverged) is null."""
    try:
        return json.dumps(plain, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    except ValueError:
        return json.dumps(_finite(plain), separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def _finite(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {name: _finite(value) for name, value in plain.items()}
    if isinstance(plain, list | tuple):
        return [_finite(value) for value in plain]
    return None if isinstance(plain, float) and (plain != plain or abs(plain) == float("inf")) else plain
