"""Can agents be started as the experiment says?"""

from agentkd.artifacts.run_folder import RunFolder
from agentkd.checks.concerns import Concern, refused, warning
from agentkd.checks.plan import RunPlan
from agentkd.errors import ConfigError
from agentkd.exchange.addresses import listening
from agentkd.exchange.transports import find_transport
from agentkd.launch.engines import LOCAL, find_engine
from agentkd.launch.placement import BESIDE, SPREAD
from agentkd.launch.settings import LaunchConfig


def check_launch(plan: RunPlan) -> list[Concern]:
    """Whether the engine is there and understands what it is asked for, and the addresses to listen at are."""
    launch, found = plan.experiment.launch, []
    try:
        find_engine(launch.engine)(RunFolder(plan.folder or "."), launch.demand)
        if launch.engine != LOCAL or launch.agents:
            _ = launch.slots
        found += _placed(launch)
    except ConfigError as error:
        found.append(refused(error, "launch"))
    try:
        listening(find_transport(launch.transport), launch.bind)
    except ConfigError as error:
        found.append(Concern("launch.bind", str(error)))
    return found + [warning(f"launch.{name}", f"changes nothing here: {why}") for name, why in _unused(launch).items()]


def _placed(launch: LaunchConfig) -> list[Concern]:
    """Whether agents that teach can be where they are to be; what is wrong with the slots is said elsewhere."""
    try:
        slots = launch.slots
    except ConfigError:
        return []
    try:
        places = launch.places(slots)
    except ConfigError as error:
        return [Concern("launch.teachers", str(error).removeprefix("launch.teachers: "))]
    kinds = [{slot.device.partition(":")[0] for slot in part} for part in (slots, [place.slot for place in places])]
    if launch.teachers in (BESIDE, SPREAD) or kinds[0] == kinds[1]:
        return []
    text = f"agents teach on {' and '.join(sorted(kinds[1]))} and learn on {' and '.join(sorted(kinds[0]))}"
    return [warning("launch.teachers", f"{text}: a device of another kind tells other last bits")]


def _unused(launch: LaunchConfig) -> dict[str, str]:
    """Fields that say something and are not looked at, and why not."""
    is_local, counted = launch.engine == LOCAL, launch.engine != LOCAL or launch.agents > 0
    reasons = {
        "devices": f"the engine {launch.engine} gives devices" if not is_local else "launch.agents shares out all devices",
        "teachers": f"the engine {launch.engine} gives devices",
        "options": "the engine local takes none",
        "python": "agents of the engine local are forks of this one",
        "gpus_per_agent": "launch.devices says where agents are; give launch.agents instead",
        "cpus_per_agent": "launch.devices says where agents are; give launch.agents instead",
    }
    unused = [] if is_local else ["teachers"]
    unused += (["devices"] if counted else ["gpus_per_agent", "cpus_per_agent"]) + (["options", "python"] if is_local else [])
    plain = LaunchConfig()
    return {name: reasons[name] for name in unused if getattr(launch, name) != getattr(plain, name)}
