"""What is planned, as far as an experiment and its data say: what every check looks at. Plain data, made once."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from agentkd.architecture import Architecture, Normalization
from agentkd.checks.concerns import Concern
from agentkd.code.loading import load
from agentkd.code.taking import take
from agentkd.datasets.opening import Opened
from agentkd.datasets.outline import outline
from agentkd.datasets.samples import MAX_COMPARED, Size, split_indices
from agentkd.datasets.splits import TEST, TRAIN, VALIDATION
from agentkd.errors import AgentKDError, ConfigError, DatasetError
from agentkd.experiment import Experiment, RoundConfig, build_recipe
from agentkd.names import Digest
from agentkd.networks import families
from agentkd.networks.families import OwnFamily
from agentkd.pipeline.counting import TESTS, task_counts
from agentkd.pipeline.own import OwnData, OwnParts, own_names_in, own_rules
from agentkd.pipeline.stages import Stage
from agentkd.recipe import Recipe

if TYPE_CHECKING:
    from agentkd.networks.trying import Tried

Layer = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Exercise:
    """A training that every run of a plan has: its family's own architecture with the recipe of a stage.

    Args:
        layers: the parts of the file that the recipe is made of, the last one first.
    """

    family: str
    stage: Stage
    recipe: Recipe
    layers: tuple[Layer, ...]

    def where(self, field: str) -> str:
        """The place in the file at which a field of the recipe is said; that where it could be, if it is not."""
        return next((path for path, layer in self.layers if field in layer), "recipe") + f".{field}"


@dataclass(frozen=True)
class RunPlan:
    """An experiment, its data and its user's own parts.

    Args:
        dataset: none if it cannot be opened.
        folder: of the run; none if it is not known.
        is_begun: whether a run is there already: what it needs is partly done.
    """

    experiment: Experiment
    dataset: Opened | None
    own: OwnParts
    folder: Path | None = None
    is_begun: bool = False

    @property
    def num_classes(self) -> int:
        """K; two if the data do not say."""
        return len(self.dataset.classes) if self.dataset else 2

    @property
    def images(self) -> Normalization | None:
        """The channels of the data's images, and how they are seen; none if the data do not say."""
        return self.dataset.normalization if self.dataset else None

    def architecture(self, family: str, settings: dict[str, Any] | None = None) -> Architecture:
        """A family's own architecture, with other settings.

        Raises:
            ConfigError: they are none of this family.
        """
        given = {**self.experiment.families[family].settings, **(settings or {})}
        if families.is_own(family):
            return self.own.family(family).architecture(self.num_classes, given, self.images)
        return families.resolve(family, self.num_classes, given, images=self.images)

    @property
    def families(self) -> list[str]:
        """Those that can be planned with."""
        return [f for f in self.experiment.families if not families.is_own(f) or f in self.own.families]

    def split(self, role: str) -> tuple[int, ...]:
        """The samples of the split in a role (``train``, ``validation``, ``test``); none if it is not there."""
        if self.dataset is None:
            return ()
        try:
            return split_indices(self.dataset, getattr(self.experiment.data, role))
        except DatasetError:
            return ()

    @cached_property
    def tried(self) -> "dict[str, Tried | ConfigError]":
        """Each family's own network, with shapes alone; or why it cannot be built."""
        from agentkd.networks.trying import try_network  # needs torch, which a plan does not

        found: dict[str, Tried | ConfigError] = {}
        for family in self.families:
            try:
                found[family] = try_network(self.architecture(family))
            except ConfigError as error:
                found[family] = error
        return found

    @cached_property
    def sizes(self) -> dict[str, Counter[Size]]:
        """By role (``train``, ``validation``, ``test``) how many images of each size, (height, width), its split has.

        Empty where that is not known without reading too many, or a file cannot be read, which other checks say.
        """
        found = {}
        for role in (TRAIN, VALIDATION, TEST):
            indices = self.split(role) if self.dataset and getattr(self.experiment.data, role) else ()
            try:
                found[role] = sizes_of(self.dataset, indices) if self.dataset else Counter()
            except (DatasetError, ConfigError):
                found[role] = Counter()
        return found

    @cached_property
    def exercises(self) -> tuple[Exercise, ...]:
        """Every family in every stage in which something is learned."""
        return tuple(self._exercises())

    def _exercises(self) -> Iterator[Exercise]:
        experiment = self.experiment
        for family in self.families:
            base: tuple[Layer, ...] = (
                (f"families.{family}.recipe", experiment.families[family].recipe),
                ("recipe", experiment.recipe),
            )
            stages: list[tuple[Stage, tuple[Layer, ...], int]] = [(Stage.BASELINE, base, experiment.baseline.epochs)]
            stages += [(stage, ((f"{stage}.recipe", config.recipe), *base), config.epochs) for stage, config in self.rounds]
            for stage, layers, epochs in stages:
                extra = layers[0][1] if stage is not Stage.BASELINE else {}
                try:
                    recipe = build_recipe(experiment, family, **{**extra, "epochs": epochs})
                except ValidationError:
                    continue  # each layer was looked at by itself, and is wrong there
                yield Exercise(family, stage, recipe, layers)

    @property
    def rounds(self) -> list[tuple[Stage, RoundConfig]]:
        """Those that there are: a second one only of several families."""
        rounds = [(Stage.ROUND1, self.experiment.round1), (Stage.ROUND2, self.experiment.round2)]
        return rounds if len(self.experiment.families) > 1 else rounds[:1]

    @property
    def num_trainings(self) -> int:
        """At most."""
        return sum(count for what, count in task_counts(self.experiment).items() if what != TESTS)


def gather_own(experiment: Experiment, dataset: Opened | None) -> tuple[OwnParts, list[Concern]]:
    """What of an experiment is its user's own, by the code as it is now, which runs for this; and what of that is wrong."""
    named = own_names_in(experiment)
    concerns: list[Concern] = []
    found: dict[str, OwnFamily] = {}
    objectives: dict[str, Digest] = {}
    for family in named["families"]:
        try:
            found[family] = families.look_at(family, take(family))
        except ConfigError as error:
            concerns += [Concern(".".join(filter(None, (f"families.{family}", p.path))), p.text) for p in error.problems]
    for path in named["objectives"]:
        try:
            objectives[path] = take(path)
        except ConfigError as error:
            concerns.append(Concern("distillation.objectives", f"{path}: {error}"))
    rules: dict[str, Digest] = {}
    for place, path in own_rules(experiment).items():
        try:
            rules[path] = take(path)
            rule = load(path, rules[path])
        except ConfigError as error:
            concerns.append(Concern(place, f"{path}: {error}"))
            continue
        if not callable(rule):
            concerns.append(Concern(place, f"{path} is {type(rule).__name__}, and a rule is a function"))
    data = None
    if dataset is not None and dataset.code:
        try:
            data = OwnData(code=dataset.code, outline=outline(dataset))
        except (ValidationError, AgentKDError) as error:
            concerns.append(Concern("data.dataset", f"its outline is no plain data: {error}"))
    return OwnParts(families=found, objectives=objectives, data=data, rules=rules), concerns


def sizes_of(dataset: Opened, indices: Sequence[int]) -> Counter[Size]:
    """How many samples of each size, (height, width); none if that is not known without reading too many.

    Raises:
        DatasetError: one cannot be read.
    """
    if dataset.tells_sizes or len(indices) <= MAX_COMPARED:
        return Counter(dataset.size_of(index) for index in indices)
    return Counter()
