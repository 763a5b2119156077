"""Published datasets are opened by exactly the ``dataset.yaml`` that the documents give, and each image has its own label."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from data_layouts import DOCUMENTED, LAYOUTS, PAGE

from agentkd.datasets.opening import open_dataset


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_published_dataset_is_read_by_the_documented_description(tmp_path: Path, name: str) -> None:
    truth = LAYOUTS[name](tmp_path)
    (tmp_path / "dataset.yaml").write_text(DOCUMENTED[name], encoding="utf-8")
    data = open_dataset(f"folder:path={tmp_path}")
    data.check()
    found = {split: {data.sample(index).name: index for index in indices} for split, indices in data.splits.items()}
    assert {split: sorted(names) for split, names in found.items()} == {split: sorted(names) for split, names in truth.items()}
    for split, labels in truth.items():
        for sample, label in labels.items():
            assert np.array_equal(data.sample(found[split][sample]).label, label), sample


@pytest.mark.parametrize("name", LAYOUTS)
def test_nothing_of_a_published_dataset_is_left_over_but_what_the_page_says(tmp_path: Path, name: str) -> None:
    LAYOUTS[name](tmp_path)
    (tmp_path / "dataset.yaml").write_text(DOCUMENTED[name], encoding="utf-8")
    left_over = [text for text in open_dataset(f"folder:path={tmp_path}").notices if "left over" in text]
    says = re.search(rf"^\| \[{re.escape(name)}\].*\| (.*?) \|$", PAGE, re.MULTILINE)
    assert says is not None and bool(left_over) == (says[1] != "nothing"), (left_over, says[1])


def test_the_page_has_a_row_and_a_description_for_each() -> None:
    rows = re.findall(r"^\| \[([^\]]+)\]", PAGE, re.MULTILINE)
    assert rows == list(LAYOUTS) == list(DOCUMENTED)
    assert all(yaml.safe_load(text)["name"] for text in DOCUMENTED.values())
