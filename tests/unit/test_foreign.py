"""A run or a bundle of somebody who means harm: every kind of attack ends in a typed refusal that says where, and soon."""

import json
import math
import os
import random
import re
import shutil
import sqlite3
import struct
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign
import numpy as np
import pytest
from foreign import PAGE, change, copied, everybody_ends, execute, honest_run, pages_of, refusal, varint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from agentkd import canonical
from agentkd.artifacts import bundle, recordings
from agentkd.artifacts.bundle import unpack, verify_bundle, write_zip
from agentkd.artifacts.history import MAX_TRACE, History, read_history, read_losses
from agentkd.artifacts.journal import SCHEMA, Journal, Record
from agentkd.artifacts.lineage import as_data, trace_back
from agentkd.artifacts.run_folder import RunFolder
from agentkd.artifacts.verification import MAX_PROBLEMS, verify
from agentkd.config import load_experiment
from agentkd.errors import AgentKDError, ArtifactError, ConfigError
from agentkd.plain import MAX_JSON, read_json, read_yaml
from agentkd.report.cards import card
from agentkd.report.descent import descent_figure
from agentkd.report.packing import write_bundle
from agentkd.report.write import write_report
from agentkd.task import Average, Status, TaskResult, TeacherReference, Train

Attack = Callable[[RunFolder], None]
RECURSIVE = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT"
COLUMNS = "x AS number, 'a' AS task, 'b' AS inputs, 'c' AS outputs, 'd' AS circumstances, 1 AS sitting, x AS digest"


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return honest_run(tmp_path_factory.mktemp("honest") / "run")


@pytest.fixture(scope="module")
def packed(honest: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "run.zip"
    write_bundle(honest, out)
    return out


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
    values = f"WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < {count}) SELECT 'table', 't' || x, 't' || x"
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
        statement("UPDATE sqlite_master SET sql = replace(sql, 'value TEXT', 'value TEXT CHECK (length(hex(zeroblob(9))) > 1)') WHERE name = 'meta'"),
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
    "half of it": (lambda folder: os.truncate(folder.journal, folder.journal.stat().st_size // 2 // PAGE * PAGE), "damaged|malformed"),
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


@pytest.mark.parametrize(("attack", "text"), RECORDS.values(), ids=RECORDS)
def test_a_record_that_says_what_cannot_be_is_refused(honest: RunFolder, tmp_path: Path, attack: Attack, text: str) -> None:
    folder = copied(honest, tmp_path / "run")
    attack(folder)
    told = refusal(folder)
    assert re.search(text, told), told
    everybody_ends(folder)
