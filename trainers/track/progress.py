"""Show progress: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Mapping
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from trainers.run.terminal import say
from trainers.track.tracker import numbers


class Progress:
    """A live bar on a terminal. Elsewhere a plain line at the first update, every `interval` seconds and at the end.

    total: steps of the whole run. completed: steps that earlier processes have done.
    """

    def __init__(
        self, total: int, completed: int = 0, *, interval: float = 30.0, console: Console | None = None
    ) -> None:
        console = console or Console()
        self._total, self._interval, self._next_line = total, interval, 0.0
        self._bar = Bar(
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            expand=True,
            refresh_per_second=4,
            speed_estimate_period=600.0,
        )
        self._bar.add_task("", total=total, completed=completed, status="compiling")
        (self._task,) = self._bar.tasks

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(
        self, completed: int, *, fps: float = math.nan, success: float = math.nan, episode_return: float = math.nan
    ) -> None:
        """Show the steps done so far. fps: steps/s. success: 0 to 1. NaN shows as a dash."""
        figures = (
            f"{_short(completed)}/{_short(self._total)}",
            f"{_dash(fps, _short)} fps",
            f"success {_dash(success, '{:.0%}'.format)}",
            f"return {_dash(episode_return, '{:.2f}'.format)}",
        )
        self._bar.update(self._task.id, completed=completed, status="  ".join(figures))
        now = time.monotonic()
        if self._bar.disable and (now >= self._next_line or completed >= self._total):
            self._next_line = now + self._interval
            elapsed, remaining = _clock(self._task.elapsed), _clock(self._task.time_remaining)
            line = "  ".join((f"{self._task.percentage:3.0f}%", *figures, f"elapsed {elapsed}", f"eta {remaining}"))
            say(line, self._bar.console.file)  # type: ignore[arg-type]


def figures_line(step: int, figures: Mapping[str, Any]) -> str:
    """Return all figures of an update in a line, without arrays."""
    return "  ".join([f"step {step:,}", *(f"{name} {float(value):.4g}" for name, value in numbers(figures).items())])


def _short(count: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:  # from here on, the next smaller unit would show 1000
            return f"{count / size:.3g}{letter}"
    return f"{count:.3g}"


def _dash(value: float, render: Any) -> str:
    return render(value) if math.isfinite(value) else "-"


def _clock(seconds: float | None) -> str:
    return "-:--:--" if seconds is None else str(datetime.timedelta(seconds=int(seconds)))
