"""When things happened, as a page draws it: the hours in which a run worked, one sitting after the other."""

import bisect
import calendar
import time
from collections.abc import Iterable

SLACK_S = 120.0
"""Of idleness that is drawn as it was: more is another sitting."""
BREAK_S = 10.0
"""What is drawn for the time between two sittings."""
FORM = "%Y-%m-%dT%H:%M:%SZ"


def seconds_of(at: str) -> float:
    """A time as it is recorded (UTC, ISO 8601), in seconds since 1970; 0 of what is none.

    Example:
        >>> seconds_of("1970-01-02T00:00:01Z"), seconds_of("soon")
        (86401.0, 0.0)
    """
    try:
        return float(calendar.timegm(time.strptime(at, FORM)))
    except ValueError:
        return 0.0


class Timeline:
    """Puts times of the clock in a row of working hours."""

    def __init__(self) -> None:
        self._starts: list[float] = []  # of each sitting, by the clock
        self._ends: list[float] = []
        self._places: list[float] = []  # where each sitting begins on the page

    @property
    def breaks(self) -> list[float]:
        """Where one sitting ends and the next begins."""
        return self._places[1:]

    def work(self, intervals: Iterable[tuple[float, float]]) -> None:
        """Takes note of when something was done, in any order. What was placed before stays where it is."""
        for start, end in sorted(intervals):
            if not self._starts or start > self._ends[-1] + SLACK_S:
                place = self._places[-1] + self._ends[-1] - self._starts[-1] + BREAK_S if self._starts else 0.0
                self._starts.append(start)
                self._ends.append(max(start, end))
                self._places.append(place)
            else:
                self._ends[-1] = max(self._ends[-1], end)

    def place(self, at: float) -> float:
        """Where a time stands, in seconds of work since the run began; what is in no sitting, where the next begins."""
        index = bisect.bisect_right(self._starts, at) - 1
        if index < 0:
            return 0.0
        place = self._places[index] + at - self._starts[index]
        return min(place, self._places[index + 1]) if index + 1 < len(self._places) else place
