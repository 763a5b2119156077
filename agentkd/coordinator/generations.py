"""The states of an experiment that a run has been in: as it was begun, and after each correction of its file, code or data.

A task's key names all that decides it, so what does not depend on a correction is found in the records again. Here is noted what
a plan is made of, for each state: so that it is made again with the data gone, and what was done before a correction is known.
"""

import time
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import Any

from pydantic import Field

from agentkd.artifacts.comparison import differences
from agentkd.artifacts.journal import Asks, Journal
from agentkd.artifacts.listings import DATA, EARLIER, PRETRAINED, SUGGESTED
from agentkd.artifacts.run_folder import RunFolder
from agentkd.canonical import FrozenData
from agentkd.config import dump_experiment
from agentkd.coordinator import choices, own_parts
from agentkd.coordinator.data_places import NotedData, changed_files, note_data, noted_places
from agentkd.datasets.opening import Opened
from agentkd.durable import write_whole
from agentkd.errors import AgentKDError, ConfigError, Problem, StorageError
from agentkd.experiment import Experiment, RecordedExperiment
from agentkd.names import NO_DIGEST, Digest, TaskKey
from agentkd.pipeline.own import OwnParts
from agentkd.pipeline.plan import Planner, recorded_revisions
from agentkd.pipeline.searching import Results
from agentkd.search.suggestions import Noted, Suggestions
from agentkd.task import Task

MAX_EARLIER = 1_000
NOW_AND_THEN = "and was"


class Generation(FrozenData):
    """A state of an experiment, and what ended it.

    Args:
        data: ``None`` in a run of a version that did not note them.
        asks: what each trial saw, by study and number, in the order ``as_completed``.
        answers: what users' own rules said, by question.
        ended: what was corrected then, in sentences; empty of the present one.
        revisions: by family that of its records, see ``recorded_revisions``.
    """

    experiment: RecordedExperiment
    pretrained: dict[str, Digest] = Field(default_factory=dict)
    own: OwnParts = OwnParts()
    data: NotedData | None = None
    asks: dict[str, dict[int, tuple[int, ...]]] = Field(default_factory=dict)
    answers: dict[Digest, tuple[TaskKey, ...]] = Field(default_factory=dict)
    ended: tuple[str, ...] = ()
    at: str = ""
    revisions: dict[str, int] = Field(default_factory=dict)

    def planner(self, dataset: Opened | None = None, suggestions: Suggestions | None = None) -> Planner:
        """Plans it. Without its dataset from what is noted of that; samplers are asked for what is not among the suggestions.

        Raises:
            DatasetError: nothing is noted, and the data are not here.
        """
        if dataset is None and self.data is not None:
            dataset = self.data.opened(self.experiment.data.dataset, self.own)
        found = dataset or own_parts.dataset_of(self.experiment, self.own)
        return Planner(self.experiment, found, self.pretrained, self.own, self.revisions, suggestions)


def present(journal: Journal, tasks: Iterable[Task] | None = None) -> Generation | None:
    """The state that a run is in; ``None`` if it is none of an experiment. Its tasks are read if they are not given.

    Raises:
        ArtifactError: what is noted cannot be read.
    """
    experiment: Experiment | None = journal.get_meta("experiment", RecordedExperiment)
    if experiment is None:
        return None
    pretrained = journal.get_meta(PRETRAINED, dict[str, Digest]) or {}
    data: NotedData | None = journal.get_meta(DATA, NotedData)
    return Generation(
        experiment=experiment,
        pretrained=pretrained,
        own=own_parts.noted(journal),
        data=data,
        asks=journal.asks(),
        answers=choices.noted(journal),
        revisions=recorded_revisions((record.task for record in journal.records()) if tasks is None else tasks),
    )


def earlier(journal: Journal) -> tuple[Generation, ...]:
    """The states before, the first one first.

    Raises:
        ArtifactError: what is noted cannot be read.
    """
    found: tuple[Generation, ...] | None = journal.get_meta(EARLIER, tuple[Generation, ...])
    return (found or ())[-MAX_EARLIER:]


def suggestions_of(journal: Journal) -> Suggestions:
    """What samplers suggested in a run so far.

    Raises:
        ArtifactError: what is noted cannot be read.
    """
    return Suggestions({Digest(key): noted for key, noted in journal.noted(SUGGESTED, Noted).items()})


def note_suggestions(suggestions: Suggestions, journal: Journal) -> None:
    """Writes down what is new among them; nothing if nothing is."""
    if new := suggestions.take_new():
        journal.note(SUGGESTED, {str(key): noted for key, noted in new.items()})


def adopt(
    experiment: Experiment,
    own: OwnParts,
    dataset: Opened,
    folder: RunFolder,
    journal: Journal,
    results: Results,
) -> tuple[Generation, list[str]]:
    """Notes an experiment in a run that begins, or what was corrected in one that goes on.

    Returns:
        The state that the run is in from now on, and what is to be said of the correction.

    Raises:
        ConfigError: the file is another, and nothing that is recorded has to do with it.
        StorageError: it cannot be written.
    """
    before = present(journal)
    data = note_data(dataset, folder.store)
    now = Generation(experiment=experiment, pretrained=_pretrained(experiment, folder), own=own, data=data)
    suggestions = suggestions_of(journal)
    if before is None:
        now.planner(dataset).outlook(results, {})  # what cannot be planned is not what a run is begun with
        _write(now, folder, journal, {})
        return now, []
    now = now.replace(revisions=before.revisions)
    before = _completed(before, data, journal)
    changed = _changes(before, now, dataset, folder, journal)
    if not changed:
        if journal.get_meta(DATA) is None:
            journal.set_meta(DATA, data.canonical())
        if not (folder.experiment.is_file() and folder.experiment.stat().st_size):  # writing it failed after the journal was told
            _write_file(now, folder)
        return now, []
    if _has_another_file(before, now) and results and not _have_in_common(before, now, results, suggestions):
        problems = [Problem(one.path, one.text.replace(NOW_AND_THEN, "but this run was begun with", 1)) for one in changed]
        problems.append(
            Problem("", f"choose another folder with --out, or restore what it was begun with ({folder.experiment.name}, code)")
        )
        raise ConfigError(problems, source=str(folder.place))
    asks = _still_seen(now.planner(dataset, suggestions), before, results)
    wanted = now.planner(dataset, suggestions).outlook(results, asks, before.answers).keys
    done_before = _wanted(before, results, suggestions) & results.keys()
    kept = wanted & results.keys()
    said = [str(change) for change in changed]
    ended = before.replace(ended=tuple(said), at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    listed = [generation.canonical() for generation in (*earlier(journal), ended)]
    _write(now, folder, journal, {EARLIER: listed}, asks)
    note_suggestions(suggestions, journal)
    return now, [*(f"corrected: {text}" for text in said), _counted(len(kept), len(done_before - kept))]


def _wanted(before: Generation, results: Results, suggestions: Suggestions) -> set[TaskKey]:
    """What a state asked for; nothing if no plan can be made of it: then it is that which was corrected."""
    try:
        return set(before.planner(None, suggestions).outlook(results, before.asks, before.answers).keys)
    except (AgentKDError, ValueError):
        return set()


def _counted(num_kept: int, num_left: int) -> str:
    if not num_kept and not num_left:
        return "nothing was recorded yet, so nothing is done again"
    text = f"{num_kept} recorded task{'s are' if num_kept != 1 else ' is'} kept"
    if not num_left:
        return f"{text}, all that there are"
    what = "depend on this or are wanted no more" if num_left != 1 else "depends on this or is wanted no more"
    return f"{text}; {num_left} {what}: recorded they stay, and what takes their place is done again"


def _pretrained(experiment: Experiment, folder: RunFolder) -> dict[str, Digest]:
    files = {family: Path(config.weights) for family, config in experiment.families.items() if config.weights}
    try:
        return {family: folder.store.put(path.read_bytes()) for family, path in files.items()}
    except OSError as error:
        raise ConfigError(f"families: the weights cannot be read: {error}") from error


def _completed(before: Generation, data: NotedData, journal: Journal) -> Generation:
    """A state of a version that did not note its data: what is known of them is the digest in what was recorded last."""
    if before.data is not None:
        return before
    digest = data.content_digest
    for record in journal.records():
        digest = record.task.data.content_digest
    return before.replace(data=data if digest == data.content_digest else data.replace(content_digest=digest, files=NO_DIGEST))


def _changes(before: Generation, now: Generation, dataset: Opened, folder: RunFolder, journal: Journal) -> list[Problem]:
    """What differs, each with where it stands."""
    changed = differences(before.experiment.result_inputs(), now.experiment.result_inputs())
    found = [Problem(path, f"is {_short(b)} now, {NOW_AND_THEN} {_short(a)}") for path, a, b in changed]
    found += own_parts.changes(now.own, journal, folder)
    for family, digest in now.pretrained.items():
        if before.pretrained.get(family, digest) != digest:
            found.append(Problem(f"families.{family}.weights", "the file has other content than when this run was begun"))
    is_same_data = before.experiment.data.dataset == now.experiment.data.dataset and before.own.data == now.own.data
    if is_same_data and before.data and now.data and before.data.content_digest != now.data.content_digest:
        found.append(Problem("data", changed_files(folder.store, before.data, dataset)))
    return found


def _has_another_file(before: Generation, now: Generation) -> bool:
    return before.experiment.result_inputs() != now.experiment.result_inputs()


def _have_in_common(before: Generation, now: Generation, results: Results, suggestions: Suggestions) -> bool:
    """Whether a task that is recorded is one of the corrected file's, with the code and the data as they were."""
    own = now.own if before.own.codes.keys() != now.own.codes.keys() else before.own
    as_it_was = now.replace(data=before.data or now.data, own=own)
    return bool(as_it_was.planner(None, suggestions).outlook(results, before.asks, before.answers).keys & results.keys())


def _still_seen(planner: Planner, before: Generation, results: Results) -> Asks:
    """What trials saw, of those that are wanted as they were: up to the first that is another, or is one too many."""
    outlook = planner.outlook(results, before.asks, before.answers)
    found: Asks = {}
    for study, (family, keys) in outlook.studies.items():
        told = before.asks.get(study, {})
        limit = min(len(keys), planner.experiment.trials(family))
        same = takewhile(lambda number: number in told and keys[number] in results, range(limit))  # noqa: B023 used at once
        found[study] = {number: tuple(told[number]) for number in same}
    return found


def _write(now: Generation, folder: RunFolder, journal: Journal, more: dict[str, Any], asks: Asks | None = None) -> None:
    own_parts.keep(now.own, folder)
    values = more | {
        PRETRAINED: now.pretrained,
        "experiment": now.experiment.canonical(),
    }
    if now.data is not None:
        values[DATA] = now.data.canonical()
    if now.own.codes or more:
        values[own_parts.META] = now.own.canonical()
    journal.adopt(values | noted_places(folder.place), journal.asks() if asks is None else asks)
    _write_file(now, folder)


def _write_file(now: Generation, folder: RunFolder) -> None:
    try:
        write_whole(folder.experiment, dump_experiment(now.experiment).encode())
    except OSError as error:
        raise StorageError.of(folder.experiment, error) from error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
