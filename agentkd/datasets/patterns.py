"""Patterns of file names with named parts: ``images/{split}/*/{stem}_leftImg8bit.{png,jpg}``. All else in them is literal.

==========  =====================================================================================
part        matches
==========  =====================================================================================
{channel}   what stands for a channel of an image that has a file for each
{split}     the name of a split, within one folder's or file's name
{stem}      what an image and its mask have in common
``*``       anything within one name; belongs to what an image and its mask have in common, in its place
``**/``     any folders, also none; likewise
``.*``      at the end: the ending of any image format
{png,jpg}   one of these
{{ and }}   a brace
==========  =====================================================================================

Endings match in upper and lower case; everything else as it is written, after Unicode's composition (NFC).
"""

import re
import unicodedata
from dataclasses import dataclass

from agentkd.errors import DatasetError

IMAGE_ENDINGS = frozenset(
    [
        "avif",
        "bmp",
        "dib",
        "gif",
        "j2k",
        "jfif",
        "jp2",
        "jpe",
        "jpeg",
        "jpg",
        "jpx",
        "pbm",
        "pcx",
        "pgm",
        "png",
        "pnm",
        "ppm",
        "tga",
        "tif",
        "tiff",
        "webp",
    ]
)

CHANNEL = "{channel}"

_TOKEN = re.compile(r"\{\{|\}\}|\{[^{}]*\}|\*\*/|\*|[^{}*]+|[{}]")


@dataclass(frozen=True, slots=True)
class Parts:
    """What a pattern found in a file's name."""

    split: str
    stars: tuple[str, ...]
    stem: str
    channel: str = ""


class Pattern:
    """One pattern.

    Args:
        where: which key of which file it stands in, for errors.
        splits: the names that ``{split}`` may be; any if there are none.
        channels: what ``{channel}`` may be; without them there is no such part.

    Raises:
        DatasetError: a part that is not known, braces that do not match, or a way out of the folder.
    """

    def __init__(self, text: str, where: str, splits: tuple[str, ...] = (), channels: tuple[str, ...] = ()) -> None:
        if text.startswith("/") or ".." in text.split("/"):
            raise DatasetError(
                where, f"pattern {text!r} leads out of the folder", "one within it; put dataset.yaml above all files"
            )
        self.text = text
        self._tokens: list[str] = _TOKEN.findall(composed(text.removeprefix("./")))
        self._any_ending = text.endswith(".*")
        self.num_stars, self.num_literal = 0, 0
        self._seen: set[str] = set()
        self._channels = channels
        expression = "".join(self._expression(token, at, where, splits) for at, token in enumerate(self._tokens))
        self.has_split, self.has_stem = "split" in self._seen, "stem" in self._seen
        self.has_channel = "channel" in self._seen
        self._regex = re.compile(expression, re.DOTALL)

    def match(self, name: str) -> Parts | None:
        """The parts of a path, which is relative, with slashes, and composed; None if it is not of this form."""
        found = self._regex.fullmatch(name)
        if found is None or (self._any_ending and name.rpartition(".")[2].lower() not in IMAGE_ENDINGS):
            return None
        groups = found.groupdict()
        stars = tuple(groups[f"star{at}"].rstrip("/") for at in range(self.num_stars))
        return Parts(groups.get("split") or "", stars, groups.get("stem") or "", groups.get("channel") or "")

    def fill(self, parts: Parts) -> str:
        """The path that a file with these parts would have; a star that they do not have stays one."""
        stars = iter(parts.stars)
        filled = []
        for at, token in enumerate(self._tokens):
            if token in ("*", "**/") and not self._is_ending(at):
                star = next(stars, None)
                filled.append(token if star is None else (f"{star}/" if star and token == "**/" else star))
            else:
                filled.append(
                    {"{split}": parts.split, "{stem}": parts.stem, CHANNEL: parts.channel or CHANNEL, "{{": "{", "}}": "}"}.get(
                        token, token
                    )
                )
        return "".join(filled)

    def _is_ending(self, at: int) -> bool:
        return self._any_ending and at == len(self._tokens) - 1

    def _expression(self, token: str, at: int, where: str, splits: tuple[str, ...]) -> str:
        if self._is_ending(at):
            return r"[^./]+"
        if token in ("*", "**/"):
            self.num_stars += 1
            inner = r"(?:[^/]+/)*" if token == "**/" else r"[^/]*"
            return f"(?P<star{self.num_stars - 1}>{inner})"
        if token in ("{split}", "{stem}"):
            name = token[1:-1]
            if name in self._seen:
                return f"(?P={name})"
            self._seen.add(name)
            choice = "|".join(re.escape(composed(split)) for split in splits) if name == "split" and splits else ""
            return f"(?P<{name}>{choice or ('[^/]+?' if name == 'split' else '[^/]+')})"
        if token == CHANNEL and self._channels:
            if "channel" in self._seen:
                return "(?P=channel)"
            self._seen.add("channel")
            return f"(?P<channel>{'|'.join(re.escape(composed(name)) for name in self._channels)})"
        if token[0] == "{" and token[-1] == "}" and "," in token:
            flags = "(?i:" if self._tokens[at - 1 : at] and self._tokens[at - 1].endswith(".") else "(?:"
            return flags + "|".join(re.escape(choice.strip()) for choice in token[1:-1].split(",")) + ")"
        if token[0] in "{}" and token not in ("{{", "}}"):
            raise DatasetError(
                where, f"pattern {self.text!r} has the unknown part {token!r}", "{split}, {stem}, * or {png,jpg}; {{ for a brace"
            )
        return self._literal(token.replace("{{", "{").replace("}}", "}"), is_last=at == len(self._tokens) - 1)

    def _literal(self, text: str, *, is_last: bool) -> str:
        self.num_literal += len(text)
        head, dot, ending = text.rpartition(".")
        if is_last and dot and ending.isalnum():
            return f"{re.escape(head)}\\.(?i:{re.escape(ending)})"
        return re.escape(text)


def composed(text: str) -> str:
    """The text in Unicode's composed form, so that names from one system match those from another."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)
