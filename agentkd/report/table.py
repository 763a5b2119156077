"""The table: one row for each family and stage, as CSV for programs, Markdown and LaTeX for people."""

import csv
import io
from typing import Any

from agentkd.networks.families import title
from agentkd.pipeline.plan import Outlook
from agentkd.pipeline.stages import TABLE_STAGES, Entrant, Stage, Standing
from agentkd.report.headline import headline_text, teaching_text
from agentkd.report.texts import measure_shown, short_count

COLUMNS = (
    "family",
    "stage",
    "miou",
    "test_miou",
    "epochs",
    "epochs_in_all",
    "num_parameters_total",
    "num_parameters_network",
    "num_parameters_deploy",
    "num_macs",
    "seconds",
    "peak_memory_bytes",
    "seed",
    "task",
)
OF_CLASSIFIERS = ("accuracy", "test_accuracy")
"""Columns of a run with classifiers, after those of mIoU."""


LEGEND = "validation / test (where it was looked at) / epochs of the stage (in all) / total parameters."


def table_rows(outlook: Outlook) -> list[dict[str, Any]]:
    """The table as plain data, of all seeds; ``miou`` in [0, 1], on the validation split, ``test_miou`` on the test split.

    With a classifier among them also ``accuracy`` and ``test_accuracy``, likewise.
    """
    rows = [_as_data(row, one) for one in (outlook, *outlook.repeats) for row in one.rows]
    if any(row["accuracy"] is not None for row in rows):
        return rows
    return [{name: value for name, value in row.items() if name not in OF_CLASSIFIERS} for row in rows]


def csv_table(outlook: Outlook) -> str:
    """The table as CSV with the columns of ``COLUMNS``, and ``OF_CLASSIFIERS`` if there are some."""
    rows = table_rows(outlook)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [*rows[0]] if rows else COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def markdown_table(outlook: Outlook) -> str:
    """Table I's form: a row for each family. Under it what came out in a line."""
    head = "| Family | " + " | ".join(stage.traits.title for stage in TABLE_STAGES) + " |"
    lines = [head, "|---" * (len(TABLE_STAGES) + 1) + "|"]
    for family, cells in _by_family(outlook).items():
        texts = [_markdown_cell(cells.get(stage), outlook) for stage in TABLE_STAGES]
        lines.append(f"| {title(family)} | " + " | ".join(texts) + " |")
    legend = f"{measure_shown(outlook)} in %: {LEGEND} **Bold**: the winner."
    said = [text for text in (headline_text(outlook), teaching_text(outlook)) if text]
    return "\n".join([*lines, "", legend, *(line for text in said for line in ("", text))])


def latex_table(outlook: Outlook) -> str:
    """The same as a LaTeX tabular (needs booktabs)."""
    lines = [
        r"\begin{tabular}{l" + "rr" * len(TABLE_STAGES) + "}",
        r"\toprule",
        "Family & " + " & ".join(rf"\multicolumn{{2}}{{c}}{{{stage.traits.title}}}" for stage in TABLE_STAGES) + r" \\",
        " & " + " & ".join([rf"{measure_shown(outlook)} & Params"] * len(TABLE_STAGES)) + r" \\",
        r"\midrule",
    ]
    for family, cells in _by_family(outlook).items():
        parts = []
        for stage in TABLE_STAGES:
            row = cells.get(stage)
            if row is None:
                parts.append("-- & --")
                continue
            result = row.entrant.result
            parts.append(f"{100 * measure_shown(outlook).must_be_of(result):.2f} & {short_count(result.num_parameters_total)}")
        name = title(family).replace("_", r"\_")
        lines.append(f"{name} & " + " & ".join(parts) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def tests_csv(outlook: Outlook) -> str:
    """Each family's final network on the test split."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    has_classifiers = any(entrant.result.accuracy is not None for entrant in outlook.tests.values())
    accuracy = ("accuracy",) if has_classifiers else ()
    writer.writerow(("family", "split", "miou", "one_class_miou", *accuracy, "task"))
    for family, entrant in outlook.tests.items():
        result = entrant.result
        scores = [f"{result.miou:.6f}", f"{result.one_class_miou:.6f}", *[_six(result.accuracy) for _ in accuracy]]
        writer.writerow((family, entrant.task.data.validation, *scores, entrant.key))
    return stream.getvalue()


def _as_data(row: Standing, outlook: Outlook) -> dict[str, Any]:
    result, tested = row.entrant.result, outlook.tested.get(row.entrant.key)
    return {
        "family": row.family,
        "stage": row.stage.value,
        "miou": round(result.miou, 6),
        "test_miou": round(tested.result.miou, 6) if tested else None,
        "accuracy": _rounded(result.accuracy),
        "test_accuracy": _rounded(tested.result.accuracy) if tested else None,
        "epochs": result.epochs,
        "epochs_in_all": row.entrant.epochs_in_all,
        "num_parameters_total": result.num_parameters_total,
        "num_parameters_network": result.num_parameters_network,
        "num_parameters_deploy": result.num_parameters_deploy,
        "num_macs": result.num_macs,
        "seconds": round(result.seconds, 2),
        "peak_memory_bytes": result.peak_memory_bytes,
        "seed": row.entrant.task.seed,
        "task": row.entrant.key,
    }


def epochs_text(entrant: Entrant) -> str:
    """Epochs of the stage, and in brackets those in all, if it went on with earlier weights."""
    epochs, in_all = entrant.result.epochs, entrant.epochs_in_all
    return str(epochs) if in_all == epochs else f"{epochs} ({in_all})"


def lessons_csv(outlook: Outlook) -> str:
    """Every lesson of every seed: who taught whom, validation and test score before, after, and after as many epochs alone."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    measure = measure_shown(outlook)
    name = measure.lower()
    heads = [f"{what}_{split}" for what in ("student", "taught", "alone") for split in (name, f"test_{name}")]
    writer.writerow(("seed", "stage", "teachers", "student", *heads, "is_kept", "reason"))
    for seed in (outlook, *outlook.repeats):
        for lesson in seed.lessons:
            scores: list[str] = []
            for entrant in (lesson.student, lesson.taught, lesson.alone):
                tested = seed.tested.get(entrant.key) if entrant else None
                scores += [_six(measure.of(one.result)) if one else "" for one in (entrant, tested)]
            names = " + ".join(teacher.label for teacher in lesson.teachers)
            writer.writerow((seed.seed, lesson.stage.value, names, lesson.student.label, *scores, lesson.is_kept, lesson.reason))
    return stream.getvalue()


def choices_csv(outlook: Outlook) -> str:
    """Every choice of every seed: each candidate, whether it was chosen, and why or why not."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("seed", "stage", "family", "task", "is_chosen", "reason"))
    for one in (outlook, *outlook.repeats):
        made = [(row.stage.value, row.family, row.choice) for row in one.rows if row.choice]
        made += [("winner", "", one.choice)] if one.choice else []
        for stage, family, choice in made:
            for task, reason in choice.reasons.items():
                writer.writerow((one.seed, stage, family, task, task == choice.task, reason))
    return stream.getvalue()


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 6)


def _six(score: float | None) -> str:
    return "" if score is None else f"{score:.6f}"


def _by_family(outlook: Outlook) -> dict[str, dict[Stage, Standing]]:
    table: dict[str, dict[Stage, Standing]] = {}
    for row in outlook.rows:
        table.setdefault(row.family, {})[row.stage] = row
    return table


def _markdown_cell(row: Standing | None, outlook: Outlook) -> str:
    if row is None:
        return "-"
    result = row.entrant.result
    tested = outlook.tested.get(row.entrant.key)
    score = measure_shown(outlook).must_be_of
    scores = f"{100 * score(result):.2f} / {f'{100 * score(tested.result):.2f}' if tested else '-'}"
    text = f"{scores} / {epochs_text(row.entrant)} / {short_count(result.num_parameters_total)}"
    is_winner = row.stage is TABLE_STAGES[-1] and outlook.winner is not None and row.entrant.key == outlook.winner.key
    return f"**{text}**" if is_winner else text
