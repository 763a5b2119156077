"""Networks that agentkd exported, at work on images, orthophotos and videos of any size: with ONNX Runtime, without torch."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from agentkd_predict.errors import InputError, NetworkError, PredictError, StorageError, UsageError
    from agentkd_predict.images import Tiling, Wanted
    from agentkd_predict.metadata import Foreign
    from agentkd_predict.network import Network
    from agentkd_predict.running import Outcome, predict
    from agentkd_predict.views import Views

PLACES = {
    "InputError": "errors",
    "NetworkError": "errors",
    "PredictError": "errors",
    "StorageError": "errors",
    "UsageError": "errors",
    "Tiling": "images",
    "Wanted": "images",
    "Foreign": "metadata",
    "Network": "network",
    "Outcome": "running",
    "predict": "running",
    "Views": "views",
}
__all__ = [
    "Foreign",
    "InputError",
    "Network",
    "NetworkError",
    "Outcome",
    "PredictError",
    "StorageError",
    "Tiling",
    "UsageError",
    "Views",
    "Wanted",
    "__version__",
    "predict",
]


def __getattr__(name: str) -> Any:
    """Public names, imported when they are first used: the command line's help needs none of them."""
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{PLACES[name]}"), name)
