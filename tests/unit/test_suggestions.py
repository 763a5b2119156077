"""What a sampler suggested is noted by all that decided it, and is what a plan that is made again goes by."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from experiments import EXPERIMENT
from planning import experiment, invented

from agentkd.artifacts.history import read_history
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.listings import SUGGESTED
from agentkd.artifacts.run_folder import RunFolder
from agentkd.canonical import Proviso
from agentkd.coordinator import generations, own_parts
from agentkd.coordinator.run import read_run
from agentkd.errors import ArtifactError
from agentkd.names import AgentName
from agentkd.replay.perform import _check_plan
from agentkd.search.space import Choices, ConditionalSpace, Range, Space
from agentkd.search.study import Suggester, Trial, TrialOutcome
from agentkd.search.suggestions import Suggestions

PLAIN: Space = {
    "a": Choices(values=(1, 1.0, True, "1", "one")),
    "b": Range(low=1, high=9, integer=True),
    "c": Range(low=1e-6, high=1.0, log=True),
    "d": Choices(values=(False, True)),
}
SPACE = ConditionalSpace(PLAIN, {"c": Proviso("where d", ("d",), lambda values: bool(values["d"]))}, {})


class Silent(Suggester):
    """Has nothing to suggest but what is known."""

    def _ask(self, *told: object) -> dict[str, object]:
        raise AssertionError("the sampler was asked")


def history(count: int, known: Suggestions) -> list[Trial]:
    """Trials that were suggested one after the other, and what came of them."""
    suggester, lot, trials = Suggester(SPACE, seed=2, startup_trials=4, known=known), random.Random(1), list[Trial]()
    for number in range(count):
        seen = trials[: max(0, number - 1)]
        running = [replace(one, outcome=TrialOutcome.RUNNING) for one in trials[len(seen) :]]
        values = suggester.suggest(seen, running, number=number)
        trials.append(Trial(number, values, TrialOutcome.COMPLETED, lot.random(), (lot.random(),), -0.1))
    return trials


def written_down(known: Suggestions) -> Suggestions:
    return Suggestions(json.loads(json.dumps(known.take_new())))


def test_what_was_suggested_once_is_suggested_again_without_the_sampler() -> None:
    first = Suggestions()
    trials = history(20, first)
    known = written_down(first)
    silent = Silent(SPACE, seed=2, startup_trials=4, known=known)
    for number, trial in enumerate(trials):
        seen = trials[: max(0, number - 1)]
        running = [replace(one, outcome=TrialOutcome.RUNNING) for one in trials[len(seen) :][: number - len(seen)]]
        again = silent.suggest(seen, running, number=number)
        assert again == trial.values and list(map(type, again.values())) == list(map(type, trial.values.values()))
    assert not known.take_new() and {"c" in trial.values for trial in trials} == {False, True}


def test_after_suggestions_that_were_known_the_sampler_says_what_it_would_have_said_without() -> None:
    first = Suggestions()
    trials = history(20, first)
    half = Suggestions(dict(list(first.take_new().items())[:10]))
    assert history(20, half) == trials
    assert len(half.take_new()) == 10


CHANGES: list[Callable[[Trial], Trial]] = [
    lambda one: replace(one, judged_by=0.5),
    lambda one: replace(one, judged_by_epoch=(0.1, 0.2)),
    lambda one: replace(one, violation=0.2),
    lambda one: replace(one, outcome=TrialOutcome.PRUNED),
    lambda one: replace(one, values=one.values | {"b": 5.5}),
    lambda one: replace(one, scores=(0.4, 0.3)),
    lambda one: replace(one, number=77),
]


@pytest.mark.parametrize("change", CHANGES)
def test_another_history_is_another_question(change: Callable[[Trial], Trial]) -> None:
    first = Suggestions()
    trials = history(8, first)
    silent = Silent(SPACE, seed=2, startup_trials=4, known=written_down(first))
    assert silent.suggest(trials[:6], [replace(trials[6], outcome=TrialOutcome.RUNNING)], number=7) == trials[7].values
    for seen in ([*trials[:2], change(trials[2]), *trials[3:6]], trials[:5], trials[:7]):
        with pytest.raises(AssertionError, match="the sampler was asked"):
            silent.suggest(seen, [replace(trials[6], outcome=TrialOutcome.RUNNING)], number=7)
    for running in ([], [change(replace(trials[6], outcome=TrialOutcome.RUNNING, judged_by=0.5))]):
        if running != [replace(trials[6], outcome=TrialOutcome.RUNNING, judged_by=0.5)]:
            with pytest.raises(AssertionError, match="the sampler was asked"):
                silent.suggest(trials[:6], running, number=7)


@pytest.mark.parametrize(
    "other", [{"seed": 3}, {"startup_trials": 5}, {"num_costs": 1}, {"space": PLAIN | {"b": Range(low=1, high=8, integer=True)}}]
)
def test_another_study_is_another_question(other: dict[str, object]) -> None:
    first = Suggestions()
    history(3, first)
    told = {"space": SPACE, "seed": 2, "startup_trials": 4, "known": written_down(first)} | other
    with pytest.raises(AssertionError, match="the sampler was asked"):
        Silent(**told).suggest([], [], number=0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "noted",
    [
        {"a": 5, "b": 1, "d": 0},
        {"a": 0.0, "b": 1, "d": 0},
        {"a": 0, "b": 10, "d": 0},
        {"a": 0, "b": 1.0, "d": 0},
        {"a": 0, "b": 1},
        {"a": 0, "b": 1, "d": 1},
        {"a": 0, "b": 1, "c": 0.5, "d": 0},
        {"a": 0, "b": 1, "d": 0, "e": 0},
        {"a": 0, "b": 1, "c": 2.0, "d": 1},
        {"a": 0, "b": 1, "c": 1, "d": 1},
    ],
)
def test_what_the_space_does_not_have_was_not_suggested(noted: dict[str, float]) -> None:
    assert Suggestions({"k": noted}).find("k", SPACE) is None
    assert Suggestions({"k": {"a": 2, "b": 1, "d": 0}}).find("k", SPACE) == {"a": True, "b": 1, "d": False}


def carry_out(folder: RunFolder) -> int:
    """A run with invented results; returns how many tasks were done now."""
    given = experiment(search=EXPERIMENT["search"] | {"trials": 4})
    with Journal(folder.journal) as journal:
        own, dataset = own_parts.take_up(given)
        results = {record.task.key: record.result for record in journal.records()}
        generation, _ = generations.adopt(given, own, dataset, folder, journal, results)
        planner, done = generation.planner(dataset, generations.suggestions_of(journal)), 0
        while not (outlook := planner.outlook(results, journal.asks())).is_finished:
            generations.note_suggestions(planner.suggestions, journal)
            step = outlook.steps[0]
            result = invented(step, weights=folder.store.put(step.key.encode()))
            journal.commit(Record(step.task, result, AgentName("agent-1"), 1, step.label))
            results[step.key] = result
            done += 1
    return done


def test_a_run_that_is_read_or_gone_on_with_asks_no_sampler_and_an_audit_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    assert carry_out(folder) > 8
    monkeypatch.setattr("agentkd.pipeline.searching.Suggester", Silent)
    _, _, outlook, journal = read_run(folder)
    with journal:
        assert outlook.is_finished
    assert carry_out(folder) == 0
    with pytest.raises(AssertionError, match="the sampler was asked"):
        read_run(folder, trusting=False)


def test_an_audit_sees_suggestions_that_the_sampler_did_not_make(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    carry_out(folder)
    assert _check_plan(folder, read_history(folder))[1]
    with Journal(folder.journal) as journal:
        noted = journal.noted(SUGGESTED, dict)
        journal.note(
            SUGGESTED, {key: one | {"architecture.width": (one["architecture.width"] + 1) % 3} for key, one in noted.items()}
        )
    _, _, outlook, journal = read_run(folder)
    with journal:
        assert not outlook.is_finished
    assert _check_plan(folder, read_history(folder))[1], "an audit asks the sampler"


def test_suggestions_that_cannot_be_read_are_an_error_that_says_so(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    carry_out(folder)
    with Journal(folder.journal) as journal:
        journal.note(SUGGESTED, {"0" * 64: {"architecture.width": True}})
    with pytest.raises(ArtifactError, match="does not say its suggested:000"):
        read_run(folder)
