"""What kind of knowledge a stored file is, whatever it is asked for as: grants and the audit log go by that."""

from agentkd.artifacts.store import Store
from agentkd.datasets.shared import kind_of
from agentkd.messages.bodies import KnowledgeKind, KnowledgeRequest
from agentkd.names import Digest

PACKED = (KnowledgeKind.DATA, KnowledgeKind.ARCHITECTURE)


def as_what_it_is(request: KnowledgeRequest, wanted: Digest, store: Store) -> KnowledgeRequest:
    """A request for a stored file as one for what it is: data or an architecture, and all else goes as weights.

    Raises:
        ArtifactNotFoundError: it is not in the store.
    """
    said = kind_of(store.must_have(wanted))
    kind = KnowledgeKind(said) if said in PACKED else KnowledgeKind.WEIGHTS
    return request.model_copy(update={"kind": kind, "weights": wanted})
