"""What a community needs of whoever has its tasks done, and what a handle needs of its community. Interfaces alone."""

from collections.abc import Sequence
from typing import Protocol

from agentkd.architecture import Architecture, Normalization
from agentkd.artifacts.recordings import RecordingReport
from agentkd.community.futures import Lesson
from agentkd.coordinator.crew import Crew
from agentkd.coordinator.desk import Order
from agentkd.datasets.opening import Opened
from agentkd.names import Digest
from agentkd.recipe import Recipe
from agentkd.task import DataSource, Task

Data = str | Opened


class Works(Protocol):
    """Who has a community's tasks done: a host in this process, or one that is visited."""

    @property
    def is_open(self) -> bool:
        """Whether tasks are taken."""
        ...

    @property
    def agents(self) -> Crew:
        """The agents.

        Raises:
            ConfigError: they are not here.
        """
        ...

    @property
    def num_learners(self) -> int | None:
        """How many agents can learn at once; ``None`` if that is up to guests."""
        ...

    def start(self) -> None:
        """Begins.

        Raises:
            AgentKDError: why it cannot.
        """
        ...

    def close(self) -> None:
        """Ends; whoever waits for what is unfinished is told so."""
        ...

    def submit(self, orders: Sequence[Order]) -> None:
        """Has tasks done together; whoever waits for one is told what comes of it. From any thread."""
        ...

    def recordings(self) -> RecordingReport:
        """What recorded lessons take, and what they saved."""
        ...


class Commons(Protocol):
    """What the networks of a community have in common: data, records, and whoever does their tasks."""

    seed: int

    @property
    def num_learners(self) -> int | None:
        """How many agents can learn at once; ``None`` if that is up to guests."""
        ...

    def source(self, data: Data) -> DataSource:
        """A dataset by specification and content."""
        ...

    def must_be_learnable(self, data: Data, recipe: Recipe, *, needs_labels: bool, name: str) -> None:
        """Nothing, if a network can learn from the data in this way.

        Raises:
            ConfigError: it cannot.
            DatasetError: the data are not as described.
        """
        ...

    def classes(self, data: Data) -> tuple[str, ...]:
        """The classes of a dataset."""
        ...

    def images(self, data: Data) -> Normalization:
        """The channels of a dataset's images, and how a network sees them that does not say otherwise."""
        ...

    def num_parts(self, data: Data) -> int:
        """How many datasets are joined in this one; 1 of a single one."""
        ...

    def shared_data(self, digest: Digest) -> Opened:
        """Data that were packed, by the digest of their file.

        Raises:
            DatasetError: they are not there, or damaged.
        """
        ...

    def find_artifact(self, beginning: str) -> Digest:
        """The digest that begins so, of something in the record.

        Raises:
            ConfigError: there is none, or there are several.
        """
        ...

    def artifact(self, digest: Digest) -> bytes:
        """Stored bytes by their digest."""
        ...

    def must_be_of(self, architecture: Architecture, weights: Digest) -> None:
        """Nothing, if stored weights are of an architecture.

        Raises:
            ConfigError: they are not, and in what.
            ArtifactError: they are not there, or damaged.
        """
        ...

    def submit(self, *tasks: tuple[Task, str]) -> tuple[Lesson, ...]:
        """Has tasks (with labels) done; each future holds its result, or the error that ended it."""
        ...
