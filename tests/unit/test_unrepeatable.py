"""An operation without a repeatable form is told as that, with what to write instead; or is allowed, and the record says so."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from experiments import SPEC
from operators import RAISING, demanded
from torch.nn import functional as F

from agentkd import repeatable
from agentkd.agents.teaching import Teacher
from agentkd.agents.work import Surroundings, execute
from agentkd.artifacts.store import Store
from agentkd.datasets.opening import open_dataset
from agentkd.errors import ConfigError, NotRepeatableError
from agentkd.knowledge.weights import encode_weights
from agentkd.messages.bodies import ErrorReply, KnowledgeKind, KnowledgeRequest
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.recipe import Arithmetic, Recipe, ViewSettings
from agentkd.replay.verdicts import Outcome, judge
from agentkd.task import DataSource, Evaluate, Status, TaskResult, Train
from agentkd.unrepeatable import ANOTHER, Repeatably, instead_of, operation_in

CPU = torch.device("cpu")
SOURCE = DataSource(spec=SPEC, content_digest=open_dataset(SPEC).digest)
VIEWS = ViewSettings(crop_height=32, crop_width=32)
RECIPE = Recipe(epochs=1, batch_size=2, steps_per_epoch=2, views=VIEWS)
SAID = "{} does not have a deterministic implementation, but you set 'torch.use_deterministic_algorithms(True)'. You can turn off"


def unpooled() -> torch.Tensor:
    """One of the operations that raise on a CPU too."""
    return F.max_unpool2d(*F.max_pool2d(torch.ones(1, 1, 4, 4), 2, return_indices=True), 2)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A user's own that uses it."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    return resolve("unrepeatable_networks:unpooling", 5)


def test_it_is_told_by_its_name_with_what_to_write_and_how_to_allow_it() -> None:
    with demanded(), pytest.raises(NotRepeatableError) as told, Repeatably():
        unpooled()
    assert told.value.operation == "max_unpooling2d_forward_out"
    for part in ("max_unpooling2d_forward_out has no repeatable form on CUDA", "transposed convolution", "repeatable: false"):
        assert part in str(told.value)
    assert ErrorReply.of(told.value).code == "not_repeatable"


def test_it_is_found_in_what_an_error_came_of_and_other_errors_are_left_alone() -> None:
    try:
        try:
            raise RuntimeError(SAID.format("upsample_bilinear2d_backward_out_cuda"))
        except RuntimeError as cause:
            raise ConfigError("an own objective failed") from cause
    except ConfigError as error:
        assert operation_in(error) == "upsample_bilinear2d_backward_out_cuda"
    assert operation_in(ValueError(SAID.format("put_"))) == "" == operation_in(None)
    with pytest.raises(RuntimeError, match=r"^shape$"), Repeatably():
        raise RuntimeError("shape")


@pytest.mark.parametrize("operator", RAISING)
def test_there_is_something_to_write_instead_of_each_operation_of_the_list(operator: str) -> None:
    bare = operator.removeprefix("mkldnn_").removeprefix("_").partition(".")[0]
    if bare in ("ctc_loss_backward", "resize_"):
        return
    assert instead_of(bare) != ANOTHER
    for name in re.findall(r"agentkd\.repeatable\.(\w+)", instead_of(bare)):
        assert callable(getattr(repeatable, name))


def test_where_it_is_allowed_it_is_used_and_noted_and_all_is_as_before_afterwards() -> None:
    show = warnings.showwarning
    with demanded():
        with Repeatably(is_allowed=True) as held, warnings.catch_warnings(record=False):
            unpooled()
            unpooled()
            assert repeatable.is_demanded(), "gradients of our own stay repeatable"
        assert held.told == {"unrepeatable": "max_unpooling2d_forward_out"}
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        with pytest.raises(RuntimeError):
            unpooled()
    assert warnings.showwarning is show
    with Repeatably(is_allowed=True) as held:
        unpooled()
    assert held.told == {}, "nothing is demanded on a CPU"


def test_other_warnings_are_shown_as_they_were() -> None:
    with demanded(), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with Repeatably(is_allowed=True):
            warnings.warn("something else", stacklevel=1)
    assert [str(one.message) for one in seen] == ["something else"]


def test_a_record_says_whether_it_was_allowed() -> None:
    device = torch.device("cuda:0")
    with demanded():
        torch.backends.cudnn.deterministic = True
        try:
            assert repeatable.surroundings(device)["deterministic"] == "True"
            with Repeatably(is_allowed=True):
                assert repeatable.surroundings(device)["deterministic"] == "False"
        finally:
            torch.backends.cudnn.deterministic = False


def test_a_training_of_an_own_network_fails_with_it_or_is_recorded_with_it(network: Any, tmp_path: Path) -> None:
    at = Surroundings(Store(tmp_path / "store"), CPU)
    task = Train(architecture=network, data=SOURCE, recipe=RECIPE)
    allowed = task.replace(recipe=RECIPE.replace(repeatable=False))
    assert task.key != allowed.key and "repeatable" not in task.recipe.canonical()
    with demanded():
        with pytest.raises(NotRepeatableError):
            execute(task, at)
        result = execute(allowed, at)
    assert result.status is Status.COMPLETED and result.environment["unrepeatable"] == "max_unpooling2d_forward_out"
    look = Evaluate(architecture=network, data=SOURCE, initial_weights=result.weights)
    with demanded():
        with pytest.raises(NotRepeatableError):
            execute(look, at)
        assert execute(look.replace(arithmetic=Arithmetic(repeatable=False)), at).environment["unrepeatable"]


def test_so_does_a_teacher(network: Any) -> None:
    stored = encode_weights(network, dict(build(network, seed=1).state_dict()))
    teacher = Teacher(network, "ab" * 32, SOURCE, stored=stored, device=CPU)
    fields = {
        "weights": "ab" * 32,
        "num_classes": 5,
        "dataset": SOURCE.content_digest,
        "views": ((0, 1),),
        "view_settings": VIEWS,
    }
    request = KnowledgeRequest(kind=KnowledgeKind.SOFT_TARGETS, **fields)
    with demanded():
        with pytest.raises(NotRepeatableError):
            teacher.answer(request)
        assert teacher.answer(request.model_copy(update={"arithmetic": Arithmetic(repeatable=False)})).parcel.size_bytes


def test_a_replay_of_what_was_allowed_need_not_have_the_same_bits_and_says_why() -> None:
    then = TaskResult(status=Status.COMPLETED, weights="a" * 64, miou=0.5, environment={"unrepeatable": "put_"})
    near, far = (then.replace(weights="b" * 64, miou=miou) for miou in (0.505, 0.9))
    verdict = judge("1" * 64, "a training", then, near, tolerance=0.02)
    assert verdict.outcome is Outcome.TOLERATED and "put_" in verdict.reason
    assert judge("1" * 64, "a training", then, far, tolerance=0.02).outcome is Outcome.DIVERGED
    plain = then.replace(environment={})
    assert judge("1" * 64, "a training", plain, plain.replace(weights="b" * 64), tolerance=0.02).outcome is Outcome.DIVERGED
