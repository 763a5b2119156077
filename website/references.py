"""Writes the pages of ``docs/reference`` that follow from the code: ``python -m website.references``. A test finds stale ones."""

from pathlib import Path

from website import api, commands, errors, fields

NOTICE = "<!-- Made from the code by `make references`; do not edit. -->"
REFERENCE = Path(__file__).parents[1] / "docs" / "reference"


def pages() -> dict[str, str]:
    """Each page's text by its file name."""
    found = {"experiment.md": fields.page(), "commands.md": commands.page(), "errors.md": errors.page(), "api.md": api.page()}
    return {name: text.replace("\n", f"\n\n{NOTICE}\n", 1).rstrip("\n") + "\n" for name, text in found.items()}


if __name__ == "__main__":
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")
