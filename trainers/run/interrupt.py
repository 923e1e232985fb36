"""Delay Ctrl-C to a point where training can stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any, Self


@contextlib.contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():  # which alone receives signals
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class Interrupt:
    """Notes the first Ctrl-C or SIGTERM, so that the loop can end between two updates. The second one acts at once."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Self:
        try:
            self.previous = {which: signal.signal(which, self.note) for which in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread, which alone receives Ctrl-C
            self.previous = {}
        return self

    def note(self, which: int, frame: Any) -> None:
        self.asked = True
        signal.signal(which, self.previous[signal.Signals(which)])

    def __exit__(self, *_: object) -> None:
        for which, handler in self.previous.items():
            signal.signal(which, handler)
