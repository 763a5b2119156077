"""Metadata of a bundle for other people's tools: an RO-Crate with one action a task, and a Croissant of the dataset.

Sources: RO-Crate 1.1; Process Run Crate 0.5 and Workflow Run Crate 0.5 (https://w3id.org/ro/wfrun); Croissant 1.0.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from agentkd import __version__
from agentkd.artifacts.history import History
from agentkd.artifacts.journal import Record
from agentkd.datasets.opening import Opened
from agentkd.names import Digest
from agentkd.task import RUNS_CODE, TAUGHT_BY_CODE, Status

Entity = dict[str, Any]
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
CONTEXT = ["https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/terms/workflow-run/context"]
WORKFLOW = "experiment.yaml"
CODE = (RUNS_CODE, TAUGHT_BY_CODE)
SOFTWARE = "https://pypi.org/project/agentkd/"
MEDIA = {
    ".sqlite": "application/vnd.sqlite3",
    ".json": "application/json",
    ".yaml": "application/yaml",
    ".md": "text/markdown",
    ".txt": "text/plain",
    ".html": "text/html",
    ".png": "image/png",
    ".csv": "text/csv",
    ".tex": "text/x-tex",
    ".safetensors": "application/octet-stream",
}


def crate(name: str, history: History, files: Mapping[str, int], provenance: dict[str, Any], license_text: str) -> Entity:
    """``ro-crate-metadata.json`` of a bundle.

    Args:
        name: of the run.
        history: its records.
        files: size in bytes of each file of the bundle, by name.
        provenance: of its last sitting.
        license_text: under which the results are handed on.
    """
    sizes = dict(files)
    actions = [_action(record) for record in history.by_task.values()]
    named = {part["@id"] for action in actions for part in (*action["object"], *action["result"])} & set(sizes)
    code = {_reference(digest)["@id"] for r in history.by_task.values() for what, digest in r.task.references() if what in CODE}
    plain = sorted(named | {path for path in sizes if not path.startswith("artifacts/")})
    others = sorted({path.split("/")[0] + "/" for path in sizes if path.startswith("artifacts/") and path not in named})
    last = max((record.at for record in history.by_task.values()), default="") or str(provenance.get("started_at", ""))
    root: Entity = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"{name}, a run of agentkd",
        "description": "Networks that taught each other: every task with its inputs and outputs, and the artifacts it made.",
        "datePublished": last or "1970-01-01",
        "license": {"@id": "#license"},
        "conformsTo": [{"@id": profile} for profile in PROFILES] if WORKFLOW in sizes else [{"@id": next(iter(PROFILES))}],
        "hasPart": [{"@id": path} for path in (*plain, *others)],
        "mentions": [{"@id": action["@id"]} for action in actions],
    }
    graph: list[Entity] = [
        {
            "@id": "ro-crate-metadata.json",
            "@type": "CreativeWork",
            "conformsTo": [
                {"@id": "https://w3id.org/ro/crate/1.1"},
                *([{"@id": "https://w3id.org/workflowhub/workflow-ro-crate/1.0"}] if WORKFLOW in sizes else []),
            ],
            "about": {"@id": "./"},
        },
        root,
        {"@id": "#license", "@type": "CreativeWork", "name": license_text, "description": license_text},
        *({"@id": p, "@type": "CreativeWork", "name": title, "version": p.rsplit("/", 1)[1]} for p, title in PROFILES.items()),
        {
            "@id": SOFTWARE,
            "@type": "SoftwareApplication",
            "name": "agentkd",
            "url": SOFTWARE,
            "version": __version__,
            "softwareVersion": _commit(provenance),
        },
        *(_source_code(path, sizes[path]) if path in code else _file(path, sizes[path]) for path in plain if path != WORKFLOW),
        *({"@id": folder, "@type": "Dataset", "name": "what networks told each other"} for folder in others),
        *(_outside(actions, set(sizes))),
        *actions,
    ]
    if WORKFLOW in sizes:
        root["mainEntity"] = {"@id": WORKFLOW}
        graph += _workflow(sizes[WORKFLOW])
        graph.append(_whole_run(name, last, sizes))
        root["mentions"].append({"@id": "#run"})
    return {"@context": CONTEXT, "@graph": graph}


def croissant(data: Opened) -> Entity:
    """Metadata of a dataset: what it is called, its classes, the sizes of its splits, and the digest of its content."""
    classes = [{"classes/number": number, "classes/name": name} for number, name in enumerate(data.classes)]
    splits = [{"splits/name": name, "splits/images": len(indices)} for name, indices in data.splits.items()]
    return {
        "@context": _CROISSANT_CONTEXT,
        "@type": "sc:Dataset",
        "name": data.name.replace(":", " "),
        "description": f"Opened as {data.spec}; content digest (SHA-256) {data.digest}. The images are not part of the bundle.",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "url": f"urn:sha256:{data.digest}",
        "license": "see the dataset's own terms",
        "version": "1.0.0",
        "datePublished": "1970-01-01",
        "citeAs": data.spec,
        "distribution": [],
        "recordSet": [
            _records("classes", {"number": "sc:Integer", "name": "sc:Text"}, classes),
            _records("splits", {"name": "sc:Text", "images": "sc:Integer"}, splits),
        ],
    }


def _records(name: str, fields: dict[str, str], rows: list[Entity]) -> Entity:
    listed = [
        {"@type": "cr:Field", "@id": f"{name}/{field}", "name": f"{name}/{field}", "dataType": kind}
        for field, kind in fields.items()
    ]
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "field": listed, "data": rows}


def _commit(provenance: dict[str, Any]) -> str:
    """Of the code that ran; of a release its version."""
    checkout = provenance.get("code")
    return str(checkout.get("commit", __version__)) if isinstance(checkout, dict) else __version__


def _action(record: Record) -> Entity:
    """One task as something that was done: from what, with what, to what end."""
    task, result = record.task, record.result
    failed = result.status is Status.FAILED
    action: Entity = {
        "@id": f"#task-{task.key}",
        "@type": "CreateAction",
        "name": record.label or str(task.kind),
        "description": f"{task.kind} in attempt {record.attempts}, {result.seconds:.1f} s; task {task.key}",
        "instrument": {"@id": SOFTWARE},
        "agent": {"@id": SOFTWARE},
        "object": [_reference(digest) for _, digest in dict.fromkeys(task.references())],
        "result": [] if failed else [_reference(digest) for digest in result.artifacts],
        "actionStatus": {"@id": f"http://schema.org/{'FailedActionStatus' if failed else 'CompletedActionStatus'}"},
    }
    if record.at:
        action["endTime"] = record.at
    if failed:
        action["error"] = f"{result.error_code}: {result.error_text}"
    return action


def _whole_run(name: str, last: str, sizes: Mapping[str, int]) -> Entity:
    tables = [path for path in ("report/table.csv", "report/table.md", "journal.sqlite") if path in sizes]
    action: Entity = {
        "@id": "#run",
        "@type": "CreateAction",
        "name": f"run of {name}",
        "instrument": {"@id": WORKFLOW},
        "agent": {"@id": SOFTWARE},
        "object": [],
        "result": [{"@id": path} for path in tables],
        "actionStatus": {"@id": "http://schema.org/CompletedActionStatus"},
    }
    return action | ({"endTime": last} if last else {})


def _workflow(size: int) -> list[Entity]:
    return [
        {
            "@id": WORKFLOW,
            "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow"],
            "name": "the experiment",
            "contentSize": str(size),
            "encodingFormat": MEDIA[".yaml"],
            "license": {"@id": "#license"},
            "programmingLanguage": {"@id": "#experiment-file"},
        },
        {
            "@id": "#experiment-file",
            "@type": "ComputerLanguage",
            "name": "agentkd experiment file",
            "url": SOFTWARE,
        },
    ]


def _reference(digest: Digest) -> Entity:
    return {"@id": f"artifacts/{digest[:2]}/{digest}.safetensors"}


def _outside(actions: Iterable[Entity], present: set[str]) -> list[Entity]:
    """Artifacts that actions name and that are not in the bundle: they are known by their digest alone."""
    missing: dict[str, None] = {}
    for action in actions:
        for role in ("object", "result"):
            for part in action[role]:
                if part["@id"] not in present:
                    part["@id"] = "urn:sha256:" + part["@id"].rsplit("/", 1)[1].removesuffix(".safetensors")
                    missing[part["@id"]] = None
    return [{"@id": name, "@type": "CreativeWork", "name": "an artifact that is not in this bundle"} for name in missing]


def _source_code(path: str, size: int) -> Entity:
    return _file(path, size) | {"@type": ["File", "SoftwareSourceCode"], "encodingFormat": MEDIA[".json"]}


def _file(path: str, size: int) -> Entity:
    suffix = path[path.rfind(".") :]
    return {
        "@id": path,
        "@type": "File",
        "name": path.rsplit("/", 1)[-1],
        "contentSize": str(size),
        "encodingFormat": MEDIA.get(suffix, "application/octet-stream"),
    }


_CROISSANT_CONTEXT: Entity = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
