"""The names that things go by: four kinds of text that a type checker tells apart. At run time they are plain text.

A text becomes one where it is read (command line, file, message) or made (a hash, a new key). An empty one names nothing.
"""

import re
from typing import NewType

Digest = NewType("Digest", str)
"""SHA-256 (hex) of bytes or of canonical data: of an artifact, such as weights, or of a dataset's content."""

TaskKey = NewType("TaskKey", str)
"""SHA-256 (hex) of a task's inputs, by which its record and requests about it are found. It names no artifact."""

PublicKey = NewType("PublicKey", str)
"""The public half of a CURVE key pair, 40 characters (Z85): who a peer is."""

PUBLIC_KEY_FORM = r"^[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}$"
"""How one is written."""

AgentName = NewType("AgentName", str)
"""What an agent is called by its coordinator and its peers."""

TeacherId = Digest | TaskKey
"""Who is heard in a lesson: the weights that teach or, where students teach each other, a partner's task."""

NO_DIGEST = Digest("")
NO_TASK = TaskKey("")
NO_KEY = PublicKey("")
NOBODY = AgentName("")

SHARED = "shared:"
"""What a specification of shared data begins with; behind it stands the digest of their file."""

TENSOR_NAME = re.compile(r"[A-Za-z0-9_.]{1,200}")
"""What a tensor of a network may be called, so that its weights can be handed over."""

_SHARED_DATA = re.compile(rf"(?:^|[:|]){SHARED}([0-9a-f]{{64}})(?=\||$)")


def shared_data(spec: str) -> tuple[Digest, ...]:
    """The files of shared data that a dataset's specification names, also within others (``few:16:shared:DIGEST``); each once."""
    return tuple(dict.fromkeys(map(Digest, _SHARED_DATA.findall(spec))))
