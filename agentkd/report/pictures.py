"""The picture of what networks see: images, labels, what was predicted, and where that is wrong."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from safetensors import SafetensorError
from safetensors.numpy import load

from agentkd.artifacts.store import Store
from agentkd.datasets.samples import Dataset, Pixels, as_rgb, channels_of
from agentkd.networks.families import title
from agentkd.pipeline.plan import Outlook
from agentkd.pipeline.stages import ROUNDS
from agentkd.report.drawing import WIDTH, Drawing, drawn

NUM_PICTURES = 4
MAX_MAPS = 256 * 2**20
OF_ERRORS = ((255, 0, 255), (0, 255, 255), (255, 255, 0), (255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 0, 255))


def pictures_figure(outlook: Outlook, dataset: Dataset, store: Store) -> Drawing | None:
    """Image, label, round-2 teacher, final student and its errors, for the first samples of the test split."""
    if outlook.winner is None or not outlook.tests:
        return None
    student = outlook.tests[outlook.winner.family]
    shown = [("final:\n" + _short(outlook.winner.family), student)]
    taught = [lesson for lesson in outlook.lessons if lesson.stage is ROUNDS[-1]]
    teacher_family = next((lesson.teachers[0].family for lesson in taught if lesson.student.family == outlook.winner.family), "")
    if not teacher_family and taught:
        shown[0] = ("teacher and final:\n" + _short(outlook.winner.family), student)
        teacher_family = taught[0].student.family
        shown.insert(0, ("its student:\n" + _short(teacher_family), outlook.tests[teacher_family]))
    elif teacher_family:
        shown.insert(0, ("teacher:\n" + _short(teacher_family), outlook.tests[teacher_family]))
    if any(entrant.result.predictions not in store for _, entrant in shown):
        return None  # left out of a bundle
    maps = [(text, _class_maps(store.get(entrant.result.predictions, max_bytes=MAX_MAPS))) for text, entrant in shown]
    names = sorted(maps[-1][1])[:NUM_PICTURES]
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(dataset.colors)] = dataset.colors
    columns = 3 + len(maps)
    figure = Figure(figsize=(WIDTH, 0.8 * WIDTH / columns * len(names) + 0.9), layout="constrained")
    places = figure.subplots(len(names), columns, squeeze=False)
    error_color = color_of_errors(dataset)
    for line, name in zip(places, names, strict=True):
        number = int(name.partition(".")[2])
        if number not in dataset.splits[student.task.data.validation]:
            raise ValueError(f"there is a class map of image {number}, which the test split does not have")
        sample = dataset.sample(number)
        final = maps[-1][1][name]
        wrong = (final != sample.label) & (sample.label != dataset.ignore_index)
        image = as_rgb(sample.image, channels_of(dataset))
        gray = np.repeat(image.mean(axis=2, keepdims=True).astype(np.uint8) // 2 + 100, 3, axis=2)
        pictures = [("image", image), ("label", palette[sample.label])]
        pictures += [(text, palette[found[name]]) for text, found in maps]
        pictures.append((f"errors: {100 * wrong.mean():.0f} %", np.where(wrong[..., None], error_color, gray)))
        for axes, (text, pixels) in zip(line, pictures, strict=True):
            axes.imshow(pixels, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            if name == names[0] or text.startswith("errors"):
                axes.set_title(text, fontsize=8)
    handles = [
        Patch(color=tuple(np.array(color) / 255), label=text) for text, color in zip(dataset.classes, dataset.colors, strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), fontsize=8)
    return drawn(figure)


def _class_maps(data: bytes) -> dict[str, Pixels]:
    """The class maps of an evaluation, by name.

    Raises:
        ValueError: they are none.
    """
    try:
        maps = load(data)
    except SafetensorError as error:
        raise ValueError(f"what was predicted cannot be read: {error}") from None
    if any(found.dtype != np.uint8 or found.ndim != 2 for found in maps.values()):
        raise ValueError("what was predicted is no class maps")
    return maps


def color_of_errors(dataset: Dataset) -> Pixels:
    """A color that no class has, nor one like it: of some the one that is farthest from all of them."""
    classes = np.array(dataset.colors, dtype=np.int64).reshape(-1, 3)
    distances = [np.abs(classes - color).sum(axis=1).min(initial=3 * 255) for color in OF_ERRORS]
    return np.array(OF_ERRORS[int(np.argmax(distances))], dtype=np.uint8)


def _short(family: str) -> str:
    return title(family).split(" (")[0]
