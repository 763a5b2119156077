"""A study as Optuna's own tools see it: a storage in a file, written from what is recorded. It can always be made again."""

import math
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError

from agentkd.errors import SearchError
from agentkd.search.space import Space
from agentkd.search.study import Trial, TrialOutcome, directions, frozen

EDITION = 2
"""Of what stands in a view; one of another edition is made anew."""


@dataclass(frozen=True)
class Period:
    """When a trial was done, by the clock on the wall, without a zone as in Optuna's own storages."""

    began: datetime
    ended: datetime


def write_view(
    file: Path,
    name: str,
    space: Space,
    trials: Sequence[Trial],
    *,
    num_costs: int = 0,
    periods: Mapping[int, Period] | None = None,
) -> None:
    """Writes finished trials to an Optuna storage in a file, so that optuna-dashboard opens it.

    An infeasible trial was never trained: it breaks its constraint, and its score is minus infinity, which Optuna's measures of
    importance leave out. A 0 would say that whatever made it too large trains badly.

    Args:
        file: the database; may hold other studies.
        name: of the study.
        space: that was searched.
        trials: those that are running are left out.
        num_costs: objectives besides the first.
        periods: by trial number, when it was done. Others have the time of writing.

    Raises:
        SearchError: the storage cannot be written or is damaged.
    """
    try:
        # Not by a URL: in one, ``?`` and braces of a folder's name would mean something.
        storage = optuna.storages.RDBStorage("sqlite://", engine_kwargs={"creator": partial(sqlite3.connect, file)})
        study = _study(storage, name, num_costs)
        known = {trial.user_attrs.get("number") for trial in study.get_trials()}
        for trial in trials:
            if trial.number not in known and trial.outcome is not TrialOutcome.RUNNING:
                study.add_trial(_shown(space, trial, (periods or {}).get(trial.number)))
        storage.engine.dispose()
    except (SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        raise SearchError(f"the study's view {file} cannot be written: {str(error).splitlines()[0]}") from error


def _study(storage: optuna.storages.RDBStorage, name: str, num_costs: int) -> optuna.Study:
    """The study of that name, made anew where what is looked for was corrected, or another edition wrote it."""
    wanted = directions(num_costs)
    study = optuna.create_study(storage=storage, study_name=name, directions=wanted, load_if_exists=True)
    is_empty = not study.get_trials(deepcopy=False)
    is_current = is_empty or study.user_attrs.get("edition") == EDITION
    if [direction.name.lower() for direction in study.directions] != wanted or not is_current:
        optuna.delete_study(study_name=name, storage=storage)
        study = optuna.create_study(storage=storage, study_name=name, directions=wanted)
    study.set_user_attr("edition", EDITION)
    return study


def _shown(space: Space, trial: Trial, period: Period | None) -> FrozenTrial:
    made = frozen(space, trial)
    if trial.outcome is TrialOutcome.INFEASIBLE:
        made.values = [-math.inf, *trial.objectives[1:]]
    if period is not None:
        made.datetime_start, made.datetime_complete = period.began, period.ended
    return made
