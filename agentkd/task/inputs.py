"""What tasks are given besides architectures and recipes: data, teachers, partners, and what must not be forgotten."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from agentkd.architecture import Architecture, HeadName
from agentkd.canonical import FrozenData
from agentkd.code.source import Named
from agentkd.names import NO_DIGEST, Digest
from agentkd.recipe import Recipe

Share = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[int, Field(ge=0)]
ScoreName = Literal["energy", "max_softmax", "entropy", "mahalanobis"]
ENERGY: ScoreName = "energy"
ROUTES = ("class_shares", "energies", "parts")


class DataSource(Named):
    """A dataset by specification and content, and the splits that a task may read; ``code`` is that of a user's own dataset."""

    spec: str
    content_digest: Digest
    train: str = "train"
    validation: str = "validation"


class TeacherReference(FrozenData):
    """A network that teaches: architecture and the digest of its weights. Without an architecture only who holds it can teach.

    Args:
        share: its weight among several teachers.
        class_order: for each class of the student the teacher's class that means the same; empty if they are numbered alike.
        class_shares: how well it knows each of the student's classes, in [0, 1]: each pixel is taught by who knows best what it
            sees there. Either all teachers have them, or none.
        energies: median and 95th percentile of its energy on data that it knows: each tile is taught by who is most at home in
            it. Either all teachers have them, or none.
        parts: of joined data, those that it teaches, by number. Either all teachers have them, or none.
    """

    architecture: Architecture | None
    weights: Digest = Field(min_length=1)
    share: float = Field(default=1.0, gt=0)
    class_order: tuple[Number, ...] = ()
    class_shares: tuple[Share, ...] = ()
    energies: tuple[float, float] | None = None
    parts: tuple[Number, ...] = ()

    @model_validator(mode="after")
    def _check_energies(self) -> Self:
        if self.energies and self.energies[0] > self.energies[1]:
            raise ValueError(f"energies are {self.energies}; the median comes first, and is not above the 95th percentile")
        return self

    @property
    def route(self) -> str:
        """By which field it says where it teaches, if not everywhere."""
        return "+".join(name for name in ROUTES if getattr(self, name))

    @model_serializer(mode="wrap")
    def _leave_out_routes(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = handler(self)
        return {name: value for name, value in plain.items() if value or name not in ROUTES}


class Consolidation(FrozenData):
    """What a network must not forget: where its weights were, and how much each of them matters (online EWC).

    Args:
        anchors: digest of the weights.
        importance: digest of the importance of each weight, as a task of kind ``consolidate`` makes it.
        strength: factor of the penalty, see ``agentkd.training.continual``.
        decay: how much of an earlier importance counts when the next one is made.
    """

    anchors: Digest = Field(min_length=1)
    importance: Digest = Field(min_length=1)
    strength: float = Field(default=1.0, ge=0)
    decay: float = Field(default=0.9, ge=0, le=1)


class Rehearsal(FrozenData):
    """What another head of a network said before the lesson, and is to say after it.

    Args:
        head: whose answers are kept; it does not learn.
        data: on whose training images; those of the lesson itself if there are none.
        strength: factor of what is lost of them, see ``agentkd.agents.rehearsing``.
    """

    head: HeadName
    data: DataSource | None = None
    strength: float = Field(default=1.0, gt=0)


class Partner(FrozenData):
    """Another student of a mutual lesson: those inputs of its task that may differ from ours."""

    architecture: Architecture
    recipe: Recipe
    seed: int
    initial_weights: Digest = NO_DIGEST
