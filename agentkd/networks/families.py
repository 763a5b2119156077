"""The families by name: settings, search space, published recipe and loss of each, and where its builder is. Torch-free.

A user's own family is named ``package.module:builder``; the builder takes ``num_classes`` and the settings as keywords and
returns an ``nn.Module``. It may carry two attributes: ``space`` (setting name to tuple of values) and ``loss`` (a loss name).
"""

import importlib
import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from agentkd.architecture import Architecture, Setting
from agentkd.canonical import FrozenData
from agentkd.errors import ConfigError, Problem
from agentkd.networks import settings as s

Builder = Callable[..., Any]


@dataclass(frozen=True)
class Family:
    """One row of the table.

    Args:
        title: as the paper's Table I prints it, where it does.
        builder: ``module:callable`` that makes the network from ``num_classes`` and a settings object.
        published: settings of the published network that differ from the defaults of ``settings``.
        recipe: published training hyperparameters (fields of ``Recipe``).
        loss: name of the family's training loss in ``agentkd.training.losses``.
    """

    name: str
    title: str
    builder: str
    settings: type[FrozenData]
    space: s.ArchitectureSpace
    loss: str
    published: dict[str, Setting] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)


_SGD: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4, "schedule": "polynomial", "power": 0.9}
_ADAMW: dict[str, Any] = {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-4, "schedule": "cosine"}


def _pidnet(
    name: str, title: str, space: s.ArchitectureSpace, recipe: dict[str, Any], published: dict[str, Setting] | None = None
) -> Family:
    builder = "agentkd.networks.pidnet:PIDNet"
    return Family(name, title, builder, s.PIDNetSettings, space, "pidnet", published or {}, recipe)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        _pidnet(
            name="pidnet_s",
            title="PIDNet-S",
            space=s.pidnet_space(16, 24, 32, 40),
            recipe=_SGD | {"learning_rate": 0.01},
        ),
        _pidnet(
            name="pidnet_m",
            title="PIDNet-M",
            space=s.pidnet_space(32, 40, 48, 56, 64),
            recipe=_SGD | {"learning_rate": 0.01},
            published={"planes": 64},
        ),
        _pidnet(
            name="pidnet_l",
            title="PIDNet-L",
            space=s.pidnet_space(40, 48, 56, 64, 72),
            recipe=_SGD | {"learning_rate": 0.01},
            published={
                "planes": 64,
                "num_blocks": 3,
                "num_blocks3": 4,
                "num_blocks4": 4,
                "full_detail": True,
                "pyramid": "dappm",
                "ppm_planes": 112,
                "fusion": "bag",
                "head_planes": 256,
            },
        ),
        Family(
            name="cnn_i2i_bisenet",
            title="CNN-I2I BiSeNet",
            builder="agentkd.networks.bisenet:CnnI2IBiSeNet",
            settings=s.BiSeNetSettings,
            space=s.BISENET_SPACE,
            loss="bisenet",
            recipe=_SGD | {"learning_rate": 1e-3},
        ),
        Family(
            name="unet",
            title="U-Net (paper: UNet++)",
            builder="agentkd.networks.unet:UNet",
            settings=s.UNetSettings,
            space=s.UNET_SPACE,
            loss="dice",
            recipe=_ADAMW,
        ),
        Family(
            name="unetpp",
            title="UNet++",
            builder="agentkd.networks.unet:UNetPP",
            settings=s.UNetPPSettings,
            space=s.UNETPP_SPACE,
            loss="dice",
            recipe=_ADAMW,
        ),
    )
}


def is_own(family: str) -> bool:
    """Whether the name is a path to a user's own builder."""
    return ":" in family


def title(family: str) -> str:
    """The family's name as reports print it."""
    return FAMILIES[family].title if family in FAMILIES else family.rpartition(":")[2]


def resolve(family: str, num_classes: int, settings: dict[str, Any] | None = None) -> Architecture:
    """The complete, checked architecture: defaults filled in, so that equal networks have equal digests.

    Raises:
        ConfigError: no such family, unknown settings or illegal values, all at once.
    """
    given = dict(settings or {})
    if is_own(family):
        return Architecture(family=family, num_classes=num_classes, settings=_own_settings(family, given))
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ConfigError([Problem("family", f"no family {family!r}; known: {known}, or package.module:builder")])
    row = FAMILIES[family]
    try:
        complete = row.settings(**(row.published | given))
    except ValidationError as error:
        raise ConfigError(_problems(error, row), source=family) from None
    return Architecture(family=family, num_classes=num_classes, settings=complete.canonical())


def load_own(family: str) -> Builder:
    """A user's own builder, imported from ``package.module:builder``.

    Raises:
        ConfigError: the module or the name in it does not exist.
    """
    module_name, _, attribute = family.partition(":")
    try:
        builder = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError([Problem("family", f"cannot import {family!r}: {error}; is it on PYTHONPATH?")]) from error
    if not callable(builder):
        raise ConfigError([Problem("family", f"{family!r} is not callable; expected builder(num_classes, **settings)")])
    return builder


def search_space(family: str) -> s.ArchitectureSpace:
    """Setting name to its candidate values; empty if a user's own family declares none."""
    if is_own(family):
        return dict(getattr(load_own(family), "space", {}))
    return FAMILIES[family].space


def loss_name(family: str) -> str:
    """Name of the family's own training loss."""
    return str(getattr(load_own(family), "loss", "cross_entropy")) if is_own(family) else FAMILIES[family].loss


def published_recipe(family: str) -> dict[str, Any]:
    """Training hyperparameters published with the family; empty for a user's own."""
    return dict(FAMILIES[family].recipe) if family in FAMILIES else {}


def _own_settings(family: str, given: dict[str, Any]) -> dict[str, Any]:
    """The given settings with the builder's defaults filled in, so that equal networks have equal digests here too."""
    parameters = inspect.signature(load_own(family)).parameters
    known = {name: p.default for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD and name != "num_classes"}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    problems = [
        Problem(f"settings.{name}", f"unknown setting; {family} takes {', '.join(known) or 'none'}")
        for name in given
        if name not in known and not takes_any
    ]
    complete = {name: value for name, value in known.items() if value is not inspect.Parameter.empty} | given
    problems += [Problem(f"settings.{name}", "is required") for name in known if name not in complete]
    if problems:
        raise ConfigError(problems, source=family)
    return complete


def _problems(error: ValidationError, row: Family) -> list[Problem]:
    known = ", ".join(row.settings.model_fields)
    return [
        Problem(
            "settings." + ".".join(map(str, item["loc"])),
            f"unknown setting; known: {known}" if item["type"] == "extra_forbidden" else f"{item['msg']}, got {item['input']!r}",
        )
        for item in itertools.islice(error.errors(), 50)
    ]
