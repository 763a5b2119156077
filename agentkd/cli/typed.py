"""What is typed as an argument, as what it is meant to be; or why it cannot be that.

Each raises ``typer.BadParameter``, which ends with 2 and names the option.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from agentkd.names import PUBLIC_KEY_FORM, PublicKey

if TYPE_CHECKING:
    from agentkd.architecture import Normalization

FORMATS = ("text", "json")
MAX_KEY_NAME = 100
ENDPOINT = re.compile(r"tcp://(\[[0-9a-fA-F:.%\w]+\]|[\w.-]+):(?P<port>\d{1,5})|ipc://[^\0]+", re.ASCII)
ADDRESS = re.compile(r"tcp://(\[[0-9a-fA-F:.%\w]+\]|[\w.*-]+):(?P<port>\d{1,5}|\*)|ipc://[^\0]+", re.ASCII)
MAX_PORT = 65_535
_AMOUNT = r"(?:(\d{1,9}(?:\.\d{1,3})?)"
DURATION = re.compile("".join(f"{_AMOUNT}{unit})?" for unit in "dhms"), re.ASCII)
UNITS_S = (86_400, 3_600, 60, 1)


def path(text: str) -> Path:
    """A path as it is typed. The shell does not expand ``~`` in ``--out=~/run``, so it is done here.

    Raises:
        BadParameter: it is empty, as where a variable of a script is not set, or there is no such home.
    """
    if not text:
        raise typer.BadParameter("it is empty; give a path (. is the current folder)")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise typer.BadParameter(f"{text!r}: nobody of that name has a home here; a file of that name is ./{text}") from None


def duration(text: str) -> float:
    """Seconds, of a text such as 2h, 90m or 1h30m."""
    found = DURATION.fullmatch(text.strip())
    seconds = sum(float(part) * unit for part, unit in zip(found.groups(), UNITS_S, strict=True) if part) if found else 0.0
    if not seconds:
        raise typer.BadParameter(f"{text[:80]!r} is no time; expected one such as 2h, 90m, 1h30m or 45s")
    return seconds


def bind(text: str) -> str:
    """Where to listen, which is looked at later: not nowhere, as where a variable of a script is not set."""
    if not text.strip():
        raise typer.BadParameter("it is empty; give an address or interface of this host, or leave it out for loopback")
    return text


def output_format(text: str) -> str:
    """In which form to answer."""
    if text not in FORMATS:
        raise typer.BadParameter(f"{text!r} is none of {', '.join(FORMATS)}")
    return text


def public_key(text: str) -> PublicKey:
    """The public half of a key pair."""
    if not re.fullmatch(PUBLIC_KEY_FORM, text):
        raise typer.BadParameter(f"{text[:80]!r} is no public key; it has 40 characters (Z85), as agentkd keys new prints it")
    return PublicKey(text)


def endpoint(text: str) -> str:
    """Where somebody can be dialed; empty for nowhere."""
    return _place(text, ENDPOINT, "tcp://127.0.0.1:5555") if text else ""


def address(text: str) -> str:
    """Where to listen."""
    return _place(text, ADDRESS, "tcp://127.0.0.1:5555, or tcp://127.0.0.1:* for any port")


def device(text: str) -> str:
    """A device of torch."""
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", text):
        raise typer.BadParameter(f"{text[:80]!r} is no device; expected cpu, or cuda:0")
    return text


def key_name(text: str) -> str:
    """Whose key it is: the name of its file as well."""
    if not text.strip() or not text.isprintable() or len(text) > MAX_KEY_NAME or "/" in text or text.startswith("."):
        raise typer.BadParameter(
            f"{text[:80]!r} is no name of a key; expected up to {MAX_KEY_NAME} printable characters without /"
        )
    return text


def images(text: str) -> "Normalization":
    """What images a network takes: how many channels they have, or what these are called, in order."""
    from agentkd.architecture import MAX_CHANNELS, numbered, usual_normalization

    names = tuple(name.strip() for name in text.split(","))
    try:
        return usual_normalization(numbered(min(int(text), MAX_CHANNELS + 1)) if text.isdecimal() else names)
    except ValueError as error:
        raise typer.BadParameter(f"{text[:80]!r}: {error}, such as 4 or red,green,blue,nir") from None


def _place(text: str, form: re.Pattern[str], example: str) -> str:
    found = form.fullmatch(text)
    if not found or ((found["port"] or "0").isdigit() and int(found["port"] or 0) > MAX_PORT):
        raise typer.BadParameter(f"{text[:80]!r} is no endpoint; expected one such as {example}, or ipc://PATH")
    return text
