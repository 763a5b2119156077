"""KD-NAS on CamVid (eleven classes) at 480x360, trained from scratch on one GPU, in sittings of some minutes each.

    AGENTKD_DATA=DIR python benchmarks/camvid_gpu.py --minutes 9 --out runs/camvid-gpu

The experiment is examples/kd_nas/camvid_gpu.yaml; DIR holds camvid-11, see there. The same command again is the next sitting,
also on another machine to which the folder was copied in between: what is recorded is not done again, and what was under way
goes on from its last checkpoint. Every sitting says what is done, how fast it was, what the GPU waited for, how many sittings
are likely to come, and shows the table so far. Without a GPU it ends with 2.

An agent's images are made ahead by as many threads as it has cores (--set launch.loaders=N), which may still take longer than
learning from them does where cores are few. A run folder holds the weights of all networks, 21 GiB at most. Where it cannot
be copied from sitting to sitting, do each seed in a sitting of its own, with fewer epochs if it must be, and keep
journal.sqlite of each folder:

    python benchmarks/camvid_gpu.py --out runs/2 --set seed=2 --set seeds=1 --set baseline.epochs=12 --set search.epochs=5 ...
    python benchmarks/camvid_gpu.py --together runs/1 runs/2 runs/3

To a machine with torch but without a network carry what else is missing there, each with what it needs, but for torchmetrics,
which needs torch, and run from the checkout:

    python -m pip download --dest wheels --only-binary=:all: pyzmq msgpack optuna numpy safetensors isal pydantic PyYAML \\
        typer rich Pillow matplotlib Jinja2 setproctitle
    python -m pip download --dest wheels --only-binary=:all: --no-deps torchmetrics lightning-utilities
    python benchmarks/camvid_gpu.py --wheels wheels ...

(and --python-version 3.12 --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 or the like, if its kind is another).

A try of all of it in some two minutes, on generated scenes where there is no CamVid:

    OMP_NUM_THREADS=1 python benchmarks/camvid_gpu.py --device cpu --size 96x72 --tiny --out runs/camvid-tiny
"""

import argparse
import importlib.util
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
if importlib.util.find_spec("agentkd") is None:  # a checkout that is not installed
    sys.path.append(str(ROOT))

FILE = ROOT / "examples" / "kd_nas" / "camvid_gpu.yaml"
NOT_POSSIBLE, INTERRUPTED = 2, 130
RESERVE_S, RESERVE_SHARE = 20.0, 0.1  # of a sitting, to end agents and say what came of it: the smaller of both
NUM_VIEWS = 8
BEGAN = "CAMVID_GPU_BEGAN"
SCENES = "generated:seed=7,size={size},train=24,validation=6,test=6"
SMALL_PIDNET = {
    "planes": 8,
    "num_blocks": 1,
    "num_blocks3": 1,
    "num_blocks4": 1,
    "bottlenecks": 1,
    "ppm_planes": 16,
    "head_planes": 16,
}
SMALL: dict[str, dict[str, Any]] = {
    "pidnet_s": SMALL_PIDNET,
    "pidnet_m": SMALL_PIDNET | {"planes": 16},
    "pidnet_l": SMALL_PIDNET | {"planes": 16, "num_blocks3": 2},
    "unet": {"base": 8, "depth": 2},
    "cnn_i2i_bisenet": {"width": 0.25, "context_planes": 16, "spatial_planes": 8, "i2i_width": 8, "head_planes": 8},
}
SEARCHED = {
    "cnn_i2i_bisenet": {"skips": [0, 1, 2], "head_planes": [8, 16]},
    "unet": {"depth": [1, 2], "convs": [1, 2]},
    "": {"bottlenecks": [1, 2], "pag": [True, False]},
}


class TimeIsUp(KeyboardInterrupt):
    """The minutes of a sitting are over; it ends as if it had been interrupted."""


@dataclass
class Learned:
    """What a family's trainings came to, of all sittings so far.

    Args:
        seconds: of its agents; ``waited_s`` of them they waited for teachers.
        epochs: that were done; ``planned`` stands for those that the same tasks might have had.
    """

    tasks: int = 0
    epochs: int = 0
    planned: int = 0
    images: float = 0.0
    seconds: float = 0.0
    waited_s: float = 0.0

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds if self.seconds else 0.0


@dataclass
class Idle:
    """The share of the time in which nothing ran on a GPU, as the driver's own tool says once a second."""

    is_wanted: bool
    busy: list[int] = field(default_factory=list)
    _tool: "subprocess.Popen[str] | None" = None

    def __enter__(self) -> "Idle":
        tool = shutil.which("nvidia-smi") if self.is_wanted else None
        if tool:
            first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0"
            asked = [tool, f"--id={first}", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop=1"]
            self._tool = subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return self

    def __exit__(self, *rest: object) -> None:
        if self._tool is not None:
            self._tool.terminate()
            said, _ = self._tool.communicate()
            self.busy += [int(line) for line in said.split() if line.isdecimal()]

    def __str__(self) -> str:
        if not self.busy:
            return "How long the GPU waits is not measured" + ("; nvidia-smi does not say" if self.is_wanted else " without one")
        share = 100 - statistics.mean(self.busy)
        return (
            f"The GPU ran nothing for {share:.0f} % of this sitting (nvidia-smi, {len(self.busy)} samples): it waited for "
            "images, for agents that start, or for Python"
        )


def install(wheels: Path, began: float) -> None:
    """Goes on as the same program, which began then, with the wheels installed beside it."""
    place = (wheels / "installed").absolute()
    if not place.is_dir():
        part = place.with_name("installed.part")
        files = sorted(str(file) for file in wheels.glob("*.whl"))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--upgrade", "--target", str(part)]
        subprocess.run([*pip, *files], check=True)
        part.rename(place)
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(place) not in known:
        os.environ |= {"PYTHONPATH": os.pathsep.join(filter(None, [str(place), *known])), BEGAN: str(began)}
        os.execv(sys.executable, [sys.executable, *sys.argv])


def impossible(why: str) -> None:
    """Ends the program."""
    print(f"camvid_gpu: {why}", file=sys.stderr)
    raise SystemExit(NOT_POSSIBLE)


def changes(chosen: argparse.Namespace) -> list[str]:
    """What differs from the experiment file, as ``agentkd run --set`` takes it."""
    width, height = chosen.size
    changed: dict[str, Any] = {"recipe.views.crop_width": width, "recipe.views.crop_height": height}
    changed["launch.devices"] = ",".join(["cuda:0"] * chosen.agents) if chosen.device == "cuda" else f"cpu:{chosen.agents}"
    has_data = (Path(os.environ.get("AGENTKD_DATA", "data")) / "camvid-11" / "dataset.yaml").is_file()
    if has_data:
        changed["data.dataset"] = f"folder:path=camvid-11,size={width}x{height},holdout=0.25"
    elif chosen.tiny:
        changed["data.dataset"] = SCENES.format(size=f"{width}x{height}")
    else:
        impossible("there is no camvid-11 in $AGENTKD_DATA; put it there, or add --tiny for generated scenes")
    if chosen.tiny:
        changed |= {"baseline.epochs": 2, "search.epochs": 1, "round1.epochs": 1, "round2.epochs": 1}
        changed |= {"search.trials": 2, "search.lag": 2, "search.max_deploy_ratio": 0, "search.max_macs_ratio": 0, "seeds": 2}
        changed |= {"recipe.steps_per_epoch": 4, "recipe.precision": "float32", "launch.checkpoint_every_s": 0}
        for family, settings in SMALL.items():
            changed |= {f"families.{family}.settings": settings, f"families.{family}.space": SEARCHED.get(family, SEARCHED[""])}
    return [f"{path}={json.dumps(value)}" for path, value in changed.items()] + chosen.set


def learned(experiment: Any, outlook: Any, records: Iterable[Any]) -> dict[str, Learned]:
    """By family, what its finished trainings came to."""
    from agentkd.task import Distill, Train

    found = {family: Learned() for family in experiment.families}
    for record in records:
        task, result = record.task, record.result
        if not isinstance(task, Train | Distill) or task.key not in outlook.keys or not result.epochs:
            continue
        one = found[task.architecture.family]
        one.tasks, one.epochs, one.planned = one.tasks + 1, one.epochs + result.epochs, one.planned + task.recipe.epochs
        one.images, one.seconds = one.images + result.images_per_s * result.seconds, one.seconds + result.seconds
        one.waited_s += result.exchange.waited_s if result.exchange else 0.0
    return found


def seconds_left(experiment: Any, found: dict[str, Learned], pace: float) -> float | None:
    """How long all trainings that are left may take; none if nothing was learned yet.

    Args:
        pace: seconds of tasks that are done in a second of a sitting.
    """
    each = {family: one.seconds / one.epochs for family, one in found.items() if one.epochs}
    if not each:
        return None
    lessons = (experiment.round1.students * experiment.round1.epochs + experiment.round2.epochs) * (1 + experiment.control)
    total = 0.0
    for family, one in found.items():
        wanted = experiment.seeds * (experiment.baseline.epochs + experiment.trials(family) * experiment.search.epochs + lessons)
        total += max(0, wanted - one.planned) * each.get(family, statistics.mean(each.values()))
    return total / pace


def seconds_a_view(experiment: Any, dataset: Any) -> float:
    """How long one agent makes one image to learn from, measured when no agent runs."""
    from agentkd.datasets.samples import split_indices
    from agentkd.datasets.views import make_view
    from agentkd.experiment import build_recipe
    from agentkd.networks.families import resolve

    family = next(iter(experiment.families))
    settings, like = build_recipe(experiment, family).views, resolve(family, len(dataset.classes)).normalization
    indices = (split_indices(dataset, experiment.data.train) * NUM_VIEWS)[:NUM_VIEWS]
    for index in indices:
        dataset.sample(index)  # decoded once, as agents have it
    began = time.perf_counter()
    for index in indices:
        make_view(dataset, index, 1, settings, like)
    return (time.perf_counter() - began) / NUM_VIEWS


def num_recorded(place: Path) -> int:
    """Tasks that are recorded in a run folder, which need not be there."""
    from agentkd.artifacts.journal import Journal
    from agentkd.artifacts.run_folder import RunFolder

    if not RunFolder(place).journal.is_file():
        return 0
    with Journal(RunFolder(place).journal, read_only=True) as journal:
        return sum(1 for _ in journal.rows())


def tell(chosen: argparse.Namespace, before: int, idle: Idle, last: Any, took_s: float) -> bool:
    """Prints what is done, ``before`` of it in earlier sittings, and how it went; whether everything is."""
    from agentkd.artifacts.run_folder import RunFolder
    from agentkd.coordinator.run import read_run
    from agentkd.networks.families import title
    from agentkd.pipeline.counting import task_counts
    from agentkd.report.live import clock

    experiment, planner, outlook, journal = read_run(RunFolder(chosen.out))
    with journal:
        records = list(journal.records())
    done = len(outlook.keys & {record.task.key for record in records})
    expected = done if outlook.is_finished else max(done + len(outlook.steps), sum(task_counts(experiment).values()))
    new = len(records) - before
    print(f"\nThis sitting ended after {clock(took_s)}: {done} of about {expected} tasks are done, {new} of them now.")
    for one in last.activities if last and not outlook.is_finished else ():
        if one.steps:
            print(f"Under way, kept to the last checkpoint: {one.doing}, step {one.step} of {one.steps}")
    found = learned(experiment, outlook, records)
    view_s = seconds_a_view(experiment, planner.dataset)
    print(
        "\n| Family | trainings | epochs | images/s, each agent | making images | waiting for teachers |\n"
        "|---|---|---|---|---|---|"
    )
    for family, one in found.items():
        making, waiting = min(1.0, one.images_per_s * view_s), one.waited_s / max(one.seconds, 1e-9)
        shares = f"{100 * making:.0f} % | {100 * waiting:.0f} %" if one.tasks else "- | -"
        print(f"| {title(family)} | {one.tasks} | {one.epochs} | {one.images_per_s:.1f} | {shares} |")
    print("\nOf all sittings, validation included. Shares are of an agent's time; what it told a GPU last is computed meanwhile.")
    print(f"An image takes {1000 * view_s:.1f} ms to make. {idle}.")
    pace = sum(record.result.seconds for record in records[before:]) / took_s
    left_s = None if outlook.is_finished else seconds_left(experiment, found, pace or chosen.agents)
    if outlook.is_finished:
        print("\nNo sitting is left.")
    elif left_s is None:
        print("\nHow many sittings are left is not known before the first training is done.")
    else:
        sittings = max(1, math.ceil(left_s / (60 * chosen.minutes)))
        print(f"\nTrainings still take about {sittings} sittings of {chosen.minutes:g} minutes ({clock(left_s)} at this pace).")
    show(outlook)
    return bool(outlook.is_finished)


def sit(chosen: argparse.Namespace, began: float) -> None:
    """One sitting."""
    from rich.console import Console

    from agentkd import load_experiment, logs, run_experiment
    from agentkd.artifacts.run_folder import RunFolder
    from agentkd.coordinator.watching import Snapshot
    from agentkd.report.live import PlainWatcher
    from agentkd.report.write import write_report

    ends_at = began + 60 * chosen.minutes - min(RESERVE_S, RESERVE_SHARE * 60 * chosen.minutes)

    class Sitting(PlainWatcher):
        last: Snapshot | None = None

        def show(self, snapshot: Snapshot) -> None:
            super().show(snapshot)
            self.last = snapshot
            if time.monotonic() > ends_at:
                raise TimeIsUp

    experiment = load_experiment(FILE, changes(chosen))
    folder = RunFolder(chosen.out).must_be_for_a_run()
    logs.to_file(folder.logs / "coordinator.log")
    before = num_recorded(chosen.out)
    watcher, was_interrupted = Sitting(Console(width=200)), False
    with Idle(is_wanted=chosen.device == "cuda") as idle:
        try:
            run_experiment(experiment, folder, watcher)
        except TimeIsUp:
            pass
        except KeyboardInterrupt:
            was_interrupted = True
    if tell(chosen, before, idle, watcher.last, time.monotonic() - began):
        print(f"\nReport: {write_report(folder).page}")
    if was_interrupted:
        raise SystemExit(INTERRUPTED)


def show(outlook: Any) -> None:
    """Prints the table of every seed; of several also their means, with standard deviations of the sample."""
    from agentkd.networks.families import title
    from agentkd.report.table import markdown_table, table_rows
    from agentkd.report.texts import spread

    every = [one for one in (outlook, *outlook.repeats) if one.rows]
    for one in reversed(every):  # the first one's last: under it stands what came of all
        print(f"\nSeed {one.seed}:\n\n{markdown_table(one)}", flush=True)
    if len(every) < 2:
        return
    cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in table_rows(outlook):
        cells.setdefault((row["family"], row["stage"]), []).append(row)
    print("\n| Family | stage | seeds | validation mIoU, % | test mIoU, % | total parameters, M |\n|---|---|---|---|---|---|")
    for (family, stage), several in cells.items():
        columns = [[100 * row[name] for row in several if row[name] is not None] for name in ("miou", "test_miou")]
        columns.append([row["num_parameters_total"] / 1e6 for row in several])
        print(f"| {title(family)} | {stage} | {len(several)} | {' | '.join(spread(one) if one else '-' for one in columns)} |")


def together(places: list[Path]) -> None:
    """Prints what came out of runs with different seeds as if they were one; of their folders the journals are enough."""
    from agentkd.artifacts.run_folder import RunFolder
    from agentkd.coordinator.run import read_run

    every: list[Any] = []
    for place in places:
        _, _, outlook, journal = read_run(RunFolder(place))
        journal.__exit__(None, None, None)
        every += [outlook, *outlook.repeats]
    seeds = [one.seed for one in every]
    if len(set(seeds)) < len(seeds):
        impossible(f"these runs have the seeds {', '.join(map(str, seeds))}; each must have its own")
    show(replace(every[0], repeats=tuple(every[1:])))


def size_of(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) >= 32 and int(height) >= 32):
        raise argparse.ArgumentTypeError(f"{text!r}: expected WIDTHxHEIGHT, such as 480x360, from 32 on")
    return int(width), int(height)


def above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0")
    return value


def main() -> None:
    began = float(os.environ.pop(BEGAN, time.monotonic()))
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=above_zero, default=9.0, help="of this sitting at most, its start and end included")
    options.add_argument("--out", type=Path, default=Path("runs/camvid-gpu"), help="run folder; one that is there goes on")
    options.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options.add_argument("--agents", type=int, choices=range(1, 33), metavar="N", help="that learn at a time; 3, on the CPU 2")
    options.add_argument("--size", type=size_of, default=(480, 360), metavar="WxH", help="pixels of images and crops")
    options.add_argument("--tiny", action="store_true", help="small networks, some steps each: only to see that it works")
    options.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="changes the experiment, as of agentkd run"
    )
    options.add_argument("--wheels", type=Path, metavar="DIR", help="wheels to install first, without a network")
    options.add_argument(
        "--together", type=Path, nargs="+", metavar="RUN", help="only show what came out of runs with other seeds each"
    )
    chosen = options.parse_args()
    chosen.agents = chosen.agents or (3 if chosen.device == "cuda" else 2)
    if chosen.wheels:
        install(chosen.wheels, began)
    from agentkd.errors import AgentKDError
    from agentkd.launch.devices import count_cuda_devices

    if chosen.device == "cuda" and not chosen.together and not count_cuda_devices():
        impossible("there is no GPU here; to see it work on the CPU add: --device cpu --size 96x72 --tiny")
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        together(chosen.together) if chosen.together else sit(chosen, began)
    except AgentKDError as error:
        print(f"camvid_gpu: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
