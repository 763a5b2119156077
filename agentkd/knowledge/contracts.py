"""What a piece of knowledge means, so that teacher and student agree before a step is taken."""

from agentkd.canonical import FrozenData
from agentkd.errors import ContractError


class SoftTargetsContract(FrozenData):
    """Meaning of soft targets: raw logits at the teacher's native stride, for named views of one dataset.

    Args:
        weights: digest of the weights that produce them.
        num_classes: K; class k means the dataset's class k.
        dataset: content digest of the dataset that the views are made from.
        codec: number type on the wire.
    """

    weights: str
    num_classes: int
    dataset: str
    codec: str


def agree(teacher: SoftTargetsContract, student: SoftTargetsContract) -> None:
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
