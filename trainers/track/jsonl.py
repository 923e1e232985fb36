"""Write the figures of a run as JSON lines. They are the truth: every tracker can be fed from them later."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trainers.run.files import to_json, write_atomic
from trainers.track.records import Records
from trainers.track.tracker import Figure, Histogram, as_figure

METRICS = "metrics.jsonl"


class JsonLines:
    """Writes `metrics.jsonl` into a run folder, one JSON object per line. Figures that are not finite are null.

    With `resume_step`, figures logged after that step are dropped. A run that was killed and resumed thus logs the same as
    one that was not. Figures that the disk refuses are kept in memory, with a warning, and written later.
    """

    def __init__(self, folder: str | os.PathLike[str], resume_step: int | None = None) -> None:
        path = Path(folder) / METRICS
        if resume_step is not None and path.exists():
            _drop_lines_after(path, resume_step)
        self._records = Records(path, "xb" if resume_step is None else "ab")

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Write a line. Arrays are written as histograms."""
        figures = {name: value if np.ndim(value) == 0 else as_figure(value) for name, value in metrics.items()}
        self._records.append(
            (to_json({"step": int(step), **{n: _plain(v) for n, v in figures.items()}}) + "\n").encode()
        )

    def close(self) -> None:
        self._records.close()


def read_lines(folder: str | os.PathLike[str], last: float = math.inf) -> Iterator[tuple[int, dict[str, Figure]]]:
    """Yield the steps of a run up to the last, and their figures, as trackers got them. Raises OSError without a file."""
    for line in (Path(folder) / METRICS).read_text(encoding="utf-8", errors="replace").split("\n"):
        step = _step_of(line)
        if step is not None and step <= last:
            record = json.loads(line)
            step = record.pop("step")
            figures = {name: as_figure(Histogram(**v) if isinstance(v, dict) else v) for name, v in record.items()}
            yield step, {name: figure for name, figure in figures.items() if figure is not None}


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if isinstance(value, Histogram) else value


def _drop_lines_after(path: Path, step: int) -> None:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    logged = [(line, _step_of(line)) for line in lines]
    write_atomic(path, "".join(f"{line}\n" for line, at in logged if at is not None and at <= step))


def _step_of(line: str) -> int | None:
    """Return the step of a line, or None if it was cut short by a crash or not written by `JsonLines`."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return step if type(step) is int and step >= 0 else None
