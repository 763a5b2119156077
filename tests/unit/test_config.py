"""The experiment file: all problems at once, with their paths, before anything starts."""

import re
from pathlib import Path

import pytest
import yaml

from agentkd.cli.app import read_settings
from agentkd.config import apply_override, demo_file, dump_experiment, launch_settings, load_experiment
from agentkd.errors import ConfigError
from agentkd.experiment import build_recipe
from agentkd.launch.devices import parse_devices
from agentkd.search.settings import SearchConfig

GOOD = {
    "name": "t",
    "data": {"dataset": "generated:seed=1,size=32x32,train=8,validation=4,test=4"},
    "families": ["unet", "pidnet_s"],
}


def write(tmp_path: Path, data: object) -> Path:
    path = tmp_path / "experiment.yaml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return path


def test_a_short_file_is_enough_and_is_written_back_whole(tmp_path) -> None:
    experiment = load_experiment(write(tmp_path, GOOD))
    assert list(experiment.families) == ["unet", "pidnet_s"]
    assert experiment.baseline.epochs == 120 and experiment.search.epochs == 50
    assert load_experiment(write(tmp_path, dump_experiment(experiment))) == experiment


def test_unknown_key_wrong_type_and_missing_file_are_reported_together(tmp_path) -> None:
    data = GOOD | {
        "serach": {},
        "baseline": {"epochs": "many"},
        "data": {"dataset": "folder:path=/nowhere/at/all"},
        "recipe": {"learning_rat": 1},
        "families": {"resnet": None, "unet": {"settings": {"dept": 3}}},
        "round1": {"recipe": {"batch_size": 1}},
    }
    with pytest.raises(ConfigError) as caught:
        load_experiment(write(tmp_path, data))
    found = {problem.path: problem.text for problem in caught.value.problems}
    assert found["serach"] == "unknown key; did you mean 'search'?"
    assert "valid integer" in found["baseline.epochs"]
    assert "no such folder" in found["data.dataset"]
    assert "unknown key" in found["recipe.learning_rat"]
    assert "no family 'resnet'" in found["families.resnet"]
    assert "unknown setting" in found["families.unet.settings.dept"]
    assert "greater than or equal to 2" in found["round1.recipe.batch_size"]
    assert str(tmp_path) in str(caught.value)


def test_an_empty_or_missing_split_is_a_problem_of_the_file(tmp_path) -> None:
    data = GOOD | {"data": {"dataset": "generated:seed=1,train=8,validation=0", "test": "exam"}}
    with pytest.raises(ConfigError) as caught:
        load_experiment(write(tmp_path, data))
    assert [problem.path for problem in caught.value.problems] == ["data.validation", "data.test"]


@pytest.mark.parametrize("text", ["- a list", "a: [", ""])
def test_what_is_no_mapping_is_refused(tmp_path, text) -> None:
    with pytest.raises(ConfigError):
        load_experiment(write(tmp_path, text))


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"cannot read experiment file nowhere\.yaml"):
        load_experiment(Path("nowhere.yaml"))


def test_overrides_reach_into_the_file(tmp_path) -> None:
    given = ["baseline.epochs=3", "families.unet.settings.base=16", "search.pruning=null"]
    experiment = load_experiment(write(tmp_path, GOOD), given)
    assert experiment.baseline.epochs == 3
    assert experiment.families["unet"].settings == {"base": 16} and "pidnet_s" in experiment.families
    assert experiment.search.pruning is None
    with pytest.raises(ConfigError, match=r"expected a\.b=value"):
        load_experiment(write(tmp_path, GOOD), ["nonsense"])


def test_a_recipe_is_published_then_experiment_then_family_then_stage(tmp_path) -> None:
    data = GOOD | {"recipe": {"batch_size": 8, "learning_rate": 0.5}, "families": {"unet": {"recipe": {"learning_rate": 0.25}}}}
    recipe = build_recipe(load_experiment(write(tmp_path, data)), "unet", epochs=7)
    assert (recipe.optimizer, recipe.batch_size, recipe.learning_rate, recipe.epochs) == ("adamw", 8, 0.25, 7)


@pytest.mark.parametrize("name", ["demo", "quick", "paper", "camvid_cpu", "camvid_gpu"])
def test_the_examples_are_valid_but_for_data_that_one_may_not_have(examples, name) -> None:
    try:
        experiment = load_experiment(examples / f"{name}.yaml", ["data.dataset=generated:seed=1,size=64x64,train=8"])
    except ConfigError as error:
        pytest.fail(str(error))
    every = ["pidnet_s", "pidnet_m", "pidnet_l", "unet", "cnn_i2i_bisenet"]
    some = {"demo": ["pidnet_s", "unet"], "quick": ["unet", "unetpp"], "camvid_cpu": ["pidnet_s", "unet", "cnn_i2i_bisenet"]}
    assert list(experiment.families) == some.get(name, every)


def test_the_experiment_for_a_gpu_keeps_the_papers_proportion_and_says_how_much_it_is(examples) -> None:
    gpu = load_experiment(examples / "camvid_gpu.yaml", ["data.dataset=generated:seed=1,size=64x64,train=8"])
    epochs = (gpu.baseline.epochs, gpu.search.epochs, gpu.round1.epochs, gpu.round2.epochs)
    assert [round(120 * one / epochs[0]) for one in epochs] == [120, 50, 50, 50]
    assert gpu.control and gpu.seeds == 3
    assert all(build_recipe(gpu, family).precision == "bfloat16" for family in gpu.families)
    assert [slot.device for slot in parse_devices(gpu.launch.devices, cores=16, cuda_count=1)] == ["cuda:0"] * 3
    whole_batches = 305 // build_recipe(gpu, "unet").batch_size * build_recipe(gpu, "unet").batch_size
    lessons = 2 * (gpu.round1.students * gpu.round1.epochs + gpu.round2.epochs)
    of_a_seed = sum(gpu.baseline.epochs + gpu.trials(family) * gpu.search.epochs + lessons for family in gpu.families)
    of_a_seed -= 2 * gpu.round2.epochs  # the family that teaches the others learns from nobody
    said = re.search(r"At most ([0-9,]+) images", (examples / "camvid_gpu.yaml").read_text())
    assert round(gpu.seeds * of_a_seed * whole_batches, -3) == int(said[1].replace(",", ""))


def test_the_papers_experiment_has_the_papers_numbers(examples) -> None:
    paper = load_experiment(examples / "paper.yaml", ["data.dataset=generated:seed=1,size=64x64,train=8"])
    epochs = (paper.baseline.epochs, paper.search.epochs, paper.round1.epochs, paper.round2.epochs)
    assert epochs == (120, 50, 50, 50)
    assert build_recipe(paper, "pidnet_s").batch_size == 4
    assert paper.round2.teachers == "largest"
    assert not paper.round2.distillation.objectives[0].scale_by_temperature_squared
    assert paper.search == SearchConfig(trials=40, lag=4), "but for these, a search is the paper's unless it is told otherwise"


@pytest.mark.parametrize(("field", "known"), [("engine", "local"), ("transport", "auto, shared, store, ipc, tcp")])
def test_an_engine_or_transport_that_is_not_in_its_table_is_refused_with_those_that_are(field: str, known: str) -> None:
    with pytest.raises(ConfigError, match=f"there are {known}"):
        launch_settings({field: "warp"})


@pytest.mark.parametrize("value", ["[" * 5_000, "2001-99-99", "&a [*a]", "!!python/name:os.system x", "'"])
def test_a_value_that_cannot_be_read_is_a_problem_of_its_option(value: str) -> None:
    with pytest.raises(ConfigError, match=r"--set .seed="):
        apply_override({}, f"seed={value}")
    with pytest.raises(ConfigError, match=r"--set .seed="):
        read_settings([f"seed={value}"])


@pytest.mark.parametrize(
    "override",
    [
        "baseline.epochs=1000000000.0",
        "search.epochs=100001",
        "round1.epochs=100001",
        "recipe.warmup_steps=1000000000000000000000000000000",
        "recipe.validate_every=1000000000000000000000000000000",
        "recipe.steps_per_epoch=1e30",
        "round1.students=1000000000000000000000000000000",
        "search.trials=1000000000000",
        "search.lag=10000000000000000000000",
    ],
)
def test_no_number_is_larger_than_a_run_can_have(override: str) -> None:
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        load_experiment(demo_file(), [override])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("..", "is there already"),
        (".", "is there already"),
        (" ", "names nothing"),
        ("../../evil", "with / is a path"),
        ("a/b", "with / is a path"),
        ("/tmp/evil", "with / is a path"),
        ("a\nb", "control or hide"),
        ("a\tb", "control or hide"),
        ("a\x00b", "control or hide"),
        ("a\x1b[2J", "control or hide"),
        ("a\u202eb", "control or hide"),
        ("\u00e9\U0001d11e" * 40, "240 bytes; 200 are the most"),
    ],
)
def test_a_name_that_no_folder_can_have_is_a_problem_of_the_name(tmp_path, name: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment(write(tmp_path, GOOD | {"name": name}))
    assert [(problem.path, told in problem.text) for problem in caught.value.problems] == [("name", True)]


@pytest.mark.parametrize("name", ["caf\u00e9 2", "..a", "a.b-c_d", "\u6751" * 66])
def test_a_name_of_a_folder_is_one(tmp_path, name: str) -> None:
    assert load_experiment(write(tmp_path, GOOD | {"name": name})).name == name


@pytest.mark.parametrize("value", [7, 0, "many"])
def test_epochs_in_a_recipe_are_refused_with_where_they_are_said(tmp_path, value: object) -> None:
    recipe = {"recipe": {"epochs": value}}
    data = GOOD | recipe | {"families": {"unet": recipe}, "round1": recipe, "round2": recipe}
    with pytest.raises(ConfigError) as caught:
        load_experiment(write(tmp_path, data))
    found = {problem.path: problem.text for problem in caught.value.problems}
    assert list(found) == [f"{part}recipe.epochs" for part in ("", "families.unet.", "round1.", "round2.")]
    assert "baseline.epochs, search.epochs" in found["recipe.epochs"] == found["families.unet.recipe.epochs"]
    assert "round2.epochs says it; leave it out here" in found["round2.recipe.epochs"]


def test_each_parameter_that_is_searched_has_its_own_problem_whatever_the_others_have(tmp_path) -> None:
    space = {
        "learning_rat": {"low": 0.1, "high": 0.2},
        "momentum": {"values": []},
        "weight_decay": {"low": 0.5, "high": 0.1},
        "batch_size": 4,
        "power": {"low": "x", "high": 2},
    }
    data = GOOD | {"search": {"recipe_space": space}, "families": {"unet": {"recipe_space": {"zzz": {"values": [1]}}}}}
    with pytest.raises(ConfigError) as caught:
        load_experiment(write(tmp_path, data))
    assert "function-" not in str(caught.value) and len(caught.value.problems) == 6
    found = {problem.path: problem.text for problem in caught.value.problems}
    assert "did you mean 'learning_rate'?" in found["search.recipe_space.learning_rat"]
    assert "at least 1 item" in found["search.recipe_space.momentum.values"]
    assert "low 0.5 is not below high 0.1" in found["search.recipe_space.weight_decay"]
    assert "expected low and high" in found["search.recipe_space.batch_size"]
    assert "valid number" in found["search.recipe_space.power.low"]
    assert "known: epochs" in found["families.unet.recipe_space.zzz"]


def test_a_field_of_a_recipe_that_is_spelled_nearly_so_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"recipe\.learning_rat: unknown key; did you mean 'learning_rate'\?"):
        load_experiment(write(tmp_path, GOOD | {"recipe": {"learning_rat": 1}}))


@pytest.mark.parametrize(("listed", "told"), [(["unet", "unet"], "[unet]"), (["unet", "pidnet_s", "unet"], "[unet, pidnet_s]")])
def test_a_family_that_is_listed_twice_is_not_merged_in_silence(tmp_path, listed: list[str], told: str) -> None:
    path = write(tmp_path, GOOD | {"families": listed, "baseline": {"epochs": "many"}})
    with pytest.raises(ConfigError) as refused:
        load_experiment(path)
    said = str(refused.value)
    assert f"families: unet is listed more than once, and a family is searched once; write families: {told}" in said
    assert "baseline.epochs" in said, "the others are told as well"
    with pytest.raises(
        ConfigError, match=r"--set 'families\.unet\.recipe\.momentum=0\.8': families: unet is listed more than once"
    ):
        load_experiment(path, ["families.unet.recipe.momentum=0.8"])


@pytest.mark.parametrize("part", ["round1", "round2"])
def test_an_objective_that_is_there_twice_would_count_double(tmp_path, part: str) -> None:
    twice = [
        {"kind": "soft_targets", "temperature": 3},
        {"kind": "dist"},
        {"kind": "soft_targets", "temperature": 3.0, "weight": 1},
    ]
    place = rf"{part}\.distillation\.objectives\.2: soft_targets is there before, the same in all, so it counts double"
    with pytest.raises(ConfigError, match=place):
        load_experiment(write(tmp_path, GOOD | {part: {"distillation": {"objectives": twice}}}))
    several = [*twice[:2], twice[2] | {"temperature": 1}]
    assert load_experiment(write(tmp_path, GOOD | {part: {"distillation": {"objectives": several}}}))
