"""Delay Ctrl-C and SIGTERM while code must not be interrupted."""

import signal
import threading
from types import FrameType
from typing import Any


class Interrupts:
    """Pass Ctrl-C and SIGTERM to their handlers at once, but hold them while ``hold`` is set.

    So nothing interrupts cleanup once it has begun, not even a second Ctrl-C.
    """

    def __init__(self) -> None:
        self.hold = False
        self._held: list[tuple[int, FrameType | None]] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():  # others cannot set handlers and get no signals
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.hold:
            self._held.append((number, frame))
        else:
            self._handlers[number](number, frame)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for number, frame in self._held[:1]:
            self._handlers[number](number, frame)
