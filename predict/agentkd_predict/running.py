"""Many images and videos through one network: what cannot be done is named, and the rest is done."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from agentkd_predict import __version__
from agentkd_predict.errors import InputError, UsageError
from agentkd_predict.files import at_work_in
from agentkd_predict.images import Progress, Wanted, predict_image
from agentkd_predict.inputs import Input, find
from agentkd_predict.meaning import of_8_bits
from agentkd_predict.network import Network
from agentkd_predict.records import Done, Failed, write_records
from agentkd_predict.sources import open_source

MAPS_BY_NAME = (".tif", ".tiff", ".jp2", ".j2k", ".jpx", ".jpf")
"""Endings of files that may lie on a map; which of the two kinds of products they get is known once they are open."""
SUMMARIES = ("summary.csv", "summary.json")


class Teller(Protocol):
    """Hears how far it is. Never raises."""

    def begin(self, paths: Sequence[Path]) -> None:
        """Hears which files will be done."""
        ...

    def advance(self, index: int, share: float) -> None:
        """Hears which share of a file is done."""
        ...

    def done(self, one: Done) -> None:
        """Hears what came of a file."""
        ...

    def failed(self, one: Failed) -> None:
        """Hears that a file could not be done."""
        ...


class Quiet:
    """Tells nobody."""

    def begin(self, paths: Sequence[Path]) -> None:
        pass

    def advance(self, index: int, share: float) -> None:
        pass

    def done(self, one: Done) -> None:
        pass

    def failed(self, one: Failed) -> None:
        pass


@dataclass
class Outcome:
    """What came of all files, and the files of folders that were neither images nor videos."""

    done: list[Done] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    others: tuple[Path, ...] = ()


def predict(
    network: Network,
    places: Sequence[Path],
    out: Path,
    wanted: Wanted | None = None,
    *,
    overwrites: bool = False,
    teller: Teller | None = None,
) -> Outcome:
    """Predicts on files and on all images and videos in folders.

    Args:
        network: that says what is where.
        places: files and folders.
        out: the folder to write to; ``summary.csv`` and ``summary.json`` there say what came of each file, also if this is
            interrupted.
        wanted: what is made of each.
        overwrites: whether files that are there may be replaced.
        teller: hears how far it is.

    Raises:
        UsageError: a place is not there, or files are that would be replaced, or the scale is not that of the network: then
            nothing is done.
        NetworkError: what the network computes are no probabilities.
        StorageError: a file cannot be written.

    Example::

        network = agentkd_predict.Network(Path("pidnet.onnx"))
        agentkd_predict.predict(network, [Path("photos")], Path("out"))
    """
    wanted, teller = wanted or Wanted(), teller or Quiet()
    wanted, is_learned = _scaled(network, wanted)
    wanted.tiling.fitting(network)
    if network.fixed_size and wanted.views.scales != (1.0,):
        raise UsageError(f"--scales: {network.path} takes images of one size only")
    found = find(places, out)
    if not overwrites:
        _check_free(out, found.inputs, wanted)
    outcome = Outcome(others=found.others)
    teller.begin([one.path for one in found.inputs])
    with at_work_in(out):
        _all(network, found.inputs, out, wanted, teller, outcome, is_learned=is_learned)
    return outcome


def _all(
    network: Network, inputs: Sequence[Input], out: Path, wanted: Wanted, teller: Teller, outcome: Outcome, *, is_learned: bool
) -> None:
    """Does one after the other, and says in the folder what came of them, however it ends."""
    try:
        for index, one in enumerate(inputs):
            try:
                done = _one(network, one, out, wanted, _progress(teller, index), is_learned=is_learned)
            except InputError as error:
                failed = Failed(str(one.path), str(error).removeprefix(f"{one.path}: "))
                outcome.failed.append(failed)
                teller.failed(failed)
            else:
                outcome.done.append(done)
                teller.done(done)
    finally:
        if outcome.done or outcome.failed:
            write_records(out, _about(network, wanted), network.classes, outcome.done, outcome.failed)


def _scaled(network: Network, wanted: Wanted) -> tuple[Wanted, bool]:
    """What is wanted, with the scale by which the network learned unless one is asked for, and whether it is that.

    Raises:
        UsageError: another one is asked for, and not that it be taken all the same.
    """
    learned, asked = network.about.scale, wanted.scale
    if asked is None and wanted.takes_other_scale:
        raise UsageError("--other-scale: says nothing without --scale LOW,HIGH; give both, or neither")
    if asked is None:
        return replace(wanted, scale=learned), learned is not None
    if learned is None or asked == learned or wanted.takes_other_scale:
        return wanted, False
    shown, other = (",".join(f"{value:g}" for value in pair) for pair in (learned, asked))
    raise UsageError(
        f"--scale {other}: {network.path} learned with {shown}, and by another it sees other images than it knows; leave it out, "
        "or add --other-scale if these files hold the same in other numbers"
    )


def _one(network: Network, one: Input, out: Path, wanted: Wanted, progress: Progress, *, is_learned: bool) -> Done:
    if one.is_video:
        done = _video(network, one, out, wanted, progress)
        return replace(done, notices=(*of_8_bits(network.about.scale), *done.notices))
    source = open_source(one.path, wanted.scale, wanted.bands, out, is_learned=is_learned)
    try:
        places = wanted.places(out, one.name, is_map=source.georeference is not None)
        return predict_image(network, source, wanted, places, out, progress)
    finally:
        source.close()


def _video(network: Network, one: Input, out: Path, wanted: Wanted, progress: Progress) -> Done:
    if find_spec("av") is None:
        raise InputError(one.path, "is a video, which needs PyAV", "it to be there: pip install agentkd-predict[video]")
    from agentkd_predict.videos import predict_video

    return predict_video(network, one.path, wanted, wanted.video_places(out, one.name), out, progress)


def _progress(teller: Teller, index: int) -> Progress:
    return lambda share: teller.advance(index, share)


def _check_free(out: Path, inputs: Sequence[Input], wanted: Wanted) -> None:
    """That no file that would be written is there."""
    places = [out / name for name in SUMMARIES]
    for one in inputs:
        if one.is_video:
            places += wanted.video_places(out, one.name).values()
            continue
        places += wanted.places(out, one.name, is_map=False).values()
        if one.path.suffix.lower() in MAPS_BY_NAME:
            places += wanted.places(out, one.name, is_map=True).values()
    there = [place for place in places if place.exists() or place.is_symlink()]
    if there:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise UsageError(
            f"--out {out}: {there[0].relative_to(out)}{more} would be replaced; --overwrite does so, or give another folder"
        )


def _about(network: Network, wanted: Wanted) -> dict[str, Any]:
    told = {name: network.about.told.get(name) for name in ("architecture", "weights", "lineage", "precision")}
    return {
        "agentkd_predict": __version__,
        "network": {"file": str(network.path), "sha256": network.digest(), **told},
        "settings": {
            "tile": wanted.tiling.tile,
            "overlap": wanted.tiling.overlap,
            "flips": wanted.views.has_flips,
            "upside_down": wanted.views.is_upside_down,
            "scales": list(wanted.views.scales),
            "scale": wanted.scale,
            "bands": list(wanted.bands),
        },
    }
