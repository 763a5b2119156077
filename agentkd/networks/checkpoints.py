"""Files of weights that people have, read by what they hold and not by how they are called. Code in a file is never executed."""

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from agentkd.errors import ConfigError, check_descriptors
from agentkd.plain import must_be_file

# Under which name programs keep the weights beside the state of the optimizer and the like, the likeliest first. Averages of the
# weights (EMA) come last: they are taken where there is nothing else.
WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "model_state", "network", "net", "module", "weights", "params"),
    *("ema", "ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "model_ema_state_dict", "params_ema"),
)
AVERAGED = re.compile(r"(?:^|[._])(?:ema|swa|averaged?|shadow)(?:[._]|$)")
MAX_NESTING = 4
# What may lie beside weights without being code: it is passed over.
BESIDE = re.compile(r"numpy(\.\w+)*\.(scalar|_reconstruct|dtype|ndarray|\w+DType)|argparse\.Namespace|pathlib\.\w+|datetime\.\w+")
NOT_PLAIN = torch.serialization.pickle.UnpicklingError  # type: ignore[attr-defined]
UNSOUND = (SafetensorError, zipfile.BadZipFile)
SAVE = "save the tensors alone: torch.save(network.state_dict(), FILE)"
ZIP, PICKLE = b"PK\3\4", (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class Unread:
    """What stands for a value that is no tensor: it is made of anything and is nothing."""

    def __new__(cls, *values: object) -> "Unread":
        """One, whatever it is made of."""
        return super().__new__(cls)

    def __init__(self, *values: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        """Passes over what the value would hold."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or PyTorch file by their names in it. Values beside them, such as a score, are passed over.

    Raises:
        ConfigError: no such file, or it holds something else than tensors; it says what.
    """
    try:
        must_be_file(path)
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise ConfigError(f"no weights file {path}") from None
    except OSError as error:
        check_descriptors(path, error)
        raise ConfigError(f"{path} cannot be read as weights: {error.strerror or error}") from None
    strange = _what_else(head)
    if strange:
        raise ConfigError(f"{path} cannot be read as weights: {strange}")
    found = _load(path, head)
    tensors = _state_of(path, found)
    if not tensors:
        raise ConfigError(f"{path} holds no tensors but {_described(found)}; expected a state dict: {SAVE}")
    return tensors


def _what_else(head: bytes) -> str:
    """What a file that is none of weights is, by how it begins; empty if it may be one."""
    text = head.lstrip().lower()
    if not head:
        return "it is empty; get it again from where it came"
    if text.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS in place of the file; get the file itself with: git lfs pull"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, as a failed download leaves it; get the file again"
    if head[8:9] == b"{" or head.startswith((ZIP, *PICKLE)):
        return ""
    return "it begins neither as a safetensors file nor as one of torch.save"


def _load(path: Path, head: bytes) -> Any:
    try:
        if not head.startswith((ZIP, *PICKLE)):
            return load_file(path)
        beside = _beside(path) if head.startswith(ZIP) else []
        with torch.serialization.safe_globals([(Unread, name) for name in beside]), path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except ConfigError:
        raise
    except NOT_PLAIN as error:
        named = re.search(r"GLOBAL (\S+)|class (\S+)", str(error))
        which = f" ({named[1] or named[2]})" if named else ""
        raise ConfigError(f"{path} holds more than tensors{which}, which is not run; {SAVE}") from None
    except (OSError, RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError, *UNSOUND) as error:
        check_descriptors(path, error)
        said = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]
        raise ConfigError(f"{path} cannot be read as weights; it is damaged or cut short ({said[:200]})") from None


def _beside(path: Path) -> list[str]:
    """The kinds of values in a file of PyTorch that are no tensors and may be passed over; it is looked through, not loaded.

    Raises:
        ConfigError: there are others, which it names.
    """
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise ConfigError(f"{path} is a program (TorchScript), which is not run; {SAVE}")
    with path.open("rb") as file:
        named = list(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    others = sorted(name for name in named if not BESIDE.fullmatch(name))
    if others:
        raise ConfigError(f"{path} holds more than tensors ({', '.join(others[:3])}), which is not run; {SAVE}")
    return named


def _state_of(path: Path, found: object, level: int = 0) -> dict[str, Tensor]:
    """The tensors of a state dict, wherever in a checkpoint it lies.

    Raises:
        ConfigError: there are several, none under a name that says which is meant.
    """
    if not isinstance(found, Mapping) or level > MAX_NESTING:
        return {}
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    has_values = any(value.dim() for value in tensors.values())  # a step or a scale beside weights is a tensor too, of one number
    if has_values and not any(name in found and isinstance(found[name], Mapping) for name in WRAPPERS):
        return tensors
    inner = dict(_inner(path, found, level))
    known = next((inner[name] for name in WRAPPERS if name in inner), None)
    meant = [name for name in inner if not AVERAGED.search(name)] or list(inner)
    if known is None and len(meant) > 1:
        raise ConfigError(f"{path} holds several sets of weights ({', '.join(sorted(meant))}); save the one that is meant alone")
    return known or (inner[meant[0]] if meant else tensors if has_values or not level else {})


def _inner(path: Path, found: Mapping[Any, object], level: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    for name, value in found.items():
        is_optimizer = isinstance(value, Mapping) and {"state", "param_groups"} <= value.keys()
        if isinstance(name, str) and "optim" not in name and not is_optimizer and (state := _state_of(path, value, level + 1)):
            yield name, state


def _described(found: object) -> str:
    if isinstance(found, Mapping):
        return f"a {type(found).__name__} with {', '.join(map(str, list(found)[:5])) or 'nothing in it'}"
    return f"a {type(found).__name__}"
