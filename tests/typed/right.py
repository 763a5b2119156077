"""What a script may write. A type checker in its strict mode has nothing to say about it."""

from pathlib import Path

import agentkd
from agentkd import Community, Educated, Rules, TransferGraph
from agentkd.testing import check_objective


class Telling:
    """Somebody who watches a run."""

    def show(self, snapshot: agentkd.Snapshot) -> None:
        self.recorded: int = snapshot.num_recorded

    def tell(self, line: str) -> None:
        self.newest: str = line


def exchange(place: Path) -> float:
    data = agentkd.open_dataset("generated:seed=7,size=64x64")
    with agentkd.Community(devices="cpu:2", record=place, record_lessons=True) as community:
        big, small = community.agent("big", "pidnet_m"), community.agent("small", "pidnet_s", planes=16)
        big.train(data, epochs=2).result()
        objectives: list[agentkd.objectives.Objective] = [agentkd.SoftTargets(temperature=4), agentkd.objectives.Dkd()]
        lesson: agentkd.Lesson = small.distill(big, data, objectives, alpha=0.5)
        for event in lesson.progress():
            seen: float = event.loss
            assert seen >= 0
        for other in agentkd.mutual(big, small, data=data):
            result: agentkd.TaskResult = other.result()
        graph = TransferGraph(edges=(agentkd.Edge(teacher="big", student="small"),))
        graph.teach({"big": big, "small": small}, data)
        agents = [Educated(big, data, Rules(protection="ewc")), Educated(small, data)]
        agentkd.education_cycle(agents, "unlabelled:generated:seed=8")
        return result.miou + (small.assess(data).known_fraction or 0.0)


def run(place: str) -> str:
    experiment = agentkd.load_experiment("experiment.yaml", ["seed=3"])
    outlook = agentkd.run_experiment(experiment, place)
    agentkd.run_experiment(experiment, agentkd.RunFolder(Path(place)), Telling())
    return str(outlook.winner)


def refused(community: Community) -> agentkd.AgentHandle | None:
    try:
        return community.agent("a", "unet", num_classes=5)
    except (agentkd.ConfigError, agentkd.errors.ContractError) as error:
        code: int = error.exit_code
        print(code, agentkd.__version__)
        return None


def tested(place: Path) -> None:
    check_objective(agentkd.Own(path="my_module:Absolute", sends=(agentkd.Payload(),), weight=0.1))
    agentkd.testing.check_family("my_networks:small")
    with agentkd.testing.Community(record=place) as community:
        refused(community)
