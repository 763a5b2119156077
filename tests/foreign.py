"""Runs and bundles of somebody who means harm: a small honest run, what is done to it, and everybody who reads one.

An attack changes the honest run in place. What it must come to is said beside it, in ``unit/test_foreign.py``.
"""

import contextlib
import json
import shutil
import sqlite3
import struct
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments import SPEC

from agentkd import canonical
from agentkd.architecture import Architecture
from agentkd.artifacts import recordings
from agentkd.artifacts.comparison import compare
from agentkd.artifacts.garbage import find_garbage
from agentkd.artifacts.history import read_history, read_losses, read_recordings
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.lineage import as_data, describe, trace_back
from agentkd.artifacts.own_code import listed
from agentkd.artifacts.recordings import Told
from agentkd.artifacts.run_folder import RunFolder
from agentkd.artifacts.verification import verify
from agentkd.config import check_experiment, dump_experiment
from agentkd.datasets.opening import open_dataset
from agentkd.errors import AgentKDError, ArtifactError
from agentkd.recipe import Distillation
from agentkd.replay.perform import ReplayOptions, what_runs
from agentkd.report.export import export
from agentkd.report.packing import write_bundle
from agentkd.report.write import write_report
from agentkd.task import DataSource, Distill, EpochResult, ExchangeSummary, Status, TaskResult, TeacherReference, Train
from agentkd.watch.board import as_text
from agentkd.watch.watching import Watching

NETWORK = Architecture(family="unet", num_classes=5)
PAGE = 4096
SOON_S = 20.0


def source() -> DataSource:
    return DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest)


def honest_run(place: Path) -> RunFolder:
    """A network, a student that it taught, the lesson recorded, and the experiment that they were for."""
    folder = RunFolder(place)
    put = folder.store.put
    experiment = check_experiment({"name": "honest", "data": {"dataset": SPEC}, "families": ["unet"]}, source="here")
    with Journal(folder.journal) as journal:
        journal.set_meta("experiment", experiment.canonical())
        journal.set_meta("pretrained", {})
        journal.begin_sitting({"started_at": "2026-01-01T00:00:00Z", "packages": {"torch": "2"}, "code": {"commit": "c" * 40}})
        teacher = put(b"the teacher's weights" * 40)
        epochs = tuple(EpochResult(epoch=number, loss=1 / number, miou=0.1 * number, seconds=1) for number in (1, 2))
        trained = TaskResult(status=Status.COMPLETED, weights=teacher, miou=0.5, history=epochs)
        journal.commit(Record(Train(architecture=NETWORK, data=source()), trained, "agent-1", 1, "a training"))
        pieces = [put(f"what was told in step {step}".encode() * 9) for step in range(3)]
        told = [Told(teacher, step, "ab" * 32, piece, 9, 0.1) for step, piece in enumerate(pieces)]
        exchange = ExchangeSummary(requests=3, record=put(recordings.encode(told)))
        reference = TeacherReference(architecture=NETWORK, weights=teacher)
        lesson = Distill(architecture=NETWORK, data=source(), teachers=(reference,), distillation=Distillation())
        taught = TaskResult(status=Status.COMPLETED, weights=put(b"the student's" * 40), miou=0.6, epochs=3, exchange=exchange)
        journal.commit(Record(lesson, taught, "agent-2", 2, "a lesson", ((teacher, "agent-1"),)))
    folder.experiment.write_text(dump_experiment(experiment), encoding="utf-8")
    folder.report.mkdir()
    (folder.report / "table.md").write_text("| a | table |\n", encoding="utf-8")
    return folder


def copied(folder: RunFolder, place: Path) -> RunFolder:
    shutil.copytree(folder.place, place)
    return RunFolder(place)


def _trace_all(folder: RunFolder) -> None:
    history = read_history(folder)
    listed((record.task for record in history.by_task.values()), folder.store)
    for key in list(history.by_task)[:5] + list(history.by_task)[-2:]:
        root = trace_back(key, history)
        json.dumps(as_data(root))
        for step in root.walk():
            describe(step)


def _losses(folder: RunFolder) -> None:
    for record in read_history(folder).by_task.values():
        if record.result.trace:
            read_losses(folder.store.get(record.result.trace))


def _watch(folder: RunFolder) -> None:
    watching = Watching(folder.must_be_its_own())  # as whoever serves it
    watching.look()
    watching.judge()
    watching.look()
    as_text(watching.board.whole())
    watching.pictures()


def _export(folder: RunFolder) -> None:
    export(folder, folder.place.with_name("exported"), "tensorboard")


READERS: dict[str, Callable[[RunFolder], object]] = {
    "history": read_history,
    "recordings": read_recordings,
    "gc": find_garbage,
    "diff": lambda folder: compare(folder, folder),
    "lineage": _trace_all,
    "export": _export,
    "losses": _losses,
    "replay": lambda folder: what_runs(folder, ReplayOptions()),
    "bundle": lambda folder: write_bundle(folder, folder.place.with_name("made.zip")),
    "report": write_report,
    "watch": _watch,
}
"""Everybody who reads a run, besides ``verify`` and ``import``."""


def refusal(folder: RunFolder) -> str:
    """What verify says against a run, in whichever way."""
    began = time.monotonic()
    try:
        said = "\n".join(map(str, verify(folder).problems))
    except ArtifactError as error:
        said = str(error)
    assert time.monotonic() - began < SOON_S
    return said


def everybody_ends(folder: RunFolder, *, refused_by: tuple[str, ...] = ()) -> None:
    """Whoever reads the run comes to an end, with a typed error if with any."""
    for name, read in READERS.items():
        began, is_refused = time.monotonic(), False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read(folder)
            except AgentKDError as error:
                is_refused = True
                assert len(str(error)) < 3000, name
        assert time.monotonic() - began < SOON_S, name
        assert is_refused or name not in refused_by, f"{name} took it"


def execute(folder: RunFolder, *statements: str, given: tuple[Any, ...] = ()) -> None:
    """Statements on a journal, which may change its schema as they like."""
    with contextlib.closing(sqlite3.connect(folder.journal, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("PRAGMA writable_schema=ON")
        for statement in statements:
            connection.execute(statement, given if "?" in statement else ())


def chain_anew(folder: RunFolder) -> None:
    """Gives every record the key and the digest that fit what it says now: whoever changes a record can do that too."""
    with contextlib.closing(sqlite3.connect(folder.journal, isolation_level=None)) as connection:
        provenance = dict(connection.execute("SELECT number, provenance FROM sittings"))
        previous = ""
        rows = connection.execute(
            "SELECT number, inputs, outputs, circumstances, sitting FROM records ORDER BY number"
        ).fetchall()
        for number, inputs, outputs, circumstances, sitting in rows:
            previous = canonical.digest([previous, inputs, outputs, circumstances, provenance.get(sitting)])
            key = canonical.digest_bytes(inputs.encode(errors="replace"))
            connection.execute("UPDATE records SET task = ?, digest = ? WHERE number = ?", (key, previous, number))


def change(folder: RunFolder, column: str, make: Callable[[Any], Any], number: int = 1) -> None:
    """Changes what a record says in one of its three texts; the chain fits again afterwards."""
    with contextlib.closing(sqlite3.connect(folder.journal)) as connection:
        (text,) = connection.execute(f"SELECT {column} FROM records WHERE number = ?", (number,)).fetchone()
    made = make(json.loads(text))
    said = made if isinstance(made, str) else json.dumps(made, sort_keys=True, separators=(",", ":"))
    execute(folder, f"UPDATE records SET {column} = ? WHERE number = {number}", given=(said,))
    with contextlib.suppress(ValueError, UnicodeEncodeError, sqlite3.IntegrityError):  # two records may say the same now
        chain_anew(folder)


def pages_of(folder: RunFolder, table: str) -> tuple[bytearray, list[int]]:
    """A journal's file, and where the cells of a table's first page begin."""
    with contextlib.closing(sqlite3.connect(folder.journal)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    data = bytearray(folder.journal.read_bytes())
    start = (root - 1) * PAGE
    header = 12 if data[start] == 5 else 8
    (count,) = struct.unpack_from(">H", data, start + 3)
    return data, [start + at for at in struct.unpack_from(f">{count}H", data, start + header)]


def varint(data: bytes | bytearray, at: int) -> tuple[int, int]:
    value = 0
    for index in range(9):
        value = value << 7 | data[at + index] & 127
        if data[at + index] < 128:
            return value, at + index + 1
    return value, at + 9


def zip_of(out: Path, files: dict[str, bytes], **fields: Any) -> None:
    """A zip in a bundle's form but for what is said of its entries, with a manifest that fits."""
    manifest = "".join(f"{canonical.digest_bytes(data)}  {name}\n" for name, data in sorted(files.items()))
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in sorted({**files, "manifest-sha256.txt": manifest.encode()}.items()):
            info = zipfile.ZipInfo(name)
            info.external_attr, info.create_system = 0o100644 << 16, 3
            for field, value in fields.items():
                setattr(info, field, value)
            archive.writestr(info, data)
