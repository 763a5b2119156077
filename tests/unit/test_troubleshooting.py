"""The page of messages quotes what the code says, and has every class of errors."""

import ast
import re
from pathlib import Path

from website.errors import classes

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")


def texts_in_the_code() -> str:
    """Every text of the package, with what is put into it left out."""
    found = []
    for path in [*ROOT.glob("agentkd/**/*.py"), *ROOT.glob("predict/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values))
    return "\n".join(found)


def test_what_the_page_quotes_is_said_by_the_code() -> None:
    said = texts_in_the_code()
    rows = [line.split(" | ")[0] for line in PAGE.partition("## Nothing is wrong")[0].splitlines() if line.startswith("| `")]
    assert len(rows) > 40
    for row in rows:
        for quoted in re.findall(r"`([^`]+)`", row):
            for piece in quoted.split("..."):
                words = piece.strip(" ,;:()[]'")
                assert words in said, f"{quoted!r}: nothing says {words!r}"


def test_every_class_of_errors_has_its_part_with_its_exit_code() -> None:
    parts = re.findall(r"^## (.*Error.*)$", PAGE, re.MULTILINE)
    for kind in classes()[1:]:
        title = next((part for part in parts if kind.__name__ in part), "")
        assert title, f"no part of the page is of {kind.__name__}"
        following = re.search(r"\((?:exit code )?(\d+)\)", title[title.index(kind.__name__) :])
        assert following and int(following[1]) == kind.exit_code
