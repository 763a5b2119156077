"""Artifacts that a run's notes name and no record: pretrained weights, and the lists of the files of its data."""

from typing import Any

from agentkd.artifacts.journal import Journal
from agentkd.names import Digest

DATA, EARLIER, PRETRAINED = "data", "earlier", "pretrained"
"""Where a journal notes what the data of an experiment are, which states it was in before, and what weights it began with."""
SUGGESTED = "suggested:"
"""Under which prefix it notes what samplers suggested."""


def noted_artifacts(journal: Journal) -> set[Digest]:
    """Their digests, of the present state of the run's experiment and of those before.

    Raises:
        ArtifactError: what is noted cannot be read.
    """
    states: list[dict[str, Any]] = list(journal.get_meta(EARLIER, list[dict[str, Any]]) or ())
    found: set[Digest] = set((journal.get_meta(PRETRAINED, dict[str, Digest]) or {}).values())
    for data in (journal.get_meta(DATA, dict[str, Any]), *(state.get(DATA) for state in states)):
        listed = data.get("files") if isinstance(data, dict) else None
        found |= {Digest(listed)} if isinstance(listed, str) and listed else set()
    return found
