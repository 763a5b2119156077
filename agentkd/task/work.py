"""What every task is: a network and data, with a canonical form whose digest is its key, and what it reads."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self

from pydantic import PrivateAttr, model_validator

from agentkd.architecture import Architecture
from agentkd.canonical import FrozenData, digest_bytes, encode
from agentkd.names import Digest, TaskKey, shared_data
from agentkd.recipe import Recipe
from agentkd.task.inputs import DataSource, TeacherReference

if TYPE_CHECKING:
    from agentkd.task.kinds import Mutual

MAX_TASK_BYTES = 900_000  # as JSON; a message's body holds a mebibyte, and in it numbers take no more room than here
INTEGERS = range(-(2**63), 2**64)  # those that can be said in a message

# What the canonical form says of fields that a task's kind does not have. Fields that are not listed are left out where they are
# empty, so that a new field leaves the digests of all other tasks alone.
NEUTRAL: dict[str, Any] = {
    "recipe": Recipe().canonical(),
    "seed": 0,
    "view_seed": 0,
    "initial_weights": "",
    "pretrained": "",
    "teachers": [],
    "distillation": None,
    "max_deploy_parameters": 0,
    "max_num_macs": 0,
    "prune_below": [],
}
ALWAYS = frozenset({*NEUTRAL, "kind", "architecture", "data"})

Reference = tuple[str, Digest]
RUNS_CODE, TAUGHT_BY_CODE = "runs code", "is taught by code"
LOOKS_AT_DATA = "looks at shared data"


class Work(FrozenData):
    """What every task has: a network and data."""

    architecture: Architecture
    data: DataSource
    _key: TaskKey = PrivateAttr()

    @model_validator(mode="after")
    def _check_can_be_said(self) -> Self:
        plain = self.canonical()
        large = next((number for number in _integers(plain) if number not in INTEGERS), None)
        if large is not None:
            raise ValueError(f"the number {hex(large)[:20]}... does not fit into 64 bits, so no agent could be told of it")
        try:
            encoded = encode(plain)
        except UnicodeEncodeError as error:
            raise ValueError(f"there is text that is not UTF-8 ({error}), so no agent could be told of it") from None
        if len(encoded) > MAX_TASK_BYTES:
            raise ValueError(
                f"the task takes {len(encoded):,} bytes, and an agent can be told of {MAX_TASK_BYTES:,}; ask for fewer views"
            )
        self._key = TaskKey(digest_bytes(encoded))
        return self

    def canonical(self) -> Any:
        """The plain data whose digest is the task's key, see ``NEUTRAL``."""
        own = {name: value for name, value in super().canonical().items() if value or name in ALWAYS}
        return NEUTRAL | own

    @property
    def key(self) -> TaskKey:
        """By which its record, and requests about it, are found: the digest of its inputs."""
        return self._key

    def reads(self) -> Iterator[Reference]:
        """(what for, digest) of each artifact that whoever executes it needs."""
        for code in dict.fromkeys(filter(None, self._codes())):
            yield RUNS_CODE, code
        for file in dict.fromkeys(file for source in self._sources() for file in shared_data(source.spec)):
            yield LOOKS_AT_DATA, file

    def _sources(self) -> Iterator[DataSource]:
        """All data that it looks at."""
        yield self.data

    @property
    def runs_code(self) -> bool:
        """Whether a part of it is a user's own."""
        return any(self._codes())

    def _codes(self) -> Iterator[Digest]:
        """The code of each part that is a user's own; perhaps empty, or one twice."""
        yield self.architecture.code
        yield self.data.code

    def references(self) -> Iterator[Reference]:
        """(what for, digest) of each artifact that the result depends on, a teacher's weights too. None is a guest's."""
        yield from self.reads()

    @property
    def taught_by(self) -> tuple[TeacherReference, ...]:
        """Teachers that must be at hand as agents, or recorded, while it is executed."""
        return ()

    def partner_tasks(self) -> tuple["Mutual", ...]:
        """Tasks that must be executed at the same time."""
        return ()


def _integers(plain: Any) -> Iterator[int]:
    """All that there are in plain data."""
    if isinstance(plain, int):
        yield plain
    elif isinstance(plain, dict | list):
        for part in plain.values() if isinstance(plain, dict) else plain:
            yield from _integers(part)
