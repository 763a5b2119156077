"""Holds the contract of launchers against the engine of a cluster that is there: ``python ... ENGINE FOLDER``."""

import sys
from pathlib import Path

from agentkd.artifacts.run_folder import RunFolder
from agentkd.launch.engines import find_engine
from agentkd.launch.launcher import ONE_CORE
from agentkd.testing import check_launcher
from agentkd.testing.launchers import ONE_CORE as SLOT
from agentkd.testing.launchers import _Meeting


def check_that_a_killed_one_has_ended(engine: str, folder: RunFolder) -> None:
    """Its process is gone when ``kill`` returns, not soon after."""
    launcher = find_engine(engine)(folder, ONE_CORE)
    with _Meeting.opened(folder) as meeting:
        try:
            one = meeting.start(launcher, "agent-9", SLOT)
            pid = meeting.greeting(one).pid
            assert Path(f"/proc/{pid}").exists()
            one.process.kill()
            assert not Path(f"/proc/{pid}").exists(), f"process {pid} lives on when kill() returns"
        finally:
            launcher.close()


if __name__ == "__main__":
    engine, folder = sys.argv[1:]
    if engine == "ray":  # a command is all that the others have of an agent. First: those after it sweep its sockets
        check_that_a_killed_one_has_ended(engine, RunFolder(Path(folder) / "killed"))
    check_launcher(lambda place: find_engine(engine)(place, ONE_CORE), folder)
    print("the contract is kept", flush=True)
