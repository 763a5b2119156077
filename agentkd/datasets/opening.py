"""Datasets by name: ``kind:key=value,key=value`` or a user's ``package.module:name``."""

import importlib
import os
from pathlib import Path

from agentkd.datasets import files
from agentkd.datasets.generated import GeneratedScenes
from agentkd.datasets.samples import Dataset, read_size
from agentkd.errors import DatasetError

DATA_FOLDER_VARIABLE = "AGENTKD_DATA"
EXAMPLES = "generated:seed=7,size=96x96,train=64,validation=16,test=16 or folder:path=DIR,size=240x180 or package.module:name"


def open_dataset(spec: str) -> Dataset:
    """The dataset that a specification names.

    ========== ============================================== =============================================
    kind       options                                        meaning
    ========== ============================================== =============================================
    generated  seed, size=WxH, train, validation, test        generated burnt-area scenes, counts per split
    folder     path, size=WxH, holdout                        the folder layout with dataset.yaml
    camvid     path, size=WxH, holdout                        CamVid as SegNet arranged it
    ========== ============================================== =============================================

    ``holdout`` takes a validation split out of ``train``: a fraction, or group names joined by ``+``. A relative ``path``
    is looked for here and then in the folder that the environment variable AGENTKD_DATA names. Any other
    ``package.module:name`` is imported and called without arguments.

    Raises:
        DatasetError: the specification or the data are wrong.
    """
    kind, _, rest = spec.partition(":")
    if kind in ("generated", "folder", "camvid"):
        options = _read_options(kind, rest)
        return _open_generated(options) if kind == "generated" else _open_files(kind, options)
    if "." in kind and rest:
        return _open_own(kind, rest)
    raise DatasetError(spec, "is not a dataset", EXAMPLES)


def _read_options(kind: str, text: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not equals or not value:
            raise DatasetError(f"{kind}:{text}", f"{item!r} is not an option", "key=value")
        options[key.strip()] = value.strip()
    known = {"generated": {"seed", "size", "train", "validation", "test"}}.get(kind, {"path", "size", "holdout"})
    unknown = sorted(set(options) - known)
    if unknown:
        raise DatasetError(kind, f"unknown option {unknown[0]!r}", f"one of {', '.join(sorted(known))}")
    return options


def _open_generated(options: dict[str, str]) -> Dataset:
    def number(key: str, default: int) -> int:
        try:
            return int(options.get(key, default))
        except ValueError:
            raise DatasetError("generated", f"{key}={options[key]!r} is not a number", "a whole number") from None

    counts = {split: number(split, count) for split, count in (("train", 64), ("validation", 16), ("test", 16))}
    return GeneratedScenes(seed=number("seed", 0), size=read_size(options.get("size", "96x96"), "generated"), counts=counts)


def _open_files(kind: str, options: dict[str, str]) -> Dataset:
    if "path" not in options:
        raise DatasetError(kind, "needs path=DIR", EXAMPLES)
    size = read_size(options["size"], kind) if "size" in options else None
    reader = files.open_folder if kind == "folder" else files.open_camvid
    return reader(find_path(options["path"]), size=size, holdout=options.get("holdout", ""))


def find_path(text: str) -> Path:
    """A data folder: as given, or below the folder that AGENTKD_DATA names."""
    path = Path(text).expanduser()
    below = os.environ.get(DATA_FOLDER_VARIABLE)
    if not path.is_absolute() and not path.exists() and below:
        return Path(below) / path
    return path


def _open_own(module_name: str, attribute: str) -> Dataset:
    try:
        made = getattr(importlib.import_module(module_name), attribute)()
    except (ImportError, AttributeError) as error:
        raise DatasetError(
            f"{module_name}:{attribute}", f"cannot be imported ({error})", "a callable that returns a dataset"
        ) from error
    missing = [
        name for name in ("classes", "splits", "digest", "sample", "group", "check", "ignore_index") if not hasattr(made, name)
    ]
    if missing:
        raise DatasetError(f"{module_name}:{attribute}", f"lacks {', '.join(missing)}", "agentkd.datasets.samples.Dataset")
    return made
