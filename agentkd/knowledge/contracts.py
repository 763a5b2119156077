"""What a piece of knowledge means, so that teacher and student agree before a step is taken."""

from agentkd.canonical import FrozenData
from agentkd.errors import ContractError
from agentkd.names import Digest


class TeachingContract(FrozenData):
    """Meaning of what a teacher makes of views: whose output, over which classes, of which dataset.

    Args:
        weights: digest of the weights that produce them.
        num_classes: K; class k means the dataset's class k.
        dataset: content digest of the dataset that the views are made from.
    """

    weights: Digest
    num_classes: int
    dataset: str


def agree(teacher: TeachingContract, student: TeachingContract) -> None:
    """Checks that both sides mean the same.

    Raises:
        ContractError: naming the first field that differs and both values.
    """
    hints = {
        "dataset": "give both agents the same dataset and size",
        "num_classes": "teacher and student must tell the same classes apart",
        "weights": "the teacher adopted another network",
    }
    for name, value in teacher.canonical().items():
        other = getattr(student, name)
        if value != other:
            raise ContractError(name, value, other, hint=hints.get(name, ""))
