"""Text from others before it reaches a terminal, a log or a page: what would act there, or hide, is shown instead."""

import html
import re
from collections.abc import Mapping

# Controls (C0 without tab and line feed, DEL, C1), what turns the direction of writing, lone surrogates, and what takes no room:
# all but the joiners and the selectors of emoji, without which words of some scripts are not what they are.
_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    r"""The text with every character that acts or hides as its escape. Tabs and line feeds stay.

    Example:
        >>> print(visible("\x1b[2J\x9b1mred\u202e"))
        \x1b[2J\x9b1mred\u202e
    """
    return _ACTING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def visible_line(text: str) -> str:
    r"""The same on one line, for where a second one would look like somebody else's.

    Example:
        >>> print(visible_line("done\nFAIL"))
        done\nFAIL
    """
    return visible(text).replace("\n", "\\n")


def shortened(text: str, most: int) -> str:
    """The text; of one that is longer than that, its first part and how long it is.

    Example:
        >>> shortened("a" * 5000, 3)
        'aaa ... (5,000 characters)'
    """
    return text if len(text) <= most else f"{text[:most]} ... ({len(text):,} characters)"


def html_table(title: str, rows: Mapping[str, str]) -> str:
    r"""A table of two columns for a notebook; nothing in it is taken for HTML.

    Example:
        >>> html_table("a<b", {"classes": "Fire & Smoke"})
        '<table><caption>a&lt;b</caption><tr><th>classes</th><td>Fire &amp; Smoke</td></tr></table>'
    """
    cells = "".join(f"<tr><th>{_escaped(name)}</th><td>{_escaped(value)}</td></tr>" for name, value in rows.items())
    return f"<table><caption>{_escaped(title)}</caption>{cells}</table>"


def _escaped(text: str) -> str:
    return html.escape(visible_line(text))
