"""Knowledge that lies where an agent is, packed so that it can be handed over: data, and architectures."""

from agentkd.agents.feeding import open_source
from agentkd.datasets.shared import pack
from agentkd.knowledge.sharing import encode_architecture
from agentkd.task import Pack


def packed(task: Pack) -> bytes:
    """The piece that a task asks for; the same task gives the same bytes.

    Raises:
        DatasetError: the data cannot be read, or are too much for one piece.
        ContractError: they are not those of the task.
    """
    dataset = open_source(task.data)
    return pack(dataset, task.splits) if task.what == "data" else encode_architecture(task.architecture, dataset.classes)
