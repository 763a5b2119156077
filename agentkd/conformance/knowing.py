"""Clauses on assessments and knowledge: whose it is, of how many classes, in which numbers, of which images, by which way."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from agentkd.architecture import MAX_CLASS_NAME
from agentkd.canonical import digest_bytes
from agentkd.conformance.clause import Clause, expect, expect_error
from agentkd.conformance.pieces import IMAGES, SIDE, flat_images, images, logits_in, numbers_in
from agentkd.conformance.probe import BrokenClauseError, Probe
from agentkd.messages.bodies import (
    AssessReply,
    AssessRequest,
    Body,
    ErrorReply,
    KnowledgeKind,
    KnowledgeReply,
    KnowledgeRequest,
    Way,
)
from agentkd.messages.wire import Message
from agentkd.names import NO_DIGEST, Digest

UNKNOWN = Digest("0" * 64)
ANSWER_S = 60.0
MANY_TOLERANCE = 0.02
LEVELS = (0.0, 0.0, 0.3, 1.0)  # gray images; unlike each other, and no order of them is another one's mirror image
SHARE_TOLERANCE = 0.05  # numbers that are almost equal may be rounded otherwise
BASES = (math.e, 2.0, 10.0)
LOGARITHM_TOLERANCE = 1e-3
TEACHES_NOTHING = "the agent teaches nothing"
FORMATS = {"float32": "F32", "float16": "F16"}


@dataclass(frozen=True)
class Subject:
    """What an agent teaches, as it says itself."""

    weights: Digest
    num_classes: int

    def asking(self, **changes: Any) -> KnowledgeRequest:
        """A request for soft targets, with other values in some fields."""
        fields: dict[str, Any] = {
            "kind": KnowledgeKind.SOFT_TARGETS,
            "weights": self.weights,
            "num_classes": self.num_classes,
            "codec": "float32",
        }
        return KnowledgeRequest(**(fields | changes))


def of_a_teacher(check: Callable[[Probe, Subject], str | None], num_classes: int) -> Callable[[Probe], str | None]:
    """The check of a clause that binds teachers alone."""

    def check_if_it_teaches(probe: Probe) -> str | None:
        weights = _taught(probe, num_classes)
        return check(probe, Subject(weights, num_classes)) if weights else TEACHES_NOTHING

    return check_if_it_teaches


def _taught(probe: Probe, num_classes: int) -> Digest:
    """What it teaches: if greeting and assessment name different weights, those by which it gives soft targets."""
    if probe.taught is None:
        answer = probe.ask(AssessRequest(num_classes=num_classes), buffers=(images(),), timeout_s=ANSWER_S).body
        greeted, assessed = probe.heard_hello.teaches, answer.weights if isinstance(answer, AssessReply) else NO_DIGEST
        are_asked = greeted and assessed and greeted != assessed
        probe.taught = assessed if are_asked and _teaches(probe, Subject(assessed, num_classes)) else greeted or assessed
    return probe.taught


def _teaches(probe: Probe, subject: Subject) -> bool:
    return isinstance(_ask(probe, subject.asking()), KnowledgeReply)


def knowing(num_classes: int) -> list[Clause]:
    """What is known, and by whom it may be learned."""

    def clause(name: str, text: str, check: Callable[[Probe, Subject], str | None]) -> Clause:
        return Clause(name, text, of_a_teacher(check, num_classes))

    return [
        Clause(
            "join.teaches",
            "the weights that the greeting names are those that are taught",
            partial(_greeted, num_classes=num_classes),
        ),
        Clause("assess", "images are assessed, or refused with an error", partial(_assess, num_classes=num_classes)),
        clause("assess.classes", "another number of classes is refused with code contract", _assess_other_classes),
        clause("assess.predicted", "the shares of the classes are those of the largest soft targets", _predicted),
        Clause("knowledge.unknown", "weights that are not there are answered with an error", _unknown_weights),
        clause("knowledge.soft_targets", "images get soft targets of the weights asked for, with their digest", _soft_targets),
        clause("knowledge.finite", "soft targets are finite numbers", _finite),
        clause("knowledge.raw", "soft targets are raw logits, neither probabilities nor their logarithms", _raw),
        clause("knowledge.many", "many images are answered as few are, each of them", _many),
        clause("knowledge.images", "soft targets are of the images that were sent", _of_the_images),
        clause("knowledge.same", "the same request gets the same bytes", _same),
        clause(
            "knowledge.codec", "numbers are of the type asked for, and an unknown codec is refused with code contract", _codecs
        ),
        clause("knowledge.weights", "soft targets of other weights are refused with code contract", _other_weights),
        clause("knowledge.classes", "another number of classes is refused with code contract", _other_classes),
        clause(
            "knowledge.class_names",
            "other names of classes than those of the greeting are refused with code contract",
            _class_names,
        ),
        clause("knowledge.dataset", "views of an unknown dataset are refused with code dataset or contract", _other_dataset),
        clause("knowledge.way", "a piece goes by one of the ways that were named", _ways),
        clause("knowledge.unknown_fields", "unknown fields are ignored, inside of others too", _more_fields),
        clause("knowledge.file", "weights that are handed over have the digest asked for", _file),
        clause("images.form", "what is no images [N,3,H,W] of finite float32 is refused", _other_images),
        clause("images.range", "images outside of [0, 1] are refused with code contract", _images_out_of_range),
    ]


def soft_targets(probe: Probe, request: KnowledgeRequest, pixels: bytes = b"") -> tuple[KnowledgeReply, bytes]:
    """A piece and its bytes, if it came inline.

    Raises:
        BrokenClauseError: an error came instead.
    """
    return handed_over(probe.ask(request, buffers=(pixels or images(),), timeout_s=ANSWER_S))


def handed_over(answer: Message) -> tuple[KnowledgeReply, bytes]:
    """The piece in an answer, and its bytes, if it came inline.

    Raises:
        BrokenClauseError: there is none.
    """
    if not isinstance(answer.body, KnowledgeReply):
        text = f": {answer.body.text}" if isinstance(answer.body, ErrorReply) else ""
        raise BrokenClauseError(f"a request for knowledge was answered with {type(answer.body).__name__}{text}")
    return answer.body, bytes(answer.buffers[0]) if answer.buffers else b""


def _greeted(probe: Probe, num_classes: int) -> str | None:
    teaches = probe.heard_hello.teaches
    if not teaches:
        return "the greeting names none"
    expect(
        teaches == _taught(probe, num_classes), f"the greeting names {teaches[:12]}, {_taught(probe, num_classes)[:12]} is taught"
    )
    answer = _ask(probe, Subject(teaches, num_classes).asking())
    text = f"{answer.code}: {answer.text[:80]}" if isinstance(answer, ErrorReply) else type(answer).__name__
    expect(isinstance(answer, KnowledgeReply), f"soft targets of the weights that the greeting names were answered with {text}")
    return None


def _assess(probe: Probe, num_classes: int) -> str:
    answer = probe.ask(AssessRequest(num_classes=num_classes), buffers=(images(),), timeout_s=ANSWER_S).body
    if isinstance(answer, ErrorReply):
        return f"refused: {answer.text}"
    if not isinstance(answer, AssessReply):
        raise BrokenClauseError(f"answered with {type(answer).__name__}")
    taught = _taught(probe, num_classes)
    expect(taught == answer.weights, f"it teaches {taught[:12]}, here it is {answer.weights[:12]}")
    expect(answer.num_images == IMAGES, f"{answer.num_images} images instead of {IMAGES}")
    expect(len(answer.predicted) == num_classes, f"{len(answer.predicted)} classes instead of {num_classes}")
    expect(abs(sum(answer.predicted) - 1) < 1e-3, "the shares of the classes do not add up to one")
    return f"known {answer.known_fraction}"


def _assess_other_classes(probe: Probe, subject: Subject) -> str:
    request = AssessRequest(num_classes=subject.num_classes + 1)
    return expect_error(probe.ask(request, buffers=(images(),), timeout_s=ANSWER_S).body, "contract")


def _predicted(probe: Probe, subject: Subject) -> str | None:
    """Where logits are equal either class may be counted."""
    for what, pixels in (("gray images", flat_images(LEVELS)), ("a pattern", images())):
        answer = probe.ask(AssessRequest(num_classes=subject.num_classes), buffers=(pixels,), timeout_s=ANSWER_S).body
        if isinstance(answer, ErrorReply):
            return f"refused: {answer.text}"
        expect(isinstance(answer, AssessReply), f"answered with {type(answer).__name__}")
        told = getattr(answer, "predicted", ())
        taught = numbers_in(soft_targets(probe, subject.asking(), pixels)[1])
        if len(taught.shape) != 4 or taught.shape[1] != len(told):
            return f"logits of shape {taught.shape} have nothing to compare"
        pixelwise = list(taught.of_pixels())
        for number, share in enumerate(told):
            largest = [logits for logits in pixelwise if logits[number] == max(logits)]
            least = sum(logits.count(logits[number]) == 1 for logits in largest) / len(pixelwise)
            most = len(largest) / len(pixelwise)
            is_so = least - SHARE_TOLERANCE <= share <= most + SHARE_TOLERANCE
            expect(is_so, f"{what}: the share of class {number} is {share:.3f}, by its soft targets it is {most:.3f}")
    return None


def _many(probe: Probe, subject: Subject) -> None:
    """Three times the same few at once; what computes them together may round them otherwise."""
    few = numbers_in(soft_targets(probe, subject.asking(), flat_images(LEVELS))[1])
    many = numbers_in(soft_targets(probe, subject.asking(), flat_images(3 * LEVELS))[1])
    expect(many.shape == [3 * few.shape[0], *few.shape[1:]], f"of {3 * len(LEVELS)} images: {many.shape}; of few: {few.shape}")
    room = MANY_TOLERANCE * max(1.0, *map(abs, few.values))
    for number in range(3 * len(LEVELS)):
        pairs = zip(many.of_image(number), few.of_image(number % len(LEVELS)), strict=True)
        apart = max(abs(here - there) for here, there in pairs)
        expect(apart <= room, f"image {number} of {3 * len(LEVELS)} is answered otherwise than among {len(LEVELS)}")
    request = AssessRequest(num_classes=subject.num_classes)
    answer = probe.ask(request, buffers=(flat_images(3 * LEVELS),), timeout_s=ANSWER_S).body
    told = answer.num_images if isinstance(answer, AssessReply) else 3 * len(LEVELS)
    expect(told == 3 * len(LEVELS), f"it assesses {told} images of {3 * len(LEVELS)}")


def _unknown_weights(probe: Probe) -> None:
    probe.want(ErrorReply, KnowledgeRequest(kind=KnowledgeKind.WEIGHTS, weights=UNKNOWN))


def _soft_targets(probe: Probe, subject: Subject) -> str:
    reply, data = soft_targets(probe, subject.asking())
    expect(reply.kind is KnowledgeKind.SOFT_TARGETS, f"the reply is of kind {reply.kind}")
    expect(reply.weights == subject.weights, f"the reply names the weights {reply.weights[:12]}, not {subject.weights[:12]}")
    expect(len(data) == reply.piece.size_bytes, f"{len(data)} bytes came, the piece says {reply.piece.size_bytes}")
    expect(digest_bytes(data) == reply.piece.sha256, "the piece does not have its digest")
    _, shape, _ = logits_in(data)
    expect(len(shape) == 4 and shape[:2] == [IMAGES, subject.num_classes], f"logits of shape {shape}")
    return f"logits {shape}"


def _finite(probe: Probe, subject: Subject) -> None:
    for codec in FORMATS:
        numbers = numbers_in(soft_targets(probe, subject.asking(codec=codec))[1])
        strange = [value for value in numbers.values if not math.isfinite(value)]
        expect(not strange, f"{len(strange)} of the logits in {codec} are {strange[0] if strange else 0}")


def _raw(probe: Probe, subject: Subject) -> str | None:
    """Logits may be of any size; only what went through a softmax adds up to the same in every pixel, it or its powers.

    Whether they were divided by a temperature, shifted, or put through a sigmoid cannot be known from them alone.
    """
    if subject.num_classes < 2:
        return "of one class there is nothing to be seen"
    asked = (soft_targets(probe, subject.asking(), pixels)[1] for pixels in (images(), flat_images(LEVELS)))
    pixelwise = [logits for data in asked for logits in numbers_in(data).of_pixels()]
    sums = [sum(logits) for logits in pixelwise]
    whole = sums[0] if len(set(pixelwise)) > 1 else 1.0  # what is the same everywhere adds up to something
    are_shares = all(min(logits) >= 0 for logits in pixelwise) and all(abs(one - whole) < 1e-3 * whole for one in sums)
    expect(not are_shares, f"in every pixel none is below zero and they add up to {whole:g}, as after a softmax")
    for base in BASES:
        is_logarithm = all(abs(_logarithm_of_sum(logits, base)) < LOGARITHM_TOLERANCE for logits in pixelwise)
        expect(
            not is_logarithm,
            f"in every pixel the powers of {base:.3g} by them add up to one, as after the logarithm of a softmax",
        )
    return None


def _logarithm_of_sum(logits: tuple[float, ...], base: float) -> float:
    """Of the powers of a base; no number if a logit is none."""
    largest = max(logits)
    total = sum(base ** (logit - largest) for logit in logits) if math.isfinite(largest) else math.nan
    return largest + math.log(total, base) if total > 0 else math.nan


def _of_the_images(probe: Probe, subject: Subject) -> None:
    """A network may make the same of some images, or of all pixels of one, but not of everything that there is."""
    made = set()
    for pixels in (images(), flat_images(LEVELS)):
        made |= set(numbers_in(soft_targets(probe, subject.asking(), pixels)[1]).of_pixels())
    expect(len(made) > 1, "every pixel of every image got the same logits")


def _same(probe: Probe, subject: Subject) -> None:
    first, second = (soft_targets(probe, subject.asking())[1] for _ in range(2))
    expect(first == second, "the same request got other bytes")


def _codecs(probe: Probe, subject: Subject) -> str:
    for codec, dtype in FORMATS.items():
        found, *_ = logits_in(soft_targets(probe, subject.asking(codec=codec))[1])
        expect(found == dtype, f"codec {codec} was answered with numbers of type {found}")
    return expect_error(_ask(probe, subject.asking(codec="of_a_later_version")), "contract")


def _other_weights(probe: Probe, subject: Subject) -> str:
    return expect_error(_ask(probe, subject.asking(weights=UNKNOWN)), "contract")


def _other_classes(probe: Probe, subject: Subject) -> str:
    return expect_error(_ask(probe, subject.asking(num_classes=subject.num_classes + 1)), "contract")


def _class_names(probe: Probe, subject: Subject) -> str | None:
    """Other names and another order are refused; the same names, and none, are not."""
    own = probe.heard_hello.classes
    if not own:
        return "the greeting names no classes"
    expect(len(own) == subject.num_classes, f"the greeting names {len(own)} classes, {subject.num_classes} are told apart")
    for same in (own, ()):
        soft_targets(probe, subject.asking(classes=same))
    others = [tuple(f"another {name}"[:MAX_CLASS_NAME] for name in own), (*own[:-1], "another")]
    others += [tuple(reversed(own)), (*own[1:], own[0])] if len(own) > 1 else []
    for other in others:
        text = expect_error(_ask(probe, subject.asking(classes=other)), "contract")
    return text


def _other_dataset(probe: Probe, subject: Subject) -> str:
    return expect_error(probe.ask(subject.asking(dataset=UNKNOWN, views=((0, 1),))).body, "dataset", "contract")


def _ways(probe: Probe, subject: Subject) -> str:
    taken = []
    for ways in ((Way.INLINE,), (Way.STREAM,), (Way.STREAM, Way.INLINE), ()):
        answer = probe.ask(subject.asking(ways=ways), buffers=(images(),), timeout_s=ANSWER_S)
        if isinstance(answer.body, ErrorReply):
            continue
        reply, data = handed_over(answer)
        named = " or ".join(ways) or "none"
        expect(reply.piece.way in ways, f"a piece that could go by {named} went by {reply.piece.way}")
        expect(
            bool(data) == (reply.piece.way is Way.INLINE), f"by the way {reply.piece.way} there came {len(data)} bytes at once"
        )
        taken.append(reply.piece.way)
    return ", ".join(dict.fromkeys(taken)) or "none was taken"


def _more_fields(probe: Probe, subject: Subject) -> None:
    unknown: dict[str, Any] = {"of_a_later_version": [{}]}
    plain = subject.asking().model_dump(mode="json")
    plain |= unknown | {"payloads": [{"form": "logits", "tap": "", "size": 0} | unknown]}
    plain["view_settings"] |= unknown
    _, data = handed_over(probe.hear(probe.say_plain(KnowledgeRequest, plain, (images(),)), timeout_s=ANSWER_S))
    logits_in(data)


def _file(probe: Probe, subject: Subject) -> str:
    request = KnowledgeRequest(kind=KnowledgeKind.WEIGHTS, weights=subject.weights)
    answer = probe.ask(request, timeout_s=ANSWER_S)
    if isinstance(answer.body, ErrorReply):
        return f"refused: {answer.body.text}"
    _, data = handed_over(answer)
    expect(digest_bytes(data) == subject.weights, f"the weights that came are {digest_bytes(data)[:12]}")
    return f"{len(data)} bytes"


def _other_images(probe: Probe, subject: Subject) -> None:
    wrong = {
        "no safetensors file": b"AKDP",
        "one channel": images(shape=(1, 1, SIDE, SIDE)),
        "three dimensions": images(shape=(3, SIDE, SIDE)),
        "no images at all": images(shape=(0, 3, SIDE, SIDE)),
        "another name": images(name="pictures"),
        "octets missing": images()[:-4],
        "numbers that are none": images(high=math.nan),
    }
    for what, data in wrong.items():
        for request in (subject.asking(), AssessRequest(num_classes=subject.num_classes)):
            _must_refuse(probe, request, data, what)


def _images_out_of_range(probe: Probe, subject: Subject) -> None:
    for low, high in ((0.0, 255.0), (-2.0, 1.0), (0.0, 1.01)):
        for request in (subject.asking(), AssessRequest(num_classes=subject.num_classes)):
            _must_refuse(probe, request, images(low=low, high=high), f"images from {low:g} to {high:g}", "contract")


def _must_refuse(probe: Probe, request: Body, data: bytes, what: str, code: str = "") -> None:
    answer = probe.ask(request, buffers=(data,), timeout_s=ANSWER_S).body
    is_refused = isinstance(answer, ErrorReply) and code in ("", answer.code)
    expect(is_refused, f"{what}: {type(request).__name__} was answered with {getattr(answer, 'code', type(answer).__name__)}")


def _ask(probe: Probe, request: KnowledgeRequest) -> Body:
    return probe.ask(request, buffers=(images(),), timeout_s=ANSWER_S).body
