"""The plain agent of the examples refuses what it does not know of a recipe: it must not train as if that were not there."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentkd.architecture import Architecture
from agentkd.recipe import Recipe
from agentkd.task import DataSource, Train

FOLDER = Path(__file__).parents[2] / "examples" / "plain_agent"
SCRIPT = """
import json, sys
import network, wire
try:
    task = json.load(sys.stdin)
    task["architecture"]["code"] = network.CODE
    network.must_be_known(task)
except wire.Refusal as refusal:
    print(*refusal.args)
"""


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, ""),
        ({"loss": "cross_entropy"}, ""),
        ({"class_weights": "inverse"}, "no fields of later versions"),
        ({"class_weights": [1, 2]}, "no fields of later versions"),
        ({"sampler": "rare_class"}, "no fields of later versions"),
        ({"channels_last": True}, "no fields of later versions"),
        ({"loss": "ohem"}, "cross-entropy over all pixels"),
    ],
)
def test_a_recipe_with_what_it_does_not_know_is_refused(fields: dict[str, Any], said: str) -> None:
    architecture = Architecture(family="pixels:linear", num_classes=2, code="ab" * 32)
    task = Train(architecture=architecture, data=DataSource(spec="s", content_digest="d" * 64), recipe=Recipe(**fields))
    command = [sys.executable, "-c", SCRIPT]
    told = task.model_dump_json()
    done = subprocess.run(command, input=told, cwd=FOLDER, capture_output=True, text=True, check=True, timeout=120)
    assert (said in done.stdout) if said else not done.stdout.strip()
