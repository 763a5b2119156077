"""Suggestions, stopping and selection are pure functions of the history that the order allows."""

import contextlib
import math
import random
import sqlite3
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import ValidationError

from agentkd import seeding
from agentkd.errors import SearchError
from agentkd.names import TaskKey
from agentkd.search.lining import TrialLine, is_exhausted
from agentkd.search.pruning import prune_bounds
from agentkd.search.selection import Candidate, pareto_set, rank
from agentkd.search.settings import Pruning, SearchConfig
from agentkd.search.space import Choices, ConditionalSpace, Range, split_values
from agentkd.search.study import Suggester, Trial, TrialOutcome, distribution, suggest
from agentkd.search.view import Period, write_view

SPACE = {"architecture.width": Choices(values=(8, 16, 32)), "recipe.learning_rate": Range(low=1e-4, high=1e-1, log=True)}


def trial(number: int, miou: float = 0.5, outcome: TrialOutcome = TrialOutcome.COMPLETED, curve: tuple[float, ...] = ()) -> Trial:
    values = {"architecture.width": 16, "recipe.learning_rate": 0.01 * (number + 1)}
    return Trial(number, values, outcome, miou, curve, violation=0.3 if outcome is TrialOutcome.INFEASIBLE else -0.1)


def test_a_suggestion_depends_on_history_seed_and_number_alone() -> None:
    history = [trial(n, n / 30) for n in range(15)]
    one = suggest(SPACE, history, [], number=17, seed=1)
    assert one == suggest(SPACE, history, [], number=17, seed=1)
    assert one != suggest(SPACE, history, [], number=18, seed=1)
    assert one != suggest(SPACE, history, [], number=17, seed=2)
    assert one["architecture.width"] in (8, 16, 32) and 1e-4 <= one["recipe.learning_rate"] <= 1e-1


def test_infeasible_failed_pruned_and_pending_trials_are_learned_from_too() -> None:
    history = [trial(n, 0.1 * n) for n in range(12)]
    history += [
        trial(12, 0, TrialOutcome.INFEASIBLE),
        trial(13, 0, TrialOutcome.FAILED),
        trial(14, 0.2, TrialOutcome.PRUNED, (0.2,)),
    ]
    assert suggest(SPACE, history, [trial(15, outcome=TrialOutcome.RUNNING)], number=16, seed=1).keys() == SPACE.keys()


@pytest.mark.parametrize("num_costs", [0, 1])
def test_what_was_told_before_changes_no_suggestion(num_costs: int) -> None:
    """Strict order: more and more is seen, others run meanwhile, and some of what is told fails, is pruned or is too large."""
    lot, space = random.Random(4), ConditionalSpace(SPACE, {}, {})
    outcomes = [TrialOutcome.COMPLETED] * 5 + [TrialOutcome.INFEASIBLE, TrialOutcome.FAILED]
    outcomes += [] if num_costs else [TrialOutcome.PRUNED]  # of several objectives none says when a trial is hopeless
    known, trials = Suggester(space, seed=3, startup_trials=6, num_costs=num_costs), list[Trial]()
    limit = 0
    for number in range(40):
        limit = max(limit, number - lot.choice([1, 2, 4]))
        running = [Trial(one.number, one.values, TrialOutcome.RUNNING) for one in trials[limit:]]
        values = known.suggest(trials[:limit], running, number=number)
        fresh = suggest(space, trials[:limit], running, number=number, seed=3, startup_trials=6, num_costs=num_costs)
        assert values == fresh
        score = lot.random()
        scores = (score, lot.random()) if num_costs else ()
        trials.append(Trial(number, values, lot.choice(outcomes), score, (score,), lot.uniform(-1, 0.2), scores))
    turned = {"scores": ()} if not num_costs else {"scores": (0.5, 0.5)}
    others = [replace(one, judged_by=1 - one.judged_by, **turned) for one in trials]
    told = {"number": 41, "seed": 3, "startup_trials": 6, "num_costs": num_costs}
    assert known.suggest(others, [], number=41) == suggest(space, others, [], **told), "another history"
    assert known.suggest(trials[:9], [], number=41) == suggest(space, trials[:9], [], **told), "less than before"


def test_published_values_outside_the_space_do_not_break_the_study() -> None:
    odd = Trial(0, {"architecture.width": 99, "recipe.learning_rate": 5.0}, TrialOutcome.COMPLETED, 0.5)
    assert suggest(SPACE, [odd], [], number=1, seed=1).keys() == SPACE.keys()


def limit_of(trials: list[Trial], *, lag: int, num_trials: int) -> int | None:
    return TrialLine(trials).visible_limit(lag=lag, num_trials=num_trials)


def counted_anew(trials: list[Trial], lag: int, num_trials: int) -> int | None:
    """The same as ``TrialLine.visible_limit``, from its definition."""
    number = len(trials)
    for limit in range(max(number - lag, -1), number):
        prefix = trials[: limit + 1]
        if any(one.outcome is TrialOutcome.RUNNING for one in prefix):
            return None
        if sum(one.outcome is not TrialOutcome.INFEASIBLE for one in prefix) + (number - 1 - limit) < num_trials:
            return limit
    return None


@given(st.data())
def test_a_line_that_grows_says_what_is_counted_anew(data: st.DataObject) -> None:
    lag, num_trials, patience = (data.draw(st.integers(1, 6)) for _ in range(3))
    ends = {"patience": patience, "max_infeasible": 3}
    finished = st.sampled_from([outcome for outcome in TrialOutcome if outcome is not TrialOutcome.RUNNING])
    line, trials = TrialLine(), list[Trial]()
    for _ in range(data.draw(st.integers(0, 14))):
        running = [one.number for one in trials if one.outcome is TrialOutcome.RUNNING]
        if running and data.draw(st.booleans()):
            number = data.draw(st.sampled_from(running))
            trials[number] = trial(number, data.draw(st.sampled_from([0.1, 0.2, 0.3])), data.draw(finished))
            line.settle(trials[number])
        else:
            trials.append(trial(len(trials), outcome=TrialOutcome.RUNNING))
            line.add(trials[-1])
        limit = counted_anew(trials, lag, num_trials)
        assert list(line.trials) == trials and line.visible_limit(lag=lag, num_trials=num_trials) == limit
        if limit is not None:
            assert line.is_exhausted(limit, **ends) == is_exhausted(trials[: limit + 1], **ends)
        done = [one for one in trials if one.outcome is not TrialOutcome.RUNNING]
        assert line.finished() == done and line.is_running == (len(done) < len(trials))
        counted = sum(one.outcome is not TrialOutcome.INFEASIBLE for one in trials)
        assert line.has_room(lag=lag, num_trials=num_trials) == (len(trials) - len(done) < lag and counted < num_trials)


def test_trial_n_waits_for_the_results_up_to_n_minus_lag() -> None:
    running = [trial(0, outcome=TrialOutcome.RUNNING), trial(1, outcome=TrialOutcome.RUNNING)]
    assert limit_of([], lag=2, num_trials=9) == -1
    assert limit_of(running[:1], lag=2, num_trials=9) == -1
    assert limit_of(running, lag=2, num_trials=9) is None
    assert limit_of([trial(0), running[1]], lag=2, num_trials=9) == 0
    assert limit_of([trial(0), trial(1)], lag=2, num_trials=9) == 0


def test_infeasible_trials_do_not_count_and_are_asked_for_again_in_a_fixed_order() -> None:
    trials = [trial(0), trial(1, outcome=TrialOutcome.INFEASIBLE)]
    assert limit_of(trials, lag=2, num_trials=2) == 1
    assert limit_of([trial(0), trial(1)], lag=2, num_trials=2) is None
    assert limit_of([trial(0), trial(1, outcome=TrialOutcome.RUNNING)], lag=2, num_trials=2) is None


def test_patience_counts_completed_trials_without_improvement() -> None:
    seen = [trial(0, 0.5), trial(1, 0.4), trial(2, 0, TrialOutcome.FAILED), trial(3, 0.5)]
    assert is_exhausted(seen, patience=2, max_infeasible=99)
    assert not is_exhausted([*seen, trial(4, 0.6)], patience=2, max_infeasible=99)
    assert not is_exhausted(seen, patience=0, max_infeasible=99)
    assert is_exhausted([trial(0, outcome=TrialOutcome.INFEASIBLE)] * 3, patience=0, max_infeasible=3)


def test_bounds_are_medians_of_the_best_so_far() -> None:
    seen = [trial(0, 0.5, curve=(0.1, 0.5)), trial(1, 0.4, curve=(0.3, 0.2)), trial(2, 0.4, curve=(0.2, 0.4))]
    assert prune_bounds(seen, Pruning(startup_trials=3, warmup_epochs=0), 3) == (0.2, 0.4, 0.4)
    assert prune_bounds(seen, Pruning(startup_trials=3, warmup_epochs=1), 2) == (0.0, 0.4)
    assert prune_bounds(seen, Pruning(startup_trials=4, warmup_epochs=0), 2) == ()
    assert prune_bounds(seen, None, 2) == ()
    silent = trial(9, 0.3)
    assert silent.judged_by_epoch == () and prune_bounds([*seen, silent], Pruning(startup_trials=3, warmup_epochs=0), 1) == (0.2,)
    assert prune_bounds([*seen, trial(3, 0.9)], Pruning(startup_trials=3, warmup_epochs=0), 2) == (0.2, 0.4), (
        "of those with a curve"
    )


def candidate(task: str, miou: float, deploy_parameters: int, num_macs: int) -> Candidate:
    return Candidate(TaskKey(task), miou, 2 * deploy_parameters, deploy_parameters, num_macs)


def test_the_pareto_set_is_what_nothing_beats_in_every_way() -> None:
    a, b = candidate("a", 0.7, 100, 50), candidate("b", 0.6, 50, 60)
    dominated, cheap = candidate("c", 0.5, 60, 70), candidate("d", 0.4, 200, 10)
    assert pareto_set([dominated, cheap, b, a]) == [a, b, cheap]


def test_ranking_is_total_and_counts_a_network_once() -> None:
    small, large = candidate("x", 0.5, 10, 1), candidate("a", 0.5, 20, 1)
    assert rank([large, small, large]) == [small, large]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_optunas_own_tools_open_the_view_and_writing_it_again_changes_nothing(tmp_path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    trials = [trial(0, 0.4, curve=(0.1, 0.4)), trial(1, 0, TrialOutcome.INFEASIBLE), trial(2, outcome=TrialOutcome.RUNNING)]
    for _ in range(2):
        write_view(tmp_path / "study.db", "s", SPACE, trials)
    study = optuna.load_study(study_name="s", storage=url)
    assert len(study.trials) == 2 and study.direction is optuna.study.StudyDirection.MAXIMIZE
    assert study.best_value == 0.4
    assert study.trials[0].intermediate_values == {0: 0.1, 1: 0.4}


@pytest.mark.parametrize(
    "name", ["run#2", "what?now", "50%20off", "curly{x}", "a=b&c", "new\nline", "q'uote", ":memory:", "\u706b"]
)
def test_the_view_of_a_study_lies_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    place.mkdir()
    write_view(place / "study.db", "s", SPACE, [trial(0)])
    write_view(place / "study.db", "s", SPACE, [trial(0), trial(1)])
    assert [file.name for file in place.iterdir()] == ["study.db"] and list(tmp_path.iterdir()) == [place]
    with contextlib.closing(sqlite3.connect(place / "study.db")) as connection:
        assert connection.execute("select count(*) from trials").fetchone() == (2,)


def test_a_view_that_cannot_be_written_is_a_typed_error(tmp_path) -> None:
    (tmp_path / "study.db").write_bytes(b"this is no database" * 300)
    with pytest.raises(SearchError, match="cannot be written"):
        write_view(tmp_path / "study.db", "s", SPACE, [trial(0)])


def test_a_bound_is_of_the_best_so_far_not_of_an_epochs_own_score() -> None:
    seen = [trial(0, 0.5, curve=(0.1, 0.5)), trial(1, 0.6, curve=(0.6, 0.2)), trial(2, 0.4, curve=(0.2, 0.3))]
    assert prune_bounds(seen, Pruning(startup_trials=3, warmup_epochs=0), 3) == (0.2, 0.5, 0.5)
    gaps = [trial(0, 0.5, curve=(None, 0.5)), trial(1, 0.3, curve=(0.3, None)), trial(2, 0.0, TrialOutcome.FAILED, (0.9, 0.9))]
    assert prune_bounds(gaps, Pruning(startup_trials=2, warmup_epochs=0), 2) == (0.15, 0.4)


def violating(violation: float) -> list[Trial]:
    """The widest network is the best by far, and the only one that is over the limit."""
    made = []
    for number in range(24):
        width = (8, 16, 32)[number % 3]
        values = {"architecture.width": width, "recipe.learning_rate": 0.001 * (number + 1)}
        over = violation if width == 32 else -0.1
        made.append(Trial(number, values, TrialOutcome.COMPLETED, 0.9 if width == 32 else 0.3, (), over))
    return made


def test_a_violated_constraint_is_told_so_that_the_search_goes_elsewhere() -> None:
    def widest(history: list[Trial]) -> int:
        return sum(suggest(SPACE, history, [], number=24 + n, seed=1)["architecture.width"] == 32 for n in range(12))

    free, bound = widest(violating(-0.1)), widest(violating(0.5))
    assert free > 6 > 3 > bound, (free, bound)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_view_holds_states_numbers_and_violations(tmp_path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    ended = [
        trial(0, 0.4),
        trial(1, 0.2, TrialOutcome.PRUNED),
        trial(2, 0, TrialOutcome.FAILED),
        trial(3, 0, TrialOutcome.INFEASIBLE),
    ]
    write_view(tmp_path / "study.db", "s", SPACE, ended)
    found = optuna.load_study(study_name="s", storage=url).trials
    assert [(t.state.name, t.user_attrs["number"], t.user_attrs["outcome"]) for t in found] == [
        ("COMPLETE", 0, "completed"),
        ("PRUNED", 1, "pruned"),
        ("FAIL", 2, "failed"),
        ("COMPLETE", 3, "infeasible"),
    ]
    assert [t.constraints for t in found] == [{"size": -0.1}, {}, {}, {"size": 0.3}]
    assert [t.value for t in found] == [0.4, 0.2, None, -math.inf]
    assert found[0].params == {"architecture.width": 16, "recipe.learning_rate": 0.01}


def test_as_completed_a_trial_sees_what_is_finished_and_no_more_run_side_by_side_than_the_lag() -> None:
    running = trial(1, outcome=TrialOutcome.RUNNING)
    line = TrialLine([trial(0), running])
    assert line.has_room(lag=2, num_trials=9) and line.finished() == [trial(0)]
    assert not line.has_room(lag=1, num_trials=9)
    assert not line.has_room(lag=2, num_trials=2)
    assert TrialLine([trial(0, outcome=TrialOutcome.INFEASIBLE), running]).has_room(lag=2, num_trials=2)


def test_what_is_as_good_in_all_but_one_way_is_beaten() -> None:
    best = candidate("a", 0.7, 100, 50)
    for worse in (candidate("b", 0.6, 100, 50), candidate("b", 0.7, 101, 50), candidate("b", 0.7, 100, 51)):
        assert pareto_set([worse, best]) == [best]
    twin = candidate("b", 0.7, 100, 50)
    assert pareto_set([twin, best]) == [best, twin], "neither beats the other"


def test_rank_looks_at_scores_then_parameters_then_cost_then_names() -> None:
    order = [
        candidate("d", 0.8, 9, 9),
        candidate("c", 0.7, 1, 9),
        candidate("b", 0.7, 2, 1),
        candidate("e", 0.7, 2, 2),
        candidate("f", 0.7, 2, 2),
    ]
    assert rank(reversed(order)) == order


def test_every_option_of_the_sampler_is_given_and_its_seed_is_of_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, object]] = []

    class Told(optuna.samplers.TPESampler):
        def __init__(self, **options: object) -> None:
            told.append(options)
            super().__init__(**options)  # type: ignore[arg-type]

    monkeypatch.setattr(optuna.samplers, "TPESampler", Told)
    for number, seed in ((3, 1), (4, 1), (3, 2)):
        suggest(SPACE, [trial(0)], [], number=number, seed=seed)
    told = [options for options in told if options]  # a study has a sampler of its own before it is given one
    seeds = {options.pop("seed") for options in told}
    assert seeds == {seeding.derive("trial", seed, number) & 0xFFFFFFFF for number, seed in ((3, 1), (4, 1), (3, 2))}
    assert len(seeds) == 3
    given = {"n_startup_trials": 10, "n_ei_candidates": 24, "multivariate": True, "group": True, "constant_liar": True}
    assert told == [given] * 3


def test_a_range_goes_up_and_a_logarithmic_one_is_positive() -> None:
    for fields in ({"low": 1.0, "high": 1.0}, {"low": 2.0, "high": 1.0}, {"low": 0.0, "high": 1.0, "log": True}):
        with pytest.raises(ValidationError):
            Range.model_validate(fields)
    assert Range(low=0.0, high=1.0).log is False and Range(low=1e-9, high=1.0, log=True).integer is False
    assert distribution(Range(low=1, high=8, integer=True, log=True)) == IntDistribution(1, 8, log=True)
    assert distribution(Range(low=0.5, high=8)) == FloatDistribution(0.5, 8.0)
    assert distribution(Choices(values=(8, "a"))) == CategoricalDistribution((8, "a"))


def test_a_trials_values_are_those_of_the_architecture_and_those_of_the_recipe() -> None:
    told = {"architecture.width": 8, "recipe.learning_rate": 0.1, "architecture.norm": "batch"}
    assert split_values(told) == ({"width": 8, "norm": "batch"}, {"learning_rate": 0.1})


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_epochs_that_were_not_validated_are_not_in_the_view(tmp_path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    write_view(tmp_path / "study.db", "s", SPACE, [trial(0, 0.5, curve=(None, 0.5, None))])
    assert optuna.load_study(study_name="s", storage=url).trials[0].intermediate_values == {1: 0.5}


def test_patience_begins_anew_with_every_improvement_and_one_means_at_once() -> None:
    def ends(*scores: float, patience: int, outcome: TrialOutcome = TrialOutcome.COMPLETED) -> bool:
        return is_exhausted([trial(n, miou, outcome) for n, miou in enumerate(scores)], patience=patience, max_infeasible=9)

    assert not ends(0.5, 0.4, patience=2) and ends(0.5, 0.4, 0.4, patience=2)
    assert not ends(0.5, 0.4, 0.6, 0.5, patience=2) and ends(0.5, 0.4, 0.6, 0.5, 0.5, patience=2)
    assert not ends(0.0, patience=1) and ends(0.0, 0.0, patience=1), "the first is an improvement, whatever it is"
    assert not ends(0.5, 0.5, patience=3, outcome=TrialOutcome.PRUNED) and ends(0.5, 0.5, patience=2, outcome=TrialOutcome.PRUNED)
    assert not ends(*[0.5] * 9, patience=0)
    assert ends(*[0.5] * 9, patience=0, outcome=TrialOutcome.INFEASIBLE)
    assert not ends(*[0.5] * 8, patience=1, outcome=TrialOutcome.INFEASIBLE)


def test_a_hyperparameter_that_no_recipe_has_is_refused_by_name() -> None:
    assert SearchConfig(recipe_space={"momentum": Choices(values=(0.8,))}).recipe_space.keys() == {"momentum"}
    with pytest.raises(ValidationError, match=r"'speed' is not a field of the recipe; known: .*momentum"):
        SearchConfig(recipe_space={"speed": Choices(values=(1,)), "momentum": Choices(values=(0.8,))})


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_trial_of_which_nothing_is_told_has_no_score_and_keeps_to_its_limits(tmp_path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    write_view(tmp_path / "study.db", "s", SPACE, [Trial(0, {}, TrialOutcome.COMPLETED)])
    (found,) = optuna.load_study(study_name="s", storage=url).trials
    assert (found.value, found.constraints) == (0.0, {"size": 0.0})


def test_a_search_says_nothing_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    suggest(SPACE, [trial(0)], [], number=1, seed=1)
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_in_the_view_what_was_never_trained_distorts_no_importance_and_is_infeasible(tmp_path: Path) -> None:
    """The rate decides everything; the width only whether a network is too large to be tried."""
    made = []
    for number in range(60):
        width, rate = (8, 16, 32)[number % 3], 0.001 * 100 ** ((number * 7 % 60) / 60)
        values = {"architecture.width": width, "recipe.learning_rate": rate}
        outcome = TrialOutcome.INFEASIBLE if width == 32 else TrialOutcome.COMPLETED
        made.append(Trial(number, values, outcome, 0.0 if width == 32 else rate, (), 0.5 if width == 32 else -0.5))
    write_view(tmp_path / "study.db", "s", SPACE, made)
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/study.db")
    assert {(t.params["architecture.width"] == 32, t.value == -math.inf, t.constraints["size"] > 0) for t in study.trials} == {
        (True, True, True),
        (False, False, False),
    }
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    assert found["recipe.learning_rate"] > 10 * found["architecture.width"], found
    assert study.best_trial.params["architecture.width"] != 32


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_view_has_the_times_as_they_were_and_one_of_before_is_made_anew(tmp_path: Path) -> None:
    url, began = f"sqlite:///{tmp_path}/study.db", datetime(2026, 1, 2, 3, 4, 5)
    old = optuna.create_study(storage=url, study_name="s", direction="maximize")
    old.add_trial(optuna.trial.create_trial(value=0.0, user_attrs={"number": 0}))
    period = Period(began, began + timedelta(seconds=90))
    write_view(tmp_path / "study.db", "s", SPACE, [trial(0, 0.4)], periods={0: period})
    (found,) = optuna.load_study(study_name="s", storage=url).trials
    assert (found.datetime_start, found.duration, found.value) == (began, timedelta(seconds=90), 0.4)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_ends_of_a_range_are_in_it_and_nothing_beyond(tmp_path) -> None:
    space, url = {"recipe.momentum": Range(low=0.5, high=0.75)}, f"sqlite:///{tmp_path}/study.db"
    values = (0.25, 0.5, 0.75, 1.0)
    write_view(
        tmp_path / "study.db",
        "s",
        space,
        [Trial(n, {"recipe.momentum": v}, TrialOutcome.COMPLETED) for n, v in enumerate(values)],
    )
    assert [t.params.get("recipe.momentum") for t in optuna.load_study(study_name="s", storage=url).trials] == [
        None,
        0.5,
        0.75,
        None,
    ]
