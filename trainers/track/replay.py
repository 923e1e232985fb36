"""Give a finished run to a tracker."""

from __future__ import annotations

import os
from pathlib import Path

from trainers.track.jsonl import read_lines
from trainers.track.tracking import (
    PROJECT,
    check_installed,
    check_trackers,
    describe_run,
    files_of,
    make_tracker,
    read_facts,
    write_facts,
)


def replay(folder: str | os.PathLike[str], name: str, project: str = PROJECT) -> int:
    """Give a tracker the figures, options and files of a run. It gets what it lacks. Returns the number of updates.

    Raises ValueError for an unknown tracker, ModuleNotFoundError for one that is not installed, OSError if there is no run,
    and what the tracker raises.
    """
    check_trackers([name])
    check_installed([name])
    lines = list(read_lines(folder))
    run = describe_run(Path(folder), project, resume_step=-1)
    converged = read_facts(run.folder).get("converged", False)
    write_facts(run, converged)  # so that an older run, too, keeps its id from now on
    tracker = make_tracker(name, run)
    for step, figures in lines:
        tracker.log(step, figures)
    for label, path in files_of(run.folder).items():
        tracker.file(label, path)
    tracker.close(converged)
    return len(lines)
