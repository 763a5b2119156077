"""The command line: reads options at the edge and calls the library. Every import that costs time is made where it is needed."""

import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from agentkd.errors import AgentKDError, ConfigError, StorageError

INTERRUPTED = 130
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override a field of the experiment file.")
]
Devices = Annotated[str | None, typer.Option(help="auto, cpu:2, or cuda:0,cuda:1. One agent learns on each slot at a time.")]
Format = Annotated[str, typer.Option("--format", help="text for people, json for programs.")]

app = typer.Typer(
    name="agentkd",
    help="Neural networks as agents that teach each other: architecture search and knowledge distillation, replayable.",
    epilog="Begin with: agentkd demo",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Runs the command line; an expected error prints its text and ends with its exit code."""
    try:
        app()
    except AgentKDError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="Experiment file (YAML); see examples/kd_nas.")],
    out: Annotated[
        Path | None, typer.Option(help="Run folder; by default runs/NAME. An existing run goes on where it stopped.")
    ] = None,
    devices: Devices = None,
    overrides: Overrides = None,
) -> None:
    """Run an experiment: baseline, search, two rounds of distillation, report.

    Finished tasks are never done twice: after an interruption of any kind, the same command goes on.
    """
    from agentkd.config import load_experiment

    given = [*(overrides or []), *([f"launch.devices={devices}"] if devices else [])]
    experiment = load_experiment(file, given)
    _run(experiment, out or Path("runs") / experiment.name)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/demo"),
    devices: Devices = None,
    overrides: Overrides = None,
) -> None:
    """Run all of KD-NAS on generated wildfire scenes, in minutes on two cores."""
    from agentkd.config import demo_file, load_experiment

    given = [*(overrides or []), *([f"launch.devices={devices}"] if devices else [])]
    _run(load_experiment(demo_file(), given), out)


@app.command()
def community(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder for weights and records; it may be new.")],
    devices: Annotated[str, typer.Option(help="auto, cpu:2, or cuda:0,cuda:1; none if only guests are to work.")] = "auto",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A launch setting, for example record_lessons=true.")
    ] = None,
) -> None:
    """Keep agents running, so that scripts can come and go: agentkd.Community.connect("RUN"). Ends with Ctrl-C.

    What is under way then is not lost: whoever asks for it again, after the next start, has it gone on with.
    """
    import yaml
    from rich.console import Console

    from agentkd import logs
    from agentkd.artifacts.run_folder import RunFolder
    from agentkd.community.host import Host
    from agentkd.config import launch_settings
    from agentkd.launch.devices import parse_devices
    from agentkd.report.live import PlainWatcher

    given = {}
    for item in overrides or []:
        name, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"--set {item!r}: expected name=value")
        given[name] = yaml.safe_load(value)
    folder = RunFolder(run_folder)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    slots = () if devices == "none" else parse_devices(devices)
    host = Host(folder, slots, launch_settings(given), PlainWatcher(Console()))
    host.start()
    logs.to_file(folder.logs / "coordinator.log")
    typer.echo(f'{len(slots)} agents at most; scripts come with agentkd.Community.connect("{run_folder}")')
    try:
        host.wait()
    except KeyboardInterrupt:
        typer.echo("ending; what is recorded stays")
    finally:
        host.close()


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, finished or not.")],
    output_format: Format = "text",
) -> None:
    """Write RUN/report (table, figures, page) again from the records, and print the table."""
    from agentkd.artifacts.run_folder import RunFolder
    from agentkd.report.table import table_rows
    from agentkd.report.write import write_report

    folder = RunFolder(run_folder).must_exist()
    written = write_report(folder)
    if output_format == "json":
        typer.echo(json.dumps(table_rows(written.outlook), indent=2))
        return
    _print_table(written.outlook)
    typer.echo(f"report: {written.page}")


@app.command()
def networks(
    classes: Annotated[int, typer.Option(min=2, help="Number of classes K.")] = 5,
    family: Annotated[str | None, typer.Option(help="One family only, or package.module:builder.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of the family.")] = None,
    output_format: Format = "text",
) -> None:
    """List the families with their parameter counts: total (all that trains), network (no discriminator), deploy."""
    import yaml

    from agentkd.networks.build import count_architecture
    from agentkd.networks.families import FAMILIES, resolve

    if settings and not family:
        raise ConfigError("--set needs --family, because settings differ from family to family")
    chosen: dict[str, Any] = {}
    for item in settings or []:
        name, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"--set {item!r}: expected name=value")
        chosen[name] = yaml.safe_load(value)
    rows = []
    for name in [family] if family else FAMILIES:
        architecture = resolve(name, classes, chosen)
        counts = count_architecture(architecture)
        size = {"total": counts.total, "network": counts.network, "deploy": counts.deploy}
        rows.append({"family": name, "num_classes": classes, "settings": architecture.settings, **size})
    if output_format == "json":
        typer.echo(json.dumps(rows, indent=2))
        return
    typer.echo(f"{'family':<20}{'total':>14}{'network':>14}{'deploy':>14}   (K = {classes})")
    for row in rows:
        typer.echo(f"{row['family']:<20}{row['total']:>14,}{row['network']:>14,}{row['deploy']:>14,}")


@app.command()
def weights(
    file: Annotated[Path, typer.Argument(help="Published checkpoint: .safetensors, .pt or .pth with a plain state dict.")],
    out: Annotated[Path, typer.Argument(help="Where to write agentkd's form (.safetensors).")],
    family: Annotated[str, typer.Option(help="The family the weights belong to.")],
    classes: Annotated[int, typer.Option(min=2, help="Number of classes K.")] = 5,
) -> None:
    """Import weights that you have; families.NAME.weights in an experiment file then starts from them."""
    from agentkd.agents.work import encode_weights
    from agentkd.networks.build import build
    from agentkd.networks.families import resolve
    from agentkd.networks.weights import import_weights, read_checkpoint

    architecture = resolve(family, classes)
    network = build(architecture, seed=0)
    found = import_weights(network, read_checkpoint(file))
    try:
        out.write_bytes(encode_weights(architecture, dict(network.state_dict())))
    except OSError as error:
        raise StorageError(out, error.strerror or str(error)) from error
    typer.echo(f"{out}: {found}")


@app.command()
def doctor(output_format: Format = "text") -> None:
    """Check this machine: Python, packages, devices, sockets, disk. Ends with 1 if something is missing."""
    from agentkd.report.doctor import examine

    findings = examine()
    if output_format == "json":
        typer.echo(json.dumps([finding.as_data() for finding in findings], indent=2))
    else:
        for finding in findings:
            typer.echo(f"{'ok  ' if finding.is_ok else 'FAIL'} {finding.name:<12} {finding.text}")
    if not all(finding.is_ok for finding in findings):
        raise typer.Exit(1)


@app.command()
def agent(
    key: Annotated[Path, typer.Option(help="This agent's key file; make one with: agentkd keys new NAME.")],
    coordinator_key: Annotated[str, typer.Option(help="The coordinator's public key (Z85).")],
    join: Annotated[str, typer.Option(help="The coordinator's endpoint, for example tcp://127.0.0.1:5555.")] = "",
    listen: Annotated[list[str] | None, typer.Option(help="Where to listen; without --join the coordinator dials here.")] = None,
    run_folder: Annotated[Path, typer.Option(help="Where artifacts lie.")] = Path("runs/agent"),
    device: Annotated[str, typer.Option(help="cpu or cuda:N.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Threads for the network.")] = 1,
    transport: Annotated[str, typer.Option(help="auto, shared, store, ipc or tcp.")] = "auto",
    registry: Annotated[
        Path | None, typer.Option(help="Folder of registered keys (agentkd keys) that may ask for knowledge as well.")
    ] = None,
    audit: Annotated[Path | None, typer.Option(help="File for the log of who fetched what.")] = None,
    parent: Annotated[int, typer.Option(help="Process that this one must not outlive; 0 for none.")] = 0,
    checkpoint_every: Annotated[float, typer.Option(min=0, help="Seconds between checkpoints.")] = 30.0,
) -> None:
    """Run one agent. The coordinator starts agents itself; this is the command it uses."""
    from agentkd import logs
    from agentkd.agents.agent import AgentSettings, run_agent
    from agentkd.exchange.keys import load_key_pair

    if not join and not listen:
        raise ConfigError("an agent needs --join ENDPOINT to dial its coordinator, or --listen ADDRESS to be dialed")
    logs.to_stderr()
    run_agent(
        AgentSettings(
            join=join,
            coordinator_key=coordinator_key,
            keys=load_key_pair(key),
            device=device,
            threads=threads,
            run_folder=run_folder,
            bind=tuple(listen or ()),
            transport=transport,
            parent_pid=parent,
            checkpoint_every_s=checkpoint_every,
            registry=registry,
            audit=audit,
        )
    )


keys_app = typer.Typer(help="Keys: who may connect to agents and fetch which knowledge.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
KeyFolder = Annotated[Path | None, typer.Option("--keys", help="Folder; by default $AGENTKD_KEYS or ~/.config/agentkd/keys.")]


@keys_app.command("new")
def keys_new(name: Annotated[str, typer.Argument(help="Whose key it is.")], folder: KeyFolder = None) -> None:
    """Make a key pair in a file that you alone can read, and print the public key."""
    from agentkd.exchange.keys import default_key_folder, new_key_pair, save_key_pair

    pair = new_key_pair()
    path = (folder or default_key_folder()) / f"{name}.json"
    save_key_pair(path, pair)
    typer.echo(f"{path}\npublic key: {pair.public}")


@keys_app.command("register")
def keys_register(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    public_key: Annotated[str, typer.Argument(help="The public key (Z85, 40 characters).")],
    may: Annotated[
        str, typer.Option(help="Kinds of knowledge it may fetch, separated by commas.")
    ] = "weights,soft_targets,assessment",
    folder: KeyFolder = None,
) -> None:
    """Admit a key. Agents started with --registry on this folder see it at the next message."""
    from agentkd.exchange.grants import Registry
    from agentkd.exchange.keys import default_key_folder

    kinds = [kind.strip() for kind in may.split(",") if kind.strip()]
    entry = Registry(folder or default_key_folder()).register(name, public_key, kinds)
    typer.echo(f"{entry.name} may fetch {', '.join(entry.may) or 'nothing'}")


@keys_app.command("list")
def keys_list(folder: KeyFolder = None, output_format: Format = "text") -> None:
    """List the registered keys."""
    from agentkd.exchange.grants import Registry
    from agentkd.exchange.keys import default_key_folder

    entries = Registry(folder or default_key_folder()).entries().values()
    if output_format == "json":
        typer.echo(json.dumps([entry.as_data() for entry in entries], indent=2))
        return
    for entry in entries:
        typer.echo(f"{entry.name:<20} {entry.public_key}  {'revoked' if entry.is_revoked else ', '.join(entry.may)}")


@keys_app.command("revoke")
def keys_revoke(name: Annotated[str, typer.Argument(help="Whose key it is.")], folder: KeyFolder = None) -> None:
    """Take an admission back; a live session with that key ends at its next message."""
    from agentkd.exchange.grants import Registry
    from agentkd.exchange.keys import default_key_folder

    entry = Registry(folder or default_key_folder()).revoke(name)
    typer.echo(f"{entry.name} is admitted no longer")


protocol_app = typer.Typer(help="The protocol: check an agent against it, write its generated parts.", no_args_is_help=True)
app.add_typer(protocol_app, name="protocol")


@protocol_app.command("check")
def protocol_check(
    endpoint: Annotated[str, typer.Argument(help="Where the agent listens; with --listen, where to wait for it to join.")],
    key: Annotated[Path, typer.Option(help="Key file of the coordinator, whose part the check plays.")],
    agent_key: Annotated[str, typer.Option(help="The agent's public key (Z85).")],
    listen: Annotated[bool, typer.Option("--listen", help="Wait at ENDPOINT for an agent that dials.")] = False,
    classes: Annotated[int, typer.Option(min=1, help="Number of classes that the agent tells apart.")] = 5,
    leave: Annotated[bool, typer.Option("--leave", help="End the agent at last, as the leave dialogue does.")] = False,
    output_format: Format = "text",
) -> None:
    """Hold an agent against the protocol: every dialogue, every invalid message. Ends with 1 if a clause is broken."""
    from agentkd.conformance.clauses import all_clauses, play
    from agentkd.conformance.probe import Probe
    from agentkd.exchange.keys import load_key_pair

    broken, rows = 0, []
    with Probe(endpoint, load_key_pair(key), agent_key, is_listening=listen) as probe:
        for verdict in play(probe, all_clauses(classes, may_end=leave)):
            broken += not verdict.is_kept
            rows.append({"clause": verdict.clause.name, "is_kept": verdict.is_kept, "remark": verdict.remark})
            if output_format != "json":
                remark = f" ({verdict.remark})" if verdict.remark else ""
                typer.echo(f"{'ok  ' if verdict.is_kept else 'FAIL'} {verdict.clause.name:<28} {verdict.clause.text}{remark}")
    if output_format == "json":
        typer.echo(json.dumps(rows, indent=2))
    else:
        typer.echo(f"{len(rows) - broken} of {len(rows)} clauses kept")
    if broken:
        raise typer.Exit(1)


@protocol_app.command("write")
def protocol_write(folder: Annotated[Path, typer.Argument(help="Where to write them; protocols/ in this repository.")]) -> None:
    """Write the parts of the specification that follow from the code."""
    from agentkd.messages.specification import files

    for stale in (folder / "vectors").glob("*/*"):
        if str(stale.relative_to(folder)) not in files():
            stale.unlink()
    for path, data in files().items():
        target = folder / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        except OSError as error:
            raise StorageError(target, error.strerror or str(error)) from error
    typer.echo(f"{len(files())} files below {folder}")


def _run(experiment: Any, out: Path) -> None:
    from rich.console import Console

    from agentkd import logs
    from agentkd.agents.coordinator import run_experiment
    from agentkd.artifacts.run_folder import RunFolder
    from agentkd.report.live import watcher_for
    from agentkd.report.write import write_report

    for number in (signal.SIGTERM, signal.SIGHUP):  # what schedulers and closing terminals send ends a run as Ctrl-C does
        signal.signal(number, signal.default_int_handler)
    folder = RunFolder(out)
    console = Console()
    try:
        logs.to_file(folder.logs / "coordinator.log")
    except OSError as error:
        raise StorageError(folder.logs, error.strerror or str(error)) from error
    typer.echo(f"{experiment.name}: run folder {out}")
    try:
        with watcher_for(console) as watcher:
            outlook = run_experiment(experiment, folder, watcher)
    except KeyboardInterrupt:
        typer.echo(f"interrupted; what was finished is recorded in {out}; run the same command again to go on", err=True)
        raise typer.Exit(INTERRUPTED) from None
    written = write_report(folder)
    _print_table(outlook)
    typer.echo(f"report: {written.page}")


def _print_table(outlook: Any) -> None:
    from agentkd.report.table import markdown_table

    typer.echo(markdown_table(outlook))
