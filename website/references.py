"""Writes what follows from the code or from other pages: ``python -m website.references``. A test finds what is stale."""

import re
from pathlib import Path

from website import api, commands, errors, fields, notebooks

NOTICE = "<!-- Made from the code by `make references`; do not edit. -->"
REFERENCE = Path(__file__).parents[1] / "docs" / "reference"


def pages() -> dict[str, str]:
    """Each page's text by its file name."""
    found = {"experiment.md": fields.page(), "commands.md": commands.page(), "errors.md": errors.page(), "api.md": api.page()}
    noted = {name: text.replace("\n", f"\n\n{NOTICE}\n", 1) for name, text in found.items()}
    return {name: re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n" for name, text in noted.items()}


if __name__ == "__main__":
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")
    for path, text in notebooks.written().items():
        path.write_text(text, encoding="utf-8")
