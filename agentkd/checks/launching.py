"""Can agents be started as the experiment says?"""

from agentkd.artifacts.run_folder import RunFolder
from agentkd.checks.concerns import Concern
from agentkd.checks.plan import RunPlan
from agentkd.errors import ConfigError
from agentkd.exchange.addresses import listening
from agentkd.exchange.transports import find_transport
from agentkd.launch.engines import LOCAL, find_engine


def check_launch(plan: RunPlan) -> list[Concern]:
    """Whether the engine is there and understands what it is asked for, and the addresses to listen at are."""
    launch, found = plan.experiment.launch, []
    try:
        find_engine(launch.engine)(RunFolder(plan.folder or "."), launch.demand)
        if launch.engine != LOCAL or launch.agents:
            _ = launch.slots
    except ConfigError as error:
        found.append(Concern("launch", str(error)))
    try:
        listening(find_transport(launch.transport), launch.bind)
    except ConfigError as error:
        found.append(Concern("launch.bind", str(error)))
    return found
