"""What every objective keeps to: built-in or a user's own."""

from collections.abc import Mapping

import torch
from torch import Tensor

from agentkd.code.taking import take
from agentkd.knowledge import codecs, objectives, payloads, tensors
from agentkd.knowledge.objectives import Moment
from agentkd.objectives import LOGITS, Objective, Own, student_taps
from agentkd.objectives import payloads as payloads_of
from agentkd.testing.claims import claim, working
from agentkd.training.taps import TAP

IGNORED, CLASSES, CHANNELS, SIDE = 255, 3, 4, 4
STEP, DIRECTIONS = 1e-3, 8
Outputs = Mapping[str, Tensor]


def check_objective(objective: Objective, *, is_zero_at_equality: bool = True, is_mean: bool = True) -> None:
    """Checks that an objective can be trained with: ``check_objective(Own(path="my_module:Absolute"))``.

    It is made, and called with outputs of two images of three classes: its value is a scalar and finite; it neither remembers
    earlier calls nor changes what it is given; its gradient reaches the student, and is that of finite differences; it is least
    where the student says what the teacher says; pixels that are ignored do not count, and where all are ignored it is zero;
    duplicated images change nothing; logits of another size than the student's are understood; half precision stays finite; and
    what has travelled gives the bits of what has not.

    Args:
        objective: as it stands in a recipe, with weights or without.
        is_zero_at_equality: whether it is zero where both say the same. A cross-entropy, which is not, is still least there.
        is_mean: whether it is a mean over images. One that compares images with each other need not be.

    Raises:
        AssertionError: what is broken.
    """
    if isinstance(objective, Own):
        with working(f"{objective.path} must be found"):
            objective = objective.replace(code=objective.code or take(objective.path))
        with working(f"{objective.path} must be made with its settings"):
            objectives.load_own(objective)
    contract = _Contract(objective)
    contract.check_value()
    contract.check_it_is_a_function()
    contract.check_gradient()
    contract.check_equality(is_zero_at_equality)
    contract.check_ignored_pixels()
    if is_mean:
        contract.check_duplicated_images()
    contract.check_other_sizes()
    contract.check_half_precision()
    contract.check_travelled_payloads()


class _Contract:
    """The claims, each of which can be broken alone."""

    def __init__(self, objective: Objective) -> None:
        self.objective, self.taps = objective, student_taps(objective)
        self.name = objective.path if isinstance(objective, Own) else type(objective).__name__
        self.student, self.teacher, self.labels = _outputs(1), _outputs(2), _labels()

    def check_value(self) -> None:
        with working(f"{self.name}: the loss of ordinary outputs must be a scalar, and leave what it is lent"):
            value = self.value(self.student, self.teacher)
        claim(torch.isfinite(value), f"{self.name}: the loss of ordinary outputs must be finite; it is {float(value)}")

    def check_it_is_a_function(self) -> None:
        student, teacher, labels = _outputs(1), _outputs(2), _labels()
        first = self.value(student, teacher, labels)
        given = (*_outputs(1).values(), *_outputs(2).values(), _labels())
        same = all(torch.equal(a, b) for a, b in zip((*student.values(), *teacher.values(), labels), given, strict=True))
        claim(same, f"{self.name}: outputs and labels must stay as they are given")
        second = self.value(student, teacher, labels)
        claim(
            torch.equal(first, second),
            f"{self.name}: called twice with the same it must give the same; it gives {float(first):g}, then {float(second):g}",
        )

    def check_gradient(self) -> None:
        student = {name: tensor.clone().requires_grad_() for name, tensor in self.student.items()}
        with working(f"{self.name}: the loss must depend on the student's outputs"):
            value = self.value(student, self.teacher)
        claim(value.requires_grad, f"{self.name}: the loss must depend on the student's outputs, without detach() or numbers")
        with working(f"{self.name}: the loss must have a gradient"):
            found = torch.autograd.grad(value, list(student.values()), allow_unused=True)
        gradients = [torch.zeros_like(x) if g is None else g for x, g in zip(student.values(), found, strict=True)]
        claim(all(torch.isfinite(g).all() for g in gradients), f"{self.name}: the gradient must be finite")
        claim(any(g.abs().sum() > 0 for g in gradients), f"{self.name}: the gradient is zero where student and teacher differ")
        scale = sum(float(g.pow(2).sum()) for g in gradients) ** 0.5
        noise = 10 * torch.finfo(value.dtype).eps * max(1.0, abs(float(value.detach()))) / STEP
        generator = torch.Generator().manual_seed(3)
        for _ in range(DIRECTIONS):
            way = {n: torch.randn(x.shape, generator=generator, dtype=x.dtype) for n, x in self.student.items()}
            ahead, behind = (
                float(self.value({n: x + sign * STEP * way[n] for n, x in self.student.items()}, self.teacher))
                for sign in (1, -1)
            )
            numeric = (ahead - behind) / (2 * STEP)
            own = sum(float((g * w).sum()) for g, w in zip(gradients, way.values(), strict=True))
            claim(
                abs(numeric - own) <= 1e-2 * scale + noise,
                f"{self.name}: the gradient must be that of finite differences; where they are {numeric:g} it is {own:g}",
            )

    def check_equality(self, is_zero: bool) -> None:
        found = self.value(self.student, self.student)
        equal, is_exact = float(found), found.dtype == torch.float64
        claim(
            not is_zero or abs(equal) < (1e-7 if is_exact else 1e-5),
            f"{self.name}: the loss must be zero where both say the same; it is {equal:g} "
            "(if it is not meant to be: is_zero_at_equality=False)",
        )
        for seed in (2, 3, 4):
            other = float(self.value(_outputs(seed), self.student))
            claim(
                other > equal,
                f"{self.name}: the loss must be least where both say the same; there it is {equal:g}, elsewhere {other:g}",
            )

    def check_ignored_pixels(self) -> None:
        labels = self.labels.clone()
        labels[..., SIDE // 2 :] = IGNORED
        before = self.value(self.student, self.teacher, labels)
        noise = _outputs(5)
        student, teacher = (
            {n: torch.cat([x[..., : SIDE // 2], 7 * noise[n][..., SIDE // 2 :]], dim=-1) for n, x in outputs.items()}
            for outputs in (self.student, self.teacher)
        )
        after = self.value(student, teacher, labels)
        claim(
            torch.allclose(before, after, rtol=1e-5 if before.dtype == torch.float64 else 1e-4),
            f"{self.name}: pixels whose label is ignored must not count; other outputs there change it from {float(before):g} to "
            f"{float(after):g} (moment.valid(size) says which count)",
        )
        student = {n: x.clone().requires_grad_() for n, x in self.student.items()}
        nothing = self.value(student, self.teacher, torch.full_like(labels, IGNORED))
        claim(
            float(nothing.detach()) == 0,
            f"{self.name}: where every pixel is ignored the loss must be zero; it is {float(nothing.detach()):g} "
            "(a mean over no pixel is not a number: divide a sum by count.clamp(min=1))",
        )
        if nothing.requires_grad:
            found = torch.autograd.grad(nothing, list(student.values()), allow_unused=True)
            are_finite = all(g is None or torch.isfinite(g).all() for g in found)
            claim(are_finite, f"{self.name}: where every pixel is ignored the gradient must be finite")

    def check_duplicated_images(self) -> None:
        once = self.value(self.student, self.teacher)
        student, teacher = ({n: torch.cat([x, x]) for n, x in outputs.items()} for outputs in (self.student, self.teacher))
        found = self.value(student, teacher, torch.cat([self.labels, self.labels]))
        claim(
            torch.allclose(once, found, rtol=1e-5),
            f"{self.name}: the loss must be a mean over images; with each image twice it is {float(found):g} instead of "
            f"{float(once):g} (if it is not meant to be: is_mean=False)",
        )

    def check_other_sizes(self) -> None:
        labels = self.labels.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
        for name, size in (("smaller", SIDE // 2), ("larger", SIDE * 2)):
            teacher = self.teacher | {"logits": _outputs(2, size)["logits"]}
            with working(f"{self.name}: it must take logits of a teacher that are {name} than the student's (there is resize)"):
                value = self.value(self.student, teacher, labels)
            claim(
                value.dim() == 0 and torch.isfinite(value),
                f"{self.name}: with logits of a teacher that are {name} than the student's the loss must be a finite number",
            )

    def check_half_precision(self) -> None:
        student = {n: (3e4 * x.sign()).half().requires_grad_() for n, x in self.student.items()}
        teacher = {n: (1e6 * x.sign()).float() for n, x in self.teacher.items()}
        with working(f"{self.name}: it must take a student's outputs in half precision"):
            value = self.value(student, teacher, travels_as="float16")
            gradients = torch.autograd.grad(value, list(student.values()), allow_unused=True)
        claim(
            torch.isfinite(value) and value.dtype == torch.float32,
            f"{self.name}: with extreme outputs in half precision the loss must be a finite float32; it is "
            f"{float(value.detach()):g} of {value.dtype} (convert with .float() first)",
        )
        claim(all(g is None or not g.isnan().any() for g in gradients), f"{self.name}: with them the gradient must be numbers")

    def check_travelled_payloads(self) -> None:
        student, teacher = ({n: x.float() for n, x in outputs.items()} for outputs in (self.student, self.teacher))
        here, there = self.value(student, teacher), self.value(student, teacher, travels_as="float32")
        claim(torch.equal(here, there), f"{self.name}: payloads that have travelled must give the same bits")

    def value(self, student: Outputs, teacher: Outputs, labels: Tensor | None = None, travels_as: str = "") -> Tensor:
        """The loss of a student that is taught by one teacher. Every tap is given the same features."""
        outputs = {"logits": student["logits"]} | {TAP + tap: student["features"] for tap in self.taps}
        told: dict[str, Tensor] = {}
        for payload in payloads_of(self.objective):
            reduced = payloads.reduction(payload, teacher["features" if payload.tap else "logits"])
            told |= codecs.write(payload.name, reduced, travels_as) if travels_as else {payload.name: reduced}
        if travels_as:
            found = tensors.decode(tensors.encode(told))
            read = {p.name: codecs.read(p.name, found, CLASSES) for p in payloads_of(self.objective)}
            told = {name: tensor for name, tensor in read.items() if tensor is not None}
        moment = Moment(self.labels if labels is None else labels, IGNORED)
        return objectives.loss(self.objective, outputs, [told], moment)


def _labels() -> Tensor:
    return torch.randint(0, CLASSES, (2, SIDE, SIDE), generator=torch.Generator().manual_seed(9))


def _outputs(seed: int, side: int = SIDE) -> dict[str, Tensor]:
    """Two images' logits and features, in float64 so that differences are exact enough."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {LOGITS.name: (2, CLASSES, side, side), "features": (2, CHANNELS, side, side)}
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
