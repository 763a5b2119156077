"""Which files are meant, and what the files made of them are called."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentkd_predict.errors import UsageError

_IMAGES = "png jpg jpeg jpe jfif tif tiff gif bmp dib webp jp2 j2k jpx jpf ppm pgm pbm pnm pcx avif tga mpo"
_VIDEOS = "mp4 mov avi mkv webm m4v mpg mpeg wmv mts m2ts 3gp flv"
IMAGES = frozenset(f".{ending}" for ending in _IMAGES.split())
VIDEOS = frozenset(f".{ending}" for ending in _VIDEOS.split())
NOT_OURS = frozenset({"Thumbs.db", "desktop.ini", "__MACOSX", "@eaDir"})


@dataclass(frozen=True)
class Input:
    """A file to be done.

    Args:
        path: where it is.
        name: what files made of it are called, with folders and without an ending.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEOS


@dataclass(frozen=True)
class Found:
    """The files to be done, and those of folders that are neither images nor videos."""

    inputs: tuple[Input, ...]
    others: tuple[Path, ...]


def find(places: Sequence[Path], out: Path) -> Found:
    """All files that are named, and all images and videos in the folders that are, but for what lies in ``out``.

    A file keeps its name, and that of the folders below the one that was named, or that all named files share. Where two would
    have one name, they keep their endings.

    Raises:
        UsageError: a place is not there, or is ``out`` itself, or nothing is to be done.
    """
    _check_apart(places, out)
    listed: list[tuple[Path, Path]] = []
    others: list[Path] = []
    single = [place for place in places if not place.is_dir()]
    shared = _shared(single)
    for place in places:
        if place.is_dir():
            found = sorted(_files(place, out))
            listed += [(path, path.relative_to(place)) for path in found if path.suffix.lower() in IMAGES | VIDEOS]
            others += [path for path in found if path.suffix.lower() not in IMAGES | VIDEOS]
        else:
            _check_there(place)
            listed.append((place, place.absolute().relative_to(shared)))
    by_file: dict[str, tuple[Path, Path]] = {}
    for one in listed:
        by_file.setdefault(os.path.realpath(one[0]), one)
    kept = list(by_file.values())
    if not kept:
        told = ", ".join(map(str, places[:5]))
        raise UsageError(f"{told}: no image and no video is there" + (f", but {len(others)} other files" if others else ""))
    return Found(tuple(Input(path, name) for (path, _), name in zip(kept, _names(kept), strict=True)), tuple(others))


def _check_apart(places: Sequence[Path], out: Path) -> None:
    """That no folder is both: the masks in it would be images of the next time."""
    for place in places:
        if place.is_dir() and os.path.realpath(place) == os.path.realpath(out):
            raise UsageError(f"--out {out}: is the folder with the images; give another, such as {out / 'predicted'}")


def _shared(files: Sequence[Path]) -> Path:
    parents = [str(file.absolute().parent) for file in files]
    return Path(os.path.commonpath(parents)) if parents else Path()


def _check_there(place: Path) -> None:
    if not place.exists():
        told = "a link to a file that is not there" if place.is_symlink() else "there is no such file or folder"
        raise UsageError(f"{place}: {told}")
    if not place.is_file():
        raise UsageError(f"{place}: neither a file nor a folder")


def _files(folder: Path, out: Path) -> Iterable[Path]:
    own = os.path.realpath(out)
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and name not in NOT_OURS and os.path.realpath(Path(root, name)) != own
        )
        yield from (Path(root, name) for name in names if not name.startswith(".") and name not in NOT_OURS)


def _names(kept: Sequence[tuple[Path, Path]]) -> list[str]:
    """A name for each, no two of which are the same on a disk that does not tell capitals."""
    short = [str(relative.with_suffix("")) for _, relative in kept]
    count = Counter(name.casefold() for name in short)
    found = [str(relative) if count[name.casefold()] > 1 else name for name, (_, relative) in zip(short, kept, strict=True)]
    taken: set[str] = set()
    for index, name in enumerate(found):
        number, free = 2, name
        while free.casefold() in taken or (free != name and free.casefold() in count):
            free, number = f"{name}-{number}", number + 1
        taken.add(free.casefold())
        found[index] = free
    return found
