"""Commands that run agents: experiments, the demo, communities that stay, a single agent."""

import json
import os
import signal
import sys
from contextlib import nullcontext
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentkd.cli.app import (
    Agents,
    Bind,
    CpusPerAgent,
    Devices,
    Engine,
    Format,
    GpusPerAgent,
    Overrides,
    Teachers,
    given_fields,
    read_settings,
)
from agentkd.cli.ending import say
from agentkd.cli.typed import address, device, duration, endpoint, key_name, path, public_key
from agentkd.cli.watching import Watch, must_be_installed, watched
from agentkd.errors import BUDGET_SPENT, INTERRUPTED, ConfigError, StorageError
from agentkd.visible import visible_line

if TYPE_CHECKING:
    from rich.console import Console

    from agentkd.artifacts.run_folder import RunFolder
    from agentkd.coordinator.budget import Budget

HEARD = Path("-")


def run(
    file: Annotated[Path, typer.Argument(parser=path, help="Experiment file (YAML); see examples/kd_nas.")],
    out: Annotated[
        Path | None, typer.Option(parser=path, help="Run folder; by default runs/NAME. An existing run goes on where it stopped.")
    ] = None,
    devices: Devices = None,
    engine: Engine = None,
    agents: Agents = None,
    gpus_per_agent: GpusPerAgent = None,
    cpus_per_agent: CpusPerAgent = None,
    teachers: Teachers = None,
    bind: Bind = None,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Say what would be trained, how long, with how much disk and memory, and all that is wrong; start nothing.",
        ),
    ] = False,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="With --dry-run: train some steps of each family here, where no record says how long."),
    ] = False,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--for", parser=duration, metavar="TIME", help="Begin no task after 2h, 90m ...; what is begun is finished."
        ),
    ] = None,
    max_tasks: Annotated[int | None, typer.Option(min=1, help="Begin no more tasks than these.")] = None,
    max_epochs: Annotated[
        int | None, typer.Option(min=1, help="Begin no more trainings than have so many epochs in all.")
    ] = None,
    reuse: Annotated[
        list[Path] | None,
        typer.Option(parser=path, metavar="RUN", help="Another run's folder: its tasks that are the same are not done again."),
    ] = None,
    output_format: Format = "text",
    watch: Watch = False,
) -> None:
    """Run an experiment: baseline, search, two rounds of distillation, report.

    Finished tasks are never done twice: after an interruption of any kind, the same command goes on. Before anything starts,
    everything that can be known is checked (every value that is searched, data, sizes, memory, disk), and all that is wrong is
    said. A budget (--for, --max-tasks, --max-epochs) is of this sitting and changes no result: when it is spent the run ends in
    good order, with 22, and the same command goes on.
    """
    from agentkd.coordinator.budget import Budget

    launch = _launch(devices, engine, agents, gpus_per_agent, cpus_per_agent, teachers, bind)
    given, others = given_fields(overrides, **launch), tuple(reuse or ())
    if measure and not dry_run:
        raise ConfigError("--measure is of --dry-run; leave it out, or add that")
    if dry_run:
        return _say_plan(file, given, out, others, measures=measure, output_format=output_format)
    budget = Budget(seconds, max_tasks, max_epochs)
    _run(file, given, out, budget, others, output_format=output_format, is_watched=watch)


def demo(
    quick: Annotated[bool, typer.Option("--quick", help="A smaller one: half a minute, with tiny networks.")] = False,
    out: Annotated[Path | None, typer.Option(parser=path, help="Run folder; by default runs/demo, or runs/quick.")] = None,
    devices: Devices = None,
    engine: Engine = None,
    agents: Agents = None,
    gpus_per_agent: GpusPerAgent = None,
    cpus_per_agent: CpusPerAgent = None,
    teachers: Teachers = None,
    bind: Bind = None,
    overrides: Overrides = None,
    output_format: Format = "text",
    watch: Watch = False,
) -> None:
    """Run all of KD-NAS on generated wildfire scenes: six to eight minutes on two cores, with --quick half a minute."""
    from agentkd.config import demo_file
    from agentkd.coordinator.budget import UNLIMITED

    launch = _launch(devices, engine, agents, gpus_per_agent, cpus_per_agent, teachers, bind)
    name, given = "quick" if quick else "demo", given_fields(overrides, **launch)
    _run(demo_file(name), given, out or Path("runs") / name, UNLIMITED, output_format=output_format, is_watched=watch)


def community(
    run_folder: Annotated[
        Path, typer.Argument(parser=path, metavar="RUN", help="Folder for weights and records; it may be new.")
    ],
    devices: Annotated[str, typer.Option(help="auto, cpu:2, cuda:0,cuda:1, or cuda:0x2; none if only guests work.")] = "auto",
    engine: Engine = None,
    agents: Agents = None,
    gpus_per_agent: GpusPerAgent = None,
    cpus_per_agent: CpusPerAgent = None,
    teachers: Teachers = None,
    bind: Bind = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A launch setting, for example record_lessons=true.")
    ] = None,
) -> None:
    """Keep agents running, so that scripts can come and go: agentkd.Community.connect("RUN"). Ends with Ctrl-C.

    What is under way then is not lost: whoever asks for it again, after the next start, has it gone on with.
    """
    from rich.console import Console

    from agentkd import logs
    from agentkd.artifacts.run_folder import RunFolder
    from agentkd.community.host import Host
    from agentkd.config import launch_settings
    from agentkd.coordinator.watching import Noting
    from agentkd.report.live import PlainWatcher

    folder = RunFolder(run_folder)
    end_as_by_ctrl_c()
    given = _launch(devices, engine, agents, gpus_per_agent, cpus_per_agent, teachers, bind)
    said = {name: value for name, value in given.items() if value is not None}
    settings = launch_settings(read_settings(overrides) | said, source="--set")
    slots = () if devices == "none" else settings.slots
    host = Host(folder, slots, settings, Noting(PlainWatcher(Console(emoji=False))))
    host.start()
    logs.to_file(folder.logs / "coordinator.log")
    say(f'{len(slots)} agents at most; scripts come with agentkd.Community.connect("{run_folder}")')
    try:
        host.wait()
    except KeyboardInterrupt:
        say("ending; what is recorded stays")
    finally:
        host.close()


def agent(
    key: Annotated[
        Path,
        typer.Option(parser=path, help="This agent's key file; make one with: agentkd keys new NAME. - is standard input."),
    ],
    coordinator_key: Annotated[str, typer.Option(parser=public_key, help="The coordinator's public key (Z85).")],
    join: Annotated[
        list[str] | None,
        typer.Option(
            parser=endpoint,
            help="The coordinator's endpoint, for example tcp://127.0.0.1:5555; if it is given several times, the nearest.",
        ),
    ] = None,
    listen: Annotated[
        list[str] | None, typer.Option(parser=address, help="Where to listen; without --join the coordinator dials here.")
    ] = None,
    bind: Bind = None,
    name: Annotated[str, typer.Option(parser=key_name, help="How it is called in lists of processes.")] = "agent",
    run_folder: Annotated[Path, typer.Option(parser=path, help="Where artifacts lie.")] = Path("runs/agent"),
    device: Annotated[str, typer.Option(parser=device, help="cpu or cuda:N.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Threads for the network.")] = 1,
    transport: Annotated[str, typer.Option(help="auto, shared, store, ipc or tcp; auto if it is not given.")] = "",
    registry: Annotated[
        Path | None,
        typer.Option(parser=path, help="Folder of registered keys (agentkd keys) that may ask for knowledge as well."),
    ] = None,
    audit: Annotated[Path | None, typer.Option(parser=path, help="File for the log of who fetched what.")] = None,
    allow_code: Annotated[
        bool,
        typer.Option(
            "--allow-code",
            help="Run code of the coordinator's user (own networks, datasets, objectives): it can do all that you can. "
            "Without this, tasks that name any are refused.",
        ),
    ] = False,
    share_data: Annotated[
        bool,
        typer.Option(
            "--share-data",
            help="Hand over datasets that lie on this host, images and labels, when the coordinator asks for them. "
            "Without this, tasks that pack data are refused.",
        ),
    ] = False,
    parent: Annotated[int, typer.Option(help="Process that this one must not outlive; 0 for none.")] = 0,
    tethered: Annotated[
        bool, typer.Option("--tethered", help="End when standard input does: whoever started this agent is gone, or wants it to.")
    ] = False,
    checkpoint_every: Annotated[
        float | None, typer.Option(min=0, help="Seconds between checkpoints; as in an experiment's launch if it is not given.")
    ] = None,
    image_cache_gib: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="The most that decoded images may take in the run folder; as in an experiment's launch if it is not given.",
        ),
    ] = None,
    loaders: Annotated[
        int | None,
        typer.Option(
            min=0, max=64, help="Threads that make views ahead of need; as in an experiment's launch if it is not given."
        ),
    ] = None,
) -> None:
    """Run one agent. The coordinator starts agents itself; this is the command it uses."""
    from agentkd import logs
    from agentkd.agents.agent import AgentSettings, run_agent
    from agentkd.artifacts.run_folder import RunFolder
    from agentkd.exchange.keys import hear_key_pair, load_key_pair
    from agentkd.exchange.transports import AUTO
    from agentkd.launch.settings import CHECKPOINT_EVERY_S, IMAGE_CACHE_GIB
    from agentkd.names import AgentName, PublicKey

    if not join and not listen:
        raise ConfigError("an agent needs --join ENDPOINT to dial its coordinator, or --listen ADDRESS to be dialed")
    logs.to_stderr()
    said = _take_standard_input() if key == HEARD or tethered else None
    run_agent(
        AgentSettings(
            join=tuple(filter(None, join or ())),
            coordinator_key=PublicKey(coordinator_key),
            keys=hear_key_pair(said) if key == HEARD and said is not None else load_key_pair(key),
            device=device,
            threads=threads,
            run_folder=run_folder,
            listen=tuple(listen or ()),
            bind=bind or "",
            transport=transport or AUTO,
            parent_pid=parent,
            tether=said.fileno() if tethered and said is not None else -1,
            images=RunFolder(run_folder).of_agent(AgentName(name)).images if tethered else None,
            checkpoint_every_s=CHECKPOINT_EVERY_S if checkpoint_every is None else checkpoint_every,
            image_cache_gib=IMAGE_CACHE_GIB if image_cache_gib is None else image_cache_gib,
            loaders=loaders,
            registry=registry,
            audit=audit,
            allows_code=allow_code,
            shares_data=share_data,
        )
    )


def visit(
    key: Annotated[str, typer.Option(help="-, for it is read from standard input.")],
    coordinator_key: Annotated[str, typer.Option(parser=public_key, help="The doctor's public key (Z85).")],
    join: Annotated[list[str], typer.Option(parser=endpoint, help="Where the doctor listens.")],
    name: Annotated[str, typer.Option(parser=key_name, help="How it is called in lists of processes.")] = "visitor",
    bind: Bind = None,
    parent: Annotated[int, typer.Option(help="Process that this one must not outlive; 0 for none.")] = 0,
    tethered: Annotated[bool, typer.Option("--tethered", help="End when standard input does.")] = False,
) -> None:
    """Say what an engine gives: the command that agentkd doctor --engine has the engine start."""
    from agentkd.exchange.keys import hear_key_pair
    from agentkd.launch.parent import die_with_parent
    from agentkd.names import PublicKey
    from agentkd.report.engines import VisitSettings
    from agentkd.report.engines import visit as pay_visit

    if key != str(HEARD):
        raise ConfigError(f"--key {key}: a visitor reads its key from standard input; expected -")
    if parent:
        die_with_parent(parent)
    said = _take_standard_input()
    keys = hear_key_pair(said)
    pay_visit(VisitSettings(tuple(join), PublicKey(coordinator_key), keys, bind or "", said if tethered else None))


def _take_standard_input() -> FileIO:
    """What is said to this process, of which nothing that it runs hears anything."""
    said = os.dup(sys.stdin.fileno())
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), sys.stdin.fileno())
    return FileIO(said, "rb")


def _launch(
    devices: str | None,
    engine: str | None,
    agents: int | None,
    gpus: float | None,
    cpus: int | None,
    teachers: str | None,
    bind: str | None,
) -> dict[str, str | float | None]:
    """Fields of ``launch`` by the options that commands have for them; what was not given is ``None``."""
    given: dict[str, str | float | None] = {"devices": devices, "engine": engine, "agents": agents}
    return given | {"gpus_per_agent": gpus, "cpus_per_agent": cpus, "teachers": teachers, "bind": bind}


def _say_plan(
    file: Path, fields: list[str], out: Path | None, others: tuple[Path, ...], *, measures: bool, output_format: str
) -> None:
    from agentkd.checks.before import describe, look_at_file
    from agentkd.report.forecast import forecast, lines

    end_as_by_ctrl_c()
    foreseen = look_at_file(file, fields, out)
    is_text = output_format == "text"
    for line in describe(foreseen.plan) if is_text and foreseen.plan else []:
        say(line)
    for concern in foreseen.warnings:
        say(f"warning: {concern.problem}", err=True)
    found = forecast(foreseen.must_be_sound(), others, measures=measures)
    if not is_text:
        return say(json.dumps(found.as_data(), indent=2))
    for line in lines(found):
        say(line)
    say(f"{file}: nothing is wrong with it; nothing was started")


def _run(
    file: Path,
    fields: list[str],
    out: Path | None,
    budget: "Budget",
    others: tuple[Path, ...] = (),
    *,
    output_format: str,
    is_watched: bool,
) -> None:
    from rich.console import Console

    from agentkd import logs
    from agentkd.artifacts.run_folder import RunFolder
    from agentkd.checks.before import look_at_file, run_folder
    from agentkd.coordinator.run import run_experiment
    from agentkd.report.closing import next_steps, print_next, print_summary
    from agentkd.report.live import watcher_for
    from agentkd.report.standing import standing_of
    from agentkd.report.write import write_report

    end_as_by_ctrl_c()
    is_text = output_format == "text"
    if is_watched:
        must_be_installed()
    foreseen = look_at_file(file, fields, out, in_full=False)
    for concern in foreseen.warnings:
        say(f"warning: {concern.problem}", err=True)
    experiment = foreseen.must_be_sound().experiment
    out = out or run_folder(experiment)
    folder = RunFolder(out).must_be_for_a_run()
    console = Console(emoji=False, stderr=not is_text)
    try:
        logs.to_file(folder.logs / "coordinator.log")
    except OSError as error:
        raise StorageError.of(folder.logs, error) from error
    say(f"{experiment.name}: run folder {out}", err=not is_text)
    try:
        with watched(folder.place) if is_watched else nullcontext("") as address:
            if address:
                say(f"watch it at {address}", err=not is_text)
            with watcher_for(console) as watcher:
                outlook = run_experiment(experiment, folder, watcher, foreseen=foreseen, budget=budget, reuse=others)
    except KeyboardInterrupt:
        say(f"interrupted; what was finished is recorded in {out}; run the same command again to go on", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if not outlook.is_finished:
        _say_what_is_left(folder, out, console, is_text=is_text)
        raise typer.Exit(BUDGET_SPENT)
    say("writing the report ...", err=not is_text)
    written = write_report(folder)
    if not is_text:
        return say(json.dumps(standing_of(folder).as_data() | {"report": str(written.page)}, indent=2))
    print_summary(outlook, console)
    say(f"report: {written.page}")
    if is_watched:
        say(f"the page is closed; it is shown again by: agentkd watch {out}")
    print_next(next_steps(outlook, out, written.page), console)


def _say_what_is_left(folder: "RunFolder", out: Path, console: "Console", *, is_text: bool) -> None:
    """Of a run whose budget is spent: how it stands, and how it goes on."""
    from agentkd.report.closing import print_next, print_summary
    from agentkd.report.standing import next_of, standing_of, told

    standing = standing_of(folder)
    if not is_text:
        return say(json.dumps(standing.as_data(), indent=2))
    for line in told(standing, out):
        say(visible_line(line))
    if standing.outlook and standing.outlook.rows:
        print_summary(standing.outlook, console)
    print_next(next_of(standing, out), console)


def end_as_by_ctrl_c() -> None:
    """What schedulers and closing terminals send ends what is done as Ctrl-C does; what is ignored (``nohup``) stays ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
