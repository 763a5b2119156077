"""Pages of the site that do not lie in ``docs``: those of the protocol, the changes, and every file that a page links to.

The documents link as they lie in the repository, so that they can be read there. Here the same links are made to lead to pages of
the site: each text file beyond ``docs`` that is linked becomes one.
"""

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = "docs"
LINK = re.compile(r"(?<!!)\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<target>[^)\s]+)(?P<rest>[^)]*)\)")
FENCE = re.compile(r"^(?P<mark>```+|~~~+)[^\n]*\n.*?^(?P=mark)\s*$", re.MULTILINE | re.DOTALL)
NAMED = {
    "README.md": "index.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
LANGUAGES = {
    ".py": "python",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".mjs": "javascript",
    ".toml": "toml",
    ".json": "json",
    ".sh": "bash",
}


def page_of(place: str) -> str:
    """The page of the site for a place in the repository, both as paths with ``/``.

    Example:
        >>> [page_of(place) for place in ("docs/how-to/run.md", "protocols/protocol.md", "CHANGELOG.md")]
        ['how-to/run.md', 'protocols/protocol.md', 'changes.md']
        >>> page_of("examples/exchange.py")
        'source/examples/exchange.py.md'
    """
    if place in NAMED:
        return NAMED[place]
    inside = posixpath.relpath(place, DOCS)
    if not inside.startswith(".."):
        return posixpath.join(inside, "index.md") if (ROOT / place).is_dir() else inside
    if place.startswith("protocols/") and place.endswith(".md"):
        return place
    if (ROOT / place).is_dir():
        return f"source/{place}/index.md"
    return f"source/{place}" if place.endswith(".md") else f"source/{place}.md"


def text_of(place: str) -> str:
    """The Markdown of a page beyond ``docs``: a document as it is, another file as code, a folder as the list of its files."""
    path = ROOT / place
    if path.is_dir():
        names = sorted(one.name for one in path.iterdir() if one.is_file() and not one.name.startswith("."))
        return "\n".join([f"# {place}", "", *(f"- [{name}]({name})" for name in names), ""])
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    return f"# {path.name}\n\n`{place}` in the repository.\n\n````{LANGUAGES.get(path.suffix, 'text')}\n{text}````\n"


def links(text: str) -> list[str]:
    """Where a page links to in the repository, without anchors and other hosts."""
    found = (match["target"].partition("#")[0] for match in LINK.finditer(FENCE.sub("", text)))
    return [target for target in found if target and not re.match(r"[a-z]+:", target)]


def linked(place: str, text: str) -> list[str]:
    """The places in the repository that a page at a place links to, and that are there."""
    found = [posixpath.normpath(posixpath.join(posixpath.dirname(place), target)) for target in links(text)]
    return [one for one in found if (ROOT / one).exists()]


def relink(place: str, text: str) -> str:
    """The page's text with every link as it is from page to page of the site; what is in fences stays."""
    home, base = page_of(place), place if (ROOT / place).is_dir() else posixpath.dirname(place)

    def turned(match: re.Match[str]) -> str:
        target, mark, anchor = match["target"].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        there = posixpath.normpath(posixpath.join(base, target))
        if there.startswith(f"{DOCS}/") and not there.endswith(".md") and not (ROOT / there).is_dir():
            return match[0]  # a picture, or a notebook
        page = posixpath.relpath(page_of(there), posixpath.dirname(home) or ".")
        return f"[{match['text']}]({page}{mark}{anchor}{match['rest']})"

    pieces, done = [], 0
    for fence in FENCE.finditer(text):
        pieces += [LINK.sub(turned, text[done : fence.start()]), fence[0]]
        done = fence.end()
    return "".join([*pieces, LINK.sub(turned, text[done:])])


def everything() -> dict[str, str]:
    """Every page beyond ``docs`` that the site needs: by its place in the repository, its Markdown."""
    found: dict[str, str] = {}
    waiting = [str(path.relative_to(ROOT).as_posix()) for path in sorted((ROOT / DOCS).rglob("*.md"))]
    waiting += [*NAMED, *(f"protocols/{path.name}" for path in sorted((ROOT / "protocols").glob("*.md")))]
    seen = set(waiting)
    while waiting:
        place = waiting.pop()
        text = text_of(place)
        if not place.startswith(f"{DOCS}/") and place != "README.md":
            found[place] = text
        if (ROOT / place).is_dir():
            more = [f"{place}/{target}" for target in links(text)]
        else:
            more = linked(place, text) if place.endswith(".md") else []
        new = [one for one in more if one not in seen and not one.startswith(f"{DOCS}/")]
        seen.update(new)
        waiting += new
    return found
