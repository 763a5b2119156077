"""The trainings whose curves are golden: small networks, a few steps, and never a value at which two mistakes cancel.

Alpha is 0.3, orders of classes are cycles of three, shares differ, some pixels are ignored. Where a network has maps of a few
pixels it has group normalization: batch normalization of so few numbers makes of the last bit of a sum another curve.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Plain = Mapping[str, Any]

SCENES = "only:Burnt+Half-Burnt+Non-Burnt+Fire:generated:seed=5,size=32x32,train=12,validation=9,test=2"
DUSK = SCENES.replace("seed=5", "seed=6") + ",light=dusk"
RECIPE = {
    "epochs": 2,
    "steps_per_epoch": 3,
    "batch_size": 4,
    "learning_rate": 0.05,
    "views": {"crop_height": 32, "crop_width": 32},
}
CYCLE = (1, 2, 0, 3, 4)
TINY = ("tiny_networks:tiny", {"width": 8})
NO_NORM = ("unet", {"base": 8, "depth": 1, "convs": 1, "norm": "none"})
PIDNET = (
    "pidnet_s",
    {
        "planes": 8,
        "num_blocks": 1,
        "num_blocks3": 1,
        "num_blocks4": 1,
        "bottlenecks": 1,
        "ppm_planes": 8,
        "head_planes": 8,
        "norm": "group",
    },
)
BISENET = (
    "cnn_i2i_bisenet",
    {
        "width": 0.125,
        "blocks1": 1,
        "blocks2": 1,
        "blocks3": 1,
        "blocks4": 1,
        "context_planes": 16,
        "spatial_planes": 8,
        "spatial_kernel": 3,
        "i2i_width": 8,
        "i2i_kernel": 3,
        "head_planes": 8,
        "discriminator_width": 4,
        "discriminator_layers": 1,
        "norm": "group",
    },
)


@dataclass(frozen=True)
class TeacherSetting:
    """An untrained tiny network as a teacher: its last layer times ``sharpness``, plus ``shift`` for every class.

    ``told`` is how it is told apart from others: fields of a teacher's reference.
    """

    seed: int
    width: int = 12
    classes: int = 5
    sharpness: float = 8.0
    shift: float = 0.0
    told: Plain = field(default_factory=dict)


ONE = (TeacherSetting(11),)
TWO = (TeacherSetting(11, told={"share": 1.0}), TeacherSetting(12, told={"share": 3.0}))


@dataclass(frozen=True)
class Scenario:
    """A training. ``pretrained`` is the seed of weights to inherit, ``strength`` that of a pull to where a network was."""

    group: str
    name: str
    student: tuple[str, Plain] = TINY
    recipe: Plain = field(default_factory=dict)
    distillation: Plain | None = None
    teachers: tuple[TeacherSetting, ...] = ()
    data: str = SCENES
    pretrained: int = 0
    strength: float = 0.0


def told_apart(*told: Plain) -> tuple[TeacherSetting, ...]:
    return tuple(TeacherSetting(11 + index, told=one) for index, one in enumerate(told))


def taught(group: str, name: str, *objectives: Plain, teachers: tuple[TeacherSetting, ...] = ONE, **fields: Any) -> Scenario:
    own = {key: fields.pop(key) for key in ("student", "recipe", "data", "pretrained", "strength") if key in fields}
    return Scenario(group, name, distillation={"alpha": 0.3, "objectives": objectives} | fields, teachers=teachers, **own)


SOFT = {"kind": "soft_targets"}
BODY = {"taps": {"body.4": "body.3"}}

SCENARIOS = (
    Scenario("loop", "sgd with warm-up and polynomial decay", recipe={"warmup_steps": 2, "momentum": 0.8, "weight_decay": 0.05}),
    Scenario("loop", "polynomial decay of another power", recipe={"power": 2.0, "epochs": 3, "steps_per_epoch": 2}),
    Scenario(
        "loop",
        "adamw with cosine decay",
        NO_NORM,
        recipe={"optimizer": "adamw", "learning_rate": 0.01, "schedule": "cosine", "weight_decay": 0.5},
    ),
    Scenario("loop", "a constant rate with clipped gradients", recipe={"schedule": "constant", "clip_norm": 0.3}),
    Scenario("loop", "validated every second epoch", recipe={"epochs": 5, "steps_per_epoch": 1, "validate_every": 2}),
    Scenario("loop", "the last epoch is kept", recipe={"epochs": 3, "keep": "last", "learning_rate": 0.3}),
    Scenario("loop", "the best epoch is kept", recipe={"epochs": 6, "steps_per_epoch": 1, "learning_rate": 0.3}),
    Scenario("loop", "of equal epochs the first is kept", NO_NORM, {"learning_rate": 1e-6, "loss": "cross_entropy", "epochs": 3}),
    Scenario("loop", "matching layers of pretrained weights", pretrained=21),
    Scenario("families", "cross-entropy", recipe={"loss": "cross_entropy"}),
    Scenario("families", "cross-entropy instead of the family's loss", PIDNET, {"loss": "cross_entropy", "learning_rate": 0.01}),
    Scenario("families", "pidnet", PIDNET, {"learning_rate": 0.01}),
    Scenario("families", "bisenet with its discriminator", BISENET, {"learning_rate": 0.01, "clip_norm": 1.0}),
    Scenario("families", "bisenet without discriminator", (BISENET[0], {**BISENET[1], "discriminator": False})),
    Scenario("families", "unet", ("unet", {"base": 8, "depth": 1, "convs": 1})),
    Scenario(
        "families", "unetpp with deep supervision", ("unetpp", {"base": 8, "depth": 2, "convs": 1, "deep_supervision": True})
    ),
    taught("objectives", "soft targets", SOFT),
    taught(
        "objectives", "soft targets exactly as in the paper", SOFT | {"scale_by_temperature_squared": False, "temperature": 3.0}
    ),
    taught("objectives", "soft targets at the student's stride", SOFT | {"resolution": "native", "temperature": 1.0}),
    taught("objectives", "standardized soft targets", SOFT | {"standardize": True}),
    taught("objectives", "where the teacher is right", SOFT | {"gate": "correct", "weight": 3.0}),
    taught("objectives", "where the teacher is sure", SOFT | {"gate": "confidence", "gate_at": 0.6, "temperature": 1.0}),
    taught("objectives", "in the first part of the steps", SOFT | {"gate": "cutoff", "gate_at": 0.5}),
    taught("objectives", "less and less", SOFT | {"gate": "linear"}),
    taught("objectives", "a weight that rises", SOFT | {"schedule": "rise", "weight": 2.0}),
    taught("objectives", "a weight that falls", {"kind": "dist", "schedule": "fall"}),
    taught("objectives", "a weight along a cosine", {"kind": "dkd", "schedule": "cosine"}),
    taught("objectives", "boundary", {"kind": "boundary", "temperature": 3.0}),
    taught("objectives", "dkd", {"kind": "dkd", "temperature": 2.0, "target": 0.5, "rest": 3.0}),
    taught("objectives", "dist", {"kind": "dist", "temperature": 2.0, "beta": 0.5, "gamma": 2.0}),
    taught("objectives", "channel of logits", {"kind": "channel"}),
    taught("objectives", "channel of features", {"kind": "channel", "weight": 5.0} | BODY),
    taught("objectives", "features", {"kind": "features", "weight": 2.0} | BODY),
    taught("objectives", "features that are not standardized", {"kind": "features", "standardize": False} | BODY),
    taught("objectives", "attention", {"kind": "attention"} | BODY),
    taught("objectives", "pairwise", {"kind": "pairwise", "size": 5} | BODY),
    taught("objectives", "ifvd", {"kind": "ifvd"} | BODY),
    taught("objectives", "several at once", SOFT, {"kind": "dist", "weight": 0.5}, {"kind": "features"} | BODY),
    taught("hard", "the family's loss, of pidnet", SOFT, student=PIDNET, hard_loss="family"),
    taught("hard", "cross-entropy as in the paper, of pidnet", SOFT, student=PIDNET, hard_loss="cross_entropy"),
    taught("hard", "bisenet, whose discriminator is not the student", SOFT, student=BISENET, hard_loss="family"),
    taught("hard", "cross-entropy alone, of bisenet", SOFT, student=BISENET, hard_loss="cross_entropy"),
    taught("hard", "no labels at all", SOFT, hard_loss="none", alpha=0.0),
    taught("hard", "no labels at all, of bisenet", SOFT, student=BISENET, hard_loss="none", alpha=0.0),
    taught("hard", "the student inherits its teacher's layers", SOFT, teachers=(TeacherSetting(11, width=8),), start="inherit"),
    taught("hard", "pulled back to what was known", SOFT, strength=40.0),
    taught("several", "classes in a cycle of three", SOFT, teachers=told_apart({"class_order": CYCLE})),
    taught(
        "several",
        "classes in a cycle, among more",
        SOFT,
        teachers=(TeacherSetting(11, classes=7, told={"class_order": (1, 4, 0, 6, 3)}),),
    ),
    taught("several", "two teachers by shares", SOFT, teachers=TWO),
    taught("several", "features of two teachers by shares", {"kind": "features"} | BODY, teachers=TWO),
    taught("several", "dist of two teachers by shares", {"kind": "dist"}, teachers=TWO),
    taught(
        "several",
        "by parts of joined data",
        SOFT,
        teachers=told_apart({"parts": (1,)}, {"parts": (0,)}),
        data=f"joined:{SCENES}|{DUSK}",
    ),
    taught(
        "several",
        "by classes",
        SOFT,
        teachers=told_apart({"class_shares": (0.4, 0.1, 0.5, 0.2, 0.76)}, {"class_shares": (0.55, 0.1, 0.1, 0.9, 0.2)}),
    ),
    taught("several", "by tiles", SOFT, teachers=told_apart({"energies": (-3.2, -2.2)}, {"energies": (-1.7, -0.7)})),
    taught("several", "logits of eight bits, centred", SOFT, codec="int8", teachers=(TeacherSetting(11, shift=60.0),)),
    taught("several", "features of eight bits", {"kind": "features", "weight": 2.0} | BODY, codec="int8"),
)
