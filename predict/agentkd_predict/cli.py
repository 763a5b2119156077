"""The command line: reads options at the edge and calls ``predict``. What it imports at once is what its help needs."""

import errno
import io
import math
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from agentkd_predict.errors import PredictError, UsageError
from agentkd_predict.visible import visible

SOME_FAILED, NO_DESCRIPTORS, INTERRUPTED, NOBODY_READS = 1, 21, 130, 141
MAX_SIDE = 1 << 16
_WRONG_WORDS: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def as_path(text: str) -> Path:
    """A path as it is typed. The shell does not expand ``~`` in ``--out=~/out``, so it is done here.

    Raises:
        BadParameter: it is empty, or cannot be a path.
    """
    if not text.strip():
        raise typer.BadParameter("it is empty; give a path (. is the current folder)")
    if "\0" in text:
        raise typer.BadParameter(f"{text[:80]!r} has a character that no path has")
    try:
        found = Path(text).expanduser()
        found.exists()
    except RuntimeError:
        raise typer.BadParameter(f"{text!r}: nobody of that name has a home here; a file of that name is ./{text}") from None
    except OSError as error:
        raise typer.BadParameter(f"{text[:80]!r}: {error.strerror}") from None
    return found


def as_numbers(text: str) -> tuple[float, ...]:
    """Finite numbers with commas between.

    Raises:
        BadParameter: it is something else.
    """
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = (math.nan,)
    if not all(map(math.isfinite, found)):
        raise typer.BadParameter(f"{text[:80]!r}: expected numbers with commas between, such as 0.5,1")
    return found


def as_scales(text: str) -> tuple[float, ...]:
    """By what images are made larger or smaller."""
    found = as_numbers(text)
    if not all(0.1 <= one <= 4 for one in found) or len(set(found)) < len(found):
        raise typer.BadParameter(f"{text[:80]!r}: expected different numbers from 0.1 to 4, such as 0.75,1,1.25")
    return found


def as_range(text: str) -> tuple[float, float]:
    """The values that become black and white."""
    found = as_numbers(text)
    if len(found) != 2 or found[0] >= found[1]:
        raise typer.BadParameter(f"{text[:80]!r}: expected LOW,HIGH, such as 0,65535")
    return found[0], found[1]


def as_bands(text: str) -> tuple[int, ...]:
    """Numbers of bands, from 1."""
    found = as_numbers(text)
    if len(found) not in (1, 3) or not all(one >= 1 and one == int(one) for one in found):
        raise typer.BadParameter(f"{text[:80]!r}: expected RED,GREEN,BLUE, such as 1,2,3, or one band")
    return tuple(map(int, found))


def as_names(text: str) -> tuple[str, ...]:
    """Names with commas between."""
    return tuple(part.strip() for part in text.split(","))


app = typer.Typer(
    name="agentkd-predict",
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(is_asked: bool) -> None:
    if is_asked:
        from agentkd_predict import __version__

        typer.echo(f"agentkd-predict {__version__}")
        raise typer.Exit


Out = Annotated[Path, typer.Option("--out", parser=as_path, metavar="DIR", help="Folder to write to.")]
Tile = Annotated[int, typer.Option(min=0, max=MAX_SIDE, help="Side of the tiles that a large image is cut into; 0: no tiles.")]
Overlap = Annotated[int, typer.Option(min=0, max=MAX_SIDE, help="By how many pixels neighboring tiles overlap.")]
Overlay = Annotated[bool, typer.Option("--overlay", help="Also write the image under the classes' colors.")]
Probabilities = Annotated[bool, typer.Option("--probabilities", help="Also write them, as float16 [K,H,W].")]
Flips = Annotated[bool, typer.Option("--flips", help="Average over each tile and its mirror image.")]
UpsideDown = Annotated[bool, typer.Option("--upside-down", help="And over both top to bottom, for views from above.")]
Scales = Annotated[
    Any, typer.Option(parser=as_scales, metavar="S,S,...", help="Average over each tile at sizes such as 0.75,1,1.25.")
]
Scale = Annotated[
    Any,
    typer.Option(parser=as_range, metavar="LOW,HIGH", help="Black and white, of images with more than 8 bits; MODEL may say it."),
]
OtherScale = Annotated[bool, typer.Option("--other-scale", help="Take --scale though MODEL learned with another.")]
Bands = Annotated[
    Any, typer.Option(parser=as_bands, metavar="R,G,B", help="Which bands of a raster are red, green, blue, from 1.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")]
Classes = Annotated[
    Any, typer.Option(parser=as_names, metavar="A,B,...", help="Names of the classes, if MODEL does not say them.")
]
Mean = Annotated[Any, typer.Option(parser=as_numbers, metavar="R,G,B", help="Likewise: taken from values in [0, 1] before.")]
Std = Annotated[Any, typer.Option(parser=as_numbers, metavar="R,G,B", help="Likewise: what they are divided by then.")]
Multiple = Annotated[int, typer.Option(min=0, max=4096, help="Likewise: what sizes must be multiples of.")]
Logits = Annotated[bool, typer.Option("--logits", help="Likewise: the output is to go through a softmax.")]
Device = Annotated[str, typer.Option(help="cpu, or cuda with onnxruntime-gpu.")]
Threads = Annotated[int, typer.Option(min=0, max=1024, help="0: as many as this process may use.")]
Silent = Annotated[bool, typer.Option("--quiet", help="Say nothing but what failed.")]
Version = Annotated[bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version and end.")]


@app.command()
def predict(
    model: Annotated[
        Path,
        typer.Argument(
            parser=as_path,
            metavar="MODEL",
            help="ONNX file of agentkd export; of another network --classes and the like say what it does not.",
        ),
    ],
    inputs: Annotated[list[Path], typer.Argument(parser=as_path, metavar="INPUT...", help="Images, videos, GeoTIFFs, folders.")],
    out: Out,
    tile: Tile = 512,
    overlap: Overlap = 64,
    overlay: Overlay = False,
    probabilities: Probabilities = False,
    flips: Flips = False,
    upside_down: UpsideDown = False,
    scales: Scales = "1",
    scale: Scale = None,
    other_scale: OtherScale = False,
    bands: Bands = None,
    overwrite: Overwrite = False,
    classes: Classes = None,
    mean: Mean = None,
    std: Std = None,
    multiple: Multiple = 0,
    logits: Logits = False,
    device: Device = "cpu",
    threads: Threads = 0,
    quiet: Silent = False,
    version: Version = False,
) -> None:
    """Predict on images, orthophotos and videos of any size: masks, areas of classes, overlays.

    Ends with 0 if all was done; with 1 if some files could not be done (each is named, also in summary.json); with 2 if what was
    typed cannot be; with 15 if MODEL is no network that can be used; with 16 if nothing can be written.
    """
    from agentkd_predict.images import Tiling, Wanted
    from agentkd_predict.metadata import Foreign
    from agentkd_predict.network import Network
    from agentkd_predict.running import predict as predict_all
    from agentkd_predict.telling import Lines
    from agentkd_predict.views import Views

    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: there is a file of that name; give a folder")
    wanted = Wanted(
        tiling=Tiling(tile, overlap),
        views=Views(flips, upside_down, scales),
        has_overlay=overlay,
        has_probabilities=probabilities,
        scale=scale,
        bands=bands or (),
        takes_other_scale=other_scale,
    )
    foreign = Foreign(classes or (), mean or (), std or (), multiple, logits)
    network = Network(model, foreign, device=device, threads=threads)
    with Lines(is_quiet=quiet) as lines:
        outcome = predict_all(network, inputs, out, wanted, overwrites=overwrite, teller=lines)
    if not quiet:
        _say(f"{len(outcome.done)} done, {len(outcome.failed)} failed: {out / 'summary.csv'}")
        if outcome.others:
            _say(f"{len(outcome.others)} other files were left alone, such as {outcome.others[0]}")
    if outcome.failed:
        raise typer.Exit(SOME_FAILED)


def run(arguments: list[str], program: str = "agentkd-predict") -> int:
    """Runs the command; returns the exit status. What is a fault of this package itself is raised."""
    command = typer.main.get_command(app)
    try:
        with command.make_context(program, arguments) as context:
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as ended:
        return int(ended.exit_code)
    except _WRONG_WORDS as error:
        shown = io.StringIO()
        error.show(file=shown)
        _say(shown.getvalue().rstrip(), err=True)
        return int(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        return _nobody_reads()
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        _say(f"error: cannot open {error.filename}: all descriptors of this process are in use (ulimit -n)", err=True)
        return NO_DESCRIPTORS
    except PredictError as error:
        _say(f"error: {error}", err=True)
        return error.exit_code
    return 0


def _nobody_reads() -> int:
    """The end of an output whose reader has gone: quiet, as of other programs. What is left of it is dropped."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return NOBODY_READS


def _say(text: str, *, err: bool = False) -> None:
    typer.echo(visible(text), err=err)


def main() -> NoReturn:
    """Runs the command line on what was typed, and ends the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))
