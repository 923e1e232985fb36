"""What a tracker is: something that takes the figures and files of a run to where people look at them."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

BINS = 64  # of a histogram
LONGEST = 100  # characters of a name


@dataclasses.dataclass(frozen=True)
class Histogram:
    """How often values fall between edges. `edges` has one number more than `counts`."""

    counts: list[int]
    edges: list[float]


Figure = float | Histogram


class Tracker(Protocol):
    """Takes the figures and files of one run. It is called by one thread, and may block or raise: see `Background`.

    It is made of a `Run`, and goes on with what it already has of that run. One that skips steps that it has says so with
    `SKIPS = True`, and is shown all lines again when a run is resumed, since a kill may have lost some.
    """

    def log(self, step: int, figures: Mapping[str, Figure]) -> None:
        """Record figures, which are finite, at a step. Steps rise."""

    def file(self, name: str, path: Path) -> None:
        """Record a file: `config`, `checkpoint`, `evaluation` or, for example, `video/start`."""

    def close(self, converged: bool = False) -> None:
        """Finish. converged: whether the run reached its target or stopped improving, and so ended before its steps did."""


@dataclasses.dataclass(frozen=True)
class Run:
    """The run that a tracker tracks."""

    folder: Path  # where it may keep files
    project: str  # to which the run belongs
    name: str  # for people
    id: str  # unique; a resumed or replayed run keeps it
    config: dict[str, Any]  # the options, as in config.yaml
    resume_step: int | None = None  # steps after it come again; None: the run is new


def safe_name(name: str) -> str:
    """Return a name that every tracker takes: letters and digits of ASCII, and `.`, `_`, `-`, at most LONGEST of them.

    Where it is not the name itself, it ends with a hash, so that no two names become one.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "-", name)
    if safe == name and len(name) <= LONGEST:
        return name
    return f"{safe[: LONGEST - 9]}-{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:8]}"


def as_figure(value: Any) -> Figure | None:
    """Convert a number to float, and an array of numbers to a histogram. None is for what is not finite or is empty."""
    if value is None or isinstance(value, Histogram):
        return value
    if np.ndim(value) == 0:
        return float(value) if math.isfinite(value) else None
    values = np.asarray(value, float)
    values = values[np.isfinite(values)]
    if not values.size:
        return None
    counts, edges = np.histogram(values, BINS)
    return Histogram(counts.tolist(), edges.tolist())


def numbers(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures that are single numbers, and no arrays or histograms."""
    return {name: value for name, value in figures.items() if np.ndim(value) == 0 and not isinstance(value, Histogram)}
