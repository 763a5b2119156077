"""The types of fields that messages are made of: text within limits, digests, keys, numbers that are numbers."""

from typing import Annotated

from pydantic import AfterValidator, Field, GetPydanticSchema

from agentkd.architecture import MAX_CLASS_NAME, MAX_CLASSES
from agentkd.names import PUBLIC_KEY_FORM, AgentName, Digest, PublicKey, TaskKey, TeacherId
from agentkd.visible import visible

NAME = r"^[^\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]*$"  # nothing that acts or hides
DIGEST = r"^[0-9a-f]{64}$"
MAX_NAME = 100
Name = Annotated[str, Field(strict=True, max_length=MAX_NAME, pattern=NAME)]
Text = Annotated[str, Field(strict=True, max_length=20_000), AfterValidator(visible)]
Endpoint = Annotated[str, Field(strict=True, max_length=200, pattern=r"^[^\x00-\x20\x7f-\x9f]*$")]
AgentNameField = Annotated[AgentName, Field(strict=True, max_length=100, pattern=NAME)]
PublicKeyField = Annotated[PublicKey, Field(strict=True, pattern=PUBLIC_KEY_FORM)]
DigestField = Annotated[Digest, Field(strict=True, pattern=DIGEST)]
DatasetField = Annotated[Digest, Field(strict=True, max_length=100, pattern=NAME)]
TaskKeyField = Annotated[TaskKey, Field(strict=True, pattern=DIGEST)]
# Both of a teacher's names are the same text in a message, so it is checked as one.
TeacherField = Annotated[TeacherId, GetPydanticSchema(lambda _, make: make(str)), Field(strict=True, pattern=DIGEST)]
ClassNames = Annotated[tuple[Annotated[str, Field(strict=True, max_length=MAX_CLASS_NAME)], ...], Field(max_length=MAX_CLASSES)]
Count = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Seconds = Annotated[float, Field(strict=True, ge=0)]
Divergence = Annotated[float, Field(strict=True, ge=0)]
