"""A name means one thing. What happens to a machine, what it decides or is told is named within it: ``events.Ended``."""

import ast
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "agentkd"
MACHINES = {"agents/questions.py", "artifacts/feed.py", "coordinator/events.py", "exchange/sessions.py"}
SAME_AGAIN = {"Community"}  # that of agentkd.testing is one, in one process


def test_no_two_classes_have_the_same_name() -> None:
    places = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        place = str(path.relative_to(PACKAGE))
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and place not in MACHINES:
                places[node.name].add(place)
    assert len(places) > 200
    assert {name: where for name, where in places.items() if len(where) > 1 and name not in SAME_AGAIN} == {}
