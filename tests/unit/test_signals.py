"""What ends a command, and what does not."""

import signal
from collections.abc import Iterator

import pytest

from agentkd.cli.running import end_as_by_ctrl_c

ENDING = (signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ENDING)
def test_what_closing_terminals_and_schedulers_send_ends_a_run_unless_it_is_ignored(number: signal.Signals) -> None:
    for other in ENDING:
        signal.signal(other, signal.SIG_DFL)
    signal.signal(number, signal.SIG_IGN)
    end_as_by_ctrl_c()
    assert signal.getsignal(number) == signal.SIG_IGN, "nohup, setsid, trap ''"
    (other,) = set(ENDING) - {number}
    assert signal.getsignal(other) == signal.default_int_handler
