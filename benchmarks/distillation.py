"""Steps per second of one distillation: teacher and student in two processes, against both in one process, in the same run.

Both have one thread per process. The two-process form overlaps the teacher's work with the student's; the one-process form
does one after the other. Prints a table and the ratio. Results are bit-identical, which is checked too.
"""

import statistics
import tempfile
from pathlib import Path

import torch

from agentkd.agents.feeding import DatasetFeed
from agentkd.agents.lessons import DirectLesson
from agentkd.agents.work import Surroundings, encode_weights, execute
from agentkd.artifacts.run_folder import RunFolder
from agentkd.community import Community
from agentkd.datasets.opening import open_dataset
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.recipe import Distillation, Recipe, ViewSettings
from agentkd.task import DataSource, Task, TaskKind, TeacherReference

SPEC = "generated:seed=7,size=128x128,train=64,validation=4,test=4"
ROUNDS = 3


def lesson(task: Task, feed: DatasetFeed, steps: int, folder: RunFolder) -> DirectLesson:
    return DirectLesson(task, feed, store=folder.store, device=torch.device("cpu"))


def main() -> None:
    torch.set_num_threads(1)
    teacher_net, student_net = resolve("pidnet_m", 5), resolve("pidnet_s", 5)
    views = ViewSettings(crop_height=128, crop_width=128)
    recipe = Recipe(epochs=1, batch_size=4, learning_rate=1e-3, views=views)
    rates: dict[str, list[float]] = {"one process": [], "two processes": []}
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place))
        weights = folder.store.put(encode_weights(teacher_net, dict(build(teacher_net, seed=1).state_dict())))
        teacher = TeacherReference(architecture=teacher_net, weights=weights)
        with Community(devices="cpu:1", out=place) as community:
            for round_number in range(ROUNDS):
                task = Task(
                    kind=TaskKind.DISTILL,
                    architecture=student_net,
                    data=DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest),
                    recipe=recipe,
                    seed=round_number,
                    teachers=(teacher,),
                    distillation=Distillation(start="scratch"),
                )
                two = community.submit((task, "benchmark"))[0].result()
                here = Surroundings(folder.store, torch.device("cpu"), lesson=lambda t, f, s: lesson(t, f, s, folder))
                one = execute(task, here)
                assert one.weights == two.weights, "the two forms must give the same bits"
                rates["one process"].append(one.images_per_s / recipe.batch_size)
                rates["two processes"].append(two.images_per_s / recipe.batch_size)
    for name, values in rates.items():
        print(f"{name:<15} {statistics.median(values):6.2f} steps/s   ({', '.join(f'{v:.2f}' for v in values)})")
    ratio = statistics.median(rates["two processes"]) / statistics.median(rates["one process"])
    print(f"two processes / one process: {ratio:.2f}")


if __name__ == "__main__":
    main()
