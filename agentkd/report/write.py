"""Writes ``RUN/report``: tables, figures and one self-contained page, from the records alone."""

import base64
import itertools
import os
import platform
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment

from agentkd import __version__
from agentkd.artifacts.history import History
from agentkd.artifacts.journal import Record
from agentkd.artifacts.lineage import trace_back
from agentkd.artifacts.making import made_of
from agentkd.artifacts.run_folder import RunFolder, beside
from agentkd.artifacts.run_places import WRITTEN, must_lead_somewhere
from agentkd.coordinator.run import read_run
from agentkd.datasets.opening import Opened
from agentkd.durable import write_whole
from agentkd.errors import StorageError
from agentkd.experiment import Experiment
from agentkd.networks.families import title
from agentkd.pipeline.plan import Outlook
from agentkd.pipeline.stages import TABLE_STAGES, Stage
from agentkd.report import figures, table
from agentkd.report.descent import descent_figure
from agentkd.report.headline import headline_text, teaching_text
from agentkd.report.journey import journey_figure
from agentkd.report.paper import PAPER_TABLE
from agentkd.report.texts import measure_shown, short_count
from agentkd.task import TaskResult
from agentkd.visible import visible

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
    place = place or folder.report
    must_lead_somewhere(place)
    if place == folder.report:
        folder.must_be_its_own(alone=WRITTEN)
    try:
        place.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_whole(place / name, text.encode())
        for name, png in pictures.items():
            if png:
                write_whole(place / f"{name}.png", png)
    except OSError as error:
        raise StorageError.of(place, error) from error
    return WrittenReport(place / "report.html", outlook)


def _drawn_and_written(
    experiment: Experiment, dataset: Opened, outlook: Outlook, records: list[Record], folder: RunFolder
) -> tuple[dict[str, bytes | None], dict[str, str]]:
    """The figures by name, and the texts by the names of their files."""
    results = {record.task.key: record.result for record in records}
    pictures = {
        "journey": journey_figure(outlook),
        "pareto": figures.pareto_figure(outlook, results),
        "search": figures.search_figure(outlook),
        "curves": figures.curves_figure(outlook),
        "teaching": figures.teaching_figure(outlook),
        "lineage": _lineage(outlook, History(records)),
        "pictures": figures.pictures_figure(outlook, dataset, folder.store) if dataset.has_samples else None,
    }
    shown = {name: png for name, png in pictures.items() if png}
    page = _render_page(experiment, outlook, results.values(), shown, dataset.classes)
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


def _lineage(outlook: Outlook, history: History) -> bytes | None:
    """Where the winner comes from."""
    return descent_figure(trace_back(outlook.winner.key, history)) if outlook.winner else None


def _shown(value: object) -> object:
    return visible(value) if type(value) is str else value  # what is markup already has been shown


def _render_page(
    experiment: Experiment, outlook: Outlook, results: Iterable[TaskResult], pictures: dict[str, bytes], classes: tuple[str, ...]
) -> str:
    template = files("agentkd.report").joinpath("data/report.html.jinja").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_shown)
    known = list(results)
    return environment.from_string(template).render(
        experiment=experiment,
        version=__version__,
        classes=classes,
        stages=[stage.traits.title for stage in TABLE_STAGES],
        rows=_page_rows(outlook),
        tests=[(title(family), entrant) for family, entrant in outlook.tests.items()],
        lessons=outlook.lessons,
        winner=outlook.winner,
        winner_title=title(outlook.winner.family) if outlook.winner else "",
        is_finished=outlook.is_finished,
        is_generated=experiment.data.dataset.startswith("generated"),
        images={name: base64.b64encode(png).decode() for name, png in pictures.items()},
        ledger=_ledger(known),
        environment=next((dict(r.environment) for r in known if r.environment), {}),
        host=f"{platform.system()} {platform.machine()}",
        short_count=short_count,
        epochs_text=table.epochs_text,
        headline=headline_text(outlook),
        teaching=teaching_text(outlook),
        choices=_choices(outlook),
        tested=outlook.tested,
        measure=measure_shown(outlook),
        percent=_percent,
    )


def _percent(score: float | None) -> str:
    return "-" if score is None else f"{100 * score:.2f} %"


def _page_rows(outlook: Outlook) -> list[dict[str, Any]]:
    by_family: dict[str, dict[Stage, Any]] = {}
    for row in outlook.rows:
        by_family.setdefault(row.family, {})[row.stage] = row.entrant
    return [
        {
            "title": title(family),
            "cells": [cells.get(stage) for stage in TABLE_STAGES],
            "paper": PAPER_TABLE.get(family, (None,) * len(TABLE_STAGES)),
        }
        for family, cells in by_family.items()
    ]


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


def _ledger(results: list[TaskResult]) -> dict[str, float]:
    """What teaching cost, over the whole run."""
    exchanges = [result.exchange for result in results if result.exchange]
    return {
        "tasks": len(results),
        "training_s": sum(result.seconds for result in results),
        "peak_megabytes": max((result.peak_memory_bytes for result in results), default=0) / 1e6,
        "lessons": len(exchanges),
        "requests": sum(exchange.requests for exchange in exchanges),
        "megabytes": sum(exchange.bytes_received for exchange in exchanges) / 1e6,
        "teacher_s": sum(exchange.teacher_s for exchange in exchanges),
        "waited_s": sum(exchange.waited_s for exchange in exchanges),
    }
