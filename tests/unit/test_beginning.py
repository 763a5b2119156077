"""A commented experiment file from a dataset, and the JSON Schema by which editors check one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from command_lines import typed
from experiments import EXPERIMENT
from PIL import Image

from agentkd import canonical
from agentkd.checks.beginning import as_text, suggest
from agentkd.config import load_experiment, look_through
from agentkd.plain import read_yaml
from agentkd.report.experiment_schema import NAME, experiment_schema, modeline

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").rglob("*.yaml"))


def photos(
    place: Path,
    *,
    size: tuple[int, int] = (96, 72),
    splits: tuple[str, ...] = ("train", "validation"),
    count: int = 6,
    rare: int = 99,
) -> Path:
    rng = np.random.default_rng(1)
    for split in splits:
        for kind in ("images", "masks"):
            (place / kind / split).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / "images" / split / f"{split}{number}_0.png")
            Image.fromarray((pixels[:, :, 0] > rare).astype(np.uint8)).save(place / "masks" / split / f"{split}{number}_0.png")
    (place / "dataset.yaml").write_text("name: my fires\nclasses: [ground, fire]\n")
    return place


def test_an_experiment_is_made_for_a_folder_and_a_dry_run_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos")
    done = typed("init", "photos", "mine.yaml")
    assert done.status == 0, done.err
    text = (tmp_path / "mine.yaml").read_text()
    assert text.startswith(f"# yaml-language-server: $schema=./{NAME}\n")
    assert json.loads((tmp_path / NAME).read_text()) == experiment_schema()
    for said in (
        "train 6, validation 6",
        "2 classes: ground, fire",
        "Images are 96x72 pixels",
        "crops of 96x64",
        "no split 'test'",
    ):
        assert said in text, said
    experiment = load_experiment("mine.yaml")
    assert experiment.data.dataset == "folder:path=photos" and experiment.data.test == ""
    assert (experiment.recipe["views"]["crop_width"], experiment.recipe["views"]["crop_height"]) == (96, 64)
    assert "agentkd run mine.yaml --dry-run" in done.out
    dry = typed("run", "mine.yaml", "--dry-run", "--format", "json")
    assert dry.status == 0 and "warning" not in dry.err, dry.err
    assert json.loads(dry.out)["num_left"] > 0 and sorted(path.name for path in tmp_path.iterdir()) == [
        NAME,
        "mine.yaml",
        "photos",
    ]


def test_nothing_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos")
    (tmp_path / "mine.yaml").write_text("mine")
    done = typed("init", "photos", "mine.yaml")
    assert done.status == 2 and "mine.yaml is there already" in done.err and (tmp_path / "mine.yaml").read_text() == "mine"
    (tmp_path / NAME).write_text('{"$id": "somebody else"}')
    done = typed("init", "photos", "other.yaml")
    assert done.status == 2 and f"{NAME} is there already, and is no schema of agentkd" in done.err
    assert not (tmp_path / "other.yaml").exists()
    (tmp_path / NAME).write_text('{"$id": "urn:agentkd:experiment:0.0.1"}')
    assert typed("init", "photos", "other.yaml").status == 0, "an older one of ours is renewed"
    assert json.loads((tmp_path / NAME).read_text()) == experiment_schema()


def test_without_a_name_it_is_called_as_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos")
    assert json.loads(typed("init", "photos", "--format", "json").out)["file"] == "my-fires.yaml"
    assert load_experiment("my-fires.yaml").name == "my-fires"


def test_without_a_validation_split_a_quarter_of_train_is_held_out(tmp_path: Path) -> None:
    made, found = suggest(str(photos(tmp_path / "photos", splits=("train", "test"), count=8)), device="cpu")
    assert made is not None and made.dataset.endswith(",holdout=0.25") and made.test == "test"
    assert {split.name for split in found.splits} == {"train", "validation", "test"}
    assert "a quarter of 'train' is held out" in as_text(made, "#", Path("x.yaml"))


def test_a_gpu_has_larger_crops_more_trials_and_more_families(tmp_path: Path) -> None:
    place = str(photos(tmp_path / "photos", size=(700, 600), count=2))
    cpu, gpu = (suggest(place, device=device)[0] for device in ("cpu", "cuda"))
    assert cpu and gpu and cpu.crop == (128, 128) and gpu.crop == (512, 512)
    assert cpu.trials < gpu.trials and set(cpu.families) < set(gpu.families)
    assert gpu.batch_size == 2, "there are two images to learn from"
    assert cpu.epochs["baseline"] * 5 // 12 == cpu.epochs["search"] == cpu.epochs["round2"]


def test_rare_classes_and_other_channels_are_pointed_out(tmp_path: Path) -> None:
    rare, _ = suggest(str(photos(tmp_path / "photos", rare=254)), device="cpu")
    assert rare is not None and "Under 1 % of the pixels are fire." in as_text(rare, "#", Path("x.yaml"))
    made, _ = suggest("generated:seed=7,size=32x32,train=8,validation=4,test=4,channels=4", device="cpu")
    assert made is not None
    text = as_text(made, "#", Path("x.yaml"))
    assert "Images have the channels" in text
    assert look_through(read_yaml(text)).problems == ()


def test_data_that_a_run_would_refuse_get_no_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = photos(tmp_path / "photos")
    (place / "images" / "train" / "train0_0.png").write_bytes(b"no image")
    done = typed("init", "photos", "mine.yaml")
    assert done.status == 1 and "FAIL photos/images/train/train0_0.png" in done.out and "no experiment was written" in done.out
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    found = json.loads(typed("init", "photos", "--format", "json").out)
    assert found["file"] is None and len(found["problems"]) == 1
    assert typed("init", "nowhere").status == 17


def test_what_data_are_called_does_nothing_in_the_file(tmp_path: Path) -> None:
    place = photos(tmp_path / "photos")
    (place / "dataset.yaml").write_text('name: "x: [y"\nclasses: ["a\\u2028b: c", "fire # smoke"]\n')
    made, found = suggest(str(place), device="cpu")
    assert made is not None, found.problems
    read = read_yaml(as_text(made, modeline(f"./{NAME}"), Path("a b.yaml")))
    assert look_through(read).problems == () and "agentkd run 'a b.yaml'" in as_text(made, "#", Path("a b.yaml"))


class Invalid(Exception):
    """Data are not as the schema says."""


def validate(value: Any, part: dict[str, Any], schema: dict[str, Any]) -> None:
    """Of JSON Schema what the experiment's uses, and no more."""
    known = {
        "$ref",
        "$schema",
        "$id",
        "$defs",
        "title",
        "description",
        "default",
        "type",
        "enum",
        "const",
        "anyOf",
        "oneOf",
        "items",
    }
    known |= {
        "properties",
        "additionalProperties",
        "required",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "pattern",
    }
    known |= {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "uniqueItems", "discriminator"}
    known |= {"propertyNames", "format", "patternProperties"}
    assert set(part) <= known, set(part) - known
    if "$ref" in part:
        validate(value, schema["$defs"][part["$ref"].rpartition("/")[2]], schema)
    kinds: dict[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    kinds |= {"integer": int, "number": (int, float)}
    if "type" in part:
        is_kind = isinstance(value, kinds[part["type"]]) and not (
            isinstance(value, bool) and part["type"] in ("integer", "number")
        )
        if not is_kind:
            raise Invalid(f"{value!r} is no {part['type']}")
    if value not in part.get("enum", [value]) or value != part.get("const", value):
        raise Invalid(f"{value!r} is not known")
    for way in ("anyOf", "oneOf"):
        if way in part:
            fits = []
            for option in part[way]:
                try:
                    validate(value, option, schema)
                    fits.append(option)
                except Invalid:
                    continue
            if not fits or (way == "oneOf" and len(fits) > 1):
                raise Invalid(f"{value!r} fits {len(fits)} of {way}")
    if isinstance(value, dict) and ("properties" in part or "additionalProperties" in part):
        lacking = set(part.get("required", ())) - set(value)
        if lacking:
            raise Invalid(f"lacks {lacking}")
        for name, inner in value.items():
            one = part.get("properties", {}).get(name, part.get("additionalProperties", True))
            if one is False:
                raise Invalid(f"{name} is no field")
            if isinstance(one, dict):
                validate(inner, one, schema)
        for inner in value.values() if "patternProperties" in part else ():
            for one in part["patternProperties"].values():
                validate(inner, one, schema)
    if isinstance(value, list) and "items" in part:
        for inner in value:
            validate(inner, part["items"], schema)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and not part.get("minimum", value) <= value <= part.get("maximum", value):
        raise Invalid(f"{value} is out of range")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_as_the_schema_says(path: Path) -> None:
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "families" in found:
        validate(found, experiment_schema(), experiment_schema())


def test_an_experiment_with_every_default_written_out_is_too() -> None:
    found = look_through(EXPERIMENT).experiment
    assert found is not None
    validate(json.loads(canonical.encode(found.canonical())), experiment_schema(), experiment_schema())
    validate(EXPERIMENT, experiment_schema(), experiment_schema())


@pytest.mark.parametrize(
    "wrong",
    [
        {"serach": {}},
        {"seed": "x"},
        {"seed": -1},
        {"search": {"trails": 3}},
        {"search": {"pruning": {"kind": "medium"}}},
        {"recipe": {"batchsize": 4}},
        {"recipe": {"epochs": 4}},
        {"recipe": {"optimizer": "adam"}},
        {"families": {"unet": {"recipe": {"lr": 1}}}},
        {"families": 3},
        {"launch": {"engine": "slurm"}},
        {"round1": {"distillation": {"alpha": 2}}},
        {"round1": {"distillation": {"objectives": [{"kind": "soft_target"}]}}},
    ],
    ids=str,
)
def test_what_a_run_refuses_of_a_file_alone_the_schema_does_not_allow(wrong: dict[str, Any]) -> None:
    assert look_through(EXPERIMENT | wrong).problems
    with pytest.raises(Invalid):
        validate(EXPERIMENT | wrong, experiment_schema(), experiment_schema())


def test_fields_have_the_descriptions_of_their_docstrings() -> None:
    schema = experiment_schema()
    search = schema["$defs"]["SearchConfig"]["properties"]
    assert "infeasible" in search["trials"]["description"]
    lacking = [
        f"{part}.{name}"
        for part, one in {"Experiment": schema, **schema["$defs"]}.items()
        for name, field in one.get("properties", {}).items()
        if "description" not in field and name != "kind"
    ]
    assert not lacking, "an editor has nothing to say of these"
    assert "Args:" not in json.dumps(schema) and "``" not in json.dumps(schema["$defs"]["SearchConfig"])
    assert schema["$defs"]["RecipeFields"]["properties"]["clip_norm"]["description"]
    assert "epochs" not in schema["$defs"]["RecipeFields"]["properties"]


def test_the_schema_is_printed_or_written(tmp_path: Path) -> None:
    assert json.loads(typed("schema").out) == experiment_schema()
    done = typed("schema", tmp_path / "s.json")
    assert done.status == 0 and json.loads((tmp_path / "s.json").read_text()) == experiment_schema()
    assert modeline(str(tmp_path / "s.json")) in done.out
    (tmp_path / "mine.json").write_text("{}")
    assert typed("schema", tmp_path / "mine.json").status == 2
    assert typed("schema", tmp_path / "none" / "s.json").status == 16
