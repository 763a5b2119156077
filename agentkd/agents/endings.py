"""How an agent's process ends: by a signal, with whoever started it, or because it can say and hear nothing any more."""

import contextlib
import logging
import os
import signal
import threading
import time
from types import FrameType
from typing import NoReturn

from agentkd.code.running import EndedBySignal
from agentkd.errors import ChannelClosedError, LaunchError
from agentkd.shortage import start

END_WITHIN_S = 4.0

log = logging.getLogger(__name__)


def end_in_good_order(tether: int = -1) -> None:
    """Has signals end this process in good order from now on, and so the end of what a descriptor, the ``tether``, says."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    if tether >= 0:
        start(threading.Thread(target=_end_with, args=(tether,), name="agentkd-tether", daemon=True))


def fell() -> None:
    """Ends this process at once: its work thread would wait for ever."""
    log.critical("nothing can be said or heard any more; ending")
    os._exit(ChannelClosedError.exit_code)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise EndedBySignal(0)


def _end_with(tether: int) -> None:
    """Ends this process in good order when a descriptor has come to its end, or else soon after."""
    with contextlib.suppress(OSError):
        while os.read(tether, 1 << 12):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_WITHIN_S)
    log.error("whoever started this agent is gone, and its work does not stop; ending")
    os._exit(LaunchError.exit_code)
