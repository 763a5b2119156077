"""Networks made ready to compute as a task wants it without learning: folded, laid out, in another precision."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from agentkd.networks.blocks import SegmentationNetwork
from agentkd.networks.folding import fold_normalizations
from agentkd.networks.heads import using
from agentkd.recipe import Arithmetic
from agentkd.training.forms import lay_out
from agentkd.training.taps import listening

USUAL = Arithmetic()
MAX_KEPT = 4


def made_ready(network: SegmentationNetwork, arithmetic: Arithmetic, images: Tensor, taps: Sequence[str] = ()) -> None:
    """Changes a network in evaluation mode so that it computes so; its precision is its caller's.

    Args:
        network: with the head in use that is asked.
        arithmetic: how.
        images: ``[N,C,H,W]`` that it takes, on its device.
        taps: modules that are looked at: what these make stays as it is.

    Raises:
        ContractError: there is no such module.
    """
    if arithmetic.folded:
        with listening(network, taps):  # what is listened to is not merged with what follows
            fold_normalizations(network, images[:1])
    if arithmetic.channels_last:
        lay_out(network)


class Readied:
    """One network in the forms in which it was asked, each made once.

    Args:
        network: as it is, in evaluation mode.
        anew: another one like it.
    """

    def __init__(self, network: SegmentationNetwork, anew: Callable[[], SegmentationNetwork]) -> None:
        self._network, self._anew = network, anew
        self._made: OrderedDict[tuple[bool, bool, str, tuple[str, ...]], SegmentationNetwork] = OrderedDict()

    @torch.no_grad()
    def find(self, arithmetic: Arithmetic, head: str, images: Tensor, taps: tuple[str, ...] = ()) -> SegmentationNetwork:
        """The network that computes so; see ``made_ready``.

        Raises:
            ContractError: there is no such tap.
        """
        if not (arithmetic.folded or arithmetic.channels_last):
            return self._network
        form = (arithmetic.folded, arithmetic.channels_last, head, tuple(sorted(set(taps))))
        if form not in self._made:
            network = self._anew()
            with using(network, head):
                made_ready(network, arithmetic, images, taps)
            self._made[form] = network
        self._made.move_to_end(form)
        while len(self._made) > MAX_KEPT:
            self._made.popitem(last=False)
        return self._made[form]
