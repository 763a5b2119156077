"""A community without agent processes: what a script asks of it takes as long as the training itself."""

from pathlib import Path
from typing import Any, Self

from agentkd.artifacts.run_folder import RunFolder
from agentkd.community import community
from agentkd.config import launch_settings
from agentkd.coordinator.watching import Silent, Watcher
from agentkd.errors import ConfigError
from agentkd.launch.devices import parse_devices
from agentkd.testing.in_process import InProcess

ANY_NUMBER = 1024  # of CUDA devices: those that a script names need not be where it is tested


class Community(community.Community):
    """``agentkd.Community`` with its arguments and its calls, whose tasks are done in this process, on the CPU, one by one.

    Tasks are executed by the code that agents execute them by, teachers answer as agents that teach do, and the records are the
    same: on one machine with one thread the weights have the digests that agents' have. What is not here: agents that are lost,
    guests, and messages; ``result().exchange`` counts nothing, and settings of ``launch`` are checked but have no effect.

    Args:
        devices: how many slots there are; which devices they name is of no account.
        record: folder for weights and records.
        seed: root of all random numbers.
        watcher: who is told what happens.
        launch: as of ``agentkd.Community``.

    Example, with pytest::

        def test_my_script(tmp_path, monkeypatch):
            monkeypatch.setattr(agentkd, "Community", agentkd.testing.Community)
            assert my_script.main(record=tmp_path) > 0.2
    """

    def __init__(
        self,
        devices: str = "auto",
        record: str | Path = "runs/community",
        seed: int = 1,
        watcher: Watcher | None = None,
        **launch: Any,
    ) -> None:
        launch_settings(launch)
        if devices == "none":
            raise ConfigError("guests cannot come into a community of one process; test with devices='cpu:1' or more")
        slots = parse_devices(devices, cuda_count=0 if devices == "auto" else ANY_NUMBER)
        folder = RunFolder(Path(record)).must_be_for_a_run()
        self._begin(folder, seed, InProcess(folder, len(slots), watcher or Silent()))

    @classmethod
    def connect(cls, run: str | Path, seed: int = 1) -> Self:
        """A community in this process in the folder of the one that a script would visit; nobody else may keep it meanwhile."""
        return cls(record=run, seed=seed)
