"""How things are compared: in one process, in turn, several times, the median counts and the best stands beside it."""

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
    """Something to time, compiled and warm."""

    row: Row  # what is known of it already
    go: Callable[[int], object]  # takes that many steps, and returns when they are done
    work: int  # agent steps in a step
    episode: int = 1  # steps after which everything has happened once, resets included


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long to measure."""

    repeats: int = 7
    """Times that everything runs."""
    seconds: float = 2.0
    """Length of a run: whole episodes, or a part of one where an episode takes longer."""


def measure(runs: Sequence[Run], effort: Effort) -> list[Row]:
    """The runs' rows, with agent steps a second: one run after the other, `repeats` rounds, so that what else the
    machine does meets all alike."""
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
    """Steps of a run: whole episodes, so that each has its share of the resets."""
    count = 1
    while (taken := seconds_of(run.go, count)) < seconds / 10:
        count *= 4
    step = taken / count
    return run.episode * round(seconds / (run.episode * step)) or max(1, int(seconds / step))


def seconds_of(function: Callable[..., object], *arguments: Any) -> float:
    """What a call takes."""
    started = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - started


def add_ratios(rows: Sequence[Row], *same: str) -> None:
    """Give every row its speed over that of each other engine, among rows that agree in the fields `same`."""
    for row in rows:
        peers = [other for other in rows if all(other[name] == row[name] for name in same)]
        row["ratios"] = {
            other["engine"]: float(f"{row['agent_steps_per_s'] / other['agent_steps_per_s']:.4g}")
            for other in peers
            if other["engine"] != row["engine"]
        }


def python(*arguments: str, **environment: str | None) -> str:
    """What a fresh interpreter prints. environment: what differs there, None for a variable that is not set.

    Raises RuntimeError with what it wrote to stderr where it fails.
    """
    merged = {name: value for name, value in (os.environ | environment).items() if value is not None}
    done = subprocess.run([sys.executable, *arguments], env=merged, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"python {' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout
