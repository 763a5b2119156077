"""Numbers as people read them, and which score of a run is shown."""

import statistics
from collections.abc import Sequence

from agentkd.pipeline.plan import Outlook
from agentkd.task.judging import Measure, measure_of


def short_count(count: int) -> str:
    """A count of parameters with three digits, as the paper prints it.

    Example:
        >>> short_count(6_942_117), short_count(18_408_758), short_count(869)
        ('6.94M', '18.4M', '869')
    """
    for size, suffix in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            value = count / size
            return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f}{suffix}"
    return str(count)


def measure_shown(outlook: Outlook) -> Measure:
    """By which score a run's networks are shown beside each other: accuracy if all are classifiers, else mIoU."""
    return measure_of(row.entrant.result for one in (outlook, *outlook.repeats) for row in one.rows)


def spread(values: Sequence[float], *, sign: bool = False) -> str:
    """Mean and standard deviation, with two digits; of one value that alone.

    Example:
        >>> spread([1.0, 2.0, 3.0]), spread([0.5], sign=True)
        ('2.00 +- 1.00', '+0.50')
    """
    mean = f"{statistics.fmean(values):+.2f}" if sign else f"{statistics.fmean(values):.2f}"
    return f"{mean} +- {statistics.stdev(values):.2f}" if len(values) > 1 else mean
