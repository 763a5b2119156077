"""The metadata of bundles, held against the validators that others use."""

import json
import subprocess
import zipfile
from pathlib import Path

import pytest
from experiments import agentkd, weights_of

ROOT = Path(__file__).parents[2]
VALIDATOR = ROOT / ".validators" / "bin" / "python"
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not VALIDATOR.exists(), reason="make validators has not been run"),
]


def issues(folder: Path) -> dict[str, list[str]]:
    command = [VALIDATOR, ROOT / "tests" / "validate_crate.py", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_bundle_is_a_crate_of_a_workflow_run_and_its_dataset_a_croissant(tmp_path: Path, undisturbed: Path) -> None:
    assert agentkd("bundle", undisturbed, tmp_path / "run.zip").returncode == 0
    with zipfile.ZipFile(tmp_path / "run.zip") as archive:
        archive.extractall(tmp_path / "crate")
    assert set(map(len, issues(tmp_path / "crate").values())) == {0}
    crate = json.loads((tmp_path / "crate" / "ro-crate-metadata.json").read_text(encoding="utf-8"))
    actions = [entity for entity in crate["@graph"] if entity["@type"] == "CreateAction"]
    assert len(actions) == 1 + len(weights_of(undisturbed)), "the run, and every task of it"
    for entity in crate["@graph"]:
        if entity["@id"] == "./":
            del entity["mainEntity"]
    (tmp_path / "crate" / "ro-crate-metadata.json").write_text(json.dumps(crate), encoding="utf-8")
    (tmp_path / "crate" / "croissant.json").write_text('{"@type": "sc:Dataset"}', encoding="utf-8")
    broken = subprocess.run(
        [VALIDATOR, ROOT / "tests" / "validate_crate.py", tmp_path / "crate"], capture_output=True, text=True, check=False
    )
    assert broken.returncode or json.loads(broken.stdout.splitlines()[-1])["workflow-run-crate-0.5"], "the validators look"
