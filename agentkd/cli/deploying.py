"""Commands on a network on its way out: export, cost."""

import json
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentkd.cli.app import Format, read_settings
from agentkd.cli.ending import say
from agentkd.cli.typed import path
from agentkd.errors import ConfigError

if TYPE_CHECKING:
    from agentkd.deploy.costing import Costs

MAX_SIDE = 16_384
Model = Annotated[
    str, typer.Argument(metavar="RUN|DIGEST|FILE", help="A run or bundle (its winner), a digest in --run, or a file of weights.")
]
Run = Annotated[Path | None, typer.Option("--run", parser=path, help="Run folder or bundle in which a digest is looked for.")]
Family = Annotated[str, typer.Option(help="Of a file that does not say it.")]
Classes = Annotated[int | None, typer.Option(min=2, help="Number of classes K of such a file.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of the family of such a file.")
]
Head = Annotated[str, typer.Option(help="Of a network with several heads; not given, the one that learned last.")]
AllowCode = Annotated[
    bool,
    typer.Option("--allow-code", help="Run own code that the run keeps, of the network and its data. It can do what you can."),
]


def export(
    model: Model,
    out: Annotated[
        Path | None, typer.Argument(parser=path, metavar="OUT", help="Folder to write to, which must not be there yet.")
    ] = None,
    kind: Annotated[
        str, typer.Option("--format", help="onnx; torch (a program of torch.export); safetensors (weights that train on).")
    ] = "onnx",
    int8: Annotated[bool, typer.Option("--int8", help="ONNX in int8, layers that lose too much in float.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="ONNX with weights and activations in float16.")] = False,
    allow_loss: Annotated[
        bool, typer.Option("--allow-loss", help="Write it although it differs from the network by more than is allowed.")
    ] = False,
    data: Annotated[str, typer.Option(help="Dataset to compare on in place of the run's, such as folder:path=DIR.")] = "",
    run: Run = None,
    family: Family = "",
    classes: Classes = None,
    settings: Settings = None,
    head: Head = "",
    allow_code: AllowCode = False,
    to: Annotated[
        str, typer.Option(help="tensorboard (event files) or mlflow (mlflow.db): writes a run's trainings there instead.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON, as --format json of other commands does.")] = False,
) -> None:
    """Write a network for programs without agentkd, compared with itself, with a model card beside it.

    ONNX takes images of any size and is what agentkd predict runs. With --to the trainings of a run are written for a tracker.
    """
    if to:
        return _trainings(model, out, to, as_json=as_json)
    from agentkd.deploy.export import check_request, export_network
    from agentkd.deploy.origin import found

    if int8 and fp16:
        raise ConfigError("--int8 and --fp16 exclude each other; export twice, into two folders")
    precision = "int8" if int8 else "float16" if fp16 else "float32"
    check_request(kind, precision)
    chosen = read_settings(settings)
    told: dict[str, Any] = {"family": family, "num_classes": classes, "settings": chosen, "head": head}
    with _ending_in_order(), found(model, run=run, data=data, allow_code=allow_code, **told) as (origin, images):
        name = re.sub(r"[^A-Za-z0-9_.-]", "-", origin.segmenter.architecture.family.rpartition(":")[2])
        bits = "" if precision == "float32" else f"-{precision}"
        place = out or Path(f"{name}-{origin.weights[:12]}-{kind}{bits}")
        command = " ".join(["agentkd export", *map(shlex.quote, sys.argv[2:])]) if sys.argv[1:2] == ["export"] else ""
        made = export_network(origin, images, place, kind=kind, precision=precision, allow_loss=allow_loss, command=command)
    if as_json:
        agreement = asdict(made.agreement) if made.agreement else None
        told = {"file": str(made.file), "size_bytes": made.file.stat().st_size, "agreement": agreement}
        return say(json.dumps(told | {"remarks": list(made.remarks)}, indent=2))
    say(f"{made.file}: {made.file.stat().st_size / 1e6:.1f} MB, card in {made.place / 'README.md'}")
    if made.agreement:
        said = made.agreement
        scores = f", mIoU {100 * said.miou_before:.2f} % then {100 * said.miou:.2f} %" if said.miou and said.miou_before else ""
        say(f"compared on {said.source}: {100 * said.agreement:.4f} % of the pixels are of the same class{scores}")
    for remark in made.remarks:
        say(remark)


def cost(
    model: Annotated[
        str, typer.Argument(metavar="RUN|DIGEST|FILE|FAMILY", help="As for agentkd export, or a family, with random weights.")
    ],
    size: Annotated[str, typer.Option(metavar="WxH", help="Of the image, in pixels.")] = "512x512",
    runs: Annotated[int, typer.Option(min=1, max=10_000, help="How often each form is timed.")] = 20,
    threads: Annotated[int, typer.Option(min=0, max=1024, help="For one operation; 0 leaves them as they are.")] = 0,
    run: Run = None,
    family: Family = "",
    classes: Classes = None,
    settings: Settings = None,
    head: Head = "",
    allow_code: AllowCode = False,
    output_format: Format = "text",
) -> None:
    """Say what a network costs: parameters, multiply-accumulates, memory, and time as it is, folded, as ONNX and in int8."""
    from agentkd.deploy.costing import costs
    from agentkd.deploy.loading import load_network
    from agentkd.deploy.origin import found, must_be_there
    from agentkd.networks.build import build
    from agentkd.networks.families import FAMILIES, is_own, resolve
    from agentkd.networks.segmenter import Segmenter

    width, height = _size(size)
    chosen = read_settings(settings)
    if (model in FAMILIES or is_own(model)) and not Path(model).exists():
        if wrong := [name for name, given in (("--family", family), ("--run", run), ("--head", head)) if given]:
            raise ConfigError(f"{model} is a family; leave out {wrong[0]}")
        architecture = resolve(model, classes or 5, chosen)
        segmenter = Segmenter(build(architecture, seed=0), architecture).eval()
    elif run is None and Path(model).is_file() and not model.lower().endswith(".zip"):
        must_be_there(model)
        segmenter = load_network(model, family=family, num_classes=classes, head=head, allow_code=allow_code, **chosen)
    else:
        told: dict[str, Any] = {"family": family, "num_classes": classes, "settings": chosen, "head": head}
        with found(model, run=run, allow_code=allow_code, **told) as (origin, _):
            segmenter = origin.segmenter
    measured = costs(segmenter, height, width, runs=runs, threads=threads)
    if output_format == "json":
        say(json.dumps(measured.as_data(), indent=2))
        return
    _print_costs(measured)


def _print_costs(measured: "Costs") -> None:
    say(f"image {measured.width}x{measured.height}, {measured.threads} threads for an operation")
    say(f"parameters      {measured.total:,} total, {measured.network:,} network, {measured.deploy:,} deploy")
    uncounted = f"; not counted: {', '.join(measured.uncounted_operations)}" if measured.uncounted_operations else ""
    say(f"MACs            {measured.num_macs:,}{uncounted}")
    activations, weights = measured.activation_bytes / 2**20, measured.weight_bytes / 2**20
    say(f"memory          {activations:.1f} MiB activations, {weights:.1f} MiB weights")
    first = next(iter(measured.latency.values())).median_ms
    for form, one in measured.latency.items():
        energy = f", {one.joules:.2f} J" if one.joules is not None else ""
        times = f"{first / one.median_ms:.2f} times as fast"
        say(f"{form:<15} {one.median_ms:.1f} ms median, {one.p90_ms:.1f} ms p90{energy} ({times})")
    if len(measured.latency) < 3:
        say("ONNX is not measured without its packages: pip install 'agentkd[export]'")


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """A request to end (SIGTERM) lets what is half-written be removed."""
    from agentkd.code.running import EndedBySignal

    def end(number: int, frame: object) -> None:
        raise EndedBySignal(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _size(text: str) -> tuple[int, int]:
    form = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", text, re.ASCII)
    if not form or not all(1 <= int(side) <= MAX_SIDE for side in form.groups()):
        raise ConfigError(f"--size {text[:80]!r}: expected WIDTHxHEIGHT in pixels, such as 512x512, at most {MAX_SIDE} each way")
    return int(form[1]), int(form[2])


def _trainings(model: str, out: Path | None, to: str, *, as_json: bool) -> None:
    from agentkd.deploy.loading import opened_run
    from agentkd.report.export import export as write_out

    if out is None:
        raise ConfigError("--to needs OUT, the folder to write to")
    with opened_run(path(model)) as folder:
        assert folder is not None
        count = write_out(folder, out, to)
    say(json.dumps({"folder": str(out), "num_trainings": count}, indent=2) if as_json else f"{out}: {count} trainings")
