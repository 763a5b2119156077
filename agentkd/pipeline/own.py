"""What of an experiment is a user's own, as it was when its run began: with it a plan is made again without running any."""

from pydantic import Field

from agentkd.canonical import FrozenData
from agentkd.code.source import CodeDigest
from agentkd.datasets.opening import own_names
from agentkd.datasets.outline import Outline
from agentkd.errors import ConfigError
from agentkd.experiment import Experiment
from agentkd.names import NO_DIGEST, Digest
from agentkd.networks import families
from agentkd.networks.families import OwnFamily
from agentkd.objectives import Own


class OwnData(FrozenData):
    """A dataset with own ones in it: the code in which they are found, and the outline of what it makes."""

    code: CodeDigest
    outline: Outline


class OwnParts(FrozenData):
    """The own families, objectives and rules (code by name) and data of an experiment. They stand in the journal of its run."""

    families: dict[str, OwnFamily] = Field(default_factory=dict)
    objectives: dict[str, CodeDigest] = Field(default_factory=dict)
    data: OwnData | None = None
    rules: dict[str, CodeDigest] = Field(default_factory=dict)

    @property
    def codes(self) -> dict[str, Digest]:
        """The code of each, by what an experiment calls it."""
        found = {family: own.code for family, own in self.families.items()} | self.objectives | self.rules
        return found | ({"data": self.data.code} if self.data else {})

    def family(self, name: str) -> OwnFamily:
        """What is known of an own family.

        Raises:
            ConfigError: nothing; an older version began this run.
        """
        if name not in self.families:
            raise ConfigError(
                f"{name}: this run is of an older agentkd, which did not keep the source of own code; run the experiment again, "
                f"in another folder"
            )
        return self.families[name]

    def objective(self, path: str) -> Digest:
        """The code of an own objective; empty if it is not known."""
        return self.objectives.get(path, NO_DIGEST)


def own_names_in(experiment: Experiment) -> dict[str, tuple[str, ...]]:
    """By kind (``families``, ``objectives``, ``data``, ``rules``) what an experiment names that is a user's own."""
    rounds = (experiment.round1, experiment.round2)
    ways = [config.distillation for config in rounds]
    ways += [experiment.search.lesson] if experiment.search.lesson else []
    listed = [objective for way in ways for objective in way.objectives]
    return {
        "families": tuple(filter(families.is_own, experiment.families)),
        "objectives": tuple(dict.fromkeys(o.path for o in listed if isinstance(o, Own))),
        "data": own_names(experiment.data.dataset),
        "rules": tuple(dict.fromkeys(own_rules(experiment).values())),
    }


def own_rules(experiment: Experiment) -> dict[str, str]:
    """The paths of a user's own rules, by where the experiment names them."""
    rounds = {"round1.teachers": experiment.round1.own_rule, "round2.teachers": experiment.round2.own_rule}
    return {place: path for place, path in ({"select.rule": experiment.select.own_rule} | rounds).items() if path}
