"""A page of a report: one file that needs no other, and what is written beside it."""

import base64
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from agentkd import __version__
from agentkd.artifacts.run_folder import RunFolder
from agentkd.artifacts.run_places import WRITTEN, must_lead_somewhere
from agentkd.durable import write_whole
from agentkd.errors import StorageError
from agentkd.report.drawing import Drawing
from agentkd.task import TaskResult
from agentkd.visible import visible


def rendered(template: str, drawings: Mapping[str, Drawing], results: Iterable[TaskResult], **told: Any) -> str:
    """A page from a template, with its figures within it, a list of its headings, what it cost and where it was made.

    Args:
        template: its file in ``data``.
        drawings: by the names that the template has for them.
        results: of all recorded tasks.
        told: what else the template is to know.
    """
    environment = Environment(
        loader=PackageLoader("agentkd.report", "data"), autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    known = list(results)
    page = environment.get_template(template).render(
        version=__version__,
        images={name: [base64.b64encode(png).decode() for png in (one.light, one.dark)] for name, one in drawings.items()},
        ledger=_ledger(known),
        environment=next((dict(r.environment) for r in known if r.environment), {}),
        host=f"{platform.system()} {platform.machine()}",
        percent=_percent,
        **told,
    )
    return page.replace("<!-- contents -->", _contents(page), 1)


def save(folder: RunFolder, place: Path, drawings: Mapping[str, Drawing | None], texts: Mapping[str, str]) -> Path:
    """Writes a report into a folder; returns the page.

    Raises:
        ArtifactError: the folder of the run holds something of somebody else.
        StorageError: it cannot be written.
    """
    must_lead_somewhere(place)
    if place == folder.report:
        folder.must_be_its_own(alone=WRITTEN)
    try:
        place.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_whole(place / name, text.encode())
        for name, drawing in drawings.items():
            if drawing:
                write_whole(place / f"{name}.png", drawing.light)
    except OSError as error:
        raise StorageError.of(place, error) from error
    return place / "report.html"


def _contents(page: str) -> str:
    """A list of the page's headings, each of which leads there."""
    found = re.findall(r'<h2 id="([a-z-]+)">([^<]+)</h2>', page)
    items = "".join(f'<li><a href="#{place}">{name}</a></li>\n' for place, name in found)
    return f'<nav aria-label="contents"><ul>\n{items}</ul></nav>'


def _percent(score: float | None) -> str:
    return "-" if score is None else f"{100 * score:.2f} %"


def _shown(value: object) -> object:
    return visible(value) if type(value) is str else value  # what is markup already has been shown


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
