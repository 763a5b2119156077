"""What a run says of itself in numbers: the table, the headline, what the teachers were worth, and why who was chosen."""

import csv
import io
from collections.abc import Iterator

import pytest
from experiments import EXPERIMENT
from planning import end_of, invented, planner, play

from agentkd.pipeline.plan import Outlook
from agentkd.pipeline.stages import TABLE_STAGES, PlannedTask, Stage
from agentkd.report.headline import headline, headline_text, teaching_text
from agentkd.report.journey import journey_figure
from agentkd.report.table import choices_csv, csv_table, lessons_csv, markdown_table, table_rows
from agentkd.report.texts import spread
from agentkd.task import Distill, Evaluate, TaskResult

BEST_BASELINE = 0.6


class Scores:
    """Test scores that are known: the smaller network of two is a point better after its lessons, and two with a teacher."""

    def __init__(self) -> None:
        self.by_weights: dict[str, float] = {}

    def __call__(self, step: PlannedTask) -> TaskResult:
        if isinstance(step.task, Evaluate):
            return invented(step, self.by_weights[step.task.initial_weights])
        bonus = 0.02 if isinstance(step.task, Distill) else 0.0
        miou = BEST_BASELINE - 0.01 + bonus if step.stage is not Stage.BASELINE else BEST_BASELINE
        size = 1000 if step.stage is Stage.BASELINE else 250
        result = invented(step, miou - 0.1, num_parameters_total=size, epochs=5)
        self.by_weights[result.weights] = miou
        return result


def finished(**changes: object) -> Outlook:
    return end_of(play(planner(**changes), Scores()))


def rows_of(text: str) -> Iterator[dict[str, str]]:
    return csv.DictReader(io.StringIO(text))


def test_the_headline_compares_the_winner_with_the_baseline_that_does_best_on_the_test_split() -> None:
    outlook = finished()
    found = headline(outlook)
    assert found and found.saved == 0.75 and found.gain == pytest.approx(0.01)
    assert found.winner == outlook.winner and found.baseline_score == BEST_BASELINE
    text = "with 250 parameters, 61.00 %, against"
    assert text in headline_text(outlook) and headline_text(outlook).endswith(": 75.0 % fewer parameters, +1.00 points.")
    assert headline_text(outlook) in markdown_table(outlook)


def test_before_all_was_looked_at_there_is_no_headline_and_no_figure() -> None:
    scores = Scores()
    for outlook in play(planner(), scores):
        assert (headline(outlook) is not None) <= outlook.is_finished or outlook.winner is not None
        if not outlook.is_finished and outlook.winner is None:
            assert headline_text(outlook) == "" and journey_figure(outlook) is None
    assert headline_text(finished(test_every_stage=False)) == ""


def test_over_seeds_it_says_mean_and_deviation() -> None:
    outlook = finished(seeds=3)
    assert headline_text(outlook).startswith("Seed 3: ")
    assert headline_text(outlook).endswith("Over 3 seeds: 75.00 +- 0.00 % fewer parameters, +1.00 +- 0.00 points.")
    assert {row["seed"] for row in rows_of(lessons_csv(outlook))} == {"3", "4", "5"}
    assert len(table_rows(outlook)) == 3 * 2 * len(TABLE_STAGES)


def test_what_the_teachers_were_worth_is_told_against_as_many_epochs_alone() -> None:
    assert teaching_text(finished()) == ""
    outlook = finished(control=True)
    count = len(outlook.lessons)
    assert teaching_text(outlook) == (
        f"With a teacher, against as many epochs alone: +2.00 +- 0.00 points of test mIoU; ahead in {count} of {count} lessons."
    )
    for row in rows_of(lessons_csv(outlook)):
        assert float(row["taught_test_miou"]) == pytest.approx(BEST_BASELINE + 0.01)
        assert float(row["alone_test_miou"]) == pytest.approx(BEST_BASELINE - 0.01)
        assert row["is_kept"] == "True" and row["reason"]


def test_the_table_tells_the_test_score_and_all_epochs_of_every_row() -> None:
    outlook = finished()
    by_stage: dict[str, set[tuple[str, str]]] = {}
    for row in rows_of(csv_table(outlook)):
        by_stage.setdefault(row["stage"], set()).add((row["epochs"], row["epochs_in_all"]))
        assert 0 < float(row["test_miou"]) != float(row["miou"])
    assert by_stage["baseline"] == {("5", "5")} and by_stage["round1"] == {("5", "10")}
    assert by_stage["round2"] == {("5", "15"), ("5", "10")}, "who teaches the others goes on as it is"
    assert "| 50.00 / 60.00 / 5 / 1.00k |" in markdown_table(outlook) and " / 5 (15) / 250" in markdown_table(outlook)
    without = finished(test_every_stage=False)
    assert "| 50.00 / - / 5 / 1.00k |" in markdown_table(without)


def test_every_candidate_of_every_choice_stands_there_with_a_reason() -> None:
    outlook = finished(search=EXPERIMENT["search"] | {"trials": 4})
    rows = list(rows_of(choices_csv(outlook)))
    assert {row["stage"] for row in rows} == {"search", "round1", "winner"} and all(row["reason"] for row in rows)
    assert sum(row["is_chosen"] == "True" for row in rows) == 2 * 2 + 1
    baselines = {row.entrant.key for row in outlook.rows if row.stage is Stage.BASELINE}
    assert {row["task"] for row in rows if row["stage"] == "search"} >= baselines


def test_the_figure_is_drawn_for_one_family_and_for_one_whose_stages_are_one_network() -> None:
    def constant(step: PlannedTask) -> TaskResult:
        return invented(step, 0.5)

    for outlook in (finished(), finished(families=["tiny_networks:tiny"]), end_of(play(planner(), constant))):
        picture = journey_figure(outlook)
        assert picture and picture.light.startswith(b"\x89PNG") and picture.dark.startswith(b"\x89PNG")


def test_a_spread_of_one_value_has_no_deviation() -> None:
    assert (spread([2.0]), spread([-1.0, 1.0], sign=True)) == ("2.00", "+0.00 +- 1.41")
