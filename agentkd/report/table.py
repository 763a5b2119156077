"""The table: one row for each family and stage, as CSV for programs, Markdown and LaTeX for people."""

import csv
import io
from typing import Any

from agentkd.networks.families import title
from agentkd.pipeline.plan import Outlook
from agentkd.pipeline.stages import TABLE_STAGES, Stage, Standing

COLUMNS = (
    "family",
    "stage",
    "miou",
    "epochs",
    "num_parameters_total",
    "num_parameters_network",
    "num_parameters_deploy",
    "num_macs",
    "seconds",
    "peak_memory_bytes",
    "seed",
    "task",
)


def table_rows(outlook: Outlook) -> list[dict[str, Any]]:
    """The table as plain data; ``miou`` in [0, 1], on the validation split."""
    return [_as_data(row) for row in outlook.rows]


def csv_table(outlook: Outlook) -> str:
    """The table as CSV with the columns of ``COLUMNS``."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table_rows(outlook))
    return stream.getvalue()


def markdown_table(outlook: Outlook) -> str:
    """Table I's form: a row for each family; a stage's cell holds mIoU in percent, epochs and total parameters."""
    head = "| Family | " + " | ".join(stage.traits.title for stage in TABLE_STAGES) + " |"
    lines = [head, "|---" * (len(TABLE_STAGES) + 1) + "|"]
    for family, cells in _by_family(outlook).items():
        texts = [_markdown_cell(cells.get(stage), outlook) for stage in TABLE_STAGES]
        lines.append(f"| {title(family)} | " + " | ".join(texts) + " |")
    legend = "mIoU on the validation split in % / epochs / total parameters. **Bold**: the winner."
    return "\n".join([*lines, "", legend])


def latex_table(outlook: Outlook) -> str:
    """The same as a LaTeX tabular (needs booktabs)."""
    lines = [
        r"\begin{tabular}{l" + "rr" * len(TABLE_STAGES) + "}",
        r"\toprule",
        "Family & " + " & ".join(rf"\multicolumn{{2}}{{c}}{{{stage.traits.title}}}" for stage in TABLE_STAGES) + r" \\",
        " & " + " & ".join(["mIoU & Params"] * len(TABLE_STAGES)) + r" \\",
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
            parts.append(f"{100 * result.miou:.2f} & {short_count(result.num_parameters_total)}")
        name = title(family).replace("_", r"\_")
        lines.append(f"{name} & " + " & ".join(parts) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def tests_csv(outlook: Outlook) -> str:
    """Each family's final network on the test split."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("family", "split", "miou", "one_class_miou", "task"))
    for family, entrant in outlook.tests.items():
        result = entrant.result
        writer.writerow((family, entrant.task.data.validation, f"{result.miou:.6f}", f"{result.one_class_miou:.6f}", entrant.key))
    return stream.getvalue()


def short_count(count: int) -> str:
    """A count of parameters with three digits, as the paper prints it.

    Example:
        >>> short_count(6_942_117), short_count(18_408_758), short_count(869)
        ('6.94M', '18.4M', '869')
    """
    for size, suffix in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            value = count / size
            return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f}{suffix}"
    return str(count)


def _as_data(row: Standing) -> dict[str, Any]:
    result = row.entrant.result
    return {
        "family": row.family,
        "stage": row.stage.value,
        "miou": round(result.miou, 6),
        "epochs": result.epochs,
        "num_parameters_total": result.num_parameters_total,
        "num_parameters_network": result.num_parameters_network,
        "num_parameters_deploy": result.num_parameters_deploy,
        "num_macs": result.num_macs,
        "seconds": round(result.seconds, 2),
        "peak_memory_bytes": result.peak_memory_bytes,
        "seed": row.entrant.task.seed,
        "task": row.entrant.key,
    }


def _by_family(outlook: Outlook) -> dict[str, dict[Stage, Standing]]:
    table: dict[str, dict[Stage, Standing]] = {}
    for row in outlook.rows:
        table.setdefault(row.family, {})[row.stage] = row
    return table


def _markdown_cell(row: Standing | None, outlook: Outlook) -> str:
    if row is None:
        return "-"
    result = row.entrant.result
    text = f"{100 * result.miou:.2f} / {result.epochs} / {short_count(result.num_parameters_total)}"
    is_winner = row.stage is TABLE_STAGES[-1] and outlook.winner is not None and row.entrant.key == outlook.winner.key
    return f"**{text}**" if is_winner else text
