"""A community that only notes what it is asked, and answers at once."""

from types import SimpleNamespace

from agentkd.architecture import IMAGENET, Architecture, Normalization, numbered, usual_normalization
from agentkd.community.futures import Lesson
from agentkd.recipe import Recipe
from agentkd.task import DataSource, Status, Task, TaskResult


class Recording:
    """What a handle needs of a community, with every task kept."""

    seed, num_learners = 1, 2

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def source(self, spec: str) -> DataSource:
        return DataSource(spec=spec, content_digest="d")

    def classes(self, spec: str) -> tuple[str, ...]:
        return tuple("abcde")

    def images(self, spec: str) -> Normalization:
        """RGB, or of ``s=4`` as many channels as it says."""
        return usual_normalization(numbered(int(spec.rpartition("=")[2]))) if spec.startswith("s=") else IMAGENET

    def must_be_learnable(self, data: str, recipe: Recipe, *, needs_labels: bool, name: str) -> None:
        """Whatever it is."""

    def num_parts(self, spec: str) -> int:
        return spec.count("|") + 1

    def shared_data(self, digest: str) -> SimpleNamespace:
        """Nothing but its specification."""
        return SimpleNamespace(spec=f"shared:{digest}")

    def find_artifact(self, beginning: str) -> str:
        return beginning

    def artifact(self, digest: str) -> bytes:
        """Weights that do not say which classes they tell apart, or the architecture that was packed last."""
        from agentkd.knowledge import tensors
        from agentkd.knowledge.sharing import encode_architecture

        if digest == "k":
            return encode_architecture(self.tasks[-1].architecture)
        return tensors.encode({})

    def must_be_of(self, architecture: Architecture, weights: str) -> None:
        """All are."""

    def submit(self, *tasks: tuple[Task, str]) -> tuple[Lesson, ...]:
        lessons = []
        for task, _ in tasks:
            self.tasks.append(task)
            lessons.append(Lesson())
            lessons[-1].settle(TaskResult(status=Status.COMPLETED, weights=f"w{len(self.tasks)}", knowledge="k"))
        return tuple(lessons)
