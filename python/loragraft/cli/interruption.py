"""Ctrl-C and SIGTERM, made one clean stop."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

#: A second Ctrl-C within this many seconds is taken for the same: people press it twice, and the
#: first is being cleaned up after.
_DEAF_SECONDS: Final = 2.0


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt inside the block.

    A signal that the process was started to ignore stays ignored. Python delivers signals to the
    main thread only, so anywhere else nothing changes.
    """
    last = -_DEAF_SECONDS

    def stop(_number: int, _frame: object) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _DEAF_SECONDS:
            last = now
            raise KeyboardInterrupt

    previous: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in {signal.SIG_IGN, None}:
                previous[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
