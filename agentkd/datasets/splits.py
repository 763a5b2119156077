"""Splits: what people call them, which part is held out, and what two of them have in common that they should not."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from agentkd import seeding
from agentkd.errors import DatasetError

TRAIN, VALIDATION, TEST = "train", "validation", "test"
OTHER_NAMES = {TRAIN: ("train", "training"), VALIDATION: ("validation", "val", "valid", "dev"), TEST: ("test", "testing")}
NAMED = 3


def known_name(split: str, splits: Iterable[str]) -> str:
    """The name under which a split is there, in whatever way it was called: ``Training`` is ``train``; itself if none is."""
    if split in splits:
        return split
    return next((name for name in splits if split.lower() in OTHER_NAMES.get(name, ())), split)


def name_splits(found: Sequence[str], *, has_holdout: bool, place: Path, are_listed: bool = False) -> dict[str, str]:
    """What each split that was found is called here: ``train``, ``validation`` and ``test``, if nothing is called so already.

    A validation split of the data is called ``test`` if another one is held out, and there is no test.

    Args:
        found: the splits, by the names that the data have for them.
        has_holdout: whether a validation split is taken out of ``train``.
        place: of the data, for errors.
        are_listed: whether the description lists these splits; then one that is called ``validation`` is meant by that.

    Raises:
        DatasetError: several of them are names of one, such as ``val`` and ``valid``.
    """
    for ours, theirs in OTHER_NAMES.items():
        several = [name for name in found if name.lower() in theirs]
        several.sort(key=lambda name: (theirs.index(name.lower()), not name.islower()))
        if len(several) > 1 and not (are_listed and ours in several):
            left = ", ".join(name for name in found if name not in several[1:])
            line = f"write splits: [{left}] in dataset.yaml" if not are_listed else f"list {left} alone in splits in dataset.yaml"
            raise DatasetError(
                place,
                f"has the splits {' and '.join(map(repr, several))}, which are all names for {ours!r}",
                f"one of them; to use {several[0]!r}, {line}",
            )
    names = {name: name for name in found}
    for ours in (TRAIN, TEST, VALIDATION):
        target, theirs = TEST if ours == VALIDATION and has_holdout else ours, OTHER_NAMES[ours]
        if target in names.values():
            continue
        candidates = [name for other in theirs for name in found if name.lower() == other and names[name] == name]
        if candidates:
            names[candidates[0]] = target
    return names


def hold_out(
    splits: Mapping[str, tuple[int, ...]], groups: Mapping[int, str], request: str, *, name: str
) -> dict[str, tuple[int, ...]]:
    """Splits with a ``validation`` split taken out of ``train``, whole groups at a time.

    ``request`` is a fraction such as ``0.25``, or group names joined by ``+``.

    Raises:
        DatasetError: a group that is not there; nothing would be left; there is a validation split already, and a test split.
    """
    if VALIDATION in splits:
        raise DatasetError(name, "has a validation split and a test split already", "no holdout")
    train = splits.get(TRAIN, ())
    members: dict[str, list[int]] = {}
    for index in train:
        members.setdefault(groups[index], []).append(index)
    chosen = _choose_groups(members, request, name)
    rest = tuple(i for i in train if groups[i] not in chosen)
    held = tuple(i for i in train if groups[i] in chosen)
    if not rest or not held:
        raise DatasetError(name, f"holdout {request!r} leaves {len(rest)} training and {len(held)} validation samples", "both")
    return {**splits, TRAIN: rest, VALIDATION: held}


def in_several(splits: Mapping[str, tuple[int, ...]], what: Callable[[int], str]) -> dict[str, tuple[str, ...]]:
    """What is in more than one split, and in which: groups, say, or names."""
    where: dict[str, str | tuple[str, ...]] = {}
    for split, indices in splits.items():
        for thing in dict.fromkeys(map(what, indices)):
            before = where.get(thing)
            where[thing] = split if before is None else (*((before,) if isinstance(before, str) else before), split)
    return {thing: found for thing, found in where.items() if isinstance(found, tuple)}


def some(names: Sequence[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")


def several_told(groups: Mapping[str, object]) -> str:
    """That groups are in more than one split, and which."""
    count = "1 group is" if len(groups) == 1 else f"{len(groups):,} groups are"
    return f"{count} in more than one split: {some([*groups])}"


def _choose_groups(members: dict[str, list[int]], request: str, name: str) -> set[str]:
    try:
        fraction = float(request)
    except ValueError:
        chosen = set(request.split("+"))
        unknown = chosen - set(members)
        if unknown:
            raise DatasetError(name, f"no group {', '.join(sorted(unknown))}", f"of: {', '.join(sorted(members))}") from None
        return chosen
    wanted = fraction * sum(map(len, members.values()))
    order = sorted(members, key=lambda group: seeding.derive("hold_out", group))
    picked: set[str] = set()
    count = 0
    for group in order:
        size = len(members[group])
        if abs(count + size - wanted) < abs(count - wanted):
            picked.add(group)
            count += size
    return picked
