"""A user's own objective sees what the documents say, and what it does wrong is laid at its door."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reference.scenarios import SCENES
from reference.tasks import put, small, source
from torch import Tensor

from agentkd.agents.lessons import DirectLesson
from agentkd.agents.work import Surroundings, execute
from agentkd.artifacts.run_folder import RunFolder
from agentkd.code.taking import take
from agentkd.errors import ConfigError, NonFiniteLossError
from agentkd.knowledge import codecs, objectives
from agentkd.knowledge.objectives import Moment
from agentkd.objectives import Own
from agentkd.recipe import Distillation, Recipe, ViewSettings
from agentkd.task import Distill, TaskResult, TeacherReference

CPU = torch.device("cpu")
MakeOwn = Callable[..., Own]


@pytest.fixture
def make_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeOwn:
    """An own objective whose method has this body."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(body: str, **fields: Any) -> Own:
        lines = "\n".join(f"        {line}" for line in body.splitlines())
        text = f"import torch\n\n\nclass Mine:\n    def loss(self, student, teacher, moment):\n{lines}\n"
        (tmp_path / "mine.py").write_text(text)
        return Own(path="mine:Mine", code=take("mine:Mine"), **fields)

    return make


def moment() -> Moment:
    return Moment(torch.zeros(2, 8, 8, dtype=torch.long), 255, progress=0.25)


def outputs(dtype: torch.dtype, *, seed: int = 1) -> dict[str, Tensor]:
    return {"logits": torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(seed)).to(dtype)}


@pytest.mark.parametrize("codec", ["float32", "float16", "bfloat16", "int8", "top2"])
def test_it_sees_float32_whatever_codec_a_payload_came_by_and_whatever_the_training_computes_in(
    make_own: MakeOwn, codec: str
) -> None:
    own = make_own(
        "assert student['logits'].dtype == teacher['logits'].dtype == torch.float32\n"
        "assert student['tap.body'].dtype == teacher['features.body'].dtype == torch.float32\n"
        "return (student['logits'] - teacher['logits']).square().mean()"
    )
    told = codecs.read("logits", codecs.write("logits", outputs(torch.float32)["logits"], codec), 5)
    assert told is not None
    student = outputs(torch.bfloat16, seed=2) | {"tap.body": torch.ones(2, 3, 4, 4, dtype=torch.float16)}
    teacher = {"logits": told, "features.body": torch.ones(2, 3, 4, 4, dtype=torch.bfloat16)}
    value = objectives.loss(own, student, [teacher], moment())
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(float((student["logits"].float() - told.float()).square().mean()), rel=1e-6)


def test_its_gradient_reaches_a_student_that_computes_in_half_precision(make_own: MakeOwn) -> None:
    own = make_own("return (student['logits'] - teacher['logits']).square().mean()")
    student = {"logits": outputs(torch.bfloat16)["logits"].requires_grad_()}
    (gradient,) = torch.autograd.grad(
        objectives.loss(own, student, [outputs(torch.float16, seed=2)], moment()), student["logits"]
    )
    assert gradient.dtype == torch.bfloat16 and gradient.abs().sum() > 0


def test_what_it_changes_of_its_arguments_is_nobody_elses(make_own: MakeOwn) -> None:
    own = make_own("value = student.pop('logits').mean() - teacher.pop('logits').mean()\nreturn value.abs()")
    student, teacher = outputs(torch.float32), outputs(torch.float32, seed=2)
    first = objectives.loss(own, student, [teacher, teacher], moment())
    assert torch.equal(first, objectives.loss(own, student, [teacher, teacher], moment()))


def test_logits_of_whole_images_are_maps_of_one_pixel(make_own: MakeOwn) -> None:
    own = make_own("assert student['logits'].shape == teacher['logits'].shape == (2, 5, 1, 1)\nreturn student['logits'].mean()")
    flat = {"logits": torch.ones(2, 5)}
    assert objectives.loss(own, flat, [flat], Moment(torch.zeros(2, dtype=torch.long), 255)) == 1


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        ("5.0", "float"),
        ("None", "NoneType"),
        ("student['logits']", r"torch.float32 \(2, 5, 4, 4\)"),
        ("torch.tensor([1.0])", r"torch.float32 \(1,\)"),
        ("torch.tensor(1)", r"torch.int64 \(\)"),
    ],
)
def test_what_is_no_loss_is_refused_with_its_name(make_own: MakeOwn, returned: str, found: str) -> None:
    own = make_own(f"return {returned}")
    with pytest.raises(ConfigError, match=rf"objective mine:Mine returned {found}; expected a floating-point tensor"):
        objectives.loss(own, outputs(torch.float32), [outputs(torch.float32)], moment())


@pytest.mark.parametrize(
    "returned",
    [
        "student['logits'].detach().mean()",
        "torch.tensor(student['logits'].abs().mean().item())",
        "moment.labels.float().sum() + 1",
    ],
)
def test_a_value_that_cannot_teach_is_refused_and_nothing_may_be_said(make_own: MakeOwn, returned: str) -> None:
    student = {"logits": outputs(torch.float32)["logits"].requires_grad_()}
    with pytest.raises(ConfigError, match=r"objective mine:Mine returned .* without a gradient, so it would teach nothing"):
        objectives.loss(make_own(f"return {returned}"), student, [outputs(torch.float32)], moment())
    assert objectives.loss(make_own("return torch.zeros(())"), student, [outputs(torch.float32)], moment()) == 0
    assert objectives.loss(make_own(f"return {returned}"), outputs(torch.float32), [student], moment()) is not None, (
        "nobody learns"
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("student['logits'].clamp_(max=0)", r"student\['logits'\]"),
        ("student['tap.body'][:] = 0", r"student\['tap.body'\]"),
        ("teacher['logits'] /= 2", r"teacher\['logits'\]"),
        ("moment.labels.fill_(1)", r"moment\.labels"),
        ("student['logits'].data.zero_()", r"student\['logits'\]"),
        ("teacher['logits'].data.mul_(2)", r"teacher\['logits'\]"),
        ("student['tap.body'].detach().numpy()[0, 0, 0, 0] = 7", r"student\['tap.body'\]"),
        ("student['logits'].data = student['logits'].data[:1]", r"student\['logits'\]"),
        ("moment.labels.data[0, 0, 0] = 3", r"moment\.labels"),
    ],
)
@pytest.mark.parametrize("progress", [0.0, 0.25])
def test_what_it_is_lent_must_stay_as_it_is(make_own: MakeOwn, change: str, named: str, progress: float) -> None:
    own = make_own(f"{change}\nreturn student['logits'].mean() * 0")
    student = outputs(torch.float32) | {"tap.body": torch.ones(2, 3, 4, 4)}
    labels = torch.zeros(2, 8, 8, dtype=torch.long)
    with pytest.raises(ConfigError, match=rf"objective mine:Mine changed {named} in place"):
        objectives.loss(own, student, [outputs(torch.float32, seed=2)], Moment(labels, 255, progress=progress))


def test_at_the_first_step_it_is_also_seen_when_only_the_order_was_changed(make_own: MakeOwn) -> None:
    own = make_own("student['logits'].data.copy_(student['logits'].data.flip(-1))\nreturn student['logits'].mean() * 0")
    with pytest.raises(ConfigError, match=r"changed student\['logits'\] in place"):
        objectives.loss(own, outputs(torch.float32), [outputs(torch.float32)], Moment(torch.zeros(2, 8, 8), 255))


def test_what_is_no_number_counts_as_unchanged_and_any_type_may_be_lent(make_own: MakeOwn) -> None:
    own = make_own("return student['logits'].nanmean()")
    student = outputs(torch.float32) | {"tap.flags": torch.ones(2, 3, dtype=torch.bool), "tap.one": torch.tensor(1.0)}
    student["logits"][0, 0, 0, 0] = float("nan")
    for labels in (torch.zeros(2, 8, 8, dtype=torch.long), torch.zeros(2, 8, 8).to(torch.uint8)):
        objectives.loss(own, student, [outputs(torch.float64).copy()], Moment(labels, 255))


def taught(own: Own, folder: Path, *, hard_loss: str = "none", alpha: float = 0.0, **recipe: Any) -> TaskResult:
    store = RunFolder(folder).store
    settings = {"epochs": 1, "steps_per_epoch": 2, "batch_size": 2, "views": ViewSettings(crop_height=32, crop_width=32)}
    task = Distill(
        architecture=small(),
        data=source(SCENES),
        recipe=Recipe(**settings | recipe),
        seed=1,
        view_seed=1,
        distillation=Distillation(objectives=(own,), hard_loss=hard_loss, alpha=alpha),
        teachers=(TeacherReference(architecture=small(), weights=put(store, small(), 3)),),
    )
    lesson: Any = lambda task, feed, steps: DirectLesson(task, feed, store=store, device=CPU)  # noqa: E731
    return execute(task, Surroundings(store, CPU, lesson=lesson))


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_value_at_the_first_step_that_is_no_number_is_laid_at_its_door(make_own: MakeOwn, tmp_path: Path, value: str) -> None:
    own = make_own(f"return student['logits'].mean() * float('{value}')", weight=1.0)
    words = rf"not finite at step 0 \(0\.mine:Mine=-?{value}\), and the network's outputs are: see whether 0\.mine:Mine divides"
    with pytest.raises(NonFiniteLossError, match=words):
        taught(own, tmp_path / "run")


def test_a_gradient_at_the_first_step_that_is_no_number_is_laid_at_its_door(make_own: MakeOwn, tmp_path: Path) -> None:
    """The root of nothing is nothing, and its slope is infinite."""
    own = make_own("return (student['logits'] * 0).sum().sqrt()")
    with pytest.raises(NonFiniteLossError, match=r"the gradient is not finite at step 0, and the loss is \(0\.mine:Mine=0\)"):
        taught(own, tmp_path / "run")


def test_of_several_terms_the_one_whose_gradient_is_no_number_is_named(make_own: MakeOwn, tmp_path: Path) -> None:
    own = make_own("return (student['logits'] * 0).sum().sqrt()")
    with pytest.raises(NonFiniteLossError, match=r"\(cross_entropy=.*, 0\.mine:Mine=0\): see whether 0\.mine:Mine divides"):
        taught(own, tmp_path / "run", hard_loss="cross_entropy", alpha=0.5)


def test_weights_that_grow_too_large_are_not(make_own: MakeOwn, tmp_path: Path) -> None:
    own = make_own("return 1e30 * (student['logits'] - teacher['logits']).abs().mean()")
    with pytest.raises(NonFiniteLossError, match=r"at step 1 .*lower the learning rate"):
        taught(own, tmp_path / "run", learning_rate=10.0)
