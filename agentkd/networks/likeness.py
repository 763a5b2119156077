"""In what two networks differ, said in words. Torch-free.

Not looked at: an own family's code, a family's revision, the scale of images (but their channels). What differences in these
mean is known where weights are loaded.
"""

from agentkd.architecture import Architecture, are_same_channels
from agentkd.networks import families


def differences(one: Architecture, other: Architecture) -> dict[str, tuple[str, str]]:
    """What differs, by its name: as it is in the first network, and in the second. Which head is in use makes no difference.

    Example:
        >>> small = families.resolve("unet", 5, {"base": 8})
        >>> differences(small, families.resolve("unet", 5))
        {'base': ('8', '32')}
        >>> differences(small.with_heads({"day": 5, "night": 2}), small)
        {'heads': ('day: 5 and night: 2', 'none')}
    """
    found: dict[str, tuple[object, object]] = {"family": (one.family, other.family)}
    if one.heads or other.heads:
        found["heads"] = (_told(one), _told(other))
    else:
        found["num_classes"] = (one.num_classes, other.num_classes)
    if not are_same_channels(one.channels, other.channels):
        found["channels"] = (", ".join(one.channels), ", ".join(other.channels))
    if one.family == other.family:
        ours, theirs = families.all_settings(one), families.all_settings(other)
        found |= {name: (ours.get(name), theirs.get(name)) for name in {**ours, **theirs}}
    return {name: (str(first), str(second)) for name, (first, second) in found.items() if first != second}


def differences_told(one: Architecture, other: Architecture) -> str:
    """The same in one line, as ``base 8, not 32``; empty if nothing differs."""
    return "; ".join(f"{name} {first}, not {second}" for name, (first, second) in differences(one, other).items())


def _told(architecture: Architecture) -> str:
    return " and ".join(f"{head}: {count}" for head, count in sorted(architecture.heads.items())) or "none"
