"""Text from others before it reaches a terminal or a file: what would act there, or hide, is shown instead."""

import re

# Controls, what turns the direction of writing, lone surrogates, and what takes no room; all but the joiners.
_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    r"""The text with every character that acts or hides as its escape. Tabs and line feeds stay.

    Example:
        >>> print(visible("\x1b[2J"))
        \x1b[2J
    """
    return _ACTING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
