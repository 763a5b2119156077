"""Clauses on the kinds of knowledge that an agent may hand over or not: its architecture, data, and kinds of later versions."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from agentkd.architecture import Architecture
from agentkd.canonical import digest_bytes
from agentkd.conformance.clause import Clause, expect, is_there
from agentkd.conformance.knowing import ANSWER_S, UNKNOWN, Subject, handed_over, of_a_teacher
from agentkd.conformance.pieces import METADATA, header_of, names_in
from agentkd.conformance.probe import BrokenClauseError, Probe
from agentkd.datasets.shared import MAX_HEAD_BYTES, MAX_PACKED_BYTES, SharedDataset
from agentkd.errors import DatasetError
from agentkd.messages.bodies import ErrorReply, KnowledgeKind, KnowledgeReply, KnowledgeRequest, Way
from agentkd.names import NO_DIGEST, Digest
from agentkd.plain import read_json


def sharing(num_classes: int) -> list[Clause]:
    """What may be handed over besides weights and what is made of images."""

    def clause(name: str, text: str, check: Callable[[Probe, Subject], str | None]) -> Clause:
        return Clause(name, text, of_a_teacher(check, num_classes))

    return [
        clause("knowledge.kind", "a kind of knowledge that does not exist is refused, and the agent lives on", _unknown_kind),
        clause("knowledge.architecture", "an architecture is that of the weights asked for, or is refused", _architecture),
        clause("knowledge.data", "data have the digest that is told and are a dataset, or are refused", _data),
    ]


def _unknown_kind(probe: Probe, subject: Subject) -> None:
    plain = subject.asking().model_dump(mode="json") | {"kind": "of_a_later_version"}
    answer = probe.hear(probe.say_plain(KnowledgeRequest, plain), timeout_s=ANSWER_S).body
    expect(isinstance(answer, ErrorReply), f"it was answered with {type(answer).__name__}")
    is_there(probe)


def _architecture(probe: Probe, subject: Subject) -> str:
    found = _asked(probe, KnowledgeKind.ARCHITECTURE, subject.weights)
    if isinstance(found, str):
        return found
    other = _asked(probe, KnowledgeKind.ARCHITECTURE, UNKNOWN)
    expect(isinstance(other, str), "an architecture of weights that are not taught was handed over")
    expect(not names_in(found), f"there are tensors in it: {', '.join(sorted(names_in(found))[:3])}")
    try:
        said = read_json(str(header_of(found).get(METADATA, {}).get("agentkd", "{}")))
        architecture = Architecture.model_validate(said["architecture"])
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        raise BrokenClauseError(f"the piece says no architecture: {str(error).splitlines()[0]}") from error
    told, classes = architecture.num_classes, said.get("classes") or [*probe.heard_hello.classes]
    expect(said.get("kind") == "architecture", f"its kind is {said.get('kind')!r}")
    expect(told == subject.num_classes, f"it is of {told} classes, and {subject.num_classes} are told apart")
    own = [*probe.heard_hello.classes]
    expect(not own or classes == own, "its classes are others than those of the greeting")
    return f"{architecture.family} of {told} classes"


def _data(probe: Probe, subject: Subject) -> str:
    unknown = _asked(probe, KnowledgeKind.DATA, subject.weights, dataset=UNKNOWN)
    expect(isinstance(unknown, str), "data that are not there were handed over")
    found = _asked(probe, KnowledgeKind.DATA, subject.weights)
    if isinstance(found, str):
        return found
    expect(len(found) <= MAX_PACKED_BYTES + MAX_HEAD_BYTES, f"they have {len(found):,} octets")
    digest = digest_bytes(found)
    again = _asked(probe, KnowledgeKind.DATA, subject.weights, dataset=digest)
    expect(again == found, f"asked for by their digest they are refused, or others: {again if isinstance(again, str) else ''}")
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "data"
        file.write_bytes(found)
        try:
            splits = {name: len(indices) for name, indices in SharedDataset(file, digest).splits.items()}
        except DatasetError as error:
            raise BrokenClauseError(str(error)) from error
    return ", ".join(f"{count} in {name}" for name, count in splits.items())


def _asked(probe: Probe, kind: KnowledgeKind, weights: Digest, *, dataset: Digest = NO_DIGEST) -> bytes | str:
    """The piece that was handed over, or why none was."""
    request = KnowledgeRequest(kind=kind, weights=weights, dataset=dataset, ways=(Way.INLINE,))
    answer = probe.ask(request, timeout_s=ANSWER_S)
    if isinstance(answer.body, ErrorReply):
        return f"refused: {answer.body.text}"
    reply, data = handed_over(answer)
    told = _about(reply)
    expect(told == (kind, weights), f"asked for {kind} of {weights[:12]}, it hands over {told[0]} of {told[1][:12]}")
    expect(digest_bytes(data) == reply.piece.sha256, "the piece does not have its digest")
    return data


def _about(reply: KnowledgeReply) -> tuple[KnowledgeKind, Digest]:
    return reply.kind, reply.weights
