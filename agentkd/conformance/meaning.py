"""Clauses on what numbers mean: of which image, of which place in it, in which codec, and what weights say of themselves.

What needs the network itself cannot be seen from outside, and no clause looks at it: whether red was taken for blue, whether
logits were divided by a temperature, shifted, or put through a sigmoid, and whether class k is the dataset's.
"""

import itertools
import json
import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from agentkd.conformance.clause import Clause, expect
from agentkd.conformance.knowing import ANSWER_S, Subject, handed_over, of_a_teacher, soft_targets
from agentkd.conformance.pieces import LOGITS, METADATA, SIDE, Numbers, end_of, file_of, header_of, images, names_in, numbers_in
from agentkd.conformance.probe import Probe
from agentkd.messages.bodies import ErrorReply, KnowledgeKind, KnowledgeRequest

NOT_THE_SAME = "the same request gets other bytes, or none that are numbers: nothing to be compared"
SPREAD_TOLERANCE = 0.02  # of the logits' spread: other batches are reckoned in another order, some with shorter numbers
MOSTLY = 0.5  # of what changes must lie elsewhere than it belongs; whoever looks at the whole image is not blamed
BEFORE, CORNER = 0.5, 3 * SIDE // 8  # of the pixels; how large the square is that is changed
SHIFT, TINY = 1e-3, 1e-4  # relative and absolute roundings
TOLERANCES = {"bfloat16": 1e-2}  # by codec, whatever type of numbers came
LARGEST = {"F16": 65_504.0, "BF16": 3.3895e38, "F32": 3.4028e38}
MOST_KL = 0.05
OTHER_CODECS = ("bfloat16", "int8", "top1", "top2", "top4", "top8", "auto")  # of which a teacher need not know any
FILES_OF_CODECS = ({LOGITS}, {"logits.int8", "logits.scale"}, {"logits.values", "logits.indices", "logits.tail"})


def meaning(num_classes: int) -> list[Clause]:
    """What is in a piece."""

    def clause(name: str, text: str, check: Callable[[Probe, Subject], str | None]) -> Clause:
        return Clause(name, text, of_a_teacher(check, num_classes))

    return [
        clause("knowledge.tensors", "a piece has the tensors of its codec and no others", _tensors),
        clause("knowledge.each", "each image has its own logits, in the order of the images, whatever else is asked for", _each),
        clause("knowledge.places", "logits lie as their pixels do: row 0 is the top, column 0 the left", _places),
        clause("knowledge.values", "every codec says the same numbers, within its rounding", _values),
        clause("knowledge.about", "weights say of themselves what is said of them", _about),
    ]


def _tensors(probe: Probe, subject: Subject) -> None:
    for codec in ("float32", "float16", *OTHER_CODECS):
        data = _written(probe, subject, codec, images())
        if data is None:
            continue
        names = names_in(data)
        expect(names in FILES_OF_CODECS, f"a piece in {codec} has the tensors {', '.join(sorted(names)) or 'none'}")
        end = end_of(data)
        expect(end == len(data), f"a piece in {codec} has {len(data)} octets, its tensors end at {end}")


def _each(probe: Probe, subject: Subject) -> str | None:
    """Each of three images alone, and all of them in two orders."""
    pictures = [_noise(seed) for seed in range(3)]
    alone = [_logits(probe, subject, [picture]) for picture in pictures]
    if not _are_the_same(probe, subject, [pictures[0]], alone[0]):
        return NOT_THE_SAME
    values = [value for one in alone for value in one.values]
    allowed = SPREAD_TOLERANCE * (max(values) - min(values)) + TINY
    for order in ((0, 1, 2), (2, 0, 1)):
        together = _logits(probe, subject, [pictures[number] for number in order])
        if len(together.shape) != 4 or together.shape[0] != len(order):
            return f"logits of shape {together.shape} have nothing to be compared"
        for place, number in enumerate(order):
            here = together.of_image(place)
            whose = [other for other in range(3) if _distance(here, alone[other].values) <= allowed]
            those = f"those of image {whose[0]}" if whose else "none of any image alone"
            expect(number in whose, f"image {number} of {order} got other logits than alone: {those}")
    return None


def _places(probe: Probe, subject: Subject) -> str | None:
    """Where a corner of an image is changed, there its logits must change, and not as if corners were exchanged.

    Each sum has every changed corner once and every corner of the logits once, so that no corner counts for more than another.
    """
    before = _logits(probe, subject, [_noise()])
    if not _are_the_same(probe, subject, [_noise()], before):
        return NOT_THE_SAME
    if len(before.shape) != 4 or min(before.shape[2:]) < 2:
        return f"logits of shape {before.shape} have no corners"
    changes = [_changes(before, _logits(probe, subject, [_noise(7, corner)])) for corner in range(4)]
    sums = {order: sum(changes[corner][order[corner]] for corner in range(4)) for order in itertools.permutations(range(4))}
    right, (likeliest, most) = sums[0, 1, 2, 3], max(sums.items(), key=lambda one: one[1])
    if not most:
        return "the images that were asked about change nothing"
    told = f"what changes at the top left, top right, bottom left, bottom right changes logits {_corners(likeliest)}"
    whole = sum(map(sum, changes))
    expect(most <= max(MOSTLY * whole, right), told)
    return f"{100 * right / whole:.0f} % of what changes lies there"


def _values(probe: Probe, subject: Subject) -> str | None:
    data = images(shape=(1, 3, SIDE, SIDE))
    exact = numbers_in(soft_targets(probe, subject.asking(), data)[1])
    if not _is_finite(exact) or numbers_in(soft_targets(probe, subject.asking(), data)[1]) != exact or len(exact.shape) != 4:
        return NOT_THE_SAME
    known = []
    for codec in ("float16", *OTHER_CODECS):
        piece = _written(probe, subject, codec, data)
        if piece is not None and names_in(piece) >= {LOGITS}:
            _agree(codec, exact, numbers_in(piece))
        elif piece is not None and "logits.int8" in names_in(piece):
            _agree_int8(codec, exact, numbers_in(piece, "logits.int8"), numbers_in(piece, "logits.scale"))
        elif piece is not None and "logits.values" in names_in(piece):
            _agree_top(codec, exact, *(numbers_in(piece, f"logits.{part}") for part in ("values", "indices", "tail")))
        known += [codec] if piece is not None else []
    return ", ".join(known)


def _agree(codec: str, exact: Numbers, told: Numbers) -> None:
    """Plain numbers; what is not finite, or of another shape, other clauses tell."""
    rounding, limit = TOLERANCES.get(codec, SHIFT), LARGEST.get(told.dtype, math.inf)
    clamped = [max(-limit, min(limit, value)) for value in exact.values]
    far = [
        (a, b) for a, b in zip(clamped, told.values, strict=False) if math.isfinite(b) and abs(a - b) > rounding * abs(a) + TINY
    ]
    expect(not far, f"{codec} says {far[0][1]:.6g} where float32 says {far[0][0]:.6g}" if far else "")


def _agree_int8(codec: str, exact: Numbers, numbers: Numbers, scale: Numbers) -> None:
    """Logits are told without their mean over the classes, each class in steps of its own."""
    classes, size = exact.shape[1], math.prod(exact.shape[2:])
    fits = numbers.shape == exact.shape and scale.shape == [1, classes, 1, 1]
    expect(fits, f"{codec} has numbers of shape {numbers.shape} and scales of shape {scale.shape}")
    means = [sum(logits) / classes for logits in exact.of_pixels()]
    for number, step in enumerate(scale.values):
        at = slice(number * size, (number + 1) * size)
        centred = [value - mean for value, mean in zip(exact.values[at], means, strict=True)]
        largest = max(map(abs, centred))
        expect(abs(step - largest / 127) <= 0.01 * largest / 127 + TINY, f"{codec}: the scale of class {number} is {step:.4g}")
        furthest = max(abs(step * told - value) for told, value in zip(numbers.values[at], centred, strict=True))
        expect(
            furthest <= 0.51 * step + SHIFT * largest + TINY, f"{codec}: class {number} is {furthest:.4g} off what float32 says"
        )


def _agree_top(codec: str, exact: Numbers, values: Numbers, indices: Numbers, tail: Numbers) -> None:
    """The largest logits, which classes they are of, and what the others come to, all without the largest."""
    count = values.shape[1] if len(values.shape) == 4 else 0
    shapes = [values.shape, indices.shape, tail.shape]
    size = exact.shape[2:]
    expect(
        0 < count < exact.shape[1] and shapes == [[1, count, *size], [1, count, *size], [1, 1, *size]],
        f"{codec} has the shapes {shapes}",
    )
    for logits, tops, classes, (rest,) in zip(*(part.of_pixels() for part in (exact, values, indices, tail)), strict=True):
        ordered, largest = sorted(logits, reverse=True), max(logits)
        chosen = [int(number) for number in classes]
        expect(len(set(chosen)) == count and max(chosen) < len(logits), f"{codec} names the classes {chosen}")
        others = math.log(sum(math.exp(value - largest) for number, value in enumerate(logits) if number not in chosen) or 1e-300)
        right = [*(logits[number] - largest for number in chosen), others]
        wanted = [*(value - largest for value in ordered[:count])]
        is_so = _are_near(right, [*tops, rest]) and _are_near(wanted, right[:count])
        expect(is_so, f"{codec} says {[*tops, rest]} of the classes {chosen}, float32 says {right}")


def _are_near(those: Sequence[float], others: Sequence[float]) -> bool:
    clamped = [max(-LARGEST["F16"], one) for one in those]
    return all(abs(one - other) <= 2 * SHIFT * abs(one) + SHIFT for one, other in zip(clamped, others, strict=True))


def _about(probe: Probe, subject: Subject) -> str:
    """Only what it says can be wrong: the weights of an agent of another kind need not say anything."""
    answer = probe.ask(KnowledgeRequest(kind=KnowledgeKind.WEIGHTS, weights=subject.weights), timeout_s=ANSWER_S)
    if isinstance(answer.body, ErrorReply):
        return f"refused: {answer.body.text[:80]}"
    said = header_of(handed_over(answer)[1]).get(METADATA, {}).get("agentkd")
    if not said:
        return "they say nothing"
    about = _map_of(said)
    expect(about.get("kind", "weights") == "weights", f"they say that they are {about.get('kind')!r}")
    architecture = about.get("architecture")
    classes = architecture.get("num_classes", subject.num_classes) if isinstance(architecture, dict) else subject.num_classes
    expect(classes == subject.num_classes, f"they say that they tell {classes} classes apart, {subject.num_classes} are taught")
    names, greeted = about.get("classes") or [], list(probe.heard_hello.classes)
    expect(not names or not greeted or names == greeted, f"they name the classes {names}, the greeting says {greeted}")
    return f"{', '.join(sorted(about))}"


def _map_of(said: object) -> dict[str, Any]:
    try:
        about = json.loads(said) if isinstance(said, str) else None
    except ValueError:
        about = None
    expect(isinstance(about, dict), f"what they say of themselves is no map in JSON: {str(said)[:80]!r}")
    return about or {}


def _written(probe: Probe, subject: Subject, codec: str, pixels: bytes) -> bytes | None:
    """Soft targets in a codec, or nothing if it is not known; whether it must be, another clause tells."""
    answer = probe.ask(subject.asking(codec=codec, max_kl=MOST_KL), buffers=(pixels,), timeout_s=ANSWER_S)
    return None if isinstance(answer.body, ErrorReply) else handed_over(answer)[1]


def _noise(seed: int | None = None, corner: int | None = None) -> list[float]:
    """An image of pixels by lot; or gray but for one corner (of four, row by row), or all over."""
    lot = random.Random(seed)
    drawn = [lot.choice((0.0, 1.0)) if seed is not None else BEFORE for _ in range(3 * SIDE * SIDE)]
    if corner is None:
        return drawn
    top, left = (SIDE - CORNER) * (corner // 2), (SIDE - CORNER) * (corner % 2)
    rows, columns = range(top, top + CORNER), range(left, left + CORNER)
    return [value if index // SIDE % SIDE in rows and index % SIDE in columns else BEFORE for index, value in enumerate(drawn)]


def _logits(probe: Probe, subject: Subject, pictures: list[list[float]]) -> Numbers:
    pixels = file_of([*itertools.chain.from_iterable(pictures)], (len(pictures), 3, SIDE, SIDE))
    return numbers_in(soft_targets(probe, subject.asking(), pixels)[1])


def _are_the_same(probe: Probe, subject: Subject, pictures: list[list[float]], before: Numbers) -> bool:
    return _is_finite(before) and _logits(probe, subject, pictures) == before


def _is_finite(numbers: Numbers) -> bool:
    return all(map(math.isfinite, numbers.values))


def _distance(those: Sequence[float], others: Sequence[float]) -> float:
    if len(those) != len(others):
        return math.inf
    return max((abs(one - other) for one, other in zip(those, others, strict=True)), default=0.0)


def _changes(before: Numbers, after: Numbers) -> list[float]:
    """How much the logits of each quarter changed; a row or column in the middle is of none."""
    changed = [0.0] * 4
    if after.shape != before.shape:
        return changed
    height, width = before.shape[2:]
    for index, (one, other) in enumerate(zip(before.values, after.values, strict=True)):
        row, column = index // width % height, index % width
        if 2 * row + 1 != height and 2 * column + 1 != width:
            changed[2 * (2 * row >= height) + (2 * column >= width)] += abs(one - other)
    return changed


def _corners(numbers: Iterable[int]) -> str:
    return ", ".join(("top left", "top right", "bottom left", "bottom right")[number] for number in numbers)
