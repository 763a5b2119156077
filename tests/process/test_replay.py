"""What was recorded is executed again: without teachers, with one thing replaced, from a bundle on a machine without network."""

import json
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import time
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from experiments import (
    EXPERIMENT,
    RECORDING,
    SPEC,
    agentkd,
    agents_of,
    command,
    environment,
    table_of,
    weights_of,
    write_experiment,
)
from typer.testing import CliRunner

import agentkd as library
from agentkd import canonical
from agentkd.artifacts import recordings
from agentkd.artifacts.history import read_history
from agentkd.artifacts.journal import Journal
from agentkd.artifacts.run_folder import RunFolder
from agentkd.cli import app
from agentkd.errors import ArtifactError
from agentkd.names import Digest
from agentkd.replay.perform import ReplayOptions, TeachersFrom
from agentkd.replay.perform import replay as perform
from agentkd.replay.swaps import read_swap
from agentkd.task import Distill, Mutual, Train

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(400)]
VIEWS = library.ViewSettings(crop_height=32, crop_width=32, scale_min=1.0, scale_max=1.0)


@pytest.fixture(scope="session")
def run(undisturbed: Path) -> Path:
    """A whole tiny KD-NAS run, recorded. Read only: every test replays elsewhere."""
    return undisturbed


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lesson by two teachers at once, recorded, and a third network that could have taught."""
    place = tmp_path_factory.mktemp("taught") / "run"
    with library.Community(devices="cpu:2", record=place, record_lessons=True) as community:
        a, b, third = (community.agent(name, "unet", base=8, depth=2) for name in ("a", "b", "third"))
        for network in (a, b, third):
            network.train(SPEC, epochs=1, views=VIEWS)
        student = community.agent("student", "unet", base=16, depth=2)
        objectives = [library.SoftTargets(temperature=2), library.Features({"encoder.1": "encoder.1"}, weight=0.1)]
        student.distill([a, b], SPEC, objectives, epochs=2, views=VIEWS).result()
    return place


@pytest.fixture(autouse=True, scope="module")
def networks_of_the_tests() -> Iterator[None]:
    """Agents find the tests' own networks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def here(*arguments: object, code: int = 0) -> str:
    """What a command prints, called in this process."""
    try:
        done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
        ended, said = done.exit_code, done.stdout
    except library.AgentKDError as error:
        ended, said = error.exit_code, str(error)
    assert ended == code, said
    return said


def replay(run: Path, *options: object, code: int = 0) -> dict:
    return json.loads(here("replay", run, *options, "--allow-code", "--format", "json", code=code))


def lesson_of(run: Path) -> str:
    history = read_history(RunFolder(run))
    return next(key for key, record in history.by_task.items() if isinstance(record.task, Distill))


def teachers_started(place: Path) -> int:
    logs = [path.read_text(encoding="utf-8") for path in (place / "logs").glob("*.audit.jsonl")]
    return sum('"soft_targets"' in log or '"feature_maps"' in log for log in logs)


def test_a_lesson_of_two_teachers_is_told_from_the_record(taught: Path, tmp_path: Path) -> None:
    report = replay(taught, "--task", lesson_of(taught)[:10], "--from-record", "--out", tmp_path / "replay")
    (verdict,) = report["tasks"]
    assert verdict["outcome"] == "bit-identical" and report["num_lessons_with_teachers"] == 0
    assert verdict["weights"][0] == verdict["weights"][1]
    assert teachers_started(tmp_path / "replay") == 0
    with Journal(tmp_path / "replay" / "journal.sqlite", read_only=True) as journal:
        (record,) = journal.records()
    assert record.teachers == () and record.result.exchange and record.result.exchange.requests == 0


@pytest.mark.parametrize("is_gone", [False, True])
def test_an_artifact_that_is_damaged_or_gone_comes_back_as_the_message_says(taught: Path, tmp_path: Path, is_gone: bool) -> None:
    place = tmp_path / "run"
    shutil.copytree(taught, place)
    folder = RunFolder(place)
    lost = next(iter(read_history(folder).by_task.values())).result.weights
    file = folder.store.path(lost)
    file.unlink() if is_gone else file.write_bytes(bytes(file.stat().st_size))
    assert "AGAIN/artifacts after: agentkd replay" in here("verify", place, code=1)
    with pytest.raises(ArtifactError, match="AGAIN/artifacts after: agentkd replay ") as caught:
        folder.store.get(lost)
    words = str(caught.value).rpartition("agentkd ")[2].split()
    again = tmp_path / "again"
    here(*(again if word == "AGAIN" else word for word in words))
    shutil.copy(RunFolder(again).store.path(lost), file)
    assert "all sound" in here("verify", place)


def test_live_teachers_say_the_same(taught: Path, tmp_path: Path) -> None:
    report = replay(taught, "--live", "--out", tmp_path / "replay")
    assert [task["outcome"] for task in report["tasks"]] == ["bit-identical"] * 4
    assert report["num_lessons_with_teachers"] == 1 and teachers_started(tmp_path / "replay") == 2


def test_a_whole_run_is_replayed_from_the_record_and_its_plan_is_confirmed(run: Path, tmp_path: Path) -> None:
    report = replay(run, "--from-record", "--out", tmp_path / "replay")
    assert report["is_confirmed"] and {task["outcome"] for task in report["tasks"]} == {"bit-identical"}
    assert (report["num_executed"], report["num_reused"]) == (len(report["tasks"]), 0)
    (code,) = {code for task in report["tasks"] for codes in task["code"] for code in codes}
    assert [one["digest"] for one in report["code"]] == [code], "both networks are in one file"
    assert weights_of(tmp_path / "replay") == weights_of(run)
    assert teachers_started(tmp_path / "replay") == 0
    assert f"exactly these {len(report['tasks'])} tasks" in report["plan"]
    assert "all sound" in here("verify", tmp_path / "replay"), "a replay is a run too"
    assert "--reuse" in here("replay", run, "--from-record", "--allow-code", "--out", tmp_path / "replay", code=2)
    again = replay(run, "--from-record", "--reuse", "--out", tmp_path / "replay")
    assert again["is_confirmed"] and (again["num_executed"], again["num_reused"]) == (0, len(report["tasks"]))
    assert "choose another folder" in here("replay", run, "--live", "--allow-code", "--out", tmp_path / "replay", code=2)


def test_a_replay_that_is_killed_goes_on(run: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("replay", run, "--allow-code", "--out", tmp_path / "replay"), env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    for line in process.stdout:
        if "replayed" in line:
            break
    process.kill()
    process.wait()
    done = len(weights_of(tmp_path / "replay"))
    assert 0 < done < len(weights_of(run))
    report = replay(run, "--reuse", "--out", tmp_path / "replay")
    assert report["is_confirmed"] and report["num_reused"] == done and report["num_executed"] > 0


def test_the_same_teacher_again_makes_no_difference_and_another_makes_a_report(taught: Path, tmp_path: Path) -> None:
    history = read_history(RunFolder(taught))
    lesson = history.by_task[lesson_of(taught)]
    first, _ = (teacher.weights for teacher in lesson.task.teachers)
    third = next(
        r.result.weights
        for r in history.by_task.values()
        if isinstance(r.task, Train) and r.result.weights not in {t.weights for t in lesson.task.teachers}
    )
    same = replay(taught, "--swap", f"teacher={first[:8]}:{first[:8]}", "--out", tmp_path / "same")
    (verdict,) = same["tasks"]
    assert verdict["reason"] == "no difference at all" and verdict["weights"][0] == verdict["weights"][1]
    assert same["num_lessons_with_teachers"] == 0
    other = replay(taught, "--swap", f"teacher={first[:8]}:{third[:8]}", "--out", tmp_path / "other")
    (verdict,) = other["tasks"]
    assert verdict["outcome"] == "counterfactual" and verdict["weights"][0] != verdict["weights"][1]
    assert len(verdict["epochs"]) == 2 and len(verdict["class_iou"][1]) == 5 and verdict["first_difference"]["step"] == 1
    assert teachers_started(tmp_path / "other") == 1, "the other teacher is still told from the record"
    warm = replay(taught, "--swap", "temperature=5", "--out", tmp_path / "warm")
    assert warm["num_lessons_with_teachers"] == 0 and warm["tasks"][0]["weights"][0] != warm["tasks"][0]["weights"][1]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tasks": ("ffffffff",)}, "nothing here begins with"),
        ({"swaps": ["teacher=0000"]}, "teacher=OLD:NEW"),
        ({"swaps": ["color=red"]}, "expected NAME=VALUE"),
        ({"swaps": ["temperature=hot"]}, "is no number"),
        ({"swaps": ["codec=zip"]}, "codec=zip"),
        ({"swaps": ["codec=int8"], "teaching": TeachersFrom.RECORD}, "were not recorded as they are wanted"),
        ({}, "is the run itself"),
    ],
)
def test_what_cannot_be_replayed_says_why(taught: Path, options: dict, text: str) -> None:
    with pytest.raises((library.ConfigError, ArtifactError), match=text):
        swaps = tuple(read_swap(swap) for swap in options.pop("swaps", ()))
        perform(RunFolder(taught), RunFolder(taught), ReplayOptions(swaps=swaps, **options))


def test_a_run_in_which_agents_were_killed_replays_to_the_same_weights(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, launch=RECORDING | {"max_attempts": 20}, round2={"epochs": 6})
    process = subprocess.Popen(
        command("run", experiment, "--out", tmp_path / "run"), env=environment(), stdout=subprocess.PIPE, text=True
    )
    left = ["search", "round1", "round2"]
    assert process.stdout
    for line in process.stdout:
        named = re.search(r"(agent-\d+) starts (\w+) of", line)
        if named and named[2] in left:
            left.remove(named[2])
            agents_of(process.pid)[named[1]].kill()
    assert process.wait(60) == 0 and not left
    report = replay(tmp_path / "run", "--from-record", "--out", tmp_path / "replay")
    assert report["is_confirmed"] and {task["outcome"] for task in report["tasks"]} == {"bit-identical"}
    assert "all sound" in here("verify", tmp_path / "run")


def chain_anew(file: Path) -> None:
    """Gives each record the digest that its content and the record before ask for."""
    digests, previous = list[tuple[str, int]](), Digest("")
    with Journal(file, read_only=True) as journal:
        for row in journal.rows():
            previous = row.expected_digest(previous, canonical.encode(journal.sitting(row.sitting)).decode())
            digests.append((previous, row.number))
    with sqlite3.connect(file) as connection:
        connection.executemany("UPDATE records SET digest = ? WHERE number = ?", digests)
    connection.close()


def test_where_results_diverge_is_told_to_the_step(run: Path, tmp_path: Path) -> None:
    """A record in which somebody changed the result from the second epoch on, with a chain that fits."""
    forged = tmp_path / "run"
    here("bundle", run, tmp_path / "run.zip")
    here("import", tmp_path / "run.zip", forged)
    folder = RunFolder(forged)
    with Journal(folder.journal, read_only=True) as journal:
        row = next(row for row in journal.rows() if '"kind":"train"' in row.inputs)
        outputs = json.loads(row.outputs)
    outputs["history"][1]["weights"] = outputs["weights"] = "ab" * 32
    with sqlite3.connect(folder.journal) as connection:
        connection.execute("UPDATE records SET outputs = ? WHERE number = ?", (json.dumps(outputs), row.number))
    connection.close()
    assert "it was changed" in here("verify", forged, code=1)
    assert "was changed" in here("replay", forged, "--task", row.task, "--allow-code", "--out", tmp_path / "no", code=15)
    chain_anew(folder.journal)
    report = replay(forged, "--task", row.task, "--out", tmp_path / "replay", code=1)
    (verdict,) = report["tasks"]
    assert verdict["outcome"] == "diverged" and verdict["first_difference"] == {"epoch": 2, "step": 0}
    assert "not deterministic" in verdict["reason"]


def test_a_bundle_replays_in_a_new_environment_without_network(run: Path, tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode:
        pytest.skip("network namespaces are not allowed here")
    here("bundle", run, tmp_path / "run.zip")
    venv.create(tmp_path / "new", with_pip=False)
    (site,) = (tmp_path / "new" / "lib").glob("python3*/site-packages")
    places = [path for path in sys.path if path.endswith("site-packages")] + [str(Path(library.__file__).parents[1])]
    (site / "there.pth").write_text("\n".join(places) + "\n", encoding="utf-8")
    code = "import socket; socket.create_connection(('127.0.0.1', 9))"
    python = str(tmp_path / "new" / "bin" / "python")
    unreachable = subprocess.run(["unshare", "-rn", python, "-c", code], capture_output=True, text=True, check=False)
    assert "unreachable" in unreachable.stderr, "not even the loopback interface is up"
    (tmp_path / "elsewhere").mkdir()
    for words in (["import", "../run.zip", "here"], ["verify", "here"], ["replay", "here", "--from-record", "--allow-code"]):
        done = subprocess.run(
            ["unshare", "-rn", "sh", "-c", f"ip link set lo up 2>/dev/null; exec {python} -m agentkd {' '.join(words)}"],
            cwd=tmp_path / "elsewhere",
            env=environment(PYTHONPATH=str(Path(library.__file__).parents[1]), HOME=str(tmp_path)),
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "bit-identical" in done.stdout and "diverged" not in done.stdout


def test_recordings_can_be_dropped_at_the_price_that_is_told(run: Path, tmp_path: Path) -> None:
    place = tmp_path / "run"
    here("bundle", run, tmp_path / "b.zip")
    here("import", tmp_path / "b.zip", place)
    (place / "artifacts" / "00").mkdir(exist_ok=True)
    stray = RunFolder(place).store.put(b"nobody refers to this")
    listed = here("gc", place)
    assert "unreferenced: 1 files" in listed and "need teachers to be replayed" in listed
    assert stray in RunFolder(place).store, "nothing is removed unless somebody says so"
    assert "removed 1 files" in here("gc", place, "--apply")
    assert stray not in RunFolder(place).store and "all sound" in here("verify", place)
    told = {
        one.piece
        for record in read_history(RunFolder(place)).by_task.values()
        if record.result.exchange and record.result.exchange.record
        for one in recordings.decode(RunFolder(place).store.get(record.result.exchange.record))
    }
    assert f"removed {len(told)} files" in here("gc", place, "--apply", "--recordings")
    assert "lessons were dropped" in here("verify", place)
    assert "were not recorded" in here("replay", place, "--from-record", "--allow-code", "--out", tmp_path / "a", code=15)
    assert replay(place, "--out", tmp_path / "b")["is_confirmed"], "with teachers it can be replayed all the same"


def test_lineage_leads_back_to_every_teacher_and_diff_tells_two_runs_apart(run: Path, taught: Path, tmp_path: Path) -> None:
    lesson = read_history(RunFolder(taught)).by_task[lesson_of(taught)]
    told = json.loads(here("lineage", lesson.result.weights[:12], "--run", taught, "--format", "json"))
    assert [one["digest"] for one in told["ancestors"]] == [teacher.weights for teacher in lesson.task.teachers]
    assert told["exchange"]["requests"] == 16 and told["ancestors"][0]["inputs"]["data"]["spec"] == SPEC
    shown = here("lineage", lesson.result.weights[:12], "--run", taught)
    assert "is taught by weights" in shown and "objectives soft_targets, features" in shown
    changed = write_experiment(tmp_path, search={"epochs": 2, "trials": 2})
    assert agentkd("run", changed, "--out", tmp_path / "other").returncode == 0
    told = json.loads(here("diff", run, tmp_path / "other", "--format", "json"))
    assert ["search.trials", 3, 2] in told["configuration"] and told["environment"] == []
    assert len(told["same"]) >= 2 and all(one["is_identical"] for one in told["same"])
    assert "with the same weights" in here("diff", run, tmp_path / "other")


def test_bundles_hold_what_was_chosen_and_have_one_form(run: Path, tmp_path: Path) -> None:
    sizes = {}
    for choice in ("all", "winners", "records"):
        assert "SHA-256" in here("bundle", run, tmp_path / f"{choice}.zip", "--artifacts", choice)
        assert "all sound" in here("verify", tmp_path / f"{choice}.zip")
        with zipfile.ZipFile(tmp_path / f"{choice}.zip") as archive:
            sizes[choice] = sum(name.startswith("artifacts/") for name in archive.namelist())
            assert any(name.startswith("cards/") for name in archive.namelist())
    assert sizes["records"] == 1 < sizes["winners"] < sizes["all"], "records have the code of their networks"
    final = next(r for r in read_history(RunFolder(run)).by_task.values() if r.label.startswith("round2"))
    report = replay(tmp_path / "winners.zip", "--task", final.result.weights, "--from-record", "--out", tmp_path / "replay")
    assert report["is_confirmed"]
    assert "expected all, winners, records" in here("bundle", run, tmp_path / "x.zip", "--artifacts", "some", code=2)
    assert "not empty" in here("import", tmp_path / "all.zip", run, code=15)
    assert not (tmp_path / "x.zip").exists()


def test_every_kind_of_task_is_repeated_also_students_that_teach_each_other(tmp_path: Path) -> None:
    data = library.open_dataset(SPEC)
    with library.Community(devices="cpu:2", record=tmp_path / "run", record_lessons=True) as community:
        a, b = (community.agent(name, "unet", base=8, depth=2) for name in ("a", "b"))
        library.mutual(a, b, data=data, epochs=1, views=VIEWS)
        a.consolidate().result()
        a.train(data, epochs=1, views=VIEWS, protect=10.0)
        a.average([a, b]).result()
        a.assess(data)
        a.evaluate(data)
        a.feature_maps(data.views([1, 2]), taps=["encoder.0"]).result()
    report = replay(tmp_path / "run", "--from-record", "--out", tmp_path / "replay")
    assert [task["outcome"] for task in report["tasks"]] == ["bit-identical"] * 8
    students = [key for key, r in read_history(RunFolder(tmp_path / "run")).by_task.items() if isinstance(r.task, Mutual)]
    with pytest.raises(library.ConfigError, match="need as many agents"):
        perform(RunFolder(tmp_path / "run"), RunFolder(tmp_path / "one"), ReplayOptions(tasks=(students[0],), devices="cpu:1"))


@pytest.mark.parametrize(("ratio", "outcomes"), [(1e-6, {"kept as recorded", "bit-identical"}), (1e6, {"bit-identical"})])
def test_what_was_decided_by_milliseconds_is_not_decided_again(tmp_path: Path, ratio: float, outcomes: set[str]) -> None:
    search = EXPERIMENT["search"] | {"epochs": 1, "trials": 2, "lag": 1, "max_infeasible": 2, "max_latency_ratio": ratio}
    changes = {"families": EXPERIMENT["families"][:1], "search": search, "launch": RECORDING | {"devices": "cpu:1"}}
    done = agentkd("run", write_experiment(tmp_path, **changes), "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    report = replay(tmp_path / "run", "--out", tmp_path / "replay")
    assert {task["outcome"] for task in report["tasks"]} == outcomes and report["is_confirmed"]
    slow = [task["reason"] for task in report["tasks"] if task["outcome"] == "kept as recorded"]
    assert len(slow) == (2 if ratio < 1 else 0) and all("too slow" in reason and "latency in ms is" in reason for reason in slow)


def test_a_bundle_of_records_alone_says_what_it_lacks(run: Path, tmp_path: Path) -> None:
    here("bundle", run, tmp_path / "r.zip", "--artifacts", "records")
    assert "left out of a bundle" in here("replay", tmp_path / "r.zip", "--allow-code", "--out", tmp_path / "replay", code=15)
    here("import", tmp_path / "r.zip", tmp_path / "records")
    here("report", tmp_path / "records")
    assert table_of(tmp_path / "records") == table_of(run), "a table needs the records alone"
    first = next(iter(read_history(RunFolder(run)).by_task))
    for number, options in enumerate(((), ("--reuse",))):
        report = replay(tmp_path / "r.zip", "--task", first, *options, "--out", tmp_path / "first")
        assert report["is_confirmed"], "a training needs nothing but its code"
        assert report["num_reused"] == number


def delayed_run(experiment: Path, place: Path, seed: int) -> None:
    """A run on four agents that are stopped for moments drawn by lot."""
    drawn = random.Random(seed)
    process = subprocess.Popen(command("run", experiment, "--out", place), env=environment(), stdout=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            agents = agents_of(process.pid)
            if agents:
                slow = drawn.choice(list(agents.values()))
                slow.suspend()
                time.sleep(drawn.uniform(0.05, 0.6))
                slow.resume()
        except psutil.Error:
            continue
        time.sleep(drawn.uniform(0.0, 0.1))
    assert process.returncode == 0


def test_agents_that_are_slow_at_random_change_nothing_in_strict_order_and_are_replayed_in_the_other(tmp_path: Path) -> None:
    search = {"epochs": 1, "trials": 8, "lag": 4, "patience": 0, "recipe_space": {"learning_rate": {"low": 0.01, "high": 0.1}}}
    four = {"families": ["tiny_networks:tiny"], "launch": RECORDING | {"devices": "cpu:4"}}
    strict = write_experiment(tmp_path, search=search, **four)
    for seed in (1, 2, 3):
        delayed_run(strict, tmp_path / f"strict-{seed}", seed)
    assert weights_of(tmp_path / "strict-1") == weights_of(tmp_path / "strict-2") == weights_of(tmp_path / "strict-3")
    assert table_of(tmp_path / "strict-1") == table_of(tmp_path / "strict-2") == table_of(tmp_path / "strict-3")
    loose = write_experiment(tmp_path, search=search | {"order": "as_completed"}, **four)
    delayed_run(loose, tmp_path / "loose", 4)
    report = replay(tmp_path / "loose", "--from-record", "--out", tmp_path / "replay")
    assert report["is_confirmed"] and "exactly these" in report["plan"]
    with Journal(tmp_path / "loose" / "journal.sqlite", read_only=True) as journal:
        assert len(journal.asks()["tiny_networks:tiny"]) == 8
