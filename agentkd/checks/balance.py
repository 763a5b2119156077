"""Do weights of classes, the sampler and the loss of a recipe go with the classes that the training split has?"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache

from agentkd.architecture import Setting
from agentkd.checks.concerns import Concern, warning
from agentkd.checks.plan import RunPlan
from agentkd.datasets.balance import problem_of_weights
from agentkd.datasets.opening import Opened
from agentkd.datasets.samples import MAX_COMPARED
from agentkd.datasets.splits import TRAIN, some
from agentkd.errors import ConfigError, DatasetError
from agentkd.networks import families
from agentkd.recipe import Recipe
from agentkd.search.space import Choices

MINES_ALREADY = "bisenet"
# Of each class 1 if the training split has pixels of it, else 0; ``None`` if that is not known.
Present = Callable[[], list[int] | None]


def check_balance(plan: RunPlan) -> list[Concern]:
    """Of every recipe, and of what the search may put into one."""
    if plan.dataset is None:
        return []
    classes, present = plan.dataset.classes, classes_in(plan.dataset, plan.split(TRAIN))
    found = []
    for exercise in plan.exercises:
        recipe, where = exercise.recipe, {name: exercise.where(name) for name in ("class_weights", "sampler", "loss")}
        found += fit_balance(recipe, classes, present, where)
        found += _mined_already(exercise.family, recipe.loss, where["loss"])
    for family in plan.families:
        for path, values in _searched(plan, family, "loss"):
            found += [concern for value in values for concern in _mined_already(family, value, path)]
        for name, usual in (("class_weights", "none"), ("sampler", "uniform")):
            for path, values in _searched(plan, family, name):
                tried = [value for value in values if isinstance(value, str) and value != usual]
                found += _unlabelled(present, f"{name} {some(tried)}", path) if tried else []
    return list(dict.fromkeys(found))


def fit_balance(recipe: Recipe, classes: Sequence[str], present: Present, where: Mapping[str, str]) -> list[Concern]:
    """Whether a recipe goes with the classes of a split.

    Args:
        recipe: of a training.
        classes: of the data.
        present: which of them there are.
        where: the places at which its ``class_weights`` and its ``sampler`` are said.
    """
    weights, found = recipe.class_weights, []
    if recipe.sampler != "uniform":
        found += _unlabelled(present, f"sampler {recipe.sampler}", where["sampler"])
    if weights == "none":
        return found
    if isinstance(weights, str):
        found += _unlabelled(present, f"class_weights {weights}", where["class_weights"])
        absent = [name for name, is_there in zip(classes, present() or (), strict=False) if not is_there]
        if 0 < len(absent) < len(classes):
            text = f"no pixel of the training split is {some([repr(name) for name in absent])}, which weighs 0"
            found.append(
                warning(where["class_weights"], f"{text}; it will not be predicted; if that is not meant, add such images")
            )
        return found
    problem = problem_of_weights(weights, [1] * len(classes)) or problem_of_weights(weights, present() or [1] * len(classes))
    if problem:
        found.append(Concern(where["class_weights"], f"{problem} ({', '.join(classes)[:200]})"))
    return found


def classes_in(dataset: Opened, split: Sequence[int]) -> Present:
    """Says which classes a split has, read when it is first asked, and known then.

    It does not say if nobody knows without reading too much, or if something cannot be read, which other checks tell.
    """

    @cache
    def present() -> list[int] | None:
        if not split or not (dataset.judges_labels or len(split) <= MAX_COMPARED):
            return None
        try:
            labels = dataset.labels_in(split)
        except (DatasetError, ConfigError):
            return None
        return [int(label in labels) for label in range(len(dataset.classes))]

    return present


def _unlabelled(present: Present, what: str, path: str) -> list[Concern]:
    found = present()
    if found is None or any(found):
        return []
    return [Concern(path, f"{what} goes by the labels of the training split, none of whose pixels is labelled; leave it out")]


def _mined_already(family: str, loss: Setting, path: str) -> list[Concern]:
    if loss != "ohem" or families.is_own(family) or families.loss_name(family) != MINES_ALREADY:
        return []
    text = f"the own loss of {family} is over hard pixels alone already, so loss ohem trains the same under another name"
    return [warning(path, f"{text}; write loss: family")]


def _searched(plan: RunPlan, family: str, name: str) -> list[tuple[str, tuple[Setting, ...]]]:
    """Where a field of the recipe is searched for a family, and among what; nothing if it is not."""
    own, common = plan.experiment.families[family].recipe_space, plan.experiment.search.recipe_space
    parameter = (common | own).get(name)
    if not isinstance(parameter, Choices):
        return []
    path = f"families.{family}.recipe_space.{name}" if name in own else f"search.recipe_space.{name}"
    return [(path, parameter.values)]
