"""Feed a tracker from a thread, so that it can neither slow nor stop a training."""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from trainers.run.terminal import say
from trainers.track.tracker import Figure, Tracker

ROOM = 1000  # updates that may wait for a tracker
PATIENCE = 30.0  # s, longest wait for another tracker to begin
BEGINNING = (
    threading.Lock()
)  # `ast.parse` of Python 3.11, which libraries call when imported, fails in two threads at once

Act = Callable[[Tracker], None]


class Background:
    """A tracker behind a bounded queue with a thread of its own, so that one that hangs holds up no other either.

    Updates for which the queue has no room are dropped and counted. A tracker that raises gets nothing more. Its first
    trouble is a warning, and what follows from it a line.
    """

    def __init__(self, name: str, make: Callable[[], Tracker], remedy: str = "", room: int = ROOM) -> None:
        """Start the thread, which makes the tracker first. remedy: the end of messages about what is not tracked."""
        self.dropped = 0
        self._name, self._remedy, self._room = name, remedy, room
        self._waiting = deque[Act]()
        self._wake = threading.Condition()
        self._ended = self._told = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, args=(make,), name=f"tracker {name}", daemon=True)
        self._thread.start()

    def log(self, step: int, figures: Mapping[str, Figure]) -> None:
        """Pass figures on."""
        self._tell_failure()
        with self._wake:
            if len(self._waiting) < self._room and self._failure is None:
                self._put(lambda tracker: tracker.log(step, figures))
                return
            self.dropped += 1
        self._tell("does not keep up: not all updates are tracked")

    def catch_up(self, lines: Callable[[], Iterable[tuple[int, Mapping[str, Figure]]]]) -> None:
        """Show the tracker earlier figures, in case a kill has lost some on the way to it. lines: reads them."""

        def show(tracker: Tracker) -> None:
            if getattr(tracker, "SKIPS", False):
                for step, figures in lines():
                    tracker.log(step, figures)

        self._put(show)

    def file(self, name: str, path: Path) -> None:
        """Pass a file on. It must stay where it is."""
        self._put(lambda tracker: tracker.file(name, path))

    def end(self, converged: bool = False) -> None:
        """Let the tracker close once it has taken what waits."""
        self._put(lambda tracker: tracker.close(converged))
        with self._wake:
            self._ended = True
            self._wake.notify()

    def wait(self, deadline: float) -> None:
        """Wait for the tracker to close, at most until a time of `time.monotonic`. Tells what it lacks."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        self._tell_failure()
        if self._thread.is_alive():
            self._tell("has not finished in time")
        if self.dropped:
            say(f"{self._name} lacks {self.dropped:,} updates{self._remedy}")

    def _put(self, act: Act) -> None:
        with self._wake:
            self._waiting.append(act)
            self._wake.notify()

    def _work(self, make: Callable[[], Tracker]) -> None:
        tracker: Tracker | None = None
        try:
            alone = BEGINNING.acquire(timeout=PATIENCE)
            try:
                tracker = make()
            finally:
                if alone:
                    BEGINNING.release()
            while act := self._next():
                act(tracker)
        except BaseException as error:  # noqa: BLE001 - whatever it is, training goes on
            with self._wake:
                self._failure = error
                self.dropped += 0 if self._ended else len(self._waiting)
                self._waiting.clear()
            if tracker is not None:
                with contextlib.suppress(Exception):
                    tracker.close()

    def _next(self) -> Act | None:
        """Wait for the next thing to do. Returns None once nothing comes any more."""
        with self._wake:
            self._wake.wait_for(lambda: self._waiting or self._ended)
            return self._waiting.popleft() if self._waiting else None

    def _tell_failure(self) -> None:
        if self._failure is not None:
            self._tell(f"failed ({self._failure}): training goes on without it")

    def _tell(self, what: str) -> None:
        """Warn of the first trouble. Says nothing of those that follow from it."""
        if not self._told:
            self._told = True
            warnings.warn(f"{self._name} {what}{self._remedy}", stacklevel=3)
