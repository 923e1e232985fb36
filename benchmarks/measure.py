"""Time things fairly: in one process, in turn, several times. The median counts, and the best is reported beside it."""

from __future__ import annotations

import dataclasses
import functools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.progress import track

Row = dict[str, Any]
progress = functools.partial(track, transient=True, disable=not sys.stdout.isatty())


@dataclasses.dataclass
class Run:
    """Something to time. It is compiled and has run before."""

    row: Row  # the fields of its row that are already known
    go: Callable[[int], object]  # takes this many steps, and returns when they are done
    work: int  # agent steps per step
    episode: int = 1  # steps after which every kind of work has been done once, resets included


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long to measure."""

    repeats: int = 7
    """How often everything runs."""
    seconds: float = 2.0
    """Length of a run, s. It is rounded to whole episodes, unless an episode takes longer."""


def measure(runs: Sequence[Run], effort: Effort) -> list[Row]:
    """Time all runs, and return their rows with agent steps per second.

    Does `repeats` rounds of one run after another, so that other load on the machine affects all of them alike.
    """
    steps = [run_length(run, effort.seconds) for run in progress(runs, "warming up")]
    times: list[list[float]] = [[] for _ in runs]
    for _ in progress(range(effort.repeats), "measuring"):
        for run, count, taken in zip(runs, steps, times, strict=True):
            taken.append(seconds_of(run.go, count))
    return [
        run.row
        | {
            "agent_steps_per_s": round(run.work * count / statistics.median(taken)),
            "best_agent_steps_per_s": round(run.work * count / min(taken)),
            "steps_per_run": count,
            "repeats": effort.repeats,
        }
        for run, count, taken in zip(runs, steps, times, strict=True)
    ]


def run_length(run: Run, seconds: float) -> int:
    """Return the number of steps of a run. It covers whole episodes if it can, so that resets have their due share."""
    count = 1
    while (taken := seconds_of(run.go, count)) < seconds / 10:
        count *= 4
    step = taken / count
    return run.episode * round(seconds / (run.episode * step)) or max(1, int(seconds / step))


def seconds_of(function: Callable[..., object], *arguments: Any) -> float:
    """Return how long a call takes, s."""
    started = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - started


def add_ratios(rows: Sequence[Row], *same: str) -> None:
    """Add `ratios` to every row: its speed over that of each other engine, among rows with equal fields `same`."""
    for row in rows:
        peers = [other for other in rows if all(other[name] == row[name] for name in same)]
        row["ratios"] = {
            other["engine"]: float(f"{row['agent_steps_per_s'] / other['agent_steps_per_s']:.4g}")
            for other in peers
            if other["engine"] != row["engine"]
        }


def python(*arguments: str, **environment: str | None) -> str:
    """Run a fresh interpreter, and return what it prints.

    environment: variables to set there, or with None to leave unset. Raises RuntimeError with its stderr if it fails.
    """
    merged = {name: value for name, value in (os.environ | environment).items() if value is not None}
    done = subprocess.run([sys.executable, *arguments], env=merged, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"python {' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout
