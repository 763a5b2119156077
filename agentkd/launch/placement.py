"""Where teaching agents are, seen from those that learn (``launch.teachers``). It changes no result, only what waits for what.

A teaching agent takes the place that has the fewest agents, the first of those. A policy says which places there are and who is
counted as being there: by ``beside`` the slots of those that learn, of which none is counted; by ``spread`` the same devices, of
which each learner is; a list of devices has places of its own.
"""

import re
from collections import Counter
from dataclasses import dataclass

from agentkd.errors import ConfigError
from agentkd.launch.devices import Slot, parse_devices

BESIDE, SPREAD = "beside", "spread"
FORM = "expected beside, spread, or devices, such as cuda:1 or cuda:2,cuda:3"
LISTED = re.compile(r"(cpu|cuda)[:x0-9]*(\s*,\s*(cpu|cuda)[:x0-9]*)*")


@dataclass(frozen=True)
class TeachingPlace:
    """Room for teaching agents.

    Args:
        slot: a device, and the threads that an agent there may use.
        num_beside: how many agents count as being there besides.
    """

    slot: Slot
    num_beside: int = 0


def check_policy(text: str) -> str:
    """The same text.

    Raises:
        ValueError: it is no policy, wherever that would be.
    """
    if text not in (BESIDE, SPREAD) and not LISTED.fullmatch(text):
        raise ValueError(f"{text!r} is no place for teaching agents; {FORM}")
    return text


def teaching_places(
    policy: str, slots: tuple[Slot, ...], *, cores: int | None = None, cuda_count: int | None = None
) -> tuple[TeachingPlace, ...]:
    """The places of agents that teach those that learn on these slots.

    Raises:
        ConfigError: a device that is named is not there.

    Example:
        >>> learning = parse_devices("cuda:0x2,cuda:1", cores=4, cuda_count=2)
        >>> [(place.slot.device, place.num_beside) for place in teaching_places("spread", learning)]
        [('cuda:0', 2), ('cuda:1', 1)]
    """
    if policy == BESIDE or not slots:
        return tuple(TeachingPlace(slot) for slot in slots)
    if policy == SPREAD:
        count = Counter(slot.device for slot in slots)
        first = {slot.device: slot for slot in reversed(slots)}
        return tuple(TeachingPlace(first[device], count[device]) for device in count)
    try:
        return tuple(TeachingPlace(slot) for slot in parse_devices(policy, cores=cores, cuda_count=cuda_count))
    except ConfigError as error:
        raise ConfigError(f"launch.teachers: {error}") from None


def describe(policy: str, slots: tuple[Slot, ...]) -> str:
    """Where they will be, in words.

    Raises:
        ConfigError: as ``teaching_places``.
    """
    devices = ", ".join(dict.fromkeys(place.slot.device for place in teaching_places(policy, slots)))
    if policy == BESIDE:
        return f"beside those that learn ({devices})"
    if policy == SPREAD:
        return f"where the fewest agents are ({devices})"
    return f"on {devices}"
