"""What starts agents, by the name that ``launch.engine`` says. An engine is a file with a ``Launcher`` and its row here."""

from collections.abc import Callable

from agentkd.artifacts.run_folder import RunFolder
from agentkd.errors import ConfigError
from agentkd.launch.command import CommandLauncher, SrunLauncher, SshLauncher
from agentkd.launch.launcher import Demand, Launcher
from agentkd.launch.local import LocalLauncher
from agentkd.launch.ray import RayLauncher

LOCAL = "local"
ENGINES: dict[str, Callable[[RunFolder, Demand], Launcher]] = {
    LOCAL: LocalLauncher,
    "ray": RayLauncher,
    "srun": SrunLauncher,
    "ssh": SshLauncher,
    "command": CommandLauncher,
}


def find_engine(name: str) -> Callable[[RunFolder, Demand], Launcher]:
    """What makes a launcher for a run folder and what agents are to have. Nothing is started before its first agent.

    Raises:
        ConfigError: there is no such engine.
    """
    if name not in ENGINES:
        raise ConfigError(f"engine {name!r}: there are {', '.join(ENGINES)}")
    return ENGINES[name]
