"""Own code is an input: an edit is another task, nothing runs but what a record holds, and not where it may not."""

import json
import zipfile
from pathlib import Path
from typing import Any

import own_script
import pytest
import yaml
from experiments import EXPERIMENT, SPEC
from experiments import SPEC as SCENES
from own_script import RECIPE, edited, records, script, write

import agentkd
from agentkd.agents.work import Surroundings, execute
from agentkd.architecture import Architecture
from agentkd.artifacts.history import read_history
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.own_code import Listing, codes_of, keep_code, let_run
from agentkd.artifacts.run_folder import RunFolder
from agentkd.artifacts.store import Store
from agentkd.artifacts.verification import verify
from agentkd.code import loading
from agentkd.code.source import SourceCode
from agentkd.code.taking import take
from agentkd.config import check_experiment
from agentkd.coordinator import generations, own_parts
from agentkd.coordinator.run import read_run, run_experiment
from agentkd.datasets.opening import open_again, open_dataset, own_names
from agentkd.errors import ArtifactError, ConfigError, DatasetError, TrainingError
from agentkd.names import NO_DIGEST
from agentkd.networks.build import build
from agentkd.networks.families import look_at, resolve
from agentkd.objectives import Own
from agentkd.recipe import Distillation, Recipe
from agentkd.replay.perform import ReplayOptions, what_runs
from agentkd.report.packing import final_networks, write_bundle
from agentkd.task import (
    Assess,
    Average,
    DataSource,
    Distill,
    Mutual,
    Partner,
    Status,
    TaskResult,
    TeacherReference,
    Train,
    read_task,
)
from agentkd.testing import Community

COMMANDS = ["subprocess:check_output", "os:system"]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, on the path."""
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    return write(tmp_path / "mine")


# An edited file is another task.


def test_each_edit_gives_another_result_and_another_record_and_no_edit_is_answered_from_them(mine: Path, tmp_path: Path) -> None:
    place, made = tmp_path / "run", {}
    for name in edited(mine):
        made[name] = script(Community(devices="cpu:1", record=place))
        count = len(records(place))
        assert script(Community(devices="cpu:1", record=place)) == made[name]
        assert len(records(place)) == count, "it is answered from the records"
    assert len(set(made.values())) == 4 and count == 1 + 4
    own_script.write(mine)
    assert script(Community(devices="cpu:1", record=place)) == made["none"]
    assert len(records(place)) == count, "the files are as they were, and so is the task"


def test_a_handle_that_stays_learns_by_the_code_as_it_is_and_is_looked_at_by_that_which_it_learned_by(
    mine: Path, tmp_path: Path
) -> None:
    with Community(devices="cpu:1", record=tmp_path / "run") as community:
        student, edits = community.agent("student", "my_nets:Small"), edited(mine)
        assert next(edits) == "none"
        student.train(SPEC, **RECIPE).result()
        before = student.evaluate(SPEC)
        assert next(edits) == "network"
        assert student.evaluate(SPEC) == before
        student.train(SPEC, **RECIPE).result()
        student.evaluate(SPEC)
        teacher = student.as_teacher()
    first, looked, second, looked_again = records(tmp_path / "run")
    assert first.task.architecture.code == looked.task.architecture.code
    assert second.task.architecture.code == looked_again.task.architecture.code == teacher.architecture.code
    assert first.task.architecture.code != second.task.architecture.code
    assert second.task.initial_weights == first.result.weights


def test_weights_by_digest_belong_to_the_code_that_they_were_learned_by(mine: Path, tmp_path: Path) -> None:
    with Community(devices="cpu:1", record=tmp_path / "run") as community:
        edits = edited(mine)
        assert next(edits) == "none"
        learned = community.agent("first", "my_nets:Small")
        digest = learned.train(SPEC, **RECIPE).result().weights
        same = community.agent("same", "my_nets:Small", weights=digest)
        assert same.weights == digest and same.evaluate(SPEC) == learned.evaluate(SPEC)
        assert next(edits) == "network"
        other = community.agent("other", "my_nets:Small", weights=digest)
        assert other.weights != digest, "the same tensors in another network are other weights"
        assert other.evaluate(SPEC).class_iou != learned.evaluate(SPEC).class_iou
        other.start_from(digest)
        with pytest.raises(TrainingError, match=r"code.*weights=DIGEST"):
            other.evaluate(SPEC)
        student = community.agent("student", "unet", base=8, depth=2)
        with pytest.raises(TrainingError, match=r"code.*weights=DIGEST"):
            student.distill(other, SPEC, **RECIPE).result()


def test_a_dataset_of_ones_own_is_opened_again_when_its_file_has_changed(mine: Path, tmp_path: Path) -> None:
    def data(train: int) -> None:
        text = f"from agentkd.datasets.opening import open_dataset\ndef scenes():\n    return open_dataset('{SPEC}')\n"
        (mine / "my_data.py").write_text(text.replace("train=16", f"train={train}"))

    with Community(devices="cpu:1", record=tmp_path / "run") as community:
        data(16)
        held = open_dataset("my_data:scenes")
        first = community.source("my_data:scenes")
        assert community.source("my_data:scenes") == first == community.source(held)
        assert first.spec == "my_data:scenes" and community.classes("my_data:scenes") == held.classes
        community.agent("a", "unet", base=8, depth=2).train("few:8:my_data:scenes", **RECIPE).result()
        data(12)
        second = community.source("my_data:scenes")
        assert (second.code, second.content_digest) != (first.code, first.content_digest)
        assert community.source(held) == first, "who holds an opened dataset means that"
    (record,) = records(tmp_path / "run")
    assert codes_of(record.task) == (first.code,) == (held.code,)
    assert record.task.data.code in RunFolder(tmp_path / "run").store


def test_students_that_teach_each_other_run_their_own_code(mine: Path, tmp_path: Path) -> None:
    with Community(devices="cpu:2", record=tmp_path / "run") as community:
        pair = [community.agent(name, "my_nets:Small") for name in "ab"]
        goals = [Own(path="my_goals:Near")]
        for lesson in agentkd.mutual(*pair, data=SPEC, objectives=goals, **RECIPE):
            assert lesson.result().weights
    for record in records(tmp_path / "run"):
        assert codes_of(record.task) == (take("my_nets:Small"), take("my_goals:Near"))
    assert not verify(RunFolder(tmp_path / "run")).problems


def test_what_runs_stands_in_the_store_and_its_loss_is_found(mine: Path, tmp_path: Path) -> None:
    weights = script(Community(devices="cpu:1", record=tmp_path / "run"))
    folder, record = RunFolder(tmp_path / "run"), records(tmp_path / "run")[-1]
    assert record.result.weights == weights
    found = [SourceCode.decode(folder.store.get(code)) for code in codes_of(record.task)]
    assert [sorted(code.files) for code in found] == [["my_nets.py", "my_parts.py"], ["my_goals.py"]]
    folder.store.path(found[0].digest).unlink()
    assert "runs code" in str(verify(folder).problems[0])


# Names resolve to nothing but code of the record.


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_no_network_no_dataset_and_no_objective(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is of the standard library; name your own code"):
        resolve(name, 5)
    with pytest.raises(ConfigError, match="is of the standard library; name your own code"):
        open_dataset(name)
    with Community(devices="cpu:1", record=tmp_path / "run") as community:
        with pytest.raises(ConfigError, match="is of the standard library"):
            community.agent("a", name, num_classes=5)
        agent = community.agent("b", "unet", base=8, depth=2)
        with pytest.raises(ConfigError, match="is of the standard library"):
            agent.train(f"few:3:{name}")
        agent.train(SPEC, **RECIPE).result()
        with pytest.raises(ConfigError, match="is of the standard library"):
            agent.distill(agent, SPEC, [Own(path=name, settings={"args": "id"})])
    experiment = EXPERIMENT | {"families": [name], "data": {"dataset": name}}
    with pytest.raises(ConfigError) as caught:
        check_experiment(experiment, source="test")
    assert [problem.path for problem in caught.value.problems] == [f"families.{name}", "data.dataset"]


def test_what_a_notebook_cell_defines_is_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"write it into a file beside, such as my_nets\.py, and name it my_nets:Net"):
        resolve("__main__:Net", 5)


def test_a_builder_that_is_given_itself_is_refused_with_its_name(mine: Path, tmp_path: Path) -> None:
    with Community(devices="cpu:1", record=tmp_path / "run") as community:
        with pytest.raises(ConfigError, match=r'give that: "agentkd\.testing\.community:Community"'):
            community.agent("a", Community)  # type: ignore[arg-type]
        cell = type("Net", (), {"__module__": "__main__", "__qualname__": "Net"})
        with pytest.raises(ConfigError, match=r"write it into a file beside, such as my_nets\.py"):
            community.agent("b", cell)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [*COMMANDS, "tiny_networks:tiny"])
def test_a_record_that_names_code_without_its_source_reads_and_is_refused_when_it_is_executed(name: str, tmp_path: Path) -> None:
    architecture, data = Architecture(family=name, num_classes=5), DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest)
    plain = Train(architecture=architecture, data=data).canonical()
    assert "code" not in json.dumps(plain)
    at = Surroundings(Store(tmp_path), device=None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"{name} is named without its source: .*older version"):
        execute(read_task(plain), at)
    own_data = data.replace(spec=f"few:2:{name}")
    network = Architecture(family="unet", num_classes=5)
    with pytest.raises(ConfigError, match=f"{name} is named without its source"):
        execute(Train(architecture=network, data=own_data), at)
    from agentkd.knowledge.objectives import load_own

    with pytest.raises(ConfigError, match=f"{name} is named without its source"):
        load_own(Own(path=name))


def test_code_that_is_named_runs_nothing_else_of_that_name(mine: Path, tmp_path: Path) -> None:
    code = take("my_nets:Small")
    for name in (*COMMANDS, "my_goals:Near"):
        with pytest.raises(ConfigError, match="has no module"):
            build(Architecture(family=name, num_classes=5, code=code))
    with pytest.raises(ConfigError, match="was not provided"):
        build(Architecture(family="my_nets:Small", num_classes=5, code="0" * 64))


def test_a_family_of_ones_own_says_what_is_wrong_with_what_it_says_of_itself(mine: Path) -> None:
    (mine / "strange.py").write_text("def net(num_classes, *rest, widths=(1, 2)): ...\nnet.space = {'a': 3}\nnumber = 3\n")
    with pytest.raises(ConfigError, match=r"(?s)strange:net: .*defaults\.widths.*space\.a"):
        resolve("strange:net", 5)
    with pytest.raises(ConfigError, match="is not callable"):
        resolve("strange:number", 5)
    (mine / "plain.py").write_text("def net(num_classes, width, *, depth=2, **more): ...\nnet.space = {'width': [1, 2.5]}")
    family = look_at("plain:net", take("plain:net"))
    assert family.space == {"width": (1, 2.5)} and family.takes_any and family.loss == "cross_entropy"
    assert family.architecture(5, {"width": 3, "other": "x"}).settings == {"depth": 2, "width": 3, "other": "x"}
    with pytest.raises(ConfigError, match=r"settings\.width: is required"):
        resolve("plain:net", 5)
    with pytest.raises(ConfigError, match=r"settings\.width"):
        resolve("plain:net", 5, {"width": [1]})


# What a task reads.


A, B, C, D = (letter * 64 for letter in "abcd")
DATA = DataSource(spec="x:y", content_digest="e" * 64, code=B)
NET = Architecture(family="m:n", num_classes=3, code=A)
TEACHER = TeacherReference(architecture=Architecture(family="m:o", num_classes=3, code=D), weights="f" * 64)
TAUGHT = Distillation(objectives=(Own(path="m:p", code=C), Own(path="m:q", code=C)))


def test_a_task_says_what_code_it_runs() -> None:
    train = Train(architecture=NET, data=DATA)
    assert list(train.reads()) == [("runs code", A), ("runs code", B)]
    assert codes_of(train.replace(data=DATA.replace(code=A))) == (A,)
    assert codes_of(Train(architecture=NET.replace(family="unet", code=""), data=DATA.replace(code=""))) == ()
    distill = Distill(architecture=NET, data=DATA, teachers=(TEACHER,), distillation=TAUGHT)
    assert codes_of(distill) == (A, B, C)
    assert ("is taught by code", D) in distill.references() and D not in dict(distill.reads()).values()
    same = distill.replace(teachers=(TEACHER.replace(architecture=NET),))
    assert "is taught by code" not in dict(same.references())
    partner = Partner(architecture=NET.replace(code=D), recipe=Recipe(), seed=3)
    assert codes_of(Mutual(architecture=NET, data=DATA, partners=(partner,), distillation=TAUGHT)) == (A, B, C)
    average = Average(architecture=NET, data=DATA, teachers=(TEACHER.replace(architecture=NET),))
    assert codes_of(average) == (A, B)
    assess = Assess(architecture=NET, data=DATA, initial_weights="1" * 64, home=DATA.replace(code=D))
    assert codes_of(assess) == (A, B, D)


def test_code_is_part_of_the_key_and_of_what_a_teacher_is_asked() -> None:
    train = Train(architecture=NET, data=DATA)
    other = [
        train.replace(architecture=NET.replace(code=C)),
        train.replace(data=DATA.replace(code=C)),
        train.replace(architecture=NET.replace(code="")),
    ]
    assert len({task.key for task in (train, *other)}) == 4
    assert all(read_task(task.canonical()) == task for task in (train, *other))
    lesson = Distill(architecture=NET, data=DATA, teachers=(TEACHER,), distillation=TAUGHT)
    edited_teacher = TEACHER.replace(architecture=TEACHER.architecture.replace(code=A))
    assert lesson.lesson_digest(TEACHER) != lesson.lesson_digest(edited_teacher)
    goals = lesson.replace(distillation=TAUGHT.replace(objectives=(Own(path="m:p", code=D),)))
    assert goals.key != lesson.key and goals.lesson_digest(TEACHER) == lesson.lesson_digest(TEACHER)


@pytest.mark.parametrize("code", ["x", "A" * 64, "a" * 63])
def test_what_is_no_digest_names_no_code(code: str) -> None:
    with pytest.raises(ValueError, match="code"):
        Architecture(family="m:n", num_classes=2, code=code)


def test_an_objective_is_given_its_code_once() -> None:
    asked: list[str] = []

    def find(path: str) -> str:
        asked.append(path)
        return A

    given = Distillation(objectives=(Own(path="m:p"), Own(path="m:q", code=B), agentkd.SoftTargets()))
    filled = given.with_code(find)
    assert asked == ["m:p"] and filled.codes == (A, B) and filled.objectives[2] == agentkd.SoftTargets()


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        (SCENES, ()),
        ("my_data:scenes", ("my_data:scenes",)),
        ("few:3:unlabelled:my.data:scenes", ("my.data:scenes",)),
        ("only:fire+smoke:my.data:scenes", ("my.data:scenes",)),
        ("joined:my.data:a|generated:seed=1|few:2:my.data:b|my.data:a", ("my.data:a", "my.data:b")),
        ("folder:path=my.data:a", ()),
        ("folders:path=x", ()),
        ("nothing", ()),
        ("", ()),
    ],
)
def test_the_own_datasets_of_a_specification_are_found_without_opening_any(spec: str, names: tuple[str, ...]) -> None:
    assert own_names(spec) == names


def test_several_own_datasets_are_in_one_code(mine: Path) -> None:
    text = "from agentkd.datasets.opening import open_dataset\ndef scenes():\n    return open_dataset('{}')\n"
    (mine / "one.py").write_text(text.format(SPEC))
    (mine / "two.py").write_text(text.format(SPEC.replace("seed=5", "seed=6")))
    joined = open_dataset("joined:one:scenes|few:2:two:scenes")
    assert sorted(loading.provided(joined.code).files) == ["one.py", "two.py"] and len(joined.splits["train"]) == 18
    assert open_again(joined.spec, joined.code).digest == joined.digest


# From the store, and where it may run.


def test_code_is_kept_where_it_was_named_and_let_run_where_it_is_wanted(mine: Path, tmp_path: Path) -> None:
    store, code = Store(tmp_path / "store"), take("my_nets:Small")
    task = Train(architecture=resolve("my_nets:Small", 5, code=code), data=DATA)
    keep_code(task, store)
    assert code in store and B not in store, "what nobody here has named is not there"
    text = "from torch import nn\ndef net(num_classes):\n    return nn.Conv2d(3, num_classes, 1)\n"
    foreign = SourceCode(files={"theirs.py": text})
    store.put(foreign.encode())
    assert not loading.is_provided(foreign.digest)
    let_run([foreign.digest], store)
    assert build(Architecture(family="theirs:net", num_classes=3, code=foreign.digest))
    with pytest.raises(ArtifactError, match="should be code is none"):
        let_run([store.put(b"{}")], store)
    with pytest.raises(ConfigError, match="was not provided"):
        loading.provided(B)


# Experiments.


def experiment(**changes: Any) -> Any:
    small = {"search": EXPERIMENT["search"] | {"trials": 2}, "families": ["my_nets:Small"]}
    return check_experiment(yaml.safe_load(yaml.safe_dump(EXPERIMENT | small | changes)), source="test")


def test_a_plan_takes_the_code_of_when_the_run_began_and_is_made_again_without_running_any(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goal = {"epochs": 2, "distillation": {"objectives": [{"kind": "own", "path": "my_goals:Near"}]}}
    given = experiment(round1=goal | {"teachers": "best"})
    own, dataset = own_parts.take_up(given)
    assert own.codes == {"my_nets:Small": take("my_nets:Small"), "my_goals:Near": take("my_goals:Near")}
    assert not dataset.code and own.family("my_nets:Small").defaults == {"width": 8}
    with pytest.raises(ConfigError, match="older agentkd"):
        own.family("my_nets:Large")
    again = own_parts.OwnParts.model_validate(json.loads(json.dumps(own.canonical())))
    assert again == own


def test_a_run_whose_files_were_edited_says_which_and_goes_on_with_what_they_are_now(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The agents are not needed: what is planned is looked at, and then the run is stopped."""
    (mine / "my_data.py").write_text(
        f"from agentkd.datasets.opening import open_dataset\ndef scenes():\n    return open_dataset('{SPEC}')\n"
    )

    class StopHere(Exception):
        pass

    def stop(self: object) -> None:
        raise StopHere

    monkeypatch.setattr("agentkd.coordinator.run._Coordinator.run", stop)
    given, place = experiment(data={"dataset": "my_data:scenes"}), tmp_path / "run"
    for _ in range(2):
        with pytest.raises(StopHere):
            run_experiment(given, place)
    run, planner, outlook, journal = read_run(RunFolder(place))
    journal.close() if hasattr(journal, "close") else journal.__exit__(None, None, None)
    assert run == given and outlook.steps[0].task.data.code == planner.dataset.code != NO_DIGEST
    _ = [name for name in edited(mine) if name == "network"]
    with pytest.raises(StopHere):
        run_experiment(given, place)
    assert "corrected: my_nets:Small: its code has changed (my_nets.py, my_parts.py) since this run was begun" in caplog.text
    _, _, corrected, journal = read_run(RunFolder(place))
    with journal:
        (before,) = generations.earlier(journal)
    assert before.planner().outlook({}).steps[0].key == outlook.steps[0].key != corrected.steps[0].key
    monkeypatch.setattr(loading, "is_provided", lambda code: False)
    monkeypatch.setattr(loading, "load", None)
    _, planner, again, journal = read_run(RunFolder(place))
    journal.__exit__(None, None, None)
    assert [step.key for step in again.steps] == [step.key for step in corrected.steps]
    assert not planner.dataset.has_samples and planner.dataset.classes
    with pytest.raises(DatasetError, match="only known by its outline"):
        planner.dataset.sample(0)


def test_a_run_of_before_is_packed_and_not_replayed(tmp_path: Path) -> None:
    data = DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest)
    tasks = [
        Train(architecture=Architecture(family=family, num_classes=5), data=data) for family in ("tiny_networks:tiny", "unet")
    ]
    folder = RunFolder(tmp_path / "run")
    with Journal(folder.journal) as journal:
        journal.set_meta("experiment", experiment(families=["tiny_networks:tiny", "unet"]).canonical())
        for task in tasks:
            weights = folder.store.put(task.key.encode())
            journal.commit(
                Record(task, TaskResult(status=Status.COMPLETED, weights=weights), "agent-1", 1, task.architecture.family)
            )
    assert len(final_networks(folder, read_history(folder))) == 2
    assert write_bundle(folder, tmp_path / "old.zip").code == ()
    with pytest.raises(ConfigError, match="tiny_networks:tiny: this run is of an older version"):
        what_runs(folder, ReplayOptions(allows_code=True))
    assert what_runs(folder, ReplayOptions(tasks=(tasks[1].key,))) == ()
    with pytest.raises(ConfigError, match="older agentkd"):
        read_run(folder)


def test_metadata_of_a_bundle_say_that_code_is_code(mine: Path, tmp_path: Path) -> None:
    script(Community(devices="cpu:1", record=tmp_path / "run"))
    written = write_bundle(RunFolder(tmp_path / "run"), tmp_path / "run.zip", "records")
    assert [sorted(one.lines) for one in written.code] == [["my_nets.py", "my_parts.py"], ["my_goals.py"]]
    with zipfile.ZipFile(tmp_path / "run.zip") as archive:
        graph = json.loads(archive.read("ro-crate-metadata.json"))["@graph"]
    kinds = {entity["@id"]: entity["@type"] for entity in graph}
    for one in written.code:
        assert kinds[f"artifacts/{one.digest[:2]}/{one.digest}.safetensors"] == ["File", "SoftwareSourceCode"]
        assert str(one).startswith(f"code {one.digest} of my_")


def test_what_is_shown_of_others_code_is_on_one_line() -> None:
    listing = Listing(A, ("m:n\n  code of nobody",), {"m.py": 1})
    assert str(listing) == f"code {A} of m:n\\n  code of nobody: m.py (1 line)"
    assert str(Listing(A, ("m:n",), {})) == f"code {A} of m:n: its source is not here"
