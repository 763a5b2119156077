"""The mean of several networks' weights."""

from collections.abc import Sequence

import torch

from agentkd.knowledge import tensors
from agentkd.knowledge.contracts import agreed
from agentkd.knowledge.weights import agree_on_learned, agree_on_network, encode_weights, read_metadata
from agentkd.networks.build import build
from agentkd.task import Average


def averaged(task: Average, stored: Sequence[bytes]) -> bytes:
    """Weights that are the mean of several networks of one architecture, by shares; counters are the first one's.

    Args:
        task: says the shares.
        stored: the weights of each, in the order of the task's teachers.

    Raises:
        ContractError: they are not of the task's architecture, or tell other classes apart.
        RemoteProtocolError: they are no weights that may be.
    """
    expected = dict(build(task.architecture).state_dict())
    states = [tensors.decode(data) for data in stored]
    for state, data in zip(states, stored, strict=True):
        tensors.match(state, expected)
        agree_on_network(read_metadata(data), task.architecture)
    said = [read_metadata(data) for data in stored]
    for one in said[1:]:
        agree_on_learned(one, said[0])
    under = {head: task.architecture.under(head) for head in task.architecture.heads or [""]}
    each = {head: agreed(one.classes_of(network) for one in said) for head, network in under.items()}
    shares = torch.tensor([teacher.share for teacher in task.teachers], dtype=torch.float64)
    shares /= shares.sum()
    mean = {
        name: sum(share * states[index][name].double() for index, share in enumerate(shares)).to(first.dtype)
        if first.is_floating_point()
        else first
        for name, first in states[0].items()
    }
    return encode_weights(task.architecture, mean, each[task.architecture.head], each)
