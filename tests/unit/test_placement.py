"""Where agents that teach are started, and what a run says of it before it begins."""

import pytest
from planning import experiment

from agentkd.architecture import Architecture
from agentkd.artifacts.run_folder import RunFolder
from agentkd.checks.before import describe, look_at
from agentkd.config import launch_settings
from agentkd.coordinator.crew import Crew
from agentkd.coordinator.dispatch import Dispatcher
from agentkd.coordinator.events import Joined, Launch, Lost, Teach
from agentkd.coordinator.state import Bench
from agentkd.coordinator.watching import Silent
from agentkd.errors import ConfigError
from agentkd.launch.devices import Slot, parse_devices
from agentkd.launch.local import LocalLauncher
from agentkd.launch.placement import TeachingPlace, check_policy, teaching_places
from agentkd.launch.settings import LaunchConfig
from agentkd.recipe import Distillation
from agentkd.task import DataSource, Distill, TeacherReference

DATA, ARCHITECTURE = DataSource(spec="s", content_digest="d"), Architecture(family="unet", num_classes=2)
LEARNING = (Slot("cuda:0", 2), Slot("cuda:0", 2), Slot("cuda:1", 3))


def places_taken(places: tuple[int, ...], num_teachers: int) -> list[int]:
    """Where so many teaching agents are started, one after the other, while as many agents learn."""
    dispatcher = Dispatcher(num_teachers, places=places)
    names = [f"w{number}" for number in range(num_teachers)]
    teachers = [TeacherReference(architecture=ARCHITECTURE, weights=name) for name in names]
    lesson = Distill(architecture=ARCHITECTURE, data=DATA, teachers=tuple(teachers), distillation=Distillation())
    actions = dispatcher.want([("a", lesson)])
    actions += dispatcher.handle(Joined("agent-1"))
    dispatcher.check()
    return [action.slot for action in actions if isinstance(action, Launch) and action.bench is Bench.TEACHING]


def test_teaching_agents_take_the_slots_of_those_that_learn_in_turn() -> None:
    assert teaching_places("beside", LEARNING) == tuple(map(TeachingPlace, LEARNING))
    assert places_taken((0, 0, 0), 5) == [0, 1, 2, 0, 1], "what was done ever since"


def test_spread_teaching_agents_go_where_the_fewest_agents_are() -> None:
    assert teaching_places("spread", LEARNING) == (TeachingPlace(LEARNING[0], 2), TeachingPlace(LEARNING[2], 1))
    assert places_taken((2, 1), 4) == [1, 0, 1, 0]


def test_teaching_agents_have_devices_of_their_own_if_those_are_named() -> None:
    found = teaching_places("cuda:2,cuda:1x2", LEARNING, cores=12, cuda_count=3)
    assert [place.slot.device for place in found] == ["cuda:2", "cuda:1", "cuda:1"]
    assert not any(place.num_beside for place in found)
    with pytest.raises(ConfigError, match=r"launch.teachers: devices 'cuda:3': cuda:3 is not there; there are 3"):
        teaching_places("cuda:3", LEARNING, cores=12, cuda_count=3)
    assert teaching_places("cpu", ()) == (), "where nobody learns nobody is started to teach"


@pytest.mark.parametrize("wrong", ["besides", "", "cuda:1;cuda:2", "gpu:1"])
def test_what_is_no_place_is_refused_with_what_there_is(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"no place for teaching agents; expected beside, spread, or devices, such as cuda:1"):
        launch_settings({"teachers": wrong})
    with pytest.raises(ValueError, match="no place"):
        check_policy(wrong)


def test_a_teaching_agent_that_is_lost_leaves_its_place_to_the_next() -> None:
    dispatcher = Dispatcher(2, places=(0, 0, 0))
    teachers = tuple(TeacherReference(architecture=ARCHITECTURE, weights=name) for name in ("w1", "w2"))
    lesson = Distill(architecture=ARCHITECTURE, data=DATA, teachers=teachers, distillation=Distillation())
    dispatcher.want([("a", lesson)])
    dispatcher.handle(Joined("agent-1"))
    assert [type(action) for action in dispatcher.handle(Joined("agent-2"))] == [Teach]
    assert dispatcher.handle(Lost("agent-2")) == [Launch("agent-4", "teaching", 0)], "agent-3 is in the second"
    dispatcher.check()


def test_a_crew_starts_teaching_agents_where_they_are_to_be(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    config = LaunchConfig(transport="tcp", teachers="cpu:3")
    with Crew(folder, (Slot("cpu", 2),), config, Silent(), LocalLauncher(folder)) as crew:
        assert crew._dispatcher.state.places == (0, 0, 0)


def test_a_run_says_before_it_begins_where_teaching_agents_will_be() -> None:
    def told(**launch: object) -> list[str]:
        foreseen = look_at(experiment(launch=launch))
        assert foreseen.plan is not None
        return [line for line in describe(foreseen.plan) if line.startswith(("agents", "teachers"))]

    many = "teachers as many as they need, "
    assert told(devices="cpu:2") == [
        "agents   2 that learn (cpu, cpu)",
        f"{many}beside those that learn (cpu)",
    ]
    assert told(devices="cpu", teachers="spread")[1] == f"{many}where the fewest agents are (cpu)"
    assert told(devices="cpu", teachers="cpu:2")[1] == f"{many}on cpu"


def test_a_run_says_what_is_wrong_with_a_place_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")

    def concerns(**launch: object) -> list[tuple[bool, str]]:
        found = look_at(experiment(launch=launch)).concerns
        return [(concern.is_error, concern.text) for concern in found if concern.path == "launch.teachers"]

    assert concerns(devices="cpu", teachers="cuda:5") == [
        (True, "devices 'cuda:5': cuda:5 is not there; there are 2 (cuda:0 to cuda:1)")
    ]
    assert concerns(devices="cpu", teachers="cuda:1") == [
        (False, "agents teach on cuda and learn on cpu: a device of another kind tells other last bits")
    ]
    assert not concerns(devices="cuda:0", teachers="cuda:1")
    assert concerns(engine="command", agents=1, options=["env"], teachers="spread") == [
        (False, "changes nothing here: the engine command gives devices")
    ]


def test_what_a_device_list_may_say_a_place_may() -> None:
    for text in ("cpu", "cpu:2", "cuda:0x2,cuda:1", "cuda:0, cuda:1"):
        assert check_policy(text) == text
    assert parse_devices("cpu:2", cores=2, cuda_count=0) == tuple(p.slot for p in teaching_places("cpu:2", LEARNING))
