"""The README.md beside an exported network, in the form that Hugging Face reads: what it is, how good, how to use it."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from agentkd import __version__
from agentkd.architecture import RGB, Architecture
from agentkd.datasets.samples import ValueScale
from agentkd.deploy.origin import Origin
from agentkd.networks.families import title
from agentkd.task import RUNS_CODE, TAUGHT_BY_CODE, Evaluate, TaskResult, Taught, Training
from agentkd.visible import visible

FULL_16 = (0, 65535)
LIMITS = (
    "It was measured on the images named above alone. On images that are unlike them it can be wrong and sure of itself. Nothing "
    "that depends on people's safety may rest on it without a person who looks."
)


@dataclass(frozen=True)
class File:
    """What was exported.

    Args:
        name: of the file.
        kind: ``onnx``, ``torch`` or ``safetensors``.
        metadata: what it says of itself.
        remarks: what else is to be said, in sentences.
        command: by which it was made.
    """

    name: str
    kind: str
    metadata: Mapping[str, Any]
    remarks: tuple[str, ...]
    command: str


def model_card(origin: Origin, file: File) -> str:
    """The card of an exported network, in Markdown with a head in YAML."""
    lines = [
        "---",
        yaml.safe_dump(_head(origin, file), sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        "",
        f"# {_name(origin)}",
        "",
        *_what_it_is(origin, file),
        "## What it was made from",
        "",
        *_made_from(origin),
        "",
        "## How well it does",
        "",
        *_scores(origin),
        "## How the file was checked",
        "",
        *_checked(file),
        "",
        "## How to load it",
        "",
        *_loading(origin, file),
        "",
        "## How to reproduce it",
        "",
        *_reproducing(origin, file),
        "",
        "## What it is not for",
        "",
        LIMITS,
        "",
    ]
    return visible("\n".join(lines))


def _name(origin: Origin) -> str:
    label = origin.record.label if origin.record else ""
    return f"{title(origin.segmenter.architecture.family)}, {label or origin.weights[:12]}"


def _head(origin: Origin, file: File) -> dict[str, Any]:
    library = {"onnx": "onnx", "torch": "pytorch", "safetensors": "agentkd"}[file.kind]
    head: dict[str, Any] = {
        "library_name": library,
        "pipeline_tag": "image-segmentation",
        "tags": ["agentkd", "semantic-segmentation", "knowledge-distillation", origin.segmenter.architecture.family],
    }
    record = origin.record
    if record is None:
        return head
    head["datasets"] = [record.task.data.spec]
    head["metrics"] = ["mean_iou"]
    results = [_result(record.task.data.spec, record.task.data.validation, record.result)] if record.result.class_iou else []
    results += [_result(record.task.data.spec, split, result) for split, result in origin.tests]
    head["model-index"] = [{"name": _name(origin), "results": results}]
    return head


def _result(dataset: str, split: str, result: TaskResult) -> dict[str, Any]:
    return {
        "task": {"type": "image-segmentation"},
        "dataset": {"name": dataset, "type": dataset, "split": split},
        "metrics": [{"type": "mean_iou", "value": round(result.miou, 6)}],
    }


def _what_it_is(origin: Origin, file: File) -> list[str]:
    architecture = origin.segmenter.architecture
    normalization = "" if file.kind == "safetensors" else " Normalization, enlarging to full size and softmax are inside."
    classes = html.escape(", ".join(origin.classes), quote=False)
    return [
        f"A network for semantic segmentation into {architecture.num_classes} classes: {classes}.",
        f"Images are {architecture.images_told} in [0, 1]; "
        f"the network sees them normalized: {architecture.normalization}.{normalization}",
        _of_scale(origin.value_scale),
        "",
        f"`{file.name}`, precision {file.metadata['precision']}. Weights `{origin.weights}`. Family `{architecture.family}` "
        f"of revision {architecture.revision}, architecture `{architecture.digest}`.",
        "",
        *_table({name: str(value) for name, value in architecture.settings.items()}, "setting", "value"),
        "",
    ]


def _made_from(origin: Origin) -> list[str]:
    record = origin.record
    if record is None:
        return ["A file of weights that says nothing of data or teachers."]
    task = record.task
    lines = [
        f"Task `{task.key}` ({record.label or task.kind}).",
        *_of_a_head(origin),
        "",
        f"Data `{task.data.spec}`, content `{task.data.content_digest}`, split `{task.data.train}`. What licence the data are "
        "under is not recorded; see where they come from.",
        "",
    ]
    before = [step for step in origin.ancestry.ancestors if origin.ancestry] if origin.ancestry else []
    for step in before:
        made = step.record.label if step.record and step.record.label else "from outside the run"
        known = f"code {step.name}" if step.relation in (RUNS_CODE, TAUGHT_BY_CODE) else made
        lines.append(f"* {step.relation} `{step.name}` ({known})")
    if not before:
        lines.append("It learned from labels alone, without a teacher.")
    if isinstance(task, Training):
        lines += ["", f"Seed {task.seed}.", "", *_table(_flat(task.recipe.canonical()), "recipe", "value")]
    if isinstance(task, Taught):
        lines += ["", *_table(_flat(task.distillation.canonical()), "distillation", "value")]
    return lines


def _of_a_head(origin: Origin) -> list[str]:
    architecture = origin.segmenter.architecture
    if not architecture.heads:
        return []
    since = (
        "" if origin.is_as_recorded else " Since then the trunk has learned with other heads, which changes what this one says."
    )
    return ["", f"It taught the head `{architecture.head}`, one of {', '.join(sorted(architecture.heads))}.{since}"]


def _flat(plain: Mapping[str, Any], before: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in plain.items():
        found |= _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": str(value)}
    return found


def _scores(origin: Origin) -> list[str]:
    record = origin.record
    if record is None:
        return ["Nothing is recorded of that.", ""]
    looks = [] if isinstance(record.task, Evaluate) else [(f"{record.task.data.validation} (chosen by it)", record.result)]
    looks += [(split, result) for split, result in origin.tests]
    rows = [("mIoU", [f"{100 * result.miou:.2f} %" for _, result in looks])]
    for number, name in enumerate(origin.classes):
        rows.append((_in_table(name), [_percent(result.class_iou, number) for _, result in looks]))
    head = "| IoU | " + " | ".join(split for split, _ in looks) + " |"
    lines = [head, "|---" * (len(looks) + 1) + "|", *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows), ""]
    result = record.result
    if result.num_parameters_deploy:
        lines += [
            f"{result.num_parameters_deploy:,} parameters at inference, {result.num_parameters_total:,} while it learned; "
            f"{result.num_macs:,} multiply-accumulates for an image of its data.",
            "",
        ]
    when = "" if origin.is_as_recorded else f" Those of {record.task.data.validation} are of the head as it was then."
    return [
        *lines,
        f"These are of the network in float32, as the run recorded them.{when} The file is compared with it below.",
        "",
    ]


def _percent(values: Sequence[float | None], number: int) -> str:
    value = values[number] if number < len(values) else None
    return "-" if value is None else f"{100 * value:.2f} %"


def _checked(file: File) -> list[str]:
    checks = file.metadata.get("checks")
    if not checks:
        return ["It holds the weights themselves.", *file.remarks]
    rows = {
        "images": f"{checks['on']}",
        "largest difference of a probability": f"{checks['largest_difference']:g}",
        "pixels of the same class": f"{100 * checks['agreement']:.4f} %",
    }
    if checks.get("miou") is not None:
        rows["mIoU of the network on them"] = f"{100 * checks['miou_before']:.2f} %"
        rows["mIoU of this file on them"] = f"{100 * checks['miou']:.2f} %"
    return [*_table(rows, "compared with the network", "value"), *(line for remark in file.remarks for line in ("", remark))]


def _named_head(origin: Origin) -> str:
    architecture = origin.segmenter.architecture
    return f', head="{architecture.head}"' if len(architecture.heads) > 1 else ""


def _of_scale(scale: ValueScale) -> str:
    """Which values were black and white when it learned; nothing of images with 8 bits."""
    if scale is None:
        return "Which values of images with more than 8 bits it saw as black and white is not known here: its data were not."
    if not scale:
        return ""
    pairs = ", ".join(f"{low:g} to {high:g}" for low, high in scale)
    told = f"channel by channel the values {pairs}" if len(scale) > 1 else f"the values {pairs}"
    return (
        f"It learned from images with more than 8 bits, of which {told} became 0 to 255, and what is beyond them black or white. "
        "Images are to be made such before they are divided by 255: by another scale it sees other images than it knows."
    )


def _scaled_reading(architecture: Architecture, scale: tuple[tuple[float, float], ...]) -> list[str]:
    """How images with more than 8 bits are read, to the level as they were when it learned."""
    if architecture.channels == RGB:
        read = 'values = rasterio.open("photo.tif").read([1, 2, 3]).transpose(1, 2, 0)  # [H,W,3], as in the file'
    else:
        read = f'values = numpy.load("image.npy")  # [H,W,{architecture.num_channels}], as in the files'
    if architecture.channels == RGB and scale == (FULL_16,):
        return [read, "image = (values // 256 / 255).astype(numpy.float32)  # the upper 8 of 16 bits"]
    lows, highs = ([f"{pair[end]!r}" for pair in scale] for end in (0, 1))
    low, high = (ends[0] if len(ends) == 1 else f"numpy.array([{', '.join(ends)}])" for ends in (lows, highs))
    return [
        read,
        f"low, high = {low}, {high}  # became black and white",
        "levels = numpy.rint(numpy.clip((values.astype(numpy.float64) - low) / (high - low), 0, 1) * 255)",
        "image = (levels / 255).astype(numpy.float32)",
    ]


def _reading(architecture: Architecture, scale: ValueScale) -> list[str]:
    if scale:
        return _scaled_reading(architecture, scale)
    if architecture.channels == RGB:
        return ['image = numpy.asarray(Image.open("photo.jpg").convert("RGB"), dtype=numpy.float32) / 255']
    return [f'image = numpy.load("image.npy")  # float32 [H,W,{architecture.num_channels}] in [0, 1]']


def _loading(origin: Origin, file: File) -> list[str]:
    count, is_rgb = origin.segmenter.architecture.num_channels, origin.segmenter.architecture.channels == RGB
    reading, scale = _reading(origin.segmenter.architecture, origin.value_scale), origin.value_scale
    imported = ["import rasterio"] if is_rgb and scale else []
    batch = [*reading, "images = torch.from_numpy(image.transpose(2, 0, 1)[None].copy())"] if scale else []
    if file.kind == "onnx":
        code = [
            "import numpy, onnxruntime",
            *(imported or (["from PIL import Image"] if is_rgb else [])),
            "",
            f'session = onnxruntime.InferenceSession("{file.name}")',
            *reading,
            'probabilities = session.run(["probabilities"], {"images": image.transpose(2, 0, 1)[None]})[0]  # [1,K,H,W]',
        ]
        also = f"Or, for images of any size: `agentkd predict {file.name} photos/ --out out`." if is_rgb else ""
    elif file.kind == "torch":
        code = [
            *(["import numpy, torch", *imported] if scale else ["import torch"]),
            "",
            f'network = torch.export.load("{file.name}").module()',
            *batch,
            f"probabilities = network(images)  # float32 [N,{count},H,W] in [0, 1] to [N,K,H,W]",
        ]
        multiple = int(file.metadata["multiple"])
        also = "Height and width are 32 or more" + (f" and multiples of {multiple}." if multiple > 1 else ".")
    else:
        code = [
            *(["import agentkd, numpy, torch", *imported] if scale else ["import agentkd"]),
            "",
            f'network = agentkd.load_network("{file.name}"{_named_head(origin)})',
            *batch,
            f"probabilities = network(images)  # uint8, or floats in [0, 1], [N,{count},H,W] to [N,K,H,W]",
        ]
        also = "It is an nn.Module that trains on, without what training alone needed before."
    return ["```python", *code, "```", "", also]


def _reproducing(origin: Origin, file: File) -> list[str]:
    lines = []
    maker = origin.ancestry.record if origin.ancestry else origin.record
    if maker:
        lines.append(f"agentkd replay RUN --task {maker.task.key[:16]}")
    return [f"With agentkd {__version__}:", "", "```", *lines, file.command, "```"]


def _table(rows: Mapping[str, str], name: str, value: str) -> list[str]:
    shown = {left: _in_table(str(right)) for left, right in rows.items()}
    return [f"| {name} | {value} |", "|---|---|", *(f"| {left} | {right} |" for left, right in shown.items())]


def _in_table(text: str) -> str:
    """A text as a cell of a table, in which nothing is taken for the table's bars or for HTML."""
    return html.escape(text, quote=False).replace("|", "\\|")
