"""A run's own code: taken up once when it begins, and found again, without running any, when somebody looks at its folder."""

from typing import Any

from agentkd.artifacts.journal import Journal
from agentkd.artifacts.run_folder import RunFolder
from agentkd.checks.concerns import raise_errors
from agentkd.checks.plan import gather_own
from agentkd.code import loading
from agentkd.code.source import MAX_BYTES, SourceCode
from agentkd.datasets.opening import Opened, open_again, open_dataset
from agentkd.errors import Problem
from agentkd.experiment import Experiment
from agentkd.names import NO_DIGEST, Digest
from agentkd.pipeline.own import OwnParts, own_names_in

META = "own"


def take_up(experiment: Experiment) -> tuple[OwnParts, Opened]:
    """What of an experiment is its user's own, by the code as it is now, which runs for this; and the experiment's dataset.

    Raises:
        ConfigError: it cannot be collected, or fails.
        DatasetError: the dataset is wrong.
    """
    dataset = open_dataset(experiment.data.dataset)
    own, concerns = gather_own(experiment, dataset)
    raise_errors(concerns, source=experiment.name)
    return own, dataset


def noted(journal: Journal) -> OwnParts:
    """What stands in a run's journal."""
    found: OwnParts | None = journal.get_meta(META, OwnParts)
    return found or OwnParts()


def is_noted(journal: Journal) -> bool:
    """Whether all that an experiment has of its user's own stands there: not if a version of before began the run."""
    experiment: Experiment | None = journal.get_meta("experiment", Experiment)
    named = own_names_in(experiment) if experiment else {}
    return not any(named.values()) or journal.get_meta(META) is not None


def keep(own: OwnParts, folder: RunFolder) -> None:
    """Has the code of it in the run's store."""
    for code in dict.fromkeys(own.codes.values()):
        folder.store.put(loading.provided(code).encode())


def changes(own: OwnParts, journal: Journal, folder: RunFolder) -> list[Problem]:
    """What is other code now than when a run was begun."""
    before = noted(journal).codes
    return [
        Problem(name, f"{_changed(folder, before.get(name, NO_DIGEST), code)} since this run was begun")
        for name, code in own.codes.items()
        if before.get(name) != code
    ]


def dataset_of(experiment: Experiment, own: OwnParts) -> Opened:
    """The dataset of a run that is looked at. One with own code has samples only if that runs in this process already."""
    if own.data is None:
        return open_again(experiment.data.dataset, NO_DIGEST)
    if loading.is_provided(own.data.code):
        return open_again(experiment.data.dataset, own.data.code)
    return Opened(experiment.data.dataset, own.data.outline, own.data.code)


def _changed(folder: RunFolder, before: Digest, now: Digest) -> str:
    if not before:
        return "its code was not kept by the older agentkd that began this run, so it is not known whether it has changed"
    old: dict[str, Any] = SourceCode.decode(folder.store.get(before, max_bytes=MAX_BYTES)).files if before in folder.store else {}
    new = loading.provided(now).files
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return f"its code has changed ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
