"""What a piece of knowledge means, so that teacher and student agree before a step is taken."""

from collections.abc import Iterable, Sequence

from agentkd.canonical import FrozenData
from agentkd.errors import ContractError
from agentkd.names import Digest


class TeachingContract(FrozenData):
    """Meaning of what a teacher makes of views: whose output, over which classes, of which dataset.

    Args:
        weights: digest of the weights that produce them.
        num_classes: K.
        classes: what they are called, in order; empty for who does not know, and then class k means the dataset's class k.
        dataset: content digest of the dataset that the views are made from.
    """

    weights: Digest
    num_classes: int
    dataset: str
    classes: tuple[str, ...] = ()


def agree(teacher: TeachingContract, student: TeachingContract) -> None:
    """Checks that both sides mean the same; what one side does not know is not held against it.

    Raises:
        ContractError: naming the first field that differs and both values.
    """
    hints = {
        "dataset": "give both agents the same dataset and size",
        "num_classes": "teacher and student must tell the same classes apart",
        "weights": "the teacher adopted another network",
    }
    for name in ("weights", "num_classes", "dataset"):
        value, other = getattr(teacher, name), getattr(student, name)
        if value != other:
            raise ContractError(name, value, other, hint=hints[name])
    agree_on_classes(teacher.classes, student.classes)


def agree_on_order(theirs: Sequence[str], ours: Sequence[str]) -> None:
    """Checks that what a network is to learn are not the classes that it knows, in another order; it may learn others.

    Raises:
        ContractError: they are.
    """
    if sorted(theirs) == sorted(ours):
        agree_on_classes(theirs, ours)


def agree_on_classes(theirs: Sequence[str], ours: Sequence[str]) -> None:
    """Checks that the classes of a network and of what it is held against are the same, in the same order.

    Raises:
        ContractError: both are known, and differ.
    """
    if theirs and ours and tuple(theirs) != tuple(ours):
        how = "the same in another order" if sorted(theirs) == sorted(ours) else "others"
        hint = f"they are {how}; say which class is which: class_map={{OURS: THEIRS, ...}}"
        raise ContractError("classes", ", ".join(theirs), ", ".join(ours), hint=hint)


def agreed(said: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """The classes that several networks tell apart, whoever of them knows; empty if none does.

    Raises:
        ContractError: two know others.
    """
    known = [tuple(classes) for classes in said if classes]
    for theirs in known[1:]:
        agree_on_classes(theirs, known[0])
    return next(iter(known), ())
