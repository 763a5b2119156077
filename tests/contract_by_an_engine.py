"""Holds the contract of launchers against the engine of a cluster that is there: ``python ... ENGINE FOLDER``."""

import sys

from agentkd.launch.engines import find_engine
from agentkd.launch.launcher import ONE_CORE
from agentkd.testing import check_launcher

if __name__ == "__main__":
    engine, folder = sys.argv[1:]
    check_launcher(lambda place: find_engine(engine)(place, ONE_CORE), folder)
    print("the contract is kept", flush=True)
