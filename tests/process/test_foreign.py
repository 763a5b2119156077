"""Commands on what somebody made who means harm end soon, in little memory, with their exit code and without a traceback."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from experiments import agentkd
from foreign import copied, execute, honest_run, zip_of

from agentkd.artifacts.run_folder import RunFolder

pytestmark = pytest.mark.process
SOON_S = 30.0
MAX_GROWTH_BYTES = 300 * 2**20
ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
MILLION = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 1000000)"
MEASURED = """
import resource, sys
from agentkd.__main__ import main
sys.argv = ["agentkd", *sys.argv[1:]]
try:
    main()
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, file=sys.stderr)
"""


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return honest_run(tmp_path_factory.mktemp("honest") / "run")


def measured(*arguments: object) -> tuple[int, str, int]:
    """Exit code, what was said, and the most memory that it took."""
    began = time.monotonic()
    words = [sys.executable, "-c", MEASURED, *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert time.monotonic() - began < SOON_S, arguments
    *said, peak = done.stderr.strip().splitlines()
    return done.returncode, done.stdout + "\n".join(said), int(peak)


@pytest.fixture(scope="module")
def usual(honest: RunFolder) -> dict[str, int]:
    """The memory that each command takes for an honest run."""
    return {}


def _text(column: str, text: str, size: int) -> Callable[[RunFolder], None]:
    made = (text * (size // len(text) + 1))[:size]
    return lambda folder: execute(folder, f"UPDATE records SET {column} = ?", given=(made,))


ATTACKS: dict[str, Callable[[RunFolder], None]] = {
    "an endless view": lambda folder: execute(
        folder,
        "DROP TABLE records",
        f"CREATE VIEW records AS {ENDLESS} SELECT x AS number, 'a' AS task, 'b' AS inputs, 'c' AS outputs, "
        "'d' AS circumstances, 1 AS sitting, x AS digest FROM c",
    ),
    "an endless table of what is noted": lambda folder: execute(
        folder, "DROP TABLE meta", f"CREATE VIEW meta AS {ENDLESS} SELECT 'x' AS key, x AS value FROM c"
    ),
    "a million rows": lambda folder: execute(
        folder,
        "INSERT INTO records (task, inputs, outputs, circumstances, sitting, digest) "
        f"{MILLION} SELECT x, '[]', '{{}}', '{{}}', 1, x FROM c",
    ),
    "a million asks": lambda folder: execute(
        folder,
        f"INSERT INTO asks {MILLION} SELECT 'unet', x, '[]' FROM c",
    ),
    "a text of fifteen million lists": _text("outputs", "[],", 15_000_000),
    "a text of objects": _text("outputs", '{"a":1},', 3_000_000),
    "a text of wide characters": _text("outputs", "\U0001f600", 4_000_000),
    "a text of a hundred megabytes": _text("outputs", "x", 100_000_000),
    "provenance without end": lambda folder: execute(
        folder, "UPDATE sittings SET provenance = ?", given=("[" + "{}," * 300_000 + "1]",)
    ),
    "a list of what was left out": lambda folder: execute(
        folder, "INSERT INTO meta VALUES ('left_out', ?)", given=("[" + '"",' * 900_000 + '""]',)
    ),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_commands_end_soon_and_in_little_memory(
    honest: RunFolder, usual: dict[str, int], tmp_path: Path, attack: Callable[[RunFolder], None]
) -> None:
    folder = copied(honest, tmp_path / "run")
    attack(folder)
    commands = {"verify": ("verify", folder.place), "bundle": ("bundle", folder.place, tmp_path / "made.zip")}
    for name, words in commands.items():
        if name not in usual:
            usual[name] = measured(*[honest.place if word == folder.place else word for word in words])[2]
            (tmp_path / "made.zip").unlink(missing_ok=True)
        code, said, peak = measured(*words)
        assert code in (0, 1, 15) and "Traceback" not in said, said[-2000:]
        assert peak - usual[name] < MAX_GROWTH_BYTES, f"{name} took {(peak - usual[name]) / 2**20:.0f} MiB more"
        assert code or name == "bundle" or "were left out of the bundle on purpose" in said


def test_every_command_refuses_a_journal_that_runs_something(honest: RunFolder, tmp_path: Path) -> None:
    folder = copied(honest, tmp_path / "run")
    ATTACKS["an endless view"](folder)
    for words in (
        ("verify", folder.place),
        ("replay", folder.place, "--out", tmp_path / "replay"),
        ("report", folder.place),
        ("lineage", "abcd", "--run", folder.place),
        ("diff", folder.place, honest.place),
        ("bundle", folder.place, tmp_path / "made.zip"),
        ("export", folder.place, tmp_path / "exported", "--to", "tensorboard"),
        ("export", folder.place, tmp_path / "exported"),
        ("gc", folder.place),
    ):
        done = agentkd(*words, timeout_s=SOON_S)
        said = done.stdout + done.stderr
        assert (done.returncode, "Traceback" in said) == (15, False), said
        assert "journal.sqlite is damaged, or no journal: it has other tables" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"], "nothing is left"


def test_a_bundle_that_does_harm_is_refused_by_every_command_and_leaves_nothing(honest: RunFolder, tmp_path: Path) -> None:
    assert agentkd("bundle", honest.place, tmp_path / "sound.zip").returncode == 0
    zip_of(tmp_path / "evil.zip", {"journal.sqlite": b"", "report/a\\b": b"x"})
    for words in (
        ("verify", tmp_path / "evil.zip"),
        ("import", tmp_path / "evil.zip", tmp_path / "run"),
        ("replay", tmp_path / "evil.zip"),
        ("lineage", "abcd", "--run", tmp_path / "evil.zip"),
        ("diff", tmp_path / "evil.zip", tmp_path / "sound.zip"),
        ("export", tmp_path / "evil.zip", tmp_path / "out", "--to", "tensorboard"),
        ("export", tmp_path / "evil.zip", tmp_path / "out"),
    ):
        done = agentkd(*words, timeout_s=SOON_S)
        said = done.stdout + done.stderr
        assert done.returncode == (1 if words[0] == "verify" else 15), said
        assert "Traceback" not in said and "is not a name of a file in a bundle" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.zip", "sound.zip"]
    told = json.loads(agentkd("verify", tmp_path / "evil.zip", "--format", "json").stdout)
    assert told["is_sound"] is False and [set(problem) for problem in told["problems"]] == [{"place", "text"}]
    assert agentkd("import", tmp_path / "sound.zip", tmp_path / "run").returncode == 0
