"""The tasks of one family as its experiment wants them: which network, which recipe, which training. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from agentkd import seeding
from agentkd.architecture import Architecture, Normalization, Setting
from agentkd.experiment import Experiment, build_recipe
from agentkd.names import Digest, TaskKey
from agentkd.networks import families
from agentkd.networks.spaces import EDITION, FIRST_EDITION
from agentkd.pipeline import aims
from agentkd.pipeline.own import OwnParts
from agentkd.pipeline.spaces import written
from agentkd.recipe import Recipe
from agentkd.search.space import Values
from agentkd.task import DataSource, Train


@dataclass
class Drafts:
    """Makes the tasks of one family.

    Args:
        images: what the family's networks are given.
        pretrained: digest of its stored weights, or none.
        own: what of the experiment is a user's own.
        revision: of the family in the run's records; ``None`` for what is built here.
        edition: of the search spaces.
        fields: by the key of a trial those fields of its recipe that are not the experiment's, for what is learned after it.
    """

    experiment: Experiment
    family: str
    num_classes: int
    images: Normalization
    data: DataSource
    pretrained: Digest
    own: OwnParts
    revision: int | None = None
    edition: int = EDITION
    fields: dict[TaskKey, dict[str, Any]] = field(default_factory=dict, init=False)

    @cached_property
    def seed(self) -> int:
        """Root of initialization and dropout."""
        return seeding.derive(self.experiment.seed, "train", self.family)

    @cached_property
    def view_seed(self) -> int:
        """Root of the training views, the same for all families."""
        return seeding.derive(self.experiment.seed, "views")

    @cached_property
    def baseline(self) -> tuple[TaskKey, Train]:
        """The training of the family's own architecture."""
        task = self.training(self.own_architecture(), self.recipe({}, self.experiment.baseline.epochs))
        return task.key, task

    def training(self, architecture: Architecture, recipe: Recipe, **more: Any) -> Train:
        """A training of the family. ``more`` are other fields of it, limits mostly."""
        usual: dict[str, Any] = {
            "data": self.data,
            "seed": self.seed,
            "view_seed": self.view_seed,
            "pretrained": self.pretrained,
            "measures_latency": aims.measures_latency(self.experiment),
        }
        return Train(architecture=architecture, recipe=recipe, **(usual | more))

    def recipe(self, fields: Mapping[str, Any], epochs: int) -> Recipe:
        """The family's recipe with these fields."""
        as_written = self.edition == FIRST_EDITION
        return build_recipe(self.experiment, self.family, as_written=as_written, **{**fields, "epochs": epochs})

    def own_architecture(self) -> Architecture:
        """The family with the settings of the experiment."""
        return self.architecture(dict(self.experiment.families[self.family].settings))

    def architecture(self, settings: dict[str, Setting]) -> Architecture:
        """The family with these settings, in the revision of the run's records."""
        built = self._as_built(settings)
        return built if self.revision is None else built.replace(revision=self.revision)

    def check_revision(self) -> None:
        """Checks that what the run's records are of can be executed here.

        Raises:
            ConfigError: this version of agentkd builds another revision of the family.
        """
        settings = dict(self.experiment.families[self.family].settings)
        families.check_revision(self.architecture(settings), self._as_built(settings).revision)

    def as_it_is(self) -> Values:
        """Every setting of the family and every field of its recipe, by the names that a study has."""
        return written(self.own_architecture(), self.recipe({}, self.experiment.search.epochs))

    def _as_built(self, settings: dict[str, Setting]) -> Architecture:
        if families.is_own(self.family):
            return self.own.family(self.family).architecture(self.num_classes, settings, self.images)
        as_written = self.edition == FIRST_EDITION
        return families.resolve(self.family, self.num_classes, settings, images=self.images, as_written=as_written)
