"""Is there something to be learned from the data, and to be judged by?"""

from collections.abc import Mapping, Sequence

from agentkd.checks.concerns import Concern, warning
from agentkd.checks.plan import RunPlan
from agentkd.datasets.opening import Opened
from agentkd.datasets.samples import MAX_COMPARED
from agentkd.datasets.splits import TEST, TRAIN, VALIDATION, some
from agentkd.errors import ConfigError, DatasetError

ONE_CLASS = "only:"


def check_notices(plan: RunPlan) -> list[Concern]:
    """What was seen in the data that may be meant."""
    return [warning("data.dataset", text) for text in plan.dataset.notices] if plan.dataset else []


def check_labels(plan: RunPlan) -> list[Concern]:
    """Whether every split has pixels of the classes."""
    if plan.dataset is None:
        return []
    return check_classes(plan.dataset, [(split, indices) for _, split, indices in _roles(plan)])


def check_roles(plan: RunPlan) -> list[Concern]:
    """Whether what is validated or tested on is something else than what was learned."""
    found, data, roles = [], plan.experiment.data, _roles(plan)
    for at, (role, split, indices) in enumerate(roles):
        for other, _, before in roles[:at]:
            common = len(set(indices) & set(before))
            if common:
                text = (
                    f"{split!r} has {common:,} images that {getattr(data, other)!r} has too, so what it says of them is too good"
                )
                found.append(warning(f"data.{role}", f"{text}; give each a split of its own"))
    return found


def _roles(plan: RunPlan) -> list[tuple[str, str, tuple[int, ...]]]:
    """Role, name and samples of each split that an experiment uses."""
    data = plan.experiment.data
    roles = [(TRAIN, data.train, plan.split(TRAIN)), (VALIDATION, data.validation, plan.split(VALIDATION))]
    return [*roles, (TEST, data.test, plan.split(TEST))] if data.test else roles


def check_classes(
    dataset: Opened, splits: Sequence[tuple[str, Sequence[int]]], *, needs_labels: bool = True, place: str = "data.dataset"
) -> list[Concern]:
    """Which classes have pixels in the splits for training and validation (the first two), and in others.

    Args:
        dataset: whose.
        splits: name and samples of each. With too many of a user's own dataset nothing is said of them.
        needs_labels: whether labels are learned from.
        place: where in the file the dataset is named.
    """
    present: dict[str, list[str]] = {}
    try:
        for split, indices in splits:
            if indices and (dataset.judges_labels or len(indices) <= MAX_COMPARED):
                labels = dataset.labels_in(indices)
                present[split] = [name for label, name in enumerate(dataset.classes) if label in labels]
    except (DatasetError, ConfigError) as error:
        return [Concern(place, str(error))]
    listed = [split for split, _ in splits]
    known = {"needs_labels": needs_labels, "judges_labels": dataset.judges_labels}
    return judge_classes(dataset.classes, listed, present, dataset.spec, place=place, **known)


def judge_classes(
    classes: Sequence[str],
    splits: Sequence[str],
    present: Mapping[str, Sequence[str]],
    spec: str,
    *,
    needs_labels: bool = True,
    judges_labels: bool = False,
    place: str = "data.dataset",
) -> list[Concern]:
    """The same, once it is known which classes have pixels in each split; ``spec`` may say that only one is meant to."""
    found = []
    for at, split in enumerate(dict.fromkeys(splits)):
        if split not in present:
            continue
        names, is_train = present[split], at == 0
        if not names and (needs_labels if is_train else at == 1):
            found.append(Concern(place, f"no pixel of split {split!r} is labelled; expected pixels of {some(classes)}"))
        elif is_train and len(names) == 1 and needs_labels:
            text = f"in split {split!r} only one class has pixels, {names[0]!r}; expected two classes or more"
            found.append(Concern(place, text, is_error=ONE_CLASS not in spec))
        elif not judges_labels:
            absent = [name for name in classes if name not in names]
            if absent and ONE_CLASS not in spec and names:
                found.append(warning(place, f"no pixel of split {split!r} is {some([repr(name) for name in absent])}"))
    return found
