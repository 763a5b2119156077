"""A user's files, with the three edits that must show, and the script that uses them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments import SPEC

import agentkd
from agentkd.artifacts.journal import Journal, Record

FILES = {
    "my_nets.py": """
from torch import nn

from my_parts import first


class Small(nn.Module):
    def __init__(self, num_classes, width=8):
        super().__init__()
        self.body = nn.Sequential(first(width), nn.ReLU())
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, images):
        return self.head(self.body(images))
""",
    "my_parts.py": """
from torch import nn


def first(width):
    return nn.Conv2d(3, width, 3, padding=1)
""",
    "my_goals.py": """
class Near:
    def loss(self, student, teacher, moment):
        valid = moment.valid(teacher["logits"].shape[-2:])
        each = (student["logits"].float() - teacher["logits"].float()).abs().mean(dim=1)
        return (each * valid).sum() / valid.sum().clamp(min=1) * 1
""",
}
EDITS = {
    "network": ("my_nets.py", "nn.ReLU()", "nn.Tanh()"),
    "objective": ("my_goals.py", "* 1\n", "* -100\n"),
    "helper": ("my_parts.py", "padding=1)", "padding=1, bias=False)"),
}
VIEWS = agentkd.ViewSettings(crop_height=32, crop_width=32)
RECIPE: dict[str, Any] = {"epochs": 1, "steps_per_epoch": 3, "batch_size": 4, "learning_rate": 0.05, "views": VIEWS}


def write(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def edited(folder: Path) -> Iterator[str]:
    """The names of the edits, each made when it is reached, one on top of the other; first of none."""
    yield "none"
    for name, (file, old, new) in EDITS.items():
        text = (folder / file).read_text(encoding="utf-8")
        assert old in text
        (folder / file).write_text(text.replace(old, new), encoding="utf-8")
        yield name


def script(community: agentkd.Community) -> str:
    """Digest of the weights of a student."""
    with community:
        teacher = community.agent("teacher", "unet", base=8, depth=2)
        teacher.train(SPEC, **RECIPE).result()
        student = community.agent("student", "my_nets:Small")
        return student.distill(teacher, SPEC, [agentkd.Own(path="my_goals:Near")], **RECIPE).result(timeout=120).weights


def records(place: Path) -> list[Record]:
    with Journal(place / "journal.sqlite", read_only=True) as journal:
        return list(journal.records())
