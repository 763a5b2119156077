"""The families by name: settings, search space, recipe and loss of each, and where its builder is. Torch-free.

A user's own family is named ``package.module:builder``; the builder takes ``num_classes`` and the settings as keywords and
returns an ``nn.Module``. It may carry three attributes: ``space`` (setting name to tuple of values), ``loss`` (a loss name), and
``normalization`` of its images: ``"unit"``, as they are, in [0, 1], which is so if it says nothing; ``"imagenet"``; or
``{"mean": (r, g, b), "deviation": (r, g, b)}``.
What runs is the code that its architecture names, see ``agentkd.code``.
"""

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from agentkd.architecture import FIRST_REVISION, NORMALIZATIONS, UNIT, Architecture, Normalization, Setting
from agentkd.canonical import FrozenData, Proviso
from agentkd.code.loading import load
from agentkd.code.source import CodeDigest
from agentkd.code.taking import take
from agentkd.errors import ConfigError, Problem, must_be
from agentkd.names import NO_DIGEST, Digest
from agentkd.networks import settings as s
from agentkd.networks import spaces
from agentkd.networks.spaces import ArchitectureSpace, Space

Builder = Callable[..., Any]


@dataclass(frozen=True)
class Family:
    """One row of the table.

    Args:
        title: as the paper's Table I prints it, where it does.
        builder: ``module:callable`` that makes the network from ``num_classes`` and a settings object.
        published: settings of the published network that differ from the defaults of ``settings``.
        recipe: training hyperparameters that it comes with (fields of ``Recipe``).
        recipe_source: where they were published; empty where they are ours.
        loss: name of the family's training loss in ``agentkd.training.losses``.
        revision: of the network and its loss, see ``Architecture``; docs/decisions/0035 says what each was.
        weights_since: the first revision whose weights mean the same in this one, looked at or teaching.
    """

    name: str
    title: str
    builder: str
    settings: type[s.NetworkSettings]
    space: Space
    loss: str
    published: dict[str, Setting] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    recipe_source: str = ""
    revision: int = FIRST_REVISION
    weights_since: int = FIRST_REVISION


# Losses of families that were another loss under the same name, in the first revision.
LOSS_REVISIONS = {"pidnet": 2, "bisenet": 2}
_SGD: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4, "schedule": "polynomial", "power": 0.9}
_ADAMW: dict[str, Any] = {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-4, "schedule": "cosine"}


def _pidnet(name: str, title: str, space: Space, recipe: dict[str, Any], published: dict[str, Setting] | None = None) -> Family:
    builder = "agentkd.networks.pidnet:PIDNet"
    source = "Xu et al., CVPR 2023"
    return Family(name, title, builder, s.PIDNetSettings, space, "pidnet", published or {}, recipe, source, revision=2)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        _pidnet(
            name="pidnet_s",
            title="PIDNet-S",
            space=spaces.pidnet_space(16, 24, 32, 40),
            recipe=_SGD | {"learning_rate": 0.01},
        ),
        _pidnet(
            name="pidnet_m",
            title="PIDNet-M",
            space=spaces.pidnet_space(32, 40, 48, 56, 64),
            recipe=_SGD | {"learning_rate": 0.01},
            published={"planes": 64},
        ),
        _pidnet(
            name="pidnet_l",
            title="PIDNet-L",
            space=spaces.pidnet_space(40, 48, 56, 64, 72),
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
            space=spaces.BISENET_SPACE,
            loss="bisenet",
            recipe=_SGD | {"learning_rate": 1e-3},
            recipe_source="the authors of CNN-I2I BiSeNet",
            revision=2,
            weights_since=2,
        ),
        Family(
            name="unet",
            title="U-Net (paper: UNet++)",
            builder="agentkd.networks.unet:UNet",
            settings=s.UNetSettings,
            space=spaces.UNET_SPACE,
            loss="dice",
            recipe=_ADAMW,
        ),
        Family(
            name="unetpp",
            title="UNet++",
            builder="agentkd.networks.unet:UNetPP",
            settings=s.UNetPPSettings,
            space=spaces.UNETPP_SPACE,
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


def resolve(
    family: str,
    num_classes: int,
    settings: dict[str, Any] | None = None,
    *,
    code: Digest = NO_DIGEST,
    as_written: bool = False,
) -> Architecture:
    """The complete, checked architecture: defaults filled in, and written in one way, so that equal networks have equal digests.

    Args:
        family: a name, or a user's own ``package.module:builder``.
        num_classes: K.
        settings: those that differ from the family's own.
        code: that of an own family. Not given: its code as it is now in the user's tree, which the architecture then names.
        as_written: leaves settings that make no difference as they are given, as all versions did of which there are records.

    Raises:
        ConfigError: no such family, unknown settings or illegal values, all at once.
    """
    must_be(family, str, "the family", "its name, or package.module:builder")
    must_be(settings or {}, Mapping, "settings", "a mapping of names to values")
    given = dict(settings or {})
    if is_own(family):
        return look_at(family, code or take(family)).architecture(num_classes, given)
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ConfigError([Problem("family", f"no family {family!r}; known: {known}, or package.module:builder")])
    row = FAMILIES[family]
    try:
        complete = row.settings(**(row.published | given))
    except ValidationError as error:
        raise ConfigError(_problems(error, row), source=family) from None
    written = complete if as_written else complete.plainest()
    try:
        return Architecture(family=family, num_classes=num_classes, settings=written.canonical(), revision=row.revision)
    except ValidationError as error:
        problems = [Problem(_path(item), f"{item['msg']}, got {item['input']!r}") for item in error.errors()]
        raise ConfigError(problems, source=family) from None


def complete(architecture: Architecture) -> Architecture:
    """The same, checked, with defaults filled in. Of an own family only the code that it names is run.

    Raises:
        ConfigError: as ``resolve``, no code is named, or it is of a revision that is not built any more, or not yet.
    """
    family, num_classes, settings = architecture.family, architecture.num_classes, architecture.settings
    if is_own(family):
        resolved = look_at(family, architecture.code).architecture(num_classes, settings)
    else:
        resolved = resolve(family, num_classes, settings)
    check_revision(architecture, resolved.revision)
    return resolved.with_heads(architecture.heads, architecture.head) if architecture.heads else resolved


def check_revision(architecture: Architecture, built: int) -> None:
    """Checks that an architecture is of the revision that is built here.

    Raises:
        ConfigError: it is not. Another network, or one that is trained otherwise, would have been taken for it.
    """
    given = architecture.revision
    if given != built:
        text = (
            f"this is {architecture.family} of revision {given}, and this version of agentkd builds revision {built}, which is "
            f"another network or is trained by another loss. {_what_to_do(given, built)}"
        )
        raise ConfigError([Problem("architecture.revision", text)])


def _what_to_do(given: int, built: int) -> str:
    if given > built:
        return "Update agentkd"
    return "Its records can be read and reported; to execute it use the version that made them, or begin anew in another folder"


class OwnFamily(FrozenData):
    """What a user's own builder says of itself: all that is needed to plan with it, without running it.

    Args:
        family: its name.
        code: in which it is found.
        defaults: of the settings that have one.
        required: names of the settings that have none.
        takes_any: whether it takes other settings as well.
        space: setting name to its candidate values; empty if it declares none.
        loss: name of its training loss.
        normalization: of its images.
    """

    family: str
    code: CodeDigest
    defaults: dict[str, Setting]
    required: tuple[str, ...]
    takes_any: bool
    space: dict[str, tuple[Setting, ...]]
    loss: str
    normalization: Normalization = UNIT

    def architecture(self, num_classes: int, settings: dict[str, Any]) -> Architecture:
        """The complete architecture, as of ``resolve``.

        Raises:
            ConfigError: a setting is unknown, lacking, or no plain value.
        """
        known = [*self.defaults, *self.required]
        problems = [
            Problem(f"settings.{name}", f"unknown setting; {self.family} takes {', '.join(known) or 'none'}")
            for name in settings
            if name not in known and not self.takes_any
        ]
        problems += [Problem(f"settings.{name}", "is required") for name in self.required if name not in settings]
        if problems:
            raise ConfigError(problems, source=self.family)
        given: dict[str, Any] = {**self.defaults, **settings}
        try:
            return Architecture(
                family=self.family,
                num_classes=num_classes,
                settings=given,
                normalization=self.normalization,
                code=self.code,
                revision=LOSS_REVISIONS.get(self.loss, FIRST_REVISION),
            )
        except ValidationError as error:
            raise ConfigError([Problem(_path(item), str(item["msg"])) for item in error.errors()], source=self.family) from None


def look_at(family: str, code: Digest) -> OwnFamily:
    """What a user's own builder says of itself; it is loaded for this.

    Raises:
        ConfigError: as ``load_own``, or what it says is not plain data.
    """
    builder = load_own(family, code)
    parameters = [p for name, p in inspect.signature(builder).parameters.items() if name != "num_classes"]
    named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    space, problems = _space(getattr(builder, "space", {}))
    said = {
        "family": family,
        "code": code,
        "defaults": {p.name: p.default for p in named if p.default is not p.empty},
        "required": [p.name for p in named if p.default is p.empty],
        "takes_any": any(p.kind is p.VAR_KEYWORD for p in parameters),
        "space": space,
        "loss": getattr(builder, "loss", "cross_entropy"),
        "normalization": _normalization(getattr(builder, "normalization", "unit"), family),
    }
    own = None
    try:
        own = OwnFamily.model_validate(said)
    except ValidationError as error:
        listed = itertools.islice(error.errors(), 10)
        problems = [*(Problem(_path(item), f"{item['msg']}, got {item['input']!r}") for item in listed), *problems]
    if own is None or problems:
        raise ConfigError(problems, source=family)
    return own


def _space(said: Any) -> tuple[dict[str, tuple[Setting, ...]], list[Problem]]:
    """A declared space, whose values may be in any sequence, NumPy's too, as tuples; and what is wrong with it."""
    if not isinstance(said, Mapping):
        return {}, [Problem("space", f"is {said!r}; expected settings to their values, such as {{'width': (8, 16)}}")]
    problems: list[Problem] = []
    found: dict[str, tuple[Setting, ...]] = {}
    for name, values in said.items():
        plain = values.tolist() if hasattr(values, "tolist") else values
        if isinstance(plain, str | bytes) or not isinstance(plain, Sequence):
            why = "a set has no order; " if isinstance(plain, set | frozenset) else ""
            problems.append(Problem(f"space.{name}", f"is {values!r}; {why}expected a tuple of values, such as (8, 16)"))
            continue
        listed = [value.item() if hasattr(value, "dtype") else value for value in plain]
        strange = [value for value in listed if not isinstance(value, bool | int | float | str)]
        if strange:
            text = f"{strange[0]!r} is no value that a search can choose; expected true, false, numbers or texts"
            problems.append(Problem(f"space.{name}", f"{text}, which the builder may look up in a table of its own"))
        else:
            found[str(name)] = tuple(listed)
    return found, problems


def _normalization(said: Any, family: str) -> Any:
    if isinstance(said, str) and said not in NORMALIZATIONS:
        text = f"there is no {said!r}; there are {', '.join(NORMALIZATIONS)}, or give mean and deviation"
        raise ConfigError([Problem("normalization", text)], source=family)
    return NORMALIZATIONS[said] if isinstance(said, str) else said


def load_own(family: str, code: Digest) -> Builder:
    """A user's own builder, from the code of that digest.

    Raises:
        ConfigError: the code is not there, or has no such module or builder, see ``agentkd.code.loading.load``.
    """
    builder = load(family, code)
    if not callable(builder):
        raise ConfigError([Problem("family", f"{family!r} is not callable; expected builder(num_classes, **settings)")])
    return builder


def search_space(family: str, code: Digest = NO_DIGEST, *, edition: int = spaces.EDITION) -> ArchitectureSpace:
    """Setting name to its candidate values; empty if a user's own family declares none.

    Args:
        family: a name, or a user's own.
        code: of that.
        edition: of the spaces here, see ``agentkd.networks.spaces``.
    """
    return dict(look_at(family, code).space) if is_own(family) else spaces.values_of(FAMILIES[family].space, edition)


def conditions(family: str) -> dict[str, Proviso]:
    """Setting name to when it makes a difference, for those that do not always; of a user's own family nothing is known."""
    return spaces.conditions_of(FAMILIES[family].space) if family in FAMILIES else {}


def all_settings(architecture: Architecture) -> dict[str, Setting]:
    """Every setting of a complete architecture, those too that its canonical form leaves out."""
    row = FAMILIES.get(architecture.family)
    return row.settings(**architecture.settings).complete() if row else dict(architecture.settings)


def loss_name(family: str, code: Digest = NO_DIGEST) -> str:
    """Name of the family's own training loss."""
    return look_at(family, code).loss if is_own(family) else FAMILIES[family].loss


def weights_since(family: str) -> int:
    """The first revision of the family whose weights mean the same in a network that is built here."""
    return FAMILIES[family].weights_since if family in FAMILIES else FIRST_REVISION


def default_recipe(family: str) -> dict[str, Any]:
    """Training hyperparameters that the family comes with, published or ours; empty for a user's own."""
    return dict(FAMILIES[family].recipe) if family in FAMILIES else {}


def published_recipe(family: str) -> dict[str, Any]:
    """Training hyperparameters published with the family; empty where those that it comes with are ours, and for a user's own."""
    return default_recipe(family) if family in FAMILIES and FAMILIES[family].recipe_source else {}


def seen_by_loss(family: str) -> tuple[str, ...]:
    """Settings that make a difference to the family's own loss alone: not to what is deployed, nor to other losses."""
    return tuple(name for name, one in FAMILIES[family].space.items() if one.is_for_loss) if family in FAMILIES else ()


def _path(error: Mapping[str, Any]) -> str:
    return ".".join(map(str, error["loc"]))


def _problems(error: ValidationError, row: Family) -> list[Problem]:
    known = ", ".join(row.settings.model_fields)
    return [
        Problem(
            "settings." + ".".join(map(str, item["loc"])),
            f"unknown setting; known: {known}" if item["type"] == "extra_forbidden" else f"{item['msg']}, got {item['input']!r}",
        )
        for item in itertools.islice(error.errors(), 50)
    ]
