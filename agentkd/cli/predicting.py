"""The command that another distribution carries out, which needs no torch: here it is only handed over."""

from importlib.util import find_spec
from typing import Annotated

import typer

from agentkd.errors import ConfigError


def predict(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="MODEL", help="And INPUT... --out DIR; see --help.")] = None,
) -> None:
    """Predict with an exported network on images, orthophotos and videos of any size (pip install agentkd-predict)."""
    if find_spec("agentkd_predict") is None:
        raise ConfigError("agentkd predict MODEL needs a package that is not installed: pip install agentkd-predict")
    from agentkd_predict.cli import run

    status = run(arguments or [], "agentkd predict")
    if status:
        raise typer.Exit(status)
