"""A progress bar above a table of the latest figures, coloured by how good they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from trainers.track.progress import Progress

GOOD, FAIR, BAD = "green", "yellow", "red"


class Row(NamedTuple):
    """How a figure is shown. colour: maps its value and the value before, NaN at first, to a colour."""

    label: str
    meaning: str
    colour: Callable[[float, float], str]
    show: Callable[[float], str] = "{:.4f}".format


def falling(value: float, before: float) -> str:
    """Return the colour of a figure that should fall: good if it has not risen, fair if by at most 20 %."""
    if math.isnan(before) or value <= before:
        return GOOD
    return FAIR if value <= before + 0.2 * abs(before) else BAD


def below(good: float, fair: float) -> Callable[[float, float], str]:
    """Return the colours of a figure that is good below one bound and fair below another."""
    return lambda value, _: GOOD if value < good else FAIR if value < fair else BAD


def above(good: float, fair: float) -> Callable[[float, float], str]:
    """Return the colours of a figure that is good from one bound on and fair from another."""
    return lambda value, _: GOOD if value >= good else FAIR if value >= fair else BAD


ROWS = {
    "train/fps": Row("fps", "agent steps per second, higher is better", lambda value, _: "cyan", "{:,.0f}".format),
    "loss/total": Row("loss", "of policy, value and entropy, should fall", falling),
    "loss/value": Row("value_loss", "error of the critic, should fall", falling),
    "loss/explained_variance": Row(
        "explained_variance", "how well the critic predicts returns, 1 is perfect", above(0.7, 0.3)
    ),
    "loss/entropy": Row(
        "entropy_loss",
        "minus the entropy, rises as the policy explores less",
        lambda value, _: "white",
        lambda value: f"{-value:.4f}",
    ),
    "loss/approx_kl": Row("approx_kl", "change of the policy, below 0.02", below(0.02, 0.05)),
    "loss/clip_fraction": Row("clip_fraction", "share of samples clipped, below 0.2", below(0.2, 0.3)),
    "train/std": Row("std", "noise of the actions, should fall", falling),
    "env/goal_reached_rate": Row(
        "success", "robots that reach their first goal in time", above(0.9, 0.5), "{:.1%}".format
    ),
}


class Dashboard(Progress):
    """`Progress` with a table on a terminal. Elsewhere it prints the plain lines of `Progress`."""

    def __init__(
        self, total: int, completed: int = 0, *, title: str = "", interval: float = 30.0, console: Console | None = None
    ) -> None:
        """Make a dashboard. title: of the table. Others: see `Progress`."""
        super().__init__(total, completed, interval=interval, console=console)
        self._title, self._figures, self._before = title, dict[str, float](), dict[str, float]()
        self._live = Live(console=self._bar.console, refresh_per_second=4, get_renderable=self.picture, transient=False)

    def __enter__(self) -> Self:
        if not self._bar.disable:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._bar.disable:
            self._live.stop()

    def show(self, figures: Mapping[str, float]) -> None:
        """Put the figures of an update, by name, into the table."""
        known = {name: value for name, value in figures.items() if name in ROWS and math.isfinite(value)}
        self._before |= {name: self._figures.get(name, math.nan) for name in known}
        self._figures |= known

    def picture(self) -> Group:
        """Return the bar and the table, ready to print."""
        table = Table(title=self._title or None, title_justify="left", expand=False)
        table.add_column("metric")
        table.add_column("value", justify="right", min_width=9)
        table.add_column("", style="dim")
        for name, row in ROWS.items():
            if name in self._figures:
                value = self._figures[name]
                colour = row.colour(value, self._before[name])
                table.add_row(row.label, f"[{colour}]{row.show(value)}[/]", row.meaning)
        return Group(self._bar, table) if self._figures else Group(self._bar)
