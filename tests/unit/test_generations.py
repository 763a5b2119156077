"""A run that is corrected and goes on: what is kept, what is said, and that every state of it can be planned again."""

import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agentkd.artifacts.garbage import find_garbage
from agentkd.artifacts.history import read_history
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.listings import noted_artifacts
from agentkd.artifacts.run_folder import RunFolder
from agentkd.artifacts.verification import verify
from agentkd.config import check_experiment
from agentkd.coordinator import generations, own_parts
from agentkd.coordinator.run import read_run
from agentkd.datasets.opening import open_dataset
from agentkd.errors import ArtifactError, ConfigError
from agentkd.experiment import Experiment
from agentkd.pipeline.plan import Planner, study_name
from agentkd.replay.data import look_for_data
from agentkd.replay.perform import _check_plan
from agentkd.report.packing import write_bundle
from agentkd.report.write import write_report
from agentkd.task import EpochResult, Status, TaskResult

MASK = "masks/train/1.png"
RECIPE_SPACE = {"learning_rate": {"low": 0.01, "high": 0.1, "log": True}}
SEARCH = {"trials": 3, "lag": 1, "patience": 0, "epochs": 1, "recipe_space": RECIPE_SPACE}


def lay_data(place: Path) -> None:
    drawn = np.random.default_rng(1)
    for split, count in (("train", 4), ("validation", 2), ("test", 2)):
        for kind in ("images", "masks"):
            (place / kind / split).mkdir(parents=True)
        for number in range(count):
            image = drawn.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(image).save(place / f"images/{split}/{number}.png")
            Image.fromarray(drawn.integers(0, 2, (32, 32), dtype=np.uint8)).save(place / f"masks/{split}/{number}.png")
    layout = "layout: {images: 'images/{split}/{stem}.png', masks: 'masks/{split}/{stem}.png'}\n"
    (place / "dataset.yaml").write_text(f"name: scenes\nclasses: [a, b]\n{layout}splits: [train, validation, test]\n")


def correct_a_mask(place: Path) -> None:
    shutil.copy(place / "masks/train/0.png", place / MASK)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    lay_data(tmp_path / "data")
    monkeypatch.delenv("AGENTKD_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def experiment(**changes: Any) -> Experiment:
    given = {"name": "corrected", "seed": 3, "data": {"dataset": "folder:path=data"}, "families": ["unet"], "search": SEARCH}
    return check_experiment(given | changes, source="test")


def invented(key: str, weights: Any) -> TaskResult:
    value = int(key[:8], 16) / 16**8
    history = (EpochResult(epoch=1, loss=1, miou=value, seconds=1),)
    counts = {"num_parameters_total": 110, "num_parameters_network": 105, "num_parameters_deploy": 100, "num_macs": 1000}
    return TaskResult(status=Status.COMPLETED, weights=weights, miou=value, epochs=1, history=history, **counts)


def carry_out(given: Experiment, folder: RunFolder, most: int = 100) -> tuple[list[str], int]:
    """Runs an experiment with invented results; returns what was said of a correction, and how many tasks were done."""
    with Journal(folder.journal) as journal:
        own, dataset = own_parts.take_up(given)
        results = {record.task.key: record.result for record in journal.records()}
        generation, said = generations.adopt(given, own, dataset, folder, journal, results)
        planner = generation.planner(dataset, generations.suggestions_of(journal))
        for count in range(most + 1):
            outlook = planner.outlook(results, journal.asks())
            generations.note_suggestions(planner.suggestions, journal)
            if outlook.is_finished or count == most:
                return said, count
            journal.note_asks(outlook.asks)
            step = outlook.steps[-1]
            result = invented(step.key, folder.store.put(step.key.encode()))
            journal.commit(Record(step.task, result, "agent-1", 1, step.label))
            results[step.key] = result
    raise AssertionError("it does not end")


def plan_of(folder: RunFolder) -> tuple[str, bool]:
    return _check_plan(folder, read_history(folder))


def test_an_experiment_file_that_was_not_written_or_is_empty_is_written_at_the_next_start(work: Path) -> None:
    folder = RunFolder(work / "run")
    carry_out(experiment(), folder, most=1)
    whole = folder.experiment.read_bytes()
    folder.experiment.unlink()
    carry_out(experiment(), folder, most=1)
    assert folder.experiment.read_bytes() == whole
    folder.experiment.write_bytes(b"")
    carry_out(experiment(), folder, most=1)
    assert folder.experiment.read_bytes() == whole


def test_a_run_that_is_gone_on_with_as_it_was_is_said_nothing_of(work: Path) -> None:
    folder = RunFolder(work / "run")
    carry_out(experiment(), folder, most=2)
    assert carry_out(experiment(launch={"devices": "cpu:1"}), folder)[0] == []
    assert carry_out(experiment(), folder) == ([], 0)


def test_more_trials_keep_what_was_tried_and_say_so(work: Path) -> None:
    folder = RunFolder(work / "run")
    _, before = carry_out(experiment(), folder)
    said, new = carry_out(experiment(search=SEARCH | {"trials": 5}), folder)
    assert said[0] == "corrected: search.trials: is 5 now, and was 3"
    kept = int(said[1].partition(" ")[0])
    assert kept >= 3 and new < before + 2 and f"; {before - kept} " in said[1]
    text, is_confirmed = plan_of(folder)
    assert is_confirmed and f"exactly these {before + new} tasks, in 2 states" in text
    assert not verify(folder).problems
    said, new = carry_out(experiment(), folder)
    assert new == 0 and "is 3 now, and was 5" in said[0] and f"{before} recorded tasks are kept" in said[1]
    assert plan_of(folder)[1]


def test_a_corrected_mask_is_named_and_both_states_are_planned_again_with_the_data_gone(work: Path) -> None:
    folder = RunFolder(work / "run")
    given = experiment(test_every_stage=False)  # as many tasks whichever networks are chosen
    _, before = carry_out(given, folder)
    correct_a_mask(work / "data")
    said, new = carry_out(given, folder)
    assert said[0] == f"corrected: data: {MASK} is changed since this run was begun, of 16 files"
    assert said[1].startswith("0 recorded tasks are kept; ") and new == before
    shutil.rmtree(work / "data")
    assert plan_of(folder) == (
        f"the plan, made again from the records, wants exactly these {2 * new} tasks, in 2 states of the experiment",
        True,
    )
    _, planner, outlook, journal = read_run(folder)
    with journal:
        assert outlook.is_finished and planner.dataset.classes == ("a", "b") and not planner.dataset.has_samples
    assert write_report(folder).page.is_file()
    written = write_bundle(folder, work / "run.zip")
    assert written.num_left_out == 0


def test_files_that_came_or_went_and_another_description_are_named(work: Path) -> None:
    folder = RunFolder(work / "run")
    carry_out(experiment(), folder)
    for kind in ("images", "masks"):
        shutil.copy(work / "data" / kind / "train/0.png", work / "data" / kind / "train/9.png")
        (work / "data" / kind / "train/3.png").unlink()
    (said, _), _ = carry_out(experiment(), folder, most=1)
    assert "images/train/3.png, masks/train/3.png are gone, images/train/9.png, masks/train/9.png are new" in said
    text = (work / "data/dataset.yaml").read_text()
    (work / "data/dataset.yaml").write_text(text.replace("[a, b]", "[a, c]"))
    (said, _), _ = carry_out(experiment(), folder, most=1)
    assert "how they are read or split is not (dataset.yaml)" in said


def test_another_experiment_is_refused_and_nothing_of_it_is_noted(work: Path) -> None:
    folder = RunFolder(work / "run")
    carry_out(experiment(), folder)
    with pytest.raises(ConfigError) as caught:
        carry_out(experiment(seed=4), folder)
    assert "seed: is 4 now, but this run was begun with 3" in str(caught.value)
    assert "choose another folder with --out" in str(caught.value)
    assert carry_out(experiment(), folder) == ([], 0)


def test_before_anything_is_recorded_any_mistake_can_be_mended(work: Path) -> None:
    folder = RunFolder(work / "run")
    carry_out(experiment(), folder, most=0)
    said, _ = carry_out(experiment(seed=4), folder)
    assert said == ["corrected: seed: is 4 now, and was 3", "nothing was recorded yet, so nothing is done again"]
    assert plan_of(folder)[1] and not verify(folder).problems


def test_a_state_of_which_no_plan_can_be_made_is_not_begun_with_and_does_not_stand_in_the_way_of_its_correction(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, honest = RunFolder(work / "run"), Planner.outlook

    def fails_for_seed_9(planner: Planner, *known: Any) -> Any:
        if planner.experiment.seed == 9:
            raise ValueError("more than 64 bits")
        return honest(planner, *known)

    monkeypatch.setattr(Planner, "outlook", fails_for_seed_9)
    with pytest.raises(ValueError, match="64 bits"):
        carry_out(experiment(seed=9), folder, most=0)
    with Journal(folder.journal) as journal:
        assert generations.present(journal) is None, "nothing of it is noted"
    monkeypatch.setattr(Planner, "outlook", honest)
    carry_out(experiment(seed=9), folder, most=0)  # by a version that did
    monkeypatch.setattr(Planner, "outlook", fails_for_seed_9)
    said, _ = carry_out(experiment(), folder)
    assert said == ["corrected: seed: is 3 now, and was 9", "nothing was recorded yet, so nothing is done again"]


def test_a_mistake_and_a_mask_are_mended_at_once(work: Path) -> None:
    folder = RunFolder(work / "run")
    carry_out(experiment(), folder)
    correct_a_mask(work / "data")
    said, _ = carry_out(experiment(round1={"teachers": "best", "epochs": 7}), folder)
    assert [line.split(":")[1] for line in said[:-1]] == [" round1.epochs", " data"]
    assert plan_of(folder)[1]


def test_other_pretrained_weights_under_the_same_name_are_noticed(work: Path) -> None:
    folder, given = RunFolder(work / "run"), {"families": {"unet": {"weights": "w.safetensors"}}}
    Path("w.safetensors").write_bytes(b"as they were")
    carry_out(experiment(**given), folder)
    Path("w.safetensors").write_bytes(b"others")
    said, new = carry_out(experiment(**given), folder)
    assert "families.unet.weights: the file has other content" in said[0] and new
    assert plan_of(folder)[1]


AS_COMPLETED = SEARCH | {"order": "as_completed", "lag": 2, "trials": 4}


def asks_of(folder: RunFolder, study: str = "unet") -> dict[int, tuple[int, ...]]:
    with Journal(folder.journal, read_only=True) as journal:
        return journal.asks().get(study, {})


def test_what_trials_saw_stays_with_the_trials_that_are_kept(work: Path) -> None:
    folder = RunFolder(work / "run")
    carry_out(experiment(search=AS_COMPLETED), folder)
    before = asks_of(folder)
    assert sorted(before) == [0, 1, 2, 3]
    carry_out(experiment(search=AS_COMPLETED | {"trials": 6}), folder)
    longer = asks_of(folder)
    assert {number: longer[number] for number in before} == before and sorted(longer) == [0, 1, 2, 3, 4, 5]
    carry_out(experiment(search=AS_COMPLETED | {"trials": 2}), folder)
    assert sorted(asks_of(folder)) == [0, 1]
    assert plan_of(folder)[1]


def test_what_trials_of_other_seeds_saw_stays_too(work: Path) -> None:
    folder, other = RunFolder(work / "run"), study_name("unet", 4)
    carry_out(experiment(search=AS_COMPLETED, seeds=2), folder, most=500)
    before = asks_of(folder, other)
    assert sorted(before) == [0, 1, 2, 3] and sorted(asks_of(folder)) == [0, 1, 2, 3]
    carry_out(experiment(search=AS_COMPLETED | {"trials": 6}, seeds=2), folder, most=500)
    longer = asks_of(folder, other)
    assert {number: longer[number] for number in before} == before and sorted(longer) == [0, 1, 2, 3, 4, 5]
    assert plan_of(folder)[1]


def test_what_trials_saw_on_other_data_is_not_taken_for_what_they_see_now(work: Path) -> None:
    folder = RunFolder(work / "run")
    carry_out(experiment(search=AS_COMPLETED), folder)
    before = asks_of(folder)
    correct_a_mask(work / "data")
    carry_out(experiment(search=AS_COMPLETED), folder, most=1)
    assert sorted(asks_of(folder)) != sorted(before)
    carry_out(experiment(search=AS_COMPLETED), folder)
    assert plan_of(folder)[1]
    with Journal(folder.journal, read_only=True) as journal:
        assert generations.earlier(journal)[0].asks["unet"] == before


def forget_the_data(folder: RunFolder) -> None:
    with Journal(folder.journal) as journal, journal._writing():
        journal._connection.execute("DELETE FROM meta WHERE key IN ('data', 'data_places', 'seal')")


def test_a_run_of_a_version_that_noted_no_data_goes_on_and_notices_a_correction(work: Path) -> None:
    folder = RunFolder(work / "run")
    carry_out(experiment(), folder)
    forget_the_data(folder)
    assert carry_out(experiment(), folder) == ([], 0)
    forget_the_data(folder)
    correct_a_mask(work / "data")
    said, new = carry_out(experiment(), folder)
    assert said[0] == "corrected: data: its content is another since this run was begun" and new
    assert plan_of(folder)[1]


def test_a_replay_takes_the_data_that_are_here_and_names_the_others_by_file(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(work / "run")
    _, before = carry_out(experiment(), folder)
    tasks = [record.task for record in read_history(folder).by_task.values()]
    assert look_for_data(folder, tasks).reasons == {}
    shutil.copytree(work / "data", work / "kept/data")
    correct_a_mask(work / "data")
    carry_out(experiment(), folder)
    tasks = [record.task for record in read_history(folder).by_task.values()]
    lacking = look_for_data(folder, tasks)
    assert lacking.reasons.keys() == {task.key for task in tasks[:before]} and lacking.num_superseded == before
    assert MASK in str(lacking) and f"({before} tasks)" in str(lacking)
    (work / "elsewhere").mkdir()
    monkeypatch.chdir(work / "elsewhere")
    assert look_for_data(RunFolder(Path("../run")), tasks).reasons == lacking.reasons
    assert "AGENTKD_DATA" not in os.environ
    monkeypatch.setenv("AGENTKD_DATA", str(work / "kept"))
    other = look_for_data(RunFolder(Path("../run")), tasks)
    assert other.reasons.keys() == {task.key for task in tasks[before:]} and other.num_superseded == 0


def test_a_run_that_was_moved_with_its_data_finds_them(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carry_out(experiment(), RunFolder(work / "run"))
    (work / "moved").mkdir()
    for name in ("data", "run"):
        (work / name).rename(work / "moved" / name)
    folder = RunFolder(work / "moved/run")
    tasks = [record.task for record in read_history(folder).by_task.values()]
    assert look_for_data(folder, tasks).base == str(work / "moved")


def test_the_list_of_files_is_no_garbage_and_a_bundle_tells_no_folder_of_this_machine(work: Path) -> None:
    folder = RunFolder(work / "run")
    carry_out(experiment(), folder)
    correct_a_mask(work / "data")
    carry_out(experiment(), folder)
    with Journal(folder.journal, read_only=True) as journal:
        listed = noted_artifacts(journal)
    assert len(listed) == 2 and find_garbage(folder).unreferenced == ()
    write_bundle(folder, work / "run.zip")
    with zipfile.ZipFile(work / "run.zip") as archive:
        names = archive.namelist()
        archive.extract("journal.sqlite", work / "unpacked")
        assert b"/".join(str(work).encode().split(b"/")) not in archive.read("journal.sqlite")
    assert all(any(digest in name for name in names) for digest in listed)
    with Journal(work / "unpacked/journal.sqlite", read_only=True) as journal:
        assert generations.present(journal) is not None


def test_a_list_of_files_that_is_damaged_or_left_out_only_makes_the_words_vaguer(work: Path) -> None:
    folder = RunFolder(work / "run")
    carry_out(experiment(), folder)
    with Journal(folder.journal, read_only=True) as journal:
        (listed,) = noted_artifacts(journal)
    folder.store.path(listed).write_bytes(b"no list")
    correct_a_mask(work / "data")
    said, _ = carry_out(experiment(), folder)
    assert said[0] == "corrected: data: its content is another since this run was begun"


@pytest.mark.parametrize("text", ["3", "[]", '[{"experiment": 3}]', "{}"])
def test_notes_of_earlier_states_that_are_none_are_refused(work: Path, text: str) -> None:
    folder = RunFolder(work / "run")
    carry_out(experiment(), folder)
    with Journal(folder.journal) as journal:
        journal.set_meta("earlier", json.loads(text))
    if text == "[]":
        assert plan_of(folder)[1]
        return
    for read in (plan_of, find_garbage):
        if read is find_garbage and text.startswith("["):
            continue
        with pytest.raises(ArtifactError):
            read(folder)


def test_datasets_made_of_others_tell_their_files(work: Path) -> None:
    shutil.copytree(work / "data", work / "more")
    assert open_dataset("few:2:folder:path=data").files == open_dataset("folder:path=data").files
    joined = open_dataset("joined:folder:path=data|only:a+b:folder:path=more").files
    assert len(joined) == 32 and f"part 1: {MASK}" in joined
    assert open_dataset("generated:train=2,validation=1,test=1").files == {}


def test_own_code_that_was_edited_is_a_correction_and_is_noted_with_the_state(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = 'from agentkd.datasets.opening import open_dataset\n\n\ndef made():\n    return open_dataset("folder:path=data")\n'
    (work / "own").mkdir()
    monkeypatch.syspath_prepend(str(work / "own"))
    (work / "own" / "edited_scenes.py").write_text(source)
    folder, given = RunFolder(work / "run"), {"data": {"dataset": "edited_scenes:made"}}
    carry_out(experiment(**given), folder, most=1)
    with Journal(folder.journal, read_only=True) as journal:
        begun = own_parts.noted(journal)
    (work / "own" / "edited_scenes.py").write_text(source + "\n\nTHRESHOLD = 3\n")
    said, _ = carry_out(experiment(**given), folder, most=1)
    assert any(text.startswith("corrected: ") and "its code has changed (edited_scenes.py)" in text for text in said)
    with Journal(folder.journal, read_only=True) as journal:
        now = own_parts.noted(journal)
        assert now.codes.keys() == begun.codes.keys() and now.codes != begun.codes
        assert [state.own for state in generations.earlier(journal)] == [begun]
    assert carry_out(experiment(**given), folder, most=0)[0] == []
