"""An engine that gives one agent of two: the work is done by that one, with the weights that two make."""

from pathlib import Path

import pytest
from experiments import SPEC

import agentkd
from agentkd.coordinator.watching import Silent

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]
VIEWS = agentkd.ViewSettings(crop_height=32, crop_width=32)
# As an engine that has no host for the second agent: what stands behind is the agent's own command.
SPARING = """
name=$1
shift
if [ "$name" = agent-2 ]; then
    echo "no host is free" >&2
    exit 3
fi
exec "$@"
"""


class Told(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, line: str) -> None:
        self.lines.append(line)


def weights(place: Path, watcher: Told, **launch: object) -> list[str]:
    with agentkd.Community(record=place, watcher=watcher, **launch) as community:
        students = [community.agent(name, "unet", num_classes=5, base=8, depth=2) for name in ("ann", "bob", "cem")]
        lessons = [student.train(SPEC, epochs=1, batch_size=4, views=VIEWS) for student in students]
        return [str(lesson.result(timeout=200).weights) for lesson in lessons]


def test_what_a_command_gives_too_little_of_is_said_and_the_work_goes_on(tmp_path: Path) -> None:
    (tmp_path / "sparing.sh").write_text(SPARING)
    command = ["sh", str(tmp_path / "sparing.sh"), "{name}"]
    watcher = Told()
    made = weights(tmp_path / "run", watcher, engine="command", agents=2, min_agents=1, options=command)
    assert made == weights(tmp_path / "here", Told(), devices="cpu:2")
    [late] = [line for line in watcher.lines if "agent-2" in line]
    assert late.startswith("agent-2 ended with 3 before it came; command was asked for 1 core; the engine says: no host is free;")
    assert "goes on with" in late and not any("lost" in line for line in watcher.lines)
