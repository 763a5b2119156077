"""What a guest answers to a script is about what it was asked, or it is refused."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from agentkd.coordinator.guests import Guest
from agentkd.errors import ContractError
from agentkd.knowledge import tensors
from agentkd.messages.bodies import AssessReply, Body, HelloRequest, KnowledgeReply, Piece, Way

WEIGHTS, OTHERS = "ab" * 32, "cd" * 32
IMAGES = torch.rand(2, 3, 8, 8)
PIECE = Piece(way=Way.INLINE, size_bytes=1, sha256=WEIGHTS)
SOFT_TARGETS = KnowledgeReply(kind="soft_targets", weights=WEIGHTS, piece=PIECE)
ASSESSMENT = AssessReply(weights=WEIGHTS, num_images=2, predicted=(0.5, 0.25, 0.25))


def guest(answer: Body, *shape: int, teaches: str = WEIGHTS) -> Guest:
    """A guest that answers so, and hands over logits of that shape."""
    crew: Any = SimpleNamespace(
        ways=(Way.INLINE,),
        invite=lambda peer: None,
        greeting=lambda key: HelloRequest(teaches=teaches),
        ask=lambda *rest, **more: SimpleNamespace(message=SimpleNamespace(body=answer, buffers=())),
        fetch=lambda reply: tensors.encode({"logits": torch.zeros(shape)}),
    )
    return Guest(crew, "guest", "a" * 40)  # type: ignore[arg-type]


def test_logits_are_of_the_images_and_classes_that_were_asked_about() -> None:
    assert guest(SOFT_TARGETS, 2, 3, 1, 1).soft_targets(IMAGES, num_classes=3).shape == (2, 3, 1, 1)
    for shape in ((1, 3, 1, 1), (3, 3, 1, 1), (2, 4, 1, 1), (2, 3, 1), (2, 3, 0, 1)):
        with pytest.raises(ContractError, match="logits"):
            guest(SOFT_TARGETS, *shape).soft_targets(IMAGES, num_classes=3)


@pytest.mark.parametrize("change", [{"weights": OTHERS}, {"kind": "feature_maps"}], ids=str)
def test_logits_are_those_of_the_weights_that_were_asked(change: dict[str, str]) -> None:
    with pytest.raises(ContractError, match="knowledge"):
        guest(SOFT_TARGETS.model_copy(update=change), 2, 3, 1, 1).soft_targets(IMAGES, num_classes=3)


@pytest.mark.parametrize("change", [{"weights": OTHERS}, {"num_images": 1}, {"predicted": (1.0,)}], ids=str)
def test_an_assessment_is_of_the_images_classes_and_weights_that_were_asked_about(change: dict[str, Any]) -> None:
    assert guest(ASSESSMENT).assess(IMAGES, num_classes=3) == ASSESSMENT
    with pytest.raises(ContractError, match=r"weights|images"):
        guest(ASSESSMENT.model_copy(update=change)).assess(IMAGES, num_classes=3)
    if "weights" in change:
        learner = guest(ASSESSMENT.model_copy(update=change), teaches="")
        assert learner.assess(IMAGES, num_classes=3).weights == OTHERS, "it has greeted with none"
