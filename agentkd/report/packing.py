"""Which files of a run go into a bundle, and what is written besides."""

import contextlib
import json
import re
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from agentkd.artifacts import recordings
from agentkd.artifacts.bundle import Written, may_be_in, write_zip
from agentkd.artifacts.history import History
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.lineage import trace_back
from agentkd.artifacts.listings import DATA, noted_artifacts
from agentkd.artifacts.making import made_of
from agentkd.artifacts.own_code import listed
from agentkd.artifacts.run_folder import RunFolder
from agentkd.artifacts.run_places import PACKED
from agentkd.artifacts.verification import LEFT_OUT
from agentkd.coordinator import data_places, own_parts
from agentkd.coordinator.run import read_run
from agentkd.datasets.opening import Opened, open_again, own_names
from agentkd.errors import AgentKDError, ConfigError, DatasetError
from agentkd.names import NO_DIGEST, Digest
from agentkd.pipeline.own import OwnParts
from agentkd.report import crate
from agentkd.report.cards import card
from agentkd.task import RUNS_CODE, TAUGHT_BY_CODE, Evaluate
from agentkd.visible import visible_line

Choice = Literal["all", "winners", "records"]
PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}==[A-Za-z0-9.+!_-]{1,100}")
LICENSE = "No license is stated; ask whoever made this run before handing it on."


def write_bundle(folder: RunFolder, out: Path, artifacts: str = "all", license_text: str = LICENSE) -> Written:
    """Packs a run, finished or not; it may be under way.

    Args:
        folder: the run.
        out: the file to write.
        artifacts: ``all``; ``winners``, those that the final networks come from; ``records``, none but own code.
        license_text: under which the results are handed on.

    Raises:
        ConfigError: no such choice.
        ArtifactError: the folder holds no run, or something that is not its own.
        StorageError: the bundle cannot be written.
    """
    if artifacts not in get_args(Choice):
        raise ConfigError(f"--artifacts {artifacts!r}: expected {', '.join(get_args(Choice))}")
    with (
        tempfile.TemporaryDirectory(prefix="agentkd-bundle-") as scratch,
        Journal(folder.must_exist().must_be_its_own(alone=PACKED).journal, read_only=True) as journal,
        made_of(folder.place, "bundle"),
    ):
        history = History(journal.records())
        noted = noted_artifacts(journal)
        held = {digest for digest in (*_referenced(folder, history.by_task.values()), *noted) if digest in folder.store}
        finals = final_networks(folder, history)
        kept = _chosen(cast(Choice, artifacts), folder, history, finals, held)
        copy = Path(scratch) / "journal.sqlite"
        journal.copy_to(copy, **{LEFT_OUT: sorted(held - kept), data_places.PLACES: {}})
        last: dict[str, Any] = journal.last_sitting()
        files: dict[str, Path | bytes] = {"journal.sqlite": copy}
        files |= {f"artifacts/{digest[:2]}/{digest}.safetensors": folder.store.path(digest) for digest in kept}
        reported = {f"report/{path.name}": path for path in sorted(folder.report.glob("*"))}
        plain = {folder.experiment.name: folder.experiment} | reported
        files |= {name: path for name, path in plain.items() if path.is_file() and not path.is_symlink() and may_be_in(name)}
        files["environment.txt"] = _lock(last).encode()
        data = _dataset(history, own_parts.noted(journal))
        if data is not None:
            files["croissant.json"] = _json(crate.croissant(data))
        known = data or journal.get_meta(DATA, data_places.NotedData)
        code = listed((record.task for record in history.by_task.values()), folder.store)
        for record in finals:
            classes, heads = _told_apart(record, folder, known)
            files[f"cards/{record.result.weights[:12]}.md"] = card(record, history, classes, code, heads).encode()
        sizes = {name: len(body) if isinstance(body, bytes) else body.stat().st_size for name, body in files.items()}
        files["ro-crate-metadata.json"] = _json(crate.crate(folder.place.name, history, sizes, last, license_text))
        carried = tuple(one for one in code if one.digest in kept)
        return replace(write_zip(files, out), num_left_out=len(held - kept), code=carried)


def _told_apart(
    record: Record, folder: RunFolder, known: Opened | data_places.NotedData | None
) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """The classes of a network, and those of each of its heads: as its weights say, or of the run's data if it learned those."""
    from agentkd.knowledge.weights import WeightsMetadata, read_metadata  # needs torch, which not all that is packed does

    weights, network = record.result.weights, record.task.architecture
    said = WeightsMetadata()
    with contextlib.suppress(AgentKDError):  # they are not here any more, or nothing that can be read: the card goes without
        said = read_metadata(folder.store.get(weights))
    digest = known.digest if isinstance(known, Opened) else known.content_digest if known else NO_DIGEST
    its_own = known.classes if known is not None and digest == record.task.data.content_digest else ()
    return said.classes_of(network) or its_own, {name: tuple(classes) for name, classes in said.heads.items()}


def final_networks(folder: RunFolder, history: History) -> list[Record]:
    """What a run ends with: of an experiment what each family goes on as, else the networks that nothing was made from.

    So it is too for a run with own families of a version that did not note what these are.
    """
    with Journal(folder.journal, read_only=True) as journal:
        is_experiment = journal.get_meta("experiment") is not None
        is_known = not is_experiment or own_parts.is_noted(journal)
    if is_experiment and is_known:
        _, _, outlook, opened = read_run(folder)
        with opened:
            ends = {row.family: row.entrant.key for row in outlook.rows}
        return [history.by_task[key] for key in dict.fromkeys(ends.values())]
    trained = [record for record in history.by_task.values() if record.result.weights]
    used = {digest for record in trained for _, digest in record.task.references()}
    return [record for record in trained if record.result.weights not in used]


def _referenced(folder: RunFolder, records: Iterable[Record]) -> set[Digest]:
    """Every artifact that records name, with what was told in their lessons."""
    found: set[Digest] = set()
    for record in records:
        found |= {*record.result.artifacts, *(digest for _, digest in record.task.references())}
        recorded = record.result.exchange.record if record.result.exchange else NO_DIGEST
        if recorded and recorded in folder.store:
            found |= recordings.pieces(recordings.read(folder.store, recorded))
    return found


def _chosen(choice: Choice, folder: RunFolder, history: History, finals: list[Record], held: set[Digest]) -> set[Digest]:
    if choice == "all":
        return held
    code = {
        d for record in history.by_task.values() for what, d in record.task.references() if what in (RUNS_CODE, TAUGHT_BY_CODE)
    }
    if choice == "records":
        return held & code  # a record says nothing without it, and it is small
    steps = [step for final in finals for step in trace_back(final.task.key, history).walk()]
    made = {step.record.task.key: step.record for step in steps if step.record}
    ends = {final.result.weights for final in finals}
    made |= {key: r for key, r in history.by_task.items() if isinstance(r.task, Evaluate) and r.task.initial_weights in ends}
    return held & (_referenced(folder, made.values()) | {step.name for step in steps} | code)


def _dataset(history: History, own: OwnParts) -> Opened | None:
    """The dataset of the run, if it is here as it was; of a user's own its outline, as its code is not to be run for this."""
    last = next(reversed(history.by_task.values()), None)
    if last is None:
        return None
    if own_names(last.task.data.spec):
        return Opened(last.task.data.spec, own.data.outline, own.data.code) if own.data else None
    try:
        opened = open_again(last.task.data.spec, NO_DIGEST)
    except DatasetError:
        return None
    return opened if opened.digest == last.task.data.content_digest else None


def _lock(provenance: dict[str, Any]) -> str:
    """The packages of the last sitting, as pip reads them, and what else was there as comments."""
    head = [f"# {name}: {provenance.get(name)}" for name in ("python", "platform", "processor", "cores", "settings")]
    packages = provenance.get("packages")
    listed = sorted(packages.items()) if isinstance(packages, dict) else []
    lines = [line for line in (f"{name}=={version}" for name, version in listed) if PACKAGE.fullmatch(line)]
    return "\n".join([*map(visible_line, head), *lines]) + "\n"


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True).encode() + b"\n"
