"""Holds the metadata of an unpacked bundle against the RO-Crate validator and Croissant's own; runs in an environment of its own.

    .validators/bin/python tests/validate_crate.py FOLDER

The two JSON-LD contexts that a crate names are not fetched; the terms that our crates use are written down here instead. Prints
what is wrong as JSON, profile by profile.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import mlcroissant
import rdflib.plugins.shared.jsonld.context as jsonld_context
import rdflib.plugins.shared.jsonld.util as jsonld_util
from rocrate_validator import models, services
from rocrate_validator.utils import http

PROFILES = ("ro-crate-1.1", "process-run-crate-0.5", "workflow-run-crate-0.5")
SCHEMA = "http://schema.org/"
NAMES = """
about actionStatus agent contentSize CreateAction CreativeWork ComputerLanguage datePublished Dataset description encodingFormat
endTime error hasPart instrument license mainEntity mentions name object programmingLanguage result SoftwareApplication
SoftwareSourceCode softwareVersion url version
"""
TERMS = {name: SCHEMA + name for name in NAMES.split()} | {
    "File": SCHEMA + "MediaObject",
    "conformsTo": "http://purl.org/dc/terms/conformsTo",
    "ComputationalWorkflow": "https://bioschemas.org/ComputationalWorkflow",
}
CONTEXT = {"@context": TERMS}
NAMED = "https://w3id.org/ro/"


class Answer:
    """What a server would say that is asked for one of the contexts."""

    status_code, ok, text = 200, True, json.dumps(CONTEXT)
    headers = {"Content-Type": "application/ld+json"}  # noqa: RUF012
    content = text.encode()

    def json(self) -> Any:
        return CONTEXT

    def raise_for_status(self) -> None: ...


def without_network() -> None:
    """Has both libraries take the contexts from here."""
    read, look_up = jsonld_util.source_to_json, http.HttpRequester.__getattr__

    def source_to_json(source: Any, *rest: Any, **more: Any) -> Any:
        return (CONTEXT, None) if str(source).startswith(NAMED) else read(source, *rest, **more)

    def attribute(self: Any, name: str) -> Any:
        found = look_up(self, name)
        return (lambda url, *r, **m: Answer() if str(url).startswith(NAMED) else found(url, *r, **m)) if name == "get" else found

    jsonld_util.source_to_json = jsonld_context.source_to_json = source_to_json
    http.HttpRequester.__getattr__ = attribute


def issues(folder: Path) -> dict[str, list[str]]:
    """What is wrong, by profile; and with the Croissant."""
    found = {}
    for profile in PROFILES:
        asked = services.ValidationSettings(
            rocrate_uri=str(folder), profile_identifier=profile, requirement_severity=models.Severity.REQUIRED, offline=True
        )
        found[profile] = [str(issue.message) for issue in services.validate(asked).get_issues()]
    dataset = mlcroissant.Dataset(jsonld=str(folder / "croissant.json"))
    found["croissant"] = sorted(dataset.metadata.issues.errors)
    return found


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    without_network()
    print(json.dumps(issues(Path(sys.argv[1]))))
