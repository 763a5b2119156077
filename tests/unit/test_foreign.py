"""A run or a bundle of somebody who means harm: every kind of attack ends in a typed refusal that says where, and soon."""

import json
import math
import os
import re
import shutil
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign import (
    NETWORK,
    PAGE,
    change,
    copied,
    everybody_ends,
    execute,
    honest_run,
    pages_of,
    refusal,
    source,
    varint,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save
from typer.testing import CliRunner

from agentkd import canonical
from agentkd.artifacts import recordings
from agentkd.artifacts.history import History
from agentkd.artifacts.journal import SCHEMA, Journal, Record
from agentkd.artifacts.lineage import as_data, trace_back
from agentkd.artifacts.run_folder import RunFolder
from agentkd.cli import app
from agentkd.errors import ArtifactError
from agentkd.plain import MAX_JSON, read_json, read_yaml
from agentkd.report.cards import card
from agentkd.report.descent import descent_figure
from agentkd.task import Average, Status, TaskResult, TeacherReference, Train

Attack = Callable[[RunFolder], None]
RECURSIVE = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT"
COLUMNS = "x AS number, 'a' AS task, 'b' AS inputs, 'c' AS outputs, 'd' AS circumstances, 1 AS sitting, x AS digest"


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return honest_run(tmp_path_factory.mktemp("honest") / "run")


BESIDE: dict[str, tuple[Attack, str]] = {
    "a folder for its journal": (lambda folder: beside(folder, "-journal").mkdir(), "-journal is a folder"),
    "a folder for its newest pages": (lambda folder: beside(folder, "-wal").mkdir(), "-wal is a folder"),
    "a link for its newest pages": (lambda folder: beside(folder, "-wal").symlink_to("/dev/zero"), "-wal is a link"),
    "a folder for its memory": (lambda folder: beside(folder, "-shm").mkdir(), "-shm is a folder"),
}


def shared_pages(table: str) -> Attack:
    """A tree whose every branch is the same, down to one leaf: a few pages, and more rows than anybody can read."""

    def attack(folder: RunFolder) -> None:
        execute(folder, "INSERT INTO asks VALUES ('unet', 1, '[]')")
        data, _ = pages_of(folder, table)
        root = root_of(folder, table)
        data += data[(root - 1) * PAGE : root * PAGE]
        for level in range(6):
            child = struct.pack(">I", len(data) // PAGE)
            cells = [child + bytes([0x81 + (key >> 7), key & 127]) for key in range(300)]
            page = bytearray(PAGE)
            page[0], page[3:5], page[5:7], page[8:12] = 5, struct.pack(">H", 300), struct.pack(">H", PAGE - 1800), child
            for number, cell in enumerate(cells):
                at = PAGE - 6 * (number + 1)
                page[at : at + 6] = cell
                struct.pack_into(">H", page, 12 + 2 * number, at)
            if level < 5:
                data += page
            else:
                data[(root - 1) * PAGE : root * PAGE] = page
        data[28:32] = struct.pack(">I", len(data) // PAGE)
        folder.journal.write_bytes(data)

    return attack


def shared_text(folder: RunFolder) -> None:
    """Records whose long texts all stand in the same pages."""
    with sqlite3.connect(folder.journal) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("DELETE FROM records")
        connection.executemany(
            "INSERT INTO records (task, inputs, outputs, circumstances, sitting, digest) VALUES (?, ?, '{}', '{}', 1, ?)",
            [(f"{n:064}", " " * (3_000_000 if n == 0 else 3_000), f"{n:064}") for n in range(400)],
        )
    connection.close()
    data, _ = pages_of(folder, "records")
    first = b""
    for start in range(0, len(data), PAGE):
        if data[start] != 13:
            continue
        (count,) = struct.unpack_from(">H", data, start + 3)
        for at in struct.unpack_from(f">{count}H", data, start + 8):
            size, after = varint(data, start + at)
            _, body = varint(data, after)
            minimum = (PAGE - 12) * 32 // 255 - 23
            local = minimum + (size - minimum) % (PAGE - 4)
            local = local if local <= PAGE - 35 else minimum
            if size > 2_000_000:
                first = bytes(data[start + at : body + local + 4])
    assert first
    leaf = bytearray(PAGE)
    fits = (PAGE - 8) // (len(first) + 4)
    leaf[0], leaf[3:5] = 13, struct.pack(">H", fits)
    for number in range(fits):
        at = PAGE - (number + 1) * (len(first) + 1)
        size, after = varint(first, 0)
        _, body = varint(first, after)
        cell = first[:after] + bytes([0x81, number]) + first[body:]
        leaf[at : at + len(cell)] = cell
        struct.pack_into(">H", leaf, 8 + 2 * number, at)
    struct.pack_into(">H", leaf, 5, PAGE - fits * (len(first) + 1))
    root = root_of(folder, "records")
    data[(root - 1) * PAGE : root * PAGE] = leaf
    folder.journal.write_bytes(data)


def root_of(folder: RunFolder, table: str) -> int:
    with sqlite3.connect(folder.journal) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    connection.close()
    return int(root)


def in_utf16(folder: RunFolder) -> None:
    folder.journal.unlink()
    with sqlite3.connect(folder.journal) as connection:
        connection.execute("PRAGMA encoding = 'UTF-16le'")
        connection.executescript(SCHEMA)
        connection.execute("INSERT INTO meta VALUES ('schema_version', '2')")
    connection.close()


def many_tables(folder: RunFolder) -> None:
    root, count = root_of(folder, "asks"), 100_000
    values = (
        f"WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < {count}) SELECT 'table', 't' || x, 't' || x"
    )
    execute(folder, f"INSERT INTO sqlite_master {values}, {root}, 'CREATE TABLE t' || x || ' (y)' FROM c")


def many_rows(folder: RunFolder) -> None:
    with sqlite3.connect(folder.journal) as connection:
        rows = ((f"{n:064}", "[]", f"{n:064}") for n in range(200_000))
        connection.executemany(
            "INSERT INTO records (task, inputs, outputs, circumstances, sitting, digest) VALUES (?, ?, '{}', '{}', 1, ?)", rows
        )
    connection.close()


def foreign_log(folder: RunFolder) -> None:
    """A log beside the file, which the next reader takes for its newest pages."""
    execute(folder, "SELECT 1")
    connection = sqlite3.connect(folder.journal)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TRIGGER t AFTER INSERT ON meta BEGIN DELETE FROM records; END")
    connection.commit()
    kept = {path.name: path.read_bytes() for path in folder.place.glob("journal.sqlite*")}
    connection.close()
    for name in ("journal.sqlite", "journal.sqlite-wal"):
        (folder.place / name).write_bytes(kept[name])


def retyped(column: str, value: str) -> Callable[[RunFolder], None]:
    """A value of another kind than the table allows."""

    def attack(folder: RunFolder) -> None:
        plain = "replace(replace(replace(sql, 'STRICT', ''), 'NOT NULL', 'NULL'), ' TEXT ', ' ')"
        strict = f"UPDATE sqlite_master SET sql = {plain} WHERE name = 'records'"
        kept = "SELECT sql FROM sqlite_master WHERE name = 'records'"
        with sqlite3.connect(folder.journal) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
            (sql,) = connection.execute(kept).fetchone()
        connection.close()
        execute(folder, strict)
        execute(folder, f"UPDATE records SET {column} = {value} WHERE number = 1")
        execute(folder, "UPDATE sqlite_master SET sql = ? WHERE name = 'records'", given=(sql,))

    return attack


def statement(*statements: str) -> Callable[[RunFolder], None]:
    return lambda folder: execute(folder, *statements)


def beside(folder: RunFolder, suffix: str) -> Path:
    return folder.journal.with_name(folder.journal.name + suffix)


def meta(key: str, text: str) -> Callable[[RunFolder], None]:
    return lambda folder: execute(folder, f"INSERT OR REPLACE INTO meta VALUES ('{key}', ?)", given=(text,))


def said(column: str, make: Callable[[Any], Any]) -> Callable[[RunFolder], None]:
    return lambda folder: change(folder, column, make)


NOT_A_JOURNAL = "other tables than a journal"
JOURNALS: dict[str, tuple[Attack, str]] = {
    "a view for a table": (
        statement("DROP TABLE records", f"CREATE VIEW records AS {RECURSIVE} {COLUMNS} FROM c"),
        NOT_A_JOURNAL,
    ),
    "a view besides": (statement(f"CREATE VIEW more AS {RECURSIVE} x FROM c"), NOT_A_JOURNAL),
    "a trigger": (statement("CREATE TRIGGER t AFTER INSERT ON meta BEGIN DELETE FROM records; END"), NOT_A_JOURNAL),
    "an index": (statement("CREATE INDEX i ON records (length(inputs))"), NOT_A_JOURNAL),
    "a computed column": (
        statement("ALTER TABLE meta ADD COLUMN x TEXT AS (hex(zeroblob(100000000)))"),
        NOT_A_JOURNAL,
    ),
    "a condition": (
        statement(
            "UPDATE sqlite_master SET sql = replace(sql, 'value TEXT', 'value TEXT CHECK (hex(zeroblob(9)) > 1)') "
            "WHERE name = 'meta'"
        ),
        NOT_A_JOURNAL,
    ),
    "a virtual table": (statement("DROP TABLE asks", "CREATE VIRTUAL TABLE asks USING fts5 (study, trial, seen)"), NOT_A_JOURNAL),
    "a virtual table besides": (statement("CREATE VIRTUAL TABLE t USING dbstat"), NOT_A_JOURNAL),
    "statistics": (statement("ANALYZE"), NOT_A_JOURNAL),
    "no tables": (lambda folder: folder.journal.write_bytes(b""), "is empty"),
    "a hundred thousand tables": (many_tables, "more steps|other tables"),
    "another encoding": (in_utf16, "not in UTF-8"),
    "a log with a trigger": (foreign_log, NOT_A_JOURNAL),
    "branches of records that are one": (shared_pages("records"), "2nd reference"),
    "branches of sittings that are one": (shared_pages("sittings"), "2nd reference"),
    "branches of asks that are one": (shared_pages("asks"), "2nd reference"),
    "pages shared by texts": (shared_text, "more than it has bytes|2nd reference|malformed"),
    "a schema that is none": (statement("UPDATE sqlite_master SET sql = 'CREATE nothing' WHERE name = 'asks'"), "malformed"),
    "half of it": (
        lambda folder: os.truncate(folder.journal, folder.journal.stat().st_size // 2 // PAGE * PAGE),
        "damaged|malformed",
    ),
    "a blob for a text": (retyped("inputs", "zeroblob(10)"), "another kind of value"),
    "a number for a text": (retyped("outputs", "7"), "another kind of value|non-TEXT"),
    "nothing for a text": (retyped("circumstances", "NULL"), "another kind of value|NULL value"),
    "a text for a number": (retyped("sitting", "'x'"), "another kind of value"),
    "text that is not UTF-8": (retyped("outputs", "CAST(x'ff' AS TEXT)"), "UTF-8"),
    "two hundred thousand rows": (many_rows, "more problems than these"),
    "an earlier sitting": (
        statement(
            "INSERT INTO sittings VALUES (9, '{}')",
            "UPDATE records SET sitting = 9 WHERE number = 1",
        ),
        "earlier sitting",
    ),
    "a sitting that is none": (statement("UPDATE sittings SET provenance = '[1]'"), "sittings: cannot be read"),
    "a sitting nested deeply": (statement(f"UPDATE sittings SET provenance = '{'[' * 5000}'"), "sittings: cannot be read"),
    "a sitting that is not there": (statement("UPDATE records SET sitting = 5"), "it was changed"),
    "left out, and no list": (meta("left_out", '{"a": 1}'), "left_out"),
    "left out, and no names": (meta("left_out", "[[]]"), "left_out"),
    "left out, nested deeply": (meta("left_out", "[" * 100_000), "left_out"),
    "a version that is none": (meta("schema_version", '{"a": NaN}'), "schema_version"),
    "another version": (meta("schema_version", '"2"'), "version"),
}
RECORDS: dict[str, tuple[Attack, str]] = {
    "no JSON": (said("outputs", lambda old: "{"), "record 1: cannot be read"),
    "a list": (said("outputs", lambda old: []), "record 1: cannot be read"),
    "nested deeply": (said("outputs", lambda old: "[" * 100_000), "nested deeper"),
    "nested deeply in a field": (said("inputs", lambda old: old | {"recipe": json.loads("[" * 80 + "]" * 80)}), "nested deeper"),
    "not a number": (said("outputs", lambda old: json.dumps(old | {"miou": math.nan})), "no finite number"),
    "infinity": (said("outputs", lambda old: json.dumps(old).replace('"miou": 0.5', '"miou": 1e999')), "no finite number"),
    "more than 64 bits": (said("outputs", lambda old: old | {"num_parameters_deploy": 10**400}), "64 bits"),
    "more digits than are read": (said("outputs", lambda old: '{"epochs": ' + "9" * 10_000 + "}"), "64 bits"),
    "a name twice": (said("outputs", lambda old: json.dumps(old)[:-1] + ', "miou": 0.9}'), "stands twice"),
    "half a character": (said("circumstances", lambda old: json.dumps(old | {"label": "\ud800"})), "surrogates"),
    "a million lists": (said("outputs", lambda old: "[" + "[]," * 1_000_001 + "[]]"), "larger than|more than"),
    "too much": (said("inputs", lambda old: json.dumps(old | {"x": "x" * 2_000_000})), "larger than a task"),
    "more than can be read": (said("outputs", lambda old: "x" * (MAX_JSON + 2**17)), "too big"),
    "an agent that is none": (said("circumstances", lambda old: old | {"agent": ["a"]}), "agent"),
    "attempts that are none": (said("circumstances", lambda old: old | {"attempts": "1"}), "attempts"),
    "a label that is none": (said("circumstances", lambda old: old | {"label": {}}), "label"),
    "teachers that are none": (said("circumstances", lambda old: old | {"teachers": [["a"]]}), "teachers"),
    "a time that is none": (said("circumstances", lambda old: old | {"at": "yesterday\n2026-01-01T00:00:00Z"}), "at: "),
    "circumstances that lack something": (said("circumstances", lambda old: {}), "agent: "),
    "circumstances that are none": (said("circumstances", lambda old: 5), "record 1: cannot be read"),
    "a kind that is none": (said("inputs", lambda old: old | {"kind": []}), "no task is of that kind"),
    "a path for weights": (said("outputs", lambda old: old | {"weights": "../../../etc/passwd"}), "which is not there"),
    "a trace that is a path": (said("outputs", lambda old: old | {"trace": "\x00/dev/zero"}), "which is not there"),
    "a dataset that goes on and on": (
        said("inputs", lambda old: old | {"data": old["data"] | {"spec": "unlabelled:" * 5_000 + "camvid"}}),
        "",
    ),
}


@pytest.mark.parametrize(("attack", "text"), JOURNALS.values(), ids=JOURNALS)
def test_a_journal_that_does_harm_is_refused(honest: RunFolder, tmp_path: Path, attack: Attack, text: str) -> None:
    folder = copied(honest, tmp_path / "run")
    attack(folder)
    told = refusal(folder)
    assert re.search(text, told), told
    assert "journal.sqlite" in told
    everybody_ends(folder)


@pytest.mark.parametrize(("attack", "text"), BESIDE.values(), ids=BESIDE)
def test_what_lies_beside_a_journal_and_is_none_of_it_is_refused_by_who_reads_and_by_who_writes(
    honest: RunFolder, tmp_path: Path, attack: Attack, text: str
) -> None:
    folder = copied(honest, tmp_path / "run")
    attack(folder)
    assert re.search(text, refusal(folder))
    everybody_ends(folder, refused_by=("history", "gc", "bundle", "report"))
    with pytest.raises(ArtifactError, match="beside it, which is none of SQLite's"), Journal(folder.journal) as journal:
        journal.set_meta("x", 1)


@pytest.mark.parametrize(("attack", "text"), RECORDS.values(), ids=RECORDS)
def test_a_record_that_says_what_cannot_be_is_refused(honest: RunFolder, tmp_path: Path, attack: Attack, text: str) -> None:
    folder = copied(honest, tmp_path / "run")
    attack(folder)
    told = refusal(folder)
    assert re.search(text, told), told
    everybody_ends(folder)


@pytest.fixture
def new(tmp_path: Path) -> Callable[[], Path]:
    """An empty folder, each time; that of before is removed."""

    def make() -> Path:
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
        (tmp_path / "new").mkdir()
        return tmp_path / "new"

    return make


def recorded(folder: RunFolder, *records: Record) -> None:
    with Journal(folder.journal) as journal:
        journal.commit(*records)


def started(seed: int, before: str, after: str) -> Record:
    """A network that goes on from weights."""
    task = Train(architecture=NETWORK, data=source(), seed=seed, initial_weights=before)
    return Record(task, TaskResult(status=Status.COMPLETED, weights=after, miou=0.5), "agent-1", 1, f"${seed}$ \\frac{{")


def averaged(weights: str) -> Record:
    task = Average(architecture=NETWORK, data=source(), teachers=(TeacherReference(architecture=NETWORK, weights=weights),))
    return Record(task, TaskResult(status=Status.COMPLETED, weights=weights), "agent-1", 1, "of itself")


def test_a_lineage_that_is_long_or_leads_back_to_itself_ends(tmp_path: Path) -> None:
    def weights(number: int) -> str:
        return f"{number:064x}"

    long = History(started(number, weights(number), weights(number + 1)) for number in range(3_000))
    end = trace_back(weights(3_000), long)
    assert len(list(end.walk())) == 3_001 and descent_figure(end) is None
    shown, depth = as_data(end), 0
    json.dumps(shown)
    while shown["ancestors"]:
        (shown,), depth = shown["ancestors"], depth + 1
    assert depth == 100 and shown["is_cut"]
    round_and_round = History([started(1, weights(1), weights(2)), started(2, weights(2), weights(1))])
    of_itself = History([averaged(weights(1))])
    for history in (round_and_round, of_itself):
        root = trace_back(next(iter(history.by_task)), history)
        assert descent_figure(root) and len(list(root.walk())) <= 3 and as_data(root)
        assert card(next(iter(history.by_task.values())), history)
    folder = RunFolder(tmp_path / "run")
    recorded(folder, started(1, weights(1), weights(2)), started(2, weights(2), weights(1)), averaged(weights(3)))
    everybody_ends(folder, refused_by=("report",))
    said = CliRunner().invoke(app, ["lineage", weights(1), "--run", str(folder.place)])
    assert said.exit_code == 0 and "as above" in said.output
    long_run = RunFolder(tmp_path / "long")
    recorded(long_run, *list(long.by_task.values())[:1_500])
    said = CliRunner().invoke(app, ["lineage", weights(1_500), "--run", str(long_run.place)])
    assert said.exit_code == 0 and "... more" in said.output, said.exception


def _experiment(make: Callable[[dict[str, Any]], Any]) -> Attack:
    def attack(folder: RunFolder) -> None:
        with Journal(folder.journal, read_only=True) as journal:
            noted = journal.get_meta("experiment")
        made = make(noted)
        execute(folder, "INSERT OR REPLACE INTO meta VALUES ('experiment', ?)", given=(json.dumps(made),))

    return attack


def _data(spec: str) -> Attack:
    return _experiment(lambda old: old | {"data": old["data"] | {"dataset": spec}})


EXPERIMENTS: dict[str, Attack] = {
    "a list": _experiment(lambda old: [old]),
    "nothing": _experiment(lambda old: None),
    "a number": _experiment(lambda old: 3),
    "unknown fields": _experiment(lambda old: old | {"more": 1}),
    "a family that is none": _experiment(lambda old: old | {"families": {"none": {}}}),
    "a thousand families": _experiment(lambda old: old | {"families": {f"m:f{n}": {} for n in range(1_000)}}),
    "a recipe that is none": _experiment(lambda old: old | {"recipe": {"learning_rate": "fast"}}),
    "a space that is none": _experiment(lambda old: old | {"families": {"unet": {"space": {"base": []}}}}),
    "settings that are none": _experiment(lambda old: old | {"families": {"unet": {"settings": {"base": "large"}}}}),
    "a dataset that is none": _data("nothing"),
    "a dataset of more images than there are": _data("generated:train=999999999999"),
    "a dataset of fewer images than none": _data("generated:train=-1"),
    "a dataset of images larger than any": _data("generated:size=999999x999999,train=1"),
    "a dataset with a number that is none": _data("generated:train=" + "9" * 3_000),
    "a dataset of datasets of datasets": _data("few:1:" * 600 + "generated:"),
    "a dataset that is very long": _data("unlabelled:" * 100_000 + "camvid"),
    "many datasets joined": _data("joined:" + "|".join(["generated:train=1000000"] * 100)),
    "a dataset that is not here": _data("folder:path=/nowhere"),
    "a dataset that is a device": _data("folder:path=/dev"),
    "a split that is none": _experiment(lambda old: old | {"data": old["data"] | {"train": "none"}}),
    "weights that are none": meta("pretrained", '{"unet": ["x"]}'),
    "weights in a list": meta("pretrained", "[1]"),
    "own parts that are none": meta("own", "[]"),
    "own parts that lack something": meta("own", '{"families": {"a:b": {}}}'),
    "a replay that is none": meta("replay", '{"of": []}'),
}


@pytest.mark.parametrize("attack", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_an_experiment_of_which_nothing_can_be_made_is_refused(honest: RunFolder, tmp_path: Path, attack: Attack) -> None:
    folder = copied(honest, tmp_path / "run")
    attack(folder)
    assert isinstance(refusal(folder), str)
    everybody_ends(folder)


def test_trials_that_were_asked_for_and_cannot_be_are_refused(honest: RunFolder, tmp_path: Path) -> None:
    for number, (trial, seen) in enumerate([(1, "[1]"), (2, '["0"]'), (-(2**62), "[0]"), (1, "[" * 9000)]):
        folder = copied(honest, tmp_path / f"run{number}")
        execute(folder, f"INSERT INTO asks VALUES ('unet', {trial}, ?)", given=(seen,))
        everybody_ends(folder, refused_by=("report", "bundle"))
    folder = copied(honest, tmp_path / "many")
    execute(
        folder,
        "WITH RECURSIVE c(x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM c WHERE x < 50000) "
        "INSERT INTO asks SELECT 'unet', x, '[]' FROM c",
    )
    everybody_ends(folder, refused_by=("report", "bundle"))


ARTIFACTS = {
    "nothing": b"",
    "text": b"no recording",
    "a header that never ends": struct.pack("<Q", 2**63) + b"{}",
    "a nested header": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "other columns": save({"step": np.zeros(3)}),
    "another kind of number": recordings.encode([]).replace(b"I64", b"F64"),
    "rows that are one": save({name: np.zeros((), dtype=kind) for name, kind in recordings.COLUMNS.items()}),
    "columns of other lengths": save(
        {n: np.zeros((int(n == "piece"), 32) if k == "uint8" else (0,), dtype=k) for n, k in recordings.COLUMNS.items()}
    ),
    "numbers that are none": save(
        {
            n: np.zeros((1, 32), dtype=k) if k == "uint8" else np.full(1, math.nan if k == "float64" else -1, dtype=k)
            for n, k in recordings.COLUMNS.items()
        }
    ),
}


@pytest.mark.parametrize("data", ARTIFACTS.values(), ids=ARTIFACTS)
def test_an_artifact_that_is_not_what_it_is_named_as_is_refused(honest: RunFolder, tmp_path: Path, data: bytes) -> None:
    folder = copied(honest, tmp_path / "run")
    digest = folder.store.put(data)
    change(folder, "outputs", lambda old: old | {"exchange": old["exchange"] | {"record": digest}, "trace": digest}, number=2)
    assert f"{digest[:12]} is no recording" in refusal(folder)
    everybody_ends(folder, refused_by=("recordings", "gc", "losses", "bundle"))


def test_what_is_larger_than_it_can_be_is_not_read(honest: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied(honest, tmp_path / "run")
    digest = folder.store.put(b"x" * 5_000)
    for limit in (4_999, 5_000):
        try:
            read = folder.store.get(digest, max_bytes=limit)
        except ArtifactError as error:
            assert limit == 4_999 and "5,000 bytes" in str(error)
        else:
            assert limit == len(read) == 5_000
    change(folder, "outputs", lambda old: old | {"exchange": old["exchange"] | {"record": digest}}, number=2)
    monkeypatch.setattr(recordings, "MAX_BYTES", 4_000)
    assert "4,000 at most" in refusal(folder)
    everybody_ends(folder, refused_by=("recordings", "gc", "bundle"))


def _values() -> st.SearchStrategy[Any]:
    odd = st.sampled_from(
        [
            None,
            True,
            -1,
            2**63,
            2**64,
            10**400,
            1e308,
            -1e308,
            5e-324,
            "",
            "x" * 300,
            "\x1b[2J",
            "../..",
            "$\\frac",
            "ab" * 32,
            [],
            {},
        ]
    )
    return odd | st.integers() | st.floats() | st.text(max_size=8) | st.lists(st.none() | st.integers(), max_size=3)


def _mutated(data: st.DataObject, plain: Any) -> Any:
    """One value somewhere in plain data, taken for another, left out or doubled."""
    if isinstance(plain, dict) and plain and data.draw(st.integers(0, 9)):
        key = data.draw(st.sampled_from(sorted(plain)))
        if data.draw(st.integers(0, 9)) == 0:
            return {name: value for name, value in plain.items() if name != key}
        return plain | {key: _mutated(data, plain[key])}
    if isinstance(plain, list) and plain and data.draw(st.integers(0, 3)):
        at = data.draw(st.integers(0, len(plain) - 1))
        return [*plain[:at], _mutated(data, plain[at]), *plain[at + data.draw(st.integers(0, 1)) :]]
    return data.draw(_values())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_record_says_everybody_ends(honest: RunFolder, new: Callable[[], Path], data: st.DataObject) -> None:
    folder = copied(honest, new() / "run")
    for _ in range(data.draw(st.integers(1, 2))):
        column, number = data.draw(st.sampled_from(["inputs", "outputs", "circumstances"])), data.draw(st.integers(1, 2))
        try:
            change(folder, column, lambda old: _mutated(data, old), number)
        except ValueError:
            continue  # it cannot be changed once more
    refusal(folder)
    everybody_ends(folder)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_noted_everybody_ends(honest: RunFolder, new: Callable[[], Path], data: st.DataObject) -> None:
    folder = copied(honest, new() / "run")
    with Journal(folder.journal, read_only=True) as journal:
        noted = {"experiment": journal.get_meta("experiment"), "pretrained": {"unet": "ab" * 32}, "left_out": ["ab" * 32]}
    key = data.draw(st.sampled_from(sorted(noted)))
    said = json.dumps(_mutated(data, noted[key]))
    execute(folder, f"INSERT OR REPLACE INTO meta VALUES ('{key}', ?)", given=(said,))
    refusal(folder)
    everybody_ends(folder)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_stands_in_a_journals_file_everybody_ends(
    honest: RunFolder, new: Callable[[], Path], data: st.DataObject
) -> None:
    folder = copied(honest, new() / "run")
    octets = bytearray(folder.journal.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        page, where = (
            data.draw(st.integers(0, len(octets) // PAGE - 1)),
            data.draw(st.integers(0, PAGE - 1) | st.integers(0, 120)),
        )
        octets[page * PAGE + where] = data.draw(st.integers(0, 255))
    if data.draw(st.integers(0, 4)) == 0:
        page, other = data.draw(st.integers(0, len(octets) // PAGE - 1)), data.draw(st.integers(0, len(octets) // PAGE - 1))
        octets[page * PAGE : (page + 1) * PAGE] = octets[other * PAGE : (other + 1) * PAGE]
    folder.journal.write_bytes(octets)
    refusal(folder)
    everybody_ends(folder)


@settings(max_examples=500)
@given(text=st.text(alphabet='[]{}",:0123456789.eE-+truefalsn \\ud8', max_size=60) | st.binary(max_size=40))
def test_any_text_is_read_as_json_or_refused(text: str | bytes) -> None:
    try:
        found = read_json(text)
    except ValueError:
        return
    assert read_json(canonical.encode(found)) == found


@settings(max_examples=500, deadline=None)
@given(text=st.text(alphabet="[]{}\"',:&*!<>|-? ab\n01.~#%@`=x_", max_size=60) | st.text(max_size=20))
def test_any_text_is_read_as_yaml_or_refused(text: str) -> None:
    try:
        read_yaml(text)
    except ValueError as error:
        assert str(error)


def test_json_and_yaml_within_their_limits_are_read() -> None:
    assert (
        read_json("[" * 64 + "1" + "]" * 64) and read_json(str(2**64 - 1)) == 2**64 - 1 and read_json(str(-(2**63))) == -(2**63)
    )
    for text in ("[" * 65 + "1" + "]" * 65, str(2**64), str(-(2**63) - 1), "[1,]", '"\\ud800"'):
        with pytest.raises(ValueError):
            read_json(text)
    assert read_json('"\\ud83d\\ude00 \\u001b"') == "\U0001f600 \x1b"
    assert read_yaml("") is None and read_yaml("a: &x {b: 1}\nc: {<<: *x, d: 2}") == {"a": {"b": 1}, "c": {"b": 1, "d": 2}}
    assert read_yaml("[" * 64 + "1" + "]" * 64)
    with pytest.raises(ValueError, match="levels"):
        read_yaml("".join(f"- &a{n} [{f'*a{n - 1}' if n else 'x'}]\n" for n in range(100)))
