"""All that records a run: JSON lines, which are the truth, and any number of trackers, each in its own thread."""

from __future__ import annotations

import contextlib
import glob
import importlib
import importlib.util
import json
import shlex
import time
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import yaml

from entropy_env import checks
from trainers.run.files import to_json, write_atomic
from trainers.track.background import Background
from trainers.track.jsonl import JsonLines, read_lines
from trainers.track.tracker import Run, Tracker, as_figure, safe_name

PROJECT = "entropy-env"  # of runs that name no other
FACTS = "run.json"
PATIENCE = 30.0  # s, longest wait for trackers at the end of a run
TRACKERS = {"tensorboard": "TensorBoard", "wandb": "WandB", "mlflow": "MLflow", "trackio": "Trackio"}  # file and class


def check_trackers(names: Sequence[str]) -> None:
    """Raise ValueError for an unknown tracker, with the nearest name."""
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"there is no tracker {name!r}{checks.suggest(name, TRACKERS)}")


def check_installed(names: Sequence[str]) -> None:
    """Raise ModuleNotFoundError, naming the extra, for a tracker that is not installed."""
    for name in names:
        if name != "tensorboard" and importlib.util.find_spec(name) is None:  # whose events need no TensorBoard
            raise ModuleNotFoundError(f"tracking with {name} needs its library: pip install 'entropy-env[{name}]'")


def make_tracker(name: str, run: Run) -> Tracker:
    """Make a tracker. Raises what its library raises."""
    return getattr(importlib.import_module(f"trainers.track.{name}"), TRACKERS[name])(run)


def describe_run(folder: Path, project: str, resume_step: int | None = None, id: str | None = None) -> Run:
    """Describe the run in a folder to its trackers. By default its id is the one kept in the folder, or a fresh one."""
    config = folder / "config.yaml"
    options = yaml.safe_load(config.read_text(encoding="utf-8")) if config.exists() else {}
    name = folder.resolve().name
    id = id or read_facts(folder).get("id") or f"{safe_name(name)}-{uuid.uuid4().hex[:8]}"
    return Run(folder, project, name, id, options, resume_step)


def read_facts(folder: Path) -> dict[str, Any]:
    """Return what `run.json` says of the run in a folder: its `id`, and whether it `converged`. {} if it is damaged."""
    with contextlib.suppress(OSError, ValueError):
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        return facts if isinstance(facts, dict) else {}
    return {}


def write_facts(run: Run, converged: bool) -> None:
    """Write `run.json`. On a full disk it is missing, and the run has another id when it is resumed."""
    with contextlib.suppress(OSError):
        write_atomic(run.folder / FACTS, to_json({"id": run.id, "converged": converged}) + "\n")


def files_of(folder: Path) -> dict[str, Path]:
    """Return the files of a run by the names that trackers get: options, last checkpoint or model, reports and videos."""
    name = folder.resolve().name
    if (folder / "checkpoints").is_dir():
        models, reports, videos = "checkpoints/step_*.safetensors", "evaluation*.json", "videos/[!.]*"
    else:  # in the folder of `trainers.sb3_lstm`, where the models and videos of all runs stand together
        own = glob.escape(name)
        models, reports, videos = f"../../models/{own}.zip", f"../../models/{own}-*.json", f"../../videos/{own}_*"
    found = [("config", path) for path in folder.glob("config.yaml")]
    found += [("checkpoint", path) for path in sorted(folder.glob(models))[-1:]]
    found += [(path.stem.removeprefix(f"{name}-"), path) for path in sorted(folder.glob(reports))]
    found += [(f"video/{path.stem.removeprefix(f'{name}_')}", path) for path in sorted(folder.glob(videos))]
    return dict(found)


class Tracking:
    """Takes the figures of a run to its JSON lines and its trackers. At the end trackers get the files of the run, too."""

    def __init__(
        self, folder: Path, trackers: Sequence[str], project: str, resume_step: int | None = None, id: str | None = None
    ) -> None:
        """Begin, or with `resume_step` go on after that step. id: of the run, if its checkpoint knows it.

        Raises ValueError for an unknown tracker, ModuleNotFoundError for one that is not installed.
        """
        check_trackers(trackers)
        check_installed(trackers)
        self.converged = False  # whether the run reached its target or stopped improving; set before `close`
        self._lines = JsonLines(folder, resume_step)
        self._run = run = describe_run(folder, project, resume_step, id)
        write_facts(run, converged=False)
        other = "" if project == PROJECT else f" --project {shlex.quote(project)}"
        remedy = f"; later: python -m trainers.track {shlex.quote(str(folder))}{other} --to "
        self._trackers = [Background(name, partial(make_tracker, name, run), remedy + name) for name in trackers]
        if resume_step is not None:
            for tracker in self._trackers:
                tracker.catch_up(partial(read_lines, folder, resume_step))

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Record figures at a step. Arrays are recorded as histograms."""
        metrics = {name: value if np.ndim(value) == 0 else as_figure(value) for name, value in metrics.items()}
        self._lines.log(step, metrics)
        figures = {name: figure for name, value in metrics.items() if (figure := as_figure(value)) is not None}
        for tracker in self._trackers:
            tracker.log(int(step), figures)

    def close(self) -> None:
        """Hand the files of the run to the trackers, and wait until they are done, at most PATIENCE seconds."""
        self._lines.close()
        if self.converged:
            write_facts(self._run, converged=True)
        files = files_of(self._run.folder) if self._trackers else {}
        for tracker in self._trackers:
            for name, path in files.items():
                tracker.file(name, path)
            tracker.end(self.converged)
        deadline = time.monotonic() + PATIENCE
        for tracker in self._trackers:
            tracker.wait(deadline)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
