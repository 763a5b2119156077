"""What the agent knows, and how it learns: a linear map from a pixel's color to the logits of its classes, in NumPy."""

import hashlib
import json
from pathlib import Path

import numpy as np
from wire import Refusal, write_tensors

IMAGENET = {"mean": [0.485, 0.456, 0.406], "deviation": [0.229, 0.224, 0.225]}  # holds where an architecture names no other
IGNORED = 255
FIELDS = {"kind", "architecture", "data", "recipe", "seed", "view_seed", "initial_weights", "pretrained", "prune_below"}
FIELDS |= {"max_deploy_parameters", "max_num_macs", "consolidation", "teachers", "distillation"}
OF_RECIPE = {
    "epochs",
    "batch_size",
    "steps_per_epoch",
    "optimizer",
    "learning_rate",
    "momentum",
    "weight_decay",
    "schedule",
    "power",
}
OF_RECIPE |= {"warmup_steps", "clip_norm", "precision", "loss", "validate_every", "keep", "views"}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


SOURCE = {"pixels.py": (Path(__file__).parent / "pixels.py").read_text(encoding="utf-8")}
CODE = sha256(canonical({"format": "agentkd-code", "version": 1, "files": SOURCE}).encode())  # known by its digest, and never run


class Network:
    """Its tensors are named as those of the network that pixels.py builds."""

    def __init__(self, architecture: dict, weight: np.ndarray, bias: np.ndarray, names: list) -> None:
        self.architecture, self.weight, self.bias = architecture, weight.astype("<f4"), bias.astype("<f4")
        self.names = names  # of the classes, in the order of the logits; empty if they are not known
        normalization = architecture.get("normalization") or IMAGENET
        self.mean, self.deviation = (np.reshape(normalization[name], (3, 1, 1)) for name in ("mean", "deviation"))

    def inputs(self, images: np.ndarray) -> np.ndarray:
        return ((images - self.mean) / self.deviation).astype("<f4")

    def logits(self, images: np.ndarray) -> np.ndarray:
        return np.einsum("kc,nchw->nkhw", self.weight, self.inputs(images)) + self.bias[:, None, None]

    def copy(self) -> "Network":
        return Network(self.architecture, self.weight.copy(), self.bias.copy(), self.names)

    def file(self) -> bytes:
        about = {"kind": "weights", "architecture": self.architecture} | ({"classes": self.names} if self.names else {})
        return write_tensors({"network.weight": self.weight[:, :, None, None], "network.bias": self.bias}, canonical(about))

    def step(self, images: np.ndarray, gradient: np.ndarray, rate: float) -> None:
        self.weight -= np.float32(rate) * np.einsum("nkhw,nchw->kc", gradient, self.inputs(images)).astype("<f4")
        self.bias -= np.float32(rate) * gradient.sum(axis=(0, 2, 3)).astype("<f4")


def brightness(num_classes: int, names: list) -> Network:
    """Class k is the likelier the nearer a pixel's brightness is to (k + 0.5) / K."""
    levels = (np.arange(num_classes) + 0.5) / num_classes
    weight = np.repeat(16 * levels[:, None] / 3, 3, axis=1)
    architecture = {"family": "pixels:linear", "num_classes": num_classes, "settings": {}, "code": CODE}
    return Network(architecture, weight * IMAGENET["deviation"], weight @ IMAGENET["mean"] - 8 * levels**2, names)


def read_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images [N,3,H,W] in [0, 1] and labels [N,H,W] of a folder of binary PPM and PGM files, all of one size."""
    images = [read_netpbm(path, 3) for path in sorted(folder.glob(f"images/{split}/*.ppm"))]
    labels = [read_netpbm(path, 1) for path in sorted(folder.glob(f"masks/{split}/*.pgm"))]
    if not images or len(images) != len(labels):
        raise Refusal("dataset", f"{folder} has {len(images)} images and {len(labels)} masks of a split {split}")
    return np.stack(images).transpose(0, 3, 1, 2).astype("<f4") / 255, np.stack(labels)[..., 0]


def read_names(folder: Path) -> list:
    """What the classes of a folder are called: the list after `classes:` in its dataset.yaml, on one line."""
    path = folder / "dataset.yaml"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = next((line.partition(":")[2].strip() for line in lines if line.startswith("classes:")), "")
    return [name.strip().strip("'\"") for name in found[1:-1].split(",")] if found[:1] == "[" and found[-1:] == "]" else []


def read_netpbm(path: Path, channels: int) -> np.ndarray:
    data = path.read_bytes()
    width, height = map(int, data.split(maxsplit=3)[1:3])
    return np.frombuffer(data[-width * height * channels :], np.uint8).reshape(height, width, channels)


def miou(network: Network, images: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that there are in labels or predictions, from one confusion matrix over all images."""
    classes, valid = network.architecture["num_classes"], labels != IGNORED
    pairs = classes * labels[valid].astype(int) + network.logits(images).argmax(axis=1)[valid]
    matrix = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    unions = matrix.sum(axis=0) + matrix.sum(axis=1) - matrix.diagonal()
    return float((matrix.diagonal()[unions > 0] / unions[unions > 0]).mean())


def must_be_known(task: dict) -> None:
    """Refuses what is not learned here."""
    network, lesson, recipe = task["architecture"], task.get("distillation"), task["recipe"]
    objective = lesson["objectives"][0] if lesson else {}
    teachers, strange = task.get("teachers", []), ""
    if task["kind"] not in ("train", "distill") or task["initial_weights"] or task.get("consolidation"):
        strange = "tasks of the kinds train and distill that start from nothing"
    elif (network["family"], network.get("code"), network["settings"]) != ("pixels:linear", CODE, {}):
        strange = "pixels:linear, by the digest of its code, and runs no code"
    elif lesson and (len(lesson["objectives"]), objective["kind"], objective.get("gate")) != (1, "soft_targets", "through"):
        strange = "soft targets as the one objective, without a gate"
    elif len(teachers) > 1 or any(teacher.get("class_order") for teacher in teachers) or objective.get("standardize"):
        strange = "one teacher of the same classes, by its logits as they are"
    elif recipe["precision"] != "float32" or "arithmetic" in (lesson or {}) or task.keys() - FIELDS or recipe.keys() - OF_RECIPE:
        strange = "float32, and no fields of later versions"
    elif recipe["loss"] not in ("family", "cross_entropy"):
        strange = "cross-entropy over all pixels"
    if strange:
        raise Refusal("config", f"this agent knows {strange}")


def gradient_of_loss(task: dict, logits: np.ndarray, labels: np.ndarray, taught: np.ndarray | None) -> tuple[np.ndarray, float]:
    """That of Eq. 1 by the logits: alpha times cross-entropy plus (1 - alpha) times the divergence from the teacher, a mean."""
    lesson = task.get("distillation") or {"alpha": 1.0, "hard_loss": "family"}
    valid, own, alpha = (labels != IGNORED)[:, None], softmax(logits), lesson["alpha"]
    hard = valid & (labels[:, None] == np.arange(logits.shape[1])[:, None, None])
    counted = valid | (lesson["hard_loss"] == "none")
    gradient, loss = alpha * (own - hard), -alpha * hard * np.log(own + 1e-9)
    if taught is not None:
        objective = lesson["objectives"][0]
        tau = objective["temperature"]
        weight = (1 - alpha) * objective["weight"] * (tau**2 if objective["scale_by_temperature_squared"] else 1)
        theirs, ours = softmax(resize(taught, logits.shape[2:]) / tau), softmax(logits / tau)
        gradient = gradient + weight / tau * (ours - theirs)
        loss = loss + weight * theirs * np.log((theirs + 1e-9) / (ours + 1e-9))
    number = max(1, int(counted.sum()))
    return gradient * counted / number, float((loss * counted).sum() / number)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def resize(logits: np.ndarray, size: tuple) -> np.ndarray:
    """Bilinear, corners not aligned."""
    for axis, wanted in ((2, size[0]), (3, size[1])):
        length = logits.shape[axis]
        at = np.clip((np.arange(wanted) + 0.5) * length / wanted - 0.5, 0, length - 1)
        share, low = (at % 1).reshape((-1, 1) if axis == 2 else -1), at.astype(int)
        logits = logits.take(low, axis) * (1 - share) + logits.take(np.minimum(low + 1, length - 1), axis) * share
    return logits
