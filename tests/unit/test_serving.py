"""What an agent hands over goes to whom it is granted, is what was asked for, and is noted before it leaves."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from serving_agent import PATIENCE_S, SOURCE, TASK, ServingAgent

from agentkd.agents.saying import keep_said
from agentkd.canonical import digest_bytes
from agentkd.errors import (
    ArtifactCorruptError,
    ArtifactNotFoundError,
    ConfigError,
    ContractError,
    RemoteAgentError,
    RemoteProtocolError,
    Rule,
    StorageError,
)
from agentkd.exchange.pieces import Carrier
from agentkd.knowledge import tensors
from agentkd.knowledge.images import encode_images
from agentkd.messages.bodies import (
    AdmittedPeer,
    AssessReply,
    AssessRequest,
    KnowledgeKind,
    KnowledgeRequest,
    Way,
)
from agentkd.recipe import ViewSettings


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServingAgent]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    made = ServingAgent(tmp_path)
    yield made
    made.close()


def of_views(**changes: Any) -> dict[str, Any]:
    views = {"dataset": SOURCE.content_digest, "views": ((0, 11),), "view_settings": ViewSettings(crop_height=32, crop_width=32)}
    return {"kind": KnowledgeKind.SOFT_TARGETS} | views | changes


def test_soft_targets_are_the_networks_and_are_noted(agent: ServingAgent) -> None:
    agent.teach()
    first, data = agent.hand_over(**of_views())
    again, _ = agent.hand_over(**of_views())
    assert first.weights == agent.weights and first.kind is KnowledgeKind.SOFT_TARGETS and first.piece.size_bytes == len(data)
    assert not first.is_cached and again.is_cached and first.teacher_s > 0
    assert tensors.decode(data)["logits"].shape[:2] == (1, 5)
    assert [(line["kind"], line["outcome"], line["digest"]) for line in agent.noted()] == [
        ("soft_targets", "served", agent.weights)
    ] * 2


@pytest.mark.parametrize("teaches", [True, False], ids=["from memory", "from the store"])
def test_weights_are_those_asked_for(agent: ServingAgent, teaches: bool) -> None:
    other = agent.store(seed=2)
    if teaches:
        agent.teach()
    for wanted in (agent.weights, other):
        reply, data = agent.hand_over(kind=KnowledgeKind.WEIGHTS, weights=wanted)
        assert digest_bytes(data) == wanted == reply.weights
    assert [line["digest"] for line in agent.noted()] == [agent.weights, other]


def test_what_a_student_said_in_a_step_is_read_from_its_file(agent: ServingAgent) -> None:
    said = tensors.encode({"logits": torch.zeros(1, 5, 2, 2)}, {"weights": agent.weights})
    place = agent.folder.said(TASK, 3)
    place.parent.mkdir(parents=True)
    keep_said(place, said)
    reply, data = agent.hand_over(kind=KnowledgeKind.SOFT_TARGETS, weights=TASK, step=3)
    assert data == said and reply.weights == agent.weights
    assert [line["outcome"] for line in agent.noted()] == ["served"]
    with pytest.raises(ArtifactNotFoundError):
        agent.hand_over(kind=KnowledgeKind.SOFT_TARGETS, weights=TASK, step=4)
    place.write_bytes(place.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactCorruptError):
        agent.hand_over(kind=KnowledgeKind.SOFT_TARGETS, weights=TASK, step=3)
    assert not place.exists(), "nobody hears it any more"


def test_what_cannot_be_noted_is_not_handed_over(agent: ServingAgent) -> None:
    agent.log.mkdir()
    with pytest.raises(StorageError):
        agent.hand_over(kind=KnowledgeKind.WEIGHTS)
    assert agent.peer.inbox.empty()


def test_what_it_does_not_teach_or_have_is_refused(agent: ServingAgent) -> None:
    with pytest.raises(ArtifactNotFoundError, match="teaches nothing now"):
        agent.hand_over(**of_views())
    agent.teach()
    for fields, error in (
        ({"kind": KnowledgeKind.ASSESSMENT}, ConfigError),
        ({"kind": KnowledgeKind.WEIGHTS, "weights": "9" * 64}, ArtifactNotFoundError),
        (of_views(weights="9" * 64), ContractError),
    ):
        with pytest.raises(error):
            agent.hand_over(**fields)
    with pytest.raises(RemoteProtocolError, match="2 buffers"):
        agent.hand_over(b"a", b"b", **of_views())
    assert agent.noted() == []


def test_an_assessment_needs_images_and_is_noted(agent: ServingAgent) -> None:
    agent.teach()
    request, images = AssessRequest(num_classes=5), encode_images(torch.rand(2, 3, 32, 32))
    asked = agent.asked(request, images)
    agent.serving.assess(asked, request)
    message = agent.peer.inbox.get(timeout=PATIENCE_S).message
    assert (
        isinstance(message.body, AssessReply)
        and message.parent_id == asked.message.msg_id
        and message.body.weights == agent.weights
    )
    assert [(line["kind"], line["size_bytes"], line["outcome"]) for line in agent.noted()] == [
        ("assessment", len(images), "served")
    ]
    with pytest.raises(RemoteProtocolError, match="needs the images"):
        agent.serving.assess(agent.asked(request), request)


def test_who_may_not_have_it_is_refused_also_where_that_cannot_be_noted(agent: ServingAgent) -> None:
    agent.side.post.admit([AdmittedPeer(agent="ann", public_key=agent.peer.key, may=("soft_targets",))])
    agent.log.mkdir()
    with pytest.raises(RemoteProtocolError) as refused:
        agent.serving.check_grant(agent.asked(AssessRequest(num_classes=5)), "assessment", "ab" * 32)
    assert refused.value.rule is Rule.GRANT


def test_who_may_not_have_it_is_refused_and_that_is_noted(agent: ServingAgent) -> None:
    agent.side.post.admit([AdmittedPeer(agent="ann", public_key=agent.peer.key, may=("soft_targets",))])
    request = agent.asked(AssessRequest(num_classes=5))
    agent.serving.check_grant(request, "soft_targets", agent.weights)
    assert agent.noted() == []
    with pytest.raises(RemoteProtocolError) as refused:
        agent.serving.check_grant(request, "weights", agent.weights)
    assert refused.value.rule is Rule.GRANT
    [line] = agent.noted()
    assert (line["outcome"], line["kind"], line["digest"], line["size_bytes"]) == ("refused", "weights", agent.weights, 0)


def test_a_teacher_that_is_asked_for_again_is_not_built_again_but_learns_of_other_data(agent: ServingAgent) -> None:
    agent.teach(data=None)
    teacher = agent.serving._teacher
    assert agent.obtained == [agent.weights]
    agent.teach()
    assert agent.serving._teacher is teacher and agent.obtained == [agent.weights]
    assert agent.hand_over(**of_views())[0].weights == agent.weights
    other = agent.store(seed=2)
    agent.teach(other)
    assert agent.serving._teacher is not teacher and agent.obtained == [agent.weights, other]
    agent.serving.forget()
    agent.serving.forget()
    with pytest.raises(ArtifactNotFoundError):
        agent.hand_over(**of_views(weights=other))


def test_streams_of_weights_and_of_soft_targets_are_held_to_the_grant_and_noted_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    agent = ServingAgent(tmp_path, "tcp://127.0.0.1:*", ways=(Way.STREAM,))
    taking = Carrier(agent.peer.post, None, ways=(Way.STREAM,))
    may = ["weights", "soft_targets"]
    try:
        agent.teach()
        said = agent.folder.said(TASK, 3)
        said.parent.mkdir(parents=True)
        keep_said(said, tensors.encode({"logits": torch.zeros(1, 5, 2, 2)}, {"weights": agent.weights}))
        other = agent.store(seed=2)
        asked = {"weights": ({}, {"weights": other}), "soft_targets": (of_views(), {"weights": TASK, "step": 3})}
        for kind, every in asked.items():
            for fields in every:
                agent.side.post.admit([AdmittedPeer(agent="ann", public_key=agent.peer.key, may=may)])
                wanted = {"weights": agent.weights, "num_classes": 5, "kind": kind, "ways": (Way.STREAM,)} | fields
                request = KnowledgeRequest(**wanted)
                agent.serving.hand_over(agent.asked(request), request)
                reply = agent.peer.inbox.get(timeout=PATIENCE_S).message.body
                taking.fetch(agent.side.key, reply.piece).release()
                [served, streamed] = agent.noted()
                assert (served["outcome"], streamed["outcome"], streamed["way"]) == ("served", "streamed", "stream")
                assert (streamed["kind"], streamed["digest"], streamed["name"]) == (kind, request.weights, "ann")
                assert streamed["size_bytes"] == reply.piece.size_bytes
                agent.side.post.admit([AdmittedPeer(agent="ann", public_key=agent.peer.key, may=[m for m in may if m != kind])])
                with pytest.raises(RemoteAgentError, match=f"may not fetch {kind}"):
                    taking.fetch(agent.side.key, reply.piece)
                assert [line["outcome"] for line in agent.noted()[2:]] == ["refused"]
                agent.log.unlink()
    finally:
        taking.close()
        agent.close()
