"""What a script asked a network by, so that who asks for it again by its name is given the same one, or told what differs."""

from collections.abc import Mapping
from dataclasses import dataclass

from agentkd.architecture import Architecture, Setting
from agentkd.errors import ConfigError
from agentkd.names import Digest
from agentkd.networks import families

FEW = 2  # classes, where it is not said how many: settings are the same for any number


@dataclass(frozen=True)
class Asked:
    """A network as it was asked for.

    Args:
        family: its name.
        num_classes: K; ``None`` if it was not said.
        settings: those that were given.
        weights: that it begins with; empty if it has none.
        heads: how many classes each of several heads tells apart; ``None`` if it was not said.
    """

    family: str
    num_classes: int | None
    settings: Mapping[str, Setting]
    weights: Digest
    heads: Mapping[str, int] | None = None

    def must_be_as(self, first: "Asked", name: str, *, there: Architecture | None) -> None:
        """Nothing, if this asks for what is there already under the name. What is not said is as it is there.

        Args:
            first: as what it is there.
            name: of the network.
            there: the network as it is known by now; ``None`` before it has met data.

        Raises:
            ConfigError: it asks for another one, and in what.
        """
        differing: dict[str, tuple[object, object]] = {}
        if self.family != first.family:
            differing["family"] = (first.family, self.family)
        else:
            before, now = (_complete(one) for one in (first, self))
            differing |= {one: (before.get(one), now.get(one)) for one in {**before, **now} if before.get(one) != now.get(one)}
        num_classes = there.num_classes if there else None
        if self.num_classes not in (None, num_classes):
            differing["num_classes"] = (num_classes, self.num_classes)
        heads = there.heads if there else {}
        if self.heads is not None and dict(self.heads) != heads:
            differing["heads"] = (heads or "none", dict(self.heads))
        if self.weights and self.weights != first.weights:
            differing["weights"] = (first.weights[:12] or "none", self.weights[:12])
        if differing:
            told = ", ".join(f"{what} {was!r}, not {wanted!r}" for what, (was, wanted) in differing.items())
            raise ConfigError(
                f"there is a network {name!r} in this community already, with {told}; take another name for another one"
            )


def _complete(asked: Asked) -> dict[str, Setting]:
    return families.all_settings(families.resolve(asked.family, asked.num_classes or FEW, dict(asked.settings)))
