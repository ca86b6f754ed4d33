"""Ctrl-C, held until the running batch is done."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any


class Interrupt:
    """Within this block, a first SIGINT sets `requested`, and a second one raises `KeyboardInterrupt` at once.

    Only the main thread receives signals; elsewhere, and where SIGINT is ignored, nothing changes. The handler that was
    there before is always put back.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: Callable[[int, FrameType | None], Any] | None = None

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            if callable(before):
                self._before = before
                signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
