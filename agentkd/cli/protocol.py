"""Commands on the protocol."""

import json
from pathlib import Path
from typing import Annotated

import typer

from agentkd.cli.app import Format
from agentkd.cli.ending import say
from agentkd.cli.typed import address, path, public_key
from agentkd.errors import ConfigError, ExchangeError, StorageError

FIRST_UNANSWERED, FIRST_ANSWERED = "join.first", "join.greeting"  # clauses: of silence the first alone does not say who keeps it

protocol_app = typer.Typer(help="The protocol: check an agent against it, write its generated parts.", no_args_is_help=True)


@protocol_app.command("check")
def protocol_check(
    endpoint: Annotated[
        str, typer.Argument(parser=address, help="Where the agent listens; with --listen, where to wait for it to join.")
    ],
    key: Annotated[Path, typer.Option(parser=path, help="Key file of the coordinator, whose part the check plays.")],
    agent_key: Annotated[str, typer.Option(parser=public_key, help="The agent's public key (Z85).")],
    listen: Annotated[bool, typer.Option("--listen", help="Wait at ENDPOINT for an agent that dials.")] = False,
    classes: Annotated[int, typer.Option(min=1, help="Number of classes that the agent tells apart.")] = 5,
    leave: Annotated[bool, typer.Option("--leave", help="End the agent at last, as the leave dialogue does.")] = False,
    output_format: Format = "text",
) -> None:
    """Hold an agent against the protocol: every dialogue, every invalid message.

    Ends with 1 if a clause is broken, with 12 if nobody answers.
    """
    from agentkd.conformance.clause import play
    from agentkd.conformance.clauses import all_clauses
    from agentkd.conformance.probe import Probe
    from agentkd.exchange.keys import load_key_pair
    from agentkd.names import PublicKey

    broken, rows, lines = 0, [], list[str]()
    with Probe(endpoint, load_key_pair(key), PublicKey(agent_key), is_listening=listen) as probe:
        for verdict in play(probe, all_clauses(classes, may_end=leave)):
            if verdict.is_silence and verdict.clause.name == FIRST_ANSWERED:
                told = f"nobody answers at {endpoint} with that key: is the agent there, and is that where it listens?"
                raise ExchangeError(told)
            broken += not verdict.is_kept
            rows.append({"clause": verdict.clause.name, "is_kept": verdict.is_kept, "remark": verdict.remark})
            remark = f" ({verdict.remark})" if verdict.remark else ""
            lines.append(f"{'ok  ' if verdict.is_kept else 'FAIL'} {verdict.clause.name:<28} {verdict.clause.text}{remark}")
            if verdict.clause.name == FIRST_UNANSWERED or output_format == "json":
                continue
            for line in lines:
                say(line)
            lines.clear()
    if output_format == "json":
        say(json.dumps(rows, indent=2))
    else:
        say(f"{len(rows) - broken} of {len(rows)} clauses kept")
    if broken:
        raise typer.Exit(1)


@protocol_app.command("write")
def protocol_write(
    folder: Annotated[Path, typer.Argument(parser=path, help="Where to write them; protocols/ in this repository.")],
    output_format: Format = "text",
) -> None:
    """Write the parts of the specification that follow from the code."""
    from agentkd.messages.specification import files

    made = files()
    is_written = all((folder / name).is_file() for name in made if not name.startswith("vectors/"))
    stale = [one for one in (folder / "vectors").glob("*/*") if str(one.relative_to(folder)) not in made]
    if stale and not is_written:
        raise ConfigError(f"{stale[0]} is none of the protocol's, nor are its other parts in {folder}; choose another folder")
    for one in stale:
        one.unlink()
    for name, data in made.items():
        target = folder / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        except OSError as error:
            raise StorageError.of(target, error) from error
    if output_format == "json":
        return say(json.dumps({"folder": str(folder), "files": sorted(made)}, indent=2))
    say(f"{len(made)} files below {folder}")
