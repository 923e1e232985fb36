"""Track a run with MLflow."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from trainers.track.tracker import Figure, Histogram, Run, safe_name

TAG = "entropy_env_run"  # holds our id of a run
PATIENCE = 5.0  # s, longest wait for the server at the start
INTERVAL = 2.0  # s between two writes: one of many metrics costs hardly more than one of a few
MOST_METRICS, MOST_PARAMS = 1000, 100  # that MLflow takes at once
LONGEST = 6000  # characters of a parameter


class MLflow:
    """A run of MLflow, in the SQLite store `mlflow.db` of the run folder, or on the server that MLFLOW_TRACKING_URI names.

    Options are parameters, figures metrics, and files artifacts; a histogram is an artifact, too. The checkpoint of a run
    that converged becomes a version of the registered model that has the name of the run, see `safe_name`.
    """

    SKIPS = True

    def __init__(self, run: Run) -> None:
        """Begin the run or go on. Raises OSError for a server out of reach, MlflowException for what MLflow refuses."""
        for name in ("alembic", "mlflow"):  # which tell about every table that they make
            logging.getLogger(name).setLevel(logging.WARNING)
        folder = run.folder.resolve()
        store = f"sqlite:///{self._plain(folder) / 'mlflow.db'}"
        uri = os.environ.get("MLFLOW_TRACKING_URI") or store
        _check_server(uri)
        self._client = MlflowClient(uri, os.environ.get("MLFLOW_REGISTRY_URI") or uri)
        experiment = self._experiment(run.project, (folder / "mlartifacts").as_uri() if uri == store else None)
        self._name, self._seen, known = safe_name(run.name), set[int](), set[str]()
        tag = run.id if "'" not in run.id else safe_name(run.id)
        found = self._client.search_runs([experiment], f"tags.{TAG} = '{tag}'", max_results=1)
        if found:
            self._id, known = found[0].info.run_id, set(found[0].data.params)
            self._client.update_run(self._id, status="RUNNING")
            self._seen = self._steps(found[0].data.metrics)
        else:
            self._id = self._client.create_run(experiment, tags={TAG: tag}, run_name=run.name).info.run_id
        params = [Param(name, value[:LONGEST]) for name, value in _flat(run.config) if name not in known]
        for first in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(self._id, params=params[first : first + MOST_PARAMS])
        self._metrics: list[Metric] = []
        self._written = 0.0
        self._checkpoint: Path | None = None

    def log(self, step: int, figures: Mapping[str, Figure]) -> None:
        if step in self._seen:
            return
        now = int(time.time() * 1000)
        for name, figure in figures.items():
            if isinstance(figure, Histogram):
                place = f"histograms/{_clean(name)}/{step:012d}.json"
                self._client.log_dict(self._id, dataclasses.asdict(figure), place)
            else:
                self._metrics.append(Metric(_clean(name), figure, now, step))
        if time.monotonic() - self._written > INTERVAL:
            self._write()

    def file(self, name: str, path: Path) -> None:
        self._client.log_artifact(self._id, str(path), name.split("/")[0])
        if name == "checkpoint":
            self._checkpoint = path

    def close(self, converged: bool = False) -> None:
        self._write()
        if converged and self._checkpoint:
            self._register(f"runs:/{self._id}/checkpoint/{self._checkpoint.name}")
        self._client.set_terminated(self._id)

    def _plain(self, folder: Path) -> Path:
        """Return a path to a folder without signs that mean something in URIs, which MLflow cannot escape: maybe a link."""
        if not re.search(r"[?#%]", str(folder)):
            return folder
        self._link = tempfile.TemporaryDirectory()  # removed with this object
        link = Path(self._link.name) / "run"
        link.symlink_to(folder)
        return link

    def _write(self) -> None:
        for first in range(0, len(self._metrics), MOST_METRICS):
            self._client.log_batch(self._id, self._metrics[first : first + MOST_METRICS])
        self._metrics, self._written = [], time.monotonic()

    def _experiment(self, name: str, artifacts: str | None) -> str:
        experiment = self._client.get_experiment_by_name(name)
        return experiment.experiment_id if experiment else self._client.create_experiment(name, artifacts)

    def _steps(self, metrics: Mapping[str, Any]) -> set[int]:
        """Return the steps that MLflow already has. metrics: the latest of each name."""
        name = "train/fps" if "train/fps" in metrics else next(iter(metrics), None)
        return {metric.step for metric in self._client.get_metric_history(self._id, name)} if name else set()

    def _register(self, source: str) -> None:
        try:
            self._client.create_registered_model(self._name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        versions = self._client.search_model_versions(f"run_id = '{self._id}'")
        if all(version.source != source for version in versions):
            self._client.create_model_version(self._name, source, self._id)


def _check_server(uri: str) -> None:
    """Raise OSError at once if a server is out of reach, for which MLflow itself would wait for minutes."""
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection((parts.hostname, port), PATIENCE).close()
        except OSError as error:
            raise OSError(f"the MLflow server {parts.scheme}://{parts.netloc} is out of reach: {error}") from error


def _flat(options: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return options with those inside them, named `outer.inner`, and their values as text."""
    pairs: list[tuple[str, str]] = []
    for name, value in options.items():
        inner = (
            _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(_clean(prefix + name), str(value))]
        )
        pairs += inner
    return pairs


def _clean(name: str) -> str:
    """Replace the characters that MLflow takes in no name."""
    return re.sub(r"[^\w./: -]", "_", name)
