"""Does what a search looks for go with what it runs on?"""

from agentkd.checks.concerns import Concern, warning
from agentkd.checks.plan import RunPlan
from agentkd.errors import ConfigError
from agentkd.pipeline.aims import costs_of, measures_latency


def check_latency(plan: RunPlan) -> list[Concern]:
    """Whether latency, where it counts, is measured on devices of one kind."""
    if not measures_latency(plan.experiment):
        return []
    try:
        kinds = sorted({slot.device.partition(":")[0] for slot in plan.experiment.launch.slots})
    except ConfigError:
        return []  # another check says so
    if len(kinds) < 2:
        return []
    is_cost, is_limit = "latency" in costs_of(plan.experiment), plan.experiment.search.max_latency_ratio > 0
    place = "search.costs" if is_cost else "search.max_latency_ratio" if is_limit else "select.count"
    text = f"agents on {' and '.join(kinds)} measure latency, and what one kind of device takes says nothing of another"
    return [warning(place, f"{text}; name devices of one kind in launch.devices, or count macs")]
