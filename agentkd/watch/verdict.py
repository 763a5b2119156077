"""What a run has come to, as its plan says it: the table, who was kept and who refused, and why. It takes long for a long run."""

from dataclasses import dataclass
from typing import Any

from agentkd.artifacts.making import made_of
from agentkd.artifacts.run_folder import RunFolder
from agentkd.coordinator.run import read_run
from agentkd.experiment import Experiment
from agentkd.networks.families import title
from agentkd.pipeline.counting import task_counts
from agentkd.pipeline.plan import Outlook, Planner
from agentkd.pipeline.stages import Entrant, RoundLesson
from agentkd.report.headline import headline_text, teaching_text
from agentkd.report.pictures import pictures_figure
from agentkd.report.table import epochs_text
from agentkd.report.texts import measure_shown
from agentkd.task.judging import gained
from agentkd.visible import visible_line
from agentkd.watch.scene import SHOWN_DIGITS

MAX_OTHERS = 12
"""Candidates of a choice that are listed; of the others their number is said."""


@dataclass(frozen=True)
class Prospect:
    """What a run has come to.

    Args:
        plain: as JSON, for the page.
        families: of the experiment, in its order.
    """

    plain: dict[str, Any]
    families: tuple[str, ...]
    experiment: Experiment
    planner: Planner
    outlook: Outlook


def judge(folder: RunFolder) -> Prospect:
    """Reads a run and makes its plan.

    Raises:
        AgentKDError: there is no plan to be made: it is a community's folder, is not begun, or cannot be read.
    """
    experiment, planner, outlook, journal = read_run(folder)
    with journal, made_of(folder.place, "page"):
        return Prospect(_plain(experiment, outlook, planner), tuple(planner.families), experiment, planner, outlook)


def pictures(verdict: Prospect, folder: RunFolder) -> bytes | None:
    """Images of the test split beside what the final networks make of them, as PNG; ``None`` if there are none to be had."""
    if not verdict.planner.dataset.has_samples:
        return None
    with made_of(folder.place, "picture"):
        drawing = pictures_figure(verdict.outlook, verdict.planner.dataset, folder.store)
    return drawing.light if drawing else None


def has_pictures(verdict: Prospect) -> bool:
    """Whether there may be some."""
    return bool(verdict.outlook.winner and verdict.outlook.tests and verdict.planner.dataset.has_samples)


def refusal(error: Exception) -> str:
    """Why there is none, in a line."""
    return visible_line((str(error).splitlines() or [type(error).__name__])[0])[:500]


def _plain(experiment: Experiment, outlook: Outlook, planner: Planner) -> dict[str, Any]:
    measure = measure_shown(outlook)
    families = list(planner.families)

    def numbered(family: str) -> int:
        return families.index(family) if family in families else -1

    def network(entrant: Entrant | None) -> dict[str, Any] | None:
        if entrant is None:
            return None
        tested = outlook.tested.get(entrant.key)
        return {
            "label": visible_line(entrant.label),
            "family": numbered(entrant.family),
            "key": entrant.key[:SHOWN_DIGITS],
            "score": measure.of(entrant.result),
            "test": measure.of(tested.result) if tested else None,
            "size": entrant.result.num_parameters_deploy,
            "total": entrant.result.num_parameters_total,
            "epochs": epochs_text(entrant),
            "weights": entrant.result.weights,
        }

    rows = [
        {"family": numbered(row.family), "stage": row.stage.value, "network": network(row.entrant), "why": _reason(row.choice)}
        for row in outlook.rows
    ]
    curves = [
        {
            "family": numbered(row.family),
            "stage": row.stage.value,
            "key": row.entrant.key[:SHOWN_DIGITS],
            "scores": [(e.epoch, round(s, 5)) for e in row.entrant.result.history if (s := measure.of(e)) is not None],
        }
        for row in outlook.rows
    ]
    lessons = [_lesson(lesson, network) for one in (outlook, *outlook.repeats) for lesson in one.lessons]
    choices = [
        {
            "where": f"{visible_line(title(row.family))}, {row.stage.traits.title.lower()}",
            **_choice(row.choice.reasons, row.entrant),
        }
        for row in outlook.rows
        if row.choice
    ]
    if outlook.winner and outlook.choice:
        choices.append({"where": "Winner", **_choice(outlook.choice.reasons, outlook.winner)})
    return {
        "name": visible_line(experiment.name),
        "families": families,
        "measure": str(measure),
        "data": visible_line(experiment.data.dataset),
        "seed": experiment.seed,
        "rows": rows,
        "curves": curves,
        "lessons": lessons,
        "choices": choices,
        "winner": network(outlook.winner),
        "headline": visible_line(headline_text(outlook)),
        "teaching": visible_line(teaching_text(outlook)),
        "is_finished": outlook.is_finished,
        "failure": visible_line(outlook.failure),
        "expected": sum(task_counts(experiment).values()),
        "waiting": len(outlook.steps),
    }


def _lesson(lesson: RoundLesson, network: Any) -> dict[str, Any]:
    return {
        "stage": lesson.stage.value,
        "teachers": [network(teacher) for teacher in lesson.teachers],
        "student": network(lesson.student),
        "taught": network(lesson.taught),
        "alone": network(lesson.alone),
        "gain": gained(lesson.student.result, lesson.taught.result) if lesson.taught else None,
        "is_kept": lesson.is_kept,
        "why": visible_line(lesson.reason),
    }


def _choice(reasons: dict[Any, str], chosen: Entrant) -> dict[str, Any]:
    others = [(key[:SHOWN_DIGITS], visible_line(why)) for key, why in reasons.items() if key != chosen.key]
    return {
        "chosen": visible_line(chosen.label),
        "why": visible_line(reasons.get(chosen.key, "")),
        "others": others[:MAX_OTHERS],
        "num_others": len(others),
    }


def _reason(choice: Any) -> str:
    return visible_line(choice.reason) if choice else ""


def summary(verdict: Prospect) -> dict[str, Any]:
    """What another run has come to, to compare with."""
    return {name: verdict.plain[name] for name in ("name", "measure", "winner", "headline", "is_finished")}
