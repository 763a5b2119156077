"""A run of networks that classify whole images goes by their accuracy in all that it chooses, and shows it."""

import csv
import io
from dataclasses import asdict
from typing import Any

import pytest
from experiments import EXPERIMENT
from planning import end_of, invented, planner, play

from agentkd import canonical
from agentkd.architecture import Architecture
from agentkd.coordinator.hearsay import ResultError, check_history
from agentkd.coordinator.run import describe_result
from agentkd.names import NO_DIGEST, TaskKey
from agentkd.pipeline.choosing import Question
from agentkd.pipeline.plan import Outlook
from agentkd.pipeline.stages import PlannedTask
from agentkd.recipe import Recipe
from agentkd.report import table
from agentkd.report.headline import headline_text, teaching_text
from agentkd.report.table import COLUMNS, csv_table, latex_table, lessons_csv, markdown_table
from agentkd.report.texts import measure_shown
from agentkd.search.selection import Candidate, rank
from agentkd.task import DataSource, EpochResult, Status, TaskResult, Train
from agentkd.task.judging import Measure, gained, measure_of

SEARCH = EXPERIMENT["search"] | {"trials": 5, "epochs": 4, "startup_trials": 2, "lag": 1, "patience": 0}
HALVING = {"kind": "halving", "first_epoch": 1, "factor": 2, "startup_trials": 1}
EXPERIMENTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "best": {"select": {"rule": "best"}},
    "knee": {"select": {"rule": "pareto_knee"}},
    "halving": {"search": SEARCH | {"pruning": HALVING}},
    "median": {"search": SEARCH | {"pruning": {"startup_trials": 2, "warmup_epochs": 0}}},
    "confirmed": {"search": SEARCH | {"confirm": 2, "confirm_seeds": 2}},
    "scalarized": {"search": SEARCH | {"objective": "scalarized"}},
    "pareto": {"search": SEARCH | {"objective": "pareto", "costs": ["total"]}},
    "inherited": {"search": SEARCH | {"inherit_weights": True}},
    "with the best teacher and a control arm": {"round1": EXPERIMENT["round1"] | {"teachers": "best"}, "control": True},
    "two seeds": {"seeds": 2},
}


def scored(step: PlannedTask) -> tuple[TaskResult, tuple[float, ...]]:
    """A result, with a score for each of two epochs, and then that of the weights."""
    number = int(step.key[:8], 16) / 16**8
    epochs = (0.2 + 0.3 * (1 - number), 0.2 + 0.5 * number)
    return invented(step), (*epochs, max(epochs))


def as_segmented(step: PlannedTask) -> TaskResult:
    result, (first, second, best) = scored(step)
    history = [EpochResult(epoch=n, loss=1, miou=miou, seconds=1) for n, miou in ((1, first), (2, second))]
    return result.model_copy(update={"miou": best, "history": tuple(history)})


def as_classified(step: PlannedTask) -> TaskResult:
    """The same scores as accuracy, with an mIoU that would have everything chosen the other way."""
    result, (first, second, best) = scored(step)
    scores = ((1, first), (2, second))
    history = [EpochResult(epoch=n, loss=1, miou=1 - score, accuracy=score, seconds=1) for n, score in scores]
    return result.model_copy(update={"miou": 1 - best, "accuracy": best, "history": tuple(history)})


def story(outlooks: list[Outlook]) -> list[Any]:
    """All that was wanted, chosen and kept, and why."""
    end = outlooks[-1]
    wanted = [[step.key for step in outlook.steps] for outlook in outlooks]
    rows = [(row.family, row.stage, row.entrant.key, row.choice) for one in (end, *end.repeats) for row in one.rows]
    lessons = [(lesson.student.key, lesson.is_kept, lesson.reason) for one in (end, *end.repeats) for lesson in one.lessons]
    assert end.winner is not None
    told = repr([wanted, rows, lessons, end.winner.key, end.choice]).replace("accuracy", "mIoU")
    return [told]


@pytest.mark.parametrize("changes", EXPERIMENTS.values(), ids=EXPERIMENTS.keys())
def test_a_run_of_classifiers_chooses_by_accuracy_what_another_chooses_by_miou(changes: dict[str, Any]) -> None:
    segmented, classified = (list(play(planner(**changes), outcome)) for outcome in (as_segmented, as_classified))
    assert story(classified) == story(segmented)
    assert (measure_shown(classified[-1]), measure_shown(segmented[-1])) == (Measure.ACCURACY, Measure.MIOU)


def test_its_reasons_headline_and_tables_say_accuracy() -> None:
    changes = {"control": True, "seeds": 2}
    segmented, classified = (end_of(play(planner(**changes), outcome)) for outcome in (as_segmented, as_classified))
    assert headline_text(classified).replace(" of accuracy", "") == headline_text(segmented)
    assert headline_text(classified).endswith("points of accuracy.") and "points of test accuracy" in teaching_text(classified)
    for write in (markdown_table, latex_table):
        assert write(classified).replace(" of accuracy", "").replace("accuracy", "mIoU") == write(segmented)
        assert "accuracy" in write(classified)
    assert any("accuracy" in reason for row in classified.rows if row.choice for reason in row.choice.reasons.values())
    assert lessons_csv(classified).replace("accuracy", "miou").replace("best miou", "best mIoU") == lessons_csv(segmented)


def test_the_table_for_programs_has_both_scores() -> None:
    classified = end_of(play(planner(), as_classified))
    rows = list(csv.DictReader(io.StringIO(csv_table(classified))))
    assert set(rows[0]) == {*COLUMNS, "accuracy", "test_accuracy"}
    assert all(float(row["accuracy"]) == pytest.approx(1 - float(row["miou"]), abs=2e-6) for row in rows)
    assert all(0 < float(row["test_accuracy"]) < 1 for row in rows)
    (told, *_) = csv.DictReader(io.StringIO(table.tests_csv(classified)))
    assert float(told["accuracy"]) == pytest.approx(1 - float(told["miou"]), abs=2e-6)
    segmented = end_of(play(planner(), as_segmented))
    assert "accuracy" not in csv_table(segmented) + table.tests_csv(segmented) + lessons_csv(segmented)


def test_what_has_no_accuracy_is_not_held_against_what_has_one() -> None:
    """A network that segments has none; beside it all are compared by mIoU, which all have."""
    sure = Candidate(TaskKey("sure"), 0.2, 1, 1, 1, accuracy=0.9)
    other = Candidate(TaskKey("other"), 0.3, 1, 1, 1, accuracy=0.8)
    dense = Candidate(TaskKey("dense"), 0.25, 1, 1, 1)
    assert [one.task for one in rank([dense, other, sure])] == ["other", "dense", "sure"]
    assert [one.task for one in rank([other, sure])] == ["sure", "other"]
    assert measure_of([]) is Measure.MIOU and gained(sure, other) == pytest.approx(-0.1) and gained(sure, dense) == 0.25 - 0.2


def test_a_line_on_a_finished_task_says_its_accuracy() -> None:
    step = next(iter(play(planner()))).steps[0]
    result = as_classified(step).replace(accuracy=0.625)
    assert "accuracy 62.50 %" in describe_result(step, result) and "mIoU" not in describe_result(step, result)
    assert "mIoU" in describe_result(step, as_segmented(step))


def test_answers_of_own_rules_that_were_recorded_before_are_found() -> None:
    """Nothing of classifiers was part of a question then."""
    old = Candidate(TaskKey("a" * 64), 0.5, 3, 2, 1, "unet", (0.5, None), 0.0, (0.4, 0.6))
    before = {name: value for name, value in asdict(old).items() if name != "accuracy"}
    asked = {"rule": "my_rules:mine", "code": NO_DIGEST, "candidates": [before], "student": None}
    assert Question("my_rules:mine", NO_DIGEST, (old,)).key == canonical.digest(asked)
    of_classifier = Candidate(TaskKey("a" * 64), 0.5, 3, 2, 1, accuracy=0.7)
    assert canonical.digest(asked) != Question("my_rules:mine", NO_DIGEST, (of_classifier,)).key


def test_a_trial_of_a_classifier_that_is_pruned_by_its_accuracy_is_believed_and_one_by_its_miou_not() -> None:

    task = Train(
        architecture=Architecture(family="unet", num_classes=5),
        data=DataSource(spec="generated:seed=1", content_digest=NO_DIGEST),
        recipe=Recipe(epochs=3),
        prune_below=(0.5, 0.0, 0.0),
    )

    def ended(miou: float, accuracy: float) -> TaskResult:
        history = (EpochResult(epoch=1, loss=1, miou=miou, accuracy=accuracy, seconds=1),)
        return TaskResult(status=Status.PRUNED, miou=miou, accuracy=accuracy, epochs=1, best_epoch=1, history=history)

    check_history(task, ended(miou=0.9, accuracy=0.4))
    with pytest.raises(ResultError, match="never pruned"):
        check_history(task, ended(miou=0.4, accuracy=0.9))


def test_what_something_brought_is_told_by_a_score_that_was_there_before_and_after() -> None:
    one, other = (TaskResult(status=Status.COMPLETED, miou=miou) for miou in (0.25, 0.75))
    whole = TaskResult(status=Status.COMPLETED, miou=0.5, accuracy=0.9)
    assert gained(one, other) == 0.5
    assert gained(one, whole) == 0.25 and gained(whole, one) == -0.25, "an accuracy is no mIoU"
    assert gained(whole.replace(accuracy=0.5), whole) == pytest.approx(0.4)
