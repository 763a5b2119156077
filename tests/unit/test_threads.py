"""What more than one thread may write loses nothing by it."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from agentkd.exchange.grants import Grants
from agentkd.messages.bodies import AdmittedPeer

NUM_THREADS, NUM_TIMES = 4, 200


@pytest.fixture
def in_turns() -> Iterator[ThreadPoolExecutor]:
    """Threads that take turns as often as can be."""
    seldom = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        yield threads
    sys.setswitchinterval(seldom)


def test_keys_that_several_threads_admit_and_forget_are_admitted_and_forgotten(in_turns: ThreadPoolExecutor) -> None:
    grants = Grants()
    kept, gone = (
        [
            [AdmittedPeer(agent="", public_key=f"{at:010d}{number:030d}") for number in range(first, first + NUM_TIMES)]
            for at in range(4)
        ]
        for first in (0, NUM_TIMES)
    )
    grants.admit(peer for peers in gone for peer in peers)

    def change(at: int) -> None:
        for stays, goes in zip(kept[at], gone[at], strict=True):
            grants.admit([stays])
            grants.forget(goes.public_key)

    list(in_turns.map(change, range(NUM_THREADS)))
    assert all(grants.is_admitted(peer.public_key) for peers in kept for peer in peers)
    assert not any(grants.is_admitted(peer.public_key) for peers in gone for peer in peers)
