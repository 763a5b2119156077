"""How much memory a task took is measured anew for each, and stands in its record."""

from pathlib import Path
from typing import Any

import pytest
import torch
from reference.scenarios import SCENES
from reference.tasks import put, small, source

from agentkd.agents.work import Surroundings, execute
from agentkd.artifacts.run_folder import RunFolder
from agentkd.task import Evaluate
from agentkd.training import memory
from agentkd.training.memory import peak_bytes, reset_peak

CPU = torch.device("cpu")
LARGE = 256 * 1024**2


def test_the_peak_is_that_since_it_was_reset() -> None:
    reset_peak(CPU)
    before = peak_bytes(CPU)
    block = torch.ones(LARGE // 4)
    del block
    at_most = peak_bytes(CPU)
    reset_peak(CPU)
    assert at_most - before > LARGE * 0.8 and peak_bytes(CPU) < at_most - LARGE // 2


@pytest.mark.parametrize("place", ["/proc/self/clear_refs", "/proc/self/status"])
def test_where_the_system_does_not_tell_it_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    reads, writes = Path.read_text, Path.write_text

    def refuse(how: Any) -> Any:
        def method(path: Path, *rest: Any) -> Any:
            if str(path) == place:
                raise PermissionError(13, "Permission denied")
            return how(path, *rest)

        return method

    monkeypatch.setattr(memory.Path, "read_text", refuse(reads))
    monkeypatch.setattr(memory.Path, "write_text", refuse(writes))
    reset_peak(CPU)
    assert peak_bytes(CPU) > 10 * 1024**2


def test_it_stands_in_the_record_of_any_task(tmp_path: Path) -> None:
    store = RunFolder(tmp_path).store
    weights = put(store, small(), 3)
    task = Evaluate(architecture=small(), data=source(SCENES), initial_weights=weights)
    result = execute(task, Surroundings(store, CPU))
    assert 10 * 1024**2 < result.peak_memory_bytes <= peak_bytes(CPU)
