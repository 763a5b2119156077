"""A network written for programs that know nothing of agents, compared with itself before anybody can see the file."""

import contextlib
import errno
import io
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from agentkd.deploy.agreement import TOLERANCES, Agreement, Reference
from agentkd.deploy.evidence import Evidence
from agentkd.deploy.inference import Inference, as_program, must_have, quietly
from agentkd.deploy.model_card import File, model_card
from agentkd.deploy.origin import Origin
from agentkd.errors import ConfigError, StorageError
from agentkd.knowledge.weights import encode_weights
from agentkd.networks.segmenter import MIN_SIDE

if TYPE_CHECKING:
    from agentkd.deploy.quantizing import Quantized

KINDS = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}
PRECISIONS = ("float32", "float16", "int8")
CARD = "README.md"
FORMAT = 1


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        place: the folder.
        file: the network in it.
        agreement: with the network that it was made of; ``None`` where the weights themselves were written.
        remarks: what is to be known of it, in sentences.
    """

    place: Path
    file: Path
    agreement: Agreement | None
    remarks: tuple[str, ...]


def check_request(kind: str, precision: str) -> None:
    """Checks what was asked for before anything is read.

    Raises:
        ConfigError: there is no such kind or precision, they do not go together, or a package is missing.
    """
    if kind not in KINDS:
        raise ConfigError(f"--format {kind!r}: expected one of {', '.join(KINDS)}")
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r}: expected one of {', '.join(PRECISIONS)}")
    if precision != "float32" and kind != "onnx":
        raise ConfigError(f"{precision} is for --format onnx; {kind} is written in float32")
    if kind == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            must_have(package)


def export_network(
    origin: Origin,
    evidence: Evidence,
    out: Path,
    *,
    kind: str = "onnx",
    precision: str = "float32",
    allow_loss: bool = False,
    command: str = "",
) -> Exported:
    """Writes a network and its card into a new folder, which appears whole or not at all.

    Args:
        origin: the network.
        evidence: on which it is compared, and calibrated for int8.
        out: the folder; it must not be there yet, or be empty.
        kind: ``onnx``, ``torch`` (a program of ``torch.export``) or ``safetensors`` (weights for ``load_network``).
        precision: ``float32``; of ONNX also ``float16`` and ``int8``.
        allow_loss: writes it although it differs too much.
        command: by which it was asked for, for the card.

    Raises:
        ConfigError: as ``check_request``, the folder is in use, or the file differs from the network by more than is allowed.
        StorageError: it cannot be written.
    """
    check_request(kind, precision)
    _must_be_free(out)
    metadata = _metadata(origin, precision)
    with _appearing(out) as part:
        file = part / f"network{'' if precision == 'float32' else f'-{precision}'}{KINDS[kind]}"
        agreement, remarks = _WRITERS[kind](origin, evidence, file, metadata)
        if agreement is not None:
            problem = agreement.problem(TOLERANCES[precision])
            remarks += _of_evidence(evidence, agreement) + _of_heads(origin)
            if problem and not allow_loss:
                what = f"{origin.named} in {precision} is not the network that it was made of"
                advice = "nothing was written; --allow-loss writes it and says so in its card"
                raise ConfigError(f"{what}: {problem} (on {evidence.source}); {advice}")
            remarks += (f"It was written although {problem}.",) if problem else ()
        card = model_card(origin, File(file.name, kind, metadata, remarks, command or "agentkd export"))
        (part / CARD).write_text(card, encoding="utf-8")
    return Exported(out, out / file.name, agreement, remarks)


def _metadata(origin: Origin, precision: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "classes": list(origin.classes),
        "colors": [list(color) for color in origin.colors],
        "multiple": 1,
        "minimum": 1,
        "channels": origin.segmenter.architecture.num_channels,
        "architecture": origin.segmenter.architecture.canonical(),
        "weights": origin.weights,
        "lineage": list(origin.lineage),
        "precision": precision,
        **({"scale": _scale(origin.value_scale)} if origin.value_scale else {}),
    }


def _scale(pairs: tuple[tuple[float, float], ...]) -> list[Any]:
    """As ``scale`` in ``dataset.yaml``: a pair for all channels, or a list of one for each."""
    found = [list(pair) for pair in pairs]
    return found[0] if len(found) == 1 else found


def _of_heads(origin: Origin) -> tuple[str, ...]:
    architecture = origin.segmenter.architecture
    others = [f"`{name}`" for name in sorted(architecture.heads) if name != architecture.head]
    if not others:
        return ()
    return (f"Of the network's heads it has `{architecture.head}` alone, and not {', '.join(others)}; --head names another.",)


def _of_evidence(evidence: Evidence, agreement: Agreement) -> tuple[str, ...]:
    said = (
        []
        if evidence.is_real
        else ["The images were made up, not those that the network is for: compare it on yours with --data."]
    )
    if agreement.miou is None:
        said.append("They have no labels of its classes, so mIoU was not measured.")
    return tuple(said)


def _write_onnx(origin: Origin, evidence: Evidence, file: Path, metadata: dict[str, Any]) -> tuple[Agreement, tuple[str, ...]]:
    from agentkd.deploy.onnx_files import Session, as_onnx, describe
    from agentkd.deploy.quantizing import in_float16, in_int8

    precision = metadata["precision"]
    reference = Reference(origin.segmenter, evidence)
    model = as_onnx(Inference(origin.segmenter))
    remarks: tuple[str, ...] = ()
    if precision == "int8":
        made = in_int8(model, evidence.calibration, reference, TOLERANCES[precision])
        model, agreement = made.model, made.agreement
        remarks = (_of_int8(made, len(evidence.calibration)),)
    else:
        model = in_float16(model) if precision == "float16" else model
        agreement = reference.compare(Session(model.SerializeToString()))
    metadata["checks"] = agreement.as_data()
    describe(model, metadata)
    file.write_bytes(model.SerializeToString())
    return agreement, remarks


def _of_int8(made: "Quantized", num_calibrated: int) -> str:
    names = ", ".join(f"`{name}`" for name in made.in_float)
    left = f", {len(made.in_float)} in float, where int8 lost most: {names}" if names else ""
    count = made.num_layers - len(made.in_float)
    return (
        f"In int8 are {count} of {made.num_layers} convolutions{left}. Operations in int8: {', '.join(made.kinds)}. "
        f"Weights have a scale for each channel; ranges are of {num_calibrated} images."
    )


def _write_torch(origin: Origin, evidence: Evidence, file: Path, metadata: dict[str, Any]) -> tuple[Agreement, tuple[str, ...]]:
    inference = Inference(origin.segmenter)
    program = as_program(inference)
    metadata |= {"multiple": inference.multiple, "minimum": MIN_SIDE}
    module = program.module()

    def runs(images: Any) -> Any:
        with torch.no_grad():
            return module(torch.from_numpy(images)).numpy()

    usable = _fitting(evidence, inference.multiple)
    agreement = Reference(origin.segmenter, usable).compare(runs)
    metadata["checks"] = agreement.as_data()
    program.example_inputs = None  # or they would be most of the file
    written = io.BytesIO()  # torch ends the process where it cannot go on writing to a file
    with quietly():
        torch.export.save(
            program, written, extra_files={"agentkd.json": json.dumps(metadata, ensure_ascii=False, sort_keys=True)}
        )
    file.write_bytes(written.getbuffer())
    return agreement, ()


def _fitting(evidence: Evidence, multiple: int) -> Evidence:
    """The images cut to sizes that a program takes, which does not fill them up."""

    def cut(array: Any) -> Any:
        height, width = (side // multiple * multiple for side in array.shape[:2])
        return np.ascontiguousarray(array[:height, :width])

    kept = [n for n, image in enumerate(evidence.images) if min(cut(image).shape[:2]) >= MIN_SIDE]
    if not kept:
        raise ConfigError(
            f"{evidence.source} are all smaller than {MIN_SIDE} pixels; name larger images to compare it on: --data SPEC"
        )
    labels = tuple(cut(evidence.labels[n]) for n in kept) if evidence.labels else ()
    return replace(evidence, images=tuple(cut(evidence.images[n]) for n in kept), labels=labels)


def _write_safetensors(origin: Origin, evidence: Evidence, file: Path, metadata: dict[str, Any]) -> tuple[None, tuple[str, ...]]:
    segmenter, state = origin.segmenter, dict(origin.segmenter.network.state_dict())
    file.write_bytes(encode_weights(segmenter.architecture, state, origin.classes, origin.heads or None))
    return None, ("Everything that the network learned with is in it, so that it trains on.",)


_WRITERS: dict[str, Any] = {"onnx": _write_onnx, "torch": _write_torch, "safetensors": _write_safetensors}


def _must_be_free(out: Path) -> None:
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() or out.is_symlink():
        raise ConfigError(f"{out} is there already and not an empty folder; choose another, or remove it")


@contextlib.contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A folder beside its place that is moved there when all is written, and removed if that fails.

    Raises:
        StorageError: it cannot be written, or there is something in its place by then.
    """
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name[:100]}-", dir=out.absolute().parent) as scratch:
            part = Path(scratch) / "part"
            part.mkdir(mode=0o755)
            yield part
            part.replace(out)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise StorageError(out, "something else has been put there meanwhile", advice="choose another folder") from error
        raise StorageError.of(out, error) from error
