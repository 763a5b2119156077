"""An operation without a repeatable form is told as that, with what to write instead; or is allowed, and the record says so."""

import re
import warnings
from collections.abc import Callable, Iterator
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


@pytest.mark.parametrize("name", ["lifting", "lifting_for_a_moment", "lifting_and_catching", "only_warned"])
def test_own_code_that_lifts_the_demand_is_told_so_or_recorded_with_it(network: Any, name: str, tmp_path: Path) -> None:
    at = Surroundings(Store(tmp_path / "store"), CPU)
    task = Train(architecture=resolve(f"unrepeatable_networks:{name}", 5), data=SOURCE, recipe=RECIPE)
    with demanded():
        stood = repeatable.settings()
        with pytest.raises(NotRepeatableError, match=r"torch.use_deterministic_algorithms.* is own code's change"):
            execute(task, at)
        assert repeatable.settings() == stood
        result = execute(task.replace(recipe=RECIPE.replace(repeatable=False)), at)
        assert repeatable.settings() == stood
        with pytest.raises(NotRepeatableError, match="has no repeatable form"):  # whoever comes next is not let through
            execute(task.replace(architecture=network), at)
    assert "torch.use_deterministic_algorithms" in result.environment["unrepeatable"]


@pytest.mark.parametrize("name", [name for name in repeatable.SETTINGS if name != repeatable.DEMAND])
@pytest.mark.usefixtures("settings_as_they_were")
def test_so_is_own_code_that_changes_another_setting_of_them(name: str) -> None:
    setting = repeatable.SETTINGS[name]
    other: Any = {True: False, False: True, "tf32": "ieee", ":4096:8": ":16:8"}.get(setting.value, "tf32")
    repeatable.prepare(torch.device("cuda:0"))
    stood = repeatable.settings()
    with pytest.raises(NotRepeatableError, match=re.escape(name)), Repeatably():
        setting.set(other if other != setting.value else not other)
    assert repeatable.settings() == stood
    with Repeatably(is_allowed=True) as held:
        setting.set(other if other != setting.value else not other)
    assert name in held.told["unrepeatable"] and repeatable.settings() == stood


@pytest.mark.usefixtures("settings_as_they_were")
def test_what_was_changed_between_tasks_is_set_again_before_the_next() -> None:
    """As by a module of a user's own that is imported."""
    repeatable.prepare(torch.device("cuda:0"))
    stood = repeatable.settings()
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = True
    with Repeatably() as held:
        assert repeatable.settings() == stood
    assert not held.noted
    with pytest.raises(ConfigError, match=r"^its own$"), Repeatably():  # what else goes wrong is told as it is
        torch.backends.cudnn.benchmark = True
        raise ConfigError("its own")
    assert repeatable.settings() == stood


def test_on_a_cpu_such_a_change_is_put_back_and_is_no_error() -> None:
    before = repeatable.settings()
    with Repeatably():
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = True
    assert repeatable.settings() == before


@pytest.fixture
def settings_as_they_were(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    begun, kept = repeatable.settings(), repeatable.keep()
    yield
    repeatable.keep_to(kept)
    repeatable.set_again(begun)


@pytest.mark.parametrize("name", ["quiet", "quiet_by_recording", "quiet_by_message"])
@pytest.mark.usefixtures("network")
def test_own_code_that_ignores_warnings_is_recorded_too(name: str, tmp_path: Path) -> None:
    at = Surroundings(Store(tmp_path / "store"), CPU)
    recipe = RECIPE.replace(repeatable=False)
    shown, filters = warnings.showwarning, warnings.filters
    with demanded():
        result = execute(Train(architecture=resolve(f"unrepeatable_networks:{name}", 5), data=SOURCE, recipe=recipe), at)
    assert result.environment["unrepeatable"] == "max_unpooling2d_forward_out"
    assert warnings.showwarning is shown and warnings.filters is filters


@pytest.mark.parametrize(
    "hush",
    [
        lambda: warnings.filters.clear(),
        lambda: warnings.filters.__delitem__(0),
        lambda: warnings.filters.pop(0),
        lambda: setattr(warnings, "filters", []),
    ],
)
def test_whatever_is_done_to_the_filters_of_warnings_it_is_noted(hush: Callable[[], object]) -> None:
    with demanded(), Repeatably(is_allowed=True) as held:
        hush()
        warnings.simplefilter("ignore")
        unpooled()
    assert held.told


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
