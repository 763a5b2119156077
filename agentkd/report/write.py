"""Writes ``RUN/report``: tables, figures and one self-contained page, from the records alone."""

import itertools
import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentkd.artifacts.history import History
from agentkd.artifacts.journal import Record
from agentkd.artifacts.lineage import trace_back
from agentkd.artifacts.making import made_of
from agentkd.artifacts.run_folder import RunFolder, beside
from agentkd.coordinator.run import read_run
from agentkd.datasets.opening import Opened
from agentkd.experiment import Experiment
from agentkd.networks.families import title
from agentkd.pipeline.plan import Outlook
from agentkd.pipeline.stages import TABLE_STAGES, Entrant, Stage
from agentkd.report import figures, table
from agentkd.report.closing import next_steps
from agentkd.report.descent import descent_figure
from agentkd.report.drawing import Drawing, family_colors
from agentkd.report.headline import headline_text, teaching_text
from agentkd.report.journey import journey_figure
from agentkd.report.lessons import teaching_figure
from agentkd.report.page import rendered, save
from agentkd.report.paper import PAPER_TABLE, is_of_the_paper
from agentkd.report.pictures import pictures_figure
from agentkd.report.texts import measure_shown, short_count
from agentkd.task import TaskResult

PICTURES = ("journey", "pareto", "search", "curves", "teaching", "lineage", "pictures")
TEXTS = ("table.csv", "test.csv", "lessons.csv", "choices.csv", "table.md", "table.tex", "report.html")
FILES = {*TEXTS, *(f"{name}.png" for name in PICTURES)}
"""What a report consists of."""


@dataclass(frozen=True)
class WrittenReport:
    """Where the page is, and what it was made from."""

    page: Path
    outlook: Outlook


def place_for(folder: RunFolder) -> Path:
    """Where the report of a run is written: in its folder, or, where that can only be read, in the current one or a new one."""
    inside = folder.report if folder.report.exists() else folder.place
    if os.access(inside, os.W_OK | os.X_OK):
        return folder.report
    if os.access(".", os.W_OK | os.X_OK):
        return _new_or_of_a_report(beside(folder.place, "-report").name)
    return Path(tempfile.mkdtemp(prefix="agentkd-report-"))


def _new_or_of_a_report(name: str) -> Path:
    """A folder in the current one in which nothing lies but files of a report, or no folder as yet."""
    for number in itertools.count(1):
        place = Path(name if number == 1 else f"{name}-{number}")
        if not os.path.lexists(place):
            return place
        if place.is_dir() and not place.is_symlink() and {path.name for path in place.iterdir()} <= FILES:
            return place
    raise AssertionError("there are more numbers")


def write_report(folder: RunFolder, place: Path | None = None) -> WrittenReport:
    """Writes the report of a run, finished or not.

    Args:
        folder: of the run.
        place: folder to write to; ``report`` in that of the run if it is not given.

    Raises:
        ArtifactError: the folder holds no run of an experiment, or one of whose records no report can be made.
        StorageError: the report cannot be written.
    """
    experiment, planner, outlook, journal = read_run(folder)
    with journal:
        records = list(journal.records())
    with made_of(folder.place, "report"):
        pictures, texts = _drawn_and_written(experiment, planner.dataset, outlook, records, folder)
    return WrittenReport(save(folder, place or folder.report, pictures, texts), outlook)


def _drawn_and_written(
    experiment: Experiment, dataset: Opened, outlook: Outlook, records: list[Record], folder: RunFolder
) -> tuple[dict[str, Drawing | None], dict[str, str]]:
    """The figures by name, and the texts by the names of their files."""
    results = {record.task.key: record.result for record in records}
    pictures: dict[str, Drawing | None] = {
        "journey": journey_figure(outlook),
        "pareto": figures.pareto_figure(outlook, results),
        "search": figures.search_figure(outlook),
        "curves": figures.curves_figure(outlook),
        "teaching": teaching_figure(outlook),
        "lineage": _lineage(outlook, History(records)),
        "pictures": pictures_figure(outlook, dataset, folder.store) if dataset.has_samples else None,
    }
    shown = {name: drawing for name, drawing in pictures.items() if drawing}
    page = _render_page(experiment, outlook, results.values(), shown, dataset.classes, folder.place)
    texts = {
        "table.csv": table.csv_table(outlook),
        "test.csv": table.tests_csv(outlook),
        "lessons.csv": table.lessons_csv(outlook),
        "choices.csv": table.choices_csv(outlook),
        "table.md": table.markdown_table(outlook) + "\n",
        "table.tex": table.latex_table(outlook),
        "report.html": page,
    }
    return pictures, texts


def _lineage(outlook: Outlook, history: History) -> Drawing | None:
    """Where the winner comes from."""
    return descent_figure(trace_back(outlook.winner.key, history), family_colors(outlook)) if outlook.winner else None


def _render_page(
    experiment: Experiment,
    outlook: Outlook,
    results: Iterable[TaskResult],
    pictures: dict[str, Drawing],
    classes: tuple[str, ...],
    run: Path,
) -> str:
    return rendered(
        "report.html.jinja",
        pictures,
        results,
        experiment=experiment,
        classes=classes,
        stages=[stage.traits.title for stage in TABLE_STAGES],
        rows=_page_rows(outlook, beside_paper=is_of_the_paper(experiment, len(classes))),
        is_of_the_paper=is_of_the_paper(experiment, len(classes)),
        tests=[(title(family), entrant) for family, entrant in outlook.tests.items()],
        lessons=outlook.lessons,
        winner=outlook.winner,
        winner_title=title(outlook.winner.family) if outlook.winner else "",
        is_finished=outlook.is_finished,
        is_generated=experiment.data.dataset.startswith("generated"),
        run=json.dumps(str(run)),
        next_steps=next_steps(outlook, run, run / "report" / "report.html")[1:],
        settings=_differences(outlook),
        short_count=short_count,
        epochs_text=table.epochs_text,
        headline=headline_text(outlook),
        teaching=teaching_text(outlook),
        choices=_choices(outlook),
        tested=outlook.tested,
        measure=measure_shown(outlook),
    )


def _page_rows(outlook: Outlook, *, beside_paper: bool) -> list[dict[str, Any]]:
    by_family: dict[str, dict[Stage, Any]] = {}
    for row in outlook.rows:
        by_family.setdefault(row.family, {})[row.stage] = row.entrant
    return [
        {
            "title": title(family),
            "cells": [cells.get(stage) for stage in TABLE_STAGES],
            "paper": (PAPER_TABLE.get(family) if beside_paper else None) or (None,) * len(TABLE_STAGES),
        }
        for family, cells in by_family.items()
    ]


def _differences(outlook: Outlook) -> list[tuple[str, str, str]]:
    """Each setting of the winner and field of its last recipe: name, value, and the baseline's of its family if that differs."""
    winner = outlook.winner
    if winner is None:
        return []
    of_family = (row.entrant for row in outlook.rows if row.family == winner.family and row.stage is TABLE_STAGES[0])
    own, usual = _told(winner), _told(next(of_family, winner))
    return [(name, value, usual.get(name, value) if usual.get(name) != value else "") for name, value in own.items()]


def _told(entrant: Entrant) -> dict[str, str]:
    """Settings of a network and of its training by name, as text."""
    plain = {"architecture": dict(entrant.architecture.settings), "recipe": entrant.recipe.canonical()}
    return {f"{part}.{name}": json.dumps(value) for part, values in plain.items() for name, value in values.items()}


def _choices(outlook: Outlook) -> list[dict[str, Any]]:
    """Every choice: what was chosen, and each candidate with why it was, or was not."""
    made = [
        (f"{title(row.family)}, {row.stage.traits.title.lower()}", row.entrant, row.choice) for row in outlook.rows if row.choice
    ]
    if outlook.winner and outlook.choice:
        made.append(("Winner", outlook.winner, outlook.choice))
    return [
        {"where": where, "label": entrant.label, "reason": choice.reason, "others": len(choice.reasons) - 1, "choice": choice}
        for where, entrant, choice in made
    ]
