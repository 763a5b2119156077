"""The options of a built-in dataset, as ``key=value,key=value``; a path among them may have commas."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentkd.errors import DatasetError

DATA_FOLDER_VARIABLE = "AGENTKD_DATA"


def read_options(kind: str, text: str) -> dict[str, str]:
    """The options of a kind of dataset.

    Raises:
        DatasetError: one that it does not have, or twice, or without a value.
    """
    known = {"generated": {"seed", "size", "train", "validation", "test", "light", "channels", "fires"}}.get(
        kind, {"path", "size", "holdout"}
    )
    options: dict[str, str] = {}
    latest = ""
    for item in text.split(","):
        key, equals, value = (part.strip() for part in item.partition("="))
        if latest == "path" and key not in known and (not equals or find_path(f"{options[latest]},{item}").exists()):
            options[latest] += f",{item}"  # a path may have commas
            continue
        if not item:
            continue
        if not equals or not value:
            raise DatasetError(f"{kind}:{text}", f"{item!r} is not an option", "key=value")
        if key in options:
            raise DatasetError(f"{kind}:{text}", f"{key} is given twice", "each option once")
        if key not in known:
            raise DatasetError(kind, f"unknown option {key!r}", f"one of {', '.join(sorted(known))}")
        latest, options[key] = key, value
    if "path" in options and options["path"].endswith(",") and not find_path(options["path"]).exists():
        options["path"] = options["path"].rstrip(",")
    return options


@contextmanager
def looking_below(folder: str) -> Iterator[None]:
    """Looks for data below a folder as well, here and in processes that are started meanwhile; AGENTKD_DATA comes before it."""
    is_set = not os.environ.get(DATA_FOLDER_VARIABLE) and bool(folder)
    if is_set:
        os.environ[DATA_FOLDER_VARIABLE] = folder
    try:
        yield
    finally:
        if is_set:
            os.environ.pop(DATA_FOLDER_VARIABLE, None)


def find_path(text: str) -> Path:
    """A data folder: as given, or below the folder that AGENTKD_DATA names.

    Raises:
        DatasetError: it is in the home of somebody who has none.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise DatasetError(text, "nobody of that name has a home here", f"./{text} for a folder of that name") from None
    below = os.environ.get(DATA_FOLDER_VARIABLE)
    if not path.is_absolute() and not path.exists() and below:
        return Path(below) / path
    return path
