"""One picture of several samples: each image beside its mask in the classes' colors, and what the colors stand for.

What is not labelled is a gray checkerboard, so that it is no class's color.
"""

import io
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from agentkd.datasets.samples import Color, Dataset, Pixels, Sample, as_rgb, channels_of

WIDTH, HEIGHT = 300, 225
COLUMNS, GAP, LINE = 2, 12, 22
FONT_SIZE = 14
CHECKER, GRAYS = 6, (150, 205)
INK, PAPER, FRAME = (20, 20, 20), (255, 255, 255), (120, 120, 120)
NOT_LABELLED = "not labelled"
MAX_CAPTION, MAX_LEGEND = 76, 60


def contact_sheet(title: str, dataset: Dataset, samples: Sequence[tuple[str, Sample]]) -> bytes:
    """The picture, as PNG.

    Args:
        title: what stands above.
        dataset: whose classes and colors they are.
        samples: each with what stands over it. One that cannot be decoded is to be left out by the caller.
    """
    rows = -(-len(samples) // COLUMNS)
    cell_width, cell_height = 2 * WIDTH + 2, LINE + HEIGHT
    width = COLUMNS * (cell_width + GAP) + GAP
    entries = [(name, dataset.colors[at]) for at, name in enumerate(dataset.classes)]
    legend = _legend([*entries, (NOT_LABELLED, None)], width - 2 * GAP)
    height = GAP + LINE + rows * (cell_height + GAP) + GAP + legend.height + GAP
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), _shortened(title, 2 * MAX_CAPTION), fill=INK, font=_font())
    for at, (caption, sample) in enumerate(samples):
        row, column = divmod(at, COLUMNS)
        left, top = GAP + column * (cell_width + GAP), GAP + LINE + row * (cell_height + GAP)
        draw.text((left, top + 3), _shortened(caption, MAX_CAPTION), fill=INK, font=_font())
        sheet.paste(_fitted(as_rgb(sample.image, channels_of(dataset)), Image.Resampling.BOX), (left, top + LINE))
        sheet.paste(_fitted(_colored(sample.label, dataset), Image.Resampling.NEAREST), (left + WIDTH + 2, top + LINE))
    sheet.paste(legend, (GAP, height - legend.height - GAP))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _fitted(pixels: Pixels, resampling: Image.Resampling) -> Image.Image:
    """At most ``WIDTH`` by ``HEIGHT``, in the middle, with its proportions; smaller images are enlarged with hard edges."""
    image = Image.fromarray(pixels)
    scale = min(WIDTH / image.width, HEIGHT / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    shown = image.resize(size, resampling if scale < 1 else Image.Resampling.NEAREST)
    canvas = Image.new("RGB", (WIDTH, HEIGHT), (235, 235, 235))
    canvas.paste(shown, ((WIDTH - size[0]) // 2, (HEIGHT - size[1]) // 2))
    return canvas


def _colored(label: Pixels, dataset: Dataset) -> Pixels:
    """A label [H,W] in the colors of its classes [H,W,3]."""
    height, width = label.shape
    cell = max(1, round(max(height / HEIGHT, width / WIDTH) * CHECKER))
    checks = ((np.arange(height)[:, None] // cell + np.arange(width)[None, :] // cell) % 2).astype(np.uint8)
    colors = np.zeros((256, 3), dtype=np.uint8)
    colors[: len(dataset.classes)] = dataset.colors
    known = label < len(dataset.classes)
    shown = colors[label]
    shown[~known] = np.array(GRAYS, dtype=np.uint8)[checks][~known][:, None]
    return shown


def _legend(entries: Sequence[tuple[str, Color | None]], width: int) -> Image.Image:
    """A swatch and a name for each class, in as many lines as they need."""
    places, left, top = [], 0, 0
    for name, color in entries:
        text = _shortened(name, MAX_LEGEND)
        wide = 20 + int(_font().getlength(text)) + 18
        if left and left + wide > width:
            left, top = 0, top + LINE
        places.append((left, top, text, color))
        left += wide
    legend = Image.new("RGB", (width, top + LINE), PAPER)
    draw = ImageDraw.Draw(legend)
    for left, top, text, color in places:
        box = (left, top + 3, left + 14, top + 17)
        draw.rectangle(box, fill=color or (GRAYS[1],) * 3, outline=FRAME)
        if color is None:
            draw.rectangle((left + 1, top + 4, left + 7, top + 10), fill=(GRAYS[0],) * 3)
            draw.rectangle((left + 7, top + 10, left + 13, top + 16), fill=(GRAYS[0],) * 3)
        draw.text((left + 20, top + 2), text, fill=INK, font=_font())
    return legend


def _shortened(text: str, most: int) -> str:
    plain = "".join(letter if letter.isprintable() else "?" for letter in text)
    return plain if len(plain) <= most else f"{plain[: most - 3]}..."


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(FONT_SIZE)
