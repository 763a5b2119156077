"""Commands on keys: who may connect to agents and fetch which knowledge."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from agentkd.cli.app import Format
from agentkd.cli.ending import say
from agentkd.cli.typed import key_name, path, public_key

KEY_CHARACTERS = 40

keys_app = typer.Typer(help="Keys: who may connect to agents and fetch which knowledge.", no_args_is_help=True)
KeyFolder = Annotated[
    Path | None, typer.Option("--keys", parser=path, help="Folder; by default $AGENTKD_KEYS or ~/.config/agentkd/keys.")
]


class TakesKeys(TyperCommand):
    """A command among whose arguments a public key may begin with ``-``, as one in 85 does."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if any(len(given) == KEY_CHARACTERS and given[0] == "-" for given in args):
            ctx.ignore_unknown_options, ctx.help_option_names = True, ["--help"]  # -h may be how the key begins
            self._help_option = None  # of some versions, as it was made before
        return super().parse_args(ctx, args)


@keys_app.command("new", cls=TakesKeys)
def keys_new(
    name: Annotated[str, typer.Argument(parser=key_name, help="Whose key it is.")],
    folder: KeyFolder = None,
    output_format: Format = "text",
) -> None:
    """Make a key pair in a file that you alone can read, and print the public key."""
    from agentkd.exchange.keys import default_key_folder, new_key_pair, save_key_pair

    pair = new_key_pair()
    file = (folder or default_key_folder()) / f"{name}.json"
    save_key_pair(file, pair)
    if output_format == "json":
        return say(json.dumps({"name": name, "file": str(file), "public_key": pair.public}, indent=2))
    say(f"{file}\npublic key: {pair.public}")


@keys_app.command("register", cls=TakesKeys)
def keys_register(
    name: Annotated[str, typer.Argument(parser=key_name, help="Whose key it is.")],
    public_key: Annotated[str, typer.Argument(parser=public_key, help="The public key (Z85, 40 characters).")],
    may: Annotated[
        str, typer.Option(help="Kinds of knowledge it may fetch, separated by commas.")
    ] = "weights,soft_targets,assessment",
    folder: KeyFolder = None,
    output_format: Format = "text",
) -> None:
    """Admit a key. Agents started with --registry on this folder see it at the next message."""
    from agentkd.exchange.grants import Registry
    from agentkd.exchange.keys import default_key_folder

    kinds = [kind.strip() for kind in may.split(",") if kind.strip()]
    entry = Registry(folder or default_key_folder()).register(name, public_key, kinds)
    if output_format == "json":
        return say(json.dumps(entry.as_data(), indent=2))
    say(f"{entry.name} may fetch {', '.join(entry.may) or 'nothing'}")


@keys_app.command("list")
def keys_list(folder: KeyFolder = None, output_format: Format = "text") -> None:
    """List the registered keys."""
    from agentkd.exchange.grants import Registry
    from agentkd.exchange.keys import default_key_folder

    entries = Registry(folder or default_key_folder()).entries().values()
    if output_format == "json":
        say(json.dumps([entry.as_data() for entry in entries], indent=2))
        return
    for entry in entries:
        say(f"{entry.name:<20} {entry.public_key}  {'revoked' if entry.is_revoked else ', '.join(entry.may)}")


@keys_app.command("revoke", cls=TakesKeys)
def keys_revoke(
    name: Annotated[str, typer.Argument(help="Whose key it is.")], folder: KeyFolder = None, output_format: Format = "text"
) -> None:
    """Take an admission back; a live session with that key ends at its next message."""
    from agentkd.exchange.grants import Registry
    from agentkd.exchange.keys import default_key_folder

    entry = Registry(folder or default_key_folder()).revoke(name)
    if output_format == "json":
        return say(json.dumps(entry.as_data(), indent=2))
    say(f"{entry.name} is admitted no longer")
