"""Track a run with trackio."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trackio
from trackio.sqlite_storage import SQLiteStorage

from trainers.track.tracker import Figure, Histogram, Run, safe_name


class Trackio:
    """A run of trackio, in its own folder (TRACKIO_DIR), which `trackio show` reads. TRACKIO_SPACE_ID sends it to a Space.

    Films are media, other files artifacts. The name of the run is its id, since trackio resumes runs by name.
    """

    SKIPS = True

    def __init__(self, run: Run) -> None:
        """Begin the run or go on. Raises ValueError for a name of a project that trackio cannot have."""
        self._run = trackio.init(
            run.project, run.id, config=run.config, resume="allow", embed=False, auto_log_cpu=False, auto_log_gpu=False
        )
        self._id = run.id
        last = SQLiteStorage.get_max_step_for_run(run.project, self._run.name, self._run.id)
        self._done = -1 if last is None else last

    def log(self, step: int, figures: Mapping[str, Figure]) -> None:
        if step > self._done:
            self._done = step
            self._run.log({name: _value(figure) for name, figure in figures.items()}, step)

    def file(self, name: str, path: Path) -> None:
        if name.startswith("video/"):
            self._run.log({name: trackio.Video(path)}, max(self._done, 0))
            return
        kind = "model" if name == "checkpoint" else "report"
        self._run.log_artifact(path, f"{safe_name(self._id)}-{safe_name(name)}", kind)

    def close(self, converged: bool = False) -> None:
        trackio.finish()


def _value(figure: Figure) -> Any:
    if isinstance(figure, Histogram):
        return trackio.Histogram(np_histogram=(figure.counts, figure.edges))
    return figure
