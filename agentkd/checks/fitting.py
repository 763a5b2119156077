"""Do images, crops, batches and networks go together?"""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from agentkd.checks.concerns import Concern, warning
from agentkd.checks.plan import RunPlan
from agentkd.datasets.samples import Size
from agentkd.datasets.splits import TEST, TRAIN, VALIDATION, some
from agentkd.errors import ConfigError
from agentkd.pipeline.stages import Stage
from agentkd.recipe import Recipe
from agentkd.search.space import Range

if TYPE_CHECKING:
    from agentkd.networks.trying import Tried

LEAST_BATCH = 2
MAX_SIZES = 8


def check_batches(plan: RunPlan) -> list[Concern]:
    """Of every recipe, and every batch size that is searched: whether the training split gives such batches."""
    train = plan.split(TRAIN)
    if not train:
        return []
    found = []
    for exercise in plan.exercises:
        found += fit_views(exercise.recipe, plan.sizes[TRAIN], exercise.where("views"), split=plan.experiment.data.train)
        found += fit_batch(exercise.recipe.batch_size, len(train), exercise.where("batch_size"), split=plan.experiment.data.train)
    for family in plan.families:
        for place, largest in searched_batch(plan, family):
            if largest > len(train) >= LEAST_BATCH:
                found += fit_batch(largest, len(train), place, split=plan.experiment.data.train, what=" that the search may try")
    return list(dict.fromkeys(found))


def fit_views(recipe: Recipe, sizes: Counter[Size], path: str, *, split: str) -> list[Concern]:
    """Whether images of these sizes can be one batch, and what the crop does with them."""
    crop = (recipe.views.crop_height, recipe.views.crop_width)
    if not any(crop):
        if len(sizes) <= 1:
            return []
        text = (
            f"the images of split {split!r} have {len(sizes):,} sizes ({some([_wxh(size) for size in sizes])}), so they cannot be"
        )
        return [Concern(path, f"{text} one batch; write crop_height and crop_width there, or size=WIDTHxHEIGHT in the dataset")]
    small = {size: count for size, count in sizes.items() if size[0] < crop[0] or size[1] < crop[1]}
    if not small:
        return []
    count, least = sum(small.values()), min(small, key=lambda size: size[0] * size[1])
    text = f"the crop of {_wxh(crop)} is larger than {count:,} of {sum(sizes.values()):,} images, such as one of {_wxh(least)}"
    return [warning(path, f"{text}: they are enlarged; if that is not meant, write a smaller crop")]


def fit_batch(batch_size: float, count: int, path: str, *, split: str, what: str = "") -> list[Concern]:
    """Whether a split has as many images as a batch."""
    if count >= batch_size:
        return []
    if count < LEAST_BATCH:
        return [Concern(path, f"split {split!r} has {count} image; a batch needs {LEAST_BATCH} at least, so add images to it")]
    text = f"split {split!r} has {count:,} images, fewer than a batch of {batch_size:g}{what}"
    return [Concern(path, f"{text}; write {LEAST_BATCH} to {count}, or add images")]


def check_networks(plan: RunPlan) -> list[Concern]:
    """Whether each family's own network is built, learns from batches of such images, and looks at whole ones."""
    found = []
    for family, tried in plan.tried.items():
        path = f"families.{family}"
        if isinstance(tried, ConfigError):
            found += [Concern(path, f"its own network {p.text}; mend it, or its settings") for p in tried.problems]
        else:
            found += [Concern(path, f"its own network {text}") for text in refusals(plan, family, tried)]
    return found


def refusals(plan: RunPlan, family: str, tried: "Tried") -> list[str]:
    """Why a network of a family does not take what it is to be shown, and what to do."""
    found = []
    for exercise in (e for e in plan.exercises if e.family == family):
        for height, width in trained_sizes(exercise.recipe, plan.sizes[TRAIN]):
            try:
                tried.passes(exercise.recipe.batch_size, height, width, is_training=True)
            except ConfigError as error:
                found += [f"{p.text}; see {exercise.where('views')} and {exercise.where('batch_size')}" for p in error.problems]
    for height, width in [] if found else few(plan.sizes[VALIDATION] + plan.sizes[TEST]):
        try:
            tried.passes(1, height, width, is_training=False)
        except ConfigError as error:
            advice = "images are validated and tested whole: size=WIDTHxHEIGHT in data.dataset changes them"
            found += [f"{p.text}; {advice}" for p in error.problems]
    return list(dict.fromkeys(found))


def check_taps(plan: RunPlan) -> list[Concern]:
    """Whether networks have the modules that the objectives of a round look at."""
    found = []
    built = {family: tried for family, tried in plan.tried.items() if not isinstance(tried, ConfigError)}
    ways = [(f"{stage}.distillation", config.distillation) for stage, config in plan.rounds]
    ways += [("search.lesson", plan.experiment.search.lesson)] if plan.experiment.search.lesson else []
    for where, distillation in ways:
        taught = {payload.tap for payload in distillation.payloads if payload.tap}
        for tap in dict.fromkeys([*distillation.student_taps, *sorted(taught)]):
            lacking = [family for family, tried in built.items() if tap not in tried.modules]
            if not lacking:
                continue
            there = sorted({name.partition(".")[0] for family in lacking for name in built[family].modules})
            text = (
                f"no module {tap!r} is in the own network of {some(lacking)}, whose modules begin with {', '.join(there)[:200]}"
            )
            is_error = len(lacking) == len(built)
            advice = "write a tap that is there" if is_error else "lessons with such networks fail"
            found.append(Concern(f"{where}.objectives", f"{text}; {advice}", is_error=is_error))
    return found


def check_compiled(plan: RunPlan) -> list[Concern]:
    """Whether nobody is to look into a student that is compiled."""
    taught = {stage: (f"{stage}.distillation", config.distillation) for stage, config in plan.rounds}
    lesson = plan.experiment.search.lesson
    if lesson:
        taught[Stage.BASELINE] = ("search.lesson", lesson)  # trials learn by the recipe of a baseline
    found: dict[tuple[str, str], None] = {}
    for exercise in plan.exercises:
        where, distillation = taught.get(exercise.stage, ("", None))
        if exercise.recipe.compiled and distillation is not None and distillation.student_taps:
            tap = distillation.student_taps[0]
            text = f"{where}.objectives look at the student's {tap}, and nobody can look into a compiled network; set one of both"
            found[exercise.where("compiled"), text] = None
    return [Concern(place, text) for place, text in found]


def trained_sizes(recipe: Recipe, sizes: Iterable[Size]) -> list[Size]:
    """The sizes, (height, width), in which a recipe shows images of these sizes to a network; a few if there are many."""
    crop = (recipe.views.crop_height, recipe.views.crop_width)
    return [crop] if any(crop) else few(sizes)


def few(sizes: Iterable[Size]) -> list[Size]:
    """The smallest and the largest of many sizes."""
    ordered = sorted(set(sizes), key=lambda size: (size[0] * size[1], size))
    return ordered if len(ordered) <= MAX_SIZES else [*ordered[: MAX_SIZES // 2], *ordered[-MAX_SIZES // 2 :]]


def searched_batch(plan: RunPlan, family: str) -> list[tuple[str, float]]:
    """Where the batch size of a family is searched, and the largest that may come of it; nothing if it is not."""
    own, common = plan.experiment.families[family].recipe_space, plan.experiment.search.recipe_space
    place = f"families.{family}.recipe_space.batch_size" if "batch_size" in own else "search.recipe_space.batch_size"
    parameter = (common | own).get("batch_size")
    if parameter is None:
        return []
    if isinstance(parameter, Range):
        return [(place, parameter.high)]
    numbers = [value for value in parameter.values if isinstance(value, int | float) and not isinstance(value, bool)]
    return [(place, max(numbers))] if numbers else []


def _wxh(size: Size) -> str:
    return f"{size[1]}x{size[0]}"
